"""An entry of a sweep: one teacher or student, or a grid of them."""

import itertools
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from bench.sweep_file import MistakeError


class Entry(BaseModel):
    """A teacher or student of a sweep: `name[:preset]`, a label, overrides; with a grid, many.

    `grid` maps hyper-parameters to lists of values: every combination is an entry of its own. In
    the label `{key}` stands for a value; what it leaves out comes after it, as `key=value`.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    label: str = ""
    config: dict[str, Any] = Field(default_factory=dict)
    grid: dict[str, list[Any]] = Field(default_factory=dict)

    @field_validator("grid")
    @classmethod
    def _values(cls, value: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for key, values in value.items():
            if not values:
                raise MistakeError(f"grid.{key} is empty; give at least one value", key)
            for position, one in enumerate(values):
                if one in values[:position]:
                    raise MistakeError(f"grid.{key} has {one!r} twice", key, position)
        return value

    @model_validator(mode="after")
    def _given_once(self) -> "Entry":
        for key in self.grid:
            if key in self.config:
                raise MistakeError(
                    f"'{key}' stands in `config` and in `grid`; leave one out", "grid", key
                )
        return self

    @field_validator("label")
    @classmethod
    def _printable(cls, value: str) -> str:
        if value != value.strip() or not value.isprintable():
            raise ValueError(f"label {value!r} is not one printable line without outer spaces")
        return value

    @property
    def shown(self) -> str:
        """The label in tables."""
        return self.label or self.name

    @property
    def method(self) -> str:
        """The name without its preset."""
        return self.name.partition(":")[0]

    def points(self) -> list["Entry"]:
        """List the entries that the grid stands for, the last key fastest; else the entry alone."""
        if not self.grid:
            return [self]
        found = []
        for values in itertools.product(*self.grid.values()):
            label, rest = self.shown, []
            for key, value in zip(self.grid, values, strict=True):
                if f"{{{key}}}" in label:
                    label = label.replace(f"{{{key}}}", _text(value))
                else:
                    rest.append(f"{key}={_text(value)}")
            grid = {key: [value] for key, value in zip(self.grid, values, strict=True)}
            label = " ".join([label, ", ".join(rest)]) if rest else label
            found.append(self.model_copy(update={"label": label, "grid": grid}))
        return found


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
