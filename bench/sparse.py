"""Compressed sparse rows and the compiled products on them, with their gradients.

On the CPU the products run the compiled loops of kernels.py over int32 column indices; on a GPU the
same functions use torch's own sparse products. Every product is deterministic whatever the
number of threads: a thread owns whole rows (or whole columns) of the result.

Shapes: A is [R, C] in compressed rows, B is [C, H] dense, the product is [R, H].
"""

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from bench import kernels


@dataclass(frozen=True, eq=False)
class CSR:
    """A sparse float32 matrix in compressed rows, on one device.

    Shapes: indptr int64 [R + 1], indices int32 [nnz], values float32 [nnz], shape (R, C).
    """

    indptr: Tensor
    indices: Tensor
    values: Tensor
    shape: tuple[int, int]

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the fields alone: what is computed from them once is left behind."""
        return {name: self.__dict__[name] for name in ("indptr", "indices", "values", "shape")}

    @classmethod
    def from_scipy(cls, matrix: Any) -> "CSR":
        """Copy any scipy sparse matrix; duplicates are summed, columns are sorted."""
        matrix = matrix.tocsr(copy=True)
        matrix.sum_duplicates()
        return cls(
            torch.from_numpy(matrix.indptr.astype(np.int64)),
            torch.from_numpy(matrix.indices.astype(np.int32)),
            torch.from_numpy(matrix.data.astype(np.float32)),
            (int(matrix.shape[0]), int(matrix.shape[1])),
        )

    def to_scipy(self) -> Any:
        """Return a scipy `csr_array` that shares the memory where it can."""
        from scipy.sparse import csr_array

        parts = (self.values.cpu().numpy(), self.indices.cpu().numpy(), self.indptr.cpu().numpy())
        return csr_array(parts, shape=self.shape)

    @property
    def nnz(self) -> int:
        """Number of stored entries."""
        return self.indices.numel()

    @property
    def device(self) -> torch.device:
        """Where the entries live."""
        return self.values.device

    def to(self, device: str | torch.device) -> "CSR":
        """Return a copy on `device`, or itself."""
        if torch.device(device) == self.device:
            return self
        parts = (self.indptr.to(device), self.indices.to(device), self.values.to(device))
        return CSR(*parts, self.shape)

    def to_dense(self) -> Tensor:
        """Return the [R, C] dense matrix; duplicates are summed."""
        dense = torch.zeros(self.shape, device=self.device)
        return dense.index_put_((self.row_ids, self.indices.long()), self.values, accumulate=True)

    @functools.cached_property
    def row_ids(self) -> Tensor:
        """The row of every stored entry, int64 [nnz]."""
        rows = torch.arange(self.shape[0], device=self.device)
        return torch.repeat_interleave(rows, self.indptr.diff(), output_size=self.nnz)

    @functools.cached_property
    def order_of_transpose(self) -> Tensor:
        """Positions of the entries in the order of the transpose, int64 [nnz]."""
        return torch.argsort(self.indices, stable=True)

    @functools.cached_property
    def t(self) -> "CSR":
        """The transpose, computed once."""
        order = self.order_of_transpose
        counts = torch.bincount(self.indices.long(), minlength=self.shape[1])
        return CSR(
            _offsets(counts),
            self.row_ids[order].to(torch.int32),
            self.values[order],
            (self.shape[1], self.shape[0]),
        )

    @functools.cached_property
    def degree(self) -> Tensor:
        """Stored entries of each row, float32 [R]."""
        return self.indptr.diff().to(torch.float32)

    def with_values(self, values: Tensor) -> "CSR":
        """Return the same pattern with other values [nnz]."""
        return CSR(self.indptr, self.indices, values, self.shape)

    def rows(self, nodes: Tensor) -> "CSR":
        """Return the rows `nodes` (int64 [B]), in that order, as a [B, C] matrix."""
        starts = self.indptr[nodes]
        counts = self.indptr[nodes + 1] - starts
        offsets = _offsets(counts)
        entries = torch.repeat_interleave(starts - offsets[:-1], counts)
        entries = entries + torch.arange(entries.numel(), device=self.device)
        shape = (nodes.numel(), self.shape[1])
        return CSR(offsets, self.indices[entries], self.values[entries], shape)

    def submatrix(self, nodes: Tensor) -> "CSR":
        """Return rows and columns `nodes`, relabelled to 0..len(nodes)-1: an induced subgraph."""
        picked = self.rows(nodes)
        position = torch.full((self.shape[1],), -1, dtype=torch.int32, device=self.device)
        position[nodes] = torch.arange(nodes.numel(), dtype=torch.int32, device=self.device)
        columns = position[picked.indices.long()]
        keep = columns >= 0
        counts = torch.bincount(picked.row_ids[keep], minlength=nodes.numel())
        size = (nodes.numel(), nodes.numel())
        return CSR(_offsets(counts), columns[keep], picked.values[keep], size)


def _offsets(counts: Tensor) -> Tensor:
    """Cumulate row counts [R] into row offsets int64 [R + 1]."""
    offsets = torch.zeros(counts.numel() + 1, dtype=torch.int64, device=counts.device)
    torch.cumsum(counts, 0, out=offsets[1:])
    return offsets


# ---- what the MAC counter listens to --------------------------------------------------------

_listeners: list[Callable[[int], None]] = []


def tell_macs(macs: int) -> None:
    """Tell those who count of a sparse product's multiply-accumulates."""
    for listen in _listeners:
        listen(macs)


class counting:  # noqa: N801  (reads as a verb: `with counting() as seen`)
    """Context in which every sparse product adds its multiply-accumulates to `macs`."""

    def __enter__(self) -> "counting":
        self.macs = 0
        _listeners.append(self._add)
        return self

    def __exit__(self, *_: object) -> None:
        _listeners.remove(self._add)

    def _add(self, macs: int) -> None:
        self.macs += macs


# ---- products -------------------------------------------------------------------------------


def spmm(a: CSR, b: Tensor) -> Tensor:
    """Multiply A [R, C] by B [C, H]; the gradient reaches B (A is data)."""
    tell_macs(a.nnz * b.shape[1])
    return cast(Tensor, _Spmm.apply(a, b))


def gather_spmm(a: CSR, rows: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply the rows `rows` (int64 [B]) of A by B [C, H], plus a bias [H], into [B, H].

    Meant for small slices: no row is copied, and the gradient of B is scattered from the slice
    alone.
    """
    product = cast(Tensor, _GatherSpmm.apply(a, rows, b, bias))
    if _listeners:
        tell_macs(int((a.indptr[rows + 1] - a.indptr[rows]).sum()) * b.shape[1])
    return product


def weighted_spmm(a: CSR, values: Tensor, b: Tensor) -> Tensor:
    """Multiply A with one value per entry and head by B, head by head.

    Shapes: values [nnz, heads], b [C, heads, D], result [R, heads, D]; gradients reach both.
    """
    tell_macs(a.nnz * b.shape[1] * b.shape[2])
    return cast(Tensor, _WeightedSpmm.apply(a, values, b))


def entry_products(a: CSR, left: Tensor, right: Tensor) -> Tensor:
    """Multiply row i of left and row j of right for each stored entry (i, j) of A.

    Shapes: left [R, H], right [C, H], result [nnz]; gradients reach both.
    """
    tell_macs(a.nnz * left.shape[1])
    return cast(Tensor, _EntryProducts.apply(a, left.unsqueeze(1), right.unsqueeze(1))).squeeze(1)


def edge_softmax(a: CSR, scores: Tensor) -> Tensor:
    """Softmax of scores [nnz, heads] over the entries of each row of A."""
    return cast(Tensor, _EdgeSoftmax.apply(a, scores))


def _on_cpu(a: CSR, *tensors: Tensor) -> bool:
    return a.device.type == "cpu" and all(t.dtype == torch.float32 for t in tensors)


class _Spmm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: CSR, b: Tensor) -> Tensor:
        ctx.a = a
        return _product(a, b)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, _product(ctx.a.t, grad)


def _product(a: CSR, b: Tensor) -> Tensor:
    if not _on_cpu(a, b):
        return _torch_csr(a, b) @ b
    out = torch.empty(a.shape[0], b.shape[1])
    kernels.spmm_rows(*arrays(a), array(b), out.numpy())
    return out


def _torch_csr(a: CSR, like: Tensor) -> Tensor:
    parts = (a.indptr, a.indices.long(), a.values.to(like.dtype))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(*parts, a.shape, check_invariants=False)


class _GatherSpmm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: CSR, rows: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
        ctx.a, ctx.rows, ctx.has_bias = a, rows, bias is not None
        if not _on_cpu(a, b):
            product = _torch_csr(a.rows(rows), b) @ b
            return product if bias is None else product + bias
        out = torch.empty(rows.numel(), b.shape[1])
        first = np.zeros(b.shape[1], np.float32) if bias is None else array(bias)
        kernels.spmm_gather(*arrays(a), rows.numpy(), array(b), first, out.numpy())
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor, Tensor | None]:
        bias = grad.sum(0) if ctx.has_bias else None
        return None, None, transposed_product(ctx.a, ctx.rows, grad), bias


def transposed_product(a: CSR, rows: Tensor | None, b: Tensor) -> Tensor:
    """Multiply the transpose of the rows `rows` (int64 [B]; all without) of A by B [B, H].

    No gradient; nor are its multiply-accumulates told.
    """
    if rows is None:
        return _product(a.t, b)
    if not _on_cpu(a, b):
        return _torch_csr(a.rows(rows).t, b) @ b
    out = torch.zeros(a.shape[1], b.shape[1])
    kernels.spmm_scatter(*arrays(a), rows.numpy(), array(b), kernels.threads(), out.numpy())
    return out


class _WeightedSpmm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: CSR, values: Tensor, b: Tensor) -> Tensor:
        ctx.a = a
        ctx.save_for_backward(values, b)
        return _weighted(a, values, b)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        values, b = ctx.saved_tensors
        order = ctx.a.order_of_transpose
        grad_b = _weighted(ctx.a.t, values[order], grad) if ctx.needs_input_grad[2] else None
        return None, _sampled(ctx.a, grad, b) if ctx.needs_input_grad[1] else None, grad_b


def _weighted(a: CSR, values: Tensor, b: Tensor) -> Tensor:
    if not _on_cpu(a, values, b):
        messages = values.unsqueeze(-1) * b[a.indices.long()]
        zeros = b.new_zeros(a.shape[0], *b.shape[1:])
        return zeros.index_add(0, a.row_ids, messages)
    out = torch.empty(a.shape[0], *b.shape[1:])
    kernels.spmm_heads(a.indptr.numpy(), a.indices.numpy(), array(values), array(b), out.numpy())
    return out


def _sampled(a: CSR, left: Tensor, right: Tensor) -> Tensor:
    """For each entry (i, j) of A, the product of left [R, heads, D] row i and right row j."""
    if not _on_cpu(a, left, right):
        return (left[a.row_ids] * right[a.indices.long()]).sum(-1)
    out = torch.empty(a.nnz, left.shape[1])
    kernels.sddmm(a.indptr.numpy(), a.indices.numpy(), array(left), array(right), out.numpy())
    return out


class _EntryProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: CSR, left: Tensor, right: Tensor) -> Tensor:
        ctx.a = a
        ctx.save_for_backward(left, right)
        return _sampled(a, left, right)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        a, (left, right) = ctx.a, ctx.saved_tensors
        _, needs_left, needs_right = ctx.needs_input_grad
        grad_left = _weighted(a, grad, right) if needs_left else None
        turned = grad[a.order_of_transpose] if needs_right else grad
        return None, grad_left, _weighted(a.t, turned, left) if needs_right else None


class _EdgeSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: CSR, scores: Tensor) -> Tensor:
        if _on_cpu(a, scores):
            out = torch.empty_like(scores, memory_format=torch.contiguous_format)
            kernels.softmax_rows(a.indptr.numpy(), array(scores), out.numpy())
        else:
            index = a.row_ids.unsqueeze(-1).expand_as(scores)
            low = scores.new_full((a.shape[0], scores.shape[1]), -torch.inf)
            top = low.scatter_reduce(0, index, scores, "amax")
            exp = (scores - top[a.row_ids]).exp()
            out = exp / torch.zeros_like(low).index_add(0, a.row_ids, exp)[a.row_ids]
        ctx.a = a
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        (probs,) = ctx.saved_tensors
        if _on_cpu(ctx.a, grad):
            out = torch.empty_like(probs)
            kernels.softmax_grad(ctx.a.indptr.numpy(), probs.numpy(), array(grad), out.numpy())
            return None, out
        inner = probs * grad
        total = probs.new_zeros(ctx.a.shape[0], probs.shape[1]).index_add(0, ctx.a.row_ids, inner)
        return None, inner - probs * total[ctx.a.row_ids]


def arrays(a: CSR) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Look at a matrix on the CPU as arrays: offsets of rows, columns, values."""
    return a.indptr.numpy(), a.indices.numpy(), a.values.numpy()


def array(x: Tensor) -> np.ndarray:
    """Look at a CPU tensor as a contiguous array."""
    return cast(np.ndarray, x.detach().contiguous().numpy())


def warm_up() -> None:
    """Compile (or load) the kernels, so that no measurement or worker pays for it."""
    a = CSR(torch.tensor([0, 1, 2]), torch.tensor([0, 1], dtype=torch.int32), torch.ones(2), (2, 2))
    b = torch.ones(2, 1, requires_grad=True)
    scores = torch.ones(2, 1, requires_grad=True)
    product = spmm(a, b).sum() + gather_spmm(a, torch.tensor([0]), b).sum()
    attention = weighted_spmm(a, edge_softmax(a, scores), b.unsqueeze(-1))
    (product + attention.sum()).backward()
