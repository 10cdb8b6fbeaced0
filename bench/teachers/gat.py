"""GAT: graph attention.

Source: Velickovic et al., "Graph Attention Networks", arXiv 1710.10903, Eq. 1-6, with the
architecture of GLNN's teacher (arXiv 2110.08727): `num_heads` heads of width hidden_dim //
num_heads, concatenated, ReLU; the last layer has one head; dropout on the input, on hidden states
and on the attention; slope 0.2; no residual.

Differs from the original: ReLU instead of ELU, one output head (as GLNN does).
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bench.graph import Graph
from bench.hparams import TrainConfig, hp
from bench.layers import ConvStack, GATConv
from bench.method import Method, Output


class GAT(Method):
    """Graph attention network, full batch."""

    graph_use = "inference"

    @dataclass(frozen=True)
    class Config(TrainConfig):
        """Hyper-parameters of a GAT."""

        weight_decay: float = hp(0.01, low=0.0, high=0.1)
        num_layers: int = hp(2, low=1, high=16)
        hidden_dim: int = hp(128, low=1, high=8192, log=True)
        num_heads: int = hp(8, low=1, high=64)  # must divide hidden_dim
        dropout: float = hp(0.6, low=0.0, high=0.95)  # on features and hidden states
        attention_dropout: float = hp(0.3, low=0.0, high=0.95)
        norm: str = hp("none", choices=("none", "batch", "layer"))

    def __init__(self, config: Any, num_features: int, num_classes: int, num_nodes: int) -> None:
        super().__init__(config, num_features, num_classes, num_nodes)
        if config.hidden_dim % config.num_heads:
            raise ValueError(
                f"teacher 'gat': num_heads {config.num_heads} must divide "
                f"hidden_dim {config.hidden_dim}"
            )
        layers, drop = config.num_layers, config.attention_dropout
        width = config.hidden_dim // config.num_heads
        sizes = [num_features, *[config.hidden_dim] * (layers - 1)]
        hidden = [
            GATConv(size, width, heads=config.num_heads, attention_dropout=drop)
            for size in sizes[:-1]
        ]
        last = GATConv(sizes[-1], num_classes, heads=1, attention_dropout=drop)
        self.stack = ConvStack(
            [*hidden, last],
            sizes[1:],
            norm=config.norm,
            dropout=config.dropout,
            input_dropout=config.dropout,
            relu_first=True,
        )

    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Output:
        """Compute `nodes` from their whole receptive field."""
        return Output(*self.stack(graph, nodes, "sum"))
