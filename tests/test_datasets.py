import ast
import importlib
import inspect
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import data
from bench.datasets import actor, amazon, coauthor, cpf, npz, ogb, planetoid, webkb
from bench.graph import Graph
from tests import layouts

MODULES = {
    name: module
    for module in (actor, amazon, coauthor, cpf, ogb, planetoid, webkb)
    for name in module.STATS
}
REAL = os.environ.get("GKDBENCH_DATA")
needs_data = pytest.mark.skipif(not REAL, reason="needs real files: set $GKDBENCH_DATA")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


@pytest.fixture(scope="session")
def pyg():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses what torch deprecates
        import torch_geometric
    return torch_geometric


def real(name: str) -> Path:
    """Return the root that holds the real files of a dataset, or skip."""
    root = Path(REAL or "").absolute()
    missing = [path for path in MODULES[name].files(name, root) if not path.is_file()]
    if missing:
        pytest.skip(f"needs {missing[0]}")
    return root


def assert_clean(graph: Graph) -> None:
    adj = graph.adj
    dense = adj.to_scipy()
    assert (dense != dense.T).nnz == 0
    assert not dense.diagonal().any()
    assert (adj.values == 1).all()
    assert dense.has_canonical_format
    assert (adj.indptr.dtype, adj.indices.dtype) == (torch.int64, torch.int32)
    assert graph.y.dtype == torch.int64
    x = graph.x if isinstance(graph.x, torch.Tensor) else graph.x.values
    assert x.dtype == torch.float32
    assert graph.num_nodes == len(graph.y) == graph.x.shape[0]


# ---- laws over all names ----------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
def test_a_dataset_is_read_from_its_layout_and_nothing_is_written_beside_it(root, name):
    module = MODULES[name]
    layouts.write(name, root)
    before = layouts.listing(root)
    loaded = module.load(name, root, check=False)
    again = module.load(name, root, check=False)
    assert layouts.listing(root) == before
    assert loaded.name == name
    assert loaded.checksum == data.dataset_checksum(module, name, root) == again.checksum
    assert torch.equal(loaded.graph.adj.indices, again.graph.adj.indices)
    assert_clean(loaded.graph)
    assert tuple(loaded.fixed_splits) == module.SPLITS[name]
    for splits in loaded.fixed_splits.values():
        for roles in splits:
            ids = torch.cat(roles)
            assert ids.dtype == torch.int64
            assert len(ids.unique()) == len(ids)
            assert int(ids.max()) < loaded.graph.num_nodes
            assert all(len(role) for role in roles)


@pytest.mark.parametrize("name", MODULES)
def test_files_of_another_size_are_refused_by_the_published_statistics(root, name):
    layouts.write(name, root)
    nodes = MODULES[name].STATS[name][0]
    with pytest.raises(ValueError, match=f"dataset '{name}' has .* nodes .* {nodes} are published"):
        MODULES[name].load(name, root)


@pytest.mark.parametrize("name", MODULES)
def test_a_missing_file_is_named(root, name):
    module = MODULES[name]
    with pytest.raises(data.MissingDataError, match=f"`gkdbench prepare {name}`") as caught:
        module.load(name, root)
    assert str(module.files(name, root)[0]) in str(caught.value)
    layouts.write(name, root)
    gone = module.files(name, root)[-1]
    gone.unlink()
    with pytest.raises(data.MissingDataError, match="misses") as caught:
        data.dataset_checksum(module, name, root)
    assert str(gone) in str(caught.value)


@pytest.mark.parametrize(
    "module", [*dict.fromkeys(MODULES.values()), npz], ids=lambda m: m.__name__
)
def test_names_and_splits_can_be_read_without_running_the_file(module):
    tree = ast.parse(inspect.getsource(module))
    literals = {}
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if target.id in ("STATS", "SPLITS"):
                literals[target.id] = ast.literal_eval(node.value)
    assert literals == {"STATS": module.STATS, "SPLITS": module.SPLITS}
    assert list(module.STATS) == list(module.SPLITS)


def test_dataset_files_import_fast_and_ogb_starts_no_thread():
    script = """
import importlib, os, pkgutil, sys, threading
import bench.datasets
for found in pkgutil.iter_modules(bench.datasets.__path__):
    importlib.import_module(f"bench.datasets.{found.name}")
heavy = {"torch_geometric", "ogb", "pandas", "sklearn"} & set(sys.modules)
assert not heavy, heavy
import torch
from bench.datasets import ogb
before, environment = torch.load, dict(os.environ)
with ogb._ogb():
    import ogb.nodeproppred
    assert "outdated" not in sys.modules
    assert threading.enumerate() == [threading.main_thread()], threading.enumerate()
assert torch.load is before and ogb.nodeproppred.dataset.torch is torch
assert {k: v for k, v in os.environ.items() if "OUTDATED" in k} == {}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---- Planetoid --------------------------------------------------------------------------------


def _pyg_planetoid(name: str, raw: Path, folder: Path):
    from torch_geometric.datasets import Planetoid

    upstream = planetoid.FOLDERS[name]
    shutil.copytree(raw, folder / upstream / "raw")
    return Planetoid(str(folder), upstream)[0]


def _assert_same_as_pyg(loaded, theirs) -> None:
    graph = loaded.graph
    assert torch.equal(graph.x.to_dense(), theirs.x)
    assert torch.equal(graph.y, theirs.y)
    ours = torch.stack([graph.adj.row_ids, graph.adj.indices.long()])
    assert torch.equal(ours, theirs.edge_index[:, _row_major(theirs.edge_index)])


def _row_major(edges: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.lexsort((edges[1].numpy(), edges[0].numpy())))


@pytest.mark.needs_data
@needs_data
@pytest.mark.filterwarnings("ignore")  # numpy and scipy warn while PyG reads the old pickles
@pytest.mark.parametrize("name", ["cora", "citeseer", "pubmed"])
def test_planetoid_equals_pygs_loader_bit_for_bit(tmp_path, name, pyg):
    root = real(name)
    loaded = planetoid.load(name, root)
    raw = planetoid.files(name, root)[0].parent
    theirs = _pyg_planetoid(name, raw, tmp_path)
    _assert_same_as_pyg(loaded, theirs)
    (split,) = loaded.fixed_splits["public"]
    for ids, role in zip(split, ("train", "val", "test"), strict=True):
        assert torch.equal(ids, theirs[f"{role}_mask"].nonzero().view(-1))
    assert loaded.graph.x.nnz < 0.02 * theirs.x.numel() or name == "pubmed"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "isolated"), [("cora", 0), ("citeseer", 7)])
def test_a_small_planetoid_tree_equals_pygs_loader(root, tmp_path, name, isolated, pyg):
    layouts.write_planetoid(root, name, isolated=isolated)
    loaded = planetoid.load(name, root, check=False)
    theirs = _pyg_planetoid(name, planetoid.files(name, root)[0].parent, tmp_path)
    _assert_same_as_pyg(loaded, theirs)
    (split,) = loaded.fixed_splits["public"]
    assert [len(role) for role in split] == [60, 500, 100 - isolated]
    lonely = (loaded.graph.x.indptr.diff() == 0) & (loaded.graph.adj.degree == 0)
    assert int(lonely.sum()) >= isolated


# ---- npz graphs -------------------------------------------------------------------------------


@pytest.mark.needs_data
@needs_data
@pytest.mark.parametrize(
    ("name", "nodes", "edges"), [("cpf-cora", 2485, 5069), ("cpf-citeseer", 2110, 3668)]
)
def test_the_largest_component_has_the_published_size(name, nodes, edges):
    from scipy.sparse.csgraph import connected_components

    adj = cpf.load(name, real(name)).graph.adj.to_scipy()
    _, component = connected_components(adj, directed=False)
    largest = np.flatnonzero(component == np.bincount(component).argmax())
    assert len(largest) == nodes
    assert adj[largest][:, largest].nnz == 2 * edges


@pytest.mark.needs_data
@needs_data
@pytest.mark.parametrize("name", ["cpf-cora", "cpf-citeseer"])
def test_cpf_graphs_equal_pygs_reader(name, pyg):
    from torch_geometric.io import read_npz

    root = real(name)
    _assert_same_as_pyg(cpf.load(name, root), read_npz(str(cpf.files(name, root)[0])))


@pytest.mark.parametrize("name", [*amazon.STATS, *coauthor.STATS])
def test_amazon_and_coauthor_equal_pygs_loader(root, tmp_path, name, pyg):
    from torch_geometric.datasets import Amazon, Coauthor

    graph = layouts.content(200)
    counts = graph.replace(x=graph.x.with_values(graph.x.values * 3))  # PyG makes them 1
    layouts.write(name, root, counts)
    family, _, part = name.partition("-")
    shutil.copytree(root, tmp_path / "copy")
    upstream = (Amazon if family == "amazon" else Coauthor)(str(tmp_path / "copy" / family), part)
    _assert_same_as_pyg(MODULES[name].load(name, root, check=False), upstream[0])


def test_your_own_graph_is_read_whatever_its_spelling(tmp_path):
    graph = layouts.content(50)
    graph = graph.replace(x=graph.x.with_values(graph.x.values * 3))
    for options in ({}, {"style": "long"}, {"dense": True}):
        name = layouts.write_npz(tmp_path / "my.npz", graph, **options)
        loaded = npz.load(name, Path("/nowhere"))
        assert_clean(loaded.graph)
        assert torch.equal(loaded.graph.adj.indices, graph.adj.indices)
        x = loaded.graph.x
        assert torch.equal(x if isinstance(x, torch.Tensor) else x.to_dense(), graph.x.to_dense())
        assert loaded.checksum == data.dataset_checksum(npz, name, Path("/nowhere"))


def test_your_own_graph_has_the_same_checksum_wherever_it_lies(tmp_path):
    one = layouts.write_npz(tmp_path / "one.npz")
    shutil.copy(tmp_path / "one.npz", tmp_path / "two.npz")
    two = f"npz:{tmp_path / 'two.npz'}"
    assert npz.checksum(one, tmp_path) == npz.checksum(two, tmp_path)


def test_your_own_graph_must_be_there(tmp_path):
    for call in (npz.load, npz.prepare, npz.checksum):
        with pytest.raises(data.MissingDataError, match=r"there is no file .*gone\.npz"):
            call(f"npz:{tmp_path}/gone.npz", tmp_path)
    with pytest.raises(ValueError, match="write npz:PATH"):
        npz.load("npz", tmp_path)


# ---- WebKB and Actor --------------------------------------------------------------------------


def _assert_same_as_geom_gcn(loaded, theirs) -> None:
    graph = loaded.graph
    assert torch.equal(graph.x.to_dense(), theirs.x)
    assert torch.equal(graph.y, theirs.y)
    expected = data.adjacency(*theirs.edge_index.numpy(), num_nodes=theirs.num_nodes)
    assert torch.equal(graph.adj.indptr, expected.indptr)
    assert torch.equal(graph.adj.indices, expected.indices)
    splits = loaded.fixed_splits["public"]
    assert len(splits) == 10
    for k, split in enumerate(splits):
        for ids, role in zip(split, ("train", "val", "test"), strict=True):
            assert torch.equal(ids, theirs[f"{role}_mask"][:, k].nonzero().view(-1))


@pytest.mark.parametrize("name", [*webkb.STATS, "actor"])
def test_webkb_and_actor_equal_pygs_loaders_made_undirected(root, tmp_path, name, pyg):
    layouts.write(name, root)
    _compare_geom_gcn(name, root, tmp_path / "copy", check=False)


@pytest.mark.needs_data
@needs_data
@pytest.mark.parametrize("name", [*webkb.STATS, "actor"])
def test_real_webkb_and_actor_equal_pygs_loaders_made_undirected(tmp_path, name, pyg):
    _compare_geom_gcn(name, real(name), tmp_path / "copy", check=True)


def _compare_geom_gcn(name: str, root: Path, copy: Path, *, check: bool) -> None:
    from torch_geometric.datasets import Actor, WebKB

    loaded = MODULES[name].load(name, root, check=check)
    family, _, part = name.partition("-")
    shutil.copytree(root / family / part, copy / part)
    theirs = Actor(str(copy)) if name == "actor" else WebKB(str(copy), part)
    _assert_same_as_geom_gcn(loaded, theirs[0])


# ---- OGB --------------------------------------------------------------------------------------


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("name", ogb.STATS)
def test_ogb_loads_twice_with_the_same_content(root, name, binary):
    graph = layouts.content(120)
    layouts.write_ogb(root, name, graph, binary=binary)
    first, second = (ogb.load(name, root, check=False) for _ in range(2))
    assert any(data.cache_root().rglob("data_processed"))
    for loaded in (first, second):
        torch.testing.assert_close(loaded.graph.x, graph.x.to_dense() + 0.5)
        assert torch.equal(loaded.graph.y, graph.y)
        assert torch.equal(loaded.graph.adj.indices, graph.adj.indices)
        (roles,) = loaded.fixed_splits["official"]
        assert [len(role) for role in roles] == [60, 30, 30]
        expected = np.random.default_rng(0).permutation(120)
        assert torch.cat(roles).tolist() == expected.tolist()


def test_ogb_reads_a_folder_that_cannot_be_written(root):
    layouts.write_ogb(root)
    for path in (root / "ogbn_arxiv", *(root / "ogbn_arxiv").rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        ogb.load("ogbn-arxiv", root, check=False)
    finally:
        for path in (root / "ogbn_arxiv", *(root / "ogbn_arxiv").rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)


def test_edited_ogb_files_are_read_anew(root):
    layouts.write_ogb(root, graph=layouts.content(120))
    first = ogb.load("ogbn-arxiv", root, check=False)
    shutil.rmtree(root)
    layouts.write_ogb(root, graph=layouts.content(130))
    second = ogb.load("ogbn-arxiv", root, check=False)
    assert second.graph.num_nodes == 130
    assert second.checksum != first.checksum


def test_a_moved_ogb_folder_is_found_again(root, tmp_path):
    layouts.write_ogb(root)
    first = ogb.load("ogbn-arxiv", root, check=False)
    shutil.move(root, tmp_path / "elsewhere")
    second = ogb.load("ogbn-arxiv", tmp_path / "elsewhere", check=False)
    assert second.checksum == first.checksum
    assert torch.equal(second.graph.adj.indices, first.graph.adj.indices)


def test_ogb_accuracy_is_the_share_of_hits_by_ogbs_evaluator(root):
    layouts.write_ogb(root)
    accuracy = ogb.load("ogbn-arxiv", root, check=False).accuracy
    assert accuracy(np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2])) == 0.75


def test_ogb_never_asks_a_question(root, monkeypatch):
    layouts.write_ogb(root)
    (root / "ogbn_arxiv/RELEASE_v1.txt").rename(root / "ogbn_arxiv/RELEASE_v0.txt")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    with pytest.raises(data.MissingDataError, match=r"RELEASE_v1\.txt"):
        ogb.load("ogbn-arxiv", root)


# ---- prepare ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
def test_prepare_downloads_through_upstream_into_the_layout(root, tmp_path, monkeypatch, name, pyg):
    source = tmp_path / "source"
    layouts.write(name, source)
    asked = _serve(source, name, monkeypatch, tmp_path)
    MODULES[name].prepare(name, root)
    assert asked
    assert all(url.startswith(("https://", "http://snap.stanford.edu/")) for url in asked)
    MODULES[name].load(name, root, check=False)
    assert not [path for path in root.rglob("*") if "processed" in path.name]
    assert [path for path in root.iterdir() if path.name.startswith(".")] == []


def _serve(source: Path, name: str, monkeypatch, tmp_path: Path) -> list[str]:
    """Answer upstream's own downloads with the files of `source`; return the list of URLs asked."""
    asked: list[str] = []

    def get(url: str, folder: str, *_, **__) -> str:
        asked.append(url)
        target = Path(folder) / Path(url).name
        target.parent.mkdir(parents=True, exist_ok=True)
        if url.endswith(".zip"):
            unpacked = tmp_path / "zip" / Path(url).stem
            shutil.copytree(next(source.iterdir()), unpacked)
            shutil.make_archive(str(target.with_suffix("")), "zip", unpacked.parent, unpacked.name)
        else:
            (found,) = source.rglob(target.name)
            shutil.copy(found, target)
        return str(target)

    from torch_geometric.io import fs

    for module in ("amazon", "coauthor", "webkb", "actor"):
        monkeypatch.setattr(f"torch_geometric.datasets.{module}.download_url", get)
    monkeypatch.setattr("torch_geometric.data.download_url", get)
    monkeypatch.setattr(fs, "cp", get)
    ogb._import_quietly()
    monkeypatch.setattr("ogb.utils.url.download_url", get)
    return asked


def test_a_failed_download_says_where_the_file_belongs(root, monkeypatch, pyg):
    def fail(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("torch_geometric.data.download_url", fail)
    with pytest.raises(ConnectionError, match="no route to host") as caught:
        cpf.prepare("cpf-cora", root)
    assert str(root / "npz/cora.npz") in str(caught.value)


def test_every_dataset_file_is_tested_here():
    import pkgutil

    import bench.datasets

    found = {f"bench.datasets.{m.name}" for m in pkgutil.iter_modules(bench.datasets.__path__)}
    tested = {module.__name__ for module in MODULES.values()} | {npz.__name__}
    assert found - tested == {"bench.datasets.synthetic"}  # has a test file of its own
    assert importlib.import_module("bench.datasets.synthetic").STATS == {"synthetic": None}
