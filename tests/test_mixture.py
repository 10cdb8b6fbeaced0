import pytest
import torch

from bench import kernels, mixture
from bench.cost import count_macs
from bench.expert_inputs import Inputs
from bench.mixture import Routing, credit_scale, dense_mixture, sparse_mixture
from tests import toys

ROWS, SIZE_IN, SIZE_OUT = 20, 9, 5


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def routing(num_experts: int, top_k: int, rows: int = ROWS) -> Routing:
    experts = draw(rows, num_experts, seed=1).topk(top_k).indices
    return Routing(experts, draw(rows, top_k, seed=2).softmax(1))


def by_hand(x, weight, routed: Routing) -> torch.Tensor:
    """The definition: every expert of every row, weighted."""
    every = torch.einsum("nd,edh->neh", x, weight)
    return torch.einsum("neh,ne->nh", every, routed.spread(len(weight)))


def matrix(density: float = 0.4):
    return toys.random_csr(ROWS, SIZE_IN, density)


def zeros(rows: int = ROWS, dtype=torch.float32) -> torch.Tensor:
    return torch.zeros(rows, SIZE_OUT, dtype=dtype)


# ---- values ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_experts", "top_k"), [(1, 1), (3, 2), (4, 4), (7, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dense_rows_give_the_weighted_sum_of_their_experts(num_experts, top_k, dtype):
    x, weight = (
        draw(ROWS, SIZE_IN).to(dtype),
        draw(num_experts, SIZE_IN, SIZE_OUT, seed=3).to(dtype),
    )
    routed = Routing(
        routing(num_experts, top_k).experts, routing(num_experts, top_k).gates.to(dtype)
    )
    found = dense_mixture(zeros(dtype=dtype), x, weight, routed, 0.0)
    torch.testing.assert_close(found, by_hand(x, weight, routed))


@pytest.mark.parametrize(("num_experts", "top_k"), [(1, 1), (3, 2), (4, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sparse_rows_give_the_weighted_sum_of_their_experts(num_experts, top_k, dtype):
    x, rows = matrix(), torch.tensor([3, 0, 19, 7, 7])
    if dtype == torch.float64:  # torch's own operations, as on a GPU
        x = x.with_values(x.values.to(dtype))
    weight = draw(num_experts, SIZE_IN, SIZE_OUT, seed=3).to(dtype)
    routed = routing(num_experts, top_k, 5)
    routed = Routing(routed.experts, routed.gates.to(dtype))
    found = sparse_mixture(zeros(5, dtype), x, rows, weight, routed, 0.0)
    dense = matrix().to_dense().to(dtype)[rows]
    torch.testing.assert_close(found, by_hand(dense, weight, routed))


def test_what_is_there_already_stays():
    base = draw(ROWS, SIZE_OUT, seed=9)
    x, weight, routed = draw(ROWS, SIZE_IN), draw(3, SIZE_IN, SIZE_OUT), routing(3, 2)
    found = dense_mixture(base.clone(), x, weight, routed, 0.0)
    torch.testing.assert_close(found, base + by_hand(x, weight, routed))


def test_blocks_of_rows_change_nothing(monkeypatch):
    x, weight, routed = draw(500, SIZE_IN), draw(2, SIZE_IN, SIZE_OUT), routing(2, 2, 500)
    found = []
    for size in (1, 2**18):
        monkeypatch.setattr(mixture, "BLOCK", size)
        own = weight.clone().requires_grad_()
        out = dense_mixture(torch.zeros(500, SIZE_OUT), x, own, routed, 0.0)
        out.square().sum().backward()
        found.append((out.detach(), own.grad))
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-4)


# ---- gradients ------------------------------------------------------------------------------


def gradients(compute, *leaves):
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    out = compute(*leaves)
    up = torch.linspace(-1, 1, out.numel()).view_as(out)
    return torch.autograd.grad(out, leaves, up)


@pytest.mark.parametrize(("num_experts", "top_k"), [(1, 1), (3, 2), (6, 1)])
def test_gradients_of_dense_experts_are_those_of_the_definition(num_experts, top_k):
    routed = routing(num_experts, top_k)
    leaves = (
        draw(ROWS, SIZE_OUT, seed=7),
        draw(ROWS, SIZE_IN),
        draw(num_experts, SIZE_IN, SIZE_OUT, seed=3),
        routed.gates,
    )
    ours = gradients(
        lambda base, x, w, g: dense_mixture(base * 1, x, w, Routing(routed.experts, g), 0.0),
        *leaves,
    )
    exact = gradients(
        lambda base, x, w, g: base + by_hand(x, w, Routing(routed.experts, g)), *leaves
    )
    torch.testing.assert_close(ours, exact)


@pytest.mark.parametrize("rows", [[3, 0, 19], list(range(ROWS)), [5, 4, 3, 2, 1, 19, 18]])
def test_gradients_of_sparse_experts_are_those_of_the_definition(rows):
    x, rows = matrix(), torch.tensor(rows)  # few rows are scattered, many go through the transpose
    routed = routing(3, 2, len(rows))
    leaves = (draw(len(rows), SIZE_OUT), draw(3, SIZE_IN, SIZE_OUT, seed=3), routed.gates)
    ours = gradients(
        lambda base, w, g: sparse_mixture(base * 1, x, rows, w, Routing(routed.experts, g), 0.0),
        *leaves,
    )
    dense = x.to_dense()[rows]
    exact = gradients(
        lambda base, w, g: base + by_hand(dense, w, Routing(routed.experts, g)), *leaves
    )
    torch.testing.assert_close(ours, exact)


def test_an_expert_without_rows_has_a_gradient_of_zero():
    routed = Routing(torch.zeros(ROWS, 1, dtype=torch.int64), torch.ones(ROWS, 1))
    _, grad = gradients(
        lambda x, w: dense_mixture(zeros(), x, w, routed, 0.0),
        draw(ROWS, SIZE_IN),
        draw(3, SIZE_IN, SIZE_OUT),
    )
    assert grad[0].abs().max() > 0
    assert not grad[1:].any()


def test_the_gradient_of_the_scale_needs_no_product():
    x, scale = draw(4, 3), torch.tensor(1.7)
    ours = gradients(lambda x, s: credit_scale(x * s.detach(), s), x, scale)
    torch.testing.assert_close(ours, gradients(lambda x, s: x * s, x, scale))


def test_gradients_of_cosines_are_those_of_the_definition():
    x = draw(ROWS, SIZE_IN)
    directions = torch.nn.functional.normalize(draw(3, SIZE_IN, seed=3), dim=1)
    ours = gradients(lambda x: Inputs(None, None, x).cosines(directions)[0], x)
    unit = torch.nn.functional.normalize
    torch.testing.assert_close(ours, gradients(lambda x: unit(x, dim=1) @ directions.T, x))
    ours = gradients(lambda x, m: Inputs(None, None, x).cosines(m)[0], x, directions)
    torch.testing.assert_close(
        ours, gradients(lambda x, m: unit(x, dim=1) @ m.T, x, directions), atol=1e-5, rtol=1e-5
    )
    (none,) = gradients(lambda x: Inputs(None, None, x).cosines(directions)[0], x * 0)
    assert not none.any()


def test_experts_are_bit_equal_for_any_number_of_threads():
    x, routed = matrix(0.9), routing(3, 2)
    found = []
    threads = kernels.threads()
    try:
        for count in (1, 2):
            kernels.set_threads(count)
            torch.manual_seed(0)
            weight = draw(3, SIZE_IN, SIZE_OUT, seed=3).requires_grad_()
            rows = x.to_dense().requires_grad_()
            out = dense_mixture(zeros(), rows, weight, routed, 0.5)
            out = sparse_mixture(out, x, torch.arange(ROWS), weight, routed, 0.5)
            out.square().sum().backward()
            found.append((out.detach(), weight.grad, rows.grad))
    finally:
        kernels.set_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# ---- dropout --------------------------------------------------------------------------------


def dropped(kind: str, dropout: float, x=None):
    """What each of two experts sees of each entry: identity experts, one a row each."""
    size = 400
    weight = torch.eye(size).expand(2, size, size).contiguous()
    routed = Routing(torch.arange(2).repeat(50, 1), torch.ones(50, 2) * torch.tensor([1.0, 1000.0]))
    out = torch.zeros(50, size)
    ones = torch.ones(50, size) if x is None else x
    if kind == "dense":
        return dense_mixture(out, ones, weight, routed, dropout)
    stored = toys.csr(ones.tolist())
    return sparse_mixture(out, stored, torch.arange(50), weight, routed, dropout)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_every_expert_draws_its_own_mask_of_the_right_rate(kind):
    torch.manual_seed(0)
    out = dropped(kind, 0.3)
    second = (out / 1000 * 0.7).round()
    first = ((out - second * 1000 / 0.7) * 0.7).round()
    for mask in (first, second):
        assert set(mask.unique().tolist()) == {0.0, 1.0}
        assert abs(mask.mean().item() - 0.7) < 0.01
    assert abs((first * second).mean().item() - 0.49) < 0.015  # independent
    assert not torch.equal(dropped(kind, 0.3), out)  # another call, other masks


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_the_gradient_sees_the_masks_of_the_forward_pass(kind):
    torch.manual_seed(0)
    x = matrix(0.9)
    rows, routed, up = torch.arange(ROWS), routing(3, 2), draw(ROWS, SIZE_OUT)
    weight = draw(3, SIZE_IN, SIZE_OUT).requires_grad_()
    gates = routed.gates.clone().requires_grad_()
    chosen = Routing(routed.experts, gates)
    out = (
        dense_mixture(zeros(), x.to_dense(), weight, chosen, 0.5)
        if kind == "dense"
        else sparse_mixture(zeros(), x, rows, weight, chosen, 0.5)
    )
    grad, grad_gates = torch.autograd.grad((out * up).sum(), (weight, gates))
    # Linear in the weight and in the gates: <gradient, leaf> is the value itself, masks and all.
    torch.testing.assert_close((grad * weight).sum(), (out * up).sum())
    torch.testing.assert_close((grad_gates * gates).sum(1), (out * up).sum(1))


def test_a_dropout_of_all_but_nothing_and_of_nothing_are_exact():
    assert torch.equal(dropped("dense", 0.0), torch.full((50, 400), 1001.0))
    assert torch.equal(dropped("sparse", 0.0), torch.full((50, 400), 1001.0))


# ---- inputs ---------------------------------------------------------------------------------


def graphs():
    """The same features: sparse, dense, sparse with extra columns, dense with a shift of zero."""
    graph = toys.random_graph()
    extra = draw(30, 4, seed=4)
    yield graph
    yield graph.replace(x=graph.x.to_dense())
    yield graph.replace(extra=extra)
    yield graph.replace(extra=extra, shift=draw(30, 16, seed=5))


def dense_rows(graph, nodes):
    whole = graph.x if isinstance(graph.x, torch.Tensor) else graph.x.to_dense()
    whole = whole if graph.extra is None else torch.cat([whole, graph.extra], 1)
    whole = whole if graph.shift is None else whole + graph.shift
    return whole if nodes is None else whole[nodes]


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("nodes", [None, torch.tensor([4, 0, 29])])
def test_inputs_compute_what_dense_rows_would(which, nodes):
    graph = list(graphs())[which]
    inputs, rows = Inputs.of_graph(graph, nodes), dense_rows(graph, nodes)
    n, d = rows.shape
    close = torch.testing.assert_close
    assert inputs.count == n
    close(inputs.norms(), rows.norm(dim=1).clamp_min(1e-12))
    close(inputs.times(draw(d, 3)), rows @ draw(d, 3))
    unit = torch.nn.functional.normalize
    close(inputs.cosines(unit(draw(3, d), dim=1))[0], unit(rows, dim=1) @ unit(draw(3, d), dim=1).T)
    close(inputs.sums(draw(n, 3)), draw(n, 3).T @ rows)
    unit = inputs.unit_rows()
    unit = torch.tensor(unit if which in (1, 3) else unit.toarray()).float()
    close(unit, torch.nn.functional.normalize(rows, dim=1))
    routed, weight = routing(3, 2, n), draw(3, d, SIZE_OUT)
    found = inputs.mixture(torch.zeros(n, SIZE_OUT), weight, routed, 0.0)
    close(found, by_hand(rows, weight, routed))


@pytest.mark.parametrize("nodes", [None, torch.tensor([4, 0, 29])])
def test_sums_of_sparse_rows_take_no_forward_product(nodes):
    inputs = Inputs.of_graph(toys.random_graph(), nodes)
    assert count_macs(lambda: inputs.sums(draw(inputs.count, 3))) == 0


# ---- cost -----------------------------------------------------------------------------------


def test_only_chosen_experts_are_counted():
    x, rows = matrix(), torch.tensor([3, 4, 19])
    routed, weight = routing(8, 3, 3), draw(8, SIZE_IN, SIZE_OUT)
    stored = int((x.to_dense()[rows] != 0).sum())
    sparse = count_macs(lambda: sparse_mixture(zeros(3), x, rows, weight, routed, 0.0))
    assert sparse == stored * 3 * SIZE_OUT
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixture, "tell_macs", None)  # where nobody listens nothing is counted
        sparse_mixture(zeros(3), x, rows, weight, routed, 0.0)
    dense = count_macs(lambda: dense_mixture(zeros(3), draw(3, SIZE_IN), weight, routed, 0.0))
    assert dense == 3 * 3 * SIZE_IN * SIZE_OUT
