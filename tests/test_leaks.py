"""The law a comparison stands on: what is hidden, and every label but train's, decides nothing.

The raw files are changed, read again, split again, and every method is fitted again. Its weights
must be equal bit for bit. Nothing between the file and the weights is replaced by a double.
"""

import functools
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from bench import data, registry, run, score
from bench.cell import Cell, Choice, Protocol
from bench.datasets import npz, planetoid
from bench.encodings import Encoding, spread
from bench.graph import TeacherOutput
from bench.protocol import Exam, examine
from tests import layouts

METHODS = [(role, name) for role in ("teacher", "student") for name in registry.methods(role)]
KINDS = {(role, name): registry.load_method(role, name) for role, name in METHODS}
ALONE = [method for method, kind in KINDS.items() if not kind.needs_teacher]
READS_EDGES = [m for m, kind in KINDS.items() if kind.needs_teacher or kind.graph_use != "never"]
DISTILLED = [name for (role, name), kind in KINDS.items() if kind.needs_teacher]
SMALL = {"hidden_dim": 16, "max_epochs": 4, "warmup_epochs": 2, "num_stages": 2}
SMALL |= {"reliability_start": 1, "reliability_refit": 1}
SMALL |= {"encoding_dim": 8, "walk_length": 10, "walks_per_node": 2}


# ---- fitting --------------------------------------------------------------------------------


def config_of(role: str, name: str, selection: str, **values) -> dict:
    # Dropout makes the weights depend on the random streams too, which must not move either.
    chosen = {**SMALL, "selection": selection, "dropout": 0.3, "patience": 100, **values}
    fields = registry.load_method(role, name).Config.__dataclass_fields__
    return registry.configure(role, name, {k: v for k, v in chosen.items() if k in fields}, {})


@functools.cache
def fit(exam: Exam, role: str, name: str, selection: str = "last"):
    """Fit a method, after its teacher where it needs one; return state, history and logits."""
    teacher = taught(exam, selection) if KINDS[role, name].needs_teacher else None
    model, history, output = fitted(exam, role, name, selection, teacher)
    return model.state_dict(), history, output.logits


@functools.cache
def taught(exam: Exam, selection: str) -> TeacherOutput:
    """What the teacher of all students says about an exam."""
    guide, _, output = fitted(exam, "teacher", "sage", selection)
    return TeacherOutput(output.logits, lambda: guide, lambda: output.hidden)


def fitted(exam: Exam, role: str, name: str, selection: str, teacher=None):
    """Fit a method on its input columns; return it, its history and its outputs."""
    config = config_of(role, name, selection)
    encoding = Encoding.of_config(config, 0)
    if encoding is not None:
        encoded = encoding.compute(exam.seen.adj)
        exam = exam.with_extra(spread(encoded, exam.graph.adj, exam.observed))
    task = exam.task(0, teacher)
    model = run.build(role, name, config, task)
    history = model.fit(task).history
    with torch.no_grad():
        output = model.eval().inference(score.deployed_graph(model, exam, "cpu", seen=True))
    return model, history, output


def assert_same_fit(one: Exam, two: Exam, role: str, name: str, selection="last") -> None:
    (state, history, logits), (other, other_history, other_logits) = (
        fit(exam, role, name, selection) for exam in (one, two)
    )
    assert state.keys() == other.keys()
    for key in state:
        assert torch.equal(state[key], other[key]), key
    assert history["loss"] == other_history["loss"]
    assert torch.equal(logits, other_logits)


# ---- Planetoid: the public split ------------------------------------------------------------


def read(root: Path, setting: str, **options) -> Exam:
    dataset = planetoid.load("cora", root, check=False)
    return examine(dataset, Protocol("cora", dataset.checksum, "public", setting, **options), 0)


def rewrite(root: Path, part: str, change) -> None:
    path = root / "planetoid" / "Cora" / "raw" / f"ind.cora.{part}"
    path.write_bytes(pickle.dumps(change(pickle.loads(path.read_bytes())), protocol=2))


def rows_of(root: Path, nodes: np.ndarray) -> np.ndarray:
    """Where these nodes stand in tx and ty."""
    ids = np.loadtxt(planetoid.files("cora", root)[-1], dtype=int)
    return np.flatnonzero(np.isin(ids, nodes))


def new_features(rows: np.ndarray):
    def change(x):
        dense, rng = x.toarray(), np.random.default_rng(1)
        dense[rows] = (rng.random((len(rows), dense.shape[1])) < 0.2) * rng.integers(1, 9)
        return sp.csr_matrix(dense)

    return change


def new_labels(rows: np.ndarray):
    def change(y):
        y = y.copy()
        y[rows] = np.roll(y[rows], 1, axis=1)
        return y

    return change


def new_edges(hidden: np.ndarray):
    """Other edges among the hidden nodes, and between them and all others."""

    def change(links):
        rng, gone = np.random.default_rng(2), set(hidden.tolist())
        kept = {a: [b for b in bs if a not in gone and b not in gone] for a, bs in links.items()}
        for a in hidden:
            kept[int(a)] = rng.choice(len(links), 6).tolist() + rng.choice(hidden, 3).tolist()
        return kept

    return change


@functools.cache
def planetoid_content():
    return layouts.content(700)


@pytest.fixture(scope="module")
def cora(tmp_path_factory):
    """A function: a setting -> the exam before and after all that is hidden was changed."""
    places = tmp_path_factory.mktemp("planetoid")

    @functools.cache
    def pair(setting: str, features: str) -> tuple[Exam, Exam]:
        root = places / f"{setting}-{features}"
        layouts.write_planetoid(root, graph=planetoid_content())
        before = read(root, setting, features=features)
        hidden = before.split.test_unseen.numpy()
        rows = rows_of(root, hidden)
        rewrite(root, "tx", new_features(rows))
        rewrite(root, "ty", new_labels(rows))
        rewrite(root, "graph", new_edges(hidden))
        return before, read(root, setting, features=features)

    return pair


@pytest.mark.parametrize(("setting", "count"), [("inductive", 100), ("production", 20)])
def test_the_hidden_nodes_of_the_files_did_change(cora, setting, count):
    before, after = cora(setting, "raw")
    hidden = before.split.test_unseen
    assert len(hidden) == count
    assert torch.equal(after.split.test_unseen, hidden)
    assert (before.graph.y[hidden] != after.graph.y[hidden]).all()
    x, new_x = (exam.graph.x.to_dense() for exam in (before, after))
    assert (x[hidden] != new_x[hidden]).any(1).all()
    adj, new_adj = (exam.graph.adj.to_dense() for exam in (before, after))
    assert (adj[hidden] != new_adj[hidden]).any(1).all()
    assert (adj[hidden][:, hidden] != new_adj[hidden][:, hidden]).any()
    seen = before.observed
    assert torch.equal(adj[seen][:, seen], new_adj[seen][:, seen])
    assert torch.equal(x[seen], new_x[seen])


@pytest.mark.parametrize(("setting", "features"), [("inductive", "raw"), ("production", "row")])
@pytest.mark.parametrize(("role", "name"), METHODS)
def test_nothing_of_a_hidden_node_reaches_the_weights(cora, setting, features, role, name):
    assert_same_fit(*cora(setting, features), role, name)


@pytest.mark.parametrize(("role", "name"), METHODS)
def test_with_selection_by_val_the_hidden_nodes_decide_nothing_either(cora, role, name):
    before, after = cora("production", "raw")
    assert_same_fit(before, after, role, name, selection="val")


@pytest.fixture(scope="module")
def relabelled(tmp_path_factory):
    """The exam before and after every label but those of train was changed in the files."""
    root = tmp_path_factory.mktemp("labels")
    layouts.write_planetoid(root, graph=planetoid_content())
    before = read(root, "transductive")
    train = len(before.split.train)
    rewrite(root, "ally", lambda y: new_labels(np.arange(train, len(y)))(y))
    rewrite(root, "ty", lambda y: new_labels(np.arange(len(y)))(y))
    after = read(root, "transductive")
    others = torch.cat([before.split.val, before.split.unlabelled, before.split.test_observed])
    assert (before.graph.y[others] != after.graph.y[others]).all()
    assert torch.equal(before.graph.y[before.split.train], after.graph.y[after.split.train])
    return before, after


@pytest.mark.parametrize(("role", "name"), METHODS)
def test_no_label_but_those_of_train_reaches_the_weights(relabelled, role, name):
    assert_same_fit(*relabelled, role, name, selection="last")


@pytest.mark.parametrize(("role", "name"), ALONE)  # a teacher's chosen epoch is what is distilled
def test_val_labels_reach_the_choice_of_the_epoch_alone(relabelled, role, name):
    before, after = (fit(exam, role, name, selection="val")[1] for exam in relabelled)
    assert before["loss"] == after["loss"]  # every step is the same one
    assert before["val_accuracy"] != after["val_accuracy"]


@pytest.fixture(scope="module")
def altered(tmp_path_factory):
    """A function: what of the train nodes was changed -> the inductive exam after that."""

    @functools.cache
    def exam(what: str) -> Exam:
        root = tmp_path_factory.mktemp(what)
        layouts.write_planetoid(root, graph=planetoid_content())
        part = {"features": "allx", "labels": "ally", "edges": "graph"}[what]
        change = {"features": new_features, "labels": new_labels, "edges": new_edges}[what]
        rewrite(root, part, change(np.arange(3)))
        return read(root, "inductive")

    return exam


@pytest.mark.parametrize(
    ("role", "name", "what"),
    [(*method, what) for method in METHODS for what in ("features", "labels")]
    + [(*method, "edges") for method in READS_EDGES],
)
def test_what_is_observed_does_reach_the_weights(cora, altered, role, name, what):
    # The other side of the law: the comparison above would see a change that gets through.
    before, _ = cora("inductive", "raw")
    one, two = (fit(exam, role, name)[0] for exam in (before, altered(what)))
    assert any(not torch.equal(one[key], two[key]) for key in one)


# ---- npz: the split `random` ----------------------------------------------------------------


def ask(path: Path, setting: str) -> Protocol:
    return Protocol(
        f"npz:{path}", data.dataset_checksum(npz, f"npz:{path}", path), "random", setting
    )


@functools.cache
def read_npz(path: Path) -> Exam:
    return examine(npz.load(f"npz:{path}", path), ask(path, "production"), 0)


def rewire(adj: sp.csr_array, hidden: np.ndarray, members: np.ndarray) -> sp.csr_array:
    """Other edges for the hidden nodes; the largest component keeps its nodes."""
    rng, size = np.random.default_rng(3), adj.shape[0]
    tree = minimum_spanning_tree(adj)  # kept, so that no component falls apart
    touches = np.zeros(size, bool)
    touches[hidden] = True
    entries = adj.tocoo()
    kept = ~(touches[entries.row] | touches[entries.col])
    stays = sp.coo_array((np.ones(kept.sum()), (entries.row[kept], entries.col[kept])), adj.shape)
    count = 6 * len(hidden)
    ends = (rng.choice(hidden, count), rng.choice(members, count))  # all inside the component
    fresh = sp.coo_array((np.ones(count), ends), adj.shape)
    total = (stays + tree + tree.T + fresh + fresh.T).tolil()
    total.setdiag(0)
    return (total.tocsr() != 0).astype(np.float32)


@pytest.fixture(scope="module")
def npz_pair(tmp_path_factory):
    """The paths of two files that differ in the features and edges of hidden nodes.

    Labels stay: the split draws 20 and 30 nodes of each class among all nodes of the component, so
    that another label of a node that turns out hidden makes another split, as it does upstream.
    """
    folder = tmp_path_factory.mktemp("npz")
    graph = layouts.content(700)
    before, after = folder / "before.npz", folder / "after.npz"
    layouts.write_npz(before, graph)
    adj = graph.adj.to_scipy()
    _, component = connected_components(adj)
    members = np.flatnonzero(component == np.bincount(component).argmax())
    assert len(members) < 700
    hidden = members[read_npz(before).split.test_unseen.numpy()]
    x = new_features(hidden)(graph.x.to_scipy())
    other = graph.replace(
        x=type(graph.x).from_scipy(x), adj=data.adjacency_from_scipy(rewire(adj, hidden, members))
    )
    layouts.write_npz(after, other)
    return before, after


def test_the_split_of_both_files_is_the_same(npz_pair):
    before, after = map(read_npz, npz_pair)
    for role in ("train", "val", "test_observed", "test_unseen"):
        assert torch.equal(getattr(before.split, role), getattr(after.split, role))
    hidden = before.split.test_unseen
    changed = before.graph.adj.to_dense() != after.graph.adj.to_dense()
    assert changed[hidden].any(1).double().mean() > 0.9
    assert (before.graph.x.to_dense() != after.graph.x.to_dense())[hidden].any(1).all()


@pytest.mark.parametrize(("role", "name"), METHODS)
def test_hidden_nodes_of_the_random_split_do_not_reach_the_weights(npz_pair, role, name):
    assert_same_fit(*map(read_npz, npz_pair), role, name)


# ---- the whole way of a cell ----------------------------------------------------------------


def weights_of(path: Path, teacher: str, student: str) -> dict:
    """The weights of a cell; a teacher is fitted once for all its students."""
    protocol = ask(path, "production")
    choices = [
        Choice(name, name, config_of(role, name, "val", dropout=0.0))
        for role, name in (("teacher", teacher), ("student", student))
    ]
    place = run.Place(path.with_suffix(""), path.parent)
    row = run.run(Cell(protocol, *choices, 0, 0, 0), place)
    assert (row.status, row.reason) == ("ok", "")
    return torch.load(place.store.artefact(row, "weights.pt"), weights_only=True)


@pytest.mark.parametrize("teacher", registry.methods("teacher"))
def test_a_cell_run_from_files_to_stored_weights_does_not_leak(npz_pair, teacher):
    one, two = (weights_of(path, teacher, "glnn") for path in npz_pair)
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("student", DISTILLED)
def test_whatever_a_student_takes_from_graph_and_teacher_does_not_leak(npz_pair, student):
    one, two = (weights_of(path, "sage", student) for path in npz_pair)
    assert all(torch.equal(one[key], two[key]) for key in one)
