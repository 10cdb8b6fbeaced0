"""Names beside the dots of a panel, so that none covers another one or a dot."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

Point = tuple[float, float]

DOT = 5.0  # points that a dot takes to each side
RINGS, ANGLES = 24, 16  # places that are tried: beside the dot, then farther and farther away
LEADER = 2  # from this ring on a line leads from the dot to its name
_OFFSET: dict[str, Any] = {"textcoords": "offset points", "in_layout": False}
_CENTRED: dict[str, Any] = {"ha": "center", "va": "center", **_OFFSET}
_TEXT: dict[str, Any] = {"fontsize": 8, "parse_math": False, **_CENTRED}
_LINE = {"arrowstyle": "-", "color": "#999999", "linewidth": 0.6, "shrinkA": 3, "shrinkB": 4}


def write(
    ax: "Axes",
    named: Sequence[tuple[Point, str, str]],
    others: Sequence[Point] = (),
    boxes: Sequence["Bbox"] = (),
) -> list["Annotation"]:
    """Write each name at the nearest place that is free, the most crowded dots first.

    Args:
        ax: a panel that has its limits and its place in the figure.
        named: dots in data coordinates, with their names and colours.
        others: further dots that no name may cover.
        boxes: further places that no name may cover, in pixels.
    """
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    figure = ax.get_figure(root=True)
    assert figure is not None
    scale = figure.dpi / 72  # pixels a point
    dots = [tuple(ax.transData.transform(at)) for at in (*(at for at, *_ in named), *others)]
    half = DOT * scale
    taken = [Bbox.from_extents(x - half, y - half, x + half, y + half) for x, y in dots]
    taken += boxes
    texts = {}
    for i in sorted(range(len(named)), key=lambda i: _nearest(i, dots)):
        at, name, colour = named[i]
        halo = [withStroke(linewidth=2, foreground="white")]
        texts[i] = ax.annotate(name, at, (0, 0), color=colour, path_effects=halo, **_TEXT)
        taken.append(_put(texts[i], dots[i], taken, ax, scale))
    return [texts[i] for i in range(len(named))]


def _nearest(i: int, dots: Sequence[Point]) -> float:
    """How far the next dot is."""
    gaps = (math.dist(dots[i], dot) for j, dot in enumerate(dots) if j != i)
    return min(gaps, default=math.inf)


def _put(
    text: "Annotation", dot: Point, taken: Sequence["Bbox"], ax: "Axes", scale: float
) -> "Bbox":
    """Move a name to the first free place, else to the one that covers least; return its box."""
    box = text.get_window_extent()
    centred = box.translated(dot[0] - (box.x0 + box.x1) / 2, dot[1] - (box.y0 + box.y1) / 2)
    best: tuple[int, int, Point, Bbox] | None = None
    for ring, offset in _places(box.width, box.height, scale):
        there = centred.translated(*offset)
        covered = sum(map(there.overlaps, taken)) + 100 * (not _inside(there, ax.bbox))
        if best is None or covered < best[0]:
            best = covered, ring, offset, there
        if not covered:
            break
    assert best is not None
    _, ring, (dx, dy), there = best
    text.set_position((dx / scale, dy / scale))
    if ring >= LEADER:
        look: dict[str, Any] = {"arrowprops": _LINE, "zorder": 2, **_OFFSET}
        ax.annotate("", text.xy, text.get_position(), **look)
    return there


def _inside(box: "Bbox", panel: "Bbox") -> bool:
    sides = panel.x0 <= box.x0 and box.x1 <= panel.x1
    return sides and panel.y0 <= box.y0 and box.y1 <= panel.y1


def _places(width: float, height: float, scale: float) -> Iterator[tuple[int, Point]]:
    """Offsets of a name's middle from its dot, in pixels, ring by ring; at the right first."""
    for ring, step in itertools.product(range(RINGS), range(ANGLES)):
        turn = 2 * math.pi * (-1) ** step * ((step + 1) // 2) / ANGLES
        far = (DOT + 0.1) * scale + 0.8 * ring * height  # next to its own dot, not on it
        yield ring, ((far + width / 2) * math.cos(turn), (far + height / 2) * math.sin(turn))
