"""LinkDist: an MLP that learns from its edges alone; no teacher, and no edge at inference.

Source: Luo et al., "Distilling Self-Knowledge From Contrastive Links to Classify Graph Nodes
Without Passing Messages", arXiv 2106.08541, and its official code. Two heads share an MLP: y for a
node's own class, z for that of its neighbour. For each edge (s, d)

    a [MSE(y_s, z_d) + MSE(y_d, z_s)]
    + CE(y_s, Y_s) + CE(z_d, Y_s) where s has a label, + CE(y_d, Y_d) + CE(z_s, Y_d) where d has one

each CE a mean of its own, with a the share of the ends of edges without a label, MSE on logits, and
classes weighed by (labelled nodes) / (labelled ends of edges). `negatives` adds what CoLinkDist
learns from a random node r, with p = softmax y and q = softmax z:

    - a/2 [MSE(p_s, q_r) + MSE(p_d, q_r) + MSE(p_r, q_s) + MSE(p_r, q_d)]
    - b1 CE(z_r, Y_s) where s has a label, - b1 CE(z_r, Y_d) where d has one,
    + 2 CE(y_r, Y_r) - b2 [CE(z_s, Y_r) + CE(z_d, Y_r)] where r has one, of equal classes

with b1 the share of nodes and b2 that of ends of edges that have a label, both scaled down where
their sum exceeds 0.1. What is shipped is y alone (LinkDistMLP). A train node without an edge has no
part in the loss.

Differs from the official code: ReLU is not leaky; an epoch leaves out the edges that fill no batch;
statistics of batch norm are those of both ends together; with few labels its b1 and b2 are the
shares themselves; class weights have mean 1 over the classes with a labelled end; a, b1, b2 and the
class weights are those of the observed graph (its inductive setting cuts the edges of val nodes,
too); the head z and the labels of neighbours play no part at inference (LinkDist adds a A log q to
log p).
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
        y, z = self.heads(task, ends)
        across = torch.cat([z[count:], z[:count]])  # of each end's neighbour
        labels = task.graph.y[ends]
        # The mean over both directions, twice.
        total = known.free * 2 * F.mse_loss(y, across)
        total = total + links.label_terms((y, across), labels, known.class_weights)
        return total + self.contrast(task, step, y, z, labels) if config.negatives else total

    def contrast(self, task: Task, step: Step, y: Tensor, z: Tensor, labels: Tensor) -> Tensor:
        """Return CoLinkDist's terms: y and z [2 B, C] of sources, then targets, and their labels.

        One random node is set against the source and the target of an edge.
        """
        _, known = self.links(task)
        of_ends = 1.0 - known.free
        scale = min(1.0, 0.1 / (known.labelled + of_ends))
        nodes = torch.randint(task.num_nodes, (len(y) // 2,), generator=step.generator)
        nodes = nodes.to(labels.device)
        own, other = (logits.repeat(2, 1) for logits in self.heads(task, nodes))
        drawn = task.graph.y[nodes]
        total = -known.free * (links.apart(y, other) + links.apart(own, z))  # means over 2 B
        total = total - scale * known.labelled * links.label_terms(
            (other,), labels, known.class_weights
        )
        same = torch.ones_like(known.class_weights)
        total = total + links.label_terms((own,), drawn.repeat(2), same)  # twice the mean
        return total - scale * of_ends * links.label_terms((z,), drawn.repeat(2), same)

    def heads(self, task: Task, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and z of nodes, [n, C] each."""
        hidden = self.mlp.hidden(self.mlp.first(task.graph, nodes))
        return self.mlp.own(hidden), self.mlp.neighbour(hidden)
