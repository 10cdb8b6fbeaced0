"""What a student's training costs on top of the baseline's, and what each second of that buys."""

import math
from dataclasses import dataclass
from statistics import median

from bench.reports.blocks import Line
from bench.stats import Difference
from bench.tables import DASH, Cell, Column, compact

COLUMNS = (
    Column("training", "ratio", 2),
    Column("gain", "points per added s", 3),
)
RECORDS = ("training_ratio", "points_per_second")
LONGER = 1.2  # less is noise of the clock: a quotient by next to nothing is any number
LEGEND = (
    "Training: the seconds of a fit (encodings and the teacher apart) over the baseline's on the "
    "same seed, median over the seeds, as they were while other cells may have run beside; gain: "
    "the difference in points over the seconds added (median over the seeds), a dash unless the "
    f"whole interval of the difference is above zero and training takes {LONGER:g} times as long."
)


@dataclass(frozen=True)
class Overhead:
    """Training time over the baseline's, and points gained for each added second; NaN: none."""

    ratio: float = math.nan
    points_per_second: float = math.nan


def overhead_of(line: Line, base: Line, gap: Difference) -> Overhead:
    """Return the overhead of a line whose accuracy differs from the baseline's by `gap`.

    Seconds are paired by seed. Points are told per second only where the gain is not one of chance:
    a quotient would hide that its interval holds zero.
    """
    own, other = (x.paid.get("train_seconds", {}) for x in (line, base))
    pairs = [(own[seed], other[seed]) for seed in own if other.get(seed, 0) > 0]
    if not pairs:
        return Overhead()
    added, ratio = median(a - b for a, b in pairs), median(a / b for a, b in pairs)
    told = gap.low > 0 and added > 0 and ratio >= LONGER
    return Overhead(ratio, 100 * gap.mean / added if told else math.nan)


def cells_of(overhead: Overhead) -> list[Cell]:
    """Write both numbers, for the columns above."""
    ratio, gain = overhead.ratio, overhead.points_per_second
    texts = (DASH if math.isnan(ratio) else f"{ratio:.2f}", compact(gain))
    return [Cell(text, faint=text == DASH) for text in texts]
