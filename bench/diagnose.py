"""Where a model is right, and what its experts do: numbers and data for its row, after the fit.

Strata are parts of the scored test nodes, told from the full graph with all its labels; no method
ever sees them. Accuracy on a part pools the observed and the unseen of the scored nodes.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import expert_load, metrics
from bench.graph import Graph
from bench.method import Method

SAMPLE = 3000  # nodes whose hidden states are kept, for a map of the routing

# ---- strata ---------------------------------------------------------------------------------


def strata(graph: Graph, train: Tensor, scored: Tensor) -> dict[str, np.ndarray]:
    """Tell the parts of the scored nodes, by name, as masks bool [n]; self-loops are no edges.

    degree_low, _middle, _high: degree d <= q1, q1 < d <= q2, d > q2, with q1 and q2 the terciles of
        the scored nodes' degrees (values that occur, so that equal degrees stay together).
    class_small, _large: the node's class is smaller, larger than the median size of the classes.
    border, interior: some neighbour, or none, has another label; a node without neighbours of known
        label is neither.
    train_near, _middle, _far: 1, 2, or at least 3 hops from the nearest train node; a node that no
        path leads to is far.

    A family with all its nodes in one part tells nothing and is left out; so is an empty part.

    Args:
        graph: the full graph with all its labels, on the CPU.
        train: int64 ids of the train nodes.
        scored: int64 [n] ids of the scored test nodes.
    """
    y, chosen = graph.y.numpy(), scored.numpy()
    rows, columns = graph.adj.row_ids.numpy(), graph.adj.indices.numpy()
    if len(rows) and (loops := rows == columns).any():
        rows, columns = rows[~loops], columns[~loops]
    families = (
        _by_degree(np.bincount(rows, minlength=len(y))[chosen]),
        _by_class_size(y, chosen),
        _by_neighbours(y, rows, columns, chosen),
        _by_distance(_hops(len(y), rows, columns, train.numpy())[chosen]),
    )
    filled = [{name: part for name, part in one.items() if part.any()} for one in families]
    return {name: part for one in filled if len(one) > 1 for name, part in one.items()}


def _by_degree(degree: np.ndarray) -> dict[str, np.ndarray]:
    if not len(degree):
        return {}
    first, second = np.quantile(degree, (1 / 3, 2 / 3), method="inverted_cdf")
    low, high = degree <= first, degree > second
    return {"degree_low": low, "degree_middle": ~low & ~high, "degree_high": high}


def _by_class_size(y: np.ndarray, chosen: np.ndarray) -> dict[str, np.ndarray]:
    sizes = np.bincount(y[y >= 0])
    if not len(sizes):
        return {}
    median, own = np.median(sizes[sizes > 0]), sizes[y[chosen]]
    return {"class_small": own < median, "class_large": own > median}


def _by_neighbours(
    y: np.ndarray, rows: np.ndarray, columns: np.ndarray, chosen: np.ndarray
) -> dict[str, np.ndarray]:
    known = (y[rows] >= 0) & (y[columns] >= 0)
    has = np.bincount(rows[known], minlength=len(y))[chosen] > 0
    differs = known & (y[rows] != y[columns])
    border = np.bincount(rows[differs], minlength=len(y))[chosen] > 0
    return {"border": border, "interior": has & ~border}


def _hops(size: int, rows: np.ndarray, columns: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Hops to the nearest train node, int64 [N]; 3 stands for all from 3 on."""
    hops = np.full(size, 3)
    hops[train] = 0
    for step in (1, 2):
        reached = columns[hops[rows] == step - 1]
        hops[reached] = np.minimum(hops[reached], step)
    return hops


def _by_distance(hops: np.ndarray) -> dict[str, np.ndarray]:
    return {"train_near": hops <= 1, "train_middle": hops == 2, "train_far": hops > 2}


def accuracies(
    parts: dict[str, np.ndarray], labels: np.ndarray, predicted: np.ndarray
) -> dict[str, float]:
    """Return `accuracy_<part>` and `nodes_<part>`, the part's size, for int64 [n] labels."""
    found: dict[str, float] = {}
    for name, part in parts.items():
        found[f"accuracy_{name}"] = metrics.accuracy(labels[part], predicted[part])
        found[f"nodes_{name}"] = float(part.sum())
    return found


# ---- experts --------------------------------------------------------------------------------


def expert_layers(model: Method, graph: Graph) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Return what a deployed model's routers do with all nodes of a graph; nothing without routers.

    Returns:
        `expert_entropy`, the mean over the layers of the load's entropy (1: even), and
        `experts_collapsed`, the number of experts, over all layers, that no node goes to. Then
        arrays: `<layer>/experts` uint8 [N, k], `<layer>/gates` float16 [N, k], `<layer>/load`
        float32 [E], `entropy` float32 [L], and, where the last layer reads hidden states,
        `nodes` int32 [m] and the states `hidden` float16 [m, H] of these at most 3,000 nodes.
    """
    layers = expert_load.diagnostics(model, graph)
    if not layers:
        return {}, {}
    numbers = {
        "expert_entropy": float(np.mean([layer["entropy"] for layer in layers])),
        "experts_collapsed": float(sum(len(layer["collapsed"]) for layer in layers)),
    }
    arrays: dict[str, np.ndarray] = {}
    arrays["entropy"] = np.array([layer["entropy"] for layer in layers], np.float32)
    for i, layer in enumerate(layers):
        arrays[f"{i}/experts"] = layer["experts"].cpu().numpy().astype(np.uint8)
        arrays[f"{i}/gates"] = layer["gates"].cpu().numpy().astype(np.float16)
        arrays[f"{i}/load"] = layer["load"].cpu().numpy().astype(np.float32)
    nodes = np.unique(np.linspace(0, graph.num_nodes - 1, SAMPLE).round().astype(np.int32))
    hidden = _routed(model, graph, torch.from_numpy(nodes).long().to(graph.adj.device))
    if hidden is not None:
        arrays.update(nodes=nodes, hidden=hidden.cpu().numpy().astype(np.float16))
    return numbers, arrays


@torch.no_grad()
def _routed(model: Method, graph: Graph, nodes: Tensor) -> Tensor | None:
    """The hidden states [m, H] that the last router reads; None where it reads the features."""
    read: list[Any] = []

    def keep(_: Any, given: tuple[Any, ...]) -> None:
        read.append(given[0])

    hook = expert_load.routers_of(model)[-1].register_forward_pre_hook(keep)
    try:
        model.eval()(graph, nodes)
    finally:
        hook.remove()
    inputs = read[-1]
    own = inputs.x is None and len(expert_load.routers_of(model)) > 1 and inputs.count == len(nodes)
    return inputs.dense if own else None
