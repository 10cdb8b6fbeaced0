"""What the command line prints: lists, plans, coverage, one cell. Returns text, imports little."""

import ast
import importlib.util
import json
import re
import shlex
import textwrap
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


# ---- ls -------------------------------------------------------------------------------------


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
    return "\n\n".join(f"{k}\n{_columns(v, width)}" for k, v in found.items())


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


def _columns(lines: dict[str, str], width: int = 10_000) -> str:
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
        return "\n\n".join(filter(None, (_columns({base: names[base]}, width), text)))
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
    parts = [text, f"hyper-parameters\n{_columns(config, width)}"]
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


# ---- plans and coverage ---------------------------------------------------------------------


def plan(sweep: "Sweep", outcome: "Outcome", width: int = 120) -> str:
    """Show what a run would do."""
    done = sum(row.done for row in outcome.rows.values())
    todo = len(outcome.cells) - done
    head = f"{sweep.name}: {_count(len(outcome.cells))}, {done:,} done, {todo:,} to run"
    return f"{head}\n{_coverage(outcome, width, missing='to run')}"


def _count(cells: int) -> str:
    return f"{cells:,} cell{'' if cells == 1 else 's'}"


def status(outcome: "Outcome", style: str, width: int = 120) -> str:
    """Show the coverage matrix: for each group how many cells are done, and why others are not."""
    if style == "text":
        return _coverage(outcome, width)
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


def _coverage(
    outcome: "Outcome", width: int, missing: str = "missing", *, lacking: bool = False
) -> str:
    """One block for each dataset, split and setting; in it one line for each method.

    With `lacking`, only the methods whose cells are not all done.
    """
    blocks: dict[Any, dict[str, list[Any]]] = {}
    for cell in outcome.cells:
        *place, teacher, student = cell.group
        block = blocks.setdefault(" / ".join(place), {})
        method = " -> ".join(filter(None, (teacher, student)))
        block.setdefault(method, []).append((cell, outcome.rows.get(cell.key)))
    lines = []
    for title, block in blocks.items():
        texts = {}
        for method, members in block.items():
            if lacking and all(row is not None and row.done for _, row in members):
                continue
            good = sum(row is not None and row.status == "ok" for _, row in members)
            texts[f"{good:>3}/{len(members):<3} {method}"] = _reasons(members, missing)
        lines += ["", title, _columns(texts, width)] if texts else []
    return "\n".join(lines)


def _reasons(members: Sequence[tuple[Any, Any]], missing: str) -> str:
    """Group what is not ok by status and reason: `failed: seeds 3, 4 (out of memory)`."""
    found: dict[tuple[str, str], list[int]] = {}
    for cell, row in members:
        if row is None or row.status != "ok":
            kind = (row.status, row.reason) if row else (missing, "")
            found.setdefault(kind, []).append(cell.seed)
    parts = []
    for (status, reason), seeds in found.items():
        which = f": seed{'s' * (len(seeds) > 1)} {_runs(seeds)}" * (len(seeds) < len(members))
        parts.append(f"{status}{which}{f' ({_short(reason)})' if reason else ''}")
    return "; ".join(parts)


def _runs(seeds: Iterable[int]) -> str:
    """Write seeds in runs: `0-4, 7`."""
    runs: list[list[int]] = []
    for seed in sorted(set(seeds)):
        if runs and seed == runs[-1][1] + 1:
            runs[-1][1] = seed
        else:
            runs.append([seed, seed])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _short(reason: str, room: int = 160) -> str:
    line = " ".join(reason.split())
    return line if len(line) <= room else line[: room - 3] + "..."


def closing(
    outcome: "Outcome", name: str, folder: Path, options: dict[str, Any], width: int = 120
) -> str:
    """Say how a run ended: the table, the files, and what to do next."""
    reused = len(outcome.cells) - outcome.ran
    lines = []
    if outcome.files:
        from bench import launch, results
        from bench.reports import comparison

        frame = results.frame(outcome.rows.values())
        wanted, baseline = launch.planned(outcome.cells), options.get("baseline", "")
        lines.append(comparison.text_table(frame, wanted, width, baseline=baseline))
    lines.append(f"{name}: {_count(outcome.ran)} run, {reused:,} done before")
    where = (
        "" if options["results"] == "results" else f" --results {shlex.quote(options['results'])}"
    )
    if outcome.unfinished():
        count = f"{_count(len(outcome.unfinished()))} not done"
        lines.append(f"{count}:\n{_coverage(outcome, width, lacking=True)}\n")
        lines.append(f"retry:   gkdbench retry {shlex.quote(name)}{where}")
    lines.append(f"report:  {folder / 'comparison.html'} (and .md, .tex, .csv, figures)")
    if not options["no_track"] and not options["uri"]:
        lines.append(f"browse:  gkdbench ui{where}")
    return "\n".join(lines)


# ---- one cell -------------------------------------------------------------------------------


def show(store: "Store", beginning: str, style: str) -> str:
    """Show a row, found by the beginning of its key."""
    keys = [key for key in store.keys() if key.startswith(beginning)]  # noqa: SIM118
    if len(keys) != 1:
        found = f"{len(keys)} cells begin" if keys else "no cell begins"
        raise ValueError(f"{found} with '{beginning}' in {store.root}; `gkdbench rows` lists keys")
    row = store.read(keys[0])
    if row is None:
        raise ValueError(f"{store.folder(keys[0])} holds no row; run its sweep again")
    if style == "json":
        return json.dumps({**vars(row), "history": store.history(row.key)}, indent=1)
    flat = dict(_flat("", {k: v for k, v in vars(row).items() if k != "key"}))
    folder = store.folder(row.key)
    return f"{row.key}\n{_columns({k: str(v) for k, v in flat.items()})}\n  files in {folder}"


def _flat(prefix: str, value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{prefix}.{key or '-'}" if prefix else key, inner)
    elif value not in ("", None):
        yield prefix, value
