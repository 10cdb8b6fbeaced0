"""Cornell, Texas and Wisconsin of WebKB: links between web pages, which rarely join equal classes.

Source: Pei et al., "Geom-GCN: Geometric Graph Convolutional Networks" (ICLR 2020), files of
github.com/graphdml-uiuc-jlu/geom-gcn, with its ten splits of 48 % train, 32 % val, 20 % test.
Layout: `webkb/cornell/raw/out1_node_feature_label.txt`, `out1_graph_edges.txt` and
`cornell_split_0.6_0.2_{0..9}.npz`.
Differs from PyG's `WebKB`: links are made undirected, self-links dropped; words stay sparse.
"""

from pathlib import Path

import numpy as np
import torch

from bench import data, readers
from bench.graph import Dataset, Graph

STATS = {
    "webkb-cornell": (183, 554, 1703, 5),
    "webkb-texas": (183, 558, 1703, 5),
    "webkb-wisconsin": (251, 900, 1703, 5),
}
SPLITS = {
    "webkb-cornell": ("public",),
    "webkb-texas": ("public",),
    "webkb-wisconsin": ("public",),
}


def files(name: str, root: Path) -> list[Path]:
    """Return the nodes, the edges and the ten splits."""
    part = name.removeprefix("webkb-")
    folder = root / "webkb" / part / "raw"
    masks = [folder / f"{part}_split_0.6_0.2_{i}.npz" for i in range(10)]
    return [folder / "out1_node_feature_label.txt", folder / "out1_graph_edges.txt", *masks]


def prepare(name: str, root: Path) -> None:
    """Download the raw files."""
    from torch_geometric.datasets import WebKB

    with data.downloading(name, files(name, root), root) as folder:
        upstream = WebKB.__new__(WebKB)  # its constructor would also write processed files
        upstream.root, upstream.name = folder / "webkb", name.removeprefix("webkb-")
        upstream.download()


def load(name: str, root: Path, *, check: bool = True) -> Dataset:
    """Read the raw files; `check=False` leaves out the comparison with STATS."""
    nodes, edges, *masks = paths = files(name, root)
    checksum = data.files_checksum(__name__, name, paths)
    lines = [line.split("\t") for line in nodes.read_text().splitlines()[1:]]
    x = np.array([words.split(",") for _, words, _ in lines], dtype=np.float32)
    y = torch.tensor([int(label) for _, _, label in lines])
    source, target = readers.read_geom_gcn_edges(edges).T
    adj = data.adjacency(source, target, len(y))
    graph = Graph(data.as_features(x), y, adj, int(y.max()) + 1)
    if check:
        data.check_stats(name, graph, STATS[name])
    return Dataset(name, graph, checksum, {"public": readers.read_masks(masks)})
