import pytest
import torch

from bench.backbone import KINDS, Backbone
from bench.layers import MLPConfig
from tests import toys


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_backbone_has_logits_and_hidden_states_of_the_asked_nodes(kind, norm):
    config = MLPConfig(num_layers=3, hidden_dim=8, width_factor=2.0, norm=norm)
    graph, net = toys.random_graph(), Backbone(kind, config, 12, 3).eval()
    logits, hidden = net(graph)
    assert logits.shape == (30, 3)
    assert hidden.shape == (30, 16)
    nodes = torch.tensor([7, 2])
    some = net(graph, nodes)
    torch.testing.assert_close(some[0], logits[nodes])
    torch.testing.assert_close(some[1], hidden[nodes])
    bare = net(graph.without_edges())[0]
    assert torch.equal(bare, logits) == (kind == "mlp")


def test_an_unknown_backbone_is_refused():
    with pytest.raises(ValueError, match="unknown backbone 'gc'; did you mean 'gcn'"):
        Backbone("gc", MLPConfig(), 3, 2)
