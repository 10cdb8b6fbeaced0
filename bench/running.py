"""A trial while its cells run."""

from dataclasses import dataclass, field
from typing import Any

from bench.results import Row
from bench.study import Trial


@dataclass
class Running:
    """A trial between ask and tell."""

    trial: Trial
    config: dict[str, Any]
    rows: dict[int, Row] = field(default_factory=dict)  # seed -> row
    given: set[int] = field(default_factory=set)  # seeds whose cells were submitted
    again: set[int] = field(default_factory=set)  # those submitted anew after they were lost
    heard: int = 0  # fits that came
    pruned: bool = False
    reason: str = ""  # why it failed
    seconds: float = 0.0  # of fitting, fits that failed or were stopped too

    def shown(self) -> dict[str, Any]:
        """Return the trial as it goes on, as far as `Study.records` has it when it is over."""
        trial = self.trial
        known = {"number": trial.number, "origin": trial.origin, "params": trial.params}
        return {**known, "state": "running", "reason": "", "keys": []}

    def decided(self, seeds: list[int]) -> bool:
        """Whether it needs no further cell."""
        return self.pruned or bool(self.reason) or len(self.rows) == len(seeds)

    def ended(self, seeds: list[int]) -> bool:
        """Whether it is decided and nothing of it runs: a fit that is told to stop still comes."""
        return self.decided(seeds) and self.heard >= len(self.given)
