import secrets
from dataclasses import dataclass, replace

import pytest
import torch

from bench import registry
from bench.hparams import hp
from bench.layers import shuffled
from bench.method import Batch, Output
from bench.students.mlp import PlainMLP
from tests import toys
from tests.conformance import CHECKS, XFAIL

NAMES = [(role, name) for role in ("teacher", "student") for name in registry.methods(role)]


def cases():
    for role, name in NAMES:
        for check in CHECKS:
            why = XFAIL.get((name, check))
            marks = pytest.mark.xfail(reason=why, strict=True) if why else ()
            yield pytest.param(role, name, check, marks=marks, id=f"{role}-{name}-{check}")


@pytest.mark.parametrize(("role", "name", "check"), list(cases()))
def test_every_method_keeps_every_law(role, name, check):
    CHECKS[check](role, name)


def test_known_failures_are_of_known_names_and_laws():
    names = {name for _, name in NAMES}
    assert all(name in names and check in CHECKS and why for (name, check), why in XFAIL.items())


# ---- the laws can be broken -----------------------------------------------------------------


class Numbered(PlainMLP):
    """Adds the position of a node to its logits."""

    def forward(self, graph, nodes=None):
        logits, hidden = super().forward(graph, nodes)
        where = torch.arange(graph.num_nodes) if nodes is None else nodes
        return Output(logits + where.unsqueeze(1) * torch.tensor([0.0, 0.01, 0.0]), hidden)


class Peeking(PlainMLP):
    """Reads the degrees although it says that it does not."""

    def forward(self, graph, nodes=None):
        logits, hidden = super().forward(graph, nodes)
        degree = graph.adj.degree if nodes is None else graph.adj.degree[nodes]
        return Output(logits * (1 + degree.unsqueeze(1)), hidden)


class Blind(PlainMLP):
    """Says that it reads the edges, and does not."""

    graph_use = "inference"


class Jumbled(PlainMLP):
    """Scores the batch it is given as one: each node depends on the others."""

    def forward(self, graph, nodes=None):
        logits, hidden = super().forward(graph, nodes)
        return Output(logits - logits.mean(0), hidden)


class Endless(PlainMLP):
    """Divides by the row's sum of features, which may be zero."""

    def forward(self, graph, nodes=None):
        logits, hidden = super().forward(graph, nodes)
        total = graph.x.to_dense().sum(1, keepdim=True)
        return Output(logits / (total if nodes is None else total[nodes]), hidden)


class Idle(PlainMLP):
    """Holds a parameter that it never uses."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.idle = torch.nn.Parameter(torch.ones(2))


class Ambient(PlainMLP):
    """Draws its batches from the machine's own randomness."""

    def batches(self, task, step):
        step = replace(step, generator=torch.Generator().manual_seed(secrets.randbits(60)))
        for nodes in shuffled(task.split.train, 8, step.generator):
            yield Batch(nodes, labelled=True)


class Forgetful(PlainMLP):
    """Keeps what it learned outside its state."""

    scale = 1.0

    def begin_epoch(self, task, step):
        self.scale += 1.0

    def forward(self, graph, nodes=None):
        logits, hidden = super().forward(graph, nodes)
        return Output(logits * self.scale, hidden)


class Scribbling(PlainMLP):
    """Writes into the task's labels."""

    def begin_epoch(self, task, step):
        task.graph.y[task.split.train] = 1


class Lazy(PlainMLP):
    """Does not learn."""

    def loss(self, task, batch, step):
        return super().loss(task, batch, step) * 0


class Dishonest(PlainMLP):
    """Says that it is smaller than it is."""

    def num_parameters(self):
        return 1


class Narrow(PlainMLP):
    """Cannot be built at a corner of its own search space."""

    def __init__(self, config, *sizes):
        if config.hidden_dim < 2:
            raise ValueError("too narrow")
        super().__init__(config, *sizes)


class Outside(PlainMLP):
    """Has a default that it does not allow."""

    @dataclass(frozen=True)
    class Config(PlainMLP.Config):
        """Hyper-parameters."""

        margin: float = hp(2.0, low=0.0, high=1.0)


class Deaf(PlainMLP):
    """Says that it needs a teacher, and does not listen."""

    needs_teacher = True


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (Numbered, "check_permutation"),
        (Peeking, "check_edges"),
        (Blind, "check_edges"),
        (Jumbled, "check_minibatch"),
        (Jumbled, "check_inference"),
        (Endless, "check_bare_nodes"),
        (Idle, "check_gradients"),
        (Ambient, "check_seeds"),
        (Forgetful, "check_state"),
        (Scribbling, "check_left_alone"),
        (Lazy, "check_learns"),
        (Dishonest, "check_cost"),
        (Narrow, "check_corners"),
        (Outside, "check_defaults"),
        (Deaf, "check_distils"),
        (Deaf, "check_docstrings"),
    ],
)
def test_a_method_that_breaks_a_law_is_caught(monkeypatch, broken, check):
    load = registry.load_method
    # In the place of `glnn`, since `check_distils` compares with the true `mlp`.
    monkeypatch.setattr(
        registry, "load_method", lambda role, name: broken if name == "glnn" else load(role, name)
    )
    monkeypatch.setattr(registry, "presets", lambda role, name: {"default": {}})
    with pytest.raises((AssertionError, ValueError)):
        CHECKS[check]("student", "glnn")
    toys.exam.cache_clear()  # one of them wrote into it
