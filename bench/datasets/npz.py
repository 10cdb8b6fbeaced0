"""`npz:PATH`: your own graph, in gnn-benchmark's npz format.

The file holds a sparse adjacency (`adj_data`, `adj_indices`, `adj_indptr`, `adj_shape`, or the
same as `adj_matrix.data` ...), features (sparse likewise, `attr_data` ... or `attr_matrix.data`
..., or one dense array `attr_matrix`) and whole-number `labels` from 0, one for each node. Each
non-zero of the adjacency is an undirected edge; self-loops are dropped, features stay as they are.
A relative PATH counts from the working folder, not from the data root.
"""

from pathlib import Path

from bench import data, readers
from bench.graph import Dataset, Graph

STATS = {"npz": None}
SPLITS: dict[str, tuple[str, ...]] = {"npz": ()}


def files(name: str, root: Path) -> list[Path]:
    """Return the one file."""
    path = name.partition(":")[2]
    if not path:
        raise ValueError(f"dataset '{name}' names no file; write npz:PATH, as in npz:my_graph.npz")
    return [Path(path).expanduser().absolute()]


def prepare(name: str, root: Path) -> None:
    """Check that the file is there; there is nowhere to download it from."""
    _require(name, files(name, root)[0])


def load(name: str, root: Path, *, check: bool = True) -> Dataset:
    """Read the file; there are no statistics to check."""
    (path,) = files(name, root)
    _require(name, path)
    x, adj, y = readers.read_gnn_benchmark(path)
    if not len(y):
        raise ValueError(f"{path} is not a usable graph: it has no node")
    graph = Graph(data.as_features(x), y, adj, int(y.max()) + 1)
    return Dataset(name, graph, data.files_checksum(__name__, name, [path]))


def checksum(name: str, root: Path) -> str:
    """Return the sha256 of the file's content, and of how it is read."""
    (path,) = files(name, root)
    _require(name, path)
    return data.files_checksum(__name__, name, [path])


def _require(name: str, path: Path) -> None:
    if not path.is_file():
        raise data.MissingDataError(f"dataset '{name}': there is no file {path}; check the path")
