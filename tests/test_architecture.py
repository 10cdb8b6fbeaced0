"""Who may import whom, read from the source: nothing is imported here."""

import ast
import functools
from pathlib import Path

import pytest

import bench

ROOT = Path(bench.__file__).parent

# From the bottom up: a module imports from its own layer and from those above it in this table.
# `protocol` and `sweep` are records since they turn what a cell names (its Protocol, its Choices)
# into roles and cells; `cost` is one since it measures a Method and its numbers go into a row.
LAYERS: dict[str, list[str]] = {
    "facts": [
        *(
            "kept",
            "kernels",
            "sparse",
            "fused",
            "graph",
            "hparams",
            "metrics",
            "losses",
            "layers",
            "database",
        ),
        *("data", "readers", "encodings", "reliability", "axes", "noise"),
        *("knowledge", "backbone"),
        *(
            "expert_kernels",
            "mixture",
            "expert_inputs",
            "experts",
            "expert_load",
            "norm_transform",
            "norm_merge",
        ),
    ],
    "contract": [
        *(
            "method",
            "train",
            "recipe",
            "recipe_student",
            "adversarial",
            "stages",
            "progressive",
            "norm_student",
        ),
        *("kinds", "links"),
    ],
    "plug-ins": ["datasets", "teachers", "students"],
    "records": [
        *("cell", "registry", "protocol", "splits", "cost", "energy"),
        *("sweep", "sweep_file", "expand", "entry"),
        *(
            "results",
            "store",
            "checked",
            "place",
            "provenance",
            "stats",
            "tables",
            "published",
            "diagnose",
        ),
        *("space", "tuning"),
    ],
    "reports": ["reports"],
    "composition": [
        *(
            "score",
            "run",
            "engine",
            "jobs",
            "pool",
            "cluster",
            "cluster_client",
            "cluster_worker",
            "launch",
            "tune",
            "storage",
            "study",
            "study_plots",
            "grid",
            "running",
            "hunt",
        ),
        *(
            "track",
            "track_content",
            "track_groups",
            "track_index",
            "track_store",
            "track_live",
            "track_study",
            "track_trials",
        ),
        *("track_beside", "launch_track", "launch_tune", "launch_energy"),
    ],
    "edge": [
        *("bench", "__main__", "cli", "cli_look", "cli_run", "cli_tune", "cli_report"),
        *("cli_options", "lookup", "listing", "listing_ls", "listing_tune", "doctor", "progress"),
    ],
}
PLUGINS = ("datasets", "teachers", "students")
REPORTS_READ = {"results", "store", "stats", "tables", "metrics", "published", "reports", "bench"}
REPORTS_READ |= {"tuning", "axes"}
# Only these files import it, and only inside functions.
OWNERS = {
    "mlflow": {
        "track",
        "track_content",
        "track_groups",
        "track_index",
        "track_store",
        "track_study",
    },
    "optuna": {"storage", "study", "study_plots"},
    "dask": {"cluster", "cluster_client", "cluster_worker"},
    "distributed": {"cluster", "cluster_client", "cluster_worker"},
    "codecarbon": {"energy"},
    "torch_geometric": {"datasets", "encodings"},
    "ogb": {"datasets"},
}
# Imported before any work is done: by `gkdbench --help`, listings, reports.
WITHOUT_TORCH = [
    *("bench", "__main__", "cli", "cli_look", "cli_run", "cli_tune", "cli_report"),
    *("cli_options", "lookup", "listing", "listing_ls", "progress", "registry", "cell", "hparams"),
    *(
        "results",
        "store",
        "checked",
        "stats",
        "tables",
        "published",
        "metrics",
        "sweep_file",
        "reports",
    ),
]


@functools.cache
def modules() -> dict[str, Path]:
    """Map module names, without `bench.`, to their files; the package itself is `bench`."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        found[".".join(parts) or "bench"] = path
    return found


@functools.cache
def imports(name: str) -> tuple[frozenset[str], frozenset[str]]:
    """What a module imports when it is imported, and what inside functions; for types: neither."""
    early: set[str] = set()
    late: set[str] = set()

    def visit(node: ast.AST, into: set[str]) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                into.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert not child.level, f"{name}: relative import"
                into.update(_targets(child))
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            visit(child, late if function else into)

    visit(ast.parse(modules()[name].read_text()), early)
    return frozenset(early), frozenset(late)


def _targets(node: ast.ImportFrom) -> list[str]:
    """`from bench import run` names the module bench.run, `from bench import __version__` bench."""
    assert node.module is not None
    paths = [f"{node.module}.{alias.name}" for alias in node.names]
    return [path if path.removeprefix("bench.") in modules() else node.module for path in paths]


def ours(names: frozenset[str]) -> set[str]:
    """The modules of this package among `names`, without `bench.`."""
    return {n.removeprefix("bench.") for n in names if n.partition(".")[0] == "bench"}


def packages(names: frozenset[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def top(name: str) -> str:
    return name.partition(".")[0]


def layer(name: str) -> int:
    for height, members in enumerate(LAYERS.values()):
        if top(name) in members:
            return height
    raise AssertionError(f"bench/{name} is in no layer: place it in LAYERS of {__file__}")


EVERY = sorted(modules())


@pytest.mark.parametrize("name", EVERY)
def test_a_module_imports_from_its_own_layer_or_lower_ones(name):
    early, late = imports(name)
    for other in ours(early | late) - {"bench"}:
        assert layer(other) <= layer(name), f"{name} imports {other}"


def test_the_package_itself_imports_nothing_early():
    assert not ours(imports("bench")[0])  # so that everybody may ask it for the version


@pytest.mark.parametrize("name", [n for n in EVERY if top(n) in PLUGINS])
def test_plug_ins_never_import_each_other(name):
    allowed = LAYERS["facts"] if top(name) == "datasets" else LAYERS["facts"] + LAYERS["contract"]
    early, late = imports(name)
    assert ours(early | late) <= set(allowed)


@pytest.mark.parametrize("name", [n for n in EVERY if top(n) not in PLUGINS])
def test_plug_ins_are_reached_by_name_alone(name):
    early, late = imports(name)
    assert not {other for other in ours(early | late) if top(other) in PLUGINS}


def test_no_two_modules_need_each_other_to_be_imported():
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for other in ours(imports(name)[0]) & set(EVERY):
                visit(other, (*path, name))
            done.add(name)

    for name in EVERY:
        visit(name, ())


@pytest.mark.parametrize("name", [n for n in EVERY if top(n) == "reports"])
def test_reports_read_results_and_nothing_else(name):
    early, late = imports(name)
    assert {top(other) for other in ours(early | late)} <= REPORTS_READ
    assert "torch" not in packages(early | late)


@pytest.mark.parametrize("name", [n for n in EVERY if top(n) in WITHOUT_TORCH])
def test_what_must_start_fast_is_imported_without_torch(name):
    pending, seen = [name], set()
    while pending:
        current = pending.pop()
        seen.add(current)
        early, _ = imports(current)
        assert not packages(early) & {"torch", "numba", "sklearn"}, current
        pending += ours(early) & set(EVERY) - seen


@pytest.mark.parametrize("package", OWNERS)
def test_a_large_dependency_has_one_owner_and_is_imported_late(package):
    for name in EVERY:
        early, late = imports(name)
        assert package not in packages(early), f"{name} imports {package} at module level"
        assert package not in packages(late) or top(name) in OWNERS[package], name


@pytest.mark.parametrize("name", [name for name in modules() if name[:3] == "cli"])
def test_the_command_line_imports_click_and_nothing_of_ours_but_itself(name):
    early, _ = imports(name)
    assert {n for n in ours(early) if n[:3] != "cli"} <= {"bench", "lookup"}
    assert not packages(early) & {"yaml", "numpy", "pandas", "scipy", "torch", "mlflow"}


def test_the_table_of_layers_names_each_module_once():
    members = [name for names in LAYERS.values() for name in names]
    assert len(set(members)) == len(members)
    for name in EVERY:
        layer(name)
