"""Cora, CiteSeer and PubMed with the public split: citations between papers, words as features.

Source: Yang et al., "Revisiting Semi-Supervised Learning with Graph Embeddings" (arXiv 1603.08861,
ICML 2016), files of github.com/kimiyoung/planetoid. The public split is 20 train nodes of each
class, 500 val and 1,000 test nodes.
Layout: `planetoid/Cora/raw/ind.cora.{x,tx,allx,y,ty,ally,graph,test.index}`.
Differs from PyG's `Planetoid`: features stay sparse; the same numbers otherwise.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import data, readers
from bench.graph import Dataset, Graph

STATS = {
    "cora": (2708, 10556, 1433, 7),
    "citeseer": (3327, 9104, 3703, 6),
    "pubmed": (19717, 88648, 500, 3),
}
SPLITS = {"cora": ("public",), "citeseer": ("public",), "pubmed": ("public",)}
FOLDERS = {"cora": "Cora", "citeseer": "CiteSeer", "pubmed": "PubMed"}
PARTS = ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")
NUM_VAL = 500


def files(name: str, root: Path) -> list[Path]:
    """Return the eight raw files."""
    return [root / "planetoid" / FOLDERS[name] / "raw" / f"ind.{name}.{part}" for part in PARTS]


def prepare(name: str, root: Path) -> None:
    """Download the raw files."""
    from torch_geometric.datasets import Planetoid

    with data.downloading(name, files(name, root), root) as folder:
        upstream = Planetoid.__new__(Planetoid)  # its constructor would also write processed files
        upstream.root, upstream.name, upstream.split = folder / "planetoid", FOLDERS[name], "public"
        upstream.download()


def load(name: str, root: Path, *, check: bool = True) -> Dataset:
    """Read the raw files; `check=False` leaves out the comparison with STATS."""
    paths = files(name, root)
    checksum = data.files_checksum(__name__, name, paths)
    parts = {part: _read(path) for part, path in zip(PARTS, paths, strict=True)}
    x, y = _in_order(parts)
    links = parts["graph"]
    source = np.repeat(list(links), [len(targets) for targets in links.values()])
    target = np.concatenate([np.asarray(targets, dtype=np.int64) for targets in links.values()])
    adj = data.adjacency(source, target, len(y))
    graph = Graph(data.as_features(x), torch.from_numpy(y), adj, parts["ally"].shape[1])
    if check:
        data.check_stats(name, graph, STATS[name])
    first = len(parts["y"])
    test = torch.from_numpy(np.sort(parts["test.index"]))
    split = (torch.arange(first), torch.arange(first, first + NUM_VAL), test)
    return Dataset(name, graph, checksum, {"public": [split]})


def _read(path: Path) -> Any:
    if path.name.endswith("test.index"):
        return np.loadtxt(path, dtype=np.int64, ndmin=1)
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 2 wrote these pickles; numpy warns at their dtypes
        return readers.SafeUnpickler(file, encoding="latin1").load()


def _in_order(parts: dict[str, Any]) -> tuple[Any, np.ndarray]:
    """Stack the rows of all nodes in order of id: scipy CSR [N, F] and labels int64 [N].

    Row i of `tx` belongs to node `test.index[i]`. Ids in their range that are in no file
    (CiteSeer's 15 isolated nodes) get no feature and class 0.
    """
    from scipy.sparse import csr_array, vstack

    test = parts["test.index"]
    known, total = parts["allx"].shape[0], int(test.max()) + 1
    row = np.full(total, -1)
    row[:known] = np.arange(known)
    row[test] = known + np.arange(len(test))
    absent = row < 0
    row[absent] = known + len(test)  # one more row, without an entry
    blank = csr_array((1, parts["allx"].shape[1]), dtype=np.float32)
    x = vstack([csr_array(parts["allx"]), csr_array(parts["tx"]), blank], format="csr")[row]
    y = np.concatenate([parts["ally"].argmax(1), parts["ty"].argmax(1), [0]])[row]
    return x, y.astype(np.int64)
