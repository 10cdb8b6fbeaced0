"""Ratios of a student to its own teacher, from hand-made rows."""

import pytest

from bench.reports import compression
from bench.reports.blocks import blocks
from bench.results import frame
from bench.tables import DASH
from tests.records import make_row, plan_of


def rows(*, timed: int = 2, seeds: int = 3, teachers=("gcn",)):
    """A teacher, glnn of it and mlp; the first `timed` seeds are timed."""
    made = []
    for teacher in teachers:
        for seed in range(seeds):
            slow = {"latency_ms": 20.0 + 4 * seed, "latency_node_ms": 1.0} if seed < timed else {}
            fast = {"latency_ms": 2.0, "latency_node_ms": 0.1} if seed < timed else {}
            guide = made_row("", seed, 0.8, teacher, 4000, {"macs": 9e6, "macs_node": 9e4, **slow})
            student = made_row("glnn", seed, 0.78, teacher, 1000, {"macs": 6e6, **fast})
            student.teacher_key = guide.key
            plain = make_row("mlp", seed, 0.6, teacher="", cost={"": {"macs": 6e6, **fast}})
            made += [guide, student, *([plain] if teacher == teachers[0] else [])]
    return made


def made_row(student, seed, accuracy, teacher, params, cost):
    numbers = {"": {"test_accuracy": accuracy + seed / 100, "params": params}}
    return make_row(student, seed, variants=numbers, cost={"": cost}, teacher=teacher)


def table_of(made):
    table = frame(made)
    return compression.tables_of(table, blocks(table, plan_of(made)))


def test_each_student_is_divided_into_its_own_teacher_by_hand():
    (table,) = table_of(rows()).values()
    heads = [(column.head, column.unit.split(" ")[0]) for column in table.columns]
    assert heads == [
        ("accuracy", "points"),
        ("params", "×"),  # noqa: RUF001
        ("MACs", "graph"),
        ("time", "graph"),
        ("time", "node"),
    ]  # the memory of the fit is no matter of who uses the model
    (row,) = table.rows  # a student without teacher has no ratio
    assert row.full_label == "gcn → glnn"
    texts = [cell.text for cell in row.cells]
    # 20 / 2 and 24 / 2: the median 11, the ends 10 and 12; the third seed is not timed
    assert texts[1:] == ["4", "1.5", "11 [10, 12]", "10"]
    assert texts[0] == "−2.00 [−2.00, −2.00]"  # noqa: RUF001
    assert table.notes == ("Timed on 2 seeds of each student and its teacher.",)
    assert table.lesser


def test_the_teacher_of_a_ratio_is_found_by_its_key():
    made = rows(teachers=("gcn", "sage"))
    for row in made:
        if row.cell["student"] is None and row.cell["teacher"]["label"] == "sage":
            row.variants[""]["params"] = 9000
    (table,) = table_of(made).values()
    assert {row.full_label: row.cells[1].text for row in table.rows} == {
        "gcn → glnn": "4",
        "sage → glnn": "9",
    }


@pytest.mark.parametrize("gone", ["teacher", "costs", "key"])
def test_what_has_no_ratio_has_no_table(gone):
    made = rows()
    for row in made:
        if gone == "costs":
            row.cost, row.fit, row.variants[""]["params"] = {}, {}, 0
        if gone == "key":
            row.teacher_key = ""
    if gone == "teacher":
        made = [row for row in made if row.cell["student"]]
    assert table_of(made) == {}


def test_records_have_the_raw_ratios_and_their_number():
    made = rows()
    table = frame(made)
    told = list(compression.records(table, blocks(table, plan_of(made))))
    (time,) = (record for record in told if record["metric"] == "latency_ms")
    assert (time["teacher_over_student"], time["low"], time["high"], time["n"]) == (11, 10, 12, 2)
    assert (time["teacher"], time["student"], time["dataset"]) == ("gcn", "glnn", "cpf-cora")


def test_modelled_energy_has_a_column_of_its_own_and_ranks_nothing():
    made = rows(timed=3)
    for row in made:
        row.cost[""]["energy_modelled_joules"] = 6.0 if row.cell["student"] is None else 2.0
    (table,) = table_of(made).values()
    assert table.columns[-1].unit.startswith("modelled")
    assert table.rows[0].cells[-1].text == "3"
    assert not any(cell.best or cell.mark for row in table.rows for cell in row.cells)


def test_memory_is_that_of_inference_with_a_dash_where_it_was_not_measured():
    made = rows(timed=2)
    for row in made:
        if "latency_ms" in row.cost[""]:
            seed = row.cell["seed"]
            row.cost[""]["inference_memory_mib"] = 8.0 if row.cell["student"] else 40.0 + 16 * seed
    other = [made_row("krd", seed, 0.7, "gcn", 500, {"macs": 3e6}) for seed in range(3)]
    guides = [row.key for row in made if row.cell["student"] is None]
    for row, key in zip(other, guides, strict=True):
        row.teacher_key = key
    (table,) = table_of([*made, *other]).values()
    place = next(i for i, column in enumerate(table.columns) if column.head == "memory")
    assert table.columns[place].unit == "graph ×"  # noqa: RUF001
    assert {row.label: row.cells[place].text for row in table.rows} == {
        "glnn": "6 [5, 7]",  # 40 / 8 and 56 / 8
        "krd": DASH,
    }
