"""Cells on a graph of 300 nodes with fits of four epochs, and what of their rows must be equal."""

from collections.abc import Iterable
from typing import Any

from bench.cell import Cell
from bench.engine import Engine
from bench.expand import expand
from bench.results import Row, tidy
from bench.sweep import from_overrides

DATA = "synthetic:nodes=300,degree=6,classes=3"
MEASURED = ("train_seconds", "peak_memory_mib", "seconds_", "ran.")  # may differ between runs
METHODS = ("gcn", "mlp", "glnn", "die", "sleep", "fail", "chalkless")


def cells_of(*texts: str) -> list[Cell]:
    """The cells of a sweep written as `key=value` texts."""
    given = [part for text in texts if "s=" in text for part in text.partition("=")[2].split(",")]
    epochs = [f"{name}.max_epochs=4" for name in METHODS if name in given]
    epochs = [text for text in epochs if not any(t.startswith(text[:-1]) for t in texts)]
    return expand(from_overrides([f"datasets={DATA}", "splits=random", *texts, *epochs]), None)


def cell_of(*texts: str) -> Cell:
    """The last cell of a sweep: that of its student, if it has one."""
    return cells_of(*texts)[-1]


def result(rows: Iterable[Row]) -> dict[str, dict[str, Any]]:
    """Rows by key, without what is measured and provenance."""
    return {
        record["key"]: {k: v for k, v in record.items() if not k.startswith(MEASURED)}
        for record in tidy(rows)
    }


def drained(runner: Engine, timeout: float | None = None) -> list[Any]:
    """All events until nothing is left to run."""
    found: list[Any] = []
    while events := runner.events(timeout):
        found += events
    return found
