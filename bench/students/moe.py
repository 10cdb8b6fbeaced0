"""MoE: the sparse mixture of experts that RbM is compared with; its router learns from the loss.

Source: the baseline `moe` of the official code of RbM, arXiv 2406.11919 (models.py: MoE, MoELayer,
MoELayerRouterModel). Every linear layer of an MLP becomes E experts, dropout on their input;
between layers [norm] and ReLU, no dropout. A cosine router with a learned scale, and noise while
training, picks the k experts of the largest logits; their outputs are weighted by the softmax over
ALL experts (those chosen are not renormalised) and by a learned scale. Auxiliary loss of a layer:
load_balance_weight * (cv^2(sum_b g_b) + cv^2(number of rows of each expert)). In the first
`warmup_epochs` epochs there is no router: a batch is cut into E runs of rows, one for each expert.
The distillation around it is recipe.py's. Hidden states are the output of the first layer.

Differs from the official code: exactly k experts where the code uses k + 1 (`official_off_by_one`
does that, too); the reported test accuracy is that of the best val epoch (theirs is the best test
epoch) and only epochs after the warm-up can be the best one; the optimizer starts anew after the
warm-up; validation computes val nodes only; the temperature renormalises and comes with T^2; with
reliable sampling a student node with several pairs is computed once a batch; more of this kind in
recipe.py.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from bench import mixture, train
from bench.experts import ExpertLayer, ExpertMLP, LearnedRouter
from bench.graph import Task
from bench.hparams import hp
from bench.method import FitLog
from bench.recipe import Auxiliary, RecipeConfig
from bench.recipe_student import RecipeStudent


class MoE(RecipeStudent):
    """Mixture of experts with a learned router."""

    mlp: ExpertMLP

    @dataclass(frozen=True)
    class Config(RecipeConfig):
        """Hyper-parameters of the mixture."""

        dropout: float = hp(0.3, low=0.0, high=0.95)  # on the input of every expert
        max_epochs: int = hp(500, low=1, high=100_000)  # after the warm-up
        batch_size: int = hp(0, low=0, high=1_000_000)  # 0: full batch
        schedule: str = hp("sum", choices=("steps", "sum", "mean"))
        num_experts: int = hp(8, low=1, high=64, search=(2, 8))  # E, in every layer
        top_k: int = hp(3, low=1, high=64, search=(1, 3))  # k; all experts where it is larger
        official_off_by_one: bool = hp(False, choices=(False, True))  # k + 1, as the code does
        # load_balance_coef
        load_balance_weight: float = hp(0.01, low=0.0, high=10.0, search=[0.0, 0.01, 0.025, 0.05])
        warmup_epochs: int = hp(50, low=0, high=10_000)  # pretrain_epoch

    @classmethod
    def warm_up(cls) -> None:
        """Compile the kernels of the expert layers."""
        mixture.warm_up()

    def build(self, num_features: int, num_classes: int) -> ExpertMLP:
        """Return an MLP whose every linear layer is a mixture."""
        config: Any = self.config
        sizes = [num_features, *[config.width] * (config.num_layers - 1), num_classes]
        top_k = config.top_k + config.official_off_by_one
        layers = [
            ExpertLayer(LearnedRouter(a, config.num_experts, config, top_k), a, b)
            for a, b in pairwise(sizes)
        ]
        return ExpertMLP(layers, norm=config.norm, dropout=config.dropout)

    @property
    def auxiliary(self) -> Auxiliary:
        """The routers' losses."""
        return self.mlp.auxiliary

    def fit(self, task: Task) -> FitLog:
        """Train the experts on runs of rows, then all; the log is that of the last phase."""
        config: Any = self.config
        warm: FitLog | None = None
        if config.warmup_epochs:
            phase = replace(config, max_epochs=config.warmup_epochs, selection="last")
            with self.mlp.during("chunks"):
                warm = train.fit(self, task, phase)
        log = train.fit(self, task)
        if warm is not None:
            log.history["warmup_loss"] = warm.history["loss"]
            log.seconds["warmup"] = warm.seconds["train"]
        return log
