"""ogbn-arxiv (citations) and ogbn-products (goods bought together), with OGB's split and Evaluator.

Source: Hu et al., "Open Graph Benchmark" (arXiv 2005.00687, NeurIPS 2020). Official splits: by
year of publication (arxiv), by sales rank (products).
Layout: `ogbn_arxiv/{RELEASE_v1.txt,raw,split}` as the zip unpacks under OGB's own name.
OGB's `NodePropPredDataset` reads the files. It meets them through a folder of links in the cache,
one for each content, so that its processed copy never lands beside the data and is never stale.
Differs from OGB: arxiv's citations are made undirected, repeated edges and self-loops dropped.
"""

import contextlib
import functools
import io
import os
import shutil
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import data, readers
from bench.graph import Dataset, Graph

STATS = {
    "ogbn-arxiv": (169343, 2315598, 128, 40),
    "ogbn-products": (2449029, None, 100, 47),  # edges left after cleaning: no published number
}
SPLITS = {"ogbn-arxiv": ("official",), "ogbn-products": ("official",)}
SPLIT_FOLDERS = {"ogbn-arxiv": "time", "ogbn-products": "sales_ranking"}
ROLES = ("train", "valid", "test")
RELEASE = "RELEASE_v1.txt"


def files(name: str, root: Path) -> list[Path]:
    """Return what OGB's loader reads: csv.gz files, or the binary layout where that is there."""
    folder = _folder(name, root)
    raw, split = folder / "raw", folder / "split" / SPLIT_FOLDERS[name]
    if (raw / "data.npz").is_file():
        parts = [raw / "data.npz", raw / "node-label.npz"]
    else:
        parts = [raw / f"{part}.csv.gz" for part in ("edge", "node-feat", "node-label")]
        parts += [raw / f"num-{part}-list.csv.gz" for part in ("node", "edge")]
        parts += [raw / "node_year.csv.gz"] if name == "ogbn-arxiv" else []
    if (split / "split_dict.pt").is_file():
        return [folder / RELEASE, *parts, split / "split_dict.pt"]
    return [folder / RELEASE, *parts, *(split / f"{role}.csv.gz" for role in ROLES)]


def prepare(name: str, root: Path) -> None:
    """Download and unpack the zip with OGB's own functions, without its question about the size."""
    with _ogb() as (meta, _):
        from ogb.utils.url import download_url, extract_zip

        about = meta(name)
        folder = _folder(name, root)
        with data.downloading(name, files(name, root), root) as temporary:
            unpacked = temporary / "unpacked"
            archive = download_url(about["url"], str(unpacked))
            extract_zip(archive, str(unpacked))
            shutil.copytree(
                unpacked / about["download_name"], temporary / folder.name, dirs_exist_ok=True
            )


def load(name: str, root: Path, *, check: bool = True) -> Dataset:
    """Read with OGB's loader; `check=False` leaves out the comparison with STATS."""
    paths = files(name, root)
    checksum = data.files_checksum(__name__, name, paths)
    view = _view(name, root, data.cache_root() / "ogb" / checksum[:24])
    with _ogb() as (meta, open_dataset):
        about = {**meta(name), "dir_path": str(view)}
        about["add_inverse_edge"] = "False"  # `adjacency` adds them, for half the memory
        about["binary"] = str(any(path.name == "data.npz" for path in paths))
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            dataset = open_dataset(name, meta_dict=about)
        parts, labels = dataset[0]
        ids = dataset.get_idx_split()
    source, target = parts["edge_index"]
    adj = data.adjacency(source, target, int(parts["num_nodes"]))
    y = torch.from_numpy(labels.reshape(-1).astype(np.int64))
    x = torch.from_numpy(np.require(parts["node_feat"], np.float32, ["C", "W"]))
    graph = Graph(x, y, adj, int(about["num classes"]) if check else int(y.max()) + 1)
    if check:
        data.check_stats(name, graph, STATS[name])
    train, val, test = (torch.from_numpy(np.array(ids[role], dtype=np.int64)) for role in ROLES)
    accuracy = functools.partial(_accuracy, name)
    return Dataset(name, graph, checksum, {"official": [(train, val, test)]}, accuracy)


def _folder(name: str, root: Path) -> Path:
    return root / name.replace("-", "_")


def _view(name: str, root: Path, place: Path) -> Path:
    """Make a folder of links to the dataset, with a `processed` folder of its own."""
    source, view = _folder(name, root).resolve(), place / _folder(name, root).name
    (view / "processed").mkdir(parents=True, exist_ok=True)
    for part in (RELEASE, "raw", "split"):
        link = view / part
        if not link.is_symlink() or link.readlink() != source / part:
            fresh = view / f".{part}-{os.getpid()}"
            fresh.symlink_to(source / part)
            fresh.replace(link)
    return view


def _accuracy(name: str, labels: np.ndarray, predictions: np.ndarray) -> float:
    """Score predicted classes, int [n] each, with OGB's own Evaluator."""
    _import_quietly()
    from ogb.nodeproppred import Evaluator

    pair = {"y_true": labels.reshape(-1, 1), "y_pred": predictions.reshape(-1, 1)}
    return float(Evaluator(name).eval(pair)["acc"])


@contextlib.contextmanager
def _ogb() -> Iterator[tuple[Callable[[str], dict[str, Any]], Any]]:
    """Give (meta data by name, NodePropPredDataset) of an ogb that works here.

    ogb 1.3.6 calls `torch.load` on its own caches in a way that torch 2.6 and newer refuse; for the
    time of the context, its module alone sees a torch that reads them (arrays only) and that writes
    them atomically.
    """
    _import_quietly()
    import pandas as pd
    from ogb.nodeproppred import dataset as module

    def meta(name: str) -> dict[str, Any]:
        table = pd.read_csv(
            Path(module.__file__).with_name("master.csv"), index_col=0, keep_default_na=False
        )
        return {str(key): value for key, value in table[name].items()}

    module.torch = _TorchOfOgb("torch")
    try:
        yield meta, module.NodePropPredDataset
    finally:
        module.torch = torch


def _import_quietly() -> None:
    """Import ogb without the thread that asks PyPI for a newer version of it."""
    if "ogb.nodeproppred" in sys.modules:
        return
    ignored, outdated = os.environ.get("OUTDATED_IGNORE"), sys.modules.get("outdated")
    sys.modules["outdated"] = None  # type: ignore[assignment]  # its import fails, which ogb expects
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it imports PyG, which uses what torch deprecates
            import ogb.nodeproppred  # noqa: F401
    finally:
        del sys.modules["outdated"]
        if outdated is not None:
            sys.modules["outdated"] = outdated
        os.environ.pop("OUTDATED_IGNORE", None)  # set by ogb
        if ignored is not None:
            os.environ["OUTDATED_IGNORE"] = ignored


def _save_atomically(content: Any, path: str, **options: Any) -> None:
    partial = f"{path}.{os.getpid()}"
    torch.save(content, partial, **options)
    Path(partial).replace(path)


class _TorchOfOgb(types.ModuleType):
    """torch, with a `load` that takes arrays and tensors alone and a `save` that cannot be torn."""

    _reader = types.SimpleNamespace(
        __name__="reader",
        Unpickler=readers.SafeUnpickler,
        load=lambda file, **options: readers.SafeUnpickler(file, **options).load(),
    )
    load = staticmethod(functools.partial(torch.load, weights_only=False, pickle_module=_reader))
    save = staticmethod(_save_atomically)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)
