import io
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from bench import data, readers
from bench.graph import Graph
from tests import layouts


def test_the_unpickler_refuses_what_is_not_data():
    evil = pickle.dumps(print)
    with pytest.raises(pickle.UnpicklingError, match=r"builtins\.print; only numpy and scipy"):
        readers.SafeUnpickler(io.BytesIO(evil)).load()
    for value in (np.arange(3), sp.csr_matrix(np.eye(2)), {0: [1, 2]}, np.float64(2)):
        back = readers.SafeUnpickler(io.BytesIO(pickle.dumps(value, protocol=2))).load()
        assert type(back) is type(value)


def test_both_spellings_of_gnn_benchmark_and_dense_features_give_the_same_graph(tmp_path):
    short = readers.read_gnn_benchmark(_npz(tmp_path / "short.npz"))
    for name, options in {"long": {"style": "long"}, "dense": {"dense": True}}.items():
        x, adj, y = readers.read_gnn_benchmark(_npz(tmp_path / f"{name}.npz", **options))
        assert torch.equal(data.as_features(x).to_dense(), data.as_features(short[0]).to_dense())
        assert torch.equal(adj.indptr, short[1].indptr)
        assert torch.equal(adj.indices, short[1].indices)
        assert torch.equal(y, short[2])
    original = layouts.content()
    assert torch.equal(short[1].indices, original.adj.indices)
    assert torch.equal(short[2], original.y)


def _npz(path: Path, **options) -> Path:
    layouts.write_npz(path, **options)
    return path


BAD = {
    "no labels": ({"labels": None}, "it has no labels"),
    "no features": ({"attr_data": None}, "it has no attr_data"),
    "no adjacency": ({"adj_data": None}, "it has no adj_data"),
    "oblong": ({"adj_shape": np.array([700, 701])}, "700 x 701, not square"),
    "too few labels": ({"labels": np.zeros(5, int)}, r"labels of shape \(5,\)"),
    "negative label": ({"labels": np.full(700, -1)}, "not whole numbers from 0"),
    "label vectors": ({"labels": np.zeros((700, 2), int)}, "one each is needed"),
    "float labels": ({"labels": np.zeros(700)}, "not whole numbers from 0"),
    "index too high": ({"adj_shape": np.array([700, 3])}, "gnn-benchmark's npz format"),
    "half a matrix": ({"adj_indptr": None}, "gnn-benchmark's npz format"),
    "objects": ({"labels": np.array([{}] * 700)}, "gnn-benchmark's npz format"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_npz_file_gets_one_clear_sentence(tmp_path, case):
    changes, message = BAD[case]
    path = _npz(tmp_path / "bad.npz")
    with np.load(path) as file:
        parts = {key: file[key] for key in file.files}
    for key, value in changes.items():
        parts[key] = value
    np.savez(path, **{key: value for key, value in parts.items() if value is not None})
    with pytest.raises(ValueError, match=message) as caught:
        readers.read_gnn_benchmark(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_features_that_are_not_numbers_are_refused(tmp_path):
    graph = layouts.content(50)
    x = graph.x.with_values(graph.x.values * float("nan"))
    path = _npz(tmp_path / "bad.npz", graph=Graph(x, graph.y, graph.adj, 3))
    with pytest.raises(ValueError, match="its features are not finite numbers"):
        readers.read_gnn_benchmark(path)


@pytest.mark.parametrize("content", [b"", b"not a zip file", b"PK\x03\x04 half a zip"])
def test_a_file_that_is_no_npz_is_refused(tmp_path, content):
    path = tmp_path / "graph.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a graph in gnn-benchmark's npz format"):
        readers.read_gnn_benchmark(path)


def test_a_plain_array_is_no_graph(tmp_path):
    np.save(tmp_path / "x.npy", np.eye(3))
    shutil.move(tmp_path / "x.npy", tmp_path / "x.npz")
    with pytest.raises(ValueError, match="is not a graph in gnn-benchmark's npz format"):
        readers.read_gnn_benchmark(tmp_path / "x.npz")


def test_a_header_and_one_edge_are_read_as_one_edge(tmp_path):
    (tmp_path / "edges.txt").write_text("node_id\tnode_id\n4\t2\n")
    assert readers.read_geom_gcn_edges(tmp_path / "edges.txt").tolist() == [[4, 2]]


def test_masks_become_ids(tmp_path):
    masks = {"train_mask": [1, 0, 0, 0], "val_mask": [0, 0, 1, 0], "test_mask": [0, 1, 0, 1]}
    np.savez(tmp_path / "split.npz", **masks)
    (split,) = readers.read_masks([tmp_path / "split.npz"])
    assert [ids.tolist() for ids in split] == [[0], [2], [1, 3]]
