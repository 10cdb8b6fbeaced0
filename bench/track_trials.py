"""What a tracked study says, as plain data; nothing here imports mlflow.

A study comes as `gkdbench tune` writes it (`Hunt.content`), a trial as one of its `trials`. Metrics
go by the names of the tables; `val_accuracy.seed_1000` is that of one tuning seed, and the curves
of the first seed's fit are `history/<name>`.
"""

import hashlib
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bench.results import Row
from bench.track_content import SOURCE, TEXT_LIMIT, curves, legal, name_of, text_of
from bench.tuning import WHERE, best_trial, default_trial

STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}  # MLflow's words
POINTS = 64  # of all curves of a trial together, about; a point costs 0.13 ms in sqlite
BEST = "best_val_accuracy"  # so far; its steps are trials

Study = Mapping[str, Any]
Trial = Mapping[str, Any]


def digest(content: Any) -> str:
    """Identify a study or a trial as it is: what is tracked with the same digest is up to date."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def labels(study: Study) -> dict[str, str]:
    """Return dataset, split, setting, teacher and student, those that there are."""
    return {k: v for k, v in study["where"].items() if v}


def study_name(study: Study) -> str:
    """Name the parent run: "glnn on cora / random / transductive from sage:glnn"."""
    return name_of([study["where"][name] for name in WHERE])


def trial_name(study: Study, trial: Trial) -> str:
    """Name a child run: "trial 3: glnn on ..."."""
    return f"trial {trial['number']}: {study_name(study)}"


def times(trial: Trial) -> tuple[int, int]:
    """Return when a trial was asked for and when it was told, in milliseconds."""
    start, end = (
        round(datetime.fromisoformat(trial[name]).astimezone(UTC).timestamp() * 1000)
        for name in ("started", "ended")
    )
    return start, end


def teacher_key(row: Row | None) -> str:
    """Return the key of the teacher that a trial's first fit had."""
    return row.teacher_key if row else ""


def keys_of(asked: Sequence[tuple[Study, Trial]]) -> set[str]:
    """Return the keys of the cells to read: of each trial the first, of each study one a seed.

    The other cells of a study have the same teachers.
    """
    found = {first_key(study, trial) for study, trial in asked}
    most: dict[str, Sequence[str]] = {}
    for study, trial in asked:
        most[study["id"]] = max(most.get(study["id"], ()), trial["keys"], key=len)
    return found.union(*most.values()) - {""}


# ---- a trial ----------------------------------------------------------------------------------


def trial_tags(study: Study, trial: Trial, sweep: str, row: Row | None) -> dict[str, str]:
    """Return the tags of a child run, but for those that name other runs.

    Args:
        study: to which it belongs.
        trial: one of its trials.
        sweep: that was tuned.
        row: of one of the trial's cells, for where it comes from.
    """
    commit = str(row.ran.get("git_commit") or "") if row else ""
    found = {
        "kind": "trial",
        "sweep": sweep,
        "study": study["id"],
        "trial": str(trial["number"]),
        "origin": trial["origin"] or "sampler",
        "status": trial["state"],
        "reason": trial["reason"][:TEXT_LIMIT],
        "record": digest(trial),
        **labels(study),
        "git_commit": commit,
        "teacher_key": teacher_key(row),
    }
    named = {f"gkdbench.{k}": v for k, v in found.items() if v}
    return named | SOURCE | ({"mlflow.source.git.commit": commit} if commit else {})


def trial_params(study: Study, trial: Trial) -> dict[str, str]:
    """Return what was tried, as `student.*`, and the labels of the study."""
    tried = {f"student.{k}": v for k, v in trial["params"].items()}
    found = {**labels(study), "trial": trial["number"], "origin": trial["origin"] or "sampler"}
    return {legal(k): text_of(v)[:TEXT_LIMIT] for k, v in {**found, **tried}.items()}


def trial_metrics(study: Study, trial: Trial) -> dict[str, float]:
    """Return the mean and std over the tuning seeds, each seed, the other objectives, the cost."""
    seeds = trial["seeds"]
    found: dict[str, Any] = {}
    if trial["state"] == "complete":
        found.update(_spread(seeds.values()))
        others = study["search"]["objectives"][1:]
        found.update({name: trial[name] for name in others if name != "params"})
    found.update({f"val_accuracy.seed_{seed}": v for seed, v in seeds.items()})
    found.update(params=trial["size"], train_seconds=trial["seconds"])
    return {k: float(v) for k, v in found.items() if v is not None}


def trial_curves(
    trial: Trial, history: Mapping[str, Sequence[Any]], best: Any
) -> list[tuple[str, int, float, float]]:
    """Return (name, epoch, value, share of the fit), thinned; of a pruned one what it had.

    Args:
        trial: whose curves they are.
        history: the curves of its first seed's cell, empty where it left none.
        best: the epoch that the fit selected.
    """
    if not history and trial.get("steps"):
        steps = {int(epoch): value for epoch, value in trial["steps"].items()}
        history = {"epoch": list(steps), "val_accuracy": list(steps.values())}
    names = max(1, len(history.keys() - {"epoch"}))
    return curves(history, best, max(2, POINTS // names))


def first_key(study: Study, trial: Trial) -> str:
    """Return the key of the cell of the first tuning seed; of any other where that is missing."""
    keys = dict(zip(trial["seeds"], trial["keys"], strict=True))
    wanted = (str(seed) for seed in study["search"]["seeds"])
    return next((keys[seed] for seed in wanted if seed in keys), "")


def trial_note(trial: Trial, teacher_link: str) -> str:
    """Describe a child run in markdown: why it ended early, and where its teacher is."""
    reason = trial["reason"].partition("\n")[0]
    lines = [f"**failed**: {reason}"] if trial["state"] == "failed" else []
    lines += ["**pruned**"] if trial["state"] == "pruned" else []
    lines += [f"Taught by [its teacher's run]({teacher_link})."] if teacher_link else []
    return "\n\n".join(lines)


# ---- the study --------------------------------------------------------------------------------


def best_so_far(study: Study) -> Iterator[tuple[Trial, float]]:
    """Yield each trial with the best mean val accuracy up to it, from the first complete one on."""
    best = None
    for trial in study["trials"]:
        if trial["state"] == "complete":
            best = max(best or 0.0, trial["val_accuracy"])
        if best is not None:
            yield trial, best


def study_params(study: Study) -> dict[str, str]:
    """Return how was searched, and the configuration that won, whole, as `student.*`."""
    best = best_trial(study)
    found = {
        **labels(study),
        **{f"tune.{k}": v for k, v in study["search"].items()},
        **({f"student.{k}": v for k, v in best["config"].items()} if best else {}),
    }
    return {legal(k): text_of(v)[:TEXT_LIMIT] for k, v in found.items()}


def study_metrics(study: Study) -> dict[str, float]:
    """Return the best trial's mean, std and n over the tuning seeds, its gain, and the budget."""
    trials, best, first = study["trials"], best_trial(study), default_trial(study)
    found: dict[str, Any] = {}
    if best:
        found.update(_spread(best["seeds"].values()), best_trial=best["number"])
        found.update(params=best["size"])
    if first:
        found["default_val_accuracy"] = first["val_accuracy"]
    if best and first:
        found["gain"] = best["val_accuracy"] - first["val_accuracy"]
    found["n_trials"] = len(trials)
    for state in ("pruned", "failed"):
        found[f"n_{state}"] = sum(t["state"] == state for t in trials)
    found["fit_seconds"] = sum(t["seconds"] for t in trials)
    return {k: float(v) for k, v in found.items() if v is not None}


def study_note(study: Study) -> str:
    """Describe a study in markdown: what won, what it gained and cost, and how it was searched."""
    numbers, best, first = study_metrics(study), best_trial(study), default_trial(study)
    search = study["search"]
    cost = [f"{int(numbers['n_trials'])} trials"]
    cost += [f"{int(numbers[f'n_{s}'])} {s}" for s in ("pruned", "failed") if numbers[f"n_{s}"]]
    cost += [f"{numbers['fit_seconds']:,.0f} s of fitting"]
    if best is None:
        return f"No trial was completed; {', '.join(cost)}."
    spread = f" ± {100 * numbers['val_accuracy_std']:.2f}" if "val_accuracy_std" in numbers else ""
    head = f"{100 * numbers['val_accuracy_mean']:.2f}{spread} % val accuracy"
    gain = f", {100 * numbers['gain']:+.2f} points over the default" if first else ""
    lines = [f"{head}{gain}, {', '.join(cost)}", "", *_table(best, first), ""]
    lines += [
        f"Trial {best['number']} of sampler {search['sampler']}, pruner {search['pruner']}; mean "
        f"over {int(numbers['n_seeds'])} tuning seeds, std with n - 1. Chosen on val nodes alone."
    ]
    return "\n".join(lines)[:TEXT_LIMIT]


def _table(best: Trial, first: Trial | None) -> list[str]:
    shown = {k: f"{v:.4g}" if isinstance(v, float) else str(v) for k, v in best["params"].items()}
    config = first["config"] if first else {}
    before = {k: f"{v:.4g}" if isinstance(v, float) else str(v) for k, v in config.items()}
    rows = [f"| {name} | {value} | {before.get(name, '')} |" for name, value in shown.items()]
    return ["| hyper-parameter | best | default |", "|---|---|---|", *rows]


def _spread(values: Any) -> dict[str, float]:
    """Mean, unbiased std and n, under the names of the aggregates over seeds."""
    values = list(values)
    found = {"val_accuracy_mean": statistics.fmean(values)}
    if len(values) > 1:
        found["val_accuracy_std"] = statistics.stdev(values)
    return {**found, "n_seeds": len(values)}
