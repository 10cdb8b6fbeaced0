"""LinkDist: an MLP that learns from its edges alone; no teacher, and no edge at inference.

Source: Luo et al., "Distilling Self-Knowledge From Contrastive Links to Classify Graph Nodes
Without Passing Messages", arXiv 2106.08541, and its official code. Two heads share an MLP: y for a
node's own class, z for that of its neighbour. For each edge (s, d)

    a [MSE(y_s, z_d) + MSE(y_d, z_s)]
    + CE(y_s, Y_s) + CE(z_d, Y_s) where s has a label, + CE(y_d, Y_d) + CE(z_s, Y_d) where d has one

with a the share of the ends of edges without a label, MSE on logits, and classes weighed by
(labelled nodes) / (labelled ends of edges). `negatives` adds what CoLinkDist learns from random
nodes r and q: - a/2 [MSE(softmax y_s, softmax z_r) + MSE(softmax y_d, softmax z_q)].

What is shipped is y alone (LinkDistMLP). A train node without an edge has no part in the loss. An
edge that stands for both directions comes at most once an epoch (`bench/links.py`).

Differs from the official code: the label terms are one mean over the labelled ends of both sides
for each head (theirs: one for each side and head, about twice the weight); an edge comes in one
direction (theirs: in both); its layers (batch norm, layer norm, leaky ReLU and dropout 0.5 before
each but the first) are those of every MLP here (`norm`, `dropout`); CoLinkDist's term - beta
CE(z_r, Y_s) is left out (it has no lower bound), and its random nodes differ for s and d; class
weights have mean 1; a and the class weights are those of the whole graph; the epoch is chosen by
val accuracy (200 at most; theirs runs 200 / average degree epochs); the head z and the labels of
neighbours play no part at inference (LinkDist adds a A log p_z to log p_y).
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from bench import links
from bench.graph import Task
from bench.hparams import hp
from bench.method import Batch, Step


class LinkDist(links.LinkStudent):
    """MLP student of its own edges."""

    @dataclass(frozen=True)
    class Config(links.LinkConfig):
        """Hyper-parameters of LinkDist."""

        negatives: bool = hp(False, choices=(False, True))  # CoLinkDist

    def loss(self, task: Task, batch: Batch, step: Step) -> Tensor | None:
        """Return the loss of a batch of edges."""
        config: Any = self.config
        assert batch.pairs is not None
        _, known = self.links(task)
        count, ends = batch.nodes.numel(), batch.pairs.flatten()
        y, z = self.mlp.rest(self.mlp.first(task.graph, ends))
        across = torch.cat([z[count:], z[:count]])  # of each end's neighbour
        labels = task.graph.y[ends]
        total = known.free * 2 * F.mse_loss(y, across)  # the mean over both directions, twice
        if config.negatives:
            nodes = torch.randint(task.num_nodes, (2 * count,), generator=step.generator)
            _, others = self.mlp.rest(self.mlp.first(task.graph, nodes.to(ends.device)))
            total = total - 0.5 * known.free * 2 * links.apart(y, others)
        for logits in (y, across):
            value = links.label_loss(logits, labels, known.class_weights)
            total = total if value is None else total + value
        return total
