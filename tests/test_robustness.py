"""Ladders, their tables and figures, from hand-made rows."""

import math

import pytest
import seaborn as sns

from bench.reports import comparison, ladders, robustness
from bench.reports.blocks import blocks
from bench.reports.panels import colours_of
from bench.results import frame
from bench.stats import order_agreement
from bench.tables import DASH
from tests.records import make_row, plan_of

MEANS = {  # level -> student -> accuracy; the order is kept, then two of three pairs are reversed
    0.0: {"": 0.8, "glnn": 0.79, "krd": 0.78, "mlp": 0.6},
    0.2: {"": 0.7, "glnn": 0.72, "krd": 0.71, "mlp": 0.6},
    0.6: {"": 0.5, "glnn": 0.52, "krd": 0.55, "mlp": 0.6},
}


def rows_of(splits: dict[float, str], seeds: int = 3, **options):
    """The rows of three students and a teacher at each level."""
    made = []
    for level, split in splits.items():
        for student, mean in MEANS[level].items():
            for seed in range(seeds):
                at = {"split": split, "teacher": "" if student == "mlp" else "sage", **options}
                numbers = {"test_accuracy": mean + seed / 100, "macro_f1": mean - 0.1}
                if student and at["teacher"]:
                    numbers["repeated_errors"] = 0.5 + level / 2
                made.append(make_row(student, seed, variants={"": numbers}, **at))
    return made


def found_in(rows):
    return robustness.ladders(blocks(frame(rows), plan_of(rows)))


NOISY = {0.0: "random", 0.2: "random + edges=0.2", 0.6: "random + edges=0.6"}


def test_a_split_that_is_none_without_its_level_breaks_no_report():
    names = ("random:train=60,imbalance=50", "random:train=80,imbalance=50", "random:train=60")
    found = found_in(rows_of(dict(zip(MEANS, names, strict=True))))
    told = {(ladder.axis, ladder.title): [r.level for r in ladder.rungs] for ladder in found}
    rest = "split, transductive, sage"
    assert told == {
        ("train", f"cpf-cora, random:imbalance=50 {rest}"): [60, 80],
        ("imbalance", f"cpf-cora, random:train=60 {rest}"): [1, 50],
    }


def test_blocks_that_differ_in_one_noise_are_a_ladder_with_the_clean_one_below():
    (ladder,) = found_in(rows_of(NOISY))
    assert (ladder.axis, ladder.title) == ("edges", "cpf-cora, random split, transductive, sage")
    assert [rung.level for rung in ladder.rungs] == [0.0, 0.2, 0.6]
    assert ladder.students == ["glnn", "krd", "mlp"]  # mlp has no teacher and is on all of them
    assert all(rung.teacher.teacher == "sage" for rung in ladder.rungs)


@pytest.mark.parametrize(
    ("splits", "axis", "levels", "easiest"),
    [
        (["random:train=5", "random", "random:train=40"], "train", [5, 20, 40], 40),
        (["random", "random:imbalance=4", "random:imbalance=10"], "imbalance", [1, 4, 10], 1),
        (["random", "random + features=0.5", "random + features=1"], "features", [0, 0.5, 1], 0),
        (["public", "public + edges=0.5", "public + edges=1"], "edges", [0, 0.5, 1], 0),
    ],
)
def test_every_axis_is_told_from_the_names_of_the_splits(splits, axis, levels, easiest):
    (ladder,) = found_in(rows_of(dict(zip(MEANS, splits, strict=True))))
    assert ladder.axis == axis
    assert [rung.level for rung in ladder.rungs] == levels
    assert ladder.by_difficulty[0].level == easiest


def test_what_differs_in_two_axes_is_not_put_on_one_ladder():
    splits = {0.0: "random", 0.2: "random:train=5 + edges=0.2", 0.6: "random + features=0.6"}
    (ladder,) = found_in(rows_of(splits))
    assert ladder.axis == "features"
    assert found_in(rows_of({0.0: "random", 0.2: "public", 0.6: "ratio"})) == []
    assert found_in(rows_of({0.0: "of:mine", 0.2: "random", 0.6: "ratio"})) == []


def test_teachers_stopped_at_several_epochs_are_a_ladder():
    made = []
    for level, epochs in zip(MEANS, (100, 10, 1), strict=True):
        made += [
            row
            for row in rows_of({level: "random"}, teacher=f"sage-e{epochs}")
            if row.cell["student"] is None or row.cell["student"]["label"] != "mlp"
        ]
    (ladder,) = found_in(made)
    assert (ladder.axis, [rung.level for rung in ladder.rungs]) == ("epochs", [1, 10, 100])
    assert ladder.title.endswith("transductive, sage")
    assert ladder.by_difficulty[0].level == 100


def test_of_a_student_in_stages_the_last_one_is_shown():
    made = rows_of(NOISY)
    for row in made:
        if row.cell["student"] and row.cell["student"]["label"] == "krd":
            numbers = row.variants.pop("")
            row.variants = {"1": numbers, "2": numbers, "10": numbers, "exit": numbers}
    (ladder,) = found_in(made)
    assert ladder.students == ["glnn", "krd@10", "mlp"]


def test_the_table_of_a_ladder_by_hand():
    table, errors = robustness.tables_of(found_in(rows_of(NOISY)))
    assert [column.head for column in table.columns] == ["0", "0.2", "0.6", "change"]
    texts = {row.label: [cell.text for cell in row.cells] for row in table.rows}
    assert texts["sage (teacher)"][0] == "81.00 ± 1.00"
    assert texts["krd"][3] == "−23.00 [−23.00, −23.00]"  # noqa: RUF001
    assert texts["mlp"][3] == "0.00 [0.00, 0.00]"
    # at 0.6 it is mlp, krd, glnn: all three pairs are reversed
    assert texts["order kept"][:3] == ["1.00", "1.00", "-1.00"]
    best = {row.label: [i for i, cell in enumerate(row.cells) if cell.best] for row in table.rows}
    assert best == {"sage (teacher)": [], "glnn": [0, 1], "krd": [], "mlp": [2], "order kept": []}
    assert errors.lesser
    assert [row.label for row in errors.rows] == ["glnn", "krd"]
    assert [c.text for c in errors.rows[0].cells][:3] == [
        "50.00 ± 0.00",
        "60.00 ± 0.00",
        "80.00 ± 0.00",
    ]


def test_imbalance_shows_macro_f1_too():
    splits = dict(zip(MEANS, ["random", "random:imbalance=2", "random:imbalance=5"], strict=True))
    tables = robustness.tables_of(found_in(rows_of(splits)))
    assert [t.title.rpartition(": ")[2] for t in tables[1:]] == ["macro F1", "errors repeated"]
    labels = ["teacher", "glnn", "krd", "mlp", "order kept"]
    assert [row.label for row in tables[1].rows] == labels
    assert [row.label for row in tables[2].rows] == ["glnn", "krd"]  # errors rank nobody


def test_macro_f1_keeps_an_order_of_its_own_by_hand():
    splits = dict(zip(MEANS, ["random", "random:imbalance=2", "random:imbalance=5"], strict=True))
    made = rows_of(splits)
    swapped = {"glnn": 0.3, "krd": 0.2, "mlp": 0.1}  # by accuracy it is mlp, krd, glnn there
    for row in made:
        label = (row.cell["student"] or {}).get("label")
        if label and row.cell["protocol"]["split"] == "random:imbalance=5":
            row.variants[""]["macro_f1"] = swapped[label]
        if label == "mlp" and row.cell["protocol"]["split"] == "random:imbalance=2":
            del row.variants[""]["macro_f1"]
    (ladder,) = found_in(made)
    by_accuracy, by_f1, _ = robustness.tables_of([ladder])
    rows = {table: table.rows[-1] for table in (by_accuracy, by_f1)}
    assert [cell.text for cell in rows[by_accuracy].cells] == ["1.00", "1.00", "-1.00", ""]
    assert [cell.text for cell in rows[by_f1].cells] == ["1.00", DASH, "1.00", ""]
    told = {(r["metric"], r["level"]): r["order_kept"] for r in robustness.records([ladder])}
    assert (told["test_accuracy", 5], told["macro_f1", 5]) == (-1, 1)
    assert told["repeated_errors", 5] is None


def test_a_level_without_a_method_shows_a_dash():
    made = [
        row
        for row in rows_of(NOISY)
        if (row.cell["student"] or {}).get("label") != "krd"
        or row.cell["protocol"]["split"] == "random"
    ]
    table = robustness.tables_of(found_in(made))[0]
    krd = next(row for row in table.rows if row.label == "krd")
    assert [cell.text for cell in krd.cells][1:] == ["–", "–", "–"]  # noqa: RUF001
    order = next(row for row in table.rows if row.label == "order kept")
    assert order.cells[1].text == "–"  # two students have no order to keep  # noqa: RUF001


def test_the_order_that_is_kept_by_hand():
    base = {"a": 3.0, "b": 2.0, "c": 1.0, "d": 0.0}
    assert order_agreement(base, base) == pytest.approx(1)
    assert order_agreement(base, {k: -v for k, v in base.items()}) == pytest.approx(-1)
    # one of six pairs is reversed: (5 - 1) / 6
    assert order_agreement(base, {**base, "c": 0.0, "d": 1.0}) == pytest.approx(4 / 6)
    assert order_agreement(base, {"a": 3.0, "b": 1.0, "c": 2.0}) == pytest.approx(1 / 3)
    assert math.isnan(order_agreement(base, {"a": 1.0, "b": 0.0}))
    assert math.isnan(order_agreement(base, dict.fromkeys(base, 1.0)))
    # a difference of binary noise is a tie: tau-b = 5 / sqrt(6 * 5)
    noise = {**base, "d": 1.0 + 1e-12}
    assert order_agreement(base, noise) == pytest.approx(5 / math.sqrt(30))


def test_figures_and_records_are_written_where_there_is_a_ladder(tmp_path):
    splits = dict(zip(MEANS, ["random", "random:imbalance=2", "random:imbalance=5"], strict=True))
    found = found_in(rows_of(splits))
    files = ladders.draw(found, tmp_path)
    assert {path.stem for path in files} == set(ladders.CAPTIONS)
    assert sorted(files) == sorted(tmp_path.iterdir())
    told = list(robustness.records(found))
    assert len(told) == 3 * (2 * 4 + 2)  # accuracy and F1 of four methods, errors of two
    assert ladders.draw([], tmp_path) == []


def test_every_student_has_a_look_of_its_own_and_the_first_ten_those_of_seaborn():
    looks = ladders._looks([f"s{i}" for i in range(40)])
    assert len({look["color"] for look in looks.values()}) == 40
    assert len({tuple(look.values()) for look in looks.values()}) == 40
    first = [look["color"] for look in looks.values()][:10]
    assert first == sns.color_palette("colorblind", 10).as_hex()
    assert ladders._looks(["s0", "s1"]) == {name: looks[name] for name in ("s0", "s1")}
    pairs = [(looks[f"s{i}"]["marker"], looks[f"s{i + 10}"]["marker"]) for i in range(30)]
    assert all(one != other for one, other in pairs)  # readable without the darker tone, too
    assert ladders._looks([]) == {}


def test_every_teacher_has_a_colour_of_its_own():
    made = [make_row("glnn", s, 0.8, teacher=f"t{i}") for i in range(25) for s in range(2)]
    colours = colours_of(blocks(frame(made), plan_of(made)))
    assert len(colours) == 26
    assert len(set(colours.values())) == 26


@pytest.mark.usefixtures("hurried")
def test_the_comparison_of_a_sweep_without_levels_says_nothing_of_robustness(tmp_path):
    one, three = rows_of({0.0: "random"}), rows_of(NOISY)
    for rows, told in ((one, False), (three, True)):
        out = tmp_path / str(told)
        comparison.write(frame(rows), plan_of(rows), out, title="x")
        assert ("Robustness" in (out / "comparison.md").read_text()) is told
        assert (out / "robustness.csv").is_file() is told
