"""Names: a file in bench/teachers, bench/students or bench/datasets is found by its name.

`bench/students/rbm.py` is the student `rbm`; the one subclass of `Method` in it is the method, and
`rbm.yaml` beside it holds its presets. A dataset file declares its names in a literal `STATS`.
Other packages add files through entry points of the groups `gkdbench.teachers`,
`gkdbench.students` and `gkdbench.datasets`. Listing names imports no method and no torch.
"""

import ast
import functools
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import yaml

from bench.hparams import fields_of, resolve, unknown

if TYPE_CHECKING:
    from bench.method import Method

ROLES = {"teacher": "teachers", "student": "students"}
_HERE = Path(__file__).parent


# ---- methods --------------------------------------------------------------------------------


@functools.cache
def methods(role: str) -> dict[str, str]:
    """Map the names of all teachers or students to the modules that hold them, sorted."""
    return _modules(ROLES[role])


@functools.cache
def load_method(role: str, name: str) -> "type[Method]":
    """Import a method's class by name.

    Raises:
        ValueError: nobody has that name; the nearest one is given.
    """
    if name not in methods(role):
        raise unknown(role, name, methods(role))
    from bench.method import Method

    module = importlib.import_module(methods(role)[name])
    here = [
        thing
        for thing in vars(module).values()
        if isinstance(thing, type)
        and issubclass(thing, Method)
        and thing.__module__ == module.__name__
        and not thing.__name__.startswith("_")
    ]
    if len(here) != 1:
        raise ValueError(f"{module.__name__} must define one public subclass of Method, has {here}")
    return here[0]


def source(role: str, name: str) -> Path:
    """Return the file of a method, without importing it."""
    if name not in methods(role):
        raise unknown(role, name, methods(role))
    return _file_of(methods(role)[name])


@functools.cache
def presets(role: str, name: str) -> dict[str, Any]:
    """Return the presets of a method, `default` too: {preset: {source, config, when: [...]}}."""
    path = source(role, name).with_suffix(".yaml")
    found = yaml.load(path.read_text(), _Loader) if path.is_file() else {}
    return {"default": {"config": {}}, **(found or {})}


_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def configure(
    role: str, spec: str, overrides: Mapping[str, Any], where: Mapping[str, str]
) -> dict[str, Any]:
    """Resolve `name` or `name:preset` with overrides to a whole configuration, as plain data.

    The preset's `config` comes first, then each of its `when` entries whose conditions hold in
    `where` (dataset, split, setting, teacher), in order, then the overrides.

    Raises:
        ValueError: an unknown name, preset or key, or a value that is not allowed.
    """
    name, _, preset = spec.partition(":")
    config_class = load_method(role, name).Config
    known = presets(role, name)
    if (preset or "default") not in known:
        raise unknown(f"preset of {role} '{name}'", preset, known)
    chosen = known[preset or "default"]
    values = dict(chosen.get("config", {}))
    for entry in chosen.get("when", ()):
        conditions = {k: v for k, v in entry.items() if k != "set"}
        if all(where.get(k) in _listed(v) for k, v in conditions.items()):
            values.update(entry["set"])
    values.update(overrides)
    config = resolve(config_class, f"{role} '{spec}'", values)
    plain = {field: getattr(config, field) for field in fields_of(config_class)}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def build(role: str, name: str, config: Mapping[str, Any], sizes: tuple[int, int, int]) -> "Method":
    """Make an untrained method; `sizes` are (features, classes, observed nodes)."""
    method = load_method(role, name)
    return method(resolve(method.Config, f"{role} '{name}'", config), *sizes)


# ---- datasets -------------------------------------------------------------------------------


@functools.cache
def datasets() -> dict[str, dict[str, Any]]:
    """Map dataset names to {"module", "stats", "splits"}, read from the files without importing."""
    found = {}
    for module in _modules("datasets").values():
        literals = _literals(module)
        for name, stats in literals["STATS"].items():
            splits = literals.get("SPLITS", {}).get(name, ())
            found[name] = {"module": module, "stats": stats, "splits": splits}
    return dict(sorted(found.items()))


def dataset_module(name: str) -> ModuleType:
    """Import the file of a dataset; `name` may carry parameters after a colon.

    Raises:
        ValueError: nobody has that name; the nearest one is given.
    """
    base = name.partition(":")[0]
    if base not in datasets():
        raise unknown("dataset", base, datasets())
    return importlib.import_module(datasets()[base]["module"])


def _literals(module: str) -> dict[str, Any]:
    """Read the literal assignments STATS and SPLITS of a module's source."""
    found = {}
    for node in ast.parse(_file_of(module).read_text()).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        name = getattr(target, "id", None)
        if name in ("STATS", "SPLITS") and isinstance(node, ast.Assign | ast.AnnAssign):
            assert node.value is not None
            found[name] = ast.literal_eval(node.value)
    return found


# ---- both -----------------------------------------------------------------------------------


def _modules(kind: str) -> dict[str, str]:
    files = (_HERE / kind).glob("*.py")
    own = {f.stem: f"bench.{kind}.{f.stem}" for f in files if f.stem[0] != "_"}
    others = {e.name: e.value for e in importlib.metadata.entry_points(group=f"gkdbench.{kind}")}
    return dict(sorted({**others, **own}.items()))


def _file_of(module: str) -> Path:
    """Return the file of a module without importing it (only the packages it lies in)."""
    if module.startswith("bench."):
        return _HERE.joinpath(*module.split(".")[1:]).with_suffix(".py")
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"an entry point names the module '{module}', which has no file")
    return Path(spec.origin)
