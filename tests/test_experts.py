import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from bench import expert_load, experts
from bench.expert_inputs import Inputs
from bench.experts import ExpertLayer, ExpertMLP, LearnedRouter, MemoryRouter, squared_variation
from bench.layers import MLP
from bench.mixture import Routing
from tests import toys


def config(**options):
    values = {
        "top_k": 2,
        "memory_momentum": 0.9,
        "commitment_weight": 0.0,
        "self_similarity_weight": 0.0,
        "load_balance_weight": 0.0,
        "width": 6,
    }
    return SimpleNamespace(**{**values, **options})


def of(rows: list[list[float]]) -> Inputs:
    return Inputs(None, None, torch.tensor(rows))


def memory_router(memory: list[list[float]], **options) -> MemoryRouter:
    router = MemoryRouter(len(memory[0]), len(memory), config(**options))
    with torch.no_grad():
        router.memory.copy_(torch.tensor(memory))
    return router


# Three experts in the plane; rows (3, 4) and (0, 2): at length 1 (0.6, 0.8) and (0, 1).
MEMORY = [[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0]]
ROWS = [[3.0, 4.0], [0.0, 2.0]]
# Cosines: (0.6, 0.8, -0.6) and (0, 1, 0): the two nearest, and their softmax.
HIGH, LOW = math.exp(0.8) / (math.exp(0.8) + math.exp(0.6)), 1 / (1 + math.exp(0.2))
NEAR, FAR = math.e / (math.e + 1), 1 / (math.e + 1)


# ---- the memory router ----------------------------------------------------------------------


def test_rows_go_to_the_nearest_memories_weighted_by_the_softmax_of_the_chosen_cosines():
    routing, auxiliary = memory_router(MEMORY).eval()(of(ROWS))
    assert routing.experts[0].tolist() == [1, 0]
    assert routing.experts[1, 0] == 1
    torch.testing.assert_close(routing.gates, torch.tensor([[HIGH, LOW], [NEAR, FAR]]))
    torch.testing.assert_close(HIGH + LOW, 1.0)
    assert auxiliary is None


def test_commitment_is_the_weighted_mean_of_minus_the_chosen_cosines():
    router = memory_router(MEMORY, commitment_weight=0.5).train()
    _, auxiliary = router(of(ROWS))
    expected = -0.5 * ((HIGH * 0.8 + LOW * 0.6) + (NEAR * 1.0 + FAR * 0.0)) / 2
    torch.testing.assert_close(auxiliary, torch.tensor(expected))


def test_load_balance_is_the_squared_variation_of_the_gates_sums():
    router = memory_router(MEMORY[:2], top_k=2, load_balance_weight=0.25).train()
    _, auxiliary = router(of(ROWS))
    load = torch.tensor([LOW + FAR, HIGH + NEAR])  # their sum is 2, so their mean 1
    expected = 0.25 * load.var() / (1.0 + 1e-10)
    torch.testing.assert_close(auxiliary, expected)


def test_squared_variation_by_hand():
    torch.testing.assert_close(squared_variation(torch.tensor([1.0, 2.0, 3.0])), torch.tensor(0.25))
    assert squared_variation(torch.tensor([7.0])) == 0.0
    assert squared_variation(torch.zeros(3)) == 0.0


def test_each_memory_moves_towards_the_weighted_mean_of_its_rows():
    router = memory_router(MEMORY, top_k=1).train()
    router(of([[3.0, 4.0], [0.0, 2.0], [5.0, 0.0]]))
    # The first two rows go to expert 1, each with gate 1: their mean at length 1 is (0.3, 0.9).
    expected = [[0.9 + 0.1, 0.0], [0.1 * 0.3, 0.9 + 0.1 * 0.9], [-0.9, 0.0]]
    torch.testing.assert_close(router.memory.detach(), torch.tensor(expected))


def test_the_mean_weighs_rows_by_the_softmax_of_their_gates():
    router = memory_router(MEMORY[:2], top_k=2).train()
    router(of(ROWS))
    share = torch.tensor([HIGH, NEAR]).softmax(0)
    mean = share[0] * torch.tensor([0.6, 0.8]) + share[1] * torch.tensor([0.0, 1.0])
    torch.testing.assert_close(
        router.memory.detach()[1], 0.9 * torch.tensor([0.0, 1.0]) + 0.1 * mean
    )


def test_self_similarity_is_the_mean_of_all_products_of_the_moved_memories():
    router = memory_router(MEMORY, top_k=1, self_similarity_weight=2.0).train()
    _, auxiliary = router(of([[3.0, 4.0]]))
    unit = F.normalize(router.memory.detach(), dim=1)
    torch.testing.assert_close(auxiliary, 2.0 * (unit @ unit.T).mean())
    auxiliary.backward()
    # Its gradient: through the left factor alone.
    twin = router.memory.detach().clone().requires_grad_()
    (2.0 * (F.normalize(twin, dim=1) @ unit.T).mean()).backward()
    torch.testing.assert_close(router.memory.grad, twin.grad)


def test_the_memory_does_not_move_in_eval_mode():
    router = memory_router(MEMORY).eval()
    router(of(ROWS))
    assert router.memory.tolist() == MEMORY


def test_two_forward_passes_before_one_backward_pass():
    router = memory_router(MEMORY, self_similarity_weight=1.0, commitment_weight=1.0).train()
    total = router(of(ROWS))[1] + router(of(ROWS))[1]
    total.backward()  # although the second call moved the memory in place
    assert router.memory.grad.isfinite().all()


def test_only_the_self_similarity_asks_for_a_gradient_of_the_memory():
    assert not memory_router(MEMORY).memory.requires_grad
    assert memory_router(MEMORY, self_similarity_weight=0.1).memory.requires_grad


def test_the_auxiliary_losses_reach_the_rows():
    rows = torch.tensor(ROWS, requires_grad=True)
    for name in ("commitment_weight", "load_balance_weight"):
        _, auxiliary = memory_router(MEMORY, **{name: 1.0}).train()(Inputs(None, None, rows))
        (grad,) = torch.autograd.grad(auxiliary, rows)
        assert grad.abs().max() > 0


def test_a_row_of_zeros_is_routed_without_a_nan():
    rows = torch.zeros(1, 2, requires_grad=True)
    router = memory_router(MEMORY, commitment_weight=1.0, load_balance_weight=1.0).train()
    routing, auxiliary = router(Inputs(None, None, rows))
    assert routing.gates.tolist() == [[0.5, 0.5]]
    (grad,) = torch.autograd.grad(auxiliary, rows)
    assert grad.isfinite().all()
    assert router.memory.isfinite().all()


# ---- the learned router ---------------------------------------------------------------------


def learned(num_experts: int = 3, **options) -> LearnedRouter:
    torch.manual_seed(0)
    return LearnedRouter(2, num_experts, config(**options))


def test_gates_are_the_softmax_over_all_experts_of_scaled_cosines():
    router = learned().eval()
    routing, _ = router(of(ROWS))
    queries = F.normalize(torch.tensor(ROWS) @ router.project + router.bias, dim=1)
    logits = 2.0 * queries @ F.normalize(router.directions, dim=0)
    probs = logits.softmax(1)
    torch.testing.assert_close(routing.gates, probs.topk(2).values)
    assert torch.equal(routing.experts, probs.topk(2).indices)
    assert (routing.gates.sum(1) < 1.0).all()  # not renormalised


def test_balance_counts_importance_and_load():
    router = learned(2, top_k=1, load_balance_weight=3.0).train()
    torch.manual_seed(1)
    routing, auxiliary = router(of(ROWS))
    torch.manual_seed(1)
    again = learned(2, top_k=2, load_balance_weight=3.0).train()
    torch.manual_seed(1)
    every = again(of(ROWS))[0]  # the same noise, all gates
    importance = every.spread(2).sum(0)
    load = torch.bincount(routing.experts.flatten(), minlength=2).float()
    expected = 3.0 * (squared_variation(importance) + squared_variation(load))
    torch.testing.assert_close(auxiliary, expected)


def test_noise_is_there_in_training_alone():
    router = learned()
    one, two = (router.train()(of(ROWS))[0].gates for _ in range(2))
    assert not torch.equal(one, two)
    one, two = (router.eval()(of(ROWS))[0].gates for _ in range(2))
    assert torch.equal(one, two)


# ---- the layer ------------------------------------------------------------------------------


def layer(router: nn.Module, size_in: int = 2, **options) -> ExpertLayer:
    torch.manual_seed(3)
    return ExpertLayer(router, size_in, 4, **options)


def test_a_layer_sums_scaled_experts():
    made = layer(memory_router(MEMORY)).eval()
    found, _ = made(of(ROWS), 0.0, "routed")
    rows = torch.tensor(ROWS)
    outputs = torch.einsum("nd,edh->neh", rows, made.weight) + made.bias
    expected = 2.0 * (HIGH * outputs[0, 1] + LOW * outputs[0, 0])
    torch.testing.assert_close(found[0], expected)


def test_attention_weighs_the_columns_of_each_expert():
    made = layer(memory_router(MEMORY, top_k=1), attention=True).eval()
    with torch.no_grad():
        made.log_attention.copy_(torch.log(torch.tensor([[2.0, 3.0]] * 3)))
    found, _ = made(of(ROWS), 0.0, "routed")
    scaled = torch.tensor(ROWS) * torch.tensor([2.0, 3.0])
    torch.testing.assert_close(found, 2.0 * (scaled @ made.weight[1] + made.bias[1]))


@pytest.mark.parametrize("kind", ["memory", "learned"])
def test_all_experts_chosen_is_the_dense_mixture(kind):
    router = memory_router(MEMORY, top_k=3) if kind == "memory" else learned(top_k=3)
    made = layer(router).eval()
    found, _ = made(of(ROWS), 0.0, "routed")
    gates = router(of(ROWS))[0].spread(3)
    outputs = torch.einsum("nd,edh->neh", torch.tensor(ROWS), made.weight) + made.bias
    torch.testing.assert_close(found, 2.0 * torch.einsum("ne,neh->nh", gates, outputs))


def test_the_order_of_the_experts_does_not_matter():
    made = layer(memory_router(MEMORY)).eval()
    rows = torch.randn(9, 2).tolist()
    before, _ = made(of(rows), 0.0, "routed")
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        for parameter in (made.weight, made.bias, made.router.memory):
            parameter.copy_(parameter[order].clone())
    torch.testing.assert_close(made(of(rows), 0.0, "routed")[0], before)


def test_the_loss_of_the_task_does_not_reach_a_memory_but_reaches_a_learned_router():
    for router, reached in ((memory_router(MEMORY, self_similarity_weight=1.0), False),
                            (learned(), True)):  # fmt: skip
        out, _ = layer(router).train()(of(ROWS), 0.0, "routed")
        out.square().sum().backward()
        grads = [p.grad for p in router.parameters()]
        assert all((g is not None and bool(g.any())) == reached for g in grads)


def test_the_loss_of_the_task_reaches_the_rows_through_the_experts_alone():
    made = layer(memory_router(MEMORY)).train()
    rows = torch.tensor(ROWS, requires_grad=True)
    out, _ = made(Inputs(None, None, rows), 0.0, "routed")
    (grad,) = torch.autograd.grad(out.sum(), rows)
    gates = torch.tensor([[LOW, HIGH, 0.0]])
    expected = 2.0 * torch.einsum("ne,edh->nd", gates, made.weight)
    torch.testing.assert_close(grad[:1], expected)


# ---- the network ----------------------------------------------------------------------------


def network(num_experts: int = 3, router=MemoryRouter, norm: str = "none", **options) -> ExpertMLP:
    torch.manual_seed(0)
    sizes = [12, 6, 6, 3]
    layers = [
        ExpertLayer(router(a, num_experts, config(**options)), a, b) for a, b in pairwise(sizes)
    ]
    return ExpertMLP(layers, norm=norm, dropout=0.5)


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_one_expert_is_the_mlp_with_its_scales(norm):
    graph, made = toys.random_graph(), network(1, norm=norm).eval()
    plain = MLP([12, 6, 6, 3], norm=norm).eval()
    plain.norms.load_state_dict(made.norms.state_dict())
    with torch.no_grad():
        for linear, own in zip(plain.layers, made.experts, strict=True):
            linear.weight.copy_(2.0 * own.weight[0])
            linear.bias.copy_(2.0 * own.bias[0])
        torch.testing.assert_close(made(graph)[0], plain(graph)[0])


def test_hidden_states_are_the_output_of_the_first_layer():
    graph, made = toys.random_graph(), network().eval()
    first, _ = made.experts[0](Inputs.of_graph(graph, None), 0.0, "routed")
    torch.testing.assert_close(made(graph)[1], first)


def test_while_warming_up_the_first_expert_is_an_mlp_without_scale():
    graph, made = toys.random_graph(), network().eval()
    plain = MLP([12, 6, 6, 3])
    with torch.no_grad():
        for linear, own in zip(plain.layers, made.experts, strict=True):
            linear.weight.copy_(own.weight[0])
            linear.bias.copy_(own.bias[0])
        with made.during("first"):
            torch.testing.assert_close(made(graph)[0], plain(graph)[0])
    made.train()
    with made.during("first"):
        made(graph)
        assert made.auxiliary() == 0.0


def test_in_chunks_each_expert_gets_a_run_of_rows():
    made = layer(memory_router(MEMORY, top_k=1)).eval()
    rows = torch.randn(7, 2)
    found, auxiliary = made(Inputs(None, None, rows), 0.0, "chunks")
    chosen = enumerate([0, 0, 0, 1, 1, 2, 2])
    expected = [2.0 * (rows[i] @ made.weight[e] + made.bias[e]) for i, e in chosen]
    torch.testing.assert_close(found, torch.stack(expected))
    assert auxiliary is None


@pytest.mark.parametrize(("mode", "idle"), [("first", ("router", "log_")), ("chunks", ("router",))])
def test_what_a_phase_does_not_use_is_put_back(mode, idle):
    made = network(router=LearnedRouter)
    before = {key: value.clone() for key, value in made.state_dict().items()}
    with made.during(mode), torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(0.5)
    for key, value in made.state_dict().items():
        assert torch.equal(value, before[key]) == any(word in key for word in idle)


def test_the_auxiliary_loss_is_given_once():
    made = network(commitment_weight=1.0).train()
    made(toys.random_graph())
    assert made.auxiliary() != 0.0
    assert made.auxiliary() == 0.0
    made.eval()(toys.random_graph())
    assert made.auxiliary() == 0.0


def test_the_start_copies_the_first_expert_and_clusters_the_inputs_of_each_layer():
    from sklearn.cluster import KMeans

    graph, made = toys.random_graph(), network()
    made.start(graph, seed=5)
    for own in made.experts:
        assert torch.equal(own.weight[1], own.weight[0])
        assert torch.equal(own.bias[2], own.bias[0])
        torch.testing.assert_close(own.router.memory.norm(dim=1), torch.ones(3))
    rows = F.normalize(graph.x.to_dense(), dim=1)
    ours = Inputs.of_graph(graph, None).unit_rows().toarray()
    torch.testing.assert_close(torch.tensor(ours).float(), rows)
    centres = KMeans(3, n_init=10, random_state=5).fit(rows.numpy()).cluster_centers_
    ours = made.experts[0].router.memory.detach()
    nearest = (ours @ F.normalize(torch.tensor(centres), dim=1).T).max(1).values
    assert nearest.min() > 0.9  # the same clusters, whatever their order
    second, _ = made.experts[0](Inputs.of_graph(graph, None), 0.0, "routed")
    twin = network()
    twin.load_state_dict(made.state_dict())
    twin.start(graph, seed=5)
    assert torch.equal(twin.experts[1].router.memory, made.experts[1].router.memory)
    assert second.shape == (30, 6)


def test_of_a_large_graph_a_drawn_part_is_clustered_in_every_layer(monkeypatch):
    """The start is that on the part alone; the fit's own random numbers are not drawn."""
    graph, whole, part = toys.random_graph(), network(), network()
    monkeypatch.setattr(experts, "CLUSTERED", 30)
    assert experts._clustered(graph, 5) is None
    monkeypatch.setattr(experts, "CLUSTERED", 20)
    nodes = experts._clustered(graph, 5)
    assert len(set(nodes.tolist())) == 20
    assert nodes.tolist() == sorted(nodes.tolist())
    assert torch.equal(nodes, experts._clustered(graph, 5))
    assert not torch.equal(nodes, experts._clustered(graph, 6))
    before = torch.get_rng_state()
    whole.start(graph, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    part.start(graph.subgraph(nodes), seed=5)
    for one, two in zip(whole.experts, part.experts, strict=True):
        torch.testing.assert_close(one.router.memory, two.router.memory)


def test_fewer_distinct_rows_than_experts_can_be_clustered():
    graph = toys.graph(toys.path(5), torch.ones(5, 12), 3)
    made = network()
    made.start(graph, seed=0)
    assert all(own.router.memory.isfinite().all() for own in made.experts)


# ---- diagnostics ----------------------------------------------------------------------------


def test_diagnostics_tell_load_entropy_and_collapsed_experts():
    made = network(2, top_k=1)
    graph = toys.random_graph()
    with torch.no_grad():  # features are not negative: nobody is near the second memory
        made.experts[0].router.memory.copy_(torch.stack([torch.ones(12), -torch.ones(12)]))
    found = expert_load.diagnostics(made, graph)
    assert len(found) == 3
    assert found[0]["experts"].shape == (30, 1)
    assert found[0]["load"].tolist() == [1.0, 0.0]
    assert found[0]["entropy"] == 0.0
    assert found[0]["collapsed"] == [1]
    assert not any(r._forward_hooks for r in (own.router for own in made.experts))


def test_an_even_load_has_entropy_one():
    described = expert_load._described(Routing(torch.tensor([[0], [1]]), torch.ones(2, 1)), 2)
    assert described["entropy"] == pytest.approx(1.0)
    assert described["collapsed"] == []
