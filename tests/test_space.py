"""Laws of search spaces: what a Config declares, what a sweep may change of it."""

from dataclasses import dataclass

import pytest

from bench import registry
from bench.hparams import TrainConfig, hp
from bench.space import pinned, space


@dataclass(frozen=True)
class Config(TrainConfig):
    """Search ranges of every kind."""

    units: int = hp(64, low=1, high=512, log=True, search=(16, 256))
    noise: float = hp(0.0, low=0.0, high=1.0, search=[0.0, 0.1])
    radius: float = hp(0.5, low=0.0, high=1.0, search=(0.1, 0.9), when="noise")
    kind: str = hp("a", choices=("a", "b"))
    depth: int = hp(2, low=1, high=9, search=(1, 4), when="kind=b")


@dataclass(frozen=True)
class Child(Config):
    """Another default, and no search of its own."""

    units: int = hp(32, low=1, high=512)


def of(narrowed=None, tried=(), config=Config):
    return space(config, "student 'x'", narrowed, tried)


def test_dimensions_are_what_the_config_declares_in_its_order():
    found = of()
    assert list(found) == ["lr", "weight_decay", "units", "noise", "radius", "depth"]
    assert (found["units"].low, found["units"].high, found["units"].log) == (16, 256, True)
    assert found["units"].whole
    assert not found["lr"].whole
    assert found["noise"].values == (0.0, 0.1)


def test_a_default_redeclared_without_a_search_keeps_that_of_its_parent():
    assert of(config=Child)["units"].high == 256


def test_dimensions_have_room_for_what_is_tried_anyway():
    found = of(tried=[{**vars(Config()), "units": 300, "noise": 0.7, "lr": 0.2}])
    assert (found["units"].low, found["units"].high) == (16, 300)
    assert found["noise"].values == (0.0, 0.1, 0.7)
    assert found["lr"].high == 0.2


@pytest.mark.parametrize(
    ("config", "applies"),
    [
        ({"noise": 0.0, "kind": "a"}, {"radius": False, "depth": False}),
        ({"noise": 0.1, "kind": "b"}, {"radius": True, "depth": True}),
    ],
)
def test_a_conditional_dimension_applies_where_its_condition_holds(config, applies):
    found = of()
    assert {name: found[name].applies(config) for name in applies} == applies


def test_a_dimension_that_can_never_apply_is_left_out():
    start = vars(Config())
    assert "depth" not in of(tried=[start])  # kind is a, and not searched
    assert "depth" in of({"kind": ["a", "b"]}, [start])
    assert "depth" in of(tried=[start, {**start, "kind": "b"}])
    assert "radius" in of(tried=[start])  # noise is searched


def test_a_sweep_pins_narrows_and_opens():
    given = {"lr": 0.01, "units": [32, 64], "kind": ["a", "b"], "radius": {"low": 0.2, "high": 0.4}}
    found = of(given)
    assert "lr" not in found
    assert pinned(Config, "student 'x'", given) == {"lr": 0.01}
    assert found["units"].values == (32, 64)
    assert found["kind"].values == ("a", "b")
    assert (found["radius"].low, found["radius"].high) == (0.2, 0.4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"unit": 3}, "unknown config key 'unit'; did you mean 'units'?"),
        ({"units": 0}, "units is 0; allowed: 1 or more"),
        ({"units": [16]}, "units has 1 values to try; give two or more"),
        ({"units": [16, "a"]}, "units is 'a'; it must be of type int"),
        ({"lr": {"low": 0.1}}, "the range of lr has the keys low; write {low: ..., high: ...}"),
        ({"lr": {"low": 0.1, "high": 0.1}}, "the range of lr goes from 0.1 to 0.1; it must rise"),
        ({"lr": {"low": 0.1, "high": 3.0}}, "lr is 3.0; allowed: 1 or less"),
        ({"noise": {"low": 0.0, "high": 0.5, "log": True}}, "cannot be searched by its logarithm"),
        ({"kind": {"low": "a", "high": "b"}}, "the range of kind goes from a to b; it must rise"),
    ],
)
def test_a_mistake_in_a_sweep_is_one_sentence(given, message):
    with pytest.raises(ValueError, match=r"student 'x'.*") as caught:
        of(given)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", sorted(registry.methods("student")))
def test_every_student_can_be_searched_and_its_ranges_are_allowed(name):
    config = registry.load_method("student", name).Config
    from bench.hparams import resolve

    found = space(config, f"student '{name}'")
    assert len(found) >= 3
    for dimension in found.values():
        values = dimension.values or (dimension.low, dimension.high)
        for value in values:
            resolve(config, name, {dimension.name: value})
