"""Commands that run cells: prepare, run, retry."""

import sys
from pathlib import Path
from typing import Any

import click

from bench import cli_options as opt
from bench import lookup


@click.command()
@click.argument("names", nargs=-1, required=True)
@opt.data
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


@click.command()
@click.argument("sweep", required=False)
@click.argument("overrides", nargs=-1)
@click.option("-d", "--datasets", default=None, metavar="A,B", help="Datasets.")
@click.option("--split", "splits", default=None, metavar="A,B", help="Splits.")
@click.option("--setting", "settings", default=None, metavar="A,B", help="Settings.")
@click.option(
    "-t", "--teachers", default=None, metavar="A,B", help="Teachers, as name or name:preset."
)
@click.option(
    "-s", "--students", default=None, metavar="A,B", help="Students, as name or name:preset."
)
@click.option("--seeds", default=None, help="Seeds: 0-9 or 0,2,5.")
@click.option("--name", default=None, help="Name of the sweep [default: adhoc].")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default=None)
@click.option("--dry-run", is_flag=True, help="Print the plan and what is done already.")
@click.option("--tuned", is_flag=True, help="Add each student as `gkdbench tune` tuned it.")
@click.option("--tuned-file", default=None, help="Add them from this file instead.")
@click.option(
    "--energy",
    default="",
    metavar="COUNTRY",
    help="Model the energy of what is timed (codecarbon): a code such as DEU, or none.",
)
@click.option("--time-again", is_flag=True, help="Time anew what is timed; the fits stay.")
@opt.running
def run(sweep: str | None, overrides: tuple[str, ...], **options: Any) -> None:
    """Run a SWEEP file, or the matrix of the options; `key=value` overrides.

    \b
    gkdbench run sweeps/quickstart.yaml
    gkdbench run sweeps/quickstart.yaml seeds=0-9 glnn.dropout=0.3
    gkdbench run -d cpf-cora --split random --setting production -t sage -s glnn,mlp --seeds 0-9
    """  # noqa: D301  (click reads the \b itself)
    if sweep and "=" in sweep:
        overrides, sweep = (sweep, *overrides), None
    found = lookup.sweep_of(sweep, overrides, options)
    from bench.data import data_root
    from bench.expand import expand

    tuned = _tuned(sweep, found.name, options)
    cells = expand(found, data_root(options["data"]), tuned)
    _tell_budgets(tuned, cells)
    _launch(found, cells, options)


def _tuned(sweep: str | None, name: str, options: dict[str, Any]) -> list[Any]:
    from bench.tuning import read_tuned

    if options["tuned_file"]:
        return read_tuned(Path(options["tuned_file"]))
    if not options["tuned"]:
        return []
    path = lookup.path_of(sweep) if sweep else None
    if path is None:
        raise ValueError("--tuned needs a sweep file, beside which tuned/ lies; or --tuned-file")
    return read_tuned(lookup.tuned_path(path, name))


def _tell_budgets(tuned: list[Any], cells: list[Any]) -> None:
    """Say so where the students of a run were not tuned with the same budget, or none was."""
    groups = {cell.group for cell in cells}
    used = [entry for entry in tuned if entry.where in groups]
    if tuned and not used:
        click.echo("warning: no student of this run was tuned", err=True)
    if len({entry.trials for entry in used}) > 1:  # on one dataset, or from one to another
        told = ", ".join(dict.fromkeys(f"{entry.student} {entry.trials}" for entry in used))
        click.echo(f"warning: the budgets of tuning differ, in trials: {told}", err=True)


@click.command()
@click.argument("sweep")
@opt.running
def retry(sweep: str, **options: Any) -> None:
    """Run again what failed or is missing of a SWEEP that was run here before, and only that."""
    from bench.sweep import make

    results = Path(options["results"])
    path = lookup.path_of(sweep)
    name = sweep if path is None or lookup.stored(sweep, results) else lookup.read(path).name
    plan = lookup.stored(name, results)
    if plan is None:
        raise ValueError(f"no sweep '{name}' was run in {results}{lookup.near(name, results)}")
    _launch(make(plan["sweep"]), lookup.cells_in(plan), {**options, "dry_run": False})


def _launch(sweep: Any, cells: list[Any], options: dict[str, Any]) -> None:
    from bench import engine, launch, listing, progress
    from bench.data import data_root
    from bench.results import Store

    store = Store(options["results"])
    if options["dry_run"]:
        outcome = launch.Outcome(cells, launch.stored_rows(store, cells))
        click.echo(listing.plan(sweep, outcome, lookup.room()))
        return
    country = options.get("energy", "")
    if country:
        from bench import energy

        energy.check(country)
    where = opt.where(options)
    if where["kind"] == "local":
        opt.require(sweep.device)
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
        energy=country,
        time_again=options.get("time_again", False),
    )
    options = {**options, "baseline": sweep.baseline}
    click.echo(listing.closing(outcome, sweep.name, folder, options, lookup.width()))
    for warning in outcome.warnings:
        click.echo(f"warning: {warning}", err=True)
    sys.exit(1 if outcome.unfinished() else 0)
