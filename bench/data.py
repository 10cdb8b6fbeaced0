"""What the dataset files share: where data lies, checks, checksums, and cleaning.

Nothing below the data root is ever written, except by `gkdbench prepare`; caches go to
`cache_root()`.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.graph import Graph
from bench.sparse import CSR

READERS = 1  # raise when a loader makes another graph of the same files: it enters every checksum
Stats = tuple[int, int | None, int, int]  # nodes, stored edges, features, classes

# ---- places ---------------------------------------------------------------------------------


def cache_root() -> Path:
    """Return the per-user folder for whatever can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gkdbench"


def data_root(given: str | Path | None = None) -> Path:
    """Return the data root: `given`, else $GKDBENCH_DATA, else a folder of the user's cache."""
    chosen = given or os.environ.get("GKDBENCH_DATA") or cache_root() / "data"
    return Path(chosen).expanduser().absolute()


class MissingDataError(FileNotFoundError):
    """A file of a dataset is not on disk; the message says which one, and what to do."""


def require(name: str, paths: Sequence[Path]) -> None:
    """Check that all files of a dataset are there.

    Raises:
        MissingDataError: at least one is missing.
    """
    missing = [path for path in paths if not path.is_file()]
    if missing:
        more = f" and {len(missing) - 1} more of its files" if len(missing) > 1 else ""
        raise MissingDataError(
            f"dataset '{name}' misses {missing[0]}{more}; run `gkdbench prepare {name}`, "
            "or put it there"
        )


@contextlib.contextmanager
def downloading(name: str, paths: Sequence[Path], root: Path) -> Iterator[Path]:
    """Give a private folder laid out like `root`; what it gains is moved into place when whole.

    Args:
        name: of the dataset.
        paths: the files that must have arrived, below `root`; one that is there already stays.
        root: the data root.

    Raises:
        ConnectionError: the download failed; says where each file belongs.
    """
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as folder:
        places = [(Path(folder) / path.relative_to(root), path) for path in paths]
        for source, _ in places:
            source.parent.mkdir(parents=True, exist_ok=True)
        why, cause = "some files did not arrive", None
        try:
            with contextlib.redirect_stdout(sys.stderr):  # upstream prints; stdout is for results
                yield Path(folder)
        except Exception as error:  # each upstream class fails in its own way: made one sentence
            why, cause = f"{type(error).__name__}: {error}", error
        absent = [path for source, path in places if not (source.is_file() or path.is_file())]
        if absent:
            raise ConnectionError(
                f"could not download dataset '{name}' ({why}); put the files by hand into place, "
                f"the first one as {absent[0]}"
            ) from cause
        for source, path in places:
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(source, path)


# ---- checks ---------------------------------------------------------------------------------


def check_stats(name: str, graph: Graph, stats: Stats | None) -> None:
    """Compare a graph with the published (nodes, stored edges, features, classes).

    Raises:
        ValueError: they differ; an entry of None is not compared.
    """
    labels = int(graph.y.max()) + 1 if graph.y.numel() else 0
    found = (graph.num_nodes, graph.adj.nnz, graph.num_features, labels)
    what = ("nodes", "stored edges", "features", "classes")
    for label, got, wanted in zip(what, found, stats or (), strict=False):
        if wanted is not None and got != wanted:
            raise ValueError(
                f"dataset '{name}' has {got} {label} on disk where {wanted} are published; "
                f"its files are damaged or of another version: remove them and run "
                f"`gkdbench prepare {name}`"
            )


def dataset_checksum(module: ModuleType, name: str, root: Path) -> str:
    """Return the sha256 of a dataset's content without loading it.

    Args:
        module: the dataset file; its own `checksum(name, root)` goes first where it has one.
        name: of the dataset.
        root: the data root; it does not enter the checksum.
    """
    own = getattr(module, "checksum", None)
    if own is not None:
        return str(own(name, root))
    return files_checksum(module.__name__, name, module.files(name, root))


def files_checksum(reader: str, name: str, paths: Sequence[Path]) -> str:
    """Combine the contents of `paths`, in order, with the reader that makes a graph of them."""
    require(name, paths)
    parts = [f"{reader.rpartition('.')[2]} {READERS}", *map(file_checksum, paths)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def file_checksum(path: Path) -> str:
    """Return the sha256 of a file, remembered by its path, size and times.

    A file changed in the last two seconds is not remembered: a second change within the clock's
    resolution would go unseen.
    """
    path = path.resolve()
    stat = path.stat()
    stamp = [str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    place = hashlib.sha256(str(path).encode()).hexdigest()[:24] + ".json"
    memory = cache_root() / "checksums" / place
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(memory.read_bytes())
        if known["stamp"] == stamp:
            return str(known["sha256"])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) > 2_000_000_000:
        with contextlib.suppress(OSError):  # a cache that cannot be written costs only time
            memory.parent.mkdir(parents=True, exist_ok=True)
            partial = memory.with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps({"stamp": stamp, "sha256": digest}))
            partial.replace(memory)
    return digest


# ---- cleaning -------------------------------------------------------------------------------


def adjacency(source: Any, target: Any, num_nodes: int) -> CSR:
    """Build the clean adjacency of an edge list: symmetric, binary, no self-loops, sorted columns.

    Shapes: source, target integer [E], one entry for each edge, in any direction, repeats allowed.
    """
    from scipy.sparse import coo_array

    source, target = np.asarray(source), np.asarray(target)
    loops = source == target
    if loops.any():
        source, target = source[~loops], target[~loops]
    # Booleans: their sum is "or", so that no count of repeated edges can overflow.
    rows, columns = source.astype(np.int32), target.astype(np.int32)
    one_way = coo_array((np.ones(len(rows), dtype=bool), (rows, columns)), (num_nodes, num_nodes))
    one_way = one_way.tocsr()
    both = (one_way + one_way.T.tocsr()).tocsr()
    both.sort_indices()
    return CSR(
        torch.from_numpy(both.indptr.astype(np.int64)),
        torch.from_numpy(both.indices.astype(np.int32, copy=False)),
        torch.ones(both.nnz),
        (num_nodes, num_nodes),
    )


def adjacency_from_scipy(matrix: Any) -> CSR:
    """Build the clean adjacency of a square scipy matrix: each non-zero is an edge."""
    entries = matrix.tocoo()
    kept = entries.data != 0
    return adjacency(entries.row[kept], entries.col[kept], matrix.shape[0])


def as_features(x: Any) -> CSR | Tensor:
    """Return float32 features: CSR where at most a tenth is non-zero (or x is sparse), else dense.

    Shapes: x [N, F], scipy sparse or numpy.
    """
    from scipy.sparse import csr_array, issparse

    if not issparse(x):
        x = np.asarray(x, dtype=np.float32)
        if np.count_nonzero(x) > 0.1 * x.size:
            return torch.from_numpy(x)
    x = csr_array(x, copy=True)
    x.sum_duplicates()
    x.eliminate_zeros()
    return CSR.from_scipy(x)


def row_normalise(x: CSR | Tensor) -> CSR | Tensor:
    """Divide each row of x [N, F] by its sum; rows of zeros stay.

    Like PyG's `NormalizeFeatures` for the counts it is meant for; it differs in that rows that sum
    to less than one are scaled up as well, and in that negative features are refused, not shifted.

    Raises:
        ValueError: a feature is negative.
    """
    values = x.values if isinstance(x, CSR) else x
    if values.numel() and float(values.min()) < 0:
        raise ValueError(
            f"features divided by their row's sum must not be negative, the smallest is "
            f"{float(values.min()):g}; use features: raw"
        )
    if isinstance(x, CSR):
        total = torch.zeros(x.shape[0], device=x.device).index_add_(0, x.row_ids, x.values)
        total[total == 0] = 1.0
        return x.with_values(x.values / total[x.row_ids])
    total = x.sum(dim=1, keepdim=True)
    return x / torch.where(total == 0, torch.ones_like(total), total)
