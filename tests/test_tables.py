import math

import pytest

from bench.stats import Difference, Spread
from bench.tables import (
    Cell,
    Column,
    Row,
    Table,
    compact,
    escape_latex,
    latex,
    markdown,
    percent,
    plain,
    points,
)

NAN = math.nan
TABLE = Table(
    "a_b & c",
    (Column("accuracy", "%"), Column("wide", "", 2), Column("params", "", 1)),
    (
        Row("sage:glnn (teacher)", (Cell("80.00"), Cell("x" * 30), Cell("1k")), heading=True),
        Row("glnn [a=1]", (Cell("81.00", best=True), Cell("y"), Cell("2k")), full_label="t → glnn"),
        Row("mlp", (Cell("80.90", mark=True),)),
    ),
    ("Note 100 % sure: a|b.",),
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (1000, "1k"),
        (183_000, "183k"),
        (184_391, "184k"),
        (999_900, "1M"),
        (1_234_567, "1.23M"),
        (4.6e8, "460M"),
        (1.1e9, "1.1G"),
        (0.03125, "0.0312"),
        (0.9, "0.9"),
        (45.64, "45.6"),
        (0.0001, "1.0e-04"),
        (NAN, "\N{EN DASH}"),
    ],
)
def test_compact_numbers(value, text):
    assert compact(value) == text


def test_percent_and_points():
    assert percent(Spread(0.80543, 0.0135, 0, 1, 10)) == "80.54 ± 1.35"
    assert percent(Spread(0.8, NAN, NAN, NAN, 1)) == "80.00"
    assert percent(Spread(NAN, NAN, NAN, NAN, 0)) == "\N{EN DASH}"
    assert points(Difference(0.0042, -0.0031, 0.0115, 9)) == "+0.42 [\N{MINUS SIGN}0.31, +1.15]"
    assert points(Difference(-0.000001, NAN, NAN, 1)) == "0.00"


def test_markdown_escapes_and_marks():
    text = markdown(TABLE)
    assert "### a\\_b & c" in text
    assert "| method | accuracy % | wide | params |" in text
    assert "| *sage:glnn (teacher)* | 80.00 |" in text
    assert "| t → glnn | **81.00** |" in text
    assert "| mlp | 80.90 † |  |  |" in text
    assert "a\\|b" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {5}


def test_latex_escapes_and_marks():
    text = latex(TABLE, "tab:x")
    assert r"\caption{a\_b \& c.}" in text
    assert r"\caption{a\_b \& c. In \%.}" in latex(TABLE, "tab:x", "In %.")
    assert r"\textbf{81.00}" in text
    assert r"80.90\rlap{\textsuperscript{\dag}}" in text
    assert r"glnn {[}a=1]" in text
    assert r"100 \% sure" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert all(line.count(" & ") == 3 for line in rows)


def test_latex_escape_of_everything_awkward():
    assert escape_latex("a_b%$#&{}~^\\") == (
        r"a\_b\%\$\#\&\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}"
    )
    assert escape_latex("é → \N{MINUS SIGN}1 漢\n\x00") == r"é $\rightarrow$ $-$1 ? ?"


def test_plain_text_leaves_columns_out_until_it_fits():
    wide, narrow = plain(TABLE, 120), plain(TABLE, 45)
    assert "x" * 30 in wide
    assert "x" * 30 not in narrow
    assert "params" in narrow
    assert "params" not in plain(TABLE, 34)
    assert "accuracy" in plain(TABLE, 10)  # what cannot be left out stays
    assert max(map(len, narrow.splitlines())) <= 45
    assert "81.00*" in narrow
    assert "80.90†" in narrow
