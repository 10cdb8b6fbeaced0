"""Ensemble: several GLNN students that never see each other, and the mean of their probabilities.

Source: the baseline "ensemble of MLPs" of RbM, arXiv 2406.11919 (TMLR 2024), and E-GLNN of later
papers; neither has official code. Each member is a GLNN student (arXiv 2110.08727), drawn on its
own:

    loss = sum of the members' own losses,    p = mean of softmax(member's logits)

and the logits handed out are log p. Adam keeps its moments by parameter, so members are trained as
if they were alone, on the same batches. With `match_parameters` the members share the budget of one
MLP of the configured width: theirs is the largest width with which all of them together have no
more parameters than that MLP.

Members run in turn: as one product (their first layers side by side, then batched products) they
took 0.95 of the time at width 128 and 1.6 times as long at 512 (`tests/benchmarks/speed_rbm.py`).

Differs from the official code: there is none; the number of members and their widths are ours.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bench import recipe, stages
from bench.graph import Graph, Task
from bench.hparams import hp
from bench.method import Batch, Method, Output, Step
from bench.recipe import RecipeConfig
from bench.recipe_student import RecipeStudent


class _Member(RecipeStudent):
    """One MLP, with the recipe's loss."""


class Ensemble(Method):
    """Independent MLP students, averaged."""

    needs_teacher: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Config(RecipeConfig):
        """Hyper-parameters of the ensemble; all others are each member's own."""

        num_members: int = hp(4, low=1, high=64)  # M
        match_parameters: bool = hp(False, choices=(False, True))  # all together those of one MLP

    def __init__(self, config: Any, num_features: int, num_classes: int, num_nodes: int) -> None:
        super().__init__(config, num_features, num_classes, num_nodes)
        own, sizes = config, (num_features, num_classes, num_nodes)
        if config.match_parameters:
            width = shared_width(config, num_features, num_classes)
            own = replace(config, hidden_dim=width, width_factor=1.0)
        self.members = nn.ModuleList([_Member(own, *sizes) for _ in range(config.num_members)])

    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Output:
        """Return the log of the mean probability, and the members' hidden states side by side."""
        outputs = [member(graph, nodes) for member in self.members]
        mean = stages.answer([output.logits for output in outputs])
        return Output(mean, torch.cat([output.hidden for output in outputs], 1))

    def begin_epoch(self, task: Task, step: Step) -> None:
        """Prepare the recipe's epoch; a refit looks at the ensemble's predictions."""
        recipe.begin_epoch(self, task, step)

    def batches(self, task: Task, step: Step) -> Iterable[Batch]:
        """Yield the recipe's batches, the same for all members."""
        batches = recipe.batches(self, task, step)
        for member in self.members:
            setattr(member, "sampling", getattr(self, "sampling", None))  # noqa: B010
        return batches

    def loss(self, task: Task, batch: Batch, step: Step) -> Tensor | None:
        """Return the sum of the members' losses."""
        total: Tensor | None = None
        for member in self.members:
            value = recipe.loss(member, task, batch, step)  # type: ignore[arg-type]
            if value is not None:
                total = value if total is None else total + value
        return total

    def deploy(self) -> dict[str, Method]:
        """Ship the MLPs alone."""
        light = recipe.shipped(self)
        members = [recipe.shipped(member) for member in self.members]  # type: ignore[arg-type]
        light._modules = {**light._modules, "members": nn.ModuleList(members)}
        return {"": light}


def shared_width(config: Any, num_features: int, num_classes: int) -> int:
    """Return the largest width of `num_members` MLPs with no more parameters than the one asked.

    An MLP of L layers and width H has, with sizes F, H, ..., H, C, (a + 1) b parameters for each
    pair of neighbouring sizes a, b, and 2 H for each norm.

    Raises:
        ValueError: even members of one hidden unit have more.
    """

    def count(width: int) -> int:
        sizes = [num_features, *[width] * (config.num_layers - 1), num_classes]
        norms = 0 if config.norm == "none" else 2 * sum(sizes[1:-1])
        return sum((a + 1) * b for a, b in pairwise(sizes)) + norms

    members, budget = config.num_members, count(config.width)
    low, high = 0, config.width + 1  # the answer is in [low, high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if members * count(middle) <= budget else (low, middle)
    if not low:
        raise ValueError(
            f"student 'ensemble': match_parameters: {members} members of one hidden unit have "
            f"{members * count(1):,} parameters, one MLP of width {config.width} has {budget:,}; "
            "give fewer members or a larger hidden_dim"
        )
    return low
