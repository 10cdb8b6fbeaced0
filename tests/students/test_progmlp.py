import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from bench import cost, registry, stages, train
from bench.hparams import derive_seed
from bench.method import Batch, Step
from bench.progressive import Stage, next_share
from bench.students.glnn import GLNN
from bench.students.progmlp import ProGMLP
from tests import toys

SIZES = (12, 3, 30)


@pytest.fixture
def task():
    logits = 2 * torch.randn(30, 3, generator=torch.Generator().manual_seed(5))
    return toys.with_teacher(toys.task(toys.random_graph(), list(range(7)), [7, 8, 9]), logits)


def make(**options) -> ProGMLP:
    torch.manual_seed(0)
    values = {"hidden_dim": 8, "max_epochs": 4, "num_stages": 3, **options}
    return ProGMLP(ProGMLP.Config(**values), *SIZES)


def stage_of(position: int = 1, **options) -> Stage:
    torch.manual_seed(0)
    return Stage(ProGMLP.Config(hidden_dim=8, **options), SIZES, position)


def step(seed: int = 0) -> Step:
    return Step(0, 1, torch.Generator().manual_seed(seed))


def spied(monkeypatch, model, task) -> list[tuple[dict, object]]:
    """Fit; return each student's state and task as its training begins."""
    seen, fit = [], train.fit

    def spy(method, given, config=None, **options):
        seen.append((copy.deepcopy(method.state_dict()), given))
        return fit(method, given, config, **options)

    monkeypatch.setattr(train, "fit", spy)
    model.fit(task)
    return seen


# ---- structure ------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["drawn", "zero"])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_each_student_starts_from_the_one_before(monkeypatch, task, start, norm):
    model = make(previous_start=start, norm=norm, dropout=0.3)
    drawn = model.stages[1].mlp.layers[0].weight.detach().clone()
    starts = [state for state, _ in spied(monkeypatch, model, task)]
    ends = [stage.state_dict() for stage in model.stages]
    first = "mlp.layers.0.weight"
    assert torch.equal(starts[1][first][:12], ends[0][first])
    block = drawn[12:] if start == "drawn" else torch.zeros(8, 8)
    assert torch.equal(starts[1][first][12:], block)
    assert all(torch.equal(starts[1][k], ends[0][k]) for k in ends[0] if k != first)
    assert all(torch.equal(starts[2][k], ends[1][k]) for k in ends[1])
    assert not torch.equal(starts[1][first][:12], ends[1][first][:12])  # and then learns


def test_the_first_student_is_the_one_that_sees_zeros(task):
    stage = make().stages[0].eval()
    whole = make().stages[1].eval()
    whole.inherit(stage)
    zeros = task.graph.replace(extra=torch.zeros(30, 8))
    torch.testing.assert_close(whole(zeros).logits, stage(task.graph).logits)


def test_a_student_sees_the_hidden_states_before_the_last_layer_as_constants(monkeypatch, task):
    model = make(dropout=0.5, norm="layer")
    tasks = [given for _, given in spied(monkeypatch, model, task)]
    assert tasks[0].graph.extra is None
    for k in (0, 1):
        stage, seen = model.stages[k], tasks[k + 1].graph.extra
        assert not seen.requires_grad
        last = stage.mlp.layers[-1]
        torch.testing.assert_close(seen @ last.weight + last.bias, stage(tasks[k].graph).logits)
    assert [given.seed == task.seed for given in tasks] == [True, False, False]


def test_columns_that_were_there_stay_beside_the_hidden_states(task):
    torch.manual_seed(0)
    config = ProGMLP.Config(hidden_dim=8, max_epochs=2, num_stages=3)
    model = ProGMLP(config, 14, 3, 30)  # two columns of encodings
    own = replace(task, graph=task.graph.replace(extra=torch.randn(30, 2)))
    model.fit(own)
    assert [stage.num_features for stage in model.stages] == [14, 22, 22]
    nodes = torch.tensor([4, 9])
    for form in model.deploy().values():
        some, whole = form(own.graph, nodes).logits, form(own.graph).logits[nodes]
        torch.testing.assert_close(some, whole)


def test_a_shift_of_the_features_reaches_every_student_and_no_hidden_state(task):
    model = make(node_thresholds=(0.6,))
    model.fit(task)
    shift = 0.1 * torch.randn(30, task.graph.num_features)
    shifted = task.graph.replace(shift=shift)
    dense = task.graph.replace(x=task.graph.x.to_dense() + shift)
    nodes = torch.tensor([4, 9, 20])
    for form in model.deploy().values():
        torch.testing.assert_close(form(shifted).logits, form(dense).logits)
        torch.testing.assert_close(form(shifted, nodes).logits, form(dense, nodes).logits)


def test_without_structure_students_are_drawn_apart_and_see_x_alone(monkeypatch, task):
    model = make(structure=False, mixup=False)
    drawn = [copy.deepcopy(stage.state_dict()) for stage in model.stages]
    seen = spied(monkeypatch, model, task)
    assert all(given.graph.extra is None for _, given in seen)
    for (state, _), before in zip(seen, drawn, strict=True):
        assert all(torch.equal(state[k], before[k]) for k in before)
    assert not torch.equal(drawn[0]["mlp.layers.0.weight"], drawn[1]["mlp.layers.0.weight"])


def test_without_its_three_parts_it_is_an_ensemble_of_students_trained_alone(task):
    off = {"structure": False, "progressive_distillation": False, "mixup": False}
    model = make(dropout=0.3, **off)
    alone = [copy.deepcopy(stage) for stage in model.stages]
    model.fit(task)
    for k, (stage, twin) in enumerate(zip(model.stages, alone, strict=True), start=1):
        seed = task.seed if k == 1 else derive_seed(task.seed, "stage", k)
        train.fit(twin, replace(task, seed=seed))
        assert all(torch.equal(v, stage.state_dict()[n]) for n, v in twin.state_dict().items())
        assert not torch.equal(twin.mlp.layers[0].weight, alone[k - 2].mlp.layers[0].weight)


def test_the_log_has_the_students_one_after_the_other(task):
    log = make(max_epochs=4).fit(task)
    assert log.history["epoch"] == list(range(12))
    assert log.history["stage"] == [1.0] * 4 + [2.0] * 4 + [3.0] * 4
    assert {len(values) for values in log.history.values()} == {12}
    assert 8 <= log.best_epoch < 12
    assert log.seconds["train"] + log.seconds["validate"] == pytest.approx(
        sum(log.seconds[f"stage_{k}"] for k in (1, 2, 3))
    )


# ---- distillation ---------------------------------------------------------------------------


def test_the_first_student_has_the_losses_and_gradients_of_a_single_pass_of_glnn(task):
    options = {"label_weight": 0.3, "temperature": 1.0, "batch_size": 0}
    stage, glnn = stage_of(mixup=False, **options), None
    torch.manual_seed(0)
    glnn = GLNN(GLNN.Config(hidden_dim=8, **options), *SIZES)
    totals = []
    for model in (stage, glnn):
        model.train()
        total = sum(model.loss(task, batch, step()) for batch in model.batches(task, step()))
        total.backward()
        totals.append(total)
    torch.testing.assert_close(*totals)
    one, two = (dict(m.mlp.named_parameters()) for m in (stage, glnn))
    for name in one:
        assert torch.equal(one[name], two[name])
        torch.testing.assert_close(one[name].grad, two[name].grad)


def test_one_student_without_mixup_is_trained_like_any_student_with_that_schedule(task):
    options = {"max_epochs": 6, "label_weight": 0.1, "selection": "last", "batch_size": 0}
    model = make(num_stages=1, mixup=False, **options)
    model.fit(task)
    torch.manual_seed(0)
    krd = registry.load_method("student", "krd")
    twin = krd(krd.Config(hidden_dim=8, reliable_sampling=False, **options), *SIZES)
    train.fit(twin, task)
    own = model.stages[0].mlp.named_parameters()
    torch.testing.assert_close(dict(own), dict(twin.mlp.named_parameters()))


@pytest.mark.parametrize(("position", "beta"), [(1, 0.5), (3, 0.5), (4, 1.0), (4, 0.0)])
def test_distillation_weighs_k_to_the_power_of_beta(task, position, beta):
    options = {"structure": False, "mixup": False, "distillation_power": beta}
    stage = stage_of(position, **options)
    even = stage_of(position, progressive_distillation=False, **options)
    assert even.weight == 1.0
    assert stage.weight == pytest.approx(position**beta)
    nodes = task.nodes
    for batch in (Batch(nodes), Batch(torch.arange(7), labelled=True)):
        scaled, plain = (model.loss(task, batch, step()) for model in (stage, even))
        torch.testing.assert_close(scaled, position**beta * plain)


def test_k_to_the_power_of_beta_by_hand():
    assert stage_of(4, distillation_power=0.5).weight == 2.0
    assert stage_of(3, distillation_power=0.5).weight == pytest.approx(1.7320508)


# ---- mixup ----------------------------------------------------------------------------------


def test_mixup_is_the_loss_of_mixed_rows_with_mixed_labels(task):
    stage = stage_of(2, num_layers=3, norm="layer").eval()
    graph = task.graph.replace(extra=torch.randn(30, 8))
    stage.share = 0.3
    pairs = torch.tensor([[0, 1, 2], [4, 2, 2]])
    whole = torch.cat([graph.x.to_dense(), graph.extra], 1)
    rows = 0.3 * whole[pairs[0]] + 0.7 * whole[pairs[1]]
    logits = stage.mlp(graph.replace(x=rows, extra=None), None)[0]
    labels = F.one_hot(graph.y[pairs], 3).float()
    expected = F.cross_entropy(logits, 0.3 * labels[0] + 0.7 * labels[1])
    torch.testing.assert_close(stage.mixup_loss(graph, pairs), expected)


def test_mixup_by_hand(task):
    stage = stage_of(num_layers=2).eval()
    with torch.no_grad():
        for parameter in stage.parameters():
            parameter.zero_()
        stage.mlp.layers[0].weight[0, 0] = 1.0  # the hidden unit is the first feature
        stage.mlp.layers[1].weight[0] = torch.tensor([0.0, 1.0, 0.0])
    x = torch.zeros(30, 12)
    x[0, 0], x[1, 0] = 4.0, 1.0
    graph = task.graph.replace(x=x, y=torch.arange(30) % 3)
    stage.share = 0.25
    # 0.25 * 4 + 0.75 * 1 = 1.75: logits (0, 1.75, 0), labels 0 with 0.25 and 1 with 0.75.
    total = math.log(2 + math.exp(1.75))
    expected = 0.25 * total + 0.75 * (total - 1.75)
    assert stage.mixup_loss(graph, torch.tensor([[0], [1]])).item() == pytest.approx(expected)


def test_every_train_node_is_mixed_with_one_drawn_anew_each_epoch(task):
    stage = stage_of()
    found = [next(iter(stage.batches(task, step(seed)))) for seed in (0, 0, 1)]
    for batch in found:
        assert batch.labelled
        assert batch.pairs[0].tolist() == task.split.train.tolist()
        assert sorted(batch.pairs[1].tolist()) == sorted(task.split.train.tolist())
    assert torch.equal(found[0].pairs, found[1].pairs)
    assert not torch.equal(found[0].pairs, found[2].pairs)
    assert not any(b.pairs is not None for b in stage_of(mixup=False).batches(task, step()))


def test_the_mixed_nodes_of_small_batches_add_up_to_those_of_one(task):
    found = []
    for size in (0, 3):
        stage = stage_of(batch_size=size)
        mixed = [b for b in stage.batches(task, step()) if b.labelled and b.pairs is not None]
        found.append(sum(stage.loss(task, batch, step()) for batch in mixed))
    assert len(mixed) == 3
    torch.testing.assert_close(*found)


def test_the_mixed_nodes_come_in_equal_parts(task):
    count = task.split.train.numel()
    stage = stage_of(batch_size=count - 1)  # a remainder of one node would be a batch of its own
    mixed = [b for b in stage.batches(task, step()) if b.labelled and b.pairs is not None]
    assert [b.nodes.numel() for b in mixed] == [count - count // 2, count // 2]


@pytest.mark.parametrize("scaled", [False, True])
def test_the_mixup_loss_is_weighed_as_printed_or_as_drawn(task, scaled):
    stage = stage_of(4, structure=False, scale_mixup=scaled)
    batch = next(iter(stage.batches(task, step())))
    expected = (2.0 if scaled else 1.0) * stage.mixup_loss(task.graph, batch.pairs)
    torch.testing.assert_close(stage.loss(task, batch, step()), expected)


def test_the_two_readings_of_the_rule_move_in_opposite_directions():
    options = {"rate": 0.2, "target": 0.1}
    assert next_share(0.2, 0.6, rule="printed", **options) == pytest.approx(0.3)
    assert next_share(0.2, 0.6, rule="intent", **options) == pytest.approx(0.1)
    assert next_share(0.2, 0.1, rule="intent", **options) == pytest.approx(0.2)
    for average in (0.0, 0.05, 0.3, 2.0, 50.0):
        moves = [next_share(0.25, average, rule=rule, **options) for rule in ("printed", "intent")]
        assert (moves[0] - 0.25) * (moves[1] - 0.25) < 0
        assert all(0.0 <= share <= 0.5 for share in moves)


def test_the_average_of_the_mixup_loss_by_hand(task, monkeypatch):
    stage = stage_of(mixup_momentum=0.1, mixup_start=0.2)
    values = iter([1.0, 0.5, 2.0])
    monkeypatch.setattr(stage, "mixup_loss", lambda *_: torch.tensor(next(values)))
    batch = next(iter(stage.batches(task, step())))
    averages = []
    for _ in range(3):
        stage.loss(task, batch, step())
        averages.append(stage.average)
    assert averages == pytest.approx([1.0, 0.1 * 1.0 + 0.9 * 0.5, 0.1 * 0.55 + 0.9 * 2.0])
    assert stage.next_share() == pytest.approx(0.2 + 0.1 * (0.1 - 1.855))


@pytest.mark.parametrize("rule", ["printed", "intent"])
def test_the_share_moves_from_student_to_student_or_from_epoch_to_epoch(task, rule):
    options = {"mixup_rule": rule, "mixup_start": 0.2, "mixup_rate": 0.02}
    log = make(mixup_update="stage", **options).fit(task)
    shares = log.history["mixup_share"]
    assert [len(set(shares[i : i + 4])) for i in (0, 4, 8)] == [1, 1, 1]
    moves = [shares[4] - shares[0], shares[8] - shares[4]]
    assert all(move > 0 if rule == "printed" else move < 0 for move in moves)
    each = make(mixup_update="epoch", **options)
    each.fit(task)
    moved = [stage.share - 0.2 for stage in each.stages]
    assert all(abs(move) > 1.5 * abs(moves[0]) for move in moved)
    assert [abs(move) for move in moved] == sorted(abs(move) for move in moved)


@pytest.mark.parametrize("schedule", ["mean", "steps"])
def test_mixing_nothing_is_the_hard_label_loss_with_weight_one(task, schedule):
    stage = stage_of(4, structure=False, label_weight=0.0, mixup_rate=0.0, schedule=schedule).eval()
    mixed, *others = stage.batches(task, step())
    nodes = task.split.train
    expected = F.cross_entropy(stage(task.graph, nodes).logits, task.graph.y[nodes])
    torch.testing.assert_close(stage.loss(task, mixed, step()), expected)
    assert [stage.loss(task, batch, step()) for batch in others if batch.labelled] == [None]
    assert stage.next_share() == 0.0


def test_by_the_default_rule_lambda_never_gets_far_from_zero():
    config, share = ProGMLP.Config(), 0.0
    for _ in range(3):  # from student 1 to 4, with the lowest loss there is
        options = {"rate": config.mixup_rate, "target": config.mixup_target}
        share = next_share(share, 0.0, rule=config.mixup_rule, **options)
    assert config.mixup_start == 0.0
    assert share == pytest.approx(0.03)


@pytest.mark.parametrize("update", ["stage", "epoch"])
def test_the_log_tells_the_last_lambda_of_every_student(task, update):
    model = make(mixup_start=0.2, mixup_rate=0.02, mixup_update=update)
    numbers = model.fit(task).numbers
    assert numbers == {f"mixup_share_{k}": s.share for k, s in enumerate(model.stages, start=1)}
    assert len(set(numbers.values())) == 3
    assert make(mixup=False).fit(task).numbers == {}


# ---- what is served -------------------------------------------------------------------------


@pytest.fixture
def fitted(task):
    model = make(max_epochs=6, num_stages=4, node_thresholds=(0.0, 0.5, 0.6, 1.0))
    model.fit(task)
    return model


def said(model: ProGMLP, graph) -> list[torch.Tensor]:
    """Every student's logits on a graph, one after the other, by the definition."""
    found, whole = [], graph
    for stage in model.stages:
        output = stage(whole)
        found.append(output.logits)
        whole = graph.replace(extra=stage.represent(output))
    return found


@pytest.mark.parametrize("structure", [True, False])
def test_adversarial_features_leave_the_hidden_states_before_as_they_are(
    monkeypatch, task, structure
):
    shifts, forward = {}, Stage.forward

    def spy(stage, graph, nodes=None):
        if graph.shift is not None:
            shifts.setdefault(stage.num_features, []).append(graph.shift.detach().clone())
        return forward(stage, graph, nodes)

    monkeypatch.setattr(Stage, "forward", spy)
    options = {"adversarial_weight": 0.5, "adversarial_steps": 2, "num_stages": 2, "mixup": False}
    make(**options, structure=structure, max_epochs=2).fit(task)
    own = SIZES[0]
    assert set(shifts) == ({own, own + 8} if structure else {own})
    for values in shifts.values():
        assert all(shift[:, :own].count_nonzero() > 0 for shift in values)
        assert not any(shift[:, own:].any() for shift in values)


def test_the_forms_have_names_and_the_whole_comes_last(fitted):
    names = ["node0", "node0.5", "node0.6", "node1", "exit", "1", "2", "3", "4"]
    assert list(fitted.deploy()) == names
    fitted.config = replace(fitted.config, exit_thresholds=(0.3, 0.2, 1.0))
    names[4:4] = ["exit0.3", "exit0.2", "exit1"]
    assert list(fitted.deploy()) == names


@torch.no_grad()
def test_confidences_are_those_of_the_nodes_without_a_label(fitted, task):
    means = [logits.softmax(1).amax(1)[7:].mean() for logits in said(fitted, task.graph)]
    torch.testing.assert_close(fitted.confidences, torch.stack(means))


@torch.no_grad()
def test_a_prefix_is_the_mean_of_its_students_weighed_by_confidence(fitted, task):
    probs = [logits.softmax(1) for logits in said(fitted, task.graph)]
    for m in range(1, 5):
        weights = fitted.confidences[:m].softmax(0)
        expected = sum(w * p for w, p in zip(weights, probs, strict=False))
        found = fitted.deploy()[str(m)](task.graph).logits
        torch.testing.assert_close(found.softmax(1), expected)
        if m > 1:  # one student alone needs no mean
            torch.testing.assert_close(found.exp().sum(1), torch.ones(30))
    torch.testing.assert_close(fitted(task.graph).logits, found)


@torch.no_grad()
def test_equal_confidences_give_the_plain_mean(fitted, task):
    fitted.confidences.fill_(0.7)
    probs = torch.stack([logits.softmax(1) for logits in said(fitted, task.graph)])
    torch.testing.assert_close(fitted(task.graph).logits.exp(), probs.mean(0))


@torch.no_grad()
@pytest.mark.parametrize(("threshold", "runs"), [(0.0, 1), (1.0, 4)])
def test_the_ends_of_the_threshold_run_one_student_or_all(fitted, task, threshold, runs):
    fitted.config = replace(fitted.config, exit_threshold=threshold)
    forms = fitted.deploy()
    assert len(forms["exit"].stages) == runs
    assert torch.equal(forms["exit"](task.graph).logits, forms[str(runs)](task.graph).logits)
    if runs == 1:
        expected = fitted.stages[0](task.graph).logits
        assert torch.equal(forms["exit"](task.graph).logits, expected)


@torch.no_grad()
def test_more_students_run_as_the_threshold_rises(fitted):
    fitted.confidences.copy_(torch.tensor([0.5, 0.7, 0.6, 0.9]))
    counts = []
    for threshold in (0.0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        fitted.config = replace(fitted.config, exit_threshold=threshold)
        counts.append(len(fitted.deploy()["exit"].stages))
    assert counts == [1, 1, 2, 2, 4, 4, 4, 4]


@torch.no_grad()
def test_one_fit_ships_an_exit_for_each_threshold(fitted, task):
    fitted.confidences.copy_(torch.tensor([0.25, 0.45, 0.35, 0.55]))
    grid = (0.2, 0.3, 0.4, 0.5, 0.6)  # below all, above one, two, three and all of them
    fitted.config = replace(fitted.config, exit_thresholds=grid, exit_threshold=0.75)
    forms = {name: form.eval() for name, form in fitted.deploy().items()}
    runs = {name: len(form.stages) for name, form in forms.items() if name.startswith("exit")}
    expected = {"exit0.2": 1, "exit0.3": 2, "exit0.4": 2, "exit0.5": 4, "exit0.6": 4, "exit": 4}
    assert runs == expected
    graph = task.graph.without_edges()
    for name, m in expected.items():
        assert torch.equal(forms[name](graph).logits, forms[str(m)](graph).logits)
    spent = [cost.macs(forms[f"exit{threshold:g}"], graph)["macs"] for threshold in grid]
    assert spent == sorted(spent)
    assert len(set(spent)) == 3


def test_exits_are_those_of_the_stored_confidences(fitted, task):
    sure = fitted.confidences.tolist()
    grid = (min(sure) - 1e-4, sum(sure) / len(sure), max(sure) + 1e-4)
    fitted.config = replace(fitted.config, exit_thresholds=grid)
    again = make(num_stages=4)
    again.load_state_dict(fitted.state_dict())
    again.config = fitted.config
    one, two = (
        {name: len(form.stages) for name, form in model.deploy().items()}
        for model in (fitted, again.eval())
    )
    assert one == two
    assert (one[f"exit{grid[0]:g}"], one[f"exit{grid[2]:g}"]) == (1, 4)


@torch.no_grad()
def test_an_exit_may_be_chosen_for_a_budget(fitted, task):
    fitted.confidences.copy_(torch.tensor([0.25, 0.45, 0.35, 0.55]))
    options = {"exit_thresholds": (0.2, 0.3), "node_thresholds": ()}
    fitted.config = replace(fitted.config, **options)
    forms = {name: form.eval() for name, form in fitted.deploy().items()}
    graph = task.graph.without_edges()
    price = {name: cost.macs(form, graph) for name, form in forms.items()}
    quality = {name: {"val_accuracy": 0.1 * len(form.stages)} for name, form in forms.items()}
    for m in (1, 2):  # the exit and the prefix of as many students are one form
        name = stages.choose(quality, price, budget=price[str(m)]["macs"], unit="macs")
        assert len(fitted.deploy()[name].stages) == m
    del quality["2"]
    budget = price["2"]["macs"]
    assert stages.choose(quality, price, budget=budget, unit="macs") == "exit0.3"


@torch.no_grad()
def test_a_batch_is_answered_with_its_own_confidence(fitted, task):
    unlabelled = torch.arange(7, 30)  # whose confidence the form `exit` was decided on
    grid = [i / 20 for i in range(-1, 21)]
    counts = []
    for threshold in grid:
        fitted.config = replace(fitted.config, exit_threshold=max(threshold, 0.0))
        output, runs = fitted.answer(task.graph, unlabelled, threshold=threshold)
        form = fitted.deploy()["exit"]
        assert len(form.stages) == runs
        torch.testing.assert_close(output.logits, form(task.graph, unlabelled).logits)
        counts.append(runs)
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (1, 4)
    first, _ = fitted.answer(task.graph, unlabelled, threshold=0.0)
    alone = fitted.stages[0](task.graph, unlabelled).logits
    torch.testing.assert_close(first.logits, alone)


@torch.no_grad()
def test_every_node_stops_by_itself(fitted, task):
    logits = torch.stack(said(fitted, task.graph))  # [K, N, C]
    sure = logits.softmax(2).amax(2)
    counts = set()
    for threshold in (0.5, 0.6):
        found = fitted.deploy()[f"node{threshold:g}"](task.graph).logits.exp()
        for i in range(30):
            runs = next((k for k in range(4) if sure[k, i] > threshold), 3) + 1
            weights = sure[:runs, i].softmax(0)
            expected = (weights.unsqueeze(1) * logits[:runs, i].softmax(1)).sum(0)
            torch.testing.assert_close(found[i], expected)
            counts.add(runs)
    assert len(counts) > 1


@torch.no_grad()
def test_the_ends_of_a_nodes_threshold_are_the_first_student_and_all(fitted, task):
    forms = fitted.deploy()
    first = forms["1"](task.graph).logits.log_softmax(1)
    assert torch.equal(forms["node0"](task.graph).logits, first)
    graph = task.graph.without_edges()
    whole, every = (
        cost.count_macs(lambda form=form: form(graph)) for form in (forms["4"], forms["node1"])
    )
    assert whole == every


def test_what_is_executed_is_what_is_counted(fitted, task):
    """MACs of m students: nnz H + (m > 1 ? H^2 a node) + H C a node, each."""
    graph, n = task.graph.without_edges(), 30
    first, block, last = graph.x.nnz * 8, n * 8 * 8, n * 8 * 3
    forms = {name: form.eval() for name, form in fitted.deploy().items() if "n" not in name}
    counted = {name: cost.macs(form, graph) for name, form in forms.items()}
    for m in range(1, 5):
        assert counted[str(m)]["macs"] == m * (first + last) + (m - 1) * block
        assert counted[str(m)]["macs_node"] == pytest.approx(counted[str(m)]["macs"] / n)
        # K [(d + d') d' + d' + d' C + C] without student 1's block
        weights = m * ((12 + 8) * 8 + 8 + 8 * 3 + 3) - 8 * 8
        assert forms[str(m)].num_parameters() == weights
    assert counted["exit"]["macs"] == counted[str(len(forms["exit"].stages))]["macs"]


def test_three_layers_cost_what_the_formula_says(task):
    model = make(num_layers=3, num_stages=2)
    graph = task.graph.without_edges()
    counted = cost.count_macs(lambda: model.deploy()["2"].eval()(graph))
    assert counted == 2 * (graph.x.nnz * 8 + 30 * (8 * 8 + 8 * 3)) + 30 * 8 * 8


def test_the_cost_never_falls_as_the_nodes_threshold_rises(task):
    grid = (0.0, 0.4, 0.5, 0.55, 0.6, 0.7, 0.8, 1.0)
    model = make(max_epochs=6, num_stages=4, node_thresholds=grid)
    model.fit(task)
    graph = task.graph.without_edges()
    forms = {name: form.eval() for name, form in model.deploy().items()}
    macs = {
        name: cost.count_macs(lambda form=form: form.inference(graph))
        for name, form in forms.items()
    }
    found = [macs[f"node{threshold:g}"] for threshold in grid]
    assert found == sorted(found)
    assert len(set(found)) > 3
    assert (found[0], found[-1]) == (macs["1"], macs["4"])


def test_what_only_training_needs_is_not_shipped(task):
    model = make(similarity_weight=0.5)
    assert any("similarity" in name for name, _ in model.named_parameters())
    for form in model.deploy().values():
        assert not any("similarity" in name for name, _ in form.named_parameters())


@pytest.mark.parametrize("split", ["public", "random"])
@pytest.mark.parametrize("dataset", ["cora", "cpf-cora", "ogbn-arxiv", "synthetic"])
def test_presets_resolve(split, dataset):
    where = {"dataset": dataset, "split": split, "setting": "transductive", "teacher": "gcn"}
    found = registry.configure("student", "progmlp", {}, where)
    assert found["schedule"] == "mean"
    assert found["num_layers"] >= 2


def test_one_layer_is_refused():
    where = {"dataset": "cora", "split": "public", "setting": "transductive", "teacher": "gcn"}
    with pytest.raises(ValueError, match="num_layers is 1; allowed: 2 or more"):
        registry.configure("student", "progmlp", {"num_layers": 1}, where)


@pytest.mark.parametrize("kind", ["exit", "node"])
@pytest.mark.parametrize(
    ("values", "why"),
    [
        ((0.5, 0.5), "0.5 stands there twice"),
        ((0.12345671, 0.12345672), "0.123457 stands there twice"),
        ((-1.0,), "allowed: 0 or more, each"),
        ((0.5, 1.5), "allowed: 1 or less, each"),
    ],
)
def test_thresholds_that_name_no_variant_of_their_own_or_nothing_are_refused(kind, values, why):
    name = f"{kind}_thresholds"
    where = {"dataset": "cora", "split": "public", "setting": "transductive", "teacher": "gcn"}
    with pytest.raises(ValueError, match=f"student 'progmlp': {name} is .*; {why}"):
        registry.configure("student", "progmlp", {name: list(values)}, where)
