"""Where cells run; a driver that only hands cells out needs this without torch."""

from dataclasses import dataclass
from pathlib import Path

from bench.store import Store


@dataclass(frozen=True)
class Place:
    """Where cells run: folders and threads; nothing in it changes a result."""

    results: Path
    data: Path
    threads: int = 1
    macs: bool = False  # whether fits of a search, which compute no test metric, count them too

    @property
    def store(self) -> Store:
        """The results folder."""
        return Store(self.results)
