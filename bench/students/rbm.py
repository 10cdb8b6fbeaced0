"""RbM: a sparse mixture of experts whose router is a memory of what each expert was given.

Source: Rumiantsev & Coates, "Graph Knowledge Distillation to Mixture of Experts", arXiv 2406.11919
(TMLR 2024), and its official code (models.py: RbM, RbMLayer). Every linear layer of an MLP becomes
E experts, dropout on their input; between layers [norm] and ReLU, no dropout. A row goes to the k
experts whose memories have the largest cosine with it, weighted by the softmax of these k cosines;
the task's loss does not reach the weights. Memories follow their rows by a moving average, and
three auxiliary losses, summed over the layers, shape the routing:

    commitment_weight * mean_b sum_e w_be (-cos_be)          (rows come near their memories)
    self_similarity_weight * mean_ef <m_e, stopgrad m_f>     (memories part)
    load_balance_weight * cv^2(sum_b w_b)                    (experts are used evenly)

First `warmup_epochs` epochs train the first expert alone, a plain MLP; then each layer's memories
become the centres of a k-means of its inputs and all experts copies of the first; then all is
trained. The distillation around it (schedule, encodings, reliable sampling, adversarial features)
is recipe.py.

Memory: a parameter while the self-similarity has a weight, as in the official code, so Adam and
weight decay act on it too; without that weight no gradient reaches it (Adam skips it there), so it
is a buffer that the moving average alone changes. Hidden states are the output of the first layer,
which the official code compares with the teacher's. `router: learned` is our ablation: the router
of `moe`, trained by the task's loss, in the place of the memory.

Differs from the official code: the reported test accuracy is that of the best val epoch (theirs is
the best test epoch) and only epochs after the warm-up can be the best one; the optimizer starts
anew after the warm-up (theirs keeps the moments of the first expert); validation computes val nodes
only; the temperature renormalises and comes with T^2 (theirs divides log-probabilities); the
k-means is seeded and looks at 100,000 nodes at most; with reliable sampling a student node with
several pairs is computed once a batch, so it counts once in the moving average and in the auxiliary
losses; more of this kind in recipe.py.
"""

import time
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from bench import mixture, train
from bench.experts import ExpertLayer, ExpertMLP, LearnedRouter, MemoryRouter
from bench.graph import Task
from bench.hparams import derive_seed, hp
from bench.method import FitLog
from bench.recipe import Auxiliary, RecipeConfig
from bench.recipe_student import RecipeStudent


class RbM(RecipeStudent):
    """Mixture of experts, routed by memory."""

    mlp: ExpertMLP

    @dataclass(frozen=True)
    class Config(RecipeConfig):
        """Hyper-parameters of RbM; weights of 0 turn a loss off."""

        dropout: float = hp(0.3, low=0.0, high=0.95)  # on the input of every expert
        max_epochs: int = hp(500, low=1, high=100_000)  # after the warm-up
        batch_size: int = hp(0, low=0, high=1_000_000)  # 0: full batch
        schedule: str = hp("sum", choices=("steps", "sum", "mean"))
        num_experts: int = hp(4, low=1, high=64, search=(2, 8))  # E, in every layer
        top_k: int = hp(3, low=1, high=64, search=(1, 3))  # k; all experts where it is larger
        memory_momentum: float = hp(0.9, low=0.0, high=1.0)  # mu
        # vq_coeff
        commitment_weight: float = hp(0.05, low=0.0, high=10.0, search=[0.0, 0.01, 0.05, 0.1])
        # sim_coeff
        self_similarity_weight: float = hp(0.01, low=0.0, high=10.0, search=[0.0, 0.01, 0.05])
        load_balance_weight: float = hp(  # load_balance_coef
            0.01, low=0.0, high=10.0, search=[0.0, 0.01, 0.025, 0.05]
        )
        input_attention: bool = hp(False, choices=(False, True), search=[False, True])
        warmup_epochs: int = hp(12, low=0, high=10_000)  # pretrain_epoch
        router: str = hp("memory", choices=("memory", "learned"))

    @classmethod
    def warm_up(cls) -> None:
        """Compile the kernels of the expert layers."""
        mixture.warm_up()

    def build(self, num_features: int, num_classes: int) -> ExpertMLP:
        """Return an MLP whose every linear layer is a mixture."""
        config: Any = self.config
        kind = MemoryRouter if config.router == "memory" else LearnedRouter
        sizes = [num_features, *[config.width] * (config.num_layers - 1), num_classes]
        layers = [
            ExpertLayer(kind(a, config.num_experts, config), a, b, attention=config.input_attention)
            for a, b in pairwise(sizes)
        ]
        return ExpertMLP(layers, norm=config.norm, dropout=config.dropout)

    @property
    def auxiliary(self) -> Auxiliary:
        """The routers' losses."""
        return self.mlp.auxiliary

    def fit(self, task: Task) -> FitLog:
        """Warm up one expert, start the memories, train; the log is that of the last phase."""
        config: Any = self.config
        warm: FitLog | None = None
        if config.warmup_epochs:
            phase = replace(config, max_epochs=config.warmup_epochs, selection="last")
            with self.mlp.during("first"):
                warm = train.fit(self, task, phase)
        start = time.perf_counter()
        self.mlp.start(task.graph, derive_seed(task.seed, "memory"))
        started = time.perf_counter() - start
        log = train.fit(self, task)
        log.seconds["start"] = started
        if warm is not None:
            log.history["warmup_loss"] = warm.history["loss"]
            log.seconds["warmup"] = warm.seconds["train"]
        return log
