"""Rows as tables: tidy records, and a DataFrame of a results folder or of a committed CSV file."""

import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.axes import shown
from bench.store import DONE, STATUSES, CorruptError, Row, Store

if TYPE_CHECKING:
    import pandas

__all__ = [
    "DONE",
    "FIRST_COLUMNS",
    "METRIC_COLUMNS",
    "STATUSES",
    "CorruptError",
    "Row",
    "Store",
    "frame",
    "load",
    "tidy",
]

FIRST_COLUMNS = ("dataset", "split", "setting", "teacher", "student", "variant", "seed", "status")
METRIC_COLUMNS = (
    "test_accuracy",
    "val_accuracy",
    "tran_accuracy",
    "ind_accuracy",
    "prod_accuracy",
    "macro_f1",
    "agreement",
    "params",
    "macs",
    "latency_ms",
    "latency_node_ms",
    "train_seconds",
    "peak_memory_mib",
    "energy_joules",
)


def tidy(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Flatten rows to records, one for each cell and variant; the stable columns first.

    `train_seconds` of a stage is the time up to its end, see `_train_seconds`; of all else, that of
    the fit. Then come the other metrics, `key`, `reason`, the seeds, the protocol's options,
    `seconds_*`, `teacher.*` and `student.*` (the configuration) and `ran.*` (the provenance).
    """
    return [_record(row, variant) for row in rows for variant in (row.variants or {"": {}})]


def _record(row: Row, variant: str) -> dict[str, Any]:
    cell, protocol = row.cell, row.cell["protocol"]
    label = {role: (cell[role] or {}).get("label", "") for role in ("teacher", "student")}
    record: dict[str, Any] = {
        "dataset": protocol["dataset"],
        "split": shown(protocol["split"], protocol.get("noise", "")),
        "setting": protocol["setting"],
        **label,
        "variant": variant,
        "seed": cell["seed"],
        "status": row.status,
    }
    numbers: dict[str, Any] = {**row.variants.get(variant, {}), **row.cost.get(variant, {})}
    numbers["train_seconds"] = _train_seconds(row.seconds, variant)
    numbers["peak_memory_mib"] = row.fit.get("peak_memory_mib")
    record.update({name: numbers.pop(name, None) for name in METRIC_COLUMNS})
    record.update(numbers)
    record.update(key=row.key, teacher_key=row.teacher_key, reason=row.reason)
    record.update({k: cell[k] for k in ("split_seed", "teacher_seed", "device", "evaluate_test")})
    record.update({k: protocol[k] for k in ("features", "self_loops", "hidden_rate", "checksum")})
    record.update({"noise": protocol["noise"]} if protocol.get("noise") else {})
    record.update({f"seconds_{k}": v for k, v in row.seconds.items() if k != "train"})
    record.update({k: v for k, v in row.fit.items() if k != "peak_memory_mib"})
    told = [f"{role}: {(cell[role] or {}).get('changed')}" for role in ("teacher", "student")
            if (cell[role] or {}).get("changed")]  # fmt: skip
    record["changed"] = "; ".join(told)
    if taught := (cell["student"] or {}).get("knowledge"):
        record["knowledge"] = taught
    for role in ("teacher", "student"):
        config = (cell[role] or {}).get("config", {})
        record.update({f"{role}.{k}": v for k, v in config.items()})
    record.update({f"ran.{k}": v for k, v in row.ran.items()})
    return record


def _train_seconds(seconds: Mapping[str, float], variant: str) -> float | None:
    """Return what training a variant takes: for stage m of a fit in turns, up to its end.

    The fit's `train` goes to its stages in proportion to their own clocks (`fit_stage_<k>`), which
    leave out what lies between them: so the last stage costs the whole fit, as it does for a method
    without stages. Stages that are trained together have no clocks, and each costs the whole fit;
    so do variants that are no stage.
    """
    whole = seconds.get("train")
    clocks = {k: v for k, v in seconds.items() if k.startswith("fit_stage_")}
    upto = [f"fit_stage_{k}" for k in range(1, int(variant) + 1)] if variant.isdigit() else []
    total = sum(clocks.values())
    if whole is None or not upto or not clocks.keys() >= set(upto) or total <= 0:
        return whole
    return whole * (sum(clocks[name] for name in upto) / total)


# ---- as a table ------------------------------------------------------------------------------


def load(root: str | Path, keys: Iterable[str] | None = None) -> "pandas.DataFrame":
    """Read the rows of a results folder as a tidy frame, one line for each cell and variant.

    Args:
        root: the results folder, or a CSV file that `gkdbench rows --format csv` printed.
        keys: only these cells, in this order, as far as they are there; all of them by default.

    Returns:
        `frame` of the rows. What cannot be read is never used: it is named on stderr (logging) and
        in `.attrs["corrupt"]`, one sentence for each.
    """
    if Path(root).suffix == ".csv":
        return _read_csv(Path(root), keys)
    store, rows, corrupt = Store(root), [], []
    for key in store.keys() if keys is None else dict.fromkeys(keys):
        try:
            row = store.read(key)
        except (CorruptError, TypeError) as error:  # TypeError: fields of another version
            corrupt.append(f"row {key} is left out: {error}")
            continue
        if row is not None:
            rows.append(row)
    for sentence in corrupt:
        logging.getLogger(__name__).warning(sentence)
    table = frame(rows)
    table.attrs["corrupt"] = corrupt
    return table


def _read_csv(path: Path, keys: Iterable[str] | None) -> "pandas.DataFrame":
    """Read a frame back from CSV, with the types that `frame` gives."""
    import pandas as pd

    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    text = pd.read_csv(path, dtype=str, keep_default_na=False)
    columns = {}
    for name in text.columns:
        values = [_plain(name, value) for value in text[name]]
        columns[name] = _column(name, values)
    table = pd.DataFrame(columns)
    table.attrs["corrupt"] = []
    return table if keys is None else table[table["key"].isin(list(keys))]


def _plain(name: str, text: str) -> Any:
    """Read one value of a CSV file: a number, true or false, nothing, else text."""
    hashes = ("key", "teacher_key", "checksum", "ran.git_commit")  # digits and an e may stand there
    if name in (*FIRST_COLUMNS, *hashes, "reason", "changed") and name != "seed":
        return text
    if text in ("", "True", "False"):
        return {"": None, "True": True, "False": False}[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def frame(rows: Iterable[Row]) -> "pandas.DataFrame":
    """Return rows as a tidy DataFrame: `tidy`'s columns in order, missing numbers as NaN.

    Measurements are float64, seeds int64 (Int64 where one is missing), the names of `FIRST_COLUMNS`
    text; configuration and provenance keep the types they were recorded with.
    """
    import pandas as pd

    records = tidy(rows)
    stable = (*FIRST_COLUMNS, *METRIC_COLUMNS, "key", "teacher_key", "reason")
    names = dict.fromkeys((*stable, *(name for record in records for name in record)))
    columns = {name: [record.get(name) for record in records] for name in names}
    return pd.DataFrame({name: _column(name, values) for name, values in columns.items()})


def _column(name: str, values: list[Any]) -> "pandas.Series":
    """Give a column its type: seeds whole, numbers float, the rest as recorded."""
    import pandas as pd

    present = [v for v in values if v is not None]
    if name == "seed" or (name.endswith("_seed") and "." not in name):
        return pd.Series(values, dtype="int64" if len(present) == len(values) else "Int64")
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in present)
    described = name.startswith(("teacher.", "student.", "ran."))
    if name in METRIC_COLUMNS or (numeric and present and not described):
        return pd.Series([math.nan if v is None else v for v in values], dtype="float64")
    if name in (*FIRST_COLUMNS, "key", "teacher_key", "reason", "changed"):
        return pd.Series(["" if v is None else v for v in values], dtype="str")
    return pd.Series(values, dtype="object")
