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
