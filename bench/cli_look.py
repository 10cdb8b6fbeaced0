"""Commands that only look: ls, doctor, status, show, rows."""

import sys
from pathlib import Path

import click

from bench import cli_options as opt
from bench import lookup


@click.command()
@click.argument("kind", default="all")
@click.argument("name", default="")
@opt.style
def ls(kind: str, name: str, style: str) -> None:
    """List datasets, splits, settings, teachers, students or sweeps; or all about one NAME.

    `ls space NAME` shows what tuning searches for a student.
    """
    from bench import listing_ls

    if kind == "space":
        from bench import listing_tune

        click.echo(listing_tune.search_space(name, style))
        return
    click.echo(listing_ls.ls(kind, name, style, lookup.SWEEPS, lookup.room()))


@click.command()
@opt.results
@opt.data
@opt.uri
def doctor(results: str, data: str | None, uri: str | None) -> None:
    """Say what this installation can do: versions, devices, data, tracking, extras."""
    from bench import doctor as checks

    click.echo(checks.report(Path(results), data, uri))


@click.command()
@click.argument("sweep")
@opt.results
@opt.data
@opt.style
def status(sweep: str, results: str, data: str | None, style: str) -> None:
    """Show how much of a SWEEP is done, with the reasons of what is not.

    SWEEP is the name of a sweep that was run here, or a file.
    """
    from bench import launch, listing
    from bench.results import Store

    _, cells = lookup.cells_of(sweep, Path(results), data)
    outcome = launch.Outcome(cells, launch.stored_rows(Store(results), cells))
    click.echo(listing.status(outcome, style, lookup.room()))
    sys.exit(1 if outcome.unfinished() else 0)


@click.command()
@click.argument("key")
@opt.results
@opt.style
def show(key: str, results: str, style: str) -> None:
    """Show all about one cell; KEY may be the beginning of its key."""
    from bench import listing
    from bench.results import CorruptError, Store

    try:
        click.echo(listing.show(Store(results), key, style))
    except CorruptError as error:
        raise ValueError(f"{error}; run its sweep again") from error


@click.command()
@click.argument("sweep", required=False)
@opt.results
@opt.data
@click.option("--format", "style", default="csv", type=click.Choice(["csv", "json"]))
def rows(sweep: str | None, results: str, data: str | None, style: str) -> None:
    """Print the tidy table: one line for each cell and variant, of a SWEEP or of everything."""
    from bench.reports import references
    from bench.results import Store

    frame, wanted, _ = lookup.frame(sweep, Path(results), data)
    if Path(results).is_dir():
        frame = references.noted(frame, wanted, Store(results))
    if style == "csv":
        click.echo(frame.to_csv(index=False), nl=False)
    else:
        click.echo(frame.to_json(orient="records", indent=1))
