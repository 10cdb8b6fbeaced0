import itertools
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from bench import registry
from bench.hparams import fields_of
from bench.method import Method
from bench.protocol import SETTINGS
from bench.splits import SPLITS

ROLES = ("teacher", "student")
METHODS = [(role, name) for role in ROLES for name in registry.methods(role)]
BENCH = Path(registry.__file__).parent
PRESETS = [
    (role, name, preset) for role, name in METHODS for preset in registry.presets(role, name)
]


@pytest.fixture(autouse=True)
def _forget():
    """Leave no name of a test's own package behind."""
    caches = (registry.methods, registry.datasets, registry.load_method, registry.presets)
    yield
    for cache in caches:
        cache.cache_clear()


def where(dataset="cpf-cora", split="random", setting="transductive", teacher="sage:glnn"):
    return {"dataset": dataset, "split": split, "setting": setting, "teacher": teacher}


# ---- names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("role", "folder"), [("teacher", "teachers"), ("student", "students")])
def test_a_file_is_a_method_of_its_name(role, folder):
    files = {f.stem for f in (BENCH / folder).glob("*.py") if not f.stem.startswith("_")}
    assert set(registry.methods(role)) == files
    assert list(registry.methods(role)) == sorted(files)
    for name in files:
        method = registry.load_method(role, name)
        assert issubclass(method, Method)
        assert method.__module__ == f"bench.{folder}.{name}"
        assert registry.source(role, name) == BENCH / folder / f"{name}.py"


@pytest.mark.parametrize("call", [registry.load_method, registry.source, registry.presets])
def test_an_unknown_method_is_refused_with_the_nearest(call):
    with pytest.raises(ValueError, match=r"unknown student 'glmn'; did you mean 'glnn'\? known: "):
        call("student", "glmn")


def test_datasets_are_named_by_their_files():
    found = registry.datasets()
    assert list(found) == sorted(found)
    assert {"cora", "cpf-cora", "ogbn-arxiv", "synthetic", "npz"} <= set(found)
    assert found["cora"]["splits"] == ("public",)
    assert found["cora"]["stats"] == (2708, 10556, 1433, 7)
    for name, entry in found.items():
        module = registry.dataset_module(name)
        assert module.__name__ == entry["module"]
        assert module.STATS[name] == entry["stats"]
        assert set(entry["splits"]) <= set(SPLITS)


def test_a_dataset_name_may_carry_parameters():
    assert registry.dataset_module("synthetic:nodes=20").__name__ == "bench.datasets.synthetic"
    with pytest.raises(ValueError, match=r"unknown dataset 'cra'; did you mean 'cora'\?"):
        registry.dataset_module("cra:x=1")


def test_listing_names_imports_no_torch():
    code = (
        "import sys, bench.registry as r; r.methods('teacher'); r.methods('student'); r.datasets();"
        "[r.presets('student', n) for n in r.methods('student')];"
        "heavy = {'torch', 'numpy', 'scipy', 'pandas', 'mlflow', 'numba'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# ---- presets --------------------------------------------------------------------------------


@pytest.mark.parametrize(("role", "name", "preset"), PRESETS)
def test_every_preset_resolves_everywhere(role, name, preset):
    for dataset, setting, split in itertools.product(registry.datasets(), SETTINGS, SPLITS):
        config = registry.configure(role, f"{name}:{preset}", {}, where(dataset, split, setting))
        assert list(config) == list(fields_of(registry.load_method(role, name).Config))
        sizes = (6, 3, 10)
        if dataset in ("cpf-cora", "ogbn-arxiv") and config["hidden_dim"] <= 512:
            registry.build(role, name, config, sizes)


@pytest.mark.parametrize(("role", "name", "preset"), PRESETS)
def test_every_preset_says_where_it_is_from_and_uses_known_words(role, name, preset):
    entry = registry.presets(role, name)[preset]
    assert set(entry) <= {"source", "config", "when"}
    assert preset == "default" or "arXiv" in entry["source"]
    known = {
        "dataset": set(registry.datasets()),
        "split": set(SPLITS),
        "setting": set(SETTINGS),
        "teacher": set(registry.methods("teacher")),
    }
    for condition in entry.get("when", ()):
        assert set(condition) <= {"set", *known}  # a mistyped word would never hold
        for word in set(condition) - {"set"}:
            values = condition[word]
            assert set(values if isinstance(values, list) else [values]) <= known[word]


@pytest.mark.parametrize("teacher", ["gcn", "sage", "gat"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_teachers_of_krd_have_the_shape_and_decay_of_their_students(teacher, setting):
    shared = ("num_layers", "hidden_dim", "weight_decay", "max_epochs", "patience")
    for dataset in ("cora", "cpf-citeseer", "pubmed", "coauthor-physics", "amazon-photo"):
        place = {**where(dataset, "random", setting), "teacher": teacher}
        student = registry.configure("student", "krd", {}, place)
        config = registry.configure("teacher", f"{teacher}:krd", {}, place)
        assert {key: config[key] for key in shared} == {key: student[key] for key in shared}
        assert (config["lr"], config["norm"]) == (0.01, "none")


def test_conditions_apply_in_order_and_overrides_last(monkeypatch):
    entry = {
        "config": {"hidden_dim": 8, "lr": 0.5},
        "when": [
            {"dataset": ["cora", "cpf-cora"], "set": {"hidden_dim": 16, "dropout": 0.1}},
            {"dataset": "cpf-cora", "setting": "inductive", "set": {"hidden_dim": 32}},
            {"teacher": "gat", "set": {"dropout": 0.2}},
        ],
    }
    monkeypatch.setattr(registry, "presets", lambda role, name: {"default": {}, "mine": entry})

    def found(overrides=None, **places):
        config = registry.configure("student", "mlp:mine", overrides or {}, where(**places))
        return config["hidden_dim"], config["dropout"], config["lr"]

    assert found(dataset="pubmed") == (8, 0.0, 0.5)
    assert found(dataset="cora", setting="inductive") == (16, 0.1, 0.5)
    assert found(dataset="cpf-cora", setting="inductive") == (32, 0.1, 0.5)
    assert found(dataset="cpf-cora", setting="inductive", teacher="gat") == (32, 0.2, 0.5)
    assert found({"hidden_dim": 5}, dataset="cpf-cora", setting="inductive") == (5, 0.1, 0.5)


def test_a_name_alone_is_its_default_preset():
    cora = registry.configure("student", "glnn", {}, where())
    assert cora == registry.configure("student", "glnn:default", {}, where())
    assert (cora["dropout"], cora["weight_decay"]) == (0.6, 0.005)
    assert registry.configure("student", "glnn", {}, where("coauthor-cs"))["dropout"] == 0.0


def test_configurations_are_plain_data():
    config = registry.configure("teacher", "sage", {"fanouts": [3, 4]}, where())
    assert config["fanouts"] == [3, 4]
    assert all(isinstance(v, int | float | str | list | bool) for v in config.values())


@pytest.mark.parametrize(
    ("spec", "overrides", "why"),
    [
        ("sage:gln", {}, r"unknown preset of teacher 'sage' 'gln'; did you mean 'glnn'\?"),
        ("sagee", {}, r"unknown teacher 'sagee'; did you mean 'sage'\?"),
        ("sage", {"hiden_dim": 3}, r"'hiden_dim'; did you mean 'hidden_dim'\?"),
        ("sage:glnn", {"lr": -1}, r"teacher 'sage:glnn': lr is -1.*allowed: 1e-05 or more"),
    ],
)
def test_what_cannot_be_configured_is_said(spec, overrides, why):
    with pytest.raises(ValueError, match=why):
        registry.configure("teacher", spec, overrides, where())


# ---- other packages -------------------------------------------------------------------------

METHOD = '''
from bench.method import Method
from bench.students.mlp import PlainMLP


class Outside(PlainMLP):
    """A student of another package."""
'''


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A function that writes a module outside and announces it as an entry point."""
    points: list[EntryPoint] = []

    def write(kind: str, name: str, module: str, text: str) -> Path:
        path = tmp_path.joinpath(*module.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent != tmp_path:
            (path.parent / "__init__.py").touch()
        path.write_text(text)
        points.append(EntryPoint(name, module, f"gkdbench.{kind}"))
        _clear()
        return path

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        registry.importlib.metadata,
        "entry_points",
        lambda group: [point for point in points if point.group == group],
    )
    before = set(sys.modules)
    yield write
    for module in set(sys.modules) - before:
        if module.startswith("outside"):
            del sys.modules[module]


def _clear():
    for cache in (registry.methods, registry.datasets, registry.load_method, registry.presets):
        cache.cache_clear()


@pytest.mark.parametrize("module", ["outside_one", "outside_package.two"])
def test_another_package_adds_a_student_with_presets(outside, module):
    path = outside("students", "outside", module, METHOD)
    path.with_suffix(".yaml").write_text("wide: {source: arXiv, config: {hidden_dim: 999}}\n")
    assert "outside" in registry.methods("student")
    assert registry.source("student", "outside") == path
    config = registry.configure("student", "outside:wide", {}, where())
    assert config["hidden_dim"] == 999
    assert type(registry.build("student", "outside", config, (4, 2, 3))).__name__ == "Outside"


def test_another_package_adds_a_dataset(outside):
    text = 'STATS = {"theirs": (1, 2, 3, 4)}\nSPLITS: dict = {"theirs": ("public",)}\n'
    outside("datasets", "theirs", "outside_data", text)
    assert registry.datasets()["theirs"]["stats"] == (1, 2, 3, 4)
    assert registry.dataset_module("theirs").STATS == {"theirs": (1, 2, 3, 4)}


def test_our_own_names_cannot_be_taken_over(outside):
    outside("students", "mlp", "outside_mlp", METHOD)
    assert registry.methods("student")["mlp"] == "bench.students.mlp"


@pytest.mark.parametrize(
    "text", ["", METHOD + "\n\nclass Second(Method):\n    pass\n"], ids=["none", "two"]
)
def test_a_method_file_has_one_public_method(outside, text):
    outside("students", "outside", "outside_count", text)
    with pytest.raises(ValueError, match="outside_count must define one public subclass of Method"):
        registry.load_method("student", "outside")


def test_an_entry_point_to_nowhere_is_named(outside):
    outside("students", "gone", "outside_gone", METHOD).unlink()
    registry.importlib.invalidate_caches()
    with pytest.raises(ValueError, match="'outside_gone', which has no file"):
        registry.source("student", "gone")
