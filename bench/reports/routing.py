"""Figure of the experts of one run: load of each layer, classes by expert, and a map of the nodes.

The map shows the hidden states that the last router reads, projected on their first two principal
components (eigenvectors of the covariance: the same states give the same map).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.reports.experts import Layer, Routing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MANY = 8  # colours that can be told apart; what is rarer is grey
CLASSES = 20  # rows of a heat map: the largest classes
CAPTION = (
    "Above: the share of the gates that each expert has, dashed: an even load, crosses: experts "
    "without a node. Middle: how the gates of a class are shared. Below: the states that the last "
    "router reads, on their first two principal components."
)
BLUE, RED, OTHER = "#0173b2", "#d55e00", "#b8b8b8"


def figure_of(routing: Routing, title: str) -> "Figure":
    """Draw one run's experts."""
    from matplotlib.figure import Figure

    depth = len(routing.layers)
    classes, tables = shares_by_class(routing)
    has_map = routing.hidden is not None and len(routing.nodes) > 2
    heights = [1.7, 0.22 * max(4, len(classes)), *([3.1] if has_map else [])]
    size = (max(7.6, 3.1 * depth), 0.6 + sum(heights) + 0.95 * len(heights))
    figure = Figure(figsize=size)
    figure.text(0.1 / size[0], 1 - 0.1 / size[1], title, weight="bold", fontsize=10, va="top")
    rows = _rows(size, heights)
    panels = _panels(figure, rows[0], depth)
    for i, (ax, layer) in enumerate(zip(panels, routing.layers, strict=True)):
        _loads(ax, layer, i)
    panels[0].set_ylabel("share of the gates")
    _heat(_panels(figure, rows[1], depth), classes, tables)
    if has_map:
        _map(_panels(figure, rows[2], 2), routing)
    return figure


def _rows(size: tuple[float, float], heights: Sequence[float]) -> list[dict[str, float]]:
    """Place rows of panels of so many inches, with room for titles above and labels below."""
    width, height = size
    top, rows = height - 0.6, []
    for tall in heights:
        sides = {"left": 0.75 / width, "right": 1 - 0.65 / width}
        rows.append({**sides, "top": top / height, "bottom": (top - tall) / height})
        top -= tall + 0.95
    return rows


def _panels(figure: "Figure", row: dict[str, float], count: int) -> list["Axes"]:
    grid = figure.add_gridspec(1, count, wspace=0.18, **row)
    first = figure.add_subplot(grid[0])
    return [first, *(figure.add_subplot(grid[i], sharey=first) for i in range(1, count))]


# ---- load -----------------------------------------------------------------------------------


def _loads(ax: "Axes", layer: Layer, i: int) -> None:
    import seaborn as sns

    count = len(layer.load)
    ids = np.arange(1, count + 1)
    ax.bar(ids, layer.load, color=BLUE, width=0.72)
    ax.axhline(1.0 / count, color="#555555", linestyle="--", linewidth=1)
    idle = np.array(layer.idle, dtype=int)
    at: dict[str, Any] = {"marker": "x", "linestyle": "", "clip_on": False, "zorder": 5}
    ax.plot(idle, np.zeros(len(idle)), color=RED, **at)
    ax.set_title(f"layer {i + 1}: entropy {layer.entropy:.2f}", loc="left", weight="normal")
    ax.set(xlabel="expert", xticks=_ticks(count))
    ax.tick_params(labelleft=i == 0)
    ax.grid(visible=False, axis="x")
    sns.despine(ax=ax)


def _ticks(count: int) -> list[int]:
    step = max(1, -(-count // 10))
    return list(range(1, count + 1, step))


# ---- classes --------------------------------------------------------------------------------


def shares_by_class(routing: Routing) -> tuple[list[int], list[np.ndarray]]:
    """Return the largest classes, and for each layer which share of their gates an expert has.

    Shapes: the classes are c ids in order; a table is float [c, E], its rows sum to 1.
    """
    known = routing.labels >= 0
    sizes = np.bincount(routing.labels[known].astype(int))
    largest = np.sort(np.argsort(-sizes, kind="stable")[:CLASSES])
    classes = [int(c) for c in largest if sizes[c]]
    tables = []
    for layer in routing.layers:
        table = np.zeros((len(sizes), len(layer.load)))
        labels = np.broadcast_to(routing.labels[:, None], layer.experts.shape)[known]
        np.add.at(table, (labels, layer.experts[known]), layer.gates[known].astype(float))
        table = table[classes]
        tables.append(table / np.maximum(table.sum(axis=1, keepdims=True), 1e-12))
    return classes, tables


def _heat(panels: Sequence["Axes"], classes: Sequence[int], tables: Sequence[np.ndarray]) -> None:
    import seaborn as sns

    top = max(float(table.max()) for table in tables)
    for i, (ax, table) in enumerate(zip(panels, tables, strict=True)):
        experts = table.shape[1]
        sns.heatmap(
            table,
            ax=ax,
            cmap="Blues",
            vmin=0.0,
            vmax=top,
            annot=experts <= 8,
            fmt=".2f",
            annot_kws={"fontsize": 7},
            linewidths=0.4,
            cbar=False,
            xticklabels=False,
            yticklabels=False,
        )
        ticks = _ticks(experts)
        ax.set_xticks([t - 0.5 for t in ticks], [str(t) for t in ticks])
        ax.set_yticks(np.arange(len(classes)) + 0.5, [str(c) for c in classes], rotation=0)
        ax.tick_params(labelleft=i == 0)
        ax.set(xlabel="expert", ylabel="class" if i == 0 else "")
        ax.set_title(f"layer {i + 1}: gates of a class", loc="left", weight="normal")
    figure, box = panels[-1].figure, panels[-1].get_position()
    beside = figure.add_axes((box.x1 + 0.012, box.y0, 0.012, box.height))
    figure.colorbar(panels[-1].collections[0], cax=beside)


# ---- map ------------------------------------------------------------------------------------


def projected(hidden: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Project states [m, H] on their first two principal components.

    Returns:
        The points float [m, 2], with the largest loading of a component positive; and the share of
        the variance that each component has, float [2].
    """
    states = hidden.astype(np.float64)
    states -= states.mean(axis=0)
    if states.shape[1] < 2:
        states = np.pad(states, ((0, 0), (0, 1)))
    values, axes = np.linalg.eigh(states.T @ states)  # ascending; as a decomposition of the states
    axes, values = axes[:, :-3:-1], np.maximum(values, 0.0)
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    return states @ axes, values[:-3:-1] / max(values.sum(), 1e-30)


def _map(panels: Sequence["Axes"], routing: Routing) -> None:
    assert routing.hidden is not None
    points, shares = projected(routing.hidden)
    top = routing.layers[-1].experts[routing.nodes, 0].astype(int) + 1
    labels = routing.labels[routing.nodes].astype(int)
    left, right = panels
    _scatter(left, points, top, "by the expert with the largest gate")
    _scatter(right, points, labels, "by class")
    for ax in (left, right):
        ax.set(xticks=[], yticks=[], xlabel=f"first component, {100 * shares[0]:.0f} % of variance")
    left.set_ylabel(f"second component, {100 * shares[1]:.0f} %")


def _scatter(ax: "Axes", points: np.ndarray, groups: np.ndarray, title: str) -> None:
    import seaborn as sns

    sizes = np.bincount(groups[groups >= 0])
    frequent = np.sort(np.argsort(-sizes, kind="stable")[:MANY])
    frequent = frequent[sizes[frequent] > 0]
    rest = ~np.isin(groups, frequent)
    look: dict[str, Any] = {"s": 7, "linewidths": 0, "alpha": 0.75, "rasterized": True}
    others = ax.scatter(*points[rest].T, color=OTHER, label="other", **look)  # below the rest
    palette = sns.color_palette("colorblind", 10).as_hex()
    colours = [colour for i, colour in enumerate(palette) if i != 7]  # grey is for the others
    shown = [
        ax.scatter(*points[groups == group].T, color=colour, label=str(group), **look)
        for group, colour in zip(frequent, colours, strict=False)
    ]
    ax.set_title(title, loc="left", weight="normal")
    below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.07), "ncols": 5}
    below |= {"frameon": False, "fontsize": 8, "handletextpad": 0, "columnspacing": 0.8}
    ax.legend(handles=[*shown, *([others] if rest.any() else [])], markerscale=2, **below)
    sns.despine(ax=ax)
