import copy

import pytest
import torch

from bench import losses
from bench.graph import TeacherOutput
from bench.method import Batch, Step
from bench.norm_transform import standardise
from bench.students.norm_gnn import NORMGNN
from tests import toys

BACKBONES = [
    {"backbone": "gcn"},
    {"backbone": "sage", "aggregator": "mean"},
    {"backbone": "sage", "aggregator": "gcn"},
    {"backbone": "sage", "aggregator": "gcn", "batch_norm": "both"},
]
NAMES = ["gcn", "sage-mean", "sage-gcn", "sage-gcn-bn"]


def graph_of(*, loops: bool):
    """A random graph; without loops, node 0 is isolated."""
    graph = toys.random_graph(loops=loops)
    dense = graph.adj.to_dense()
    dense[0, 1:] = dense[1:, 0] = 0
    return graph.replace(adj=toys.csr(dense.tolist()))


def task_of(graph):
    logits, hidden = (
        torch.randn(30, size, generator=torch.Generator().manual_seed(size)) for size in (3, 5)
    )
    given = toys.task(graph, list(range(7)), [7, 8, 9])
    output = TeacherOutput(logits, None, lambda: hidden)
    return type(given)(given.graph, given.split, output, 0, given.val_accuracy)


def make(**options) -> NORMGNN:
    torch.manual_seed(0)
    chosen = {"hidden_dim": 8, "num_segments": 4, "dropout": 0.0, **options}
    return NORMGNN(NORMGNN.Config(**chosen), 12, 3, 30)


def step() -> Step:
    return Step(12, 24, torch.Generator().manual_seed(0))


def test_the_loss_is_of_all_observed_nodes_in_one_step():
    task = task_of(graph_of(loops=True))
    model = make(label_weight=0.25, temperature=2.0, matching_weight=3.0)
    (batch,) = model.batches(task, step())
    assert torch.equal(batch.nodes, torch.arange(30))
    model.prepare(task)
    twin = copy.deepcopy(model)
    first, head = twin.stack.convolutions
    blocks = task.graph.blocks(None, 2, "symmetric")
    states = first.of_graph(blocks[0], task.graph, 0.0).relu()
    segments = states @ head.transform.first.weight
    logits = head.layer(blocks[1], states + segments @ head.transform.second.weight)
    hard = losses.hard_label_loss(logits[:7], task.graph.y[:7])
    soft = losses.soft_label_loss(logits, task.teacher.log_probs(2.0), 2.0)
    matched = toys.segment_loss(segments, standardise(task.teacher.hidden.relu()))
    expected = 0.25 * hard + 0.75 * soft + 3.0 * matched
    torch.testing.assert_close(model.loss(task, batch, step()), expected)


@pytest.mark.parametrize("loops", [True, False], ids=["loops", "isolated"])
@pytest.mark.parametrize("options", BACKBONES, ids=NAMES)
def test_the_shipped_gnn_is_the_plain_one_and_computes_the_same(options, loops):
    task = task_of(graph_of(loops=loops))
    assert bool(task.graph.adj.degree[0]) == loops
    model = make(max_epochs=4, dropout=0.3, norm="batch", **options)
    model.fit(task)
    shipped, plain = model.deploy()[""].eval(), make(**options, norm="batch", num_segments=0)
    assert {k: v.shape for k, v in shipped.state_dict().items()} == {
        k: v.shape for k, v in plain.state_dict().items()
    }
    assert shipped.num_parameters() == plain.num_parameters()
    tree, same = ([(n, type(m)) for n, m in s.named_modules()][1:] for s in (shipped, plain))
    assert tree == same
    for nodes in (None, torch.tensor([0, 5, 29])):
        whole, found = model(task.graph, nodes), shipped(task.graph, nodes)
        torch.testing.assert_close(found.logits, whole.logits, atol=1e-4, rtol=0)
        assert torch.equal(found.logits.argmax(1), whole.logits.argmax(1))


def test_without_segments_or_without_matching_the_loss_is_distillation():
    task = task_of(graph_of(loops=True))
    for options in ({"num_segments": 0}, {"matching_weight": 0.0}):
        model = make(**options)
        value = model.loss(task, Batch(task.nodes), step())
        copy.deepcopy(model)  # which a kept graph of gradients would forbid
        soft = losses.soft_label_loss(model(task.graph).logits, task.teacher.log_probs())
        torch.testing.assert_close(value, soft)
        assert (model.head is None) == ("num_segments" in options)


@pytest.mark.parametrize(
    "options", [{"backbone": "gcn"}, {"backbone": "sage", "aggregator": "mean"}]
)
def test_a_constant_that_cannot_be_merged_is_refused_before_any_fit(options):
    with pytest.raises(ValueError, match="batch_norm 'both' adds a constant that cannot be merged"):
        make(batch_norm="both", **options)
    make(batch_norm="both", num_segments=0, **options)  # no transform, nothing to merge
