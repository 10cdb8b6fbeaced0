import math

import numpy as np
import pytest
import torch

from bench import train
from bench.fused import relu_dropout
from bench.hparams import TrainConfig
from bench.method import Batch, DivergedError, Method, Output
from tests import toys


class Linear(Method):
    """A linear model on dense features."""

    def __init__(self, **options):
        super().__init__(TrainConfig(**{"max_epochs": 10, **options}), 3, 2, 8)
        torch.manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(3, 2))

    def forward(self, graph, nodes=None):
        h = (graph.x if nodes is None else graph.x[nodes]) @ self.weight
        return Output(h, h)


class Noisy(Linear):
    """Shuffles with the step's generator and drops hidden states with torch's own."""

    def batches(self, task, step):
        order = task.split.train[torch.randperm(4, generator=step.generator)]
        yield from (Batch(part, labelled=True) for part in order.split(2))

    def forward(self, graph, nodes=None):
        h, _ = super().forward(graph, nodes)
        return Output(torch.nn.functional.dropout(h, 0.5, self.training), h)


def make_task(scores=None, seed: int = 0, seen: list | None = None):
    """A task on 8 nodes; `scores` are what val answers, epoch by epoch."""
    answers = iter(scores) if scores is not None else None

    def score(logits):
        if seen is not None:
            seen.append(logits.clone())
        return next(answers)

    graph = toys.graph(toys.path(8))
    return toys.task(graph, [0, 1, 2, 3], [4, 5], score if scores is not None else None, seed)


# ---- early stopping -------------------------------------------------------------------------


def weights_after(epochs: int) -> torch.Tensor:
    model = Linear(max_epochs=epochs, selection="last")
    model.fit(make_task())
    return model.weight.detach()


@pytest.mark.parametrize(
    ("scores", "patience", "best", "ran"),
    [
        ([0.1, 0.5, 0.5, 0.3, 0.2, 0.9], 2, 2, 5),  # a tie is an improvement; 0.9 comes too late
        ([0.1, 0.5, 0.4, 0.3, 0.2, 0.9], 4, 5, 6),
        ([0.5, 0.4, 0.4, 0.4, 0.4, 0.4], 1, 0, 2),
        ([0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 2, 5, 6),  # the first epoch improves on nothing at all
        ([0.6, 0.5, 0.4, 0.3, 0.2, 0.1], 50, 0, 6),
    ],
)
def test_training_stops_after_patience_and_puts_the_best_state_back(scores, patience, best, ran):
    model = Linear(max_epochs=6, patience=patience)
    log = model.fit(make_task(scores))
    assert log.best_epoch == best
    assert log.history["epoch"] == list(range(ran))
    assert log.history["val_accuracy"] == scores[:ran]
    assert len(log.history["loss"]) == ran
    assert torch.equal(model.weight, weights_after(best + 1))
    assert not model.training


def test_validation_looks_at_the_val_nodes_after_each_epoch_in_eval_mode():
    seen: list[torch.Tensor] = []
    model = Noisy(max_epochs=2, selection="val")
    task = make_task([0.1, 0.2], seen=seen)
    model.fit(task)
    assert [logits.shape for logits in seen] == [(2, 2)] * 2
    assert not seen[0].requires_grad
    torch.testing.assert_close(seen[1], task.graph.x[[4, 5]] @ model.weight)


def test_selection_last_never_asks_val_and_keeps_the_last_state():
    def refuse(logits):
        raise AssertionError("val was looked at")

    graph = toys.graph(toys.path(8))
    model = Linear(max_epochs=7, patience=1, selection="last")
    log = model.fit(toys.task(graph, [0, 1, 2, 3], [4, 5], refuse))
    assert log.best_epoch == 6
    assert set(log.history) == {"epoch", "loss"}
    assert len(log.history["loss"]) == 7
    assert log.seconds["validate"] == 0
    assert not model.training


def test_buffers_belong_to_the_best_state():
    class Counting(Linear):
        def __init__(self, **options):
            super().__init__(**options)
            self.register_buffer("epochs", torch.zeros(1))

        def begin_epoch(self, task, step):
            self.epochs += 1

    model = Counting(max_epochs=5, patience=5)
    model.fit(make_task([0.1, 0.9, 0.1, 0.1, 0.1]))
    assert model.epochs.item() == 2


def test_a_phase_may_have_its_own_config():
    model = Linear(max_epochs=9)
    log = train.fit(model, make_task(), TrainConfig(max_epochs=2, selection="last"))
    assert log.best_epoch == 1
    assert model.config.max_epochs == 9


# ---- steps ----------------------------------------------------------------------------------


def test_the_steps_are_adams_with_l2():
    model, twin = Linear(weight_decay=0.1, lr=0.05, selection="last"), Linear()
    model.fit(make_task())
    optimizer = torch.optim.Adam(twin.parameters(), lr=0.05, weight_decay=0.1)
    task = make_task()
    for _ in range(10):
        optimizer.zero_grad()
        logits = twin(task.graph, task.split.train).logits
        torch.nn.functional.cross_entropy(logits, task.graph.y[:4]).backward()
        optimizer.step()
    torch.testing.assert_close(model.weight, twin.weight, atol=1e-6, rtol=1e-5)


def test_the_history_holds_the_mean_loss_of_the_batches():
    class Scripted(Linear):
        def batches(self, task, step):
            yield from (Batch(torch.tensor([i])) for i in range(3))

        def loss(self, task, batch, step):
            return [None, 0 * self.weight.sum() + 1, 0 * self.weight.sum() + 4][int(batch.nodes)]

    log = Scripted(max_epochs=2, selection="last").fit(make_task())
    assert log.history["loss"] == [2.5, 2.5]


def test_a_loss_of_none_is_a_step_with_a_gradient_of_zero():
    class Silent(Linear):
        def loss(self, task, batch, step):
            return None

    decayed = Silent(weight_decay=0.1, lr=0.01, max_epochs=1, selection="last")
    start = decayed.weight.detach().clone()
    assert decayed.fit(make_task()).history["loss"] == [0.0]
    # Adam's first step has length lr, against the sign of what it is given: weight decay alone.
    torch.testing.assert_close(decayed.weight, start - 0.01 * start.sign(), atol=1e-5, rtol=0)
    still = Silent(max_epochs=3, selection="last")
    still.fit(make_task())
    assert torch.equal(still.weight, start)


def test_momentum_carries_over_a_loss_of_none():
    class Once(Linear):
        def loss(self, task, batch, step):
            return self.weight.sum() if step.epoch == 0 else None

    model = Once(lr=0.01, max_epochs=2, selection="last")
    start = model.weight.detach().clone()
    model.fit(make_task())
    # m = (0.1, 0.09) / (0.1, 0.19), v = (0.001, 0.000999) / (0.001, 0.001999), each bias-corrected
    second = 0.01 * (0.09 / 0.19) / math.sqrt(0.000999 / 0.001999)
    torch.testing.assert_close(model.weight, start - 0.01 - second, atol=1e-6, rtol=0)


def test_gradients_add_up_until_a_batch_ends_the_step():
    class Summed(Linear):
        parts = ((0, 1), (2, 3))

        def batches(self, task, step):
            for i, nodes in enumerate(self.parts):
                yield Batch(torch.tensor(nodes), ends_step=i == len(self.parts) - 1)

        def loss(self, task, batch, step):
            loss = super().loss(task, batch, step)
            return loss * len(batch.nodes) / 4

    class Whole(Summed):
        parts = ((0, 1, 2, 3),)

    models = [kind(max_epochs=4, selection="last") for kind in (Summed, Whole)]
    for model in models:
        model.fit(make_task())
    torch.testing.assert_close(models[0].weight, models[1].weight, atol=1e-6, rtol=1e-5)


def test_an_epoch_begins_in_training_mode_with_its_number():
    seen = []

    class Hooked(Linear):
        def begin_epoch(self, task, step):
            seen.append((step.epoch, step.max_epochs, self.training))

    Hooked(max_epochs=3).fit(make_task())
    assert seen == [(0, 3, True), (1, 3, True), (2, 3, True)]


# ---- divergence -----------------------------------------------------------------------------


def test_a_huge_step_size_is_reported_with_its_epoch():
    model = Linear(lr=1e38, max_epochs=50)
    with pytest.raises(DivergedError, match=r"not finite at epoch \d+") as caught:
        model.fit(make_task())
    assert 0 < caught.value.epoch < 5


def test_a_feature_that_is_no_number_is_reported():
    task = make_task()
    task.graph.x[0, 0] = math.nan
    with pytest.raises(DivergedError, match="epoch 0"):
        Linear().fit(task)


def test_dropout_does_not_hide_a_divergence():
    class Hidden(Linear):
        def forward(self, graph, nodes=None):
            h, _ = super().forward(graph, nodes)
            return Output(relu_dropout(h, 0.1, self.training), h)

    task = make_task()
    task.graph.x[:] = math.nan
    with pytest.raises(DivergedError, match="epoch 0"):
        Hidden().fit(task)


# ---- randomness -----------------------------------------------------------------------------


def fitted(seed: int) -> torch.Tensor:
    model = Noisy(selection="last")
    model.fit(make_task(seed=seed))
    return model.weight.detach()


def test_the_same_seed_gives_the_same_bits_and_another_others():
    assert torch.equal(fitted(0), fitted(0))
    assert not torch.equal(fitted(0), fitted(1))


def test_the_state_of_the_global_generators_decides_nothing_and_is_left_alone():
    torch.manual_seed(123)
    np.random.seed(123)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    one = fitted(0)
    torch.manual_seed(123)  # making a model draws its weights
    Noisy()
    torch.manual_seed(123)
    assert torch.equal(torch.get_rng_state(), before[0])
    model = Noisy(selection="last")
    torch.manual_seed(123)
    model.fit(make_task())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(model.weight, one)


def test_each_purpose_has_its_own_stream():
    draws = []
    for purpose in ("init", "fit", "fit"):
        with train.seeded(0, purpose) as generator:
            draws.append((torch.rand(4), torch.rand(4, generator=generator)))
    assert torch.equal(draws[1][0], draws[2][0])
    assert torch.equal(draws[1][1], draws[2][1])
    assert not torch.equal(draws[0][0], draws[1][0])
    assert not torch.equal(draws[1][0], draws[1][1])  # torch's own and the method's


def test_seconds_are_counted_by_phase():
    log = Linear().fit(make_task())
    assert set(log.seconds) == {"train", "validate"}
    assert all(seconds > 0 for seconds in log.seconds.values())


def test_adam_makes_the_steps_of_torch():
    torch.manual_seed(0)
    start = [torch.randn(7, 5), torch.randn(3)]
    ours = [p.clone().requires_grad_() for p in start]
    theirs = [p.clone().requires_grad_() for p in start]
    optimizer = train.Adam(ours, lr=0.05, weight_decay=0.01)
    reference = torch.optim.Adam(theirs, lr=0.05, weight_decay=0.01)
    for _ in range(20):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        optimizer.step()
        reference.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_adam_is_the_same_in_the_compiled_pass_and_in_torch_operations():
    gradient = torch.randn(6, 4)
    single = torch.ones(6, 4, requires_grad=True)
    double = torch.ones(6, 4, dtype=torch.float64, requires_grad=True)  # takes torch's operations
    for p in (single, double):
        optimizer = train.Adam([p], lr=0.1, weight_decay=0.1)
        for _ in range(5):
            p.grad = gradient.to(p.dtype)
            optimizer.step()
        optimizer.step()  # no gradient: momentum and decay still move it
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-6)


# ---- who listens ----------------------------------------------------------------------------


def test_every_fifth_epoch_of_the_last_phase_is_heard():
    heard = []

    def listener(epoch, value):
        heard.append((epoch, value))
        return True

    scores = [i / 20 for i in range(12)]
    with train.heard(listener):
        train.fit(Linear(max_epochs=12), make_task(scores), final=False)
        train.fit(Linear(max_epochs=12, selection="last"), make_task())  # no val score to tell
        assert heard == []
        train.fit(Linear(max_epochs=12), make_task(scores))
    train.fit(Linear(max_epochs=12), make_task(scores))  # nobody listens any more
    assert heard == [(4, scores[4]), (9, scores[9])]


def test_a_listener_ends_the_fit_and_changes_nothing_otherwise():
    with train.heard(lambda epoch, value: epoch < 9), pytest.raises(train.StoppedError, match="9"):
        Noisy(max_epochs=30).fit(make_task())
    free, heard = Noisy(max_epochs=30), Noisy(max_epochs=30)
    free.fit(make_task())
    with train.heard(lambda epoch, value: True):
        heard.fit(make_task())
    assert torch.equal(free.weight, heard.weight)
