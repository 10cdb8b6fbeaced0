"""Studies: Optuna behind ask, report and tell; only `storage` and `study_plots` import it beside.

What decides a trial is stored or derived: every trial has a sampler of its own, seeded with the
trial's number, and the trials of a batch are told together. So a search gives the same trials on
any number of workers, and after any interrupt. (Hyperband looks at running trials too; it does not
keep that promise.)
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import Any

from bench import grid
from bench.hparams import derive_seed
from bench.space import Dimension
from bench.tuning import Tuning

DIRECTIONS = {"val_accuracy": "maximize"}  # all else is a cost


@dataclass
class Trial:
    """One configuration under trial: what was asked, and later what came out."""

    number: int
    origin: str  # "default", a preset's name, or "" for the sampler's own
    params: dict[str, Any]
    handle: Any = field(repr=False, default=None)  # Optuna's
    steps: dict[int, float] = field(default_factory=dict)  # reported so far
    pruned: bool = False  # before its driver ended
    seconds: float = 0.0  # of fitting; known of one that was pruned


class Study:
    """One search: ask for trials, tell what became of them. One driver at a time."""

    def __init__(
        self,
        name: str,
        seed: int,
        storage: Any,
        tuning: Tuning,
        space: Sequence[Dimension],
    ) -> None:
        """Open a study, or create it.

        Args:
            name: its whole name, with its id.
            seed: of its samplers.
            storage: Optuna's, as `bench.storage.Storage.of` gives it.
            tuning: the search.
            space: its dimensions, in order.
        """
        self.name, self.seed, self.tuning, self.space = name, seed, tuning, list(space)
        self._study = _optuna().create_study(
            study_name=name,
            storage=storage,
            directions=[DIRECTIONS.get(o, "minimize") for o in tuning.objectives],
            pruner=self._pruner(),
            load_if_exists=True,
        )

    # -- samplers and pruners --------------------------------------------------------------

    def _pruner(self) -> Any:
        pruners, kind = _optuna().pruners, self.tuning.pruning
        with _quiet():
            if kind == "median":
                return pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=20)
            if kind == "hyperband":
                return pruners.HyperbandPruner(min_resource=10)
            if kind == "wilcoxon":
                return pruners.WilcoxonPruner(p_threshold=self.tuning.prune_p)
            return pruners.NopPruner()

    def _sampler(self, number: int) -> Any:
        """A fresh sampler for the trial of this number."""
        samplers, kind = _optuna().samplers, self.tuning.sampler
        fixed = derive_seed(self.seed, "study") % 2**32
        seed = derive_seed(self.seed, "trial", number) % 2**32
        quiet = {"warn_independent_sampling": False}
        with _quiet():
            if kind == "tpe":
                return samplers.TPESampler(
                    seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=8
                )
            if kind == "gp":
                return samplers.GPSampler(seed=seed, n_startup_trials=8, **quiet)
            if kind == "cmaes":
                return samplers.CmaEsSampler(seed=seed, **quiet)
            if kind == "qmc":  # its place in the sequence is in the storage
                return samplers.QMCSampler(
                    seed=fixed, scramble=True, warn_asynchronous_seeding=False, **quiet
                )
            return samplers.RandomSampler(seed=seed)

    # -- asking and telling ----------------------------------------------------------------

    def enqueue(self, origin: str, params: Mapping[str, Any]) -> None:
        """Put a configuration at the head of the search, once and for all."""
        trials = self._study.get_trials(deepcopy=False)
        if not any(t.user_attrs.get("origin") == origin for t in trials):
            self._study.enqueue_trial(dict(params), user_attrs={"origin": origin})

    def ask(self, config: Mapping[str, Any]) -> list[Trial]:
        """Ask for a batch; `config` says which dimensions apply where a trial starts.

        Batches end at multiples of `tuning.batch`, and with the budget; an empty one ends a search.
        """
        asked = self.asked
        room = min(self.tuning.batch - asked % self.tuning.batch, self.budget - asked)
        trials = []
        for number in range(asked, asked + room):
            self._study.sampler = self._sampler(number)
            if self.tuning.sampler == "grid":
                self._place_on_grid(number)
            trials.append(self._asked(self._study.ask(), config))
        return trials

    def rest(self, config: Mapping[str, Any]) -> list[Trial]:
        """Ask for what is missing of a batch that was begun."""
        return self.ask(config) if self.asked % self.tuning.batch else []

    @property
    def budget(self) -> int:
        """The number of trials of a whole search: a grid may have fewer points than are asked."""
        if self.tuning.sampler != "grid":
            return self.tuning.trials
        return min(self.tuning.trials, self._starts + grid.size(self.space))

    @property
    def _starts(self) -> int:
        """The number of trials that the search began with: defaults and presets."""
        trials = self._study.get_trials(deepcopy=False)
        return sum(bool(t.user_attrs.get("origin")) for t in trials)

    def _place_on_grid(self, number: int) -> None:
        """Put the grid's next point at the head of the search, unless something is there."""
        waiting = _optuna().trial.TrialState.WAITING
        place = number - self._starts
        if place >= 0 and not self._study.get_trials(deepcopy=False, states=(waiting,)):
            seed = derive_seed(self.seed, "study")
            self._study.enqueue_trial(grid.point(self.space, place, seed))

    @property
    def asked(self) -> int:
        """The number of trials that were asked for, finished or not."""
        waiting = _optuna().trial.TrialState.WAITING
        return sum(t.state != waiting for t in self._study.get_trials(deepcopy=False))

    def _asked(self, handle: Any, config: Mapping[str, Any]) -> Trial:
        chosen = dict(config)
        params = {}
        for dimension in self.space:
            if dimension.applies(chosen):
                chosen[dimension.name] = params[dimension.name] = _suggest(handle, dimension)
        origin = handle.user_attrs.get("origin", "")
        return Trial(handle.number, origin, params, handle)

    def interrupted(self, config: Mapping[str, Any]) -> list[Trial]:
        """Return the trials that a driver was at when it ended, to go on with them.

        One that was not wholly asked yet is asked to its end, as it would have been.
        """
        optuna = _optuna()
        trials = []
        state = optuna.trial.TrialState.RUNNING
        for frozen in self._study.get_trials(deepcopy=False, states=(state,)):
            self._study.sampler = self._sampler(frozen.number)
            trial = self._asked(optuna.trial.Trial(self._study, frozen._trial_id), config)
            trial.steps = dict(frozen.intermediate_values)
            trial.pruned = frozen.user_attrs.get("pruned", False)
            trial.seconds = frozen.user_attrs.get("seconds", 0.0)
            trials.append(trial)
        return trials

    def report(self, trial: Trial, step: int, value: float) -> bool:
        """Take a value of a running trial; return whether the trial is to be pruned."""
        if self.tuning.pruning == "none":
            return False
        if step in trial.steps:  # judged before its driver ended; by now the pruner knows more
            return trial.pruned
        trial.steps[step] = value
        trial.handle.report(value, step)
        if trial.origin == "default":  # which must be there to compare with
            return False
        with _quiet():  # of steps that the best trial does not have
            trial.pruned = bool(trial.handle.should_prune())
        if trial.pruned:
            trial.handle.set_user_attr("pruned", True)
        return trial.pruned

    def spend(self, trial: Trial, seconds: float) -> None:
        """Note what a pruned trial took so far: a fit that was stopped leaves no row to read it."""
        trial.handle.set_user_attr("seconds", seconds)

    def tell(self, trial: Trial, values: Sequence[float] | None, facts: Mapping[str, Any]) -> None:
        """End a trial: complete with `values`, failed without; pruned where `facts` say so."""
        states = _optuna().trial.TrialState
        trial.handle.set_user_attr("facts", dict(facts))
        if facts.get("pruned"):
            self._study.tell(trial.number, state=states.PRUNED)
        elif values is None:
            self._study.tell(trial.number, state=states.FAIL)
        else:
            self._study.tell(trial.number, list(values))

    # -- reading ---------------------------------------------------------------------------

    @property
    def finished(self) -> int:
        """The number of trials that were told."""
        return len(self.records())

    def records(self) -> list[dict[str, Any]]:
        """Return the finished trials as plain data, by number.

        Keys: `number`, `origin`, `state` (complete, pruned, failed), `started`, `ended`, one for
        each objective, `params`, `steps` of those that were pruned, and the facts that were told.
        """
        found = []
        for trial in self._study.get_trials(deepcopy=False):
            if not trial.state.is_finished():
                continue
            values = trial.values or [None] * len(self.tuning.objectives)
            found.append(
                {
                    "number": trial.number,
                    "origin": trial.user_attrs.get("origin", ""),
                    "state": {"COMPLETE": "complete", "PRUNED": "pruned"}.get(
                        trial.state.name, "failed"
                    ),
                    **_times(trial),
                    **dict(zip(self.tuning.objectives, values, strict=True)),
                    "params": dict(trial.params),
                    **_steps(trial),
                    **trial.user_attrs.get("facts", {}),
                }
            )
        return found

    def front(self) -> list[int]:
        """Return the numbers of the trials that no other beats in all objectives."""
        return sorted(trial.number for trial in self._study.best_trials)

    def plots(self, folder: Path) -> list[Path]:
        """Draw Optuna's own plots of the study as PNG files; those that it cannot draw are left."""
        from bench.study_plots import draw

        with _quiet():
            return draw(self._study, len(self.tuning.objectives), folder)


def _times(trial: Any) -> dict[str, str]:
    """When a trial was asked for and told, UTC; Optuna keeps local times without their zone."""
    times = {"started": trial.datetime_start, "ended": trial.datetime_complete}
    return {k: t.astimezone(UTC).isoformat() for k, t in times.items() if t}


def _steps(trial: Any) -> dict[str, dict[str, float]]:
    """The curve of a pruned trial, whose cell left none; epochs are text, as JSON has them."""
    if trial.state.name != "PRUNED":
        return {}
    return {"steps": {str(k): v for k, v in sorted(trial.intermediate_values.items())}}


def _suggest(handle: Any, dimension: Dimension) -> Any:
    name = dimension.name
    if dimension.values:
        return handle.suggest_categorical(name, list(dimension.values))
    ask = handle.suggest_int if dimension.whole else handle.suggest_float
    return ask(name, dimension.low, dimension.high, log=dimension.log)


# ---- Optuna itself --------------------------------------------------------------------------


def _optuna() -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Optuna calls much of what it has had for years experimental, at every use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
