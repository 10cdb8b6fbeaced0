import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from bench import knowledge
from tests import toys


def rows(*values):
    return torch.tensor(values, dtype=torch.float32)


# ---- FitNet and attention -------------------------------------------------------------------


def test_fitnet_is_the_mean_squared_difference_of_unit_rows():
    # (3, 4) -> (0.6, 0.8) against (0, 1): 0.36 + 0.04; (0, 2) -> (0, 1) against (0, 1): 0.
    value = knowledge.fitnet(rows((3, 4), (0, 2)), rows((0, 5), (0, 1)))
    assert value.item() == pytest.approx((0.36 + 0.04) / 4)


def test_attention_compares_shares_of_energy_whatever_the_widths():
    # Energies (9, 16) and (0, 1); lengths 18.357.. and 1.
    student, teacher = rows((3, 0, 0), (0, 4, 0)), rows((0, 0), (0.6, 0.8))
    length = math.hypot(9, 16)
    expected = ((9 / length) ** 2 + (16 / length - 1) ** 2) / 2
    assert knowledge.attention(student, teacher).item() == pytest.approx(expected)
    assert knowledge.attention(student, 7 * student).item() == pytest.approx(0.0, abs=1e-12)


# ---- local structure ------------------------------------------------------------------------

STAR = toys.adjacency(4, [(0, 1), (0, 2)])  # node 3 has no neighbour


def test_lsp_by_hand():
    # Node 0 has the neighbours 1 and 2, these have 0 alone (a softmax of one), 3 has none.
    student = rows((1, 0), (1, 0), (0, 1), (5, 5))  # cosines of node 0: 1 and 0
    teacher = rows((1, 0), (0, 1), (1, 0), (2, 1))  # 0 and 1
    p, q = math.e / (1 + math.e), 1 / (1 + math.e)  # teacher: (q, p), student: (p, q)
    divergence = q * math.log(q / p) + p * math.log(p / q)
    assert knowledge.lsp(STAR, student, teacher).item() == pytest.approx(divergence / 4, rel=1e-5)


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        ("cosine", 0.6),
        ("poly", 0.36),
        ("l2", -math.sqrt(4 + 16)),
        ("rbf", math.exp(-10.0)),
    ],
)
def test_the_kernels_by_hand(kernel, expected):
    pair = toys.adjacency(2, [(0, 1)])
    found = knowledge.similarity(pair, rows((1, 0), (3, 4)), kernel)
    torch.testing.assert_close(found, torch.full((2,), expected))


def test_an_unknown_kernel_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="unknown kernel 'cosin'; did you mean 'cosine'"):
        knowledge.similarity(STAR, torch.zeros(4, 2), "cosin")


@pytest.mark.parametrize("kernel", knowledge.KERNELS)
def test_lsp_is_the_divergence_of_dense_softmaxes(kernel):
    graph = toys.random_graph(loops=True)
    student, teacher = torch.randn(30, 5), 3 * torch.randn(30, 8)
    edges = knowledge.neighbours(graph, None)
    total = 0.0
    dense = graph.adj.to_dense().fill_diagonal_(0) > 0
    for v in range(30):
        others = torch.nonzero(dense[v]).squeeze(1)
        if not len(others):
            continue
        logs = []
        for h in (student, teacher):
            cosine = F.cosine_similarity(h[others], h[v : v + 1])
            gap = (h[others] - h[v]).norm(dim=1)
            kinds = {"cosine": cosine, "poly": cosine**2, "l2": -gap, "rbf": (-(gap**2) / 2).exp()}
            logs.append(kinds[kernel].log_softmax(0))
        total += (logs[1].exp() * (logs[1] - logs[0])).sum().item()
    found = knowledge.lsp(edges.adj, student, teacher, kernel)
    assert found.item() == pytest.approx(total / 30, rel=1e-4)


def test_a_batch_of_lsp_has_the_rows_of_the_whole():
    graph = toys.random_graph()
    student, teacher = torch.randn(30, 5), torch.randn(30, 8)
    whole = knowledge.neighbours(graph, None).adj
    parts = 0.0
    for nodes in torch.randperm(30).split(7):
        block = knowledge.neighbours(graph, nodes)
        assert torch.equal(block.inputs[: len(nodes)], nodes)
        own = knowledge.lsp(block.adj, student[block.inputs], teacher[block.inputs], "l2")
        parts += len(nodes) * own.item()
    assert parts / 30 == pytest.approx(knowledge.lsp(whole, student, teacher, "l2").item())


def test_lsp_has_a_finite_gradient_where_rows_are_equal_or_zero():
    for kernel in knowledge.KERNELS:
        h = rows((0, 0), (0, 0), (1, 2), (0, 0)).requires_grad_()
        knowledge.lsp(STAR, h, rows((1, 0), (0, 1), (1, 1), (0, 0)), kernel).backward()
        assert h.grad.isfinite().all()


def test_the_edges_of_lsp_have_no_loops():
    graph = toys.graph(toys.path(3, loops=True))
    adj = knowledge.neighbours(graph, None).adj
    assert adj.to_dense().tolist() == toys.path(3).to_dense().tolist()
    assert knowledge.neighbours(graph.replace(y=-graph.y), None).adj is adj  # once an adjacency


# ---- relations ------------------------------------------------------------------------------


def test_rkd_distance_by_hand():
    # Student: distances 3, 4, 5 (mean 4); teacher: 1, 1, 2 (mean 4/3).
    student, teacher = rows((0, 0), (3, 0), (0, 4)), rows((0,), (1,), (-1,))
    one, two = [3 / 4, 4 / 4, 5 / 4], [3 / 4, 3 / 4, 6 / 4]
    expected = sum(0.5 * (a - b) ** 2 for a, b in zip(one, two, strict=True)) / 3
    assert knowledge.rkd_distance(student, teacher).item() == pytest.approx(expected)


def test_rkd_angle_by_hand():
    # Three points: the angles at j between i and k; where nodes coincide both sides agree.
    student, teacher = rows((0, 0), (3, 0), (0, 4)), rows((0,), (1,), (-1,))
    # student: at 0 cos 90 = 0, at 1 3/5, at 2 4/5; teacher on a line: -1, 1, 1.
    gaps = [0 - -1, 3 / 5 - 1, 4 / 5 - 1]
    smooth = [abs(g) - 0.5 if abs(g) >= 1 else 0.5 * g * g for g in gaps]
    expected = 2 * sum(smooth) / 27  # (i, k) and (k, i)
    assert knowledge.rkd_angle(student, teacher).item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", [knowledge.rkd_distance, knowledge.rkd_angle, knowledge.gram])
def test_relations_do_not_see_scale_and_rotation(loss):
    h = torch.randn(9, 4)
    rotation, _ = torch.linalg.qr(torch.randn(4, 4))
    assert loss(3 * h @ rotation, h).item() == pytest.approx(0.0, abs=1e-6)
    assert loss(torch.randn(9, 6), h).item() > 1e-3


def test_equal_nodes_have_no_distance_and_no_gradient():
    h = torch.ones(4, 3, requires_grad=True)
    total = knowledge.rkd_distance(h, torch.randn(4, 2)) + knowledge.rkd_angle(h, torch.randn(4, 2))
    total.backward()
    assert total.isfinite()
    assert h.grad.isfinite().all()


def test_nodes_that_coincide_in_the_student_alone_have_a_gradient_of_usual_size():
    torch.manual_seed(0)
    base, teacher = torch.randn(5, 3), torch.randn(6, 2)
    h = torch.cat([base, base[:1]]).requires_grad_()  # nodes 0 and 5 coincide
    knowledge.rkd_angle(h, teacher).backward()
    assert h.grad.abs().max() < 1.0
    moved = (h.detach() + 1e-3 * torch.randn(6, 3)).requires_grad_()
    knowledge.rkd_angle(moved, teacher).backward()  # the others' gradients are about the same
    torch.testing.assert_close(h.grad[1:5], moved.grad[1:5], atol=0.02, rtol=0.1)


@pytest.mark.parametrize("count", [6, 300])  # as it is written, and as an identity
@pytest.mark.parametrize("apart", [None, 1.0, 1e-3])
def test_the_gram_loss_and_its_gradient_are_exact_for_few_rows_and_for_many(count, apart):
    """Also where student and teacher are nearly equal, so that the identity's terms cancel."""
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(count, size, generator=draw) for size in (8, 12))
    if apart is not None:
        student = teacher + apart * torch.randn(count, 12, generator=draw)
    ours, exact = student.clone().requires_grad_(), student.double().requires_grad_()
    value = knowledge.gram_loss(ours, teacher)
    difference = exact @ exact.T - teacher.double() @ teacher.double().T
    expected = difference.square().mean()
    tolerance = 1e-6 if count == 300 or apart != 1e-3 else 1e-3
    assert value.item() == pytest.approx(expected.item(), rel=tolerance)
    (one,), (two,) = (torch.autograd.grad(*pair) for pair in ((value, ours), (expected, exact)))
    assert (one - two).norm() < tolerance * two.norm()


def test_the_gram_loss_of_many_rows_makes_no_matrix_of_all_pairs():
    h = torch.ones(300_000, 2)  # 360 GB
    assert knowledge.gram_loss(h, 2 * h[:, :1]) == 4.0  # 2 and 4 everywhere
    assert knowledge.gram(h, 2 * h[:, :1]).item() == pytest.approx(0, abs=1e-6)


def test_gram_by_hand():
    # Cosine matrices [[1, 0], [0, 1]] and [[1, 0.6], [0.6, 1]].
    value = knowledge.gram(rows((2, 0), (0, 5)), rows((1, 0), (3, 4)))
    assert value.item() == pytest.approx(2 * 0.36 / 4)


def test_contrast_by_hand():
    # Cosines s_i t_j: [[1, 0], [0.6, 0.8]], over the temperature 0.5.
    student, teacher = rows((4, 0), (3, 4)), rows((1, 0), (0, 2))
    first = -math.log(math.exp(2.0) / (math.exp(2.0) + math.exp(0.0)))
    second = -math.log(math.exp(1.6) / (math.exp(1.2) + math.exp(1.6)))
    value = knowledge.contrast(student, teacher, 0.5)
    assert value.item() == pytest.approx((first + second) / 2)
