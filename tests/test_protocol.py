import numpy as np
import pytest
import scipy.sparse as sp
import torch

from bench.cell import Protocol
from bench.graph import Dataset
from bench.protocol import SETTINGS, Exam, examine
from bench.sparse import CSR
from bench.splits import SPLITS, largest_component
from tests import layouts, toys


def dataset(graph=None, **fixed) -> Dataset:
    return Dataset("toy", graph or toys.random_graph(90, loops=False), "0" * 64, fixed)


def masks(count: int, n: int = 90) -> list[tuple[torch.Tensor, ...]]:
    """Splits of 30, 20 and 20 nodes; 20 are in none."""
    orders = [torch.from_numpy(np.random.default_rng(i).permutation(n)) for i in range(count)]
    return [(order[:30], order[30:50], order[50:70]) for order in orders]


def ask(split="ratio", setting="transductive", **options) -> Protocol:
    return Protocol("toy", "0" * 64, split, setting, **options)


def roles(exam: Exam) -> dict[str, torch.Tensor]:
    names = ("train", "val", "unlabelled", "test_observed", "test_unseen")
    return {name: getattr(exam.split, name) for name in names}


# ---- the split `random` ---------------------------------------------------------------------


def recipe(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The protocol's own words: 20 of each class, then 30 of each class, from one stream."""
    stream = np.random.RandomState(seed)
    train: list[int] = []
    for label in np.unique(labels):
        candidates = [i for i in range(len(labels)) if labels[i] == label]
        train.extend(stream.choice(candidates, 20, replace=False))
    val: list[int] = []
    for label in np.unique(labels):
        candidates = [i for i in range(len(labels)) if labels[i] == label and i not in set(train)]
        val.extend(stream.choice(candidates, 30, replace=False))
    return np.array(train), np.array(val)


@pytest.mark.parametrize("seed", [0, 7])
def test_random_draws_what_the_recipe_draws(seed):
    graph = layouts.content(700)
    component = largest_component(graph)
    train, val = recipe(component.y.numpy(), seed)
    exam = examine(dataset(graph), ask("random"), seed)
    assert exam.split.train.tolist() == train.tolist()
    assert exam.split.val.tolist() == val.tolist()
    rest = np.setdiff1d(np.arange(component.num_nodes), np.concatenate([train, val]))
    assert exam.split.test_observed.tolist() == rest.tolist()


@pytest.mark.needs_data
@pytest.mark.parametrize(
    ("name", "sizes", "train", "val"),
    [
        (
            "cpf-cora",
            (140, 210, 2135),
            [319, 1474, 704, 1677, 1564, 261, 884, 2025],
            [815, 172, 2457, 888, 314, 32, 1585, 2411],
        ),
        (
            "cpf-citeseer",
            (120, 180, 1810),
            [182, 1350, 1188, 742, 140, 1457, 1713, 1626],
            [1759, 653, 433, 2027, 1782, 1883, 1650, 1329],
        ),
    ],
)
def test_random_draws_the_published_nodes_of_real_graphs(real, name, sizes, train, val):
    exam = examine(real(name), ask("random"), 0)
    split = exam.split
    assert (len(split.train), len(split.val), len(split.test_observed)) == sizes
    assert len(split.unlabelled) == len(split.test_unseen) == 0
    ids = recipe(exam.graph.y.numpy(), 0)
    assert [split.train.tolist(), split.val.tolist()] == [part.tolist() for part in ids]
    assert [split.train[:8].tolist(), split.val[:8].tolist()] == [train, val]


@pytest.mark.needs_data
def test_another_seed_draws_other_nodes_of_a_real_graph(real):
    cora = real("cpf-cora")
    one, two = (set(examine(cora, ask("random"), s).split.train.tolist()) for s in (0, 1))
    assert len(one & two) < 40


def test_random_runs_on_the_largest_component_in_its_order():
    graph = toys.graph(toys.adjacency(6, [(0, 2), (2, 5), (1, 4)]))
    part = largest_component(graph)
    assert part.adj.to_dense().tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    assert torch.equal(part.x, graph.x[[0, 2, 5]])
    assert largest_component(part) is part


def test_a_class_that_is_too_small_for_random_is_named():
    graph = layouts.content(700)
    graph = graph.replace(y=torch.where(graph.y == 1, 2, graph.y))
    few = torch.nonzero(largest_component(graph).adj.degree > 0).flatten()[:5]
    graph.y[few] = 1
    with pytest.raises(ValueError, match=r"class 1 has \d+ nodes left.*use split 'ratio'"):
        examine(dataset(graph), ask("random"), 0)


# ---- the other splits -----------------------------------------------------------------------


def test_ratio_is_stratified():
    graph = toys.random_graph(90).replace(y=torch.arange(90) // 40)  # 40, 40 and 10 nodes
    exam = examine(dataset(graph), ask("ratio"), 0)
    for label, sizes in enumerate([(20, 10, 10), (20, 10, 10), (5, 2, 3)]):
        parts = (exam.split.train, exam.split.val, exam.split.test_observed)
        assert tuple(int((graph.y[part] == label).sum()) for part in parts) == sizes
    again, other = (examine(dataset(graph), ask("ratio"), s).split.train for s in (0, 1))
    assert torch.equal(exam.split.train, again)
    assert not torch.equal(again, other)


@pytest.mark.parametrize("size", [3, 4, 5, 6])
def test_ratio_leaves_a_class_of_three_one_node_of_each_role(size):
    graph = toys.graph(toys.path(2 * size))
    exam = examine(dataset(graph), ask("ratio"), 0)
    for part in (exam.split.train, exam.split.val, exam.split.test_observed):
        assert set(graph.y[part].tolist()) == {0, 1}


@pytest.mark.parametrize("split", ["public", "official"])
def test_of_the_shipped_masks_the_seed_picks_one(split):
    shipped = masks(3)
    toy = dataset(**{split: shipped})
    for seed in range(7):
        exam = examine(toy, ask(split), seed)
        train, val, test = shipped[seed % 3]
        assert torch.equal(exam.split.train, train)
        assert torch.equal(exam.split.val, val)
        assert torch.equal(exam.split.test_observed, test.sort().values)


def test_a_split_that_is_not_shipped_is_refused_with_those_that_can_be_used():
    toy = dataset(public=masks(1))
    with pytest.raises(ValueError, match=r"'toy' ships no split 'official'.*public, random, ratio"):
        examine(toy, ask("official"), 0)


def test_unknown_words_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"unknown split 'randon'; did you mean 'random'\?"):
        examine(dataset(), ask("randon"), 0)
    with pytest.raises(ValueError, match=r"unknown setting 'induct.*'; did you mean 'inductive'\?"):
        examine(dataset(), ask(setting="induct"), 0)


# ---- settings -------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_roles_are_disjoint_and_cover_the_graph(split, setting):
    graph = layouts.content(700)
    exam = examine(dataset(graph, public=masks(1), official=masks(1)), ask(split, setting), 3)
    ids = torch.cat(list(roles(exam).values()))
    assert ids.sort().values.tolist() == list(range(exam.graph.num_nodes))
    hidden = exam.split.test_unseen
    assert (len(hidden) > 0) == (setting != "transductive")
    visible = np.setdiff1d(np.arange(exam.graph.num_nodes), hidden)
    assert exam.observed.tolist() == visible.tolist()
    assert exam.split.observed.sort().values.tolist() == visible.tolist()


def test_production_hides_a_fifth_of_the_test_nodes_drawn_by_torch():
    shipped = masks(1)
    test = shipped[0][2]
    exam = examine(dataset(official=shipped), ask("official", "production"), 5)
    torch.manual_seed(5)
    drawn = test[torch.randperm(20)[:4]]
    assert exam.split.test_unseen.tolist() == drawn.sort().values.tolist()
    assert len(exam.split.test_observed) == 16
    wider = examine(dataset(official=shipped), ask("official", "production", hidden_rate=0.55), 5)
    assert len(wider.split.test_unseen) == 11
    assert set(drawn.tolist()) <= set(wider.split.test_unseen.tolist())


def test_inductive_hides_all_of_a_public_test_set_and_a_share_of_others():
    toy = dataset(public=masks(1), official=masks(1))
    public, official = (examine(toy, ask(s, "inductive"), 0) for s in ("public", "official"))
    assert torch.equal(public.split.test_unseen, masks(1)[0][2].sort().values)
    assert len(public.split.test_observed) == 0
    assert len(official.split.test_unseen) == 4


@pytest.mark.parametrize("setting", ["production", "inductive"])
def test_a_rate_that_hides_nobody_is_refused(setting):
    protocol = ask("official", setting, hidden_rate=0.01)
    with pytest.raises(ValueError, match=r"hidden_rate 0.01 of 20 test nodes hides none"):
        examine(dataset(official=masks(1)), protocol, 0)


def test_production_needs_observed_test_nodes_and_inductive_none():
    given = dataset(official=masks(1))
    with pytest.raises(ValueError, match=r"hidden_rate 1 of 20 test nodes hides all, and setting"):
        examine(given, ask("official", "production", hidden_rate=1.0), 0)
    exam = examine(given, ask("official", "inductive", hidden_rate=1.0), 0)
    assert (len(exam.split.test_unseen), len(exam.split.test_observed)) == (20, 0)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(("place", "role"), [(0, "train"), (1, "val"), (2, "test")])
def test_a_split_without_a_role_is_refused(setting, place, role):
    parts = list(masks(1)[0])
    parts[place] = parts[place][:0]
    with pytest.raises(ValueError, match=f"split 'official' leaves .* 'toy' without a {role} node"):
        examine(dataset(official=[tuple(parts)]), ask("official", setting), 0)


@pytest.mark.parametrize(("size", "role"), [(1, "val"), (2, "test")])
def test_a_ratio_of_classes_that_are_too_small_for_three_roles_is_refused(size, role):
    graph = toys.random_graph(12, loops=False)
    graph = graph.replace(y=torch.arange(12) // size, num_classes=12 // size)
    with pytest.raises(ValueError, match=f"without a {role} node.*classes of three nodes or more"):
        examine(dataset(graph), ask("ratio"), 0)


# ---- what is visible ------------------------------------------------------------------------


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_task_holds_the_observed_nodes_and_the_labels_of_train_alone(setting):
    graph = layouts.content(700)
    exam = examine(dataset(graph), ask("random", setting), 0)
    task = exam.task(0, None)
    seen = exam.observed
    assert task.num_nodes == len(seen)
    assert torch.equal(task.nodes, torch.arange(len(seen)))
    assert torch.equal(task.graph.x.to_dense(), exam.graph.x.to_dense()[seen])
    assert torch.equal(task.graph.adj.to_dense(), exam.graph.adj.to_dense()[seen][:, seen])
    assert torch.equal(task.graph.y[task.split.train], exam.graph.y[exam.split.train])
    others = torch.ones(len(seen), dtype=torch.bool)
    others[task.split.train] = False
    assert (task.graph.y[others] == -1).all()
    for role in ("train", "val", "unlabelled", "test_observed"):
        ids = getattr(task.split, role)
        assert torch.equal(seen[ids], getattr(exam.split, role))
    assert len(task.split.test_unseen) == 0
    assert task.seed == 0
    assert task.teacher is None


def test_a_task_scores_val_without_handing_out_a_label():
    exam = examine(dataset(), ask("ratio"), 0)
    task = exam.task(0, None)
    labels = exam.graph.y[exam.split.val]
    logits = torch.nn.functional.one_hot(labels, 3).float()
    assert task.val_accuracy(logits) == 1
    logits[0] = logits[0].roll(1)
    assert task.val_accuracy(logits) == pytest.approx(1 - 1 / len(labels))


def test_tasks_of_one_exam_share_the_graph():
    exam = examine(dataset(), ask("ratio"), 0)
    assert exam.task(0, None).graph is exam.task(1, None).graph


@pytest.mark.parametrize("split", ["ratio", "random"])
def test_exams_of_one_dataset_share_the_prepared_graph(split):
    data = dataset(layouts.content(700))
    one, two = (examine(data, ask(split, features="row"), seed) for seed in (0, 1))
    unseen = examine(data, ask(split, "production", features="row"), 0)
    for exam in (two, unseen):
        assert exam.graph.adj is one.graph.adj
        assert exam.graph.x is one.graph.x
    assert two.seen.adj is one.seen.adj
    assert unseen.seen.num_nodes < one.seen.num_nodes
    raw = examine(data, ask(split, self_loops=False), 0)
    assert raw.graph.adj.nnz == one.graph.adj.nnz - one.graph.num_nodes
    assert not torch.equal(raw.graph.x.values, one.graph.x.values)
    noisy = examine(data, ask(split, features="row", noise="features=0.5"), 0)
    assert noisy.graph.adj is one.graph.adj
    assert not torch.equal(noisy.graph.x.indices, one.graph.x.indices)
    noisy = examine(data, ask(split, features="row", noise="edges=0.5"), 0)
    assert not torch.equal(noisy.graph.adj.indices, one.graph.adj.indices)


def test_every_node_gets_a_loop_or_none_does():
    graph = toys.random_graph(90, loops=False)
    loops, bare = (
        examine(dataset(graph), ask(self_loops=on), 0).graph.adj.to_dense() for on in (True, False)
    )
    assert torch.equal(bare, graph.adj.to_dense())
    assert torch.equal(loops, bare + torch.eye(90))


def test_features_are_raw_or_divided_by_their_row():
    counts = CSR.from_scipy(sp.csr_array(np.array([[2.0, 6.0], [0, 0], [0, 5.0]] * 20)))
    graph = toys.graph(toys.path(60), counts)
    raw, row = (examine(dataset(graph), ask(features=how), 0).graph.x for how in ("raw", "row"))
    assert raw.to_dense()[:3].tolist() == [[2, 6], [0, 0], [0, 5]]
    assert row.to_dense()[:3].tolist() == [[0.25, 0.75], [0, 0], [0, 1]]


def test_the_dataset_is_left_as_it_was():
    toy = dataset(public=masks(1))
    before = [t.clone() for t in (toy.graph.y, toy.graph.adj.indices, toy.graph.x.values)]
    examine(toy, ask("public", "inductive", features="row"), 0).task(0, None)
    after = (toy.graph.y, toy.graph.adj.indices, toy.graph.x.values)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
