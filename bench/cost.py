"""What a model costs: parameters, MACs with real sparsity, latency, memory, energy.

Conventions. A MAC is one multiply-accumulate; biases and element-wise work are not counted. Sparse
products count their stored entries. "Whole graph" is one inference of all nodes; "one node" is a
request for a single node and includes gathering the neighbourhood that the model reads: all of it
for a GNN, nothing for an MLP. Latency is wall time after warm-up: median and quartiles, on the
threads that the row states, with nothing else of ours running.
"""

import contextlib
import ctypes
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import quantiles
from typing import Any, ClassVar

import numpy as np
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from bench.graph import Graph
from bench.hparams import derive_seed
from bench.method import Method
from bench.sparse import counting

NODES_TIMED = 64  # requests of one node that are timed, the same nodes for every model of a graph


# ---- MACs -----------------------------------------------------------------------------------


class _DenseProducts(TorchDispatchMode):
    """Add up the FLOPs of dense products as torch's FlopCounterMode does, operation by operation.

    Without its tables by module, which take most of the time of a request of one node.
    """

    whole: ClassVar[set[Any]] = set()  # operations that are known not to be made of others

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing here is compiled: without this, torch imports its compiler, for two seconds."""
        return False

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in self.whole:
            count = flop_registry.get(func.overloadpacket)
            if count is None:
                with self:  # in inference mode composed operations arrive here as one
                    made = func.decompose(*args, **kwargs)
                if made is not NotImplemented:
                    return made
                self.whole.add(func)
            else:
                out = func(*args, **kwargs)
                self.flops += count(*args, **kwargs, out_val=out)
                return out
        return func(*args, **kwargs)


def count_macs(call: Callable[[], Any]) -> int:
    """Count the multiply-accumulates of what `call` runs: dense products and sparse ones."""
    with torch.no_grad(), counting() as sparse, _DenseProducts() as dense:
        call()
    return sparse.macs + dense.flops // 2


def macs(model: Method, graph: Graph) -> dict[str, float]:
    """Return `macs` of the whole graph and `macs_node`, the mean over requests of one node."""
    nodes = _requests(graph)
    single = count_macs(lambda: [model(graph, node) for node in nodes])
    whole = count_macs(lambda: model.inference(graph))
    return {"macs": float(whole), "macs_node": single / len(nodes)}


def _requests(graph: Graph) -> list[torch.Tensor]:
    """Draw the nodes whose single requests are measured, one int64 [1] tensor each."""
    rng = np.random.default_rng(derive_seed(0, "requests"))
    size = min(NODES_TIMED, graph.num_nodes)
    chosen = rng.choice(graph.num_nodes, size, replace=False)
    return list(torch.from_numpy(chosen).to(graph.adj.device).split(1))


# ---- latency and energy ---------------------------------------------------------------------


def latency(model: Method, graph: Graph, seconds: float = 0.25) -> dict[str, float]:
    """Time a model on the whole graph and on single nodes, about `seconds` each.

    Units: milliseconds; `_q1` and `_q3` are the quartiles of the runs. `energy_joules` (of one
    inference of the whole graph, machine-wide) is there where the machine has a counter we may
    read.
    """
    nodes = _requests(graph)
    turn = iter(range(10**9))
    with torch.no_grad():
        whole, joules = _timed(lambda: model.inference(graph), seconds, graph)
        one, _ = _timed(lambda: model(graph, nodes[next(turn) % len(nodes)]), seconds, graph)
    found = {**_spread("latency", whole), **_spread("latency_node", one)}
    return found if joules is None else {**found, "energy_joules": joules}


def _timed(
    call: Callable[[], Any], seconds: float, graph: Graph
) -> tuple[list[float], float | None]:
    """Run `call` at least 10 times after warming up; return each time and the joules of a run."""
    synchronise = torch.cuda.synchronize if graph.adj.device.type == "cuda" else lambda: None
    for _ in range(3):
        call()
    synchronise()
    times: list[float] = []
    before = read_energy()
    deadline = time.perf_counter() + seconds
    while len(times) < 10 or (time.perf_counter() < deadline and len(times) < 1000):
        start = time.perf_counter()
        call()
        synchronise()
        times.append(time.perf_counter() - start)
    after = read_energy()
    joules = None if before is None or after is None else (after - before) / len(times)
    return times, joules if joules is None or joules >= 0 else None  # the counter wraps


def _spread(name: str, times: list[float]) -> dict[str, float]:
    low, middle, high = (1e3 * q for q in quantiles(times, n=4, method="inclusive"))
    return {f"{name}_ms": middle, f"{name}_q1_ms": low, f"{name}_q3_ms": high}


def read_energy(root: str | Path = "/sys/class/powercap") -> float | None:
    """Return the joules used by all CPU packages so far (RAPL), or None where none can be read."""
    total = 0.0
    found = False
    for counter in Path(root).glob("intel-rapl:*/energy_uj"):
        if counter.parent.name.count(":") != 1:  # the parts of a package are inside its count
            continue
        with contextlib.suppress(OSError, ValueError):
            total += int(counter.read_text()) / 1e6
            found = True
    return total if found else None


# ---- memory ---------------------------------------------------------------------------------


@contextlib.contextmanager
def peak_memory(device: str = "cpu") -> Iterator[dict[str, float]]:
    """Measure the memory a block adds at its peak to what was there before: `peak_memory_mib`.

    On a GPU it is what torch allocated; on Linux the resident set, with freed memory handed back to
    the system first and the kernel's high-water mark reset. Elsewhere it is NaN.
    """
    found: dict[str, float] = {"peak_memory_mib": math.nan}
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield found
        found["peak_memory_mib"] = (torch.cuda.max_memory_allocated() - before) / 2**20
        return
    start = _reset_high_water() if sys.platform == "linux" else None
    yield found
    peak = _status_mib("VmHWM")
    if start is not None and peak is not None:
        found["peak_memory_mib"] = max(0.0, peak - start)


class _LiveTensors(TorchDispatchMode):
    """Follow the bytes of the tensors that a block makes: those alive now, and at the peak.

    What was there before (weights, the graph) and its views are not among them, nor is what an
    operation keeps to itself until it returns.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._before: dict[int, StorageWeakRef] = {}  # by storage; the reference keeps its number
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # as above

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        for storage in _storages((args, kwargs)):
            if storage._cdata not in self._made:
                self._before.setdefault(storage._cdata, StorageWeakRef(storage))
        out = func(*args, **(kwargs or {}))
        for storage in _storages(out):
            if storage._cdata not in self._before:
                self._made[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self._made = {k: v for k, v in self._made.items() if not v[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._made.values()))
        return out


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [x.untyped_storage() for x in tree_leaves(values) if isinstance(x, torch.Tensor)]


def inference_memory(model: Method, graph: Graph) -> dict[str, float]:
    """Count what one inference of the whole graph needs: `inference_memory_mib`.

    Counted are the model's parameters and buffers, and the tensors that the inference makes, at
    their peak; the graph and its features, which are there for every model, are not. On a GPU torch
    measures the same; on the CPU the tensors are followed, since the resident set of a process
    moves by megabytes for reasons of its own.
    """
    own = sum(x.numel() * x.element_size() for x in (*model.parameters(), *model.buffers()))
    with torch.no_grad():
        model.inference(graph)  # what is made once, and kept, is there before
        if graph.adj.device.type == "cuda":
            with peak_memory("cuda") as found:
                model.inference(graph)
            return {"inference_memory_mib": own / 2**20 + found["peak_memory_mib"]}
        with _LiveTensors() as live:
            model.inference(graph)
    return {"inference_memory_mib": (own + live.peak) / 2**20}


def _reset_high_water() -> float | None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status_mib("VmRSS")


def _status_mib(name: str) -> float | None:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) / 1024
    return None
