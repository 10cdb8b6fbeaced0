"""Small matrices, graphs and tasks made by hand."""

import functools
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from bench.cell import Protocol
from bench.datasets import synthetic
from bench.graph import Graph, Split, Task, TeacherOutput
from bench.protocol import Exam, examine
from bench.sparse import CSR


def random_csr(rows: int, columns: int, density: float = 0.3, seed: int = 0) -> CSR:
    """A random matrix whose first row and first column are empty (where it has two)."""
    rng = np.random.default_rng(seed)
    dense = rng.standard_normal((rows, columns)) * (rng.random((rows, columns)) < density)
    if rows > 1:
        dense[0] = 0
    if columns > 1:
        dense[:, 0] = 0
    return CSR.from_scipy(sp.csr_array(dense.astype(np.float32)))


def csr(rows: list[list[float]]) -> CSR:
    """A matrix from its rows."""
    return CSR.from_scipy(sp.csr_array(np.array(rows, dtype=np.float32)))


def adjacency(num_nodes: int, edges: list[tuple[int, int]], *, loops: bool = False) -> CSR:
    """An undirected graph from its edges, each given once."""
    dense = np.eye(num_nodes) * loops
    for a, b in edges:
        dense[a, b] = dense[b, a] = 1
    return CSR.from_scipy(sp.csr_array(dense.astype(np.float32)))


def path(num_nodes: int, *, loops: bool = False) -> CSR:
    """0 - 1 - 2 - ..."""
    return adjacency(num_nodes, [(i, i + 1) for i in range(num_nodes - 1)], loops=loops)


def graph(adj: CSR, x: CSR | Tensor | None = None, num_classes: int = 2) -> Graph:
    """A graph with labels 0, 1, 0, 1, ...; without `x`, normal features, 3 a node."""
    n = adj.shape[0]
    if x is None:
        x = torch.randn(n, 3, generator=torch.Generator().manual_seed(0))
    return Graph(x, torch.arange(n) % num_classes, adj, num_classes)


def random_graph(num_nodes: int = 30, *, loops: bool = True, features: int = 12) -> Graph:
    """A random graph with sparse non-negative features."""
    rng = np.random.default_rng(0)
    half = np.triu(rng.random((num_nodes, num_nodes)) < 0.15, 1)
    adj = (half | half.T | (np.eye(num_nodes, dtype=bool) & loops)).astype(np.float32)
    x = rng.random((num_nodes, features)) * (rng.random((num_nodes, features)) < 0.3)
    return graph(CSR.from_scipy(sp.csr_array(adj)), CSR.from_scipy(sp.csr_array(x)), 3)


def task(whole: Graph, train: list[int], val: list[int], val_accuracy=None, seed: int = 0) -> Task:
    """A task on a graph that hides no node; the labels other than those of `train` are -1."""
    labels = torch.full_like(whole.y, -1)
    labels[train] = whole.y[train]
    rest = [i for i in range(whole.num_nodes) if i not in {*train, *val}]
    none = torch.zeros(0, dtype=torch.int64)
    split = Split(torch.tensor(train), torch.tensor(val), none, torch.tensor(rest), none)

    def score(logits: Tensor) -> float:
        return (logits.argmax(dim=1) == whole.y[split.val]).float().mean().item()

    return Task(whole.replace(y=labels), split, None, seed, val_accuracy or score)


def segment_loss(segments: Tensor, target: Tensor) -> Tensor:
    """NORM's matching by definition: sum_i MSE(E_i, T) of E [n, N H'] against T [n, H']."""
    n, size = target.shape
    parts = segments.view(n, -1, size)  # [n, N, H']
    return (parts - target.unsqueeze(1)).square().mean() * parts.shape[1]


def with_teacher(given: Task, logits: Tensor) -> Task:
    """The same task with a teacher's logits."""
    return Task(given.graph, given.split, TeacherOutput(logits), given.seed, given.val_accuracy)


@functools.cache
def exam(options: str, split: str, setting: str = "transductive", seed: int = 0) -> Exam:
    """A synthetic graph, split; `options` are those of `synthetic`."""
    dataset = synthetic.load(f"synthetic:{options}", Path())
    protocol = Protocol(dataset.name, dataset.checksum, split, setting)
    return examine(dataset, protocol, seed)
