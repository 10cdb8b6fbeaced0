"""Readers of file formats that several datasets share; features stay as sparse as in the file.

gnn-benchmark's npz graphs (Shchur et al., arXiv 1811.05868), Geom-GCN's text files and masks (Pei
et al., ICLR 2020), and pickles, of which only data is read.
"""

import pickle
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.data import adjacency_from_scipy
from bench.sparse import CSR

FixedSplits = list[tuple[Tensor, Tensor, Tensor]]  # (train, val, test), int64 ids


class SafeUnpickler(pickle.Unpickler):
    """Reads arrays, scipy matrices and plain containers; refuses every other class."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the class or function `module.name` if the allow-list has it."""
        import scipy.sparse

        package = module.partition(".")[0]
        if package == "numpy" and name in _NUMPY:
            return _NUMPY[name]
        if package == "scipy" and name in ("csr_matrix", "csc_matrix", "coo_matrix"):
            return getattr(scipy.sparse, name)
        if (module, name) in _PLAIN:
            return _PLAIN[module, name]
        raise pickle.UnpicklingError(
            f"the file asks for {module}.{name}; only numpy and scipy data is read from pickles"
        )


_UNREADABLE = (zipfile.BadZipFile, ValueError, KeyError, AttributeError, TypeError, EOFError)
_NUMPY: dict[str, Any] = {
    "ndarray": np.ndarray,
    "dtype": np.dtype,
    "_reconstruct": np.empty(0).__reduce__()[0],  # named by its module before and after numpy 2
    "scalar": np.float64(0).__reduce__()[0],
}
_PLAIN: dict[tuple[str, str], Any] = {
    ("collections", "defaultdict"): defaultdict,
    ("collections", "OrderedDict"): OrderedDict,
    ("__builtin__", "list"): list,
    ("builtins", "list"): list,
    ("_codecs", "encode"): __import__("_codecs").encode,  # how old pickles spell bytes
}


def read_gnn_benchmark(path: Path) -> tuple[Any, CSR, Tensor]:
    """Read a graph in gnn-benchmark's npz format, in either of its two spellings of the keys.

    Returns:
        The raw features (scipy CSR or numpy [N, F]), the clean adjacency and labels int64 [N].

    Raises:
        ValueError: not such a file, or its parts do not fit together.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            adj = _csr_of(file, "adj")
            x = _csr_of(file, "attr")
            if x is None:
                x = next((file[k] for k in ("attr_matrix", "attr") if k in file), None)
            y = file.get("labels")
    except _UNREADABLE as error:
        raise ValueError(f"{path} is not a graph in gnn-benchmark's npz format ({error})") from None
    if problem := _mismatch(adj, x, y):
        raise ValueError(f"{path} is not a usable graph: {problem}")
    return x, adjacency_from_scipy(adj), torch.from_numpy(np.asarray(y).astype(np.int64))


def _csr_of(file: Any, part: str) -> Any:
    """Return the matrix `part` of an npz file as scipy CSR, or None where it has none."""
    from scipy.sparse import csr_array

    for prefix in (f"{part}_", f"{part}_matrix."):
        if f"{prefix}data" in file:
            data, indices, indptr, shape = (
                file[prefix + k] for k in ("data", "indices", "indptr", "shape")
            )
            matrix = csr_array((data, indices, indptr), shape=tuple(int(n) for n in shape))
            matrix.check_format(full_check=True)
            return matrix
    return None


def _mismatch(adj: Any, x: Any, y: Any) -> str | None:
    """Return what is wrong with the parts of a graph, or None."""
    for part, keys in ((adj, "adj_data ..."), (x, "attr_data ... or attr_matrix"), (y, "labels")):
        if part is None:
            return f"it has no {keys}"
    if adj.shape[0] != adj.shape[1]:
        return f"its adjacency is {adj.shape[0]} x {adj.shape[1]}, not square"
    if x.ndim != 2 or x.shape[0] != adj.shape[0]:
        return f"it has {adj.shape[0]} nodes, but features of shape {tuple(x.shape)}"
    if y.shape != (adj.shape[0],):
        return f"it has {adj.shape[0]} nodes, but labels of shape {y.shape}; one each is needed"
    if y.dtype.kind not in "iu" or (y.size and int(y.min()) < 0):
        return "its labels are not whole numbers from 0"
    values = x if isinstance(x, np.ndarray) else x.data
    if values.dtype.kind not in "biuf" or not np.isfinite(values).all():
        return "its features are not finite numbers"
    return None


def read_geom_gcn_edges(path: Path) -> np.ndarray:
    """Read Geom-GCN's edge list: a header, then two tab-separated ids a line; int64 [E, 2]."""
    return np.loadtxt(path, dtype=np.int64, delimiter="\t", skiprows=1, ndmin=2)


def read_masks(paths: Sequence[Path]) -> FixedSplits:
    """Read Geom-GCN's split files, one (train, val, test) from each."""
    splits = []
    for path in paths:
        with np.load(path, allow_pickle=False) as file:
            masks = [file[f"{role}_mask"] for role in ("train", "val", "test")]
        train, val, test = (torch.from_numpy(np.flatnonzero(mask)) for mask in masks)
        splits.append((train, val, test))
    return splits
