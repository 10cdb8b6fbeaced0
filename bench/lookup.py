"""What a command was asked for: a sweep (by file, name or options), its cells, its rows."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SWEEPS = (Path("sweeps"), Path(__file__).parent.parent / "sweeps")


def width() -> int:
    """Return the columns of the terminal, at most 120."""
    import shutil

    return min(120, shutil.get_terminal_size((120, 40)).columns)


def room() -> int:
    """Return the columns that lists may take: on a terminal its width, for a program any."""
    return width() if sys.stdout.isatty() else 10_000


def path_of(sweep: str) -> Path | None:
    """Find a sweep file by its path or its name."""
    places = [Path(sweep), *(folder / f"{sweep}.yaml" for folder in SWEEPS)]
    return next((p for p in places if p.is_file()), None)


def read(path: Path, texts: Iterable[str] = ()) -> Any:
    """Read a sweep file with overrides laid over it."""
    from bench import sweep as sweeps

    return sweeps.read(path, list(texts))


def near(sweep: str, results: Path) -> str:
    """Return the nearest name among the sweep files and the sweeps run before."""
    from bench.hparams import nearest
    from bench.results import Store

    files = [f.stem for folder in SWEEPS if folder.is_dir() for f in folder.glob("*.yaml")]
    return nearest(Path(sweep).stem, [*files, *Store(results).sweeps()])


def stored(name: str, results: Path) -> dict[str, Any] | None:
    """Return the plan of a sweep that was run before."""
    from bench.results import Store

    return Store(results).read_sweep(name) if Path(name).name == name else None


def cells_in(plan: dict[str, Any]) -> list[Any]:
    """Return the cells of a stored plan."""
    from bench.cell import from_data

    return [from_data(item["cell"]) for item in plan["cells"]]


def sweep_of(path: str | None, overrides: Iterable[str], options: dict[str, Any]) -> Any:
    """Read a sweep file with the options laid over it, or make a sweep of the options alone."""
    from bench import sweep as sweeps

    axes = ("datasets", "splits", "settings", "teachers", "students", "seeds", "device", "name")
    given = {name: options[name] for name in axes if options.get(name) is not None}
    texts = [f"{name}={value}" for name, value in given.items()] + list(overrides)
    if path:
        found = path_of(path)
        if found is None:
            close = near(path, Path(options["results"]))
            raise FileNotFoundError(
                f"there is no sweep file {path}{close or '; see gkdbench ls sweeps'}"
            )
        return read(found, texts)
    if not any(text.startswith("datasets=") for text in texts):
        raise ValueError("give a sweep file, or at least -d DATASET with -t or -s")
    return sweeps.from_overrides(texts)


def cells_of(sweep: str, results: Path, data: str | None) -> tuple[str, list[Any]]:
    """Return the name and cells of a sweep run before, or of a sweep file.

    Those of a file come with the tuned students that were last run with it, in the order of then.
    """
    from bench.data import data_root
    from bench.expand import expand

    plan = stored(sweep, results)
    if plan is not None:
        return sweep, cells_in(plan)
    path = path_of(sweep)
    if path is None:
        close = near(sweep, results)
        raise ValueError(
            f"there is no sweep file {sweep}, and none of that name in {results}{close}"
        )
    found = read(path)
    cells = expand(found, data_root(data))
    plan = stored(found.name, results)
    return found.name, _with_tuned(cells, cells_in(plan) if plan else [])


def _with_tuned(cells: list[Any], ran: list[Any]) -> list[Any]:
    """Add to cells those of an earlier run whose students are the tuned ones of these cells."""
    from bench.expand import TUNED

    def place(cell: Any, label: str) -> tuple[Any, ...]:
        teacher = cell.teacher_cell
        return cell.protocol, teacher.key if teacher else "", cell.seed, label

    there = {place(c, c.student.label + TUNED) for c in cells if c.student}
    extra = {c.key for c in ran if c.student and place(c, c.student.label) in there}
    if not extra:
        return cells
    asked = {c.key: c for c in cells}
    kept = [asked.pop(c.key, c) for c in ran if c.key in extra or c.key in asked]
    return kept + list(asked.values())


def frame(
    sweep: str | None, results: Path, data: str | None
) -> tuple[Any, list[dict[str, Any]], str]:
    """Load the tidy rows of a sweep, or of the whole folder; the cells there should be; a title."""
    from bench import launch
    from bench.results import Store, load
    from bench.results import frame as tidy

    if sweep is None:
        if not results.is_dir() and results.suffix != ".csv":
            raise FileNotFoundError(f"there is no results folder {results}")
        everything = load(results)
        names = ["key", "dataset", "split", "setting", "teacher", "student", "seed"]
        wanted: Any = everything.drop_duplicates("key")[names].to_dict("records")
        return everything, wanted, results.absolute().stem
    name, cells = cells_of(sweep, results, data)
    return tidy(launch.stored_rows(Store(results), cells).values()), launch.planned(cells), name


def tuned_path(path: Path, name: str) -> Path:
    """Where `tune` writes and `run --tuned` reads: beside the sweep file."""
    return path.parent / "tuned" / f"{name}.yaml"
