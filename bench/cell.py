"""Cells and sweeps: a sweep file becomes a list of cells, and a cell becomes a key.

A cell names everything that decides a result; its key is the hash of what was asked, so the same
question asked twice, by whatever sweep and under whatever label, is answered once.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SCHEMA = 1  # raise when a change makes old rows answer another question


@dataclass(frozen=True)
class Choice:
    """A teacher or a student as asked for: its label in tables, its file, its resolved config."""

    label: str  # "sage:glnn"
    name: str  # "sage"
    config: Mapping[str, Any]  # every hyper-parameter, resolved
    changed: str = ""  # those that an override moved away from the preset: "dropout, lr"

    def asked(self) -> dict[str, Any]:
        """What decides the result: the label does not."""
        return {"name": self.name, "config": dict(sorted(self.config.items()))}


@dataclass(frozen=True)
class Protocol:
    """What is measured on: dataset, split and setting with their options."""

    dataset: str  # as written: "cpf-cora", "npz:my.npz", "synthetic:nodes=5000"
    checksum: str  # of the dataset's content; replaces its name in the key
    split: str
    setting: str
    features: str = "raw"  # "raw" or "row" (each row divided by its sum)
    self_loops: bool = True
    hidden_rate: float = 0.2  # share of the test nodes that stays unseen (production, inductive)

    def asked(self) -> dict[str, Any]:
        """What decides the result: the checksum stands for the dataset."""
        return {k: v for k, v in vars(self).items() if k != "dataset"}


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
        return (p.dataset, p.split, p.setting, teacher, self.student.label if self.student else "")

    def describe(self) -> dict[str, Any]:
        """The cell as plain data for a row; `from_data` reads it back."""
        fields = ("seed", "split_seed", "teacher_seed", "device", "evaluate_test")
        return {
            "protocol": dict(vars(self.protocol)),
            "teacher": _plain(self.teacher),
            "student": _plain(self.student),
            **{name: getattr(self, name) for name in fields},
        }


def _plain(choice: Choice | None) -> dict[str, Any] | None:
    """Copy a choice to plain data (dataclasses.asdict takes ten times as long)."""
    return {**vars(choice), "config": dict(choice.config)} if choice else None


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
