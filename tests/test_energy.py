"""Modelled energy, with a stand-in for codecarbon; and with codecarbon itself where it is there."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from bench import energy, launch, launch_energy
from bench.engine import Plan
from bench.expand import expand
from bench.place import Place
from bench.results import Store
from bench.sweep import from_overrides

DATA = "synthetic:nodes=300,degree=6,classes=3"


class Tracker:
    """Uses a hundredth of a kWh and emits 4 g a task."""

    made: list["Tracker"] = []  # noqa: RUF012

    def __init__(self, **options):
        self.options, self.tasks, self.stopped = options, 0, False
        Tracker.made.append(self)

    def start_task(self):
        self.tasks += 1

    def stop_task(self):
        return SimpleNamespace(energy_consumed=0.01, emissions=0.004)

    def stop(self):
        self.stopped = True


@pytest.fixture
def codecarbon(monkeypatch):
    """A stand-in; the tracker that was made last is `codecarbon.made[-1]`."""
    main, inputs = ModuleType("codecarbon"), ModuleType("codecarbon.input")
    main.OfflineEmissionsTracker = Tracker
    inputs.DataSource = lambda: SimpleNamespace(get_global_energy_mix_data=lambda: {"DEU": {}})
    monkeypatch.setitem(sys.modules, "codecarbon", main)
    monkeypatch.setitem(sys.modules, "codecarbon.input", inputs)
    monkeypatch.setattr(energy, "find_spec", lambda name: main)
    Tracker.made.clear()
    return Tracker


def test_joules_and_milligrams_are_those_of_one_run(codecarbon):
    calls = []
    found = energy.Meter("DEU").measure(lambda: calls.append(1), seconds=0.0)
    assert len(calls) == 3
    assert found["energy_modelled_joules"] == pytest.approx(0.01 * 3.6e6 / 3)
    assert found["emissions_modelled_mg"] == pytest.approx(4000 / 3)
    assert codecarbon.made[-1].options["country_iso_code"] == "DEU"


def test_without_a_country_there_are_no_emissions(codecarbon):
    found = energy.Meter("none").measure(lambda: None, seconds=0.0)
    assert list(found) == ["energy_modelled_joules"]
    assert "country_iso_code" not in codecarbon.made[-1].options
    assert codecarbon.made[-1].options["output_methods"] == []  # no file, no request


@pytest.mark.parametrize(
    ("country", "why"),
    [("Germany", "no three-letter code; write one such as DEU"), ("XXX", "knows no emissions")],
)
def test_a_country_that_nobody_knows_is_refused(codecarbon, country, why):
    for refuse in (energy.check, energy.Meter):  # before any cell, and by itself
        with pytest.raises(ValueError, match=why):
            refuse(country)
    assert not codecarbon.made


def test_a_missing_codecarbon_is_told_with_the_extra(monkeypatch):
    monkeypatch.setattr(energy, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[energy\]'"):
        energy.check("none")


# ---- the phase of a launch ------------------------------------------------------------------


def launched(tmp_path, **options):
    texts = [f"datasets={DATA}", "teachers=gcn", "students=glnn", "cost_seeds=1", "seeds=0-1"]
    sweep = from_overrides([*texts, "gcn.max_epochs=3", "glnn.max_epochs=3"])
    place = Place(tmp_path / "results", tmp_path / "data")
    cells = expand(sweep, place.data)
    quiet = {"progress": lambda items, total, title: items, "track": False}
    return launch.launch(sweep, cells, place, Plan(1, 1), **quiet, **options)


@pytest.mark.usefixtures("hurried")
def test_the_energy_of_what_is_timed_is_modelled_once_and_stored(tmp_path, codecarbon):
    plain = launched(tmp_path)
    assert not codecarbon.made  # off unless asked for
    timed = {key for key, row in plain.rows.items() if "latency_ms" in row.cost[""]}
    assert len(timed) == 2  # of one seed: the teacher and the student
    outcome = launched(tmp_path, energy="DEU")
    (tracker,) = codecarbon.made
    assert (tracker.tasks, tracker.stopped) == (2, True)
    store = Store(tmp_path / "results")
    for key, row in outcome.rows.items():
        cost = store.read(key).cost[""]
        assert cost == row.cost[""]
        assert ("energy_modelled_joules" in cost) is (key in timed)
        assert cost["macs"] == plain.rows[key].cost[""]["macs"]
        assert cost.get("latency_ms") == plain.rows[key].cost[""].get("latency_ms")
    assert launch_energy.pending(outcome) == []
    launched(tmp_path, energy="DEU")
    assert len(codecarbon.made) == 1  # nothing is left to do


@pytest.mark.usefixtures("hurried")
def test_a_model_that_fails_costs_a_warning_and_the_others_go_on(tmp_path, codecarbon, monkeypatch):
    launched(tmp_path)
    load = launch_energy.run.load_model

    def failing(cell, place):
        if cell.student is None:
            raise RuntimeError("no GPU here")
        return load(cell, place)

    monkeypatch.setattr(launch_energy.run, "load_model", failing)
    outcome = launched(tmp_path, energy="none")
    (warning,) = outcome.warnings
    assert warning.endswith("gcn could not be modelled: RuntimeError: no GPU here")
    assert (outcome.measured, len(launch_energy.pending(outcome))) == (1, 1)
    assert codecarbon.made[-1].stopped


def test_codecarbon_itself_needs_no_network_and_gives_joules(monkeypatch):
    pytest.importorskip("codecarbon")
    import socket

    def refuse(*_):
        raise AssertionError("the network is not to be used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    meter = energy.Meter("DEU")
    found = meter.measure(lambda: sum(range(1000)), seconds=0.2)
    meter.close()
    assert found["energy_modelled_joules"] > 0
    assert found["emissions_modelled_mg"] > 0
    with pytest.raises(ValueError, match="knows no emissions of country 'XXX'"):
        energy.Meter("XXX")
