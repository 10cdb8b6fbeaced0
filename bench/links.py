"""Students without a teacher that learn from their edges: an MLP with two heads, y and z.

A node's y says its own class, its z the class of a neighbour: for an edge (s, d), y_s is to be z_d
and y_d is to be z_s. Edges are looked at while fitting; what is shipped is the MLP with y alone. An
epoch is one pass over shuffled whole batches of edges, each in both directions: the rest that fills
no batch is left out, other edges each epoch.

Sources: LinkDist, Luo et al., arXiv 2106.08541; TGS, Wu et al., arXiv 2403.03483.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bench import train
from bench.fused import relu_dropout
from bench.graph import Graph, Task
from bench.hparams import hp
from bench.layers import MLP, Linear, MLPConfig, make_norm, shuffled
from bench.method import Batch, FitLog, Method, Output, Step


@dataclass(frozen=True)
class LinkConfig(MLPConfig):
    """Hyper-parameters of an MLP with two heads that learns from edges."""

    num_layers: int = hp(3, low=2, high=16, search=(2, 3))  # a hidden layer feeds both heads
    hidden_dim: int = hp(256, low=1, high=16384, log=True)
    dropout: float = hp(0.5, low=0.0, high=0.95, search=(0.0, 0.8))
    norm: str = hp(
        "batch",
        choices=("none", "batch", "layer", "batch+layer"),
        search=["none", "batch", "batch+layer"],
    )
    batch_size: int = hp(1024, low=0, high=1_000_000)  # directed edges; 0: all of them


class TwoHeads(MLP):
    """An MLP whose last hidden layer feeds two heads; `forward` computes y alone.

    A head is [norm] -> ReLU -> dropout -> Linear, each with its own norm and its own mask.
    """

    def __init__(self, sizes: list[int], *, norm: str = "none", dropout: float = 0.0) -> None:
        super().__init__(sizes, norm=norm, dropout=dropout)
        self.second = nn.ModuleList([make_norm(norm, sizes[-2]), Linear(sizes[-2], sizes[-1])])

    def first(self, graph: Graph, nodes: Tensor) -> Tensor:
        """Return the first layer's product [n, H]; it is linear in the features."""
        return self.layers[0].of_graph(graph, nodes)  # type: ignore[operator]

    def hidden(self, h: Tensor) -> Tensor:
        """Return the last hidden layer's product [n, H] from that of the first layer."""
        for norm, layer in zip(list(self.norms)[:-1], list(self.layers)[1:-1], strict=True):
            h = layer(relu_dropout(norm(h), self.dropout, self.training))
        return h

    def own(self, hidden: Tensor) -> Tensor:
        """Return y [n, C]."""
        h = relu_dropout(self.norms[-1](hidden), self.dropout, self.training)
        return self.layers[-1](h)

    def neighbour(self, hidden: Tensor) -> Tensor:
        """Return z [n, C]."""
        norm, layer = self.second
        return layer(relu_dropout(norm(hidden), self.dropout, self.training))


class Known(NamedTuple):
    """What the labels of a task say about its edges.

    `class_weights` [C]; `free`: the share of the ends of edges that have no label; `labelled`: the
    share of the nodes that have one.
    """

    class_weights: Tensor
    free: float
    labelled: float


def directed(graph: Graph) -> Tensor:
    """Return every edge in both directions, int64 [2, M]; self-loops are left out."""
    rows, columns = graph.adj.row_ids, graph.adj.indices.long()
    apart = rows != columns
    return torch.stack([rows[apart], columns[apart]])


def known(edges: Tensor, labels: Tensor, num_classes: int) -> Known:
    """Weigh the classes so that each counts as its labelled nodes do, not as their edges do.

    weight_c = (labelled nodes of c) / (labelled ends of edges of c), over the mean of the classes
    that have such an end. `labels` int64 [N] are -1 where unknown; no class has weight where no end
    has a label.
    """
    ends = labels[edges.flatten()]
    of_ends = torch.bincount(ends[ends >= 0], minlength=num_classes).float()
    of_nodes = torch.bincount(labels[labels >= 0], minlength=num_classes).float()
    weights = of_nodes / of_ends.clamp(min=1)
    weights = torch.where(of_ends > 0, weights, torch.zeros_like(weights))
    mean = weights.sum() / (of_ends > 0).sum().clamp(min=1)
    free = 1.0 - of_ends.sum().item() / max(ends.numel(), 1)
    return Known(weights / mean.clamp(min=1e-12), free, (labels >= 0).float().mean().item())


def label_loss(logits: Tensor, labels: Tensor, class_weights: Tensor) -> Tensor | None:
    """Cross-entropy, weighted mean, of the rows whose label is known; None where there is none."""
    rows = torch.nonzero(labels >= 0).squeeze(1)
    if not rows.numel():
        return None
    return F.cross_entropy(logits.index_select(0, rows), labels[rows], class_weights)


def label_terms(heads: Iterable[Tensor], labels: Tensor, class_weights: Tensor) -> Tensor:
    """Sum of `label_loss` over heads and ends: a mean for each; 0 where no end has a label.

    Shapes: heads [2 B, C] each, rows of sources, then of targets; labels [2 B], in that order.
    """
    total = class_weights.new_zeros(())
    for head in heads:
        for logits, own in zip(head.chunk(2), labels.chunk(2), strict=True):
            value = label_loss(logits, own, class_weights)
            total = total if value is None else total + value
    return total


def apart(one: Tensor, two: Tensor) -> Tensor:
    """Mean squared difference of probabilities, of logits [n, C] each."""
    return F.mse_loss(one.softmax(1), two.softmax(1))


class LinkStudent(Method):
    """A student of its own edges; subclasses write `loss`."""

    graph_use = "fit"
    needs_teacher: ClassVar[bool] = False

    def __init__(self, config: Any, num_features: int, num_classes: int, num_nodes: int) -> None:
        super().__init__(config, num_features, num_classes, num_nodes)
        sizes = [num_features, *[config.width] * (config.num_layers - 1), num_classes]
        self.mlp = TwoHeads(sizes, norm=config.norm, dropout=config.dropout)
        self._seen: tuple[Task, Tensor, Known] | None = None

    @classmethod
    def knowledge_of(cls, config: Mapping[str, Any]) -> tuple[str, ...]:
        """Return its own: no teacher."""
        return ("self",)

    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Output:
        """Compute y of `nodes` from their own features."""
        return Output(*self.mlp(graph, nodes))

    def fit(self, task: Task) -> FitLog:
        """Train on the edges.

        Raises:
            ValueError: no train node has an edge.
        """
        if self.links(task)[1].free == 1.0:
            raise ValueError(
                "what is learnt from edges takes its labels from their ends, and no train node has "
                "an edge to another one in the observed graph; use a student that learns from nodes"
            )
        return train.fit(self, task)

    def links(self, task: Task) -> tuple[Tensor, Known]:
        """Return the edges and what the labels say about them, computed once a task."""
        if self._seen is None or self._seen[0] is not task:
            edges = directed(task.graph)
            self._seen = task, edges, known(edges, task.graph.y, task.graph.num_classes)
        return self._seen[1:]

    def batches(self, task: Task, step: Step) -> Iterable[Batch]:
        """Yield the edges in random whole batches."""
        config: Any = self.config
        edges, _ = self.links(task)
        if not edges.numel():
            return
        ids = torch.arange(edges.shape[1], device=edges.device)
        for chosen in shuffled(ids, config.batch_size, step.generator):
            pairs = edges[:, chosen]
            yield Batch(pairs[0], pairs=pairs)

    def deploy(self) -> dict[str, Method]:
        """Ship the MLP without the head of the neighbours; the weights are shared."""
        light, mlp = copy.copy(self), copy.copy(self.mlp)
        mlp._modules = {k: v for k, v in self.mlp._modules.items() if k != "second"}
        light._modules = {**self._modules, "mlp": mlp}
        light._seen = None
        return {"": light}
