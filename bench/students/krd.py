"""KRD: an MLP that also learns from its neighbours' soft labels, where the teacher is reliable.

Source: Wu et al., "Quantifying the Knowledge in GNNs for Reliable Distillation into MLPs", arXiv
2306.05628 (ICML 2023): label_weight * CE(labels) + (1 - label_weight) * mean over the pairs (i, j)
of KL(teacher_j || student_i). The pairs are every node with itself and the edges i -> j, each drawn
with probability 1 - d_j^alpha (reliability.py). All of an epoch is one Adam step. Edges are drawn
from epoch 50 on; before, every edge is a pair.

Differs from the official code: T^2 applied to the soft-label term (theirs has no such factor; its
temperatures are 0.8 to 1.2); labelled nodes and pairs are two forward passes, each with its own
dropout; see reliability.py for the fit of the exponent; the reported test accuracy is that of the
best val epoch (the code logs this, the last and the best test epoch).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from bench import recipe
from bench.graph import Graph, Task
from bench.hparams import hp
from bench.method import Batch, Method, Output, Step
from bench.recipe import RecipeConfig


class KRD(Method):
    """MLP student with reliable sampling of its neighbours."""

    needs_teacher: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Config(RecipeConfig):
        """Hyper-parameters of KRD: the recipe, reliable sampling on."""

        max_epochs: int = hp(500, low=1, high=100_000)
        batch_size: int = hp(0, low=0, high=1_000_000)  # 0: full batch
        schedule: str = hp("mean", choices=("steps", "sum", "mean"))
        reliable_sampling: bool = hp(True, choices=(False, True))

    def __init__(self, config: Any, num_features: int, num_classes: int, num_nodes: int) -> None:
        super().__init__(config, num_features, num_classes, num_nodes)
        self.mlp = config.build(num_features, num_classes)
        self.similarity = recipe.similarity_encoder(config, num_classes)

    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Output:
        """Compute `nodes` from their own features."""
        return Output(*self.mlp(graph, nodes))

    def begin_epoch(self, task: Task, step: Step) -> None:
        """Refit the exponent of the sampling probabilities."""
        recipe.begin_epoch(self, task, step)

    def batches(self, task: Task, step: Step) -> Iterable[Batch]:
        """Yield the labelled nodes and the sampled pairs."""
        return recipe.batches(self, task, step)

    def loss(self, task: Task, batch: Batch, step: Step) -> Tensor | None:
        """Return one term of the loss, with its weight."""
        return recipe.loss(self, task, batch, step)

    def deploy(self) -> dict[str, Method]:
        """Ship the MLP alone."""
        return {"": recipe.shipped(self)}
