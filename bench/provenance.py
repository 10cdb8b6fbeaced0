"""What a row says of where it was made: versions, git commit, device."""

import contextlib
import functools
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import __version__


@functools.cache
def provenance() -> dict[str, Any]:
    """Return what runs here: versions and, inside a checkout, the git commit."""
    import numba

    versions = {"torch": torch.__version__, "numpy": np.__version__, "numba": numba.__version__}
    return {
        "gkdbench": __version__,
        "python": platform.python_version(),
        **versions,
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": bool(
            _git("status", "--porcelain", "--untracked-files=no")
            or _git("ls-files", "--others", "--exclude-standard")  # in this package: a new method
        ),
    }


def _git(*arguments: str) -> str:
    folder = Path(__file__).parent
    if not (folder.parent / ".git").exists():
        return ""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


@functools.cache
def device_name(device: str) -> str:
    """Return the model of the GPU, or of the processor with its number of cores."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()} ({os.cpu_count()} cores)"
    return f"{platform.processor() or platform.machine()} ({os.cpu_count()} cores)"
