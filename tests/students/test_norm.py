import copy

import pytest
import torch

from bench import losses, registry, train
from bench.graph import TeacherOutput
from bench.method import Batch, Step
from bench.norm_transform import (
    Transformed,
    matching_share,
    normalise_logits,
    standardise,
)
from bench.students.glnn import GLNN
from bench.students.norm import NORM
from tests import toys

WIDTH = 5  # of the teacher's hidden states


@pytest.fixture
def task():
    graph = toys.random_graph()
    logits, hidden = (
        torch.randn(30, size, generator=torch.Generator().manual_seed(size)) for size in (3, WIDTH)
    )
    given = toys.task(graph, list(range(7)), [7, 8, 9])
    output = TeacherOutput(logits, None, lambda: hidden)
    return type(given)(given.graph, given.split, output, 0, given.val_accuracy)


def make(**options) -> NORM:
    torch.manual_seed(0)
    return NORM(
        NORM.Config(**{"hidden_dim": 8, "num_segments": 4, "matching_weight": 1.0, **options}),
        12,
        3,
        30,
    )


def step(epoch: int = 12, max_epochs: int = 24) -> Step:
    return Step(epoch, max_epochs, torch.Generator().manual_seed(0))


def fitted(task, **options) -> NORM:
    model = make(max_epochs=3, **options)
    model.fit(task)
    return model


def by_hand(model: NORM, task, nodes):
    """E [n, N H'] of these nodes, and their logits, layer by layer, in training mode."""
    twin = copy.deepcopy(model)
    first, head = twin.mlp.layers
    transform = head.transform
    states = first.of_graph(task.graph, nodes).relu()
    segments = transform.first_norm(transform.first(states))
    moved = states + transform.second_norm(transform.second(segments))
    return segments, head.layer(moved)


# ---- the loss -------------------------------------------------------------------------------


def test_a_batch_of_observed_nodes_has_soft_labels_and_the_matching(task):
    model, nodes = (
        make(label_weight=0.25, temperature=2.0, matching_weight=3.0),
        torch.arange(9, 20),
    )
    model.prepare(task)
    segments, logits = by_hand(model, task, nodes)
    soft = losses.soft_label_loss(logits, task.teacher.log_probs(2.0)[nodes], 2.0)
    target = standardise(task.teacher.hidden.relu())[nodes]
    expected = 0.75 * soft + 3.0 * toys.segment_loss(segments, target)
    torch.testing.assert_close(model.loss(task, Batch(nodes), step()), expected)


def test_a_batch_of_labelled_nodes_has_the_hard_labels_alone(task):
    model, nodes = make(label_weight=0.25), task.split.train
    model.prepare(task)
    _, logits = by_hand(model, task, nodes)
    expected = 0.25 * losses.hard_label_loss(logits, task.graph.y[nodes])
    torch.testing.assert_close(model.loss(task, Batch(nodes, labelled=True), step()), expected)
    assert make().loss(task, Batch(nodes, labelled=True), step()) is None


def without_matching(model, task, nodes, at):
    total = model.loss(task, Batch(nodes), at)
    alone = make(**{**vars(model.config), "matching_weight": 0.0})
    return total - alone.loss(task, Batch(nodes), at)


@pytest.mark.parametrize("epoch", [0, 1, 12, 19, 23])
def test_the_matching_follows_its_schedule(task, epoch):
    nodes, at = torch.arange(30), step(epoch)
    scheduled = without_matching(make(), task, nodes, at)
    constant = without_matching(make(matching_schedule=False), task, nodes, at)
    torch.testing.assert_close(scheduled, matching_share(epoch, 24) * constant)


def test_targets_are_standardised_and_read_after_relu_where_asked(task):
    hidden = task.teacher.hidden
    assert torch.equal(make().target(task), standardise(hidden.relu()))
    assert torch.equal(make(target_relu=False).target(task), standardise(hidden))
    assert torch.equal(make(standardise=False, target_relu=False).target(task), hidden)


def test_nothing_of_the_last_batch_is_kept(task):
    for options in ({}, {"matching_weight": 0.0}):
        model = make(label_weight=0.5, **options)
        for batch in model.batches(task, step()):
            model.loss(task, batch, step())
        assert model.head.take() is None
        copy.deepcopy(model)  # which a graph of gradients would forbid


@pytest.mark.parametrize(("schedule", "steps"), [("steps", 2), ("mean", 1)])
def test_without_soft_labels_labels_and_matching_share_a_step_with_the_schedule_mean_alone(
    task, schedule, steps
):
    options = {"batch_norm": "none", "label_weight": 1.0, "batch_size": 0}
    model = make(matching_weight=8.0, schedule=schedule, **options)
    model.prepare(task)
    first, head = model.mlp.layers
    segments = head.transform.first(first.of_graph(task.graph, None).relu())
    matched = 8.0 * toys.segment_loss(segments, model.target(task))
    hard = losses.hard_label_loss(model(task.graph).logits[:7], task.graph.y[:7])
    found: list[list[torch.Tensor]] = [[]]  # the losses of each step
    for batch in model.batches(task, step()):
        found[-1].append(model.loss(task, batch, step()))
        found += [[]] if batch.ends_step else []
    totals = [sum(parts) for parts in found[:-1]]
    torch.testing.assert_close(totals, [hard, matched] if steps == 2 else [hard + matched])


@pytest.mark.parametrize("schedule", ["steps", "sum", "mean"])
def test_every_schedule_of_the_recipe_matches_the_observed_nodes_once(task, schedule):
    model = make(schedule=schedule, batch_size=10)
    seen = []
    model.matching = lambda task, nodes, at: seen.append(nodes) or torch.tensor(0.0)
    for batch in model.batches(task, step()):
        model.loss(task, batch, step())
    assert sorted(torch.cat(seen).tolist()) == list(range(30))


def test_a_batch_of_pairs_matches_each_student_node_once(task):
    model = make(reliable_sampling=True)
    model.prepare(task)
    pairs = torch.tensor([[4, 2, 4], [1, 1, 5]])
    nodes = torch.tensor([2, 4])
    segments, logits = by_hand(model, task, nodes)
    soft = losses.soft_label_loss(logits[[1, 0, 1]], task.teacher.log_probs()[pairs[1]])
    expected = soft + toys.segment_loss(segments, model.target(task)[nodes])
    torch.testing.assert_close(model.loss(task, Batch(pairs[0], pairs=pairs), step()), expected)


def test_normalised_logits_enter_the_losses_and_not_what_is_computed(task):
    model, nodes = make(normalise_logits=True, matching_weight=0.0), torch.arange(5, 15)
    model.prepare(task)
    _, logits = by_hand(model, task, nodes)
    soft = normalise_logits(task.teacher.logits).log_softmax(1)[nodes]
    expected = losses.soft_label_loss(normalise_logits(logits), soft)
    torch.testing.assert_close(model.loss(task, Batch(nodes), step()), expected)
    model.eval()
    plain = model.head(model.mlp.layers[0].of_graph(task.graph, nodes).relu())
    torch.testing.assert_close(model(task.graph, nodes).logits, plain)
    teachers = {id(model.seen(task).teacher), id(model.seen(model.seen(task)).teacher)}
    assert len(teachers) == 1  # one for all epochs, as reliable sampling wants it


# ---- the transform --------------------------------------------------------------------------


def test_the_transform_is_as_wide_as_the_teacher_and_drawn_with_the_tasks_seed(task):
    one, two, other = make(), make(), make()
    one.prepare(task)
    torch.manual_seed(99)
    two.prepare(task)
    other.prepare(type(task)(task.graph, task.split, task.teacher, 1, task.val_accuracy))
    weights = [m.head.transform.first.weight for m in (one, two, other)]
    assert weights[0].shape == (8, 4 * WIDTH)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_stored_weights_bring_their_transform(task):
    model, other = fitted(task), make()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(task.graph).logits, model(task.graph).logits)


def test_without_segments_it_is_the_plain_student(task):
    model, plain = make(num_segments=0), GLNN(GLNN.Config(hidden_dim=8), 12, 3, 30)
    plain.load_state_dict(model.state_dict())
    nodes = torch.arange(9)
    found = model.loss(task, Batch(nodes), step())
    torch.testing.assert_close(found, plain.loss(task, Batch(nodes), step()))
    alike = {"max_epochs": 3, "batch_size": 10, "label_weight": 0.3, "dropout": 0.3}
    model = make(num_segments=0, **alike)
    torch.manual_seed(0)
    plain = GLNN(GLNN.Config(hidden_dim=8, **alike), 12, 3, 30)
    model.fit(task)
    plain.fit(task)
    assert model.head is None
    assert torch.equal(model(task.graph).logits, plain(task.graph).logits)


def test_one_segment_without_residual_matches_one_to_one(task):
    model = make(num_segments=1, residual=False, batch_norm="none")
    nodes = torch.arange(30)
    model.prepare(task)
    states = model.mlp.layers[0].of_graph(task.graph, nodes).relu()
    projected = states @ model.head.transform.first.weight
    one_to_one = torch.nn.functional.mse_loss(projected, model.target(task))
    torch.testing.assert_close(without_matching(model, task, nodes, step()), one_to_one)


# ---- what is shipped ------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
@pytest.mark.parametrize(("residual", "batch_norm"), [(True, "both"), (False, "first")])
def test_the_shipped_student_is_glnns_mlp_and_computes_the_same(task, norm, residual, batch_norm):
    shape = {"num_layers": 3, "norm": norm, "dropout": 0.3}
    model = fitted(task, residual=residual, batch_norm=batch_norm, **shape)
    shipped = model.deploy()[""].eval()
    plain = GLNN(GLNN.Config(hidden_dim=8, **shape), 12, 3, 30)
    assert {k: v.shape for k, v in shipped.state_dict().items()} == {
        k: v.shape for k, v in plain.state_dict().items()
    }
    assert shipped.num_parameters() == plain.num_parameters()
    tree = [(name, type(module)) for name, module in shipped.mlp.named_modules()]
    assert tree == [(name, type(module)) for name, module in plain.mlp.named_modules()]
    whole = model.eval()(task.graph)
    found = shipped(task.graph)
    torch.testing.assert_close(found.logits, whole.logits, atol=1e-4, rtol=0)
    assert torch.equal(found.logits.argmax(1), whole.logits.argmax(1))
    assert torch.equal(found.hidden, whole.hidden)


def test_what_was_fitted_keeps_its_transform(task):
    model = fitted(task)
    before = model(task.graph).logits
    assert model.deploy()[""].head is None
    assert isinstance(model.mlp.layers[-1], Transformed)
    assert torch.equal(model(task.graph).logits, before)


def test_a_student_in_training_mode_is_not_shipped(task):
    with pytest.raises(ValueError, match=r"in training mode cannot be merged"):
        fitted(task).train().deploy()


def test_the_similarity_layers_stay_at_home(task):
    model = fitted(task, similarity_weight=0.1)
    assert not [name for name in model.deploy()[""].state_dict() if "similarity" in name]


def test_the_best_state_is_restored_with_its_transform(task):
    model = make(max_epochs=4)
    model.fit(task)
    assert train.validate(model, task) == train.validate(model.deploy()[""], task)


# ---- configuration --------------------------------------------------------------------------


def test_batches_of_one_node_are_refused_with_batch_norm():
    with pytest.raises(ValueError, match="batch_size 1 leaves batch_norm nothing to average over"):
        make(batch_size=1)
    make(batch_size=1, batch_norm="none")
    make(batch_size=1, num_segments=0)  # no transform, no batch norm


@pytest.mark.parametrize("schedule", ["mean", "sum"])
def test_a_last_part_of_one_node_is_refused_with_batch_norm(task, schedule):
    options = {"batch_size": 2, "schedule": schedule, "label_weight": 0.5}  # 7 train nodes
    with pytest.raises(ValueError, match="one batch has a single node; give a larger batch_size"):
        make(**options).fit(task)
    make(**options, batch_norm="none", max_epochs=2).fit(task)


def test_the_mlp_is_trained_as_glnns_for_each_dataset():
    for dataset in ("cpf-cora", "citeseer", "ogbn-arxiv", "synthetic"):
        where = {"dataset": dataset, "split": "public" if dataset == "citeseer" else "random"}
        ours, theirs = (registry.configure("student", n, {}, where) for n in ("norm", "glnn"))
        shared = ("num_layers", "hidden_dim", "dropout", "weight_decay", "lr", "norm", "max_epochs")
        assert [ours[name] for name in shared] == [theirs[name] for name in shared]


# ---- what it is taught by -------------------------------------------------------------------


def test_matching_is_knowledge_of_a_middle_layer_and_the_controls_have_none():
    assert NORM.knowledge_of({"num_segments": 8, "matching_weight": 0.01}) == ("output", "middle")
    assert NORM.knowledge_of({"num_segments": 8, "matching_weight": 0.0}) == ("output",)
    assert NORM.knowledge_of({"num_segments": 0, "matching_weight": 1.0}) == ("output",)
    both = {"num_segments": 8, "matching_weight": 1.0, "similarity_weight": 0.1}
    assert NORM.knowledge_of(both) == ("output", "middle", "constructed")
