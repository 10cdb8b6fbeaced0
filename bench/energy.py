"""Modelled energy: what codecarbon estimates where the processor has no counter we may read.

codecarbon multiplies the processor's nominal power by its load and the time, adds a constant for
the memory, and, with a country, multiplies by that country's grams of CO2 for a kilowatt-hour. So
it follows latency, and says nothing that latency does not: its numbers are called `modelled` and
nothing is ranked by them. It runs offline, for the whole machine, with nothing else of ours
running; where it can read a counter (RAPL) it takes that instead, and `cost.latency` does too.
"""

import logging
import re
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

JOULES_PER_KWH = 3.6e6
NO_COUNTRY = "none"


def check(country: str) -> None:
    """Refuse a machine without codecarbon, and a country that codecarbon does not know.

    It would take the world's mean instead, and say so in its log alone.

    Raises:
        ValueError: says what to write, or what to install.
    """
    if country != NO_COUNTRY and not re.fullmatch(r"[A-Z]{3}", country):
        raise ValueError(
            f"energy country '{country}' is no three-letter code; write one such as DEU, or "
            f"'{NO_COUNTRY}' for joules without emissions"
        )
    if find_spec("codecarbon") is None:
        raise ValueError("energy is modelled by codecarbon: pip install -e '.[energy]'")
    logging.getLogger("codecarbon").setLevel(logging.ERROR)
    from codecarbon.input import DataSource

    if country not in (NO_COUNTRY, *DataSource().get_global_energy_mix_data()):
        raise ValueError(
            f"codecarbon knows no emissions of country '{country}'; write another "
            f"three-letter code, or '{NO_COUNTRY}'"
        )


class Meter:
    """One offline tracker for a whole cost phase: starting one takes seconds.

    Raises:
        ValueError: as `check`.
    """

    def __init__(self, country: str = NO_COUNTRY) -> None:
        check(country)
        from codecarbon import OfflineEmissionsTracker

        self.country = country
        code = {} if country == NO_COUNTRY else {"country_iso_code": country}
        self._tracker: Any = OfflineEmissionsTracker(
            **code,
            output_methods=[],
            tracking_mode="machine",
            allow_multiple_runs=True,
            log_level="error",
        )

    def measure(self, call: Callable[[], Any], seconds: float = 1.0) -> dict[str, float]:
        """Run `call` for about `seconds`; return what one run takes.

        Units: `energy_modelled_joules`; with a country `emissions_modelled_mg`, milligrams of CO2
        equivalents.
        """
        self._tracker.start_task()
        count, deadline = 0, time.perf_counter() + seconds
        while count < 3 or time.perf_counter() < deadline:
            call()
            count += 1
        found = self._tracker.stop_task()
        one = {"energy_modelled_joules": found.energy_consumed * JOULES_PER_KWH / count}
        if self.country != NO_COUNTRY:
            one["emissions_modelled_mg"] = found.emissions * 1e6 / count
        return one

    def close(self) -> None:
        """End the tracker's thread."""
        self._tracker.stop()
