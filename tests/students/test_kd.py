"""`kd` and `kd_gnn`: the loss of bench/kinds.py, its schedules, and what is stored and shipped."""

import inspect

import pytest
import torch

from bench import knowledge, losses, registry, train
from bench.graph import Task, TeacherOutput
from bench.kinds import KIND_OF
from bench.method import Batch, Step
from bench.students.glnn import GLNN
from bench.students.kd import KD
from bench.students.kd_gnn import SmallGNN
from tests import conformance, layouts, toys
from tests import test_leaks as leaks

OTHERS = [name for name in KIND_OF if name != "soft_weight"]
EVERYTHING = {**dict.fromkeys(KIND_OF, 0.5), "label_weight": 0.5, "angle_nodes": 8}
EVERYTHING |= {"projection_dim": 8, "sample_nodes": 16}


@pytest.fixture
def task() -> Task:
    graph = toys.random_graph()
    generator = torch.Generator().manual_seed(5)
    logits, hidden = (torch.randn(30, n, generator=generator) for n in (3, 6))
    given = toys.task(graph, list(range(7)), [7, 8, 9])
    teacher = TeacherOutput(logits, compute_hidden=lambda: hidden)
    return Task(given.graph, given.split, teacher, 0, given.val_accuracy)


def make(kind=KD, **options):
    torch.manual_seed(0)
    return kind(kind.Config(hidden_dim=8, **options), 12, 3, 30)


def step() -> Step:
    return Step(0, 1, torch.Generator().manual_seed(0))


# ---- the law: soft labels alone are GLNN ----------------------------------------------------


@pytest.mark.parametrize("label_weight", [0.0, 0.3])
def test_without_other_kinds_it_is_glnn_bit_for_bit(task, label_weight):
    shared = {"batch_size": 8, "max_epochs": 5, "dropout": 0.4, "temperature": 2.0}
    shared |= {"weight_decay": 0.01, "label_weight": label_weight}
    ours = make(soft_weight=1.0 - label_weight, **shared)
    theirs = make(GLNN, **shared)
    history = ours.fit(task).history, theirs.fit(task).history
    assert history[0] == history[1]
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("kind", [KD, SmallGNN])
def test_full_batch_with_soft_labels_alone_is_a_plain_step_on_their_divergence(task, kind):
    options = {"max_epochs": 4, "selection": "last", "dropout": 0.3}
    model, twin = make(kind, **options), make(kind, **options)
    model.fit(task)
    optimizer = train.Adam(list(twin.parameters()), lr=0.01, weight_decay=0.0)
    with train.seeded(task.seed, "fit"):
        for _ in range(4):
            soft = losses.soft_label_loss(twin(task.graph).logits, task.teacher.log_probs())
            soft.backward()
            optimizer.step()
    pairs = zip(model.parameters(), twin.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("weight", OTHERS)
def test_a_kind_without_weight_is_not_computed(task, weight, monkeypatch):
    for name, function in inspect.getmembers(knowledge, inspect.isfunction):
        monkeypatch.setattr(knowledge, name, lambda *_, f=function: pytest.fail(str(f)))
    model, generator = make(), torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert model.loss(task, Batch(task.nodes), Step(0, 1, generator)) is not None
    assert torch.equal(generator.get_state(), before)  # and nothing is drawn for it
    monkeypatch.undo()
    other = make(**{weight: 1.0}).loss(task, Batch(task.nodes), step())
    assert other > model.loss(task, Batch(task.nodes), step())


def test_without_any_weight_there_is_no_loss(task):
    model = make(soft_weight=0.0)
    assert model.loss(task, Batch(task.nodes), step()) is None
    assert model.knowledge_of({"soft_weight": 0.0}) == ()


@pytest.mark.parametrize("kind", [KD, SmallGNN])
@pytest.mark.parametrize("others", [{}, {"gram_weight": 1.0}])
def test_classes_that_nobody_teaches_are_refused(task, kind, others):
    with pytest.raises(ValueError, match=r"nothing teaches the classes: .*; give one of them"):
        make(kind, soft_weight=0.0, **others).fit(task)
    make(kind, soft_weight=0.0, label_weight=1.0, max_epochs=1, **others).fit(task)


# ---- the terms ------------------------------------------------------------------------------


def test_the_loss_is_the_weighted_sum_of_its_terms(task):
    model = make(label_weight=2.0, soft_weight=3.0, lsp_weight=5.0, attention_weight=7.0)
    output, teacher = model(task.graph), task.teacher
    train_nodes = task.split.train
    edges = knowledge.neighbours(task.graph, None).adj
    expected = (
        2 * losses.hard_label_loss(output.logits[train_nodes], task.graph.y[train_nodes])
        + 3 * losses.soft_label_loss(output.logits, teacher.log_probs())
        + 5 * knowledge.lsp(edges, output.hidden, teacher.hidden)
        + 7 * knowledge.attention(output.hidden, teacher.hidden)
    )
    torch.testing.assert_close(model.loss(task, Batch(task.nodes), step()), expected)


def test_a_batch_takes_its_own_nodes_and_for_lsp_their_neighbours(task):
    model = make(batch_size=8, lsp_weight=1.0, gram_weight=4.0)
    nodes = torch.tensor([3, 11, 20])
    output, goal = model(task.graph, nodes), task.teacher.hidden
    block = knowledge.neighbours(task.graph, nodes)
    around = model(task.graph, block.inputs).hidden
    expected = (
        losses.soft_label_loss(output.logits, task.teacher.log_probs()[nodes])
        + knowledge.lsp(block.adj, around, goal[block.inputs])
        + 4 * knowledge.gram(output.hidden, goal[nodes])
    )
    torch.testing.assert_close(model.loss(task, Batch(nodes), step()), expected)


def test_the_teachers_side_of_the_whole_graph_is_computed_once(task, monkeypatch):
    calls, original = [], knowledge.local_structure

    def spy(adj, h, kernel):
        calls.append((len(h), kernel) if not h.requires_grad else None)
        return original(adj, h, kernel)

    monkeypatch.setattr(knowledge, "local_structure", spy)
    for kernel in ("cosine", "l2"):
        model = make(lsp_weight=1.0, lsp_kernel=kernel)
        values = [model.loss(task, Batch(task.nodes), step()) for _ in range(3)]
        assert values[0] == values[2]
    assert [call for call in calls if call] == [(30, "cosine"), (30, "l2")]
    calls.clear()
    model = make(lsp_weight=1.0, batch_size=8)
    found = [model.loss(task, Batch(nodes), step()) for nodes in torch.arange(30).split(8)]
    assert len([call for call in calls if call]) == 4
    assert len({value.item() for value in found}) == 4


def test_relations_look_at_a_sample_of_the_asked_size(task, monkeypatch):
    seen = []
    for name in ("rkd_distance", "rkd_angle", "gram", "contrast"):
        monkeypatch.setattr(
            knowledge, name, lambda a, b, *_: seen.append((len(a), len(b))) or a.sum()
        )
    make(**EVERYTHING).loss(task, Batch(task.nodes), step())
    assert seen == [(8, 8), (16, 16), (16, 16), (16, 16)]


def test_student_and_teacher_are_sampled_at_the_same_nodes(task):
    # With the student's own states as the teacher's, every relation is right, whatever the sample.
    model = make(gram_weight=1.0, rkd_angle_weight=1.0, soft_weight=0.0)
    model.config.__dict__.update(angle_nodes=5, sample_nodes=4)
    own = model(task.graph).hidden.detach()
    same = Task(
        task.graph, task.split, TeacherOutput(own[:, :3], None, lambda: own), 0, task.val_accuracy
    )
    assert model.loss(same, Batch(task.nodes), step()).item() == pytest.approx(0.0, abs=1e-6)


def test_a_batch_of_one_node_is_refused_where_nodes_are_compared():
    make(batch_size=1)
    with pytest.raises(ValueError, match=r"batch_size is 1, .*; give 0"):
        make(batch_size=1, gram_weight=1.0)


# ---- projections ----------------------------------------------------------------------------


def test_projections_are_trained_and_leave_no_trace(task):
    model = make(fitnet_weight=1.0, contrast_weight=1.0, projection_dim=5, max_epochs=2)
    names = set(model.state_dict())
    first, epochs = {}, []

    def watch(given, step, begin=model.begin_epoch):
        begin(given, step)
        epochs.append(step.epoch)
        first.setdefault("heads", {k: v.clone() for k, v in model.heads.state_dict().items()})
        first["last"] = {k: v.clone() for k, v in model.heads.state_dict().items()}

    model.begin_epoch = watch
    model.fit(task)
    assert epochs == [0, 1]
    weights = [k for k in first["heads"] if k.endswith("0.weight")]
    assert sorted(weights) == [
        f"{name}_{side}.0.weight"
        for name in ("contrast", "fitnet")
        for side in ("student", "teacher")
    ]
    assert first["heads"]["fitnet_teacher.0.weight"].shape == (6, 5)
    assert all(not torch.equal(first["heads"][k], first["last"][k]) for k in weights)
    assert set(model.state_dict()) == names
    assert model.num_parameters() == make().num_parameters()


def test_projections_do_not_move_the_random_stream_of_the_fit(task):
    alone, other = make(dropout=0.5, max_epochs=3), make(dropout=0.5, max_epochs=3)
    other.config.__dict__["fitnet_weight"] = 1e-30  # adds nothing but its projections
    one, two = alone.fit(task).history["loss"], other.fit(task).history["loss"]
    assert one == two


# ---- all kinds at once keep the laws --------------------------------------------------------


@pytest.fixture
def everything(monkeypatch):
    """The default configuration of both teaches everything."""
    ours, known = {"default": {"config": EVERYTHING}}, registry.presets
    monkeypatch.setattr(
        registry, "presets", lambda role, name: ours if name[:2] == "kd" else known(role, name)
    )


LAWS = [("kd", law) for law in ("gradients", "seeds", "left_alone", "state", "distils")]
LAWS += [("kd_gnn", law) for law in ("gradients", "state", "edges")]


@pytest.mark.parametrize(("name", "law"), LAWS)
def test_with_every_kind_the_laws_of_methods_hold(everything, name, law):
    conformance.CHECKS[f"check_{law}"]("student", name)


@pytest.fixture(scope="module")
def exams(tmp_path_factory):
    """Before and after all that is hidden was changed in the files."""
    root = tmp_path_factory.mktemp("planetoid")
    layouts.write_planetoid(root, graph=layouts.content(700))
    before = leaks.read(root, "inductive")
    hidden = before.split.test_unseen.numpy()
    leaks.rewrite(root, "tx", leaks.new_features(leaks.rows_of(root, hidden)))
    leaks.rewrite(root, "graph", leaks.new_edges(hidden))
    return before, leaks.read(root, "inductive")


@pytest.mark.parametrize("name", ["kd", "kd_gnn"])
def test_with_every_kind_nothing_hidden_reaches_the_weights(everything, exams, name):
    found = []
    for exam in exams:
        guide, _, output = leaks.fitted(exam, "teacher", "sage", "last")
        teacher = TeacherOutput(
            output.logits, lambda guide=guide: guide, lambda output=output: output.hidden
        )
        found.append(leaks.fitted(exam, "student", name, "last", teacher))
    assert found[0][1]["loss"] == found[1][1]["loss"]
    one, two = (model.state_dict() for model, *_ in found)
    assert all(torch.equal(one[key], two[key]) for key in one)


# ---- presets --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["kd", "kd_gnn"])
def test_each_preset_teaches_the_kinds_of_its_name(name):
    kinds = {"soft": "output", "fitnet": "middle", "attention": "middle", "lsp": "middle"}
    kinds |= dict.fromkeys(["rkd", "gram", "gcrd"], "constructed")
    found = registry.presets("student", name)
    assert len(found) == 15
    for preset in found:
        config = registry.configure("student", f"{name}:{preset}", {}, {})
        parts = [] if preset == "default" else preset.split("+")
        expected = list(dict.fromkeys(kinds[part] for part in parts)) or ["output"]
        assert list(registry.load_method("student", name).knowledge_of(config)) == expected
        labels = "soft" not in parts and preset != "default"
        assert config["label_weight"] == float(labels)
        assert config["soft_weight"] == float(not labels)


def test_both_students_have_the_same_weights_in_their_presets():
    one, two = (registry.presets("student", name) for name in ("kd", "kd_gnn"))
    assert list(one) == list(two)
    for preset in one:
        configs = [registry.configure("student", f"{n}:{preset}", {}, {}) for n in ("kd", "kd_gnn")]
        weights = [{k: v for k, v in c.items() if "weight" in k} for c in configs]
        assert weights[0] == weights[1]
