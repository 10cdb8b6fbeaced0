"""Element-wise work of a training step in one compiled pass each, with its gradient.

On a GPU, and for other types than float32, the same functions use torch's own operations.
"""

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from bench import kernels
from bench.sparse import array


def soft_label_divergence(logits: Tensor, teacher_log_probs: Tensor) -> Tensor:
    """Mean over rows of KL(teacher || softmax(logits)): one pass for the loss and its gradient.

    Shapes: both [B, C]; the gradient reaches the logits.
    """
    if logits.device.type != "cpu" or logits.dtype != torch.float32:
        student = torch.log_softmax(logits, dim=1)
        return torch.nn.functional.kl_div(
            student, teacher_log_probs, reduction="batchmean", log_target=True
        )
    return cast(Tensor, _SoftLabels.apply(logits, teacher_log_probs))


class _SoftLabels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, teacher_log_probs: Tensor) -> Tensor:
        grad, losses = torch.empty(logits.shape), torch.empty(logits.shape[0])
        kernels.soft_labels(array(logits), array(teacher_log_probs), losses.numpy(), grad.numpy())
        ctx.save_for_backward(grad)
        return losses.mean()

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, None]:
        (grad,) = ctx.saved_tensors
        return grad * (above / grad.shape[0]), None


def relu_dropout(h: Tensor, probability: float, training: bool) -> Tensor:
    """ReLU, then dropout: one pass over h [n, H], and one more for the gradient.

    On the CPU the mask is drawn by a counter-based generator seeded from torch's own.
    """
    if not training or not probability:
        return h.relu()
    if h.device.type != "cpu" or h.dtype != torch.float32 or h.dim() != 2:
        return torch.dropout(h.relu(), probability, True)
    return cast(Tensor, _ReluDropout.apply(h, probability))


class _ReluDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, probability: float) -> Tensor:
        seed = np.uint32(int(torch.randint(2**32, (1,))))
        keep_below = np.uint32(min(round((1.0 - probability) * 2**32), 2**32 - 1))
        ctx.scale = np.float32(1.0 / (1.0 - probability))
        out = torch.empty_like(h, memory_format=torch.contiguous_format)
        kernels.relu_dropout(array(h), keep_below, ctx.scale, seed, out.numpy())
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (out,) = ctx.saved_tensors
        result = torch.empty_like(out)
        kernels.relu_dropout_grad(out.numpy(), array(grad), ctx.scale, result.numpy())
        return result, None


def warm_up() -> None:
    """Compile (or load) the kernels, so that no measurement or worker pays for it."""
    h = torch.ones(2, 1, requires_grad=True)
    (relu_dropout(h, 0.5, True).sum() + soft_label_divergence(h, torch.zeros(2, 1))).backward()
