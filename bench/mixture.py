"""Sums of experts, y_b = sum over the chosen e of g_be * dropout_e(x_b) W_e, and their gradients.

Only the pairs (row, expert) that are chosen are computed, in training and at inference. Dense x:
the rows of an expert are gathered (with its dropout), multiplied and added, in blocks that stay in
the cache. Sparse x: one compiled loop over the stored features of each pair. Forward and backward
on one thread, 2,708 rows, 3 experts chosen (`python -m tests.benchmarks.speed_rbm`):

| layer, experts         | all experts, then weights | torch, by expert | padded bmm | this   |
|------------------------|---------------------------|------------------|------------|--------|
| 512 -> 512, 4          | 213 ms                    | 277 ms           | 264 ms     | 174 ms |
| 512 -> 512, 8          | 416 ms                    | 318 ms           | 276 ms     | 178 ms |
| 128 -> 128, 8          | 45 ms                     | 57 ms            | 47 ms      | 21 ms  |
| 1433, sparse -> 512, 4 | 81 ms                     | 535 ms (dense)   |            | 31 ms  |
| 1433, sparse -> 512, 8 | 195 ms                    | 610 ms (dense)   |            | 42 ms  |

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
        if size in (0, weight.shape[dim]):  # the gradient of a part is filled up with zeros
            return weight, weight
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

    def cosines(self, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cosines [n, m] with directions [m, D] of length 1, and the rows' norms [n].

        The gradient reaches dense rows, and the directions.
        """
        if self.x is None and self.dense is not None and self.dense.requires_grad:
            return cast(tuple[Tensor, Tensor], _Cosines.apply(self.dense, directions))
        norms = self.norms()
        return self.times(directions.T) / norms.unsqueeze(1), norms

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

    def mixture(self, base: Tensor, weight: Tensor, routing: Routing, dropout: float) -> Tensor:
        """Add to base [n, H], in place, the experts `weight` [E, D, H] of each row, times gates."""
        first, last = self.split(weight, 1)
        if self.x is not None:
            rows = torch.arange(self.count, device=self.device) if self.rows is None else self.rows
            base = sparse_mixture(base, self.x, rows, first, routing, dropout)
        if self.dense is not None:
            base = dense_mixture(base, self.dense, last, routing, dropout)
        return base


def _squares(x: CSR) -> Tensor:
    """Squared length of each row, computed once."""
    if "_squares" not in x.__dict__:
        zeros = x.values.new_zeros(x.shape[0])
        x.__dict__["_squares"] = zeros.index_add_(0, x.row_ids, x.values.square())
    return cast(Tensor, x.__dict__["_squares"])


# ---- the two sums ---------------------------------------------------------------------------


def dense_mixture(
    base: Tensor, x: Tensor, weight: Tensor, routing: Routing, dropout: float
) -> Tensor:
    """Add to base [n, H] the chosen experts of the rows x [n, D]; gradients reach all but masks."""
    experts, gates = routing.experts, routing.gates
    if _compiled(base, x, weight, gates):
        return cast(Tensor, _Dense.apply(base, x, weight, experts, gates, dropout))
    for expert, pairs in _groups(experts, len(weight)):
        rows = pairs // experts.shape[1]
        part = F.dropout(x[rows], dropout, dropout > 0) @ weight[expert]
        base = base.index_add(0, rows, part * gates.flatten()[pairs].unsqueeze(1))
    return base


def sparse_mixture(
    base: Tensor, x: CSR, rows: Tensor, weight: Tensor, routing: Routing, dropout: float
) -> Tensor:
    """Add to base [n, H] the chosen experts of x[rows]; gradients reach base, weight and gates."""
    experts, gates = routing.experts, routing.gates
    stored = (x.indptr[rows + 1] - x.indptr[rows]).sum()
    _count(int(stored) * experts.shape[1] * weight.shape[2])
    if _compiled(base, x.values, weight, gates):
        return cast(Tensor, _Sparse.apply(base, x, rows, weight, experts, gates, dropout))
    for expert, pairs in _groups(experts, len(weight)):
        mine = pairs // experts.shape[1]
        own = x.rows(rows[mine])
        own = own.with_values(F.dropout(own.values, dropout, dropout > 0))
        part = spmm(own, weight[expert])
        base = base.index_add(0, mine, part * gates.flatten()[pairs].unsqueeze(1))
    return base


def _compiled(*tensors: Tensor) -> bool:
    return all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)


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
        _Block(expert, some, some // experts.shape[1], gates.detach().flatten()[some])
        for expert, pairs in _groups(experts, len(weight))
        for some in pairs.split(size)
    ]


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        base: Tensor,
        x: Tensor,
        weight: Tensor,
        experts: Tensor,
        gates: Tensor,
        dropout: float,
    ) -> Tensor:
        ctx.masks, ctx.blocks = _Dropout.draw(dropout), _blocks(experts, gates, weight)
        ctx.save_for_backward(x, weight)
        ctx.mark_dirty(base)
        ctx.pairs = gates.shape
        gathered, made = _scratch(ctx.blocks, x.shape[1], weight.shape[2])
        out, data, masks = base.detach().numpy(), _array(x), ctx.masks
        for block in ctx.blocks:
            count = len(block.rows)
            part = gathered[:count]
            if masks.scale == 1.0:
                torch.index_select(x.detach(), 0, block.rows, out=part)
            else:
                ids = block.rows.numpy(), block.expert
                expert_kernels.gather(data, *ids, *masks.parts, part.numpy())
            torch.mm(part, weight.detach()[block.expert], out=made[:count])
            expert_kernels.add_scaled(made.numpy(), block.rows.numpy(), block.gates.numpy(), out)
        return base

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        _, needs_x, needs_weight, _, needs_gates, _ = ctx.needs_input_grad
        grad_x = torch.zeros(x.shape)
        grad_weight = torch.empty(weight.shape) if needs_weight else None
        grad_gates = torch.empty(ctx.pairs) if needs_gates else None
        gathered, ups, downs = _scratch(ctx.blocks, x.shape[1], weight.shape[2], x.shape[1])
        data, dots, seen = _array(x), torch.empty(len(downs)), set[int]()
        for block in ctx.blocks:
            count = len(block.rows)
            part, above, below = gathered[:count], ups[:count], downs[:count]
            torch.index_select(grad, 0, block.rows, out=above)
            torch.mm(above, weight[block.expert].T, out=below)
            expert_kernels.scatter(
                data, below.numpy(), block.rows.numpy(), block.gates.numpy(), block.expert,
                *ctx.masks.parts, part.numpy(), grad_x.numpy(), dots.numpy(),
            )  # fmt: skip
            if grad_gates is not None:
                grad_gates.view(-1)[block.pairs] = dots[:count]
            if grad_weight is not None:
                above *= block.gates.unsqueeze(1)
                torch.addmm(
                    grad_weight[block.expert], part.T, above,
                    beta=float(block.expert in seen), out=grad_weight[block.expert],
                )  # fmt: skip
            seen.add(block.expert)
        if grad_weight is not None:
            grad_weight[[e for e in range(len(weight)) if e not in seen]] = 0.0
        return grad, grad_x if needs_x else None, grad_weight, None, grad_gates, None


def _scratch(blocks: list[_Block], *widths: int) -> list[Tensor]:
    """Room for the rows of a block, used again by the next one: it stays in the cache."""
    rows = max((len(block.rows) for block in blocks), default=0)
    return [torch.empty(rows, width) for width in widths]


class _Sparse(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        base: Tensor,
        x: CSR,
        rows: Tensor,
        weight: Tensor,
        experts: Tensor,
        gates: Tensor,
        dropout: float,
    ) -> Tensor:
        ctx.x, ctx.rows, ctx.masks = x, rows, _Dropout.draw(dropout)
        ctx.save_for_backward(weight, experts, gates)
        ctx.mark_dirty(base)
        expert_kernels.sparse_forward(
            *_arrays(x), rows.numpy(), experts.numpy(), _array(gates), _array(weight),
            *ctx.masks.parts, base.detach().numpy(),
        )  # fmt: skip
        return base

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, experts, gates = ctx.saved_tensors
        grad_gates = grad_weight = None
        if ctx.needs_input_grad[5]:
            grad_gates = torch.empty(gates.shape)
            expert_kernels.sparse_gate_grad(
                *_arrays(ctx.x), ctx.rows.numpy(), experts.numpy(), _array(weight), _array(grad),
                *ctx.masks.parts, grad_gates.numpy(),
            )  # fmt: skip
        if ctx.needs_input_grad[3]:
            grad_weight = _weight_grad(ctx, weight, experts, gates, grad)
        return grad, None, None, grad_weight, None, grad_gates, None


def _weight_grad(ctx: Any, weight: Tensor, experts: Tensor, gates: Tensor, grad: Tensor) -> Tensor:
    """The gradient of sparse experts; a batch of many nodes goes through x transposed."""
    x, rows = ctx.x, ctx.rows
    routed = experts.numpy(), _array(gates), _array(grad), *ctx.masks.parts
    if 4 * len(rows) < x.shape[0]:
        out = torch.zeros(weight.shape)
        expert_kernels.sparse_scatter(
            *_arrays(x), rows.numpy(), *routed, kernels.threads(), out.numpy()
        )
        return out
    out = torch.empty(weight.shape)
    position = torch.full((x.shape[0],), -1)
    position[rows] = torch.arange(len(rows))
    expert_kernels.sparse_transposed(
        x.t.indptr.numpy(), x.t.indices.numpy(), x.order_of_transpose.numpy(),
        x.t.values.numpy(), position.numpy(), *routed, out.numpy(),
    )  # fmt: skip
    return out


class _Cosines(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        norms = x.norm(dim=1).clamp_min(1e-12)
        cosines = (x @ directions.T).div_(norms.unsqueeze(1))
        ctx.save_for_backward(x, directions, norms, cosines)
        ctx.mark_non_differentiable(norms)
        return cosines, norms

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor | None]:
        # d cos / dx = (m - cos x / |x|) / |x|; a row of zeros is given no direction.
        x, directions, norms, cosines = ctx.saved_tensors
        grad = (grad / norms.unsqueeze(1)).masked_fill_((norms <= 1e-12).unsqueeze(1), 0.0)
        along = (grad * cosines).sum(1).div_(norms).unsqueeze(1)
        grad_directions = grad.T @ x if ctx.needs_input_grad[1] else None
        return (grad @ directions).addcmul_(x, along, value=-1.0), grad_directions


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scaled: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(scaled, scale)
        return scaled.view_as(scaled)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        scaled, scale = ctx.saved_tensors
        return grad, torch.dot(grad.flatten(), scaled.flatten()) / scale


def credit_scale(scaled: Tensor, scale: Tensor) -> Tensor:
    """Return `scaled`, that was made with scale.detach(), so that the gradient reaches `scale` too.

    `scaled` is linear in `scale`, and its derivative scaled / scale: no product needs to be kept.
    """
    return cast(Tensor, _Scaled.apply(scaled, scale))


def warm_up() -> None:
    """Compile (or load) every kernel, so that no measurement or worker pays for it."""
    x = CSR(torch.tensor([0, 1, 2]), torch.tensor([0, 1], dtype=torch.int32), torch.ones(2), (2, 2))
    dense, weight = torch.ones(2, 2, requires_grad=True), torch.ones(1, 2, 1, requires_grad=True)
    gates = torch.ones(2, 1, requires_grad=True)
    routing = Routing(torch.zeros(2, 1, dtype=torch.int64), gates)
    total = dense_mixture(torch.zeros(2, 1), dense, weight, routing, 0.5)
    total = sparse_mixture(total, x, torch.arange(2), weight, routing, 0.5)
    total.sum().backward()
    many = CSR(torch.arange(10), torch.zeros(9, dtype=torch.int32), torch.ones(9), (9, 2))
    one = Routing(routing.experts[:1], gates.detach()[:1])  # a small batch is scattered
    sparse_mixture(torch.zeros(1, 1), many, torch.tensor([0]), weight, one, 0.5).sum().backward()
