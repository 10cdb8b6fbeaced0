"""Hand-made studies as `gkdbench tune` leaves them, with the rows of their cells."""

import json
from pathlib import Path
from typing import Any

from bench.cell import Cell, Choice, Protocol
from bench.results import Row, Store

CORA = Protocol("cora", "sha256:" + "ab" * 32, "random", "transductive")
SAGE = Choice("sage:glnn", "sage", {"lr": 0.01})
BASE = {"lr": 0.01, "dropout": 0.5, "max_epochs": 200}
SEEDS = (1000, 1001)


def make_trial(number: int, seeds: list[float], lr: float = 0.01, **fields: Any) -> dict[str, Any]:
    """A trial that began `number` minutes after noon and took 30 s; complete unless told."""
    state = fields.get("state", "complete")
    return {
        "number": number,
        "origin": "" if number else "default",
        "state": state,
        "started": f"2026-03-04T12:{number:02}:00+00:00",
        "ended": f"2026-03-04T12:{number:02}:30+00:00",
        "val_accuracy": sum(seeds) / len(seeds) if seeds else None,
        "params": {"lr": lr, "dropout": 0.5},
        "config": {**BASE, "lr": lr},
        "seeds": {str(s): v for s, v in zip(SEEDS, seeds, strict=False)},
        "size": 1000.0 if seeds else None,
        "seconds": 10.0 * len(seeds),
        "keys": [],
        "pruned": state == "pruned",
        "reason": "",
        **fields,
    }


def make_study(
    trials: list[dict[str, Any]], teacher: str = "sage:glnn", student: str = "glnn", **fields: Any
) -> dict[str, Any]:
    whole = [t for t in trials if t["state"] == "complete"]
    best = max(whole, key=lambda t: t["val_accuracy"], default=None)
    where = {"dataset": "cora", "split": "random", "setting": "transductive"}
    return {
        "id": f"{student}-{teacher or 'none'}"[:12],
        "name": f"hunt/{student}",
        "where": {**where, "teacher": teacher, "student": student},
        "protocol": dict(vars(CORA)),
        "search": {
            **{"trials": len(trials), "seeds": list(SEEDS), "sampler": "tpe", "pruner": "median"},
            **{"objectives": ["val_accuracy"], "batch": 2, "seed": 0, "presets": True},
        },
        "space": {"lr": "0.001 to 0.1 (log)", "dropout": "0 to 0.8"},
        "front": [],
        "chosen": best["number"] if best else None,
        "trials": trials,
        **fields,
    }


def write_rows(store: Store, study: dict[str, Any]) -> None:
    """Write the rows of a study's cells, and of their teachers; name them in its trials."""
    taught = SAGE if study["where"]["teacher"] else None
    name = study["where"]["student"]
    for trial in study["trials"]:
        trial["keys"] = []
        for seed, value in trial["seeds"].items():
            choice = Choice(name, name, trial["config"])
            at = int(seed)
            cell = Cell(CORA, taught, choice, at, at, at, evaluate_test=False)
            teacher = cell.teacher_cell
            if teacher and store.read(teacher.key) is None:
                write_row(store, teacher, 0.9)
            write_row(store, cell, value, teacher.key if teacher else "")
            trial["keys"].append(cell.key)


def write_row(store: Store, cell: Cell, value: float, teacher_key: str = "") -> None:
    row = Row(cell.key, cell.describe(), "ok", teacher_key=teacher_key)
    row.variants = {"": {"val_accuracy": value, "params": 1000}}
    row.seconds, row.fit = {"train": 10.0}, {"epochs": 50, "best_epoch": 37}
    row.ran = {"started": "2026-03-04T12:00:00+00:00", "seconds": 11.0, "git_commit": "c0ffee"}
    with store.draft(cell.key) as draft:
        epochs = list(range(50))
        curves = {"epoch": epochs, "loss": [1 / (e + 1) for e in epochs]}
        curves["val_accuracy"] = [value * e / 50 for e in epochs]
        (draft / "history.json").write_text(json.dumps(curves))
        store.write(row, draft)


def write_studies(results: Path, studies: list[dict[str, Any]], sweep: str = "hunt") -> None:
    """Write the files of a tuning."""
    for study in studies:
        folder = results / "tuning" / study["id"]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "study.json").write_text(json.dumps(study))
        (folder / "trials.csv").write_text("number\n")
    listing = {"sweep": sweep, "studies": [study["id"] for study in studies]}
    (results / "tuning" / f"{sweep}.json").write_text(json.dumps(listing))
