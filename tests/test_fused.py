import pytest
import torch

from bench.fused import relu_dropout, soft_label_divergence


def normal(*shape: int, dtype=torch.float32, seed: int = 1) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    return values.to(dtype).requires_grad_()


# ---- soft labels ----------------------------------------------------------------------------


def divergence_by_formula(logits: torch.Tensor, log_probs: torch.Tensor) -> torch.Tensor:
    return (log_probs.exp() * (log_probs - logits.log_softmax(1))).sum(1).mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["compiled", "torch"])
@pytest.mark.parametrize("shape", [(1, 2), (7, 3), (20, 47), (3, 1)])
def test_the_divergence_and_its_gradient_are_the_formula(shape, dtype):
    logits = normal(*shape, dtype=dtype)
    target = normal(*shape, dtype=dtype, seed=3).detach().log_softmax(1)
    ours, theirs = soft_label_divergence(logits, target), divergence_by_formula(logits, target)
    torch.testing.assert_close(ours, theirs)
    for one, two in zip(
        torch.autograd.grad(3 * ours, logits), torch.autograd.grad(3 * theirs, logits), strict=True
    ):
        torch.testing.assert_close(one, two)


def test_the_divergence_does_not_overflow_and_a_class_without_weight_adds_nothing():
    logits = torch.tensor([[1000.0, -1000.0, 0.0]], requires_grad=True)
    target = torch.tensor([[0.0, -torch.inf, -torch.inf]])
    loss = soft_label_divergence(logits, target)
    assert loss.item() == 0
    assert torch.autograd.grad(loss, logits)[0].tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_the_divergence_does_not_hide_a_nan(who):
    logits, target = torch.zeros(4, 3), torch.zeros(4, 3).log_softmax(1)
    (logits if who == "student" else target)[2] = torch.nan
    assert soft_label_divergence(logits, target).isnan()


# ---- relu_dropout ---------------------------------------------------------------------------


def test_without_dropout_it_is_relu():
    h = normal(5, 4)
    assert torch.equal(relu_dropout(h, 0.5, training=False), h.relu())
    assert torch.equal(relu_dropout(h, 0.0, training=True), h.relu())


def test_kept_positives_are_scaled_and_all_else_is_zero():
    h = torch.randn(400, 50, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(3)
    out = relu_dropout(h, 0.2, training=True)
    kept = out > 0
    torch.testing.assert_close(out[kept], h[kept] / 0.8)
    assert not out[~kept].any()
    assert not kept[h <= 0].any()
    positive = h > 0
    share = kept[positive].double().mean().item()
    assert share == pytest.approx(0.8, abs=4 * (0.16 / positive.sum().item()) ** 0.5)


def test_the_gradient_is_the_mask_times_the_scale():
    h = normal(60, 20)
    torch.manual_seed(3)
    out = relu_dropout(h, 0.75, training=True)
    weights = normal(60, 20, seed=2).detach()
    (grad,) = torch.autograd.grad((out * weights).sum(), h)
    torch.testing.assert_close(grad, (out > 0) * 4.0 * weights)


def test_the_mask_is_a_function_of_torchs_seed():
    h = torch.ones(50, 20)
    masks = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        masks.append(relu_dropout(h, 0.5, training=True))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    assert not torch.equal(masks[2], relu_dropout(h, 0.5, training=True))  # the next call


@pytest.mark.parametrize("probability", [0.0, 0.3])
def test_a_nan_is_not_hidden(probability):
    h = torch.full((100, 3), torch.nan)
    assert relu_dropout(h, probability, training=True).isnan().any()


@pytest.mark.parametrize("h", [torch.ones(1000), torch.ones(50, 20).double()])
def test_other_shapes_and_types_are_dropped_by_torch(h):
    out = relu_dropout(h, 0.5, training=True)
    assert out.dtype == h.dtype
    assert set(out.flatten().tolist()) == {0.0, 2.0}
