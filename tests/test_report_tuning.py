import json
import shutil
import subprocess

import pandas as pd
import pytest
from click.testing import CliRunner

from bench import cli
from bench.reports import tuning
from tests.studies import make_study, make_trial, write_studies

DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


def studies():
    pruned = {"state": "pruned", "val_accuracy": 0.6}
    failed = {"state": "failed", "reason": "seed 1001 diverged: at epoch 3"}
    some = [make_trial(0, [0.80, 0.82]), make_trial(1, [0.84, 0.88], 0.02)]
    some += [make_trial(2, [], 0.05, **pruned), make_trial(3, [0.7], 0.09, **failed)]
    won = [make_trial(0, [0.6, 0.6]), make_trial(1, [0.5, 0.5], 0.02)]
    return [make_study(won, "", "mlp"), make_study(some)]


def texts(table):
    return {row.label: [cell.text for cell in row.cells] for row in table.rows}


def test_a_table_tells_cost_and_gain_of_every_student():
    (table,) = tuning.tables_of(studies())
    assert table.title == "cora, random split, transductive"
    assert list(texts(table)) == ["sage:glnn", "glnn", "no teacher", "mlp"]  # teachers first
    counts = ["4", "1", "1", "50"]
    scores = ["81.00 ± 1.41", "86.00 ± 2.83", "+5.00", "1 (search)"]
    assert texts(table)["glnn"] == counts + scores
    assert texts(table)["mlp"][-2:] == ["0.00", "0 (default)"]


def test_notes_say_what_changed_and_why_trials_failed():
    (table,) = tuning.tables_of(studies())
    assert table.notes == (
        "sage:glnn → glnn: lr 0.01 → 0.02.",
        "sage:glnn → glnn: 1 trial failed, diverged: at epoch 3.",
        "mlp: nothing beat the defaults.",
    )


def test_a_study_without_a_complete_trial_or_without_defaults_is_told():
    none = make_study([make_trial(0, [], state="failed", reason="seed 1000 failed: x")])
    (table,) = tuning.tables_of([none])
    assert texts(table)["glnn"][4:] == [DASH] * 4
    assert table.notes[0] == "sage:glnn → glnn: no trial was completed."
    trials = [make_trial(0, [], state="failed"), make_trial(1, [0.7], 0.03)]
    (table,) = tuning.tables_of([make_study(trials)])
    assert texts(table)["glnn"][4:7] == [DASH, "70.00", DASH]
    assert table.notes[0] == "sage:glnn → glnn: lr 0.03; dropout 0.5."


def test_unequal_budgets_are_told():
    assert not [line for line in tuning._told(studies()[:1]) if "Caution" in line]
    (line,) = [line for line in tuning._told(studies()) if "Caution" in line]
    assert line == "Caution: the studies have 2, 4 trials; compare them at equal budgets."


def test_the_front_of_two_objectives_is_a_table_of_its_own():
    trials = [make_trial(n, [0.8 + n / 50] * 2, 0.01 * n) for n in range(4)]
    for trial, macs in zip(trials, (9e6, 5e6, 7e6, 8e6), strict=True):
        trial["macs"] = macs
    study = make_study(trials, front=[1, 2, 3])
    study["search"]["objectives"] = ["val_accuracy", "macs"]
    first, second = tuning.tables_of([study])
    assert first.title == "cora, random split, transductive"
    assert second.title == "sage:glnn → glnn, cora, random split, transductive: the front"
    assert texts(second) == {
        "trial 3 (search)": ["86.00 ± 0.00", "8M", "lr 0.03, dropout 0.5"],
        "trial 2 (search)": ["84.00 ± 0.00", "7M", "lr 0.02, dropout 0.5"],
        "trial 1 (search)": ["82.00 ± 0.00", "5M", "lr 0.01, dropout 0.5"],
    }
    study["search"]["objectives"] = ["val_accuracy"]
    assert len(tuning.tables_of([study])) == 1


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Written by the command line from files alone."""
    folder = tmp_path_factory.mktemp("report")
    write_studies(folder / "results", studies())
    options = ["--tuning", "--results", str(folder / "results"), "--out", str(folder / "out")]
    done = CliRunner().invoke(cli.main, ["report", "hunt", *options])
    assert done.exit_code == 0, done.output
    assert "86.00 ± 2.83" in done.output
    return folder / "out"


def test_the_report_has_every_format(report):
    kinds = ("md", "tex", "csv", "html")
    assert {file.name for file in report.iterdir()} == {
        *(f"tuning.{kind}" for kind in kinds),
        *("tuning_standalone.tex", "best_of_n.csv"),
        *(f"best_of_{x}.{kind}" for x in ("trials", "seconds") for kind in ("png", "svg")),
    }
    assert "| sage:glnn → glnn | 4 | 1 | 1 | 50 |" in (report / "tuning.md").read_text()
    page = (report / "tuning.html").read_text()
    assert page.count("data:image/svg+xml") == 2
    assert "no independent draws" in page
    table = pd.read_csv(report / "tuning.csv")
    assert list(table["gain"]) == pytest.approx([0.0, 0.05])
    assert list(table["complete"]) == [2, 2]


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_the_latex_compiles(report, tmp_path):
    for name in ("tuning.tex", "tuning_standalone.tex"):
        shutil.copy(report / name, tmp_path)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tuning_standalone.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


def test_what_cannot_be_read_is_told_in_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="no tuning of 'hunt'"):
        tuning.read(tmp_path, "hunt")
    with pytest.raises(FileNotFoundError, match="no tuning of"):
        tuning.read(tmp_path, "../hunt")
    some = studies()
    write_studies(tmp_path, some)
    assert tuning.read(tmp_path, "hunt") == json.loads(json.dumps(some))
    path = tmp_path / "tuning" / some[0]["id"] / "study.json"
    for content in ("{", "[]", "{}"):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"study\.json is not what `gkdbench tune` writes"):
            tuning.read(tmp_path, "hunt")
    done = CliRunner().invoke(cli.main, ["report", "--tuning"])
    assert done.exit_code == 2
