"""`gkdbench tune`, `run --tuned` and `ls space`, as a user types them."""

import json

import pytest
import yaml
from click.testing import CliRunner

from bench.cli import main

pytestmark = pytest.mark.usefixtures("hurried")

DATA = "synthetic:nodes=200,degree=6,classes=3"
SWEEP = f"""\
datasets: ["{DATA}"]
splits: [random]
teachers: [{{name: gcn, config: {{max_epochs: 3}}}}]
students: [glnn]
seeds: 0-1
cost_seeds: 0
tune:
  trials: 4
  seeds: [100]
  pruner: none
  presets: false
  space:
    glnn: {{max_epochs: [2, 8], num_layers: 2, dropout: 0.0, label_weight: 0.0, weight_decay: 0.0}}
"""


def gkdbench(*arguments: str):
    return CliRunner().invoke(main, list(arguments), prog_name="gkdbench")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A folder in which a sweep was tuned, and what was printed."""
    folder = tmp_path_factory.mktemp("tuned")
    (folder / "small.yaml").write_text(SWEEP)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = gkdbench("tune", "small.yaml", "--no-track", "--jobs", "1")
    assert result.exit_code == 0, result.output
    return folder, result.output


def test_tuning_prints_what_won_writes_it_and_names_the_next_command(tuned):
    folder, output = tuned
    (entry,) = yaml.safe_load((folder / "tuned" / "small.yaml").read_text())["tuned"]
    assert (entry["student"], entry["teacher"], entry["trials"]) == ("glnn", "gcn", 4)
    assert f"{100 * entry['val_accuracy']:.2f}" in output
    assert "gkdbench run small.yaml --tuned" in output
    assert (folder / "reports" / "small-tuning" / "tuning.md").is_file()


def test_the_same_command_again_does_nothing_and_prints_the_same_result(tuned, monkeypatch):
    folder, _ = tuned
    monkeypatch.chdir(folder)
    before = (folder / "tuned" / "small.yaml").read_text()
    result = gkdbench("tune", "small.yaml", "--no-track", "--jobs", "1")
    assert result.exit_code == 0
    assert "trials in this call" not in result.output
    assert (folder / "tuned" / "small.yaml").read_text() == before


def test_a_tuned_run_has_the_student_twice(tuned, monkeypatch):
    folder, _ = tuned
    monkeypatch.chdir(folder)
    result = gkdbench("run", "small.yaml", "--tuned", "--no-track", "--jobs", "1")
    assert result.exit_code == 0, result.output
    assert "glnn (tuned)" in result.output
    frame = gkdbench("rows", "small", "--format", "json").output
    found = json.loads(frame)
    assert {r["student"] for r in found if r["student"]} == {"glnn", "glnn (tuned)"}
    assert {r["seed"] for r in found} == {0, 1}
    assert gkdbench("rows", "small.yaml", "--format", "json").output == frame
    path = folder / "small.yaml"
    kept = path.read_text()
    path.write_text(kept.replace("seeds: 0-1", "seeds: 0"))  # the file says what is wanted
    narrow = json.loads(gkdbench("rows", "small.yaml", "--format", "json").output)
    path.write_text(kept)
    assert {(r["student"], r["seed"]) for r in narrow if r["student"]} == {
        ("glnn", 0),
        ("glnn (tuned)", 0),
    }


def test_a_dry_run_tells_the_budget_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SWEEP)
    result = gkdbench("tune", "small.yaml", "tune.trials=7", "--dry-run")
    assert "1 studies, 7 trials each, of 1 seeds (100): at most 7 fits" in result.output
    assert "lr, max_epochs, temperature" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


def test_a_dry_run_lists_nothing_that_a_pin_switches_off(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SWEEP)
    pinned = "tune.space={krd: {reliable_sampling: false}}"
    shown = gkdbench("tune", "small.yaml", "students=krd", "--dry-run").output
    assert "reliability_momentum" in shown
    shown = gkdbench("tune", "small.yaml", "students=krd", pinned, "--dry-run").output
    assert "temperature" in shown
    assert "reliability_momentum" not in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tune", "plain.yaml"], "sweep 'plain' has no `tune`; add `tune: {trials: 32}` to it"),
        (["tune", "none.yaml"], "there is no sweep file none.yaml"),
        (["tune", "small.yaml", "tune.seeds=1"], "seed 1 is tuned on and reported"),
        (["tune", "small.yaml", "tune.sampler=x"], "tune.sampler is 'x'"),
        (["tune", "small.yaml", "--storage", "nosql://x"], "the storage nosql://x cannot be used"),
        (["run", "small.yaml", "--tuned"], "`gkdbench tune` writes it"),
        (["run", "-d", DATA, "-s", "mlp", "--tuned"], "--tuned needs a sweep file"),
        (["run", "small.yaml", "--tuned-file", "no.yaml"], "there is no no.yaml"),
        (["tune", "small.yaml", "device=cuda"], "torch finds no GPU here"),
        (["tune", "small.yaml", "device=cuda", "--engine", "dask"], "needs the address of its sch"),
        (["ls", "space", "glmn"], "unknown student 'glmn'; did you mean 'glnn'?"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SWEEP)
    (tmp_path / "plain.yaml").write_text(SWEEP.partition("tune:")[0])
    result = gkdbench(*arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_the_next_command_is_that_of_this_search(tuned, tmp_path, monkeypatch):
    folder, _ = tuned
    monkeypatch.chdir(folder)
    out = str(tmp_path / "won.yaml")
    options = ["--no-track", "--jobs", "1", "--results", str(tmp_path / "rows")]
    text = gkdbench("tune", "small.yaml", "tune.trials=1", "seeds=3", "--out", out, *options).output
    command = text.partition("Next: ")[2].splitlines()[0]
    assert command == (
        f"gkdbench run small.yaml seeds=3 --tuned-file {out} --results {tmp_path / 'rows'}"
    )
    result = gkdbench(*command.split()[1:], "--no-track", "--jobs", "1")
    assert result.exit_code == 0, result.output


def test_a_run_says_so_where_budgets_differ_and_where_nothing_was_tuned(tuned, monkeypatch):
    folder, _ = tuned
    monkeypatch.chdir(folder)
    content = yaml.safe_load((folder / "tuned" / "small.yaml").read_text())
    (entry,) = content["tuned"]
    other = {**entry, "student": "mlp", "teacher": "", "trials": 9, "start": ""}
    (folder / "two.yaml").write_text(yaml.safe_dump({"tuned": [entry, other]}))
    shown = gkdbench(
        "run", "small.yaml", "students=glnn,mlp", "--tuned-file", "two.yaml", "--dry-run"
    )
    assert "warning: the budgets of tuning differ, in trials: glnn 4, mlp 9" in shown.output
    size = DATA.replace("nodes=200", "nodes=210")
    elsewhere = {**entry, "dataset": size, "trials": 9}
    (folder / "sizes.yaml").write_text(yaml.safe_dump({"tuned": [entry, elsewhere]}))
    both = f"datasets=['{DATA}','{size}']"
    shown = gkdbench("run", "small.yaml", both, "--tuned-file", "sizes.yaml", "--dry-run")
    assert "warning: the budgets of tuning differ, in trials: glnn 4, glnn 9" in shown.output
    shown = gkdbench("run", "small.yaml", "students=krd", "--tuned", "--dry-run")
    assert "warning: no student of this run was tuned" in shown.output
    shown = gkdbench("run", "small.yaml", "--tuned", "--dry-run")
    assert "warning" not in shown.output


def test_the_space_of_a_student_is_printed_and_is_data():
    assert "adversarial_weight is on" in gkdbench("ls", "space", "nosmog").output
    assert "reliable_sampling is on" in gkdbench("ls", "space", "krd").output
    table = gkdbench("ls", "space", "progmlp").output.partition("A sweep can")[0]
    assert "num_stages" in table
    assert "reliab" not in table  # no preset switches that on
    space = json.loads(gkdbench("ls", "space", "rbm", "--format", "json").output)
    assert space["num_experts"] == {
        "name": "num_experts", "whole": True, "low": 2, "high": 8, "log": False, "values": [],
        "when": "",
    }  # fmt: skip
