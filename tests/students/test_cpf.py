import math

import pytest
import torch

from bench import score
from bench.graph import TeacherOutput
from bench.method import Batch, Step
from bench.students.cpf import CPF
from tests import toys


def make(num_nodes=3, **options):
    torch.manual_seed(0)
    return CPF(CPF.Config(hidden_dim=4, **options), 3, 2, num_nodes).eval()


def star():
    """0 in the middle of 1 and 2; node 1 is of class 1 and known."""
    graph = toys.graph(toys.adjacency(3, [(0, 1), (0, 2)]))
    return graph.replace(y=torch.tensor([-1, 1, -1]))


def own_of(model, graph):
    return model.last(model.first(graph.x).relu())


@pytest.mark.parametrize("variant", ["ind", "tra"])
def test_a_hop_by_hand(variant):
    graph, model = star(), make(variant=variant, num_hops=1)
    scores = torch.tensor([0.0, math.log(3.0), 0.0])  # source 1 weighs 3/4, source 2 1/4
    if variant == "ind":
        weight = torch.linalg.pinv(graph.x) @ scores
        model.score.weight.data = weight.unsqueeze(1)
    else:
        model.free_score.data = scores
    own = own_of(model, graph)
    around = 0.75 * torch.tensor([0.0, 1.0]) + 0.25 * torch.tensor([0.5, 0.5])
    expected = (0.5 * around + 0.5 * own[0]).relu()  # balances start at sigmoid(0)
    logits = model(graph).logits
    torch.testing.assert_close(logits[0], expected, atol=1e-4, rtol=1e-4)
    assert logits[1].tolist() == [0.0, 1.0]  # it has its label back
    torch.testing.assert_close(logits[2], (0.5 * torch.tensor([0.5, 0.5]) + 0.5 * own[2]).relu())


def test_labels_spread_by_one_edge_a_hop():
    graph = toys.graph(toys.path(5), num_classes=2)
    for hops in (1, 2, 3):
        model = make(5, num_hops=hops)
        found = []
        for label in (0, 1):
            given = graph.replace(y=torch.tensor([label, -1, -1, -1, -1]))
            for layer in (model.first, model.last):
                layer.weight.data.zero_()
            found.append(model(given).logits)
        moved = (found[0] - found[1]).abs().sum(1) > 0
        assert moved.tolist() == [i <= hops for i in range(5)]


def test_a_balance_of_one_side_is_propagation_or_the_mlp_alone():
    graph, model = star(), make(variant="tra", num_hops=1)
    model.free_balance.data.fill_(-40.0)
    own = own_of(model, graph).relu()
    torch.testing.assert_close(model(graph).logits[[0, 2]], own[[0, 2]])
    model.free_balance.data.fill_(40.0)
    torch.testing.assert_close(model(graph).logits[2], torch.tensor([0.5, 0.5]))


def test_the_loss_is_the_distance_to_the_teacher_off_train():
    graph = star()
    task = toys.with_teacher(toys.task(graph, [1], [2]), torch.randn(3, 2))
    task.graph.y.copy_(graph.y)
    model = make()
    (batch,) = model.batches(task, Step(0, 1, torch.Generator()))
    assert batch.nodes.tolist() == [0, 2]
    gap = (model(task.graph).logits.softmax(1) - task.teacher.logits.softmax(1))[[0, 2]]
    found = model.loss(task, Batch(batch.nodes), Step(0, 1, torch.Generator()))
    torch.testing.assert_close(found, gap.square().sum().sqrt())


def test_numbers_of_each_node_refuse_unseen_nodes():
    model = make(variant="tra")
    assert model.supports("transductive") is None
    for setting in ("production", "inductive"):
        assert "has unseen nodes; use variant 'ind'" in model.supports(setting)
        assert make(variant="ind").supports(setting) is None
    with pytest.raises(ValueError, match="was made for 3 nodes, and the graph has 5"):
        model(toys.graph(toys.path(5)))


@pytest.mark.parametrize("setting", ["transductive", "production"])
def test_a_model_that_reads_labels_is_handed_those_of_train_alone(setting):
    exam = toys.exam("nodes=150,classes=3,features=40,words=6", "ratio", setting)
    task = exam.task(0, TeacherOutput(torch.zeros(len(exam.observed), 3)))
    model = CPF(CPF.Config(hidden_dim=4), 40, 3, task.num_nodes)
    seen = score.deployed_graph(model, exam, "cpu", seen=True)
    assert torch.equal(seen.y, task.graph.y)
    whole = score.deployed_graph(model, exam, "cpu")
    train = exam.split.train
    assert torch.equal(whole.y[train], exam.graph.y[train])
    assert (whole.y >= 0).sum() == len(train)
    model.reads_labels = False
    assert (score.deployed_graph(model, exam, "cpu").y == -1).all()
