"""A hunt: one study with its cells, what to run next and what a row means.

Files of a study, beside Optuna's own journal: `study.json`, `trials.csv` and plots.
"""

import contextlib
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import registry, space
from bench.cell import SCHEMA, Cell, from_data
from bench.expand import Search
from bench.hparams import derive_seed
from bench.jobs import Stopped
from bench.results import CorruptError, Row
from bench.running import Running
from bench.storage import Storage
from bench.study import Study, Trial
from bench.sweep import Sweep
from bench.tuning import WHERE, Tuned, replace_text, start_digest, study_id, write_trials

if TYPE_CHECKING:
    from bench.run import Place

DIGITS = 9  # of val accuracies that are compared


class Hunt:
    """One study: a student, a teacher, a protocol."""

    def __init__(self, asked: Search, sweep: Sweep, place: "Place", storage: Storage) -> None:
        assert sweep.tune is not None
        self.asked, self.sweep, self.tuning, self.place = asked, sweep, sweep.tune, place
        method = registry.load_method("student", asked.student.name)
        self.kind = method.Config
        owner = f"student '{asked.student.label}'"
        narrowed = self.tuning.space_of(asked.student.name, asked.student.label)
        pins = space.pinned(method.Config, owner, narrowed)
        self.base = {**asked.student.config, **pins}
        starts = {name: {**start.config, **pins} for name, start in asked.starts.items()}
        self.starts = {"default": self.base, **_others(starts, self.base)}
        found = space.space(method.Config, owner, narrowed, self.starts.values())
        if not found:
            raise ValueError(f"{owner} has nothing to search; open a range in tune.space")
        self.space = list(found.values())
        decides = self._decides()
        self.id = study_id({**decides, "sweep": sweep.name, "where": self.where})
        self.name = "/".join((*filter(None, (sweep.name, *self.where)), self.id))
        self.folder = place.results / "tuning" / self.id
        # Under another name the same search tries the same, and finds its cells done.
        seed = derive_seed(self.tuning.seed, study_id(decides))
        kept = storage.of(self.name, self.folder)
        self.study = Study(self.name, seed, kept, self.tuning, self.space)
        for origin, config in self.starts.items():
            self.study.enqueue(origin, self._params_of(config))
        self.running = [self._begun(t) for t in self.study.interrupted(self.base)]
        if self.running:  # a batch that was not wholly asked for: before any of it is told
            self.running += [self._begun(t) for t in self.study.rest(self.base)]
        self.skipped = ""  # why no trial can ever be run
        self.broken = ""  # why none can be run now

    @property
    def where(self) -> tuple[str, ...]:
        """(dataset, split, setting, teacher, student)."""
        p, teacher = self.asked.protocol, self.asked.teacher
        label = teacher.label if teacher else ""
        return (p.dataset, p.shown_split, p.setting, label, self.asked.student.label)

    def _decides(self) -> dict[str, Any]:
        """All that decides the trials; the budget does not, so that it can be raised."""
        teacher, sweep = self.asked.teacher, self.sweep
        search = self.tuning.model_dump(exclude={"trials", "space", "presets"})
        return {
            "schema": SCHEMA,
            "protocol": self.asked.protocol.asked(),
            "teacher": teacher.asked() if teacher else None,
            "student": self.asked.student.name,
            "starts": self.starts,
            "space": [dimension.asked() for dimension in self.space],
            "search": search,
            "seeds": [sweep.split_seed, sweep.teacher_seed],
            "device": sweep.device,
        }

    def _params_of(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return {d.name: config[d.name] for d in self.space if d.applies(config)}

    # -- what to run -----------------------------------------------------------------------

    def refill(self) -> None:
        """Ask for the next batch where the last one is told."""
        if not self.running and not self.skipped and not self.broken:
            self.running = [self._begun(t) for t in self.study.ask(self.base)]

    def _begun(self, trial: Trial) -> Running:
        base = self.starts.get(trial.origin, self.base)
        seconds = trial.seconds if trial.pruned else 0.0  # else its cells come again
        return Running(trial, {**base, **trial.params}, pruned=trial.pruned, seconds=seconds)

    def cells(self) -> Iterator[tuple[Cell, Running, int]]:
        """Yield the cells to submit now: all seeds, or those that pruning leaves for later."""
        for running in self.running if not self.broken else ():
            if running.decided(self.tuning.seeds):
                continue
            for seed in self._due(running):
                if seed not in running.given:
                    running.given.add(seed)
                    yield self._cell(running.config, seed), running, seed

    def _due(self, running: Running) -> list[int]:
        seeds, done = self.tuning.seeds, len(running.rows)
        if self.tuning.pruning == "wilcoxon":
            return seeds[: done + 1]
        return seeds if self.tuning.pruning == "none" or done else seeds[:1]

    def _cell(self, config: Mapping[str, Any], seed: int) -> Cell:
        split_seed, teacher_seed = self.sweep.split_seed, self.sweep.teacher_seed
        return Cell(
            self.asked.protocol,
            self.asked.teacher,
            replace(self.asked.student, config=dict(config)),
            seed,
            seed if split_seed is None else split_seed,
            seed if teacher_seed is None else teacher_seed,
            self.sweep.device,
            evaluate_test=False,
        )

    def listens(self, seed: int) -> bool:
        """Whether the curve of this seed decides on pruning."""
        return self.tuning.pruning in ("median", "hyperband") and seed == self.tuning.seeds[0]

    # -- what came -------------------------------------------------------------------------

    def hear(self, running: Running, epoch: int, value: float) -> bool:
        """Take a point of a curve; return whether to go on."""
        running.pruned = running.pruned or self.study.report(running.trial, epoch, value)
        return not running.pruned

    def take(self, running: Running, seed: int, event: Row | Stopped) -> bool:
        """Take what became of a cell; return whether that was an answer, else it runs again."""
        if isinstance(event, Row) and not running.pruned and not self._answers(event):
            if seed not in running.again and not self.skipped:
                running.again.add(seed)
                running.given.discard(seed)
                return False
            if not event.lost:  # its teacher's doing
                self.broken = event.reason
        if self.broken:  # the trial stays as it is: the same command goes on with it
            return False
        running.heard += 1
        if isinstance(event, Stopped):
            running.pruned = True
            running.seconds += event.seconds
        else:
            running.seconds += event.seconds.get("train", 0.0)
            self._take_row(running, seed, event)
        if running.pruned:
            self.study.spend(running.trial, running.seconds)
        return True

    def _answers(self, row: Row) -> bool:
        """Whether a row says something about its configuration.

        A worker that died does not at first (the second time the cell is too large for it, it
        seems), and a teacher that failed never does.
        """
        if row.status != "failed" or not row.teacher_key:
            return not row.lost
        teacher = self.place.store.read_or_set_aside(row.teacher_key)
        if teacher is not None and teacher.status in ("skipped", "diverged"):
            self.skipped = row.reason
        return not row.lost and teacher is not None and teacher.status == "ok"

    def _take_row(self, running: Running, seed: int, row: Row) -> None:
        if running.pruned:  # it was faster than the word to stop
            self._drop_weights(row)
            return
        if row.status == "skipped":
            self.skipped = row.reason
        if row.status != "ok":
            running.reason = running.reason or f"seed {seed} {row.status}: {row.reason}"
            return
        running.rows[seed] = row
        if self.tuning.pruning == "wilcoxon" and not running.decided(self.tuning.seeds):
            step = self.tuning.seeds.index(seed)
            running.pruned = self.study.report(running.trial, step, _val(row))

    @property
    def batch_ended(self) -> bool:
        """Whether all running trials have all they need."""
        seeds, able = self.tuning.seeds, bool(self.running) and not self.broken
        return able and all(running.ended(seeds) for running in self.running)

    def tell(self) -> list[Running]:
        """Tell the batch, in order, and let go of the weights; return it."""
        batch, self.running = self.running, []
        if self.skipped:
            return []
        batch = sorted(batch, key=lambda r: r.trial.number)
        values = [self._values(running) for running in batch]  # all, before a shared cell's go
        for running, found in zip(batch, values, strict=True):
            self.study.tell(running.trial, found, self._facts(running))
            for row in running.rows.values():
                self._drop_weights(row)
        return batch

    def _drop_weights(self, row: Row) -> None:
        with contextlib.suppress(CorruptError, OSError):
            self.place.store.drop(row, "weights.pt")

    def _values(self, running: Running) -> list[float] | None:
        """The objectives of a whole trial, means over its seeds.

        Val accuracy is rounded, so that means of as many right nodes are equal.
        """
        if running.pruned or running.reason:
            return None
        rows = list(running.rows.values())
        values = [round(statistics.fmean(_val(row) for row in rows), DIGITS)]
        for objective in self.tuning.objectives[1:]:
            values.append(statistics.fmean(self._cost(row, objective) for row in rows))
        return values

    def _cost(self, row: Row, objective: str) -> float:
        """The cost of a cell: known, or measured now; fitted again if its weights are gone."""
        from bench import run

        if objective == "params":
            return _numbers(row)["params"]
        if objective not in row.cost.get(_main(row), {}):
            timed = objective == "latency_ms"
            try:
                row.cost = run.measure(row, self.place, timed=timed)
            except CorruptError as error:
                self.place.store.set_aside(row.key, str(error))
                row.cost = run.measure(
                    run.run(from_data(row.cell), self.place), self.place, timed=timed
                )
        return row.cost[_main(row)][objective]

    def _facts(self, running: Running) -> dict[str, Any]:
        rows = running.rows
        return {
            "config": running.config,
            "seeds": {str(seed): _val(row) for seed, row in rows.items()},
            "size": _numbers(next(iter(rows.values())))["params"] if rows else None,
            "seconds": running.seconds,
            "keys": [row.key for row in rows.values()],
            "pruned": running.pruned,
            "reason": running.reason,
        }

    # -- what won --------------------------------------------------------------------------

    def chosen(self, records: list[dict[str, Any]]) -> Tuned | None:
        """Return the best trial: mean val accuracy, then fewer parameters, then the earlier."""
        whole = [r for r in records if r["state"] == "complete"]
        if not whole:
            return None
        best = min(whole, key=lambda r: (-round(r["val_accuracy"], DIGITS), r["size"], r["number"]))
        default = [r["val_accuracy"] for r in whole if r["origin"] == "default"]
        entry = self.asked.student.config
        changed = {k: v for k, v in best["config"].items() if v != entry[k]}
        return Tuned(
            **dict(zip(WHERE, self.where, strict=True)),
            study=self.id,
            start=start_digest(self.kind, entry),
            seeds=list(self.tuning.seeds),
            trials=len(records),
            pruned=sum(r["state"] == "pruned" for r in records),
            failed=sum(r["state"] == "failed" for r in records),
            seconds=round(sum(r["seconds"] for r in records), 1),
            trial=best["number"],
            val_accuracy=round(best["val_accuracy"], 6),
            default_val_accuracy=round(default[0], 6) if default else None,
            config=dict(sorted(changed.items())),
        )

    def content(
        self, records: list[dict[str, Any]], chosen: Tuned | None = None, front: Sequence[int] = ()
    ) -> dict[str, Any]:
        """The study as plain data; while it goes on nothing is chosen."""
        return {
            "id": self.id,
            "name": self.name,
            "where": dict(zip(WHERE, self.where, strict=True)),
            "protocol": dict(vars(self.asked.protocol)),
            "search": self.tuning.model_dump(exclude={"space"}),
            "space": {d.name: d.describe() for d in self.space},
            "front": list(front),
            "chosen": chosen.trial if chosen else None,
            "trials": records,
        }

    def write(self, records: list[dict[str, Any]], chosen: Tuned | None) -> list[Path]:
        """Write the study as plain files, for reports and for people."""
        front = self.study.front() if len(self.tuning.objectives) > 1 else []
        content = self.content(records, chosen, front)
        path, table = self.folder / "study.json", self.folder / "trials.csv"
        replace_text(path, json.dumps(content, indent=1) + "\n")
        write_trials(table, records, [d.name for d in self.space])
        return [path, table]

    def plot(self, *, anew: bool) -> list[Path]:
        """Return Optuna's plots of the study, drawn anew or where there are none."""
        there = sorted(self.folder.glob("*.png"))
        return self.study.plots(self.folder) if anew or not there else there


def _others(starts: Mapping[str, dict[str, Any]], base: dict[str, Any]) -> dict[str, Any]:
    """The presets that differ from the defaults, and from each other."""
    found: dict[str, Any] = {}
    for name, config in starts.items():
        if config != base and config not in found.values():
            found[name] = config
    return found


def _main(row: Row) -> str:
    """The variant that is tuned for: the only one, or the last."""
    return "" if "" in row.variants else list(row.variants)[-1]


def _numbers(row: Row) -> dict[str, float]:
    return row.variants[_main(row)]


def _val(row: Row) -> float:
    return _numbers(row)["val_accuracy"]
