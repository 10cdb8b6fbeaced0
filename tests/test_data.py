import json
import os
import time
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from bench import data
from bench.datasets import cpf, planetoid
from tests import layouts


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gkdbench"


@pytest.fixture(scope="session")
def pyg():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses what torch deprecates
        import torch_geometric
    return torch_geometric


# ---- places ---------------------------------------------------------------------------------


def test_the_data_root_is_the_given_one_then_the_environments_then_the_users_cache(
    tmp_path, monkeypatch, cache
):
    monkeypatch.setenv("GKDBENCH_DATA", str(tmp_path / "env"))
    assert data.data_root(tmp_path / "given") == tmp_path / "given"
    assert data.data_root() == tmp_path / "env"
    monkeypatch.delenv("GKDBENCH_DATA")
    assert data.data_root() == cache / "data"


def test_a_missing_file_is_named_with_the_command_that_gets_it(tmp_path):
    first = tmp_path / "planetoid/Cora/raw/ind.cora.x"
    with pytest.raises(data.MissingDataError, match=r"gkdbench prepare cora") as caught:
        data.require("cora", planetoid.files("cora", tmp_path))
    assert str(first) in str(caught.value)
    assert "7 more" in str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)


def test_a_download_is_moved_into_place_only_when_whole(tmp_path):
    root = tmp_path / "root"
    wanted = [root / "a/one.txt", root / "a/two.txt"]

    def break_off():
        with data.downloading("x", wanted, root) as folder:
            (folder / "a/one.txt").write_text("1")
            raise OSError("the line broke")

    with pytest.raises(ConnectionError, match=r"two\.txt") as caught:
        break_off()
    assert "the line broke" in str(caught.value)
    assert list(root.iterdir()) == []
    with data.downloading("x", wanted, root) as folder:
        (folder / "a/one.txt").write_text("1")
        (folder / "a/two.txt").write_text("2")
    assert sorted(layouts.listing(root)) == ["a", "a/one.txt", "a/two.txt"]


def test_a_download_keeps_what_is_there(tmp_path):
    (tmp_path / "a").write_text("mine")
    with data.downloading("x", [tmp_path / "a"], tmp_path) as folder:
        (folder / "a").write_text("theirs")
    assert (tmp_path / "a").read_text() == "mine"


# ---- statistics -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "word"), [(0, "nodes"), (1, "edges"), (2, "features"), (3, "classes")]
)
def test_statistics_that_differ_are_refused_by_name(place, word):
    graph = layouts.content(100)
    right = [graph.num_nodes, graph.adj.nnz, graph.num_features, 3]
    data.check_stats("x", graph, tuple(right))
    right[place] += 1
    with pytest.raises(ValueError, match=f"dataset 'x' has .* {word} on disk where {right[place]}"):
        data.check_stats("x", graph, tuple(right))


def test_statistics_nobody_published_are_not_compared():
    data.check_stats("x", layouts.content(100), (100, None, 60, 3))
    data.check_stats("x", layouts.content(100), None)


# ---- checksums ------------------------------------------------------------------------------


def test_the_checksum_depends_on_the_content_and_not_on_the_place(tmp_path):
    for root in ("a", "b"):
        layouts.write_planetoid(tmp_path / root)
    one, two = (data.dataset_checksum(planetoid, "cora", tmp_path / r) for r in ("a", "b"))
    assert one == two == planetoid.load("cora", tmp_path / "a", check=False).checksum
    path = tmp_path / "b/planetoid/Cora/raw/ind.cora.test.index"
    path.write_text(path.read_text() + "\n")
    assert data.dataset_checksum(planetoid, "cora", tmp_path / "b") != one


def test_a_checksum_tells_readers_and_the_order_of_files_apart(tmp_path):
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_text(path.name)
    seen = {
        data.files_checksum(reader, "x", files)
        for reader in ("p.one", "p.two")
        for files in (paths, paths[::-1])
    }
    assert len(seen) == 4
    assert data.files_checksum("q.one", "y", paths) in seen


def test_a_file_is_hashed_once_until_it_changes(tmp_path, cache, monkeypatch):
    path = tmp_path / "big"
    path.write_bytes(b"one")
    os.utime(path, (1e9, 1e9))
    digest = data.file_checksum(path)
    # Its inode changed just now, so it is too fresh to be remembered; later it is.
    assert not (cache / "checksums").exists()
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 10**10)
    assert data.file_checksum(path) == digest
    (memory,) = (cache / "checksums").iterdir()
    known = json.loads(memory.read_text())
    memory.write_text(json.dumps({**known, "sha256": "remembered"}))
    assert data.file_checksum(path) == "remembered"
    path.write_bytes(b"two")
    assert data.file_checksum(path) not in (digest, "remembered")


def test_a_cache_that_is_damaged_or_cannot_be_written_costs_only_time(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"x")
    later = time.time_ns() + 10**10
    monkeypatch.setattr(time, "time_ns", lambda: later)
    digest = data.file_checksum(path)
    (memory,) = (data.cache_root() / "checksums").iterdir()
    memory.write_text("{")
    assert data.file_checksum(path) == digest
    (tmp_path / "occupied").write_text("a file where the cache should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "occupied"))
    assert data.file_checksum(path) == digest


def test_a_remembered_checksum_is_fast(tmp_path, monkeypatch):
    layouts.write_npz(tmp_path / "npz/cora.npz")
    later = time.time_ns() + 10**10
    monkeypatch.setattr(time, "time_ns", lambda: later)
    first = data.dataset_checksum(cpf, "cpf-cora", tmp_path)
    seconds = []
    for _ in range(5):
        start = time.process_time()
        assert data.dataset_checksum(cpf, "cpf-cora", tmp_path) == first
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.01


# ---- cleaning -------------------------------------------------------------------------------


def test_an_adjacency_is_symmetric_binary_sorted_and_without_loops():
    adj = data.adjacency([2, 0, 0, 1, 2], [0, 2, 1, 1, 0], 4)
    assert adj.indptr.tolist() == [0, 2, 3, 4, 4]
    assert adj.indices.tolist() == [1, 2, 0, 0]
    assert adj.indices.dtype == torch.int32
    assert adj.indptr.dtype == torch.int64
    assert adj.values.tolist() == [1.0] * 4


def test_an_edge_repeated_256_times_is_one_edge():
    adj = data.adjacency(np.zeros(256, int), np.ones(256, int), 2)
    assert adj.to_dense().tolist() == [[0, 1], [1, 0]]


def test_zeros_stored_in_a_matrix_are_no_edges():
    matrix = sp.csr_array(([0.0, 5.0], [1, 2], [0, 2, 2, 2]), shape=(3, 3))
    dense = data.adjacency_from_scipy(matrix).to_dense()
    assert dense.tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]


def test_features_are_kept_sparse_when_mostly_zero():
    few = np.zeros((4, 10), dtype=np.float64)
    few[1, 3], few[2, 0] = 2.5, -1.0
    sparse = data.as_features(few)
    assert sparse.nnz == 2
    assert torch.equal(sparse.to_dense(), torch.tensor(few, dtype=torch.float32))
    assert isinstance(data.as_features(np.ones((4, 10))), torch.Tensor)
    stored_zero = sp.csr_array(([0.0, 1.0], [0, 1], [0, 2]), shape=(1, 2))
    assert data.as_features(stored_zero).nnz == 1


def test_rows_are_divided_by_their_sums_and_zero_rows_stay():
    x = np.array([[1, 3, 0, 0], [0, 0, 0, 0], [0, 0.25, 0, 0.25]], dtype=np.float32)
    expected = torch.tensor([[0.25, 0.75, 0, 0], [0, 0, 0, 0], [0, 0.5, 0, 0.5]])
    assert torch.equal(data.row_normalise(torch.from_numpy(x)), expected)
    assert torch.equal(data.row_normalise(data.as_features(sp.csr_array(x))).to_dense(), expected)


def test_negative_features_have_no_row_sum_to_divide_by():
    with pytest.raises(ValueError, match="must not be negative, the smallest is -2"):
        data.row_normalise(torch.tensor([[1.0, -2.0]]))


def test_row_normalisation_of_counts_is_pygs(pyg):
    from torch_geometric.data import Data
    from torch_geometric.transforms import NormalizeFeatures

    x = layouts.content(200).x
    theirs = NormalizeFeatures()(Data(x=x.to_dense())).x
    torch.testing.assert_close(data.row_normalise(x).to_dense(), theirs, rtol=1e-6, atol=0)
