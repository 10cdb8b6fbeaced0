"""The trials of a search for two objectives that no other trial beats in both (Pareto's front)."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from bench.metrics import METRICS
from bench.stats import spread
from bench.tables import Cell, Column, Row, Table, compact, percent

NOTE = "Of these trials none is both as accurate on val as another and cheaper."


def tables_of(studies: Iterable[Mapping[str, Any]]) -> Iterator[Table]:
    """Yield a table for each study that has two objectives, the most accurate trial first."""
    for study in studies:
        objectives = study["search"]["objectives"]
        trials = [t for t in study["trials"] if t["number"] in study.get("front", ())]
        if len(objectives) < 2 or not trials:
            continue
        cost = METRICS[objectives[1]]
        trials.sort(key=lambda t: (-t["val_accuracy"], t[objectives[1]]))
        rows = [
            Row(
                f"trial {t['number']} ({t['origin'] or 'search'})",
                (
                    Cell(percent(spread(t["seeds"]))),
                    Cell(compact(t[objectives[1]])),
                    Cell(", ".join(f"{k} {shown(v)}" for k, v in t["params"].items())),
                ),
            )
            for t in trials
        ]
        where = study["where"]
        place = ", ".join([where["dataset"], f"{where['split']} split", where["setting"]])
        columns = Column("val", "%"), Column(cost.label, cost.unit), Column("searched", "", 1)
        yield Table(
            f"{name_of(study)}, {place}: the front", columns, tuple(rows), (NOTE,), lesser=True
        )


def name_of(study: Mapping[str, Any]) -> str:
    """Name a study by its teacher and student."""
    where = study["where"]
    return " → ".join(filter(None, (where["teacher"], where["student"])))


def shown(value: Any) -> str:
    """Write a hyper-parameter's value."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "on", False: "off"}[value]
    return f"{value:.3g}" if isinstance(value, float) else str(value)
