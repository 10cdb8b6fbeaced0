import pytest
import torch

from bench import registry, train
from bench.method import Step
from bench.students.rbm import RbM
from tests import toys


@pytest.fixture
def task():
    logits = torch.randn(30, 3, generator=torch.Generator().manual_seed(5))
    return toys.with_teacher(toys.task(toys.random_graph(), list(range(7)), [7, 8, 9]), logits)


def make(**options) -> RbM:
    torch.manual_seed(0)
    values = {"hidden_dim": 8, "max_epochs": 3, "warmup_epochs": 4, **options}
    return RbM(RbM.Config(**values), 12, 3, 30)


def one_loss(model: RbM, task) -> torch.Tensor:
    step = Step(0, 1, torch.Generator().manual_seed(0))
    batch = list(model.batches(task, step))[-1]
    return model.train().loss(task, batch, step)


def test_a_fit_warms_up_starts_the_memories_and_trains(task, monkeypatch):
    events = []
    model, fit, start = make(), train.fit, type(make().mlp).start

    def spy(method, given, config=None):
        used = config or method.config
        events.append((method.mlp.mode, used.max_epochs, used.selection))
        return fit(method, given, config)

    monkeypatch.setattr(train, "fit", spy)

    def spy_start(*arguments):
        events.append("start")
        start(*arguments)

    monkeypatch.setattr(type(model.mlp), "start", spy_start)
    log = model.fit(task)
    assert events == [("first", 4, "last"), "start", ("routed", 3, "val")]
    assert len(log.history["warmup_loss"]) == 4
    assert len(log.history["val_accuracy"]) == len(log.history["loss"]) == 3
    assert {"warmup", "start", "train"} <= log.seconds.keys()
    assert not model.training


def test_without_a_warm_up_the_memories_start_all_the_same(task):
    model = make(warmup_epochs=0)
    before = model.mlp.experts[0].router.memory.detach().clone()
    log = model.fit(task)
    assert "warmup_loss" not in log.history
    assert not torch.equal(model.mlp.experts[0].router.memory, before)


def test_the_warm_up_moves_neither_scales_nor_attention(task):
    model = make(input_attention=True, weight_decay=0.05, max_epochs=1, lr=1e-5)
    model.fit(task)  # the last phase is one step of 1e-5
    for layer in model.mlp.experts:
        assert (layer.log_scale.exp() - 2.0).abs() < 1e-3
        assert (layer.log_attention.exp() - 1.1).abs().max() < 1e-3


def test_the_loss_of_a_batch_has_the_auxiliary_one(task):
    options = {"commitment_weight": 0.0, "load_balance_weight": 0.0, "dropout": 0.0}
    plain = one_loss(make(self_similarity_weight=0.0, **options), task)
    more = one_loss(make(self_similarity_weight=1.0, **options), task)
    assert 0 < (more - plain).item() < 2.0 * 1.0  # two layers, mean of cosines


def test_a_memory_without_gradient_follows_its_rows_alone(task):
    moved = []
    for decay in (0.0, 0.09):  # of which the memory would see nothing but its length
        model = make(self_similarity_weight=0.0, weight_decay=decay, dropout=0.0)
        model.mlp.start(task.graph, 0)
        train.fit(model, task, RbM.Config(max_epochs=1, lr=1.0, weight_decay=decay))
        moved.append(model.mlp.experts[0].router.memory.detach())
    torch.testing.assert_close(*moved)


def test_the_memory_of_a_fit_depends_on_the_seed_alone(task):
    states = []
    for _ in range(2):
        model = make()
        model.fit(task)
        states.append(model.mlp.experts[1].router.memory.detach())
    assert torch.equal(*states)


def test_the_router_of_the_ablation_learns_from_the_loss(task):
    model = make(router="learned", load_balance_weight=0.0, num_layers=1)
    before = {k: v.detach().clone() for k, v in model.named_parameters() if "router" in k}
    model.fit(task)
    after = dict(model.named_parameters())
    assert before
    assert all(not torch.equal(after[k], v) for k, v in before.items())


def test_parameters_are_those_of_the_formula():
    model = make(num_layers=3, input_attention=True)  # E (ab + b) + E a (memory) + 1 + E a
    sizes = [(12, 8), (8, 8), (8, 3)]
    assert model.num_parameters() == sum(4 * (a * b + b) + 4 * a + 1 + 4 * a for a, b in sizes)


def test_what_is_shipped_has_no_encoder_of_the_similarity():
    model = make(similarity_weight=0.5)
    assert any("similarity" in name for name, _ in model.named_parameters())
    shipped = model.deploy()[""]
    assert not any("similarity" in name for name, _ in shipped.named_parameters())


@pytest.mark.parametrize("preset", ["default", "published"])
@pytest.mark.parametrize("teacher", ["gcn", "sage"])
def test_presets_resolve(preset, teacher):
    where = {"dataset": "cora", "split": "public", "setting": "transductive", "teacher": teacher}
    found = registry.configure("student", f"rbm:{preset}", {}, where)
    if teacher == "sage":
        assert (found["num_layers"], found["hidden_dim"], found["num_experts"]) == (3, 512, 4)
        assert found["temperature"] == 1.29
        assert found["reliable_sampling"] == (preset == "published")
    where = {**where, "dataset": "citeseer", "setting": "inductive", "teacher": "sage"}
    assert registry.configure("student", "rbm", {}, where)["commitment_weight"] == 1e-6
