import subprocess
import sys

import pytest

import bench

pytestmark = pytest.mark.usefixtures("hurried")

MATRIX = {
    "datasets": "synthetic:nodes=300,degree=6,classes=3",
    "splits": "random",
    "teachers": "gcn",
    "students": ["mlp", "glnn"],
    "config": {name: {"max_epochs": 3} for name in ("gcn", "mlp", "glnn")},
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def frame(results):
    return bench.run_sweep(MATRIX, results, seeds=range(2))


def test_importing_the_package_imports_nothing_heavy():
    program = "import sys, bench; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_sweep_gives_one_line_a_cell_in_the_order_of_the_plan(frame):
    assert list(frame.student) == ["", "", "mlp", "mlp", "glnn", "glnn"]
    assert list(frame.seed) == [0, 1] * 3
    assert set(frame.status) == {"ok"}


def test_a_sweep_file_is_run_with_overrides(results, tmp_path, frame):
    import yaml

    path = tmp_path / "mine.yaml"
    path.write_text(yaml.dump({**MATRIX, "seeds": "0-9"}))
    again = bench.run_sweep(path, results, seeds=[1], students=["glnn"])
    assert list(again.student) == ["", "glnn"]
    both = ["key", "test_accuracy"]
    assert again[both].values.tolist() == frame[both].values[[1, 5]].tolist()


def test_one_cell_is_run_with_its_teacher(results, frame):
    names = {"dataset": MATRIX["datasets"], "split": "random", "results": results}
    config = {name: {"max_epochs": 3} for name in ("gcn", "glnn")}
    row = bench.run_cell(**names, teacher="gcn", student="glnn", seed=1, config=config)
    assert row.key == frame.key[5]
    row = bench.run_cell(**names, student="mlp", config={"mlp": {"max_epochs": 2}})
    assert (row.status, row.fit["epochs"]) == ("ok", 2)
    assert (
        bench.run_cell(**names, teacher="gcn", config={"gcn": {"max_epochs": 3}}).key
        == frame.key[0]
    )


def test_a_results_folder_is_loaded(results, frame):
    loaded = bench.load(results)
    assert set(frame.key) <= set(loaded.key)
    with pytest.raises(FileNotFoundError, match="there is no results folder nowhere"):
        bench.load("nowhere")


def test_the_comparison_is_a_frame_or_text(frame):
    found = bench.table(frame, "frame")
    line = found[found.student == "glnn"].iloc[0]
    assert line.test_accuracy_mean == pytest.approx(frame.test_accuracy[4:].mean())
    assert line.test_accuracy_n == 2
    assert "| gcn → glnn |" in bench.table(frame, "markdown")
    assert "gcn (teacher)" in bench.table(frame)
    with pytest.raises(ValueError, match="unknown style 'html'"):
        bench.table(frame, "html")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sedes": 3}, "arguments: unknown key 'sedes'; did you mean 'seeds'"),
        ({"teachers": "gcm"}, "arguments: unknown teacher 'gcm'; did you mean 'gcn'"),
        ({"seeds": -1}, "arguments: seed -1 is not between"),
        ({"config": {"sage": {}}}, "arguments: config names no method 'sage'"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_written(changes, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        bench.run_sweep(MATRIX, tmp_path / "results", **changes)
    assert not (tmp_path / "results").exists()


def test_a_cell_without_a_method_is_refused(tmp_path):
    with pytest.raises(ValueError, match="needs teachers, students or both"):
        bench.run_cell(dataset="synthetic", results=tmp_path)
