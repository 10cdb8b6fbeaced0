"""One student for every kind of knowledge: a weight for each; combinations are configuration.

    loss = label_weight * CE(labels) + soft_weight * KL(teacher || student)
         + fitnet_weight * FitNet + attention_weight * AT + lsp_weight * LSP
         + rkd_distance_weight * RKD-D + rkd_angle_weight * RKD-A
         + gram_weight * Gram + contrast_weight * InfoNCE

The soft-label term and those on hidden states look at all observed nodes (`knowledge.py` has the
formulas and their reductions). A term without weight is not computed and draws no random number.

Schedules: full batch (`batch_size` 0) is one Adam step an epoch on the whole sum. Otherwise an
epoch is GLNN's: batches of train nodes for the labels, then batches of all observed nodes for the
others, each its own step; LSP then also computes the neighbours of a batch. With batches,
`soft_weight` alone, or with `label_weight` = 1 - `soft_weight`, is GLNN itself.

FitNet and InfoNCE compare projections, Linear -> batch norm -> ReLU, one for either side. They are
drawn where a fit begins, trained with the student, and gone when it ends: they are no part of the
stored state. Hidden states are those that a method hands out (`Output.hidden`): the teacher's come
from `task.teacher.hidden`, in eval mode, on the observed graph.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bench import knowledge, losses, train
from bench.graph import Block, Graph, Task, TeacherOutput
from bench.hparams import hp
from bench.kept import once
from bench.layers import Linear, MLPConfig, shuffled
from bench.method import Batch, FitLog, Method, Output, Step

# What each weight teaches; the order is that of the loss.
KIND_OF = {
    "soft_weight": "output",
    "fitnet_weight": "middle",
    "attention_weight": "middle",
    "lsp_weight": "middle",
    "rkd_distance_weight": "constructed",
    "rkd_angle_weight": "constructed",
    "gram_weight": "constructed",
    "contrast_weight": "constructed",
}
_PROJECTED = {"fitnet_weight": "fitnet", "contrast_weight": "contrast"}
MOST = 1e7  # of any weight


@dataclass(frozen=True)
class KindsConfig(MLPConfig):
    """Hyper-parameters: the kinds of knowledge by weight; 0 turns one off."""

    max_epochs: int = hp(500, low=1, high=100_000)
    batch_size: int = hp(0, low=0, high=1_000_000)  # 0: full batch, one step an epoch
    label_weight: float = hp(0.0, low=0.0, high=MOST, search=(0.0, 1.0))  # of CE
    soft_weight: float = hp(1.0, low=0.0, high=MOST)  # of KL
    temperature: float = hp(  # T; T^2 applied
        1.0, low=0.1, high=10.0, log=True, search=(0.5, 4.0), when="soft_weight"
    )
    fitnet_weight: float = hp(0.0, low=0.0, high=MOST)
    projection_dim: int = hp(256, low=1, high=8192)  # P, of FitNet and InfoNCE
    attention_weight: float = hp(0.0, low=0.0, high=MOST)
    lsp_weight: float = hp(0.0, low=0.0, high=MOST)
    lsp_kernel: str = hp(
        "cosine",
        choices=knowledge.KERNELS,
        search=["cosine", "poly", "l2", "rbf"],
        when="lsp_weight",
    )
    rkd_distance_weight: float = hp(0.0, low=0.0, high=MOST)
    rkd_angle_weight: float = hp(0.0, low=0.0, high=MOST)
    angle_nodes: int = hp(64, low=2, high=256)  # sampled for the angles, which cost the cube
    gram_weight: float = hp(0.0, low=0.0, high=MOST)
    contrast_weight: float = hp(0.0, low=0.0, high=MOST)
    contrast_temperature: float = hp(  # tau
        0.075, low=0.01, high=10.0, log=True, search=(0.05, 1.0), when="contrast_weight"
    )
    sample_nodes: int = hp(512, low=2, high=16_384)  # sampled for the other relations


class Taught(Method):
    """A student of whatever kinds its weights switch on; subclasses bring the network, as `net`."""

    needs_teacher: ClassVar[bool] = True
    net: nn.Module

    def __init__(self, config: Any, num_features: int, num_classes: int, num_nodes: int) -> None:
        super().__init__(config, num_features, num_classes, num_nodes)
        if config.batch_size == 1 and any(getattr(config, w) for w in list(KIND_OF)[1:]):
            raise ValueError(
                "batch_size is 1, and what is taught by hidden states compares nodes of a batch; "
                "give 0 (full batch), 2 or more"
            )
        self.heads: nn.ModuleDict | None = None  # the projections, during a fit

    @classmethod
    def knowledge_of(cls, config: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the kinds whose weights are not zero."""
        return tuple(dict.fromkeys(kind for name, kind in KIND_OF.items() if config.get(name)))

    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Output:
        """Compute `nodes`; a GNN does so from their receptive field."""
        return Output(*self.net(graph, nodes))

    def fit(self, task: Task) -> FitLog:
        """Train; the projections exist only in here.

        Raises:
            ValueError: nothing teaches the classes.
        """
        config: Any = self.config
        if not config.label_weight and not config.soft_weight:
            raise ValueError(
                "label_weight and soft_weight are 0, so that nothing teaches the classes: the last "
                "layer would stay as it was drawn; give one of them a weight"
            )
        try:
            self._prepare(task)
            return train.fit(self, task)
        finally:
            self.heads = None

    def begin_epoch(self, task: Task, step: Step) -> None:
        """Draw the projections where nobody did."""
        self._prepare(task)

    def _prepare(self, task: Task) -> None:
        config: Any = self.config
        wanted = [name for weight, name in _PROJECTED.items() if getattr(config, weight)]
        if self.heads is not None or not wanted:
            return
        assert task.teacher is not None
        own = config.width if config.num_layers > 1 else self.num_classes
        sizes = {"student": own, "teacher": task.teacher.hidden.shape[1]}
        with train.seeded(task.seed, "projections"):
            heads = {
                f"{name}_{side}": _head(size, config.projection_dim)
                for name in wanted
                for side, size in sizes.items()
            }
        self.heads = nn.ModuleDict(heads).to(task.graph.adj.device).train(self.training)

    def batches(self, task: Task, step: Step) -> Iterable[Batch]:
        """Yield all observed nodes at once, or the labelled pass and the pass over all nodes."""
        size: int = self.config.batch_size  # type: ignore[attr-defined]
        if not size:
            yield Batch(task.nodes)
            return
        for nodes in shuffled(task.split.train, size, step.generator):
            yield Batch(nodes, labelled=True)
        for nodes in shuffled(task.nodes, size, step.generator):
            yield Batch(nodes)

    def loss(self, task: Task, batch: Batch, step: Step) -> Tensor | None:
        """Return the weighted sum of a batch; None where it has no weight."""
        config: Any = self.config
        whole = not config.batch_size
        if batch.labelled:
            if not config.label_weight:
                return None
            logits = self(task.graph, batch.nodes).logits
            return config.label_weight * losses.hard_label_loss(logits, task.graph.y[batch.nodes])
        if not any(getattr(config, weight) for weight in KIND_OF) and not config.label_weight:
            return None
        self._prepare(task)
        terms = list(self._terms(task, None if whole else batch.nodes, step))
        return sum(terms[1:], terms[0]) if terms else None

    def _terms(self, task: Task, nodes: Tensor | None, step: Step) -> Iterator[Tensor]:
        """The weighted terms of `nodes` (int64 [B]); of the whole graph, labels too, without."""
        config: Any = self.config
        teacher = task.teacher
        assert teacher is not None
        edges = knowledge.neighbours(task.graph, nodes) if config.lsp_weight else None
        seen = edges.inputs if edges else nodes
        output = self(task.graph, seen)
        count = task.num_nodes if nodes is None else nodes.numel()
        logits, hidden = output.logits[:count], output.hidden[:count]
        if nodes is None and config.label_weight:
            train_nodes = task.split.train
            labels = task.graph.y[train_nodes]
            yield config.label_weight * losses.hard_label_loss(logits[train_nodes], labels)
        if config.soft_weight:
            targets = _rows(teacher.log_probs(config.temperature), nodes)
            soft = losses.soft_label_loss(logits, targets, config.temperature)
            yield config.soft_weight * soft
        if not any(getattr(config, weight) for weight in list(KIND_OF)[1:]):
            return
        goal = _rows(teacher.hidden, nodes)
        if edges is not None:
            yield config.lsp_weight * _local(teacher, edges, output.hidden, config.lsp_kernel)
        yield from self._middle(hidden, goal)
        yield from self._relations(hidden, goal, step)

    def _middle(self, hidden: Tensor, goal: Tensor) -> Iterator[Tensor]:
        """The terms that compare node by node."""
        config: Any = self.config
        if config.fitnet_weight:
            yield config.fitnet_weight * knowledge.fitnet(*self._projected("fitnet", hidden, goal))
        if config.attention_weight:
            yield config.attention_weight * knowledge.attention(hidden, goal)

    def _relations(self, hidden: Tensor, goal: Tensor, step: Step) -> Iterator[Tensor]:
        """The terms of relations, each on a sample of the batch."""
        config: Any = self.config
        if config.rkd_angle_weight:
            few = _sample(config.angle_nodes, step, hidden, goal)
            yield config.rkd_angle_weight * knowledge.rkd_angle(*few)
        if config.rkd_distance_weight or config.gram_weight or config.contrast_weight:
            some = _sample(config.sample_nodes, step, hidden, goal)
            if config.rkd_distance_weight:
                yield config.rkd_distance_weight * knowledge.rkd_distance(*some)
            if config.gram_weight:
                yield config.gram_weight * knowledge.gram(*some)
            if config.contrast_weight:
                pair = self._projected("contrast", *some)
                heat = config.contrast_temperature
                yield config.contrast_weight * knowledge.contrast(*pair, heat)

    def _projected(self, name: str, hidden: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        """The projections of both sides, [B, P] each."""
        assert self.heads is not None
        return self.heads[f"{name}_student"](hidden), self.heads[f"{name}_teacher"](goal)


def _head(size_in: int, size_out: int) -> nn.Module:
    return nn.Sequential(Linear(size_in, size_out), nn.BatchNorm1d(size_out), nn.ReLU())


def _rows(values: Tensor, nodes: Tensor | None) -> Tensor:
    return values if nodes is None else values[nodes]


def _local(teacher: TeacherOutput, edges: Block, hidden: Tensor, kernel: str) -> Tensor:
    """LSP of a block's inputs; the teacher's side of the whole graph is the same in every epoch."""

    def theirs() -> Tensor:
        around = _rows(teacher.hidden, edges.inputs)
        return knowledge.local_structure(edges.adj, around, kernel)

    whole = edges.inputs is None
    goal = once(teacher, ("local structure", kernel), theirs) if whole else theirs()
    own = knowledge.local_structure(edges.adj, hidden, kernel)
    return knowledge.structure_loss(edges.adj, own, goal)


def _sample(size: int, step: Step, *values: Tensor) -> tuple[Tensor, ...]:
    """The same `size` random rows of each; all where there are no more."""
    count = len(values[0])
    if count <= size:
        return values
    chosen = torch.randperm(count, generator=step.generator)[:size].to(values[0].device)
    return tuple(value.index_select(0, chosen) for value in values)
