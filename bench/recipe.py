"""What distilled students have in common: two losses, their schedule, and four switches.

A student whose `Config` extends `RecipeConfig` and whose `batches`, `loss` and `begin_epoch` call
the functions of the same name here can switch on, by configuration alone: positional encodings
(`encoding`), reliable sampling of neighbours (`reliable_sampling`), adversarial features
(`adversarial_weight`) and similarity of representations (`similarity_weight`). The last one takes
two more lines: `self.similarity = similarity_encoder(config, num_classes)` in `__init__`, and
`return {"": shipped(self)}` in `deploy`. A network that needs nothing else is a `RecipeStudent`.

The loss of a batch of labelled nodes is label_weight * CE, that of a batch of pairs (i, j), student
node i and teacher node j, is (1 - label_weight) * KL(teacher_j || student_i); without reliable
sampling the pairs are (i, i). On top, for each batch: what the layers ask for (`auxiliary`) and the
two terms of NOSMOG. Schedules:

* `steps` (GLNN): shuffled batches of `batch_size`, remainder dropped, each its own Adam step.
* `sum` (RbM): one Adam step an epoch on the SUM of the batches' means. Many batches weigh more: the
  number of pair batches multiplies the soft-label term and the auxiliary one.
* `mean` (KRD): one Adam step an epoch on the mean over all labelled nodes plus the mean over all
  pairs; the batch size changes memory and nothing else (but dropout's and batch norm's view).

Sources: GLNN, arXiv 2110.08727; NOSMOG, arXiv 2208.10010; KRD, arXiv 2306.05628; RbM,
arXiv 2406.11919. Adversarial features: Madry et al., arXiv 1706.06083, section 2.1 (PGD).

Choices: a temperature comes with T^2. With `sum` and `mean`, batches are equal parts of at most
`batch_size` (0: one), pairs in order of the student node, which is computed once a batch. The
similarity term is part of the weighted loss of every batch with `steps` (NOSMOG's code) and stands
alone on labelled batches otherwise (RbM's code). The inner steps of PGD run in training mode, so
they move running statistics and expert memories, as in both official codes; sparse features stay
sparse before a linear layer (the experts of `moe` and `rbm` read them dense, with the shift added),
but the shift itself is dense: B x (F + P) numbers and a dense product a step.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench import adversarial, knowledge, losses, reliability
from bench.graph import Task, TeacherOutput
from bench.hparams import derive_seed, hp
from bench.kept import once
from bench.layers import Linear, MLPConfig, shuffled
from bench.method import Batch, Method, Step

Auxiliary = Callable[[], Tensor]


@dataclass(frozen=True)
class RecipeConfig(MLPConfig):
    """Hyper-parameters of the recipe; each switch is off by default."""

    # lambda: of CE; 1 - lambda: of KL.
    label_weight: float = hp(0.0, low=0.0, high=1.0, search=(0.0, 0.6))
    temperature: float = hp(
        1.0, low=0.1, high=10.0, log=True, search=(0.5, 4.0)
    )  # tau; T^2 applied
    schedule: str = hp("steps", choices=("steps", "sum", "mean"))
    # Positional encodings: more input columns, made from the observed graph alone (encodings.py).
    encoding: str = hp("none", choices=("none", "deepwalk", "laplacian", "random_walk"))
    encoding_dim: int = hp(64, low=1, high=1024, log=True)  # columns; steps of `random_walk`
    walk_length: int = hp(50, low=2, high=1000)  # nodes of a DeepWalk walk
    walks_per_node: int = hp(5, low=1, high=100)
    walk_window: int = hp(5, low=1, high=20)
    walk_epochs: int = hp(1, low=1, high=100)  # passes over the walks
    # KRD: pairs of neighbours, sampled by how reliable the teacher is on them.
    reliable_sampling: bool = hp(False, choices=(False, True))
    reliability_start: int = hp(50, low=0, high=100_000)  # epoch; before it every edge is a pair
    reliability_refit: int = hp(50, low=0, high=100_000)  # first epoch that refits the exponent
    reliability_interval: int = hp(1, low=1, high=1000)  # epochs from one refit to the next
    # eta, of the exponent alpha
    reliability_momentum: float = hp(
        0.99, low=0.0, high=1.0, search=[0.9, 0.99], when="reliable_sampling"
    )
    reliability_bins: int = hp(50, low=2, high=1000)
    # NOSMOG: adversarial features and similarity of representations.
    adversarial_weight: float = hp(0.0, low=0.0, high=10.0)  # eta; 0: off
    # epsilon, of [x, encodings]
    adversarial_radius: float = hp(
        0.05, low=0.0, high=1.0, search=(0.01, 0.1), when="adversarial_weight"
    )
    adversarial_steps: int = hp(5, low=1, high=50)
    similarity_weight: float = hp(0.0, low=0.0, high=10.0)  # omega; 0: off


@dataclass
class Sampling:
    """What reliable sampling remembers during a fit, in `method.sampling`.

    `difficulty` [N] belongs to `teacher`; `epochs` counts over all phases of a fit.
    """

    teacher: TeacherOutput
    difficulty: Tensor
    exponent: float = 1.0  # alpha
    epochs: int = 0
    num_pairs: int = 0  # of this epoch


# ---- an epoch -------------------------------------------------------------------------------


def begin_epoch(method: Method, task: Task, step: Step) -> None:
    """Refit the exponent of reliable sampling where that is due."""
    config: Any = method.config
    if not config.reliable_sampling:
        return
    state = _sampling(method, task)
    since = state.epochs - config.reliability_refit
    state.epochs += 1
    if since < 0 or since % config.reliability_interval:
        return
    method.eval()
    with torch.no_grad():
        predicted = method.inference(task.graph).logits.argmax(1)
    method.train()
    state.exponent = reliability.refit(
        state.exponent,
        state.difficulty,
        predicted == state.teacher.logits.argmax(1),
        bins=config.reliability_bins,
        momentum=config.reliability_momentum,
    )


def _sampling(method: Method, task: Task) -> Sampling:
    """Return the state of this fit; a new teacher starts a new one."""
    teacher = task.teacher
    assert teacher is not None
    state: Sampling | None = getattr(method, "sampling", None)
    if state is None or state.teacher is not teacher:
        graph = task.graph.replace(extra=None)  # the teacher never sees the encodings
        noise = torch.Generator().manual_seed(derive_seed(task.seed, "reliability"))
        found = reliability.difficulty(graph, lambda g: teacher.model(g).logits, noise)
        state = Sampling(teacher, found)
        method.sampling = state  # type: ignore[assignment]
    return state


def batches(method: Method, task: Task, step: Step) -> Iterable[Batch]:
    """Yield the batches of labelled nodes, then those of all observed nodes, or of pairs."""
    config: Any = method.config
    pairs = _pairs(method, task, step) if config.reliable_sampling else None
    cut = _steps if config.schedule == "steps" else _parts
    return cut(config.batch_size, task, step, pairs)


def _pairs(method: Method, task: Task, step: Step) -> Tensor:
    """Draw the pairs of this epoch: every edge until sampling starts."""
    config: Any = method.config
    state = _sampling(method, task)
    waits = max(state.epochs - 1, 0) < config.reliability_start
    probability = reliability.keep_probability(state.difficulty, state.exponent)
    pairs = reliability.sample_pairs(task.graph.adj, None if waits else probability, step.generator)
    state.num_pairs = pairs.shape[1]
    return pairs


def _steps(size: int, task: Task, step: Step, pairs: Tensor | None) -> Iterator[Batch]:
    """GLNN's schedule: each batch is a step."""
    for nodes in shuffled(task.split.train, size, step.generator):
        yield Batch(nodes, labelled=True)
    if pairs is None:
        for nodes in shuffled(task.nodes, size, step.generator):
            yield Batch(nodes)
        return
    ids = torch.arange(pairs.shape[1], device=pairs.device)
    for chosen in shuffled(ids, size, step.generator):
        some = pairs[:, chosen]
        yield Batch(some[0], pairs=some)


def _parts(size: int, task: Task, step: Step, pairs: Tensor | None) -> Iterator[Batch]:
    """One step an epoch: equal parts, in order."""
    for nodes in equal_parts(task.split.train, size):
        yield Batch(nodes, labelled=True, ends_step=False)
    parts = equal_parts(task.nodes if pairs is None else pairs, size)
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if pairs is None:
            yield Batch(part, ends_step=last)
        else:
            yield Batch(part[0], pairs=part, ends_step=last)


def equal_parts(items: Tensor, size: int) -> tuple[Tensor, ...]:
    """Cut the last dimension into equal parts of at most `size` (0: one part)."""
    count = items.shape[-1]
    return items.tensor_split(-(-count // size) if size else 1, dim=-1)


# ---- the loss of a batch --------------------------------------------------------------------


def loss(
    method: Method, task: Task, batch: Batch, step: Step, auxiliary: Auxiliary | None = None
) -> Tensor | None:
    """Return the loss of a batch; None where every weight of it is zero.

    Args:
        method: its `config` is a RecipeConfig.
        task: what the method may see.
        batch: one of `batches`.
        step: its generator draws the start of adversarial features.
        auxiliary: returns the layers' auxiliary loss of the last forward; added, with weight 1, to
            the loss of every batch (and to what the adversarial term climbs).

    Adversarial features reach `method.forward` as a graph of the batch's nodes whose `shift` is not
    None: `Linear.of_graph` adds it to the features.
    """
    config: Any = method.config
    weight = config.label_weight if batch.labelled else 1.0 - config.label_weight
    alike = config.similarity_weight * (
        weight if config.schedule == "steps" else float(batch.labelled)
    )
    if not weight and not alike and auxiliary is None:
        return None
    nodes, goal = _goal(config, task, batch)

    def objective(logits: Tensor) -> Tensor:
        value = weight * goal(logits)
        return value if auxiliary is None else value + auxiliary()

    output = method(task.graph, nodes)
    total = objective(output.logits)
    if alike:
        assert task.teacher is not None
        seen = method.similarity(output.hidden)  # type: ignore[operator]
        total = total + alike * knowledge.gram_loss(seen, task.teacher.hidden[nodes])
    if config.adversarial_weight and weight:
        moved = adversarial.objective_at_worst(method, task.graph, nodes, objective, step)
        total = total + config.adversarial_weight * moved
    return total * _share(method, task, batch) if config.schedule == "mean" else total


def _goal(config: Any, task: Task, batch: Batch) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return the nodes to compute and the mean loss of the batch, a function of their logits."""
    if batch.labelled:
        labels = task.graph.y[batch.nodes]
        return batch.nodes, lambda logits: losses.hard_label_loss(logits, labels)
    teacher, heat = task.teacher, config.temperature
    assert teacher is not None
    if batch.pairs is None:
        soft = teacher.log_probs(heat)[batch.nodes]
        return batch.nodes, lambda logits: losses.soft_label_loss(logits, soft, heat)
    probs, entropies = once(teacher, ("probs", heat), lambda: _probs(teacher, heat))
    nodes, sums = reliability.pooled(batch.pairs, probs)
    entropy, count = entropies[batch.pairs[1]].sum(), batch.pairs.shape[1]
    return nodes, lambda logits: losses.pooled_soft_label_loss(logits, sums, entropy, count, heat)


def _probs(teacher: TeacherOutput, heat: float) -> tuple[Tensor, Tensor]:
    """The teacher's probabilities [N, C] at a temperature, and their entropies [N]."""
    return teacher.log_probs(heat).exp(), reliability.entropy(teacher.logits / heat)


def _share(method: Method, task: Task, batch: Batch) -> float:
    """The part of the epoch's labelled nodes, or of its pairs, that a batch holds."""
    if batch.labelled:
        return batch.nodes.numel() / task.split.train.numel()
    total = task.num_nodes if batch.pairs is None else _sampling(method, task).num_pairs
    return batch.nodes.numel() / total


# ---- similarity -----------------------------------------------------------------------------


def similarity_encoder(config: Any, num_classes: int) -> nn.Module | None:
    """Return the layers through which hidden states meet the teacher's, or None if they do not.

    Linear H -> H, ReLU, dropout (NOSMOG's code); it is `method.similarity` and is never shipped.
    """
    if not config.similarity_weight:
        return None
    size = config.width if config.num_layers > 1 else num_classes
    return nn.Sequential(Linear(size, size), nn.ReLU(), nn.Dropout(config.dropout))


def shipped(method: Method) -> Method:
    """Return the method without what only training needs; the weights are shared."""
    light = copy.copy(method)
    light._modules = {k: v for k, v in method._modules.items() if k != "similarity"}
    light.__dict__.pop("sampling", None)
    return light
