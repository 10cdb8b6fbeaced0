"""What is made once: kept with the thing that it is made of, or among the last few of its kind."""

import dataclasses
import threading
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar, cast

from torch import Tensor

T = TypeVar("T")


def once(owner: Any, key: Hashable, make: Callable[[], T]) -> T:
    """Return what `make` gives, made the first time that `owner` is asked for it under this key.

    `owner` must not change and what is kept is not to be changed; both go together.
    """
    kept = owner.__dict__.setdefault("_kept", {})
    if key not in kept:
        kept[key] = make()
    return cast(T, kept[key])


def held(*things: Any) -> int:
    """Count the bytes of all tensors in dataclasses and containers, and in what is kept with them.

    Tensors that share memory count once.
    """
    sizes: dict[int, int] = {}
    seen: set[int] = set()
    rest: list[Any] = list(things)
    while rest:
        thing = rest.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            storage = thing.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
        elif isinstance(thing, dict):
            rest.extend(thing.values())
        elif isinstance(thing, list | tuple):
            rest.extend(thing)
        elif dataclasses.is_dataclass(thing):
            rest.append(vars(thing))
    return sum(sizes.values())


class Recent(Generic[T]):
    """The things asked for last: at most `count`, of at most `size` bytes before one more is made.

    So one is kept however large it is, and two of them never meet.
    """

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size
        self._things: dict[Hashable, T] = {}  # the last one asked for is the last
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the thing of this key; make it where it is not kept."""
        with self._lock:
            if key in self._things:
                thing = self._things.pop(key)
            else:
                self._shrink()
                thing = make()
            self._things[key] = thing
            return thing

    def _shrink(self) -> None:
        things = self._things
        while things and (len(things) >= self.count or held(*things.values()) > self.size):
            del things[next(iter(things))]
