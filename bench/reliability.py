"""Reliable sampling: which neighbours' soft labels a student listens to.

Source: Wu et al., "Quantifying the Knowledge in GNNs for Reliable Distillation into MLPs", arXiv
2306.05628 (ICML 2023). A teacher is reliable on a node where noise on the features
changes the entropy of its output little: d_i = |H(y'_i) - H(y_i)| / max_j |H(y'_j) - H(y_j)|, and
node i's soft label reaches a neighbour with probability p_i = 1 - d_i^alpha.

As in the official code: one noisy pass, noise of standard deviation 1 on all features, the absolute
change of entropy (the paper: an expected square). A bin without nodes counts as never matched.

Differs from the official code: the curve is fitted at the middle of each bin (theirs: left edge +
0.05); the exponent stays as it is where there is nothing to fit (all d zero, or the same share of
matches in each bin) or the fit fails or leaves [0.01, 100].
"""

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from bench.graph import Graph
from bench.sparse import CSR, _offsets, spmm

EXPONENTS = (0.01, 100.0)  # a fit beyond them says that every node, or none, is reliable


def difficulty(
    graph: Graph, predict: Callable[[Graph], Tensor], generator: torch.Generator
) -> Tensor:
    """Return d [N] in [0, 1]: how much a teacher's entropy changes under noise, over the largest.

    `predict` maps a graph to the teacher's logits [N, C]; the noise takes one dense [N, F + P].
    """
    size = graph.num_features + (0 if graph.extra is None else graph.extra.shape[1])
    noise = torch.randn(graph.num_nodes, size, generator=generator).to(graph.adj.device)
    with torch.no_grad():
        before, after = predict(graph), predict(graph.replace(shift=noise))
    return relative(entropy(after) - entropy(before))


def entropy(logits: Tensor) -> Tensor:
    """Entropy of softmax(logits) [N, C], in nats, [N]."""
    log_probs = torch.log_softmax(logits, dim=1)
    return -(log_probs.exp() * log_probs).sum(1)


def relative(change: Tensor) -> Tensor:
    """Return |change| / max |change|; zeros where nothing changes."""
    size = change.abs()
    return size / size.max().clamp(min=torch.finfo(size.dtype).tiny)


def keep_probability(difficulties: Tensor, exponent: float) -> Tensor:
    """Return p = 1 - d^alpha, [N]."""
    return 1.0 - difficulties**exponent


def sample_pairs(adj: CSR, probability: Tensor | None, generator: torch.Generator) -> Tensor:
    """Draw the pairs (student node, teacher node) of an epoch, int64 [2, M], in order of the first.

    Each directed edge i -> j stays with probability p_j (`probability` [N]; all without), and each
    node is its own partner; self-loops in the graph add nothing.
    """
    students, teachers = adj.row_ids, adj.indices.long()
    keep = students != teachers
    if probability is not None:
        draws = torch.rand(adj.nnz, generator=generator).to(adj.device)
        keep &= draws < probability[teachers]
    students, teachers = students[keep], teachers[keep]
    own = torch.arange(adj.shape[0], device=adj.device)
    # Rows are in order: a kept edge moves by the nodes before its own, which follow their edges.
    edges = torch.arange(len(students), device=adj.device)
    places = torch.bincount(students, minlength=len(own)).cumsum(0) + own
    pairs = torch.empty(2, len(students) + len(own), dtype=torch.int64, device=adj.device)
    pairs[:, edges + students] = torch.stack([students, teachers])
    pairs[:, places] = own
    return pairs


def pooled(pairs: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the student nodes of pairs [2, M], and the sums of their teacher nodes' values.

    Shapes: values [N, C] -> nodes int64 [n], in order, and sums [n, C]; no row of M is copied.
    """
    students, order = pairs[0].sort(stable=True)
    nodes, counts = torch.unique_consecutive(students, return_counts=True)
    teachers = pairs[1][order].to(torch.int32)
    ones = torch.ones(len(teachers), device=values.device)
    return nodes, spmm(CSR(_offsets(counts), teachers, ones, (len(nodes), len(values))), values)


def refit(
    exponent: float, difficulties: Tensor, matches: Tensor, *, bins: int, momentum: float
) -> float:
    """Return momentum * exponent + (1 - momentum) * a, with a fitted to the shares of matches.

    `matches` bool [N]: student and teacher agree. The shares of `bins` equal parts of [0, 1] in d,
    scaled to [0, 1], are fitted by 1 - d^a (least squares).
    """
    fitted = _fit(exponent, _shares(difficulties.cpu().numpy(), matches.cpu().numpy(), bins))
    return exponent if fitted is None else momentum * exponent + (1.0 - momentum) * fitted


def _shares(difficulties: np.ndarray, matches: np.ndarray, bins: int) -> np.ndarray | None:
    """Return the scaled share of matches in each bin, or None where all are the same."""
    if not difficulties.any():
        return None
    total, _ = np.histogram(difficulties, bins, (0.0, 1.0))
    matched, _ = np.histogram(difficulties[matches], bins, (0.0, 1.0))
    shares = matched / np.maximum(total, 1)
    spread = np.ptp(shares)
    return (shares - shares.min()) / spread if spread else None


def _fit(exponent: float, shares: np.ndarray | None) -> float | None:
    from scipy.optimize import curve_fit

    if shares is None:
        return None
    middles = (np.arange(len(shares)) + 0.5) / len(shares)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an unknown covariance does not matter here
            (fitted,), _ = curve_fit(lambda d, a: 1.0 - d**a, middles, shares, p0=[exponent])
    except RuntimeError:  # it did not converge
        return None
    low, high = EXPONENTS
    return float(fitted) if low <= fitted <= high else None
