"""Losses of distillation. Logits are [B, C]; every loss is a mean over the batch."""

import torch.nn.functional as F  # noqa: N812  (its name everywhere)
from torch import Tensor

from bench.fused import soft_label_divergence


def hard_label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with the labels int64 [B]."""
    return F.cross_entropy(logits, labels)


def soft_label_loss(logits: Tensor, teacher_log_probs: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) at a temperature, times its square.

    `teacher_log_probs` [B, C] are log_softmax(teacher logits / T): `TeacherOutput.log_probs(T)`.

    T^2 * mean_b sum_c p_bc (log p_bc - log s_bc), where p = softmax(teacher / T) and
    s = softmax(student / T).

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv 1503.02531,
    section 2: the square keeps the gradient's size as T changes. GLNN (arXiv 2110.08727) uses
    T = 1.
    """
    scaled = logits if temperature == 1.0 else logits / temperature
    divergence = soft_label_divergence(scaled, teacher_log_probs)
    return divergence if temperature == 1.0 else divergence * temperature**2


def pooled_soft_label_loss(
    logits: Tensor, sums: Tensor, entropy: Tensor, count: int, temperature: float = 1.0
) -> Tensor:
    """`soft_label_loss` as a mean over pairs of a student's and a teacher's node.

    With p_j the teacher's probabilities of node j and s_i the student's of node i, over the pairs
    of i, sum_j KL(p_j || s_i) = -sum_c (sum_j p_jc) log s_ic - sum_j H(p_j).

    Args:
        logits: of the student's nodes, [n, C].
        sums: of the probabilities that each of them is paired with, [n, C].
        entropy: the sum of H(p_j) over all pairs.
        count: the number of pairs.
        temperature: of both sides; the loss comes with its square.
    """
    crossed = F.cross_entropy(logits / temperature, sums, reduction="sum")
    return (crossed - entropy) / count * temperature**2
