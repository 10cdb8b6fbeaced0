from dataclasses import dataclass

import pytest

from bench import progress


@dataclass
class Done:
    done: bool


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (60, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_times_are_written_as_a_person_would(seconds, text):
    assert progress.duration(seconds) == text


def test_elsewhere_than_on_a_terminal_there_is_a_line_now_and_then(capsys, monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    rows = [Done(True), Done(False), Done(True), Done(True), Done(True)]
    assert list(progress.shown(rows, 5, "cells")) == rows
    assert capsys.readouterr().err.splitlines() == [
        "cells: 3 of 5 in 12 s, about 8 s left, 1 went wrong",
        "cells: 5 of 5 in 20 s, 1 went wrong",
    ]


def test_on_a_terminal_there_is_a_bar(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    rows = [Done(True), Done(False)]
    assert list(progress.shown(rows, 2, "cost")) == rows
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("cost  100% |")
    assert "2/2" in last
    assert "1 went wrong" in last


def test_no_item_needs_no_line(capsys):
    assert list(progress.shown([], 0, "cells")) == []
    assert capsys.readouterr().err == ""
