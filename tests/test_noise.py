"""Noise: what it changes, what it leaves, and that hidden nodes do not shape what is observed."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from bench import noise
from bench.cell import Protocol
from bench.data import adjacency
from bench.datasets import synthetic
from bench.expand import expand
from bench.graph import Dataset
from bench.protocol import Exam, examine
from bench.results import tidy
from bench.run import Place, load_exam, run
from bench.score import deployed_graph
from bench.sparse import CSR
from bench.sweep import from_overrides
from tests import toys

NAME = "synthetic:nodes=600,degree=6,classes=3"


def ask(text: str, setting: str = "transductive") -> Protocol:
    return Protocol(NAME, "0", "random", setting, noise=text)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return synthetic.load(NAME, Path())


def exam(data: Dataset, text: str, setting: str = "transductive", seed: int = 0) -> Exam:
    return examine(data, ask(text, setting), seed)


def same(one: CSR, two: CSR) -> bool:
    names = ("indptr", "indices", "values")
    return one.shape == two.shape and all(
        torch.equal(getattr(one, name), getattr(two, name)) for name in names
    )


def pairs_of(adj: CSR) -> set[tuple[int, int]]:
    both = zip(adj.row_ids.tolist(), adj.indices.tolist(), strict=True)
    return {(a, b) for a, b in both if a < b}


def no_one(n: int) -> np.ndarray:
    return np.zeros(n, dtype=bool)


# ---- features -------------------------------------------------------------------------------


def test_no_noise_is_the_clean_exam_bit_for_bit(data):
    graph, nobody = data.graph, no_one(600)
    assert noise.disturbed(graph, "", torch.zeros(0, dtype=torch.int64), 0) is graph
    assert same(noise.noisy_features(graph.x, 0.0, nobody, 0), graph.x)
    assert same(noise.noisy_edges(graph.adj, 0.0, nobody, 0), graph.adj)
    labels = torch.arange(30) % 3
    assert torch.equal(noise.flipped(labels, 3, 0.0, 0), labels)


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_a_share_of_the_words_is_moved_and_rows_stay_sparse(data, share):
    x, noisy = data.graph.x, noise.noisy_features(data.graph.x, share, no_one(600), 0)
    kept = (x.to_dense() * noisy.to_dense()).sum() / x.nnz
    by_chance = share * x.nnz / x.to_dense().numel()  # a random word may be one of the node's
    assert float(kept) == pytest.approx(1 - share + by_chance, abs=0.02)
    assert set(noisy.values.tolist()) == {1.0}
    assert 0.97 * x.nnz < noisy.nnz <= x.nnz  # words that meet count once
    assert (noisy.degree <= x.degree).all()


def test_of_two_values_that_meet_the_larger_stays():
    x = toys.csr([[3.0, 5.0, 4.0]] * 50)
    noisy = noise.noisy_features(x, 1.0, no_one(50), 1).to_dense()
    assert set(noisy.flatten().tolist()) <= {0.0, 3.0, 4.0, 5.0}
    assert (noisy.max(dim=1).values == 5).all()
    assert (noisy.sum(dim=1) < 12).any()


def test_dense_features_get_the_noise_of_the_paper():
    x = torch.full((400, 50), 3.0)
    noisy = noise.noisy_features(x, 0.25, no_one(400), 0)
    assert float(noisy.mean()) == pytest.approx(0.75 * 3, abs=0.01)
    assert float(noisy.std()) == pytest.approx(0.25, abs=0.01)


def test_noise_that_makes_features_negative_is_refused_where_rows_are_scaled(data):
    graph = data.graph.replace(x=data.graph.x.to_dense())
    dense = dataclasses.replace(data, graph=graph)
    protocol = dataclasses.replace(ask("features=0.2"), features="row")
    with pytest.raises(ValueError, match="makes entries negative, and features: row scales"):
        examine(dense, protocol, 0)
    examine(dense, dataclasses.replace(protocol, features="raw"), 0)
    examine(data, protocol, 0)  # words move, and stay what they are


# ---- edges ----------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_a_share_of_the_edges_is_replaced_and_their_number_stays(data, share):
    adj = data.graph.adj
    noisy = noise.noisy_edges(adj, share, no_one(600), 0)
    before, after = pairs_of(adj), pairs_of(noisy)
    assert noisy.nnz == adj.nnz
    assert len(before - after) == len(after - before) == round(share * len(before))
    dense = noisy.to_dense()
    assert torch.equal(dense, dense.T)
    assert not dense.diagonal().any()
    assert set(noisy.values.tolist()) == {1.0}


def test_where_almost_all_pairs_are_edges_fewer_are_replaced():
    everyone = [(a, b) for a in range(6) for b in range(a)][1:]
    adj = adjacency(*zip(*everyone, strict=True), 6)  # one pair of 15 is free
    noisy = noise.noisy_edges(adj, 1.0, no_one(6), 0)
    assert len(pairs_of(adj) - pairs_of(noisy)) == 1
    assert noisy.nnz == adj.nnz


def test_a_higher_level_disturbs_what_a_lower_one_does_and_more(data):
    adj, x = data.graph.adj, data.graph.x
    nobody, before = no_one(600), pairs_of(data.graph.adj)
    low, high = (pairs_of(noise.noisy_edges(adj, share, nobody, 0)) for share in (0.2, 0.4))
    assert before - low < before - high
    assert low - before < high - before
    words = x.to_dense() > 0
    low, high = (noise.noisy_features(x, s, nobody, 0).to_dense() > 0 for s in (0.2, 0.4))
    back = (words & high & ~low).sum()  # a word that the lower level took is there by chance alone
    assert back < 0.01 * words.sum() < 0.1 * (words & ~low).sum()
    labels = torch.arange(40) % 4
    low, high = (noise.flipped(labels, 4, share, 0) for share in (0.2, 0.4))
    assert torch.equal(low[low != labels], high[low != labels])


# ---- labels ---------------------------------------------------------------------------------


def test_a_share_of_the_labels_becomes_another_class():
    labels = torch.arange(100) % 4
    wrong = noise.flipped(labels, 4, 0.3, 0)
    assert int((wrong != labels).sum()) == 30
    assert set(wrong.tolist()) == {0, 1, 2, 3}
    assert (noise.flipped(labels, 4, 1.0, 0) != labels).all()


def test_wrong_labels_are_the_teachers_alone(data):
    noisy, clean = exam(data, "teacher_labels=0.5"), exam(data, "")
    student, teacher = noisy.task(0, None), noisy.for_teacher().task(0, None)
    train = student.split.train
    assert torch.equal(student.graph.y, clean.task(0, None).graph.y)
    assert int((teacher.graph.y[train] != student.graph.y[train]).sum()) == 30
    assert torch.equal(teacher.graph.y == -1, student.graph.y == -1)
    assert torch.equal(noisy.graph.y, clean.graph.y)  # what is scored with
    assert same(noisy.graph.adj, clean.graph.adj)
    assert clean.for_teacher() is clean


# ---- the exam -------------------------------------------------------------------------------

ALL = "features=0.3+edges=0.3+teacher_labels=0.3"


@pytest.mark.parametrize("setting", ["transductive", "production"])
def test_noise_leaves_roles_and_labels_as_they_are(data, setting):
    noisy, clean = exam(data, ALL, setting), exam(data, "", setting)
    for field in dataclasses.fields(noisy.split):
        one, two = (getattr(e.split, field.name) for e in (noisy, clean))
        assert torch.equal(one, two)
    assert torch.equal(noisy.graph.y, clean.graph.y)
    assert not same(noisy.graph.adj, clean.graph.adj)
    assert not same(noisy.graph.x, clean.graph.x)


def test_the_noise_of_a_seed_is_one_for_all_and_another_seed_has_another(data):
    one, again, other = (exam(data, ALL, seed=seed) for seed in (0, 0, 1))
    assert same(one.graph.x, again.graph.x)
    assert same(one.graph.adj, again.graph.adj)
    assert torch.equal(one.taught.y, again.taught.y)
    assert not same(one.graph.adj, other.graph.adj)


def test_the_graph_of_training_is_a_part_of_the_noisy_whole(data):
    noisy = exam(data, ALL, "production")
    part = noisy.graph.subgraph(noisy.observed)
    assert same(part.x, noisy.seen.x)
    assert same(part.adj, noisy.seen.adj)
    edges = noisy.graph.adj
    unseen = torch.zeros(noisy.graph.num_nodes, dtype=torch.bool)
    unseen[noisy.split.test_unseen] = True
    clean = exam(data, "", "production").graph.adj
    touching = [
        {pair for pair in pairs_of(adj) if unseen[pair[0]] or unseen[pair[1]]}
        for adj in (clean, edges)
    ]
    assert len(touching[0]) == len(touching[1]) > 50
    assert len(touching[0] - touching[1]) == round(0.3 * len(touching[0]))


def test_what_is_hidden_does_not_shape_the_noise_of_what_is_observed(data):
    asked = dataclasses.replace(ask("", "production"), self_loops=False)
    clean = examine(data, asked, 0)
    noisy = examine(data, dataclasses.replace(asked, noise=ALL), 0)
    graph, hidden = clean.graph, clean.split.test_unseen
    gone = np.zeros(graph.num_nodes, dtype=bool)
    gone[hidden.numpy()] = True
    rows, columns = graph.adj.row_ids.numpy(), graph.adj.indices.numpy()
    keep = ~(gone[rows] | gone[columns])  # other edges for the hidden nodes, and other words
    rng = np.random.default_rng(5)
    fresh = rng.integers(graph.num_nodes, size=4 * len(hidden))
    source = np.concatenate([rows[keep], np.repeat(hidden.numpy(), 4)])
    adj = adjacency(source, np.concatenate([columns[keep], fresh]), graph.num_nodes)
    x = graph.x.to_dense().numpy()
    x[gone] = rng.random(x[gone].shape) < 0.2
    other = graph.replace(adj=adj, x=CSR.from_scipy(sp.csr_array(x)))
    seen = noise.disturbed(other, ALL, hidden, 0).subgraph(clean.observed)
    assert same(seen.adj, noisy.seen.adj)
    assert same(seen.x, noisy.seen.x)


# ---- the whole way of a cell ----------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A function: a noise -> the rows of a teacher, of glnn and of mlp after a short fit."""
    place = Place(tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("data"))

    @functools.cache
    def of(text: str):
        epochs = [f"{name}.max_epochs=6" for name in ("gcn", "glnn", "mlp")]
        asked = [f"datasets={NAME}", f"noise={text}", "teachers=gcn", "students=glnn,mlp", *epochs]
        cells = expand(from_overrides(asked), place.data)
        return {cell.group[4]: run(cell, place) for cell in cells}

    return of


def numbers(row) -> dict[str, float]:
    return {k: v for k, v in row.variants[""].items() if k != "params"}


def test_wrong_labels_reach_students_through_their_teacher_alone(rows):
    clean, noisy = rows("none"), rows("teacher_labels=0.8")
    assert numbers(noisy["mlp"]) == numbers(clean["mlp"])
    assert noisy["mlp"].key != clean["mlp"].key
    worse = [noisy[who].variants[""]["test_accuracy"] for who in ("", "glnn")]
    usual = [clean[who].variants[""]["test_accuracy"] for who in ("", "glnn")]
    assert worse[0] < usual[0] - 0.1
    assert worse[1] != usual[1]


def test_a_teacher_is_deployed_with_the_labels_that_it_was_taught_by(tmp_path):
    place = Place(tmp_path / "results", tmp_path)
    asked = [f"datasets={NAME}", "noise=teacher_labels=0.5", "teachers=gcn", "students=glnn,mlp"]
    cells = expand(from_overrides(asked), tmp_path)
    shown = {cell.group[4]: load_exam(cell, place) for cell in cells}
    train = shown[""].split.train
    truth = shown["glnn"].graph.y[train]
    model = torch.nn.Module()
    model.reads_labels, model.graph_use = True, "inference"
    for who, share in (("", 0.5), ("glnn", 0.0), ("mlp", 0.0)):
        given = deployed_graph(model, shown[who], "cpu").y[train]
        assert float((given != truth).float().mean()) == pytest.approx(share, abs=0.1)
        assert torch.equal(given, shown[who].task(0, None).graph.y[train])


def test_rows_say_how_often_a_student_repeats_an_error_of_its_teacher(rows):
    for found in (rows("none"), rows("edges=0.5")):
        assert 0 < found["glnn"].variants[""]["repeated_errors"] <= 1
        assert not any("repeated_errors" in found[who].variants[""] for who in ("", "mlp"))


def test_the_rows_of_noise_are_a_block_of_their_own(rows):
    clean, noisy = (tidy(rows(text).values()) for text in ("none", "edges=0.5"))
    assert {record["split"] for record in noisy} == {"random + edges=0.5"}
    assert {record["noise"] for record in noisy} == {"edges=0.5"}
    assert {record["split"] for record in clean} == {"random"}
    assert not any("noise" in record for record in clean)
