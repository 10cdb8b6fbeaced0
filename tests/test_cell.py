import dataclasses
from pathlib import Path

import pytest

import bench
from bench import registry
from bench.cell import Cell, Choice, Protocol, from_data
from bench.results import load

PROTOCOL = Protocol("cpf-cora", "abc", "random", "production")
TEACHER = Choice("sage:glnn", "sage", {"lr": 0.01, "num_layers": 2})
STUDENT = Choice("glnn", "glnn", {"lr": 0.005})
CELL = Cell(PROTOCOL, TEACHER, STUDENT, 3, 3, 3)


def test_the_key_of_a_question_never_changes():
    # A new key would orphan every stored result: raise SCHEMA when that is meant.
    assert CELL.key == "0f68142e3a9753815fc21dc520a7315a"


def test_labels_the_dataset_name_and_the_order_of_a_config_do_not_enter_the_key():
    teacher = Choice("my teacher", "sage", {"num_layers": 2, "lr": 0.01})
    protocol = dataclasses.replace(PROTOCOL, dataset="npz:/elsewhere/cora.npz")
    assert Cell(protocol, teacher, STUDENT, 3, 3, 3).key == CELL.key


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4},
        {"split_seed": 4},
        {"teacher_seed": 4},
        {"device": "cuda"},
        {"evaluate_test": False},
        {"teacher": None},
        {"student": None},
        {"student": Choice("glnn", "glnn", {"lr": 0.006})},
        {"protocol": dataclasses.replace(PROTOCOL, checksum="abd")},
        {"protocol": dataclasses.replace(PROTOCOL, hidden_rate=0.3)},
        {"protocol": dataclasses.replace(PROTOCOL, self_loops=False)},
        {"protocol": dataclasses.replace(PROTOCOL, features="row")},
    ],
)
def test_whatever_decides_the_result_enters_the_key(change):
    assert dataclasses.replace(CELL, **change).key != CELL.key


def test_students_of_one_teacher_share_its_cell():
    other = Cell(PROTOCOL, TEACHER, Choice("mlp", "mlp", {}), 9, 3, 3)
    assert CELL.teacher_cell.key == other.teacher_cell.key
    assert CELL.teacher_cell.student is None
    assert CELL.teacher_cell.seed == 3


def test_a_teacher_and_a_student_without_one_have_no_teacher_cell():
    assert CELL.teacher_cell.teacher_cell is None
    assert Cell(PROTOCOL, None, STUDENT, 3, 3, 3).teacher_cell is None


def test_a_student_without_a_teacher_ignores_the_teacher_seed():
    one, other = (Cell(PROTOCOL, None, STUDENT, 3, 3, seed) for seed in (3, 4))
    assert one.key == other.key


def test_a_cell_comes_back_from_its_description():
    for cell in (CELL, CELL.teacher_cell, Cell(PROTOCOL, None, STUDENT, 3, 3, 3)):
        again = from_data(cell.describe())
        assert again == cell
        assert again.key == cell.key


def test_a_group_names_empty_what_is_not_there():
    assert CELL.group == ("cpf-cora", "random", "production", "sage:glnn", "glnn")
    assert CELL.teacher_cell.group[3:] == ("sage:glnn", "")
    assert Cell(PROTOCOL, None, STUDENT, 3, 3, 3).group[3:] == ("", "glnn")


def test_a_config_that_is_not_a_number_has_no_key():
    with pytest.raises(ValueError, match="not JSON compliant"):
        Cell(PROTOCOL, None, Choice("mlp", "mlp", {"lr": float("nan")}), 0, 0, 0)


# ---- noise ----------------------------------------------------------------------------------


def test_noise_enters_key_row_and_group_where_there_is_some():
    noisy = dataclasses.replace(CELL, protocol=dataclasses.replace(PROTOCOL, noise="edges=0.2"))
    assert noisy.key != CELL.key
    assert noisy.group == ("cpf-cora", "random + edges=0.2", *CELL.group[2:])
    assert noisy.describe()["protocol"]["noise"] == "edges=0.2"
    assert from_data(noisy.describe()) == noisy
    assert noisy.teacher_cell.protocol == noisy.protocol
    assert "noise" not in CELL.describe()["protocol"]
    assert "noise" not in CELL.asked()["protocol"]


def test_the_keys_of_the_reference_results_are_still_those_of_their_questions():
    path = Path(bench.__file__).parent.parent / "results" / "reference" / "students.csv"
    rows = load(path).drop_duplicates("key")
    rows = rows[(rows["seed"] == 0) & rows["student"].isin(["", "mlp", "glnn"])]
    assert len(rows) == 12
    for _, row in rows.iterrows():
        names = ("dataset", "checksum", "split", "setting", "features")
        options = (bool(row["self_loops"]), float(row["hidden_rate"]))
        protocol = Protocol(*(row[name] for name in names), *options)
        teacher = _choice("teacher", row["teacher"], protocol)
        student = _choice("student", row["student"], protocol)
        assert Cell(protocol, teacher, student, 0, 0, 0).key == row["key"]


def _choice(role: str, label: str, protocol: Protocol) -> Choice | None:
    where = {"dataset": protocol.dataset, "split": protocol.split, "setting": protocol.setting}
    where["teacher"] = "sage" if role == "student" else ""
    if not label:
        return None
    return Choice(label, label.partition(":")[0], registry.configure(role, label, {}, where))
