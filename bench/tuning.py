"""What a sweep says of tuning, and the files that hold what tuning chose.

A tuned file, `sweeps/tuned/<sweep>.yaml`, is small and meant to be committed: one entry for each
study, with the study's id, its budget and the values that won. `gkdbench run --tuned` reads it.
"""

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from bench.sweep_file import MAX_SEED, MistakeError, check_seeds, parse_seeds

Sampler = Literal["tpe", "gp", "cmaes", "qmc", "random", "grid"]
Pruner = Literal["none", "median", "hyperband", "wilcoxon"]
Objective = Literal["val_accuracy", "params", "macs", "latency_ms"]


class Tuning(BaseModel):
    """The search of every study of a sweep: all of its students get the same."""

    model_config = ConfigDict(extra="forbid", strict=True)

    trials: int = Field(default=32, ge=1, le=100_000)  # of each student, defaults and presets too
    seeds: list[int] = Field(default=[1000, 1001, 1002], min_length=1)  # none of the reported ones
    sampler: Sampler = "tpe"
    pruner: Pruner = "median"
    prune_p: float = Field(default=0.2, gt=0.0, lt=1.0)  # of `wilcoxon`
    objectives: list[Objective] = Field(default=["val_accuracy"], min_length=1, max_length=2)
    batch: int = Field(default=4, ge=1, le=1000)  # trials asked at once; more workers, larger batch
    seed: int = Field(default=0, ge=0, le=MAX_SEED)  # of the sampler
    presets: bool = True  # published presets are tried first, after the defaults
    space: dict[str, dict[str, Any]] = Field(default_factory=dict)  # by label or name

    @field_validator("seeds", mode="before")
    @classmethod
    def _ranges(cls, value: Any) -> Any:
        return parse_seeds(value)

    @field_validator("seeds")
    @classmethod
    def _bounded(cls, value: list[int]) -> list[int]:
        for position, seed in enumerate(check_seeds(value)):
            if seed in value[:position]:
                raise MistakeError(f"seed {seed} stands twice in tune.seeds", position)
        return value

    @field_validator("objectives", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _sensible(self) -> "Tuning":
        if self.objectives[0] != "val_accuracy":
            raise MistakeError(
                f"the first objective is {self.objectives[0]}; it must be val_accuracy",
                "objectives",
            )
        if len(set(self.objectives)) < len(self.objectives):
            raise MistakeError("val_accuracy stands twice in objectives", "objectives")
        if len(self.objectives) > 1 and self.pruner != "none" and "pruner" in self.model_fields_set:
            raise MistakeError(
                f"pruner '{self.pruner}' needs one objective, and there are two; use none", "pruner"
            )
        if len(self.objectives) > 1 and self.sampler == "cmaes":
            raise MistakeError(
                "sampler 'cmaes' searches for one objective, and there are two; use tpe", "sampler"
            )
        if self.pruner == "wilcoxon" and 0.5 ** (len(self.seeds) - 1) >= self.prune_p:
            raise MistakeError(
                f"pruner 'wilcoxon' could never stop a trial of {len(self.seeds)} seeds at "
                f"prune_p {self.prune_p:g}; give more tuning seeds, or use median",
                "pruner",
            )
        return self

    @property
    def pruning(self) -> str:
        """The pruner, but none where there are two objectives."""
        return self.pruner if len(self.objectives) == 1 else "none"

    def space_of(self, name: str, label: str) -> dict[str, Any]:
        """What the sweep says of a student's search space: its name's, and over it its label's."""
        return {**self.space.get(name, {}), **self.space.get(label, {})}


def study_id(content: Mapping[str, Any]) -> str:
    """Return 12 hex digits of everything that decides a study's trials."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


# ---- tuned files ----------------------------------------------------------------------------

WHERE = ("dataset", "split", "setting", "teacher", "student")
_HEADER = """\
# Written by `gkdbench tune`; `gkdbench run {sweep}.yaml --tuned` uses it. Each entry is the one
# trial with the best mean val accuracy over the tuning seeds (ties: fewer parameters); no test
# label was read.
"""


class Tuned(BaseModel):
    """What one study chose."""

    model_config = ConfigDict(extra="forbid", strict=True)

    dataset: str
    split: str
    setting: str
    teacher: str
    student: str  # its label
    study: str  # its id
    start: str = ""  # `start_digest` of the student's entry in the sweep
    seeds: list[int] = Field(default_factory=list)  # that it was tuned on
    trials: int
    pruned: int = 0
    failed: int = 0
    seconds: float  # of fitting, all trials together
    trial: int  # the number of the one chosen
    val_accuracy: float
    default_val_accuracy: float | None = None
    config: dict[str, Any]  # what differs from the student's entry in the sweep

    @property
    def where(self) -> tuple[str, ...]:
        """The group it belongs to, as `Cell.group`."""
        return (self.dataset, self.split, self.setting, self.teacher, self.student)


def start_digest(kind: type, config: Mapping[str, Any]) -> str:
    """Return 8 hex digits of what a configuration changes of the defaults of its Config `kind`.

    So a hyper-parameter that a later version adds leaves it as it is.
    """
    default = vars(kind())
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in default.items()}
    changed = {k: v for k, v in config.items() if k not in plain or plain[k] != v}
    text = json.dumps(changed, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def write_tuned(path: Path, found: Iterable[Tuned]) -> None:
    """Write a tuned file; entries of other studies that stand there already stay."""
    entries = {entry.where: entry for entry in (read_tuned(path) if path.is_file() else ())}
    entries.update({entry.where: entry for entry in found})
    content = {"tuned": [entry.model_dump(exclude_none=True) for entry in entries.values()]}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10_000)
    replace_text(path, _HEADER.format(sweep=path.stem) + text)


def replace_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def read_tuned(path: Path) -> list[Tuned]:
    """Read a tuned file.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is not one.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; `gkdbench tune` writes it")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return [Tuned.model_validate(entry) for entry in content["tuned"]]
    except (yaml.YAMLError, KeyError, TypeError, ValueError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{path} is not a file that `gkdbench tune` wrote ({reason}); remove it, and tune again"
        ) from error


# ---- studies as plain files -----------------------------------------------------------------


def tuned_sweeps(results: Path) -> list[str]:
    """Return the names of the sweeps that were tuned in a results folder."""
    folder = results / "tuning"
    return sorted(p.stem for p in folder.glob("*.json")) if folder.is_dir() else []


def best_trial(study: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the trial that won a study; None where none was completed."""
    return next((t for t in study["trials"] if t["number"] == study["chosen"]), None)


def default_trial(study: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the trial of the defaults; None where it was not completed."""
    found = (t for t in study["trials"] if t["origin"] == "default" and t["state"] == "complete")
    return next(found, None)


def read_studies(results: Path, sweep: str) -> list[dict[str, Any]]:
    """Read the studies of a sweep, in its order, as `gkdbench tune` wrote them (`Hunt.content`).

    Raises:
        FileNotFoundError: the sweep was not tuned here.
        ValueError: a file is not what `gkdbench tune` writes.
    """
    path = results / "tuning" / f"{sweep}.json"
    if Path(sweep).name != sweep or not path.is_file():
        raise FileNotFoundError(f"no tuning of '{sweep}' in {results}; `gkdbench tune` makes one")
    found = []
    try:
        for study in json.loads(path.read_bytes())["studies"]:
            path = results / "tuning" / str(study) / "study.json"
            content = json.loads(path.read_bytes())
            if {"id", "where", "search", "trials", "protocol"} - content.keys():
                raise ValueError("of another version")
            found.append(content)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ValueError(
            f"{path} is not what `gkdbench tune` writes ({error}); tune again, it takes seconds"
        ) from error
    return found


def write_trials(path: Path, records: list[dict[str, Any]], names: list[str]) -> None:
    """Write a table of trials; seeds side by side, hyper-parameters under their own names."""
    seeds = sorted({seed for r in records for seed in r.get("seeds", {})}, key=int)
    plain = ["number", "origin", "state", "val_accuracy", "size", "seconds", "reason"]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow([*plain, *(f"seed_{s}" for s in seeds), *names])
        for r in records:
            values = [r.get("seeds", {}).get(s) for s in seeds]
            table.writerow(
                [*(r.get(k) for k in plain), *values, *(r["params"].get(n) for n in names)]
            )
