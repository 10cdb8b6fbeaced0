"""Positional encodings: columns that say where a node lies in the observed graph.

They come from edges alone. Where nodes are hidden, the observed graph is encoded without them, and
an unseen node gets the mean of its observed neighbours' encodings (zeros without any): what it can
get when it arrives. Teachers never see them.

* `deepwalk`: skip-gram with negative sampling on uniform random walks. Sources: Perozzi et al.,
  arXiv 1403.6652; Mikolov et al., arXiv 1310.4546. As in word2vec: a window of random size, noise
  nodes drawn by count^0.75, 5 a pair, frequent nodes left out of a walk now and then, a step from
  0.025 down to 0.0001. NOSMOG's code trains with gensim and a hierarchical
  softmax besides negative sampling; without it the encodings classify as well (cpf-cora, seeds 0-4,
  logistic regression on 140 labels: 70.4 %, gensim 68.4 %, and 71.2 % without that softmax).
* `laplacian`: eigenvectors of the normalised Laplacian, the first one left out, each with its
  largest entry positive. Source: Dwivedi et al., arXiv 2003.00982 (PyG's transform).
* `random_walk`: probabilities of being back after 1..P steps. Source: Dwivedi et al., arXiv
  2110.07875 (PyG's transform). Its powers of the adjacency fill up: for small graphs.
"""

import hashlib
import time
import uuid
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from bench import kernels  # noqa: F401  (chooses where numba keeps compiled code)
from bench.sparse import CSR, spmm

import numba  # isort: skip

VERSION = 1  # raise when a change gives other numbers
NOISE_NODES = 5
STEP_SIZES = (0.025, 0.0001)  # first and last
# A node more frequent than this among all visits is left out now and then; word2vec's 1e-3 would
# starve graphs of a few hundred nodes, each of which is more frequent than that.
THRESHOLD, TIMES_THE_MEAN = 1e-3, 2.5


@dataclass(frozen=True)
class Encoding:
    """What to compute; `seed` matters to `deepwalk` alone."""

    kind: str  # deepwalk, laplacian, random_walk
    dim: int
    walk_length: int = 50
    walks_per_node: int = 5
    window: int = 5
    epochs: int = 1
    seed: int = 0

    @classmethod
    def of_config(cls, config: Mapping[str, Any], seed: int) -> "Encoding | None":
        """Read a student's configuration (recipe.py); None where it asks for no encoding."""
        if config.get("encoding", "none") == "none":
            return None
        return cls(
            config["encoding"],
            config["encoding_dim"],
            config["walk_length"],
            config["walks_per_node"],
            config["walk_window"],
            config["walk_epochs"],
            seed,
        )

    def compute(self, adj: CSR) -> Tensor:
        """Encode the nodes of an adjacency [N, N] as float32 [N, P]."""
        if self.kind == "deepwalk":
            return deepwalk(adj, self)
        return laplacian(adj, self.dim) if self.kind == "laplacian" else returns(adj, self.dim)

    def digest(self, adj: CSR) -> str:
        """Hash of all that decides the result."""
        walks = (self.walk_length, self.walks_per_node, self.window, self.epochs, self.seed)
        asked = (VERSION, self.kind, self.dim, *(walks if self.kind == "deepwalk" else ()))
        content = hashlib.sha256(repr(asked).encode())
        for part in (adj.indptr, adj.indices):
            content.update(part.cpu().numpy().tobytes())
        return content.hexdigest()[:32]


def encode(encoding: Encoding, adj: CSR, folder: Path) -> tuple[Tensor, float]:
    """Return the encoding of a graph and the seconds that computing it took.

    It is kept in `folder`; a file that cannot be read is computed again.
    """
    path = folder / f"{encoding.digest(adj)}.npz"
    found = _read(path)
    if found is not None and found[0].shape == (adj.shape[0], encoding.dim):
        return found
    start = time.perf_counter()
    encoded = encoding.compute(adj)
    seconds = time.perf_counter() - start
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}-{uuid.uuid4().hex}.npz")  # others may share the folder
    np.savez(partial, encoding=encoded.numpy(), seconds=seconds)
    partial.replace(path)
    return encoded, seconds


def _read(path: Path) -> tuple[Tensor, float] | None:
    import zipfile

    try:
        with np.load(path) as file:  # whose parts carry checksums
            return torch.from_numpy(file["encoding"]), float(file["seconds"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def spread(encoded: Tensor, whole: CSR, observed: Tensor) -> Tensor:
    """Return encodings of all N nodes from those of the observed ones.

    Shapes: encoded [n, P]; whole, the adjacency [N, N]; observed int64 [n]; result [N, P].
    """
    size = whole.shape[0]
    seen = torch.zeros(size, dtype=torch.bool)
    seen[observed] = True
    placed = encoded.new_zeros(size, encoded.shape[1])
    placed[observed] = encoded
    unseen = torch.nonzero(~seen).flatten()
    if not len(unseen):
        return placed
    rows = whole.rows(unseen)
    rows = rows.with_values(seen[rows.indices.long()].to(torch.float32))
    count = torch.zeros(len(unseen)).index_add(0, rows.row_ids, rows.values)
    placed[unseen] = spmm(rows, placed) / count.clamp(min=1).unsqueeze(1)
    return placed


# ---- DeepWalk -------------------------------------------------------------------------------


def deepwalk(adj: CSR, encoding: Encoding) -> Tensor:
    """Train skip-gram on random walks: float32 [N, P]; one thread, the same bits for a seed."""
    size = adj.shape[0]
    seed = np.uint64(encoding.seed % 2**64)
    walks = np.empty((size * encoding.walks_per_node, encoding.walk_length), np.int32)
    _walk(adj.indptr.numpy(), adj.indices.numpy(), seed, walks)
    counts = np.bincount(walks[walks >= 0], minlength=size).astype(np.float64)
    noise = _noise_table(counts)
    share = counts / counts.sum() / max(THRESHOLD, TIMES_THE_MEAN / size)
    keep = np.minimum(1.0, (np.sqrt(share) + 1.0) / share).astype(np.float32)
    rng = np.random.default_rng(encoding.seed)
    vectors = ((rng.random((size, encoding.dim), np.float32) - 0.5) / encoding.dim).astype("f4")
    contexts = np.zeros((size, encoding.dim), np.float32)
    passes = np.int64(encoding.epochs)
    _skip_gram(walks, keep, noise, encoding.window, passes, seed, vectors, contexts)
    return torch.from_numpy(vectors)


def _noise_table(counts: np.ndarray) -> np.ndarray:
    """Nodes, each as often as its share of count^0.75, to draw from with one random index."""
    weights = counts**0.75
    edges = np.round(np.cumsum(weights) / weights.sum() * max(100_000, 20 * len(counts)))
    return np.repeat(np.arange(len(counts), dtype=np.int32), np.diff(edges, prepend=0).astype(int))


_jit = numba.njit(cache=True, nogil=True, fastmath={"contract", "nsz", "reassoc"})


@_jit
def _random(state):  # type: ignore[no-untyped-def]
    # splitmix64 (Steele et al., OOPSLA 2014)
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@_jit
def _below(state, limit):  # type: ignore[no-untyped-def]
    # A whole number in [0, limit), limit < 2^31.
    return np.int64(((_random(state) >> np.uint64(33)) * np.uint64(limit)) >> np.uint64(31))


@_jit
def _walk(indptr, indices, seed, walks):  # type: ignore[no-untyped-def]
    # Rounds over the nodes in random order; a walk that cannot go on is filled with -1.
    size = indptr.shape[0] - 1
    state = np.array([seed], np.uint64)
    order = np.arange(size)
    for row in range(walks.shape[0]):
        i = row % size
        if i == 0:
            for j in range(size - 1, 0, -1):
                k = _below(state, j + 1)
                order[j], order[k] = order[k], order[j]
        node = order[i]
        walks[row, :] = -1
        for step in range(walks.shape[1]):
            walks[row, step] = node
            degree = indptr[node + 1] - indptr[node]
            if degree == 0:
                break
            node = indices[indptr[node] + _below(state, degree)]


@_jit
def _skip_gram(walks, keep, noise, window, epochs, seed, vectors, contexts):  # type: ignore[no-untyped-def]
    state = np.array([seed + np.uint64(1)], np.uint64)
    length = walks.shape[1]
    kept = np.empty(length, np.int32)
    change = np.empty(vectors.shape[1], np.float32)
    first, last = np.float32(STEP_SIZES[0]), np.float32(STEP_SIZES[1])
    total = epochs * walks.shape[0]
    for turn in range(total):
        rate = first - (first - last) * np.float32(turn / total)
        count = 0
        for node in walks[turn % walks.shape[0]]:
            chance = np.float32(_below(state, 1 << 24)) / np.float32(1 << 24)
            if node >= 0 and chance < keep[node]:
                kept[count] = node
                count += 1
        for i in range(count):
            reach = 1 + _below(state, window)
            for j in range(max(0, i - reach), min(count, i + reach + 1)):
                if j != i:
                    _pair(vectors[kept[j]], kept[i], noise, state, rate, contexts, change)


@_jit
def _pair(vector, node, noise, state, rate, contexts, change):  # type: ignore[no-untyped-def]
    # One step on a node and its context, and on the context and a few random nodes.
    change[:] = 0.0
    for draw in range(NOISE_NODES + 1):
        target, truth = node, np.float32(1.0)
        if draw:
            target, truth = noise[_below(state, noise.shape[0])], np.float32(0.0)
            if target == node:
                continue
        other = contexts[target]
        product = np.float32(0.0)
        for k in range(vector.shape[0]):
            product += vector[k] * other[k]
        gain = rate * (truth - np.float32(1.0) / (np.float32(1.0) + np.exp(-product)))
        for k in range(vector.shape[0]):
            change[k] += gain * other[k]
            other[k] += gain * vector[k]
    for k in range(vector.shape[0]):
        vector[k] += change[k]


# ---- PyG's transforms -----------------------------------------------------------------------


def laplacian(adj: CSR, dim: int) -> Tensor:
    """Eigenvectors 2..dim + 1 of I - D^-1/2 A D^-1/2, signs fixed: float32 [N, dim].

    Raises:
        ValueError: the graph has too few nodes.
    """
    from torch_geometric.transforms import AddLaplacianEigenvectorPE

    size = adj.shape[0]
    if size < dim + 2:
        raise ValueError(f"a graph of {size} nodes has no {dim} encodings; lower encoding_dim")
    start = np.random.default_rng(0).standard_normal(size)  # the solver's own would be random
    options = {"v0": start} if size >= AddLaplacianEigenvectorPE.SPARSE_THRESHOLD else {}
    found = _transform(AddLaplacianEigenvectorPE(dim, "pe", is_undirected=True, **options), adj)
    largest = found.gather(0, found.abs().argmax(0, keepdim=True))
    return found * torch.where(largest < 0, -1.0, 1.0)


def returns(adj: CSR, dim: int) -> Tensor:
    """Diagonals of (D^-1 A)^1..dim: float32 [N, dim]."""
    from torch_geometric.transforms import AddRandomWalkPE

    return _transform(AddRandomWalkPE(dim, "pe"), adj)


def _transform(transform: Any, adj: CSR) -> Tensor:
    from torch_geometric.data import Data

    data = Data(edge_index=torch.stack([adj.row_ids, adj.indices.long()]), num_nodes=adj.shape[0])
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", "Sparse", UserWarning)
        return cast(Tensor, transform(data).pe.to(torch.float32).contiguous())
