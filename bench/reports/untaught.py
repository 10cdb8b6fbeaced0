"""The reference level of repeated errors: what students repeat that never saw the teacher.

Some of a teacher's errors are everybody's: the node looks like another class. A student without a
teacher repeats those, too; what a taught student repeats beyond them it has from its teacher.

They come from the stored predictions, which only a results folder has; references.py puts them into
the tidy rows, so that a report from a file of rows has them as well.
"""

import logging
from collections.abc import Hashable

import numpy as np

from bench.metrics import repeated_errors
from bench.reports.blocks import Line
from bench.results import CorruptError, Store

Arrays = dict[str, np.ndarray]


def repeated(store: Store, student: Line, teacher: Line) -> dict[Hashable, float]:
    """Return the share of a teacher's errors that a student makes alike, by seed.

    Defined as for the teacher's own students (`metrics.repeated_errors`), from the predictions that
    both stored. A seed is left out where the files do not have the labels (rows of an earlier
    version), where the two were scored on other nodes, or where the teacher makes no error.
    """
    found = {}
    for unit in student.keys.keys() & teacher.keys.keys():
        ours, theirs = (_predictions(store, line.keys[unit]) for line in (student, teacher))
        labels, name = theirs.get("_labels"), student.variant or "_"
        if labels is None or name not in ours or "_" not in theirs:
            continue
        if np.array_equal(labels, ours.get("_labels", ())) and (theirs["_"] != labels).any():
            found[unit] = repeated_errors(labels, ours[name], theirs["_"])
    return found


def _predictions(store: Store, key: str) -> Arrays:
    """Read predictions.npz of a row; empty where there is none, or none that can be used."""
    try:
        row = store.read(key)
        if row is None or "predictions.npz" not in row.artefacts:
            return {}
        with np.load(store.artefact(row, "predictions.npz")) as file:
            return dict(file)
    except CorruptError as error:
        logging.getLogger(__name__).warning(f"{error}; its errors are not compared")
        return {}
