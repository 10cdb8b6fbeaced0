"""Rows, histories and artefacts on disk: atomic, checksummed, the only truth.

    results/cells/<key>/row.json       what was asked, what came out, what ran
                        history.json   {"epoch": [...], "loss": [...], "val_accuracy": [...]}
                        weights.pt, predictions.npz, logits.npy (of a teacher)
                        cost.json      MACs; what was timed later, alone on the machine
    results/sweeps/<name>.json         the cells a sweep asked for, in order, under its labels
    results/corrupt/                   what failed its checksum, set aside

A cell's folder is written beside its place and renamed into it, so a killed run leaves no row.
"""

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.checked import CorruptError, host, process, read_checked, sha256, write_checked

_log = logging.getLogger(__name__)

STATUSES = ("ok", "diverged", "failed", "timeout", "skipped")
DONE = ("ok", "skipped")  # the others run again


@dataclass
class Row:
    """The record of one cell.

    `variants` maps a variant's name ("" for the only one) to its numbers: the metrics and `params`;
    `cost` likewise, from cost.json: MACs and what was timed. `seconds` holds the time of each
    phase; `train` is the fit. `ran` is the provenance.
    """

    key: str
    cell: dict[str, Any]  # Cell.describe()
    status: str
    reason: str = ""
    variants: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    fit: dict[str, Any] = field(default_factory=dict)  # epochs, best_epoch, peak_memory_mib, ...
    ran: dict[str, Any] = field(default_factory=dict)
    teacher_key: str = ""
    artefacts: dict[str, str] = field(default_factory=dict)  # file name -> sha256
    cost: dict[str, dict[str, float]] = field(default_factory=dict)  # variant -> measured cost

    @property
    def done(self) -> bool:
        """Whether this row answers its cell for good."""
        return self.status in DONE

    @property
    def lost(self) -> bool:
        """Whether the worker ended before the cell did, which says nothing about the cell."""
        return self.status == "failed" and not self.seconds


class Store:
    """A results folder."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def folder(self, key: str) -> Path:
        """Where the cell `key` lies."""
        return self.root / "cells" / key

    # -- reading ---------------------------------------------------------------------------

    def read(self, key: str) -> Row | None:
        """Return the row of `key`, or None where there is none.

        Raises:
            CorruptError: the row does not match its own checksum.
        """
        path = self.folder(key) / "row.json"
        data = read_checked(path)
        if data is None:
            return None
        if data.get("key") != key:
            raise CorruptError(f"{path} holds the row of another cell, {data.get('key')}")
        try:
            data["cost"] = read_checked(self.folder(key) / "cost.json") or {}
        except CorruptError as error:
            _log.warning(f"{error}; it is left out")
        try:
            return Row(**data)
        except TypeError as error:
            raise CorruptError(f"{path} was written by another version ({error})") from error

    def read_or_set_aside(self, key: str) -> Row | None:
        """Return the row, or move a corrupt one to `corrupt/`, say so and return None."""
        try:
            return self.read(key)
        except CorruptError as error:
            self.set_aside(key, str(error))
            return None

    def heal(self, key: str) -> Row | None:
        """Return the row if it and all its files are sound; what is not is set aside."""
        try:
            read_checked(self.folder(key) / "cost.json")
        except CorruptError as error:  # it is measured again
            self.set_aside(key, str(error), "cost.json")
        row = self.read_or_set_aside(key)
        try:
            if row is not None:
                self._check_touched(row)
        except CorruptError as error:
            self.set_aside(key, str(error))
            return None
        return row

    def _check_touched(self, row: Row) -> None:
        """Check the artefacts that are gone or were written to after their row; read no others."""
        folder = self.folder(row.key)
        written = (folder / "row.json").stat().st_mtime_ns
        for name in row.artefacts:
            path = folder / name
            if not path.is_file() or path.stat().st_mtime_ns > written:
                self.artefact(row, name)

    def artefact(self, row: Row, name: str) -> Path:
        """Return the path of a row's artefact after checking its content.

        Raises:
            CorruptError: it is missing or changed.
        """
        path = self.folder(row.key) / name
        if not path.is_file():
            raise CorruptError(f"{path} is missing")
        if sha256(path.read_bytes()) != row.artefacts.get(name):
            raise CorruptError(f"{path} does not match its checksum")
        return path

    def history(self, key: str) -> dict[str, list[float]]:
        """Return the curves of a fit by name, with the `epoch` of each point; empty if none."""
        path = self.folder(key) / "history.json"
        try:
            return json.loads(path.read_text()) if path.is_file() else {}
        except ValueError as error:
            _log.warning(f"{path} is not a whole record ({error}); it is left out")
            return {}

    def keys(self) -> list[str]:
        """Return the keys of all cells here, sorted."""
        cells = self.root / "cells"
        return sorted(p.name for p in cells.iterdir() if p.name[0] != ".") if cells.is_dir() else []

    # -- writing ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def draft(self, key: str) -> Iterator[Path]:
        """Give a private folder for the artefacts of `key`; `write` publishes it."""
        folder = self.root / "cells" / f".{key}-{process()}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def write(self, row: Row, draft: Path) -> Row:
        """Publish a row with the artefacts in `draft`, replacing an older row of the same cell."""
        names = sorted(p.name for p in draft.iterdir() if p.name != "row.json")
        if row.cost:
            write_checked(draft / "cost.json", row.cost)
        row.artefacts = {name: sha256((draft / name).read_bytes()) for name in names}
        data = {k: v for k, v in row.__dict__.items() if k != "cost"}
        write_checked(draft / "row.json", data)
        place = self.folder(row.key)
        older = place.with_name(f".old-{row.key}-{process()}")
        for attempt in range(10):
            with contextlib.suppress(FileNotFoundError):
                place.rename(older)
            try:
                draft.rename(place)
                break
            except OSError:  # another process answered the same cell in between
                if attempt == 9 or not place.exists():
                    raise
            finally:
                shutil.rmtree(older, ignore_errors=True)
        return row

    def drop(self, row: Row, name: str) -> None:
        """Remove an artefact that nobody needs any more, with its mention in the row."""
        if name not in row.artefacts:
            return
        del row.artefacts[name]
        data = {k: v for k, v in row.__dict__.items() if k != "cost"}
        write_checked(self.folder(row.key) / "row.json", data)
        (self.folder(row.key) / name).unlink(missing_ok=True)

    def write_cost(self, key: str, cost: Mapping[str, Mapping[str, float]]) -> None:
        """Store the measured cost of a cell: variant -> {"latency_ms": ..., ...}."""
        write_checked(self.folder(key) / "cost.json", dict(cost))

    def set_aside(self, key: str, why: str, name: str = "") -> Path:
        """Move a cell's folder, or one file of it, to `corrupt/`, with the reason beside it."""
        place = self.root / "corrupt" / f"{key}-{time.time_ns()}"
        place.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            if name:
                place.mkdir()
            (self.folder(key) / name).rename(place / name)
            (place / "why.txt").write_text(why + "\n")
            _log.warning(f"{why}; it was moved to {place}")
        return place

    def sweep_out(self) -> None:
        """Remove what dead runs of this host left half-written (a live process keeps its own)."""
        cells = self.root / "cells"
        for folder in cells.glob(".*-*") if cells.is_dir() else ():
            pid, _, there = folder.name.rsplit("-", 1)[-1].partition("@")
            if pid.isdigit() and there in ("", host()) and not _is_written(folder, int(pid)):
                shutil.rmtree(folder, ignore_errors=True)

    # -- sweeps ----------------------------------------------------------------------------

    def write_sweep(self, name: str, plan: Mapping[str, Any]) -> bool:
        """Remember a sweep: {"cells": [{"key": ..., "cell": Cell.describe()}], "sweep": {...}}.

        Returns:
            Whether another plan stood there under this name.
        """
        path = self.root / "sweeps" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        older = self.read_sweep(name)
        if older == json.loads(json.dumps(plan)):
            return False
        write_checked(path, plan)
        return older is not None

    def read_sweep(self, name: str) -> dict[str, Any] | None:
        """Return what `write_sweep` stored; None where that is missing or corrupt."""
        try:
            return read_checked(self.root / "sweeps" / f"{name}.json")
        except CorruptError as error:
            _log.warning(f"{error}; running the sweep writes it again")
            return None

    def sweeps(self) -> list[str]:
        """Return the names of the sweeps run here."""
        folder = self.root / "sweeps"
        return sorted(p.stem for p in folder.glob("*.json")) if folder.is_dir() else []


def _is_written(folder: Path, pid: int) -> bool:
    """Whether the process that made a draft still runs, and is not another of the same number."""
    import psutil

    try:
        process = psutil.Process(pid)
        running = process.status() != psutil.STATUS_ZOMBIE
        return running and process.create_time() <= folder.stat().st_mtime + 1.0
    except (psutil.NoSuchProcess, FileNotFoundError):
        return False
