"""What tuning cost and gained, student by student, from the files that `gkdbench tune` writes.

All numbers are of val nodes and of tuning seeds: they say how a student was chosen, not how good it
is. `budget.py` draws what a smaller budget would have found.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import bench
from bench.reports import budget, front
from bench.reports.front import name_of, shown
from bench.stats import Difference, Spread, spread
from bench.tables import (
    DASH,
    Cell,
    Column,
    Row,
    Table,
    compact,
    latex,
    latex_document,
    markdown,
    percent,
    plain,
    points,
)
from bench.tuning import best_trial, default_trial, read_studies

Study = Mapping[str, Any]

_COLUMNS = (
    Column("trials"),
    Column("pruned", dispensable=4),
    Column("failed", dispensable=3),
    Column("fits took", "s"),
    Column("default", "val %", 2),
    Column("tuned", "val %"),
    Column("gain", "points"),
    Column("trial", "that won", 1),
)
LEGEND = (
    "Val accuracy in percent, mean ± standard deviation over the tuning seeds (ddof 1). Tuned: the "
    "best of all trials, and so optimistic."
)
CAPTIONS = {
    "best_of_trials": "What a budget of n trials finds. " + budget.CAPTION,
    "best_of_seconds": "The same against the time of the fits: n trials take n times the mean of "
    "the study. " + budget.CAPTION,
}


def read(results: str | Path, sweep: str) -> list[dict[str, Any]]:
    """Read the studies of a sweep; the errors are those of `bench.tuning.read_studies`."""
    return read_studies(Path(results), sweep)


def write(studies: Sequence[Study], out: Path, *, title: str) -> list[Path]:
    """Write the report into the folder `out` and return its files.

    Args:
        studies: `read`'s.
        out: created where it is missing; files of the same name are replaced.
        title: the sweep's name.

    Returns:
        tuning.md, .tex (to include), _standalone.tex (to compile), .csv, .html, best_of_n.csv and
        the figures.
    """
    from bench.reports import page

    out.mkdir(parents=True, exist_ok=True)
    head = f"{title}: tuning"
    tables, told = tables_of(studies), _told(studies)
    foot = "\n".join(f"- {sentence}" for sentence in told)
    texts = {
        "tuning.md": "\n".join(
            [f"# {head}", "", *map(markdown, tables), "## How to read", "", foot, ""]
        ),
        "tuning.tex": _latex(tables, told),
        "tuning_standalone.tex": latex_document(head, "tuning", told),
    }
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8")
    summary(studies).to_csv(out / "tuning.csv", index=False)
    budget.frame(studies).to_csv(out / "best_of_n.csv", index=False)
    drawn = budget.draw(studies, out)
    html = page.render(head, tables, told, drawn, captions=CAPTIONS)
    (out / "tuning.html").write_text(html, encoding="utf-8")
    names = [*texts, "tuning.csv", "best_of_n.csv", "tuning.html"]
    return [*(out / name for name in names), *drawn]


def text_table(studies: Sequence[Study], width: int = 120) -> str:
    """Return the tables for a terminal of `width` columns; narrow ones get fewer columns."""
    return "\n".join(plain(table, width) for table in tables_of(studies)) or "no study yet\n"


# ---- tables ---------------------------------------------------------------------------------


def tables_of(studies: Sequence[Study]) -> list[Table]:
    """Return one table for each (dataset, split, setting), and then the fronts of studies."""
    blocks: dict[tuple[str, str, str], list[Study]] = {}
    for study in studies:
        where = study["where"]
        key = where["dataset"], where["split"], where["setting"]
        blocks.setdefault(key, []).append(study)
    return [*(_table(*key, block) for key, block in blocks.items()), *front.tables_of(studies)]


def _table(dataset: str, split: str, setting: str, studies: Sequence[Study]) -> Table:
    groups: dict[str, list[Study]] = {}
    for study in studies:
        groups.setdefault(study["where"]["teacher"], []).append(study)
    rows: list[Row] = []
    notes: list[str] = []
    for teacher in sorted(groups, key=lambda name: not name):  # without a teacher: at the end
        if len(groups) > 1 or teacher:
            rows.append(Row(teacher or "no teacher", (), heading=True))
        rows += [_row(study) for study in groups[teacher]]
        notes += [sentence for study in groups[teacher] for sentence in _notes(study)]
    return Table(f"{dataset}, {split} split, {setting}", _COLUMNS, tuple(rows), tuple(notes))


def _row(study: Study) -> Row:
    best, default, trials = best_trial(study), default_trial(study), study["trials"]
    counts = [sum(t["state"] == state for t in trials) for state in ("pruned", "failed")]
    gain = best["val_accuracy"] - default["val_accuracy"] if best and default else math.nan
    cells = [
        Cell(str(len(trials))),
        *(Cell(str(count), faint=not count) for count in counts),
        Cell(compact(sum(t["seconds"] for t in trials))),
        Cell(percent(_seeds(default))),
        Cell(percent(_seeds(best))),
        Cell(points(Difference(gain, math.nan, math.nan, 1))),
        Cell(f"{best['number']} ({_origin(best)})" if best else DASH),
    ]
    return Row(study["where"]["student"], tuple(cells), full_label=name_of(study))


def _seeds(trial: Mapping[str, Any] | None) -> Spread:
    return spread(trial["seeds"] if trial else {})


def _origin(trial: Mapping[str, Any]) -> str:
    return trial["origin"] or "search"


def _notes(study: Study) -> Iterator[str]:
    """Say what tuning changed, and why trials failed."""
    best, default = best_trial(study), default_trial(study)
    if best is None:
        yield f"{name_of(study)}: no trial was completed."
    elif default is None or best is not default:
        moved = changes(best, default)
        yield f"{name_of(study)}: {'; '.join(moved) or 'the values of the defaults'}."
    else:
        yield f"{name_of(study)}: nothing beat the defaults."
    reasons: dict[str, int] = {}
    for trial in study["trials"]:
        if trial["state"] == "failed":
            why = trial["reason"].partition("\n")[0].partition(" ")[2].partition(" ")[2]
            reasons[why or "no reason"] = reasons.get(why or "no reason", 0) + 1
    for why, count in reasons.items():
        yield f"{name_of(study)}: {count} trial{'s' * (count > 1)} failed, {why.rstrip('.')}."


def changes(best: Mapping[str, Any], default: Mapping[str, Any] | None) -> list[str]:
    """Say what the winner's configuration changed of the default's: "lr 0.01 → 0.0037"."""
    if default is None:
        return [f"{name} {shown(value)}" for name, value in best["params"].items()]
    before = default["config"]
    return [
        f"{name} {shown(before.get(name))} → {shown(value)}"
        for name, value in best["config"].items()
        if value != before.get(name)
    ]


# ---- sentences, LaTeX and CSV ---------------------------------------------------------------


def _told(studies: Sequence[Study]) -> list[str]:
    """Say how the report is to be read, and how was searched."""
    budgets = {len(study["trials"]) for study in studies}
    found = [
        f"{LEGEND} No test label was read. The tuned students are compared with the others by "
        "`gkdbench run --tuned`, on seeds that tuning did not see.",
        "gain: tuned - default. Ties go to fewer parameters, then to the earlier trial. "
        "default: the first trial of every study, with the values of the sweep.",
        "fits took: seconds of training of all trials together, while other fits may use the other "
        "cores; of a fit that pruning stopped or that failed, the part until then.",
        *dict.fromkeys(map(_search, studies)),
        "Curves of what a budget finds. " + budget.CAPTION,
    ]
    if len(budgets) > 1:
        known = ", ".join(map(str, sorted(budgets)))
        found.append(f"Caution: the studies have {known} trials; compare them at equal budgets.")
    return [*found, f"gkdbench {bench.__version__}."]


def _search(study: Study) -> str:
    search = study["search"]
    seeds = ", ".join(map(str, search["seeds"]))
    return (
        f"Search: sampler {search['sampler']}, pruner {search['pruner']}, objectives "
        f"{', '.join(search['objectives'])}, tuning seeds {seeds}; {search['trials']} trials each."
    )


def _latex(tables: Sequence[Table], told: Sequence[str]) -> str:
    body = [latex(table, f"tab:tuning-{i}", LEGEND) for i, table in enumerate(tables, start=1)]
    comments = [f"% {' '.join(sentence.split())}" for sentence in told]
    head = r"% \usepackage{booktabs,graphicx} in the preamble, \input{tuning} in the text."
    return "\n".join([head, *comments, "", *body])


def summary(studies: Sequence[Study]) -> pd.DataFrame:
    """Return one line for each study, with raw numbers: fractions and seconds."""
    return pd.DataFrame([_record(study) for study in studies])


def _record(study: Study) -> dict[str, Any]:
    best, default, trials = best_trial(study), default_trial(study), study["trials"]
    tuned, first = _seeds(best), _seeds(default)
    return {
        **study["where"],
        "study": study["id"],
        "trials": len(trials),
        **{s: sum(t["state"] == s for t in trials) for s in ("complete", "pruned", "failed")},
        "fit_seconds": sum(t["seconds"] for t in trials),
        "pruned_seconds": sum(t["seconds"] for t in trials if t["state"] == "pruned"),
        "default_val_mean": first.mean,
        "default_val_std": first.std,
        "tuned_val_mean": tuned.mean,
        "tuned_val_std": tuned.std,
        "seeds": tuned.n,
        "gain": tuned.mean - first.mean,
        "best_trial": best["number"] if best else None,
        "origin": _origin(best) if best else "",
        "params": best["size"] if best else None,
        "changes": "; ".join(changes(best, default)) if best else "",
    }
