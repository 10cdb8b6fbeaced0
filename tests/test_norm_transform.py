import copy

import pytest
import torch
from torch import nn

from bench.norm_transform import (
    BATCH_NORMS,
    FeatureTransform,
    Moments,
    Segments,
    Transformed,
    matching_share,
    normalise_logits,
    standardise,
)
from tests.toys import segment_loss

N, SIZE, TARGET, ROWS = 3, 6, 5, 20


def drawn(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def make(**options) -> FeatureTransform:
    torch.manual_seed(0)
    return FeatureTransform(SIZE, TARGET, N, **options).double()


class Written(nn.Module):
    """The same transform, one layer after the other: E written out, torch's own batch norm."""

    def __init__(self, of: FeatureTransform) -> None:
        super().__init__()
        twin = copy.deepcopy(of)
        self.first, self.second, self.residual = twin.first, twin.second, twin.residual
        self.first_norm = twin.first_norm or nn.Identity()
        self.second_norm = twin.second_norm or nn.Identity()

    def forward(self, states):
        segments = self.first_norm(self.first(states))
        moved = self.second_norm(self.second(segments))
        return (states + moved if self.residual else moved), segments


# ---- the short way is the long one ----------------------------------------------------------


@pytest.mark.parametrize("batch_norm", BATCH_NORMS)
@pytest.mark.parametrize("residual", [False, True])
def test_outputs_loss_gradients_and_statistics_are_those_of_the_layers_in_turn(
    batch_norm, residual
):
    short = make(batch_norm=batch_norm, residual=residual)
    long = Written(short)
    goal, target = drawn(ROWS, SIZE, seed=3), drawn(ROWS, TARGET, seed=4) + 2
    for turn in range(2):  # the running statistics move twice
        states = (drawn(ROWS, SIZE, seed=7 + turn) + 1).requires_grad_()
        found, segments = short(states)
        expected, wide = long(states)
        torch.testing.assert_close(found, expected)
        own = (found * goal).sum() + segments.loss(target)
        theirs = (expected * goal).sum() + segment_loss(wide, target)
        torch.testing.assert_close(own, theirs)
        gradients = (
            torch.autograd.grad(loss, [states, *model.parameters()], allow_unused=True)
            for loss, model in ((own, short), (theirs, long))
        )
        names = ["states", *dict(short.named_parameters())]
        other = ["states", *dict(long.named_parameters())]
        ours, wanted = (
            dict(zip(n, g, strict=True)) for n, g in zip((names, other), gradients, strict=True)
        )
        for name in names:
            torch.testing.assert_close(ours[name], wanted[name], atol=1e-9, rtol=1e-7)
    for model in (short, long):
        model.eval()
    states = drawn(ROWS, SIZE, seed=9)
    torch.testing.assert_close(short(states)[0], long(states)[0])


def test_no_tensor_as_wide_as_the_segments_is_held_for_the_rows():
    transform = make()
    states = drawn(1000, SIZE).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: seen.append(x.shape) or x, lambda x: x):
        seen: list[torch.Size] = []
        moved, segments = transform(states)
        moved.sum() + segments.loss(drawn(1000, TARGET))
    assert seen
    assert (1000, N * TARGET) not in seen


def test_columns_that_do_not_vary_stay_finite_whatever_the_scale():
    torch.manual_seed(0)
    transform, way = FeatureTransform(16, 64, 4), torch.randn(16)
    with torch.no_grad():  # S varies in one direction, and E in none: rounding decides the sign
        weight = transform.first.weight
        weight -= torch.outer(way, way @ weight) / (way @ way)
    states = 1e3 * torch.randn(50, 1) * way
    moved, segments = transform(states)
    assert moved.isfinite().all()
    assert segments.loss(torch.randn(50, 64)).isfinite()


# ---- the loss -------------------------------------------------------------------------------


def segments_of(segments: torch.Tensor) -> Segments:
    """These E [n, N H'], as a product of states of their own."""
    return Segments(torch.eye(len(segments.T)).to(segments), 0 * segments[0], Moments(segments))


def test_the_loss_is_the_sum_of_each_segments_mean_squared_error():
    segments, target = drawn(ROWS, N * TARGET), drawn(ROWS, TARGET, seed=2)
    apart = sum(nn.functional.mse_loss(part, target) for part in segments.split(TARGET, 1))
    official = N * (segments - torch.cat([target] * N, 1)).square().mean()
    for found in (segments_of(segments).loss(target), segment_loss(segments, target)):
        torch.testing.assert_close(found, apart)
        torch.testing.assert_close(found, official)


def test_the_loss_by_hand():
    segments = torch.tensor([[1.0, 2.0, 3.0, 4.0]])  # two segments, (1, 2) and (3, 4)
    found = segments_of(segments).loss(torch.tensor([[1.0, 1.0]]))
    assert found.item() == pytest.approx((0 + 1) / 2 + (4 + 9) / 2)


def test_matching_reaches_the_first_product_alone_and_the_task_reaches_both():
    transform = make()
    weights = [transform.first.weight, transform.second.weight]
    moved, segments = transform(drawn(ROWS, SIZE))
    first, second = torch.autograd.grad(
        segments.loss(drawn(ROWS, TARGET)), weights, retain_graph=True, allow_unused=True
    )
    assert first.abs().max() > 0
    assert second is None
    first, second = torch.autograd.grad((moved * drawn(ROWS, SIZE, seed=5)).sum(), weights)
    assert first.abs().max() > 0
    assert second.abs().max() > 0


def test_one_segment_without_residual_is_matching_through_a_linear_projection():
    torch.manual_seed(0)
    transform = FeatureTransform(SIZE, TARGET, 1, batch_norm="none", residual=False).double()
    states, target = drawn(ROWS, SIZE), drawn(ROWS, TARGET, seed=2)
    moved, segments = transform(states)
    projected = states @ transform.first.weight
    torch.testing.assert_close(segments.loss(target), nn.functional.mse_loss(projected, target))
    torch.testing.assert_close(moved, projected @ transform.second.weight)


def test_parameters_are_two_products_and_their_batch_norms():
    def count(**options):
        return sum(p.numel() for p in make(**options).parameters())

    assert count(batch_norm="none") == 2 * N * TARGET * SIZE
    assert count(batch_norm="first") == 2 * N * TARGET * SIZE + 2 * N * TARGET
    assert count() == 2 * N * TARGET * SIZE + 2 * N * TARGET + 2 * SIZE


def test_the_share_of_240_epochs_is_the_official_one_and_scales():
    shares = [matching_share(epoch, 240) for epoch in range(240)]
    assert shares == [0.1] * 10 + [0.5] * 10 + [1.0] * 160 + [0.5] * 30 + [0.1] * 30
    assert [matching_share(epoch, 24) for epoch in (0, 1, 2, 17, 18, 20, 21, 23)] == [
        *(0.1, 0.5, 1.0, 1.0, 0.5, 0.5, 0.1, 0.1)
    ]
    assert matching_share(0, 1) == 0.1


def test_standardised_states_have_mean_zero_and_deviation_one_but_where_nothing_varies():
    states = torch.tensor([[1.0, 5.0, 0.0], [3.0, 5.0, 0.0], [5.0, 5.0, 0.0]])
    found = standardise(states)
    r = 1.5**0.5
    torch.testing.assert_close(found, torch.tensor([[-r, 0, 0], [0.0, 0, 0], [r, 0, 0]]))


def test_normalised_logits_keep_the_order_and_have_the_official_scale():
    found = normalise_logits(torch.tensor([[0.0, 4.0], [-1.0, -3.0]]))
    torch.testing.assert_close(found, torch.tensor([[-2.5, 2.5], [2.5, -2.5]]), atol=1e-4, rtol=0)


# ---- the last layer behind it ---------------------------------------------------------------


def test_what_was_matched_last_is_handed_out_once_and_only_in_training():
    layer = Transformed(make(), nn.Linear(SIZE, 2).double())
    layer(drawn(ROWS, SIZE))
    segments = layer.take()
    assert segments is not None
    assert segments.weight.shape == (SIZE, N * TARGET)
    assert layer.take() is None
    layer.eval()(drawn(ROWS, SIZE))
    assert layer.take() is None
