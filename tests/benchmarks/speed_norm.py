"""NORM's feature transform: a training step the short way, against the layers one after the other.

The layers in turn write out E [n, N H'], normalise it with torch's batch norm and match it; the
short way (norm_transform.py) gets the same numbers from the covariance of the states. One forward
and backward of transform and matching, N = 8, H' = 128, one thread, in turns; median CPU times.

    python -m tests.benchmarks.speed_norm [--turns 9]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from bench.norm_transform import FeatureTransform
from tests.toys import segment_loss

SIZES = ((512, 128), (2485, 128), (2485, 16))  # rows of a step, width of the student


def short(transform: FeatureTransform, states: Tensor, target: Tensor) -> Tensor:
    """What the students do."""
    moved, segments = transform(states)
    return moved.square().sum() + segments.loss(target)


def written(transform: FeatureTransform, states: Tensor, target: Tensor) -> Tensor:
    """What one would write first."""
    assert transform.first_norm is not None
    assert transform.second_norm is not None
    segments = transform.first_norm(transform.first(states))
    moved = states + transform.second_norm(transform.second(segments))
    return moved.square().sum() + segment_loss(segments, target)


def measure(rows: int, size: int, turns: int) -> tuple[float, float]:
    """Return the median milliseconds of CPU of a step, short and written out."""
    transform = FeatureTransform(size, 128, 8)
    states, target = torch.randn(rows, size).relu().requires_grad_(), torch.randn(rows, 128)
    times: dict[Callable[..., Tensor], list[float]] = {short: [], written: []}
    for _ in range(turns):
        for form, found in times.items():
            start = time.process_time()
            form(transform, states, target).backward()
            found.append(1e3 * (time.process_time() - start))
    return statistics.median(times[short]), statistics.median(times[written])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'rows':>6}{'width':>7}{'short ms':>10}{'written ms':>12}{'ratio':>7}")
    for rows, size in SIZES:
        one, two = measure(rows, size, arguments.turns)
        print(f"{rows:>6}{size:>7}{one:>10.1f}{two:>12.1f}{two / one:>7.1f}")


if __name__ == "__main__":
    main()
