from pathlib import Path

import numpy as np
import pytest
import torch

from bench import data
from bench.datasets import synthetic

NOWHERE = Path("/nowhere")


def load(text: str = ""):
    return synthetic.load(f"synthetic:{text}" if text else "synthetic", NOWHERE)


def share_inside(graph) -> float:
    same = graph.y[graph.adj.row_ids] == graph.y[graph.adj.indices.long()]
    return float(same.double().mean())


def test_the_same_parameters_make_the_same_graph():
    one, two = load("nodes=500,seed=3"), load("seed=3,nodes=500")
    assert one.checksum == two.checksum
    for part in ("indptr", "indices", "values"):
        assert torch.equal(getattr(one.graph.adj, part), getattr(two.graph.adj, part))
        assert torch.equal(getattr(one.graph.x, part), getattr(two.graph.x, part))
    assert torch.equal(one.graph.y, two.graph.y)


def test_another_seed_makes_another_graph():
    one, two = load("nodes=500"), load("nodes=500,seed=1")
    assert one.checksum != two.checksum
    assert not torch.equal(one.graph.y, two.graph.y)
    assert one.graph.adj.indices.tolist() != two.graph.adj.indices.tolist()


def test_the_stream_is_the_one_of_version_1():
    graph = load("nodes=30,classes=3,features=30,words=4").graph
    assert graph.y[:10].tolist() == [1, 0, 0, 0, 2, 2, 1, 2, 1, 2]
    assert graph.adj.indices[:8].tolist() == [15, 3, 5, 11, 3, 8, 18, 1]
    assert graph.x.indices[:8].tolist() == [0, 5, 15, 19, 1, 16, 23, 26]


def test_the_adjacency_is_clean_and_classes_have_equal_sizes():
    graph = load("nodes=1001,classes=5").graph
    matrix = graph.adj.to_scipy()
    assert (matrix != matrix.T).nnz == 0
    assert not matrix.diagonal().any()
    assert (graph.adj.values == 1).all()
    assert matrix.has_canonical_format
    assert sorted(np.bincount(graph.y)) == [200, 200, 200, 200, 201]
    assert graph.num_classes == 5


@pytest.mark.parametrize("homophily", [0.0, 0.3, 0.8, 1.0])
def test_the_measured_homophily_is_the_one_asked_for(homophily):
    graph = load(f"nodes=5000,degree=6,homophily={homophily}").graph
    assert share_inside(graph) == pytest.approx(homophily, abs=0.02)


def test_the_mean_degree_is_close_below_the_one_asked_for():
    graph = load("nodes=5000,degree=6").graph
    assert 5.9 < graph.adj.nnz / 5000 <= 6.0


@pytest.mark.parametrize("classes", [2, 7])
def test_targets_outside_a_class_are_spread_over_all_others(classes):
    graph = load(f"nodes=4000,degree=20,homophily=0,classes={classes}").graph
    sources, targets = graph.y[graph.adj.row_ids], graph.y[graph.adj.indices.long()]
    counts = torch.bincount(sources * classes + targets, minlength=classes**2)
    counts = counts.view(classes, classes).double()
    others = ~torch.eye(classes, dtype=torch.bool)
    assert counts.diagonal().sum() == 0
    expected = counts.sum() / others.sum()
    assert (counts[others] / expected - 1).abs().max() < 0.12


def test_the_words_are_sparse_sorted_and_on_topic_as_often_as_asked():
    graph = load("nodes=3000,classes=5,features=1000,words=10,signal=0.5").graph
    x = graph.x
    assert (x.values == 1).all()
    assert x.indptr.diff().max() <= 10
    assert x.to_scipy().has_canonical_format
    assert int(x.indices.max()) < 1000
    topic = x.indices.long() // 200
    on_topic = (topic == graph.y[x.row_ids]).double().mean()
    assert on_topic == pytest.approx(0.5 + 0.5 / 5, abs=0.02)


def test_no_signal_leaves_the_words_without_any_class():
    graph = load("nodes=3000,classes=5,features=1000,signal=0").graph
    on_topic = (graph.x.indices.long() // 200 == graph.y[graph.x.row_ids]).double().mean()
    assert on_topic == pytest.approx(0.2, abs=0.01)


def test_a_graph_larger_than_a_chunk_has_all_its_words(monkeypatch):
    monkeypatch.setattr(synthetic, "CHUNK", 64)
    graph = load("nodes=1000,words=3").graph
    assert graph.x.shape == (1000, 500)
    assert graph.x.indptr[-1] == graph.x.nnz
    assert graph.x.indptr.diff().min() >= 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("node=10", "did you mean 'nodes'"),
        ("homophilly=0.5", "did you mean 'homophily'"),
        ("homophily=1.5", "homophily is 1.5; allowed: 1 or less"),
        ("nodes=many", "nodes is 'many'; it must be of type int"),
        ("nodes=12.5", "nodes is 12.5; it must be of type int"),
        ("nodes", "'nodes' is not key=value; known keys: nodes, degree"),
        ("nodes=10,nodes=20", "gives nodes twice"),
        ("nodes=20,classes=30", "each class needs at least one"),
        ("signal=nan", "it must be of type float"),
    ],
)
def test_a_wrong_parameter_gets_one_sentence(text, message):
    for call in (synthetic.load, synthetic.checksum, synthetic.prepare, synthetic.files):
        with pytest.raises(ValueError, match=message) as caught:
            call(f"synthetic:{text}", NOWHERE)
        assert "\n" not in str(caught.value)


def test_it_needs_no_file_and_its_checksum_no_graph():
    assert synthetic.files("synthetic", NOWHERE) == []
    synthetic.prepare("synthetic", NOWHERE)
    checksum = data.dataset_checksum(synthetic, "synthetic:nodes=10000000", NOWHERE)
    assert len(checksum) == 64
    assert data.dataset_checksum(synthetic, "synthetic", NOWHERE) == load().checksum


def test_defaults_written_out_change_nothing():
    assert load("").checksum == load("nodes=2500, homophily=0.60").checksum


def test_a_tiny_graph_and_one_without_edges_can_be_made():
    assert load("nodes=10,classes=2").graph.num_nodes == 10
    assert load("nodes=10,classes=2,degree=0").graph.adj.nnz == 0
