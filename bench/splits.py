"""Splits: which nodes are train, val and test.

A split is named, and `random` takes options: `random:train=5,imbalance=10` (see `axes`).
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from bench.axes import TRAIN, split_of
from bench.graph import Dataset, Graph
from bench.hparams import unknown
from bench.kept import once

Roles = tuple[Tensor, Tensor, Tensor]  # train, val, test: int64 ids
VAL = 30  # val nodes of each class in the random split


def public(dataset: Dataset, graph: Graph, seed: int) -> Roles:
    """The split that ships with Planetoid, WebKB or Actor; of k masks, mask `seed` mod k.

    Source: Yang et al., arXiv 1603.08861 (Planetoid); Pei et al., arXiv 2002.05287 (WebKB, Actor).
    """
    return _shipped(dataset, "public", seed)


def official(dataset: Dataset, graph: Graph, seed: int) -> Roles:
    """OGB's own split (Hu et al., arXiv 2005.00687)."""
    return _shipped(dataset, "official", seed)


def random(
    dataset: Dataset, graph: Graph, seed: int, train: float = TRAIN, imbalance: float = 1
) -> Roles:
    """The CPF protocol: 20 train nodes of each class, then 30 val nodes of each class, rest test.

    It runs on the largest component. All train draws come before all val draws, class by class,
    from one `numpy.random.RandomState(seed)`; drawing per class instead gives other nodes.

    Source: Yang et al., "Extract the Knowledge of Graph Neural Networks and Go Beyond it", arXiv
    2103.02885, and GLNN, arXiv 2110.08727; after Shchur et al., arXiv 1811.05868.

    Differs from it with options only, which leave val as it is:
        train: so many train nodes of each class. Of the 20 the first ones stay, and the others have
            no role, so that up to 20 test is the same; above 20, further nodes are drawn, after
            val, from what is test otherwise.
        imbalance: of the C classes, ordered by their size in the graph, the k-th (from 0) has train
            / imbalance^(k / (C - 1)) train nodes, rounded, and at least one; the others have no
            role, so that fewer nodes are train in all.
    """
    labels, state = graph.y.numpy(), np.random.RandomState(seed)
    wanted = train_counts(labels, train, imbalance)
    taken = np.zeros(len(labels), bool)
    drawn = _draw_per_class(state, labels, np.full(len(wanted), TRAIN), taken)
    taken[np.concatenate(drawn)] = True
    val = np.concatenate(_draw_per_class(state, labels, np.full(len(wanted), VAL), taken))
    taken[val] = True
    more = _draw_per_class(state, labels, np.maximum(wanted - TRAIN, 0), taken)
    taken[np.concatenate(more)] = True
    kept = [own[:count] for own, count in zip(drawn, wanted, strict=True)]
    chosen = [part for pair in zip(kept, more, strict=True) for part in pair]
    return _tensors(np.concatenate(chosen), val, np.flatnonzero(~taken))


def train_counts(labels: np.ndarray, train: float, imbalance: float) -> np.ndarray:
    """Return how many train nodes each class has, int64 [C]; `random` has the rule."""
    sizes = np.bincount(labels)
    rank = np.empty(len(sizes), dtype=np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    counts = train * float(imbalance) ** (-rank / max(1, len(sizes) - 1))
    return np.maximum(1, np.round(counts)).astype(np.int64)


def ratio(dataset: Dataset, graph: Graph, seed: int) -> Roles:
    """A stratified split: of each class 50 % train, 25 % val, 25 % test.

    A class of three nodes or more has at least one in each; smaller ones go to train, then val.
    """
    labels, rng = graph.y.numpy(), np.random.default_rng(seed)
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    for label in np.unique(labels):
        nodes = rng.permutation(np.flatnonzero(labels == label))
        first = max(1, min(round(0.5 * len(nodes)), len(nodes) - 2))
        second = first + max(1, round(0.25 * len(nodes)))
        for part, piece in zip(parts, np.split(nodes, [first, second]), strict=True):
            part.append(piece)
    return _tensors(*(np.sort(np.concatenate(part)) for part in parts))


SPLITS: dict[str, Callable[..., Roles]] = {
    "public": public,
    "random": random,
    "official": official,
    "ratio": ratio,
}


def draw(dataset: Dataset, split: str, seed: int) -> tuple[Graph, Roles]:
    """Split a dataset; return the graph that the split is of, and its roles.

    Raises:
        ValueError: nobody has that name, an option that it does not take, or too few nodes.
    """
    name, options = split_of(split)
    if name not in SPLITS:
        raise unknown("split", name, SPLITS)
    graph = dataset.graph
    if name == "random":  # the same one for all seeds
        graph = once(graph, "largest component", lambda: largest_component(dataset.graph))
    return graph, SPLITS[name](dataset, graph, seed, **options)


def _shipped(dataset: Dataset, split: str, seed: int) -> Roles:
    choices = dataset.fixed_splits.get(split)
    if not choices:
        able = [*dataset.fixed_splits, "random", "ratio"]
        raise ValueError(
            f"dataset '{dataset.name}' ships no split '{split}'; it can use: {', '.join(able)}"
        )
    return choices[seed % len(choices)]


def _draw_per_class(
    state: np.random.RandomState, labels: np.ndarray, counts: np.ndarray, taken: np.ndarray
) -> list[np.ndarray]:
    """Draw `counts[c]` of the nodes of each class c that are not taken."""
    drawn = []
    for label, count in enumerate(counts.tolist()):
        nodes = np.flatnonzero((labels == label) & ~taken)
        if len(nodes) < count:
            raise ValueError(
                f"split 'random' draws {TRAIN} train and {VAL} val nodes of each class, and what "
                f"train=... asks for beyond; class {label} has {len(nodes)} nodes left for a draw "
                f"of {count}; use split 'ratio', or fewer train nodes"
            )
        drawn.append(state.choice(nodes, count, replace=False))
    return drawn


def _tensors(*ids: np.ndarray) -> Roles:
    train, val, test = (torch.from_numpy(np.asarray(part, dtype=np.int64)) for part in ids)
    return train, val, test


def largest_component(graph: Graph) -> Graph:
    """Keep the nodes of the largest connected component, in their order."""
    from scipy.sparse.csgraph import connected_components

    count, component = connected_components(graph.adj.to_scipy(), directed=False)
    if count == 1:
        return graph
    keep = component == np.bincount(component).argmax()
    return graph.subgraph(torch.from_numpy(np.flatnonzero(keep)))
