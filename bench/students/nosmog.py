"""NOSMOG: an MLP that knows its nodes' positions and withstands noise on its features.

Source: Tian et al., "Learning MLPs on Graphs: A Unified View of Effectiveness, Robustness, and
Efficiency" (NOSMOG), arXiv 2208.10010 (ICLR 2023). GLNN with [x, DeepWalk encoding] as input and,
in each batch of its two passes: task loss + adversarial_weight * task loss at the worst features
within adversarial_radius (5 steps of PGD, on the encodings too) + similarity_weight * mean squared
difference of the Gram matrices of hidden states, the student's after Linear -> ReLU -> dropout.

The deployed model reads no edge, but an encoding: that of a new node is the mean of its observed
neighbours', so whoever serves a new node looks at its neighbours once. This cost is not in the MACs
and latencies of the model; making the encodings is in `seconds_encode`.

Its default lamb = 1 (soft labels alone) is label_weight = 0 here. The learning rate 0.01 and weight
decay 5e-4 are what the official code runs with: it ignores those of its configuration file.

Differs from the official code: the teacher's hidden states are those of the observed graph (theirs,
where nodes are hidden, mix up node ids); DeepWalk has no hierarchical softmax (encodings.py) and is
made anew for each seed.
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


class NOSMOG(Method):
    """MLP student with positional encodings, adversarial features and representation similarity."""

    needs_teacher: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Config(RecipeConfig):
        """Hyper-parameters of NOSMOG: the recipe, its three parts on."""

        weight_decay: float = hp(5e-4, low=0.0, high=0.1)
        encoding: str = hp("deepwalk", choices=("none", "deepwalk", "laplacian", "random_walk"))
        adversarial_weight: float = hp(0.1, low=0.0, high=10.0, search=[0.01, 0.1, 1.0])
        similarity_weight: float = hp(0.1, low=0.0, high=10.0, search=[1e-7, 1e-3, 0.1])

    def __init__(self, config: Any, num_features: int, num_classes: int, num_nodes: int) -> None:
        super().__init__(config, num_features, num_classes, num_nodes)
        self.mlp = config.build(num_features, num_classes)
        self.similarity = recipe.similarity_encoder(config, num_classes)

    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Output:
        """Compute `nodes` from their own features and encodings."""
        return Output(*self.mlp(graph, nodes))

    def begin_epoch(self, task: Task, step: Step) -> None:
        """Refit the exponent of reliable sampling, where it is on."""
        recipe.begin_epoch(self, task, step)

    def batches(self, task: Task, step: Step) -> Iterable[Batch]:
        """Yield the labelled pass, then the pass over all observed nodes."""
        return recipe.batches(self, task, step)

    def loss(self, task: Task, batch: Batch, step: Step) -> Tensor | None:
        """Return the loss of a batch: its task, adversarial and similarity terms."""
        return recipe.loss(self, task, batch, step)

    def deploy(self) -> dict[str, Method]:
        """Ship the MLP without the layers of the similarity term."""
        return {"": recipe.shipped(self)}
