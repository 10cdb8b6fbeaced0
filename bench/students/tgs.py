"""TGS: an MLP that distils between a node and what lies on the way to its neighbours; no teacher.

Source: Wu et al., "A Teacher-Free Graph Knowledge Distillation Framework with Dual
Self-Distillation", arXiv 2403.03483, and its official code. As LinkDist, two heads share an MLP, y
for a node's own class and z for that of its neighbour, but z looks at a mixture of both nodes:

    x'_d = b x_d + (1 - b) x_s,  b = ratio + (1 - ratio) sigmoid(att([n(W x_s) || n(W x_d)]))
    L = MSE(y_s, z(x'_d)) + MSE(y_d, z(x'_s))
        - MSE(softmax y_s, softmax z_r) - MSE(softmax y_d, softmax z_r)
        + label_weight [CE(y_s, Y_s) + CE(z(x'_d), Y_s) where s has a label, and the same for d]

each CE and each MSE a mean of its own. n scales a row to length 1; r is a random node. The features
stay sparse: the first layer is linear, so that the mixture of its products is its product of the
mixture. What is shipped is y alone.

Differs from the official code: W is the first layer of the MLP (theirs has its own, batch norm for
n, no bias in att, and an optimiser of its own at a rate of 1e-4); ReLU is not leaky; y and z are
computed where the loss reads them alone, so that the running statistics of their own batch norm
are of these nodes (theirs: of all three kinds); statistics of a step are those of both ends
together; an epoch leaves out the edges that fill no batch; class weights have mean 1, as in
LinkDist.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from bench import links
from bench.graph import Task
from bench.hparams import hp
from bench.layers import Linear
from bench.method import Batch, Method, Step


class TGS(links.LinkStudent):
    """MLP student of its edges and of points between their ends."""

    @dataclass(frozen=True)
    class Config(links.LinkConfig):
        """Hyper-parameters of TGS."""

        hidden_dim: int = hp(1024, low=1, high=16384, log=True)
        weight_decay: float = hp(5e-4, low=0.0, high=0.1, search=[0.0, 1e-4, 5e-4, 1e-3])
        batch_size: int = hp(512, low=0, high=1_000_000)  # directed edges; 0: all of them
        mixing_ratio: float = hp(
            0.7, low=0.0, high=1.0, search=(0.5, 0.9)
        )  # ratio: least part of d
        label_weight: float = hp(0.8, low=0.0, high=10.0, search=(0.3, 1.0))  # alpha

    def __init__(self, config: Any, num_features: int, num_classes: int, num_nodes: int) -> None:
        super().__init__(config, num_features, num_classes, num_nodes)
        self.attend = Linear(2 * config.width, 1)

    def loss(self, task: Task, batch: Batch, step: Step) -> Tensor | None:
        """Return the loss of a batch of edges."""
        config: Any = self.config
        assert batch.pairs is not None
        _, known = self.links(task)
        count, ends = batch.nodes.numel(), batch.pairs.flatten()
        own = self.mlp.first(task.graph, ends)  # [2 B, H]: sources, then targets
        other = torch.cat([own[count:], own[:count]])
        y = self.mlp.own(self.mlp.hidden(own))
        mixed = own.lerp(other, self.part(own))
        z = self.mlp.neighbour(self.mlp.hidden(mixed))  # of each end's mixed neighbour
        nodes = torch.randint(task.num_nodes, (count,), generator=step.generator)
        random = self.mlp.first(task.graph, nodes.to(ends.device))
        z_r = self.mlp.neighbour(self.mlp.hidden(random))
        total = 2 * F.mse_loss(y, z) - 2 * links.apart(y, z_r.repeat(2, 1))
        labels = links.label_terms((y, z), task.graph.y[ends], known.class_weights)
        return total + config.label_weight * labels

    def part(self, own: Tensor) -> Tensor:
        """Return how much of its neighbour is mixed into each end of edges, [2 B, 1].

        `own` [2 B, H] holds the first products of the sources, then those of the targets. A row is
        scaled after it was multiplied: no scaled copy of it is made.
        """
        ratio: float = self.config.mixing_ratio  # type: ignore[attr-defined]
        length = torch.linalg.vector_norm(own, dim=1, keepdim=True).clamp_min(1e-12)
        seen = own @ self.attend.weight.view(2, -1).T / length  # [2 B, 2]: as itself, as neighbour
        score = seen[:, :1] + seen[:, 1:].roll(len(own) // 2, 0) + self.attend.bias
        return ratio + (1 - ratio) * torch.sigmoid(score)

    def deploy(self) -> dict[str, Method]:
        """Ship the MLP with its own head alone."""
        (light,) = super().deploy().values()
        light._modules = {k: v for k, v in light._modules.items() if k != "attend"}
        return {"": light}
