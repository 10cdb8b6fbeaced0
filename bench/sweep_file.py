"""Sweep files as text: YAML with 1.2 numbers, and the line of every value in it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_SEED = 2**31 - 1
MAX_SEEDS = 10_000


class MistakeError(ValueError):
    """What is wrong with a sweep, and where: a path of keys and positions."""

    def __init__(self, message: str, *where: Any) -> None:
        super().__init__(message)
        self.where = where


@dataclass(frozen=True)
class Origin:
    """Where a sweep's values come from: a file's node tree, with the command line laid over it."""

    source: str = "sweep"
    tree: Any = None
    given: list[tuple[str, ...]] = field(default_factory=list)  # paths that were laid over it
    laid_over: str = "command line"  # by what

    def place(self, where: Sequence[Any]) -> str:
        """Say where the value at a path was written: `sweeps/a.yaml, line 7`."""
        if not self.wrote(where):
            return self.laid_over
        line = _line(self.tree, where)
        return f"{self.source}, line {line}" if line else self.source

    def wrote(self, where: Sequence[Any]) -> bool:
        """Whether the value at a path is the source's own."""
        return not any(path[: len(where)] == tuple(where[: len(path)]) for path in self.given)


def parse(text: str, source: str) -> tuple[dict[str, Any], Origin]:
    """Read a mapping from YAML.

    Raises:
        ValueError: with the source and, where there is one, the line of the mistake.
    """
    try:
        content = yaml.load(text, _Loader)
        tree = yaml.compose(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{source}{line}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:  # a character that no text may hold
        raise ValueError(f"{source}: not valid YAML: {str(error).splitlines()[0]}") from error
    except MistakeError as error:
        raise ValueError(f"{source}, line {error.where[0]}: {error}") from error
    if not isinstance(content, dict):
        kind = "empty" if content is None else "a list" if isinstance(content, list) else "text"
        raise ValueError(f"{source}: a sweep is a mapping of keys to values, this is {kind}")
    return content, Origin(source, tree)


def scalar(raw: str) -> Any:
    """Read one value as a sweep file would.

    Raises:
        ValueError: it is not valid YAML.
    """
    try:
        return yaml.load(raw, _Loader)
    except (yaml.YAMLError, MistakeError) as error:
        raise ValueError("it is not valid YAML") from error


def _line(node: Any, where: Sequence[Any]) -> int | None:
    """Find the line of the value at a path in a node tree; for what is missing, of its owner."""
    line: int | None = None
    for step in where:
        if isinstance(node, yaml.MappingNode):
            pairs = [(k, v) for k, v in node.value if k.value == str(step)]
            if not pairs:
                return line
            line, node = pairs[0][0].start_mark.line + 1, pairs[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            node = node.value[step]
            line = node.start_mark.line + 1
    return line


# ---- YAML 1.2 -------------------------------------------------------------------------------
# In PyYAML's YAML 1.1 `1e-7` is text, `no` is false, `010` is eight and `2024-01-01` is a date.

_TYPES = "tag:yaml.org,2002:"
_RULES = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?\d+", "-+0123456789"),
    "float": (
        r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
}


class _Loader(yaml.SafeLoader):
    """Keys are text, and a key that stands twice is refused."""

    yaml_implicit_resolvers = {  # noqa: RUF012  (PyYAML's own name)
        first: [(tag, rule) for tag, rule in rules if tag in (_TYPES + "null", _TYPES + "merge")]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag == _TYPES + "merge":
                continue
            line, key = key_node.start_mark.line + 1, self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise MistakeError(f"a key is a name, not {key!r}", line)
            if key in seen:
                raise MistakeError(f"key '{key}' stands there twice", line)
            seen.add(key)
        return super().construct_mapping(node, deep)


for _name, (_rule, _first) in _RULES.items():
    _Loader.add_implicit_resolver(_TYPES + _name, re.compile(rf"^(?:{_rule})$"), list(_first))
_Loader.add_constructor(_TYPES + "int", lambda _, node: int(node.value))


def parse_seeds(value: Any) -> Any:
    """Read seeds: 3, "0-9", "0,2,5-7" or a list of whole numbers."""
    if isinstance(value, int) and not isinstance(value, bool):
        return [value]
    if isinstance(value, list | tuple | range):
        return list(value)
    seeds: list[int] = []
    for part in value.split(",") if isinstance(value, str) else ("",):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise ValueError(f"seeds '{value}' cannot be read; write 0-9, or 0,2,5-7, or a list")
        if last - first >= MAX_SEEDS:
            raise ValueError(f"seeds '{value}' are more than {MAX_SEEDS:,}; give fewer")
        seeds += range(first, last + 1)
    return seeds


def check_seeds(seeds: list[int]) -> list[int]:
    """Return seeds; one that no generator takes is a mistake, at its position."""
    for position, seed in enumerate(seeds):
        if not 0 <= seed <= MAX_SEED:
            raise MistakeError(f"seed {seed} is not between 0 and {MAX_SEED}", position)
    return seeds
