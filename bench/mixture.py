"""Sums of experts, y_b = sum over the chosen e of g_be * dropout_e(x_b) W_e, and their gradients.

Only the pairs (row, expert) that are chosen are computed, in training and at inference:

* dense x: the rows of an expert are gathered (with its dropout), multiplied and added, in blocks
  that stay in the cache: one matrix product a block and expert.
* sparse x: one compiled loop over the stored features of each pair.

Every expert draws its own dropout mask; the masks are functions of a counter and never stored. On a
GPU, and in double precision, the same sums are made of torch's own operations.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from bench import expert_kernels, kernels
from bench.graph import Graph
from bench.sparse import CSR, _array, _arrays, _count, gather_spmm, spmm

BLOCK = 2**18  # floats of a block of gathered rows: 1 MiB


@dataclass(frozen=True, eq=False)
class Routing:
    """Which experts each row goes to: experts int64 [n, k], distinct in a row, and gates [n, k]."""

    experts: Tensor
    gates: Tensor

    def spread(self, num_experts: int) -> Tensor:
        """Return the gates as [n, E], zero where a row does not go."""
        zeros = self.gates.new_zeros(len(self.gates), num_experts)
        return zeros.scatter(1, self.experts, self.gates)


@dataclass(frozen=True, eq=False)
class Inputs:
    """The rows that a layer reads: features of a graph, kept sparse, or hidden states.

    The columns are those of `x` (its rows `rows`; None: all) and then those of `dense` [n, P].
    """

    x: CSR | None
    rows: Tensor | None
    dense: Tensor | None

    @classmethod
    def of_graph(cls, graph: Graph, nodes: Tensor | None) -> "Inputs":
        """Read [x, extra], plus the graph's dense shift where it has one."""
        x, extra, shift = graph.x, graph.extra, getattr(graph, "shift", None)
        if extra is not None and nodes is not None:
            extra = extra[nodes]
        if isinstance(x, CSR) and shift is None:
            return cls(x, nodes, extra)
        if isinstance(x, CSR):
            dense = (x if nodes is None else x.rows(nodes)).to_dense()
        else:
            dense = x if nodes is None else x[nodes]
        dense = dense if extra is None else torch.cat([dense, extra], 1)
        if shift is not None:
            dense = dense + (shift if nodes is None else shift[nodes])
        return cls(None, None, dense)

    @property
    def count(self) -> int:
        """Number of rows, n."""
        if self.dense is not None:
            return len(self.dense)
        assert self.x is not None
        return self.x.shape[0] if self.rows is None else self.rows.numel()

    @property
    def device(self) -> torch.device:
        """Where the rows live."""
        part = self.x if self.dense is None else self.dense
        assert part is not None
        return part.device

    def split(self, weight: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """Cut a weight's input columns into those of `x` and those of `dense`."""
        size = 0 if self.x is None else self.x.shape[1]
        return weight.narrow(dim, 0, size), weight.narrow(dim, size, weight.shape[dim] - size)

    def norms(self) -> Tensor:
        """Length of each row [n], at least 1e-12."""
        if self.x is None:
            assert self.dense is not None
            return self.dense.norm(dim=1).clamp_min(1e-12)
        squares = _squares(self.x) if self.rows is None else _squares(self.x)[self.rows]
        if self.dense is not None:
            squares = squares + self.dense.square().sum(1)
        return squares.sqrt().clamp_min(1e-12)

    def times(self, weight: Tensor) -> Tensor:
        """Multiply the rows by a weight [D, m]."""
        first, last = self.split(weight, 0)
        total = None
        if self.x is not None:
            rows = self.rows
            total = spmm(self.x, first) if rows is None else gather_spmm(self.x, rows, first)
        if self.dense is not None:
            total = self.dense @ last if total is None else total.addmm(self.dense, last)
        return cast(Tensor, total)

    @torch.no_grad()
    def sums(self, weights: Tensor) -> Tensor:
        """Return the weighted sums of the rows [m, D], from weights [n, m]."""
        parts = []
        if self.x is not None:
            with torch.enable_grad():  # the gradient of a product is the transposed product
                zeros = weights.new_zeros(self.x.shape[1], weights.shape[1]).requires_grad_()
                rows = self.rows
                made = spmm(self.x, zeros) if rows is None else gather_spmm(self.x, rows, zeros)
            parts.append(torch.autograd.grad(made, zeros, weights)[0].T)
        if self.dense is not None:
            parts.append(weights.T @ self.dense)
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    @torch.no_grad()
    def unit_rows(self) -> Any:
        """Return the rows at length 1, for a clustering: a numpy array, or a scipy matrix."""
        lengths = self.norms().cpu().numpy()[:, None]
        dense = None if self.dense is None else self.dense.cpu().numpy() / lengths
        if self.x is None:
            return dense
        from scipy.sparse import csr_matrix, hstack

        sparse = self.x if self.rows is None else self.x.rows(self.rows)
        unit = csr_matrix(sparse.to_scipy()).multiply(1.0 / lengths).tocsr()
        return unit if dense is None else hstack([unit, csr_matrix(dense)], format="csr")

    def mixture(self, weight: Tensor, routing: Routing, dropout: float) -> Tensor:
        """Return the weighted sum of the experts `weight` [E, D, H] for each row: [n, H]."""
        first, last = self.split(weight, 1)
        parts = []
        if self.x is not None:
            rows = torch.arange(self.count, device=self.device) if self.rows is None else self.rows
            parts.append(sparse_mixture(self.x, rows, first, routing, dropout))
        if self.dense is not None:
            parts.append(dense_mixture(self.dense, last, routing, dropout))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def _squares(x: CSR) -> Tensor:
    """Squared length of each row, computed once."""
    if "_squares" not in x.__dict__:
        zeros = x.values.new_zeros(x.shape[0])
        x.__dict__["_squares"] = zeros.index_add_(0, x.row_ids, x.values.square())
    return cast(Tensor, x.__dict__["_squares"])


# ---- the two sums ---------------------------------------------------------------------------


def dense_mixture(x: Tensor, weight: Tensor, routing: Routing, dropout: float) -> Tensor:
    """Sum the chosen experts of rows x [n, D]; gradients reach x, the weight and the gates."""
    experts, gates = routing.experts, routing.gates
    if x.device.type == "cpu" and all(t.dtype == torch.float32 for t in (x, weight, gates)):
        return cast(Tensor, _Dense.apply(x, weight, experts, gates, dropout))
    out = x.new_zeros(len(x), weight.shape[2])
    for expert, pairs in _groups(experts, len(weight)):
        rows = pairs // experts.shape[1]
        part = F.dropout(x[rows], dropout, dropout > 0) @ weight[expert]
        out = out.index_add(0, rows, part * gates.flatten()[pairs].unsqueeze(1))
    return out


def sparse_mixture(
    x: CSR, rows: Tensor, weight: Tensor, routing: Routing, dropout: float
) -> Tensor:
    """Sum the chosen experts of the rows `rows` of x; gradients reach the weight and the gates."""
    experts, gates = routing.experts, routing.gates
    stored = (x.indptr[rows + 1] - x.indptr[rows]).sum()
    _count(int(stored) * experts.shape[1] * weight.shape[2])
    if x.device.type == "cpu" and all(t.dtype == torch.float32 for t in (weight, gates)):
        return cast(Tensor, _Sparse.apply(x, rows, weight, experts, gates, dropout))
    out = weight.new_zeros(len(rows), weight.shape[2])
    for expert, pairs in _groups(experts, len(weight)):
        mine = pairs // experts.shape[1]
        own = x.rows(rows[mine])
        own = own.with_values(F.dropout(own.values, dropout, dropout > 0))
        part = spmm(own, weight[expert])
        out = out.index_add(0, mine, part * gates.flatten()[pairs].unsqueeze(1))
    return out


def _groups(experts: Tensor, num_experts: int) -> Iterator[tuple[int, Tensor]]:
    """Yield each expert that has rows, and its pairs (positions in `experts` flattened)."""
    flat = experts.flatten()
    counts = torch.bincount(flat, minlength=num_experts).tolist()
    for expert, pairs in enumerate(torch.argsort(flat, stable=True).split(counts)):
        if pairs.numel():
            yield expert, pairs


@dataclass(frozen=True)
class _Dropout:
    """One draw of masks, as the kernels take it; the scale is 1 where nothing is dropped."""

    keep_to: np.uint32
    scale: np.float32
    seed: np.uint32

    @classmethod
    def draw(cls, probability: float) -> "_Dropout":
        if not probability:
            return cls(np.uint32(2**32 - 1), np.float32(1.0), np.uint32(0))
        keep = max(round((1.0 - probability) * 2**32), 1) - 1
        seed = np.uint32(int(torch.randint(2**32, (1,))))
        return cls(np.uint32(keep), np.float32(1.0 / (1.0 - probability)), seed)

    @property
    def parts(self) -> tuple[np.uint32, np.float32, np.uint32]:
        return self.keep_to, self.scale, self.seed


@dataclass(frozen=True)
class _Block:
    """Some rows of one expert: their ids, their gates, and their pairs."""

    expert: int
    pairs: Tensor
    rows: Tensor
    gates: Tensor


def _blocks(experts: Tensor, gates: Tensor, weight: Tensor) -> list[_Block]:
    """Cut the pairs into blocks whose gathered rows stay in the cache."""
    size = max(BLOCK // max(weight.shape[1:]), 64)
    return [
        _Block(expert, some, some // experts.shape[1], gates.flatten()[some])
        for expert, pairs in _groups(experts, len(weight))
        for some in pairs.split(size)
    ]


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, experts: Tensor, gates: Tensor, dropout: float
    ) -> Tensor:
        ctx.masks, ctx.blocks = _Dropout.draw(dropout), _blocks(experts, gates, weight)
        ctx.save_for_backward(x, weight)
        ctx.pairs = gates.shape
        out = torch.zeros(len(x), weight.shape[2])
        for block in ctx.blocks:
            part = _gathered(x, block, ctx.masks) @ weight[block.expert]
            expert_kernels.add_scaled(
                part.numpy(), block.rows.numpy(), _array(block.gates), out.numpy()
            )
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, _, needs_gates, _ = ctx.needs_input_grad
        grad_x = torch.zeros_like(x, memory_format=torch.contiguous_format) if needs_x else None
        grad_weight = torch.zeros_like(weight) if needs_weight else None
        grad_gates = torch.empty(ctx.pairs) if needs_gates else None
        for block in ctx.blocks:
            above = grad[block.rows]
            below = above @ weight[block.expert].T if needs_x or needs_gates else None
            part = _gathered(x, block, ctx.masks) if needs_weight or needs_gates else None
            if grad_gates is not None and part is not None and below is not None:
                grad_gates.view(-1)[block.pairs] = (part * below).sum(1)
            if grad_weight is not None and part is not None:
                above *= block.gates.unsqueeze(1)
                grad_weight[block.expert].addmm_(part.T, above)
            if grad_x is not None and below is not None:
                ids = block.rows.numpy(), _array(block.gates), block.expert
                expert_kernels.scatter(below.numpy(), *ids, *ctx.masks.parts, grad_x.numpy())
        return grad_x, grad_weight, None, grad_gates, None


def _gathered(x: Tensor, block: _Block, masks: _Dropout) -> Tensor:
    """The rows of a block as its expert sees them."""
    if masks.scale == 1.0:
        return x.detach()[block.rows]
    out = torch.empty(len(block.rows), x.shape[1])
    expert_kernels.gather(_array(x), block.rows.numpy(), block.expert, *masks.parts, out.numpy())
    return out


class _Sparse(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: CSR,
        rows: Tensor,
        weight: Tensor,
        experts: Tensor,
        gates: Tensor,
        dropout: float,
    ) -> Tensor:
        ctx.x, ctx.rows, ctx.masks = x, rows, _Dropout.draw(dropout)
        ctx.save_for_backward(weight, experts, gates)
        out = torch.empty(len(rows), weight.shape[2])
        expert_kernels.sparse_forward(
            *_arrays(x), rows.numpy(), experts.numpy(), _array(gates), _array(weight),
            *ctx.masks.parts, out.numpy(),
        )  # fmt: skip
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, experts, gates = ctx.saved_tensors
        grad_gates = grad_weight = None
        if ctx.needs_input_grad[4]:
            grad_gates = torch.empty_like(gates)
            expert_kernels.sparse_gate_grad(
                *_arrays(ctx.x), ctx.rows.numpy(), experts.numpy(), _array(weight), _array(grad),
                *ctx.masks.parts, grad_gates.numpy(),
            )  # fmt: skip
        if ctx.needs_input_grad[2]:
            grad_weight = _weight_grad(ctx, weight, experts, gates, grad)
        return None, None, grad_weight, None, grad_gates, None


def _weight_grad(ctx: Any, weight: Tensor, experts: Tensor, gates: Tensor, grad: Tensor) -> Tensor:
    """The gradient of sparse experts; a batch of many nodes goes through x transposed."""
    x, rows, out = ctx.x, ctx.rows, torch.zeros_like(weight)
    routed = experts.numpy(), _array(gates), _array(grad), *ctx.masks.parts
    if 4 * len(rows) < x.shape[0]:
        expert_kernels.sparse_scatter(
            *_arrays(x), rows.numpy(), *routed, kernels.threads(), out.numpy()
        )
        return out
    position = torch.full((x.shape[0],), -1)
    position[rows] = torch.arange(len(rows))
    entries = x.order_of_transpose
    expert_kernels.sparse_transposed(
        x.t.indptr.numpy(), x.t.indices.numpy(), entries.numpy(), x.t.values.numpy(),
        position.numpy(), *routed, out.numpy(),
    )  # fmt: skip
    return out
