"""What this installation can do: versions, devices, threads, data, tracking, extras."""

import importlib.metadata
import importlib.util
import platform
from pathlib import Path

from bench import data, engine, registry
from bench.database import EXTRA, public

PACKAGES = ("torch", "torch-geometric", "ogb", "mlflow", "pandas", "numba", "numpy", "scipy")
EXTRAS = {
    "pytest": "run the tests: pip install -e '.[test]'",
    "distributed": "run on a Dask cluster: pip install -e '.[cluster]'",
    "codecarbon": "model energy: pip install -e '.[energy]'",
    "psycopg2": f"keep studies and runs in PostgreSQL: {EXTRA}",
}


def report(results: Path, given: str | None, uri: str | None) -> str:
    """Return the findings as text; nothing is changed."""
    sections = {
        "versions": [f"python {platform.python_version()}", *map(_version, PACKAGES)],
        "devices": _devices(),
        "data": _data(data.data_root(given)),
        "tracking": [_tracking(results, uri)],
        "extras": [_extra(name, use) for name, use in EXTRAS.items()],
    }
    blocks = [f"{title}\n" + "\n".join(f"  {line}" for line in s) for title, s in sections.items()]
    return "\n\n".join(blocks)


def _version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{package} MISSING: pip install {package}"


def _devices() -> list[str]:
    import torch

    from bench import cost, kernels

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    energy = "readable" if cost.read_energy() is not None else "not readable: no energy column"
    return [
        f"cpu: {engine.cores()} cores; a run takes {engine.cores()} processes of one thread",
        f"kernels: compiled into {kernels.cache_folder()}",
        f"gpu: {', '.join(gpus) if gpus else 'none'}",
        f"energy counter: {energy}",
    ]


def _data(root: Path) -> list[str]:
    lines = [f"root {root}"]
    for name in registry.datasets():
        module = registry.dataset_module(name)
        if name == "npz":
            continue
        missing = [path for path in module.files(name, root) if not path.is_file()]
        state = "ready" if not missing else f"missing {missing[0]}: gkdbench prepare {name}"
        lines.append(f"{name}: {state}")
    return lines


def _tracking(results: Path, uri: str | None) -> str:
    from bench import track

    uri = uri or track.default_uri(results)
    path, shown = Path(uri.removeprefix("sqlite:///")), public(uri)
    if uri.startswith("sqlite:///") and not path.is_file():
        return f"{shown}: made by the first run"
    try:
        from bench.results import Store

        track.Tracker(Store(results), uri)
    except track.TrackingError as error:
        return f"{shown}: {error}"
    return f"{shown}: reachable"


def _extra(name: str, use: str) -> str:
    return f"{name}: {'installed' if importlib.util.find_spec(name) else 'missing'} ({use})"
