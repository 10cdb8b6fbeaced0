"""The command line: parses and calls. Heavy imports stay inside the commands.

Exit codes: 0 all cells fine, 1 some failed or missing, 2 bad usage.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from bench import __version__

_HOME = Path(__file__).parent.parent


class _Group(click.Group):
    """Errors a user can make are one sentence; `--debug` shows where they come from."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, FileNotFoundError, PermissionError) as error:
            if ctx.params.get("debug"):
                raise
            click.echo(f"gkdbench: {_sentence(error)}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            click.echo("\ninterrupted: what is finished is kept; the same command goes on", err=True)
            ctx.exit(1)


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, prog_name="gkdbench")
def main(debug: bool) -> None:
    """Benchmark graph knowledge distillation: which cheap student should you ship?"""


_results = click.option(
    "--results", default="results", show_default=True, type=click.Path(), help="Results folder."
)
_data = click.option("--data", default=None, help="Data root [default: $GKDBENCH_DATA or a cache].")
_format = click.option(
    "--format", "style", default="text", type=click.Choice(["text", "json"]), show_default=True
)
_uri = click.option("--uri", default=None, help="MLflow store [default: sqlite in the results].")


# ---- looking --------------------------------------------------------------------------------


@main.command()
@click.argument("kind", default="all")
@click.argument("name", default="")
@_format
def ls(kind: str, name: str, style: str) -> None:
    """List datasets, splits, settings, teachers, students or sweeps; or all about one NAME."""
    from bench import listing

    click.echo(listing.ls(kind, name, style, [Path("sweeps"), _HOME / "sweeps"]))


@main.command()
@_results
@_data
@_uri
def doctor(results: str, data: str | None, uri: str | None) -> None:
    """Say what this installation can do: versions, devices, data, tracking, extras."""
    from bench import doctor as checks

    click.echo(checks.report(Path(results), data, uri))


@main.command()
@click.argument("sweep")
@_results
@_data
@_format
def status(sweep: str, results: str, data: str | None, style: str) -> None:
    """Show how much of a SWEEP is done, with the reasons of what is not."""
    from bench import launch, listing
    from bench.results import Store

    cells = _cells_of(sweep, Path(results), data)
    outcome = launch.Outcome(cells, launch.stored_rows(Store(results), cells))
    click.echo(listing.status(outcome, style))
    sys.exit(1 if outcome.unfinished() else 0)


@main.command()
@click.argument("key")
@_results
@_format
def show(key: str, results: str, style: str) -> None:
    """Show all about one cell; KEY may be the beginning of its key."""
    from bench import listing
    from bench.results import Store

    click.echo(listing.show(Store(results), key, style))


@main.command()
@click.argument("sweep", required=False)
@_results
@_data
@click.option("--format", "style", default="csv", type=click.Choice(["csv", "json"]))
def rows(sweep: str | None, results: str, data: str | None, style: str) -> None:
    """Print the tidy table: one line for each cell and variant, of a SWEEP or of everything."""
    frame, _ = _frame(sweep, Path(results), data)
    if style == "csv":
        click.echo(frame.to_csv(index=False), nl=False)
    else:
        click.echo(frame.to_json(orient="records", indent=1))


# ---- running --------------------------------------------------------------------------------


def _list_option(letter: str, name: str, text: str) -> Any:
    return click.option(letter, f"--{name}", default=None, metavar="A,B", help=text)


@main.command()
@click.argument("names", nargs=-1, required=True)
@_data
def prepare(names: tuple[str, ...], data: str | None) -> None:
    """Download datasets; the only command that uses the network."""
    from bench import data as files
    from bench import registry

    root = files.data_root(data)
    for name in names:
        module = registry.dataset_module(name)
        module.prepare(name, root)
        module.load(name, root)
        click.echo(f"{name} is ready in {root}")


@main.command()
@click.argument("sweep", required=False)
@click.argument("overrides", nargs=-1)
@_list_option("-d", "datasets", "Datasets.")
@click.option("--split", "splits", default=None, metavar="A,B", help="Splits.")
@click.option("--setting", "settings", default=None, metavar="A,B", help="Settings.")
@_list_option("-t", "teachers", "Teachers, as name or name:preset.")
@_list_option("-s", "students", "Students, as name or name:preset.")
@click.option("--seeds", default=None, help="Seeds: 0-9 or 0,2,5.")
@click.option("--name", default=None, help="Name of the sweep [default: adhoc].")
@click.option("--jobs", type=click.IntRange(1), default=None, help="Processes [default: planned].")
@click.option("--threads", type=click.IntRange(1), default=None, help="Threads of each process.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default=None)
@click.option("--timeout", type=click.FloatRange(0.1), default=None, help="Seconds a cell may take.")
@click.option("--dry-run", is_flag=True, help="Print the plan and what is done already.")
@click.option("--no-track", is_flag=True, help="Do not write to MLflow.")
@click.option("--reports", default="reports", show_default=True, help="Folder for the report.")
@_uri
@_results
@_data
def run(sweep: str | None, overrides: tuple[str, ...], **options: Any) -> None:
    """Run a SWEEP file, or the matrix of the options; `key=value` overrides.

    \b
    gkdbench run sweeps/quickstart.yaml
    gkdbench run sweeps/quickstart.yaml seeds=0-9 glnn.dropout=0.3
    gkdbench run -d cpf-cora --split random --setting production -t sage -s glnn,mlp --seeds 0-9
    """
    if sweep and "=" in sweep:
        sweep, overrides = None, (sweep, *overrides)
    found = _sweep_of(sweep, overrides, options)
    from bench.data import data_root
    from bench.sweep import expand

    _launch(found, expand(found, data_root(options["data"])), options)


@main.command()
@click.argument("sweep")
@click.option("--jobs", type=click.IntRange(1), default=None)
@click.option("--threads", type=click.IntRange(1), default=None)
@click.option("--timeout", type=click.FloatRange(0.1), default=None)
@click.option("--no-track", is_flag=True)
@click.option("--reports", default="reports", show_default=True)
@_uri
@_results
@_data
def retry(sweep: str, **options: Any) -> None:
    """Run again what failed or is missing of a SWEEP that was run here before, and only that."""
    from bench.sweep import make

    cells = _cells_of(sweep, Path(options["results"]), options["data"])
    name = Path(sweep).stem
    plan = _store(options).read_sweep(name)
    if plan is None:
        raise ValueError(f"no sweep '{name}' was run in {options['results']}; use `gkdbench run`")
    _launch(make(plan["sweep"], name), cells, {**options, "dry_run": False})


def _launch(sweep: Any, cells: list[Any], options: dict[str, Any]) -> None:
    from bench import engine, launch, listing
    from bench.data import data_root

    store = _store(options)
    if options["dry_run"]:
        outcome = launch.Outcome(cells, launch.stored_rows(store, cells))
        click.echo(listing.plan(sweep, outcome))
        return
    plan = engine.plan(cells, options["jobs"], options["threads"])
    if options["timeout"]:
        plan = engine.Plan(plan.jobs, plan.threads, options["timeout"])
    from bench.run import Place

    folder = Path(options["reports"]) / sweep.name
    outcome = launch.launch(
        sweep,
        cells,
        Place(store.root.absolute(), data_root(options["data"])),
        plan,
        progress=_progress,
        track_uri=options["uri"],
        track=not options["no_track"],
        reports=folder,
    )
    click.echo(listing.closing(outcome, sweep.name, folder, options))
    for warning in outcome.warnings:
        click.echo(f"warning: {warning}", err=True)
    sys.exit(1 if outcome.unfinished() else 0)


def _progress(items: Iterable[Any], total: int, title: str) -> Iterable[Any]:
    """Show a bar with an ETA on a terminal, and a line now and then elsewhere."""
    from tqdm import tqdm

    slow = None if sys.stderr.isatty() else 10.0
    return tqdm(
        items, total=total, desc=title, unit="cell", dynamic_ncols=True, mininterval=slow or 0.1
    )


# ---- reading results ------------------------------------------------------------------------


@main.command()
@click.argument("sweep", required=False)
@_results
@_data
@click.option("--out", default=None, help="Folder [default: reports/<sweep>].")
def report(sweep: str | None, results: str, data: str | None, out: str | None) -> None:
    """Write the comparison of a SWEEP (or of all results): markdown, LaTeX, CSV, HTML, figures."""
    from bench.reports import comparison

    frame, wanted = _frame(sweep, Path(results), data)
    title = Path(sweep).stem if sweep else Path(results).absolute().name
    folder = Path(out) if out else Path("reports") / title
    files = comparison.write(frame, wanted, folder, title=title)
    click.echo(comparison.text_table(frame, wanted, _width()))
    click.echo("\n".join(str(path) for path in files))


@main.command()
@click.option("--replay", is_flag=True, help="Fill in all that the tracking store lacks.")
@_results
@_uri
def track(replay: bool, results: str, uri: str | None) -> None:
    """Write the results folder to MLflow."""
    if not replay:
        raise ValueError("`gkdbench track` does one thing: add --replay")
    from bench import track as tracking
    from bench.results import Store

    try:
        counts = tracking.replay(Store(results), uri)
    except tracking.TrackingError as error:
        raise ValueError(str(error)) from error
    for sweep, count in counts.items():
        click.echo(f"{sweep}: {count} runs written")


@main.command()
@_results
@_uri
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=5000, show_default=True)
def ui(results: str, uri: str | None, host: str, port: int) -> None:
    """Open MLflow's pages on the results."""
    from bench import track
    from bench.results import Store

    click.echo(f"MLflow starts on http://{host}:{port} (Ctrl-C ends it)")
    try:
        track.ui(Store(results), uri, host, port)
    except track.TrackingError as error:
        raise ValueError(str(error)) from error


# ---- what the commands share ----------------------------------------------------------------


def _store(options: dict[str, Any]) -> Any:
    from bench.results import Store

    return Store(options["results"])


def _width() -> int:
    import shutil

    return min(120, shutil.get_terminal_size((120, 40)).columns)


def _path_of(sweep: str) -> Path | None:
    """Find a sweep file by its path or its name."""
    places = [Path(sweep), Path("sweeps") / f"{sweep}.yaml", _HOME / "sweeps" / f"{sweep}.yaml"]
    return next((p for p in places if p.is_file()), None)


def _sweep_of(path: str | None, overrides: Iterable[str], options: dict[str, Any]) -> Any:
    """Read a sweep file with the options laid over it, or make a sweep of the options alone."""
    from bench import sweep as sweeps

    axes = ("datasets", "splits", "settings", "teachers", "students", "seeds", "device", "name")
    given = {name: options[name] for name in axes if options.get(name) is not None}
    texts = [f"{name}={value}" for name, value in given.items()] + list(overrides)
    if path:
        return sweeps.read(_path_of(path) or path, texts)
    if "datasets" not in given and not any(t.startswith("datasets=") for t in texts):
        raise ValueError("give a sweep file, or at least -d DATASET with -t or -s")
    return sweeps.from_overrides(texts)


def _cells_of(sweep: str, results: Path, data: str | None) -> list[Any]:
    """Expand a sweep file; without such a file, take the plan of a sweep run before."""
    from bench.cell import from_data
    from bench.data import data_root
    from bench.results import Store
    from bench.sweep import expand, read

    plan = Store(results).read_sweep(Path(sweep).stem)
    path = _path_of(sweep)
    if plan is not None and (path is None or path.suffix != ".yaml"):
        return [from_data(item["cell"]) for item in plan["cells"]]
    if path is None:
        raise ValueError(f"there is no sweep file {sweep}, and no sweep of that name in {results}")
    return expand(read(path), data_root(data))


def _frame(sweep: str | None, results: Path, data: str | None) -> tuple[Any, list[dict[str, Any]]]:
    """Load the tidy rows of a sweep, or of the whole folder, and the cells there should be."""
    from bench import launch
    from bench.results import Store, frame, load

    store = Store(results)
    if sweep is None:
        if not results.is_dir():
            raise FileNotFoundError(f"there is no results folder {results}")
        everything = load(results)
        names = ["key", "dataset", "split", "setting", "teacher", "student", "seed"]
        wanted = everything.drop_duplicates("key") if len(everything) else everything
        return everything, wanted[names].to_dict("records") if len(wanted) else []
    cells = _cells_of(sweep, results, data)
    return frame(launch.stored_rows(store, cells).values()), launch.planned(cells)
