"""What became of the experts of a fitted mixture: which rows each has, how even, which are idle."""

import math
from typing import Any

import torch
from torch import nn

from bench.experts import LearnedRouter, MemoryRouter, Router
from bench.graph import Graph
from bench.mixture import Routing


def routers_of(method: nn.Module) -> list[Router]:
    """Return the routers of a method, first layer first; none where it has no experts."""
    return [m for m in method.modules() if isinstance(m, MemoryRouter | LearnedRouter)]


@torch.no_grad()
def diagnostics(method: nn.Module, graph: Graph) -> list[dict[str, Any]]:
    """Route all nodes in eval mode and tell what each layer does; nothing without a router.

    Returns:
        A dict for each layer: `experts` int64 [n, k] and `gates` [n, k]; `load` [E], the share of
        the gates' sum that each expert has; `entropy` of the load, from 0 (one expert has all) to 1
        (even); `collapsed`, the experts that no node goes to.
    """
    routers = routers_of(method)
    seen: dict[nn.Module, list[Routing]] = {router: [] for router in routers}

    def keep(router: nn.Module, _: Any, output: tuple[Routing, Any]) -> None:
        seen[router].append(output[0])

    hooks = [router.register_forward_hook(keep) for router in routers]
    try:
        if routers:  # in chunks where the method can
            getattr(method.eval(), "inference", method)(graph)
    finally:
        for hook in hooks:
            hook.remove()
    return [_described(_joined(seen[router]), router.num_experts) for router in routers]


def _joined(parts: list[Routing]) -> Routing:
    experts, gates = zip(*((part.experts, part.gates) for part in parts), strict=True)
    return Routing(torch.cat(experts), torch.cat(gates))


def _described(routing: Routing, count: int) -> dict[str, Any]:
    total = routing.spread(count).sum(0)
    load = total / total.sum().clamp_min(1e-12)
    entropy = float(torch.special.entr(load).sum()) / math.log(count) if count > 1 else 1.0
    collapsed = (total == 0).nonzero().flatten().tolist()
    return {
        "experts": routing.experts,
        "gates": routing.gates,
        "load": load,
        "entropy": entropy,
        "collapsed": collapsed,
    }
