"""Writes small datasets in each upstream on-disk layout below a data root.

What `write_*` wrote, `load(name, root, check=False)` of the dataset's file reads.
The content is learnable: a synthetic graph with three classes.
"""

import gzip
import pickle
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch

from bench.datasets import synthetic
from bench.graph import Graph

NUM_CLASSES = 3


def content(nodes: int = 700, seed: int = 0, homophily: float = 0.8) -> Graph:
    """Return the graph that the layouts hold by default."""
    name = f"synthetic:nodes={nodes},classes={NUM_CLASSES},features=60,words=8,seed={seed}"
    return synthetic.load(f"{name},homophily={homophily}", Path()).graph


def write(name: str, root: Path, graph: Graph | None = None) -> None:
    """Write a small dataset of this name, whichever layout it has."""
    family = name.split("-")[0]
    if family in ("cora", "citeseer", "pubmed"):
        write_planetoid(root, name, graph)
    elif family in ("cpf", "amazon", "coauthor"):
        places = {
            "cpf": f"npz/{name[4:]}.npz",
            "amazon-computers": "amazon/Computers/raw/amazon_electronics_computers.npz",
            "amazon-photo": "amazon/Photo/raw/amazon_electronics_photo.npz",
            "coauthor-cs": "coauthor/CS/raw/ms_academic_cs.npz",
            "coauthor-physics": "coauthor/Physics/raw/ms_academic_phy.npz",
        }
        write_npz(root / places["cpf" if family == "cpf" else name], graph)
    elif family == "webkb":
        write_webkb(root, name, graph)
    elif family == "actor":
        write_actor(root, graph)
    elif family == "ogbn":
        write_ogb(root, name, graph)
    else:
        raise ValueError(f"no layout for '{name}'")


def write_planetoid(
    root: Path, name: str = "cora", graph: Graph | None = None, isolated: int = 0
) -> str:
    """Planetoid's eight files; 20 train nodes a class, 500 val, 100 test.

    The nodes are put in Planetoid's order: train first, by no class. `isolated` ids among the test
    nodes are in no file, as in CiteSeer.
    """
    graph = graph or content()
    folder = {"cora": "Cora", "citeseer": "CiteSeer", "pubmed": "PubMed"}[name]
    raw = root / "planetoid" / folder / "raw"
    raw.mkdir(parents=True)
    n, train = graph.num_nodes, 20 * graph.num_classes
    order = _train_first(graph.y.numpy(), 20)
    x = graph.x.to_scipy()[order].astype(np.float32)
    onehot = np.eye(graph.num_classes, dtype=np.int32)[graph.y.numpy()[order]]
    adj = graph.adj.to_scipy()[order][:, order].tocsr()
    rng = np.random.default_rng(0)
    test = rng.permutation(np.arange(n - 100, n))
    gone = np.sort(test[test != n - 1])[:: max(1, 99 // max(isolated, 1))][1 : isolated + 1]
    test = test[~np.isin(test, gone)]
    edges = adj.tocoo()
    cut = np.isin(edges.row, gone) | np.isin(edges.col, gone)
    links: dict[int, list[int]] = {i: [] for i in range(n)}
    for a, b in zip(edges.row[~cut], edges.col[~cut], strict=True):
        links[int(a)].append(int(b))
    known = n - 100
    parts = {
        "x": sp.csr_matrix(x[:train]),
        "allx": sp.csr_matrix(x[:known]),
        "tx": sp.csr_matrix(x[test]),
        "y": onehot[:train],
        "ally": onehot[:known],
        "ty": onehot[test],
        "graph": links,
    }
    for part, value in parts.items():
        (raw / f"ind.{name}.{part}").write_bytes(pickle.dumps(value, protocol=2))
    (raw / f"ind.{name}.test.index").write_text("".join(f"{i}\n" for i in test))
    return name


def write_npz(
    path: Path, graph: Graph | None = None, style: str = "short", dense: bool = False
) -> str:
    """gnn-benchmark's npz; style "short" (`adj_data`) or "long" (`adj_matrix.data`)."""
    graph = graph or content()
    path.parent.mkdir(parents=True, exist_ok=True)
    upper = sp.triu(graph.adj.to_scipy()).tocsr()  # each edge once, as upstream has them
    x = graph.x if isinstance(graph.x, torch.Tensor) else graph.x.to_scipy()
    parts = {"labels": graph.y.numpy().astype(np.int8)}
    matrices = {"adj": upper}
    if dense:
        parts["attr_matrix"] = x.numpy() if isinstance(x, torch.Tensor) else x.toarray()
    else:
        matrices["attr"] = x
    for key, matrix in matrices.items():
        prefix = f"{key}_" if style == "short" else f"{key}_matrix."
        parts |= {
            prefix + "data": matrix.data,
            prefix + "indices": matrix.indices,
            prefix + "indptr": matrix.indptr,
            prefix + "shape": np.array(matrix.shape),
        }
    np.savez(path, **parts)
    return f"npz:{path}"


def write_webkb(root: Path, name: str = "webkb-cornell", graph: Graph | None = None) -> str:
    """WebKB: dense word vectors as text, directed links, ten splits."""
    graph = graph or content(150)
    part = name.removeprefix("webkb-")
    raw = root / "webkb" / part / "raw"
    raw.mkdir(parents=True)
    x = graph.x.to_dense().int().tolist()
    rows = [(i, ",".join(map(str, x[i])), int(graph.y[i])) for i in range(len(x))]
    _write_geom_gcn(raw, part, rows, graph)
    return name


def write_actor(root: Path, graph: Graph | None = None) -> str:
    """Actor: word ids as text, nodes in any order, directed links, ten splits."""
    graph = graph or content(150)
    raw = root / "actor" / "raw"
    raw.mkdir(parents=True)
    x = graph.x.to_scipy()
    rows = []
    for i in np.random.default_rng(0).permutation(graph.num_nodes):
        words = x.indices[x.indptr[i] : x.indptr[i + 1]]
        rows.append((i, ",".join(map(str, words)), int(graph.y[i])))
    _write_geom_gcn(raw, "film", rows, graph)
    return "actor"


def _write_geom_gcn(raw: Path, part: str, rows: list[tuple], graph: Graph) -> None:
    text = "node_id\tfeature\tlabel\n" + "".join(f"{i}\t{x}\t{y}\n" for i, x, y in rows)
    (raw / "out1_node_feature_label.txt").write_text(text)
    upper = sp.triu(graph.adj.to_scipy()).tocoo()
    pairs = [(3, 3), *zip(upper.row, upper.col, strict=True)]  # upstream has self-links
    lines = "".join(f"{a}\t{b}\n" for a, b in pairs)
    (raw / "out1_graph_edges.txt").write_text("node_id\tnode_id\n" + lines)
    n = graph.num_nodes
    for i in range(10):
        role = np.random.default_rng(i).permutation(n) * 100 // n
        np.savez(
            raw / f"{part}_split_0.6_0.2_{i}.npz",
            train_mask=(role < 48).astype(np.uint8),
            val_mask=((role >= 48) & (role < 80)).astype(np.uint8),
            test_mask=(role >= 80).astype(np.uint8),
        )


def write_ogb(
    root: Path, name: str = "ogbn-arxiv", graph: Graph | None = None, binary: bool = False
) -> str:
    """OGB's layout with dense features; csv.gz, or `binary`: npz files and `split_dict.pt`."""
    graph = graph or content(300)
    folder = root / name.replace("-", "_")
    raw = folder / "raw"
    split = folder / "split" / {"ogbn-arxiv": "time", "ogbn-products": "sales_ranking"}[name]
    raw.mkdir(parents=True)
    split.mkdir(parents=True)
    (folder / "RELEASE_v1.txt").write_text("# Release note for v1\n")
    n = graph.num_nodes
    x = graph.x.to_dense().numpy() if not isinstance(graph.x, torch.Tensor) else graph.x.numpy()
    x = x + 0.5  # not an integer, as upstream
    upper = sp.triu(graph.adj.to_scipy()).tocoo()
    edges = np.stack([upper.row, upper.col], axis=1).astype(np.int64)
    y = graph.y.numpy()[:, None]
    ids = np.random.default_rng(0).permutation(n)
    roles = {"train": ids[: n // 2], "valid": ids[n // 2 : n * 3 // 4], "test": ids[n * 3 // 4 :]}
    if binary:
        counts = {"num_nodes_list": np.array([n]), "num_edges_list": np.array([len(edges)])}
        np.savez(raw / "data.npz", edge_index=edges.T, node_feat=x.astype(np.float32), **counts)
        np.savez(raw / "node-label.npz", node_label=y)
        torch.save(roles, split / "split_dict.pt", pickle_protocol=4)
        return name
    _csv(raw / "edge.csv.gz", edges)
    _csv(raw / "node-feat.csv.gz", x)
    _csv(raw / "node-label.csv.gz", y)
    _csv(raw / "num-node-list.csv.gz", [[n]])
    _csv(raw / "num-edge-list.csv.gz", [[len(edges)]])
    if name == "ogbn-arxiv":
        _csv(raw / "node_year.csv.gz", np.full((n, 1), 2017))
    for role, nodes in roles.items():
        _csv(split / f"{role}.csv.gz", nodes[:, None])
    return name


def _csv(path: Path, rows: object) -> None:
    lines = "".join(",".join(map(str, row)) + "\n" for row in np.asarray(rows).tolist())
    path.write_bytes(gzip.compress(lines.encode(), mtime=0))


def _train_first(y: np.ndarray, per_class: int) -> np.ndarray:
    """Order the nodes so that the first ones hold `per_class` of each class."""
    picked = np.concatenate([np.flatnonzero(y == c)[:per_class] for c in range(int(y.max()) + 1)])
    return np.concatenate([picked, np.setdiff1d(np.arange(len(y)), picked)])


def listing(root: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of everything below a folder, to see whether it changed."""
    stats = {str(p.relative_to(root)): p.stat() for p in sorted(root.rglob("*"))}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}
