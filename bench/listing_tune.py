"""What the command line prints about tuning: spaces, plans, what won. Returns text."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import registry, space
from bench.progress import duration
from bench.tuning import Tuning

if TYPE_CHECKING:
    from bench.expand import Search
    from bench.sweep import Sweep
    from bench.tune import TuneOutcome

Lines = Sequence[Sequence[str]]


def search_space(name: str, style: str) -> str:
    """Tell what tuning tries for a student, `name` or `name:preset`; see also `ls space`."""
    method = registry.load_method("student", name.partition(":")[0])
    default = registry.configure("student", name, {}, {})
    owner = f"student '{name}'"
    able = space.space(method.Config, owner, None, _starts(name.partition(":")[0]))
    found = {n: d for n, d in space.space(method.Config, owner).items() if n in able}
    if style == "json":
        return json.dumps({d.name: d.asked() for d in found.values()}, indent=1)
    lines = [
        (d.name, _text(default[d.name]), d.describe(), f"where {d.when} is on" if d.when else "")
        for d in found.values()
    ]
    others = [field for field in default if field not in found]
    return (
        _columns([("hyper-parameter", "default", "tried", ""), *lines])
        + "\n\nA sweep can pin, narrow or open any: "
        + f"tune: {{space: {{{name.partition(':')[0]}: {{lr: [0.001, 0.01]}}}}}}"
        + f"\nNot searched unless opened: {', '.join(others)}"
    )


def _starts(name: str) -> list[dict[str, Any]]:
    """Return where a search may start, on any dataset: the defaults and the presets."""
    default = registry.configure("student", name, {}, {})
    found = [default]
    for preset in registry.presets("student", name).values():
        config = {**default, **preset.get("config", {})}
        found += [config, *({**config, **entry["set"]} for entry in preset.get("when", ()))]
    return found


def plan(sweep: "Sweep", asked: Iterable["Search"]) -> str:
    """Tell what a tuning would do."""
    tuning = sweep.tune or Tuning()
    lines = []
    for search in asked:
        method = registry.load_method("student", search.student.name)
        owner = f"student '{search.student.label}'"
        narrowed = tuning.space_of(search.student.name, search.student.label)
        pins = space.pinned(method.Config, owner, narrowed)
        choices = (search.student, *search.starts.values())
        starts = [{**choice.config, **pins} for choice in choices]
        found = space.space(method.Config, owner, narrowed, starts)
        protocol = search.protocol
        teacher = search.teacher.label if search.teacher else ""
        place = " / ".join(filter(None, (protocol.dataset, protocol.setting, teacher)))
        lines.append((place, search.student.label, ", ".join(found)))
    seeds = ", ".join(map(str, tuning.seeds))
    budget = f"{tuning.trials} trials each, of {len(tuning.seeds)} seeds ({seeds})"
    most = tuning.trials * len(tuning.seeds) * len(lines)
    return "\n".join(
        [
            f"{len(lines)} studies, {budget}: at most {most:,} fits",
            f"sampler {tuning.sampler}, pruner {tuning.pruning}, "
            f"objectives {', '.join(tuning.objectives)}, batches of {tuning.batch}",
            "",
            _columns([("where", "student", "searched"), *lines]),
        ]
    )


def closing(outcome: "TuneOutcome", command: str, tuned_file: Path | None) -> str:
    """Tell what a tuning found, and what to do next."""
    lines: list[tuple[str, ...]] = [
        ("where", "student", "trials", "pruned", "failed", "fits took", "default", "best", "gain")
    ]
    for one in outcome.found:
        default = one.default_val_accuracy
        gain = "" if default is None else f"{100 * (one.val_accuracy - default):+.2f}"
        place = " / ".join(filter(None, (one.dataset, one.setting, one.teacher)))
        counts = (str(one.trials), str(one.pruned), str(one.failed))
        scores = (_percent(default), _percent(one.val_accuracy), gain)
        lines.append((place, one.student, *counts, duration(one.seconds), *scores))
    text = [_columns(lines)] if outcome.found else ["no search was completed"]
    text += [f"{name} is skipped: {why}" for name, why in outcome.skipped.items()]
    if outcome.trials:
        each = 1000 * outcome.driver_seconds / outcome.trials
        text.append(f"{outcome.trials} trials in this call; the driver took {each:.0f} ms for each")
    if tuned_file and outcome.found:
        text.append(f"val accuracy in %, mean over the tuning seeds. Next: {command}")
    return "\n".join(text)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _columns(lines: Lines) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    padded = (
        "  ".join(f"{text:<{w}}" for text, w in zip(line, widths, strict=True)) for line in lines
    )
    return "\n".join(line.rstrip() for line in padded)
