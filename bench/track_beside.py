"""Tracking beside work that goes on, from a thread, so that nobody waits for the tracking store."""

import threading
import time
from collections.abc import Callable
from typing import Any

from bench.track_live import Fit, Fits

TRACK_EVERY = 30.0  # seconds between two looks at what is to be tracked
LIVE_EVERY = 10.0  # and at the curves of fits that take long


class Beside:
    """A thread that tracks what came since it last looked.

    A subclass says how: `log_fresh` writes what is finished, `log_live` the curve of a fit that
    takes long, `close` settles what nobody finishes, `log_rest` all that is missing at the end.
    After the store's first error, whose sentence is in `trouble`, nothing is written until
    `finish`, which tries once more. The thread begins with `start`.
    """

    def __init__(self) -> None:
        self.trouble = ""
        self.count = 0  # runs written
        self.fits = Fits()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def log_fresh(self) -> None:
        """Write what was finished since the last call."""
        raise NotImplementedError

    def log_live(self, key: str, fit: Fit) -> None:
        """Write the new scores of a fit that runs."""
        raise NotImplementedError

    def close(self) -> None:
        """Settle the runs of fits that nobody finishes."""
        raise NotImplementedError

    def log_rest(self, *what: Any) -> None:
        """Write all that the store lacks, and what comes last."""
        raise NotImplementedError

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, then `close`."""
        self._stop.set()
        self._thread.join()
        self._attempt(self.close)

    def finish(self, *what: Any) -> None:
        """Call `log_rest`; where that works, there is no trouble left to tell of."""
        self.trouble = ""
        self._attempt(self.log_rest, *what)

    def _attempt(self, action: Callable[..., None], *arguments: Any) -> None:
        """Do something with the tracking store, unless that is in trouble."""
        from bench.track_store import TrackingError

        if not self.trouble:
            try:
                action(*arguments)
            except TrackingError as error:
                self.trouble = str(error)

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(min(TRACK_EVERY, LIVE_EVERY)):
            for key, fit in self.fits.news().items():
                self._attempt(self.log_live, key, fit)
            if time.monotonic() - last >= TRACK_EVERY:
                last = time.monotonic()
                self._attempt(self.log_fresh)
