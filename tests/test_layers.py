import itertools
import math

import pytest
import torch
from torch import nn

from bench.graph import Block
from bench.layers import (
    MLP,
    ConvStack,
    GATConv,
    GCNConv,
    Linear,
    MLPConfig,
    SAGEConv,
    make_norm,
    shuffled,
)
from bench.teachers.appnp import APPNP
from tests import toys


@pytest.fixture
def graph():
    return toys.random_graph()


def edges(adj) -> torch.Tensor:
    """PyG's edge index: from column (source) to row (target)."""
    return torch.stack([adj.indices.long(), adj.row_ids])


def whole(graph, kind: str) -> Block:
    return graph.blocks(None, 1, kind)[0]


def copy(target: nn.Parameter, source: torch.Tensor) -> None:
    assert target.shape == source.shape
    target.data.copy_(source)


def both_ways(graph, layer, kind, dropout=0.0) -> list[torch.Tensor]:
    """The layer on the graph's features, and on the same numbers as hidden states."""
    block = whole(graph, kind)
    return [layer.of_graph(block, graph, dropout), layer(block, graph.x.to_dense())]


# ---- Linear ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("with_extra", [True, False])
@pytest.mark.parametrize("nodes", [None, torch.tensor([3, 0, 3])])
def test_the_features_of_a_graph_are_multiplied_in_whatever_form(
    graph, bias, sparse, with_extra, nodes
):
    dense = graph.x.to_dense()
    extra = torch.randn(30, 2, generator=torch.Generator().manual_seed(1)) if with_extra else None
    graph = graph.replace(x=graph.x if sparse else dense, extra=extra)
    layer = Linear(14 if with_extra else 12, 5, bias=bias)
    inputs = torch.cat([dense, extra], 1) if with_extra else dense
    inputs = inputs if nodes is None else inputs[nodes]
    expected = inputs @ layer.weight + (layer.bias if bias else 0)
    torch.testing.assert_close(layer.of_graph(graph, nodes), expected)
    torch.testing.assert_close(layer(inputs), expected)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    ours, theirs = (
        torch.autograd.grad((product * weights).sum(), list(layer.parameters()))
        for product in (layer.of_graph(graph, nodes), expected)
    )
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("nodes", [None, torch.tensor([1, 2])])
def test_input_dropout_keeps_the_mean_and_drops_stored_features(graph, sparse, nodes):
    graph = graph if sparse else graph.replace(x=graph.x.to_dense())
    layer = Linear(12, 3, bias=False)
    torch.manual_seed(0)
    draws = torch.stack([layer.of_graph(graph, nodes, 0.5) for _ in range(300)]).detach()
    exact = layer.of_graph(graph, nodes).detach()
    assert draws.std(0).max() > 0
    assert ((draws.mean(0) - exact).abs() <= 5 * draws.std(0) / 300**0.5 + 1e-6).all()


def test_the_gradient_of_dropped_features_is_that_of_the_dropped_matrix(graph):
    layer = Linear(12, 3, bias=False)
    torch.manual_seed(0)
    product = layer.of_graph(graph, None, 0.5)
    torch.manual_seed(0)
    kept = graph.x.with_values(nn.functional.dropout(graph.x.values, 0.5)).to_dense()
    torch.testing.assert_close(product, kept @ layer.weight)
    ours, theirs = (
        torch.autograd.grad(p.square().sum(), layer.weight)[0]
        for p in (product, kept @ layer.weight)
    )
    torch.testing.assert_close(ours, theirs)


def test_weights_are_drawn_as_torch_draws_them():
    torch.manual_seed(0)
    layer = Linear(400, 300)
    for part in (layer.weight, layer.bias):
        assert part.abs().max() <= 1 / 20
        assert part.abs().max() > 0.99 / 20
    assert layer.weight.std().item() == pytest.approx(1 / 20 / math.sqrt(3), rel=0.02)
    glorot = Linear(400, 300, gain=2.0)
    assert glorot.weight.abs().max() <= 2 * math.sqrt(6 / 700)
    assert glorot.weight.std().item() == pytest.approx(2 * math.sqrt(2 / 700), rel=0.02)
    assert not glorot.bias.any()


# ---- MLP ------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
@pytest.mark.parametrize("training", [True, False])
def test_an_mlp_is_torchs(graph, norm, training):
    ours = MLP([12, 8, 6, 3], norm=norm, dropout=0.0).train(training)
    parts: list[nn.Module] = []
    for i, (a, b) in enumerate([(12, 8), (8, 6), (6, 3)]):
        linear = nn.Linear(a, b)
        copy(linear.weight, ours.layers[i].weight.data.t())
        copy(linear.bias, ours.layers[i].bias.data)
        parts += [linear, *([make_norm(norm, b), nn.ReLU()] if i < 2 else [])]
    theirs = nn.Sequential(*parts).train(training)
    logits, hidden = ours(graph)
    torch.testing.assert_close(logits, theirs(graph.x.to_dense()))
    if norm == "batch":
        torch.testing.assert_close(ours.norms[0].running_mean, theirs[1].running_mean)
    torch.testing.assert_close(hidden, theirs[:4](graph.x.to_dense()))  # before norm and ReLU


def test_an_mlp_of_one_layer_is_a_linear_model(graph):
    mlp = MLP([12, 3])
    logits, hidden = mlp(graph)
    torch.testing.assert_close(
        logits, graph.x.to_dense() @ mlp.layers[0].weight + mlp.layers[0].bias
    )
    assert hidden is logits


def test_dropout_acts_on_hidden_states_and_in_training_only(graph):
    mlp = MLP([12, 50, 3], dropout=0.5)
    torch.manual_seed(0)
    (one, hidden_one), (two, hidden_two) = mlp(graph), mlp(graph)
    assert not torch.equal(one, two)
    assert torch.equal(hidden_one, hidden_two)
    mlp.eval()
    assert torch.equal(mlp(graph)[0], mlp(graph)[0])


def test_batch_norm_of_a_single_node_is_refused_in_a_sentence_while_training(graph):
    mlp = MLPConfig(hidden_dim=4, norm="batch").build(graph.num_features, 3)
    one = torch.tensor([0])
    with pytest.raises(ValueError, match=r"has a single node; give a larger batch_size"):
        mlp(graph, one)
    assert mlp.eval()(graph, one)[0].isfinite().all()


def test_a_config_builds_the_mlp_of_its_shape():
    config = MLPConfig(num_layers=3, hidden_dim=10, width_factor=1.5, dropout=0.3, norm="batch")
    mlp = config.build(7, 4)
    assert [tuple(layer.weight.shape) for layer in mlp.layers] == [(7, 15), (15, 15), (15, 4)]
    assert mlp.dropout == 0.3
    assert [isinstance(norm, nn.BatchNorm1d) for norm in mlp.norms] == [True] * 2
    assert MLPConfig(num_layers=1).build(7, 4).layers[0].weight.shape == (7, 4)
    assert MLPConfig(hidden_dim=1, width_factor=0.1).build(7, 4).layers[0].weight.shape == (7, 1)


# ---- convolutions against PyG's -------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(12, 5), (12, 40)])  # either order of A, h and W
def test_gcn_is_pygs_on_a_graph_with_loops(graph, pyg, sizes):
    ours = GCNConv(*sizes)
    nn.init.normal_(ours.bias)
    theirs = pyg.GCNConv(*sizes, add_self_loops=False)
    copy(theirs.lin.weight, ours.linear.weight.data.t())
    copy(theirs.bias, ours.bias.data)
    expected = theirs(graph.x.to_dense(), edges(graph.adj))
    for product in both_ways(graph, ours, "symmetric"):
        torch.testing.assert_close(product, expected)


def test_a_stack_of_gcn_layers_is_pygs(graph, pyg):
    sizes = [12, 16, 16, 3]
    convolutions = [GCNConv(a, b) for a, b in itertools.pairwise(sizes)]
    stack = ConvStack(convolutions, sizes[1:-1], relu_first=True).eval()
    theirs = [pyg.GCNConv(a, b) for a, b in itertools.pairwise(sizes)]
    h, index = graph.x.to_dense(), edges(toys.random_graph(loops=False).adj)  # PyG adds the loops
    for i, (layer, mine) in enumerate(zip(theirs, convolutions, strict=True)):
        copy(layer.lin.weight, mine.linear.weight.data.t())
        h = layer(h, index)
        if i < 2:
            h = hidden = h.relu()
    logits, ours = stack(graph, None, "symmetric")
    torch.testing.assert_close(logits, h)
    torch.testing.assert_close(ours, hidden)


@pytest.mark.parametrize("sizes", [(12, 5), (12, 40)])
@pytest.mark.parametrize("loops", [True, False])
def test_sage_mean_is_pygs(pyg, sizes, loops):
    graph = toys.random_graph(loops=loops)
    ours = SAGEConv(*sizes, aggregator="mean")
    nn.init.normal_(ours.bias)
    theirs = pyg.SAGEConv(*sizes, aggr="mean")
    copy(theirs.lin_l.weight, ours.linear.weight.data.t())
    copy(theirs.lin_l.bias, ours.bias.data)
    copy(theirs.lin_r.weight, ours.own.weight.data.t())
    expected = theirs(graph.x.to_dense(), edges(graph.adj))
    for product in both_ways(graph, ours, "mean"):
        torch.testing.assert_close(product, expected)


@pytest.mark.parametrize("loops", [True, False])
def test_sage_gcn_is_its_formula(loops):
    graph = toys.random_graph(loops=loops)
    layer = SAGEConv(12, 5, aggregator="gcn")
    nn.init.normal_(layer.bias)
    adj, x = graph.adj.to_dense(), graph.x.to_dense()
    mean = (adj @ x + x) / (adj.sum(1, keepdim=True) + 1)
    for product in both_ways(graph, layer, "mean+self"):
        torch.testing.assert_close(product, mean @ layer.linear.weight + layer.bias)
    assert layer.own is None


def gat_of_both(pyg, heads: int) -> tuple[nn.Module, nn.Module]:
    ours = GATConv(12, 5, heads=heads, attention_dropout=0.0)
    nn.init.normal_(ours.bias)
    theirs = pyg.GATConv(12, 5, heads=heads, add_self_loops=False)
    copy(theirs.lin.weight, ours.linear.weight.data.t())
    copy(theirs.att_src, ours.attend_source.data.unsqueeze(0))
    copy(theirs.att_dst, ours.attend_target.data.unsqueeze(0))
    copy(theirs.bias, ours.bias.data)
    return ours, theirs


@pytest.mark.parametrize("heads", [1, 4])
def test_gat_is_pygs(graph, pyg, heads):
    ours, theirs = gat_of_both(pyg, heads)
    expected = theirs(graph.x.to_dense(), edges(graph.adj))
    for product in both_ways(graph, ours, "sum"):
        torch.testing.assert_close(product, expected, atol=1e-5, rtol=1e-4)


def test_the_gradients_of_gat_are_pygs(graph, pyg):
    ours, theirs = gat_of_both(pyg, 2)
    ours.of_graph(whole(graph, "sum"), graph, 0.0).square().sum().backward()
    theirs(graph.x.to_dense(), edges(graph.adj)).square().sum().backward()
    close = {"atol": 1e-4, "rtol": 1e-3}
    torch.testing.assert_close(ours.linear.weight.grad.t(), theirs.lin.weight.grad, **close)
    torch.testing.assert_close(ours.attend_source.grad, theirs.att_src.grad[0], **close)
    torch.testing.assert_close(ours.attend_target.grad, theirs.att_dst.grad[0], **close)


def test_dropped_attention_keeps_the_mean(graph):
    layer = GATConv(12, 4, heads=2, attention_dropout=0.4)
    block = whole(graph, "sum")
    torch.manual_seed(0)
    draws = torch.stack([layer.of_graph(block, graph, 0.0) for _ in range(300)]).detach()
    exact = layer.eval().of_graph(block, graph, 0.0).detach()
    assert draws.std(0).max() > 0
    assert ((draws.mean(0) - exact).abs() <= 5 * draws.std(0) / 300**0.5 + 1e-6).all()


def test_the_gradients_of_attention_are_bit_equal_on_two_threads(threads):
    block = whole(toys.graph(toys.random_csr(400, 400, 0.5)), "sum")
    layer = GATConv(16, 4, heads=2, attention_dropout=0.0)
    h, up = torch.randn(400, 16), torch.randn(400, 8)

    def gradients() -> torch.Tensor:
        found = torch.autograd.grad((layer(block, h) * up).sum(), list(layer.parameters()))
        return torch.cat([gradient.flatten() for gradient in found])

    threads(1)
    one = gradients()
    threads(2)
    assert all(torch.equal(gradients(), one) for _ in range(20))


@pytest.mark.parametrize(("steps", "teleport"), [(1, 0.5), (10, 0.1), (3, 1.0), (3, 0.0)])
def test_appnp_is_pygs(graph, pyg, steps, teleport):
    config = APPNP.Config(num_steps=steps, teleport=teleport, hidden_dim=8)
    model = APPNP(config, 12, 3, 30).eval()
    first, _ = model.mlp(graph)
    theirs = pyg.APPNP(steps, teleport, add_self_loops=False)
    torch.testing.assert_close(model(graph).logits, theirs(first, edges(graph.adj)))


def test_appnp_drops_edges_anew_in_every_step_while_training(graph):
    config = APPNP.Config(num_steps=1, teleport=0.0, hidden_dim=8, dropout=0.0, edge_dropout=0.5)
    model = APPNP(config, 12, 3, 30).train()
    torch.manual_seed(0)
    draws = torch.stack([model(graph).logits for _ in range(400)]).detach()
    exact = model.eval()(graph).logits.detach()
    assert draws.std(0).max() > 0
    assert ((draws.mean(0) - exact).abs() <= 5 * draws.std(0) / 400**0.5 + 1e-6).all()


# ---- stacks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("relu_first", [True, False])
def test_hidden_states_are_after_relu_where_relu_comes_first(graph, relu_first):
    stack = ConvStack([GCNConv(12, 6), GCNConv(6, 3)], [6], norm="layer", relu_first=relu_first)
    _, hidden = stack.eval()(graph, None, "symmetric")
    first = stack.convolutions[0].of_graph(whole(graph, "symmetric"), graph, 0.0)
    torch.testing.assert_close(hidden, first.relu() if relu_first else first)


@pytest.mark.parametrize("relu_first", [True, False])
def test_norm_comes_before_or_after_relu(graph, relu_first):
    stack = ConvStack([GCNConv(12, 6), GCNConv(6, 3)], [6], norm="layer", relu_first=relu_first)
    nn.init.normal_(stack.norms[0].bias)
    block, norm = whole(graph, "symmetric"), stack.norms[0]
    first = stack.convolutions[0].of_graph(block, graph, 0.0)
    h = norm(first.relu()) if relu_first else norm(first).relu()
    logits, _ = stack.eval()(graph, None, "symmetric")
    torch.testing.assert_close(logits, stack.convolutions[1](block, h))


def test_batch_norm_sees_the_whole_graph_whichever_nodes_are_asked_for(graph):
    stacks = []
    for _ in range(2):
        torch.manual_seed(0)
        stacks.append(ConvStack([GCNConv(12, 6), GCNConv(6, 3)], [6], norm="batch"))
    nodes = torch.tensor([2, 9])
    everything, _ = stacks[0](graph, None, "symmetric")
    some, hidden = stacks[1](graph, nodes, "symmetric")
    torch.testing.assert_close(some, everything[nodes])
    assert len(hidden) == 2
    torch.testing.assert_close(stacks[0].norms[0].running_mean, stacks[1].norms[0].running_mean)


def test_input_dropout_acts_in_training_only(graph):
    stack = ConvStack([GCNConv(12, 3)], [], input_dropout=0.5)
    torch.manual_seed(0)
    assert not torch.equal(stack(graph, None, "sum")[0], stack(graph, None, "sum")[0])
    stack.eval()
    assert torch.equal(stack(graph, None, "sum")[0], stack(graph, None, "sum")[0])


# ---- batches --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "size", "sizes"),
    [
        (10, 3, [3, 3, 3]),
        (10, 5, [5, 5]),
        (10, 10, [10]),
        (10, 11, [10]),
        (10, 0, [10]),
        (1, 4, [1]),
    ],
)
def test_nodes_are_shuffled_into_whole_batches(count, size, sizes):
    nodes = torch.arange(100, 100 + count)
    batches = list(shuffled(nodes, size, torch.Generator().manual_seed(0)))
    assert [len(batch) for batch in batches] == sizes
    drawn = torch.cat(batches)
    assert len(drawn.unique()) == len(drawn)
    assert set(drawn.tolist()) <= set(nodes.tolist())


def test_every_epoch_shuffles_anew():
    generator = torch.Generator().manual_seed(0)
    one, two = (torch.cat(list(shuffled(torch.arange(50), 10, generator))) for _ in range(2))
    assert one.tolist() != two.tolist() != list(range(50))
    assert sorted(one.tolist()) == sorted(two.tolist())
