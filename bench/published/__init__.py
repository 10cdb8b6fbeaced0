"""Numbers printed in papers, as data: one YAML file for each source, in this folder.

    source:   label, paper, arxiv, order (1 is preferred where several sources print a number)
    std:      population | unbiased | unknown     the convention behind the printed "±"
    runs:     number of runs behind a mean, or null
    tables:   each with table, read (how the numbers got here), split, setting, metric, columns
              [{teacher, student}] and rows {dataset: ["80.54 ± 1.35", ...]}, in percent;
              note: what a reader must know; comparable: false for what must not be matched

A number is compared against, never mixed in. `comparable: false` keeps a number for the record;
of `split: not stated` it is printed beside ours on every split of its dataset, without difference.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_NUMBER = re.compile(r"(\d+(?:\.\d+)?)(?:\s*±\s*(\d+(?:\.\d+)?))?")
UNKNOWN = "not stated"  # of a split
_STD = ("population", "unbiased", "unknown")


@dataclass(frozen=True)
class Number:
    """One printed number. `mean` and `std` are fractions; `std` is as printed, or None."""

    dataset: str
    split: str
    setting: str
    metric: str
    teacher: str
    student: str
    mean: float
    std: float | None
    std_kind: str  # population (ddof 0), unbiased (ddof 1) or unknown
    runs: int | None
    source: str  # "GLNN"
    order: int
    paper: str
    arxiv: str
    table: str
    read: str
    note: str = ""
    comparable: bool = True

    @property
    def citation(self) -> str:
        """Where the number stands: "GLNN (arXiv 2110.08727), Table 3"."""
        return f"{self.source} (arXiv {self.arxiv}), {self.table}"


@functools.cache
def load() -> tuple[Number, ...]:
    """Return every number of this folder, the preferred sources first."""
    import yaml

    numbers: list[Number] = []
    for path in sorted(Path(__file__).parent.glob("*.yaml")):
        numbers += read(yaml.safe_load(path.read_text(encoding="utf-8")), path.name)
    return tuple(sorted(numbers, key=lambda number: number.order))


def find(
    protocol: tuple[str, str, str], metric: str, teacher: str, student: str
) -> tuple[Number, ...]:
    """Return the comparable numbers for (dataset, split, setting) and a method, preferred first."""
    wanted = (*protocol, metric, teacher, student)
    return tuple(n for n in load() if n.comparable and wanted == _identity(n))


def of_unknown_split(
    dataset: str, setting: str, metric: str, teacher: str, student: str
) -> tuple[Number, ...]:
    """Return the numbers of papers that do not state their split, for a teacher's bare name."""
    wanted = (dataset, UNKNOWN, setting, metric, teacher, student)
    return tuple(n for n in load() if wanted == _identity(n))


def _identity(n: Number) -> tuple[str, ...]:
    return (n.dataset, n.split, n.setting, n.metric, n.teacher, n.student)


def read(document: Mapping[str, Any], name: str) -> list[Number]:
    """Read one source's document; `name` is how errors call it.

    Raises:
        ValueError: a number that is none, a row of the wrong width, an unknown convention.
    """
    source = document["source"]
    if document["std"] not in _STD:
        raise ValueError(f"{name}: std is {document['std']!r}; allowed: {', '.join(_STD)}")
    shared = {
        "source": source["label"],
        "paper": source["paper"],
        "arxiv": source["arxiv"],
        "order": source["order"],
        "std_kind": document["std"],
        "runs": document["runs"],
    }
    return [n for table in document["tables"] for n in _table(table, shared, name)]


def _table(table: Mapping[str, Any], shared: Mapping[str, Any], name: str) -> list[Number]:
    """Read one table: a line for each dataset, a column for each method."""
    keys = ("split", "setting", "metric", "table", "read", "note", "comparable")
    facts = {**shared, **{key: table[key] for key in keys if key in table}}
    numbers = []
    for dataset, cells in table["rows"].items():
        if len(cells) != len(table["columns"]):
            raise ValueError(
                f"{name}: {dataset} has {len(cells)} numbers for {len(table['columns'])} columns"
            )
        for method, cell in zip(table["columns"], cells, strict=True):
            if cell is not None:
                mean, std = _parse(str(cell), f"{name}: {dataset}")
                numbers.append(Number(dataset=dataset, mean=mean, std=std, **method, **facts))
    return numbers


def _parse(text: str, where: str) -> tuple[float, float | None]:
    """Read "80.54 ± 1.35" or "80.54", in percent, as fractions."""
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{where}: {text!r} is no number; write '80.54' or '80.54 ± 1.35'")
    mean, std = match.groups()
    return round(float(mean) / 100, 6), None if std is None else round(float(std) / 100, 6)
