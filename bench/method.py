"""The one contract that teachers and students share.

A method can `fit`, `forward` and `deploy`; it never scores itself and never holds a test label or
an unseen node. A file `bench/students/<id>.py` (or `bench/teachers/<id>.py`) with one subclass of
`Method` is all that a new method takes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from bench import losses
from bench.graph import Graph, Task
from bench.hparams import TrainConfig

GraphUse = Literal["never", "fit", "inference"]


class Output(NamedTuple):
    """Class logits [n, C] and the last hidden states [n, H] of n nodes."""

    logits: Tensor
    hidden: Tensor


@dataclass(frozen=True)
class Step:
    """Where training stands; `generator` (CPU) is the source of a method's own randomness."""

    epoch: int
    max_epochs: int
    generator: torch.Generator


@dataclass(frozen=True, eq=False)
class Batch:
    """What one call of `loss` looks at.

    `nodes` int64 [B]; `labelled` says that all of them are train nodes, for a hard-label pass;
    `pairs` int64 [2, B] are (student node, teacher node) for methods that use them; with
    `ends_step=False` gradients add up until a batch that ends the step.
    """

    nodes: Tensor
    labelled: bool = False
    pairs: Tensor | None = None
    ends_step: bool = True


@dataclass
class FitLog:
    """What a fit leaves: curves by name, one value an epoch; best epoch; seconds by phase.

    `numbers` are a method's own, for the row: what a fit arrived at and no configuration tells.
    """

    history: dict[str, list[float]]
    best_epoch: int
    seconds: dict[str, float]
    numbers: dict[str, float] = field(default_factory=dict)


class DivergedError(Exception):
    """The loss stopped being a finite number."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"the loss is not finite at epoch {epoch}")
        self.epoch = epoch


class Method(nn.Module):
    """A teacher or a student; subclasses set `Config` and `graph_use` and write `forward`.

    `graph_use` says when edges are looked at: "never", while the method is fitted ("fit"), or also
    at "inference". A deployed model whose `graph_use` is not "inference" gets a graph without
    edges. One with `reads_labels` gets the labels of the train nodes, others get none.
    """

    Config: ClassVar[type[TrainConfig]] = TrainConfig
    graph_use: ClassVar[GraphUse] = "never"
    needs_teacher: ClassVar[bool] = False
    reads_labels: ClassVar[bool] = False

    def __init__(
        self, config: TrainConfig, num_features: int, num_classes: int, num_nodes: int
    ) -> None:
        super().__init__()
        self.config = config
        self.num_features, self.num_classes, self.num_nodes = num_features, num_classes, num_nodes

    @classmethod
    def warm_up(cls) -> None:
        """Compile or load what a fit needs; called once a process, outside any measured time."""

    @classmethod
    def knowledge_of(cls, config: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the kinds of knowledge a student with this configuration is taught by.

        "output" (soft labels), "middle" (hidden states and local structure), "constructed"
        (relations among samples), "self" (no teacher); none for labels alone. By default those of
        a student of soft labels, with the similarity of recipe.py where it is on.
        """
        if not cls.needs_teacher:
            return ()
        return ("output", "constructed") if config.get("similarity_weight") else ("output",)

    def supports(self, setting: str) -> str | None:
        """Return why this method cannot run in `setting`, or None; the reason is the row's."""
        return None

    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Output:
        """Compute the rows `nodes` (int64 [n]), or all nodes of the graph."""
        raise NotImplementedError

    def batches(self, task: Task, step: Step) -> Iterable[Batch]:
        """Yield what one epoch looks at; by default the train nodes at once."""
        yield Batch(task.split.train, labelled=True)

    def loss(self, task: Task, batch: Batch, step: Step) -> Tensor | None:
        """Return the loss of a batch; None is a loss of zero, for which no gradient is computed."""
        logits = self(task.graph, batch.nodes).logits
        return losses.hard_label_loss(logits, task.graph.y[batch.nodes])

    def begin_epoch(self, task: Task, step: Step) -> None:
        """Prepare an epoch: resample pairs, freeze masks, refit exponents."""

    def fit(self, task: Task) -> FitLog:
        """Train on the task; by default one run of the training loop."""
        from bench import train

        return train.fit(self, task)

    def deploy(self) -> "dict[str, Method]":
        """Return the shipped models by variant; what is scored is what is timed."""
        return {"": self}

    def inference(
        self, graph: Graph, chunk: int = 65_536, nodes: torch.Tensor | None = None
    ) -> Output:
        """Compute all nodes (or int64 `nodes`) for scoring, in chunks where they are independent.

        A model that uses the edges computes them at once: chunks share their neighbours.
        """
        count = graph.num_nodes if nodes is None else nodes.numel()
        if self.graph_use == "inference" or count <= chunk:
            return self(graph, nodes)
        nodes = torch.arange(count, device=graph.adj.device) if nodes is None else nodes
        outputs = [self(graph, part) for part in nodes.split(chunk)]
        return Output(*(torch.cat(part) for part in zip(*outputs, strict=True)))

    def num_parameters(self) -> int:
        """Number of weights that a deployed model ships: its parameters."""
        return sum(p.numel() for p in self.parameters())
