"""Amazon Computers and Photo: goods often bought together, words of their reviews as features.

Source: Shchur et al., "Pitfalls of Graph Neural Network Evaluation" (arXiv 1811.05868, 2018), files
of github.com/shchur/gnn-benchmark. No fixed split.
Layout: `amazon/Computers/raw/amazon_electronics_computers.npz`, `amazon/Photo/raw/...`.
Like PyG's `Amazon`, any positive feature becomes 1; features stay sparse.
"""

from pathlib import Path

from bench import data, readers
from bench.graph import Dataset, Graph

STATS = {
    "amazon-computers": (13752, 491722, 767, 10),
    "amazon-photo": (7650, 238162, 745, 8),
}
SPLITS: dict[str, tuple[str, ...]] = {"amazon-computers": (), "amazon-photo": ()}


def files(name: str, root: Path) -> list[Path]:
    """Return the one npz file."""
    part = name.removeprefix("amazon-")
    return [root / "amazon" / part.capitalize() / "raw" / f"amazon_electronics_{part}.npz"]


def prepare(name: str, root: Path) -> None:
    """Download the npz file."""
    from torch_geometric.datasets import Amazon

    with data.downloading(name, files(name, root), root) as folder:
        upstream = Amazon.__new__(Amazon)  # its constructor would also write processed files
        upstream.root, upstream.name = folder / "amazon", name.removeprefix("amazon-")
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
