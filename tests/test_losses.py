import math

import pytest
import torch

from bench.graph import TeacherOutput
from bench.losses import hard_label_loss, pooled_soft_label_loss, soft_label_loss

LN3 = math.log(3.0)
# KL((3/4, 1/4) || (1/2, 1/2)) = 3/4 ln(3/2) + 1/4 ln(1/2)
KL = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)


def teacher(*rows: list[float]) -> TeacherOutput:
    return TeacherOutput(torch.tensor(rows))


def test_cross_entropy_by_hand():
    logits = torch.tensor([[LN3, 0.0], [LN3, 0.0]])  # probabilities 3/4 and 1/4
    loss = hard_label_loss(logits, torch.tensor([0, 1]))
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2, abs=1e-6)


def test_kl_at_temperature_1_by_hand():
    loss = soft_label_loss(torch.zeros(1, 2), teacher([LN3, 0.0]).log_probs())
    assert loss.item() == pytest.approx(KL, abs=1e-6)
    assert pytest.approx(0.130812, abs=1e-6) == KL


def test_kl_at_temperature_2_by_hand_is_multiplied_by_4():
    loss = soft_label_loss(torch.zeros(1, 2), teacher([2 * LN3, 0.0]).log_probs(2.0), 2.0)
    assert loss.item() == pytest.approx(4 * KL, abs=1e-6)


def test_kl_is_from_the_teacher_to_the_student():
    uniform = teacher([0.0, 0.0]).log_probs()
    loss = soft_label_loss(torch.tensor([[LN3, 0.0]]), uniform)
    expected = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert abs(expected - KL) > 0.01


def test_kl_is_a_mean_over_the_nodes_not_over_the_classes():
    log_probs = teacher([LN3, 0.0], [0.0, 0.0]).log_probs()
    assert soft_label_loss(torch.zeros(2, 2), log_probs).item() == pytest.approx(KL / 2, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_loss_of_pooled_pairs_is_the_mean_over_the_pairs(temperature):
    draw = torch.Generator().manual_seed(0)
    logits, target = (3 * torch.randn(20, 5, generator=draw) for _ in range(2))
    logits.requires_grad_()
    pairs = torch.randint(20, (2, 200), generator=draw)
    log_probs = TeacherOutput(target).log_probs(temperature)
    rows = log_probs[pairs[1]]
    expected = soft_label_loss(logits.index_select(0, pairs[0]), rows, temperature)
    sums = torch.zeros(20, 5).index_add(0, pairs[0], rows.exp())
    found = pooled_soft_label_loss(logits, sums, -(rows.exp() * rows).sum(), 200, temperature)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    ours, theirs = (torch.autograd.grad(loss, logits)[0] for loss in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_an_equal_student_has_no_loss_and_no_gradient(temperature):
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    log_probs = TeacherOutput(logits.detach() + 5).log_probs(temperature)  # shifts do not matter
    loss = soft_label_loss(logits, log_probs, temperature)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert torch.autograd.grad(loss, logits)[0].abs().max() < 1e-6


def test_the_square_keeps_the_gradients_size_at_high_temperatures():
    ours = torch.tensor([[1.0, -1.0, 0.5]], requires_grad=True)
    target = teacher([-2.0, 2.0, 0.0])
    sizes = [
        torch.autograd.grad(soft_label_loss(ours, target.log_probs(t), t), ours)[0].norm().item()
        for t in (50.0, 100.0)
    ]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)
