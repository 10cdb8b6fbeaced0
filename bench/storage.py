"""Where studies are kept: a journal file each, or a database of all of them."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from bench import database
from bench.database import Claims, DatabaseError, is_postgres, public, reason

SYNC_SECONDS = 1.0


class Storage:
    """Opens the storages of studies; a context manager. One process at a time has a study."""

    def __init__(self, url: str | None = None) -> None:
        """Open a database, or none.

        Args:
            url: as Optuna takes it; None keeps every study in a journal file of its own.

        Raises:
            DatabaseError: the database cannot be used.
        """
        if url == "":
            raise DatabaseError(
                "the storage is empty; give the URL of a database, or leave it out for a journal "
                "file of each study"
            )
        self.url = url
        self._shared: Any = None
        with self.guarded():
            self._shared = _database(url) if url else None
            self._claims = Claims(url)

    def __enter__(self) -> "Storage":
        return self

    def __exit__(self, *_: object) -> None:
        self._claims.close()
        if self._shared is not None:
            with contextlib.suppress(Exception):  # the server may be gone
                self._shared.engine.dispose()

    def of(self, study: str, place: Path) -> Any:
        """Return Optuna's storage for a study; a journal lies in the folder `place`.

        Raises:
            DatabaseError: another process has the study.
        """
        if self._shared is None:
            return _journal(place)
        if not self._claims.take(f"study {study}"):
            assert self.url is not None
            raise DatabaseError(
                f"the study {study} in {public(self.url)} is being tuned by another process; wait "
                "for it, and for more machines on one tuning use --engine dask"
            )
        return self._shared

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Turn what a database that is away raises into one sentence."""
        try:
            yield
        except DatabaseError:
            raise
        except Exception as error:
            cause = error.__cause__ or error  # Optuna wraps what a database raises
            opening = self._shared is None and isinstance(error, ImportError | ValueError)
            if self.url is None or not (opening or database.is_of_database(cause)):
                raise
            kept = "" if self._shared is None else "; what is finished is kept"
            raise DatabaseError(
                f"the storage {public(self.url)} cannot be used: {reason(cause, self.url)}{kept}"
            ) from None  # the cause may hold the password


def _database(url: str) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if not is_postgres(url):
        return optuna.storages.RDBStorage(url)
    with database.prepared(url, "optuna"):
        # A connection that was lost ends the search: what it held is lost as well.
        # Trials are asked and told in many small transactions; a crash of the server may lose the
        # last of them, never a part of one, and they are asked for again as they were.
        settings = database.settings(url, "-c synchronous_commit=off")
        return optuna.storages.RDBStorage(
            database.resolved(url), engine_kwargs={"connect_args": settings}
        )


def _journal(place: Path) -> Any:
    from optuna.storages import JournalStorage

    path = place / "journal.log"
    _mend(path)
    return JournalStorage(cast(Any, _Journal(path)))  # reads and appends, no more


class _Journal:
    """Optuna's journal file, written without its lock and its wait for the disk at every entry.

    A trial has about ten entries. Whoever kills the driver loses none; a machine that loses power
    loses the last second, and the trials of it are asked for again as they were.
    """

    def __init__(self, path: Path) -> None:
        from optuna.storages.journal import JournalFileBackend

        self._path, self._file = path, JournalFileBackend(str(path))
        self._synced = 0.0

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        return self._file.read_logs(log_number_from)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = [json.dumps(log, separators=(",", ":")) + "\n" for log in logs]
        with self._path.open("ab", buffering=0) as file:
            file.write("".join(lines).encode())
            if time.monotonic() - self._synced > SYNC_SECONDS:
                os.fsync(file.fileno())
                self._synced = time.monotonic()


def _mend(path: Path) -> None:
    """Take away what a killed driver left: its lock, and a last line that it had half written.

    Only one driver at a time has the study (tune.py holds a lock of the system), so nobody else
    writes here.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for lock in path.parent.glob(f"{path.name}.lock*"):
        with contextlib.suppress(OSError):
            lock.unlink()
    if not path.is_file():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)
