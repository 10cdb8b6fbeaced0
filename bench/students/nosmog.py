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

from dataclasses import dataclass

from bench.hparams import hp
from bench.recipe import RecipeConfig
from bench.recipe_student import RecipeStudent


class NOSMOG(RecipeStudent):
    """MLP student with positional encodings, adversarial features and representation similarity."""

    @dataclass(frozen=True)
    class Config(RecipeConfig):
        """Hyper-parameters of NOSMOG: the recipe, its three parts on."""

        weight_decay: float = hp(5e-4, low=0.0, high=0.1)
        encoding: str = hp("deepwalk", choices=("none", "deepwalk", "laplacian", "random_walk"))
        adversarial_weight: float = hp(0.1, low=0.0, high=10.0, search=[0.01, 0.1, 1.0])
        similarity_weight: float = hp(0.1, low=0.0, high=10.0, search=[1e-7, 1e-3, 0.1])
