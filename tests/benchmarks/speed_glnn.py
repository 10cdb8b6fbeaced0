"""The 10-seed Cora job (SAGE teacher, GLNN student, records) against plain PyG code.

Both sides do the same work: the same splits, models, Adam steps, epochs (no early stopping) and one
validation an epoch, one thread each. The plain side is what one would write first: PyG's gather and
scatter on an edge list, dense features, `torch.nn.Linear`, seeds one after another. Run it with

    python -m tests.benchmarks.speed_glnn [--seeds 10] [--epochs 200] [--dataset cpf-cora]

`cpf-cora` needs $GKDBENCH_DATA; `--dataset synthetic` needs nothing.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bench import data, engine, kernels, sweep
from bench.cell import Cell
from bench.expand import expand
from bench.protocol import Exam
from bench.run import Place, load_exam, run, warm_up


class PlainSAGE(nn.Module):
    """Two SAGE layers, aggregator gcn, by PyG's message passing; linear before aggregation."""

    def __init__(self, size_in: int, hidden: int, size_out: int) -> None:
        super().__init__()
        from torch_geometric.nn import SimpleConv

        self.first, self.second = nn.Linear(size_in, hidden), nn.Linear(hidden, size_out)
        self.mean = SimpleConv(aggr="mean", combine_root="self_loop")

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = self.mean(self.first(x), edges).relu()
        return self.mean(self.second(h), edges)


class PlainMLP(nn.Module):
    """Two linear layers with dropout between them."""

    def __init__(self, size_in: int, hidden: int, size_out: int, dropout: float) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(size_in, hidden), nn.Linear(hidden, size_out)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.dropout(self.first(x).relu(), self.dropout, self.training))


def plain_cell(exam: Exam, epochs: int, folder: Path, seed: int) -> dict[str, float]:
    """Fit a teacher and its GLNN student as plain PyG code, and write a record."""
    torch.manual_seed(seed)
    adj = exam.graph.adj
    edges = torch.stack([adj.indices.long(), adj.row_ids])
    x, y, split = exam.graph.x.to_dense(), exam.graph.y, exam.split
    clock = {}
    start = time.perf_counter()
    teacher = PlainSAGE(x.shape[1], 128, exam.graph.num_classes)
    optimizer = torch.optim.Adam(teacher.parameters(), lr=0.01, weight_decay=5e-4)
    for _ in range(epochs):
        teacher.train()
        optimizer.zero_grad()
        F.cross_entropy(teacher(x, edges)[split.train], y[split.train]).backward()
        optimizer.step()
        teacher.eval()
        with torch.no_grad():
            logits = teacher(x, edges)
            (logits[split.val].argmax(1) == y[split.val]).float().mean().item()
    clock["teacher"] = time.perf_counter() - start
    soft = logits.log_softmax(1)
    start = time.perf_counter()
    student = PlainMLP(x.shape[1], 128, exam.graph.num_classes, 0.6)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01, weight_decay=5e-3)
    every = torch.arange(len(y))
    for _ in range(epochs):
        student.train()
        for nodes, weight in ((split.train, 0.0), (every, 1.0)):
            size = min(512, len(nodes))
            order = nodes[torch.randperm(len(nodes))]
            for batch in order[: len(nodes) // size * size].split(size):
                log_probs = student(x[batch]).log_softmax(1)
                loss = (
                    F.kl_div(log_probs, soft[batch], reduction="batchmean", log_target=True)
                    if weight
                    else F.nll_loss(log_probs, y[batch]) * 0.0
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        student.eval()
        with torch.no_grad():
            logits = student(x)
            (logits[split.val].argmax(1) == y[split.val]).float().mean().item()
    clock["student"] = time.perf_counter() - start
    test = split.test_observed
    score = (logits[test].argmax(1) == y[test]).float().mean().item()
    (folder / f"{seed}.json").write_text(json.dumps({"test_accuracy": score, **clock}))
    return {"accuracy": score, **clock}


def our_cells(dataset: str, seeds: int, epochs: int, root: Path) -> list[Cell]:
    """List the same work as cells."""
    fixed = {"max_epochs": epochs, "patience": epochs}
    asked = sweep.make(
        {
            "name": "speed",
            "datasets": [dataset],
            "splits": ["random"],
            "teachers": [{"name": "sage:glnn", "config": fixed}],
            "students": [{"name": "glnn", "config": fixed}],
            "seeds": list(range(seeds)),
        }
    )
    return expand(asked, root)


def main() -> None:
    """Run both sides, alternating, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--dataset", default="cpf-cora")
    options = parser.parse_args()
    root = data.data_root()
    cells = our_cells(options.dataset, options.seeds, options.epochs, root)
    kernels.set_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        place = Place(folder / "one", root)
        warm_up(place)
        found = _in_turn(cells, place, options, folder)
        found["all cores"] = _all_cores(cells, replace(place, results=folder / "all"))
    _print(found, options)


def _in_turn(cells: list[Cell], place: Place, options: Any, folder: Path) -> dict[str, Any]:
    """Run each seed on both sides before the next one, so that noise hits both alike."""
    found: dict[str, Any] = {"ours": 0.0, "plain": 0.0, "parts": {}}
    scores: dict[str, list[float]] = {"ours": [], "plain": []}
    for seed in range(options.seeds):
        exam = load_exam(next(c for c in cells if c.split_seed == seed), place)
        start = time.perf_counter()
        plain = plain_cell(exam, options.epochs, folder, seed)
        found["plain"] += time.perf_counter() - start
        scores["plain"].append(plain["accuracy"])
        start = time.perf_counter()
        rows = [run(cell, place) for cell in cells if cell.seed == seed]
        found["ours"] += time.perf_counter() - start
        scores["ours"].append(rows[1].variants[""]["test_accuracy"])
        for name, row in zip(("teacher", "student"), rows, strict=True):
            parts = found["parts"].setdefault(name, [0.0, 0.0])
            parts[0] += row.seconds["train"]
            parts[1] += plain[name]
        _tell(f"seed {seed}: plain {found['plain']:.1f} s, ours {found['ours']:.1f} s so far")
    found["scores"] = {k: sum(v) / len(v) for k, v in scores.items()}
    return found


def _all_cores(cells: list[Cell], place: Place) -> float:
    """Run all cells with the engine, workers' start included."""
    start = time.perf_counter()
    rows = list(engine.run_cells(cells, place, engine.plan(cells, None, None)))
    assert all(row.status == "ok" for row in rows)
    return time.perf_counter() - start


def _print(found: dict[str, Any], options: Any) -> None:
    _tell(f"\n{options.dataset}, {options.seeds} seeds, {options.epochs} epochs a fit, one thread")
    for name, (ours, plain) in found["parts"].items():
        each = 1e3 / options.seeds / options.epochs
        _tell(f"  {name}: plain {plain * each:6.2f} ms/epoch, ours {ours * each:6.2f} ms/epoch, "
              f"ratio {plain / ours:.1f}")  # fmt: skip
    _tell(f"  whole job, one process: ratio {found['plain'] / found['ours']:.1f}")
    _tell(f"  whole job, {engine.cores()} cores: ratio {found['plain'] / found['all cores']:.1f}")
    shown = ", ".join(f"{k} {100 * v:.2f} %" for k, v in found["scores"].items())
    _tell(f"  mean test accuracy of the student (plain: last epoch, ours: selected): {shown}")


def _tell(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
