import numpy as np
import pytest
import torch

from bench import diagnose, registry
from bench.cell import Protocol
from bench.graph import Graph
from bench.protocol import examine
from tests import toys


def parts_of(
    edges: list[tuple[int, int]],
    labels: list[int],
    scored: list[int],
    *,
    train: tuple[int, ...] = (),
) -> dict[str, list[int]]:
    """The scored nodes of every stratum."""
    graph = toys.graph(toys.adjacency(len(labels), edges, loops=True))
    graph = graph.replace(y=torch.tensor(labels), num_classes=max(labels) + 1)
    nodes = torch.tensor(scored, dtype=torch.int64)
    found = diagnose.strata(graph, torch.tensor(train, dtype=torch.int64), nodes)
    return {name: nodes.numpy()[part].tolist() for name, part in found.items()}


def star(leaves: int) -> list[tuple[int, int]]:
    return [(0, i) for i in range(1, leaves + 1)]


# ---- strata ---------------------------------------------------------------------------------


def test_degrees_are_cut_at_terciles_without_self_loops_and_ties_stay_together():
    chain = [*star(3), (1, 2)]  # degrees 3 2 2 1, and an isolated node
    found = parts_of(chain, [0, 1, 0, 1, 0], [0, 1, 2, 3, 4])
    assert found["degree_low"] == [3, 4]  # the first tercile of 0 1 2 2 3 is 1, the second 2
    assert found["degree_middle"] == [1, 2]
    assert found["degree_high"] == [0]


def test_degrees_of_other_nodes_do_not_move_the_cuts():
    found = parts_of(star(4), [0, 1, 0, 1, 0], [1, 2, 3])
    assert not [name for name in found if name.startswith("degree")]  # all scored ones have 1


def test_class_sizes_count_all_nodes_and_the_median_class_is_in_neither_part():
    labels = [0, 1, 1, 2, 2, 2]  # sizes 1 2 3
    found = parts_of([], labels, [0, 1, 3, 4])
    assert found["class_small"] == [0]
    assert found["class_large"] == [3, 4]


def test_classes_of_one_size_have_no_small_and_no_large_ones():
    assert not [name for name in parts_of([], [0, 1, 0, 1], [0, 1, 2]) if "class" in name]


def test_a_node_on_the_border_has_a_neighbour_of_another_label_and_an_isolated_one_is_no_interior():
    path = [(0, 1), (1, 2), (2, 3)]
    found = parts_of(path, [0, 0, 1, 1, 0], [0, 1, 2, 3, 4])
    assert found["border"] == [1, 2]
    assert found["interior"] == [0, 3]


def test_neighbours_without_a_label_do_not_count():
    path = [(0, 1), (1, 2), (2, 3), (4, 5)]
    found = parts_of(path, [0, 0, 1, -1, 0, -1], [0, 1, 2, 4])
    assert found["border"] == [1, 2]
    assert found["interior"] == [0]


def test_distance_is_counted_in_hops_and_what_no_path_reaches_is_far():
    path = [(i, i + 1) for i in range(5)]  # 0 - ... - 5, and 6 alone
    found = parts_of(path, [0, 1, 0, 1, 0, 1, 0], [1, 2, 3, 5, 6], train=(0,))
    assert found["train_near"] == [1]
    assert found["train_middle"] == [2]
    assert found["train_far"] == [3, 5, 6]
    nearer = parts_of(path, [0, 1, 0, 1, 0, 1, 0], [1, 2, 3, 6], train=(0, 5))
    assert nearer["train_middle"] == [2, 3]


def test_without_scored_nodes_there_is_no_stratum():
    assert parts_of(star(3), [0, 1, 0, 1], []) == {}


def test_strata_lie_in_the_scored_nodes_and_those_of_a_family_do_not_overlap():
    exam = toys.exam("nodes=400,classes=4", "random")
    found = diagnose.strata(exam.graph, exam.split.train, exam.split.test_observed)
    assert {"degree_low", "degree_high", "border", "interior", "train_near"} <= found.keys()
    for family in ("degree_", "class_", "train_"):
        masks = [part for name, part in found.items() if name.startswith(family)]
        assert sum(masks, start=np.zeros(len(exam.split.test_observed), int)).max() <= 1
    both = found["border"] & found["interior"]
    assert not both.any()


def test_accuracy_and_size_of_a_part():
    parts = {"border": np.array([True, True, False]), "interior": np.array([False, False, True])}
    found = diagnose.accuracies(parts, np.array([0, 1, 2]), np.array([0, 0, 2]))
    assert found == {
        "accuracy_border": 0.5,
        "nodes_border": 2.0,
        "accuracy_interior": 1.0,
        "nodes_interior": 1.0,
    }


@pytest.mark.needs_data
def test_the_strata_of_cora_agree_with_a_count_over_its_edges(real):
    dataset = real("cora")
    protocol = Protocol("cora", dataset.checksum, "public", "transductive")
    exam = examine(dataset, protocol, 0)
    scored = exam.split.test_observed
    found = diagnose.strata(exam.graph, exam.split.train, scored)
    graph = dataset.graph  # as it ships, without self-loops
    adj, y = graph.adj.to_scipy(), graph.y.numpy()
    for i, node in enumerate(scored.tolist()):
        near = adj.indices[adj.indptr[node] : adj.indptr[node + 1]]
        assert found["border"][i] == (y[near] != y[node]).any()
        assert found["interior"][i] == (len(near) > 0 and (y[near] == y[node]).all())
        assert found["train_near"][i] == np.isin(near, exam.split.train.numpy()).any()


# ---- experts --------------------------------------------------------------------------------


def mixture(graph: Graph, **values):
    config = registry.configure("student", "moe", {"hidden_dim": 8, "num_experts": 4, **values}, {})
    torch.manual_seed(0)
    return registry.build("student", "moe", config, (12, graph.num_classes, graph.num_nodes))


def test_a_method_without_routers_has_nothing_to_tell_and_is_not_run():
    graph = toys.random_graph()
    config = registry.configure("student", "mlp", {}, {})
    model = registry.build("student", "mlp", config, (99, 2, 30))  # would not fit the features
    assert diagnose.expert_layers(model, graph) == ({}, {})


def test_each_layer_tells_its_choice_and_the_numbers_are_those_of_the_choice():
    graph = toys.random_graph()
    numbers, arrays = diagnose.expert_layers(mixture(graph, top_k=2, num_layers=2), graph)
    assert arrays["0/experts"].shape == arrays["1/gates"].shape == (30, 2)
    assert arrays["0/experts"].dtype == np.uint8
    empty = 0
    for i in range(2):
        used = np.unique(arrays[f"{i}/experts"])
        empty += 4 - len(used)
        assert set(np.flatnonzero(arrays[f"{i}/load"] > 0)) == set(used)
        assert arrays[f"{i}/load"].sum() == pytest.approx(1.0)
    assert numbers["experts_collapsed"] == empty
    assert numbers["expert_entropy"] == pytest.approx(arrays["entropy"].mean())


def test_the_kept_states_are_those_that_the_last_router_reads(monkeypatch):
    monkeypatch.setattr(diagnose, "SAMPLE", 7)
    graph = toys.random_graph()
    model = mixture(graph, num_layers=2).eval()
    _, arrays = diagnose.expert_layers(model, graph)
    assert arrays["nodes"].tolist() == [0, 5, 10, 14, 19, 24, 29]
    with torch.no_grad():
        first = model(graph, torch.from_numpy(arrays["nodes"]).long()).hidden
        expected = model.mlp.norms[0](first).relu()
    np.testing.assert_allclose(arrays["hidden"], expected.numpy(), atol=2e-3)


def test_a_model_of_one_layer_routes_features_and_keeps_no_states():
    graph = toys.random_graph()
    _, arrays = diagnose.expert_layers(mixture(graph, num_layers=1), graph)
    assert "hidden" not in arrays
    assert "0/experts" in arrays


def test_chunks_are_put_together_in_order(monkeypatch):
    graph = toys.random_graph()
    model = mixture(graph)
    _, whole = diagnose.expert_layers(model, graph)
    inference = model.inference
    monkeypatch.setattr(model, "inference", lambda graph: inference(graph, chunk=8))
    _, parts = diagnose.expert_layers(model, graph)
    assert whole.keys() == parts.keys()
    for name, array in whole.items():
        np.testing.assert_allclose(parts[name], array, atol=1e-6)
