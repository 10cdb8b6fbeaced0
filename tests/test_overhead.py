import math

import pytest

from bench.reports import effects, overhead
from bench.reports.blocks import blocks
from bench.results import frame
from bench.tables import DASH
from tests.records import make_row, plan_of


def rows_of(student, accuracies, seconds):
    rows = [make_row(student, seed, value) for seed, value in enumerate(accuracies)]
    for row, value in zip(rows, seconds, strict=True):
        row.seconds = {} if value is None else {"train": value}
    return rows


def block_of(*parts):
    rows = [row for part in parts for row in part]
    (block,) = blocks(frame(rows), plan_of(rows))
    return block


def block_by_hand():
    return block_of(
        rows_of("glnn", (0.70, 0.72, 0.74), (2.0, 2.5, 9.0)),  # median 2.5
        rows_of("norm", (0.72, 0.74, 0.76), (10.0, 7.5, 1.0)),  # 7.5: 5 s for 2 points
        rows_of("slow", (0.69, 0.71, 0.73), (10.0, 10.0, 10.0)),
        rows_of("fast", (0.72, 0.74, 0.76), (1.0, 1.0, 1.0)),
        rows_of("even", (0.72, 0.74, 0.76), (2.2, 2.75, 9.9)),  # a tenth longer: the clock's noise
        rows_of("untimed", (0.72, 0.74, 0.76), (None, None, None)),
    )


def test_ratio_and_gain_by_hand():
    found = {e.line.name: e.training for e in effects.effects_of(block_by_hand(), "glnn")}
    assert found["norm"].ratio == pytest.approx(3.0)
    assert found["norm"].points_per_second == pytest.approx(0.4)
    assert found["slow"].ratio == pytest.approx(4.0)
    assert found["fast"].ratio == pytest.approx(0.4)
    assert math.isnan(found["slow"].points_per_second)  # nothing gained
    assert math.isnan(found["fast"].points_per_second)  # nothing added
    assert found["even"].ratio == pytest.approx(1.1)
    assert math.isnan(found["even"].points_per_second)
    assert math.isnan(found["untimed"].ratio)


def test_seconds_are_paired_by_seed_by_hand():
    block = block_of(
        rows_of("glnn", (0.70, 0.72, 0.74, 0.70), (1.0, 2.0, 9.0, None)),
        rows_of("norm", (0.72, 0.74, 0.76, 0.72), (3.0, 12.0, 10.0, 50.0)),
    )
    ((effect,),) = [effects.effects_of(block, "glnn")]
    # added 2, 10, 1: median 2; ratios 3, 6, 1.1; of the medians it would be 11 - 2 = 9 and 5.5
    assert effect.training.ratio == pytest.approx(3.0)
    assert effect.training.points_per_second == pytest.approx(1.0)  # 2 points for 2 s


@pytest.mark.parametrize(
    ("gaps", "told"),
    [
        ((0.01, 0.02, 0.03), False),  # 2 points, t_2 = 4.30: the interval is [-0.48, 4.48]
        ((0.015, 0.02, 0.025), True),  # [0.76, 3.24]
        ((0.02,), False),  # one seed has no interval
    ],
)
def test_a_gain_whose_interval_holds_zero_buys_nothing(gaps, told):
    base = [0.70, 0.72, 0.74][: len(gaps)]
    better = [round(a + gap, 4) for a, gap in zip(base, gaps, strict=True)]
    one, two = [1.0] * len(gaps), [2.0] * len(gaps)
    (effect,) = effects.effects_of(
        block_of(rows_of("glnn", base, one), rows_of("norm", better, two)), "glnn"
    )
    assert effect.gap.mean == pytest.approx(0.02)
    assert effect.training.ratio == pytest.approx(2.0)
    assert math.isnan(effect.training.points_per_second) is not told


def test_the_table_has_both_numbers_and_dashes():
    table = effects.table_of(block_by_hand(), "glnn")
    assert [column.head for column in table.columns][-2:] == ["training", "gain"]
    told = {row.label: [cell.text for cell in row.cells[-2:]] for row in table.rows}
    assert told == {
        "norm": ["3.00", "0.4"],
        "slow": ["4.00", DASH],
        "fast": ["0.40", DASH],
        "even": ["1.10", DASH],
        "untimed": [DASH, DASH],
    }


def test_the_records_have_both_numbers():
    first = next(effects.records([block_by_hand()], "glnn"))
    assert tuple(first)[-2:] == overhead.RECORDS
    assert (first["training_ratio"], first["points_per_second"]) == pytest.approx((3.0, 0.4))


def test_runs_without_times_have_a_table_without_them():
    none = (None, None)
    block = block_of(rows_of("glnn", (0.7, 0.8), none), rows_of("norm", (0.7, 0.8), none))
    heads = [column.head for column in effects.table_of(block, "glnn").columns]
    assert heads == ["difference", "n", "wins/ties/losses", "p"]
