import dataclasses
import json

import pytest

from bench import listing, listing_ls
from bench.cell import Cell, Choice, Protocol
from bench.launch import Outcome
from bench.results import Row, Store

PROTOCOL = Protocol("toy", "abc", "random", "transductive")
GCN, GLNN = Choice("gcn", "gcn", {}), Choice("glnn", "glnn", {})


def outcome(*statuses: str) -> Outcome:
    """A teacher that is fine and a student whose seeds have these statuses; "" is missing."""
    cells = [Cell(PROTOCOL, GCN, None, 0, 0, 0)]
    cells += [Cell(PROTOCOL, GCN, GLNN, seed, seed, seed) for seed in range(len(statuses))]
    rows = {cells[0].key: Row(cells[0].key, cells[0].describe(), "ok")}
    for cell, status in zip(cells[1:], statuses, strict=True):
        status, _, reason = status.partition(": ")
        if status:
            rows[cell.key] = Row(cell.key, cell.describe(), status, reason)
    return Outcome(cells, rows)


# ---- ls -------------------------------------------------------------------------------------


def test_everything_is_listed_by_kind():
    found = json.loads(listing_ls.ls("all", "", "json", []))
    assert list(found) == list(listing_ls.KINDS)
    assert "2,708 nodes, 10,556 stored edges, 1,433 features" in found["datasets"]["cora"]
    assert "gcn:kipf" in found["teachers"]["gcn"]
    assert found["splits"] == listing_ls.SPLITS
    text = listing_ls.ls("all", "", "text", [])
    assert all(f"\n{kind}\n" in f"\n{text}\n" for kind in found)


def test_one_kind_may_be_named_in_the_singular():
    assert listing_ls.ls("student", "", "text", []) == listing_ls.ls("students", "", "text", [])


def test_a_method_shows_its_source_ranges_and_presets():
    text = listing_ls.ls("teachers", "gcn", "text", [])
    assert "Source: Kipf & Welling" in text
    assert "preset kipf" in text
    facts = json.loads(listing_ls.ls("teachers", "gcn:kipf", "json", []))
    lr = {"default": 0.01, "low": 1e-5, "high": 1.0, "log": True, "search": [0.001, 0.05]}
    assert facts["config"]["lr"] == lr


def test_a_name_alone_is_found_among_all_kinds(tmp_path):
    assert listing_ls.ls("gcn", "", "text", []) == listing_ls.ls("teachers", "gcn", "text", [])
    assert "stochastic block model" in listing_ls.ls("synthetic", "", "text", [])
    (tmp_path / "mine.yaml").write_text("# What it is for\nseeds: 1\n")
    assert listing_ls.ls("mine", "", "text", [tmp_path]) == "# What it is for\nseeds: 1"


def test_sweeps_are_listed_with_their_first_comment_the_nearer_folder_first(tmp_path):
    for name in ("near", "far"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.yaml").write_text(f"# from {name}\n")
    (tmp_path / "far" / "b.yaml").write_text("seeds: 1\n")
    folders = [tmp_path / "near", tmp_path / "far", tmp_path / "none"]
    assert json.loads(listing_ls.ls("sweeps", "", "json", folders)) == {
        "sweeps": {"a": "from near", "b": ""}
    }


@pytest.mark.parametrize(
    ("kind", "name", "sentence"),
    [
        ("datas", "", "unknown name 'datas'; did you mean 'datasets'?"),
        ("gcm", "", "unknown name 'gcm'; did you mean 'gcn'?"),
        ("models", "gcn", "unknown kind 'models'"),
        ("teachers", "gcm", "unknown teacher 'gcm'; did you mean 'gcn'?"),
        ("datasets", "coro", "unknown dataset 'coro'; did you mean 'cora'?"),
        ("splits", "rand", "unknown split 'rand'; did you mean 'random'?"),
        ("sweeps", "nope", "unknown sweep 'nope'"),
    ],
)
def test_a_name_nobody_has_is_refused(kind, name, sentence):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the message is compared)
        listing_ls.ls(kind, name, "text", [])
    assert str(caught.value).startswith(sentence)


def test_long_texts_go_on_below_their_beginning():
    text = listing_ls.ls("settings", "", "text", [], width=60)
    assert max(map(len, text.splitlines())) <= 60
    assert "\n                unseen" in text or "\n                " in text


# ---- coverage -------------------------------------------------------------------------------


def test_coverage_says_what_is_not_done_and_why():
    found = outcome("ok", "failed: no memory", "failed: no memory", "", "timeout: took 3 s", "ok")
    assert listing.status(found, "text").splitlines() == [
        "",
        "toy / random / transductive",
        "    1/1   gcn",
        "    2/6   gcn -> glnn  failed: seeds 1-2 (no memory); missing: seed 3; "
        "timeout: seed 4 (took 3 s)",
    ]


def test_coverage_as_data_has_one_record_a_cell():
    records = json.loads(listing.status(outcome("ok", "skipped: no", ""), "json"))
    assert [(r["student"], r["seed"], r["status"], r["reason"]) for r in records] == [
        ("", 0, "ok", ""),
        ("glnn", 0, "ok", ""),
        ("glnn", 1, "skipped", "no"),
        ("glnn", 2, "missing", ""),
    ]
    assert all(len(r["key"]) == 32 for r in records)


def test_a_plan_counts_what_is_to_run():
    @dataclasses.dataclass
    class Named:
        name: str

    text = listing.plan(Named("mine"), outcome("ok", ""))  # type: ignore[arg-type]
    assert text.splitlines()[0] == "mine: 3 cells, 2 done, 1 to run"
    assert text.splitlines()[-1].endswith("gcn -> glnn  to run: seed 1")


def test_a_long_reason_is_one_short_line():
    text = listing.status(outcome("failed: " + "a\nb " * 100), "text", 10_000)
    assert len(text.splitlines()) == 4
    assert "failed (a b a b" in text
    assert text.endswith("...)")


def test_the_closing_names_the_holes_and_the_way_on(tmp_path):
    options = {"results": "my results", "no_track": False, "uri": None}
    lines = listing.closing(outcome("failed: boom", "ok"), "mine", tmp_path, options).splitlines()
    assert lines[0] == "mine: 0 cells run, 3 done before"
    assert lines[1] == "1 cell not done:"
    assert "    1/2   gcn -> glnn  failed: seed 0 (boom)" in lines
    assert "retry:   gkdbench retry mine --results 'my results'" in lines
    assert lines[-1] == "browse:  gkdbench ui --results 'my results'"


# ---- one cell -------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    for seed in range(2):
        cell = Cell(PROTOCOL, GCN, GLNN, seed, seed, seed)
        with store.draft(cell.key) as draft:
            row = Row(cell.key, cell.describe(), "ok", variants={"": {"macs": 3.0}})
            store.write(row, draft)
    return store


def test_a_cell_is_found_by_the_beginning_of_its_key(store):
    key = store.keys()[0]
    text = listing.show(store, key[:6], "text")
    assert text.startswith(key)
    assert "variants.-.macs" in text
    found = json.loads(listing.show(store, key, "json"))
    assert found["variants"] == {"": {"macs": 3.0}}
    assert found["history"] == {}


def test_a_key_that_is_not_there_or_not_whole_is_refused(store):
    with pytest.raises(ValueError, match="no cell begins with 'zz'"):
        listing.show(store, "zz", "text")
    with pytest.raises(ValueError, match="2 cells begin with ''"):
        listing.show(store, "", "text")
    (store.root / "cells" / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no row"):
        listing.show(store, "empty", "text")
