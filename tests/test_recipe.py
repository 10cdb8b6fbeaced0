import math

import pytest
import torch

from bench import adversarial, cost, knowledge, losses, recipe, reliability, train
from bench.graph import Graph, TeacherOutput
from bench.layers import Linear
from bench.method import Batch, Output, Step
from bench.sparse import CSR
from bench.students.glnn import GLNN
from bench.students.krd import KRD
from bench.students.nosmog import NOSMOG
from tests import toys

OFF = {
    "reliable_sampling": False,
    "encoding": "none",
    "adversarial_weight": 0.0,
    "similarity_weight": 0.0,
    "schedule": "steps",
    "weight_decay": 0.0,
}


class Teacher:
    """Reads the features alone, through a fixed matrix, and remembers the graphs it is given."""

    def __init__(self):
        self.weight = torch.randn(12, 3, generator=torch.Generator().manual_seed(3))
        self.seen = []

    def __call__(self, graph, nodes=None):
        self.seen.append(graph)
        shift = 0 if graph.shift is None else graph.shift
        logits = (graph.x.to_dense() + shift) @ self.weight
        return Output(logits, logits)


def teacher_output(graph) -> TeacherOutput:
    model = Teacher()
    logits = model(graph).logits
    hidden = torch.randn(30, 5, generator=torch.Generator().manual_seed(4))
    return TeacherOutput(logits, lambda: model, lambda: hidden)


@pytest.fixture
def task():
    graph = toys.random_graph()
    given = toys.task(graph, list(range(7)), [7, 8, 9])
    return type(given)(given.graph, given.split, teacher_output(graph), 0, given.val_accuracy)


def make(kind=NOSMOG, **options):
    torch.manual_seed(0)
    values = {**OFF, "hidden_dim": 8, "max_epochs": 4, "selection": "last", **options}
    known = {k: v for k, v in values.items() if hasattr(kind.Config(), k)}
    return kind(kind.Config(**known), 12, 3, 30)


def step(epoch: int = 0) -> Step:
    return Step(epoch, 4, torch.Generator().manual_seed(0))


def gradients(model, task) -> list[torch.Tensor]:
    """The gradient of the first step of an epoch."""
    model.zero_grad()
    for batch in model.batches(task, step()):
        loss = model.loss(task, batch, step())
        if loss is not None:
            loss.backward()
        if batch.ends_step:
            break
    return [p.grad.clone() for p in model.parameters()]


# ---- schedules ------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"label_weight": 0.3, "temperature": 2.0, "dropout": 0.5}])
@pytest.mark.parametrize("size", [4, 512])
def test_with_every_switch_off_the_recipe_is_glnn_to_the_bit(task, options, size):
    ours, theirs = make(batch_size=size, **options), make(GLNN, batch_size=size, **options)
    for model in (ours, theirs):
        model.fit(task)
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("kind", [{}, {"reliable_sampling": True, "reliability_start": 0}])
def test_means_over_the_epoch_do_not_depend_on_the_batch_size(task, kind):
    options = {"schedule": "mean", "label_weight": 0.4, **kind}
    whole = gradients(make(batch_size=0, **options), task)
    for size in (3, 8, 29, 512):
        parts = gradients(make(batch_size=size, **options), task)
        for one, two in zip(whole, parts, strict=True):
            torch.testing.assert_close(one, two)


def test_the_full_batch_is_one_mean_over_labels_and_one_over_nodes(task):
    model = make(schedule="mean", label_weight=0.4, temperature=2.0, batch_size=0)
    found = gradients(model, task)
    model.zero_grad()
    train_nodes = task.split.train
    hard = losses.hard_label_loss(model(task.graph, train_nodes).logits, task.graph.y[train_nodes])
    soft = losses.soft_label_loss(model(task.graph).logits, task.teacher.log_probs(2.0), 2.0)
    (0.4 * hard + 0.6 * soft).backward()
    for one, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad)


def test_the_sum_adds_the_means_of_equal_batches_in_one_step(task):
    model = make(schedule="sum", label_weight=0.4, batch_size=10)
    batches = list(model.batches(task, step()))
    assert [(len(b.nodes), b.labelled, b.ends_step) for b in batches] == [
        *((7, True, False), (10, False, False), (10, False, False), (10, False, True))
    ]
    found = gradients(model, task)
    mean = gradients(make(schedule="mean", label_weight=0.4, batch_size=10), task)
    hard = gradients(make(schedule="mean", label_weight=1.0, batch_size=10), task)
    for total, average, labelled in zip(found, mean, hard, strict=True):
        soft = average - 0.4 * labelled  # three batches: three times the soft labels
        torch.testing.assert_close(total, 0.4 * labelled + 3 * soft)


@pytest.mark.parametrize(
    ("count", "size", "parts"), [(10, 4, [4, 3, 3]), (10, 0, [10]), (3, 9, [3])]
)
def test_equal_parts_are_never_larger_than_asked(count, size, parts):
    assert [len(part) for part in recipe.equal_parts(torch.arange(count), size)] == parts


# ---- weights and auxiliary losses -----------------------------------------------------------


@pytest.mark.parametrize("schedule", ["steps", "sum", "mean"])
def test_a_term_without_weight_is_not_computed(task, schedule):
    model = make(schedule=schedule)
    for batch in model.batches(task, step()):
        assert (model.loss(task, batch, step()) is None) == batch.labelled


def test_an_auxiliary_loss_is_added_to_every_batch(task):
    model = make(schedule="sum", batch_size=10, label_weight=0.0)
    for batch in model.batches(task, step()):
        plain = model.loss(task, batch, step())
        more = recipe.loss(model, task, batch, step(), lambda: torch.tensor(0.25))
        torch.testing.assert_close(more, torch.tensor(0.25) + (0.0 if plain is None else plain))


# ---- pairs ----------------------------------------------------------------------------------


def test_a_pair_compares_a_student_node_with_a_teacher_node(task):
    for heat in (2.0, 0.5):  # of one teacher
        model = make(KRD, label_weight=0.25, temperature=heat, reliable_sampling=True)
        pairs = torch.tensor([[4, 4, 9], [4, 2, 4]])
        rows = []
        model.register_forward_hook(lambda _, given, output, seen=rows: seen.append(output.logits))
        found = model.loss(task, Batch(pairs[0], pairs=pairs), step())
        assert [len(logits) for logits in rows] == [2]  # a student node is computed once
        student = torch.log_softmax(model(task.graph, pairs[0]).logits / heat, 1)
        teacher = torch.log_softmax(task.teacher.logits[pairs[1]] / heat, 1)
        divergence = (teacher.exp() * (teacher - student)).sum(1).mean()
        torch.testing.assert_close(found, 0.75 * heat**2 * divergence)


def test_pairs_take_no_memory_for_their_rows(task):
    pairs = torch.randint(30, (2, 50_000), generator=torch.Generator().manual_seed(0))
    logits = torch.randn(30, 500, generator=torch.Generator().manual_seed(0))
    given = type(task)(task.graph, task.split, TeacherOutput(logits), 0, task.val_accuracy)
    torch.manual_seed(0)
    model = KRD(KRD.Config(reliable_sampling=True, schedule="steps", hidden_dim=8), 12, 500, 30)
    with cost._LiveTensors() as live:
        model.loss(given, Batch(pairs[0], pairs=pairs), step())
    assert live.peak < 50_000 * 500  # bytes; a copy of their rows takes four times as many


def test_the_gradient_of_pairs_is_bit_equal_on_two_threads(task, threads):
    pairs = torch.randint(30, (2, 200_000), generator=torch.Generator().manual_seed(0))
    model = make(KRD, reliable_sampling=True)

    def gradient() -> torch.Tensor:
        loss = model.loss(task, Batch(pairs[0], pairs=pairs), step())
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])

    threads(1)
    one = gradient()
    threads(2)
    assert all(torch.equal(gradient(), one) for _ in range(5))


def test_before_sampling_starts_every_edge_is_a_pair(task):
    model = make(KRD, schedule="mean", batch_size=0, reliable_sampling=True, reliability_start=2)
    sizes = []
    for epoch in range(4):
        model.begin_epoch(task, step(epoch))
        sizes.append(list(model.batches(task, step(epoch)))[-1].pairs.shape[1])
    assert sizes[:2] == [task.graph.adj.nnz] * 2  # the graph's own loops are the pairs (i, i)
    assert all(30 < size < sizes[0] for size in sizes[2:])


@pytest.mark.parametrize("schedule", ["steps", "sum", "mean"])
def test_pairs_are_cut_into_batches_by_every_schedule(task, schedule):
    model = make(KRD, schedule=schedule, batch_size=20, reliable_sampling=True)
    batches = [batch for batch in model.batches(task, step()) if not batch.labelled]
    pairs = torch.cat([batch.pairs for batch in batches], 1)
    assert all(torch.equal(batch.nodes, batch.pairs[0]) for batch in batches)
    assert all(batch.nodes.numel() <= 20 for batch in batches)
    found = set(map(tuple, pairs.T.tolist()))
    assert len(found) == pairs.shape[1]
    assert all(task.graph.adj.to_dense()[a, b] for a, b in found)


def test_the_exponent_is_refitted_when_it_is_due(task, monkeypatch):
    calls = []

    def refit(exponent, difficulties, matches, *, bins, momentum):
        calls.append((matches, bins, momentum))
        return exponent + 1.0

    monkeypatch.setattr(reliability, "refit", refit)
    options = {"reliability_refit": 2, "reliability_interval": 3, "reliability_bins": 7}
    model = make(KRD, reliable_sampling=True, dropout=0.9, **options).train()
    exponents = []
    for epoch in range(7):
        model.begin_epoch(task, step(epoch))
        exponents.append(model.sampling.exponent)
    assert exponents == [1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0]
    matches, bins, momentum = calls[0]
    assert (bins, momentum) == (7, 0.99)
    assert model.training
    model.eval()  # without dropout
    expected = model(task.graph).logits.argmax(1) == task.teacher.logits.argmax(1)
    assert torch.equal(matches, expected)


def test_another_teacher_starts_anew(task):
    model = make(KRD, reliable_sampling=True)
    model.begin_epoch(task, step())
    first = model.sampling
    model.begin_epoch(task, step())
    assert model.sampling is first
    other = teacher_output(task.graph)
    model.begin_epoch(type(task)(task.graph, task.split, other, 0, task.val_accuracy), step())
    assert model.sampling is not first
    assert model.sampling.epochs == 1


def test_the_teacher_never_sees_the_encodings(task):
    graph = task.graph.replace(extra=torch.ones(30, 2))
    model = make(KRD, reliable_sampling=True)
    given = type(task)(graph, task.split, task.teacher, 0, task.val_accuracy)
    model.begin_epoch(given, step())
    assert all(seen.extra is None for seen in task.teacher.model.seen)
    assert task.teacher.model.seen[-1].shift.shape == (30, 12)


# ---- adversarial features -------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("with_extra", [True, False])
@pytest.mark.parametrize("nodes", [None, torch.tensor([3, 0, 3])])
def test_a_shift_is_added_to_features_and_encodings(task, bias, sparse, with_extra, nodes):
    graph, draws = task.graph, torch.Generator().manual_seed(1)
    dense = graph.x.to_dense()
    extra = torch.randn(30, 2, generator=draws) if with_extra else None
    inputs = torch.cat([dense, extra], 1) if with_extra else dense
    shift = torch.randn(inputs.shape, generator=draws)
    layer = Linear(inputs.shape[1], 5, bias=bias)
    graph = graph.replace(x=graph.x if sparse else dense, extra=extra, shift=shift)
    whole = layer(inputs + shift)
    torch.testing.assert_close(
        layer.of_graph(graph, nodes), whole if nodes is None else whole[nodes]
    )


def test_climbing_a_slope_goes_to_the_corner_and_no_further():
    slope = torch.tensor([[1.0, -2.0, 0.0]])
    start = torch.tensor([[0.0, 0.3, 0.1]])

    def climb(steps):
        return adversarial.worst_shift(lambda shift: (slope * shift).sum(), start, 0.4, steps)

    torch.testing.assert_close(climb(1), torch.tensor([[0.1, 0.2, 0.1]]))
    torch.testing.assert_close(climb(5), torch.tensor([[0.4, -0.2, 0.1]]))
    torch.testing.assert_close(climb(9), torch.tensor([[0.4, -0.4, 0.1]]))


def test_adversarial_features_stay_in_the_cube_and_raise_the_loss(task, monkeypatch):
    found = {}
    worst = adversarial.worst_shift

    def watch(objective, start, radius, steps):
        found.update(start=start, end=worst(objective, start, radius, steps))
        found.update(before=objective(start), after=objective(found["end"]))
        return found["end"]

    monkeypatch.setattr(adversarial, "worst_shift", watch)
    model = make(adversarial_weight=0.5, adversarial_radius=0.2)
    batch = Batch(torch.arange(30))
    plain = make(adversarial_weight=0.0).loss(task, batch, step())
    total = model.loss(task, batch, step())
    assert found["start"].abs().max() <= 0.2 * (1 + 1e-6)
    assert found["end"].abs().max() <= 0.2 * (1 + 1e-6)
    assert found["start"].std() == pytest.approx(0.2 / math.sqrt(3), rel=0.1)
    assert found["after"] > found["before"] + 1e-3
    torch.testing.assert_close(total, plain + 0.5 * found["after"])
    total.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_without_a_radius_the_adversarial_term_is_the_loss_again(task):
    batch = Batch(torch.tensor([5, 3, 9]))
    plain = make().loss(task, batch, step())
    again = make(adversarial_weight=0.5, adversarial_radius=0.0).loss(task, batch, step())
    torch.testing.assert_close(again, 1.5 * plain)


def test_climbing_leaves_no_gradient_in_the_weights(task):
    model = make(adversarial_weight=0.5)
    model.loss(task, Batch(torch.arange(9)), step())
    assert all(p.grad is None for p in model.parameters())


def test_climbing_takes_memory_for_its_batch_alone():
    count = 10**6
    none, ones = torch.zeros(count, dtype=torch.int32), torch.ones(count)
    x = CSR(torch.arange(count + 1), none, ones, (count, 12))
    adj = CSR(torch.zeros(count + 1, dtype=torch.int64), none[:0], ones[:0], (count, count))
    graph = Graph(x, none.long(), adj, 3)
    nodes = torch.tensor([7, 999_999])
    with cost._LiveTensors() as live:
        adversarial.objective_at_worst(make(), graph, nodes, torch.Tensor.sum, step())
    assert 0 < live.peak < 10**5


def test_encodings_are_shifted_too(task):
    graph = task.graph.replace(extra=torch.ones(30, 2))
    given = type(task)(graph, task.split, task.teacher, 0, task.val_accuracy)
    torch.manual_seed(0)
    model = NOSMOG(NOSMOG.Config(hidden_dim=8, similarity_weight=0.0), 14, 3, 30)
    assert model.loss(given, Batch(torch.arange(9)), step()).isfinite()


# ---- similarity -----------------------------------------------------------------------------


def test_the_gram_loss_of_two_nodes_by_hand():
    # [[1, 0], [0, 1]] against [[2, 2], [2, 2]]: (1 + 4 + 4 + 1) / 4
    assert knowledge.gram_loss(torch.eye(2), torch.ones(2, 2)) == 2.5
    assert knowledge.gram_loss(torch.ones(2, 4) / 2, torch.ones(2, 1)) == 0.0  # any two widths


@pytest.mark.parametrize(
    ("schedule", "labelled", "weight"),
    [
        ("steps", True, 0.3 * 0.1),
        ("steps", False, 0.7 * 0.1),
        ("sum", True, 0.1),
        ("sum", False, 0),
    ],
)
def test_similarity_has_the_weight_of_its_batch_or_stands_alone_on_labels(
    task, schedule, labelled, weight
):
    options = {"schedule": schedule, "label_weight": 0.3}
    model = make(similarity_weight=0.1, **options)
    nodes = torch.arange(7)
    found = model.loss(task, Batch(nodes, labelled=labelled), step())
    plain = make(**options).loss(task, Batch(nodes, labelled=labelled), step())
    seen = model.similarity(model(task.graph, nodes).hidden)
    assert seen.min() == 0.0  # after the ReLU
    gram = knowledge.gram_loss(seen, task.teacher.hidden[nodes])
    torch.testing.assert_close(found, plain + weight * gram)


def test_the_encoder_of_the_similarity_is_trained_and_not_shipped(task):
    model = make(similarity_weight=0.1)
    before = model.similarity[0].weight.detach().clone()
    model.fit(task)
    assert not torch.equal(model.similarity[0].weight, before)
    shipped = model.deploy()[""]
    assert model.num_parameters() - shipped.num_parameters() == 8 * 8 + 8
    assert shipped.num_parameters() == make().num_parameters()
    assert torch.equal(shipped(task.graph).logits, model(task.graph).logits)
    assert hasattr(model, "similarity")


def test_the_encoder_fits_a_student_of_one_layer(task):
    model = make(num_layers=1, similarity_weight=0.1)
    assert model.similarity[0].weight.shape == (3, 3)
    assert model.loss(task, Batch(torch.arange(9)), step()).isfinite()


# ---- together -------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["steps", "sum", "mean"])
def test_every_switch_at_once_fits_the_same_bits_twice(task, schedule):
    options = {
        **{"schedule": schedule, "batch_size": 16, "label_weight": 0.3, "dropout": 0.3},
        **{"reliable_sampling": True, "reliability_start": 1, "reliability_refit": 1},
        **{"adversarial_weight": 0.1, "similarity_weight": 0.1},
    }
    models = [make(**options), make(**options)]
    for model in models:
        log = train.fit(model, task)
        assert all(math.isfinite(value) for value in log.history["loss"])
    for one, two in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, two)
