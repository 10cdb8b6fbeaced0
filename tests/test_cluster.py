"""A scheduler and two workers of Dask, each a process of its own."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import pytest

import bench
from bench import cluster as cluster_module
from bench import cluster_client, cluster_worker
from bench.cluster_worker import Answer, Order
from bench.engine import Plan, Report, Stopped, open_engine, run_cells
from bench.results import CorruptError
from bench.run import Place, record_failure
from tests import hunts, outside
from tests.cells import cell_of, cells_of, drained, result

pytest.importorskip("distributed", reason="needs distributed: pip install 'gkdbench[cluster]'")

pytestmark = pytest.mark.xdist_group("cluster")


@dataclass
class Cluster:
    """Commands of Dask, as a user would start them."""

    folder: Path
    address: str
    scheduler: subprocess.Popen | None = None
    workers: list[subprocess.Popen] = field(default_factory=list)

    def start(self, command: str, *options: str) -> subprocess.Popen:
        """Start `dask <command>` in the cluster's folder."""
        home = Path(bench.__file__).parent.parent
        path = os.pathsep.join(filter(None, (str(home), os.environ.get("PYTHONPATH"))))
        program = [sys.executable, "-m", f"distributed.cli.dask_{command}", "--no-dashboard"]
        with (self.folder / "log.txt").open("a") as log:
            return subprocess.Popen(
                [*program, *options],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": path},
                stdout=log,
                stderr=log,
            )

    def start_scheduler(self) -> None:
        host, port = self.address.removeprefix("tcp://").split(":")
        self.scheduler = self.start("scheduler", "--host", host, "--port", port)

    def start_worker(self, *options: str) -> None:
        place = ("--local-directory", str(self.folder / f"worker{len(self.workers)}"))
        worker = self.start("worker", self.address, "--nthreads", "1", *place, *options)
        self.workers.append(worker)

    def close(self) -> None:
        for process in filter(None, [*self.workers, self.scheduler]):
            with contextlib.suppress(psutil.NoSuchProcess):
                for kid in psutil.Process(process.pid).children(recursive=True):
                    kid.kill()
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    folder = tmp_path_factory.mktemp("cluster")
    with outside.installed(folder):
        found = Cluster(folder, address)
        try:
            found.start_scheduler()
            found.start_worker("--no-nanny")
            found.start_worker()  # under a nanny: a process that may not have children
            yield found
        finally:
            found.close()


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "results", tmp_path)


@pytest.fixture(scope="module")
def cells():
    return cells_of("teachers=gcn", "students=mlp,glnn,fail", "seeds=0-2")


@pytest.fixture(scope="module")
def alone(cells, cluster, tmp_path_factory):
    """The rows of the cells as this process answers them."""
    folder = tmp_path_factory.mktemp("alone")
    return result(run_cells(cells, Place(folder, folder), Plan(1, 1)))


def on(cluster, place, timeout=None):
    return open_engine(place, Plan(1, 1, timeout), kind="dask", scheduler=cluster.address)


@pytest.mark.slow
def test_without_a_shared_folder_rows_and_teachers_travel(cluster, place, cells, alone):
    with on(cluster, place) as runner:
        runner.token.unlink()  # no worker sees the driver's folder now
        for cell in cells:
            runner.submit(cell)
        rows = drained(runner)
        seen = {folder.name for folder in cluster.folder.glob("worker*/**/cells/*")}
    assert result(rows) == alone
    assert result(map(place.store.read, place.store.keys())) == alone
    for key in place.store.keys():  # noqa: SIM118
        row = place.store.read(key)
        assert all(place.store.artefact(row, name) for name in row.artefacts)
    assert seen == {cell.key for cell in cells if cell.student is None}


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False], ids=["shared folder", "none"])
def test_a_search_on_a_cluster_that_loses_a_worker_is_the_search_here(
    cluster, tmp_path, monkeypatch, shared
):
    space = {"glnn": {**hunts.ONE, "max_epochs": [10, 20, 40]}}
    sweep = hunts.asked(trials=6, seeds=[100, 101], pruner="median", space=space)
    here = hunts.essence(hunts.hunt(tmp_path / "here", sweep))

    def kill_one(items, total, title):
        for count, item in enumerate(items):
            yield item
            if count == 1:  # its nanny starts another
                for kid in psutil.Process(cluster.workers[1].pid).children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        kid.kill()

    touch = Path.touch
    hides = lambda path: not shared and path.name.startswith(".gkdbench")  # noqa: E731
    monkeypatch.setattr(Path, "touch", lambda path, **k: None if hides(path) else touch(path, **k))
    where = {"kind": "dask", "scheduler": cluster.address}
    there = hunts.hunt(tmp_path / "there", sweep, progress=kill_one, **where)
    assert hunts.essence(there) == here
    assert there.warnings == []


@pytest.mark.slow
def test_a_killed_worker_costs_only_what_it_was_running(cluster, place, cells, alone):
    with on(cluster, place, timeout=60.0) as runner:
        for cell in cells:
            runner.submit(cell)
        rows = runner.events()
        assert rows
        kids = psutil.Process(cluster.workers[0].pid).children(recursive=True)
        cluster.workers[0].kill()
        rows += drained(runner)
    assert psutil.wait_procs(kids, timeout=10)[1] == []
    assert result(rows) == alone
    assert len(rows) == len(alone)
    assert result(map(place.store.read, place.store.keys())) == alone
    assert [p.name for p in place.results.iterdir() if p.name.startswith(".gkdbench")] == []


@pytest.mark.slow
def test_fits_report_and_stop_across_the_cluster(cluster, place):
    long = ["mlp.max_epochs=100000", "mlp.patience=100000"]
    cells = {s: cell_of("students=mlp", *long, f"seeds={s}") for s in range(4)}
    short = cell_of("students=mlp", "mlp.max_epochs=20", "mlp.patience=20")
    with on(cluster, place) as runner:
        runner.submit(short, reports=True)
        *reports, row = drained(runner)
        curve = place.store.history(short.key)["val_accuracy"]
        assert reports == [Report(short.key, e, curve[e]) for e in (4, 9, 14, 19)]
        assert row.status == "ok"
        assert runner.slots == 1  # of the worker that is left
        runner.submit(cell_of("students=mlp", "device=cuda"))
        with pytest.raises(ValueError, match="no worker of the cluster offers a GPU; start one wi"):
            runner.events()
    with on(cluster, place) as runner:
        runner.submit(cells[0], decide=lambda report: report.epoch < 30)
        runner.submit(cells[1], reports=True)
        runner.submit(cells[2])
        runner.submit(cells[3])
        while not any(isinstance(e, Report) for e in runner.events()):
            pass
        for seed in (3, 2, 1):
            runner.stop(cells[seed].key)
        over = {e for e in drained(runner) if not isinstance(e, Report)}
    assert max(event.seconds for event in over) > 0
    assert over | {Stopped(cells[0].key)} == {Stopped(cell.key) for cell in cells.values()}
    assert place.store.keys() == [short.key]


@pytest.mark.slow
def test_a_scheduler_that_is_gone_ends_the_run_and_the_same_cells_go_on(
    cluster, place, cells, alone, monkeypatch
):
    with pytest.raises(ConnectionError) as caught, on(cluster, place) as runner:  # noqa: PT012
        for cell in cells:
            runner.submit(cell)
        kept = [row.key for row in runner.events()]
        cluster.scheduler.kill()
        cluster.scheduler.wait()
        drained(runner)
    assert str(caught.value) == (
        f"the Dask scheduler at {cluster.address} is gone; what is finished is kept: start it "
        "again, and the same command goes on from there"
    )
    with monkeypatch.context() as patch:
        patch.setattr(cluster_client, "CONNECT_SECONDS", 0.1)
        with pytest.raises(ConnectionError, match="no Dask scheduler answers at tcp://127"):
            on(cluster, place)
    started = {key: place.store.read(key).ran["started"] for key in kept}
    cluster.start_scheduler()
    cluster.start_worker("--no-nanny")
    where = {"kind": "dask", "scheduler": cluster.address}
    rows = list(run_cells(cells, place, Plan(1, 1), **where))
    assert result(rows) == alone
    assert {key: place.store.read(key).ran["started"] for key in kept} == started


# ---- without a cluster ----------------------------------------------------------------------


@pytest.mark.parametrize("text", ["foo", "tcp://foo", "http://foo:80", "tcp://foo:bar", ":8786"])
def test_what_is_no_address_is_refused(place, text):
    with pytest.raises(ValueError, match=f"'{text}' is no address of a Dask scheduler; write tcp"):
        open_engine(place, Plan(1, 1), kind="dask", scheduler=text)


def test_a_scheduler_file_names_the_address(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_client, "CONNECT_SECONDS", 0.1)
    file = tmp_path / "scheduler.json"
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        file.write_text(json.dumps({"address": address}))
        assert cluster_client._address(str(file)) == address
    with pytest.raises(ConnectionError, match=f"no Dask scheduler answers at {file}; start one"):
        cluster_client.connect(str(file))


class FakeFuture:
    def __init__(self, order):
        self.order, self.status, self.outcome = order, "pending", None

    def add_done_callback(self, callback):
        self.callback = callback

    def end(self, status, outcome=None):
        self.status, self.outcome = status, outcome
        self.callback(self)

    def result(self):
        return self.outcome

    exception = result

    def cancel(self):
        self.status = "cancelled"


class FakeClient:
    """What the driver asks of Dask, written down."""

    def __init__(self):
        self.status, self.sent, self.ran, self.topics = "running", [], [], {}

    def subscribe_topic(self, topic, handler):
        self.topics[topic] = handler

    def unsubscribe_topic(self, topic):
        del self.topics[topic]

    def submit(self, function, order, teacher, **options):
        self.sent.append(FakeFuture(order))
        return self.sent[-1]

    def tell(self, order, kind, *content):
        self.topics[order.engine]((0.0, (kind, order.task, *content)))

    def run(self, function, *arguments, **options):
        self.ran.append((function, arguments, options.get("workers")))

    def cancel(self, futures):
        pass

    def close(self, timeout):
        self.status = "closed"

    def nthreads(self):
        return {}


KilledWorker = type("KilledWorker", (Exception,), {})


@pytest.fixture
def fake(place, monkeypatch):
    """An engine on a client that does nothing, and that client."""
    client = FakeClient()
    monkeypatch.setattr(cluster_module, "connect", lambda scheduler: client)
    with open_engine(place, Plan(1, 1), kind="dask", scheduler="tcp://fake:1") as runner:
        yield runner, client


def test_a_cell_that_costs_three_workers_is_the_reason(fake, place):
    runner, client = fake
    cell = cell_of("students=mlp")
    runner.submit(cell)
    for losses in (0, 1, 2):  # it may have waited beside another's cell: it is sent again
        assert runner.events(timeout=0.0) == []
        future = client.sent[-1]
        for _ in range(losses):
            client.tell(future.order, "begun", "tcp://a:1")
        future.end("error", KilledWorker())
        (row,) = runner.events(timeout=0.0) or [None]
    assert len(client.sent) == 3
    assert row.reason == "its worker was lost 3 times, most likely for want of memory"
    assert place.store.read(cell.key).status == "failed"


def test_a_fit_that_runs_again_elsewhere_reports_each_score_once(fake):
    runner, client = fake
    cell = cell_of("students=mlp")
    runner.submit(cell, reports=True)
    assert runner.events(timeout=0.0) == []
    assert runner.waiting == 1
    (future,) = client.sent
    client.tell(future.order, "begun", "tcp://a:1")
    client.tell(future.order, "scores", 0, ((4, 0.1), (9, 0.2)))
    found = runner.events(timeout=0.0)
    assert runner.waiting == 0
    client.tell(future.order, "begun", "tcp://b:1")
    client.tell(future.order, "scores", 0, ((4, 0.1),))
    client.tell(future.order, "scores", 1, ((9, 0.2), (14, 0.3)))
    found += runner.events(timeout=0.0)
    runner.stop(cell.key)
    runner.stop(cell.key)
    client.tell(future.order, "begun", "tcp://c:1")  # lost again: the stop goes where it is now
    runner.events(timeout=0.0)
    stops = [(arguments, workers) for _, arguments, workers in client.ran]
    assert stops == [((future.order.task,), ["tcp://b:1"]), ((future.order.task,), ["tcp://c:1"])]
    scores = [(4, 0.1), (9, 0.2), (14, 0.3), (19, 0.4)]  # the last was lost on its way
    future.end("finished", Answer(None, None, scores))
    found += drained(runner, timeout=0.0)
    assert found == [*(Report(cell.key, *score) for score in scores), Stopped(cell.key)]


def test_an_answer_that_dask_lost_is_asked_for_again(fake):
    runner, client = fake
    cell = cell_of("students=mlp")
    runner.submit(cell)
    runner.events(timeout=0.0)
    client.sent[0].end("cancelled")
    for _ in range(2):
        assert runner.events(timeout=0.0) == []
    assert len(client.sent) == 2


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (OSError(28, "No space left on device"), OSError, "No space left on device"),
        (ModuleNotFoundError("No module named 'bench'"), ValueError, "the workers at tcp://fake"),
        (
            RuntimeError("Error during deserialization of the task graph. This ..."),
            ValueError,
            "the scheduler at tcp://fake:1 cannot read a cell; install gkdbench",
        ),
        (RuntimeError("a bug"), RuntimeError, "a bug"),
    ],
)
def test_an_error_outside_of_the_cells_ends_the_run(fake, error, kind, message):
    runner, client = fake
    runner.submit(cell_of("students=mlp"))
    runner.events(timeout=0.0)
    client.sent[0].end("error", error)
    with pytest.raises(kind, match=message):
        runner.events(timeout=0.0)


def test_a_cluster_without_workers_is_told_once(fake, caplog):
    runner, _ = fake
    runner.submit(cell_of("students=mlp"))
    for _ in range(2):
        runner._next_look = 0.0
        runner.events(timeout=0.0)
    assert caplog.messages == [
        "the cluster at tcp://fake:1 has no worker yet; cells wait until one comes"
    ]
    assert runner.slots == 1


def test_a_worker_that_cannot_answer_says_why(tmp_path):
    place = Place(tmp_path, tmp_path)
    order = Order("t", "e", "0.0.1", cell_of("students=mlp"), place, None, False, tmp_path, ())
    with pytest.raises(ValueError, match=r"has gkdbench .*, and this is 0\.0\.1; install the sa"):
        cluster_worker._check(order)
    order = replace(order, version=bench.__version__, data=(tmp_path / "cora.x",))
    with pytest.raises(FileNotFoundError, match=r"does not see .*cora\.x; give --data a folder th"):
        cluster_worker._check(order)


def test_a_teacher_that_failed_here_is_not_here(place, tmp_path):
    cell = cell_of("teachers=gcn", "students=mlp,glnn").teacher_cell
    (row,) = run_cells([cell], place, Plan(1, 1))
    there = Place(tmp_path / "there", tmp_path)
    assert not cluster_worker._is_here(there.store, cell.key)
    record_failure(cell, there, "failed", "its worker was ended by SIGKILL")
    assert not cluster_worker._is_here(there.store, cell.key)
    cluster_worker._keep(there.store, *cluster_worker.pack(place.store, row.key))
    assert there.store.read(cell.key) == place.store.read(cell.key)
    assert cluster_worker._is_here(there.store, cell.key)


def test_artefacts_that_change_on_their_way_are_refused(place, tmp_path):
    cell = cell_of("students=mlp")
    (row,) = run_cells([cell], place, Plan(1, 1))
    row, files = cluster_worker.pack(place.store, row.key)
    there = Place(tmp_path / "there", tmp_path).store
    assert cluster_worker.unpack(there, row, files) == place.store.read(cell.key)
    files["weights.pt"] += b" "
    with pytest.raises(CorruptError, match="changed on their way"):
        cluster_worker.unpack(there, row, files)
    assert there.read(cell.key) is None
