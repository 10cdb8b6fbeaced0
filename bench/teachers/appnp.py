"""APPNP: an MLP whose logits are spread by personalised PageRank.

Source: Gasteiger et al., "Predict then Propagate", arXiv 1810.05997, Eq. 4:
Z_0 = MLP(X), Z_{k+1} = (1 - alpha) D^-1/2 A D^-1/2 Z_k + alpha Z_0; k = 10, alpha = 0.1. Edges are
dropped anew in every step while training, as in GLNN's teacher (arXiv 2110.08727).

Differs from the original: weight decay acts on all layers; dropout on hidden states alone, not on
the features; biases; hidden width 128 (GLNN), not 64.
"""

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from bench.graph import Graph
from bench.hparams import TrainConfig, hp
from bench.layers import MLP
from bench.method import Method, Output
from bench.sparse import spmm, weighted_spmm


class APPNP(Method):
    """Predict with an MLP, then propagate the logits."""

    graph_use = "inference"

    @dataclass(frozen=True)
    class Config(TrainConfig):
        """Hyper-parameters of APPNP."""

        weight_decay: float = hp(0.01, low=0.0, high=0.1)
        num_layers: int = hp(2, low=1, high=16)
        hidden_dim: int = hp(128, low=1, high=8192, log=True)
        dropout: float = hp(0.5, low=0.0, high=0.95)  # on hidden states
        norm: str = hp("none", choices=("none", "batch", "layer"))
        num_steps: int = hp(10, low=1, high=100)  # K
        teleport: float = hp(0.1, low=0.0, high=1.0)  # alpha
        edge_dropout: float = hp(0.5, low=0.0, high=0.95)

    def __init__(self, config: Any, num_features: int, num_classes: int, num_nodes: int) -> None:
        super().__init__(config, num_features, num_classes, num_nodes)
        sizes = [num_features, *[config.hidden_dim] * (config.num_layers - 1), num_classes]
        self.mlp = MLP(sizes, norm=config.norm, dropout=config.dropout)

    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Output:
        """Propagate over the whole graph, then pick `nodes`: ten hops reach nearly everything."""
        config: Any = self.config
        adj = graph.normalised("symmetric")
        first, hidden = self.mlp(graph)
        logits = first
        for _ in range(config.num_steps):
            if self.training and config.edge_dropout:
                weights = F.dropout(adj.values, config.edge_dropout).unsqueeze(1)  # [nnz, 1]
                spread = weighted_spmm(adj, weights, logits.unsqueeze(1)).squeeze(1)
            else:
                spread = spmm(adj, logits)
            logits = (1 - config.teleport) * spread + config.teleport * first
        return Output(logits, hidden) if nodes is None else Output(logits[nodes], hidden[nodes])
