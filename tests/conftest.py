"""What all tests share: one thread, compiled kernels, and the real data where there is some."""

import os
import sys
import warnings
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def _compiled():
    """Compile the kernels before the first test, on one thread; only where a test imports them."""
    if "bench.sparse" in sys.modules:
        from bench import kernels, sparse

        kernels.set_threads(1)
        sparse.warm_up()


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
