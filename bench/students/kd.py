"""KD: an MLP taught by any mixture of soft labels, hidden states, local structure and relations.

Source: one MLP student (GLNN, arXiv 2110.08727) under the losses that the survey of Liu et al.,
arXiv 2302.14643, sorts into kinds of knowledge: soft labels (Hinton et al., arXiv 1503.02531),
FitNet (arXiv 1412.6550), attention transfer (arXiv 1612.03928), LSP (arXiv 2003.10477), RKD (arXiv
1904.05068), Gram matrices (arXiv 1907.09682) and G-CRD (arXiv 2111.04964). The weights of the
presets are those of the official code of G-CRD for GNN students. Loss and schedule: kinds.py.

Edges are read while fitting, by LSP alone; what is shipped is a plain MLP.

Differs from the official code of G-CRD, whose weights the presets have: the terms on hidden states
look at all observed nodes (there: train nodes); hidden states of an MLP and of SAGE are those
before norm and ReLU, of GCN and GAT those after ReLU (there: all after ReLU); LSP's divergence is a
mean over nodes (there: over edges, so that a weight of 100 here is about 408 of theirs on Cora,
which has 10,138 directed edges and 2,485 nodes), leaves self-loops out, and its kernel `l2` is
minus the distance (there: plus); Gram matrices are those of the hidden states themselves (there: of
trained projections); soft labels come with T^2 and a mean over nodes, weight 1 and T = 1 (there:
over nodes and classes too, beside CE, 0.9 and 0.1 with T = 4, so that a weight beside them is
another share); G-CRD has Linear projections, not graph convolutions; relations are those of
`sample_nodes` nodes, 512 (there: up to 4,096, in G-CRD 16,384), angles of `angle_nodes`, 64. The
kernel of absolute differences of LSP's own code, exp(-|.|_1 / 100), is not among the kernels.
"""

from dataclasses import dataclass
from typing import Any

from bench.backbone import Backbone
from bench.kinds import KindsConfig, Taught


class KD(Taught):
    """MLP student of any kind of knowledge."""

    graph_use = "fit"

    @dataclass(frozen=True)
    class Config(KindsConfig):
        """Hyper-parameters: the weights of the kinds."""

    def __init__(self, config: Any, num_features: int, num_classes: int, num_nodes: int) -> None:
        super().__init__(config, num_features, num_classes, num_nodes)
        self.net = Backbone("mlp", config, num_features, num_classes)
