import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import cost
from bench.method import Method, Output
from bench.students.mlp import PlainMLP
from bench.teachers.gat import GAT
from bench.teachers.gcn import GCN
from bench.teachers.sage import SAGE
from tests import toys

# The path 0 - 1 - 2 - 3 with loops: rows of 2, 3, 3 and 2 entries. Features: 1, 2, 0 and 2 of 3.
X = toys.csr([[1, 0, 0], [1, 2, 0], [0, 0, 0], [0, 1, 3]])
H, C = 4, 2


@pytest.fixture
def graph():
    return toys.graph(toys.path(4, loops=True), X)


def make(kind: type[Method], **options) -> Method:
    return kind(kind.Config(num_layers=2, hidden_dim=H, **options), 3, C, 4).eval()


# ---- counted by hand ------------------------------------------------------------------------


def test_parameters_by_hand():
    assert make(PlainMLP).num_parameters() == (3 * H + H) + (H * C + C)
    assert make(GCN).num_parameters() == (3 * H + H) + (H * C + C)
    assert make(SAGE).num_parameters() == (3 * H + H) + (H * C + C)
    assert make(SAGE, aggregator="mean").num_parameters() == (2 * 3 * H + H) + (2 * H * C + C)
    gat = make(GAT, num_heads=2)
    assert gat.num_parameters() == (3 * H + 2 * H + H) + (H * C + 2 * C + C)
    assert make(PlainMLP, norm="batch").num_parameters() == 26 + 2 * H  # its buffers do not count


def test_an_mlp_reads_stored_features_and_one_row_for_one_node(graph):
    found = cost.macs(make(PlainMLP), graph.without_edges())
    assert found["macs"] == 5 * H + 4 * H * C
    assert found["macs_node"] == (5 * H + 4 * H * C) / 4  # a mean over all four nodes
    node = cost.count_macs(lambda: make(PlainMLP)(graph, torch.tensor([3])))
    assert node == 2 * H + H * C


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_dense_products_count_as_torch_counts_them(mode):
    """In inference mode `linear` and `matmul` arrive whole, and are taken apart."""
    from torch.utils.flop_counter import FlopCounterMode

    x, weight, batch = torch.randn(5, 3), torch.randn(3, 4), torch.randn(2, 3, 6)

    def products() -> None:
        with mode():
            torch.addmm(torch.zeros(4), x, weight)
            torch.nn.functional.linear(x, weight.T, torch.zeros(4)).relu_()
            torch.einsum("ij,bjk->bik", x, batch)
            x @ batch, (x.exp() @ weight[:, 0]).sum()
            torch.nn.functional.scaled_dot_product_attention(*[batch.unsqueeze(0)] * 3)

    with FlopCounterMode(display=False) as usual:
        products()
    assert cost.count_macs(products) == usual.get_total_flops() // 2 > 5 * 3 * 4 * 2


def test_dense_features_count_every_product(graph):
    graph = graph.replace(x=X.to_dense())
    assert cost.macs(make(PlainMLP), graph)["macs"] == 4 * 3 * H + 4 * H * C


def test_a_gcn_by_hand(graph):
    first = 5 * H + 10 * H  # X W over stored features, then A (X W) over 10 stored edges
    second = 4 * H * C + 10 * C  # W first: C is smaller than H
    assert cost.macs(make(GCN), graph)["macs"] == first + second


def test_one_node_of_a_gcn_counts_its_receptive_field_alone(graph):
    # Node 0 reads {0, 1} in the last layer and {0, 1, 2} in the first.
    first = (1 + 2 + 0) * H + (2 + 3) * H
    second = 1 * H * C + 2 * H  # A first: two rows of H into one, then W
    assert 1 * H * C + 2 * H < 2 * H * C + 2 * C
    assert cost.count_macs(lambda: make(GCN)(graph, torch.tensor([0]))) == first + second


def test_a_sage_by_hand(graph):
    # (A + I) stores no more entries than A, whose loops become 2.
    whole = cost.macs(make(SAGE), graph)["macs"]
    assert whole == (5 * H + 10 * H) + (4 * H * C + 10 * C)
    mean = cost.macs(make(SAGE, aggregator="mean"), graph)["macs"]
    assert mean == whole + 5 * H + 4 * H * C  # the nodes' own weight


def test_a_sage_without_stored_loops_still_reads_the_node_itself():
    graph = toys.graph(toys.path(4), X)
    assert cost.macs(make(SAGE), graph)["macs"] == (5 * H + 10 * H) + (4 * H * C + 10 * C)
    assert cost.macs(make(GCN), graph)["macs"] == (5 * H + 6 * H) + (4 * H * C + 6 * C)


def test_a_gat_by_hand(graph):
    first = 5 * H + 10 * H  # two heads of H / 2; the scores are element-wise, not counted
    second = 4 * H * C + 10 * C
    assert cost.macs(make(GAT, num_heads=2), graph)["macs"] == first + second


def test_counting_does_not_train(graph):
    model = make(PlainMLP)
    cost.macs(model, graph)
    assert all(p.grad is None for p in model.parameters())


def test_the_same_nodes_are_asked_for_of_every_model():
    big = toys.graph(toys.path(500))
    nodes = torch.cat(cost._requests(big))
    assert torch.equal(nodes, torch.cat(cost._requests(big)))
    assert len(nodes.unique()) == cost.NODES_TIMED
    assert torch.cat(cost._requests(toys.graph(toys.path(5)))).sort().values.tolist() == [*range(5)]


# ---- latency --------------------------------------------------------------------------------


class Asked(Method):
    """Remembers what it is asked for."""

    def __init__(self) -> None:
        super().__init__(None, 3, 2, 4)
        self.asked: list[list[int] | None] = []

    def forward(self, graph, nodes=None):
        self.asked.append(None if nodes is None else nodes.tolist())
        assert not torch.is_grad_enabled()
        return Output(torch.zeros(1, 2), torch.zeros(1, 2))


def test_latency_has_a_median_between_its_quartiles(graph):
    found = cost.latency(make(GCN), graph, seconds=0.01)
    names = {f"{n}{q}_ms" for n in ("latency", "latency_node") for q in ("", "_q1", "_q3")}
    assert names <= set(found) <= {*names, "energy_joules"}
    for name in ("latency", "latency_node"):
        assert 0 < found[f"{name}_q1_ms"] <= found[f"{name}_ms"] <= found[f"{name}_q3_ms"]


def test_the_whole_graph_and_every_node_in_turn_are_timed(graph):
    model = Asked()
    cost.latency(model, graph, seconds=0.0)
    assert model.asked[:13] == [None] * 13  # 3 to warm up, 10 at least
    singles = model.asked[13:]
    assert len(singles) == 13
    assert sorted(node for [node] in singles[:4]) == [0, 1, 2, 3]
    assert singles[:4] == singles[4:8]


def test_quartiles_by_hand():
    assert cost._spread("t", [0.001, 0.002, 0.003, 0.004, 0.005]) == pytest.approx(
        {"t_ms": 3.0, "t_q1_ms": 2.0, "t_q3_ms": 4.0}
    )


# ---- energy ---------------------------------------------------------------------------------


def counter(root: Path, name: str, text: str) -> None:
    (root / name).mkdir(parents=True)
    (root / name / "energy_uj").write_text(text)


def test_energy_is_the_sum_of_the_packages_in_joules(tmp_path):
    counter(tmp_path, "intel-rapl:0", "1500000\n")
    counter(tmp_path, "intel-rapl:1", "250000\n")
    counter(tmp_path, "intel-rapl:0:0", "900000\n")  # a part of package 0
    assert cost.read_energy(tmp_path) == 1.75


def test_without_a_readable_counter_there_is_no_energy(tmp_path):
    assert cost.read_energy(tmp_path / "none") is None
    counter(tmp_path, "intel-rapl:0", "unreadable")
    assert cost.read_energy(tmp_path) is None


@pytest.mark.parametrize(("step", "expected"), [(2.0, 0.2), (-5.0, None), (None, None)])
def test_joules_are_those_of_one_inference(graph, monkeypatch, step, expected):
    readings = iter([100.0, 100.0 + (step or 0.0)] * 2)
    monkeypatch.setattr(cost, "read_energy", lambda: next(readings) if step else None)
    found = cost.latency(Asked(), graph, seconds=0.0)  # 10 runs
    assert found.get("energy_joules") == (pytest.approx(expected) if expected else None)


# ---- memory ---------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_sees_what_was_allocated_and_freed():
    with cost.peak_memory() as found:
        assert math.isnan(found["peak_memory_mib"])
        block = np.ones(64 * 2**20, dtype=np.uint8)
        del block
    if math.isnan(found["peak_memory_mib"]):
        pytest.skip("the kernel does not let us reset the high-water mark")
    assert 60 < found["peak_memory_mib"] < 200
    with cost.peak_memory() as little:
        pass
    assert little["peak_memory_mib"] < 16


def test_where_the_mark_cannot_be_reset_the_peak_is_unknown(monkeypatch):
    monkeypatch.setattr(cost, "_reset_high_water", lambda: None)
    with cost.peak_memory() as found:
        pass
    assert math.isnan(found["peak_memory_mib"])


class Hungry(Method):
    """Has 2 MiB of its own, and makes 36 MiB in an inference, 32 of them at once."""

    def __init__(self) -> None:
        super().__init__(None, 3, 2, 4)
        self.weight = torch.nn.Parameter(torch.zeros(2**18))
        self.register_buffer("table", torch.zeros(2**17, dtype=torch.int64))
        self.asked: list[object] = []

    def forward(self, graph, nodes=None):
        self.asked.append(nodes)
        assert not torch.is_grad_enabled()
        first = torch.ones(4 * 2**20)
        second = first + 1
        del first
        third = torch.ones(2**20)
        return Output(second[:1].view(1, 1) + third[0], torch.zeros(1, 2))


def test_the_memory_of_an_inference_by_hand(graph):
    model = Hungry()
    # 1 MiB of weights, 1 of buffers; two tensors of 16 MiB at once, or one and the small one
    expected = 2 * 2**20 + 2 * 16 * 2**20
    assert cost.inference_memory(model, graph) == {"inference_memory_mib": expected / 2**20}
    assert model.asked == [None] * 2  # of the whole graph: one to warm up


def test_views_and_what_was_there_before_need_no_memory():
    old = torch.ones(1000)
    with torch.no_grad(), cost._LiveTensors() as live:
        view = old.view(10, 100)[3:]
        made = view * 2  # 700 numbers
        again = made.view(-1)[:5].add_(1)
    assert live.peak == 4 * 700
    assert again.shape == (5,)


def test_the_memory_of_an_mlp_is_its_weights_and_two_hidden_layers(graph):
    size = 4 * (4 * H + 4 * H)  # the product, and what ReLU makes of it
    own = sum(p.numel() * 4 for p in make(PlainMLP).parameters())
    found = cost.inference_memory(make(PlainMLP).eval(), graph)["inference_memory_mib"] * 2**20
    assert own + size <= found <= own + size + 4 * 4 * C + 64


def test_counting_does_not_import_the_compiler():
    program = (
        "import sys, torch; from bench import cost\n"
        "cost.count_macs(lambda: torch.ones(2, 2) @ torch.ones(2, 2))\n"
        "print('torch._dynamo' in sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "False"
