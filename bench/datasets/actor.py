"""Actor (film): actors that share a Wikipedia page, keywords of their pages as features.

Source: Pei et al., "Geom-GCN: Geometric Graph Convolutional Networks" (ICLR 2020), files of
github.com/graphdml-uiuc-jlu/geom-gcn, with its ten splits of 48 % train, 32 % val, 20 % test.
Layout: `actor/raw/out1_node_feature_label.txt`, `out1_graph_edges.txt` and
`film_split_0.6_0.2_{0..9}.npz`.
Differs from PyG's `Actor`: edges are made undirected and self-loops dropped; words stay sparse.
"""

from pathlib import Path

import numpy as np
import torch

from bench import data, readers
from bench.graph import Dataset, Graph

STATS = {"actor": (7600, 53318, 932, 5)}
SPLITS = {"actor": ("public",)}


def files(name: str, root: Path) -> list[Path]:
    """Return the nodes, the edges and the ten splits."""
    folder = root / name / "raw"
    masks = [folder / f"film_split_0.6_0.2_{i}.npz" for i in range(10)]
    return [folder / "out1_node_feature_label.txt", folder / "out1_graph_edges.txt", *masks]


def prepare(name: str, root: Path) -> None:
    """Download the raw files."""
    from torch_geometric.datasets import Actor

    with data.downloading(name, files(name, root), root) as folder:
        upstream = Actor.__new__(Actor)  # its constructor would also write processed files
        upstream.root = folder / name
        upstream.download()


def load(name: str, root: Path, *, check: bool = True) -> Dataset:
    """Read the raw files; `check=False` leaves out the comparison with STATS."""
    from scipy.sparse import csr_array

    nodes, edges, *masks = paths = files(name, root)
    checksum = data.files_checksum(__name__, name, paths)
    lines = [line.split("\t") for line in nodes.read_text().splitlines()[1:]]
    ids = np.array([int(node) for node, _, _ in lines])
    words = [np.array(listed.split(","), dtype=np.int64) for _, listed, _ in lines]
    y = torch.empty(len(ids), dtype=torch.int64)
    y[torch.from_numpy(ids)] = torch.tensor([int(label) for _, _, label in lines])
    rows = np.repeat(ids, [len(listed) for listed in words])
    x = csr_array((np.ones(len(rows), dtype=np.float32), (rows, np.concatenate(words))))
    x.data[:] = 1.0  # a word listed twice counts once
    source, target = readers.read_geom_gcn_edges(edges).T
    adj = data.adjacency(source, target, len(y))
    graph = Graph(data.as_features(x), y, adj, int(y.max()) + 1)
    if check:
        data.check_stats(name, graph, STATS[name])
    return Dataset(name, graph, checksum, {"public": readers.read_masks(masks)})
