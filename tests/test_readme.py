"""What the documents tell a reader to type works."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import bench
from bench import registry
from bench.cli import main
from bench.sweep import make, parse
from bench.tuning import write_tuned

pytestmark = pytest.mark.usefixtures("hurried")

ROOT = Path(bench.__file__).parent.parent
SWEEP = """\
datasets: ["synthetic:nodes=300,degree=6,classes=3"]
splits: [random]
teachers: [sage:glnn]
students: [mlp, glnn]
config: {sage: {max_epochs: 3}, mlp: {max_epochs: 3}, glnn: {max_epochs: 3}}
"""
ELSEWHERE = ("prepare", "ui", "track")  # network, a server, MLflow: only their options are read


def blocks(document: str, language: str) -> list[str]:
    path = ROOT / document
    if not path.is_file():
        pytest.skip(f"needs {document}: run in a clone")
    text = path.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder in which every sweep of the README is a tiny one."""
    (tmp_path / "sweeps").mkdir()
    for name in ("glnn", "quickstart"):
        (tmp_path / "sweeps" / f"{name}.yaml").write_text(SWEEP)
    (tmp_path / "sweeps" / "tune_cora.yaml").write_text(SWEEP + "tune: {trials: 2, seeds: 1000}\n")
    write_tuned(tmp_path / "sweeps" / "tuned" / "tune_cora.yaml", [])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_of_the_readme_works_in_its_order(place):
    lines = "".join(blocks("README.md", "bash")).splitlines()
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("gkdbench ")]
    assert len(commands) >= 10
    first = True
    for _, *words in commands:
        if words[0] in ELSEWHERE:
            words = [words[0], "--help"]
        if words[0] in ("run", "retry"):
            words += ["--no-track"]
        if words[0] == "run":
            words = [word.replace("cpf-cora", "synthetic") for word in words]
            words += ["--jobs", "1"] if first else ["--dry-run"]
            first = False
        if words[0] == "tune":
            words += ["--dry-run"]
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, (words, result.output)


def test_the_notebook_of_the_readme_runs(place, capsys):
    (program,) = blocks("README.md", "python")
    exec(program, {})
    assert "sage:glnn (teacher)" in capsys.readouterr().out


def test_the_sweep_of_the_readme_is_one():
    (text,) = blocks("README.md", "yaml")
    content, origin = parse(text, "README.md")
    make({"name": "readme", **content}, origin)


def test_the_student_of_the_guide_is_found_and_learns(place, monkeypatch):
    (module,) = [text for text in blocks("CONTRIBUTING.md", "python") if "(Method)" in text]
    (place / "mine.py").write_text(module)
    monkeypatch.syspath_prepend(place)
    known = {role: registry.methods(role) for role in registry.ROLES}
    known["student"] = {**known["student"], "mine": "mine"}
    monkeypatch.setattr(registry, "methods", known.get)
    names = {"dataset": "synthetic:nodes=300,degree=6,classes=3", "split": "random"}
    config = {name: {"max_epochs": 3} for name in ("gcn", "mine")}
    row = bench.run_cell(**names, teacher="gcn", student="mine", config=config)
    assert (row.status, row.reason) == ("ok", "")
    assert len(row.variants) == 1


def test_the_dataset_of_the_guide_is_read_checked_and_run(place, monkeypatch):
    (module,) = [text for text in blocks("CONTRIBUTING.md", "python") if "STATS" in text]
    (place / "papers.py").write_text(module)
    monkeypatch.syspath_prepend(place)
    known = {"module": "papers", "stats": (60, None, 8, 3), "splits": ()}
    monkeypatch.setattr(registry, "datasets", lambda: {"papers": known})
    rng = np.random.default_rng(0)
    raw = place / "data" / "papers" / "papers.npz"
    raw.parent.mkdir(parents=True)
    arrays = {"x": rng.random((60, 8)), "y": np.arange(60) % 3}
    np.savez(raw, edges=rng.integers(0, 60, (2, 200)), **arrays)
    asked = {"dataset": "papers", "split": "ratio", "data": place / "data"}
    row = bench.run_cell(**asked, student="mlp", config={"mlp": {"max_epochs": 3}})
    assert (row.status, row.reason) == ("ok", "")
    np.savez(raw, edges=np.zeros((2, 0), int), **{k: v[:59] for k, v in arrays.items()})
    row = bench.run_cell(**asked, student="mlp", config={"mlp": {"max_epochs": 3}})
    assert "dataset 'papers' has 59 nodes on disk where 60 are published" in row.reason
