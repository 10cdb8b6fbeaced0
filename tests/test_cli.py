import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

import bench
from bench.cli import main
from tests import outside

pytestmark = pytest.mark.usefixtures("hurried")

ROOT = Path(bench.__file__).parent.parent
DATA = "synthetic:nodes=300,degree=6,classes=3"
SWEEP = f"""\
datasets: ["{DATA}"]
splits: [random]
teachers: [gcn]
students: [mlp, glnn]
seeds: 0-1
config:
  gcn: {{max_epochs: 3}}
  mlp: {{max_epochs: 3}}
  glnn: {{max_epochs: 3}}
"""


def gkdbench(*arguments: str):
    return CliRunner().invoke(main, list(arguments), prog_name="gkdbench")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder to work in, with one sweep."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GKDBENCH_DATA", str(tmp_path / "no data"))
    (tmp_path / "small.yaml").write_text(SWEEP)
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which the sweep has run."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "small.yaml").write_text(SWEEP)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = gkdbench("run", "small.yaml", "--no-track", "--jobs", "1")
    assert result.exit_code == 0, result.output
    return folder, result


@pytest.fixture
def copy(finished, place):
    """A copy of that folder, to damage."""
    for name in ("results", "reports"):
        shutil.copytree(finished[0] / name, place / name)
    return place


# ---- refusals -------------------------------------------------------------------------------

ADHOC = ("run", "-d", "synthetic", "-t", "gcn")
REFUSED = {
    "an unknown dataset": (
        ("run", "-d", "coro", "-t", "gcn"),
        "command line: unknown dataset 'coro'; did you mean 'cora'?",
    ),
    "a missing file": (("run", "-d", "cora", "-t", "gcn"), "dataset 'cora' misses "),
    "an unknown parameter": (
        ("run", "-d", "synthetic:nods=9", "-t", "gcn"),
        "command line: dataset 'synthetic:nods=9': unknown config key 'nods'; did you mean 'nodes'",
    ),
    "an unknown split": ((*ADHOC, "--split", "rand"), "command line: unknown split 'rand'; did"),
    "an unknown setting": ((*ADHOC, "--setting", "x"), "command line: unknown setting 'x'"),
    "an unknown teacher": (("run", "-d", "synthetic", "-t", "gcm"), "command line: unknown teach"),
    "an unknown student": ((*ADHOC, "-s", "gln"), "command line: unknown student 'gln'; did you"),
    "an unknown preset": (("run", "-d", "synthetic", "-t", "gcn:x"), "command line: unknown pres"),
    "an unknown key": (
        (*ADHOC, "gcn.droput=1"),
        "command line: teacher 'gcn': unknown config key 'droput'; did you mean 'dropout'",
    ),
    "an unknown sweep key": ((*ADHOC, "sedes=1"), "command line: unknown key 'sedes'; did you mea"),
    "an override without value": ((*ADHOC, "gcn.lr="), "override 'gcn.lr=' has no value"),
    "seeds downwards": ((*ADHOC, "--seeds", "9-0"), "command line: seeds '9-0' cannot be read"),
    "seeds below zero": ((*ADHOC, "--seeds=-1"), "command line: seed -1 is not between 0 and "),
    "no dataset": ((*ADHOC[:1], "-t", "gcn"), "give a sweep file, or at least -d DATASET"),
    "no method": (ADHOC[:3], "command line: a sweep needs teachers, students or both"),
    "an unknown sweep": (("run", "smal"), "there is no sweep file smal"),
    "a folder for a sweep": (("run", "."), "there is no sweep file ."),
    "a name with a folder": ((*ADHOC, "--name", "../x"), "command line: name '../x' also names"),
    "no jobs": (("run", "small.yaml", "--jobs", "0"), "Invalid value for '--jobs'"),
    "a timeout of nan": (("run", "small.yaml", "--timeout", "nan"), "Invalid value for '--timeou"),
    "an unknown device": (("run", "small.yaml", "--device", "tpu"), "Invalid value for '--device'"),
    "an unknown command": (("runn",), "No such command 'runn'"),
    "an unknown option": (("run", "--sedes", "1"), "No such option"),
    "a missing argument": (("status",), "Missing argument 'SWEEP'"),
    "an unknown kind": (("ls", "datas"), "unknown name 'datas'; did you mean 'datasets'?"),
    "an unknown name": (("ls", "teachers", "gcm"), "unknown teacher 'gcm'; did you mean 'gcn'?"),
    "status of nothing": (("status", "nope"), "there is no sweep file nope, and none of that"),
    "retry of nothing": (("retry", "nope"), "no sweep 'nope' was run in results"),
    "show of nothing": (("show", "abc"), "no cell begins with 'abc' in results"),
    "rows of nothing": (("rows",), "there is no results folder results"),
    "report of nothing": (("report",), "there is no results folder results"),
    "replay of nothing": (("track", "--replay"), "there is no results folder results"),
    "track without replay": (("track",), "`gkdbench track` does one thing: add --replay"),
    "prepare of nothing": (("prepare", "coro"), "unknown dataset 'coro'; did you mean 'cora'?"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_one_sentence_and_leaves_nothing(case, place):
    arguments, sentence = REFUSED[case]
    result = gkdbench(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"gkdbench: {sentence}")
    assert [p.name for p in place.iterdir()] == ["small.yaml"]


def test_a_device_that_is_not_there_is_refused(place, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = gkdbench("run", "small.yaml", "--device", "cuda")
    assert result.exit_code == 2
    assert "finds no GPU here; use device 'cpu'" in result.stderr


def test_debug_shows_where_an_error_comes_from(place):
    result = gkdbench("--debug", "run", "-d", "coro", "-t", "gcn")
    assert isinstance(result.exception, ValueError)


def test_a_file_where_the_results_should_go_is_one_sentence(place):
    (place / "results").write_text("not a folder")
    result = gkdbench("run", "small.yaml", "--no-track")
    assert result.exit_code == 2
    assert result.stderr.endswith(": Not a directory\n")
    assert len(result.stderr.splitlines()) == 1


# ---- plans ----------------------------------------------------------------------------------


def test_a_dry_run_prints_the_plan_and_makes_nothing(place):
    result = gkdbench("run", "small.yaml", "seeds=0-4", "glnn.dropout=0.3", "--dry-run")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "small: 15 cells, 0 done, 15 to run",
        "",
        f"{DATA} / random / transductive",
        "    0/5   gcn          to run",
        "    0/5   mlp          to run",
        "    0/5   gcn -> glnn  to run",
    ]
    assert [p.name for p in place.iterdir()] == ["small.yaml"]


def test_the_options_are_a_matrix_and_commas_of_a_dataset_are_its_own(place):
    data = "synthetic:nodes=300,degree=6,synthetic:nodes=400"
    options = ["-d", data, "--split", "random,ratio", "--setting", "transductive,production"]
    options += ["-t", "gcn, sage:glnn", "-s", "glnn,mlp", "--seeds", "0,2-3", "--name", "mine"]
    result = gkdbench("run", *options, "--dry-run")
    assert result.exit_code == 0
    # 2 graphs x 2 splits x 2 settings x (2 teachers + mlp + 2 x glnn) x 3 seeds
    assert result.stdout.startswith("mine: 120 cells, 0 done, 120 to run")
    assert "synthetic:nodes=300,degree=6 / ratio / production" in result.stdout


def test_a_sweep_that_is_shipped_is_found_by_its_name(place):
    result = gkdbench("run", "smoke", "--dry-run")
    assert result.exit_code == 0
    assert result.stdout.startswith("smoke: 6 cells")


def test_help_and_names_need_no_torch():
    program = (
        "import sys\nfrom bench.cli import main\n"
        "for words in (['--help'], ['run', '--help'], ['ls']):\n"
        "    main(words, standalone_mode=False)\n"
        "heavy = {'torch', 'numpy', 'pandas', 'scipy', 'mlflow', 'numba', 'pydantic'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---- a finished sweep -----------------------------------------------------------------------


def test_a_run_ends_with_the_table_and_where_to_look(finished):
    folder, result = finished
    assert "gcn (teacher)" in result.stdout
    assert result.stdout.splitlines()[-2:] == [
        "small: 6 cells run, 0 done before",
        "report:  reports/small/comparison.html (and .md, .tex, .csv, figures)",
    ]
    assert result.stderr.splitlines()[-1].startswith("cost: 6 of 6 in ")
    assert (folder / "reports" / "small" / "comparison.html").is_file()


def test_the_second_run_does_nothing(copy):
    result = gkdbench("run", "small.yaml", "--no-track")
    assert result.exit_code == 0
    assert result.stdout.startswith("small: 0 cells run, 6 done before")


def test_status_is_text_or_data(copy):
    result = gkdbench("status", "small")
    assert result.exit_code == 0
    assert "    2/2   gcn -> glnn" in result.stdout.splitlines()
    result = gkdbench("status", "small.yaml", "--format", "json")
    assert [r["status"] for r in json.loads(result.stdout)] == ["ok"] * 6


def test_a_name_means_what_was_run_and_a_path_means_the_file(copy):
    (copy / "small.yaml").write_text(SWEEP.replace("0-1", "0-2"))
    assert gkdbench("status", "small").exit_code == 0
    result = gkdbench("status", "small.yaml")
    assert result.exit_code == 1
    assert "    2/3   mlp          missing: seed 2" in result.stdout.splitlines()


FIRST = "dataset split setting teacher student variant seed status test_accuracy val_accuracy "
FIRST += "tran_accuracy ind_accuracy prod_accuracy macro_f1 agreement params macs latency_ms "
FIRST += "latency_node_ms train_seconds peak_memory_mib energy_joules"


def test_rows_are_a_tidy_table(copy):
    import csv

    result = gkdbench("rows")
    assert result.exit_code == 0
    header, *lines = csv.reader(result.stdout.splitlines())
    assert header[:22] == FIRST.split()
    assert sorted({tuple(line[3:5]) for line in lines}) == [
        ("", "mlp"),
        ("gcn", ""),
        ("gcn", "glnn"),
    ]
    records = json.loads(gkdbench("rows", "small", "--format", "json").stdout)
    assert len(records) == 6
    assert records[0]["ind_accuracy"] is None
    assert list(records[0])[:22] == FIRST.split()


def test_report_writes_where_it_is_told(copy):
    result = gkdbench("report", "small", "--out", "there")
    assert result.exit_code == 0
    assert (copy / "there" / "comparison.md").is_file()


def test_a_corrupt_row_is_named_and_the_rest_goes_on(copy):
    path = next((copy / "results" / "cells").iterdir()) / "row.json"
    path.write_text(path.read_text()[:-40])
    for command in (["rows"], ["rows", "small"], ["report", "--out", "x"], ["status", "small"]):
        result = gkdbench(*command)
        assert path.parent.name in result.stderr, command
        assert result.exit_code == (1 if command[0] == "status" else 0)
    result = gkdbench("show", path.parent.name[:8])
    assert result.exit_code == 2
    assert "is not a whole record" in result.stderr
    result = gkdbench("run", "small.yaml", "--no-track", "--jobs", "1")
    assert result.exit_code == 0
    assert "small: 1 cell run, 5 done before" in result.stdout
    assert "warning: " in result.stderr
    assert list((copy / "results" / "corrupt").iterdir())


def test_retry_fills_the_holes_and_nothing_else(copy):
    (copy / "small.yaml").write_text(SWEEP.replace("0-1", "0-9"))  # what was run counts
    record = json.loads(gkdbench("status", "small", "--format", "json").stdout)[2]
    shutil.rmtree(copy / "results" / "cells" / record["key"])
    assert gkdbench("status", "small").exit_code == 1
    result = gkdbench("retry", "small.yaml", "--no-track", "--jobs", "1")
    assert result.exit_code == 0
    assert "small: 1 cell run, 5 done before" in result.stdout


def test_a_cell_is_shown_by_the_beginning_of_its_key(copy):
    key = next((copy / "results" / "cells").iterdir()).name
    result = gkdbench("show", key[:10], "--format", "json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["key"] == key
    assert len(json.loads(result.stdout)["history"]["loss"]) == 3


# ---- interrupted from outside ---------------------------------------------------------------


@pytest.fixture
def sleepy(place):
    """A sweep whose student hangs in two workers: (start, wait) it, with what it needs to stop."""
    with outside.installed(place):
        text = SWEEP.replace("mlp, glnn", "mlp, sleep").replace("  glnn", "  sleep")
        (place / "sleepy.yaml").write_text(text)
        yield place


def _start(place: Path, seconds: str) -> subprocess.Popen:
    paths = os.pathsep.join([str(ROOT), str(place)])
    mark = place / "mark"
    env = {**os.environ, "PYTHONPATH": paths, "SLEEP_SECONDS": seconds, "SLEEP_MARK": str(mark)}
    command = [sys.executable, "-m", "bench", "run", "sleepy.yaml", "--no-track", "--jobs", "2"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # Where a shell runs the tests in the background, they and their children ignore interrupts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(command, env=env, start_new_session=True, **pipes)  # type: ignore[call-overload,no-any-return]
    finally:
        signal.signal(signal.SIGINT, before)


def _until(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _running(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["SIGINT", "SIGKILL"])
def test_what_was_finished_survives_and_no_worker_does(kind, sleepy):
    process = _start(sleepy, "60")
    cells = sleepy / "results" / "cells"
    try:
        _until(lambda: (sleepy / "mark").exists())
        workers = psutil.Process(process.pid).children(recursive=True)
        assert len(workers) >= 2
        if kind == "SIGINT":
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        else:
            process.kill()
        _, errors = process.communicate(timeout=60)
        _until(lambda: not any(map(_running, workers)))
    finally:
        process.kill()
    if kind == "SIGINT":
        assert process.returncode == 1
        assert errors.strip().splitlines()[-1].startswith("gkdbench: interrupted: what is finished")
        assert "Traceback" not in errors
        assert not list(cells.glob(".*"))
    kept = {p.name: (p / "row.json").stat().st_mtime_ns for p in cells.glob("[!.]*")}
    assert kept
    result = gkdbench("run", "sleepy.yaml", "--no-track", "--jobs", "1")
    assert result.exit_code == 0, result.output
    assert f"{6 - len(kept)} cells run, {len(kept)} done before" in result.stdout
    assert not list(cells.glob(".*"))
    assert {name: (cells / name / "row.json").stat().st_mtime_ns for name in kept} == kept
