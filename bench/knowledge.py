"""What a student can be taught beside soft labels: losses on hidden states, edges and relations.

Every function takes the hidden states of the same nodes, student's [B, H] and teacher's [B, H'],
and returns one number; no gradient is meant to reach the teacher's. Three kinds of knowledge, after
the survey of Liu et al., arXiv 2302.14643: of the output (losses.py), of middle layers (`fitnet`,
`attention`, `lsp`), and of a constructed graph of relations among samples (`rkd_distance`,
`rkd_angle`, `gram`, `contrast`).

Differs from the official code of G-CRD (efficient-gnns), for who compares weights: `lsp` is a mean
over nodes, not over edges, and its kernel `l2` minus the distance, not plus; `gram` compares hidden
states, not projections of them; which nodes and states are compared is up to the caller (kinds.py).

Edges are never made a matrix of B x B: `lsp` works on the stored entries; kernels of distances take
H numbers for each, twice.
`gram_loss` and `gram` take B x B numbers or H x H' and less, whatever is less; `contrast` is B x B,
`rkd_angle` is B x B x max(B, H): for sampled nodes.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from bench.graph import Block, Graph, receptive_field
from bench.hparams import unknown
from bench.kept import once
from bench.sparse import CSR, _offsets, entry_products

KERNELS = ("cosine", "poly", "l2", "rbf")

# ---- middle layers --------------------------------------------------------------------------


def fitnet(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of rows scaled to length 1, over all B x P entries.

    Both are projections to the same width: [B, P].

    Source: FitNets, Romero et al., arXiv 1412.6550, on nodes and with normalised rows.
    """
    return F.mse_loss(F.normalize(student), F.normalize(teacher))


def attention(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference, over the B nodes, of the energies sum_c h^2, scaled to length 1.

    Source: attention transfer, Zagoruyko & Komodakis, arXiv 1612.03928 (p = 2), with nodes in
    the place of positions.
    """
    one, two = (F.normalize(h.square().sum(1), dim=0) for h in (student, teacher))
    return F.mse_loss(one, two)


def neighbours(graph: Graph, nodes: Tensor | None) -> Block:
    """Return the edges into `nodes` (int64 [B]; all without), self-loops left out.

    The block's inputs are the nodes, then their other neighbours; None stands for all nodes.
    """
    adj = once(graph.adj, "without loops", lambda: _without_loops(graph.adj))
    if nodes is None:
        return Block(adj, None, adj.shape[0])
    return receptive_field(adj, nodes, 1)[0]


def _without_loops(adj: CSR) -> CSR:
    keep = adj.row_ids != adj.indices.long()
    counts = torch.bincount(adj.row_ids[keep], minlength=adj.shape[0])
    return CSR(_offsets(counts), adj.indices[keep], adj.values[keep], adj.shape)


def lsp(adj: CSR, student: Tensor, teacher: Tensor, kernel: str = "cosine") -> Tensor:
    """Local structure: (1/B) sum_v KL of softmax over v's neighbours u of K(h_u, h_v).

    Args:
        adj: the edges into B nodes, [B, n]; a node without one counts as zero.
        student: hidden states of the n input nodes, [n, H], the B nodes first.
        teacher: the same nodes, [n, H'].
        kernel: one of KERNELS, see `similarity`.

    Source: LSP, Yang et al., arXiv 2003.10477 (CVPR 2020): KL(teacher || student).
    """
    return structure_loss(adj, *(local_structure(adj, h, kernel) for h in (student, teacher)))


def local_structure(adj: CSR, h: Tensor, kernel: str = "cosine") -> Tensor:
    """Return the log-softmax of K(h_u, h_v) over the neighbours u of v, [nnz]: a side of `lsp`."""
    return _edge_log_softmax(adj, similarity(adj, h, kernel))


def structure_loss(adj: CSR, student: Tensor, teacher: Tensor) -> Tensor:
    """Return `lsp` of the two sides' local structures, [nnz] each."""
    return (teacher.exp() * (teacher - student)).sum() / max(adj.shape[0], 1)


def similarity(adj: CSR, h: Tensor, kernel: str) -> Tensor:
    """Return K(h_u, h_v) of every stored entry (v, u), [nnz].

    cosine: <h_u, h_v> / (|h_u| |h_v|); poly: its square; l2: -|h_u - h_v|; rbf:
    exp(-|h_u - h_v|^2 / 2).

    Raises:
        ValueError: an unknown kernel.
    """
    if kernel not in KERNELS:
        raise unknown("kernel", kernel, KERNELS)
    if kernel in ("cosine", "poly"):
        h = F.normalize(h)
        cosine = entry_products(adj, h[: adj.shape[0]], h)
        return cosine if kernel == "cosine" else cosine.square()
    # The gradient of `index_select` adds up in one order; that of `h[ids]` does not. A product in
    # place of the difference would lose the small distances, whose gradients are the largest.
    u, v = h.index_select(0, adj.indices.long()), h.index_select(0, adj.row_ids)
    squared = (u - v).square().sum(1)
    # Equal rows have no direction: the clamp gives them a gradient of zero.
    return (-squared / 2).exp() if kernel == "rbf" else -squared.clamp(min=1e-12).sqrt()


def _edge_log_softmax(adj: CSR, scores: Tensor) -> Tensor:
    """Log of the softmax of scores [nnz] over the entries of each row."""
    low = scores.new_full((adj.shape[0],), -torch.inf)
    top = low.scatter_reduce(0, adj.row_ids, scores.detach(), "amax")
    shifted = scores - top.index_select(0, adj.row_ids)
    total = scores.new_zeros(adj.shape[0]).index_add(0, adj.row_ids, shifted.exp())
    return shifted - total.log().index_select(0, adj.row_ids)


# ---- relations among nodes ------------------------------------------------------------------


def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 of the pairwise distances, each side's over its own mean, over the pairs i < j.

    Source: RKD, Park et al., arXiv 1904.05068 (CVPR 2019), section 3.2.1.
    """
    one, two = (_relative(F.pdist(h)) for h in (student, teacher))
    return F.smooth_l1_loss(one, two)


def _relative(distances: Tensor) -> Tensor:
    """Divide by the mean of the distances that are not zero."""
    count = (distances > 0).sum().clamp(min=1)
    return distances / (distances.sum() / count).clamp(min=torch.finfo(distances.dtype).tiny)


def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 of the cosines of the angles at j between i and k, over all B^3 triples.

    Triples in which nodes coincide are equal on both sides and add zero, as in the official code.

    Source: RKD, Park et al., arXiv 1904.05068 (CVPR 2019), section 3.2.2.
    """
    return F.smooth_l1_loss(_angles(student), _angles(teacher))


def _angles(h: Tensor) -> Tensor:
    """<e_ij, e_kj> with e_ij = (h_i - h_j) / |h_i - h_j|, [B, B, B] at (j, i, k)."""
    apart = h.unsqueeze(0) - h.unsqueeze(1)  # [j, i, H]
    square = apart.square().sum(2, keepdim=True)
    # Where nodes coincide there is no direction, and no gradient: that of a norm would be 1e12.
    scale = torch.where(square > 0, square, 1.0).rsqrt()
    apart = torch.where(square > 0, apart * scale, 0.0)
    return apart @ apart.transpose(1, 2)


def gram(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the matrices of cosines, over all B x B entries.

    Source: similarity-preserving distillation, Tung & Mori, arXiv 1907.09682 (ICCV 2019), in the
    form of "global structure preserving" of Joshi et al., arXiv 2111.04964.
    """
    return gram_loss(F.normalize(student), F.normalize(teacher))


def gram_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the Gram matrices T T' and S S', over all B x B entries.

    Many rows never make a B x B matrix: |T T' - S S'|^2 = |T'T|^2 + |S'S|^2 - 2 |T'S|^2. The three
    terms nearly cancel where student and teacher are alike, so they are summed in double precision.

    Source: NOSMOG, arXiv 2208.10010.
    """
    count = len(student)
    if count < student.shape[1] + teacher.shape[1]:
        return (teacher @ teacher.T - student @ student.T).square().mean()
    s, t = student.double(), teacher.double()
    total = (t.T @ t).square().sum() + (s.T @ s).square().sum() - 2 * (t.T @ s).square().sum()
    return (total / count**2).to(student.dtype)


def contrast(student: Tensor, teacher: Tensor, temperature: float = 0.075) -> Tensor:
    """InfoNCE: of all nodes of the sample, a student's row is to point to its own teacher's row.

    Cross-entropy, mean over the B rows, of <s_i, t_j> / temperature to j = i, rows scaled to length
    1; both are projections to the same width, [B, P].

    Source: G-CRD, Joshi et al., arXiv 2111.04964.
    """
    scores = F.normalize(student) @ F.normalize(teacher).T / temperature
    return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))
