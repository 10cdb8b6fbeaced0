"""Noise on what is learnt from: features, edges, and the labels a teacher is trained on.

Every draw comes from the split seed, so that a teacher and all its students of a seed see the same
noisy graph. What the observed part becomes depends on the observed part alone, and a higher level
disturbs what a lower one does, and more: the curves over levels are paired.

Source: the feature noise is GLNN's (arXiv 2110.08727, an ablation): x' = (1 - a) x + a n with
Gaussian n. Random edges and flipped labels are the usual tests of robustness.

Differs from it: where features are stored sparse (bags of words), each stored one is moved, with
probability a, to a random column of its row and keeps its value. So a is the share of a node's
words that is noise, and rows stay as sparse as they were; Gaussian noise would fill them. Two words
that meet count once, as the larger. Dense features get the paper's own noise.
"""

import numpy as np
import torch
from torch import Tensor

from bench.axes import noise_of
from bench.data import adjacency
from bench.graph import Graph
from bench.hparams import derive_seed
from bench.sparse import CSR, _offsets


def disturbed(graph: Graph, noise: str, unseen: Tensor, seed: int) -> Graph:
    """Return the graph with noisy features and edges.

    Args:
        graph: the whole graph, without self-loops.
        noise: as `axes.canonical_noise` writes it.
        unseen: int64 ids of the nodes that are hidden while training; they are as noisy.
        seed: the split seed.
    """
    levels = noise_of(noise)
    hidden = np.zeros(graph.num_nodes, dtype=bool)
    hidden[unseen.numpy()] = True
    if share := levels.get("features"):
        graph = graph.replace(x=noisy_features(graph.x, share, hidden, seed))
    if share := levels.get("edges"):
        graph = graph.replace(adj=noisy_edges(graph.adj, share, hidden, seed))
    return graph


def _stream(seed: int, what: str, part: str) -> np.random.Generator:
    # Only `random` is used: numpy keeps its stream across versions, others may change.
    return np.random.Generator(np.random.PCG64(derive_seed(seed, "noise", what, part)))


# ---- features -------------------------------------------------------------------------------


def noisy_features(x: CSR | Tensor, share: float, hidden: np.ndarray, seed: int) -> CSR | Tensor:
    """Return x [N, F] with a share of noise; the module says how. `hidden` is bool [N]."""
    if not isinstance(x, CSR):
        normal = torch.empty_like(x)
        for part, nodes in (("observed", ~hidden), ("unseen", hidden)):
            generator = torch.Generator().manual_seed(derive_seed(seed, "noise", "features", part))
            size = (int(nodes.sum()), x.shape[1])
            normal[torch.from_numpy(nodes)] = torch.randn(size, generator=generator)
        return (1 - share) * x + share * normal
    rows, columns = x.row_ids.numpy(), x.indices.numpy().astype(np.int64)
    for part, entries in (("observed", ~hidden[rows]), ("unseen", hidden[rows])):
        draws = _stream(seed, "features", part).random((int(entries.sum()), 2))
        elsewhere = (draws[:, 1] * x.shape[1]).astype(np.int64)
        columns[entries] = np.where(draws[:, 0] < share, elsewhere, columns[entries])
    return _distinct(rows, columns, x)


def _distinct(rows: np.ndarray, columns: np.ndarray, x: CSR) -> CSR:
    """Build a matrix like `x` from its moved entries; of several in one place the largest stays."""
    values = x.values.numpy()
    order = np.lexsort((-values, columns, rows))
    rows, columns, values = rows[order], columns[order], values[order]
    first = np.ones(len(rows), dtype=bool)
    first[1:] = (rows[1:] != rows[:-1]) | (columns[1:] != columns[:-1])
    counts = torch.from_numpy(np.bincount(rows[first], minlength=x.shape[0]))
    indices = torch.from_numpy(columns[first].astype(np.int32))
    return CSR(_offsets(counts), indices, torch.from_numpy(values[first]), x.shape)


# ---- edges ----------------------------------------------------------------------------------


def noisy_edges(adj: CSR, share: float, hidden: np.ndarray, seed: int) -> CSR:
    """Replace a share of the undirected edges by random ones; their number stays.

    First the edges between observed nodes, by pairs of observed nodes; then those with an unseen
    end, by pairs of an unseen node and any other one. No new edge was one before. Where almost
    all pairs are edges, fewer are replaced.

    Args:
        adj: symmetric, binary, without self-loops, [N, N].
        share: of the edges, rounded to whole ones.
        hidden: bool [N], the unseen nodes.
        seed: the split seed.
    """
    size = adj.shape[0]
    rows, columns = adj.row_ids.numpy(), adj.indices.numpy().astype(np.int64)
    once = rows < columns
    codes = rows[once] * size + columns[once]
    touching = hidden[rows[once]] | hidden[columns[once]]
    seen, others = np.flatnonzero(~hidden), np.flatnonzero(hidden)
    everybody = np.arange(size)
    among = len(seen) * (len(seen) - 1) // 2
    free = {"observed": among, "unseen": size * (size - 1) // 2 - among}
    ends = {"observed": (seen, seen), "unseen": (others, everybody)}
    made = []
    for part, own in (("observed", codes[~touching]), ("unseen", codes[touching])):
        count = min(round(share * len(own)), free[part] - len(own))
        stream = _stream(seed, "edges", part)
        kept = np.argsort(stream.random(len(own)), kind="stable")[count:]
        made += [own[kept], _fresh_pairs(own, count, ends[part], size, stream)]
    source, target = np.divmod(np.concatenate(made), size)
    return adjacency(source, target, size)


def _fresh_pairs(
    own: np.ndarray,
    count: int,
    ends: tuple[np.ndarray, np.ndarray],
    size: int,
    stream: np.random.Generator,
) -> np.ndarray:
    """Draw `count` different pairs u * size + v, u < v, that are not in `own`; int64 [count]."""
    found = np.zeros(0, dtype=np.int64)
    first, second = ends
    while len(found) < count:
        draws = stream.random((max(64, len(own)), 2))  # as many whatever the level: they nest
        u = first[(draws[:, 0] * len(first)).astype(np.int64)]
        v = second[(draws[:, 1] * len(second)).astype(np.int64)]
        pairs = (np.minimum(u, v) * size + np.maximum(u, v))[u != v]
        found = np.concatenate([found, pairs[~np.isin(pairs, own)]])
        found = found[np.sort(np.unique(found, return_index=True)[1])]
    return found[:count]


# ---- labels ---------------------------------------------------------------------------------


def flipped(labels: Tensor, num_classes: int, share: float, seed: int) -> Tensor:
    """Return labels int64 [n] with a share of them, rounded, turned into another class."""
    stream = _stream(seed, "labels", "train")
    chosen = np.argsort(stream.random(len(labels)), kind="stable")[: round(share * len(labels))]
    step = 1 + (stream.random(len(labels)) * (num_classes - 1)).astype(np.int64)
    wrong = labels.clone()
    at = torch.from_numpy(chosen)
    wrong[at] = (labels[at] + torch.from_numpy(step)[at]) % num_classes
    return wrong
