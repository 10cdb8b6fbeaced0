"""Where runs are tracked, and what is there already; nothing here imports mlflow.

    results/mlflow.db                     the default tracking store
    results/tracked/<store>/<sweep>.json  the stamps (age and size) of the rows a store holds

The stamps spare a finished sweep the import of mlflow. Losing them costs a second look, no more.
"""

import contextlib
import hashlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench import database
from bench.cell import Cell, from_data
from bench.database import DatabaseError, is_postgres, public, reason
from bench.results import Store

LOCK_SECONDS = 120
PORTS = {"mysql": 3306, "mssql": 1433}
SETTINGS = {  # for MLflow, unless the user set them
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # of a default of 7, which takes minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines a run
}
STORE_MODULES = {"mlflow", "sqlalchemy", "alembic", "sqlite3", "requests", "urllib3"}


class TrackingError(Exception):
    """The tracking store cannot be used; the results are not affected."""


def default_uri(root: str | Path) -> str:
    """Return the URI of the tracking store inside a results folder."""
    return f"sqlite:///{(Path(root).resolve() / 'mlflow.db').as_posix()}"


def is_remote(uri: str) -> bool:
    """Whether a tracking server answers at this URI."""
    return urlsplit(uri).scheme in ("http", "https")


@contextlib.contextmanager
def guarded(uri: str) -> Iterator[None]:
    """Turn what a store that is down or broken raises into a TrackingError, and soon."""
    before = {name: os.environ.get(name) for name in SETTINGS}
    os.environ.update({name: before[name] or value for name, value in SETTINGS.items()})
    try:
        yield
    except Exception as error:
        homes = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
        expected = isinstance(error, OSError | ImportError | DatabaseError)
        if not expected and not homes & STORE_MODULES:
            raise
        why = error.why if isinstance(error, DatabaseError) else reason(error, uri)
        raise TrackingError(
            f"the tracking store {public(uri)} cannot be used ({why}); "
            "the results are kept, and `gkdbench track --replay` fills it in later"
        ) from error
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextlib.contextmanager
def prepared(uri: str) -> Iterator[bool]:
    """Hold the lock of a store in a database, and say whether the store is new.

    MLflow makes the tables of a new database without a lock, and retries a database that is down
    for minutes: so one process at a time, and only where something answers.
    """
    if is_postgres(uri):
        with database.prepared(uri, "mlflow") as fresh:
            yield fresh
        return
    parts = urlsplit(uri)
    kind = parts.scheme.partition("+")[0]
    if kind != "sqlite":
        if kind in PORTS:
            address = parts.hostname or "localhost", parts.port or PORTS[kind]
            socket.create_connection(address, timeout=5).close()
        yield False
        return
    from filelock import FileLock

    path = _sqlite_path(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock", timeout=LOCK_SECONDS):
        fresh = not path.is_file() or path.stat().st_size == 0
        with contextlib.closing(sqlite3.connect(path, timeout=20)) as connection:
            connection.execute("BEGIN IMMEDIATE")  # fails if this is no database, or is read-only
            connection.rollback()
        yield fresh


def hasten_sqlite() -> None:
    """Let the sqlite files of results folders, and no others, not wait for the disk at a commit.

    MLflow commits six times a row, which takes 5 to 30 ms each on a plain disk. A killed process
    loses nothing; what a machine that loses power may spoil is a mirror: remove it, and
    `gkdbench track --replay` makes it again.
    """
    import sqlalchemy

    if not sqlalchemy.event.contains(sqlalchemy.Engine, "connect", _hasten):
        sqlalchemy.event.listen(sqlalchemy.Engine, "connect", _hasten)


def _hasten(connection: Any, _: Any) -> None:
    if not isinstance(connection, sqlite3.Connection):
        return
    (path,) = [row[2] for row in connection.execute("PRAGMA database_list") if row[1] == "main"]
    if Path(path).name == "mlflow.db" and (Path(path).parent / "cells").is_dir():
        connection.execute("PRAGMA synchronous = OFF")


def analyse(uri: str) -> None:
    """Tell sqlite how its tables are filled: it plans badly where it does not know.

    With 10,000 runs MLflow's query for the best runs by a metric took 11 s before, and 0.3 s after.
    """
    if not uri.startswith("sqlite:"):
        return
    with (
        contextlib.suppress(sqlite3.Error),  # somebody writes just now: it was told before
        contextlib.closing(sqlite3.connect(_sqlite_path(uri), timeout=5)) as connection,
    ):
        connection.execute("PRAGMA analysis_limit = 1000")
        connection.execute("ANALYZE")
        connection.commit()


def own_database(store: Store, uri: str) -> Path | None:
    """Return the sqlite file that lies in the results folder, if that is the tracking store."""
    return _sqlite_path(uri) if uri == default_uri(store.root) else None


def tags_of_runs(
    path: Path, experiment: str, names: Sequence[str]
) -> list[tuple[str, str, dict[str, str]]] | None:
    """Return (run id, status, tags of these names) of an experiment's active runs, newest first.

    MLflow's own search brings all metrics, params and tags of every run: 4 ms each, 40 s for
    10,000. This reads two tables, and nothing else is read from them or written to them.

    Returns:
        None where the file is not as expected, after an upgrade say: ask MLflow then.
    """
    runs = (
        "SELECT run_uuid, status FROM runs WHERE experiment_id = ? AND lifecycle_stage = 'active' "
        "ORDER BY start_time DESC, run_uuid"
    )
    tags = f"SELECT run_uuid, key, value FROM tags WHERE key IN ({', '.join('?' * len(names))})"
    found: dict[str, tuple[str, str, dict[str, str]]] = {}
    try:
        place = f"{path.as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(place, timeout=20, uri=True)) as connection:
            connection.execute("BEGIN")  # one state of both tables
            for run, status in connection.execute(runs, [int(experiment)]):
                found[run] = run, status, {}
            for run, key, value in connection.execute(tags, names):
                if run in found:
                    found[run][2][key] = value
    except (sqlite3.Error, ValueError):
        return None
    return list(found.values())


def ui(store: Store, uri: str | None = None, host: str = "127.0.0.1", port: int = 5000) -> None:
    """Serve MLflow's pages on the tracking store until interrupted.

    Raises:
        TrackingError: the port is taken, there is no store, or a server shows it already.
    """
    import click

    uri = uri or default_uri(store.root)
    if is_remote(uri):
        raise TrackingError(f"{public(uri)} is a server: open it in a browser")
    if is_postgres(uri):
        with guarded(uri):
            database.connect(uri).close()  # MLflow's server would try again for minutes
    if uri.startswith("sqlite:") and not _sqlite_path(uri).is_file():
        raise TrackingError(f"{_sqlite_path(uri)} is missing: `gkdbench track --replay` makes it")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise TrackingError(
                f"port {port} on {host} cannot be used ({error.strerror}): give another one"
            ) from error
    command = [sys.executable, "-m", "mlflow", "ui", "--workers", "1"]
    command += ["--host", host, "--port", str(port)]
    artifacts = (store.root.resolve() / "mlartifacts").as_uri()
    click.echo(f'open http://{host}:{port} and choose "Model training" at the top left, once')
    quiet = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    quiet["MLFLOW_BACKEND_STORE_URI"] = database.resolved(uri)  # a command line is everybody's
    with contextlib.suppress(KeyboardInterrupt):
        done = subprocess.run([*command, "--default-artifact-root", artifacts], env=quiet)
        if done.returncode:
            raise TrackingError(f"MLflow's server ended with code {done.returncode}")


# ---- what is tracked already -----------------------------------------------------------------


def planned(store: Store, sweep: str) -> dict[str, Cell]:
    """Return the cells of a sweep as it labels them, by key."""
    plan = store.read_sweep(sweep) or {"cells": []}
    return {item["key"]: from_data(item["cell"]) for item in plan["cells"]}


def needs_tracking(
    store: Store, sweep: str, keys: Sequence[str], uri: str | None = None
) -> list[str]:
    """Return the keys whose rows are not, or not as they are now, in the tracking store."""
    known = noted(store, sweep, uri or default_uri(store.root))
    stamps = {key: stamp(store, key) for key in keys}
    return [key for key, value in stamps.items() if value and known.get(key) != value]


def noted(store: Store, sweep: str, uri: str) -> dict[str, str]:
    """Return the stamps noted for a sweep; none where the store is gone."""
    here = not uri.startswith("sqlite:") or _sqlite_path(uri).is_file()
    return _known(store, sweep, uri) if here else {}


def remember(store: Store, sweep: str, uri: str, stamps: Mapping[str, str]) -> None:
    """Note that the rows with these stamps are in the tracking store."""
    known = {**_known(store, sweep, uri), **stamps}
    path = _marks(store, uri) / f"{sweep}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}-{os.getpid()}")
    partial.write_text(json.dumps({"plan": _plan_stamp(store, sweep), "stamps": known}))
    partial.replace(path)


def forget(store: Store, uri: str) -> None:
    """Drop all notes about a tracking store: it is new."""
    shutil.rmtree(_marks(store, uri), ignore_errors=True)


def stamp(store: Store, key: str) -> str:
    """Tell whether a row's files changed, without reading them; "" where there is no row."""
    found = []
    for name in ("row.json", "cost.json"):
        with contextlib.suppress(OSError):
            stat = (store.folder(key) / name).stat()
            found.append(f"{name[0]}{stat.st_mtime_ns}-{stat.st_size}")
    return " ".join(found) if found and found[0].startswith("r") else ""


def _known(store: Store, sweep: str, uri: str) -> dict[str, str]:
    """Read the stamps noted for a sweep; none if the sweep's plan changed since."""
    try:
        data: dict[str, Any] = json.loads((_marks(store, uri) / f"{sweep}.json").read_text())
        return dict(data["stamps"]) if data["plan"] == _plan_stamp(store, sweep) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _plan_stamp(store: Store, sweep: str) -> str:
    path = store.root / "sweeps" / f"{sweep}.json"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _marks(store: Store, uri: str) -> Path:
    name = public(database.resolved(uri))  # the same store under a new password
    return store.root / "tracked" / hashlib.sha256(name.encode()).hexdigest()[:12]


def _sqlite_path(uri: str) -> Path:
    return Path(uri.partition("?")[0].removeprefix("sqlite:///")).absolute()
