"""Adversarial features: a loss at the worst features near a batch's own (PGD).

Sources: Madry et al., arXiv 1706.06083, section 2.1; for students of graphs NOSMOG,
arXiv 2208.10010.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (its name everywhere)
from torch import Tensor

from bench import stages
from bench.graph import Graph
from bench.method import Method, Step


def objective_at_worst(
    method: Method,
    graph: Graph,
    nodes: Tensor,
    objective: Callable[[Tensor], Tensor],
    step: Step,
) -> Tensor:
    """Return the objective at the worst features near the batch's own."""
    config: Any = method.config
    own = stages.rows_of(graph, nodes)
    fed = getattr(method, "fed", 0)  # last columns that another network says: no features
    size = (nodes.numel(), method.num_features - fed)

    def shifted(shift: Tensor) -> Tensor:
        whole = F.pad(shift, (0, fed)) if fed else shift
        return objective(method(own.replace(shift=whole)).logits)

    start = torch.rand(size, generator=step.generator).to(graph.adj.device)
    radius = config.adversarial_radius
    start = start.mul_(2 * radius).sub_(radius)
    with _frozen(method):
        worst = worst_shift(shifted, start, radius, config.adversarial_steps)
    return shifted(worst)


@contextlib.contextmanager
def _frozen(method: Method) -> Iterator[None]:
    """Ask for no gradient of the weights: a compiled product would compute it for nothing."""
    weights = [p for p in method.parameters() if p.requires_grad]
    for p in weights:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in weights:
            p.requires_grad_(True)


def worst_shift(
    objective: Callable[[Tensor], Tensor], start: Tensor, radius: float, steps: int
) -> Tensor:
    """Climb from `start` inside the cube of this radius: steps of radius / 4 along the sign (PGD).

    Source: Madry et al., arXiv 1706.06083, section 2.1; the step size is that of NOSMOG's code.
    """
    shift = start.clone()
    for _ in range(steps):
        shift = shift.detach().requires_grad_()
        (grad,) = torch.autograd.grad(objective(shift), shift)
        shift = shift.detach().add_(grad.sign_(), alpha=radius / 4).clamp_(-radius, radius)
    return shift.detach()
