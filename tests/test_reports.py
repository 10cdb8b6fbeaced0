import ast
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bench.reports
from bench.reports import comparison, figures, notes, page
from bench.reports.blocks import blocks
from bench.reports.panels import floor_of
from bench.results import METRIC_COLUMNS, CorruptError, Store, frame, load, tidy
from bench.tables import latex
from tests.records import make_row, plan_of, sweep

DASH = "\N{EN DASH}"


def table_of(rows, plan=None):
    (block,) = blocks(frame(rows), plan_of(rows) if plan is None else plan)
    return comparison.table_of(block)


def cells(table, column="accuracy"):
    """Label -> text of one column, with the marks."""
    place = next(i for i, c in enumerate(table.columns) if c.head == column)
    return {
        (row.full_label or row.label): row.cells[place].text
        + ("*" if row.cells[place].best else "")
        + ("†" if row.cells[place].mark else "")
        for row in table.rows
        if row.cells
    }


def seeds(student, level, n=10, **options):
    noise = np.random.default_rng(1).normal(0, 0.01, n)
    return [make_row(student, s, round(level + noise[s], 4), **options) for s in range(n)]


# ---- rows as a frame -----------------------------------------------------------------------


def test_a_frame_has_tidys_columns_and_sensible_types():
    rows, _ = sweep(2)
    table = frame(rows)
    assert list(table) == list(dict.fromkeys(k for record in tidy(rows) for k in record))
    assert set(table[list(METRIC_COLUMNS)].dtypes.astype(str)) == {"float64"}
    assert str(table["seed"].dtype) == "int64"
    failed = table[table["status"] == "failed"]
    assert failed["test_accuracy"].isna().all()
    assert (table["teacher"] == "").sum() == 8


def test_an_empty_frame_has_the_stable_columns():
    assert {"dataset", "test_accuracy", "key", "reason"} <= set(frame([]))


def test_load_names_corrupt_rows_and_leaves_them_out(tmp_path, caplog):
    store = Store(tmp_path)
    for row in (make_row("mlp", 0, 0.6), make_row("mlp", 1, 0.7)):
        row.key = f"key{row.cell['seed']}"
        with store.draft(row.key) as draft:
            store.write(row, draft)
    whole = load(tmp_path)
    assert whole["test_accuracy"].tolist() == [0.6, 0.7]
    assert load(tmp_path, ["key1", "absent"])["seed"].tolist() == [1]
    path = store.folder("key0") / "row.json"
    path.write_text(path.read_text().replace("0.6", "0.9"))
    with pytest.raises(CorruptError):
        store.read("key0")
    rest = load(str(tmp_path))
    assert rest["key"].tolist() == ["key1"]
    assert len(rest.attrs["corrupt"]) == 1
    assert "key0" in caplog.text


# ---- what a table shows --------------------------------------------------------------------


def test_a_block_lists_teachers_with_their_students_then_the_others():
    rows, plan = sweep(2)
    found = blocks(frame(rows), plan)
    assert [line.id for line in found[0].lines] == [
        "sage:glnn",
        "sage:glnn > glnn",
        "sage:glnn > glnn-w4",
        "gcn",
        "gcn > glnn",
        "gcn > glnn-w4",
        "mlp",
    ]
    assert [b.protocol for b in found][1::2] == [
        ("cpf-cora", "random", "production"),
        ("cpf-citeseer", "random", "production"),
    ]


def test_the_order_of_rows_changes_nothing():
    rows, plan = of_cora(*sweep(6))
    found = blocks(frame(rows), plan)
    shuffled = blocks(frame(rows).sample(frac=1, random_state=0), plan)
    for one, other in zip(found, shuffled, strict=True):
        assert comparison.table_of(one) == comparison.table_of(other)
    pd.testing.assert_frame_equal(comparison.summary(found), comparison.summary(shuffled))


def test_means_deviations_and_counts_by_hand():
    rows = [make_row("glnn", s, a) for s, a in enumerate((0.80, 0.82, 0.84))]
    table = table_of([*rows, make_row("mlp", 0, 0.6, teacher="")])
    assert cells(table) == {
        "sage:glnn (teacher)": DASH,
        "sage:glnn → glnn": "82.00 ± 2.00*",
        "mlp": "60.00",
    }
    assert cells(table, "n")["sage:glnn → glnn"] == "3"
    assert "fewer than 6 common seeds" in " ".join(table.notes)


def test_the_best_student_is_bold_and_the_teacher_never():
    best, worse = seeds("glnn", 0.81), seeds("krd", 0.79)
    same = [make_row("rbm", s, r.variants[""]["test_accuracy"]) for s, r in enumerate(best)]
    table = table_of([*seeds("", 0.9), *best, *same, *worse])
    marks = cells(table)
    assert marks["sage:glnn (teacher)"].startswith("9")
    assert not marks["sage:glnn (teacher)"].endswith("*")
    assert marks["sage:glnn → glnn"].endswith("*")
    assert marks["sage:glnn → rbm"].endswith("†")
    assert marks["sage:glnn → krd"][-1].isdigit()
    assert "not significantly worse: sage:glnn → rbm." in table.notes[0]
    assert "0 wins, 0 ties, 10 losses" in table.notes[1]


def test_missing_and_failed_cells_are_visible():
    rows = seeds("glnn", 0.8)
    for row in rows[7:]:
        row.status, row.variants, row.reason = "timeout", {}, "over 60 s"
    skipped = [make_row("norm", s, status="skipped", reason="transductive only") for s in range(10)]
    absent = plan_of([*seeds("krd", 0.8), *seeds("rbm", 0.8)[:5]])
    table = table_of([*rows, *skipped], [*plan_of([*rows, *skipped]), *absent])
    assert cells(table, "n")["sage:glnn → glnn"] == "7/10"
    assert cells(table)["sage:glnn → norm"] == f"{DASH} (0/10) skipped"
    assert cells(table)["sage:glnn → krd"] == f"{DASH} (0/10) missing"
    notes = " ".join(table.notes)
    assert "sage:glnn → glnn, 7 of 10 runs: 3 timeout: over 60 s." in notes
    assert "sage:glnn → norm, 0 of 10 runs: 10 skipped: transductive only." in notes
    assert "Not run yet: sage:glnn → krd, sage:glnn → rbm (15 runs)." in notes  # in one sentence


def test_variants_are_lines_of_their_own():
    rows = [
        make_row("progmlp", s, variants={k: {"test_accuracy": 0.7 + int(k) / 10} for k in "12"})
        for s in range(3)
    ]
    rows.append(make_row("progmlp", 3, status="failed", reason="NaN"))
    table = table_of(rows)
    assert cells(table)["sage:glnn → progmlp@2"] == "90.00 ± 0.00*"
    assert cells(table, "n")["sage:glnn → progmlp@1"] == "3/4"
    assert len(table.rows) == 3


def test_the_parts_of_a_student_in_stages_do_not_compete():
    parts = [f"node0.{i}" for i in range(10, 60)]
    staged = []
    for s in range(10):
        levels = {"1": 0.9, "2": 0.8, **dict.fromkeys(parts, 0.79)}
        variants = {name: {"test_accuracy": v + s / 1000} for name, v in levels.items()}
        staged.append(make_row("progmlp", s, variants=variants))
    krd = seeds("krd", 0.7)
    (block,) = blocks(frame([*staged, *krd]), plan_of([*staged, *krd]))
    assert list(block.contenders) == ["sage:glnn > progmlp@2", "sage:glnn > krd"]
    assert block.verdict.best == "sage:glnn > progmlp@2"  # the first stage has a higher mean
    assert block.verdict.adjusted == {"sage:glnn > krd": 2 / 2**10}
    table = comparison.table_of(block)
    marks = cells(table)
    assert marks["sage:glnn → progmlp@2"].endswith("*")
    assert sum(text.endswith(("*", "†")) for text in marks.values()) == 1
    assert "significantly better than every other student." in table.notes[0]
    ax = figures._accuracy([block]).axes[0]
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["progmlp@1", "progmlp@2", *(f"progmlp@{p}" for p in parts), "krd"]
    assert not [line for line in ax.lines if line.get_linestyle() == "--"]  # no part is a teacher


def test_two_configurations_under_one_label_are_never_pooled():
    low = seeds("glnn", 0.7, config={"dropout": 0.3, "lr": 0.01})
    high = seeds("glnn", 0.8, config={"dropout": 0.6, "lr": 0.01})
    other = seeds("glnn", 0.6, config={"dropout": 0.6, "lr": 0.01}, features="row")
    table = table_of([*low, *high, *other])
    assert list(cells(table))[1:] == [
        "sage:glnn → glnn [dropout=0.3, features=raw]",
        "sage:glnn → glnn [dropout=0.6, features=raw]",
        "sage:glnn → glnn [dropout=0.6, features=row]",
    ]
    assert set(cells(table, "n").values()) == {DASH, "10"}


def test_rows_of_tuning_enter_no_report(tmp_path):
    shown = seeds("glnn", 0.8, 3)
    tuning = []
    for seed in (1000, 1001):  # what a study stores: no test accuracy, seconds of other seeds
        row = make_row("glnn", seed, variants={"": {"val_accuracy": 0.9, "params": 7.0}})
        row.cell["evaluate_test"], row.seconds["train"] = False, 900.0
        tuning.append(row)
    tuning.append(make_row("glnn", 1002, status="failed", reason="NaN"))
    tuning[-1].cell["evaluate_test"] = False
    plain = comparison.summary(blocks(frame(shown), []))
    mixed = frame([*tuning, *shown])
    pd.testing.assert_frame_equal(comparison.summary(blocks(mixed, [])), plain)
    assert plain["train_seconds"].tolist()[1:] == [1.5]
    tuning[0].ran["git_dirty"] = True
    comparison.write(frame([*tuning, *shown]), [], tmp_path, title="x")
    assert "uncommitted" not in (tmp_path / "comparison.md").read_text()
    assert blocks(frame(tuning), []) == []
    unknown = frame(shown).assign(evaluate_test=None)  # a frame of somebody else's
    assert comparison.summary(blocks(unknown, []))["done"].tolist()[1:] == [3]


def test_two_contents_of_a_dataset_are_never_pooled():
    one, other = (
        seeds("glnn", level, checksum=f"sha256:{digit * 64}")
        for level, digit in ((0.8, "a"), (0.6, "b"))
    )
    table = table_of([*one, *other])
    shown = cells(table)
    assert list(shown)[1:] == [f"sage:glnn → glnn [checksum={digit * 10}]" for digit in "ab"]
    assert set(cells(table, "n").values()) == {DASH, "10"}
    caution = "several contents of this dataset (checksums aaaaaaaaaa, bbbbbbbbbb)"
    assert caution in " ".join(table.notes)
    assert "checksum" not in " ".join(table_of(one).notes)


def test_two_rows_of_one_question_are_refused_not_lost():
    rows = seeds("glnn", 0.8, 3)
    again = make_row("glnn", 1, 0.1)
    again.key = "other"
    with pytest.raises(ValueError, match=r"2 rows of 'sage:glnn > glnn' have seed 1 .*other"):
        blocks(frame([*rows, again]), [])
    twice = pd.concat([frame(rows), frame(rows[:1])], ignore_index=True)
    with pytest.raises(ValueError, match="have seed 0 and the same data"):
        blocks(twice, plan_of(rows))
    again.status, again.variants = "failed", {}  # and lost is only a number
    (block,) = blocks(frame([*rows, again]), [])
    assert (block.lines[1].done, block.lines[1].planned) == (3, 4)


def test_the_plans_label_wins_over_the_recorded_one():
    rows = seeds("glnn", 0.8)
    plan = [{**cell, "student": name} for name in ("plain", "again") for cell in plan_of(rows)]
    assert list(cells(table_of(rows, plan)))[1:] == ["sage:glnn → plain", "sage:glnn → again"]


def test_repeated_seeds_are_paired_by_all_their_seeds():
    rows = []
    for student, level in (("glnn", 0.8), ("krd", 0.7)):
        for split_seed in range(7):
            row = make_row(student, 0, level + split_seed / 1000)
            row.cell["split_seed"], row.key = split_seed, f"{row.key}-{split_seed}"
            rows.append(row)
    table = table_of(rows)
    assert cells(table, "n")["sage:glnn → krd"] == "7"
    assert "significantly better than every other student." in table.notes[0]


def test_production_ranks_by_prod_and_a_fixed_split_says_so():
    rows, plan = sweep(3)
    table = comparison.table_of(blocks(frame(rows), plan)[1])
    assert [c.head for c in table.columns][:4] == ["prod", "n", "tran", "ind"]
    assert "share of hidden test nodes 0.2" in " ".join(table.notes)
    fixed = table_of(seeds("glnn", 0.8, split="public", features="row"))
    assert "The split is fixed: seeds vary only the initialisation." in fixed.notes
    assert "Options: features row." in fixed.notes
    hiding = table_of(seeds("glnn", 0.8, split="public", setting="production"))
    assert "seeds vary only which test nodes are hidden, and the init" in " ".join(hiding.notes)


def test_teachers_compete_where_there_is_no_student(tmp_path):
    rows = [*seeds("", 0.8, teacher="gcn"), *seeds("", 0.7, teacher="gat")]
    table = table_of(rows)
    assert cells(table)["gcn (teacher)"].endswith("*")
    assert "Best teacher: gcn" in table.notes[0]
    assert "significantly better than every other teacher." in table.notes[0]
    (block,) = blocks(frame(rows), plan_of(rows))
    assert figures.draw([block], tmp_path)[0].name == "accuracy.png"


def test_what_repeats_the_headline_is_not_shown_twice():
    numbers = {"": {"test_accuracy": 0.8, "tran_accuracy": 0.8, "macro_f1": 0.8}}
    table = table_of([make_row("glnn", s, variants=numbers) for s in range(2)])
    assert [c.head for c in table.columns][:3] == ["accuracy", "n", "macro F1"]


def test_columns_without_any_value_are_left_out():
    table = table_of(seeds("glnn", 0.8))
    assert [c.head for c in table.columns] == [
        *("accuracy", "n", "fit", "fit", "published", "difference"),
    ]
    other = table_of(seeds("glnn", 0.8, dataset="synthetic"))
    assert "published" not in [c.head for c in other.columns]


def test_published_numbers_stand_beside_ours_with_the_difference():
    rows = [make_row("glnn", s, 0.8054 + d) for s, d in enumerate((-0.01, 0.0, 0.01))]
    table = table_of(rows)
    assert cells(table, "published")["sage:glnn → glnn"] == "80.54 ± 1.35"
    difference = cells(table, "difference")["sage:glnn → glnn"]
    assert re.fullmatch(r"0\.00 \[\N{MINUS SIGN}\d\.\d\d, \+\d\.\d\d\]", difference)
    (block,) = blocks(frame(rows), plan_of(rows))
    further = comparison.tables_of(block)[1]
    assert [cell.text for cell in further.rows[0].cells][::4] == ["accuracy", "VQGraph"]
    sources = [note.split()[1] for note in table.notes if note.startswith("Published")]
    assert sources == ["GLNN", "VQGraph"]


def test_numbers_of_a_paper_that_does_not_state_its_split_stand_beside_ours_without_difference():
    where = {"dataset": "cora", "split": "public", "teacher": "sage:krd"}
    forms = {str(k): {"test_accuracy": 0.80} for k in (1, 2)}
    rows = [make_row("progmlp", 0, variants=forms, **where), make_row("", 0, 0.81, **where)]
    rows += seeds("glnn", 0.8, n=1, **where)
    (block,) = blocks(frame(rows), plan_of(rows))
    further = next(t for t in comparison.tables_of(block) if "further published" in t.title)
    told = {row.label: [cell.text for cell in row.cells[2:]] for row in further.rows}
    source = "ProGMLP, Table 2; the split is not stated"
    assert told == {
        "sage:krd": ["78.56 ± 0.64", DASH, source],
        "sage:krd → progmlp@2": ["79.28 ± 0.86", DASH, source],  # the whole alone
    }
    rows = [make_row("", 0, 0.8, dataset="cpf-cora")]
    (block,) = blocks(frame(rows), plan_of(rows))
    sources = [row.cells[-1].text for t in comparison.tables_of(block) for row in t.rows]
    assert source not in sources


def test_published_numbers_stand_beside_no_other_question():
    def heads(**protocol):
        numbers = {"": {"test_accuracy": 0.8, "prod_accuracy": 0.8}}
        rows = [make_row("glnn", s, variants=numbers, **protocol) for s in range(3)]
        return [column.head for column in table_of(rows).columns]

    assert "published" in heads(setting="production", hidden_rate=0.2)
    assert "published" not in heads(setting="production", hidden_rate=0.5)
    assert "published" in heads(self_loops=True)
    assert "published" not in heads(self_loops=False)


def test_text_fits_the_terminal():
    rows, plan = of_cora(*sweep())
    for width in (80, 120):
        text = comparison.text_table(frame(rows), plan, width)
        assert max(map(len, text.splitlines())) <= width
    assert comparison.text_table(frame([]), []) == "no cell yet\n"
    assert "(0/1) missing" in comparison.text_table(frame([]), plan[:1])


# ---- files ---------------------------------------------------------------------------------


def of_cora(rows, plan):
    rows = [row for row in rows if row.cell["protocol"]["dataset"] == "cpf-cora"]
    return rows, [cell for cell in plan if cell["dataset"] == "cpf-cora"]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    rows, plan = of_cora(*sweep())
    rows[0].ran["git_commit"] = "fedcba987654"
    rows[1].ran["git_dirty"] = True
    out = tmp_path_factory.mktemp("report") / "deeper"
    paths = comparison.write(frame(rows), plan, out, title="a_b & 50 % <b>")
    assert {path.parent for path in paths} == {out}
    assert all(path.stat().st_size for path in paths)
    return {path.name: path for path in paths}


def test_every_file_is_written(report):
    stems = [f"{name}.{kind}" for name in ("accuracy", *figures.COSTS) for kind in ("png", "svg")]
    kinds = ("md", "tex", "csv", "html")
    assert sorted(report) == sorted(
        [*stems, *(f"comparison.{kind}" for kind in kinds), "comparison_standalone.tex"]
    )


def test_the_report_says_where_it_comes_from(report):
    text = report["comparison.md"].read_text()
    assert "Caution: the rows come from 2 commits: 0123456789, fedcba9876." in text
    assert "Caution: some rows were made with uncommitted changes." in text
    assert f"gkdbench {bench.__version__}." in text
    assert "Measured with: threads 2." in text
    assert "ddof 1" in text


def test_methods_of_an_own_commit_are_named():
    of = {"sage": "aaaa", "mlp": "aaaa", "glnn": "aaaa", "tgs": "bbbb", "linkdist": "bbbb"}
    rows = pd.DataFrame(
        {
            "teacher": ["sage"] * 5,
            "student": ["", *list(of)[1:]],
            "ran.git_commit": [c * 10 for c in of.values()],
        }
    )
    told = "The rows of linkdist, tgs from bbbbbbbbbb; all others from commit aaaaaaaaaa."
    assert list(notes.commits(rows)) == [told]
    again = pd.concat([rows, rows.tail(1).assign(**{"ran.git_commit": "a" * 40})])
    (caution,) = notes.commits(again)  # one method, two commits
    assert caution.startswith("Caution: the rows come from 2 commits: aaaa")


def test_the_csv_holds_raw_fractions(report):
    table = pd.read_csv(report["comparison.csv"], keep_default_na=True)
    assert len(table) == 2 * 7
    assert table["test_accuracy_mean"].max() < 1
    first = table.iloc[1]
    assert (first["teacher"], first["student"], first["done"]) == ("sage:glnn", "glnn", 10)
    assert first["published_mean"] == 0.8054
    assert table["best"].sum() == 2


def test_the_page_is_whole_and_needs_nothing_else(report):
    seen, text = [], report["comparison.html"].read_text()

    class Page(HTMLParser):
        def handle_starttag(self, tag, attrs):
            seen.append((tag, dict(attrs)))

    Page().feed(text)
    tags = [tag for tag, _ in seen]
    assert "script" not in tags
    assert "link" not in tags
    images = [attrs["src"] for tag, attrs in seen if tag == "img"]
    assert len(images) == 3
    assert all(source.startswith("data:image/svg+xml;base64,") for source in images)
    assert "a_b &amp; 50 % &lt;b&gt;" in text
    assert "prefers-color-scheme: dark" in text


@pytest.mark.parametrize(
    ("svg", "png", "kind"),
    [
        (page.LARGE, 9, "svg+xml"),
        (page.LARGE + 1, page.LARGE, "png"),
        (page.LARGE + 1, page.LARGE + 1, "svg+xml"),
        (page.LARGE + 1, None, "svg+xml"),
    ],
)
def test_a_large_figure_is_embedded_as_its_smaller_png(tmp_path, svg, png, kind):
    figure = tmp_path / "f.svg"
    figure.write_bytes(b"s" * svg)
    if png is not None:
        (tmp_path / "f.png").write_bytes(b"p" * png)
    text = page.render("t", [], [], [figure])
    assert f"data:image/{kind};base64," in text


def compile_latex(folder, name):
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", name]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


def test_the_latex_compiles(report, tmp_path):
    for name in ("comparison.tex", "comparison_standalone.tex"):
        shutil.copy(report[name], tmp_path)
    compile_latex(tmp_path, "comparison_standalone.tex")


def test_awkward_names_compile_in_a_plain_article(tmp_path):
    awkward = 'npz:a_b^2 ~#1$%&{x}\\y<z>|"q" [b] é ð 漢 …'
    rows = [make_row("glnn", s, 0.8, dataset=awkward, teacher="[t]_1") for s in range(2)]
    rows.append(make_row("krd", 0, dataset=awkward, status="failed", reason=awkward))
    (block,) = blocks(frame(rows), plan_of(rows))
    text = latex(comparison.table_of(block), "tab:x", awkward)
    body = rf"\begin{{document}}{text}\end{{document}}"
    preamble = r"\documentclass{article}\usepackage{booktabs,graphicx}"
    (tmp_path / "x.tex").write_text(preamble + body, encoding="utf-8")
    compile_latex(tmp_path, "x.tex")


def test_the_same_rows_give_the_same_figure(report, tmp_path):
    rows, plan = of_cora(*sweep())
    measured = frame(rows).drop(columns=["macs", "latency_node_ms"])
    found = blocks(measured, plan)
    drawn = figures.draw(found, tmp_path)
    assert [path.name for path in drawn] == ["accuracy.png", "accuracy.svg"]
    assert drawn[1].read_bytes() == report["accuracy.svg"].read_bytes()


def test_far_off_methods_do_not_flatten_a_panel():
    rows, plan = of_cora(*sweep())
    (block, *_) = blocks(frame(rows), plan)
    lines = list(block.lines)
    assert 0.7 < floor_of(block, lines) < 0.8
    assert floor_of(block, lines[:3]) == -np.inf
    assert floor_of(block, lines[-1:]) == -np.inf
    assert floor_of(block, []) == -np.inf


def test_a_report_of_nothing_is_written(tmp_path):
    paths = comparison.write(frame([]), [], tmp_path, title="empty")
    assert not [path for path in paths if path.suffix in (".png", ".svg")]
    _, plan = sweep(1)
    paths = comparison.write(frame([]), plan, tmp_path, title="planned")
    assert "(0/1) missing" in (tmp_path / "comparison.md").read_text()


def test_reports_import_only_what_they_may():
    allowed = {"results", "stats", "tables", "metrics", "published", "reports", "tuning", "axes"}
    for path in Path(bench.reports.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bench"):
                parts = node.module.split(".")[1:] or [alias.name for alias in node.names]
                assert parts[0] in allowed, path
    code = "import sys, bench.reports.comparison, bench.reports.figures, bench.reports.page\n"
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
