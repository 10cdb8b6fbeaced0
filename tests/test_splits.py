"""The options of split `random`; the splits themselves are tested with the protocol."""

import itertools

import numpy as np
import pytest
import torch

from bench import splits
from bench.graph import Dataset
from tests import layouts


@pytest.fixture(scope="module")
def toy() -> Dataset:
    return Dataset("toy", layouts.content(900), "0" * 64)


def drawn(toy: Dataset, split: str, seed: int = 3):
    graph, roles = splits.draw(toy, split, seed)
    return graph.y, *roles


def per_class(labels: torch.Tensor, nodes: torch.Tensor) -> list[int]:
    return torch.bincount(labels[nodes], minlength=int(labels.max()) + 1).tolist()


def test_options_at_their_usual_values_change_nothing(toy):
    for one, two in zip(
        drawn(toy, "random"), drawn(toy, "random:train=20,imbalance=1"), strict=True
    ):
        assert torch.equal(one, two)


@pytest.mark.parametrize("count", [1, 2, 5, 10, 20, 40])
def test_each_class_has_so_many_train_nodes_and_val_is_always_the_same(toy, count):
    labels, train, val, test = drawn(toy, f"random:train={count}")
    assert set(per_class(labels, train)) == {count}
    _, _, usual_val, usual_test = drawn(toy, "random")
    assert torch.equal(val, usual_val)
    if count <= 20:
        assert torch.equal(test, usual_test)
    else:
        assert set(test.tolist()) == set(usual_test.tolist()) - set(train.tolist())
    assert not set(train.tolist()) & {*val.tolist(), *test.tolist()}


def test_fewer_train_nodes_are_among_more(toy):
    sets = [set(drawn(toy, f"random:train={k}")[1].tolist()) for k in (1, 2, 5, 10, 20, 40)]
    assert all(small < large for small, large in itertools.pairwise(sets))


def test_imbalance_is_the_ratio_of_the_largest_to_the_smallest_class(toy):
    labels, train, val, test = drawn(toy, "random:imbalance=10")
    counts, sizes = np.array(per_class(labels, train)), np.bincount(labels.numpy())
    assert (counts.max(), counts.min()) == (20, 2)
    order = np.argsort(-sizes, kind="stable")
    assert (np.diff(counts[order]) <= 0).all()  # a larger class has no fewer train nodes
    assert torch.equal(val, drawn(toy, "random")[2])
    assert torch.equal(test, drawn(toy, "random")[3])


def test_the_counts_of_an_imbalance_by_hand():
    labels = np.repeat([0, 1, 2], [5, 9, 7])  # by size: 1, 2, 0
    assert splits.train_counts(labels, 20, 4).tolist() == [5, 20, 10]  # 20, 20 / 2, 20 / 4
    assert splits.train_counts(labels, 20, 1).tolist() == [20, 20, 20]
    assert splits.train_counts(labels, 2, 2).tolist() == [1, 2, 1]  # 1.41 is 1, never 0
    assert splits.train_counts(np.zeros(4, int), 20, 7).tolist() == [20]


def test_a_class_without_so_many_nodes_is_named(toy):
    with pytest.raises(ValueError, match=r"class \d has \d+ nodes left .*fewer train nodes"):
        drawn(toy, "random:train=1000")


def test_an_unknown_split_is_refused(toy):
    with pytest.raises(ValueError, match=r"unknown split 'rand'.*did you mean 'random'"):
        drawn(toy, "rand")
