"""What a method may see: the observed graph, its split into roles, the teacher's outputs.

`Dataset` is what a loader returns; `protocol.Exam.task` cuts a `Task` out of it. A method only ever
gets the `Task`: unseen nodes are absent from its graph, and labels other than those of `train`
are -1.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.kept import once
from bench.sparse import CSR, _offsets, spmm


@dataclass(frozen=True, eq=False)
class Graph:
    """Node features, labels and undirected edges (stored both ways).

    Shapes: x [N, F], dense float32 or CSR; y int64 [N], -1 where unknown or hidden; adj CSR [N, N];
    extra float32 [N, P] or None: more input columns (positional encodings); shift float32
    [N, F + P] or None: added to [x, extra] by the first layer, so that x may stay sparse under
    noise or adversarial changes.
    """

    x: CSR | Tensor
    y: Tensor
    adj: CSR
    num_classes: int
    extra: Tensor | None = None
    shift: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the fields alone, not the blocks that are remembered."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    @property
    def num_nodes(self) -> int:
        """N."""
        return int(self.adj.shape[0])

    @property
    def num_features(self) -> int:
        """F, without the extra columns."""
        return int(self.x.shape[1])

    def replace(self, **changes: Any) -> "Graph":
        """Return a copy with some fields exchanged."""
        return dataclasses.replace(self, **changes)

    def subgraph(self, nodes: Tensor) -> "Graph":
        """Return the graph induced by `nodes` (int64 [n]), relabelled to 0..n-1 in that order."""
        return Graph(
            self.x.rows(nodes) if isinstance(self.x, CSR) else self.x[nodes],
            self.y[nodes],
            self.adj.submatrix(nodes),
            self.num_classes,
            None if self.extra is None else self.extra[nodes],
            None if self.shift is None else self.shift[nodes],
        )

    def without_edges(self) -> "Graph":
        """Return the same nodes with no edge at all: what a graph-free model is deployed on."""
        n = self.num_nodes
        none = torch.zeros(0, dtype=torch.int32, device=self.adj.device)
        offsets = torch.zeros(n + 1, dtype=torch.int64, device=self.adj.device)
        return self.replace(adj=CSR(offsets, none, torch.zeros(0, device=offsets.device), (n, n)))

    def to(self, device: str | torch.device) -> "Graph":
        """Return a copy on `device`, or itself."""
        if torch.device(device) == self.adj.device:
            return self
        extra = None if self.extra is None else self.extra.to(device)
        shift = None if self.shift is None else self.shift.to(device)
        x, y, adj = self.x.to(device), self.y.to(device), self.adj.to(device)
        return Graph(x, y, adj, self.num_classes, extra, shift)

    def normalised(self, kind: str) -> CSR:
        """Return the adjacency with the weights of `normalise`, computed once for each kind.

        Graphs that share an adjacency (`replace`) share its weights.
        """
        return once(self.adj, ("normalised", kind), lambda: normalise(self.adj, kind))

    def remember(self, *node_sets: Tensor) -> None:
        """Keep the blocks of these node sets once cut: those that every epoch asks for."""
        self.__dict__.setdefault("_blocks", {}).update({id(n): (n, {}) for n in node_sets})

    def blocks(self, nodes: Tensor | None, num_layers: int, kind: str) -> "list[Block]":
        """Return the receptive field of `nodes`, one block a layer, input layer first.

        With `nodes=None` every block is the whole normalised adjacency.
        """
        whole = self.normalised(kind)
        if nodes is None:
            return [Block(whole, None, whole.shape[0])] * num_layers
        _, kept = self.__dict__.get("_blocks", {}).get(id(nodes), (None, None))
        if kept is None:
            return receptive_field(whole, nodes, num_layers)
        if (num_layers, kind) not in kept:
            kept[num_layers, kind] = receptive_field(whole, nodes, num_layers)
        return kept[num_layers, kind]


@dataclass(frozen=True, eq=False)
class Block:
    """One bipartite propagation step: `adj` [n_out, n_in]; the outputs are the first inputs.

    `inputs` holds the ids of the n_in input nodes (int64), or None for all nodes in order.
    """

    adj: CSR
    inputs: Tensor | None
    num_outputs: int


def normalise(adj: CSR, kind: str) -> CSR:
    """Weigh the entries of an adjacency.

    Kinds: `sum` (all 1), `mean` (D^-1 A; a node without entries gets 0), `symmetric`
    (D^-1/2 A D^-1/2) and `mean+self`: (A + I) over (degree + 1), DGL's SAGE "gcn" aggregator, which
    counts a stored self-loop a second time.
    """
    if kind == "sum":
        return adj.with_values(torch.ones_like(adj.values))
    if kind == "mean":
        return adj.with_values((1.0 / adj.degree.clamp(min=1))[adj.row_ids])
    if kind == "symmetric":
        scale = adj.degree.clamp(min=1).rsqrt()
        return adj.with_values(scale[adj.row_ids] * scale[adj.indices.long()])
    if kind == "mean+self":
        both = _with_identity(adj)
        return both.with_values(both.values / (adj.degree + 1)[both.row_ids])
    raise ValueError(f"unknown normalisation '{kind}'; known: mean, mean+self, sum, symmetric")


def _with_identity(adj: CSR) -> CSR:
    """Return A + I; an entry that is there already becomes 2."""
    from scipy.sparse import eye_array

    ones = adj.with_values(torch.ones_like(adj.values))
    total = ones.to_scipy() + eye_array(adj.shape[0], dtype=np.float32, format="csr")
    return CSR.from_scipy(total).to(adj.device)


def receptive_field(adj: CSR, nodes: Tensor, num_layers: int) -> list[Block]:
    """Cut the blocks that computing `nodes` (int64 [B]) takes, from all their neighbours."""
    blocks = []
    for _ in range(num_layers):
        block = _block(adj.rows(nodes), nodes)
        blocks.append(block)
        nodes = block.inputs  # type: ignore[assignment]
    return blocks[::-1]


def sample_blocks(
    adj: CSR, nodes: Tensor, fanouts: tuple[int, ...], generator: torch.Generator
) -> list[Block]:
    """Cut blocks with at most `fanouts[l]` neighbours a node, drawn without replacement.

    `fanouts[0]` belongs to the input layer. Weights are scaled by degree / drawn, which keeps a
    mean a mean and makes a weighted sum unbiased (GraphSAGE, arXiv 1706.02216, section 3.1).
    """
    blocks = []
    for fanout in reversed(fanouts):
        block = _block(_sample_rows(adj.rows(nodes), fanout, generator), nodes)
        blocks.append(block)
        nodes = block.inputs  # type: ignore[assignment]
    return blocks[::-1]


def _sample_rows(rows: CSR, fanout: int, generator: torch.Generator) -> CSR:
    """Keep `fanout` random entries of each row that has more, and scale the weights up."""
    noise = torch.rand(rows.nnz, generator=generator).to(rows.device)
    order = torch.argsort(rows.row_ids + noise.double())  # random order inside each row
    rank = torch.arange(rows.nnz, device=rows.device) - rows.indptr[rows.row_ids]
    keep = order[rank < fanout].sort().values
    kept = rows.degree.clamp(max=fanout)
    scale = rows.degree / kept.clamp(min=1)
    values = rows.values[keep] * scale[rows.row_ids[keep]]
    return CSR(_offsets(kept.long()), rows.indices[keep], values, rows.shape)


def _block(rows: CSR, nodes: Tensor) -> Block:
    """Relabel the columns of `rows`: the output nodes first, then the others in order of id."""
    position = torch.full((rows.shape[1],), -1, dtype=torch.int32, device=rows.device)
    position[nodes] = torch.arange(nodes.numel(), dtype=torch.int32, device=rows.device)
    columns = rows.indices.long()
    others = torch.unique(columns[position[columns] < 0])
    fresh = torch.arange(others.numel(), dtype=torch.int32, device=rows.device)
    position[others] = fresh + nodes.numel()
    inputs = torch.cat([nodes, others])
    shape = (nodes.numel(), inputs.numel())
    adj = CSR(rows.indptr, position[columns], rows.values, shape)
    return Block(adj, inputs, nodes.numel())


def propagate(block: Block, h: Tensor) -> Tensor:
    """Multiply a block [n_out, n_in] by hidden states [n_in, H]."""
    return spmm(block.adj, h)


@dataclass(frozen=True, eq=False)
class Split:
    """Roles of the nodes: int64 ids, disjoint; `unlabelled` are in none of the other four."""

    train: Tensor
    val: Tensor
    unlabelled: Tensor
    test_observed: Tensor
    test_unseen: Tensor

    @functools.cached_property
    def observed(self) -> Tensor:
        """All nodes visible while training, in the order train, val, test_observed, unlabelled."""
        return torch.cat([self.train, self.val, self.test_observed, self.unlabelled])


@dataclass(frozen=True, eq=False)
class TeacherOutput:
    """A frozen teacher on the observed graph: logits [N, C]; hidden [N, H] on demand; its model."""

    logits: Tensor
    load_model: Callable[[], Any] | None = None  # rebuilds the teacher from its stored weights
    compute_hidden: Callable[[], Tensor] | None = None

    def log_probs(self, temperature: float = 1.0) -> Tensor:
        """Return log_softmax(logits / temperature) [N, C], computed once a temperature."""
        cache = self.__dict__.setdefault("_log_probs", {})
        if temperature not in cache:
            cache[temperature] = torch.log_softmax(self.logits / temperature, dim=1)
        return cache[temperature]

    @functools.cached_property
    def model(self) -> Any:
        """The teacher itself, in eval mode, loaded when first asked for."""
        if self.load_model is None:
            raise ValueError("this teacher output came without a model")
        return self.load_model()

    @functools.cached_property
    def hidden(self) -> Tensor:
        """The teacher's last hidden states [N, H] on the observed graph."""
        if self.compute_hidden is None:
            raise ValueError("this teacher output came without hidden states")
        return self.compute_hidden()


@dataclass(frozen=True, eq=False)
class Task:
    """All that a method may know: the observed graph with the labels of `train` only.

    `split` counts in the observed graph's ids; its `test_unseen` is empty. `val_accuracy` scores
    logits [len(split.val), C] without handing out a val label.
    """

    graph: Graph
    split: Split
    teacher: TeacherOutput | None
    seed: int
    val_accuracy: Callable[[Tensor], float]

    @property
    def num_nodes(self) -> int:
        """Number of observed nodes."""
        return self.graph.num_nodes

    @functools.cached_property
    def nodes(self) -> Tensor:
        """All observed nodes, int64 [N]."""
        return torch.arange(self.num_nodes, device=self.graph.adj.device)


@dataclass(frozen=True, eq=False)
class Dataset:
    """What a loader returns: the whole graph, labels included, as upstream ships it.

    `graph.adj` has no self-loops, is symmetric and binary. `fixed_splits` holds the splits that
    come with the data, by name (`public`, `official`): a list of (train, val, test) int64 ids.
    """

    name: str
    graph: Graph
    checksum: str  # sha256 of the raw content, never of a path
    fixed_splits: Mapping[str, list[tuple[Tensor, Tensor, Tensor]]] = field(default_factory=dict)
    accuracy: Callable[[np.ndarray, np.ndarray], float] | None = None  # the dataset's own Evaluator
