"""One student of ProGMLP: an MLP fed by the student before it, with its three losses.

Source: Lu et al., ProGMLP, arXiv 2507.19031 (AAAI 2026), Eq. 1-8; `students/progmlp.py` has them in
full, with what is read into them, and puts the students in a row.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bench import losses, recipe
from bench.fused import relu_dropout
from bench.graph import Graph, Task
from bench.method import Batch, Method, Output, Step


def next_share(share: float, average: float, *, rate: float, target: float, rule: str) -> float:
    """Return lambda after a moving average of the mixup loss, clamped to [0, 0.5].

    `printed` (Eq. 7): share + rate * (average - target); `intent` (the text): the other sign.
    """
    gap = average - target if rule == "printed" else target - average
    return min(max(share + rate * gap, 0.0), 0.5)


class Stage(Method):
    """Student k of a row: an MLP on [x, H of the student before], with its own loss."""

    def __init__(self, config: Any, sizes: tuple[int, int, int], position: int) -> None:
        joined = config.width if config.structure and position > 1 else 0
        num_features, num_classes, num_nodes = sizes
        super().__init__(config, num_features + joined, num_classes, num_nodes)
        self.fed = joined  # the last columns of the input are H_{k-1}: nothing shifts them
        self.mlp = config.build(num_features + joined, num_classes)
        self.similarity = recipe.similarity_encoder(config, num_classes)
        power = config.distillation_power if config.progressive_distillation else 0.0
        self.weight = float(position) ** power  # k^beta
        self.share = config.mixup_start  # lambda
        self.average: float | None = None  # of the mixup loss

    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Output:
        """Compute `nodes`; the hidden states of the student before are in `graph.extra`."""
        return Output(*self.mlp(graph, nodes))

    def represent(self, output: Output) -> Tensor:
        """Return H_k [n, H], what the next student sees: the input of the last layer."""
        return self.mlp.norms[-1](output.hidden).relu()

    @torch.no_grad()
    def inherit(self, other: "Stage") -> None:
        """Start from another student's parameters, as far as it has them."""
        state = other.state_dict()
        name = "mlp.layers.0.weight"
        taken, own = state[name], self.state_dict()[name]
        if len(taken) < len(own):
            more = own[len(taken) :]
            more = torch.zeros_like(more) if self.config.previous_start == "zero" else more  # type: ignore[attr-defined]
            state[name] = torch.cat([taken, more])
        self.load_state_dict(state)

    def next_share(self) -> float:
        """Return lambda after what the mixup loss has been so far."""
        config: Any = self.config
        if self.average is None:
            return self.share
        rate, target, rule = config.mixup_rate, config.mixup_target, config.mixup_rule
        return next_share(self.share, self.average, rate=rate, target=target, rule=rule)

    def begin_epoch(self, task: Task, step: Step) -> None:
        """Prepare the recipe's epoch, and move lambda where it moves every epoch."""
        config: Any = self.config
        recipe.begin_epoch(self, task, step)
        if config.mixup_update == "epoch":
            self.share = self.next_share()

    def batches(self, task: Task, step: Step) -> Iterator[Batch]:
        """Yield the mixed train nodes (labelled, with pairs), then the recipe's batches."""
        config: Any = self.config
        nodes = task.split.train
        if config.mixup and nodes.numel():
            order = torch.randperm(nodes.numel(), generator=step.generator).to(nodes.device)
            pairs = torch.stack([nodes, nodes[order]])  # [2, |V_L|]
            for part in recipe.equal_parts(pairs, config.batch_size):
                own = config.schedule == "steps"
                yield Batch(part[0], labelled=True, pairs=part, ends_step=own)
        yield from recipe.batches(self, task, step)

    def loss(self, task: Task, batch: Batch, step: Step) -> Tensor | None:
        """Return Eq. 6 for a batch of mixed nodes, else its part of Eq. 4."""
        if not (batch.labelled and batch.pairs is not None):
            value = recipe.loss(self, task, batch, step)
            return None if value is None else self.weight * value
        config: Any = self.config
        value = self.mixup_loss(task.graph, batch.pairs)
        now = value.item()
        decay = config.mixup_momentum
        self.average = now if self.average is None else decay * self.average + (1 - decay) * now
        part = batch.nodes.numel() / task.split.train.numel() if config.schedule == "mean" else 1.0
        return part * (self.weight if config.scale_mixup else 1.0) * value

    def mixup_loss(self, graph: Graph, pairs: Tensor) -> Tensor:
        """Return Eq. 6 of pairs int64 [2, B]; x stays sparse, for the first layer is linear."""
        first = self.mlp.layers[0].of_graph(graph, pairs.flatten())
        one, two = first.tensor_split(2)
        h = self.share * one + (1.0 - self.share) * two  # [B, H]
        for norm, layer in zip(self.mlp.norms, list(self.mlp.layers)[1:], strict=True):
            h = layer(relu_dropout(norm(h), self.mlp.dropout, self.training))
        y = graph.y[pairs]
        hard = losses.hard_label_loss  # linear in the label, so two of them are a mixed one
        return self.share * hard(h, y[0]) + (1.0 - self.share) * hard(h, y[1])


def feed(graph: Graph, plain: Tensor | None, hidden: Tensor) -> Graph:
    """Return the graph for the next student: its own extra columns, then H [n, H], not shifted."""
    extra = hidden if plain is None else torch.cat([plain, hidden], 1)
    shift = graph.shift
    if shift is not None:
        own = graph.num_features + extra.shape[1] - hidden.shape[1]  # without a former H
        shift = torch.cat([shift[:, :own], torch.zeros_like(hidden)], 1)
    return graph.replace(extra=extra, shift=shift)
