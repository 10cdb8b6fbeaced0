import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from bench import registry, train
from bench.method import Batch, Step
from bench.students import adagmlp
from bench.students.adagmlp import AdaGMLP, boost, masked
from tests import toys


@pytest.fixture
def task():
    logits = 2 * torch.randn(30, 3, generator=torch.Generator().manual_seed(5))
    return toys.with_teacher(toys.task(toys.random_graph(), list(range(7)), [7, 8, 9]), logits)


def make(**options) -> AdaGMLP:
    torch.manual_seed(0)
    values = {"hidden_dim": 8, "max_epochs": 4, "num_members": 3, **options}
    return AdaGMLP(AdaGMLP.Config(**values), 12, 3, 30)


def step(epoch: int = 0) -> Step:
    return Step(epoch, 9, torch.Generator().manual_seed(0))


def divergence(task, logits: torch.Tensor) -> torch.Tensor:
    goal = task.teacher.log_probs()
    return F.kl_div(logits.log_softmax(1), goal, reduction="none", log_target=True).sum(1)


# ---- boosting -------------------------------------------------------------------------------


def test_boosting_by_hand():
    u = torch.tensor([0.5, 0.25, 0.25])
    apart = torch.tensor([0.0, 0.0, math.log(2.0)])  # errors 0, 0, 1/2 at beta = 1
    moved, importance = boost(u, apart, 1.0)
    assert importance.item() == pytest.approx(math.log((1 - 0.125) / 0.125))  # log 7
    total = 0.75 + 0.25 * math.sqrt(7.0)  # exp(log 7 * 1/2)
    torch.testing.assert_close(moved, torch.tensor([0.5, 0.25, 0.25 * math.sqrt(7.0)]) / total)


def test_a_faster_growth_makes_errors_larger_and_members_less_important():
    u, apart = torch.full((4,), 0.25), torch.tensor([0.1, 0.2, 0.3, 0.4])
    importance = [boost(u, apart, beta)[1].item() for beta in (0.5, 1.0, 2.0)]
    assert importance == sorted(importance, reverse=True)


def test_a_member_that_is_wrong_about_most_has_no_importance_and_moves_nothing():
    u = torch.tensor([0.7, 0.3])
    moved, importance = boost(u, torch.tensor([50.0, 0.0]), 1.0)
    assert importance.item() == pytest.approx(1e-16)
    torch.testing.assert_close(moved, u)


def test_a_perfect_member_has_a_finite_importance():
    moved, importance = boost(torch.tensor([0.5, 0.5]), torch.zeros(2), 1.0)
    assert importance.isfinite()
    torch.testing.assert_close(moved, torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize("beta", [0.5, 4.0])
def test_a_divergence_that_rounding_left_below_zero_is_zero(beta):
    u = torch.full((4,), 0.25)
    found = boost(u, torch.full((4,), -1e-7), beta)
    for one, two in zip(found, boost(u, torch.zeros(4), beta), strict=True):
        assert torch.equal(one, two)
    mixed = torch.tensor([-1e-7, 0.0, 0.3, -2e-7])
    assert all(value.isfinite().all() for value in boost(u, mixed, beta))


def test_each_member_is_weighed_by_what_the_earlier_ones_missed(task):
    model = make(temperature=0.5, error_growth=2.0)
    model.train().begin_epoch(task, step())
    u = torch.full((30,), 1 / 30)
    terms, importance = [], []
    for member in model.members:
        logits = member(task.graph)[0]
        soft = F.kl_div(
            (logits / 0.5).log_softmax(1),
            task.teacher.log_probs(0.5),
            reduction="none",
            log_target=True,
        ).sum(1)
        terms.append((u * soft).sum())
        u, own = boost(u, divergence(task, logits).detach(), 2.0)
        importance.append(own)
    torch.testing.assert_close(model.soft_loss(task, task.nodes), torch.stack(terms).mean())
    torch.testing.assert_close(model.node_weights, u)
    torch.testing.assert_close(model.importance, torch.stack(importance))


def test_the_node_weights_go_on_from_epoch_to_epoch_and_start_anew_with_a_fit(task):
    model = make()
    model.train().begin_epoch(task, step())
    model.soft_loss(task, task.nodes)
    moved = model.node_weights.clone()
    model.begin_epoch(task, step(1))
    assert torch.equal(model.node_weights, moved)
    assert moved.sum().item() == pytest.approx(1.0)
    assert moved.max() > 1.05 * moved.min()
    assert not model.importance.any()
    model.begin_epoch(task, step())
    assert model.node_weights.unique().numel() == 1


def test_validation_moves_nothing(task):
    model = make()
    model.fit(task)
    before = [model.node_weights.clone(), model.importance.clone()]
    model.eval().soft_loss(task, task.nodes)
    assert torch.equal(model.node_weights, before[0])
    assert torch.equal(model.importance, before[1])


def test_small_batches_keep_the_sum_of_the_node_weights(task):
    model = make(batch_size=8)
    log = model.fit(task)
    assert len(log.history["loss"]) == 4
    assert model.node_weights.sum().item() == pytest.approx(1.0)


# ---- labels ---------------------------------------------------------------------------------


def test_an_epoch_of_one_batch_is_one_step_over_train_nodes_and_all(task):
    batches = list(make().batches(task, step()))
    assert [(b.nodes.numel(), b.labelled, b.ends_step) for b in batches] == [
        (7, True, False),
        (30, False, True),
    ]


def test_small_batches_share_out_the_train_nodes(task):
    batches = list(make(batch_size=4).batches(task, step()))
    labelled = torch.cat([b.nodes for b in batches if b.labelled])
    assert sorted(labelled.tolist()) == list(range(7))
    assert sum(b.ends_step for b in batches) == 7
    assert not any(b.ends_step for b in batches if b.labelled)


@pytest.mark.parametrize("split", [True, False])
def test_members_have_their_own_labels_or_all(task, split, monkeypatch):
    model, given = make(label_weight=0.5, split_labels=split), []
    monkeypatch.setattr(model, "hard_loss", lambda _, m, nodes: given.append(nodes) or nodes.sum())
    model.loss(task, Batch(torch.arange(7), labelled=True), step())
    whole = list(range(7))
    if split:
        assert [len(nodes) for nodes in given] == [3, 2, 2]
        assert sorted(torch.cat(given).tolist()) == whole
    else:
        assert [sorted(nodes.tolist()) for nodes in given] == [whole] * 3


def test_the_loss_of_the_labels_is_the_mean_over_members(task):
    model = make(label_weight=0.4, split_labels=False).eval()
    nodes = torch.arange(7)
    each = [F.cross_entropy(m(task.graph, nodes)[0], task.graph.y[nodes]) for m in model.members]
    found = model.loss(task, Batch(nodes, labelled=True), step())
    torch.testing.assert_close(found, 0.4 * torch.stack(each).mean())


def test_without_weight_the_labels_compute_nothing(task):
    batch = Batch(torch.arange(7), labelled=True)
    assert make(label_weight=0.0).loss(task, batch, step()) is None
    assert make(label_weight=0.0, mask_rate=0.3).loss(task, batch, step()) is not None


# ---- incomplete features --------------------------------------------------------------------


@pytest.mark.parametrize("dense", [False, True])
def test_masked_features_keep_the_sum_of_their_row(dense):
    torch.manual_seed(0)
    graph = toys.random_graph(features=40)
    graph = graph.replace(x=graph.x.to_dense()) if dense else graph
    nodes = torch.tensor([3, 20, 3])
    before = toys.random_graph(features=40).x.to_dense()[nodes]
    found = masked(graph, nodes, 0.4)
    after = found.x if dense else found.x.to_dense()
    gone = (after == 0) & (before != 0)
    assert 0.1 < gone.sum() / (before != 0).sum() < 0.7
    torch.testing.assert_close(after.sum(1), before.sum(1))
    ratio = torch.where(after != 0, after / before, torch.nan)
    for row in ratio:
        kept = row[~row.isnan()]
        torch.testing.assert_close(kept, kept[:1].expand_as(kept))
    assert not torch.equal(after[0], after[2])  # each row on its own


@pytest.mark.parametrize("dense", [False, True])
def test_masked_features_of_both_signs_keep_their_signs_and_size(dense):
    torch.manual_seed(0)
    graph = toys.random_graph(features=40)
    values = graph.x.values * torch.randn(graph.x.nnz).sign()
    graph = graph.replace(x=graph.x.with_values(values))
    before = graph.x.to_dense()
    graph = graph.replace(x=before) if dense else graph
    found = masked(graph, torch.arange(30), 0.1)
    after = found.x if dense else found.x.to_dense()
    torch.testing.assert_close(after.abs().sum(1), before.abs().sum(1))
    assert (after * before >= 0).all()


def test_a_row_of_which_nothing_stays_is_empty():
    graph = toys.random_graph()
    for x in (graph.x, graph.x.to_dense()):
        found = masked(graph.replace(x=x), torch.arange(30), 0.999999).x
        assert not (found if x is not graph.x else found.values).any()


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_the_alignment_is_of_outputs_and_of_every_hidden_layer(task, weight, monkeypatch):
    options = {"label_weight": 0.0, "mask_rate": 0.5, "alignment_weight": weight}
    model = make(num_layers=3, **options).eval()
    member, nodes = model.members[0], torch.arange(5)
    other = task.graph.subgraph(nodes).replace(x=torch.rand(5, 12))
    monkeypatch.setattr(adagmlp, "masked", lambda *_: other)

    def layers(graph, nodes):
        one = member.layers[0].of_graph(graph, nodes).relu()
        two = member.layers[1](one).relu()
        return one, two, member.layers[2](two).log_softmax(1)

    (a, b, c), (d, e, f) = layers(task.graph, nodes), layers(other, None)
    hidden = (F.mse_loss(a, d) + F.mse_loss(b, e)) / 2
    expected = weight * F.mse_loss(c, f) + (1 - weight) * hidden
    torch.testing.assert_close(model.hard_loss(task, member, nodes), expected)


# ---- what is served -------------------------------------------------------------------------


@torch.no_grad()
def test_members_are_weighed_by_their_importance(task):
    model = make().eval()
    model.importance.copy_(torch.tensor([1.0, 3.0, 4.0]))
    probs = torch.stack([member(task.graph)[0].softmax(1) for member in model.members])
    forms = model.deploy()
    assert list(forms) == ["1", "2", "3"]
    for name, weights in {"1": [1.0], "2": [0.25, 0.75], "3": [0.125, 0.375, 0.5]}.items():
        found = forms[name](task.graph).logits.softmax(1)
        m = int(name)
        expected = (torch.tensor(weights)[:, None, None] * probs[:m]).sum(0)
        torch.testing.assert_close(found, expected)
        assert forms[name].num_parameters() == m * (13 * 8 + 9 * 3)
    torch.testing.assert_close(model(task.graph).logits.exp(), expected)


@torch.no_grad()
def test_members_without_importance_count_alike(task):
    model = make().eval()
    probs = torch.stack([member(task.graph)[0].softmax(1) for member in model.members]).mean(0)
    for value in (1e-16, 0.0):
        model.importance.fill_(value)
        torch.testing.assert_close(model(task.graph).logits.exp(), probs)


def test_the_importance_of_the_best_epoch_is_kept(task):
    scores = iter([0.1, 0.9, 0.2, 0.3])
    moving = toys.with_teacher(
        toys.task(toys.random_graph(), list(range(7)), [7, 8, 9], lambda _: next(scores)),
        task.teacher.logits,
    )
    model, seen = make(max_epochs=4), []
    soft = model.soft_loss

    def spy(*arguments):
        value = soft(*arguments)
        seen.append(model.importance.clone())
        return value

    model.soft_loss = spy  # type: ignore[method-assign]
    log = train.fit(model, moving)
    assert log.best_epoch == 1
    assert torch.equal(model.importance, seen[1])
    assert not torch.equal(seen[1], seen[3])


@pytest.mark.parametrize("dataset", ["cora", "cpf-citeseer", "amazon-computers", "synthetic"])
@pytest.mark.parametrize("teacher", ["gcn", "sage", "gat", "appnp"])
def test_presets_resolve(dataset, teacher):
    where = {"dataset": dataset, "split": "random", "setting": "production", "teacher": teacher}
    found = registry.configure("student", "adagmlp", {}, where)
    if (dataset, teacher) == ("cora", "gcn"):
        assert (found["num_members"], found["temperature"], found["mask_rate"]) == (3, 0.4, 0.1)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"batch_size": 15}, "train nodes"),  # 7 in 2 parts for 3 members: 2, 1, 1 and 1, 1, 1
        ({"batch_size": 3, "split_labels": False}, "train nodes"),  # 7 in 10 parts
        ({"batch_size": 1, "label_weight": 0.0}, "nodes"),
    ],
)
def test_batch_norm_over_a_single_node_is_refused_in_a_sentence(options, what, task):
    sentence = f"norm 'batch' averages over a part of the {what}, and .* single node; give a larger"
    with pytest.raises(ValueError, match=sentence):
        make(norm="batch", **options).fit(task)
    make(norm="layer", **options).fit(task)
    make(norm="batch", num_layers=1, **options).fit(task)  # no hidden layer, no norm


@pytest.mark.parametrize("options", [{}, {"batch_size": 10, "split_labels": False}])
def test_batch_norm_over_two_nodes_or_more_is_trained(options, task):
    model = make(norm="batch", **options)
    model.fit(task)
    assert model(task.graph).logits.isfinite().all()
