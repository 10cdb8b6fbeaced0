"""A scheduler and two workers of Dask, each a process of its own."""

import contextlib
import os
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

import bench
from bench.engine import Plan, Report, Stopped, open_engine, run_cells
from bench.run import Place
from tests import outside
from tests.cells import cell_of, cells_of, drained, result

pytest.importorskip("distributed", reason="needs distributed: pip install 'gkdbench[cluster]'")

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cluster")]


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

    def start_worker(self) -> None:
        place = self.folder / f"worker{len(self.workers)}"
        options = ("--nthreads", "1", "--local-directory", str(place))
        self.workers.append(self.start("worker", self.address, *options))

    def close(self) -> None:
        for process in filter(None, [*self.workers, self.scheduler]):
            family = [process]
            with contextlib.suppress(psutil.NoSuchProcess):
                family += psutil.Process(process.pid).children(recursive=True)
            for member in reversed(family):
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
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
            found.start_worker()
            found.start_worker()
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


def test_a_killed_worker_costs_only_what_it_was_running(cluster, place, cells, alone):
    with on(cluster, place, timeout=60.0) as runner:
        for cell in cells:
            runner.submit(cell)
        rows = runner.events()
        assert rows
        victim = cluster.workers.pop(0)
        for process in [*psutil.Process(victim.pid).children(recursive=True), victim]:
            process.kill()
        victim.wait()
        cluster.start_worker()
        rows += drained(runner)
    assert result(rows) == alone
    assert len(rows) == len(alone)
    assert result(map(place.store.read, place.store.keys())) == alone
    assert [p.name for p in place.results.iterdir() if p.name.startswith(".gkdbench")] == []


def test_without_a_shared_folder_rows_and_teachers_travel(cluster, place, cells, alone):
    seen = set()
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
        assert runner.slots == 2
        runner.submit(cells[0], decide=lambda report: report.epoch < 30)
        runner.submit(cells[1], reports=True)
        runner.submit(cells[2])
        runner.submit(cells[3])
        while not any(isinstance(e, Report) for e in runner.events()):
            pass
        for seed in (3, 2, 1):
            runner.stop(cells[seed].key)
        over = {e for e in drained(runner) if not isinstance(e, Report)}
    assert over | {Stopped(cells[0].key)} == {Stopped(cell.key) for cell in cells.values()}
    assert place.store.keys() == [short.key]


def test_a_scheduler_that_is_gone_ends_the_run_and_the_same_cells_go_on(
    cluster, place, cells, alone
):
    with pytest.raises(ConnectionError) as caught, on(cluster, place) as runner:  # noqa: PT012
        for cell in cells:
            runner.submit(cell)
        kept = [row.key for row in runner.events()]
        cluster.scheduler.kill()
        drained(runner)
    assert str(caught.value) == (
        f"the Dask scheduler at {cluster.address} is gone; what is finished is kept: start it "
        "again, and the same command goes on from there"
    )
    started = {key: place.store.read(key).ran["started"] for key in kept}
    rows = list(run_cells(cells, place, Plan(1, 1)))
    assert result(rows) == alone
    assert {key: place.store.read(key).ran["started"] for key in kept} == started
