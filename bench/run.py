"""run(cell) -> Row: the only place where data, protocol, teacher, student and metrics meet."""

import contextlib
import datetime
import functools
import json
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import cost, encodings, fused, kernels, registry, sparse
from bench.cell import Cell, from_data
from bench.data import dataset_checksum
from bench.encodings import Encoding
from bench.graph import Dataset, Graph, Task, TeacherOutput
from bench.hparams import derive_seed
from bench.kept import Recent
from bench.method import DivergedError, FitLog, Method
from bench.place import Place
from bench.protocol import Exam, examine
from bench.provenance import device_name, provenance
from bench.results import CorruptError, Row
from bench.score import deployed_graph, evaluate
from bench.train import Listener, StoppedError, heard, rehearse, seeded


class TeacherMissingError(Exception):
    """The teacher of a student could not be had; the message says why."""


def run(cell: Cell, place: Place, listener: Listener | None = None) -> Row:
    """Answer a cell: return its row from the store, or fit, score and store it.

    What goes wrong with the data, the teacher or the method becomes the row's status and reason;
    what gets out is an interrupt, a listener's stop, and a store that cannot be read or written.

    Args:
        cell: what to answer.
        place: folders and threads.
        listener: hears the validation scores of the cell's own fit (not of its teacher's), and
            ends it by answering False.

    Raises:
        StoppedError: the listener ended the fit; nothing is written.
    """
    done = place.store.read_or_set_aside(cell.key)
    if done is not None and done.done:
        return done
    kernels.set_threads(place.threads)
    role, choice = ("student", cell.student) if cell.student else ("teacher", cell.teacher)
    assert choice is not None
    started, clock = _now()
    with place.store.draft(cell.key) as draft:
        row = Row(cell.key, cell.describe(), "ok")
        teacher = cell.teacher_cell
        row.teacher_key = teacher.key if teacher else ""
        try:
            _warm_method(role, choice.name)
            started, clock = _now()  # compiling is not the cell's own time
            _answer(cell, place, row, draft, listener)
        except StoppedError as stop:
            stop.seconds = row.seconds["train"]
            raise
        except DivergedError as error:
            row.status, row.reason = "diverged", str(error)
        except TeacherMissingError as error:
            row.status, row.reason = "failed", str(error)
        except (Exception, SystemExit) as error:  # an outside method may call sys.exit
            row.status, row.reason = "failed", f"{type(error).__name__}: {error}"
            (draft / "traceback.txt").write_text(traceback.format_exc())
        row.ran = {
            **provenance(),
            "threads": place.threads,
            "device_name": device_name(cell.device),
            "started": started.isoformat(timespec="milliseconds"),
            "seconds": time.perf_counter() - clock,
        }
        return place.store.write(row, draft)


def _now() -> tuple[datetime.datetime, float]:
    return datetime.datetime.now(datetime.UTC), time.perf_counter()


@functools.cache
def _warm_method(role: str, name: str) -> None:
    registry.load_method(role, name).warm_up()


def record_failure(cell: Cell, place: Place, status: str, reason: str) -> Row:
    """Store a row for a cell that could not run to its end (its worker died, or took too long)."""
    teacher = cell.teacher_cell
    row = Row(cell.key, cell.describe(), status, reason, teacher_key=teacher.key if teacher else "")
    now = datetime.datetime.now(datetime.UTC)
    row.ran = {**provenance(), "started": now.isoformat(timespec="milliseconds"), "seconds": 0.0}
    with place.store.draft(cell.key) as draft:
        return place.store.write(row, draft)


def _answer(
    cell: Cell, place: Place, row: Row, draft: Path, listener: Listener | None = None
) -> None:
    """Fill in `row` and `draft`."""
    role, choice = ("student", cell.student) if cell.student else ("teacher", cell.teacher)
    assert choice is not None
    with _timing(row, "load"):
        exam = _load_exam(cell.protocol, cell.split_seed, place.data)
    exam, row.seconds["encode"] = _shown(exam, cell, place)
    with _timing(row, "teacher"):
        teacher = load_teacher(cell, place) if cell.student else None
    own_seed = derive_seed(cell.seed, role)
    task = exam.task(own_seed, teacher, cell.device)
    method = build(role, choice.name, dict(choice.config), task).to(cell.device)
    if reason := method.supports(cell.protocol.setting):
        row.status, row.reason = "skipped", reason
        return
    rehearse(method, task)
    with cost.peak_memory(cell.device) as memory, _timing(row, "train"), heard(listener):
        log = method.fit(task)
    with _timing(row, "evaluate"):
        evaluate(cell, place.store, row, draft, exam, method)
    if cell.evaluate_test or place.macs:
        with _timing(row, "count"), contextlib.suppress(Exception):  # `measure` says what is wrong
            row.cost = _counted(method, exam, cell.device)
    epochs = {"epochs": len(log.history["epoch"]), "best_epoch": log.best_epoch}
    row.fit = {**epochs, **memory, **log.numbers}
    row.seconds.update({f"fit_{phase}": value for phase, value in log.seconds.items()})
    _save(draft, log, method, exam if role == "teacher" else None, cell.device)


@contextlib.contextmanager
def _timing(row: Row, phase: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:  # what fails or is stopped was paid for as well
        row.seconds[phase] = time.perf_counter() - start


# ---- the parts of a cell, also for notebooks ------------------------------------------------


@functools.lru_cache(maxsize=4)
def load_dataset(name: str, checksum: str, root: Path) -> Dataset:
    """Load a dataset once a process; the checksum keeps a changed file from passing for it.

    Raises:
        ValueError: the content on disk has another checksum.
    """
    module = registry.dataset_module(name)
    if dataset_checksum(module, name, root) != checksum:
        raise ValueError(
            f"dataset '{name}' is not the one this cell was planned for (its content changed); "
            "put it back, or plan anew with `gkdbench run`"
        )
    dataset: Dataset = module.load(name, root)
    return dataset


_exams: Recent[Exam] = Recent(count=32, size=2**31)


def _load_exam(protocol: Any, split_seed: int, root: Path) -> Exam:
    def make() -> Exam:
        dataset = load_dataset(protocol.dataset, protocol.checksum, root)
        return examine(dataset, protocol, split_seed)

    return _exams.get((protocol, split_seed, root), make)


def load_exam(cell: Cell, place: Place) -> Exam:
    """Load and split the data of a cell, once a process and split seed, as its method sees it.

    A teacher is given the labels that it is taught by; a student that asks for positional
    encodings finds them as `graph.extra`.
    """
    return _shown(_load_exam(cell.protocol, cell.split_seed, place.data), cell, place)[0]


def _shown(exam: Exam, cell: Cell, place: Place) -> tuple[Exam, float]:
    """Return the exam as the cell's method sees it, and the seconds its encodings once took."""
    if cell.student is None:
        return exam.for_teacher(), 0.0
    encoding = Encoding.of_config(cell.student.config, derive_seed(cell.seed, "encoding"))
    if encoding is None:
        return exam, 0.0
    encoded, seconds = encodings.encode(encoding, exam.seen.adj, place.results / "encodings")
    return exam.with_extra(encodings.spread(encoded, exam.graph.adj, exam.observed)), seconds


def build(role: str, name: str, config: dict[str, Any], task: Task) -> Method:
    """Make an untrained method for a task, drawn with the task's seed."""
    sizes = (_inputs(task.graph), task.graph.num_classes, task.num_nodes)
    with seeded(task.seed, "init"):
        return registry.build(role, name, config, sizes)


def _inputs(graph: Graph) -> int:
    return graph.num_features + (0 if graph.extra is None else graph.extra.shape[1])


def load_teacher(cell: Cell, place: Place) -> TeacherOutput | None:
    """Load the outputs of a student's teacher; train it first where they are not there.

    Raises:
        TeacherMissingError: the teacher failed.
    """
    teacher = cell.teacher_cell
    if teacher is None:
        return None
    row = place.store.read_or_set_aside(teacher.key) or run(teacher, place)
    try:
        logits = _teacher_logits(row, place)
    except CorruptError as error:
        place.store.set_aside(teacher.key, str(error))  # and train it again
        logits = _teacher_logits(run(teacher, place), place)
    return TeacherOutput(
        torch.from_numpy(logits).to(cell.device),
        lambda: load_model(teacher, place),
        lambda: _hidden(teacher, place),
    )


def _teacher_logits(row: Row, place: Place) -> np.ndarray:
    """Read the logits of a teacher, with a look at all that its students will need."""
    if row.status != "ok":
        label = row.cell["teacher"]["label"]
        raise TeacherMissingError(f"its teacher {label} {row.status}: {row.reason}")
    for name in row.artefacts:
        place.store.artefact(row, name)
    return np.asarray(np.load(place.store.folder(row.key) / "logits.npy"))


def load_model(cell: Cell, place: Place) -> Method:
    """Rebuild a fitted method from its stored weights, in eval mode.

    Raises:
        CorruptError: the weights are missing or changed.
    """
    row = place.store.read(cell.key)
    if row is None or row.status != "ok":
        raise CorruptError(f"cell {cell.key} has no finished fit")
    path = place.store.artefact(row, "weights.pt")
    state = torch.load(path, map_location=cell.device, weights_only=True)
    role, choice = ("student", cell.student) if cell.student else ("teacher", cell.teacher)
    assert choice is not None
    task = load_exam(cell, place).task(0, None, cell.device)
    method = build(role, choice.name, dict(choice.config), task).to(cell.device)
    method.load_state_dict(state)
    return method.eval()


@torch.no_grad()
def _hidden(teacher: Cell, place: Place) -> Tensor:
    seen = load_exam(teacher, place).seen.to(teacher.device)
    return load_model(teacher, place).inference(seen).hidden


# ---- artefacts ------------------------------------------------------------------------------


def _save(draft: Path, log: FitLog, method: Method, exam: Exam | None, device: str) -> None:
    """Write the artefacts of a fit; `exam` is given for a teacher, whose outputs are distilled."""
    (draft / "history.json").write_text(json.dumps(log.history))
    torch.save(method.state_dict(), draft / "weights.pt")
    if exam is not None:
        with torch.no_grad():
            logits = method.inference(exam.seen.to(device)).logits
        np.save(draft / "logits.npy", logits.cpu().numpy())


# ---- cost: MACs and bytes are counted with the fit, latency is measured later and alone ------


def _counted(method: Method, exam: Exam, device: str) -> dict[str, dict[str, float]]:
    """Count the MACs and the memory of what a method deploys, by variant."""
    found = {}
    for variant, model in method.deploy().items():
        graph = deployed_graph(model.eval(), exam, device)
        found[variant] = {**cost.macs(model, graph), **cost.inference_memory(model, graph)}
    return found


def measure(row: Row, place: Place, *, timed: bool = True) -> dict[str, dict[str, float]]:
    """Measure a finished cell's variants from the stored weights, and store that beside its row.

    MACs and memory are counted unless they were with the fit; latency and energy are measured
    where `timed`. An earlier timing stays.
    """
    cell = from_data(row.cell)
    exam = load_exam(cell, place)
    method = load_model(cell, place)
    counted = row.cost if row.cost else _counted(method, exam, cell.device)
    found = {variant: dict(numbers) for variant, numbers in counted.items()}
    for variant, model in method.deploy().items() if timed else ():
        graph = deployed_graph(model.eval(), exam, cell.device)
        found[variant].update(cost.latency(model, graph), cost_threads=float(place.threads))
    place.store.write_cost(row.key, found)
    return found


def warm_up(place: Place) -> None:
    """Get a process ready, so that no measured fit pays for it."""
    kernels.set_threads(place.threads)
    sparse.warm_up()
    fused.warm_up()
