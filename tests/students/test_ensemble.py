import pytest
import torch

from bench import registry, train
from bench.method import Step
from bench.students.ensemble import Ensemble, shared_width
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


def test_members_share_the_parameters_of_one_mlp_by_hand():
    # 12 features, 3 classes: an MLP of width H has 13 H + 3 (H + 1) = 16 H + 3 parameters; one of
    # width 10 has 163. Three members: 3 (16 H + 3) <= 163 has H = 3 (153; with H = 4: 201).
    model = make(hidden_dim=10, match_parameters=True)
    assert [member.config.width for member in model.members] == [3, 3, 3]
    assert model.num_parameters() == 153
    assert GLNN(GLNN.Config(hidden_dim=10), 12, 3, 30).num_parameters() == 163


@pytest.mark.parametrize("num_layers", [2, 3])
@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("num_members", [1, 2, 5])
def test_members_that_share_have_as_much_as_fits_and_never_more(num_layers, norm, num_members):
    shape = {"num_layers": num_layers, "norm": norm, "num_members": num_members}
    alone = make(**{**shape, "num_members": 1}, hidden_dim=20, width_factor=2.0)
    model = make(**shape, hidden_dim=20, width_factor=2.0, match_parameters=True)
    width = model.members[0].config.width
    wider = make(**shape, hidden_dim=width + 1)
    assert model.num_parameters() <= alone.num_parameters() < wider.num_parameters()
    assert num_members > 1 or width == 40


def test_members_too_many_for_the_parameters_of_one_are_refused():
    config = make(hidden_dim=2, num_members=1).config
    assert shared_width(config, 12, 3) == 2
    with pytest.raises(ValueError, match=r"3 members of one hidden unit have 57 .* give fewer mem"):
        make(hidden_dim=2, match_parameters=True)  # 16 H + 3: 3 * 19 = 57, and 35 for one of 2


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
