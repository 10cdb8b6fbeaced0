"""Search spaces: what tuning may try for a method, from its Config and what a sweep says.

Every hyper-parameter that declares `search` is a dimension; a sweep pins one (a value), narrows or
opens one (a list of values, or `{low, high, log}`). A dimension is widened to hold the values that
are tried anyway (the defaults, the presets), so that a sampler can learn from those trials too.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_type_hints

from bench.hparams import Range, fields_of, resolve, unknown


@dataclass(frozen=True)
class Dimension:
    """One hyper-parameter that is searched: a range, or a list of values."""

    name: str
    whole: bool = False  # whole numbers alone
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    values: tuple[Any, ...] = ()  # of a list; empty for a range
    when: str = ""

    def widened(self, value: Any) -> "Dimension":
        """Return the dimension with room for `value`."""
        if self.values:
            return self if value in self.values else replace(self, values=(*self.values, value))
        if self.log and value <= 0:
            raise ValueError(
                f"{self.name} is searched by its logarithm, and a preset has {value:g}; give "
                "tuning a list of values"
            )
        return replace(self, low=min(self.low, value), high=max(self.high, value))

    def applies(self, config: Mapping[str, Any]) -> bool:
        """Whether it decides anything in a configuration."""
        field, equals, value = self.when.partition("=")
        if not field:
            return True
        given = config[field]
        return str(given) == value if equals else given not in (0, False, "none", None)

    def describe(self) -> str:
        """What may be tried, in words."""
        if self.values:
            return ", ".join(_shown(value) for value in self.values)
        kind = " (log)" if self.log else ""
        return f"{_shown(self.low)} to {_shown(self.high)}{kind}"

    def asked(self) -> dict[str, Any]:
        """The dimension as plain data."""
        return {**vars(self), "values": list(self.values)}


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def space(
    config: type,
    owner: str,
    narrowed: Mapping[str, Any] | None = None,
    tried: Iterable[Mapping[str, Any]] = (),
) -> dict[str, Dimension]:
    """Return the dimensions that tuning searches, by name, in the order of the Config.

    Args:
        config: a method's Config.
        owner: how to call it in an error, for example "student 'glnn'".
        narrowed: what a sweep says: hyper-parameter -> a value, a list, or {low, high, log}. A
            value pins it: it is no dimension.
        tried: configurations that will be tried whatever the sampler says; dimensions have room for
            them, but for those that a sweep narrowed.

    Raises:
        ValueError: an unknown hyper-parameter, or a value that is not allowed.
    """
    fields, narrowed, tried = fields_of(config), narrowed or {}, list(tried)
    for name in narrowed:
        if name not in fields:
            raise ValueError(f"{owner}: {unknown('config key', name, fields)}")
    found = {}
    for name in fields:
        limits = fields[name].metadata.get("range", Range())
        if name in narrowed:
            dimension = _narrowed(config, owner, name, limits, narrowed[name])
        else:
            dimension = _declared(config, name, limits)
        if dimension is not None:
            for values in tried:
                dimension = dimension.widened(values[name])
            found[name] = dimension
    return {name: d for name, d in found.items() if _can_apply(d, found, tried)}


def _can_apply(
    dimension: Dimension, found: Mapping[str, Dimension], tried: list[Mapping[str, Any]]
) -> bool:
    """Whether its condition is searched too, or holds where the search starts."""
    field = dimension.when.partition("=")[0]
    return field in ("", *found) or not tried or any(dimension.applies(t) for t in tried)


def pinned(config: type, owner: str, narrowed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyper-parameters to which a sweep's search space gives one value."""
    one = {k: v for k, v in narrowed.items() if not isinstance(v, list | dict)}
    checked = resolve(config, owner, one)
    return {name: getattr(checked, name) for name in one}


def _declared(config: type, name: str, limits: Range) -> Dimension | None:
    search = _search_of(config, name)
    if search is None:
        return None
    whole = get_type_hints(config)[name] is int
    if isinstance(search, list):
        return Dimension(name, whole, values=tuple(search), when=limits.when)
    low, high = search
    return Dimension(name, whole, low, high, limits.log, when=limits.when)


def _search_of(config: type, name: str) -> Any:
    """What the nearest class says that declares a search of the hyper-parameter."""
    for kind in config.__mro__:
        field = getattr(kind, "__dataclass_fields__", {}).get(name)
        limits = field.metadata.get("range", Range()) if field is not None else Range()
        if limits.search is not None:
            return limits.search
    return None


def _narrowed(config: type, owner: str, name: str, limits: Range, given: Any) -> Dimension | None:
    """A dimension as a sweep wants it; None where it pins the hyper-parameter."""
    whole = get_type_hints(config)[name] is int
    if isinstance(given, list):
        if len(given) < 2:
            raise ValueError(f"{owner}: {name} has {len(given)} values to try; give two or more")
        values = tuple(getattr(resolve(config, owner, {name: v}), name) for v in given)
        return Dimension(name, whole, values=values, when=limits.when)
    if not isinstance(given, dict):
        resolve(config, owner, {name: given})
        return None
    keys = {"low", "high", "log"}
    if not {"low", "high"} <= set(given) <= keys:
        raise ValueError(
            f"{owner}: the range of {name} has the keys {', '.join(map(str, given)) or 'none'}; "
            "write {low: ..., high: ...} and, if you like, log: true"
        )
    low, high = (getattr(resolve(config, owner, {name: given[k]}), name) for k in ("low", "high"))
    if isinstance(low, bool | str) or low >= high:
        raise ValueError(f"{owner}: the range of {name} goes from {low} to {high}; it must rise")
    log = given.get("log", limits.log and low > 0)
    if not isinstance(log, bool) or (log and low <= 0):
        raise ValueError(f"{owner}: the range of {name} cannot be searched by its logarithm")
    return Dimension(name, whole, low, high, log, when=limits.when)
