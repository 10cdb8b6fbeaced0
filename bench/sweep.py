"""Sweeps: what a YAML file, or the command line's options, asks for, checked.

Every mistake is refused, with the file and the line where it stands.
"""

import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from bench.axes import NO_NOISE, canonical_noise, canonical_split, split_name
from bench.entry import Entry
from bench.hparams import nearest, unknown
from bench.sweep_file import MAX_SEED, MistakeError, Origin, check_seeds, parse, parse_seeds, scalar
from bench.tuning import Tuning

SPLITS = ("public", "random", "official", "ratio", "default")
SETTINGS = ("transductive", "production", "inductive")
_AXES = ("datasets", "splits", "settings", "noise", "teachers", "students")


class Sweep(BaseModel):
    """A matrix of cells: every dataset x split x setting x noise x teacher x student x seed."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    description: str = ""
    datasets: list[str] = Field(min_length=1)
    splits: list[str] = Field(default=["default"], min_length=1)
    settings: list[str] = Field(default=["transductive"], min_length=1)
    noise: list[str] = Field(default=[NO_NOISE], min_length=1)
    teachers: list[Entry] | None = Field(default=None, min_length=1)
    students: list[Entry] | None = Field(default=None, min_length=1)
    seeds: list[int] = Field(default=[0], min_length=1)
    split_seed: int | None = Field(default=None, ge=0, le=MAX_SEED)  # one split for all seeds
    teacher_seed: int | None = Field(default=None, ge=0, le=MAX_SEED)  # one teacher for all seeds
    features: Literal["auto", "raw", "row"] = "auto"  # auto: row on a public split, else raw
    self_loops: bool = True
    hidden_rate: float = Field(default=0.2, gt=0.0, le=1.0)
    config: dict[str, dict[str, Any]] = Field(default_factory=dict)  # overrides by label or name
    device: Literal["cpu", "cuda"] = "cpu"
    cost_seeds: int = Field(default=3, ge=0)  # latency is measured for the first so many seeds
    baseline: str = ""  # label of the student that the report compares the others with
    controls: list[str] = Field(default_factory=list)  # further ones: a table each, no figure
    tune: Tuning | None = None  # what `gkdbench tune` does

    _origin: Origin = PrivateAttr(default_factory=Origin)

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, value: str) -> str:
        if not re.fullmatch(r"\w[\w .+-]{0,99}", value) or value[-1] in " .":
            raise ValueError(f"name '{value}' also names files: letters, digits, space and . _ + -")
        return value

    @field_validator(*_AXES, mode="before")
    @classmethod
    def _short_forms(cls, value: Any, info: Any) -> Any:
        """Accept one name where a list is meant, and a bare name where an entry is meant."""
        values = [value] if isinstance(value, str | dict) else value
        if info.field_name in ("teachers", "students") and isinstance(values, list):
            return [{"name": v} if isinstance(v, str) else v for v in values]
        return values

    @field_validator("seeds", mode="before")
    @classmethod
    def _ranges(cls, value: Any) -> Any:
        return parse_seeds(value)

    @field_validator("seeds")
    @classmethod
    def _bounded(cls, value: list[int]) -> list[int]:
        return check_seeds(value)

    @field_validator("splits", "settings")
    @classmethod
    def _known(cls, value: list[str], info: Any) -> list[str]:
        known = SPLITS if info.field_name == "splits" else SETTINGS
        for position, name in enumerate(value):
            bare = split_name(name) if info.field_name == "splits" else name
            if bare not in known:
                raise MistakeError(str(unknown(info.field_name[:-1], bare, known)), position)
        return value

    @field_validator("splits", "noise")
    @classmethod
    def _one_spelling(cls, value: list[str], info: Any) -> list[str]:
        """Write options and levels as the keys of cells have them."""
        spell = canonical_split if info.field_name == "splits" else canonical_noise
        found = []
        for position, text in enumerate(value):
            try:
                found.append(spell(text) or NO_NOISE)
            except ValueError as error:
                raise MistakeError(str(error), position) from error
        return found

    @model_validator(mode="after")
    def _nothing_twice(self) -> "Sweep":
        for axis in (*_AXES, "seeds"):
            named = self.entries(axis) if axis in _AXES[-2:] else enumerate(getattr(self, axis))
            seen = set()
            for position, entry in named:
                value = entry.shown if isinstance(entry, Entry) else entry
                if value in seen:
                    hint = "; give each its own `label`" if axis in _AXES[-2:] else ""
                    raise MistakeError(f"'{value}' stands twice in {axis}{hint}", axis, position)
                seen.add(value)
        if not self.teachers and not self.students:
            raise ValueError("a sweep needs teachers, students or both; it has neither")
        return self

    @model_validator(mode="after")
    def _leaves_test_nodes_observed(self) -> "Sweep":
        if self.hidden_rate == 1.0 and "production" in self.settings:
            raise MistakeError(
                "hidden_rate is 1, and setting 'production' scores observed test nodes too; give "
                "less than 1, or setting 'inductive' alone",
                "hidden_rate",
            )
        return self

    @model_validator(mode="after")
    def _tunes_on_other_seeds(self) -> "Sweep":
        both = sorted(set(self.seeds) & set(self.tune.seeds)) if self.tune else []
        if both:
            raise MistakeError(
                f"seed {both[0]} is tuned on and reported; tuning needs seeds of its own",
                *("tune", "seeds"),
            )
        return self

    def entries(self, axis: str) -> list[tuple[int, Entry]]:
        """List the `teachers` or `students`, grids spelled out, with their places in the file."""
        written: list[Entry] = getattr(self, axis) or []
        return [(place, point) for place, entry in enumerate(written) for point in entry.points()]


# ---- reading --------------------------------------------------------------------------------


def read(path: str | Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read a sweep file and apply `key=value` overrides.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: with the file and, where there is one, the line of the mistake.
    """
    path = Path(path)
    if not path.is_file():
        near = nearest(path.name, [p.name for p in path.parent.glob("*.yaml")])
        raise FileNotFoundError(f"there is no sweep file {path}{near}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8") from error
    content, origin = parse(text, str(path))
    content.setdefault("name", path.stem)
    _override(content, overrides, origin)
    return make(content, origin)


def from_overrides(texts: Iterable[str]) -> Sweep:
    """Make a sweep of `key=value` texts alone."""
    content: dict[str, Any] = {"name": "adhoc"}
    origin = Origin("command line")
    _override(content, texts, origin)
    return make(content, origin)


def make(content: Mapping[str, Any], origin: Origin | None = None) -> Sweep:
    """Check plain data and make a Sweep of it.

    Raises:
        ValueError: says what is wrong, and where as far as `origin` knows.
    """
    origin = origin or Origin()
    try:
        sweep = Sweep.model_validate(dict(content))
    except ValidationError as error:
        first = error.errors()[0]
        where = [*first["loc"], *getattr(first.get("ctx", {}).get("error"), "where", ())]
        raise ValueError(f"{origin.place(where)}: {_sentence(first)}") from error
    sweep._origin = origin
    return _with_known_baselines(sweep)


def _with_known_baselines(sweep: Sweep) -> Sweep:
    """Refuse a baseline of nobody; drop a file's where the command line chose other students."""
    chosen = ("students",) in sweep._origin.given
    if sweep.baseline and not _is_known(sweep, sweep.baseline, "baseline", chosen):
        sweep.baseline = ""
    known = [_is_known(sweep, label, "controls", chosen) for label in sweep.controls]
    sweep.controls = [label for label, is_one in zip(sweep.controls, known, strict=True) if is_one]
    return sweep


def _is_known(sweep: Sweep, asked: str, key: str, chosen: bool) -> bool:
    label, _, variant = asked.partition("@")
    students = {entry.shown for _, entry in sweep.entries("students")}
    if asked in students or (variant and label in students):
        return True
    if chosen and sweep._origin.wrote((key,)):
        return False
    raise ValueError(f"{sweep._origin.place((key,))}: {unknown(key, asked, students)}")


_WANTED = {
    "list_type": "give a list",
    "dict_type": "give a mapping of keys to values",
    "model_type": "give a name, or a mapping with the key `name`",
    "string_type": "give text",
    "int_type": "give a whole number",
    "float_type": "give a number",
    "bool_type": "give true or false",
}


def _sentence(error: Any) -> str:
    """Turn a pydantic error into one sentence."""
    where = error["loc"]
    name = ".".join(str(key) for key in where)
    if error["type"] == "extra_forbidden":
        model = Sweep if len(where) == 1 else Tuning if where[0] == "tune" else Entry
        return str(unknown("key", where[-1], model.model_fields))
    if error["type"] == "missing":
        return f"key '{name}' is missing"
    if error["type"] == "too_short":
        return f"{name} is empty; give at least one, or leave the key out"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    wanted = _WANTED.get(error["type"]) or error["msg"].replace("Input", "it", 1)
    return f"{name} is {reprlib.repr(error['input'])}; {wanted}"


def _override(content: dict[str, Any], overrides: Iterable[str], origin: Origin) -> None:
    """Apply `key=value`, `tune.key=value` and `method.key=value` (a hyper-parameter)."""
    for text in overrides:
        key, equals, raw = text.partition("=")
        if not equals or not key:
            raise ValueError(
                f"override '{text}' cannot be read; write key=value or method.key=value"
            )
        try:
            value = scalar(raw)
        except ValueError as error:
            raise ValueError(f"override '{text}' cannot be read: {error}") from error
        if value is None:
            raise ValueError(f"override '{text}' has no value")
        method, dot, hyper = key.rpartition(".")
        if not dot:
            content[key] = _listed(value, key) if key in _AXES else value
            origin.given.append((key,))
            continue
        if method == "tune":
            tune = content["tune"] = content.get("tune") or {}
            if not isinstance(tune, dict):
                raise ValueError(f"{origin.place(['tune'])}: tune is not a mapping")
            tune[hyper] = value
            origin.given.append(("tune", hyper))
            continue
        config = content.setdefault("config", {})
        if not isinstance(config, dict) or not isinstance(config.setdefault(method, {}), dict):
            raise ValueError(f"{origin.place(['config', method])}: config is not a mapping")
        config[method][hyper] = value
        origin.given.append(("config", method, hyper))


def _listed(value: Any, axis: str) -> Any:
    """Split the commas of a text (`students=mlp,glnn`), not those of a dataset's parameters."""
    if not isinstance(value, str):
        return value
    if axis == "noise":  # `features=0.2` is a whole entry
        return [name.strip() for name in value.split(",")]
    return [name.strip() for name in re.split(r",(?!\s*[a-z_]+\s*=)", value)]
