"""The way to the scheduler of a Dask cluster, and what Dask says where there is none."""

import json
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench import __version__

CONNECT_SECONDS = 15.0


def translated(error: Exception, scheduler: str) -> Exception:
    """Say in a sentence what Dask raises where this package is missing."""
    unread = isinstance(error, RuntimeError) and "deserialization of the task graph" in str(error)
    if not unread and not isinstance(error, ImportError):
        return error
    who = "scheduler" if unread else "workers"
    return ValueError(
        f"the {who} at {scheduler} cannot read a cell; install gkdbench {__version__} there, and "
        "the same versions of Python and distributed as here"
    )


def connect(scheduler: str) -> Any:
    """Connect to a scheduler by its address or its scheduler file.

    Raises:
        ValueError: distributed is not installed, or this is neither.
        ConnectionError: nobody answers.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise ValueError(
            "engine 'dask' needs the package distributed, which is not here; install it with "
            "`pip install 'gkdbench[cluster]'`"
        ) from error
    try:
        address = _address(scheduler)
        return Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except OSError as error:
        raise ConnectionError(
            f"no Dask scheduler answers at {scheduler}; start one with `dask scheduler`, and its "
            f"workers with `dask worker {scheduler} --nthreads 1`"
        ) from error


def _address(scheduler: str) -> str:
    """Return the address of a scheduler that listens: a client that found none cannot be closed."""
    path = Path(scheduler)
    address = json.loads(path.read_text())["address"] if path.is_file() else scheduler
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if parts.scheme not in ("tcp", "tls", "ws", "wss", "ucx") or not host or not port:
        raise ValueError(
            f"'{scheduler}' is no address of a Dask scheduler; write tcp://HOST:PORT, or the path "
            "of its scheduler file"
        )
    _await(host, port)
    return str(address)


def _await(host: str, port: int) -> None:
    """Wait until somebody listens: the scheduler may have been started just now."""
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
