import itertools

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from bench import encodings, run
from bench.cell import Protocol
from bench.datasets import synthetic
from bench.encodings import Encoding, encode, spread
from bench.expand import expand
from bench.protocol import examine
from bench.run import Place
from bench.sparse import CSR
from bench.sweep import from_overrides
from tests import toys

WALKS = Encoding("deepwalk", 16, walk_length=20, walks_per_node=20, window=3, epochs=2)


def cliques(size: int = 8) -> CSR:
    """Two cliques, one edge between them, and a node alone."""
    edges = [(a, b) for start in (0, size) for a, b in itertools.combinations(range(size), 2)]
    shifted = [
        (a + (i >= len(edges) // 2) * size, b + (i >= len(edges) // 2) * size)
        for i, (a, b) in enumerate(edges)
    ]
    return toys.adjacency(2 * size + 1, [*shifted, (0, size)])


# ---- DeepWalk -------------------------------------------------------------------------------


def test_walks_start_at_every_node_and_follow_edges():
    adj = cliques()
    walks = np.empty((3 * 17, 6), np.int32)
    encodings._walk(adj.indptr.numpy(), adj.indices.numpy(), np.uint64(0), walks)
    dense = adj.to_dense()
    for first in range(0, 51, 17):
        assert sorted(walks[first : first + 17, 0]) == list(range(17))
    assert not np.array_equal(walks[:17, 0], walks[17:34, 0])
    for walk in walks:
        if walk[0] == 16:  # the node without neighbours
            assert (walk[1:] == -1).all()
        else:
            assert all(dense[a, b] for a, b in itertools.pairwise(walk))


def test_the_next_node_is_drawn_evenly():
    star = toys.adjacency(5, [(0, i) for i in range(1, 5)])
    walks = np.empty((5 * 2000, 2), np.int32)
    encodings._walk(star.indptr.numpy(), star.indices.numpy(), np.uint64(3), walks)
    counts = np.bincount(walks[walks[:, 0] == 0, 1], minlength=5)
    assert counts[0] == 0
    assert (abs(counts[1:] - 500) < 4 * np.sqrt(2000 * 0.25 * 0.75)).all()


def test_nodes_of_a_cluster_lie_together():
    vectors = WALKS.compute(cliques())
    assert vectors.shape == (17, 16)
    assert vectors.dtype == torch.float32
    assert vectors.isfinite().all()  # the node alone too
    unit = torch.nn.functional.normalize(vectors[:16], dim=1)
    cosine = unit @ unit.T
    inside = (cosine[:8, :8].sum() + cosine[8:, 8:].sum() - 16) / 112
    assert inside > cosine[:8, 8:].mean() + 0.3


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    one, two = WALKS.compute(cliques()), WALKS.compute(cliques())
    other = Encoding(**{**WALKS.__dict__, "seed": 1}).compute(cliques())
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_a_graph_without_edges_has_finite_encodings():
    alone = CSR.from_scipy(sp.csr_array((4, 4), dtype=np.float32))
    assert WALKS.compute(alone).isfinite().all()


def test_noise_nodes_come_by_the_power_of_their_count():
    table = encodings._noise_table(np.array([16.0, 1.0, 0.0]))
    share = np.bincount(table, minlength=3) / len(table)
    np.testing.assert_allclose(share, [8 / 9, 1 / 9, 0.0], atol=1e-4)


# ---- PyG's transforms -----------------------------------------------------------------------


@pytest.mark.parametrize("size", [12, 120])  # dense and sparse solver
def test_laplacian_encodings_are_eigenvectors_with_a_fixed_sign(size):
    adj = toys.path(size)
    torch.manual_seed(size)
    before = torch.get_rng_state()
    found = Encoding("laplacian", 3).compute(adj)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(size + 1)
    assert torch.equal(found, Encoding("laplacian", 3).compute(adj))
    scale = adj.degree.rsqrt()
    matrix = torch.eye(size) - scale[:, None] * adj.to_dense() * scale
    values = (found * (matrix @ found)).sum(0)
    torch.testing.assert_close(matrix @ found, found * values, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.norm(dim=0), torch.ones(3))
    torch.testing.assert_close(values, torch.linalg.eigvalsh(matrix)[1:4], atol=1e-4, rtol=1e-4)
    assert (found.gather(0, found.abs().argmax(0, keepdim=True)) > 0).all()


def test_a_graph_too_small_for_its_laplacian_encodings_is_refused():
    with pytest.raises(ValueError, match="a graph of 4 nodes has no 3 encodings; lower"):
        Encoding("laplacian", 3).compute(toys.path(4))


def test_random_walk_encodings_are_probabilities_of_return():
    found = Encoding("random_walk", 4).compute(toys.path(3))
    expected = [[0.0, 0.5, 0.0, 0.5], [0.0, 1.0, 0.0, 1.0], [0.0, 0.5, 0.0, 0.5]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_random_walk_encodings_of_a_large_graph_take_the_sparse_way():
    found = Encoding("random_walk", 2).compute(toys.path(2001))
    torch.testing.assert_close(found[:2], torch.tensor([[0.0, 0.5], [0.0, 0.75]]))


# ---- unseen nodes ---------------------------------------------------------------------------


def test_an_unseen_node_gets_the_mean_of_its_observed_neighbours():
    # 0 - 1 - 2 - 3 - 4 and 1 - 3; observed are 0, 2, 4.
    whole = toys.adjacency(6, [(0, 1), (1, 2), (2, 3), (3, 4), (1, 3)], loops=True)
    encoded = torch.tensor([[1.0, 0.0], [3.0, 4.0], [5.0, 2.0]])
    found = spread(encoded, whole, torch.tensor([0, 2, 4]))
    expected = [[1.0, 0.0], [2.0, 2.0], [3.0, 4.0], [4.0, 3.0], [5.0, 2.0], [0.0, 0.0]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_where_every_node_is_observed_nothing_changes():
    encoded = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(spread(encoded, toys.path(3), torch.arange(3)), encoded)


@pytest.mark.parametrize("encoding", [WALKS, Encoding("laplacian", 4), Encoding("random_walk", 4)])
def test_what_is_observed_is_encoded_without_the_hidden(encoding, tmp_path):
    dataset = synthetic.load("synthetic:nodes=200,classes=3,degree=6", tmp_path)
    found = []
    for damage in (False, True):
        graph = dataset.graph
        exam = examine(dataset, Protocol("x", "", "ratio", "production"), 0)
        if damage:  # other features, labels and edges for the hidden nodes
            hidden = exam.split.test_unseen
            dense = graph.adj.to_dense()
            dense[hidden] = 0.0
            dense[:, hidden] = 0.0
            dense[hidden[:-1], hidden[1:]] = dense[hidden[1:], hidden[:-1]] = 1.0
            dense[hidden[0], exam.observed[5]] = dense[exam.observed[5], hidden[0]] = 1.0
            graph = graph.replace(adj=CSR.from_scipy(sp.csr_array(dense.numpy())))
            changed = type(dataset)(dataset.name, graph, dataset.checksum)
            exam = examine(changed, Protocol("x", "", "ratio", "production"), 0)
        encoded, _ = encode(encoding, exam.seen.adj, tmp_path / str(damage))
        found.append(exam.with_extra(spread(encoded, exam.graph.adj, exam.observed)))
    one, two = found
    assert torch.equal(one.observed, two.observed)
    assert torch.equal(one.seen.extra, two.seen.extra)
    assert torch.equal(one.seen.extra, one.graph.extra[one.observed])
    assert not torch.equal(one.graph.extra, two.graph.extra)
    assert one.task(0, None).graph.extra is not None


# ---- kept on disk ---------------------------------------------------------------------------


def test_an_encoding_is_computed_once(tmp_path, monkeypatch):
    first, seconds = encode(WALKS, cliques(), tmp_path)
    assert seconds > 0
    monkeypatch.setattr(Encoding, "compute", lambda self, adj: pytest.fail("computed again"))
    again, kept = encode(WALKS, cliques(), tmp_path)
    assert torch.equal(first, again)
    assert kept == seconds
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_a_damaged_file_is_computed_again(tmp_path, content):
    first, _ = encode(WALKS, cliques(), tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    middle = len(whole) // 3  # inside the numbers
    flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    path.write_bytes(flipped if content is None else content)
    assert torch.equal(encode(WALKS, cliques(), tmp_path)[0], first)
    assert path.read_bytes() != flipped


def test_everything_that_decides_an_encoding_is_in_its_name():
    adj = cliques()
    fields = {"kind": "laplacian", "dim": 8, "walk_length": 9, "walks_per_node": 9, "window": 9}
    fields |= {"epochs": 9, "seed": 9}
    others = [Encoding(**{**WALKS.__dict__, name: value}) for name, value in fields.items()]
    digests = [encoding.digest(adj) for encoding in (WALKS, *others)]
    digests += [WALKS.digest(toys.path(17)), WALKS.digest(toys.path(18))]
    assert len(set(digests)) == len(digests)


def test_a_seed_does_not_matter_to_an_encoding_without_chance():
    one, two = Encoding("laplacian", 4, seed=0), Encoding("laplacian", 4, walk_length=7, seed=1)
    assert one.digest(cliques()) == two.digest(cliques())


# ---- the way through a cell -----------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("none"))
    words = ["datasets=synthetic:nodes=200,classes=3,degree=6,features=40", "splits=ratio"]
    words += ["settings=production", "teachers=gcn", "students=glnn,nosmog", "nosmog.hidden_dim=8"]
    words += ["gcn.max_epochs=4", "glnn.max_epochs=4", "nosmog.max_epochs=4"]
    cells = expand(from_overrides([*words, "nosmog.encoding_dim=5"]), place.data)
    return place, {cell.group[3:]: (cell, run.run(cell, place)) for cell in cells}


def test_a_student_gets_the_encodings_it_asks_for_and_its_teacher_does_not(rows):
    place, found = rows
    cell, row = found["gcn", "nosmog"]
    assert row.status == "ok", row.reason
    model = run.load_model(cell, place)
    features = run.load_exam(found["gcn", ""][0], place).graph.num_features
    assert model.num_features == features + 5
    assert model.mlp.layers[0].weight.shape == (features + 5, 8)
    teacher = run.load_model(found["gcn", ""][0], place)
    assert teacher.num_features == features
    assert run.load_exam(found["gcn", "glnn"][0], place).graph.extra is None
    assert run.load_exam(cell, place).seen.extra.shape[1] == 5


def test_the_time_of_an_encoding_is_its_own(rows):
    _, found = rows
    assert found["gcn", "nosmog"][1].seconds["encode"] > 0
    assert found["gcn", "glnn"][1].seconds["encode"] == 0
    assert found["gcn", ""][1].seconds["encode"] == 0


def test_a_model_with_encodings_is_measured(rows):
    place, found = rows
    cost = run.measure(found["gcn", "nosmog"][1], place)
    assert cost[""]["latency_ms"] > 0
