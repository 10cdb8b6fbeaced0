"""Splits and settings: which nodes have which role, and what is visible while training.

A split says which nodes are train, val and test. A setting says which of the test nodes are unseen:
absent, with all their edges, from everything a method gets. `examine` puts both together.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bench.cell import Protocol
from bench.data import row_normalise
from bench.graph import Dataset, Graph, Split, Task, TeacherOutput
from bench.hparams import unknown
from bench.sparse import CSR

Roles = tuple[Tensor, Tensor, Tensor]  # train, val, test: int64 ids

# ---- splits ---------------------------------------------------------------------------------


def public(dataset: Dataset, graph: Graph, seed: int) -> Roles:
    """The split that ships with Planetoid, WebKB or Actor; of k masks, mask `seed` mod k.

    Source: Yang et al., arXiv 1603.08861 (Planetoid); Pei et al., arXiv 2002.05287 (WebKB, Actor).
    """
    return _shipped(dataset, "public", seed)


def official(dataset: Dataset, graph: Graph, seed: int) -> Roles:
    """OGB's own split (Hu et al., arXiv 2005.00687)."""
    return _shipped(dataset, "official", seed)


def random(dataset: Dataset, graph: Graph, seed: int) -> Roles:
    """The CPF protocol: 20 train nodes of each class, then 30 val nodes of each class, rest test.

    It runs on the largest component. All train draws come before all val draws, class by class,
    from one `numpy.random.RandomState(seed)`; drawing per class instead gives other nodes.

    Source: Yang et al., "Extract the Knowledge of Graph Neural Networks and Go Beyond it", arXiv
    2103.02885, and GLNN, arXiv 2110.08727; after Shchur et al., arXiv 1811.05868.
    """
    labels, state = graph.y.numpy(), np.random.RandomState(seed)
    train = _draw_per_class(state, labels, 20, np.zeros(len(labels), bool))
    taken = np.isin(np.arange(len(labels)), train)
    val = _draw_per_class(state, labels, 30, taken)
    taken[val] = True
    return _tensors(train, val, np.flatnonzero(~taken))


def ratio(dataset: Dataset, graph: Graph, seed: int) -> Roles:
    """A stratified split: of each class 50 % train, 25 % val, 25 % test.

    A class of three nodes or more has at least one in each; smaller ones go to train, then val.
    """
    labels, rng = graph.y.numpy(), np.random.default_rng(seed)
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    for label in np.unique(labels):
        nodes = rng.permutation(np.flatnonzero(labels == label))
        first = max(1, min(round(0.5 * len(nodes)), len(nodes) - 2))
        second = first + max(1, round(0.25 * len(nodes)))
        for part, piece in zip(parts, np.split(nodes, [first, second]), strict=True):
            part.append(piece)
    return _tensors(*(np.sort(np.concatenate(part)) for part in parts))


SPLITS: dict[str, Callable[[Dataset, Graph, int], Roles]] = {
    "public": public,
    "random": random,
    "official": official,
    "ratio": ratio,
}


def _shipped(dataset: Dataset, split: str, seed: int) -> Roles:
    choices = dataset.fixed_splits.get(split)
    if not choices:
        able = [*dataset.fixed_splits, "random", "ratio"]
        raise ValueError(
            f"dataset '{dataset.name}' ships no split '{split}'; it can use: {', '.join(able)}"
        )
    return choices[seed % len(choices)]


def _draw_per_class(
    state: np.random.RandomState, labels: np.ndarray, count: int, taken: np.ndarray
) -> np.ndarray:
    drawn = []
    for label in range(int(labels.max()) + 1):
        nodes = np.flatnonzero((labels == label) & ~taken)
        if len(nodes) < count:
            raise ValueError(
                f"split 'random' draws 20 train and 30 val nodes of each class; class {label} has "
                f"{len(nodes)} nodes left for a draw of {count}; use split 'ratio'"
            )
        drawn.append(state.choice(nodes, count, replace=False))
    return np.concatenate(drawn)


def _tensors(*ids: np.ndarray) -> Roles:
    train, val, test = (torch.from_numpy(np.asarray(part, dtype=np.int64)) for part in ids)
    return train, val, test


def largest_component(graph: Graph) -> Graph:
    """Keep the nodes of the largest connected component, in their order."""
    from scipy.sparse.csgraph import connected_components

    count, component = connected_components(graph.adj.to_scipy(), directed=False)
    if count == 1:
        return graph
    keep = component == np.bincount(component).argmax()
    return graph.subgraph(torch.from_numpy(np.flatnonzero(keep)))


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
    """Split a dataset's graph and hide what the setting hides."""
    if protocol.split not in SPLITS:
        raise unknown("split", protocol.split, SPLITS)
    if protocol.setting not in SETTINGS:
        raise unknown("setting", protocol.setting, SETTINGS)
    graph = largest_component(dataset.graph) if protocol.split == "random" else dataset.graph
    train, val, test = SPLITS[protocol.split](dataset, graph, split_seed)
    hide = SETTINGS[protocol.setting]
    unseen = hide(test, protocol.split, protocol.hidden_rate, split_seed)
    if protocol.setting != "transductive" and not len(unseen):
        raise ValueError(
            f"hidden_rate {protocol.hidden_rate:g} of {len(test)} test nodes hides none; "
            "raise it or use setting 'transductive'"
        )
    graph = _prepared(graph, protocol)
    split = _roles(graph.num_nodes, train, val, test, unseen)
    visible = torch.ones(graph.num_nodes, dtype=torch.bool)
    visible[unseen] = False
    observed = torch.nonzero(visible).flatten()
    seen = graph.subgraph(observed) if len(unseen) else graph
    labels = torch.full_like(graph.y, -1)
    labels[train] = graph.y[train]
    seen = seen.replace(y=labels[observed])
    return Exam(graph, seen, split, observed, protocol, dataset.accuracy)


def _prepared(graph: Graph, protocol: Protocol) -> Graph:
    """Scale the features and add self-loops, as the protocol says."""
    if protocol.features == "row":
        graph = graph.replace(x=row_normalise(graph.x))
    if protocol.self_loops:
        from scipy.sparse import eye_array

        with_loops = graph.adj.to_scipy() + eye_array(graph.num_nodes, format="csr")
        graph = graph.replace(adj=CSR.from_scipy(with_loops))
    return graph


def _roles(num_nodes: int, train: Tensor, val: Tensor, test: Tensor, unseen: Tensor) -> Split:
    role = torch.zeros(num_nodes, dtype=torch.int8)
    role[train], role[val], role[test] = 1, 2, 3
    unlabelled = torch.nonzero(role == 0).flatten()
    role[unseen] = 4
    return Split(train, val, unlabelled, torch.nonzero(role == 3).flatten(), unseen.sort().values)
