"""Optuna's own plots of a study, as files."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def draw(study: Any, objectives: int, folder: Path) -> list[Path]:
    """Draw what can be drawn of a study as PNG files in a folder; return them."""
    import matplotlib.pyplot as plt
    from optuna.visualization import matplotlib as plots

    files = []
    for name, figure in _figures(plots, study, objectives):
        path = folder / f"{name}.png"
        top = figure.ravel()[0] if hasattr(figure, "ravel") else figure
        top.figure.savefig(path, dpi=110, bbox_inches="tight")
        plt.close(top.figure)
        files.append(path)
    return files


def _figures(draw: Any, study: Any, objectives: int) -> Iterator[tuple[str, Any]]:
    todo = {
        "history": draw.plot_optimization_history,
        "importance": draw.plot_param_importances,
        "slice": draw.plot_slice,
        "parallel_coordinate": draw.plot_parallel_coordinate,
    }
    target: dict[str, Any] = {}
    if objectives > 1:  # these show one: the first
        target = {"target": lambda trial: trial.values[0], "target_name": "val_accuracy"}
    for name, plot in todo.items():
        with contextlib.suppress(ValueError, RuntimeError, ZeroDivisionError):  # too few trials
            yield name, plot(study, **target)
    if objectives > 1:
        with contextlib.suppress(ValueError, RuntimeError, ZeroDivisionError):
            yield "pareto", draw.plot_pareto_front(study)
