"""Layers of experts: routers, the layer, the network.

A layer of E linear experts sends every row to k of them:

    y_b = scale * sum over the chosen e of g_be * (dropout_e(u_e * x_b) W_e + c_e)

with g, the gates, from a router; scale = exp(min(s, log 100)), learned, 2 at first; and u_e, an
optional learned attention over the input's columns, exp(min(a_e, log 100)), 1.1 at first.

Sources: RbM, arXiv 2406.11919, section 3; the learned router is its repository's
`MoELayerRouterModel`.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bench.expert_inputs import Inputs
from bench.graph import Graph
from bench.layers import make_norm
from bench.mixture import Routing, credit_scale

CEILING = math.log(100.0)  # of every learned log-scale
CLUSTERED = 100_000  # nodes at most that the start of routing clusters


def squared_variation(v: Tensor) -> Tensor:
    """Unbiased variance of v [E] / (its mean^2 + 1e-10); 0 for a single expert."""
    return v.var() / (v.mean().square() + 1e-10) if v.numel() > 1 else v.sum() * 0.0


# ---- routers --------------------------------------------------------------------------------


class MemoryRouter(nn.Module):
    """Send a row to the k experts whose memories it is nearest to (RbM).

    cos_be = <x_b, m_e> / (|x_b| |m_e|); the gates are the softmax of the k chosen cosines. In
    training mode every call moves each memory towards what its expert was given: m_e becomes
    momentum * m_e / |m_e| + (1 - momentum) * a mean of its rows at length 1, weighted by the
    softmax of their gates. The memory [E, D] asks for a gradient while the self-similarity, the
    only loss that reaches it, has a weight; otherwise the optimizer leaves it alone.
    """

    def __init__(self, size_in: int, num_experts: int, config: Any) -> None:
        super().__init__()
        self.num_experts, self.top_k = num_experts, min(config.top_k, num_experts)
        self.momentum = config.memory_momentum
        self.commitment = config.commitment_weight
        self.self_similarity = config.self_similarity_weight
        self.load_balance = config.load_balance_weight
        memory = F.normalize(torch.randn(num_experts, size_in), dim=1)
        self.memory = nn.Parameter(memory, requires_grad=bool(self.self_similarity))

    def forward(self, inputs: Inputs) -> tuple[Routing, Tensor | None]:
        """Return where the rows go, and in training mode the auxiliary loss."""
        memory = F.normalize(self.memory.detach(), dim=1)
        cosines, norms = inputs.cosines(memory)  # [n, E], [n]
        chosen, experts = cosines.topk(self.top_k)
        gates = chosen.softmax(1)
        routing = Routing(experts, gates.detach())
        if not self.training:
            return routing, None
        self._move(inputs, norms, memory, routing)
        return routing, self._auxiliary(chosen, Routing(experts, gates))

    @torch.no_grad()
    def _move(self, inputs: Inputs, norms: Tensor, memory: Tensor, routing: Routing) -> None:
        none = torch.full_like(routing.spread(self.num_experts), -torch.inf)
        shares = none.scatter(1, routing.experts, routing.gates).softmax(0)
        shares = shares.nan_to_num(0.0)  # an expert without rows keeps its direction
        means = inputs.sums(shares / norms.unsqueeze(1))
        self.memory.copy_(self.momentum * memory + (1.0 - self.momentum) * means)

    def _auxiliary(self, chosen: Tensor, routing: Routing) -> Tensor:
        total = chosen.new_zeros(())
        if self.commitment:
            total = total - self.commitment * (routing.gates * chosen).sum(1).mean()
        if self.self_similarity:
            memory = F.normalize(self.memory.clone(), dim=1)  # the next call moves it in place
            total = total + self.self_similarity * (memory @ memory.detach().T).mean()
        if self.load_balance:
            load = routing.spread(self.num_experts).sum(0)
            total = total + self.load_balance * squared_variation(load)
        return total


class LearnedRouter(nn.Module):
    """Send a row to the k experts of the largest logits; the gates learn from the task's loss.

    logits = scale * cosine(P x + b, w_e), plus N(0, 1) / E in training mode; the gates are their
    softmax over ALL experts, those chosen not renormalised.
    """

    def __init__(
        self, size_in: int, num_experts: int, config: Any, top_k: int | None = None
    ) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.top_k = min(config.top_k if top_k is None else top_k, num_experts)
        self.load_balance = config.load_balance_weight
        bound = 1.0 / math.sqrt(size_in)
        self.project = nn.Parameter(torch.empty(size_in, config.width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(config.width).uniform_(-bound, bound))
        self.directions = nn.Parameter(0.01 * torch.randn(config.width, num_experts))
        self.log_scale = nn.Parameter(torch.tensor(math.log(2.0)))

    def forward(self, inputs: Inputs) -> tuple[Routing, Tensor | None]:
        """Return where the rows go, and in training mode the auxiliary loss."""
        queries = Inputs(None, None, inputs.times(self.project).add_(self.bias))
        logits, _ = queries.cosines(F.normalize(self.directions, dim=0).T)
        logits = logits * self.log_scale.clamp(max=CEILING).exp()
        if self.training:
            logits = logits + torch.randn_like(logits) / self.num_experts
        experts = logits.topk(self.top_k).indices
        probs = logits.softmax(1)
        routing = Routing(experts, probs.gather(1, experts))
        if not self.training:
            return routing, None
        load = torch.bincount(experts.flatten(), minlength=self.num_experts).to(probs.dtype)
        uneven = squared_variation(probs.sum(0)) + squared_variation(load)
        return routing, self.load_balance * uneven


Router = MemoryRouter | LearnedRouter


# ---- layer and network ----------------------------------------------------------------------


class ExpertLayer(nn.Module):
    """E linear experts, weights [E, D, H] drawn as those of `torch.nn.Linear`, and a router."""

    def __init__(
        self, router: Router, size_in: int, size_out: int, *, attention: bool = False
    ) -> None:
        super().__init__()
        count, bound = router.num_experts, 1.0 / math.sqrt(size_in)
        self.router = router
        self.weight = nn.Parameter(torch.empty(count, size_in, size_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(count, size_out).uniform_(-bound, bound))
        self.log_scale = nn.Parameter(torch.tensor(math.log(2.0)))
        start = torch.full((count, size_in), math.log(1.1))
        self.log_attention = nn.Parameter(start) if attention else None

    def forward(self, inputs: Inputs, dropout: float, mode: str) -> tuple[Tensor, Tensor | None]:
        """Return the rows [n, H] and the auxiliary loss; `mode` is one of `ExpertMLP.during`."""
        if mode == "first":
            alone = Routing(*_constant(torch.zeros(inputs.count, 1, device=inputs.device)))
            base = self.bias[0].expand(inputs.count, -1).clone()
            return inputs.mixture(base, self.weight[:1], alone, dropout), None
        if mode == "chunks":
            parts = torch.arange(inputs.count, device=inputs.device).tensor_split(len(self.bias))
            ids = torch.cat([torch.full_like(part, e) for e, part in enumerate(parts)])
            routing, auxiliary = Routing(*_constant(ids.unsqueeze(1))), None
        else:
            routing, auxiliary = self.router(inputs)
        weight: Tensor = self.weight
        if self.log_attention is not None:
            weight = weight * self.log_attention.clamp(max=CEILING).exp().unsqueeze(2)
        scale = self.log_scale.clamp(max=CEILING).exp()
        routing = Routing(routing.experts, routing.gates * scale.detach())
        base = routing.spread(len(self.bias)) @ self.bias
        return credit_scale(inputs.mixture(base, weight, routing, dropout), scale), auxiliary


def _constant(experts: Tensor) -> tuple[Tensor, Tensor]:
    """A fixed choice [n, 1] with gates of 1."""
    return experts.long(), torch.ones(experts.shape, device=experts.device)


class ExpertMLP(nn.Module):
    """Expert layer -> [norm] -> ReLU, L - 1 times, then one more; dropout on experts' inputs."""

    def __init__(self, layers: list[ExpertLayer], *, norm: str, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        widths = [layer.bias.shape[1] for layer in layers[:-1]]
        self.norms = nn.ModuleList([make_norm(norm, width) for width in widths])
        self.dropout, self.mode = dropout, "routed"
        self._auxiliary: list[Tensor] = []

    @property
    def experts(self) -> list[ExpertLayer]:
        """The layers."""
        return cast(list[ExpertLayer], list(self.layers))

    @contextmanager
    def during(self, mode: str) -> Iterator[None]:
        """Train otherwise for a while; routers are not called, there is no auxiliary loss.

        `first`: the first expert alone, without scale and attention, an MLP. `chunks`: the batch is
        cut into E runs of rows, run e for expert e. What the mode does not use is put back later:
        weight decay moves what has no gradient, too.
        """
        words = ("router.", "log_") if mode == "first" else ("router.",)
        idle = [p for name, p in self.named_parameters() if any(word in name for word in words)]
        kept = [p.detach().clone() for p in idle]
        self.mode = mode
        try:
            yield
        finally:
            self.mode = "routed"
            with torch.no_grad():
                for parameter, value in zip(idle, kept, strict=True):
                    parameter.copy_(value)

    def forward(self, graph: Graph, nodes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return logits [n, C] of `nodes`, and the output of the first layer [n, H]."""
        self._auxiliary = []
        dropout = self.dropout if self.training else 0.0
        inputs = Inputs.of_graph(graph, nodes)
        outputs: list[Tensor] = []
        for i, layer in enumerate(self.experts):
            inputs = inputs if i == 0 else self._between(i, outputs[-1])
            h, auxiliary = layer(inputs, dropout, self.mode)
            outputs.append(h)
            if auxiliary is not None:
                self._auxiliary.append(auxiliary)
        return outputs[-1], outputs[0]

    def _between(self, i: int, h: Tensor) -> Inputs:
        """What layer i reads, from what the layer before it gives."""
        return Inputs(None, None, self.norms[i - 1](h).relu())

    def auxiliary(self) -> Tensor:
        """Return the sum of the layers' losses of the last forward, which is given once."""
        given, self._auxiliary = self._auxiliary, []
        return sum(given, torch.zeros((), device=self.experts[0].bias.device))

    @torch.no_grad()
    def start(self, graph: Graph, seed: int) -> None:
        """Begin to route, after a phase of `during("first")`: layer by layer, in eval mode.

        All experts become copies of the first; memories become the centres, at length 1, of a
        k-means of the layer's inputs at length 1, over all nodes; the next layer reads the outputs.
        Of a graph of more than `CLUSTERED` nodes only so many are looked at, drawn with the seed.
        """
        self.eval()
        inputs = Inputs.of_graph(graph, _clustered(graph, seed))
        for i, layer in enumerate(self.experts):
            layer.weight[1:], layer.bias[1:] = layer.weight[0].clone(), layer.bias[0].clone()
            if isinstance(layer.router, MemoryRouter):
                centres = _centres(inputs.unit_rows(), layer.router.num_experts, seed)
                centres = F.normalize(centres, dim=1).to(inputs.device)
                layer.router.memory.copy_(centres)
            if i + 1 < len(self.experts):
                inputs = self._between(i + 1, layer(inputs, 0.0, "routed")[0])


def _clustered(graph: Graph, seed: int) -> Tensor | None:
    """Return the nodes that a clustering looks at, int64 in order of id; None for all."""
    if graph.num_nodes <= CLUSTERED:
        return None
    order = torch.randperm(graph.num_nodes, generator=torch.Generator().manual_seed(seed))
    return order[:CLUSTERED].sort().values.to(graph.adj.device)


def _centres(rows: Any, count: int, seed: int) -> Tensor:
    """Cluster rows by k-means, on one thread so that a seed gives the same bits anywhere."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than experts
        model = KMeans(count, n_init=10, random_state=seed % 2**32).fit(rows)
    return torch.from_numpy(np.asarray(model.cluster_centers_, np.float32))
