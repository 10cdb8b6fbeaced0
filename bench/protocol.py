"""Splits, settings and noise: which nodes have which role, and what is visible while training.

A split says which nodes are train, val and test. A setting says which of the test nodes are unseen:
absent, with all their edges, from everything a method gets. Noise disturbs what is left, for all
methods alike. `examine` puts them together.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bench import noise, splits
from bench.axes import noise_of, split_name
from bench.cell import Protocol
from bench.data import row_normalise
from bench.graph import Dataset, Graph, Split, Task, TeacherOutput
from bench.hparams import unknown
from bench.kept import once
from bench.sparse import CSR

# ---- settings -------------------------------------------------------------------------------


def transductive(test: Tensor, split: str, rate: float, seed: int) -> Tensor:
    """Every node is observed; the test nodes are scored on the graph of training."""
    return test[:0]


def production(test: Tensor, split: str, rate: float, seed: int) -> Tensor:
    """A share `rate` of the test nodes is unseen; scored are both parts and their mix.

    Source: GLNN, arXiv 2110.08727, section 5.2 and its code: torch's randperm seeded with the run.
    """
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(seed))
    return test[order[: int(len(test) * rate)]]


def inductive(test: Tensor, split: str, rate: float, seed: int) -> Tensor:
    """Unseen test nodes only are scored: all of a public split's, else a share `rate`.

    Source: KRD, arXiv 2306.05628, and RbM, arXiv 2406.11919 (their code).
    """
    return test if split == "public" else production(test, split, rate, seed)


SETTINGS: dict[str, Callable[[Tensor, str, float, int], Tensor]] = {
    "transductive": transductive,
    "production": production,
    "inductive": inductive,
}

# ---- both together --------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Exam:
    """A graph with all its labels and roles: what the harness holds and no method ever sees.

    `split` counts in the ids of `graph`; `observed` (sorted) are the ids of the observed nodes, and
    their positions are the ids inside the observed graph `seen`, whose hidden labels are -1.
    """

    graph: Graph
    seen: Graph
    split: Split
    observed: Tensor
    protocol: Protocol
    accuracy: Callable[[np.ndarray, np.ndarray], float] | None
    taught: Graph | None = None  # `seen` with a teacher's own train labels, where they differ

    def for_teacher(self) -> "Exam":
        """Return the exam that a teacher is trained on: with its noisy labels, if it has some."""
        return self if self.taught is None else replace(self, seen=self.taught, taught=None)

    def with_extra(self, extra: Tensor) -> "Exam":
        """Return the same exam with more input columns [N, P]."""
        seen = self.seen.replace(extra=extra[self.observed])
        return replace(self, graph=self.graph.replace(extra=extra), seen=seen)

    def seen_ids(self, nodes: Tensor) -> Tensor:
        """Translate ids of observed nodes to ids inside the observed graph."""
        return torch.searchsorted(self.observed, nodes)

    def task(self, seed: int, teacher: TeacherOutput | None, device: str = "cpu") -> Task:
        """Cut out what a method may know."""
        graph, split = self._visible(device)
        labels = self.graph.y[self.split.val].to(device)

        def val_accuracy(logits: Tensor) -> float:
            return (logits.argmax(dim=1) == labels).float().mean().item()

        return Task(graph, split, teacher, seed, val_accuracy)

    def _visible(self, device: str) -> tuple[Graph, Split]:
        """Return the observed graph and its roles, made once a device."""
        cache = self.__dict__.setdefault("_visible_on", {})
        if device not in cache:
            ids = (self.split.train, self.split.val, self.split.unlabelled)
            train, val, rest = (self.seen_ids(part).to(device) for part in ids)
            test = self.seen_ids(self.split.test_observed).to(device)
            graph = self.seen.to(device)
            graph.remember(train, val)
            cache[device] = (graph, Split(train, val, rest, test, test_unseen=test[:0]))
        return cache[device]


def examine(dataset: Dataset, protocol: Protocol, split_seed: int) -> Exam:
    """Split a dataset's graph and hide what the setting hides.

    Raises:
        ValueError: an unknown split or setting, or one that leaves a role without a node.
    """
    if protocol.setting not in SETTINGS:
        raise unknown("setting", protocol.setting, SETTINGS)
    graph, (train, val, test) = splits.draw(dataset, protocol.split, split_seed)
    hide = SETTINGS[protocol.setting]
    _refuse_empty(dataset.name, protocol.split, {"train": train, "val": val, "test": test})
    unseen = hide(test, split_name(protocol.split), protocol.hidden_rate, split_seed)
    _refuse_unscored(protocol, len(test), len(unseen))
    _refuse_negative(graph, protocol)
    graph = _prepared(noise.disturbed(graph, protocol.noise, unseen, split_seed), protocol)
    split = _roles(graph.num_nodes, train, val, test, unseen)
    visible = torch.ones(graph.num_nodes, dtype=torch.bool)
    visible[unseen] = False
    observed = torch.nonzero(visible).flatten()
    seen = graph.subgraph(observed) if len(unseen) else graph
    labels = torch.full_like(graph.y, -1)
    labels[train] = graph.y[train]
    seen = seen.replace(y=labels[observed])
    taught = None
    if share := noise_of(protocol.noise).get("teacher_labels"):
        labels[train] = noise.flipped(graph.y[train], graph.num_classes, share, split_seed)
        taught = seen.replace(y=labels[observed])
    return Exam(graph, seen, split, observed, protocol, dataset.accuracy, taught)


def _refuse_empty(name: str, split: str, roles: dict[str, Tensor]) -> None:
    """Refuse a split without a node to learn from, to stop by or to score."""
    for role, nodes in roles.items():
        if not len(nodes):
            raise ValueError(
                f"split '{split}' leaves dataset '{name}' without a {role} node, and each of "
                "train, val and test needs one; take another split, or a graph with classes of "
                "three nodes or more"
            )


def _refuse_unscored(protocol: Protocol, tested: int, hidden: int) -> None:
    """Refuse a rate that leaves a part of the test nodes empty which the setting scores."""
    rate = f"hidden_rate {protocol.hidden_rate:g} of {tested} test nodes"
    if protocol.setting != "transductive" and not hidden:
        raise ValueError(f"{rate} hides none; raise it or use setting 'transductive'")
    if protocol.setting == "production" and hidden == tested:
        raise ValueError(
            f"{rate} hides all, and setting 'production' scores observed ones too; lower it or "
            "use setting 'inductive'"
        )


def _refuse_negative(graph: Graph, protocol: Protocol) -> None:
    """Refuse noise that makes features negative where their rows are to be scaled."""
    noisy = "features" in noise_of(protocol.noise) and not isinstance(graph.x, CSR)
    if noisy and protocol.features == "row":
        raise ValueError(
            "noise 'features' is Gaussian on dense features and makes entries negative, and "
            "features: row scales rows of non-negative ones; use features: raw"
        )


def _prepared(graph: Graph, protocol: Protocol) -> Graph:
    """Scale the features and add self-loops, as the protocol says; once for all seeds."""
    x, adj = graph.x, graph.adj
    if protocol.features == "row":
        x = once(graph, "scaled features", lambda: row_normalise(graph.x))
    if protocol.self_loops:
        adj = once(graph.adj, "with loops", lambda: _with_loops(graph.adj))
    return graph.replace(x=x, adj=adj)


def _with_loops(adj: CSR) -> CSR:
    from scipy.sparse import eye_array

    return CSR.from_scipy(adj.to_scipy() + eye_array(adj.shape[0], format="csr"))


def _roles(num_nodes: int, train: Tensor, val: Tensor, test: Tensor, unseen: Tensor) -> Split:
    role = torch.zeros(num_nodes, dtype=torch.int8)
    role[train], role[val], role[test] = 1, 2, 3
    unlabelled = torch.nonzero(role == 0).flatten()
    role[unseen] = 4
    return Split(train, val, unlabelled, torch.nonzero(role == 3).flatten(), unseen.sort().values)
