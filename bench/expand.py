"""Expansion: a sweep becomes the list of cells that it asks for, every configuration resolved."""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import data, registry
from bench.axes import NO_NOISE, split_name
from bench.cell import Cell, Choice, Protocol
from bench.entry import Entry
from bench.hparams import resolve
from bench.sweep import Sweep
from bench.sweep_file import MistakeError
from bench.tuning import Tuned, start_digest

TUNED = " (tuned)"  # ends the label of a student with its tuned configuration


def expand(sweep: Sweep, data_root: Path, tuned: Sequence[Tuned] = ()) -> list[Cell]:
    """List the cells of a sweep: for each protocol the teachers, then the students.

    A student that needs no teacher has one cell a seed, whatever the number of teachers. A student
    with a tuned configuration in `tuned` comes twice: as it is, and, where tuning changed it, as
    `<label> (tuned)`.

    Raises:
        ValueError: an unknown name or key, or a split that a dataset does not have.
        FileNotFoundError: a dataset's files are missing.
    """
    try:
        return _distinct(sweep, list(_cells(sweep, data_root, tuned)))
    except MistakeError as error:
        raise ValueError(f"{sweep._origin.place(error.where)}: {error}") from error


def _cells(sweep: Sweep, data_root: Path, tuned: Sequence[Tuned]) -> Iterator[Cell]:
    _check_targets(sweep)
    for protocol in _protocols(sweep, data_root):
        for teacher, student in _with_tuned(sweep, tuned, protocol):
            for seed in sweep.seeds:
                split_seed = seed if sweep.split_seed is None else sweep.split_seed
                teacher_seed = seed if sweep.teacher_seed is None else sweep.teacher_seed
                own = seed if student else teacher_seed
                yield Cell(protocol, teacher, student, own, split_seed, teacher_seed, sweep.device)


def _with_tuned(
    sweep: Sweep, tuned: Sequence[Tuned], protocol: Protocol
) -> Iterator[tuple[Choice | None, Choice | None]]:
    """Put a student with its tuned configuration after itself, unless it is there already."""
    found = {entry.where: entry for entry in tuned}
    pairs = list(_pairs(sweep, protocol))
    there = [(teacher, s.name, s.config) for teacher, s in pairs if s]
    for teacher, student in pairs:
        yield teacher, student
        if student is None:
            continue
        label = teacher.label if teacher else ""
        where = (protocol.dataset, protocol.shown_split, protocol.setting, label, student.label)
        entry = found.get(where)
        if entry is None:
            continue
        _check_tuned(sweep, entry, student)
        owner = f"tuned student '{student.label}'"
        kind = registry.load_method("student", student.name).Config
        config = vars(resolve(kind, owner, {**student.config, **entry.config}))
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in config.items()}
        if (teacher, student.name, plain) in there:
            continue
        there.append((teacher, student.name, plain))
        changed = ", ".join(sorted(k for k in plain if plain[k] != student.config[k]))
        taught = _knowledge("student", student.name, plain)
        yield teacher, Choice(student.label + TUNED, student.name, plain, changed, taught)


def _check_tuned(sweep: Sweep, entry: Tuned, student: Choice) -> None:
    """Refuse values that were found on seeds that are reported, or for another configuration."""
    both = sorted(set(entry.seeds) & set(sweep.seeds))
    if both:
        raise ValueError(
            f"seed {both[0]} is reported, and '{student.label}' was tuned on it; report others"
        )
    kind = registry.load_method("student", student.name).Config
    if entry.start and entry.start != start_digest(kind, student.config):
        raise ValueError(
            f"'{student.label}' was tuned from another configuration than it has here; tune it "
            "again with this one, or leave out what was changed"
        )


def _check_targets(sweep: Sweep) -> None:
    """Refuse a config or a search space of nobody.

    Where the command line chose other methods, those of a file may be.
    """
    entries = [entry for role in ("teachers", "students") for _, entry in sweep.entries(role)]
    students = [entry for _, entry in sweep.entries("students")]
    spaces = sweep.tune.space if sweep.tune else {}
    _check_names(sweep, sweep.config, entries, "config")
    _check_names(sweep, spaces, students, "tune", "space")


def _check_names(
    sweep: Sweep, targets: Iterable[str], entries: Iterable[Entry], *where: str
) -> None:
    known = {name for entry in entries for name in (entry.shown, entry.method)}
    narrowed = any(path in (("teachers",), ("students",)) for path in sweep._origin.given)
    for target in targets:
        if target not in known and not (narrowed and sweep._origin.wrote((*where, target))):
            names = ", ".join(sorted(known))
            message = f"{'.'.join(where)} names no method '{target}'; this sweep has: {names}"
            raise MistakeError(message, *where, target)


def _distinct(sweep: Sweep, cells: list[Cell]) -> list[Cell]:
    """Drop repetitions (one teacher for all seeds); refuse two labels for one question."""
    first: dict[str, Cell] = {}
    for cell in cells:
        other = first.setdefault(cell.key, cell)
        if other.group == cell.group:
            continue
        if other.protocol.dataset != cell.protocol.dataset:
            names = [other.protocol.dataset, cell.protocol.dataset]
            where: tuple[Any, ...] = ("datasets", sweep.datasets.index(names[1]))
            raise MistakeError(
                f"'{names[0]}' and '{names[1]}' are the same data; leave one out", *where
            )
        role, names = _differing(other, cell)
        places = {entry.shown: place for place, entry in sweep.entries(role)}
        place = places.get(names[1], places.get(names[1].removesuffix(TUNED)))
        raise MistakeError(
            f"'{names[0]}' and '{names[1]}' have the same configuration on "
            f"{cell.protocol.dataset}; leave one out, or change its `config`",
            *(role, place),
        )
    return list(first.values())


def _differing(one: Cell, other: Cell) -> tuple[str, list[str]]:
    """Tell which axis labels two cells differently, and how."""
    teachers = [cell.teacher.label if cell.teacher else "" for cell in (one, other)]
    if teachers[0] != teachers[1]:
        return "teachers", teachers
    return "students", [cell.student.label if cell.student else "" for cell in (one, other)]


@contextlib.contextmanager
def _at(*where: Any) -> Iterator[None]:
    """Tell where in the sweep a mistake stands."""
    try:
        yield
    except MistakeError:
        raise
    except ValueError as error:
        raise MistakeError(str(error), *where) from error


def _protocols(sweep: Sweep, data_root: Path) -> Iterator[Protocol]:
    numbered = (enumerate(sweep.datasets), enumerate(sweep.splits))
    for (position, dataset), (place, split) in itertools.product(*numbered):
        with _at("datasets", position):
            module = registry.dataset_module(dataset)
            checksum = data.dataset_checksum(module, dataset, data_root)
        shipped = registry.datasets()[dataset.partition(":")[0]]["splits"]
        chosen = split if split != "default" else (*shipped, "random")[0]
        if chosen in ("public", "official") and chosen not in shipped:
            able = ", ".join([*shipped, "random", "ratio"])
            message = f"dataset '{dataset}' has no split '{chosen}'; it can use: {able}"
            raise MistakeError(message, "splits", place)
        features = sweep.features
        if features == "auto":
            features = "row" if chosen == "public" else "raw"
        for setting in sweep.settings:
            # The rate decides nothing where nothing, or everything, is hidden.
            hides = setting == "production" or (setting == "inductive" and chosen != "public")
            rate = sweep.hidden_rate if hides else 0.0
            for noise in sweep.noise:
                disturbed = "" if noise == NO_NOISE else noise
                loops = sweep.self_loops
                yield Protocol(dataset, checksum, chosen, setting, features, loops, rate, disturbed)


def _pairs(sweep: Sweep, protocol: Protocol) -> Iterator[tuple[Choice | None, Choice | None]]:
    """Yield (teacher, None), then (teacher, student) and (None, student without teacher)."""
    teachers = _teachers(sweep, protocol)
    yield from ((teacher, None) for teacher in teachers)
    for position, entry, teacher in _students(sweep, teachers):
        yield teacher, _choice("student", position, entry, sweep, protocol, teacher)


def _teachers(sweep: Sweep, protocol: Protocol) -> list[Choice]:
    named = sweep.entries("teachers")
    return [_choice("teacher", i, e, sweep, protocol, None) for i, e in named]


def _students(sweep: Sweep, teachers: list[Choice]) -> Iterator[tuple[int, Entry, Choice | None]]:
    """Yield every student with each teacher, or with none if it needs none."""
    for position, entry in sweep.entries("students"):
        with _at("students", position):
            needs_teacher = registry.load_method("student", entry.method).needs_teacher
            if needs_teacher and not teachers:
                raise ValueError(
                    f"student '{entry.name}' needs a teacher, and the sweep names none"
                )
        for teacher in teachers if needs_teacher else [None]:
            yield position, entry, teacher


@dataclass(frozen=True)
class Search:
    """What one study searches: a student where it is to be good, and where the search starts."""

    protocol: Protocol
    teacher: Choice | None
    student: Choice  # with the defaults of its entry
    starts: dict[str, Choice]  # its published presets, by `name:preset`


def searches(sweep: Sweep, data_root: Path) -> list[Search]:
    """List the studies of a sweep, for `tune`; the errors are those of `expand`."""
    try:
        _check_targets(sweep)
        return [
            _search(position, entry, sweep, protocol, teacher)
            for protocol in _protocols(sweep, data_root)
            for position, entry, teacher in _students(sweep, _teachers(sweep, protocol))
        ]
    except MistakeError as error:
        raise ValueError(f"{sweep._origin.place(error.where)}: {error}") from error


def _search(
    position: int, entry: Entry, sweep: Sweep, protocol: Protocol, teacher: Choice | None
) -> Search:
    known = registry.presets("student", entry.method) if sweep.tune and sweep.tune.presets else ()
    starts = {}
    for preset in known:
        name = f"{entry.method}:{preset}"
        other = entry.model_copy(update={"name": name, "label": entry.shown})
        starts[name] = _choice("student", position, other, sweep, protocol, teacher)
    student = _choice("student", position, entry, sweep, protocol, teacher)
    return Search(protocol, teacher, student, starts)


def _choice(
    role: str,
    position: int,
    entry: Entry,
    sweep: Sweep,
    protocol: Protocol,
    teacher: Choice | None,
) -> Choice:
    """Resolve an entry: its method's `config`, its own over it, its label's over both.

    A grid's values go with the entry's own; `entry` is one point of it.
    """
    own = f"{role}s", position
    parts = {
        ("config", entry.method): sweep.config.get(entry.method, {}),
        (*own, "config"): entry.config,
        (*own, "grid"): {key: values[0] for key, values in entry.grid.items()},
        ("config", entry.shown): sweep.config.get(entry.shown, {}),
    }
    if entry.shown == entry.method:  # the label's, too: moved behind the entry's own
        del parts["config", entry.method]
        parts["config", entry.shown] = sweep.config.get(entry.shown, {})
    where = {
        "dataset": protocol.dataset.partition(":")[0],
        "split": split_name(protocol.split),
        "setting": protocol.setting,
        "teacher": teacher.name if teacher else "",
    }
    with _at(*own):
        preset = registry.configure(role, entry.name, {}, where)
    for path, values in parts.items():
        for key, value in values.items():
            with _at(*path, key):
                registry.configure(role, entry.name, {key: value}, where)
    merged = {key: value for values in parts.values() for key, value in values.items()}
    config = registry.configure(role, entry.name, merged, where)
    changed = ", ".join(sorted(key for key in config if config[key] != preset[key]))
    taught = _knowledge(role, entry.method, config)
    return Choice(entry.shown, entry.method, config, changed, taught)


def _knowledge(role: str, name: str, config: dict[str, Any]) -> str:
    """Name the kinds of knowledge that a student is taught by."""
    kinds = registry.load_method(role, name).knowledge_of(config) if role == "student" else ()
    return ", ".join(kinds) or ("labels" if role == "student" else "")
