"""What a layer of experts reads: rows of a graph's features, kept sparse, or hidden states."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from bench.graph import Graph
from bench.kept import once
from bench.mixture import Routing, dense_mixture, sparse_mixture
from bench.sparse import CSR, gather_spmm, spmm, transposed_product


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
        x, extra, shift = graph.x, graph.extra, graph.shift
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
            parts.append(transposed_product(self.x, self.rows, weights).T)
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
    zeros = x.values.new_zeros
    return once(x, "squares", lambda: zeros(x.shape[0]).index_add_(0, x.row_ids, x.values.square()))


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
