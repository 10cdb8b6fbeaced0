"""Tidy rows that tell what students without a teacher repeat of its errors (untaught.py).

A report that has no results folder beside the rows reads the columns `repeated_errors.TEACHER`.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

from bench.reports.blocks import UNTAUGHT, blocks
from bench.reports.cells import reported
from bench.reports.robustness import FAITHFUL, Ladder, ladders
from bench.results import Store

Column = dict[tuple[str, str], float]  # by key and variant


def noted(frame: pd.DataFrame, planned: Iterable[Mapping[str, Any]], store: Store) -> pd.DataFrame:
    """Return tidy rows with a column for each teacher of a ladder whose errors are repeated.

    Where a dataset has two rows of one question, which a report refuses, it has none; a warning
    says so.

    Args:
        frame: tidy rows; those that have such columns already get them anew.
        planned: their cells, as a report takes them.
        store: where their predictions lie.
    """
    columns: dict[str, Column] = {}
    planned = list(planned)
    for where, part in _parts(frame):
        own = [cell for cell in planned if (cell["dataset"], cell["setting"]) == where]
        try:
            _note(ladders(blocks(part, own), store), columns)
        except ValueError as error:
            told = "its rows do not tell what students without a teacher repeat"
            logging.getLogger(__name__).warning(f"{where[0]}, {where[1]}: {error}; {told}")
    names = list(zip(frame["key"], frame["variant"].fillna(""), strict=True)) if columns else []
    return frame.assign(
        **{k: pd.Series([v.get(name) for name in names], frame.index) for k, v in columns.items()}
    )


def _parts(frame: pd.DataFrame) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """Yield the rows of each dataset and setting that may hold a ladder; the rest costs nothing."""
    if FAITHFUL not in frame:
        return
    for (dataset, setting), part in reported(frame).groupby(["dataset", "setting"], sort=False):
        alone = (part["teacher"] == "") & (part["student"] != "")
        levels = max(part["split"].nunique(), part["teacher"].nunique() - 1)
        if alone.any() and part[FAITHFUL].notna().any() and levels > 1:
            yield (str(dataset), str(setting)), part


def _note(found: Iterable[Ladder], columns: dict[str, Column]) -> None:
    """Add what the students without a teacher have in each rung to the column of its teacher."""
    for rung in (rung for ladder in found for rung in ladder.rungs):
        for line in (line for line in rung.students.values() if rung.teacher and not line.teacher):
            assert rung.teacher is not None
            for unit, share in line.runs[FAITHFUL].items():
                column = columns.setdefault(f"{UNTAUGHT}{rung.teacher.teacher}", {})
                column[line.keys[unit], line.variant] = share
