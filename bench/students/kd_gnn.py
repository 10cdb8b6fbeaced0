"""KD into a smaller GNN: the student reads edges at inference, with a fraction of the units.

Source: as `kd`, the kinds of knowledge of the survey of Liu et al., arXiv 2302.14643, here for the
students of LSP (Yang et al., arXiv 2003.10477) and G-CRD (Joshi et al., arXiv 2111.04964): a small
GNN under a large one. Loss and schedule: kinds.py; the layers: backbone.py.

Differs from the official code: as `kd`; the student has 2 layers of 16 units by default (theirs: 4
layers of 68 on PPI, 2 to 3 of 32 to 256 elsewhere); with a batch size, a batch is computed from its
whole receptive field, no neighbour is sampled.
"""

from dataclasses import dataclass
from typing import Any

from bench.backbone import GNNS, Backbone
from bench.hparams import hp
from bench.kinds import KindsConfig, Taught


class SmallGNN(Taught):
    """GNN student of any kind of knowledge."""

    graph_use = "inference"

    @dataclass(frozen=True)
    class Config(KindsConfig):
        """Hyper-parameters: the weights of the kinds, and the backbone."""

        backbone: str = hp("gcn", choices=GNNS)
        hidden_dim: int = hp(16, low=1, high=8192, log=True)

    def __init__(self, config: Any, num_features: int, num_classes: int, num_nodes: int) -> None:
        super().__init__(config, num_features, num_classes, num_nodes)
        self.net = Backbone(config.backbone, config, num_features, num_classes)
