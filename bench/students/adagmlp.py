"""AdaGMLP: an ensemble of MLPs in which later members care for the nodes that earlier ones missed.

Source: Lu et al., "AdaGMLP: AdaBoosting GNN-to-MLP Knowledge Distillation", KDD 2024, and its
official code (src/models.py, src/train_and_eval.py). M members are trained together; each node has
a weight u, the sum of all being 1. In every step, member after member:

    error_i = 1 - exp(-beta * KL(teacher_i || member_i)),    error = sum_i u_i error_i
    a = max(log((1 - error) / error), 1e-16),    then u_i <- u_i exp(a error_i), renormalised

    loss = label_weight * mean over members of CE on the member's own 1/M of the train nodes
         + (1 - label_weight) * mean over members of sum_i u_i KL_i at a temperature
         + alignment_weight * MSE(log-probabilities, those with masked features)
         + (1 - alignment_weight) * mean over layers of MSE(hidden, that with masked features)

with the u before the member's own change; u goes on from epoch to epoch, and no gradient goes
through it. The last two terms, for incomplete features, are on the member's train nodes, and there
are none with `mask_rate` 0. Prediction: sum_m (a_m / sum a) softmax(member m). The variants `1` ..
`M` run the first members alone, with their a rescaled to sum 1.

Differs from the official code: the a of the best val epoch are kept (theirs are the last epoch's);
all train nodes are shared out (theirs drops the remainder); labelled and soft-label terms are two
forward passes, each with its own dropout; each stored feature is masked with probability
`mask_rate` (theirs masks that part of all columns, stored or not) and what stays is scaled to the
row's old sum (theirs: to 1, the same for row-normalised features);
minibatches (`batch_size`; theirs are full-batch): u is then renormalised inside a batch, and
a is the sum over an epoch's batches. The temperature comes without its square, as there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bench import losses, stages
from bench.fused import relu_dropout
from bench.graph import Graph, Task
from bench.hparams import hp
from bench.layers import MLPConfig, shuffled
from bench.method import Batch, Method, Output, Step
from bench.sparse import CSR

FLOOR = 1e-16  # of a member's importance, as in the official code


def boost(node_weights: Tensor, divergence: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Return the node weights after a member, [n], and the member's importance, a scalar.

    Args:
        node_weights: u [n], with sum 1.
        divergence: KL(teacher || member) of each node, [n].
        beta: how fast an error grows with the divergence.
    """
    # Where member and teacher agree, rounding may leave less than zero, and a log without a number.
    errors = 1.0 - torch.exp(-beta * divergence.clamp(min=0.0))
    error = (node_weights * errors).sum() / node_weights.sum()
    importance = torch.log((1.0 - error) / (error + FLOOR) + FLOOR).clamp(min=FLOOR)
    moved = node_weights * torch.exp(importance * errors)
    return moved / moved.sum(), importance


def masked(graph: Graph, nodes: Tensor, rate: float) -> Graph:
    """Return `nodes` (int64 [n]) as a graph whose features are gone with probability `rate`.

    What stays of a row is scaled to the row's old sum of absolute values (features of both signs
    have sums around zero); a row of which nothing stays is empty.
    """
    own = stages.rows_of(graph, nodes)
    if isinstance(own.x, CSR):
        kept = own.x.values * (torch.rand_like(own.x.values) >= rate)
        before, after = (_row_sums(own.x, values.abs()) for values in (own.x.values, kept))
        scale = torch.where(after != 0, before / after, torch.zeros_like(after))
        return own.replace(x=own.x.with_values(kept * scale[own.x.row_ids]))
    kept = own.x * (torch.rand_like(own.x) >= rate)
    before, after = own.x.abs().sum(1), kept.abs().sum(1)
    scale = torch.where(after != 0, before / after, torch.zeros_like(after))
    return own.replace(x=kept * scale.unsqueeze(1))


def _row_sums(x: CSR, values: Tensor) -> Tensor:
    return torch.zeros(x.shape[0], device=values.device).index_add_(0, x.row_ids, values)


class _Members(Method):
    """The first m members, weighed by their importance."""

    importance: Tensor

    def __init__(
        self, config: Any, sizes: tuple[int, int, int], members: Any, importance: Tensor
    ) -> None:
        super().__init__(config, *sizes)
        self.members = nn.ModuleList(members)
        self.register_buffer("importance", importance)  # a_1 .. a_m, of any sum

    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Output:
        """Return the log of the weighted mean probability, and the hidden states side by side."""
        found = [member(graph, nodes) for member in self.members]
        if len(found) == 1:  # no weights to make, which a request of one node would notice
            return Output(*found[0])
        total = self.importance.sum()
        even = torch.full_like(self.importance, 1.0 / len(found))
        weights = torch.where(total > 0, self.importance / total.clamp(min=FLOOR), even)
        logits = stages.answer([x for x, _ in found], weights)
        return Output(logits, torch.cat([h for _, h in found], 1))


class AdaGMLP(_Members):
    """AdaBoost of MLP students."""

    needs_teacher: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Config(MLPConfig):
        """Hyper-parameters of AdaGMLP."""

        max_epochs: int = hp(500, low=1, high=100_000)
        batch_size: int = hp(0, low=0, high=1_000_000)  # 0: full batch
        num_members: int = hp(2, low=1, high=64)  # K
        label_weight: float = hp(0.1, low=0.0, high=1.0, search=(0.0, 0.7))  # lamb
        temperature: float = hp(1.0, low=0.01, high=10.0, log=True, search=(0.1, 2.0))  # tau
        error_growth: float = hp(1.0, low=0.0, high=10.0, search=[0.5, 1.0, 2.0, 4.0])  # beta
        split_labels: bool = hp(True, choices=(False, True))  # selective: 1/M of them a member
        mask_rate: float = hp(0.0, low=0.0, high=0.9)  # aug_feat_missing_rate; 0: no alignment
        alignment_weight: float = hp(0.5, low=0.0, high=1.0)  # lamb_a

    def __init__(self, config: Any, num_features: int, num_classes: int, num_nodes: int) -> None:
        members = [config.build(num_features, num_classes) for _ in range(config.num_members)]
        sizes = (num_features, num_classes, num_nodes)
        super().__init__(config, sizes, members, torch.ones(config.num_members))
        self.node_weights = torch.full((num_nodes,), 1.0 / num_nodes)  # u; only training needs it

    def begin_epoch(self, task: Task, step: Step) -> None:
        """Start the sums of the members' importance anew; at the first epoch, the node weights."""
        if step.epoch == 0:
            device = task.graph.y.device
            self.node_weights = torch.full((task.num_nodes,), 1.0 / task.num_nodes, device=device)
        self.importance.zero_()

    def batches(self, task: Task, step: Step) -> Iterator[Batch]:
        """Yield parts of the train nodes and of all nodes; each pair of them is one step."""
        config: Any = self.config
        size = config.batch_size
        parts = list(shuffled(task.nodes, size, step.generator)) if size else [task.nodes]
        train = next(shuffled(task.split.train, 0, step.generator))
        for labelled, nodes in zip(train.tensor_split(len(parts)), parts, strict=True):
            if labelled.numel():
                yield Batch(labelled, labelled=True, ends_step=False)
            yield Batch(nodes)

    def loss(self, task: Task, batch: Batch, step: Step) -> Tensor | None:
        """Return the terms of the labelled nodes, or the weighted soft-label term."""
        config: Any = self.config
        if not batch.labelled:
            return (1.0 - config.label_weight) * self.soft_loss(task, batch.nodes)
        if not config.label_weight and not config.mask_rate:
            return None
        count = len(self.members)
        parts: Any = [batch.nodes] * count
        if config.split_labels:
            order = torch.randperm(batch.nodes.numel(), generator=step.generator)
            parts = batch.nodes[order.to(batch.nodes.device)].tensor_split(count)
        pairs = zip(self.members, parts, strict=True)
        found = [self.hard_loss(task, member, part) for member, part in pairs if part.numel()]
        return torch.stack(found).sum() / count

    def hard_loss(self, task: Task, member: Any, nodes: Tensor) -> Tensor:
        """Return a member's loss on its train nodes: the labels', and that of masked features."""
        config: Any = self.config
        self._refuse_one("train nodes", nodes)
        hidden, logits = _layers(member, task.graph, nodes)
        value = config.label_weight * losses.hard_label_loss(logits, task.graph.y[nodes])
        if not config.mask_rate:
            return value
        others, blurred = _layers(member, masked(task.graph, nodes, config.mask_rate), None)
        value = value + config.alignment_weight * F.mse_loss(
            blurred.log_softmax(1), logits.log_softmax(1)
        )
        for one, two in zip(hidden, others, strict=True):
            value = value + (1.0 - config.alignment_weight) / len(hidden) * F.mse_loss(two, one)
        return value

    def soft_loss(self, task: Task, nodes: Tensor) -> Tensor:
        """Return the mean over members of sum_i u_i KL_i; u and the importance move on."""
        config: Any = self.config
        self._refuse_one("nodes", nodes)
        assert task.teacher is not None
        goal = task.teacher.log_probs()[nodes]
        soft = task.teacher.log_probs(config.temperature)[nodes]
        mass = self.node_weights[nodes].sum()
        weights = self.node_weights[nodes] / mass
        terms, importance = [], []
        for member in self.members:
            logits = member(task.graph, nodes)[0]
            terms.append((weights * _divergence(logits / config.temperature, soft)).sum())
            apart = _divergence(logits.detach(), goal)
            weights, own = boost(weights, apart, config.error_growth)
            importance.append(own)
        if self.training:
            self.node_weights[nodes] = weights * mass
            self.importance += torch.stack(importance)
        return torch.stack(terms).mean()

    def _refuse_one(self, what: str, nodes: Tensor) -> None:
        """Refuse a part that batch norm cannot average over; all epochs have parts of these sizes.

        To skip it would be no way out: of parts that small, most or all are of one node.
        """
        config: Any = self.config
        normed = self.training and config.norm == "batch" and config.num_layers > 1
        if normed and nodes.numel() == 1:
            raise ValueError(
                f"student 'adagmlp': norm 'batch' averages over a part of the {what}, and one part "
                "has a single node; give a larger batch_size (0: full batch), split_labels: false, "
                "or another norm"
            )

    def deploy(self) -> dict[str, Method]:
        """Ship the first 1 .. M members."""
        sizes = (self.num_features, self.num_classes, self.num_nodes)
        members: Any = list(self.members)
        return {
            str(m): _Members(self.config, sizes, members[:m], self.importance[:m])
            for m in range(1, len(members) + 1)
        }


def _divergence(logits: Tensor, teacher_log_probs: Tensor) -> Tensor:
    """KL(teacher || softmax(logits)) of each node, [n]."""
    gap = teacher_log_probs - logits.log_softmax(1)
    return (teacher_log_probs.exp() * gap).sum(1)


def _layers(mlp: Any, graph: Graph, nodes: Tensor | None) -> tuple[list[Tensor], Tensor]:
    """Return the hidden states of every layer, after dropout, and the logits."""
    h = mlp.layers[0].of_graph(graph, nodes)
    hidden = []
    for norm, layer in zip(mlp.norms, list(mlp.layers)[1:], strict=True):
        hidden.append(relu_dropout(norm(h), mlp.dropout, mlp.training))
        h = layer(hidden[-1])
    return hidden, h
