"""Cells and sweeps: a sweep file becomes a list of cells, and a cell becomes a key.

A cell names everything that decides a result; its key is the hash of what was asked, so the same
question asked twice, by whatever sweep and under whatever label, is answered once.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.axes import shown

SCHEMA = 1  # raise when a change makes old rows answer another question


@dataclass(frozen=True)
class Choice:
    """A teacher or a student as asked for: its label in tables, its file, its resolved config."""

    label: str  # "sage:glnn"
    name: str  # "sage"
    config: Mapping[str, Any]  # every hyper-parameter, resolved
    changed: str = ""  # those that an override moved away from the preset: "dropout, lr"
    knowledge: str = ""  # what a student is taught by: "output, middle"; "labels": nothing else

    def asked(self) -> dict[str, Any]:
        """What decides the result: the label does not."""
        return {"name": self.name, "config": dict(sorted(self.config.items()))}


@dataclass(frozen=True)
class Protocol:
    """What is measured on: dataset, split and setting with their options."""

    dataset: str  # as written: "cpf-cora", "npz:my.npz", "synthetic:nodes=5000"
    checksum: str  # of the dataset's content; replaces its name in the key
    split: str  # with its options: "random:train=5"
    setting: str
    features: str = "raw"  # "raw" or "row" (each row divided by its sum)
    self_loops: bool = True
    hidden_rate: float = 0.2  # share of the test nodes that stays unseen (production, inductive)
    noise: str = ""  # "edges=0.2"; where there is none it is neither in the key nor in rows

    def asked(self) -> dict[str, Any]:
        """What decides the result: the checksum stands for the dataset."""
        return {k: v for k, v in self.plain().items() if k != "dataset"}

    def plain(self) -> dict[str, Any]:
        """All of it as plain data, for a row."""
        return {k: v for k, v in vars(self).items() if k != "noise" or v}

    @property
    def shown_split(self) -> str:
        """The split as groups and tables name it, with the noise: "random + edges=0.2"."""
        return shown(self.split, self.noise)


@dataclass(frozen=True)
class Cell:
    """One measurement: protocol x teacher x student x seeds; without student the teacher."""

    protocol: Protocol
    teacher: Choice | None
    student: Choice | None
    seed: int
    split_seed: int
    teacher_seed: int
    device: str = "cpu"  # kind of device: "cpu" or "cuda"
    evaluate_test: bool = True
    key: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", _digest(self.asked()))

    def asked(self) -> dict[str, Any]:
        """Everything that decides the result, as plain data."""
        return {
            "schema": SCHEMA,
            "protocol": self.protocol.asked(),
            "teacher": self.teacher.asked() if self.teacher else None,
            "student": self.student.asked() if self.student else None,
            "seed": self.seed if self.student else None,
            "split_seed": self.split_seed,
            "teacher_seed": self.teacher_seed if self.teacher else None,
            "device": self.device,
            "evaluate_test": self.evaluate_test,
        }

    @property
    def teacher_cell(self) -> "Cell | None":
        """The cell of this student's teacher, or None."""
        if self.teacher is None or self.student is None:
            return None
        return Cell(
            self.protocol,
            self.teacher,
            None,
            self.teacher_seed,
            self.split_seed,
            self.teacher_seed,
            self.device,
            self.evaluate_test,
        )

    @property
    def group(self) -> tuple[str, str, str, str, str]:
        """(dataset, split, setting, teacher, student): what is repeated over seeds."""
        p = self.protocol
        teacher = self.teacher.label if self.teacher else ""
        student = self.student.label if self.student else ""
        return (p.dataset, p.shown_split, p.setting, teacher, student)

    def describe(self) -> dict[str, Any]:
        """The cell as plain data for a row; `from_data` reads it back."""
        fields = ("seed", "split_seed", "teacher_seed", "device", "evaluate_test")
        return {
            "protocol": self.protocol.plain(),
            "teacher": _plain(self.teacher),
            "student": _plain(self.student),
            **{name: getattr(self, name) for name in fields},
        }


def _plain(choice: Choice | None) -> dict[str, Any] | None:
    """Copy a choice to plain data (dataclasses.asdict takes ten times as long)."""
    if choice is None:
        return None
    plain = {**vars(choice), "config": dict(choice.config)}
    return plain if choice.knowledge else {k: v for k, v in plain.items() if k != "knowledge"}


def from_data(data: Mapping[str, Any]) -> Cell:
    """Rebuild a cell from `Cell.describe()`."""
    fields = dict(data)
    fields["protocol"] = Protocol(**fields["protocol"])
    for role in ("teacher", "student"):
        fields[role] = Choice(**fields[role]) if fields[role] else None
    return Cell(**fields)


def _digest(data: Any) -> str:
    """Hash plain data: sha256 of its canonical JSON, 32 hex digits."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
