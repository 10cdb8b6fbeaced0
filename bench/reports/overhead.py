"""What a student's training costs on top of the baseline's, and what each second of that buys."""

import math
from dataclasses import dataclass

from bench.reports.blocks import Line
from bench.stats import Difference
from bench.tables import DASH, Cell, Column, compact

COLUMNS = (
    Column("training", "ratio", 2),
    Column("gain", "points per added s", 3),
)
RECORDS = ("training_ratio", "points_per_second")
LEGEND = (
    "Training: the median seconds of a fit (encodings and the teacher apart) over the baseline's, "
    "as they were while other cells may have run beside; gain: the difference in points over the "
    "seconds added, a dash where nothing is gained or nothing added."
)


@dataclass(frozen=True)
class Overhead:
    """Training time over the baseline's, and points gained for each added second; NaN: none."""

    ratio: float = math.nan
    points_per_second: float = math.nan


def overhead_of(line: Line, base: Line, gap: Difference) -> Overhead:
    """Return the overhead of a line whose accuracy differs from the baseline's by `gap`."""
    own, other = (x.costs.get("train_seconds", math.nan) for x in (line, base))
    if math.isnan(own) or math.isnan(other) or other <= 0:
        return Overhead()
    added = own - other
    gain = 100 * gap.mean / added if added > 0 and gap.mean > 0 else math.nan
    return Overhead(own / other, gain)


def cells_of(overhead: Overhead) -> list[Cell]:
    """Write both numbers, for the columns above."""
    ratio, gain = overhead.ratio, overhead.points_per_second
    texts = (DASH if math.isnan(ratio) else f"{ratio:.2f}", compact(gain))
    return [Cell(text, faint=text == DASH) for text in texts]
