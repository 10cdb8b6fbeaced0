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

CURVE_POINTS = 64  # a point costs 0.13 ms in sqlite; the whole curves are an artefact
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
        return hashlib.sha256(content.encode()).hexdigest()[:32]

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
    """Name the parent run: "cora / random / transductive / sage:glnn -> glnn"."""
    *place, teacher, student = cell.group
    pair = f"{teacher} -> {student}" if teacher and student else student or f"{teacher} (teacher)"
    return " / ".join([*place, pair])


def run_name(cell: Cell) -> str:
    """Name a child run: "seed 0: glnn", with the other seeds where they differ."""
    seeds = [f"seed {cell.seed}"]
    seeds += [f"split {cell.split_seed}"] if cell.split_seed != cell.seed else []
    apart = cell.student and cell.teacher and cell.teacher_seed != cell.seed
    seeds += [f"teacher {cell.teacher_seed}"] if apart else []
    return f"{', '.join(seeds)}: {group_name(cell).rsplit(' / ', 1)[-1]}"


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
    return {_legal(k): _text(v)[:TEXT_LIMIT] for k, v in {**flat, **asked}.items()}


def metrics(row: Row) -> dict[str, float]:
    """Return all finite numbers of a row: quality, size, seconds, memory and measured cost."""
    found: dict[str, Any] = {}
    for variant in {**row.variants, **row.cost}:
        numbers = {**row.variants.get(variant, {}), **row.cost.get(variant, {})}
        found.update({f"{name}{_suffix(variant)}": v for name, v in numbers.items()})
    for phase, seconds in row.seconds.items():
        found["train_seconds" if phase == "train" else f"seconds_{phase}"] = seconds
    found.update(row.fit)
    return {_legal(k): float(v) for k, v in found.items() if _is_number(v)}


def curves(history: Mapping[str, Sequence[Any]], best: Any) -> list[tuple[str, int, float, float]]:
    """Return (name, epoch, value, share of the fit) for at most about `CURVE_POINTS` a curve.

    The points are evenly spaced; the first, the last and the `best` epoch are among them.
    """
    epochs = history.get("epoch") or range(max(map(len, history.values()), default=0))
    last = len(epochs) - 1
    stride = math.ceil(len(epochs) / CURVE_POINTS) or 1
    kept = [i for i, e in enumerate(epochs) if i % stride == 0 or i == last or e == best]
    return [
        (_legal(f"history/{name}"), int(epochs[i]), float(values[i]), (i + 1) / (last + 1))
        for name, values in history.items()
        if name != "epoch"
        for i in kept
        if i < len(values) and _is_number(values[i])
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
    counts = {status: sum(status == s for s, _ in children) for status in STATUSES}
    found = {"n_seeds": float(counts.pop("ok")), "n_missing": float(missing)}
    found.update({f"n_{status}": float(count) for status, count in counts.items()})
    for key in sorted({k for numbers in good for k in numbers}):
        name, dot, variant = key.partition(".")
        values = [numbers[key] for numbers in good if key in numbers]
        if name in METRICS:
            found[f"{name}_mean{dot}{variant}"] = statistics.fmean(values)
            if len(values) > 1:
                found[f"{name}_std{dot}{variant}"] = statistics.stdev(values)
    return found


def note(name: str, numbers: Mapping[str, float], reasons: Sequence[str]) -> str:
    """Describe a group in markdown: mean and std of each metric, what is missing, what failed."""
    seen = int(numbers["n_seeds"])
    lines = [f"**{name}**", "", f"{seen} seed{'s' * (seen != 1)} ok"]
    for count in (f"n_{s}" for s in (*STATUSES[1:], "missing")):
        lines[-1] += f", {int(numbers[count])} {count[2:]}" if numbers[count] else ""
    if seen:
        lines += ["", "| metric | mean ± std |", "|---|---|"]
    for key, mean in numbers.items():
        if "_mean" in key:
            metric, variant = key.replace("_mean", "", 1).partition(".")[::2]
            spread = numbers.get(key.replace("_mean", "_std", 1))
            lines.append(f"| {_titled(metric, variant)} | {_shown(metric, mean, spread)} |")
    lines += ["", "std is unbiased (n - 1)."] if seen > 1 else []
    lines += [""] * bool(reasons) + [f"- {reason}" for reason in reasons]
    return "\n".join(lines)[:TEXT_LIMIT]


def _titled(metric: str, variant: str) -> str:
    return METRICS[metric].label + (f" ({variant})" if variant else "")


def _shown(metric: str, mean: float, spread: float | None) -> str:
    unit = METRICS[metric].unit
    scale = 100.0 if unit == "%" else 1.0
    values = [mean * scale] if spread is None else [mean * scale, spread * scale]
    shown = [f"{v:.2f}" if unit == "%" else f"{v:,.4g}" if v < 1e4 else f"{v:,.0f}" for v in values]
    return f"{' ± '.join(shown)} {unit}".strip()


def _text(value: Any) -> str:
    """Write a value the same whether it comes from a sweep (tuples) or from a row (lists)."""
    return value if isinstance(value, str) else json.dumps(value)


def _suffix(variant: str) -> str:
    return f".{variant.lstrip('@')}" if variant else ""


def _legal(name: str) -> str:
    """Replace the characters that MLflow refuses in names."""
    return re.sub(r"[^/\w.\- ]", "-", name)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
