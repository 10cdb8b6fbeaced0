"""Databases by URL: PostgreSQL for studies and for MLflow, shared by several machines.

Other databases pass through here as they are. Whatever is told of one, its password is not.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

EXTRA = "pip install -e '.[postgres]'"
CONNECT_SECONDS = 10
LOCK_SECONDS = 120
TABLES = {"optuna": "studies", "mlflow": "experiments"}  # one that only this tool makes
_SECRET_FIELDS = ("password", "sslpassword")
_USER_PASSWORD = re.compile(r"^([^:/?#]+://[^:/?#@]*):.*@")
# The server notices soon that the machine of a driver is gone, and frees what it held.
_ALIVE = "-c tcp_keepalives_idle=60 -c tcp_keepalives_interval=15 -c tcp_keepalives_count=4"


class DatabaseError(ValueError):
    """A database cannot be used; the message is one sentence without the password.

    Attributes:
        why: the part of the sentence that does not name the database.
    """

    def __init__(self, message: str, why: str = "") -> None:
        super().__init__(message)
        self.why = why or message


def is_postgres(url: str) -> bool:
    """Whether the URL is of PostgreSQL, with any driver."""
    return urlsplit(url).scheme.partition("+")[0] in ("postgres", "postgresql")


def resolved(url: str) -> str:
    """Name the driver where the URL leaves it open: SQLAlchemy's default changes with its version.

    `postgres://`, which others take, is the same as `postgresql://`.
    """
    scheme, _, rest = url.partition("://")
    return f"postgresql+psycopg2://{rest}" if scheme in ("postgres", "postgresql") else url


def public(url: str) -> str:
    """Return the URL without its password."""
    shown = _USER_PASSWORD.sub(r"\1:***@", url)
    return re.sub(rf"([?&](?:{'|'.join(_SECRET_FIELDS)})=)[^&#]*", r"\1***", shown)


def without_password(text: str, url: str) -> str:
    """Return a message with the URL made public and its password, in any spelling, made stars."""
    text = text.replace(url, public(url)).replace(resolved(url), public(resolved(url)))
    for secret in sorted(_secrets(url), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _secrets(url: str) -> set[str]:
    try:
        parts = urlsplit(url)
        found = {parts.password or ""}
    except ValueError:  # no URL at all
        return set()
    for name, value in parse_qsl(parts.query):
        found |= {value} if name in _SECRET_FIELDS else set()
    return {spelling for secret in found for spelling in (secret, unquote(secret)) if spelling}


def reason(error: BaseException, url: str) -> str:
    """Say in part of a sentence why a database cannot be used, and what to do about it."""
    lines = [line.strip() for line in str(getattr(error, "orig", None) or error).splitlines()]
    lines = [line for line in lines if line] or [type(error).__name__]
    tried = [line for line in lines if line.startswith("connection to server")]
    why = (tried or lines[:1])[-1]  # the last address tried says most
    if isinstance(error, ImportError):
        why = f"{error.name or why} is not installed"
    why = without_password(" ".join(why[:300].split()).rstrip("."), url)
    advice = next((text for mark, text in _ADVICE.items() if mark in why), "")
    return f"{why}; {advice}" if advice else why


_ADVICE = {
    "psycopg2 is not installed": EXTRA,
    "password authentication failed": "put the right one into ~/.pgpass, $PGPASSWORD or the URL",
    "no password supplied": "put it into ~/.pgpass, $PGPASSWORD or the URL",
    'FATAL: database "': "make it with `createdb`, or correct the URL",
    'FATAL: role "': "make it with `createuser`, or correct the URL",
    "could not translate host name": "correct the URL",
    "Connection refused": "start the server, or correct the URL",
    "No such file or directory": "start the server, or correct the URL",
    "timeout expired": "start the server, or correct the URL",
    "malformed": "remove the file",
    "invalid literal for int()": "correct the port in the URL",
}


@contextlib.contextmanager
def prepared(url: str, tool: str) -> Iterator[bool]:
    """Hold off other processes while `tool` makes its tables; say whether there are none yet.

    Args:
        url: of a PostgreSQL database.
        tool: "optuna" or "mlflow"; both note their version in a table of one name, so a database
            can hold only one of them.

    Raises:
        DatabaseError: it cannot be reached, or is the other tool's.
    """
    connection = connect(url)
    try:
        connection.exec_driver_sql(f"SET lock_timeout = '{LOCK_SECONDS}s'")
        connection.exec_driver_sql(f"SELECT pg_advisory_lock({_number('tables')})")
        there = {name: _has(connection, table) for name, table in TABLES.items()}
        other = next(name for name in TABLES if name != tool)
        if there[other] and not there[tool]:
            holds = {"optuna": "Optuna's studies", "mlflow": "MLflow's runs"}
            raise DatabaseError(
                f"the database {public(url)} holds {holds[other]}; studies and runs need one each: "
                "make another with `createdb`"
            )
        yield not there[tool]
    finally:
        connection.close()


def connect(url: str) -> Any:
    """Open a connection to a PostgreSQL database, each statement a transaction of its own.

    Raises:
        DatabaseError: it cannot be reached.
    """
    try:
        import sqlalchemy
        from sqlalchemy.pool import NullPool

        engine = sqlalchemy.create_engine(
            resolved(url),
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args=settings(url),
        )
        return engine.connect()
    except Exception as error:
        if not isinstance(error, ImportError | ValueError) and not is_of_database(error):
            raise
        why = reason(error, url)
        raise DatabaseError(
            f"the database {public(url)} cannot be used: {why}", why
        ) from None  # the cause may hold the password


def settings(url: str, *options: str) -> dict[str, Any]:
    """Return libpq's settings of a connection: it fails soon, and a dead machine is noticed.

    Args:
        url: its own `options` stay.
        options: further ones of the server, as "-c name=value".
    """
    theirs = dict(parse_qsl(urlsplit(url).query)).get("options", "")
    told = " ".join(filter(None, (theirs, _ALIVE, *options)))
    return {"connect_timeout": CONNECT_SECONDS, "keepalives_idle": 60, "options": told}


def is_of_database(error: BaseException) -> bool:
    """Whether an error comes out of a database or of who talks to it."""
    homes = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return bool(homes & {"sqlalchemy", "psycopg2", "psycopg", "alembic", "sqlite3"})


class Claims:
    """Names that only one process at a time holds; they are free as soon as it is gone.

    In PostgreSQL these are advisory locks of one connection, with sqlite lock files beside the
    database; elsewhere every claim is granted.
    """

    def __init__(self, url: str | None) -> None:
        self._connection = connect(url) if url and is_postgres(url) else None
        self._file = _sqlite_file(url) if url else None
        self._locks: list[Any] = []

    def take(self, name: str) -> bool:
        """Return whether the name was free, and is ours now."""
        if self._file is not None:
            return self._lock(self._file.with_name(f".{self._file.name}-{_number(name):x}.lock"))
        if self._connection is None:
            return True
        query = f"SELECT pg_try_advisory_lock({_number(name)})"
        return bool(self._connection.exec_driver_sql(query).scalar())

    def _lock(self, path: Path) -> bool:
        import filelock

        lock = filelock.FileLock(path, timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            return False
        self._locks.append(lock)
        return True

    def close(self) -> None:
        """Free all names."""
        for lock in self._locks:
            lock.release()
        if self._connection is not None:
            with contextlib.suppress(Exception):  # a server that is gone has freed them
                self._connection.close()


def _sqlite_file(url: str) -> Path | None:
    """The file of a sqlite database; None for another one, or one in memory."""
    from sqlalchemy.engine import make_url

    found = make_url(url)
    if found.get_backend_name() != "sqlite" or found.database in (None, "", ":memory:"):
        return None
    return Path(str(found.database)).absolute()


def _has(connection: Any, table: str) -> bool:
    query = f"SELECT to_regclass('{table}') IS NOT NULL"
    return bool(connection.exec_driver_sql(query).scalar())


def _number(name: str) -> int:
    """The number of an advisory lock: 64 bits with a sign."""
    digest = hashlib.sha256(f"gkdbench {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
