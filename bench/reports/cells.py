"""Tidy rows beside a plan: one line for each cell and variant, what pairs them, what they ran."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

BLOCK = ["dataset", "split", "setting"]
LABELS = [*BLOCK, "teacher", "student", "seed"]  # the plan's word counts: labels are not in the key
ASKED = ("features", "self_loops", "hidden_rate", "device", "checksum")
DIGITS = 10  # of a checksum, where it is told


def reported(frame: pd.DataFrame) -> pd.DataFrame:
    """Leave out the rows of tuning, which have no test accuracy and other seeds."""
    return frame[frame["evaluate_test"].ne(False)] if "evaluate_test" in frame else frame


def joined(frame: pd.DataFrame, planned: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """One line for each planned cell and variant (`missing` where nothing ran), then the others."""
    asked = [{name: _text(cell[name]) for name in ("key", *LABELS)} for cell in planned]
    plan = pd.DataFrame(asked, columns=["key", *LABELS]).drop_duplicates()
    frame = reported(frame)
    if frame.empty:
        return plan.assign(status="missing", variant="", reason="")
    unplanned = frame.loc[~frame["key"].isin(set(plan["key"])), ["key", *LABELS]]
    plan = pd.concat([part for part in (plan, unplanned.drop_duplicates()) if len(part)])
    cells = plan.merge(frame.drop(columns=LABELS), on="key", how="left", sort=False)
    cells["status"] = cells["status"].fillna("missing")
    cells["variant"] = cells["variant"].fillna("")
    return cells


def units(group: pd.DataFrame) -> pd.Series:
    """What pairs runs: the seed, or where some method repeats one, more: the first that is enough.

    Teachers of one `teacher_seed` have its seed on every split: the split's pairs them. Then come
    the seeds of split and teacher, and all three.
    """
    label = ["teacher", "student", "variant"]
    ok = group[group["status"] == "ok"]
    if not len(ok):
        return group["seed"]
    ok = ok.assign(name=ok[label].astype(str).agg(" ".join, axis=1) + configurations(ok))
    every = ["seed", "split_seed", "teacher_seed"]
    for wanted in (every[:1], every[1:2], every[1:], every):
        seeds = [name for name in wanted if name in group]
        if seeds and not ok.duplicated(["name", *seeds]).any():
            break
    return group[seeds].astype(str).agg("/".join, axis=1) if len(seeds) > 1 else group[seeds[0]]


def refuse_repeated(name: str, cells: pd.DataFrame) -> None:
    """Refuse two results of one method for one unit: one of them would be lost.

    Args:
        name: of the line.
        cells: its finished cells, with their `unit`.

    Raises:
        ValueError: names both.
    """
    again = cells[cells.duplicated("unit", keep=False)]
    if len(again):
        same = again[again["unit"] == again["unit"].iloc[0]]
        raise ValueError(
            f"{len(same)} rows of '{name}' have seed {same['seed'].iloc[0]} and the same data and "
            f"configuration (keys {', '.join(same['key'])}); keep one, or give one another label"
        )


def configurations(cells: pd.DataFrame) -> pd.Series:
    """Write the resolved configuration of every cell as canonical JSON."""
    names = [k for k in cells if str(k).startswith(("teacher.", "student.")) or k in ASKED]
    texts = [
        json.dumps({str(k): _plain(v) for k, v in zip(names, row, strict=True) if given(v)})
        for row in cells[names].itertuples(index=False, name=None)
    ]
    return pd.Series(texts, index=cells.index, dtype="object")


def differing(config: Mapping[str, Any], keys: Iterable[str]) -> str:
    """Write the keys in which configurations differ; the student's own need no prefix."""
    told = {key.removeprefix("student."): config.get(key, "-") for key in keys}
    if "checksum" in told:
        told["checksum"] = digits(told["checksum"])
    return ", ".join(f"{key}={value}" for key, value in sorted(told.items()))


def options_of(group: pd.DataFrame) -> dict[str, str]:
    """Write the distinct values of each option of a block's cells that has some."""
    told = {}
    for name in ASKED:
        values = {str(v) for v in group[name] if given(v)} if name in group else set()
        if name == "checksum":
            values = {digits(v) for v in values}
        if values:
            told[name] = ", ".join(sorted(values))
    return told


def digits(checksum: Any) -> str:
    """Shorten a checksum to what tells it from others."""
    return str(checksum).rpartition(":")[2][:DIGITS]


def given(value: Any) -> bool:
    """Whether a value of a frame is one."""
    return isinstance(value, list | tuple | dict) or bool(pd.notna(value))


def _text(value: Any) -> Any:
    return "" if value is None else value


def _plain(value: Any) -> Any:
    """A value as JSON knows it; whole floats are ints (a missing number made the column float)."""
    value = value.item() if hasattr(value, "item") else value
    return int(value) if isinstance(value, float) and value.is_integer() else value
