"""The embedded default: a contextual stochastic block model with bags of words, of any size.

Write `synthetic`, or `synthetic:nodes=5000,homophily=0.6` with any of the parameters of `Config`.

Edges: nodes * degree / 2 draws, each with a uniform source and a target from the source's class
with probability `homophily`, else from another class. Features: each node draws `words` words, each
from its class's topic (an equal share of the vocabulary) with probability `signal`, else from all
words.

Source: Deshpande et al., "Contextual Stochastic Block Models" (arXiv 1807.09596, NeurIPS 2018).
Differs from it: several classes of equal size, for two; sparse 0/1 words for Gaussian features; a
fixed number of draws for independent edges. Repeated draws and self-loops are dropped, so the
measured degree lies a little below `degree`, and a word drawn twice counts once.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from bench import data
from bench.graph import Dataset, Graph
from bench.hparams import fields_of, hp, resolve
from bench.sparse import CSR

STATS = {"synthetic": None}
SPLITS: dict[str, tuple[str, ...]] = {"synthetic": ()}
VERSION = 1  # raise when the same parameters give another graph
CHUNK = 1 << 18  # nodes whose words are drawn at once: bounds the memory, and orders the draws


@dataclass(frozen=True)
class Config:
    """The parameters of a synthetic graph."""

    nodes: int = hp(2500, low=10, high=20_000_000, log=True)
    degree: float = hp(4.0, low=0.0, high=1000.0)  # mean number of neighbours
    classes: int = hp(7, low=2, high=1000)
    homophily: float = hp(0.6, low=0.0, high=1.0)  # share of the edges inside a class
    signal: float = hp(0.3, low=0.0, high=1.0)  # share of a node's words that are of its topic
    features: int = hp(500, low=2, high=1_000_000)  # words in the vocabulary
    words: int = hp(20, low=1, high=1000)  # draws of a node
    seed: int = hp(0, low=0, high=2**62)


def parameters(name: str) -> Config:
    """Read `synthetic` or `synthetic:key=value,...`.

    Raises:
        ValueError: a part that is not key=value, an unknown key, a wrong type or range.
    """
    values: dict[str, int | float] = {}
    for part in filter(None, name.partition(":")[2].split(",")):
        key, equals, text = (piece.strip() for piece in part.partition("="))
        if not equals:
            known = ", ".join(fields_of(Config))
            raise ValueError(f"dataset '{name}': '{part}' is not key=value; known keys: {known}")
        if key in values:
            raise ValueError(f"dataset '{name}' gives {key} twice; give it once")
        values[key] = _number(text)
    config: Config = resolve(Config, f"dataset '{name}'", values)
    if config.features < config.classes or config.nodes < config.classes:
        raise ValueError(
            f"dataset '{name}' has {config.classes} classes for {config.nodes} nodes and "
            f"{config.features} features; each class needs at least one of both"
        )
    return config


def _number(text: str) -> int | float:
    """Read a number; other text is returned as it is, for `resolve` to refuse."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text  # type: ignore[return-value]


def files(name: str, root: Path) -> list[Path]:
    """Return no file: the graph is made from its parameters."""
    parameters(name)
    return []


def prepare(name: str, root: Path) -> None:
    """Do nothing: there is nothing to download."""
    parameters(name)


def checksum(name: str, root: Path) -> str:
    """Return the sha256 of the resolved parameters and of the generator's version."""
    asked = json.dumps({"synthetic": VERSION, **asdict(parameters(name))}, sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()


def load(name: str, root: Path, *, check: bool = True) -> Dataset:
    """Make the graph; the same parameters always make the same one."""
    config = parameters(name)
    rng = np.random.Generator(np.random.PCG64(config.seed))
    # Only `random` is used: numpy keeps its stream across versions, others may change.
    order = np.argsort(rng.random(config.nodes), kind="stable")  # nodes grouped by class
    first = np.arange(config.classes + 1) * config.nodes // config.classes
    y = np.empty(config.nodes, dtype=np.int64)
    y[order] = np.repeat(np.arange(config.classes), np.diff(first))
    source, target = _edges(config, rng, y, order, first)
    adj = data.adjacency(source, target, config.nodes)
    graph = Graph(_words(config, rng, y), torch.from_numpy(y), adj, config.classes)
    return Dataset(name, graph, checksum(name, root))


def _edges(
    config: Config, rng: np.random.Generator, y: np.ndarray, order: np.ndarray, first: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Draw sources and targets, int64 [draws]; `order` lists class c from `first[c]` on."""
    draws = round(config.nodes * config.degree / 2)
    source = (rng.random(draws) * config.nodes).astype(np.int64)
    inside = rng.random(draws) < config.homophily
    start, size = first[:-1][y[source]], np.diff(first)[y[source]]
    among = np.where(inside, size, config.nodes - size)
    place = (rng.random(draws) * among).astype(np.int64)
    # Outside its class, a target is counted past the block that the class takes in `order`.
    place += np.where(inside, start, np.where(place >= start, size, 0))
    return source, order[place]


def _words(config: Config, rng: np.random.Generator, y: np.ndarray) -> CSR:
    """Draw the bags of words, 0/1 CSR [nodes, features]."""
    counts, columns = zip(*_chunks(config, rng, y), strict=True)
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    indices = torch.from_numpy(np.concatenate(columns))
    shape = (config.nodes, config.features)
    return CSR(torch.from_numpy(indptr), indices, torch.ones(len(indices)), shape)


def _chunks(
    config: Config, rng: np.random.Generator, y: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the number of distinct words of each node of a chunk, and those words, sorted."""
    bounds = np.arange(config.classes + 1) * config.features // config.classes
    for begin in range(0, config.nodes, CHUNK):
        topic = y[begin : begin + CHUNK, None]
        size = (len(topic), config.words)
        on_topic = rng.random(size) < config.signal
        low = np.where(on_topic, bounds[topic], 0)
        high = np.where(on_topic, bounds[topic + 1], config.features)
        words = (low + rng.random(size) * (high - low)).astype(np.int32)  # [n, words]
        words.sort(axis=1)
        fresh = np.ones(size, dtype=bool)
        fresh[:, 1:] = words[:, 1:] != words[:, :-1]
        yield fresh.sum(axis=1), words[fresh]
