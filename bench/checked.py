"""JSON files that carry their own checksum and are written whole or not at all."""

import functools
import hashlib
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class CorruptError(Exception):
    """A row or an artefact does not match its checksum."""


def sha256(content: bytes) -> str:
    """Hash bytes, as hex digits."""
    return hashlib.sha256(content).hexdigest()


def write_checked(path: Path, data: Mapping[str, Any]) -> None:
    """Write JSON that carries the sha256 of its own content, atomically; NaN becomes null."""
    plain = json.loads(json.dumps(data), parse_constant=lambda _: None)
    text = json.dumps({**plain, "sha256": sha256(_canonical(plain))}, indent=1)
    partial = path.with_name(f".{path.name}-{process()}")
    partial.write_text(text + "\n")
    partial.replace(path)


def read_checked(path: Path) -> dict[str, Any] | None:
    """Read what `write_checked` wrote; None where there is no file.

    Raises:
        CorruptError: the content does not match its checksum.
    """
    try:
        data = json.loads(path.read_bytes())
        digest = data.pop("sha256")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CorruptError(f"{path} is not a whole record ({error})") from error
    if digest != sha256(_canonical(data)):
        raise CorruptError(f"{path} does not match its checksum")
    return data


def _canonical(data: Any) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":")).encode()


@functools.cache
def host() -> str:
    """Name this host: a results folder may be shared by several."""
    return sha256(platform.node().encode())[:8]


def process() -> str:
    """Name this process among those of all hosts."""
    return f"{os.getpid()}@{host()}"
