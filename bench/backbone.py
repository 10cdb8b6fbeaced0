"""Backbones of students by name: an MLP, or a small GNN, of the same configuration.

Sources: MLP: GLNN, arXiv 2110.08727. `gcn`: Kipf & Welling, arXiv 1609.02907, ReLU before the norm.
`sage`: Hamilton et al., arXiv 1706.02216, with the aggregator (neighbours + self) / (degree + 1).
Both are the layers of the teachers of these names.
"""

from itertools import pairwise

from torch import Tensor, nn

from bench.graph import Graph
from bench.hparams import unknown
from bench.layers import ConvStack, GCNConv, MLPConfig, SAGEConv

GNNS = ("gcn", "sage")
KINDS = ("mlp", *GNNS)
_WEIGHTS = {"gcn": "symmetric", "sage": "mean+self"}  # of the adjacency: `graph.normalise`


class Backbone(nn.Module):
    """Maps a graph to class logits [n, C] and the last hidden states [n, H] of n nodes.

    Args:
        kind: "mlp" (reads no edge), "gcn" or "sage".
        config: layers, width, dropout and norm.
        num_features: F, with the extra columns.
        num_classes: C.

    Raises:
        ValueError: an unknown kind.
    """

    def __init__(self, kind: str, config: MLPConfig, num_features: int, num_classes: int) -> None:
        super().__init__()
        if kind not in KINDS:
            raise unknown("backbone", kind, KINDS)
        self.kind = kind
        self.net: nn.Module
        if kind == "mlp":
            self.net = config.build(num_features, num_classes)
            return
        sizes = [num_features, *[config.width] * (config.num_layers - 1), num_classes]
        convolutions: list[nn.Module] = [
            GCNConv(a, b) if kind == "gcn" else SAGEConv(a, b, aggregator="gcn")
            for a, b in pairwise(sizes)
        ]
        self.net = ConvStack(
            convolutions,
            sizes[1:-1],
            norm=config.norm,
            dropout=config.dropout,
            relu_first=kind == "gcn",
        )

    def forward(self, graph: Graph, nodes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return logits and hidden states of `nodes` (int64 [n]; all without).

        A GNN computes them from their whole receptive field.
        """
        if self.kind == "mlp":
            return self.net(graph, nodes)
        return self.net(graph, nodes, _WEIGHTS[self.kind])
