"""The one training loop: batches, steps, early stopping on val, best state, history.

The loop is a function, so a method may call it several times (warm-up, then train; once a stage).
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import kernels
from bench.graph import Task
from bench.hparams import TrainConfig, derive_seed
from bench.method import DivergedError, FitLog, Method, Step

REPORT_EVERY = 5  # epochs: by count and not by time, so that the same scores are reported each time

Listener = Callable[[int, float], bool]  # (epoch, val accuracy of this epoch) -> whether to go on
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


class StoppedError(Exception):
    """Whoever listens to a fit asked it to stop.

    Attributes:
        seconds: of training until then; `run.run` fills it in.
    """

    seconds = 0.0


@contextmanager
def heard(listener: Listener | None) -> Iterator[None]:
    """Let `listener` hear of every fifth epoch of the fits in here, and end them with its False."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def seeded(seed: int, *purpose: object) -> Iterator[torch.Generator]:
    """Seed torch's generators for a purpose, and put them back afterwards."""
    value = derive_seed(seed, *purpose)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(value)
        yield torch.Generator().manual_seed(value ^ 1)


def fit(
    method: Method, task: Task, config: TrainConfig | None = None, *, final: bool = True
) -> FitLog:
    """Train `method` on `task` with Adam.

    With `selection="val"` (the default) every epoch is scored on the val nodes, a tie counts as an
    improvement, training stops after `patience` epochs without one, and the best state is restored.
    With `selection="last"` all epochs run, no val node is looked at, and the last state stays.

    Args:
        method: changed in place; left in eval mode.
        task: what the method may see.
        config: replaces `method.config` (for one phase of several).
        final: whether this is the last phase of a fit: no other one reports to who listens.

    Raises:
        DivergedError: the loss of an epoch is not finite.
        StoppedError: who listens (`heard`) asked for it.
    """
    config = config or method.config
    listener = _listener.get() if final else None
    clock = {"train": 0.0, "validate": 0.0}
    history: dict[str, list[float]] = {"epoch": [], "loss": []}
    best = _Best(method, config.patience) if config.selection == "val" else None
    optimizer = Adam(
        [p for p in method.parameters() if p.requires_grad],
        lr=config.lr,
        weight_decay=config.weight_decay,
    )
    with seeded(task.seed, "fit") as generator:
        for epoch in range(config.max_epochs):
            start = time.perf_counter()
            loss = _epoch(method, task, optimizer, Step(epoch, config.max_epochs, generator))
            history["epoch"].append(epoch)
            history["loss"].append(loss)
            middle = time.perf_counter()
            clock["train"] += middle - start
            if best is None:
                continue
            accuracy = validate(method, task)
            history.setdefault("val_accuracy", []).append(accuracy)
            stop = best.update(epoch, accuracy)
            clock["validate"] += time.perf_counter() - middle
            if stop:
                break
            if listener and (epoch + 1) % REPORT_EVERY == 0 and not listener(epoch, accuracy):
                raise StoppedError(f"stopped after epoch {epoch}")
    if best is not None:
        best.restore()
    method.eval()
    return FitLog(history, best.epoch if best else config.max_epochs - 1, clock)


def _epoch(method: Method, task: Task, optimizer: "Adam", step: Step) -> float:
    """Run one epoch and return the mean loss of its batches."""
    method.train()
    method.begin_epoch(task, step)
    total: Tensor | None = None
    count = 0
    for batch in method.batches(task, step):
        loss = method.loss(task, batch, step)
        if loss is not None:
            loss.backward()
            value = loss.detach()
            total = value if total is None else total + value
            count += 1
        if batch.ends_step:
            optimizer.step()
    mean = float(total) / count if total is not None else 0.0
    if mean - mean != 0.0:  # NaN or infinite
        raise DivergedError(step.epoch)
    return mean


class Adam:
    """Adam with L2 decay added to the gradient: the steps of `torch.optim.Adam`.

    On the CPU a step is one compiled pass over each parameter, and a process does not pay two
    seconds for what torch's optimisers import at their first step. A parameter without gradient is
    one whose gradient is zero: its momentum and its decay still move it.

    Source: Kingma & Ba, arXiv 1412.6980, algorithm 1 (beta 0.9 and 0.999, epsilon 1e-8).
    """

    def __init__(self, parameters: list[Tensor], *, lr: float, weight_decay: float) -> None:
        self.parameters, self.lr, self.weight_decay = parameters, lr, weight_decay
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
        self.steps = 0

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter, then drop the gradients."""
        self.steps += 1
        rate = self.lr / (1 - 0.9**self.steps)
        correction = math.sqrt(1 - 0.999**self.steps)
        for p, (mean, square) in zip(self.parameters, self.moments, strict=True):
            grad = torch.zeros_like(p) if p.grad is None else p.grad
            p.grad = None
            if p.device.type == "cpu" and p.dtype == torch.float32 and p.is_contiguous():
                flat = (x.view(-1).numpy() for x in (p, grad.contiguous(), mean, square))
                with np.errstate(over="ignore"):  # a huge step diverges, and the loss tells
                    numbers = [np.float32(x) for x in (rate, self.weight_decay, correction)]
                kernels.adam(*flat, *numbers)
                continue
            grad = grad + self.weight_decay * p
            mean.lerp_(grad, 0.1)
            square.lerp_(grad * grad, 0.001)
            p.addcdiv_(mean, square.sqrt().div_(correction).add_(1e-8), value=-rate)


def rehearse(method: Method, task: Task, seconds: float = 1.0) -> None:
    """Run a throw-away epoch on a copy, so that no measured fit pays for caches and first calls.

    It stops after about `seconds`, and changes neither the method nor any random number after it.
    """
    double = copy.deepcopy(method).train()
    deadline = time.perf_counter() + seconds
    with seeded(task.seed, "rehearsal") as generator:
        step = Step(0, method.config.max_epochs, generator)
        double.begin_epoch(task, step)
        for batch in double.batches(task, step):
            loss = double.loss(task, batch, step)
            if loss is not None and loss.requires_grad:
                loss.backward()
            if time.perf_counter() > deadline:
                break
        if method.config.selection == "val":
            validate(double, task)


@torch.no_grad()
def validate(method: Method, task: Task) -> float:
    """Return the accuracy on the val nodes, computed for these nodes only."""
    method.eval()
    return task.val_accuracy(method(task.graph, task.split.val).logits)


class _Best:
    """The best state so far, kept in place, and how long ago it was."""

    def __init__(self, method: Method, patience: int) -> None:
        self.method, self.patience = method, patience
        self.epoch, self.accuracy = -1, -1.0
        self.state: dict[str, Any] = {k: v.clone() for k, v in method.state_dict().items()}

    def update(self, epoch: int, accuracy: float) -> bool:
        """Keep the state if it is at least as good; return whether to stop."""
        if accuracy >= self.accuracy:
            self.epoch, self.accuracy = epoch, accuracy
            for name, value in self.method.state_dict().items():
                self.state[name].copy_(value)
        return epoch - self.epoch >= self.patience

    def restore(self) -> None:
        """Put the best state back."""
        self.method.load_state_dict(self.state)
