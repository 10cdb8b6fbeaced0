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
from bench.sparse import CSR, _listeners, array, arrays, spmm, tell_macs

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
    if _listeners:  # a sum that nobody hears is not worth waiting for
        stored = int((x.indptr[rows + 1] - x.indptr[rows]).sum())
        tell_macs(stored * experts.shape[1] * weight.shape[2])
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
        out, data, masks = base.detach().numpy(), array(x), ctx.masks
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
        data, dots, seen = array(x), torch.empty(len(downs)), set[int]()
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
            *arrays(x), rows.numpy(), experts.numpy(), array(gates), array(weight),
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
                *arrays(ctx.x), ctx.rows.numpy(), experts.numpy(), array(weight), array(grad),
                *ctx.masks.parts, grad_gates.numpy(),
            )  # fmt: skip
        if ctx.needs_input_grad[3]:
            grad_weight = _weight_grad(ctx, weight, experts, gates, grad)
        return grad, None, None, grad_weight, None, grad_gates, None


def _weight_grad(ctx: Any, weight: Tensor, experts: Tensor, gates: Tensor, grad: Tensor) -> Tensor:
    """The gradient of sparse experts; a batch of many nodes goes through x transposed."""
    x, rows = ctx.x, ctx.rows
    routed = experts.numpy(), array(gates), array(grad), *ctx.masks.parts
    if 4 * len(rows) < x.shape[0]:
        out = torch.zeros(weight.shape)
        expert_kernels.sparse_scatter(
            *arrays(x), rows.numpy(), *routed, kernels.threads(), out.numpy()
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
