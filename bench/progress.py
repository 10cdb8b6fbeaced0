"""How far a run is: a bar with the time left on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

EVERY = 10.0  # seconds between two lines


def shown(items: Iterable[Any], total: int, title: str) -> Iterator[Any]:
    """Pass items on and show how many there were, and how many of them are rows gone wrong."""
    yield from (_bar if sys.stderr.isatty() else _lines)(items, total, title)


def _bar(items: Iterable[Any], total: int, title: str) -> Iterator[Any]:
    from tqdm import tqdm

    counts = "{n_fmt}/{total_fmt} [{elapsed}, {remaining} left{postfix}]"
    layout = "{desc} {percentage:3.0f}% |{bar}| " + counts
    bad = 0
    with tqdm(total=total, desc=f"{title:<5}", dynamic_ncols=True, bar_format=layout) as bar:
        for item in items:
            bad += not getattr(item, "done", True)
            if bad:
                bar.set_postfix_str(f"{bad} went wrong", refresh=False)
            bar.update()
            yield item


def _lines(items: Iterable[Any], total: int, title: str) -> Iterator[Any]:
    start = last = time.monotonic()
    bad = 0
    for count, item in enumerate(items, 1):
        bad += not getattr(item, "done", True)
        now = time.monotonic()
        if count == total or now - last >= EVERY:
            last = now
            left = (now - start) / count * (total - count)
            rest = f", about {duration(left)} left" if count < total else ""
            wrong = f", {bad} went wrong" if bad else ""
            sys.stderr.write(
                f"{title}: {count:,} of {total:,} in {duration(now - start)}{rest}{wrong}\n"
            )
        yield item


def duration(seconds: float) -> str:
    """Write a time as a person would: `45 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
