import pytest
import torch

from bench import stages
from tests import toys


def log_probs(*rows: list[list[float]]) -> list[torch.Tensor]:
    return [torch.tensor(row).log() for row in rows]


def test_the_mix_is_the_log_of_the_weighted_mean():
    one, two = log_probs([[0.9, 0.1]], [[0.2, 0.8]])
    mixed = stages.mix([one, two], torch.tensor([0.75, 0.25]))
    torch.testing.assert_close(mixed.exp(), torch.tensor([[0.725, 0.275]]))


def test_each_node_may_have_its_own_weights():
    one, two = log_probs([[0.9, 0.1], [0.9, 0.1]], [[0.2, 0.8], [0.2, 0.8]])
    weights = torch.tensor([[0.75, 0.0], [0.25, 1.0]])  # [stage, node]
    mixed = stages.mix([one, two], weights).exp()
    torch.testing.assert_close(mixed, torch.tensor([[0.725, 0.275], [0.2, 0.8]]))


def test_one_stage_alone_is_left_as_it_is():
    one = torch.randn(5, 3).log_softmax(1)
    assert torch.equal(stages.mix([one], torch.ones(1)), one)


def test_members_answer_with_their_mean_and_one_alone_with_its_logits():
    one, two = torch.randn(5, 3), torch.randn(5, 3)
    assert stages.answer([one]) is one
    weights = torch.tensor([0.75, 0.25])
    expected = 0.75 * one.softmax(1) + 0.25 * two.softmax(1)
    torch.testing.assert_close(stages.answer([one, two], weights).exp(), expected)
    plain = (one.softmax(1) + two.softmax(1)) / 2
    torch.testing.assert_close(stages.answer([one, two]).exp(), plain)


def test_confidence_is_the_largest_probability():
    logits = torch.tensor([[0.0, 0.0], [0.0, 3.0]]).log_softmax(1)
    found = stages.confidence(logits)
    torch.testing.assert_close(found, torch.tensor([0.5, 1 / (1 + torch.tensor(-3.0).exp())]))


@pytest.mark.parametrize(
    ("threshold", "runs"),
    [(-0.1, 1), (0.0, 1), (0.6, 2), (0.59, 1), (0.7, 4), (0.79, 4), (0.8, 4), (1.0, 4)],
)
def test_the_first_stage_above_the_threshold_is_the_last_to_run(threshold, runs):
    assert stages.exit_stage([0.6, 0.7, 0.65, 0.8], threshold) == runs


def test_the_number_of_stages_never_falls_as_the_threshold_rises():
    grid = [i / 50 for i in range(-1, 52)]
    for seed in range(5):
        sure = torch.rand(6, generator=torch.Generator().manual_seed(seed)).tolist()
        found = [stages.exit_stage(sure, threshold) for threshold in grid]
        assert found == sorted(found)
        assert (found[0], found[-1]) == (1, 6)


@pytest.mark.parametrize("dense", [False, True])
def test_the_rows_of_a_graph_are_its_nodes_without_edges(dense):
    graph = toys.random_graph()
    size = graph.num_features + 2
    more = {"extra": torch.arange(60.0).view(30, 2), "shift": torch.randn(30, size)}
    graph = graph.replace(**more)
    graph = graph.replace(x=graph.x.to_dense()) if dense else graph
    nodes = torch.tensor([7, 3, 7])
    rows, whole = stages.rows_of(graph, nodes), graph.without_edges().subgraph(nodes)
    x, other = (g.x if dense else g.x.to_dense() for g in (rows, whole))
    assert torch.equal(x, other)
    assert torch.equal(rows.y, whole.y)
    assert torch.equal(rows.extra, whole.extra)
    assert torch.equal(rows.shift, whole.shift)
    assert rows.adj.nnz == 0
    assert rows.adj.shape == (3, 3)


# ---- the choice for a budget ----------------------------------------------------------------

QUALITY = {"1": {"val_accuracy": 0.70}, "2": {"val_accuracy": 0.74}, "3": {"val_accuracy": 0.74}}
COST = {
    "1": {"latency_node_ms": 0.1, "macs_node": 10.0},
    "2": {"latency_node_ms": 0.2, "macs_node": 25.0},
    "3": {"latency_node_ms": 0.3, "macs_node": 40.0},
}


@pytest.mark.parametrize(
    ("budget", "unit", "name"),
    [
        (0.1, "latency_node_ms", "1"),
        (0.25, "latency_node_ms", "2"),
        (9.0, "latency_node_ms", "2"),  # as good as 3, and cheaper
        (24.9, "macs_node", "1"),
    ],
)
def test_the_best_form_on_val_within_the_budget_is_chosen(budget, unit, name):
    assert stages.choose(QUALITY, COST, budget=budget, unit=unit) == name


def test_a_worse_form_is_never_chosen_for_being_later():
    worse = {**QUALITY, "3": {"val_accuracy": 0.60}}
    assert stages.choose(worse, COST, budget=9.0) == "2"


def test_a_budget_that_nothing_meets_names_the_cheapest():
    with pytest.raises(ValueError, match=r"0\.05, and the cheapest variant, '1', takes 0\.1"):
        stages.choose(QUALITY, COST, budget=0.05)


def test_a_unit_that_nobody_measured_is_refused():
    with pytest.raises(ValueError, match="no variant has a measured 'joules'; measured: latency_"):
        stages.choose(QUALITY, COST, budget=1.0, unit="joules")
    with pytest.raises(ValueError, match="measured: nothing"):
        stages.choose(QUALITY, {}, budget=1.0)
    nothing = {"1": {"latency_node_ms": float("nan")}}
    with pytest.raises(ValueError, match="no variant"):
        stages.choose(QUALITY, nothing, budget=1.0)
