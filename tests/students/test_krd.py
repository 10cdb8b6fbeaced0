import pytest
import torch

from bench import losses, registry
from bench.graph import TeacherOutput
from bench.method import Output, Step
from bench.students.krd import KRD
from tests import toys


@pytest.fixture
def task():
    graph = toys.random_graph()
    weight = torch.randn(12, 3, generator=torch.Generator().manual_seed(3))

    def teacher(given, nodes=None):
        shift = 0 if given.shift is None else given.shift
        return Output(*[(given.x.to_dense() + shift) @ weight] * 2)

    given = toys.task(graph, list(range(7)), [7, 8, 9])
    output = TeacherOutput(teacher(graph).logits, lambda: teacher)
    return type(given)(given.graph, given.split, output, 0, given.val_accuracy)


def make(**options) -> KRD:
    torch.manual_seed(0)
    return KRD(KRD.Config(hidden_dim=8, **options), 12, 3, 30)


def step(epoch: int = 0) -> Step:
    return Step(epoch, 4, torch.Generator().manual_seed(0))


def test_an_epoch_is_one_step_on_labels_and_on_the_mean_over_all_pairs(task):
    model = make(label_weight=0.3, reliability_start=0)
    model.begin_epoch(task, step())
    labelled, soft = model.batches(task, step())
    assert labelled.labelled
    assert not labelled.ends_step
    assert soft.ends_step
    assert torch.equal(labelled.nodes, task.split.train)
    logits = model(task.graph).logits
    hard = losses.hard_label_loss(logits[:7], task.graph.y[:7])
    torch.testing.assert_close(model.loss(task, labelled, step()), 0.3 * hard)
    i, j = soft.pairs
    divergence = losses.soft_label_loss(logits[i], task.teacher.log_probs()[j])
    torch.testing.assert_close(model.loss(task, soft, step()), 0.7 * divergence)


def test_edges_are_drawn_anew_each_epoch_and_less_reliable_ones_less_often(task):
    model = make(reliability_start=0, reliability_refit=1000)
    counts = torch.zeros(30)
    for epoch in range(200):
        model.begin_epoch(task, step(epoch))
        fresh = Step(epoch, 200, torch.Generator().manual_seed(epoch))
        *_, soft = model.batches(task, fresh)
        students, teachers = soft.pairs
        counts += torch.bincount(teachers[students != teachers], minlength=30)
    adj = task.graph.adj
    others = adj.indices.long()[adj.row_ids != adj.indices]
    degree = torch.bincount(others, minlength=30)
    share = counts / (200 * degree.clamp(min=1))
    expected = (1.0 - model.sampling.difficulty)[degree > 0]
    assert (share[degree > 0] - expected).abs().max() < 0.2
    assert (share[degree > 0] - expected).abs().mean() < 0.04


def test_the_shipped_model_is_the_mlp_alone(task):
    model = make(max_epochs=2)
    model.fit(task)
    shipped = model.deploy()[""]
    assert shipped.num_parameters() == sum(p.numel() for p in model.mlp.parameters())
    assert not hasattr(shipped, "sampling")


def test_the_presets_know_the_teacher():
    where = {"dataset": "cora", "setting": "transductive", "teacher": "sage"}
    config = registry.configure("student", "krd", {}, where)
    assert (config["num_layers"], config["hidden_dim"]) == (3, 1024)
    assert (config["label_weight"], config["temperature"]) == (0.3, 1.1)
    config = registry.configure("student", "krd", {}, {**where, "teacher": "gcn"})
    assert (config["label_weight"], config["temperature"]) == (0.5, 0.8)
