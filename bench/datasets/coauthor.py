"""Coauthor CS and Physics: authors linked by joint papers, keywords of their papers as features.

Source: Shchur et al., "Pitfalls of Graph Neural Network Evaluation" (arXiv 1811.05868, 2018), files
of github.com/shchur/gnn-benchmark. No fixed split.
Layout: `coauthor/CS/raw/ms_academic_cs.npz`, `coauthor/Physics/raw/ms_academic_phy.npz`.
Like PyG's `Coauthor`, any positive feature becomes 1; features stay sparse.
"""

from pathlib import Path

from bench import data, readers
from bench.graph import Dataset, Graph

STATS = {
    "coauthor-cs": (18333, 163788, 6805, 15),
    "coauthor-physics": (34493, 495924, 8415, 5),
}
SPLITS: dict[str, tuple[str, ...]] = {"coauthor-cs": (), "coauthor-physics": ()}
FOLDERS = {"coauthor-cs": "CS", "coauthor-physics": "Physics"}


def files(name: str, root: Path) -> list[Path]:
    """Return the one npz file."""
    folder = FOLDERS[name]
    return [root / "coauthor" / folder / "raw" / f"ms_academic_{folder[:3].lower()}.npz"]


def prepare(name: str, root: Path) -> None:
    """Download the npz file."""
    from torch_geometric.datasets import Coauthor

    with data.downloading(name, files(name, root), root) as folder:
        upstream = Coauthor.__new__(Coauthor)  # its constructor would also write processed files
        upstream.root, upstream.name = folder / "coauthor", FOLDERS[name]
        upstream.download()


def load(name: str, root: Path, *, check: bool = True) -> Dataset:
    """Read the npz file; `check=False` leaves out the comparison with STATS."""
    paths = files(name, root)
    checksum = data.files_checksum(__name__, name, paths)
    x, adj, y = readers.read_gnn_benchmark(paths[0])
    graph = Graph(data.as_features((x > 0).astype("float32")), y, adj, int(y.max()) + 1)
    if check:
        data.check_stats(name, graph, STATS[name])
    return Dataset(name, graph, checksum)
