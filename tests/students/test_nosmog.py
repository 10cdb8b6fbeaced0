import pytest
import torch

from bench import adversarial, knowledge, losses, registry
from bench.graph import TeacherOutput
from bench.method import Batch, Step
from bench.students.nosmog import NOSMOG
from tests import toys


@pytest.fixture
def task():
    graph = toys.random_graph().replace(extra=torch.ones(30, 2))
    logits, hidden = (
        torch.randn(30, size, generator=torch.Generator().manual_seed(size)) for size in (3, 5)
    )
    given = toys.task(graph, list(range(7)), [7, 8, 9])
    output = TeacherOutput(logits, None, lambda: hidden)
    return type(given)(given.graph, given.split, output, 0, given.val_accuracy)


def make(**options) -> NOSMOG:
    torch.manual_seed(0)
    return NOSMOG(NOSMOG.Config(hidden_dim=8, **options), 14, 3, 30)


def step() -> Step:
    return Step(0, 4, torch.Generator().manual_seed(0))


def test_a_batch_has_a_task_an_adversarial_and_a_similarity_term(task):
    model, nodes = make(adversarial_radius=0.05, batch_size=16), torch.arange(16)
    found = model.loss(task, Batch(nodes), step())
    targets = task.teacher.log_probs()[nodes]
    logits, hidden = model(task.graph, nodes)
    own = task.graph.subgraph(nodes)

    def moved(shift):
        return losses.soft_label_loss(model(own.replace(shift=shift)).logits, targets)

    start = torch.rand(16, 14, generator=step().generator) * 0.1 - 0.05
    shift = adversarial.worst_shift(moved, start, 0.05, 5)
    gram = knowledge.gram_loss(model.similarity(hidden), task.teacher.hidden[nodes])
    plain = losses.soft_label_loss(logits, targets)
    torch.testing.assert_close(found, plain + 0.1 * moved(shift) + 0.1 * gram)


def test_an_epoch_is_glnns_two_passes(task):
    batches = list(make(batch_size=10).batches(task, step()))
    assert [(len(b.nodes), b.labelled) for b in batches] == [(7, True), *[(10, False)] * 3]
    assert all(batch.ends_step for batch in batches)


def test_the_presets_know_the_setting_and_the_weight_decay_the_official_code_runs_with():
    where = {"dataset": "cpf-cora", "setting": "transductive"}
    config = registry.configure("student", "nosmog", {}, where)
    assert (config["lr"], config["weight_decay"], config["walks_per_node"]) == (0.01, 5e-4, 5)
    config = registry.configure("student", "nosmog", {}, {**where, "setting": "production"})
    assert (config["walks_per_node"], config["walk_window"], config["walk_epochs"]) == (1, 3, 3)
