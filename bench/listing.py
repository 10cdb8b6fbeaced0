"""What the command line prints: lists, plans, coverage, one cell. Returns text, imports little."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import registry
from bench.hparams import unknown

if TYPE_CHECKING:
    from bench.launch import Outcome
    from bench.results import Store
    from bench.sweep import Sweep

KINDS = ("datasets", "splits", "settings", "teachers", "students", "sweeps")
SPLITS = {
    "default": "what the dataset ships, else random",
    "public": "the split that ships with Planetoid, WebKB, Actor",
    "random": "largest component, 20 train + 30 val nodes of each class (CPF, GLNN)",
    "official": "OGB's split",
    "ratio": "stratified 50 / 25 / 25 %",
}
SETTINGS = {
    "transductive": "all nodes visible while training",
    "production": "20 % of the test nodes unseen; tran, ind and prod = 0.8 tran + 0.2 ind (GLNN)",
    "inductive": "scored on unseen nodes only; all test nodes of a public split (KRD, RbM)",
}


# ---- ls -------------------------------------------------------------------------------------


def ls(kind: str, name: str, style: str, sweep_folders: Iterable[Path]) -> str:
    """List names, or tell all about one."""
    if kind != "all" and kind not in KINDS:
        plural = {k.removesuffix("s"): k for k in KINDS}
        if kind not in plural:
            raise unknown("kind", kind, KINDS)
        kind = plural[kind]
    if name:
        return _one(kind, name, style)
    found = {k: _names(k, sweep_folders) for k in (KINDS if kind == "all" else (kind,))}
    if style == "json":
        return json.dumps(found, indent=1)
    return "\n\n".join(f"{k}\n{_columns(v)}" for k, v in found.items())


def _names(kind: str, sweep_folders: Iterable[Path]) -> dict[str, str]:
    """Map the names of a kind to one line each."""
    if kind == "datasets":
        return {name: _dataset_line(facts) for name, facts in registry.datasets().items()}
    if kind == "splits":
        return SPLITS
    if kind == "settings":
        return SETTINGS
    if kind == "sweeps":
        files = [f for folder in sweep_folders if folder.is_dir() for f in folder.glob("*.yaml")]
        return {f.stem: _first_comment(f) for f in sorted(files, key=lambda f: f.stem)}
    role = kind.removesuffix("s")
    return {name: _method_line(role, name) for name in registry.methods(role)}


def _dataset_line(facts: dict[str, Any]) -> str:
    splits = ", ".join([*facts["splits"], "random", "ratio"])
    if facts["stats"] is None:
        return f"parameters after a colon; splits {splits}"
    nodes, edges, features, classes = facts["stats"]
    shown = "?" if edges is None else f"{edges:,}"
    return f"{nodes:,} nodes, {shown} stored edges, {features:,} features, {classes} classes; {splits}"


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


def _columns(lines: dict[str, str]) -> str:
    width = max((len(name) for name in lines), default=0)
    return "\n".join(f"  {name:<{width}}  {text}".rstrip() for name, text in lines.items())


def _one(kind: str, name: str, style: str) -> str:
    if kind not in ("teachers", "students"):
        names = _names(kind, [Path("sweeps")])
        if name not in names:
            raise unknown(kind.removesuffix("s"), name, names)
        return json.dumps({name: names[name]}) if style == "json" else f"{name}  {names[name]}"
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
    parts = [text, f"hyper-parameters\n{_columns(config)}"]
    return "\n\n".join([*parts, *(_preset(p, v) for p, v in facts["presets"].items())])


def _range(limits: Any) -> dict[str, Any]:
    if limits is None:
        return {}
    return {k: v for k, v in vars(limits).items() if v not in (None, False)}


def _shown(facts: dict[str, Any]) -> str:
    if "choices" in facts:
        return f"{facts['default']}  of {', '.join(map(str, facts['choices']))}"
    limits = [f"{facts[k]:g}" if k in facts else "" for k in ("low", "high")]
    scale = ", log" if facts.get("log") else ""
    return f"{facts['default']}  [{' .. '.join(limits)}{scale}]" if any(limits) else str(facts["default"])


def _preset(name: str, content: dict[str, Any]) -> str:
    lines = [f"preset {name}: {content.get('source', 'the defaults above')}"]
    lines += [f"  {_pairs(content['config'])}"] if content.get("config") else []
    for entry in content.get("when", ()):
        conditions = {k: v for k, v in entry.items() if k != "set"}
        lines.append(f"  where {_pairs(conditions)}: {_pairs(entry['set'])}")
    return "\n".join(lines)


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in values.items())


# ---- plans and coverage ---------------------------------------------------------------------


def plan(sweep: "Sweep", outcome: "Outcome") -> str:
    """Show what a run would do."""
    done = sum(row.done for row in outcome.rows.values())
    lines = [f"{sweep.name}: {len(outcome.cells):,} cells, {done:,} done, "
             f"{len(outcome.cells) - done:,} to run"]  # fmt: skip
    return "\n".join([*lines, *_coverage(outcome)])


def status(outcome: "Outcome", style: str) -> str:
    """Show the coverage matrix: for each group how many cells are done, and why others are not."""
    if style == "text":
        return "\n".join(_coverage(outcome))
    records = []
    for cell in outcome.cells:
        row = outcome.rows.get(cell.key)
        names = ("dataset", "split", "setting", "teacher", "student")
        records.append(
            {
                **dict(zip(names, cell.group, strict=True)),
                "seed": cell.seed,
                "key": cell.key,
                "status": row.status if row else "missing",
                "reason": row.reason if row else "",
            }
        )
    return json.dumps(records, indent=1)


def _coverage(outcome: "Outcome") -> list[str]:
    groups: dict[Any, list[Any]] = {}
    for cell in outcome.cells:
        groups.setdefault(cell.group, []).append((cell, outcome.rows.get(cell.key)))
    lines = []
    for group, members in groups.items():
        good = sum(row is not None and row.status == "ok" for _, row in members)
        dataset, split, setting, teacher, student = group
        method = " -> ".join(filter(None, (teacher, student)))
        head = f"{dataset} / {split} / {setting}   {method}"
        notes = _reasons(members)
        lines.append(f"{good:>4}/{len(members):<4} {head}{'   ' + notes if notes else ''}")
    return lines


def _reasons(members: Sequence[tuple[Any, Any]]) -> str:
    """Group what is not ok by status and reason: `failed 2 (seeds 3, 4: out of memory)`."""
    found: dict[tuple[str, str], list[int]] = {}
    for cell, row in members:
        if row is None or row.status != "ok":
            kind = (row.status, row.reason) if row else ("missing", "")
            found.setdefault(kind, []).append(cell.seed)
    parts = []
    for (kind, reason), seeds in found.items():
        shown = ", ".join(map(str, seeds[:8])) + (", ..." if len(seeds) > 8 else "")
        parts.append(f"{kind} {len(seeds)} (seeds {shown}{': ' + reason if reason else ''})")
    return "; ".join(parts)


def closing(outcome: "Outcome", name: str, folder: Path, options: dict[str, Any]) -> str:
    """Say how a run ended: the table, the files, and what to do next."""
    reused = len(outcome.cells) - outcome.ran
    lines = []
    if outcome.files:
        from bench import launch, results
        from bench.cli import _width
        from bench.reports import comparison

        frame = results.frame(outcome.rows.values())
        lines.append(comparison.text_table(frame, launch.planned(outcome.cells), _width()))
    lines.append(f"{name}: {outcome.ran:,} cells run, {reused:,} done before")
    for cell, reason in outcome.unfinished()[:10]:
        lines.append(f"  not done: {' / '.join(filter(None, cell.group))}, seed {cell.seed}: {reason}")
    if outcome.unfinished():
        lines.append(f"  try again with: gkdbench retry {name}")
    where = "" if options["results"] == "results" else f" --results {options['results']}"
    lines.append(f"report:  {folder / 'comparison.html'} (and .md, .tex, .csv, figures)")
    if not options["no_track"] and not options["uri"]:
        lines.append(f"browse:  gkdbench ui{where}")
    return "\n".join(lines)


# ---- one cell -------------------------------------------------------------------------------


def show(store: "Store", beginning: str, style: str) -> str:
    """Show a row, found by the beginning of its key."""
    keys = [key for key in store.keys() if key.startswith(beginning)]
    if len(keys) != 1:
        found = f"{len(keys)} cells begin" if keys else "no cell begins"
        raise ValueError(f"{found} with '{beginning}' in {store.root}; `gkdbench rows` lists keys")
    row = store.read(keys[0])
    assert row is not None
    if style == "json":
        return json.dumps({**vars(row), "history": store.history(row.key)}, indent=1)
    flat = dict(_flat("", {k: v for k, v in vars(row).items() if k != "key"}))
    folder = store.folder(row.key)
    return f"{row.key}\n{_columns({k: str(v) for k, v in flat.items()})}\n  files in {folder}"


def _flat(prefix: str, value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else (key or "-"), inner)
    elif value not in ("", None):
        yield prefix, value
