import pytest
import torch

from bench import registry, train
from bench.method import Step
from bench.students.ensemble import Ensemble, matching_width
from bench.students.glnn import GLNN
from tests import toys


@pytest.fixture
def task():
    logits = torch.randn(30, 3, generator=torch.Generator().manual_seed(5))
    return toys.with_teacher(toys.task(toys.random_graph(), list(range(7)), [7, 8, 9]), logits)


def make(**options) -> Ensemble:
    torch.manual_seed(0)
    return Ensemble(Ensemble.Config(**{"hidden_dim": 8, "num_members": 3, **options}), 12, 3, 30)


def test_the_logits_are_the_log_of_the_mean_probability(task):
    model = make().eval()
    probs = [member(task.graph).logits.softmax(1) for member in model.members]
    torch.testing.assert_close(model(task.graph).logits.exp(), torch.stack(probs).mean(0))
    assert model(task.graph).hidden.shape == (30, 24)


def test_members_differ_and_so_do_their_predictions(task):
    one, two = (member(task.graph).logits for member in list(make().members)[:2])
    assert not torch.allclose(one, two)


def test_members_are_trained_as_if_they_were_alone(task):
    options = {"max_epochs": 5, "selection": "last", "batch_size": 8, "label_weight": 0.3}
    model = make(**options)
    alone = []
    for member in model.members:
        twin = GLNN(GLNN.Config(hidden_dim=8, **options), 12, 3, 30)
        twin.mlp.load_state_dict(member.mlp.state_dict())
        train.fit(twin, task)
        alone.append(twin)
    train.fit(model, task)
    for member, twin in zip(model.members, alone, strict=True):
        torch.testing.assert_close(
            dict(member.mlp.named_parameters()), dict(twin.mlp.named_parameters())
        )


def test_a_pass_without_weight_computes_nothing(task):
    model = make(label_weight=0.0)
    step = Step(0, 1, torch.Generator().manual_seed(0))
    batches = list(model.batches(task, step))
    assert batches[0].labelled
    assert model.loss(task, batches[0], step) is None


@pytest.mark.parametrize("num_layers", [2, 3])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_the_width_matches_a_number_of_parameters(num_layers, norm):
    goal = 5000
    model = make(num_layers=num_layers, norm=norm, match_parameters=goal, width_factor=3.0)
    width = model.members[0].config.width
    for other in (width - 1, width + 1):
        off = make(num_layers=num_layers, norm=norm, hidden_dim=other)
        assert abs(model.num_parameters() - goal) <= abs(off.num_parameters() - goal)


def test_a_number_too_small_gives_the_smallest_width():
    assert matching_width(make().config, 12, 3, 1.0) == 1


def test_what_is_shipped_has_no_encoder_of_the_similarity():
    model = make(similarity_weight=0.5)
    assert any("similarity" in name for name, _ in model.named_parameters())
    shipped = model.deploy()[""]
    assert not any("similarity" in name for name, _ in shipped.named_parameters())
    assert any("similarity" in name for name, _ in model.named_parameters())  # left as it was


def test_presets_resolve():
    where = {"dataset": "cora", "split": "public", "setting": "transductive", "teacher": "sage"}
    assert registry.configure("student", "ensemble", {}, where)["hidden_dim"] == 128
    found = registry.configure("student", "ensemble:rbm", {}, where)
    assert (found["hidden_dim"], found["num_members"], found["schedule"]) == (512, 4, "sum")
