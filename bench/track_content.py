"""What a tracked run says about a row, as plain data; nothing here imports mlflow.

Metrics are the row's numbers under the names of the tables; those of a variant end in `.<variant>`
(`test_accuracy.exit`). The curves of the fit are `history/<name>`.
"""

import hashlib
import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.cell import Cell
from bench.metrics import METRICS
from bench.results import STATUSES, Row

CURVE_POINTS = 64  # of all curves of a cell together, about: they are most of what a row costs
LEAST_POINTS = 24  # of one curve; the whole curves are an artefact
TEXT_LIMIT = 5000  # MLflow takes 6000 characters for a param and 8000 for a tag

SOURCE = {"mlflow.source.name": "gkdbench", "mlflow.source.type": "LOCAL"}


@dataclass(frozen=True)
class Entry:
    """A row to be tracked, with the cell as the sweep labels it."""

    row: Row
    cell: Cell
    folder: Path

    @property
    def group(self) -> str:
        """The name of its parent run."""
        return group_name(self.cell)

    @cached_property
    def digest(self) -> str:
        """Identify the content: an entry tracked with the same digest needs no second run."""
        content = json.dumps([self.row.__dict__, self.cell.describe()], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @cached_property
    def times(self) -> tuple[int, int]:
        """Start and end in milliseconds, from the provenance; else from the age of the file."""
        ran = self.row.ran
        seconds = float(ran.get("seconds") or sum(self.row.seconds.values()))
        try:
            started = datetime.fromisoformat(ran["started"])
        except (KeyError, TypeError, ValueError):
            written = (self.folder / "row.json").stat().st_mtime
            started = datetime.fromtimestamp(written - seconds, UTC)
        if started.tzinfo is None:
            started = started.replace(tzinfo=UTC)
        start = round(started.timestamp() * 1000)
        return start, start + round(seconds * 1000)


def group_name(cell: Cell) -> str:
    """Name the parent run: "glnn on cora / random / transductive from sage:glnn".

    What differs comes first: MLflow's run table shows about 16 characters.
    """
    return name_of(cell.group)


def name_of(group: Sequence[str]) -> str:
    """Name a (dataset, split, setting, teacher, student)."""
    *place, teacher, student = group
    origin = f" from {teacher}" if teacher and student else "" if student else " (teacher)"
    return f"{student or teacher} on {' / '.join(place)}{origin}"


def run_name(cell: Cell) -> str:
    """Name a child run: "seed 0: glnn on ...", with the other seeds where they differ."""
    seeds = [f"seed {cell.seed}"]
    seeds += [f"split {cell.split_seed}"] if cell.split_seed != cell.seed else []
    apart = cell.student and cell.teacher and cell.teacher_seed != cell.seed
    seeds += [f"teacher {cell.teacher_seed}"] if apart else []
    return f"{', '.join(seeds)}: {group_name(cell)}"


def group_params(cell: Cell) -> dict[str, str]:
    """Return what all seeds of a group share, for the columns of the run table."""
    names = ("dataset", "split", "setting", "teacher", "student")
    return {k: v for k, v in zip(names, cell.group, strict=True) if v}


def params(cell: Cell) -> dict[str, str]:
    """Return what was asked, flat: labels, protocol options, seeds, `teacher.*`, `student.*`."""
    asked = cell.describe()
    flat: dict[str, Any] = {**asked.pop("protocol"), **group_params(cell)}
    for role in ("teacher", "student"):
        choice = asked.pop(role)
        if choice:
            flat[f"{role}.name"] = choice["name"]
            flat.update({f"{role}.{k}": v for k, v in choice["config"].items()})
    return {legal(k): text_of(v)[:TEXT_LIMIT] for k, v in {**flat, **asked}.items()}


def metrics(row: Row) -> dict[str, float]:
    """Return all finite numbers of a row: quality, size, seconds, memory and measured cost."""
    found: dict[str, Any] = {}
    for variant in {**row.variants, **row.cost}:
        numbers = {**row.variants.get(variant, {}), **row.cost.get(variant, {})}
        found.update({f"{name}{_suffix(variant)}": v for name, v in numbers.items()})
    for phase, seconds in row.seconds.items():
        found["train_seconds" if phase == "train" else f"seconds_{phase}"] = seconds
    found.update(row.fit)
    return {legal(k): float(v) for k, v in found.items() if is_number(v)}


def points_each(history: Mapping[str, Sequence[Any]]) -> int:
    """Return how many points each curve of a cell gets."""
    return max(LEAST_POINTS, CURVE_POINTS // max(1, len(history.keys() - {"epoch"})))


def curves(
    history: Mapping[str, Sequence[Any]], best: Any, most: int
) -> list[tuple[str, int, float, float]]:
    """Return (name, epoch, value, share of the fit) for at most about `most` points a curve.

    The points are evenly spaced; the first, the last and the `best` epoch are among them.
    """
    epochs = history.get("epoch") or range(max(map(len, history.values()), default=0))
    last = len(epochs) - 1
    stride = math.ceil(len(epochs) / most) or 1
    kept = [i for i, e in enumerate(epochs) if i % stride == 0 or i == last or e == best]
    return [
        (legal(f"history/{name}"), int(epochs[i]), float(values[i]), (i + 1) / (last + 1))
        for name, values in history.items()
        if name != "epoch"
        for i in kept
        if i < len(values) and is_number(values[i])
    ]


def tags(entry: Entry, sweep: str) -> dict[str, str]:
    """Return the tags of a child run, but for those that name other runs."""
    row, cell = entry.row, entry.cell
    commit = str(row.ran.get("git_commit") or "")
    found = {
        "kind": "cell",
        "sweep": sweep,
        "key": row.key,
        "row": entry.digest,
        **group_params(cell),
        "seed": str(cell.seed),
        "status": row.status,
        "reason": row.reason[:TEXT_LIMIT],
        "git_commit": commit,
        "teacher_key": row.teacher_key,
    }
    named = {f"gkdbench.{k}": v for k, v in found.items() if v}
    return named | SOURCE | ({"mlflow.source.git.commit": commit} if commit else {})


def run_status(statuses: Sequence[str]) -> str:
    """Return MLflow's word for one row, or for a group: one good row makes it good."""
    if "ok" in statuses:
        return "FINISHED"
    return "KILLED" if set(statuses) == {"skipped"} else "FAILED"


# ---- the aggregates of a parent ---------------------------------------------------------------


def aggregates(
    children: Iterable[tuple[str, Mapping[str, float]]], missing: int
) -> dict[str, float]:
    """Return mean, unbiased std and counts over the (status, metrics) of a group's children."""
    children = list(children)
    good = [numbers for status, numbers in children if status == "ok"]
    found: dict[str, float] = {}
    seen = {k for numbers in good for k in numbers}
    order = {name: i for i, name in enumerate(METRICS)}
    bases = {key: key.partition(".") for key in seen}
    for key in sorted(seen, key=lambda k: (order.get(bases[k][0], 0), k)):
        name, dot, variant = bases[key]
        values = [numbers[key] for numbers in good if key in numbers]
        if name in METRICS:
            found[f"{name}_mean{dot}{variant}"] = statistics.fmean(values)
            if len(values) > 1:
                found[f"{name}_std{dot}{variant}"] = statistics.stdev(values)
    found["n_seeds"] = len(good)
    found.update({f"n_{s}": sum(s == status for status, _ in children) for s in STATUSES[1:]})
    return {k: float(v) for k, v in found.items()} | {"n_missing": float(missing)}


def record(rows: Mapping[str, str], missing: int) -> str:
    """Identify the aggregates over the rows with these digests, by key."""
    told = json.dumps([1, sorted(rows.items()), missing])  # 1: count up when aggregates change
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def child_note(row: Row, teacher_link: str) -> str:
    """Describe a child run in markdown: why it is not good, and where its teacher is."""
    lines = [] if row.status == "ok" else [f"**{row.status}**: {first_line(row.reason)}"]
    lines += [f"Taught by [its teacher's run]({teacher_link})."] if teacher_link else []
    return "\n\n".join(lines)


def note(numbers: Mapping[str, float], reasons: Sequence[str]) -> str:
    """Describe a group in markdown: mean and std of each metric, what is missing, what failed."""
    good = int(numbers["n_seeds"])
    counts = [f"{good} seed{'s' * (good != 1)} ok"]
    counts += [f"{int(numbers[f'n_{s}'])} {s}" for s in (*STATUSES[1:], "missing")]
    table = []
    for key, mean in numbers.items():
        if "_mean" in key:
            metric, variant = key.replace("_mean", "", 1).partition(".")[::2]
            title = METRICS[metric].label + (f" ({variant})" if variant else "")
            spread = numbers.get(key.replace("_mean", "_std", 1))
            table.append((title, _shown(metric, mean, spread)))
    # MLflow shows the first lines and folds the rest
    first = [" ".join(table[0][::-1])] if table else []
    lines = [", ".join(first + [c for c in counts if not c.startswith("0 ") or c == counts[0]])]
    lines += [""] * bool(reasons) + [f"- {reason}" for reason in reasons]
    lines += ["", "| metric | mean ± std |", "|---|---|"] if table else []
    lines += [f"| {title} | {value} |" for title, value in table]
    lines += ["", "std is unbiased (n - 1)."] if good > 1 else []
    return "\n".join(lines)[:TEXT_LIMIT]


def first_line(text: str) -> str:
    """Return the sentence of a reason, without the traceback below it."""
    return text.partition("\n")[0]


def _shown(metric: str, mean: float, spread: float | None) -> str:
    unit = METRICS[metric].unit
    scale = 100.0 if unit == "%" else 1.0
    values = [mean * scale] if spread is None else [mean * scale, spread * scale]
    shown = [f"{v:.2f}" if unit == "%" else f"{v:,.4g}" if v < 1e4 else f"{v:,.0f}" for v in values]
    return f"{' ± '.join(shown)} {unit}".strip()


def text_of(value: Any) -> str:
    """Write a value the same whether it comes from a sweep (tuples) or from a row (lists)."""
    return value if isinstance(value, str) else json.dumps(value)


def _suffix(variant: str) -> str:
    return f".{variant.lstrip('@')}" if variant else ""


def legal(name: str) -> str:
    """Replace the characters that MLflow refuses in names."""
    return re.sub(r"[^/\w.\- ]", "-", name)


def is_number(value: Any) -> bool:
    """Whether MLflow can store it as a metric."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
