import math

import numpy as np
import pytest
import torch

from bench import reliability
from tests import toys


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- how reliable a teacher is --------------------------------------------------------------


def test_entropy_is_that_of_the_distribution_in_nats():
    logits = torch.tensor([[3.0, 3.0, 3.0], [50.0, 0.0, 0.0], [0.0, math.log(3.0), -50.0]])
    third = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    torch.testing.assert_close(
        reliability.entropy(logits), torch.tensor([math.log(3.0), 0.0, third])
    )


def test_a_change_is_relative_to_the_largest():
    change = torch.tensor([0.2, -0.4, 0.0])
    torch.testing.assert_close(reliability.relative(change), torch.tensor([0.5, 1.0, 0.0]))
    assert not reliability.relative(torch.zeros(3)).any()


def test_the_noise_reaches_the_teacher_as_a_shift_of_all_its_inputs():
    graph = toys.random_graph()
    seen = []

    def predict(given):
        seen.append(given)
        shift = 0 if given.shift is None else given.shift
        return (given.x.to_dense() + shift)[:, :3]

    found = reliability.difficulty(graph, predict, generator())
    assert seen[0] is graph
    assert seen[1].x is graph.x  # it stays sparse
    noise = seen[1].shift
    assert noise.shape == (30, 12)
    assert 0.9 < noise.std() < 1.1
    before, after = (reliability.entropy(predict(g)) for g in seen[:2])
    torch.testing.assert_close(found, (after - before).abs() / (after - before).abs().max())
    assert found.max() == 1.0
    assert torch.equal(found, reliability.difficulty(graph, predict, generator()))
    assert not torch.equal(found, reliability.difficulty(graph, predict, generator(1)))


def test_a_teacher_that_does_not_change_is_reliable_everywhere():
    found = reliability.difficulty(toys.random_graph(), lambda g: torch.ones(30, 3), generator())
    assert not found.any()
    assert (reliability.keep_probability(found, 0.3) == 1.0).all()


def test_the_probability_falls_with_the_difficulty():
    d = torch.tensor([0.0, 0.5, 1.0])
    found = reliability.keep_probability(d, 2.0)
    torch.testing.assert_close(found, torch.tensor([1.0, 0.75, 0.0]))
    torch.testing.assert_close(reliability.keep_probability(d, 1.0), torch.tensor([1.0, 0.5, 0.0]))


# ---- pairs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("loops", [True, False])
def test_without_probabilities_every_edge_is_a_pair_and_every_node_its_own(loops):
    pairs = reliability.sample_pairs(toys.path(3, loops=loops), None, generator())
    assert sorted(map(tuple, pairs.T.tolist())) == [
        *((0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (2, 2))
    ]
    assert pairs[0].tolist() == sorted(pairs[0].tolist())


@pytest.mark.parametrize("share", [None, 0.0, 0.4])
def test_pairs_are_in_order_of_the_student_node_and_its_own_is_the_last(share):
    adj = toys.random_graph(loops=True).adj
    probability = None if share is None else torch.full((30,), share)
    pairs = reliability.sample_pairs(adj, probability, generator())
    draws = torch.rand(adj.nnz, generator=generator()) if share is not None else -torch.ones(1)
    kept = (draws < (share or 0.0)) & (adj.row_ids != adj.indices)
    expected = []
    for node in range(30):
        others = adj.indices[kept & (adj.row_ids == node)].tolist()
        expected += [(node, other) for other in [*others, node]]
    assert list(map(tuple, pairs.T.tolist())) == expected


def test_pooled_values_are_sums_over_the_pairs_of_a_node():
    values = torch.randn(9, 4, generator=generator())
    pairs = torch.tensor([[7, 2, 7, 2, 7], [1, 0, 1, 8, 7]])  # in no order, one twice
    nodes, sums = reliability.pooled(pairs, values)
    assert nodes.tolist() == [2, 7]
    expected = torch.stack([values[0] + values[8], 2 * values[1] + values[7]])
    torch.testing.assert_close(sums, expected)


def test_the_probability_is_that_of_the_teacher_node():
    probability = torch.tensor([1.0, 0.0, 1.0])  # node 1's soft label reaches nobody else
    pairs = reliability.sample_pairs(toys.path(3, loops=True), probability, generator())
    assert sorted(map(tuple, pairs.T.tolist())) == [(0, 0), (1, 0), (1, 1), (1, 2), (2, 2)]


def test_edges_are_drawn_one_by_one_with_their_probability():
    star = toys.adjacency(2001, [(0, i) for i in range(1, 2001)])
    probability = torch.full((2001,), 0.3)
    pairs = reliability.sample_pairs(star, probability, generator())
    others = pairs[:, pairs[0] != pairs[1]]
    into, out = (others[0] == 0).sum().item(), (others[1] == 0).sum().item()
    deviation = math.sqrt(2000 * 0.3 * 0.7)
    assert abs(into - 600) < 4 * deviation
    assert abs(out - 600) < 4 * deviation
    assert len(set(others[1][others[0] == 0].tolist()) & set(others[0][others[1] == 0].tolist()))
    assert torch.equal(pairs, reliability.sample_pairs(star, probability, generator()))


# ---- the exponent ---------------------------------------------------------------------------


def refit(exponent: float, difficulties, matches, bins: int, momentum: float = 0.0) -> float:
    return reliability.refit(
        exponent, torch.tensor(difficulties), torch.tensor(matches), bins=bins, momentum=momentum
    )


def test_the_exponent_is_the_least_squares_fit_of_the_shares():
    # Two bins: 3 of 4 match in the first, 1 of 2 in the second, scaled to 1 and 0.
    difficulties = [0.1, 0.1, 0.2, 0.4, 0.6, 1.0]
    matches = [True, True, True, False, True, False]
    grid = np.linspace(0.05, 20, 200_000)
    best = grid[np.argmin((0.25**grid) ** 2 + (1 - 0.75**grid) ** 2)]
    assert refit(1.0, difficulties, matches, 2) == pytest.approx(best, abs=1e-3)
    moved = refit(1.0, difficulties, matches, 2, momentum=0.9)
    assert moved == pytest.approx(0.9 + 0.1 * best, abs=1e-3)


def test_an_exponent_that_made_the_shares_is_found_again():
    rng = np.random.default_rng(0)
    difficulties = rng.random(200_000).astype(np.float32)
    for truth in (0.5, 2.0):
        matches = rng.random(200_000) < 1 - difficulties**truth
        found = refit(1.0, difficulties, matches, 50)
        assert found == pytest.approx(truth, rel=0.2)  # scaling the shares bends them


@pytest.mark.parametrize(
    ("difficulties", "matches"),
    [
        ([0.0, 0.0, 0.0], [True, False, True]),  # the noise changed nothing
        ([0.1, 0.9], [False, False]),  # nowhere a match
    ],
)
def test_where_there_is_nothing_to_fit_the_exponent_stays(difficulties, matches):
    assert refit(1.7, difficulties, matches, 2) == 1.7


def test_matches_in_every_bin_alike_leave_the_exponent():
    assert refit(1.7, [0.1, 0.1, 0.9, 0.9], [True, False, False, True], 2) == 1.7
    assert refit(1.7, [0.1, 0.9], [True, True], 2) == 1.7


@pytest.mark.parametrize("seed", range(5))
def test_whatever_the_matches_the_exponent_stays_a_positive_number(seed):
    rng = np.random.default_rng(seed)
    exponent = 1.0
    for size in (1, 2, 3, 10, 40):
        difficulties = rng.random(size).astype(np.float32) ** 3
        matches = rng.random(size) < difficulties  # the wrong way round
        exponent = refit(exponent, difficulties, matches, 10)
        assert 0.01 <= exponent <= 100.0
