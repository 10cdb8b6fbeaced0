"""Answers of students in stages: ours against the same mathematics row by row.

Two comparisons, each of both sides in turn in this process, one thread, on the same models (which
are untrained: weights change no time), and each side must give the same answers:

* the weighted mean of K stages' probabilities, over nodes (`stages.mix`) and over short rows;
* one stage alone: a form that answers with its logits, and one that takes a mean of one.

Run it with

    python -m tests.benchmarks.speed_stages [--dataset cora]

`cora` needs $GKDBENCH_DATA; `--dataset synthetic` needs nothing.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench import cost, data, kernels, registry, run, stages
from bench.cell import Protocol
from bench.protocol import examine


def by_rows(logits: list[Tensor], weights: Tensor) -> Tensor:
    """The log of the weighted mean of probabilities, with softmax and sum along rows."""
    rows = torch.stack([x.log_softmax(1) for x in logits])
    return (rows + weights.log()[:, None, None]).logsumexp(0)


def by_nodes(logits: list[Tensor], weights: Tensor) -> Tensor:
    """The same with ours."""
    return stages.answer(logits, weights)


def compare(title: str, sides: dict[str, Callable[[], Any]], times: int) -> None:
    """Time the sides in turn and print medians and their ratio."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(times + 5):
        for name, call in sides.items():
            start = time.perf_counter()
            call()
            if turn >= 5:
                found[name].append(time.perf_counter() - start)
    one, two = (1e3 * statistics.median(values) for values in found.values())
    first, second = sides
    print(f"{title:34s} {first} {one:8.4f} ms, {second} {two:8.4f} ms: {one / two:.1f} times")


def main() -> None:
    """Compare on one dataset."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="cora")
    name = parser.parse_args().dataset
    kernels.set_threads(1)
    dataset = registry.dataset_module(name).load(name, data.data_root())
    split = "public" if "public" in dataset.fixed_splits else "ratio"
    task = examine(dataset, Protocol(name, dataset.checksum, split, "transductive"), 0).task(
        0, None
    )
    graph, config = task.graph, registry.configure("student", "progmlp", {}, {})
    model = run.build("student", "progmlp", config, task).eval()
    alone: Any = model.deploy()["1"].eval()
    one = torch.ones(1)
    with torch.inference_mode():
        logits = [stage(graph).logits for stage in list(model.stages)[:1] * 4]  # type: ignore[arg-type]
        weights = torch.full((4,), 0.25)
        torch.testing.assert_close(by_nodes(logits, weights), by_rows(logits, weights))
        sides = {
            "by rows": lambda: by_rows(logits, weights),
            "by nodes": lambda: by_nodes(logits, weights),
        }
        compare(f"mean of 4, {len(logits[0]):,} nodes", sides, 200)

        def mean_of_one(nodes: Tensor | None) -> Tensor:
            own = graph if nodes is None else stages.rows_of(graph, nodes)
            return by_rows([alone.stages[0](own).logits], one)

        node = cost._requests(graph)[0]
        for title, nodes in (("one stage, whole graph", None), ("one stage, one node", node)):
            plain = alone(graph, nodes).logits.log_softmax(1)
            torch.testing.assert_close(mean_of_one(nodes), plain)
            sides = {
                "mean of one": lambda nodes=nodes: mean_of_one(nodes),  # type: ignore[misc]
                "logits": lambda nodes=nodes: alone(graph, nodes),  # type: ignore[misc]
            }
            compare(title, sides, 200)


if __name__ == "__main__":
    main()
