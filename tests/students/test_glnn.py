import pytest
import torch

from bench import losses, train
from bench.method import Batch, Step
from bench.students.glnn import GLNN
from tests import toys


@pytest.fixture
def task():
    graph = toys.random_graph()
    logits = torch.randn(30, 3, generator=torch.Generator().manual_seed(5))
    return toys.with_teacher(toys.task(graph, list(range(7)), [7, 8, 9]), logits)


def make(**options) -> GLNN:
    torch.manual_seed(0)
    return GLNN(GLNN.Config(hidden_dim=8, **options), 12, 3, 30)


def step() -> Step:
    return Step(0, 1, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("size", "labelled", "observed"),
    [(4, [4], [4] * 7), (10, [7], [10] * 3), (512, [7], [30]), (0, [7], [30])],
)
def test_an_epoch_is_a_labelled_pass_and_then_one_over_all_nodes(task, size, labelled, observed):
    batches = list(make(batch_size=size).batches(task, step()))
    assert [len(batch.nodes) for batch in batches] == labelled + observed
    assert [batch.labelled for batch in batches] == [True] * len(labelled) + [False] * len(observed)
    assert all(batch.ends_step and batch.pairs is None for batch in batches)
    assert set(batches[0].nodes.tolist()) <= set(range(7))


def test_each_pass_has_its_term_and_its_weight(task):
    model = make(label_weight=0.3, temperature=2.0)
    nodes = torch.tensor([2, 5])
    logits = model(task.graph, nodes).logits
    hard = losses.hard_label_loss(logits, task.graph.y[nodes])
    soft = losses.soft_label_loss(logits, task.teacher.log_probs(2.0)[nodes], 2.0)
    torch.testing.assert_close(model.loss(task, Batch(nodes, labelled=True), step()), 0.3 * hard)
    torch.testing.assert_close(model.loss(task, Batch(nodes), step()), 0.7 * soft)


def test_a_pass_without_weight_computes_nothing(task):
    nodes = torch.tensor([2, 5])
    assert make(label_weight=0.0).loss(task, Batch(nodes, labelled=True), step()) is None
    assert make(label_weight=1.0).loss(task, Batch(nodes), step()) is None


def test_the_labelled_pass_without_weight_is_still_an_adam_step(task):
    options = {"label_weight": 0.0, "weight_decay": 0.05, "max_epochs": 3, "selection": "last"}
    model, twin = make(batch_size=4, **options), make(batch_size=4, **options)
    model.fit(task)
    optimizer = torch.optim.Adam(twin.parameters(), lr=0.01, weight_decay=0.05)
    with train.seeded(task.seed, "fit") as generator:
        for epoch in range(3):
            for batch in twin.batches(task, Step(epoch, 3, generator)):
                optimizer.zero_grad()
                logits = twin(task.graph, batch.nodes).logits
                weight = 0.0 if batch.labelled else 1.0  # a true loss, times zero
                target = task.teacher.log_probs()[batch.nodes]
                (weight * losses.soft_label_loss(logits, target)).backward()
                optimizer.step()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_the_width_factor_widens_the_hidden_layers():
    assert make(width_factor=4.0).mlp.layers[0].weight.shape == (12, 32)
