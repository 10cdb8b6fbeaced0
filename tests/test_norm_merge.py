import pytest
import torch
from torch import nn

from bench.graph import Block
from bench.layers import GCNConv, Linear, SAGEConv
from bench.norm_merge import merge
from bench.norm_transform import FeatureTransform, Transformed
from tests import toys

SIZE, TARGET, N, CLASSES = 6, 5, 3, 4
STAR = [(0, 1), (0, 2), (0, 3), (3, 4)]  # degrees 3, 1, 1, 2, 1; node 5 has none


def transform_of(dtype=torch.float64, **options) -> FeatureTransform:
    """In eval mode, with statistics, scales and shifts that no training would leave."""
    torch.manual_seed(0)
    made = FeatureTransform(SIZE, TARGET, N, **options).to(dtype)
    for norm in (made.first_norm, made.second_norm):
        if norm is not None:
            for parameter in (norm.weight, norm.bias, norm.running_mean):
                nn.init.normal_(parameter, 0.3)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return made.eval()


def constant_free(dtype=torch.float64) -> FeatureTransform:
    return transform_of(dtype, batch_norm="none")


def states_of(count: int, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(count, SIZE, dtype=dtype, generator=torch.Generator().manual_seed(2))


def block(kind: str, edges=STAR, num_nodes: int = 6) -> Block:
    """A whole graph without loops, its weights computed in float64."""
    graph = toys.graph(toys.adjacency(num_nodes, edges))
    adj, degree = graph.normalised(kind), graph.adj.degree.double()
    to, of = degree[adj.row_ids], degree[adj.indices.long()]
    formulas = {
        "mean": 1 / to,
        "mean+self": 1 / (to + 1),
        "symmetric": (to * of) ** -0.5,
    }
    weights = formulas[kind]
    torch.testing.assert_close(weights.float(), adj.values)
    return Block(adj.with_values(weights), None, num_nodes)


def gap(transform, layer, merged, *inputs) -> float:
    """The largest difference between a merged layer and the transform followed by the layer."""
    with torch.no_grad():
        return (Transformed(transform, layer).eval()(*inputs) - merged(*inputs)).abs().max().item()


def convolution(kind: type, **options) -> nn.Module:
    torch.manual_seed(1)
    layer = kind(SIZE, CLASSES, **options).double().eval()
    nn.init.normal_(layer.bias)
    return layer


# ---- a linear layer -------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("batch_norm", ["none", "first", "both"])
def test_a_merged_linear_layer_is_the_transform_and_the_layer(
    dtype, tolerance, residual, batch_norm
):
    transform = transform_of(dtype, residual=residual, batch_norm=batch_norm)
    layer, states = Linear(SIZE, CLASSES).to(dtype), states_of(500, dtype)
    merged = merge(transform, layer)
    assert gap(transform, layer, merged, states) < tolerance
    assert torch.equal(merged(states).argmax(1), layer(transform(states)[0]).argmax(1))
    assert {k: v.shape for k, v in merged.state_dict().items()} == {
        k: v.shape for k, v in layer.state_dict().items()
    }


def test_the_merge_by_hand():
    # S = (s), E = 2 s * 3 - 3 (mean 1/2, variance 1 - eps, gamma 3, beta -3 + 1.5), y = E * 1
    transform = FeatureTransform(1, 1, 1, batch_norm="first").double().eval()
    norm = transform.first_norm
    with torch.no_grad():
        transform.first.weight.fill_(2.0)
        transform.second.weight.fill_(1.0)
        norm.running_mean.fill_(0.5)
        norm.running_var.fill_(1.0 - norm.eps)
        norm.weight.fill_(3.0)
        norm.bias.fill_(-1.5)
    matrix, offset = transform.affine()
    torch.testing.assert_close(matrix, torch.tensor([[7.0]], dtype=torch.float64))  # 1 + 2 * 3
    torch.testing.assert_close(offset, torch.tensor([-3.0], dtype=torch.float64))
    layer = Linear(1, 2).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -1.0]]))
        layer.bias.copy_(torch.tensor([0.0, 10.0]))
    merged = merge(transform, layer)
    assert merged.weight.tolist() == [[pytest.approx(7.0), pytest.approx(-7.0)]]
    assert merged.bias.tolist() == [pytest.approx(-3.0), pytest.approx(13.0)]


def test_the_layer_that_is_merged_into_stays_as_it_was():
    layer = Linear(SIZE, CLASSES).double()
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    merge(transform_of(), layer)
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())


# ---- convolutions ---------------------------------------------------------------------------


def test_a_gcn_takes_a_transform_without_constant():
    transform, layer = constant_free(), convolution(GCNConv)
    merged = merge(transform, layer)
    assert gap(transform, layer, merged, block("symmetric"), states_of(6)) < 1e-10
    assert torch.equal(merged.bias, layer.bias)


def naively_merged(transform, layer):
    """What the rule for a linear layer would make of a convolution: the constant becomes a bias."""
    naive = merge(constant_free(), layer)
    matrix, offset = transform.affine()
    with torch.no_grad():
        for name in ("linear", "own"):
            if (part := getattr(layer, name, None)) is not None:
                getattr(naive, name).weight.copy_(matrix @ part.weight)
                naive.bias += offset @ part.weight
    return naive


def test_the_rule_of_a_linear_layer_is_wrong_for_a_gcn_on_a_graph_that_is_not_regular():
    transform, layer = transform_of(), convolution(GCNConv)
    naive, states = naively_merged(transform, layer), states_of(6)
    assert gap(transform, layer, naive, block("symmetric"), states) > 0.1
    ring = [(i, (i + 1) % 6) for i in range(6)]  # every degree is 2, every row sums to one
    assert gap(transform, layer, naive, block("symmetric", ring), states) < 1e-10
    with pytest.raises(ValueError, match="scales it by each node's degree"):
        merge(transform, layer)


def test_sage_gcn_takes_the_constant_as_its_bias_isolated_nodes_included():
    transform, layer = transform_of(), convolution(SAGEConv, aggregator="gcn")
    merged = merge(transform, layer)
    assert gap(transform, layer, merged, block("mean+self"), states_of(6)) < 1e-10


def test_the_rule_of_a_linear_layer_is_wrong_for_sage_mean_at_an_isolated_node():
    transform, layer = transform_of(), convolution(SAGEConv, aggregator="mean")
    naive, states = naively_merged(transform, layer), states_of(6)
    assert gap(transform, layer, naive, block("mean", [*STAR, (4, 5)]), states) < 1e-10
    alone = (
        Transformed(transform, layer).eval()(block("mean"), states) - naive(block("mean"), states)
    ).detach()
    assert alone[:5].abs().max() < 1e-10
    constant = transform.affine()[1] @ layer.linear.weight
    torch.testing.assert_close(alone[5], -constant.detach(), atol=1e-10, rtol=0)
    with pytest.raises(ValueError, match="a node without neighbours does not get"):
        merge(transform, layer)


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (convolution(SAGEConv, aggregator="mean"), "mean"),
        (convolution(SAGEConv, aggregator="gcn"), "mean+self"),
    ],
    ids=["sage-mean", "sage-gcn"],
)
def test_without_a_constant_every_convolution_is_merged_exactly_isolated_nodes_or_not(layer, kind):
    transform = constant_free()
    merged = merge(transform, layer)
    assert gap(transform, layer, merged, block(kind), states_of(6)) < 1e-10


# ---- refusals -------------------------------------------------------------------------------


def test_training_mode_is_refused():
    with pytest.raises(ValueError, match=r"uses the statistics of each batch; call eval\(\) first"):
        merge(transform_of().train(), Linear(SIZE, CLASSES).double())


def test_a_layer_without_bias_refuses_a_constant_and_takes_the_rest():
    layer = Linear(SIZE, CLASSES, bias=False).double()
    with pytest.raises(ValueError, match="has no bias to take it"):
        merge(transform_of(), layer)
    transform = constant_free()
    assert gap(transform, layer, merge(transform, layer), states_of(9)) < 1e-10


def test_an_unknown_layer_is_refused():
    with pytest.raises(
        ValueError, match="into a layer of type Bilinear; known: GCNConv, Linear, SAGEConv"
    ):
        merge(transform_of(), nn.Bilinear(2, 2, 2))


class Bent(Linear):
    """A ReLU, which nothing can be merged across, before the product."""

    def forward(self, x):
        return super().forward(x.relu())


@pytest.mark.parametrize(
    "layer", [nn.Sequential(nn.ReLU(), Linear(SIZE, CLASSES)), Bent(SIZE, CLASSES)]
)
def test_a_layer_behind_a_relu_is_refused(layer):
    with pytest.raises(ValueError, match=f"into a layer of type {type(layer).__name__}; known"):
        merge(transform_of(), layer)
