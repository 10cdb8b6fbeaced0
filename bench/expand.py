"""Expansion: a sweep becomes the list of cells that it asks for, every configuration resolved."""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import data, registry
from bench.cell import Cell, Choice, Protocol
from bench.sweep import Entry, Sweep
from bench.sweep_file import MistakeError


def expand(sweep: Sweep, data_root: Path) -> list[Cell]:
    """List the cells of a sweep: for each protocol the teachers, then the students.

    A student that needs no teacher has one cell a seed, whatever the number of teachers.

    Raises:
        ValueError: an unknown name or key, or a split that a dataset does not have.
        FileNotFoundError: a dataset's files are missing.
    """
    try:
        return _distinct(sweep, list(_cells(sweep, data_root)))
    except MistakeError as error:
        raise ValueError(f"{sweep._origin.place(error.where)}: {error}") from error


def _cells(sweep: Sweep, data_root: Path) -> Iterator[Cell]:
    _check_targets(sweep)
    for protocol in _protocols(sweep, data_root):
        for teacher, student in _pairs(sweep, protocol):
            for seed in sweep.seeds:
                split_seed = seed if sweep.split_seed is None else sweep.split_seed
                teacher_seed = seed if sweep.teacher_seed is None else sweep.teacher_seed
                own = seed if student else teacher_seed
                yield Cell(protocol, teacher, student, own, split_seed, teacher_seed, sweep.device)


def _check_targets(sweep: Sweep) -> None:
    """Refuse a config of nobody; where the command line chose other methods, a file's may be."""
    entries = [*(sweep.teachers or []), *(sweep.students or [])]
    labels = {e.shown for e in entries} | {e.method for e in entries}
    narrowed = any(path in (("teachers",), ("students",)) for path in sweep._origin.given)
    for target in sweep.config:
        if target not in labels and not (narrowed and sweep._origin.wrote(("config", target))):
            known = ", ".join(sorted(labels))
            message = f"config names no method '{target}'; this sweep has: {known}"
            raise MistakeError(message, "config", target)


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
        entries = [entry.shown for entry in getattr(sweep, role)]
        raise MistakeError(
            f"'{names[0]}' and '{names[1]}' have the same configuration on "
            f"{cell.protocol.dataset}; leave one out, or change its `config`",
            *(role, entries.index(names[1])),
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
            yield Protocol(dataset, checksum, chosen, setting, features, sweep.self_loops, rate)


def _pairs(sweep: Sweep, protocol: Protocol) -> Iterator[tuple[Choice | None, Choice | None]]:
    """Yield (teacher, None), then (teacher, student) and (None, student without teacher)."""
    named = enumerate(sweep.teachers or [])
    teachers = [_choice("teacher", i, e, sweep, protocol, None) for i, e in named]
    yield from ((teacher, None) for teacher in teachers)
    for position, entry in enumerate(sweep.students or []):
        with _at("students", position):
            needs_teacher = registry.load_method("student", entry.method).needs_teacher
            if needs_teacher and not teachers:
                raise ValueError(
                    f"student '{entry.name}' needs a teacher, and the sweep names none"
                )
        for teacher in teachers if needs_teacher else [None]:
            yield teacher, _choice("student", position, entry, sweep, protocol, teacher)


def _choice(
    role: str,
    position: int,
    entry: Entry,
    sweep: Sweep,
    protocol: Protocol,
    teacher: Choice | None,
) -> Choice:
    """Resolve an entry: its method's `config`, its own over it, its label's over both."""
    own = f"{role}s", position
    parts = {
        ("config", entry.method): sweep.config.get(entry.method, {}),
        (*own, "config"): entry.config,
        ("config", entry.shown): sweep.config.get(entry.shown, {}),
    }
    if entry.shown == entry.method:  # the label's, too: moved behind the entry's own
        del parts["config", entry.method]
        parts["config", entry.shown] = sweep.config.get(entry.shown, {})
    where = {
        "dataset": protocol.dataset.partition(":")[0],
        "split": protocol.split,
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
    return Choice(entry.shown, entry.method, config, changed)
