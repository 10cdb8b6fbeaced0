"""NORM's feature transform: it widens hidden states to N copies of a teacher's, and merges away.

Source: Liu et al., "NORM: Knowledge Distillation via N-to-One Representation Matching", arXiv
2305.13803 (ICLR 2023); official code: helper/loops.py and the models with a "sponge" module.

With S [n, H] the input of a student's last layer and T [n, H'] the teacher's states (row vectors):

    E = BN1(S A1),  A1 [H, N H'];   R = S + BN2(E A2),  A2 [N H', H];   the last layer reads R

E = [E_1 | ... | E_N] is matched to T, each part to the whole of it (`Segments.loss`). Nothing in it
is non-linear, so with fixed statistics, BN(z) = s z + c, the transform is one affine map,

    R = S M + m,   M = I + A1 diag(s1) A2 diag(s2),   m = (c1 A2) s2 + c2

and a last layer R W + b is S (M W) + (m W + b): what is shipped has the shape of a plain student.
(I is absent without the residual; as in the official code the products have no biases.)

Merging into a graph convolution takes more care, since m is added before the propagation: it comes
out as (A 1) m W, and only where the rows of A sum to one is that the constant m W. They do for
SAGE's aggregator `gcn`, isolated nodes included; for `mean` the row of an isolated node is zero;
those of a GCN sum to whatever the degrees make of them. What cannot be merged exactly is refused.

Differs from the official code: weights are drawn as every `Linear` here (theirs: He; batch norm
takes the scale away); training gets the statistics of batch norm and the loss without writing E
out (the same numbers, see `FeatureTransform`); the merge, which the paper describes, is not in it.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bench.layers import Linear

MOMENTUM = 0.1  # of batch norm's running statistics: torch's
BATCH_NORMS = ("none", "first", "both")
# The official schedule, of 240 epochs: (first share of the epochs to which it does not apply, a).
PHASES = ((10 / 240, 0.1), (20 / 240, 0.5), (180 / 240, 1.0), (210 / 240, 0.5), (1.0, 0.1))

_Map = tuple[Tensor, Tensor]  # weight [in, out] and offset [out]


@dataclass(frozen=True, eq=False)
class Moments:
    """States [n, H] with their mean [H], the rows around it, and their covariance [H, H]."""

    states: Tensor

    @cached_property
    def mean(self) -> Tensor:
        """Of each column."""
        return self.states.mean(0)

    @cached_property
    def centred(self) -> Tensor:
        """The states without their mean."""
        return self.states - self.mean

    @cached_property
    def covariance(self) -> Tensor:
        """Of the columns, over n."""
        return self.centred.T @ self.centred / len(self.states)

    def variance(self, weight: Tensor) -> Tensor:
        """Of the columns of S W, [out], over n."""
        return (weight * (self.covariance @ weight)).sum(0)


@dataclass(frozen=True, eq=False)
class Segments:
    """E [n, N H'] = S W + c of a batch, which nobody needs written out to match it."""

    weight: Tensor
    offset: Tensor
    batch: Moments
    variance: Tensor | None = None  # of E's columns, where batch norm needed it anyway

    def loss(self, target: Tensor) -> Tensor:
        """Return sum_i MSE(E_i, T), all N segments against the same T [n, H'].

        It is N times the mean over all entries of (E - [T | ... | T])^2, as the official code has
        it, here from products of [H, .] matrices.
        With E_i = d_i + Sc W_i and T = t + Tc around their means over the batch, C = Sc' Sc / n:
        |E_i - T|^2 / n = tr(W_i' C W_i) - 2 tr(W_i' Sc' Tc) / n + |Tc|^2 / n + |d_i - t|^2.
        """
        n, size = target.shape
        batch, weight = self.batch, self.weight
        middle = target.mean(0)
        around = target - middle
        level = (batch.mean @ weight + self.offset).view(-1, size)  # d, [N, H']
        total = weight.view(len(weight), -1, size).sum(1)  # sum_i W_i, [H, H']
        own = batch.variance(weight) if self.variance is None else self.variance
        shared = (batch.centred.T @ around * total).sum() / n
        rest = len(level) * around.square().sum() / n + (level - middle).square().sum()
        return (own.sum() - 2 * shared + rest) / size


class FeatureTransform(nn.Module):
    """S [n, H] -> R [n, H], by way of E [n, N H'].

    Since both ends are linear in S, so are the statistics of batch norm: a column of S W has the
    mean (mean of S) w and the variance w' C w, C the covariance of S. A step costs H^2 N H'
    multiplications and one n H^2 for C, instead of two n H N H', and E is never held: with the
    matching 1.7 times as fast at 512 rows of width 128, 3.7 times at 2,485 and 8 times at width 16
    (`tests/benchmarks/speed_norm.py`).

    Args:
        size: H, the width of the student's states.
        target: H', the width of the teacher's.
        segments: N.
        batch_norm: after neither product, the first, or both.
        residual: whether S is added to the second product.
    """

    def __init__(
        self,
        size: int,
        target: int,
        segments: int,
        *,
        batch_norm: str = "both",
        residual: bool = True,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.first = Linear(size, segments * target, bias=False)
        self.second = Linear(segments * target, size, bias=False)
        wide, narrow = batch_norm != "none", batch_norm == "both"
        self.first_norm = nn.BatchNorm1d(segments * target) if wide else None
        self.second_norm = nn.BatchNorm1d(size) if narrow else None

    def forward(self, states: Tensor) -> tuple[Tensor, Segments]:
        """Return R [n, H] and E of states S [n, H]; in training mode, move running statistics."""
        batch = Moments(states)
        wide, variance, narrow = self._maps(batch if self.training else None)
        moved = torch.addmm(narrow[1], states, narrow[0])
        return (states + moved if self.residual else moved), Segments(*wide, batch, variance)

    @torch.no_grad()
    def affine(self) -> tuple[Tensor, Tensor]:
        """Return M [H, H] and m [H], float64, with R = S M + m for every S.

        Raises:
            ValueError: in training mode, where batch norm depends on the batch.
        """
        if self.training:
            raise ValueError(
                "a feature transform in training mode cannot be merged: batch norm uses the "
                "statistics of each batch; call eval() first"
            )
        *_, (matrix, offset) = self._maps(None, torch.float64)
        if self.residual:
            matrix = matrix + torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
        return matrix, offset

    def _maps(
        self, batch: Moments | None, dtype: torch.dtype | None = None
    ) -> tuple[_Map, Tensor | None, _Map]:
        """Return S -> E, the variances of E in the batch, and S -> R - S, with batch norm."""
        dtype = dtype or self.first.weight.dtype
        a1, a2 = self.first.weight.to(dtype), self.second.weight.to(dtype)
        wide, variance = _normalised((a1, a1.new_zeros(a1.shape[1])), self.first_norm, batch)
        narrow, _ = _normalised((wide[0] @ a2, wide[1] @ a2), self.second_norm, batch)
        return wide, variance, narrow


def _normalised(
    given: _Map, norm: nn.BatchNorm1d | None, batch: Moments | None
) -> tuple[_Map, Tensor | None]:
    """Return a map with batch norm behind it, and the variances of its columns in the batch.

    Without a batch it is the batch norm of the running statistics.
    """
    if norm is None:
        return given, None
    weight, offset = given
    running_mean, running_variance = norm.running_mean, norm.running_var
    assert running_mean is not None
    assert running_variance is not None
    if batch is None:
        mean, variance = running_mean.to(weight.dtype), running_variance.to(weight.dtype)
    else:
        n = len(batch.states)
        if n == 1:
            raise ValueError(
                "the feature transform's batch norm averages over the nodes of a batch, and one "
                "batch has a single node; give a larger batch_size (0: full batch), or "
                "batch_norm: none"
            )
        # Where nothing varies rounding may leave less than zero, whose root is no number.
        mean, variance = batch.mean @ weight + offset, batch.variance(weight).clamp(min=0)
        with torch.no_grad():
            running_mean.lerp_(mean, MOMENTUM)
            running_variance.lerp_(variance * (n / (n - 1)), MOMENTUM)  # unbiased, as torch
    scale = norm.weight.to(weight.dtype) * (variance + norm.eps).rsqrt()
    scaled = weight * scale, (offset - mean) * scale + norm.bias.to(weight.dtype)
    return scaled, None if batch is None else variance * scale.square()


class Transformed(nn.Module):
    """A last layer, linear or convolution, that reads its input through a feature transform."""

    def __init__(self, transform: FeatureTransform, layer: nn.Module) -> None:
        super().__init__()
        self.transform, self.layer = transform, layer
        self._segments: Segments | None = None

    def forward(self, *inputs: Any) -> Tensor:
        """Compute the layer; its states come last, after the block of a convolution."""
        *block, states = inputs
        moved, segments = self.transform(states)
        if self.training:
            self._segments = segments
        out: Tensor = self.layer(*block, moved)
        return out

    def take(self) -> Segments | None:
        """Return E of the last forward in training mode, once."""
        given, self._segments = self._segments, None
        return given


# ---- the loss -------------------------------------------------------------------------------


def matching_share(epoch: int, max_epochs: int) -> float:
    """Return a(t), the share of the matching weight: low at both ends of the training.

    Of 240 epochs: 0.1 before the 10th, 0.5 before the 20th, 1 before the 180th, 0.5 before the
    210th, then 0.1; other lengths by proportion.
    """
    return next(share for end, share in PHASES if epoch < end * max_epochs)


def standardise(states: Tensor) -> Tensor:
    """Give every column of [n, H'] mean 0 and standard deviation 1; a constant column becomes 0."""
    centred = states - states.mean(0)
    scale = centred.square().mean(0).sqrt()
    return centred / torch.where(scale > 1e-6, scale, torch.ones_like(scale))


def normalise_logits(logits: Tensor) -> Tensor:
    """Return 2.5 times the logits [n, C], each row with mean 0 and standard deviation 1.

    The official code does so to both logits before its losses; classes keep their order.
    """
    return F.layer_norm(logits, logits.shape[1:]) * 2.5
