"""Hyper-parameters: one line per field gives its default, its type and its search range.

A method's `Config` is a frozen dataclass whose fields are declared with `hp`. Everything that reads
or changes a configuration (presets, sweeps, the command line, tuning) goes through `resolve`.
`space.py` turns the declarations into what tuning searches.
"""

import dataclasses
import difflib
import hashlib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """Where a hyper-parameter may lie, and what tuning searches of it."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Any, ...] | None = None
    search: tuple[Any, ...] | list[Any] | None = None  # (low, high), or a list of values
    when: str = ""  # searched only where this other field is on: "field" or "field=value"
    distinct: bool = False  # no two of several values are written alike

    def refuses(self, value: Any) -> str | None:
        """Return why `value`, or one of several values, is not allowed, or None."""
        if isinstance(value, tuple):
            written = [f"{v:g}" for v in value] if self.distinct else []
            if again := next((v for v in written if written.count(v) > 1), None):
                return f"{again} stands there twice (six digits count); give each once"
            return next((f"{why}, each" for v in value if (why := self.refuses(v))), None)
        if self.choices is not None and value not in self.choices:
            return f"allowed: {', '.join(map(str, self.choices))}"
        if self.low is not None and value < self.low:
            return f"allowed: {self.low:g} or more"
        if self.high is not None and value > self.high:
            return f"allowed: {self.high:g} or less"
        return None


def hp(
    default: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    log: bool = False,
    choices: Iterable[Any] | None = None,
    search: tuple[Any, Any] | list[Any] | None = None,
    when: str = "",
    distinct: bool = False,
) -> Any:
    """Declare one hyper-parameter on one line.

    Example: `lr: float = hp(0.01, low=1e-5, high=1.0, log=True, search=(1e-3, 0.1))  # step size`.

    Args:
        default: its value where nobody says another.
        low: the smallest value allowed; of a tuple, for each in it, as all bounds.
        high: the largest value allowed.
        log: whether tuning searches its logarithm.
        choices: all values allowed.
        search: what tuning tries: a range (low, high) or a list of values. None: tuning leaves it
            alone unless a sweep opens it.
        when: the name of another field, declared before; tuning leaves this one alone where that
            one is 0, False or "none". "field=value": where it is not `value`.
        distinct: of a tuple of numbers, whether no two may be the same as `{:g}` writes them.
    """
    allowed = tuple(choices) if choices is not None else None
    limits = Range(low, high, log, allowed, search, when, distinct)
    return dataclasses.field(default=default, metadata={"range": limits})


@dataclass(frozen=True)
class TrainConfig:
    """What the training loop reads; every method's `Config` extends it."""

    lr: float = hp(0.01, low=1e-5, high=1.0, log=True, search=(1e-3, 0.05))  # Adam's step size
    # L2, added to the gradient (Adam, not AdamW).
    weight_decay: float = hp(0.0, low=0.0, high=0.1, search=[0.0, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2])
    max_epochs: int = hp(200, low=1, high=100_000)
    patience: int = hp(50, low=1, high=100_000)  # epochs without a new best before stopping
    selection: str = hp("val", choices=("val", "last"))  # "last": never looks at val


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest known name, else an empty string."""
    lowered = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.5)
    return f"; did you mean '{lowered[close[0]]}'?" if close else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """Build the error for a name nobody knows, with the nearest valid one."""
    known = sorted(known)
    near = nearest(name, known) or ";"
    return ValueError(f"unknown {kind} '{name}'{near} known: {', '.join(known)}")


def fields_of(config: type) -> dict[str, dataclasses.Field[Any]]:
    """Map names to the dataclass fields of a Config, in declaration order."""
    return {f.name: f for f in dataclasses.fields(config)}


def resolve(config: type, owner: str, values: Mapping[str, Any]) -> Any:
    """Build a `config` from its defaults and `values`.

    Args:
        config: a frozen dataclass declared with `hp`.
        owner: how to call it in an error, for example "student 'glnn'".
        values: overrides; a whole float is accepted for an int field.

    Raises:
        ValueError: an unknown key, a wrong type or a value out of range.
    """
    fields = fields_of(config)
    hints = typing.get_type_hints(config)
    checked = {}
    for name, value in values.items():
        if name not in fields:
            raise ValueError(f"{owner}: {unknown('config key', name, fields)}")
        value = _typed(value, hints[name], f"{owner}: {name}")
        limits = fields[name].metadata.get("range", Range())
        if value is not None and (why := limits.refuses(value)):
            raise ValueError(f"{owner}: {name} is {value!r}; {why}")
        checked[name] = value
    return config(**checked)


def _typed(value: Any, kind: Any, where: str) -> Any:
    """Return `value` as `kind`, or raise a sentence; text is never read as a number."""
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        items = list(value) if isinstance(value, list | tuple) else [value]
        return tuple(_typed(v, item, where) for v in items)
    if isinstance(kind, types.UnionType):  # `int | None`
        if value is None:
            return None
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    good = (
        (kind is bool and isinstance(value, bool))
        or (kind is str and isinstance(value, str))
        or (kind is float and isinstance(value, int | float) and not isinstance(value, bool))
        or (kind is int and _is_whole(value))
    )
    if not good or (kind is float and not math.isfinite(value)):
        raise ValueError(f"{where} is {value!r}; it must be of type {kind.__name__}")
    return kind(value)


def _is_whole(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (
        isinstance(value, float) and value.is_integer()
    )


def derive_seed(seed: int, *purpose: object) -> int:
    """Derive a 63-bit seed for one purpose; stable across processes, versions and platforms."""
    text = ":".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
