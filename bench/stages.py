"""Students in stages: one fit that ships several models, from a cheap one to the whole.

A staged student answers with its first m stages (or members), m = 1 .. K. What its forms share is
here: the weighted mean of the stages' probabilities, how sure a stage is, when to stop, the rows of
a graph that still have to be computed, and the choice of a form for a budget.

The rules of stopping are those of ProGMLP, arXiv 2507.19031 (AAAI 2026), Eq. 9-10.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bench.graph import Graph
from bench.sparse import CSR


def log_probs(logits: Tensor) -> Tensor:
    """Return the log-probabilities of logits, both [n, C].

    Column by column: torch's loop over short rows is several times slower than one over nodes.
    """
    return logits.t().log_softmax(0).t()


def mix(log_probs: Sequence[Tensor], weights: Tensor | None = None) -> Tensor:
    """Return the log of the weighted mean of probabilities, the plain one without weights.

    Shapes: m tensors of log-probabilities [n, C]; weights [m], or [m, n] for each node its own,
    positive, with sum 1 over m.
    """
    columns = torch.stack([p.t() for p in log_probs])  # [m, C, n]
    if weights is None:
        return (columns.logsumexp(0) - math.log(len(columns))).t()
    scale = weights.log().unsqueeze(1)
    scale = scale.unsqueeze(2) if weights.dim() == 1 else scale  # [m, 1, 1 or n]
    return (columns + scale).logsumexp(0).t()


def answer(logits: Sequence[Tensor], weights: Tensor | None = None) -> Tensor:
    """Return what m members say together from their logits [n, C]: `mix` of their probabilities.

    One alone needs no mean: its logits are the answer, at the cost of a plain model.
    """
    if len(logits) == 1:
        return logits[0]
    return mix([log_probs(x) for x in logits], weights)


def confidence(logits: Tensor) -> Tensor:
    """Return how sure a stage is of each node, [n]: the largest probability of logits [n, C]."""
    return logits.t().softmax(0).amax(0)


def exit_stage(confidences: Sequence[float], threshold: float) -> int:
    """Return how many stages run: up to the first whose confidence is above the threshold.

    `confidences` has one number a stage, in order; where none is above, all stages run.
    """
    above = (i for i, value in enumerate(confidences, start=1) if value > threshold)
    return next(above, len(confidences))


def rows_of(graph: Graph, nodes: Tensor) -> Graph:
    """Return `nodes` (int64 [n]) as a graph of their own without edges; the cost is that of n."""
    device, size = graph.adj.device, nodes.numel()
    offsets = torch.zeros(size + 1, dtype=torch.int64, device=device)
    none = torch.zeros(0, dtype=torch.int32, device=device)
    adj = CSR(offsets, none, torch.zeros(0, device=device), (size, size))
    x = graph.x.rows(nodes) if isinstance(graph.x, CSR) else graph.x[nodes]
    extra = None if graph.extra is None else graph.extra[nodes]
    shift = None if graph.shift is None else graph.shift[nodes]
    return Graph(x, graph.y[nodes], adj, graph.num_classes, extra, shift)


def choose(
    quality: Mapping[str, Mapping[str, float]],
    cost: Mapping[str, Mapping[str, float]],
    *,
    budget: float,
    unit: str = "latency_node_ms",
) -> str:
    """Return the form of a staged student to serve: the best on val that the budget allows.

    Among equals the cheaper one is taken. Which form is best is decided on val alone, so that the
    test accuracy of the choice stays honest.

    Args:
        quality: numbers of each variant, of which `val_accuracy` is read: `Row.variants`.
        cost: measured numbers of each variant: `Row.cost`.
        budget: the most that one answer may cost, in the unit of `unit`.
        unit: what the budget counts: a key of `cost` such as `latency_node_ms` (milliseconds for
            one node), `latency_ms` (for the whole graph), `macs_node` or `macs`.

    Raises:
        ValueError: no variant was measured in this unit, or none is within the budget.

    Example: serve a fitted ProGMLP within 0.2 ms for one node. `cell` is one of a sweep's cells.

        >>> from bench import run, stages
        >>> place = run.Place(Path("results"), Path("data"))
        >>> row = run.run(cell, place)
        >>> cost = run.measure(row, place)
        >>> name = stages.choose(row.variants, cost, budget=0.2)
        >>> model = run.load_model(cell, place).deploy()[name]
        >>> logits = model(graph, torch.tensor([42])).logits  # of node 42
    """
    prices = {
        name: numbers[unit]
        for name, numbers in cost.items()
        if name in quality and math.isfinite(numbers.get(unit, math.nan))
    }
    if not prices:
        known = sorted({key for numbers in cost.values() for key in numbers})
        raise ValueError(
            f"no variant has a measured '{unit}'; measured: {', '.join(known) or 'nothing'}; "
            "measure the row's cost first (run.measure), or name another unit"
        )
    within = [name for name, price in prices.items() if price <= budget]
    if not within:
        cheapest = min(prices, key=lambda name: prices[name])
        raise ValueError(
            f"the budget is {unit} {budget:g}, and the cheapest variant, '{cheapest}', takes "
            f"{prices[cheapest]:g}; allow that much, or fit a smaller student"
        )
    return max(within, key=lambda name: (quality[name]["val_accuracy"], -prices[name]))
