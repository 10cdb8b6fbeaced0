"""What the experts of routed students do: how even their load is, and which of them stand idle.

The numbers come from the rows. Loads, choices and hidden states are the artefact experts.npz of a
row, so they need the results folder; a report made from a CSV file does without them.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bench.reports.blocks import Block, Line
from bench.reports.notes import title_of
from bench.results import CorruptError, Store
from bench.stats import Spread, spread
from bench.tables import DASH, Cell, Column, Row, Table

ENTROPY, COLLAPSED = "expert_entropy", "experts_collapsed"
LEGEND = (
    "entropy: of the experts' shares of all gates, over the observed nodes, 1 where the load is "
    "even and 0 where one expert has all; the mean over the layers. without a node: experts that "
    "no observed node is sent to, summed over the layers, mean over the runs."
)
_TOLD = 4  # collapsed experts are named for that many runs


class Layer(NamedTuple):
    """What one layer does with n nodes: chosen experts and gates [n, k], load [E], its entropy."""

    experts: np.ndarray
    gates: np.ndarray
    load: np.ndarray
    entropy: float

    @property
    def idle(self) -> list[int]:
        """The experts, from 1, that no node goes to."""
        return [e + 1 for e in np.setdiff1d(np.arange(len(self.load)), self.experts).tolist()]


class Routing(NamedTuple):
    """The artefact of one variant of a row: its layers, and what stands beside the nodes.

    Shapes: labels, predicted int [n]; nodes int [m], the rows of the `hidden` states float [m, H].
    """

    layers: list[Layer]
    labels: np.ndarray
    predicted: np.ndarray
    nodes: np.ndarray
    hidden: np.ndarray | None


def read(store: Store, key: str, variant: str) -> Routing | None:
    """Return the routing of a row's variant; None where the row has none.

    Raises:
        CorruptError: the row or its artefact does not match its checksum.
    """
    row = store.read(key)
    if row is None or "experts.npz" not in row.artefacts:
        return None
    with np.load(store.artefact(row, "experts.npz")) as file:
        own = {n.removeprefix(f"{variant or '_'}/"): file[n] for n in _names(file.files, variant)}
        labels = file["labels"]
    if "entropy" not in own:
        return None
    layers = [
        Layer(own[f"{i}/experts"], own[f"{i}/gates"], own[f"{i}/load"], float(entropy))
        for i, entropy in enumerate(own["entropy"])
    ]
    nodes = own.get("nodes", np.zeros(0, np.int32))
    return Routing(layers, labels, own["predicted"], nodes, own.get("hidden"))


def _names(files: Sequence[str], variant: str) -> list[str]:
    return [name for name in files if name.startswith(f"{variant or '_'}/")]


def routed(block: Block) -> list[Line]:
    """Return the lines of a block that have routers."""
    return [line for line in block.lines if line.runs[ENTROPY]]


def routings(store: Store | None, line: Line) -> tuple[dict[Hashable, Routing], list[str]]:
    """Read the routings of a line by seed; and a sentence for each that cannot be used."""
    found: dict[Hashable, Routing] = {}
    troubles = []
    for unit, key in sorted(line.keys.items(), key=lambda item: _order(item[0])):
        try:
            routing = read(store, key, line.variant) if store else None
        except CorruptError as error:
            troubles.append(f"The experts of {_told(line)}, seed {unit}, are left out: {error}.")
            continue
        if routing is not None:
            found[unit] = routing
    return found, troubles


def _order(unit: Hashable) -> list[int]:
    """Seeds as numbers; where a unit is several of them, "3/0/1", one after the other."""
    return [int(part) for part in str(unit).split("/")]


# ---- table ----------------------------------------------------------------------------------


def table_of(block: Block, read_of: Mapping[str, Mapping[Hashable, Routing]]) -> Table | None:
    """Return the table of the block's experts, with what their layers tell; None without routers.

    Args:
        block: the block.
        read_of: the routings by seed of each line, by its id; those that could be read.
    """
    lines = routed(block)
    if not lines:
        return None
    depth = max((len(r.layers) for line in lines for r in _of(read_of, line)), default=0)
    rows = []
    for line in lines:
        layered = [_entropy(_of(read_of, line), i) for i in range(depth)]
        numbers = [spread(line.runs[ENTROPY]), *layered]
        idle = spread(line.runs[COLLAPSED])
        cells = [*(Cell(_three(n), faint=not n.n) for n in numbers), Cell(f"{idle.mean:.3g}")]
        rows.append(Row(_told(line), (*cells, Cell(str(numbers[0].n)))))
    heads = (Column("entropy"), *(Column("entropy", f"layer {i + 1}") for i in range(depth)))
    columns = (*heads, Column("without a node", "experts"), Column("n"))
    notes = tuple(_idle(line, read_of.get(line.id, {})) for line in lines)
    return Table(f"{title_of(block)}: experts", columns, tuple(rows), notes, lesser=True)


def _of(read_of: Mapping[str, Mapping[Hashable, Routing]], line: Line) -> list[Routing]:
    return list(read_of.get(line.id, {}).values())


def _entropy(found: Sequence[Routing], layer: int) -> Spread:
    return spread(
        {i: r.layers[layer].entropy for i, r in enumerate(found) if layer < len(r.layers)}
    )


def _three(value: Spread) -> str:
    if not value.n:
        return DASH
    return f"{value.mean:.3f}" + (f" ± {value.std:.3f}" if value.n > 1 else "")


def _idle(line: Line, found: Mapping[Hashable, Routing]) -> str:
    """Say which experts no node goes to."""
    counts = line.runs[COLLAPSED]
    bad = sorted((unit for unit, count in counts.items() if count), key=_order)
    if not bad:
        return f"{_told(line)}: every expert has nodes, in all {len(counts)} runs."
    named = [f"seed {unit}: {_places(found[unit])}" for unit in bad if unit in found]
    more = f"; and {len(named) - _TOLD} more" if len(named) > _TOLD else ""
    listed = f": {'; '.join(named[:_TOLD])}{more}" if named else ""
    many = f"in {len(bad)} of {len(counts)} runs"
    return f"Caution: {_told(line)} has experts without a node {many}{listed}."


def _places(routing: Routing) -> str:
    """Write "expert 3 of layer 1, experts 3 and 5 of layer 2"."""
    told = []
    for i, layer in enumerate(routing.layers, start=1):
        *first, last = [*map(str, layer.idle)] or [""]
        many = f"experts {', '.join(first)} and {last}" if first else f"expert {last}"
        told += [f"{many} of layer {i}"] if last else []
    return ", ".join(told)


def _told(line: Line) -> str:
    return line.id.replace(" > ", " → ")


def records(block: Block) -> Iterator[dict[str, object]]:
    """Yield one record for each routed line and number."""
    for line in routed(block):
        for name in (ENTROPY, COLLAPSED):
            value = spread(line.runs[name])
            yield {
                **dict(zip(("dataset", "split", "setting"), block.protocol, strict=True)),
                **{"teacher": line.teacher, "student": line.student, "variant": line.variant},
                **{"configuration": line.difference, "metric": name, "mean": value.mean},
                **{"std": value.std, "n": value.n},
            }
