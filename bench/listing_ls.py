"""What `gkdbench ls` prints: the names of everything, or all about one. Imports little."""

import ast
import importlib.util
import json
import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench import registry
from bench.hparams import unknown

KINDS = ("datasets", "splits", "settings", "teachers", "students", "sweeps")
SPLITS = {
    "default": "what the dataset ships, else random",
    "public": "the split that ships with Planetoid, WebKB, Actor",
    "random": "largest component, 20 train + 30 val nodes of each class (CPF, GLNN); options: "
    "random:train=5 (train nodes of each class), random:imbalance=10 (largest to smallest class)",
    "official": "OGB's split",
    "ratio": "stratified 50 / 25 / 25 %",
}
SETTINGS = {
    "transductive": "all nodes visible while training",
    "production": "20 % of the test nodes unseen; tran, ind and prod = 0.8 tran + 0.2 ind (GLNN)",
    "inductive": "scored on unseen nodes only; all test nodes of a public split (KRD, RbM)",
}


def ls(kind: str, name: str, style: str, sweep_folders: Sequence[Path], width: int = 10_000) -> str:
    """List names, or tell all about one; a name alone is looked for among all kinds."""
    kind = {k.removesuffix("s"): k for k in KINDS}.get(kind, kind)
    if kind == "all" or (kind not in KINDS and not name):
        every = {k: _names(k, sweep_folders) for k in KINDS}
        name = "" if kind == "all" else kind
        holders = [k for k in KINDS if name.partition(":")[0] in every[k]]
        if name and not holders:
            raise unknown("name", name, {*KINDS, *(n for names in every.values() for n in names)})
        if not name:
            return _lists(every, style, width)
        kind = holders[0]
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    if name:
        return _one(kind, name, style, sweep_folders, width)
    return _lists({kind: _names(kind, sweep_folders)}, style, width)


def _lists(found: dict[str, dict[str, str]], style: str, width: int) -> str:
    if style == "json":
        return json.dumps(found, indent=1)
    return "\n\n".join(f"{k}\n{columns(v, width)}" for k, v in found.items())


def _names(kind: str, sweep_folders: Iterable[Path]) -> dict[str, str]:
    """Map the names of a kind to one line each."""
    if kind == "datasets":
        return {name: _dataset_line(facts) for name, facts in registry.datasets().items()}
    if kind == "splits":
        return SPLITS
    if kind == "settings":
        return SETTINGS
    if kind == "sweeps":
        return {f.stem: _first_comment(f) for f in _sweep_files(sweep_folders)}
    role = kind.removesuffix("s")
    return {name: _method_line(role, name) for name in registry.methods(role)}


def _sweep_files(folders: Iterable[Path]) -> list[Path]:
    found = {f.stem: f for folder in reversed(list(folders)) for f in folder.glob("*.yaml")}
    return [found[stem] for stem in sorted(found)]


def _dataset_line(facts: dict[str, Any]) -> str:
    splits = ", ".join([*facts["splits"], "random", "ratio"])
    if facts["stats"] is None:
        return f"parameters after a colon; splits {splits}"
    nodes, edges, features, classes = facts["stats"]
    shown = "?" if edges is None else f"{edges:,}"
    return (
        f"{nodes:,} nodes, {shown} stored edges, {features:,} features, {classes} classes; {splits}"
    )


def _method_line(role: str, name: str) -> str:
    presets = ", ".join(f"{name}:{p}" for p in registry.presets(role, name) if p != "default")
    return _summary(role, name) + (f"  presets: {presets}" if presets else "")


def _summary(role: str, name: str) -> str:
    """Read the first sentence of a method's file without importing it."""
    text = registry.source(role, name).read_text()
    match = re.match(r'"""(?:[^:\n]*: )?(.*?)(?:\.\s|\n)', text)
    return match[1] if match else ""


def _first_comment(path: Path) -> str:
    first = path.read_text().partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def columns(lines: dict[str, str], width: int = 10_000) -> str:
    """Set names and texts side by side; a long text goes on below its beginning."""
    first = max((len(name) for name in lines), default=0)
    room = max(30, width - first - 4)
    shown = []
    for name, text in lines.items():
        pieces = textwrap.wrap(text, room) if len(text) > room else [text]
        for place, piece in enumerate(pieces):
            shown.append(f"  {'' if place else name:<{first}}  {piece}".rstrip())
    return "\n".join(shown)


def _one(kind: str, name: str, style: str, sweep_folders: Iterable[Path], width: int) -> str:
    if kind not in ("teachers", "students"):
        names, base = _names(kind, sweep_folders), name.partition(":")[0]
        if base not in names:
            raise unknown(kind.removesuffix("s"), name, names)
        if style == "json":
            return json.dumps({base: names[base]}, indent=1)
        if kind == "sweeps":
            return (
                next(f for f in _sweep_files(sweep_folders) if f.stem == base).read_text().rstrip()
            )
        text = _documentation(base) if kind == "datasets" else ""
        return "\n\n".join(filter(None, (columns({base: names[base]}, width), text)))
    name = name.partition(":")[0]
    role = kind.removesuffix("s")
    method = registry.load_method(role, name)
    facts = {
        "config": {
            field: {"default": f.default, **_range(f.metadata.get("range"))}
            for field, f in registry.fields_of(method.Config).items()
        },
        "presets": registry.presets(role, name),
    }
    if style == "json":
        return json.dumps(facts, indent=1)
    import inspect

    text = inspect.getdoc(inspect.getmodule(method)) or ""
    config = {k: _shown(v) for k, v in facts["config"].items()}
    parts = [text, f"hyper-parameters\n{columns(config, width)}"]
    return "\n\n".join([*parts, *(_preset(p, v) for p, v in facts["presets"].items())])


def _documentation(dataset: str) -> str:
    """Read the docstring of a dataset's file without importing it."""
    spec = importlib.util.find_spec(registry.datasets()[dataset]["module"])
    assert spec is not None
    assert spec.origin is not None
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text())) or ""


def _range(limits: Any) -> dict[str, Any]:
    if limits is None:
        return {}
    return {k: v for k, v in vars(limits).items() if v is not None and v is not False and v != ""}


def _shown(facts: dict[str, Any]) -> str:
    if "choices" in facts:
        return f"{facts['default']}  of {', '.join(map(str, facts['choices']))}"
    limits = [f"{facts[k]:g}" if k in facts else "" for k in ("low", "high")]
    scale = ", log" if facts.get("log") else ""
    return (
        f"{facts['default']}  [{' .. '.join(limits)}{scale}]"
        if any(limits)
        else str(facts["default"])
    )


def _preset(name: str, content: dict[str, Any]) -> str:
    lines = [f"preset {name}: {content.get('source', 'the defaults above')}"]
    lines += [f"  {_pairs(content['config'])}"] if content.get("config") else []
    for entry in content.get("when", ()):
        conditions = {k: v for k, v in entry.items() if k != "set"}
        lines.append(f"  where {_pairs(conditions)}: {_pairs(entry['set'])}")
    return "\n".join(lines)


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in values.items())
