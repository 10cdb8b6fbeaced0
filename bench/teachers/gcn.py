"""GCN: graph convolutions with symmetric normalisation.

Source: Kipf & Welling, "Semi-Supervised Classification with Graph Convolutional Networks", arXiv
1609.02907, Eq. 2: H' = ReLU(D^-1/2 A D^-1/2 H W), A with self-loops where the graph stores them.

Differs from the official code: weight decay acts on all layers, not on the first alone; epochs are
selected by val accuracy and the best state is kept (there: no val loss decrease in 10 epochs, last
state).
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor

from bench.graph import Graph
from bench.hparams import TrainConfig, hp
from bench.layers import ConvStack, GCNConv
from bench.method import Method, Output


class GCN(Method):
    """Graph convolutional network: conv -> ReLU -> [norm] -> dropout."""

    graph_use = "inference"

    @dataclass(frozen=True)
    class Config(TrainConfig):
        """Hyper-parameters of a GCN."""

        weight_decay: float = hp(5e-4, low=0.0, high=0.1)
        num_layers: int = hp(2, low=1, high=64)
        hidden_dim: int = hp(64, low=1, high=8192, log=True)
        dropout: float = hp(0.5, low=0.0, high=0.95)  # on hidden states
        input_dropout: float = hp(0.0, low=0.0, high=0.95)  # on the stored features
        norm: str = hp("none", choices=("none", "batch", "layer"))

    def __init__(self, config: Any, num_features: int, num_classes: int, num_nodes: int) -> None:
        super().__init__(config, num_features, num_classes, num_nodes)
        sizes = [num_features, *[config.hidden_dim] * (config.num_layers - 1), num_classes]
        convolutions = [GCNConv(a, b) for a, b in pairwise(sizes)]
        self.stack = ConvStack(
            list(convolutions),
            sizes[1:-1],
            norm=config.norm,
            dropout=config.dropout,
            input_dropout=config.input_dropout,
            relu_first=True,
        )

    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Output:
        """Compute `nodes` from their whole receptive field."""
        return Output(*self.stack(graph, nodes, "symmetric"))
