"""Cora, CiteSeer and PubMed of the CPF protocol: other files, other node order, no fixed split.

Source: Yang et al., "Extract the Knowledge of Graph Neural Networks and Go Beyond it" (CPF, arXiv
2103.02885, WWW 2021), `data/npz/` of github.com/BUPT-GAMMA/CPF, which took them from
gnn-benchmark (Shchur et al., arXiv 1811.05868). GLNN and its successors use them with the `random`
split, which keeps the largest component: 2,485 nodes of Cora, 2,110 of CiteSeer.
Layout: `npz/{cora,citeseer,pubmed}.npz`. These are not the files of PyG's `CitationFull`.
Where there is no network, copy `data/npz/<name>.npz` of that repository to `npz/<name>.npz`.
"""

from pathlib import Path

from bench import data, readers
from bench.graph import Dataset, Graph

STATS = {
    "cpf-cora": (2708, 10556, 1433, 7),
    "cpf-citeseer": (3312, 9072, 3703, 6),
    "cpf-pubmed": (19717, 88648, 500, 3),
}
SPLITS: dict[str, tuple[str, ...]] = {"cpf-cora": (), "cpf-citeseer": (), "cpf-pubmed": ()}
URL = "https://github.com/BUPT-GAMMA/CPF/raw/master/data/npz"


def files(name: str, root: Path) -> list[Path]:
    """Return the one npz file."""
    return [root / "npz" / f"{name.removeprefix('cpf-')}.npz"]


def prepare(name: str, root: Path) -> None:
    """Download the npz file from the CPF repository."""
    from torch_geometric.data import download_url

    (path,) = files(name, root)
    with data.downloading(name, [path], root) as folder:
        download_url(f"{URL}/{path.name}", str(folder / "npz"))


def load(name: str, root: Path, *, check: bool = True) -> Dataset:
    """Read the npz file, values as they are; `check=False` leaves out the comparison with STATS."""
    paths = files(name, root)
    checksum = data.files_checksum(__name__, name, paths)
    x, adj, y = readers.read_gnn_benchmark(paths[0])
    graph = Graph(data.as_features(x), y, adj, int(y.max()) + 1)
    if check:
        data.check_stats(name, graph, STATS[name])
    return Dataset(name, graph, checksum)
