"""Laws that every teacher and every student keeps, whatever it computes.

Each `check_xxx(role, name)` takes a registered name: a new file in bench/teachers or bench/students
is held to all of them without an edit here. A package that adds methods through entry points can
call them for its own names. What a method is known to break is data: `XFAIL`.
"""

import copy
import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import cost, registry, run
from bench.graph import Graph, Task, TeacherOutput
from bench.hparams import fields_of, resolve
from bench.method import Method, Output, Step
from bench.protocol import SETTINGS, Exam
from tests import toys

XFAIL: dict[tuple[str, str], str] = {}  # (name, check): why; an unexpected pass fails

# Values that keep a check small, for whichever of these hyper-parameters a method has.
SMALL = {"hidden_dim": 16, "max_epochs": 3, "warmup_epochs": 2, "num_stages": 2}
SMALL |= {"batch_size": 32}
# What the two laws about what a method learns add: a few batches an epoch, and a whole graph.
LEARNING = {"hidden_dim": 32, "max_epochs": 25, "batch_size": 128}
DISTILLING = {"hidden_dim": 32, "max_epochs": 40, "batch_size": 0}
CAPS = {
    "num_layers": 3
}  # of the upper corner; three layers, as the default of `fanouts` has numbers
CAP = 8  # of any other whole number there

GRAPH = "nodes=150,classes=3,features=40,words=6"
EASY = "nodes=450,classes=3,features=60,words=10,homophily=0.9,signal=0.6"
HARD = "nodes=450,classes=3,features=150,words=10,homophily=0.9,degree=8,signal=0.15"


# ---- how the checks make and fit a method ---------------------------------------------------


def config_of(role: str, name: str, **values: Any) -> dict[str, Any]:
    """The default configuration, made small where the method has what SMALL names."""
    fields = fields_of(registry.load_method(role, name).Config)
    chosen = {k: v for k, v in {**SMALL, **values}.items() if k in fields}
    fitting = {"fanouts": [5] * registry.configure(role, name, chosen, {}).get("num_layers", 2)}
    chosen.update({k: v for k, v in fitting.items() if k in fields})
    return registry.configure(role, name, chosen, {})


def make(role: str, name: str, task: Task, **values: Any) -> Method:
    """An untrained method, drawn with the task's seed."""
    return run.build(role, name, config_of(role, name, **values), task)


@functools.cache
def teacher_of(options: str, split: str) -> TeacherOutput:
    """A teacher's outputs on the observed graph of such an exam."""
    exam = toys.exam(options, split)
    model = make("teacher", "gcn", exam.task(0, None), max_epochs=100, hidden_dim=32)
    model.fit(exam.task(0, None))
    with torch.no_grad():
        logits, hidden = model.inference(exam.seen)
    return TeacherOutput(logits, lambda: model, lambda: hidden)


def task_of(
    role: str, name: str, options: str = GRAPH, split: str = "ratio", seed: int = 0
) -> Task:
    """A task of this method; one that needs a teacher gets one."""
    needs = registry.load_method(role, name).needs_teacher
    teacher = teacher_of(options, split) if needs else None
    return toys.exam(options, split).task(seed, teacher)


def fitted(role: str, name: str, task: Task, **values: Any) -> Method:
    """A method after a fit."""
    model = make(role, name, task, **values)
    model.fit(task)
    return model


def seen_by(model: Method, graph: Graph) -> Graph:
    """The graph as the model is deployed on it."""
    return graph if model.graph_use == "inference" else graph.without_edges()


@torch.no_grad()
def outputs(model: Method, graph: Graph, nodes: Tensor | None = None) -> Output:
    """The deployed model's outputs."""
    return model.eval()(seen_by(model, graph), nodes)


def close(one: Tensor, two: Tensor) -> None:
    torch.testing.assert_close(one, two, atol=2e-5, rtol=2e-5)


# ---- what a method says about itself --------------------------------------------------------


def check_docstrings(role: str, name: str) -> None:
    """The module names its source and how it differs from it; the classes say what they are."""
    method = registry.load_method(role, name)
    text = sys.modules[method.__module__].__doc__ or ""
    assert "Source:" in text, "the module's docstring has no 'Source:'"
    assert "Differs" in text, "the module's docstring has no 'Differs from ...:'"
    assert method.__dict__.get("__doc__")
    assert method.Config.__dict__.get("__doc__")


def check_declarations(role: str, name: str) -> None:
    """graph_use is one of three words, a teacher needs none, settings get None or a reason."""
    method = registry.load_method(role, name)
    assert method.graph_use in ("never", "fit", "inference")
    assert not (role == "teacher" and method.needs_teacher)
    model = make(role, name, task_of(role, name))
    for setting in SETTINGS:
        reason = model.supports(setting)
        assert reason is None or (isinstance(reason, str) and reason)


def check_defaults(role: str, name: str) -> None:
    """Every hyper-parameter is declared with `hp`, and its default is allowed."""
    config = registry.load_method(role, name).Config
    defaults = {key: field.default for key, field in fields_of(config).items()}
    assert all("range" in field.metadata for field in fields_of(config).values())
    assert resolve(config, name, defaults) == config()


def corner(role: str, name: str, *, upper: bool) -> dict[str, Any]:
    """The lowest or the highest allowed values; large whole numbers are capped."""
    values = {}
    for key, field in fields_of(registry.load_method(role, name).Config).items():
        limits = field.metadata["range"]
        if limits.choices is not None:
            values[key] = limits.choices[-1 if upper else 0]
        elif not upper and limits.low is not None:
            values[key] = limits.low
        elif upper and limits.high is not None:
            whole = isinstance(field.default, int)
            values[key] = min(limits.high, CAPS.get(key, CAP)) if whole else limits.high
    return values


def check_corners(role: str, name: str) -> None:
    """Both corners of the search space build and compute."""
    task = task_of(role, name)
    for upper in (False, True):
        config = registry.configure(role, name, corner(role, name, upper=upper), {})
        model = run.build(role, name, config, task)
        assert outputs(model, task.graph).logits.isfinite().all()
        batch = next(iter(model.train().batches(task, Step(0, 1, torch.Generator()))))
        loss = model.loss(task, batch, Step(0, 1, torch.Generator()))
        assert loss is None or loss.isfinite()


# ---- forward --------------------------------------------------------------------------------


def check_forward(role: str, name: str) -> None:
    """Logits are [n, C], hidden states [n, H], both finite, for sparse and for dense features."""
    task = task_of(role, name)
    model = make(role, name, task)
    dense = task.graph.replace(x=task.graph.x.to_dense())
    found = [outputs(model, graph) for graph in (task.graph, dense)]
    for logits, hidden in found:
        assert logits.shape == (150, 3)
        assert hidden.dim() == 2
        assert len(hidden) == 150
        assert logits.dtype == hidden.dtype == torch.float32
        assert logits.isfinite().all()
        assert hidden.isfinite().all()
    close(found[0].logits, found[1].logits)


def check_bare_nodes(role: str, name: str) -> None:
    """A node without feature, edge and loop has finite logits, and so has a graph of such nodes."""
    task = task_of(role, name)
    model = make(role, name, task)
    blank = task.graph.x.with_values(torch.zeros_like(task.graph.x.values))
    bare = task.graph.replace(x=blank).without_edges()
    assert outputs(model, bare).logits.isfinite().all()
    assert outputs(model, bare, torch.tensor([3])).logits.isfinite().all()


def check_minibatch(role: str, name: str) -> None:
    """At eval, asking for some nodes gives their rows of what asking for all gives."""
    task = task_of(role, name)
    model = fitted(role, name, task)
    for nodes in (torch.tensor([9]), torch.tensor([149, 0, 75, 3]), task.split.val):
        some, whole = outputs(model, task.graph, nodes), outputs(model, task.graph)
        close(some.logits, whole.logits[nodes])
        close(some.hidden, whole.hidden[nodes])


def check_inference(role: str, name: str) -> None:
    """Computing in chunks gives what computing at once gives."""
    task = task_of(role, name)
    model = fitted(role, name, task).eval()
    graph = seen_by(model, task.graph)
    with torch.no_grad():
        close(model.inference(graph, 40).logits, model(graph).logits)


def check_permutation(role: str, name: str) -> None:
    """The order of the nodes does not matter."""
    task = task_of(role, name)
    model = fitted(role, name, task)
    order = torch.randperm(150, generator=torch.Generator().manual_seed(0))
    moved = task.graph.subgraph(order)
    close(outputs(model, moved).logits, outputs(model, task.graph).logits[order])


def check_edges(role: str, name: str) -> None:
    """Edges matter to a deployed model if, and only if, its `graph_use` is "inference"."""
    task = task_of(role, name)
    for model in fitted(role, name, task).deploy().values():
        with torch.no_grad():
            given, bare = (
                model.eval()(graph).logits for graph in (task.graph, task.graph.without_edges())
            )
        assert torch.equal(given, bare) == (model.graph_use != "inference")


# ---- training -------------------------------------------------------------------------------


def check_gradients(role: str, name: str) -> None:
    """One epoch's losses send a gradient to every parameter."""
    task = task_of(role, name)
    model = make(role, name, task).train()
    step = Step(0, 1, torch.Generator().manual_seed(0))
    model.begin_epoch(task, step)
    for batch in model.batches(task, step):
        loss = model.loss(task, batch, step)
        if loss is not None:
            loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, f"no gradient reaches {key}"
        assert parameter.grad.abs().max() > 0, f"the gradient of {key} is zero"


def check_seeds(role: str, name: str) -> None:
    """The same seed gives the same bits, another seed others; torch's own state is left alone."""
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed + len(found))  # which decides nothing
        before = torch.get_rng_state()
        task = task_of(role, name, seed=seed)
        found.append(outputs(fitted(role, name, task, dropout=0.5), task.graph).logits)
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def check_left_alone(role: str, name: str) -> None:
    """A fit changes neither the graph nor the split nor the teacher's logits."""
    task = task_of(role, name)
    graph, split = task.graph, task.split
    parts = [graph.y, graph.x.values, graph.x.indices, graph.adj.values, graph.adj.indices]
    parts += [split.train, split.val, *([task.teacher.logits] if task.teacher else [])]
    before = copy.deepcopy(parts)
    fitted(role, name, task)
    assert all(torch.equal(one, two) for one, two in zip(before, parts, strict=True))


def check_state(role: str, name: str) -> None:
    """The stored state is all there is to a fitted model."""
    task = task_of(role, name)
    model = fitted(role, name, task)
    other = make(role, name, task_of(role, name, seed=5))
    assert not torch.equal(outputs(other, task.graph).logits, outputs(model, task.graph).logits)
    other.load_state_dict(model.state_dict())
    for variant, shipped in model.deploy().items():
        twin = other.deploy()[variant]
        one, two = outputs(shipped, task.graph), outputs(twin, task.graph)
        assert torch.equal(one.logits, two.logits)


def accuracy_of(model: Method, exam: Exam) -> float:
    predicted = outputs(model, exam.graph).logits.argmax(1)
    test = exam.split.test_observed
    return (predicted[test] == exam.graph.y[test]).double().mean().item()


def check_learns(role: str, name: str) -> None:
    """With good features and edges, it gets above 0.8 on test (chance is a third)."""
    task = task_of(role, name, EASY)
    for model in fitted(role, name, task, **LEARNING).deploy().values():
        assert accuracy_of(model, toys.exam(EASY, "ratio")) > 0.8


def check_distils(role: str, name: str) -> None:
    """A student of a teacher agrees with it more than an MLP that saw the labels alone does."""
    if not registry.load_method(role, name).needs_teacher:
        return
    assert agreement(name) > plain_agreement() + 0.02


def agreement(name: str) -> float:
    """How often a student agrees with its teacher where neither saw a label."""
    task = task_of("student", name, HARD, "random")
    teacher = teacher_of(HARD, "random").logits.argmax(1)
    model = fitted("student", name, task, **DISTILLING)
    predicted = outputs(model, toys.exam(HARD, "random").seen).logits.argmax(1)
    return (predicted == teacher)[task.split.test_observed].double().mean().item()


@functools.cache
def plain_agreement() -> float:
    """That of the MLP without a teacher."""
    return agreement("mlp")


# ---- cost -----------------------------------------------------------------------------------


def check_cost(role: str, name: str) -> None:
    """Parameters are those it holds; one node costs something, and no more than the whole graph."""
    task = task_of(role, name)
    graph = task.graph.subgraph(torch.arange(12))  # every node is asked for alone: few are enough
    for model in fitted(role, name, task).deploy().values():
        assert model.num_parameters() == sum(p.numel() for p in model.parameters()) > 0
        counted = cost.macs(model.eval(), seen_by(model, graph))
        assert np.isfinite(list(counted.values())).all()
        assert 0 < counted["macs_node"] <= counted["macs"]


CHECKS: dict[str, Callable[[str, str], None]] = {
    key: value for key, value in list(globals().items()) if key.startswith("check_")
}
