"""The sentences around a comparison: verdicts, what is missing, published numbers, how to read."""

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence

import pandas as pd

import bench
from bench import published
from bench.metrics import METRICS
from bench.published import Number
from bench.reports.blocks import FIXED_SPLITS, Block, Line, whole_of
from bench.stats import (
    ALPHA,
    MIN_PAIRS,
    Spread,
    against_published,
    difference,
    spread,
    unbiased,
)
from bench.tables import DASH, MARK, Cell, Column, Row, Table, percent, points

_DEFAULTS = {"features": "raw", "self_loops": "True", "device": "cpu"}
_ACCURACIES = ("test_accuracy", "prod_accuracy", "tran_accuracy", "ind_accuracy")


def title_of(block: Block) -> str:
    """Return "cpf-cora, random split, production"."""
    return f"{block.dataset}, {block.split} split, {block.setting}"


def notes(block: Block, *, sources: bool = True) -> Iterator[str]:
    """Say what a block shows: the verdict, the protocol, what is missing, and who published."""
    yield from _verdict(block)
    yield from _protocol(block)
    yield from _gaps(block)
    if sources:
        yield from _sources(block)


# ---- verdict --------------------------------------------------------------------------------


def _verdict(block: Block) -> Iterator[str]:
    best = block.contenders.get(block.verdict.best or "")
    if best is None:
        yield (
            "No run has finished."
            if not any(x.done for x in block.lines)
            else ("No student has finished a run.")
        )
        return
    score = percent(spread(best.runs[block.headline]))
    role = "student" if best.student else "teacher"
    yield f"Best {role}: {_named(best)}, {score} %{_rivals(block, role)}"
    teacher = block.teacher_of(best)
    if teacher is not None:
        gap = difference(best.runs[block.headline], teacher.runs[block.headline])
        if gap.n:
            yield (
                f"Against its own teacher, paired by seed (n = {gap.n}): {points(gap)} points; "
                f"{gap.wins} wins, {gap.ties} ties, {gap.losses} losses."
            )


def _rivals(block: Block, role: str) -> str:
    verdict = block.verdict
    if verdict.unmarked == "nothing to compare":
        return "."
    if verdict.unmarked:
        return f". No significance marks: {verdict.unmarked}."
    same = [_named(block.contenders[name]) for name in verdict.not_worse]
    if same:
        return f"; not significantly worse: {', '.join(same)}."
    left = len(block.contenders) - 1 - len(verdict.adjusted)
    return f", significantly better than every other {role}" + (" compared." if left else ".")


def _named(line: Line) -> str:
    return line.id.replace(" > ", " → ")


def _protocol(block: Block) -> Iterator[str]:
    if block.split in FIXED_SPLITS:
        hides = block.setting == "production" or (
            block.setting == "inductive" and block.split != "public"  # there all test nodes hide
        )
        hidden = "which test nodes are hidden, and " if hides else ""
        yield f"The split is fixed: seeds vary only {hidden}the initialisation."
    told = [f"{k} {v}" for k, v in block.options.items() if _DEFAULTS.get(k, v) != v]
    if block.setting != "transductive" and "hidden_rate" in block.options:
        told.append(f"hidden_rate {block.options['hidden_rate']}")
    if told:
        yield f"Options: {', '.join(told)}.".replace("hidden_rate", "share of hidden test nodes")
    if ", " in (contents := block.options.get("checksum", "")):
        yield (
            f"Caution: the runs are on several contents of this dataset (checksums {contents}); "
            "what is compared across them means nothing."
        )


def _gaps(block: Block) -> Iterator[str]:
    waiting = [line for line in block.lines if not line.done and set(line.gaps) == {"missing"}]
    for line in block.lines:
        if line.gaps and line not in waiting:
            reasons = ", ".join(f"{n} {_short(reason)}" for reason, n in line.gaps.items())
            yield f"{_named(line)}, {line.done} of {line.planned} runs: {reasons}."
    if waiting:
        count = sum(line.gaps["missing"] for line in waiting)
        yield f"Not run yet: {', '.join(map(_named, waiting))} ({count} runs)."


def _short(reason: str, limit: int = 90) -> str:
    return reason.rstrip(".") if len(reason) <= limit else reason[: limit - 1] + "…"


# ---- published numbers ----------------------------------------------------------------------


def printed(block: Block, line: Line, metric: str) -> tuple[Number, ...]:
    """Return the comparable published numbers of a line, the preferred source first.

    None of them belongs to a variant, to one of several configurations under a label, to another
    share of hidden nodes, to a graph without self-loops, or to hyper-parameters that an override
    moved away from the preset.
    """
    options = block.options
    other_rate = block.setting == "production" and options.get("hidden_rate", "0.2") != "0.2"
    other_graph = other_rate or options.get("self_loops") == "False"
    if line.variant or line.difference or line.changed or other_graph:
        return ()
    return published.find(block.protocol, metric, line.teacher, line.student)


def compared(number: Number, runs: Mapping[Hashable, float] | None = None) -> tuple[str, str]:
    """Write a published number, and our difference from it in points."""
    theirs = Spread(number.mean, math.nan if number.std is None else number.std, 0, 0, 1)
    std = unbiased(number.std, number.runs) if number.std_kind == "population" else number.std
    gap = against_published(runs or {}, number.mean, std, number.runs)
    return percent(theirs), points(gap)


def beside_published(block: Block) -> Table:
    """Return the published numbers that the block's table has no room for."""
    rows = []
    for line in block.lines:
        for metric in _ACCURACIES:
            for i, number in enumerate(printed(block, line, metric)):
                if metric == block.headline and i == 0:
                    continue
                texts = (METRICS[metric].label, percent(spread(line.runs[metric])))
                cells = map(Cell, (*texts, *compared(number, line.runs[metric]), number.source))
                rows.append(Row(_named(line), tuple(cells)))
    rows += _of_unknown_split(block)
    heads = (Column("metric"), Column("ours", "%"), Column("published", "%"))
    columns = (*heads, Column("difference", "points"), Column("source"))
    title = f"{title_of(block)}: further published numbers"
    return Table(title, columns, tuple(rows), lesser=True)


def _of_unknown_split(block: Block) -> Iterator[Row]:
    """The numbers of papers that do not state their split, beside ours and without difference."""
    metric, label = block.headline, METRICS[block.headline].label
    for line in whole_of(block.lines):
        names = line.teacher.partition(":")[0], line.student
        found = published.of_unknown_split(block.dataset, block.setting, metric, *names)
        for number in found if line.done and not line.difference else ():
            theirs, _ = compared(number)
            source = f"{number.source}, {number.table}; {number.note}"
            told = (label, percent(spread(line.runs[metric])), theirs, DASH, source)
            yield Row(_named(line), tuple(map(Cell, told)))


def _sources(block: Block) -> Iterator[str]:
    remarks: dict[Number, dict[str, None]] = {}  # one of each table's numbers -> its notes
    for number in _numbers(block):
        like = next((n for n in remarks if _origin(n) == _origin(number)), number)
        remarks.setdefault(like, {})[number.note] = None
    for number in sorted(remarks, key=lambda n: n.order):
        kind = {"population": "ddof 0", "unbiased": "ddof 1"}.get(number.std_kind)
        std = kind or "convention of the spread unknown"
        text = f"{_origin(number)}; {number.runs} runs, {std}"
        yield f"Published: {'; '.join([text, *filter(None, remarks[number])])}."


def _numbers(block: Block) -> Iterator[Number]:
    for line in block.lines:
        for metric in _ACCURACIES:
            yield from printed(block, line, metric)


def _origin(number: Number) -> str:
    return f"{number.citation} ({number.read})"


# ---- how to read ----------------------------------------------------------------------------

LEGEND = (
    "Percent, mean ± standard deviation over n seeds (ddof 1). Bold: best student "
    "(of a table without students: teacher; of a student in stages the whole alone); "
    f"{MARK}: not significantly worse (two-sided Wilcoxon signed-rank test paired by seed, Holm's "
    f"correction, {ALPHA:g})."
)


def closing(frame: pd.DataFrame) -> list[str]:
    """Say how every table of a report is to be read, and what it was made from."""
    sentences = [
        "Accuracies are percent, mean ± standard deviation over seeds (ddof 1). n: finished runs, "
        f"over planned ones where some are missing; {DASH}: nothing measured.",
        "Bold (* in a terminal): the best mean among the students of a table, over all its "
        "teachers; teachers are the reference and do not compete, unless there is no student. "
        f"Where a method has {MIN_PAIRS} runs or more, one with fewer cannot be the best. Of a "
        "student in stages the whole alone, its last number, competes and is compared.",
        f"{MARK}: not significantly worse than the best at {ALPHA:g}: two-sided Wilcoxon "
        "signed-rank test paired by seed (exact up to 14 pairs), Holm's correction over the "
        f"comparisons of the table. Nothing is marked below {MIN_PAIRS} common seeds, nor where "
        "that many seeds could reject nothing after the correction. Intervals are 95 % (Student's "
        "t).",
        "prod = (1 - share of hidden test nodes) tran + that share ind; tran: observed test nodes, "
        "ind: unseen ones. agreement: same prediction as the teacher.",
        f"Costs are medians over the runs. {_machine(frame)} Latency is taken with nothing else of "
        "ours running; fit s and MiB are those of the fit in its own process, while others may "
        "use the other cores (of one trained stage by stage, s is the time up to the end of a "
        "stage, MiB those of the whole); encode is the time of the positional encodings, not "
        "part of fit.",
        "Published numbers are as printed and enter no mean and no test; difference = ours - "
        "published, with Welch's interval where both spreads are known (a spread of unknown "
        "convention is read as ddof 1). Where several sources print a number, the method's own "
        "paper comes first.",
        *commits(frame),
        f"gkdbench {bench.__version__}.",
    ]
    return [sentence for sentence in sentences if sentence]


def _machine(frame: pd.DataFrame) -> str:
    told = []
    for names, word in ((("cost_threads", "ran.threads"), "threads"), (("ran.device_name",), "on")):
        values = next((v for name in names if (v := _distinct(frame, name))), [])
        if values:
            told.append(f"{word} {', '.join(values)}")
    return ("Measured with: " + "; ".join(told) + ".") if told else ""


def commits(frame: pd.DataFrame) -> Iterator[str]:
    """Say which commits the rows come from, with a caution where a method has several."""
    found = [text[:10] for text in _distinct(frame, "ran.git_commit")]
    if len(found) > 1:
        yield _several_commits(frame, found)
    elif found:
        yield f"All rows come from commit {found[0]}."
    if "True" in _distinct(frame, "ran.git_dirty"):
        yield "Caution: some rows were made with uncommitted changes."
    versions = _distinct(frame, "ran.gkdbench")
    if len(versions) > 1:
        yield f"Caution: the rows come from several versions of gkdbench: {', '.join(versions)}."


def _several_commits(frame: pd.DataFrame, found: Sequence[str]) -> str:
    """Name the methods, tuned ones apart, of each commit but the one with most of them."""
    own = frame["student"].where(frame["student"].fillna("") != "", frame["teacher"])
    of_method = frame["ran.git_commit"].astype(str).str[:10].groupby(own).agg(set)
    if any(len(commits) > 1 for commits in of_method):
        return f"Caution: the rows come from {len(found)} commits: {', '.join(found)}."
    made = {c: [str(m) for m, of in of_method.items() if c in of] for c in found}
    *few, most = sorted(found, key=lambda c: len(made[c]))
    told = "; ".join(f"{', '.join(made[c])} from {c}" for c in few)
    return f"The rows of {told}; all others from commit {most}."


def _distinct(frame: pd.DataFrame, name: str) -> list[str]:
    if name not in frame:
        return []
    told = {f"{v:g}" if isinstance(v, float) else str(v) for v in frame[name].dropna()}
    return sorted(told - {""})
