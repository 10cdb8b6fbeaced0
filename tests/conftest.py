"""What all tests share: processes, one thread each, compiled kernels, and the real data."""

import contextlib
import functools
import gc
import os
import sqlite3
import sys
import warnings
from pathlib import Path

import pytest
from filelock import FileLock

MOST_WORKERS = 4  # each imports torch and holds most of a gigabyte
HERE = Path(__file__).parent


# ---- processes ------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Share the tests out over the cores where all of them are asked for.

    Some files, `-k`, `-s`, `--pdb` and `-n 0` stay in this process: workers take seconds to start.
    A worker gets a run of neighbouring tests, and when it is done half of what the other still has
    ("worksteal"): so what a module's tests share is made once, seldom twice.
    """
    option = config.option
    if getattr(option, "numprocesses", 0) is not None or hasattr(config, "workerinput"):
        return  # no pytest-xdist, a number that was given, or a worker
    everything = all(Path(argument).resolve() in (HERE, HERE.parent) for argument in config.args)
    looking = option.keyword or option.usepdb or option.trace or option.capture == "no"
    count = min(MOST_WORKERS, _cores())
    if everything and not looking and count > 1:
        option.numprocesses, option.dist = count, "worksteal"


def pytest_collection_finish():
    """Spare the garbage collector what was imported: statsmodels calls it for every table."""
    gc.collect()
    gc.freeze()


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@pytest.fixture(scope="session", autouse=True)
def _compiled():
    """Compile the kernels before the first test, on one thread; only where a test imports them.

    Of two workers that find nothing compiled, each compiles one module and loads the other.
    """
    if "bench.sparse" not in sys.modules:
        return
    from bench import kernels

    kernels.set_threads(1)
    folder = Path(os.environ["NUMBA_CACHE_DIR"] or kernels.cache_folder())
    folder.mkdir(parents=True, exist_ok=True)
    names = ["bench.sparse", "bench.mixture"]
    if os.environ.get("PYTEST_XDIST_WORKER") == "gw1":
        names.reverse()
    for name in names:
        if name in sys.modules:
            with FileLock(folder / f"{name}.lock"):
                sys.modules[name].warm_up()


@pytest.fixture(scope="session", autouse=True)
def _hasty_databases():
    """MLflow's databases do not wait for the disk, which takes most of the time on a slow one."""
    connect = sqlite3.dbapi2.connect

    def hasty(*args, **kwargs):
        connection = connect(*args, **kwargs)
        with contextlib.suppress(sqlite3.Error):  # it may be no database: the test will see
            connection.execute("PRAGMA synchronous = OFF")
        return connection

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3.dbapi2, "connect", hasty)
        yield


# ---- what a test may ask for ----------------------------------------------------------------


@pytest.fixture(scope="module")
def hurried():
    """Figures are composed but not drawn, and latencies sampled for a moment.

    For modules whose tests look at neither: drawing is most of the time of a short sweep.
    """
    from matplotlib.figure import Figure

    from bench import cost

    def empty(_, path, **__):
        Path(path).write_text('<svg width="9pt" height="9pt"/>')

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", empty)
        patch.setattr(cost, "latency", functools.partial(cost.latency, seconds=0.01))
        yield


@pytest.fixture(autouse=True)
def _needs_data(request):
    if request.node.get_closest_marker("needs_data") and not os.environ.get("GKDBENCH_DATA"):
        pytest.skip("needs real files: set $GKDBENCH_DATA")


@pytest.fixture
def threads():
    """`kernels.set_threads`, undone after the test."""
    from bench import kernels

    before = kernels.threads()
    yield kernels.set_threads
    kernels.set_threads(before)


@pytest.fixture(scope="session")
def real():
    """A function that loads a real dataset by name, or skips the test."""
    from bench import registry

    def load(name: str):
        root = Path(os.environ.get("GKDBENCH_DATA") or "/nowhere").absolute()
        module = registry.dataset_module(name)
        missing = [path for path in module.files(name, root) if not path.is_file()]
        if missing:
            pytest.skip(f"needs {missing[0]}: set $GKDBENCH_DATA")
        return module.load(name, root)

    return load


@pytest.fixture(scope="session")
def pyg():
    """PyG's layers: the second opinion on ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses what torch deprecates
        import torch_geometric.nn
    return torch_geometric.nn
