"""The energy phase of a launch: modelled joules of what was timed, alone on the machine."""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from bench import run
from bench.cell import from_data
from bench.energy import Meter
from bench.graph import Graph
from bench.method import Method
from bench.results import Row
from bench.score import deployed_graph

if TYPE_CHECKING:
    from bench.launch import Outcome, Progress
    from bench.place import Place

MEASURE = "energy_modelled_joules"


def pending(outcome: "Outcome") -> list[str]:
    """List the rows that were timed and have no modelled energy yet."""

    def open_(row: Row) -> bool:
        costs = [cost for cost in row.cost.values() if "latency_ms" in cost]
        return row.status == "ok" and bool(costs) and not all(MEASURE in cost for cost in costs)

    return [key for key, row in outcome.rows.items() if open_(row)]


def measure(
    outcome: "Outcome", place: "Place", threads: int, progress: "Progress", country: str
) -> None:
    """Model the energy of what was timed; what cannot be is told in the outcome's warnings.

    Raises:
        ValueError: codecarbon is missing, or does not know the country.
    """
    todo = pending(outcome)
    if not todo:
        return
    meter, alone = Meter(country), replace(place, threads=threads)
    run.warm_up(alone)
    try:
        for key in progress(todo, len(todo), "energy"):
            row = outcome.rows[key]
            try:
                row.cost = _modelled(row, alone, meter)
                outcome.measured += 1
            except Exception as error:  # of a plug-in, or a GPU that is elsewhere; the row is good
                what = " / ".join(filter(None, from_data(row.cell).group))
                why = f"{type(error).__name__}: {error}"
                outcome.warnings.append(f"the energy of {what} could not be modelled: {why}")
    finally:
        meter.close()


def _modelled(row: Row, place: "Place", meter: Meter) -> dict[str, dict[str, float]]:
    """Model what the variants of a finished cell use for the whole graph; store it as cost."""
    cell = from_data(row.cell)
    exam = run.load_exam(cell, place)
    found = dict(row.cost)

    def infer(model: Method, graph: Graph) -> None:
        model.inference(graph)
        if cell.device == "cuda":
            torch.cuda.synchronize()

    for variant, model in run.load_model(cell, place).deploy().items():
        graph = deployed_graph(model.eval(), exam, cell.device)
        with torch.no_grad():
            joules = meter.measure(partial(infer, model, graph))
        found[variant] = {**found.get(variant, {}), **joules}
    place.store.write_cost(row.key, found)
    return found
