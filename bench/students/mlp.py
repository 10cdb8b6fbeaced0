"""MLP trained on the labels alone: what a student has to beat.

Source: the MLP baseline of GLNN, arXiv 2110.08727 (train_teacher.py with an MLP): Linear -> [norm]
-> ReLU -> dropout, minibatches of `batch_size` labelled nodes.

Differs from the official code: nothing known.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bench.graph import Graph, Task
from bench.layers import MLPConfig, shuffled
from bench.method import Batch, Method, Output, Step


class PlainMLP(Method):
    """Multi-layer perceptron without distillation."""

    @dataclass(frozen=True)
    class Config(MLPConfig):
        """Hyper-parameters of an MLP."""

    def __init__(self, config: Any, num_features: int, num_classes: int, num_nodes: int) -> None:
        super().__init__(config, num_features, num_classes, num_nodes)
        self.mlp = config.build(num_features, num_classes)

    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Output:
        """Compute `nodes` from their own features."""
        return Output(*self.mlp(graph, nodes))

    def batches(self, task: Task, step: Step) -> Iterable[Batch]:
        """Yield the labelled nodes, shuffled."""
        config: Any = self.config
        for nodes in shuffled(task.split.train, config.batch_size, step.generator):
            yield Batch(nodes, labelled=True)
