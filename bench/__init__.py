"""gkdbench: benchmark graph knowledge distillation.

In a notebook or a script:

    import bench
    frame = bench.run_sweep("sweeps/smoke.yaml", seeds="0-2")
    print(bench.table(frame))
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

    from bench.results import Row

__version__ = "0.1.0"
__all__ = ["load", "run_cell", "run_sweep", "table"]


def run_sweep(
    source: str | Path | Mapping[str, Any],
    results: str | Path = "results",
    *,
    data: str | Path | None = None,
    jobs: int = 1,
    timeout: float | None = None,
    track: bool = False,
    **overrides: Any,
) -> "pandas.DataFrame":
    """Run what is missing of a sweep and return its rows: one line for each cell and variant.

    Example:
        >>> matrix = {"datasets": "synthetic", "teachers": "sage:glnn", "students": ["mlp", "glnn"]}
        >>> frame = bench.run_sweep(matrix, seeds="0-4", config={"glnn": {"dropout": 0.5}})
        >>> frame.groupby("student").test_accuracy.mean()

    Args:
        source: a sweep file, or its content as a mapping.
        results: folder; what is there already is not run again.
        data: data root; by default $GKDBENCH_DATA, else a folder of the user's cache.
        jobs: processes. With more than one, a script must guard its top level with
            `if __name__ == "__main__":`, as always with spawned processes.
        timeout: seconds that a cell may take.
        track: whether to write to MLflow, into the results folder.
        overrides: keys of the sweep, in place of those in `source`.

    Returns:
        The tidy frame; a cell that went wrong is there with its `status` and `reason`.
    """
    from bench import engine, launch, progress, sweep, sweep_file
    from bench.data import data_root
    from bench.expand import expand
    from bench.results import frame
    from bench.run import Place

    content: dict[str, Any] = {"name": "notebook"}
    if isinstance(source, Mapping):
        content.update(source)
    else:
        content.update(sweep.read(source).model_dump(exclude_unset=True))
    origin = sweep_file.Origin(given=[(key,) for key in overrides], laid_over="arguments")
    asked = sweep.make({**content, **overrides}, origin)
    root = data_root(data)
    cells = expand(asked, root)
    outcome = launch.launch(
        asked,
        cells,
        Place(Path(results).absolute(), root),
        engine.plan(cells, jobs, None, timeout),
        progress=progress.shown,
        track=track,
    )
    return frame(outcome.rows[cell.key] for cell in cells if cell.key in outcome.rows)


def run_cell(
    *,
    dataset: str,
    split: str = "default",
    setting: str = "transductive",
    teacher: str | None = None,
    student: str | None = None,
    seed: int = 0,
    config: Mapping[str, Mapping[str, Any]] | None = None,
    results: str | Path = "results",
    data: str | Path | None = None,
) -> "Row":
    """Run one cell, here and now, and return its row; its teacher is trained first if need be.

    Example:
        >>> row = bench.run_cell(dataset="synthetic", teacher="gcn", student="glnn")
        >>> row.status, row.variants[""]["test_accuracy"]

    Args:
        dataset: as in a sweep, such as "cora" or "synthetic:nodes=5000".
        split: "public", "random", "official", "ratio", or what the dataset ships.
        setting: "transductive", "production" or "inductive".
        teacher: name or name:preset; needed by students that distil.
        student: name or name:preset; without one the cell is the teacher's own.
        seed: of the split, the teacher and the student.
        config: overrides by method, as in `{"glnn": {"dropout": 0.5}}`.
        results: folder; a cell that is there already is read.
        data: data root, as in `run_sweep`.
    """
    from bench import engine, sweep
    from bench.data import data_root
    from bench.expand import expand
    from bench.run import Place, run, warm_up

    axes = {"datasets": [dataset], "splits": [split], "settings": [setting], "seeds": [seed]}
    methods = {"teachers": teacher and [teacher], "students": student and [student]}
    asked = sweep.make({"name": "notebook", **axes, **methods, "config": config or {}})
    root = data_root(data)
    cell = expand(asked, root)[-1]
    place = Place(Path(results).absolute(), root, engine.plan([cell]).threads)
    warm_up(place)
    return run(cell, place)


def load(results: str | Path = "results") -> "pandas.DataFrame":
    """Read the rows of a results folder, or a CSV of them: one line for each cell and variant.

    Example:
        >>> frame = bench.load("results")
        >>> frame[frame.status != "ok"][["dataset", "student", "seed", "reason"]]
    """
    from bench import results as rows

    if not (Path(results).is_dir() or Path(results).suffix == ".csv"):
        raise FileNotFoundError(f"there is no results folder {results}")
    return rows.load(results)


def table(frame: "pandas.DataFrame", style: str = "text") -> Any:
    """Compare the methods in a frame, over its seeds.

    Example:
        >>> print(bench.table(frame))
        >>> bench.table(frame, "frame")[["teacher", "student", "test_accuracy_mean"]]

    Args:
        frame: rows of `run_sweep` or `load`, or a part of them; those of tuning are left out.
        style: "text", "markdown", or "frame": a DataFrame, one line of raw numbers a method.

    Raises:
        ValueError: an unknown style, or two rows that answer the same question.
    """
    from bench import tables
    from bench.hparams import unknown
    from bench.reports import blocks, comparison

    found = blocks.blocks(frame, [])
    if style == "frame":
        return comparison.summary(found)
    if style == "text":
        return comparison.text_table(frame, [])
    if style != "markdown":
        raise unknown("style", style, ("frame", "markdown", "text"))
    return "\n".join(tables.markdown(t) for block in found for t in comparison.tables_of(block))
