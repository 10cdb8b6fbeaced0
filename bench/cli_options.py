"""Options that several commands share."""

import math
from typing import Any

import click


class _Seconds(click.FloatRange):
    """A time limit; "nan" and "inf" would be none."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is no number of seconds.", param, ctx)
        return found


_SECONDS = _Seconds(0.1)


results = click.option(
    "--results", default="results", show_default=True, type=click.Path(), help="Results folder."
)
data = click.option("--data", default=None, help="Data root [default: $GKDBENCH_DATA or a cache].")
style = click.option(
    "--format", "style", default="text", type=click.Choice(["text", "json"]), show_default=True
)
uri = click.option("--uri", default=None, help="MLflow store [default: sqlite in the results].")
engine = click.option(
    "--engine",
    default="local",
    show_default=True,
    type=click.Choice(["local", "dask"]),
    help="Run cells on this machine, or on a Dask cluster.",
)
scheduler = click.option(
    "--scheduler", default=None, metavar="ADDRESS", help="Of the Dask cluster; or its file."
)
reports = click.option(
    "--reports", default="reports", show_default=True, help="Folder for the report."
)
no_track = click.option("--no-track", is_flag=True, help="Do not write to MLflow.")
jobs = click.option(
    "--jobs", type=click.IntRange(1), default=None, help="Processes [default: planned]."
)
threads = click.option(
    "--threads", type=click.IntRange(1), default=None, help="Threads of each process."
)
timeout = click.option("--timeout", type=_SECONDS, default=None, help="Seconds a cell may take.")


def running(command: Any) -> Any:
    """Add what every command that runs cells takes."""
    for option in (
        *(data, results, uri, reports, no_track),
        *(scheduler, engine, timeout, threads, jobs),
    ):
        command = option(command)
    return command


def where(options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `engine.open_engine`."""
    return {"kind": options["engine"], "scheduler": options["scheduler"]}


def require(device: str) -> None:
    """Refuse a GPU that is not here."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device 'cuda' is asked for, and torch finds no GPU here; use device 'cpu'"
        )
