"""What LinkDist and TGS share, and their losses by hand."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from bench import links
from bench.method import Batch, Step
from bench.students.linkdist import LinkDist
from bench.students.tgs import TGS
from tests import toys


@pytest.fixture
def task():
    # 0 - 1 - 2 - 3 and 1 - 3; train nodes 0 (class 0) and 1 (class 1), self-loops stored.
    adj = toys.adjacency(5, [(0, 1), (1, 2), (2, 3), (1, 3)], loops=True)
    return toys.task(toys.graph(adj), [0, 1], [2])


def make(kind, **options):
    torch.manual_seed(0)
    return kind(kind.Config(hidden_dim=6, **options), 3, 2, 5)


def step() -> Step:
    return Step(0, 1, torch.Generator().manual_seed(0))


def edges_of(task, model) -> Batch:
    pairs, _ = model.links(task)
    return Batch(pairs[0], pairs=pairs)


def test_every_edge_comes_once_and_loops_never(task):
    assert links.undirected(task.graph).tolist() == [[0, 1, 1, 2], [1, 2, 3, 3]]


def test_classes_count_as_their_labelled_nodes_do(task):
    # Labelled ends: class 0 once (node 0), class 1 three times (node 1); one node each.
    weights, free = links.known(links.undirected(task.graph), task.graph.y, 2)
    # 1/1 and 1/3, over their mean 2/3
    torch.testing.assert_close(weights, torch.tensor([1.5, 0.5]))
    assert free == pytest.approx(1 - 4 / 8)


def test_a_class_without_a_labelled_end_has_no_weight(task):
    weights, _ = links.known(links.undirected(task.graph), task.graph.y, 3)
    torch.testing.assert_close(weights, torch.tensor([1.5, 0.5, 0.0]))
    nothing, free = links.known(torch.zeros(2, 0, dtype=torch.int64), task.graph.y, 2)
    assert nothing.tolist() == [0.0, 0.0]
    assert free == 1.0
    assert links.label_loss(torch.zeros(2, 2), torch.tensor([-1, -1]), weights) is None


def heads(model, task, nodes):
    return model.mlp.rest(model.mlp.first(task.graph, nodes))


def label_terms(task, y, z, ends, weights) -> torch.Tensor:
    """Weighted means over labelled ends, of the own head and of that of the neighbour."""
    total = 0.0
    labels = task.graph.y[ends]
    for logits in (y, z):
        each = F.cross_entropy(logits, labels.clamp(min=0), reduction="none")
        scale = weights[labels.clamp(min=0)] * (labels >= 0)
        total = total + (scale * each).sum() / scale.sum()
    return total


def test_linkdist_by_its_formula(task):
    model = make(LinkDist)
    source, target = links.undirected(task.graph)
    (ys, zs), (yd, zd) = heads(model, task, source), heads(model, task, target)
    both = torch.cat([source, target])
    expected = 0.5 * (F.mse_loss(ys, zd) + F.mse_loss(yd, zs))  # a = 1 - 4/8
    weights = torch.tensor([1.5, 0.5])
    expected = expected + label_terms(task, torch.cat([ys, yd]), torch.cat([zd, zs]), both, weights)
    found = model.loss(task, edges_of(task, model), step())
    torch.testing.assert_close(found, expected)


def test_negatives_push_away_from_random_nodes(task):
    plain, model = make(LinkDist), make(LinkDist, negatives=True)
    source, target = links.undirected(task.graph)
    drawn = torch.randint(5, (8,), generator=step().generator)
    y, _ = heads(model, task, torch.cat([source, target]))
    _, z = heads(model, task, drawn)
    p, q = y.softmax(1), z.softmax(1)
    apart = 0.5 * 0.5 * (F.mse_loss(p[:4], q[:4]) + F.mse_loss(p[4:], q[4:]))
    difference = plain.loss(task, edges_of(task, plain), step()) - model.loss(
        task, edges_of(task, model), step()
    )
    torch.testing.assert_close(difference, apart)


def test_tgs_by_its_formula_on_mixed_features(task):
    model = make(TGS, num_layers=3, mixing_ratio=0.6, label_weight=0.7, dropout=0.0)
    first, x = model.mlp.layers[0], task.graph.x
    source, target = links.undirected(task.graph)
    own, other = torch.cat([source, target]), torch.cat([target, source])

    def embed(nodes):
        return F.normalize(x[nodes] @ first.weight + first.bias)

    scores = torch.cat([embed(own), embed(other)], 1) @ model.attend.weight + model.attend.bias
    part = 0.6 + 0.4 * scores.sigmoid()
    mixed = part * x[other] + (1 - part) * x[own]  # features, not products
    _, z = model.mlp.rest(mixed @ first.weight + first.bias)
    y, _ = heads(model, task, own)
    drawn = torch.randint(5, (8,), generator=step().generator)
    _, random = heads(model, task, drawn)
    p, q = y.softmax(1), random.softmax(1)
    expected = F.mse_loss(y[:4], z[:4]) + F.mse_loss(y[4:], z[4:])
    expected = expected - F.mse_loss(p[:4], q[:4]) - F.mse_loss(p[4:], q[4:])
    labels = label_terms(task, y, z, own, torch.tensor([1.5, 0.5]))
    found = model.loss(task, edges_of(task, model), step())
    torch.testing.assert_close(found, expected + 0.7 * labels)


@pytest.mark.parametrize("kind", [LinkDist, TGS])
def test_what_is_shipped_is_a_plain_mlp(task, kind):
    model = make(kind, num_layers=3, max_epochs=2)
    model.fit(task)
    (light,) = model.deploy().values()
    assert light.num_parameters() == (3 + 1) * 6 + (6 + 1) * 6 + (6 + 1) * 2
    assert torch.equal(light(task.graph).logits, model(task.graph).logits)
    assert {name.partition(".")[0] for name, _ in light.named_parameters()} == {"mlp"}
    assert hasattr(model.mlp, "second")  # the fitted model keeps it


@pytest.mark.parametrize("kind", [LinkDist, TGS])
def test_a_graph_without_edges_teaches_nothing(task, kind):
    bare = toys.task(task.graph.without_edges(), [0, 1], [2])
    model = make(kind)
    assert list(model.batches(bare, step())) == []
    with pytest.raises(ValueError, match="no train node has an edge to another one"):
        model.fit(bare)
    other = toys.task(task.graph, [4], [2])  # node 4 has none but its loop
    with pytest.raises(ValueError, match="no train node has an edge to another one"):
        make(kind).fit(other)
    assert kind.knowledge_of({}) == ("self",)


def test_batches_are_random_parts_of_the_edges(task):
    model = make(LinkDist, batch_size=3)
    (batch,) = model.batches(task, step())  # the remainder is dropped
    assert batch.pairs.shape == (2, 3)
    known = set(zip(*links.undirected(task.graph).tolist(), strict=True))
    assert {tuple(pair) for pair in batch.pairs.T.tolist()} < known
