"""The sweeps in `sweeps/` ask for what their headers say."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import bench
from bench import registry
from bench.cell import Protocol
from bench.cost import count_macs
from bench.expand import expand
from bench.graph import Graph
from bench.sparse import CSR
from bench.splits import largest_component
from bench.sweep import read
from tests.test_datasets import REAL, needs_data

SWEEPS = Path(bench.__file__).parent.parent / "sweeps"
NODES, FEATURES, CLASSES, STORED = 2485, 1433, 7, 45_487  # of Cora's largest component
PART = 35  # MACs are counted on one 35th of it


# ---- equal budgets --------------------------------------------------------------------------


def part_of_cora() -> Graph:
    """A graph with as many stored features a node, without edges: all that MACs depend on."""
    rng = np.random.default_rng(0)
    nodes, stored = NODES // PART, round(STORED / PART)
    cells = np.sort(rng.choice(nodes * FEATURES, stored, replace=False))
    indptr = np.searchsorted(cells, np.arange(nodes + 1) * FEATURES)
    x = CSR(
        torch.from_numpy(indptr),
        torch.from_numpy((cells % FEATURES).astype(np.int32)),
        torch.ones(stored),
        (nodes, FEATURES),
    )
    empty = CSR(
        torch.zeros(nodes + 1, dtype=torch.int64),
        torch.zeros(0, dtype=torch.int32),
        torch.zeros(0),
        (nodes, nodes),
    )
    return Graph(x, torch.zeros(nodes, dtype=torch.int64), empty, CLASSES)


def header_of_budgets() -> dict[str, tuple[int, int]]:
    """Label -> (parameters, MACs) as the header of the file has them."""
    text = (SWEEPS / "equal_budget.yaml").read_text()
    row = re.compile(r"^# (-|parameters|MACs) +(\w+) .* ([\d,]+) +([\d,]+)$", re.MULTILINE)
    return {
        name if group == "-" else f"{name} ({group})": tuple(
            int(number.replace(",", "")) for number in (params, macs)
        )
        for group, name, params, macs in row.findall(text)
    }


@pytest.fixture(scope="module")
def budgets() -> dict[str, tuple[int, float]]:
    """Label -> (parameters, MACs of the whole graph) of what is shipped."""
    where = {"dataset": "cpf-cora", "split": "random", "setting": "transductive", "teacher": "sage"}
    graph, found = part_of_cora(), {}
    for _, entry in read(SWEEPS / "equal_budget.yaml").entries("students"):
        config = registry.configure("student", entry.name, entry.config, where)
        sizes = (FEATURES, CLASSES, NODES)
        shipped = registry.build("student", entry.method, config, sizes).deploy()[""].eval()
        macs = count_macs(lambda shipped=shipped: shipped.inference(graph))
        found[entry.shown] = shipped.num_parameters(), PART * macs
    return found


def test_the_students_of_equal_budget_have_the_budget_of_rbm(budgets):
    params, macs = budgets["rbm"]
    groups = Counter(label.partition(" (")[2].rstrip(")") for label in budgets)
    assert groups == {"": 1, "parameters": 4, "MACs": 4}
    for label, (own_params, own_macs) in budgets.items():
        if "(parameters)" in label:
            assert abs(own_params / params - 1) < 0.03
        elif "(MACs)" in label:
            assert abs(own_macs / macs - 1) < 0.03


def test_the_header_of_equal_budget_tells_the_budgets(budgets):
    told = header_of_budgets()
    assert list(told) == list(budgets)
    for label, (params, macs) in told.items():
        assert params == budgets[label][0]
        assert macs == pytest.approx(budgets[label][1], rel=1e-3)  # of one 35th, times 35


@pytest.mark.needs_data
@needs_data
def test_the_numbers_of_cora_are_those_of_the_files():
    dataset = registry.dataset_module("cpf-cora").load("cpf-cora", Path(REAL))
    graph = largest_component(dataset.graph)
    assert (graph.num_nodes, graph.num_features, graph.num_classes) == (NODES, FEATURES, CLASSES)
    assert graph.x.values.numel() == STORED


# ---- the ablation ---------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch) -> dict[str, dict]:
    """Label -> the student's configuration in the ablation."""
    where = Protocol("cpf-cora", "0", "random", "transductive")
    monkeypatch.setattr("bench.expand._protocols", lambda sweep, root: [where])
    cells = expand(read(SWEEPS / "ablation_rbm.yaml"), Path())
    return {cell.student.label: cell.student.config for cell in cells if cell.student}


def test_an_ablation_moves_one_part_away_from_the_base(asked):
    base = asked["base"]
    losses = ("commitment_weight", "self_similarity_weight", "load_balance_weight")
    assert all(base[name] > 0 for name in losses)
    moved = {
        label: {key for key in config if config[key] != base[key]}
        for label, config in asked.items()
        if set(config) == set(base)
    }
    assert moved["no commitment (tuned)"] == {"commitment_weight"}
    assert moved["no self-similarity"] == {"self_similarity_weight"}
    assert moved["no load balance"] == {"load_balance_weight"}
    assert moved["no auxiliary loss"] == set(losses)
    assert moved["learned router"] == {"router"}
    assert moved["with encodings"] == {"encoding"}
    assert moved["with KRD"] == {"reliable_sampling"}
    assert all(not moved[label] - {"num_experts", "top_k"} for label in moved if label[:2] == "E=")
    assert set(asked) - set(moved) == {"glnn", "moe of this size"}
    other = "moe of this size"
    assert all(asked[other][key] == base[key] for key in set(asked[other]) & set(base))


def test_the_grid_of_the_ablation_is_whole(asked):
    grid = {
        (config["num_experts"], config["top_k"])
        for label, config in asked.items()
        if label[:2] == "E=" or label == "base"
    }
    assert grid == {(e, k) for e in (1, 2, 4, 8, 16) for k in (1, 2, 3, e) if k <= e}


# ---- all ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_sweep_is_valid_and_says_how_to_run_it(path):
    sweep = read(path)
    text = path.read_text()
    assert f"# Command: gkdbench run sweeps/{path.name} " in text
    assert " Time: " in text
    assert sweep.seeds
