"""The command that searches: tune."""

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from bench import cli_options as opt
from bench import lookup


@click.command()
@click.argument("sweep")
@click.argument("overrides", nargs=-1)
@click.option("--storage", default=None, help="URL of a database [default: a journal file each].")
@click.option("--out", default=None, help="File for what won [default: tuned/ beside the sweep].")
@click.option("--dry-run", is_flag=True, help="Print the studies and their search spaces.")
@opt.running
def tune(sweep: str, overrides: tuple[str, ...], **options: Any) -> None:
    """Search the students of a SWEEP with equal budgets; the same command goes on from anywhere.

    \b
    gkdbench tune sweeps/planetoid.yaml tune.trials=64
    gkdbench run sweeps/planetoid.yaml --tuned
    """  # noqa: D301  (click reads the \b itself)
    from bench import engine, launch_tune, listing_tune, progress
    from bench import tune as tuning
    from bench.data import data_root
    from bench.expand import searches
    from bench.results import Store
    from bench.run import Place

    found = lookup.sweep_of(sweep, overrides, options)
    root, path = data_root(options["data"]), lookup.path_of(sweep)
    assert path is not None
    tuning.require(found)
    asked = searches(found, root)
    if options["dry_run"]:
        click.echo(listing_tune.plan(found, asked))
        return
    where = opt.where(options)
    if where["kind"] == "local" or "latency_ms" in tuning.require(found).objectives:
        opt.require(found.device)  # latency is measured here, whoever fits
    tuned = Path(options["out"] or lookup.tuned_path(path, found.name))
    cells = tuning.sample_cells(found, asked)
    outcome = launch_tune.launch(
        found,
        Place(Store(options["results"]).root.absolute(), root),
        engine.plan(cells, options["jobs"], options["threads"], options["timeout"]),
        progress=progress.shown,
        storage=options["storage"],
        tuned_file=tuned,
        track_uri=options["uri"],
        track=not options["no_track"],
        reports=Path(options["reports"]) / f"{found.name}-tuning",
        **where,
    )
    click.echo(listing_tune.closing(outcome, _next(path, overrides, options), tuned))
    shown = (".yaml", ".md", ".html")
    click.echo("\n".join(str(file) for file in outcome.files if file.suffix in shown))
    for warning in outcome.warnings:
        click.echo(f"warning: {warning}", err=True)
    sys.exit(0 if len(outcome.found) + len(outcome.skipped) == len(asked) else 1)


def _next(path: Path, overrides: tuple[str, ...], options: dict[str, Any]) -> str:
    """The command that runs the tuned students of this search."""
    parts = ["gkdbench", "run", str(path), *(o for o in overrides if not o.startswith("tune."))]
    parts += ["--tuned-file", options["out"]] if options["out"] else ["--tuned"]
    parts += ["--results", str(options["results"])] if str(options["results"]) != "results" else []
    parts += ["--data", options["data"]] if options["data"] else []
    return shlex.join(parts)
