"""What is made once and kept with the thing that it is made of."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

T = TypeVar("T")


def once(owner: Any, key: Hashable, make: Callable[[], T]) -> T:
    """Return what `make` gives, made the first time that `owner` is asked for it under this key.

    `owner` must not change and what is kept is not to be changed; both go together.
    """
    kept = owner.__dict__.setdefault("_kept", {})
    if key not in kept:
        kept[key] = make()
    return cast(T, kept[key])
