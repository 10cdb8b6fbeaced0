import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from bench import fused, kernels, sparse
from tests import toys


@pytest.fixture(scope="module")
def a():
    return toys.random_csr(83, 61, seed=3)


def products(a) -> list[torch.Tensor]:
    """Every product and every gradient, from one seed."""
    torch.manual_seed(0)
    b = torch.randn(a.shape[1], 11, requires_grad=True)
    heads = torch.randn(a.shape[1], 3, 5, requires_grad=True)
    scores = torch.randn(a.nnz, 3, requires_grad=True)
    rows = torch.tensor([5, 0, 5, 82, 7])
    dropped = fused.relu_dropout(b, 0.4, True)
    probs = sparse.edge_softmax(a, scores)
    results = [
        sparse.spmm(a, b),
        sparse.gather_spmm(a, rows, b),
        dropped,
        probs,
        sparse.weighted_spmm(a, probs, heads),
        sparse.entry_products(a, heads.flatten(1).repeat(2, 1)[: a.shape[0]], heads.flatten(1)),
        fused.soft_label_divergence(b, torch.zeros_like(b).log_softmax(1)),
    ]
    sum((r * torch.randn_like(r)).sum() for r in results).backward()
    return [*(r.detach() for r in results), b.grad, heads.grad, scores.grad]


def test_results_are_bit_equal_for_any_number_of_threads(a, threads):
    threads(1)
    one = products(a)
    threads(2)
    two = products(a)
    assert all(torch.equal(x, y) for x, y in zip(one, two, strict=True))


def test_torch_and_the_kernels_get_the_same_number_of_threads(threads):
    threads(1)
    assert (torch.get_num_threads(), kernels.threads()) == (1, 1)
    most = kernels.numba.config.NUMBA_NUM_THREADS
    threads(most + 1)  # more than there are: numba refuses, torch does not
    assert kernels.threads() == most


def test_the_first_call_of_a_process_holds_for_torch_too():
    """The pool that numba launches then sets torch's number to its own."""
    program = (
        "import torch; torch.get_num_threads(); from bench import kernels, sparse\n"
        "kernels.set_threads(1); print(torch.get_num_threads(), kernels.threads())\n"
        "sparse.warm_up(); print(torch.get_num_threads())"
    )
    two = {**os.environ, "OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=two, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "1", "1"]


@pytest.mark.parametrize("blocks", [1, 2, 3, 8, 50])
def test_a_scatter_does_not_depend_on_how_many_blocks_of_columns_it_is_cut_into(a, blocks):
    rows, grad = np.array([3, 3, 9, 60]), np.random.default_rng(0).random((4, 7), np.float32)
    outs = [np.zeros((a.shape[1], 7), np.float32) for _ in range(2)]
    arrays = (a.indptr.numpy(), a.indices.numpy(), a.values.numpy())
    kernels.spmm_scatter(*arrays, rows, grad, 1, outs[0])
    kernels.spmm_scatter(*arrays, rows, grad, blocks, outs[1])
    assert np.array_equal(*outs)
    assert outs[0].any()


def test_compiled_kernels_are_cached_in_a_folder_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kernels.cache_folder().startswith(str(tmp_path / "gkdbench" / "numba-"))
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert kernels.cache_folder().startswith(str(tmp_path / "home" / ".cache"))


# ---- the random numbers of relu_dropout --------------------------------------------------------


def mask(seed: int, shape: tuple[int, int] = (2000, 128), keep: float = 0.7) -> np.ndarray:
    out = np.empty(shape, np.float32)
    bound = np.uint32(round(keep * 2**32))
    kernels.relu_dropout(np.ones(shape, np.float32), bound, np.float32(1), np.uint32(seed), out)
    return out.astype(np.float64)


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1])
def test_masks_keep_their_share_in_every_row_and_column(seed):
    kept = mask(seed)
    assert kept.mean() == pytest.approx(0.7, abs=4 * (0.21 / kept.size) ** 0.5)
    for axis in (0, 1):
        shares = kept.mean(axis)
        expected = 0.21 / kept.shape[axis]  # the variance of independent draws
        assert shares.var() == pytest.approx(expected, rel=0.6)
        assert np.abs(shares - 0.7).max() < 5.5 * expected**0.5


@pytest.mark.parametrize(("rows", "columns"), [(1, 0), (0, 1), (1, 1), (0, 2), (64, 0)])
def test_neighbouring_draws_are_not_correlated(rows, columns):
    kept = mask(7) - 0.7
    moved = np.roll(kept, (rows, columns), (0, 1))
    assert abs((kept * moved).mean() / 0.21) < 4 / kept.size**0.5


def test_masks_of_two_seeds_are_not_correlated():
    one, two = mask(1) - 0.7, mask(2) - 0.7
    assert abs((one * two).mean() / 0.21) < 4 / one.size**0.5


def test_the_draws_are_those_of_version_1():
    # A change here changes every result with dropout: raise SCHEMA in cell.py with it.
    rows = ["".join(map(str, row)) for row in mask(5, (4, 8), 0.5).astype(int)]
    assert rows == ["10001011", "00011110", "10010111", "10110000"]


# ---- memory ---------------------------------------------------------------------------------


def test_keeping_memory_is_silent_where_the_c_library_is_another_one(monkeypatch):
    monkeypatch.setattr(kernels.ctypes, "CDLL", lambda _: object())
    assert not kernels.keep_memory()
