"""Tuning GLNN on Cora (32 trials of 3 seeds) against what a researcher would write first.

Both sides search the same five ranges with TPE, train the teachers once, and do the same Adam steps
for every trial and seed (a fixed number of epochs, one validation each, no pruning), one thread a
process. The plain side is PyG's message passing on an edge list, dense features, `torch.nn.Linear`
and `study.optimize`; it writes nothing. Ours stores every cell, and is tracked in MLflow in the
last line. Run it with

    python -m tests.benchmarks.speed_tune [--trials 32] [--epochs 100] [--dataset cpf-cora]

`cpf-cora` needs $GKDBENCH_DATA; `--dataset synthetic` needs nothing. With `--folder` it can be
interrupted and goes on with the same command: what is measured is kept there. The driver alone,
with fits of a moment and without the plain side:

    python -m tests.benchmarks.speed_tune --driver --trials 200
"""

import argparse
import contextlib
import functools
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from bench import data, engine, kernels, launch_tune, sweep
from bench.expand import searches
from bench.protocol import Exam
from bench.results import Store
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


def plain_search(exams: list[Exam], trials: int, epochs: int, journal: Path) -> tuple[float, float]:
    """Search as a researcher would; return the seconds and the best mean val accuracy."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    start = time.perf_counter()
    torch.manual_seed(0)
    teachers = [plain_teacher(exam, epochs) for exam in exams]
    taught = time.perf_counter() - start

    def objective(trial: Any) -> float:
        begun = time.perf_counter()
        params = {
            "lr": trial.suggest_float("lr", 1e-3, 0.05, log=True),
            "weight_decay": trial.suggest_categorical("weight_decay", DECAYS),
            "dropout": trial.suggest_float("dropout", 0.0, 0.8),
            "label_weight": trial.suggest_float("label_weight", 0.0, 0.6),
            "temperature": trial.suggest_float("temperature", 0.5, 4.0, log=True),
        }
        pairs = zip(exams, teachers, strict=True)
        mean = sum(plain_student(e, t, params, epochs) for e, t in pairs) / len(exams)
        trial.set_user_attr("seconds", time.perf_counter() - begun)
        return mean

    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(journal))),
        study_name="plain",
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=0),
        load_if_exists=True,
    )
    done = [t for t in study.trials if "seconds" in t.user_attrs]
    study.optimize(objective, n_trials=trials - len(done))
    found = [t for t in study.trials if "seconds" in t.user_attrs]
    return taught + sum(t.user_attrs["seconds"] for t in found), study.best_value


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


# ---- the driver -----------------------------------------------------------------------------


@contextlib.contextmanager
def timed(spent: dict[str, float], name: str, owner: Any, method: str) -> Any:
    """Add the seconds in a method, outermost calls only, to `spent[name]`."""
    real, inside = getattr(owner, method), []

    @functools.wraps(real)
    def measured(*args: Any, **kwargs: Any) -> Any:
        inside.append(time.perf_counter())
        try:
            return real(*args, **kwargs)
        finally:
            start = inside.pop()
            if not inside:
                spent[name] = spent.get(name, 0.0) + time.perf_counter() - start

    with mock.patch.object(owner, method, measured):
        yield


def imports() -> dict[str, float]:
    """Import Optuna and MLflow, make a study; return the seconds of each, paid once a process."""
    start = time.perf_counter()
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(n_startup_trials=1))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    middle = time.perf_counter()
    from mlflow.store.tracking import sqlalchemy_store  # noqa: F401
    from mlflow.tracking import MlflowClient  # noqa: F401

    return {"Optuna": middle - start, "MLflow": time.perf_counter() - middle}


def our_run(search: sweep.Sweep, place: Place, jobs: int, *, track: bool) -> dict[str, Any]:
    """Search with this package; return the seconds, the best, and the driver's ms a trial."""
    from bench.track_study import StudyTracker

    spent: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        for step in ("log_trials", "finish_studies", "log_files", "_open"):
            stack.enter_context(timed(spent, f"MLflow {step}", StudyTracker, step))
        stack.enter_context(timed(spent, "row", Store, "write"))  # in this process
        seconds, outcome = our_search(search, place, jobs, track=track)
    each = 1e3 / max(1, outcome.trials)
    return {
        "seconds": seconds,
        "best": outcome.found[0].val_accuracy,
        "driver": {k: each * v for k, v in outcome.driver.items()},
        "beside": {k: each * v for k, v in spent.items()},
    }


def tell_driver(found: dict[str, Any]) -> None:
    """Print what the driver took for a trial, and what goes on beside it."""
    parts = ", ".join(f"{k} {v:.1f}" for k, v in found["driver"].items())
    _tell(f"    driver {sum(found['driver'].values()):.1f} ms a trial ({parts})")
    if found["beside"]:
        beside = ", ".join(f"{k} {v:.1f}" for k, v in found["beside"].items())
        _tell(f"    beside it, ms a trial: {beside}")


def driver_alone(trials: int, folder: Path) -> None:
    """Print the driver's time with fits of a moment, in one process."""
    for name, seconds in imports().items():
        _tell(f"import of {name}: {seconds:.2f} s, once")
    search = asked("synthetic:nodes=200,degree=6,classes=3", trials, 2)
    kernels.set_threads(1)
    for name, track in (("not tracked", False), ("tracked in MLflow", True)):
        place = Place(folder / name.split()[0], data.data_root())
        warm_up(place)
        _tell(f"{trials} trials of {len(SEEDS)} seeds, {name}")
        tell_driver(our_run(search, place, 1, track=track))


def against_plain(search: sweep.Sweep, options: argparse.Namespace, folder: Path) -> None:
    """Print the ratios of both sides."""
    root = data.data_root()
    cells = sample_cells(search, searches(search, root))
    first = Place(folder / "one", root)
    warm_up(first)
    exams = [load_exam(next(c for c in cells if c.split_seed == s), first) for s in SEEDS]
    plain, best = kept(
        folder / "plain.json",
        lambda: plain_search(exams, options.trials, options.epochs, folder / "plain.log"),
    )
    cores = engine.cores()
    runs = [("one process", 1, False), (f"{cores} cores", cores, False)]
    runs.append((f"{cores} cores, tracked in MLflow", cores, True))
    work = f"{options.trials} trials of {len(SEEDS)} seeds, {options.epochs} epochs a fit"
    _tell(f"{options.dataset}: {work}; plain: {plain:.1f} s, best val {100 * best:.2f} %")
    for i, (name, jobs, track) in enumerate(runs):
        place = Place(folder / f"ours-{i}", root)
        measure = functools.partial(our_run, search, place, jobs, track=track)
        found = kept(folder / f"ours-{i}.json", measure)
        ratio, val = plain / found["seconds"], 100 * found["best"]
        _tell(f"  {name}: ratio {ratio:.1f}, best val {val:.2f} %")
        tell_driver(found)


def kept(path: Path, measure: Any) -> Any:
    """Return what was measured before, or measure it; a run in parts is measured anew."""
    if not path.is_file():
        for left in path.parent.glob(f"{path.stem}/*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        path.write_text(json.dumps(measure()))
    return json.loads(path.read_text())


def main() -> None:
    """Run both sides and print the ratios, or the driver alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--dataset", default="cpf-cora")
    parser.add_argument("--driver", action="store_true", help="the driver's time alone")
    parser.add_argument("--folder", type=Path, help="where to keep what is measured")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        if options.driver:
            driver_alone(options.trials, folder)
            return
        kernels.set_threads(1)
        search = asked(options.dataset, options.trials, options.epochs)
        against_plain(search, options, folder)


def _tell(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
