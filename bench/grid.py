"""The grid of a search space: its points in an order drawn once.

Optuna's GridSampler ends a study from within `tell`, and knows no trials beside its own.
"""

import math
import random
from collections.abc import Sequence
from typing import Any

from bench.space import Dimension

POINTS = 5  # values of a range
MOST = 100_000  # points that are put in order: no search has more trials


def size(space: Sequence[Dimension]) -> int:
    """Return the number of points."""
    return math.prod(len(_values(dimension)) for dimension in space)


def point(space: Sequence[Dimension], place: int, seed: int) -> dict[str, Any]:
    """Return the point at a place of the order that a seed draws."""
    points = size(space)
    index = random.Random(seed).sample(range(points), min(points, MOST))[place]
    found = {}
    for dimension in space:
        values = _values(dimension)
        index, step = divmod(index, len(values))
        found[dimension.name] = values[step]
    return found


def _values(dimension: Dimension) -> list[Any]:
    """The values of a dimension on a grid."""
    import numpy as np

    if dimension.values:
        return list(dimension.values)
    space = np.geomspace if dimension.log else np.linspace
    points = [float(x) for x in space(dimension.low, dimension.high, POINTS)]
    points[0], points[-1] = dimension.low, dimension.high  # not a rounding beside them
    return sorted({round(x) for x in points}) if dimension.whole else points
