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

from dataclasses import dataclass

from bench.hparams import hp
from bench.recipe import RecipeConfig
from bench.recipe_student import RecipeStudent


class KRD(RecipeStudent):
    """MLP student with reliable sampling of its neighbours."""

    @dataclass(frozen=True)
    class Config(RecipeConfig):
        """Hyper-parameters of KRD: the recipe, reliable sampling on."""

        max_epochs: int = hp(500, low=1, high=100_000)
        batch_size: int = hp(0, low=0, high=1_000_000)  # 0: full batch
        schedule: str = hp("mean", choices=("steps", "sum", "mean"))
        reliable_sampling: bool = hp(True, choices=(False, True))
