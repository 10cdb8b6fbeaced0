import itertools

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.autograd import gradcheck

from bench import sparse
from bench.sparse import (
    CSR,
    counting,
    edge_softmax,
    entry_products,
    gather_spmm,
    spmm,
    weighted_spmm,
)
from tests import toys

SHAPES = [(9, 7), (7, 9), (1, 5), (5, 1), (1, 1), (40, 40)]


def normal(*shape: int, dtype=torch.float32, seed: int = 1) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    return values.to(dtype).requires_grad_()


def with_duplicates() -> CSR:
    """[[0, 5, 0], [0, 0, 0], [7, 0, 4]], its entries repeated and not sorted."""
    indices = torch.tensor([1, 1, 2, 0, 2], dtype=torch.int32)
    return CSR(torch.tensor([0, 2, 2, 5]), indices, torch.tensor([2.0, 3.0, 1.0, 7.0, 3.0]), (3, 3))


# ---- the matrix -----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_a_matrix_agrees_with_scipy(shape):
    a = toys.random_csr(*shape, density=0.5)
    theirs = a.to_scipy()
    dense = theirs.toarray()
    assert np.array_equal(a.to_dense().numpy(), dense)
    assert np.array_equal(a.t.to_dense().numpy(), dense.T)
    assert np.array_equal(a.t.t.to_dense().numpy(), dense)
    assert np.array_equal(a.degree.numpy(), np.diff(theirs.indptr))
    assert np.array_equal(a.row_ids.numpy(), theirs.tocoo().row)
    assert np.array_equal(a.values[a.order_of_transpose].numpy(), a.t.values.numpy())
    assert (a.nnz, a.shape) == (theirs.nnz, shape)
    back = CSR.from_scipy(theirs)
    assert (back.indptr.dtype, back.indices.dtype) == (torch.int64, torch.int32)
    assert all(torch.equal(getattr(a, p), getattr(back, p)) for p in ("indptr", "indices"))


def test_reading_scipy_sums_duplicates_and_copies():
    coo = sp.coo_array(([1.0, 2.0, 4.0], ([0, 0, 1], [1, 1, 0])), (2, 2))
    a = CSR.from_scipy(coo)
    assert a.to_dense().tolist() == [[0, 3], [4, 0]]
    assert a.nnz == 2
    theirs = sp.csr_array(np.eye(2, dtype=np.float32))
    ours = CSR.from_scipy(theirs)
    theirs.data[:] = 9
    assert ours.to_dense().tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("nodes", [[], [3], [8, 0, 3, 0], list(range(9))])
def test_rows_are_picked_in_the_order_asked_for_and_may_repeat(nodes):
    a = toys.random_csr(9, 7, 0.5)
    picked = a.rows(torch.tensor(nodes, dtype=torch.int64))
    assert np.array_equal(picked.to_dense().numpy(), a.to_dense().numpy()[nodes])
    assert picked.shape == (len(nodes), 7)


@pytest.mark.parametrize("nodes", [[], [3], [8, 0, 3], list(range(9))])
def test_a_submatrix_is_rows_and_columns_in_the_order_asked_for(nodes):
    a = toys.random_csr(9, 9, 0.5)
    part = a.submatrix(torch.tensor(nodes, dtype=torch.int64))
    assert np.array_equal(part.to_dense().numpy(), a.to_dense().numpy()[np.ix_(nodes, nodes)])
    assert part.indices.dtype == torch.int32


def test_duplicates_add_up():
    a = with_duplicates()
    assert a.to_dense().tolist() == [[0, 5, 0], [0, 0, 0], [7, 0, 4]]
    assert a.t.to_dense().tolist() == [[0, 0, 7], [5, 0, 0], [0, 0, 4]]
    b = torch.tensor([[1.0, 0], [0, 1], [2, 2]])
    assert spmm(a, b).tolist() == [[0, 5], [0, 0], [15, 8]]


def test_other_values_share_the_pattern():
    a = toys.random_csr(4, 4, 0.9)
    doubled = a.with_values(2 * a.values)
    assert torch.equal(doubled.to_dense(), 2 * a.to_dense())
    assert doubled.indices is a.indices
    assert a.to("cpu") is a


# ---- products against dense ones ------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("width", [1, 3, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["compiled", "torch"])
def test_a_product_and_its_gradient_are_those_of_dense_matrices(shape, width, dtype):
    a = toys.random_csr(*shape, density=0.6)
    dense = a.to_dense().to(dtype)
    rows = torch.randint(shape[0], (6,), generator=torch.Generator().manual_seed(0))
    b = normal(shape[1], width, dtype=dtype)
    for ours, theirs in ((spmm(a, b), dense @ b), (gather_spmm(a, rows, b), dense[rows] @ b)):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, theirs)
        weights = normal(*ours.shape, dtype=dtype, seed=2).detach()
        torch.testing.assert_close(
            *(torch.autograd.grad((product * weights).sum(), b)[0] for product in (ours, theirs))
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["compiled", "torch"])
def test_picked_rows_may_get_a_bias(dtype):
    a, rows = toys.random_csr(9, 7, 0.5), torch.tensor([0, 8, 3, 3])
    b, bias = normal(7, 5, dtype=dtype), normal(5, dtype=dtype, seed=4)
    ours, theirs = gather_spmm(a, rows, b, bias), a.to_dense().to(dtype)[rows] @ b + bias
    torch.testing.assert_close(ours, theirs)
    weights = normal(4, 5, dtype=dtype, seed=2).detach()
    for one, two in zip(
        torch.autograd.grad((ours * weights).sum(), (b, bias)),
        torch.autograd.grad((theirs * weights).sum(), (b, bias)),
        strict=True,
    ):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["compiled", "torch"])
def test_empty_matrices_multiply(dtype):
    none = torch.zeros(0, dtype=torch.int32)
    blank = CSR(torch.zeros(4, dtype=torch.int64), none, torch.zeros(0), (3, 2))
    b = normal(2, 5, dtype=dtype)
    assert torch.equal(spmm(blank, b), torch.zeros(3, 5, dtype=dtype))
    assert torch.equal(
        torch.autograd.grad(spmm(blank, b).sum(), b)[0], torch.zeros(2, 5, dtype=dtype)
    )
    without_rows = CSR(torch.zeros(1, dtype=torch.int64), none, torch.zeros(0), (0, 2))
    assert spmm(without_rows, b).shape == (0, 5)
    assert spmm(without_rows.t, b[:0]).shape == (2, 5)
    assert gather_spmm(blank, torch.zeros(0, dtype=torch.int64), b).shape == (0, 5)
    assert edge_softmax(blank, torch.zeros(0, 2, dtype=dtype)).shape == (0, 2)
    heads = normal(2, 2, 4, dtype=dtype)
    assert weighted_spmm(blank, torch.zeros(0, 2, dtype=dtype), heads).shape == (3, 2, 4)


def test_operands_need_not_be_contiguous():
    a = toys.random_csr(6, 4, 0.7)
    b = normal(3, 4).t()
    torch.testing.assert_close(spmm(a, b), a.to_dense() @ b)
    (grad,) = torch.autograd.grad(spmm(a, b), b, torch.ones(3, 6).t())
    torch.testing.assert_close(grad, a.to_dense().t() @ torch.ones(6, 3))
    (grad,) = torch.autograd.grad(
        spmm(a, b).sum(), b
    )  # the gradient of a sum is one number, spread
    torch.testing.assert_close(grad, a.to_dense().t() @ torch.ones(6, 3))


def dense_attention(a: CSR, values: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The weighted product head by head, from dense matrices with one value an entry."""
    results = []
    for head in range(values.shape[1]):
        dense = torch.zeros(a.shape, dtype=values.dtype)
        places = (a.row_ids, a.indices.long())
        results.append(dense.index_put(places, values[:, head], accumulate=True) @ b[:, head])
    return torch.stack(results, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["compiled", "torch"])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("make", [with_duplicates, lambda: toys.random_csr(9, 7, 0.4)])
def test_a_weighted_product_and_its_gradients_are_those_of_dense_matrices(make, heads, dtype):
    a = make()
    values = normal(a.nnz, heads, dtype=dtype)
    b = normal(a.shape[1], heads, 4, dtype=dtype)
    ours, theirs = weighted_spmm(a, values, b), dense_attention(a, values, b)
    torch.testing.assert_close(ours, theirs)
    weights = normal(*ours.shape, dtype=dtype, seed=2).detach()
    for one, two in zip(
        torch.autograd.grad((ours * weights).sum(), (values, b)),
        torch.autograd.grad((theirs * weights).sum(), (values, b)),
        strict=True,
    ):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["compiled", "torch"])
@pytest.mark.parametrize("make", [with_duplicates, lambda: toys.random_csr(9, 7, 0.4)])
def test_products_of_entries_and_their_gradients_are_those_of_dense_matrices(make, dtype):
    a = make()
    left, right = normal(a.shape[0], 5, dtype=dtype), normal(a.shape[1], 5, dtype=dtype, seed=1)
    with counting() as seen:
        ours = entry_products(a, left, right)
    assert seen.macs == 5 * a.nnz
    theirs = (left @ right.T)[a.row_ids, a.indices.long()]
    torch.testing.assert_close(ours, theirs)
    weights = normal(a.nnz, dtype=dtype, seed=2).detach()
    for one, two in zip(
        torch.autograd.grad((ours * weights).sum(), (left, right)),
        torch.autograd.grad((theirs * weights).sum(), (left, right)),
        strict=True,
    ):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["compiled", "torch"])
def test_edge_softmax_is_a_softmax_of_each_row(dtype):
    a = toys.random_csr(9, 7, 0.5)
    scores = normal(a.nnz, 2, dtype=dtype)
    ours = edge_softmax(a, scores)
    bounds = a.indptr.tolist()
    assert bounds[0] == bounds[1]  # the first row is empty
    parts = [scores[i:j].softmax(0) for i, j in itertools.pairwise(bounds)]
    theirs = torch.cat(parts)
    torch.testing.assert_close(ours, theirs)
    sums = torch.zeros(9, 2, dtype=dtype).index_add(0, a.row_ids, ours)
    torch.testing.assert_close(sums, (a.degree > 0).to(dtype).unsqueeze(1).expand(9, 2))
    weights = normal(*ours.shape, dtype=dtype, seed=2).detach()
    torch.testing.assert_close(
        *(torch.autograd.grad((p * weights).sum(), scores)[0] for p in (ours, theirs))
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["compiled", "torch"])
def test_edge_softmax_does_not_overflow(dtype):
    a = toys.csr([[1, 1, 0], [0, 1, 0]])
    scores = torch.tensor([[1000.0], [1000.0], [-1000.0]], dtype=dtype)
    assert edge_softmax(a, scores).flatten().tolist() == [0.5, 0.5, 1.0]


def test_gradients_agree_with_finite_differences():
    a, rows = toys.random_csr(6, 5, 0.5), torch.tensor([5, 1, 1, 0])
    b, heads = normal(5, 2, dtype=torch.double), normal(5, 2, 3, dtype=torch.double)
    values = normal(a.nnz, 2, dtype=torch.double)
    assert gradcheck(lambda b: spmm(a, b), b)
    assert gradcheck(lambda b: gather_spmm(a, rows, b), b)
    assert gradcheck(lambda v, h: weighted_spmm(a, v, h), (values, heads))
    assert gradcheck(lambda v: edge_softmax(a, v), values)
    assert gradcheck(lambda h: entry_products(a, h[[4, 3, 2, 1, 0, 0]], h), b)
    assert gradcheck(lambda v, h: weighted_spmm(a, edge_softmax(a, v), h), (values, heads))


def test_compiled_loops_and_torch_agree_on_a_larger_matrix():
    a = toys.random_csr(300, 200, 0.05, seed=1)
    b, heads, scores = normal(200, 16), normal(200, 4, 8), normal(a.nnz, 4)
    for call, inputs in (
        (lambda b: spmm(a, b), (b,)),
        (lambda b: gather_spmm(a, torch.arange(0, 300, 7), b), (b,)),
        (lambda h, s: weighted_spmm(a, edge_softmax(a, s), h), (heads, scores)),
    ):
        doubles = tuple(x.detach().double().requires_grad_() for x in inputs)
        ours, theirs = call(*inputs), call(*doubles)
        torch.testing.assert_close(ours.double(), theirs, atol=1e-5, rtol=1e-5)
        grads = torch.autograd.grad(ours.square().sum(), inputs)
        for one, two in zip(
            grads, torch.autograd.grad(theirs.square().sum(), doubles), strict=True
        ):
            torch.testing.assert_close(one.double(), two, atol=1e-3, rtol=1e-4)


# ---- counting -------------------------------------------------------------------------------


def test_every_product_counts_its_stored_entries():
    a = toys.csr([[1, 1, 0], [0, 0, 0], [1, 1, 1]])
    with sparse.counting() as seen:
        spmm(a, torch.ones(3, 7))
    assert seen.macs == 5 * 7
    with sparse.counting() as seen:
        gather_spmm(a, torch.tensor([2, 1, 2]), torch.ones(3, 7))
    assert seen.macs == (3 + 0 + 3) * 7
    with sparse.counting() as seen:
        weighted_spmm(a, torch.ones(5, 2), torch.ones(3, 2, 4))
    assert seen.macs == 5 * 2 * 4


def test_counting_nests_and_ends():
    a = toys.csr([[1.0]])
    with sparse.counting() as outer:
        spmm(a, torch.ones(1, 1))
        with sparse.counting() as inner:
            spmm(a, torch.ones(1, 2))
    spmm(a, torch.ones(1, 4))
    assert (outer.macs, inner.macs) == (3, 2)
