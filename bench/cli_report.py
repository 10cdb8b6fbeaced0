"""Commands that read results: report, track, ui."""

from pathlib import Path
from typing import Any

import click

from bench import cli_options as opt
from bench import lookup


@click.command()
@click.argument("sweep", required=False)
@opt.results
@opt.data
@click.option("--out", default=None, help="Folder [default: reports/<sweep>].")
@click.option("--tuning", is_flag=True, help="Write what `gkdbench tune` cost and gained instead.")
@click.option(
    "--baseline",
    "baselines",
    multiple=True,
    metavar="LABEL",
    help="Student to compare others with; again: further ones, a table each.",
)
def report(
    sweep: str | None,
    results: str,
    data: str | None,
    out: str | None,
    tuning: bool,
    baselines: tuple[str, ...],
) -> None:
    """Write the comparison of a SWEEP (or of all results): markdown, LaTeX, CSV, HTML, figures."""
    from bench.reports import comparison
    from bench.results import Store

    if tuning:
        _report_tuning(sweep, Path(results), out)
        return
    frame, wanted, title = lookup.frame(sweep, Path(results), data)
    folder = Path(out) if out else Path("reports") / title
    store = Store(results) if Path(results).is_dir() else None
    base, *controls = _baselines(baselines, sweep, Path(results), wanted)
    against: dict[str, Any] = {"baseline": base, "controls": controls}
    files = comparison.write(frame, wanted, folder, title=title, store=store, **against)
    click.echo(comparison.text_table(frame, wanted, lookup.width(), baseline=base))
    click.echo("\n".join(str(path) for path in files))


def _baselines(
    asked: tuple[str, ...], sweep: str | None, results: Path, wanted: list[dict[str, Any]]
) -> list[str]:
    """Return the baselines that are asked for, else those of the sweep; the first may be ""."""
    from bench.hparams import unknown

    labels = {str(cell["student"]) for cell in wanted} - {""}
    for label in asked:
        if label and not labels & {label, label.rpartition("@")[0]}:
            raise unknown("baseline", label, labels)
    if asked or sweep is None:
        return list(asked) or [""]
    plan = lookup.stored(sweep, results)
    if plan is not None:
        return [str(plan["sweep"].get("baseline", "")), *plan["sweep"].get("controls", [])]
    path = lookup.path_of(sweep)
    found = lookup.read(path) if path else None
    return [found.baseline, *found.controls] if found else [""]


def _report_tuning(sweep: str | None, results: Path, out: str | None) -> None:
    from bench.reports import tuning

    if sweep is None:
        raise ValueError("--tuning needs a sweep: its name, or its file")
    path = lookup.path_of(sweep)
    title = lookup.read(path).name if path else sweep
    studies = tuning.read(results, title)
    files = tuning.write(studies, Path(out or f"reports/{title}-tuning"), title=title)
    click.echo(tuning.text_table(studies, lookup.width()))
    click.echo("\n".join(str(file) for file in files))


@click.command()
@click.option("--replay", is_flag=True, help="Fill in all that the tracking store lacks.")
@opt.results
@opt.uri
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


@click.command()
@opt.results
@opt.uri
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
