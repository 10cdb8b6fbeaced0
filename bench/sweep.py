"""Sweeps: a YAML file (or the command line's options) becomes the list of cells it asks for.

Every mistake in a file is refused with its line. Numbers follow YAML 1.2, so `1e-7` is a number.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from bench import data, registry
from bench.cell import Cell, Choice, Protocol
from bench.hparams import nearest, unknown

SPLITS = ("public", "random", "official", "ratio", "default")
SETTINGS = ("transductive", "production", "inductive")


_AXES = ("datasets", "splits", "settings", "teachers", "students")


class Entry(BaseModel):
    """One teacher or student of a sweep: `name[:preset]`, a label, overrides."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    label: str = ""
    config: dict[str, Any] = Field(default_factory=dict)

    @property
    def shown(self) -> str:
        """The label in tables."""
        return self.label or self.name


class Sweep(BaseModel):
    """A matrix of cells: every dataset x split x setting x teacher x student x seed."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    description: str = ""
    datasets: list[str] = Field(min_length=1)
    splits: list[str] = Field(default=["default"], min_length=1)
    settings: list[str] = Field(default=["transductive"], min_length=1)
    teachers: list[Entry] | None = Field(default=None, min_length=1)
    students: list[Entry] | None = Field(default=None, min_length=1)
    seeds: list[int] = Field(default=[0], min_length=1)
    split_seed: int | None = None  # one split for all seeds
    teacher_seed: int | None = None  # one teacher for all seeds
    features: Literal["auto", "raw", "row"] = "auto"  # auto: row on a public split, else raw
    self_loops: bool = True
    hidden_rate: float = Field(default=0.2, gt=0.0, le=1.0)
    config: dict[str, dict[str, Any]] = Field(default_factory=dict)  # overrides by label or name
    device: Literal["cpu", "cuda"] = "cpu"
    cost_seeds: int = Field(default=3, ge=0)  # latency is measured for the first so many seeds

    @field_validator("datasets", "splits", "settings", "teachers", "students", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        """Accept one name where a list is meant, and a bare name where an entry is meant."""
        return [value] if isinstance(value, str | dict) else value

    @field_validator("teachers", "students", mode="before")
    @classmethod
    def _names_are_entries(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return [{"name": v} if isinstance(v, str) else v for v in value]

    @field_validator("seeds", mode="before")
    @classmethod
    def _ranges(cls, value: Any) -> Any:
        return parse_seeds(value)

    @field_validator("splits", "settings")
    @classmethod
    def _known(cls, value: list[str], info: Any) -> list[str]:
        known = SPLITS if info.field_name == "splits" else SETTINGS
        for name in value:
            if name not in known:
                raise unknown(info.field_name[:-1], name, known)
        return value

    @model_validator(mode="after")
    def _nothing_twice(self) -> "Sweep":
        for axis in ("datasets", "splits", "settings", "seeds", "teachers", "students"):
            values = [v.shown if isinstance(v, Entry) else v for v in getattr(self, axis) or []]
            twice = {v for v in values if values.count(v) > 1}
            if twice:
                hint = "; give each its own `label`" if axis in ("teachers", "students") else ""
                raise ValueError(f"{axis}: '{twice.pop()}' stands there twice{hint}")
        if not self.teachers and not self.students:
            raise ValueError("a sweep needs teachers, students or both; it has neither")
        return self


def parse_seeds(value: Any) -> Any:
    """Read seeds: 3, "0-9", "0,2,5-7" or a list of whole numbers."""
    if isinstance(value, int) and not isinstance(value, bool):
        return [value]
    if not isinstance(value, str):
        return value
    seeds: list[int] = []
    for part in value.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if not match or (match[2] and int(match[2]) < int(match[1])):
            raise ValueError(f"seeds '{value}' cannot be read; write 0-9, or 0,2,5-7, or a list")
        seeds += range(int(match[1]), int(match[2] or match[1]) + 1)
    return seeds


# ---- reading --------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML 1.2 numbers; a key that stands twice is refused."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                line = key_node.start_mark.line + 1
                raise ValueError(f"line {line}: key '{key}' stands there twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {  # before YAML 1.2, `1e-7` is text and `no` is false
    first: [(tag, rule) for tag, rule in rules if tag.rpartition(":")[2] not in ("bool", "float")]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


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
    text = path.read_text()
    try:
        content = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise ValueError(f"{path}, line {line}: not valid YAML: {error.problem}") from error
    except ValueError as error:
        raise ValueError(f"{path}, {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a sweep is a mapping of keys to values, this is not one")
    content.setdefault("name", path.stem)
    _override(content, overrides)
    return make(content, str(path), yaml.compose(text, _Loader))


def from_overrides(texts: Iterable[str]) -> Sweep:
    """Make a sweep of `key=value` texts alone."""
    content: dict[str, Any] = {"name": "adhoc"}
    _override(content, texts)
    return make(content, "command line")


def make(content: Mapping[str, Any], source: str, lines: Any = None) -> Sweep:
    """Check plain data and make a Sweep of it; `lines` is the YAML node tree it came from."""
    try:
        return Sweep(**content)
    except ValidationError as error:
        first = error.errors()[0]
        where = list(first["loc"])
        line = _line(lines, where)
        place = f"{source}, line {line}" if line else source
        raise ValueError(f"{place}: {_sentence(first, where)}") from error


def _sentence(error: Any, where: list[Any]) -> str:
    """Turn a pydantic error into one sentence."""
    keys = [str(k) for k in where]
    name = ".".join(keys)
    if error["type"] == "extra_forbidden":
        model = Entry if len(keys) > 1 else Sweep
        known = sorted(model.model_fields)
        near = nearest(keys[-1], known)
        return f"unknown key '{keys[-1]}'{near} known: {', '.join(known)}"
    if error["type"] == "missing":
        return f"key '{name}' is missing"
    if error["type"] == "too_short":
        return f"{name} is empty; give at least one, or leave the key out"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return str(message)
    return f"{name} is {error['input']!r}; {message[0].lower() + message[1:]}"


def _line(node: Any, where: list[Any]) -> int | None:
    """Find the line of the value at a path in a YAML node tree."""
    if node is None:
        return None
    line: int = node.start_mark.line + 1
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


def _override(content: dict[str, Any], overrides: Iterable[str]) -> None:
    """Apply `key=value` (a key of the sweep) and `method.key=value` (a hyper-parameter)."""
    for text in overrides:
        key, equals, raw = text.partition("=")
        if not equals or not key:
            raise ValueError(f"override '{text}' cannot be read; write key=value or method.key=value")
        value = yaml.load(raw, _Loader) if raw else None
        if value is None:
            raise ValueError(f"override '{text}' has no value")
        method, dot, hyper = key.rpartition(".")
        if dot:
            content.setdefault("config", {}).setdefault(method, {})[hyper] = value
        else:
            content[key] = _listed(value) if key in _AXES else value


def _listed(value: Any) -> Any:
    """Split the commas of a text (`students=mlp,glnn`), not those of a dataset's parameters."""
    return re.split(r",(?![a-z_]+=)", value) if isinstance(value, str) else value


# ---- expansion ------------------------------------------------------------------------------


def expand(sweep: Sweep, data_root: Path) -> list[Cell]:
    """List the cells of a sweep: for each protocol the teachers, then the students.

    A student that needs no teacher has one cell a seed, whatever the number of teachers.

    Raises:
        ValueError: an unknown name or key, or a split that a dataset does not have.
        FileNotFoundError: a dataset's files are missing.
    """
    entries = [*(sweep.teachers or []), *(sweep.students or [])]
    labels = {e.shown for e in entries} | {e.name.partition(":")[0] for e in entries}
    for target in sweep.config:
        if target not in labels:
            raise unknown("method in `config` of the sweep", target, labels)
    cells: list[Cell] = []
    for protocol in _protocols(sweep, data_root):
        for teacher, student in _pairs(sweep, protocol):
            for seed in sweep.seeds:
                split_seed = seed if sweep.split_seed is None else sweep.split_seed
                teacher_seed = seed if sweep.teacher_seed is None else sweep.teacher_seed
                own = seed if student else teacher_seed
                cell = Cell(protocol, teacher, student, own, split_seed, teacher_seed, sweep.device)
                cells.append(cell)
    return _distinct(cells)


def _distinct(cells: list[Cell]) -> list[Cell]:
    """Drop repetitions (one teacher for all seeds); refuse two labels for one question."""
    first: dict[str, Cell] = {}
    for cell in cells:
        other = first.setdefault(cell.key, cell)
        if other.group != cell.group:
            names = [(c.student or c.teacher).label for c in (other, cell)]  # type: ignore[union-attr]
            raise ValueError(
                f"'{names[0]}' and '{names[1]}' have the same configuration on "
                f"{cell.protocol.dataset}; leave one out, or change its `config`"
            )
    return list(first.values())


def _protocols(sweep: Sweep, data_root: Path) -> Iterator[Protocol]:
    for dataset, split in itertools.product(sweep.datasets, sweep.splits):
        module = registry.dataset_module(dataset)
        shipped = registry.datasets()[dataset.partition(":")[0]]["splits"]
        chosen = split if split != "default" else (*shipped, "random")[0]
        if chosen in ("public", "official") and chosen not in shipped:
            able = ", ".join([*shipped, "random", "ratio"])
            raise ValueError(f"dataset '{dataset}' has no split '{chosen}'; it can use: {able}")
        features = sweep.features
        if features == "auto":
            features = "row" if chosen == "public" else "raw"
        checksum = data.dataset_checksum(module, dataset, data_root)
        for setting in sweep.settings:
            # The rate decides nothing where nothing, or everything, is hidden.
            hides = setting == "production" or (setting == "inductive" and chosen != "public")
            rate = sweep.hidden_rate if hides else 0.0
            yield Protocol(dataset, checksum, chosen, setting, features, sweep.self_loops, rate)


def _pairs(sweep: Sweep, protocol: Protocol) -> Iterator[tuple[Choice | None, Choice | None]]:
    """Yield (teacher, None), then (teacher, student) and (None, student without teacher)."""
    teachers = [_choice("teacher", e, sweep, protocol, None) for e in sweep.teachers or []]
    yield from ((teacher, None) for teacher in teachers)
    for entry in sweep.students or []:
        name = entry.name.partition(":")[0]
        if not registry.load_method("student", name).needs_teacher:
            yield None, _choice("student", entry, sweep, protocol, None)
            continue
        if not teachers:
            raise ValueError(f"student '{entry.name}' needs a teacher, and the sweep names none")
        for teacher in teachers:
            yield teacher, _choice("student", entry, sweep, protocol, teacher)


def _choice(
    role: str, entry: Entry, sweep: Sweep, protocol: Protocol, teacher: Choice | None
) -> Choice:
    name = entry.name.partition(":")[0]
    overrides = {
        **entry.config,
        **sweep.config.get(name, {}),
        **(sweep.config.get(entry.shown, {}) if entry.shown != name else {}),
    }
    where = {
        "dataset": protocol.dataset.partition(":")[0],
        "split": protocol.split,
        "setting": protocol.setting,
        "teacher": teacher.name if teacher else "",
    }
    return Choice(entry.shown, name, registry.configure(role, entry.name, overrides, where))
