import pickle

import pytest
import torch

from bench.graph import (
    Split,
    TeacherOutput,
    normalise,
    propagate,
    receptive_field,
    sample_blocks,
)
from tests import toys

PATH = toys.path(5)  # 0 - 1 - 2 - 3 - 4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- normalisation --------------------------------------------------------------------------


@pytest.mark.parametrize("loops", [False, True])
def test_the_normalisations_are_their_formulas(loops):
    adj = toys.adjacency(
        5, [(0, 1), (1, 2), (0, 2), (2, 3)], loops=loops
    )  # without loops, 4 is alone
    dense = adj.to_dense()
    degree = dense.sum(1)
    safe = degree.clamp(min=1)
    scale = safe.rsqrt()
    eye = torch.eye(5)
    expected = {
        "sum": dense,
        "mean": dense / safe[:, None],
        "symmetric": scale[:, None] * dense * scale[None, :],
        "mean+self": (dense + eye) / (degree + 1)[:, None],
    }
    for kind, matrix in expected.items():
        torch.testing.assert_close(normalise(adj, kind).to_dense(), matrix)


def test_a_stored_loop_counts_twice_in_mean_self():
    adj = toys.adjacency(2, [(0, 1)], loops=True)
    third = 1 / 3
    expected = torch.tensor([[2 * third, third], [third, 2 * third]])
    torch.testing.assert_close(normalise(adj, "mean+self").to_dense(), expected)


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(ValueError, match=r"'max'; known: mean, mean\+self, sum, symmetric"):
        normalise(PATH, "max")


def test_a_normalised_adjacency_is_computed_once():
    graph = toys.graph(PATH)
    mean = graph.normalised("mean")
    assert graph.normalised("mean") is mean
    assert graph.replace(y=-graph.y).normalised("mean") is mean  # of one adjacency
    assert graph.normalised("sum") is not mean
    other = graph.replace(adj=toys.path(graph.num_nodes, loops=True))
    assert torch.equal(other.normalised("mean").values, normalise(other.adj, "mean").values)


def test_what_is_kept_with_a_graph_is_neither_pickled_nor_moved():
    graph = toys.random_graph()
    fresh = len(pickle.dumps(graph))
    nodes = torch.tensor([7, 0, 29])
    graph.remember(nodes)
    graph.blocks(nodes, 2, "mean")
    assert graph.adj.t.nnz == graph.normalised("mean").t.nnz
    assert len(pickle.dumps(graph)) == fresh
    again = pickle.loads(pickle.dumps(graph))
    assert again.normalised("mean") is not graph.normalised("mean")
    assert torch.equal(again.normalised("mean").values, graph.normalised("mean").values)
    assert graph.to("meta").normalised("sum").device.type == "meta"


# ---- blocks ---------------------------------------------------------------------------------


def test_the_receptive_field_of_a_path_by_hand():
    first, last = receptive_field(PATH, torch.tensor([0, 3]), 2)
    assert last.inputs.tolist() == [0, 3, 1, 2, 4]  # the outputs, then the others by id
    assert last.num_outputs == 2
    assert last.adj.to_dense().tolist() == [[0, 0, 1, 0, 0], [0, 0, 0, 1, 1]]
    assert first.inputs.tolist() == [0, 3, 1, 2, 4]
    assert first.num_outputs == 5
    order = [0, 3, 1, 2, 4]
    assert torch.equal(first.adj.to_dense(), PATH.to_dense()[order][:, order])


def test_the_receptive_field_of_one_end_grows_by_a_hop_a_layer():
    blocks = receptive_field(PATH, torch.tensor([0]), 3)
    assert [block.inputs.tolist() for block in blocks] == [[0, 1, 2, 3], [0, 1, 2], [0, 1]]
    assert [block.num_outputs for block in blocks] == [3, 2, 1]
    assert [block.adj.nnz for block in blocks] == [1 + 2 + 2, 1 + 2, 1]


@pytest.mark.parametrize("loops", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_blocks_compute_what_the_whole_graph_computes(num_layers, loops):
    graph = toys.random_graph(loops=loops)
    h = torch.randn(30, 4, generator=generator())
    nodes = torch.tensor([7, 0, 29])
    whole = h
    for block in graph.blocks(None, num_layers, "symmetric"):
        assert (block.inputs, block.num_outputs) == (None, 30)
        whole = propagate(block, whole)
    blocks = graph.blocks(nodes, num_layers, "symmetric")
    part = h[blocks[0].inputs]
    for block in blocks:
        part = propagate(block, part)
    torch.testing.assert_close(part, whole[nodes])


def test_blocks_of_remembered_nodes_are_cut_once():
    graph = toys.random_graph()
    kept, other = torch.tensor([1, 2]), torch.tensor([1, 2])
    graph.remember(kept)
    assert graph.blocks(kept, 2, "mean") is graph.blocks(kept, 2, "mean")
    assert graph.blocks(kept, 2, "mean") is not graph.blocks(kept, 3, "mean")
    assert graph.blocks(kept, 2, "mean") is not graph.blocks(kept, 2, "sum")
    assert graph.blocks(other, 2, "mean") is not graph.blocks(other, 2, "mean")


# ---- sampling -------------------------------------------------------------------------------


def test_no_node_has_more_neighbours_than_the_fan_out_and_none_twice():
    graph = toys.random_graph()
    adj = graph.normalised("mean")
    nodes = torch.tensor([3, 9, 11])
    blocks = sample_blocks(adj, nodes, (2, 3), generator())
    for block, fanout in zip(blocks, (2, 3), strict=True):
        outputs = block.inputs[: block.num_outputs]
        degrees = adj.degree[outputs]
        assert torch.equal(block.adj.degree, degrees.clamp(max=fanout))
        for row, node in enumerate(outputs):
            places = slice(block.adj.indptr[row], block.adj.indptr[row + 1])
            drawn = block.inputs[block.adj.indices[places].long()].tolist()
            assert len(set(drawn)) == len(drawn)
            neighbours = adj.indices[adj.indptr[node] : adj.indptr[node + 1]].tolist()
            assert set(drawn) <= set(neighbours)
    assert torch.equal(blocks[1].inputs, blocks[0].inputs[: blocks[0].num_outputs])
    assert torch.equal(blocks[1].inputs[:3], nodes)


def test_a_fan_out_of_at_least_the_degree_is_the_whole_receptive_field():
    adj = toys.random_graph().normalised("mean+self")
    nodes = torch.tensor([4, 20])
    most = int(adj.degree.max())
    pairs = zip(
        sample_blocks(adj, nodes, (most, most), generator()),
        receptive_field(adj, nodes, 2),
        strict=True,
    )
    for ours, whole in pairs:
        assert torch.equal(ours.inputs, whole.inputs)
        assert torch.equal(ours.adj.to_dense(), whole.adj.to_dense())


def test_sampled_means_stay_means():
    adj = toys.random_graph().normalised("mean")
    (block,) = sample_blocks(adj, torch.arange(30), (3,), generator())
    torch.testing.assert_close(block.adj.to_dense().sum(1), (adj.degree > 0).float())


@pytest.mark.parametrize("kind", ["sum", "mean", "symmetric", "mean+self"])
def test_a_sampled_product_is_unbiased(kind):
    adj = toys.random_graph().normalised(kind)
    h = torch.randn(30, 3, generator=generator(1))
    rng, nodes = generator(2), torch.arange(30)
    draws = []
    for _ in range(400):
        (block,) = sample_blocks(adj, nodes, (2,), rng)
        draws.append(propagate(block, h[block.inputs]))
    stacked = torch.stack(draws).double()
    error = (stacked.mean(0) - (adj.to_dense() @ h).double()).abs()
    assert (error <= 4.5 * stacked.std(0) / 400**0.5 + 1e-6).all()
    assert stacked.std(0).max() > 0.1


def test_every_neighbour_is_drawn_equally_often():
    star = toys.adjacency(6, [(0, i) for i in range(1, 6)])
    rng, seen = generator(), torch.zeros(6)
    for _ in range(1000):
        (block,) = sample_blocks(star, torch.tensor([0]), (2,), rng)
        seen[block.inputs[1:]] += 1
    assert (seen[1:] - 400).abs().max() < 4.5 * (1000 * 0.4 * 0.6) ** 0.5


def test_sampling_is_a_function_of_the_generator():
    adj = toys.random_graph().normalised("mean")
    nodes = torch.arange(10)
    one, two, other = (sample_blocks(adj, nodes, (2,), generator(s))[0] for s in (0, 0, 1))
    assert torch.equal(one.adj.indices, two.adj.indices)
    assert one.adj.indices.tolist() != other.adj.indices.tolist()


# ---- graphs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sparse", [False, True])
def test_a_subgraph_keeps_what_its_nodes_have(sparse):
    graph = toys.random_graph()
    graph = graph.replace(
        x=graph.x if sparse else graph.x.to_dense(), extra=torch.arange(60.0).view(30, 2)
    )
    nodes = torch.tensor([5, 2, 17])
    part = graph.subgraph(nodes)
    x, whole_x = (g.x.to_dense() for g in (part, graph))
    assert torch.equal(x, whole_x[nodes])
    assert torch.equal(part.y, graph.y[nodes])
    assert torch.equal(part.extra, graph.extra[nodes])
    assert torch.equal(part.adj.to_dense(), graph.adj.to_dense()[nodes][:, nodes])
    assert (part.num_nodes, part.num_features, part.num_classes) == (3, 12, 3)


def test_a_graph_without_edges_keeps_all_else():
    graph = toys.random_graph()
    bare = graph.without_edges()
    assert (bare.adj.nnz, bare.adj.shape) == (0, (30, 30))
    assert bare.x is graph.x
    assert bare.y is graph.y
    assert graph.adj.nnz > 0
    for kind in ("sum", "mean", "symmetric"):
        assert bare.normalised(kind).nnz == 0
    assert torch.equal(bare.normalised("mean+self").to_dense(), torch.eye(30))


def test_a_graph_on_its_own_device_is_itself():
    graph = toys.random_graph()
    assert graph.to("cpu") is graph


# ---- what a method gets ---------------------------------------------------------------------


def test_the_observed_nodes_are_all_but_the_unseen():
    roles = [torch.tensor(ids) for ids in ([4], [1, 2], [6], [0, 5], [3])]
    assert Split(*roles).observed.tolist() == [4, 1, 2, 0, 5, 6]


def test_teacher_log_probs_have_a_temperature_and_are_computed_once():
    teacher = TeacherOutput(torch.tensor([[2.0, 0.0]]))
    torch.testing.assert_close(
        teacher.log_probs(2.0).exp(),
        torch.tensor([[0.7310586, 0.2689414]]),  # 1 / (1 + exp(-1))
    )
    assert teacher.log_probs(2.0) is teacher.log_probs(2.0)
    assert not torch.equal(teacher.log_probs(), teacher.log_probs(2.0))


def test_what_a_teacher_output_came_without_is_said():
    bare = TeacherOutput(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="without a model"):
        _ = bare.model
    with pytest.raises(ValueError, match="without hidden states"):
        _ = bare.hidden


def test_a_teachers_model_is_loaded_when_first_asked_for():
    calls = []
    teacher = TeacherOutput(torch.zeros(1, 2), lambda: calls.append(1) or "model")
    assert not calls
    assert (teacher.model, teacher.model) == ("model", "model")
    assert calls == [1]
