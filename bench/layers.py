"""Layers that two or more methods use: sparse first layer, MLP, graph convolutions.

Hidden states are float32 [n, H]. Convolutions take a `Block` (graph.py): n_in input rows come in,
the n_out output rows go out, and the outputs are the first n_out inputs.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bench.fused import relu_dropout
from bench.graph import Block, Graph, propagate
from bench.hparams import TrainConfig, hp
from bench.sparse import CSR, edge_softmax, gather_spmm, spmm, weighted_spmm


class Linear(nn.Module):
    """x W + b with W stored [in, out], for dense or sparse x and for the rows of a graph.

    The layout is what a sparse x wants: each stored feature adds one row of W. Drawn as
    `torch.nn.Linear` draws its own, or Glorot-uniform with a gain.

    Shapes: dense h [n, in] -> [n, out]; `of_graph` reads [x, extra] of the graph: in = F + P.
    """

    def __init__(
        self, size_in: int, size_out: int, *, gain: float = 0.0, bias: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size_in, size_out))
        self.bias = nn.Parameter(torch.zeros(size_out)) if bias else None
        if gain:
            nn.init.xavier_uniform_(self.weight, gain)
            return
        bound = 1.0 / math.sqrt(size_in)
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, h: Tensor) -> Tensor:
        """Multiply dense rows."""
        return h @ self.weight if self.bias is None else torch.addmm(self.bias, h, self.weight)

    def of_graph(self, graph: Graph, nodes: Tensor | None = None, dropout: float = 0.0) -> Tensor:
        """Multiply the features of `nodes` (all without); `dropout` > 0 drops stored features."""
        product = self._of_features(graph, nodes, dropout)
        if graph.shift is None:
            return product
        shift = graph.shift if nodes is None else graph.shift[nodes]  # [n, F + P], dense
        return torch.addmm(product, F.dropout(shift, dropout, dropout > 0), self.weight)

    def _of_features(self, graph: Graph, nodes: Tensor | None, dropout: float) -> Tensor:
        x, extra = graph.x, graph.extra
        if not isinstance(x, CSR) and extra is None:
            return self(F.dropout(x if nodes is None else x[nodes], dropout, dropout > 0))
        # A split has one gradient of the whole weight; two slices have two, padded with zeros.
        size, more = graph.num_features, len(self.weight) - graph.num_features
        weights = [self.weight] if extra is None else list(self.weight.split([size, more]))
        if isinstance(x, CSR):
            product = _sparse_product(x, nodes, weights[0], self.bias, dropout)
        else:
            dense = x if nodes is None else x[nodes]
            product = F.dropout(dense, dropout, dropout > 0) @ weights[0]
            product = product if self.bias is None else product + self.bias
        if extra is not None:
            own = extra if nodes is None else extra.index_select(0, nodes)
            product = torch.addmm(product, F.dropout(own, dropout, dropout > 0), weights[1])
        return product


def _sparse_product(
    x: CSR, nodes: Tensor | None, weight: Tensor, bias: Tensor | None, dropout: float
) -> Tensor:
    if dropout:
        # Scattering its gradient needs no transpose of a matrix that changes at every call.
        x = x if nodes is None else x.rows(nodes)
        x = x.with_values(F.dropout(x.values, dropout))
        nodes = torch.arange(x.shape[0], device=x.device)
    if nodes is not None:
        return gather_spmm(x, nodes, weight, bias)
    product = spmm(x, weight)
    return product if bias is None else product + bias


class BatchNorm(nn.BatchNorm1d):
    """torch's, with a sentence where there is nothing to average over."""

    def forward(self, h: Tensor) -> Tensor:
        """Normalise [n, H]; n is 2 or more while training."""
        if self.training and len(h) == 1:
            raise ValueError(
                "norm 'batch' averages over the nodes of a batch, and one batch has a single node; "
                "give a larger batch_size (0: full batch), or another norm"
            )
        return super().forward(h)


def make_norm(kind: str, size: int) -> nn.Module:
    """Return the normalisation layer `none`, `batch`, `layer` or one after the other with `+`."""
    kinds = {"batch": BatchNorm, "layer": nn.LayerNorm}
    if kind == "none":
        return nn.Identity()
    norms = [kinds[name](size) for name in kind.split("+")]
    return norms[0] if len(norms) == 1 else nn.Sequential(*norms)


class MLP(nn.Module):
    """Linear -> [norm] -> ReLU -> dropout, L - 1 times, then Linear; no dropout on the input.

    Source: GLNN, arXiv 2110.08727 (models.py: MLP). `forward` also returns the last hidden states
    before norm and ReLU (the input's product for one layer alone).
    """

    def __init__(
        self, sizes: list[int], *, norm: str = "none", dropout: float = 0.0, gain: float = 0.0
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Linear(a, b, gain=gain) for a, b in itertools.pairwise(sizes)])
        self.norms = nn.ModuleList([make_norm(norm, size) for size in sizes[1:-1]])
        self.dropout = dropout

    def forward(self, graph: Graph, nodes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return logits [n, C] and hidden [n, H] of `nodes`."""
        hidden = h = self.layers[0].of_graph(graph, nodes)  # type: ignore[operator]
        for norm, layer in zip(self.norms, list(self.layers)[1:], strict=True):
            hidden = h
            h = layer(relu_dropout(norm(h), self.dropout, self.training))
        return h, hidden


@dataclass(frozen=True)
class MLPConfig(TrainConfig):
    """Hyper-parameters that every MLP-shaped student has."""

    num_layers: int = hp(2, low=1, high=16, search=(2, 3))
    hidden_dim: int = hp(128, low=1, high=16384, log=True)  # what a student costs is not tuned
    width_factor: float = hp(1.0, low=0.1, high=64.0, log=True)  # MLPwX: X times hidden_dim
    dropout: float = hp(0.0, low=0.0, high=0.95, search=(0.0, 0.8))  # on hidden states
    norm: str = hp("none", choices=("none", "batch", "layer"))
    batch_size: int = hp(512, low=0, high=1_000_000)  # 0: full batch

    @property
    def width(self) -> int:
        """Units of a hidden layer."""
        return max(1, round(self.hidden_dim * self.width_factor))

    def build(self, num_features: int, num_classes: int) -> MLP:
        """Return the MLP of this shape."""
        sizes = [num_features, *[self.width] * (self.num_layers - 1), num_classes]
        return MLP(sizes, norm=self.norm, dropout=self.dropout)


class GCNConv(nn.Module):
    """D^-1/2 A D^-1/2 H W + b, A as stored (Kipf & Welling, arXiv 1609.02907, Eq. 2)."""

    def __init__(self, size_in: int, size_out: int) -> None:
        super().__init__()
        self.linear = Linear(size_in, size_out, gain=1.0, bias=False)
        self.bias = nn.Parameter(torch.zeros(size_out))

    def forward(self, block: Block, h: Tensor) -> Tensor:
        """Convolve hidden states [n_in, H] to [n_out, H']."""
        return _multiply(block, h, self.linear) + self.bias

    def of_graph(self, block: Block, graph: Graph, dropout: float) -> Tensor:
        """Convolve the features of the block's input nodes."""
        return propagate(block, self.linear.of_graph(graph, block.inputs, dropout)) + self.bias


class SAGEConv(nn.Module):
    """GraphSAGE (Hamilton et al., arXiv 1706.02216), aggregator `gcn` or `mean`.

    gcn: W (sum of the neighbours + self) / (degree + 1) + b, one weight; the block's weights are
    those of `normalise(.., "mean+self")`. mean: W_self h + W (mean of the neighbours) + b.
    """

    def __init__(self, size_in: int, size_out: int, *, aggregator: str) -> None:
        super().__init__()
        gain = math.sqrt(2.0)
        self.linear = Linear(size_in, size_out, gain=gain, bias=False)
        own = Linear(size_in, size_out, gain=gain, bias=False) if aggregator == "mean" else None
        self.own = own
        self.bias = nn.Parameter(torch.zeros(size_out))

    def forward(self, block: Block, h: Tensor) -> Tensor:
        """Convolve hidden states [n_in, H] to [n_out, H']."""
        out = _multiply(block, h, self.linear) + self.bias
        return out if self.own is None else out + self.own(h[: block.num_outputs])

    def of_graph(self, block: Block, graph: Graph, dropout: float) -> Tensor:
        """Convolve the features of the block's input nodes."""
        out = propagate(block, self.linear.of_graph(graph, block.inputs, dropout)) + self.bias
        if self.own is None:
            return out
        outputs = None if block.inputs is None else block.inputs[: block.num_outputs]
        return out + self.own.of_graph(graph, outputs, dropout)


class GATConv(nn.Module):
    """Graph attention (Velickovic et al., arXiv 1710.10903, Eq. 1-6), slope 0.2.

    Shapes: [n_in, H] -> [n_out, heads * size_out], heads concatenated (for one head: that head).
    """

    def __init__(
        self, size_in: int, size_out: int, *, heads: int, attention_dropout: float
    ) -> None:
        super().__init__()
        self.heads, self.size_out, self.attention_dropout = heads, size_out, attention_dropout
        self.linear = Linear(size_in, heads * size_out, gain=math.sqrt(2.0), bias=False)
        self.attend_source = nn.Parameter(torch.empty(heads, size_out))
        self.attend_target = nn.Parameter(torch.empty(heads, size_out))
        self.bias = nn.Parameter(torch.zeros(heads * size_out))
        for weight in (self.attend_source, self.attend_target):
            nn.init.xavier_normal_(weight, math.sqrt(2.0))

    def forward(self, block: Block, h: Tensor) -> Tensor:
        """Convolve hidden states [n_in, H]."""
        return self._attend(block, self.linear(h))

    def of_graph(self, block: Block, graph: Graph, dropout: float) -> Tensor:
        """Convolve the features of the block's input nodes."""
        return self._attend(block, self.linear.of_graph(graph, block.inputs, dropout))

    def _attend(self, block: Block, product: Tensor) -> Tensor:
        h = product.view(-1, self.heads, self.size_out)  # [n_in, heads, D]
        source = (h * self.attend_source).sum(-1)  # [n_in, heads]
        target = (h[: block.num_outputs] * self.attend_target).sum(-1)  # [n_out, heads]
        adj = block.adj
        # The gradient of `index_select` adds up in one order; that of `source[ids]` does not.
        ends = source.index_select(0, adj.indices.long()), target.index_select(0, adj.row_ids)
        scores = F.leaky_relu(ends[0] + ends[1], 0.2)
        probs = edge_softmax(adj, scores)  # [nnz, heads]
        probs = F.dropout(probs, self.attention_dropout, self.training)
        out = weighted_spmm(adj, probs, h)  # [n_out, heads, D]
        return out.flatten(1) + self.bias


def _multiply(block: Block, h: Tensor, linear: Linear) -> Tensor:
    """(A h) W in the cheaper order."""
    size_in, size_out = linear.weight.shape
    n_out, n_in = block.adj.shape
    first = block.adj.nnz * size_out + n_in * size_in * size_out
    last = block.adj.nnz * size_in + n_out * size_in * size_out
    return propagate(block, linear(h)) if first <= last else linear(propagate(block, h))


class ConvStack(nn.Module):
    """Convolutions with ReLU, norm and dropout between them.

    `relu_first` puts ReLU before the norm (as a convolution with a built-in ReLU does); `hidden`
    are then the states after ReLU, else those before norm and ReLU. `input_dropout` drops features.
    """

    def __init__(
        self,
        convolutions: list[nn.Module],
        sizes: list[int],
        *,
        norm: str = "none",
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        relu_first: bool = False,
    ) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(convolutions)
        self.norms = nn.ModuleList([make_norm(norm, size) for size in sizes])
        self.dropout, self.input_dropout, self.relu_first = dropout, input_dropout, relu_first

    def forward(self, graph: Graph, nodes: Tensor | None, kind: str) -> tuple[Tensor, Tensor]:
        """Return logits [n, C] and hidden [n, H] of `nodes`, from their whole receptive field.

        While training with batch norm all nodes are computed: the statistics are those of the
        graph.
        """
        whole = self.training and any(isinstance(n, nn.BatchNorm1d) for n in self.norms)
        blocks = graph.blocks(None if whole else nodes, len(self.convolutions), kind)
        logits, hidden = self.of_blocks(graph, blocks)
        return (logits[nodes], hidden[nodes]) if whole and nodes is not None else (logits, hidden)

    def of_blocks(self, graph: Graph, blocks: list[Block]) -> tuple[Tensor, Tensor]:
        """Return logits [n, C] and hidden [n, H] of the last block's outputs."""
        dropout = self.input_dropout if self.training else 0.0
        hidden = h = self.convolutions[0].of_graph(blocks[0], graph, dropout)  # type: ignore[operator]
        for i, norm in enumerate(self.norms):
            if self.relu_first:
                hidden = h.relu()
                h = F.dropout(norm(hidden), self.dropout, self.training)
            else:
                hidden = h
                h = relu_dropout(norm(hidden), self.dropout, self.training)
            h = self.convolutions[i + 1](blocks[i + 1], h)
        return h, hidden[: blocks[-1].num_outputs]


def shuffled(nodes: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield random batches of `size` nodes (int64 ids), the remainder dropped.

    Fewer nodes than `size`, or size 0, make one batch of all, in random order.

    Source: GLNN, arXiv 2110.08727 (train_and_eval.py: train_mini_batch).
    """
    count = nodes.numel()
    order = nodes[torch.randperm(count, generator=generator).to(nodes.device)]
    size = size if 0 < size <= count else count
    for first in range(0, count - size + 1, size):
        yield order[first : first + size]
