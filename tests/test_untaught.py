"""What students without a teacher repeat of its errors, from hand-made rows and files."""

import dataclasses

import numpy as np
import pytest
from click.testing import CliRunner

from bench.cli import main
from bench.reports import comparison, ladders, references, robustness, untaught
from bench.reports.blocks import blocks
from bench.results import Store, frame, load
from tests.records import make_row, plan_of

LABELS = (0, 1, 2, 2, 1)
TEACHER = (0, 2, 2, 1, 1)  # wrong at the second node and the fourth


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def stored(store, row, predictions, labels=None, name="_"):
    """Put a row into the store with a file of predictions, and labels where a method has them."""
    arrays = {name: np.array(predictions, np.int16)}
    if labels is not None:
        arrays["_labels"] = np.array(labels, np.int16)
    with store.draft(row.key) as draft:
        np.savez(draft / "predictions.npz", **arrays)
        return store.write(row, draft)


def pair(store, ours, *, labels=LABELS, theirs=TEACHER, name="_", seeds=(0,)):
    """The lines of a teacher and of an MLP that predict the same on some seeds."""
    rows = []
    for seed in seeds:
        teacher, mlp = make_row("", seed, 0.8), make_row("mlp", seed, 0.6, teacher="")
        if name != "_":
            mlp.variants = {name: mlp.variants[""]}
        rows += [stored(store, teacher, theirs, LABELS), stored(store, mlp, ours, labels, name)]
    (block,) = blocks(frame(rows), plan_of(rows))
    lines = {line.student: line for line in block.lines}
    return lines["mlp"], lines[""]


@pytest.mark.parametrize(
    ("ours", "share"),
    [
        ((0, 2, 0, 2, 0), 0.5),  # the second node alike; the others are errors of its own
        (TEACHER, 1.0),
        (LABELS, 0.0),
        ((1, 0, 1, 0, 0), 0.0),  # wrong everywhere, and nowhere like the teacher
    ],
)
def test_the_share_of_a_teachers_errors_by_hand(store, ours, share):
    found = untaught.repeated(store, *pair(store, ours, seeds=(0, 3)))
    assert found == {0: share, 3: share}


def test_the_predictions_of_a_variant_are_its_own(store):
    assert untaught.repeated(store, *pair(store, TEACHER, name="2")) == {0: 1.0}


@pytest.mark.parametrize(
    "options",
    [
        {"labels": None},  # a row of an earlier version
        {"labels": (0, 1, 2, 2, 0)},  # scored on other nodes
        {"labels": LABELS[:4], "ours": TEACHER[:4]},
        {"theirs": LABELS},  # a teacher without an error
    ],
)
def test_what_cannot_be_compared_is_left_out(store, options):
    assert untaught.repeated(store, *pair(store, **{"ours": TEACHER, **options})) == {}


def test_files_that_are_gone_or_damaged_are_left_out_and_named(store, caplog):
    mlp, teacher = pair(store, TEACHER, seeds=(0, 1, 2))
    path = store.folder(mlp.keys[1]) / "predictions.npz"
    path.write_bytes(path.read_bytes() + b" ")
    (store.folder(teacher.keys[2]) / "predictions.npz").unlink()
    assert untaught.repeated(store, mlp, teacher) == {0: 1.0}
    assert "does not match its checksum; its errors are not compared" in caplog.text
    assert "is missing" in caplog.text


# ---- in a report ----------------------------------------------------------------------------


def ladder_rows(store, *, teacher="sage", **options):
    """Two levels; GLNN repeats all errors, the MLP those of `ours`."""
    made = []
    for split, ours in (("random", (0, 2, 0, 2, 0)), ("random + edges=0.5", TEACHER)):
        for seed in range(3):
            at = {"split": split, "teacher": teacher, **options}
            taught = {"": {"test_accuracy": 0.8, "repeated_errors": 1.0}}
            glnn = make_row("glnn", seed, variants=taught, **at)
            mlp = make_row("mlp", seed, 0.6, **{**at, "teacher": ""})
            taught_by = make_row("", seed, 0.7, **at)
            made += [stored(store, glnn, TEACHER), stored(store, mlp, ours, LABELS)]
            made.append(stored(store, taught_by, TEACHER, LABELS))
    return made


def test_the_table_has_the_reference_where_there_is_a_store(store):
    made = ladder_rows(store)
    found = blocks(frame(made), plan_of(made))
    accuracy, errors = robustness.tables_of(robustness.ladders(found, store))
    assert [row.label for row in accuracy.rows if row.label.startswith("mlp")] == ["mlp"]
    told = {row.label: [cell.text for cell in row.cells] for row in errors.rows}
    assert list(told) == ["glnn", "mlp, never saw the teacher"]
    assert told["mlp, never saw the teacher"] == [
        "50.00 ± 0.00",
        "100.00 ± 0.00",
        "+50.00 [+50.00, +50.00]",
    ]
    (_, plain) = robustness.tables_of(robustness.ladders(found))
    assert [row.label for row in plain.rows] == ["glnn"]
    (ladder,) = robustness.ladders(found, store)
    means = [
        r["mean"]
        for r in robustness.records([ladder])
        if (r["method"], r["metric"]) == ("mlp", "repeated_errors")
    ]
    assert means == [0.5, 1.0]


def gkdbench(*arguments):
    return CliRunner().invoke(main, list(arguments), prog_name="gkdbench")


def test_a_file_of_rows_has_the_reference(store, tmp_path):
    made = ladder_rows(store)
    shown = gkdbench("rows", "--results", str(tmp_path))
    assert shown.exit_code == 0
    (tmp_path / "rows.csv").write_text(shown.stdout)
    rows = load(tmp_path / "rows.csv")
    column = "repeated_errors.sage"
    mlp = rows[rows["student"] == "mlp"].groupby("split")[column]
    assert mlp.apply(list).to_dict() == {"random": [0.5] * 3, "random + edges=0.5": [1.0] * 3}
    assert rows[rows["student"] != "mlp"][column].isna().all()
    found = blocks(frame(made), plan_of(made))
    again = blocks(rows, plan_of(made))
    assert robustness.tables_of(robustness.ladders(again)) == robustness.tables_of(
        robustness.ladders(found, store)
    )


def test_rows_of_which_two_answer_one_question_are_printed_without_it(store, caplog):
    made = [*ladder_rows(store), *ladder_rows(store, dataset="cora")]
    twice = next(r for r in made if r.cell["teacher"] is None)  # of cpf-cora
    made.append(stored(store, dataclasses.replace(twice, key="f" * 16), TEACHER, LABELS))
    rows = references.noted(frame(made), plan_of(made), store)
    told = rows[rows["repeated_errors.sage"].notna()]
    assert set(zip(told["dataset"], told["student"], strict=True)) == {("cora", "mlp")}
    assert len(told) == 6
    assert "cpf-cora, transductive: 2 rows of 'mlp' have seed 0" in caplog.text
    assert "do not tell what students without a teacher repeat" in caplog.text


def test_rows_without_two_levels_are_not_looked_at(store, monkeypatch):
    made = [row for row in ladder_rows(store) if row.cell["protocol"]["split"] == "random"]
    monkeypatch.setattr(references, "blocks", None)  # what takes the time
    rows = frame(made)
    assert references.noted(rows, plan_of(made), store).equals(rows)


def test_a_teacher_may_have_any_label(store, tmp_path):
    made = ladder_rows(store, teacher="of.my_seed")
    rows = references.noted(frame(made), plan_of(made), store)
    rows.to_csv(tmp_path / "rows.csv", index=False)
    again = load(tmp_path / "rows.csv")["repeated_errors.of.my_seed"]
    assert again.dropna().tolist() == rows["repeated_errors.of.my_seed"].dropna().tolist() != []


def test_the_figure_shows_the_reference_dotted(store):
    made = ladder_rows(store)
    found = robustness.ladders(blocks(frame(made), plan_of(made)), store)
    figure = ladders._figure(found, robustness.FAITHFUL)
    styles = {line.get_linestyle(): [*line.get_ydata()] for line in figure.axes[0].lines}
    assert styles == {"-": [100.0, 100.0], ":": [50.0, 100.0]}
    keys = {h.get_label(): h.get_linestyle() for h in figure.legends[0].legend_handles}
    assert keys == {"glnn": "-", "mlp, never saw the teacher": ":"}
    plain = ladders._figure(found, "")
    names = [text.get_text() for text in plain.legends[0].get_texts()]
    assert names == ["glnn", "mlp", "teacher"]


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("given", [True, False])
def test_a_report_has_the_reference_where_it_is_given_the_store(store, tmp_path, given):
    made = ladder_rows(store)
    options = {"store": store} if given else {}
    comparison.write(frame(made), plan_of(made), tmp_path / "out", title="x", **options)
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert ("mlp, never saw the teacher | 50.00 ± 0.00" in text) is given
