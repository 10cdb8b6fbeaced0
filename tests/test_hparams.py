import math
import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass

import pytest

from bench.hparams import Range, TrainConfig, derive_seed, fields_of, hp, nearest, resolve, unknown


@dataclass(frozen=True)
class Config(TrainConfig):
    depth: int = hp(2, low=1, high=8)
    rate: float = hp(0.5, low=0.0, high=1.0)
    kind: str = hp("a", choices=("a", "b"))
    on: bool = hp(False)
    sizes: tuple[int, ...] = hp((5, 10))
    shares: tuple[float, ...] = hp((), low=0.0, high=1.0, distinct=True)
    top: int | None = hp(None, low=1)
    note: str = hp("")


def make(**values):
    return resolve(Config, "student 'toy'", values)


def test_without_values_there_are_the_defaults():
    assert make() == Config()
    assert (make().depth, make().rate, make().sizes, make().lr) == (2, 0.5, (5, 10), 0.01)


@pytest.mark.parametrize(
    ("key", "value", "kept"),
    [
        ("depth", 3, 3),
        ("depth", 3.0, 3),  # what YAML makes of 3e0
        ("rate", 1, 1.0),
        ("kind", "b", "b"),
        ("on", True, True),
        ("sizes", [1, 2, 3], (1, 2, 3)),
        ("sizes", 4, (4,)),
        ("sizes", [5, 5], (5, 5)),
        ("shares", [1, 0, 0.123456, 0.123457], (1.0, 0.0, 0.123456, 0.123457)),
        ("shares", 0.5, (0.5,)),
        ("top", None, None),
        ("top", 7, 7),
        ("note", "3", "3"),
        ("depth", 1, 1),
        ("depth", 8, 8),
        ("rate", 0.0, 0.0),
        ("rate", 1.0, 1.0),
    ],
)
def test_values_of_the_right_type_and_range_are_taken(key, value, kept):
    found = getattr(make(**{key: value}), key)
    assert found == kept
    assert type(found) is type(kept)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("depth", True, "must be of type int"),  # a bool is not a number
        ("depth", "3", "must be of type int"),  # text is not a number
        ("depth", 2.5, "must be of type int"),
        ("depth", None, "must be of type int"),
        ("depth", math.inf, "must be of type int"),
        ("rate", False, "must be of type float"),
        ("rate", "0.5", "must be of type float"),
        ("rate", math.nan, "must be of type float"),
        ("rate", math.inf, "must be of type float"),
        ("rate", [0.5], "must be of type float"),
        ("kind", 1, "must be of type str"),
        ("on", 1, "must be of type bool"),
        ("on", "yes", "must be of type bool"),
        ("sizes", ["a"], "must be of type int"),
        ("sizes", [True], "must be of type int"),
        ("shares", [0.5, -0.1], "allowed: 0 or more, each"),
        ("shares", 1.5, "allowed: 1 or less, each"),
        ("shares", [0.2, 0.5, 0.5], "0.5 stands there twice .six digits count.; give each once"),
        ("shares", [0.12345671, 0.12345672], "0.123457 stands there twice .*"),
        ("top", "x", "must be of type int"),
        ("depth", 0, "allowed: 1 or more"),
        ("depth", 9, "allowed: 8 or less"),
        ("rate", -0.01, "allowed: 0 or more"),
        ("rate", 1.01, "allowed: 1 or less"),
        ("kind", "c", "allowed: a, b"),
        ("top", 0, "allowed: 1 or more"),
        ("selection", "test", "allowed: val, last"),
    ],
)
def test_values_of_the_wrong_type_or_range_are_refused_in_one_sentence(key, value, why):
    with pytest.raises(ValueError, match=f"^student 'toy': {key} is .*{why}$"):
        make(**{key: value})


def test_an_unknown_key_is_refused_with_the_nearest_one():
    with pytest.raises(
        ValueError, match=r"student 'toy': unknown config key 'deph'; did you mean 'd"
    ):
        make(deph=3)
    with pytest.raises(ValueError, match="known: depth, kind, lr, max_epochs, note"):
        make(xyzzy=3)


def test_a_config_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        make().depth = 3


def test_fields_come_in_order_with_their_range():
    names = list(fields_of(Config))
    assert names[:5] == ["lr", "weight_decay", "max_epochs", "patience", "selection"]
    assert names[5:] == ["depth", "rate", "kind", "on", "sizes", "shares", "top", "note"]
    assert fields_of(Config)["depth"].metadata["range"] == Range(1, 8)
    assert fields_of(Config)["kind"].metadata["range"].choices == ("a", "b")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("rmb", "; did you mean 'rbm'?"), ("GLNN", "; did you mean 'glnn'?"), ("zzz", "")],
)
def test_the_nearest_name_is_found_whatever_its_case(name, hint):
    assert nearest(name, ["glnn", "rbm"]) == hint


def test_the_error_of_an_unknown_name_lists_the_known_ones():
    assert str(unknown("student", "rmb", ["rbm", "glnn"])) == (
        "unknown student 'rmb'; did you mean 'rbm'? known: glnn, rbm"
    )


# ---- seeds ----------------------------------------------------------------------------------


def test_derived_seeds_are_those_of_every_version():
    assert derive_seed(0, "fit") == 2368339599427500457  # half of sha256("0:fit")'s first 8 bytes
    assert derive_seed(7, "fit", 3) == 4835951137799935793


def test_derived_seeds_differ_by_seed_and_purpose_and_fit_63_bits():
    seeds = {derive_seed(s, *p) for s in range(20) for p in ((), ("a",), ("b",), ("a", "b"))}
    assert len(seeds) == 80
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_derived_seeds_do_not_depend_on_the_process():
    code = "from bench.hparams import derive_seed; print(derive_seed(3, 'init'))"
    options = {"capture_output": True, "text": True, "check": True}
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": "5"}, **options)
    assert int(done.stdout) == derive_seed(3, "init")
