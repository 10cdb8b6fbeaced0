"""The command line: parses and calls. Heavy imports stay inside the commands.

Exit codes: 0 all cells fine, 1 some failed or missing, 2 bad usage.
"""

import logging
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from bench import __version__

_SWEEPS = (Path("sweeps"), Path(__file__).parent.parent / "sweeps")


_USAGE = ValueError, FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError


class _Group(click.Group):
    """Errors a user can make are one sentence; `--debug` shows where they come from."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            command = (error.ctx or ctx).command_path
            click.echo(f"gkdbench: {error.format_message()} See {command} --help", err=True)
            ctx.exit(2)
        except (*_USAGE, OSError) as error:
            if ctx.params.get("debug"):
                raise
            click.echo(f"gkdbench: {_sentence(error)}", err=True)
            ctx.exit(2 if isinstance(error, _USAGE) else 1)
        except KeyboardInterrupt:
            message = "interrupted: what is finished is kept; the same command goes on from there"
            click.echo(f"\ngkdbench: {message}", err=True)
            ctx.exit(1)


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the system'}: {error.strerror}"
    return str(error)


class _Warnings(logging.Handler):
    """Show what the package warns of, such as a corrupt row, on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"warning: {record.getMessage()}", err=True)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, prog_name="gkdbench")
def main(debug: bool) -> None:
    """Benchmark graph knowledge distillation: which cheap student should you ship?"""
    logger = logging.getLogger("bench")
    if not any(isinstance(handler, _Warnings) for handler in logger.handlers):
        logger.addHandler(_Warnings())


_results = click.option(
    "--results", default="results", show_default=True, type=click.Path(), help="Results folder."
)
_data = click.option("--data", default=None, help="Data root [default: $GKDBENCH_DATA or a cache].")
_format = click.option(
    "--format", "style", default="text", type=click.Choice(["text", "json"]), show_default=True
)
_uri = click.option("--uri", default=None, help="MLflow store [default: sqlite in the results].")
_engine = click.option(
    "--engine",
    default="local",
    show_default=True,
    type=click.Choice(["local", "dask"]),
    help="Run cells on this machine, or on a Dask cluster.",
)
_scheduler = click.option(
    "--scheduler", default=None, metavar="ADDRESS", help="Of the Dask cluster; or its file."
)


class _Seconds(click.FloatRange):
    """A time limit; "nan" and "inf" would be none."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is no number of seconds.", param, ctx)
        return found


_SECONDS = _Seconds(0.1)


# ---- looking --------------------------------------------------------------------------------


@main.command()
@click.argument("kind", default="all")
@click.argument("name", default="")
@_format
def ls(kind: str, name: str, style: str) -> None:
    """List datasets, splits, settings, teachers, students or sweeps; or all about one NAME.

    `ls space NAME` shows what tuning searches for a student.
    """
    from bench import listing

    if kind == "space":
        from bench import listing_tune

        click.echo(listing_tune.search_space(name, style))
        return
    click.echo(listing.ls(kind, name, style, _SWEEPS, _room()))


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
    """Show how much of a SWEEP is done, with the reasons of what is not.

    SWEEP is the name of a sweep that was run here, or a file.
    """
    from bench import launch, listing
    from bench.results import Store

    _, cells = _asked(sweep, Path(results), data)
    outcome = launch.Outcome(cells, launch.stored_rows(Store(results), cells))
    click.echo(listing.status(outcome, style, _room()))
    sys.exit(1 if outcome.unfinished() else 0)


@main.command()
@click.argument("key")
@_results
@_format
def show(key: str, results: str, style: str) -> None:
    """Show all about one cell; KEY may be the beginning of its key."""
    from bench import listing
    from bench.results import CorruptError, Store

    try:
        click.echo(listing.show(Store(results), key, style))
    except CorruptError as error:
        raise ValueError(f"{error}; run its sweep again") from error


@main.command()
@click.argument("sweep", required=False)
@_results
@_data
@click.option("--format", "style", default="csv", type=click.Choice(["csv", "json"]))
def rows(sweep: str | None, results: str, data: str | None, style: str) -> None:
    """Print the tidy table: one line for each cell and variant, of a SWEEP or of everything."""
    frame, _, _ = _frame(sweep, Path(results), data)
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
@click.option("--timeout", type=_SECONDS, default=None, help="Seconds a cell may take.")
@_engine
@_scheduler
@click.option("--dry-run", is_flag=True, help="Print the plan and what is done already.")
@click.option("--tuned", is_flag=True, help="Add each student as `gkdbench tune` tuned it.")
@click.option("--no-track", is_flag=True, help="Do not write to MLflow.")
@click.option("--reports", default="reports", show_default=True, help="Folder for the report.")
@_uri
@_results
@_data
def run(sweep: str | None, overrides: tuple[str, ...], **options: Any) -> None:
    r"""Run a SWEEP file, or the matrix of the options; `key=value` overrides.

    \b
    gkdbench run sweeps/quickstart.yaml
    gkdbench run sweeps/quickstart.yaml seeds=0-9 glnn.dropout=0.3
    gkdbench run -d cpf-cora --split random --setting production -t sage -s glnn,mlp --seeds 0-9
    """
    if sweep and "=" in sweep:
        overrides, sweep = (sweep, *overrides), None
    found = _sweep_of(sweep, overrides, options)
    from bench.data import data_root
    from bench.expand import expand

    tuned = _tuned(sweep, found.name) if options["tuned"] else []
    _launch(found, expand(found, data_root(options["data"]), tuned), options)


def _tuned(sweep: str | None, name: str) -> list[Any]:
    from bench.tuning import read_tuned

    path = _path_of(sweep) if sweep else None
    if path is None:
        raise ValueError("--tuned needs a sweep file, beside which tuned/ lies")
    return read_tuned(_tuned_path(path, name))


@main.command()
@click.argument("sweep")
@click.option("--jobs", type=click.IntRange(1), default=None)
@click.option("--threads", type=click.IntRange(1), default=None)
@click.option("--timeout", type=_SECONDS, default=None)
@_engine
@_scheduler
@click.option("--no-track", is_flag=True)
@click.option("--reports", default="reports", show_default=True)
@_uri
@_results
@_data
def retry(sweep: str, **options: Any) -> None:
    """Run again what failed or is missing of a SWEEP that was run here before, and only that."""
    from bench.sweep import make

    results = Path(options["results"])
    path = _path_of(sweep)
    name = sweep if path is None or _stored(sweep, results) else _read(path).name
    plan = _stored(name, results)
    if plan is None:
        raise ValueError(f"no sweep '{name}' was run in {results}{_near(name, results)}")
    _launch(make(plan["sweep"]), _cells(plan), {**options, "dry_run": False})


def _launch(sweep: Any, cells: list[Any], options: dict[str, Any]) -> None:
    from bench import engine, launch, listing, progress
    from bench.data import data_root

    store = _store(options)
    if options["dry_run"]:
        outcome = launch.Outcome(cells, launch.stored_rows(store, cells))
        click.echo(listing.plan(sweep, outcome, _room()))
        return
    where = _where(options)
    if where["kind"] == "local":
        _require(sweep.device)
    plan = engine.plan(cells, options["jobs"], options["threads"], options["timeout"])
    from bench.run import Place

    folder = Path(options["reports"]) / sweep.name
    outcome = launch.launch(
        sweep,
        cells,
        Place(store.root.absolute(), data_root(options["data"])),
        plan,
        progress=progress.shown,
        track_uri=options["uri"],
        track=not options["no_track"],
        reports=folder,
        engine_options=where,
    )
    options = {**options, "baseline": sweep.baseline}
    click.echo(listing.closing(outcome, sweep.name, folder, options, _width()))
    for warning in outcome.warnings:
        click.echo(f"warning: {warning}", err=True)
    sys.exit(1 if outcome.unfinished() else 0)


def _where(options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `engine.open_engine`."""
    return {"kind": options["engine"], "scheduler": options["scheduler"]}


def _require(device: str) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device 'cuda' is asked for, and torch finds no GPU here; use device 'cpu'"
        )


# ---- tuning ---------------------------------------------------------------------------------


@main.command()
@click.argument("sweep")
@click.argument("overrides", nargs=-1)
@click.option("--jobs", type=click.IntRange(1), default=None, help="Processes [default: planned].")
@click.option("--threads", type=click.IntRange(1), default=None, help="Threads of each process.")
@click.option("--timeout", type=_SECONDS, default=None, help="Seconds a cell may take.")
@click.option("--storage", default=None, help="URL of a database [default: a journal file each].")
@click.option("--out", default=None, help="File for what won [default: tuned/ beside the sweep].")
@click.option("--dry-run", is_flag=True, help="Print the studies and their search spaces.")
@click.option("--no-track", is_flag=True, help="Do not write to MLflow.")
@click.option("--reports", default="reports", show_default=True, help="Folder for the report.")
@_engine
@_scheduler
@_uri
@_results
@_data
def tune(sweep: str, overrides: tuple[str, ...], **options: Any) -> None:
    r"""Search the students of a SWEEP with equal budgets; the same command goes on from anywhere.

    \b
    gkdbench tune sweeps/planetoid.yaml tune.trials=64
    gkdbench run sweeps/planetoid.yaml --tuned
    """
    from bench import engine, launch_tune, listing_tune, progress
    from bench import tune as tuning
    from bench.data import data_root
    from bench.expand import searches
    from bench.run import Place

    found = _sweep_of(sweep, overrides, options)
    root, path = data_root(options["data"]), _path_of(sweep)
    assert path is not None
    tuning.require(found)
    asked = searches(found, root)
    if options["dry_run"]:
        click.echo(listing_tune.plan(found, asked))
        return
    _require(found.device)
    tuned = Path(options["out"] or _tuned_path(path, found.name))
    cells = tuning.sample_cells(found, asked)
    outcome = launch_tune.launch(
        found,
        Place(_store(options).root.absolute(), root),
        engine.plan(cells, options["jobs"], options["threads"], options["timeout"]),
        progress=progress.shown,
        storage=options["storage"],
        tuned_file=tuned,
        track_uri=options["uri"],
        track=not options["no_track"],
        reports=Path(options["reports"]) / f"{found.name}-tuning",
        **_where(options),
    )
    click.echo(listing_tune.closing(outcome, f"gkdbench run {path} --tuned", tuned))
    shown = (".yaml", ".md", ".html")
    click.echo("\n".join(str(file) for file in outcome.files if file.suffix in shown))
    for warning in outcome.warnings:
        click.echo(f"warning: {warning}", err=True)
    sys.exit(0 if len(outcome.found) + len(outcome.skipped) == len(asked) else 1)


def _tuned_path(path: Path, name: str) -> Path:
    """Where `tune` writes and `run --tuned` reads: beside the sweep file."""
    return path.parent / "tuned" / f"{name}.yaml"


# ---- reading results ------------------------------------------------------------------------


@main.command()
@click.argument("sweep", required=False)
@_results
@_data
@click.option("--out", default=None, help="Folder [default: reports/<sweep>].")
@click.option("--tuning", is_flag=True, help="Write what `gkdbench tune` cost and gained instead.")
@click.option("--baseline", default=None, metavar="LABEL", help="Student to compare others with.")
def report(
    sweep: str | None,
    results: str,
    data: str | None,
    out: str | None,
    tuning: bool,
    baseline: str | None,
) -> None:
    """Write the comparison of a SWEEP (or of all results): markdown, LaTeX, CSV, HTML, figures."""
    from bench.reports import comparison
    from bench.results import Store

    if tuning:
        _report_tuning(sweep, Path(results), out)
        return
    frame, wanted, title = _frame(sweep, Path(results), data)
    folder = Path(out) if out else Path("reports") / title
    store = Store(results) if Path(results).is_dir() else None
    base = _baseline(baseline, sweep, Path(results), wanted)
    files = comparison.write(frame, wanted, folder, title=title, store=store, baseline=base)
    click.echo(comparison.text_table(frame, wanted, _width(), baseline=base))
    click.echo("\n".join(str(path) for path in files))


def _baseline(
    asked: str | None, sweep: str | None, results: Path, wanted: list[dict[str, Any]]
) -> str:
    """Return the baseline that is asked for, else the one that the sweep names ("": none)."""
    from bench.hparams import unknown

    if asked is not None:
        labels = {str(cell["student"]) for cell in wanted} - {""}
        if asked and not labels & {asked, asked.rpartition("@")[0]}:
            raise unknown("baseline", asked, labels)
        return asked
    if sweep is None:
        return ""
    plan = _stored(sweep, results)
    if plan is not None:
        return str(plan["sweep"].get("baseline", ""))
    path = _path_of(sweep)
    return str(_read(path).baseline) if path else ""


def _report_tuning(sweep: str | None, results: Path, out: str | None) -> None:
    from bench.reports import tuning

    if sweep is None:
        raise ValueError("--tuning needs a sweep: its name, or its file")
    path = _path_of(sweep)
    title = _read(path).name if path else sweep
    studies = tuning.read(results, title)
    files = tuning.write(studies, Path(out or f"reports/{title}-tuning"), title=title)
    click.echo(tuning.text_table(studies, _width()))
    click.echo("\n".join(str(file) for file in files))


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

    if not Path(results).is_dir():
        raise FileNotFoundError(f"there is no results folder {results}")
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


def _room() -> int:
    """Return the columns that lists may take: on a terminal its width, for a program any."""
    return _width() if sys.stdout.isatty() else 10_000


def _path_of(sweep: str) -> Path | None:
    """Find a sweep file by its path or its name."""
    places = [Path(sweep), *(folder / f"{sweep}.yaml" for folder in _SWEEPS)]
    return next((p for p in places if p.is_file()), None)


def _read(path: Path, texts: Iterable[str] = ()) -> Any:
    from bench import sweep as sweeps

    return sweeps.read(path, list(texts))


def _near(sweep: str, results: Path) -> str:
    """Return the nearest name among the sweep files and the sweeps run before."""
    from bench.hparams import nearest
    from bench.results import Store

    files = [f.stem for folder in _SWEEPS if folder.is_dir() for f in folder.glob("*.yaml")]
    return nearest(Path(sweep).stem, [*files, *Store(results).sweeps()])


def _stored(name: str, results: Path) -> dict[str, Any] | None:
    """Return the plan of a sweep that was run before."""
    from bench.results import Store

    return Store(results).read_sweep(name) if Path(name).name == name else None


def _cells(plan: dict[str, Any]) -> list[Any]:
    from bench.cell import from_data

    return [from_data(item["cell"]) for item in plan["cells"]]


def _sweep_of(path: str | None, overrides: Iterable[str], options: dict[str, Any]) -> Any:
    """Read a sweep file with the options laid over it, or make a sweep of the options alone."""
    from bench import sweep as sweeps

    axes = ("datasets", "splits", "settings", "teachers", "students", "seeds", "device", "name")
    given = {name: options[name] for name in axes if options.get(name) is not None}
    texts = [f"{name}={value}" for name, value in given.items()] + list(overrides)
    if path:
        found = _path_of(path)
        if found is None:
            near = _near(path, Path(options["results"]))
            raise FileNotFoundError(
                f"there is no sweep file {path}{near or '; see gkdbench ls sweeps'}"
            )
        return _read(found, texts)
    if not any(text.startswith("datasets=") for text in texts):
        raise ValueError("give a sweep file, or at least -d DATASET with -t or -s")
    return sweeps.from_overrides(texts)


def _asked(sweep: str, results: Path, data: str | None) -> tuple[str, list[Any]]:
    """Return the name and cells of a sweep run before, or of a sweep file."""
    from bench.data import data_root
    from bench.expand import expand

    plan = _stored(sweep, results)
    if plan is not None:
        return sweep, _cells(plan)
    path = _path_of(sweep)
    if path is None:
        near = _near(sweep, results)
        raise ValueError(
            f"there is no sweep file {sweep}, and none of that name in {results}{near}"
        )
    found = _read(path)
    return found.name, expand(found, data_root(data))


def _frame(
    sweep: str | None, results: Path, data: str | None
) -> tuple[Any, list[dict[str, Any]], str]:
    """Load the tidy rows of a sweep, or of the whole folder; the cells there should be; a title."""
    from bench import launch
    from bench.results import Store, frame, load

    if sweep is None:
        if not results.is_dir() and results.suffix != ".csv":
            raise FileNotFoundError(f"there is no results folder {results}")
        everything = load(results)
        names = ["key", "dataset", "split", "setting", "teacher", "student", "seed"]
        wanted: Any = everything.drop_duplicates("key")[names].to_dict("records")
        return everything, wanted, results.absolute().stem
    name, cells = _asked(sweep, results, data)
    return frame(launch.stored_rows(Store(results), cells).values()), launch.planned(cells), name
