"""An epoch of RbM against plain PyTorch code, and the forms of a mixture of experts side by side.

Both sides of the epoch do the same work on Cora's size (public split, 3 layers of 512, 4 experts, 3
chosen, full batch, one Adam step, one validation), one thread each. The plain side is what one
would write first: dense features, a list of `torch.nn.Linear` experts, rows dispatched by index.
The bound is the time of the dense matrix products of the chosen pairs (in the middle layer x W and
its two gradients), nothing around them. RbM with reliable sampling, with adversarial features too,
and MoE have lines of their own: each beside its own products, and the plain RbM for a scale. Both
sides profit from `kernels.keep_memory`, which plain code alone would not have. Run it with

    python -m tests.benchmarks.speed_rbm [--epochs 5] [--dataset cora]

`cora` needs $GKDBENCH_DATA; `--dataset synthetic:nodes=2708,features=1433,words=18` needs nothing.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bench import data, fused, kernels, registry, run, train
from bench.cell import Protocol
from bench.graph import Task, TeacherOutput
from bench.mixture import Routing, dense_mixture, sparse_mixture
from bench.protocol import examine
from bench.sparse import CSR, spmm

SHAPE = {"num_layers": 3, "hidden_dim": 512, "dropout": 0.3, "num_experts": 4, "top_k": 3}
LOSS = {"label_weight": 0.2, "temperature": 1.29, "batch_size": 0, "schedule": "sum"}
WEIGHTS = {"commitment_weight": 0.05, "self_similarity_weight": 0.01, "load_balance_weight": 0.01}


class PlainLayer(nn.Module):
    """An RbM layer, as its equations read."""

    def __init__(self, size_in: int, size_out: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(size_in, size_out) for _ in range(4)])
        self.memory = nn.Parameter(torch.randn(4, size_in))
        self.log_scale = nn.Parameter(torch.tensor(0.693))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        memory, unit = F.normalize(self.memory, dim=1).detach(), F.normalize(x, dim=1)
        top, ids = (unit @ memory.T).topk(3)
        weights = torch.zeros(len(x), 4).scatter(1, ids, top.softmax(1))
        out, means = torch.zeros(len(x), self.experts[0].out_features), []
        for e, expert in enumerate(self.experts):
            rows = (ids == e).any(1).nonzero().flatten()
            own = expert(F.dropout(x[rows], 0.3, self.training)) * weights[rows, e : e + 1].detach()
            out = out.index_add(0, rows, own)
            with torch.no_grad():
                share = weights[rows, e].softmax(0).unsqueeze(1)
                means.append((share * unit[rows]).sum(0))
        if self.training:
            self.memory.data = 0.9 * memory + 0.1 * torch.stack(means)
        commitment = -(top.softmax(1) * top).sum(1).mean()
        alike = F.normalize(self.memory, dim=1) @ F.normalize(self.memory, dim=1).detach().T
        load = weights.sum(0)
        uneven = load.var() / (load.mean() ** 2 + 1e-10)
        auxiliary = 0.05 * commitment + 0.01 * alike.mean() + 0.01 * uneven
        return out * self.log_scale.exp(), auxiliary


class PlainRbM(nn.Module):
    """Three such layers and ReLU."""

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        sizes = [(num_features, 512), (512, 512), (512, num_classes)]
        self.layers = nn.ModuleList([PlainLayer(a, b) for a, b in sizes])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total = torch.zeros(())
        for i, layer in enumerate(self.layers):
            x, auxiliary = layer(x.relu() if i else x)
            total = total + auxiliary
        return x, total


def plain_epoch(model: PlainRbM, optimizer: torch.optim.Adam, task: Task, x: Tensor) -> None:
    """One epoch of the plain side, validation included."""
    assert task.teacher is not None
    soft = task.teacher.log_probs(1.29)
    model.train()
    optimizer.zero_grad()
    logits, auxiliary = model(x[task.split.train])
    (0.2 * F.cross_entropy(logits, task.graph.y[task.split.train]) + auxiliary).backward()
    logits, auxiliary = model(x)
    student = (logits / 1.29).log_softmax(1)
    soft_loss = F.kl_div(student, soft, reduction="batchmean", log_target=True) * 1.29**2
    (0.8 * soft_loss + auxiliary).backward()
    optimizer.step()
    model.eval()
    with torch.no_grad():
        task.val_accuracy(model(x[task.split.val])[0])


# ---- the epoch ------------------------------------------------------------------------------


def load_task(name: str) -> Task:
    """A task with a made-up teacher; its model, which reliable sampling asks, is untrained."""
    root = data.data_root()
    dataset = registry.dataset_module(name).load(name, root)
    split = "public" if "public" in dataset.fixed_splits else "ratio"
    exam = examine(dataset, Protocol(name, dataset.checksum, split, "transductive"), 0)
    logits = 3.0 * F.one_hot(exam.graph.y, exam.graph.num_classes) + torch.randn(
        exam.graph.num_nodes, exam.graph.num_classes
    )
    config = registry.configure("teacher", "sage", {}, {})

    def model() -> Any:
        return run.build("teacher", "sage", config, exam.task(0, None)).eval()

    return exam.task(0, TeacherOutput(logits, model))


def an_epoch(student: str, task: Task, **options: object) -> Callable[[], None]:
    """An epoch of ours: training, one Adam step, validation."""
    config = registry.configure("student", student, {**SHAPE, **LOSS, "lr": 0.01, **options}, {})
    ours = run.build("student", student, config, task)
    adam = train.Adam(list(ours.parameters()), lr=0.01, weight_decay=5e-4)
    step = train.Step(0, 1, torch.Generator())

    def epoch() -> None:
        train._epoch(ours, task, adam, step)
        train.validate(ours, task)

    return epoch


def plain_side(task: Task) -> Callable[[], None]:
    """An epoch of the plain side."""
    assert isinstance(task.graph.x, CSR)
    x = task.graph.x.to_dense()
    plain = PlainRbM(x.shape[1], task.graph.num_classes)
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.01, weight_decay=5e-4)
    return lambda: plain_epoch(plain, optimizer, task, x)


def products(
    task: Task, *, refit: bool = False, climbs: int = 0, router: bool = False
) -> Callable[[], None]:
    """The dense products of an epoch's chosen pairs, and nothing else.

    The middle layer, forward and back; with `refit` one forward pass more; with `climbs` that many
    steps on the (dense) features, forward and back to them, and one more to the weights; with
    `router` the projections of two learned routers.
    """
    batch, val = task.num_nodes + len(task.split.train), len(task.split.val)
    h, weight = torch.randn(3 * batch, 512), torch.randn(512, 512)
    size_in = task.graph.num_features
    x, first = torch.randn(3 * batch if climbs else 1, size_in), torch.randn(size_in, 512)

    def once() -> None:
        h @ weight, h @ weight.T, h.T @ h
        h[: 3 * val] @ weight
        if refit:
            h[: 3 * task.num_nodes] @ weight
        for _ in range(climbs):
            x @ first, h @ first.T, h @ weight, h @ weight.T
        if climbs:
            x @ first, x.T @ h, h @ weight, h @ weight.T, h.T @ h
        for _ in range(2 * router):
            some = h[:batch]
            some @ weight, some @ weight.T, some.T @ some
            h[:val] @ weight

    return once


def compare_epochs(task: Task, epochs: int) -> None:
    """Alternate epochs of all sides, so that noise hits them alike."""
    sampled = {**WEIGHTS, "reliable_sampling": True, "reliability_start": 0, "reliability_refit": 0}
    attacked = {**sampled, "adversarial_weight": 0.05, "adversarial_steps": 5}
    learned = {"num_experts": 8, "load_balance_weight": 0.01}
    sides: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
        "rbm": (an_epoch("rbm", task, **WEIGHTS), products(task)),
        "rbm, reliable sampling": (an_epoch("rbm", task, **sampled), products(task, refit=True)),
        "rbm, sampling and adversarial": (
            an_epoch("rbm", task, **attacked), products(task, refit=True, climbs=5)
        ),
        "moe, 8 experts": (an_epoch("moe", task, **learned), products(task, router=True)),
    }  # fmt: skip
    plain = plain_side(task)
    for name, (epoch, floor) in sides.items():
        found = _in_turn({"plain": plain, "ours": epoch, "products": floor}, epochs)
        _tell(f"an epoch of {name}: ours {found['ours']:.0f} ms, products alone "
              f"{found['products']:.0f} ms, ours / products "
              f"{found['ours'] / found['products']:.2f}; plain rbm {found['plain']:.0f} ms, "
              f"plain rbm / ours {found['plain'] / found['ours']:.2f}")  # fmt: skip


# ---- the forms of a mixture -----------------------------------------------------------------


def all_experts(x: Tensor, weight: Tensor, routing: Routing) -> Tensor:
    """Every expert of every row in one product, then the weighted sum; one mask for all experts."""
    size_out = weight.shape[2]
    every = F.dropout(x, 0.3) @ weight.transpose(0, 1).reshape(x.shape[1], -1)
    gates = routing.spread(len(weight))
    return (every.view(len(x), -1, size_out) * gates.unsqueeze(2)).sum(1)


def per_expert(x: Tensor, weight: Tensor, routing: Routing) -> Tensor:
    """The rows of an expert at once, by torch's own operations."""
    out, top_k = x.new_zeros(len(x), weight.shape[2]), routing.experts.shape[1]
    order = routing.experts.flatten().argsort(stable=True)
    counts = torch.bincount(routing.experts.flatten(), minlength=len(weight)).tolist()
    for expert, pairs in enumerate(order.split(counts)):
        rows = pairs // top_k
        part = F.dropout(x[rows], 0.3) @ weight[expert]
        out = out.index_add(0, rows, part * routing.gates.flatten()[pairs].unsqueeze(1))
    return out


def padded(x: Tensor, weight: Tensor, routing: Routing) -> Tensor:
    """One batched product, the rows of each expert padded to the longest."""
    top_k = routing.experts.shape[1]
    counts = torch.bincount(routing.experts.flatten(), minlength=len(weight))
    order = routing.experts.flatten().argsort(stable=True)
    place = torch.arange(int(counts.max())).expand(len(weight), -1)
    inside = place < counts.unsqueeze(1)
    pairs = torch.zeros_like(place)
    pairs[inside] = order
    part = F.dropout(x[pairs // top_k], 0.3).bmm(weight)  # [E, longest, H]
    gates = routing.gates.flatten()[pairs] * inside
    rows = (pairs // top_k).flatten()
    return x.new_zeros(len(x), weight.shape[2]).index_add(
        0, rows, (part * gates.unsqueeze(2)).flatten(0, 1)
    )


def ours_dense(x: Tensor, weight: Tensor, routing: Routing) -> Tensor:
    """What the layers run."""
    return dense_mixture(torch.zeros(len(x), weight.shape[2]), x, weight, routing, 0.3)


def compare_dense(rows: int, size_in: int, size_out: int, num_experts: int, top_k: int) -> None:
    """Forward and backward of every form."""
    x = torch.randn(rows, size_in).relu().requires_grad_()
    weight = torch.randn(num_experts, size_in, size_out, requires_grad=True)
    experts = torch.randn(rows, num_experts).topk(top_k).indices
    routing = Routing(experts, torch.randn(rows, top_k).softmax(1))
    up = torch.randn(rows, size_out)

    def both(form: Callable[..., Tensor]) -> Callable[[], None]:
        return lambda: torch.autograd.backward(form(x, weight, routing), up)

    forms = {f.__name__: both(f) for f in (all_experts, per_expert, padded, ours_dense)}
    found = _in_turn(forms, 7)
    _tell(f"  {rows} x {size_in} -> {size_out}, {top_k} of {num_experts}: {_shown(found)}")


def compare_sparse(x: CSR, size_out: int, num_experts: int, top_k: int) -> None:
    """Forward and backward of the first layer."""
    n, size_in = x.shape
    weight = torch.randn(num_experts, size_in, size_out, requires_grad=True)
    experts = torch.randn(n, num_experts).topk(top_k).indices
    routing = Routing(experts, torch.randn(n, top_k).softmax(1))
    up, rows, dense = torch.randn(n, size_out), torch.arange(n), x.to_dense()

    def one_product() -> None:
        flat = weight.transpose(0, 1).reshape(size_in, -1)
        every = spmm(x, flat).view(n, num_experts, size_out)
        (every * routing.spread(num_experts).unsqueeze(2)).sum(1).backward(up)

    forms = {
        "all_experts": one_product,
        "dense_rows": lambda: per_expert(dense, weight, routing).backward(up),
        "ours_sparse": lambda: sparse_mixture(
            torch.zeros(n, size_out), x, rows, weight, routing, 0.3
        ).backward(up),
    }
    found = _in_turn(forms, 5)
    _tell(f"  {n} x {size_in} (sparse) -> {size_out}, {top_k} of {num_experts}: {_shown(found)}")


def compare_members(x: CSR, members: int, width: int, num_classes: int) -> None:
    """An ensemble's members in turn, and as products of all of them."""
    first = torch.randn(members, x.shape[1], width, requires_grad=True)
    last = torch.randn(members, width, num_classes, requires_grad=True)
    up = torch.randn(members, x.shape[0], num_classes)

    def in_turn() -> None:
        for m in range(members):
            (fused.relu_dropout(spmm(x, first[m]), 0.5, True) @ last[m]).backward(up[m])

    def at_once() -> None:
        h = spmm(x, first.transpose(0, 1).reshape(x.shape[1], -1))
        h = fused.relu_dropout(h, 0.5, True).view(x.shape[0], members, width)
        (h.transpose(0, 1) @ last).backward(up)

    found = _in_turn({"in_turn": in_turn, "at_once": at_once}, 7)
    _tell(f"  {members} members of width {width}: {_shown(found)}")


def _in_turn(sides: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each side, alternating."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 2):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            if turn > 1:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def _shown(found: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f} ms" for name, value in found.items())


def main() -> None:
    """Run all comparisons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--dataset", default="cora")
    options = parser.parse_args()
    kernels.set_threads(1)
    torch.manual_seed(0)
    task = load_task(options.dataset)
    compare_epochs(task, options.epochs)
    _tell("dense mixtures, forward and backward:")
    for shape in ((2708, 512, 512, 4, 3), (2708, 512, 512, 8, 3), (2708, 128, 128, 8, 3),
                  (2708, 512, 7, 4, 3), (140, 512, 512, 4, 3)):  # fmt: skip
        compare_dense(*shape)
    assert isinstance(task.graph.x, CSR)
    _tell("sparse mixtures, forward and backward:")
    for size_out, num_experts, top_k in ((512, 4, 3), (512, 8, 3), (128, 4, 3)):
        compare_sparse(task.graph.x, size_out, num_experts, top_k)
    _tell("ensembles, forward and backward:")
    for members, width in ((4, 128), (4, 512), (8, 32)):
        compare_members(task.graph.x, members, width, task.graph.num_classes)


def _tell(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
