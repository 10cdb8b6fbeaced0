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


def test_every_edge_comes_in_both_directions_and_loops_never(task):
    found = {tuple(pair) for pair in links.directed(task.graph).T.tolist()}
    once = {(0, 1), (1, 2), (1, 3), (2, 3)}
    assert found == once | {(b, a) for a, b in once}


def test_classes_count_as_their_labelled_nodes_do(task):
    # Labelled ends: class 0 twice (node 0), class 1 six times (node 1); one node each.
    known = links.known(links.directed(task.graph), task.graph.y, 2)
    # 1/2 and 1/6, over their mean 1/3
    torch.testing.assert_close(known.class_weights, torch.tensor([1.5, 0.5]))
    assert known.free == pytest.approx(1 - 8 / 16)
    assert known.labelled == pytest.approx(2 / 5)


def test_a_class_without_a_labelled_end_has_no_weight(task):
    weights, _, _ = links.known(links.directed(task.graph), task.graph.y, 3)
    torch.testing.assert_close(weights, torch.tensor([1.5, 0.5, 0.0]))
    nothing, free, _ = links.known(torch.zeros(2, 0, dtype=torch.int64), task.graph.y, 2)
    assert nothing.tolist() == [0.0, 0.0]
    assert free == 1.0
    assert links.label_loss(torch.zeros(2, 2), torch.tensor([-1, -1]), weights) is None


def heads(model, task, nodes):
    hidden = model.mlp.hidden(model.mlp.first(task.graph, nodes))
    return model.mlp.own(hidden), model.mlp.neighbour(hidden)


def plain(kind, **options):
    """A model without batch statistics or dropout: what it computes of a node is that node's."""
    return make(kind, norm="none", dropout=0.0, **options)


def label_mean(logits, labels, weights) -> torch.Tensor:
    """Weighted mean over the rows that have a label."""
    each = F.cross_entropy(logits, labels.clamp(min=0), reduction="none")
    scale = weights[labels.clamp(min=0)] * (labels >= 0)
    return (scale * each).sum() / scale.sum()


WEIGHTS = torch.tensor([1.5, 0.5])


def linkdist_by_hand(model, task, source, target) -> torch.Tensor:
    labels = task.graph.y
    (ys, zs), (yd, zd) = heads(model, task, source), heads(model, task, target)
    total = 0.5 * (F.mse_loss(ys, zd) + F.mse_loss(yd, zs))  # a = 1 - 8/16
    for nodes, own, other in ((source, ys, zd), (target, yd, zs)):
        total = total + label_mean(own, labels[nodes], WEIGHTS)
        total = total + label_mean(other, labels[nodes], WEIGHTS)
    return total


def test_an_end_that_has_no_label_leaves_the_mean_of_the_other_one_alone():
    y, z = torch.randn(4, 2), torch.randn(4, 2)
    labels = torch.tensor([0, 1, -1, -1])
    found = links.label_terms((y, z), labels, WEIGHTS)
    own = sum(F.cross_entropy(head[:2], labels[:2], WEIGHTS) for head in (y, z))
    torch.testing.assert_close(found, own)
    assert links.label_terms((y, z), torch.full((4,), -1), WEIGHTS) == 0.0


def test_linkdist_by_its_formula(task):
    model = plain(LinkDist)
    batch = edges_of(task, model)
    expected = linkdist_by_hand(model, task, *batch.pairs)
    torch.testing.assert_close(model.loss(task, batch, step()), expected)


def test_colinkdist_by_its_formula(task):
    model = plain(LinkDist, negatives=True)
    batch = edges_of(task, model)
    source, target = batch.pairs
    labels, drawn = task.graph.y, torch.randint(5, (8,), generator=step().generator)
    (ys, zs), (yd, zd), (yr, zr) = (heads(model, task, n) for n in (source, target, drawn))
    p, q = ([h.softmax(1) for h in hs] for hs in ((ys, yd, yr), (zs, zd, zr)))
    pairs = [(p[0], q[2]), (p[1], q[2]), (p[2], q[0]), (p[2], q[1])]
    expected = linkdist_by_hand(model, task, source, target)
    expected = expected - 0.5 * 0.5 * sum(F.mse_loss(one, two) for one, two in pairs)
    # Of the nodes 2/5 have a label, of the ends of edges 1/2: of 0.1 they get 4/9 and 5/9.
    for nodes in (source, target):
        expected = expected - 0.1 * 4 / 9 * label_mean(zr, labels[nodes], WEIGHTS)
    expected = expected + 2 * label_mean(yr, labels[drawn], torch.ones(2))
    for z in (zs, zd):
        expected = expected - 0.1 * 5 / 9 * label_mean(z, labels[drawn], torch.ones(2))
    assert (labels[drawn] >= 0).any()
    torch.testing.assert_close(model.loss(task, batch, step()), expected)


def test_few_labels_keep_their_shares_as_colinkdists_weights():
    # A cycle of 100 nodes with one label: 0.01 of the nodes and of the ends, below 0.1 together.
    ring = toys.adjacency(100, [(i, (i + 1) % 100) for i in range(100)])
    task = toys.task(toys.graph(ring), [0], [2])
    torch.manual_seed(0)
    model = LinkDist(LinkDist.Config(hidden_dim=6, norm="none", dropout=0.0), 3, 2, 100)
    ends = torch.tensor([0, 1, 1, 0])
    y, z = heads(model, task, ends)
    drawn = torch.randint(100, (2,), generator=step().generator)
    assert (task.graph.y[drawn] < 0).all()  # no label: the other two terms are 0
    own, other = (h.repeat(2, 1) for h in heads(model, task, drawn))
    apart = -0.99 * (links.apart(y, other) + links.apart(own, z))
    label = label_mean(other[:1], torch.tensor([0]), torch.ones(2))
    label = label + label_mean(other[3:], torch.tensor([0]), torch.ones(2))
    found = model.contrast(task, step(), y, z, task.graph.y[ends])
    torch.testing.assert_close(found, apart - 0.01 * label)


def test_the_heads_normalise_by_themselves(task):
    model = make(LinkDist, norm="batch+layer", dropout=0.0)
    both = heads(model, task, torch.arange(5))
    with torch.no_grad():
        model.mlp.second[0][1].weight.mul_(2.0)  # the layer norm of z alone
    changed = heads(model, task, torch.arange(5))
    assert torch.equal(both[0], changed[0])
    assert not torch.allclose(both[1], changed[1])
    h = model.mlp.first(task.graph, torch.arange(5))
    h = model.mlp.layers[1](model.mlp.norms[0](h).relu())
    h = F.batch_norm(h, None, None, training=True)
    y = model.mlp.layers[2](F.layer_norm(h, (6,)).relu())
    torch.testing.assert_close(both[0], y)


def test_tgs_by_its_formula_on_mixed_features(task):
    model = plain(TGS, num_layers=3, mixing_ratio=0.6, label_weight=0.7)
    first, x = model.mlp.layers[0], task.graph.x
    batch = edges_of(task, model)
    source, target = batch.pairs
    own, other = torch.cat([source, target]), torch.cat([target, source])

    def embed(nodes):
        return F.normalize(x[nodes] @ first.weight + first.bias)

    scores = torch.cat([embed(own), embed(other)], 1) @ model.attend.weight + model.attend.bias
    part = 0.6 + 0.4 * scores.sigmoid()
    mixed = part * x[other] + (1 - part) * x[own]  # features, not products
    z = model.mlp.neighbour(model.mlp.hidden(mixed @ first.weight + first.bias))
    y, _ = heads(model, task, own)
    drawn = torch.randint(5, (8,), generator=step().generator)
    _, random = heads(model, task, drawn)
    p, q = y.softmax(1), random.softmax(1)
    expected = F.mse_loss(y[:8], z[:8]) + F.mse_loss(y[8:], z[8:])
    expected = expected - F.mse_loss(p[:8], q) - F.mse_loss(p[8:], q)
    for side in (slice(8), slice(8, None)):
        for head in (y, z):
            mean = label_mean(head[side], task.graph.y[own[side]], WEIGHTS)
            expected = expected + 0.7 * mean
    torch.testing.assert_close(model.loss(task, batch, step()), expected)


@pytest.mark.parametrize("kind", [LinkDist, TGS])
def test_what_is_shipped_is_a_plain_mlp(task, kind):
    model = plain(kind, num_layers=3, max_epochs=2)
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
    model = make(LinkDist, batch_size=5)
    (batch,) = model.batches(task, step())  # the remainder is dropped
    assert batch.pairs.shape == (2, 5)
    known = set(zip(*links.directed(task.graph).tolist(), strict=True))
    assert {tuple(pair) for pair in batch.pairs.T.tolist()} < known
