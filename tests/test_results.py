import contextlib
import json
import os
import subprocess
import sys

import pandas
import pytest

from bench.cell import Cell, Choice, Protocol
from bench.results import (
    FIRST_COLUMNS,
    METRIC_COLUMNS,
    CorruptError,
    Row,
    Store,
    frame,
    load,
    tidy,
)

CELL = Cell(
    Protocol("toy", "abc", "random", "transductive"),
    Choice("gcn:kipf", "gcn", {"lr": 0.01}),
    Choice("glnn", "glnn", {"dropout": 0.5}),
    1,
    1,
    1,
)


def store_row(store: Store, cell: Cell = CELL, **changes) -> Row:
    row = Row(cell.key, cell.describe(), "ok", variants={"": {"test_accuracy": 0.5}})
    row.seconds, row.fit = {"train": 1.5}, {"epochs": 3, "peak_memory_mib": 2.0}
    for name, value in changes.items():
        setattr(row, name, value)
    with store.draft(cell.key) as draft:
        (draft / "weights.pt").write_bytes(b"weights")
        (draft / "history.json").write_text('{"epoch": [0], "loss": [1.0]}')
        return store.write(row, draft)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


def test_a_row_comes_back_as_it_was_written(store):
    row = store_row(store)
    store.write_cost(row.key, {"": {"latency_ms": 0.25}})
    again = store.read(row.key)
    assert again.cost == {"": {"latency_ms": 0.25}}
    again.cost = {}
    assert again == row
    assert store.keys() == [row.key]
    assert store.artefact(row, "weights.pt").read_bytes() == b"weights"
    assert store.history(row.key) == {"epoch": [0], "loss": [1.0]}


def test_what_is_not_a_number_is_stored_as_missing(store):
    store_row(store, variants={"": {"ece": float("nan"), "macs": float("inf")}})
    assert store.read(CELL.key).variants == {"": {"ece": None, "macs": None}}


def test_what_is_not_there_is_none(store):
    assert store.read("0" * 32) is None
    assert store.heal("0" * 32) is None
    assert store.keys() == store.sweeps() == []
    assert store.history("0" * 32) == {}
    assert store.read_sweep("nope") is None


def test_a_second_answer_replaces_the_first_with_its_files(store):
    store_row(store, status="failed")
    store_row(store)
    assert store.read(CELL.key).status == "ok"
    assert [p.name for p in (store.root / "cells").iterdir()] == [CELL.key]


def test_two_processes_may_answer_the_same_cell_at_once(store):
    row = Row(CELL.key, CELL.describe(), "ok")
    with store.draft(CELL.key) as draft:
        own = draft.rename(draft.with_name(f".{CELL.key}-1"))
        store_row(store)
        store.write(row, own)
    assert store.read(CELL.key).variants == {}


def test_a_draft_that_is_left_leaves_nothing(store):
    with contextlib.suppress(KeyboardInterrupt), store.draft(CELL.key) as draft:
        (draft / "weights.pt").touch()
        raise KeyboardInterrupt
    assert list((store.root / "cells").iterdir()) == []


def test_drafts_of_dead_processes_are_swept_out_and_others_kept(store):
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], stdout=-1)
    cells = store.root / "cells"
    names = (f".{CELL.key}-{int(done.stdout)}", f".old-{CELL.key}-{int(done.stdout)}")
    for name in names:
        (cells / name).mkdir(parents=True)
    with store.draft(CELL.key) as own:
        store.sweep_out()
        assert list(cells.iterdir()) == [own]


def test_a_draft_older_than_the_process_of_its_number_is_swept_out(store):
    folder = store.root / "cells" / f".{CELL.key}-{os.getpid()}"
    folder.mkdir(parents=True)
    os.utime(folder, (1, 1))
    store.sweep_out()
    assert not folder.exists()


# ---- corruption -----------------------------------------------------------------------------


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def edit(path):
    path.write_text(path.read_text().replace("0.5", "0.9"))


def swap(path):
    path.write_text("[1, 2]")


def outdate(path):
    data = json.loads(path.read_text())
    data["of_the_future"] = 1
    path.write_text(json.dumps(data))


@pytest.mark.parametrize("harm", [truncate, edit, swap, outdate])
def test_a_corrupt_row_is_never_used_and_is_set_aside(harm, store, caplog):
    harm(store.folder(store_row(store).key) / "row.json")
    with pytest.raises(CorruptError, match=r"row\.json"):
        store.read(CELL.key)
    assert store.heal(CELL.key) is None
    assert store.read(CELL.key) is None
    (aside,) = (store.root / "corrupt").iterdir()
    assert (aside / "weights.pt").is_file()
    assert "row.json" in (aside / "why.txt").read_text()
    assert f"it was moved to {aside}" in caplog.text


def test_the_row_of_another_cell_is_refused(store):
    store_row(store)
    store.folder(CELL.key).rename(store.folder("f" * 32))
    with pytest.raises(CorruptError, match="holds the row of another cell"):
        store.read("f" * 32)


@pytest.mark.parametrize("gone", [True, False])
def test_a_corrupt_artefact_is_found_before_it_is_used(gone, store):
    row = store_row(store)
    path = store.folder(row.key) / "weights.pt"
    path.unlink() if gone else path.write_bytes(b"weighty")
    with pytest.raises(CorruptError, match=r"weights\.pt"):
        store.artefact(row, "weights.pt")
    assert store.heal(row.key) is None
    assert len(list((store.root / "corrupt").iterdir())) == 1


def test_a_touched_but_unchanged_artefact_is_sound(store):
    row = store_row(store)
    (store.folder(row.key) / "weights.pt").touch()
    assert store.heal(row.key) == row


def test_a_corrupt_cost_is_left_out_set_aside_alone_and_measured_again(store, caplog):
    row = store_row(store)
    store.write_cost(row.key, {"": {"latency_ms": 0.5}})
    edit(store.folder(row.key) / "cost.json")
    assert store.read(row.key).cost == {}
    assert "cost.json does not match its checksum" in caplog.text
    assert store.heal(row.key) == row
    (aside,) = (store.root / "corrupt").iterdir()
    assert sorted(p.name for p in aside.iterdir()) == ["cost.json", "why.txt"]


def test_broken_curves_are_left_out(store, caplog):
    row = store_row(store)
    (store.folder(row.key) / "history.json").write_text("{")
    assert store.history(row.key) == {}
    assert "history.json is not a whole record" in caplog.text


def test_a_sweep_comes_back_and_a_corrupt_one_counts_as_missing(store, caplog):
    store.write_sweep("one", {"cells": [], "n": 0.5})
    assert store.sweeps() == ["one"]
    assert store.read_sweep("one") == {"cells": [], "n": 0.5}
    edit(store.root / "sweeps" / "one.json")
    assert store.read_sweep("one") is None
    assert "one.json does not match its checksum" in caplog.text


def test_an_unchanged_sweep_is_not_written_again(store):
    store.write_sweep("one", {"cells": [(1, 2)]})
    path = store.root / "sweeps" / "one.json"
    os.utime(path, (1, 1))
    store.write_sweep("one", {"cells": [(1, 2)]})
    assert path.stat().st_mtime == 1


# ---- records --------------------------------------------------------------------------------


def test_records_begin_with_the_stable_columns(store):
    (record,) = tidy([store_row(store)])
    assert list(record)[:22] == [
        *("dataset", "split", "setting", "teacher", "student", "variant", "seed", "status"),
        *("test_accuracy", "val_accuracy", "tran_accuracy", "ind_accuracy", "prod_accuracy"),
        *("macro_f1", "agreement", "params", "macs", "latency_ms", "latency_node_ms"),
        *("train_seconds", "peak_memory_mib", "energy_joules"),
    ]
    assert list(record)[:22] == [*FIRST_COLUMNS, *METRIC_COLUMNS]
    assert record["teacher"] == "gcn:kipf"
    assert record["train_seconds"] == 1.5
    assert record["latency_ms"] is None
    assert record["student.dropout"] == 0.5


def test_a_teacher_has_no_student_and_a_lone_student_no_teacher(store):
    teacher, lone = CELL.teacher_cell, Cell(CELL.protocol, None, CELL.student, 1, 1, 1)
    records = tidy([store_row(store, teacher), store_row(store, lone)])
    assert [(r["teacher"], r["student"]) for r in records] == [("gcn:kipf", ""), ("", "glnn")]


def test_there_is_one_record_for_each_variant_and_one_for_a_row_without(store):
    row = store_row(store, variants={"@1": {"macs": 1.0}, "@2": {"macs": 2.0}})
    row.cost = {"@2": {"latency_ms": 5.0}}
    failed = Row("k", CELL.describe(), "failed", "out of memory")
    records = tidy([row, failed])
    assert [(r["variant"], r["macs"], r["latency_ms"], r["status"]) for r in records] == [
        ("@1", 1.0, None, "ok"),
        ("@2", 2.0, 5.0, "ok"),
        ("", None, None, "failed"),
    ]


def test_a_stage_costs_its_share_of_the_fit_up_to_its_end(store):
    forms = ("exit", "node0.9", "1", "2", "3", "4")
    row = store_row(store, variants={name: {"test_accuracy": 0.5} for name in forms})
    clocks = {"fit_stage_1": 1.0, "fit_stage_2": 3.0, "fit_stage_3": 4.0}
    row.seconds = {"train": 10.0, "fit_train": 6.0, "fit_validate": 2.0, **clocks}
    told = {r["variant"]: r["train_seconds"] for r in tidy([row])}
    # 8 of the 10 s are in the stages' clocks: 10 * 1/8, 10 * 4/8 and all of it
    expected = {"1": 1.25, "2": 5.0, "3": 10.0, "4": 10.0, "exit": 10.0, "node0.9": 10.0}
    assert told == pytest.approx(expected)  # there is no fourth stage


@pytest.mark.parametrize(
    "seconds",
    [
        {"train": 10.0},  # members that are trained together
        {"train": 10.0, "fit_stage_2": 1.0},
        {"train": 10.0, "fit_stage_1": 0.0, "fit_stage_2": 0.0},
        {"fit_stage_1": 1.0, "fit_stage_2": 1.0},
    ],
)
def test_a_stage_without_a_clock_costs_the_whole_fit(store, seconds):
    row = store_row(store, variants={"1": {}, "2": {}})
    row.seconds = seconds
    assert [r["train_seconds"] for r in tidy([row])] == [seconds.get("train")] * 2


@pytest.mark.parametrize(
    ("status", "done"),
    [("ok", True), ("skipped", True), ("failed", False), ("diverged", False), ("timeout", False)],
)
def test_only_ok_and_skipped_are_done(status, done):
    assert Row("k", {}, status).done is done


def test_a_frame_comes_back_from_its_csv_as_it_was(tmp_path):
    numbers = {"": {"test_accuracy": 0.1 + 0.2, "ece": 1.0}}
    rows = [
        Row(CELL.key, CELL.describe(), "ok", variants=numbers, ran={"git_commit": ""}),
        Row("1e5", CELL.describe(), "failed", "nan, or so", ran={"git_commit": "12e4"}),
    ]
    table = frame(rows)
    table.to_csv(tmp_path / "rows.csv", index=False)
    again = load(tmp_path / "rows.csv")
    pandas.testing.assert_frame_equal(again, table, check_dtype=False)
    assert list(load(tmp_path / "rows.csv", keys=["1e5"])["status"]) == ["failed"]


def test_a_missing_csv_is_a_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*rows\.csv"):
        load(tmp_path / "rows.csv")
