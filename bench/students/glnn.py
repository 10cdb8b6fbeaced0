"""GLNN: an MLP that learns from a GNN's soft labels.

Source: Zhang et al., "Graph-less Neural Networks: Teaching Old MLPs New Tricks via Distillation",
arXiv 2110.08727 (ICLR 2022), Eq. 1: label_weight * CE(labels) + (1 - label_weight) * KL(teacher ||
student over all observed nodes). An epoch is two passes: minibatches of labelled nodes for the
first term, then minibatches of all observed nodes for the second, every batch its own Adam step.
With label_weight 0 (the default) the first pass still steps: momentum and weight decay act.

Differs from the official code: a temperature (T^2 applied; 1 changes nothing); validation computes
the val nodes only, which picks the same epochs.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from bench import losses
from bench.graph import Graph, Task
from bench.hparams import hp
from bench.layers import MLPConfig, shuffled
from bench.method import Batch, Method, Output, Step


class GLNN(Method):
    """MLP student; `width_factor` X makes it the MLPwX ("GLNN+") of the paper."""

    needs_teacher: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Config(MLPConfig):
        """Hyper-parameters of GLNN."""

        label_weight: float = hp(0.0, low=0.0, high=1.0, search=(0.0, 0.6))  # lambda, Eq. 1
        # T^2 applied.
        temperature: float = hp(1.0, low=0.1, high=10.0, log=True, search=(0.5, 4.0))

    def __init__(self, config: Any, num_features: int, num_classes: int, num_nodes: int) -> None:
        super().__init__(config, num_features, num_classes, num_nodes)
        self.mlp = config.build(num_features, num_classes)

    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Output:
        """Compute `nodes` from their own features."""
        return Output(*self.mlp(graph, nodes))

    def batches(self, task: Task, step: Step) -> Iterable[Batch]:
        """Yield the labelled pass, then the pass over all observed nodes."""
        config: Any = self.config
        for nodes in shuffled(task.split.train, config.batch_size, step.generator):
            yield Batch(nodes, labelled=True)
        for nodes in shuffled(task.nodes, config.batch_size, step.generator):
            yield Batch(nodes)

    def loss(self, task: Task, batch: Batch, step: Step) -> Tensor | None:
        """Return one term of Eq. 1, with its weight."""
        config: Any = self.config
        weight = config.label_weight if batch.labelled else 1.0 - config.label_weight
        if not weight:
            return None
        logits = self(task.graph, batch.nodes).logits
        if batch.labelled:
            return weight * losses.hard_label_loss(logits, task.graph.y[batch.nodes])
        assert task.teacher is not None
        teacher = task.teacher.log_probs(config.temperature)[batch.nodes]
        return weight * losses.soft_label_loss(logits, teacher, config.temperature)
