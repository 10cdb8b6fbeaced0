"""A student that the recipe trains: it says what `build` makes, and its `Config`."""

from collections.abc import Iterable
from typing import Any, ClassVar

from torch import Tensor, nn

from bench import recipe
from bench.graph import Graph, Task
from bench.method import Batch, Method, Output, Step


class RecipeStudent(Method):
    """A distilled network on a node's own features; `Config` extends `recipe.RecipeConfig`."""

    needs_teacher: ClassVar[bool] = True

    def __init__(self, config: Any, num_features: int, num_classes: int, num_nodes: int) -> None:
        super().__init__(config, num_features, num_classes, num_nodes)
        self.mlp = self.build(num_features, num_classes)
        self.similarity = recipe.similarity_encoder(config, num_classes)

    def build(self, num_features: int, num_classes: int) -> nn.Module:
        """Return what maps (graph, nodes) to logits and hidden states: the configured MLP."""
        config: Any = self.config
        network: nn.Module = config.build(num_features, num_classes)
        return network

    @property
    def auxiliary(self) -> recipe.Auxiliary | None:
        """What the network adds to the loss of each batch; here nothing."""
        return None

    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Output:
        """Compute `nodes` from their own features (and encodings)."""
        return Output(*self.mlp(graph, nodes))

    def begin_epoch(self, task: Task, step: Step) -> None:
        """Prepare the recipe's epoch."""
        recipe.begin_epoch(self, task, step)

    def batches(self, task: Task, step: Step) -> Iterable[Batch]:
        """Yield the recipe's batches."""
        return recipe.batches(self, task, step)

    def loss(self, task: Task, batch: Batch, step: Step) -> Tensor | None:
        """Return the recipe's loss of a batch."""
        return recipe.loss(self, task, batch, step, self.auxiliary)

    def deploy(self) -> dict[str, Method]:
        """Ship the network without what only training needs."""
        return {"": recipe.shipped(self)}
