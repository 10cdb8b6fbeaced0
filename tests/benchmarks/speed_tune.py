"""Tuning GLNN on Cora (32 trials of 3 seeds) against what a researcher would write first.

Both sides search the same five ranges with TPE, train the teachers once, and do the same Adam steps
for every trial and seed (a fixed number of epochs, one validation each, no pruning), one thread a
process. The plain side is PyG's message passing on an edge list, dense features, `torch.nn.Linear`
and `study.optimize`; it writes nothing. Ours stores every cell, and is tracked in MLflow in the
last line. Run it with

    python -m tests.benchmarks.speed_tune [--trials 32] [--epochs 100] [--dataset cpf-cora]

`cpf-cora` needs $GKDBENCH_DATA; `--dataset synthetic` needs nothing.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from bench import data, engine, kernels, launch_tune, sweep
from bench.expand import searches
from bench.protocol import Exam
from bench.run import Place, load_exam, warm_up
from bench.tune import sample_cells
from tests.benchmarks.speed_glnn import PlainMLP, PlainSAGE

SEEDS = [1000, 1001, 1002]
DECAYS = [0.0, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2]


def plain_teacher(exam: Exam, epochs: int) -> Tensor:
    """Return log-probabilities of a SAGE teacher, in plain PyG code."""
    adj, y, split = exam.graph.adj, exam.graph.y, exam.split
    edges = torch.stack([adj.indices.long(), adj.row_ids])
    x = exam.graph.x.to_dense()
    model = PlainSAGE(x.shape[1], 128, exam.graph.num_classes)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)
    for _ in range(epochs):
        optimizer.zero_grad()
        F.cross_entropy(model(x, edges)[split.train], y[split.train]).backward()
        optimizer.step()
        with torch.no_grad():
            logits = model(x, edges)
            (logits[split.val].argmax(1) == y[split.val]).float().mean().item()
    return logits.log_softmax(1)


def plain_student(exam: Exam, soft: Tensor, params: dict[str, float], epochs: int) -> float:
    """Return the best val accuracy of a GLNN student, in plain PyTorch code."""
    x, y, split = exam.graph.x.to_dense(), exam.graph.y, exam.split
    student = PlainMLP(x.shape[1], 128, exam.graph.num_classes, params["dropout"])
    optimizer = torch.optim.Adam(
        student.parameters(), lr=params["lr"], weight_decay=params["weight_decay"]
    )
    heat, share, best = params["temperature"], params["label_weight"], 0.0
    soft = (soft / heat).log_softmax(1)
    every = torch.arange(len(y))
    for _ in range(epochs):
        student.train()
        for nodes, weight, labelled in ((split.train, share, True), (every, 1 - share, False)):
            size = min(512, len(nodes))
            order = nodes[torch.randperm(len(nodes))]
            for batch in order[: len(nodes) // size * size].split(size):
                logits = student(x[batch])
                if labelled:
                    loss = F.cross_entropy(logits, y[batch])
                else:
                    log_probs = (logits / heat).log_softmax(1)
                    loss = heat**2 * F.kl_div(
                        log_probs, soft[batch], reduction="batchmean", log_target=True
                    )
                optimizer.zero_grad()
                (weight * loss).backward()
                optimizer.step()
        student.eval()
        with torch.no_grad():
            hits = student(x)[split.val].argmax(1) == y[split.val]
        best = max(best, hits.float().mean().item())
    return best


def plain_search(exams: list[Exam], trials: int, epochs: int) -> tuple[float, float]:
    """Search as a researcher would; return the seconds and the best mean val accuracy."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    start = time.perf_counter()
    torch.manual_seed(0)
    teachers = [plain_teacher(exam, epochs) for exam in exams]

    def objective(trial: Any) -> float:
        params = {
            "lr": trial.suggest_float("lr", 1e-3, 0.05, log=True),
            "weight_decay": trial.suggest_categorical("weight_decay", DECAYS),
            "dropout": trial.suggest_float("dropout", 0.0, 0.8),
            "label_weight": trial.suggest_float("label_weight", 0.0, 0.6),
            "temperature": trial.suggest_float("temperature", 0.5, 4.0, log=True),
        }
        pairs = zip(exams, teachers, strict=True)
        return sum(plain_student(e, t, params, epochs) for e, t in pairs) / len(exams)

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=trials)
    return time.perf_counter() - start, study.best_value


def asked(dataset: str, trials: int, epochs: int) -> sweep.Sweep:
    """The same work as a sweep."""
    fixed = {"max_epochs": epochs, "patience": epochs}
    return sweep.make(
        {
            "name": "speed",
            "datasets": [dataset],
            "splits": ["random"],
            "teachers": [{"name": "sage:glnn", "config": fixed}],
            "students": [{"name": "glnn", "config": fixed}],
            "tune": {
                "trials": trials,
                "seeds": SEEDS,
                "pruner": "none",
                "presets": False,
                "space": {"glnn": {"num_layers": 2}},
            },
        }
    )


def our_search(search: sweep.Sweep, place: Place, jobs: int, *, track: bool) -> tuple[float, Any]:
    """Search with this package; return the seconds, workers' start included, and the outcome."""
    start = time.perf_counter()
    cells = sample_cells(search, searches(search, place.data))
    outcome = launch_tune.launch(
        search,
        place,
        engine.plan(cells, jobs),
        progress=lambda items, total, title: items,
        track=track,
        plots=False,
    )
    return time.perf_counter() - start, outcome


def main() -> None:
    """Run both sides and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--dataset", default="cpf-cora")
    options = parser.parse_args()
    root = data.data_root()
    search = asked(options.dataset, options.trials, options.epochs)
    kernels.set_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        places = [Place(Path(temporary) / name, root) for name in ("one", "all", "tracked")]
        warm_up(places[0])
        cells = sample_cells(search, searches(search, root))
        exams = [load_exam(next(c for c in cells if c.split_seed == s), places[0]) for s in SEEDS]
        plain, best = plain_search(exams, options.trials, options.epochs)
        cores = engine.cores()
        runs = [("one process", 1, False), (f"{cores} cores", cores, False)]
        runs.append((f"{cores} cores, tracked in MLflow", cores, True))
        work = f"{options.trials} trials of {len(SEEDS)} seeds, {options.epochs} epochs a fit"
        _tell(f"{options.dataset}: {work}; plain: {plain:.1f} s, best val {100 * best:.2f} %")
        for place, (name, jobs, track) in zip(places, runs, strict=True):
            seconds, outcome = our_search(search, place, jobs, track=track)
            each = 1e3 * outcome.driver_seconds / outcome.trials
            found = 100 * outcome.found[0].val_accuracy
            _tell(f"  {name}: ratio {plain / seconds:.1f}, best val {found:.2f} %, "
                  f"driver {each:.1f} ms a trial")  # fmt: skip


def _tell(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
