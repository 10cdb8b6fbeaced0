"""Counting the MACs of a model: our counter against torch's FlopCounterMode, on the same calls.

Both sides count what `cost.macs` counts (64 requests of one node, then the whole graph), one after
the other, one thread, and must agree. Models are untrained: their weights change no count. Run it
with

    python -m tests.benchmarks.speed_macs [--dataset cora]

`cora` needs $GKDBENCH_DATA; `--dataset synthetic` needs nothing.
"""

import argparse
import statistics
import sys
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import cost, data, kernels, registry, run
from bench.cell import Protocol
from bench.graph import Graph
from bench.method import Method
from bench.protocol import examine
from bench.sparse import counting

MODELS = (("teacher", "sage"), ("teacher", "gat"), ("student", "glnn"), ("student", "ensemble"))


def by_torch(model: Method, graph: Graph) -> float:
    """Count a model's requests and its whole graph with torch's counter."""
    with torch.no_grad(), counting() as sparse, FlopCounterMode(display=False) as dense:
        for node in cost._requests(graph):
            model(graph, node)
        model.inference(graph)
    return sparse.macs + dense.get_total_flops() // 2


def by_us(model: Method, graph: Graph) -> float:
    """The same with ours."""
    found = cost.macs(model, graph)
    return found["macs"] + found["macs_node"] * min(cost.NODES_TIMED, graph.num_nodes)


def main() -> None:
    """Compare both on several models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="cora")
    name = parser.parse_args().dataset
    kernels.set_threads(1)
    dataset = registry.dataset_module(name).load(name, data.data_root())
    split = "public" if "public" in dataset.fixed_splits else "ratio"
    exam = examine(dataset, Protocol(name, dataset.checksum, split, "transductive"), 0)
    task = exam.task(0, None)
    for role, method in MODELS:
        config = registry.configure(role, method, {}, {})
        model = run.build(role, method, config, task).eval()
        times: dict[str, list[float]] = {"torch": [], "ours": []}
        for turn in range(6):
            counts = []
            for side, count in (("torch", by_torch), ("ours", by_us)):
                start = time.perf_counter()
                counts.append(count(model, task.graph))
                if turn:
                    times[side].append(1e3 * (time.perf_counter() - start))
            assert counts[0] == counts[1], counts
        torchs, ours = (statistics.median(times[side]) for side in ("torch", "ours"))
        sys.stdout.write(
            f"{method}: torch {torchs:.0f} ms, ours {ours:.0f} ms, ratio {torchs / ours:.1f}\n"
        )


if __name__ == "__main__":
    main()
