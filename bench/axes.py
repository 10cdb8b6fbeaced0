"""Robustness axes as text: the options of a split, and noise.

    random:train=5               5 train nodes of each class where 20 are usual
    random:imbalance=10          the rarest class has a tenth of the train nodes of the largest one
    features=0.2                 a fifth of the features is noise
    edges=0.2+teacher_labels=0.1 several at once

`splits` and `noise` say what they do. Each has one spelling, which enters the key of a cell: what
is as usual (`train=20`, `edges=0`) is left out, so that nothing is asked twice under two names.
"""

import math
import re
from collections.abc import Iterable, Mapping

from bench.hparams import unknown

TRAIN = 20  # train nodes of each class in the random split
USUAL: Mapping[str, float] = {"train": TRAIN, "imbalance": 1}  # the options of split `random`
NOISE = ("features", "edges", "teacher_labels")
NO_NOISE = "none"
_JOIN = " + "
_MOST = {"train": 10_000, "imbalance": 10_000}


def split_of(text: str) -> tuple[str, dict[str, float]]:
    """Read `name` or `name:option=value,...`; return the name and all options of that split.

    Raises:
        ValueError: an option that the split does not have, or a value that it cannot take.
    """
    if _JOIN in text:
        bare, _, noise = text.partition(_JOIN)
        raise ValueError(
            f"split '{text}' has its noise in its name, as reports write it; give split '{bare}' "
            f"and noise={noise.replace(' ', '')}"
        )
    name, colon, rest = (part.strip() for part in text.partition(":"))
    if not colon:
        return name, dict(USUAL) if name == "random" else {}
    if name != "random":
        raise ValueError(
            f"split '{text}': only 'random' takes options: {', '.join(USUAL)}; leave them out"
        )
    options = {**USUAL, **_numbers(f"split '{text}'", rest.split(","), USUAL)}
    for key, value in options.items():
        if not 1 <= value <= _MOST[key] or (key == "train" and value != int(value)):
            what = "a whole number" if key == "train" else "a number"
            allowed = f"{what} between 1 and {_MOST[key]:,}"
            raise ValueError(f"split '{text}': {key} is {value:g}; it can be {allowed}")
    if options["imbalance"] > options["train"]:
        raise ValueError(
            f"split '{text}': of {options['train']:g} train nodes in the largest class, imbalance "
            f"{options['imbalance']:g} leaves the smallest less than one; lower it to "
            f"{options['train']:g} or give more with train=..."
        )
    return name, options


def noise_of(text: str) -> dict[str, float]:
    """Read `none`, or kinds of noise with their levels joined by `+`; return those above 0.

    Raises:
        ValueError: an unknown kind, or a level that is no share.
    """
    if text.strip() in ("", NO_NOISE):
        return {}
    levels = _numbers(f"noise '{text}'", text.split("+"), NOISE)
    for kind, level in levels.items():
        if not 0 <= level <= 1:
            raise ValueError(
                f"noise '{text}': {kind} is {level:g}; it is a share, from 0 (none) to 1 (all)"
            )
    return {kind: levels[kind] for kind in NOISE if levels.get(kind)}


def canonical_split(text: str) -> str:
    """Return the one spelling of a split with its options."""
    name, options = split_of(text)
    moved = [f"{k}={v:.10g}" for k, v in options.items() if v != USUAL[k]]
    return f"{name}:{','.join(moved)}" if moved else name


def canonical_noise(text: str) -> str:
    """Return the one spelling of a noise; that of no noise is empty."""
    return "+".join(f"{kind}={level:.10g}" for kind, level in noise_of(text).items())


def shown(split: str, noise: str) -> str:
    """Write a split and its noise as tables and groups name them: `random + edges=0.2`."""
    return _JOIN.join([split, *filter(None, noise.split("+"))])


def split_name(text: str) -> str:
    """Return the bare name of a split written in any way, also as `shown` does."""
    return text.partition(_JOIN)[0].partition(":")[0].strip()


def levels_of(text: str) -> tuple[str, dict[str, float]]:
    """Read what `shown` wrote: the bare name, and the level of every axis, the usual ones too."""
    split, *noise = text.split(_JOIN)
    name, options = split_of(split)
    return name, {**options, **dict.fromkeys(NOISE, 0.0), **noise_of("+".join(noise))}


def _numbers(owner: str, parts: Iterable[str], known: Iterable[str]) -> dict[str, float]:
    """Read `key=number` parts."""
    found: dict[str, float] = {}
    for part in parts:
        match = re.fullmatch(r"\s*(\w+)\s*=\s*(\S+)\s*", part)
        if not match:
            raise ValueError(f"{owner}: '{part.strip()}' is not key=number; keys: {_all(known)}")
        key, text = match.groups()
        if key not in known:
            raise ValueError(f"{owner}: {unknown('key', key, known)}")
        if key in found:
            raise ValueError(f"{owner} gives {key} twice; give it once")
        try:
            found[key] = float(text)
        except ValueError:
            found[key] = math.nan
        if not math.isfinite(found[key]):
            raise ValueError(f"{owner}: {key} is '{text}', which is no number")
    return found


def _all(names: Iterable[str]) -> str:
    return ", ".join(names)
