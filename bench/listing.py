"""What the command line prints: plans, coverage, one cell. Returns text, imports little."""

import json
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.listing_ls import columns

if TYPE_CHECKING:
    from bench.launch import Outcome
    from bench.results import Store
    from bench.sweep import Sweep


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
        lines += ["", title, columns(texts, width)] if texts else []
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
    return f"{row.key}\n{columns({k: str(v) for k, v in flat.items()})}\n  files in {folder}"


def _flat(prefix: str, value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{prefix}.{key or '-'}" if prefix else key, inner)
    elif value not in ("", None):
        yield prefix, value
