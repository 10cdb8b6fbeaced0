"""CPF: label propagation with learned weights, mixed with an MLP; reads labels and edges.

Source: Yang et al., "Extract the Knowledge of Graph Neural Networks and Go Beyond it", arXiv
2103.02885 (WWW 2021), and its official code. h^0 is one-hot on train nodes and uniform elsewhere;
each of `num_hops` hops is

    h_v <- ReLU(sigmoid(a_v) sum_u att_uv h_u + (1 - sigmoid(a_v)) MLP(x_v))

after which train nodes get their labels back; att_uv is the softmax, over the edges into v, of a
score e_u of the source. The logits are the last h. The loss is the Frobenius norm of
softmax(h) - teacher's probabilities over the nodes that are not in train.

`variant` "ind": e_u = <x_u, w>, a_v = <x_v, w'> + b, which a new node has as well. "tra": e_u and
a_v are free numbers of each node, so that it runs in the transductive setting alone. Balances start
at a_v = 0. What is shipped reads edges and the labels of train nodes, and no other label.

Differs from the official code: in "ind" the balance is a function of the features (theirs is a free
number of each node there, too, which an unseen node cannot have); the MLP has two layers, its
dropout is that of the features too; edges are those that the graph stores, its self-loops included.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bench.fused import relu_dropout
from bench.graph import Block, Graph, Task
from bench.hparams import TrainConfig, hp
from bench.layers import Linear
from bench.method import Batch, Method, Output, Step
from bench.sparse import edge_softmax, weighted_spmm


class CPF(Method):
    """Parameterised label propagation and an MLP."""

    graph_use = "inference"
    needs_teacher: ClassVar[bool] = True
    reads_labels: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Config(TrainConfig):
        """Hyper-parameters of CPF."""

        weight_decay: float = hp(5e-4, low=0.0, high=0.1, search=[5e-4, 1e-3, 1e-2])
        max_epochs: int = hp(500, low=1, high=100_000)
        variant: str = hp("ind", choices=("ind", "tra"))
        num_hops: int = hp(5, low=1, high=20, search=(5, 10))  # K
        hidden_dim: int = hp(64, low=1, high=16384, log=True)  # of the MLP (emb)
        dropout: float = hp(0.5, low=0.0, high=0.95, search=[0.2, 0.5, 0.8])  # features, hidden
        attention_dropout: float = hp(0.5, low=0.0, high=0.95, search=[0.2, 0.5, 0.8])

    def __init__(self, config: Any, num_features: int, num_classes: int, num_nodes: int) -> None:
        super().__init__(config, num_features, num_classes, num_nodes)
        self.first = Linear(num_features, config.hidden_dim)
        self.last = Linear(config.hidden_dim, num_classes)
        if config.variant == "ind":
            self.score = Linear(num_features, 1, bias=False)
            self.balance = Linear(num_features, 1)
            for parameter in self.balance.parameters():
                nn.init.zeros_(parameter)
        else:
            self.free_score = nn.Parameter(torch.zeros(num_nodes))
            self.free_balance = nn.Parameter(torch.zeros(num_nodes))

    def supports(self, setting: str) -> str | None:
        """Refuse settings with unseen nodes where every node has its own numbers."""
        config: Any = self.config
        if config.variant == "ind" or setting == "transductive":
            return None
        return (
            f"student 'cpf' with variant 'tra' has parameters of each observed node, and setting "
            f"'{setting}' has unseen nodes; use variant 'ind'"
        )

    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Output:
        """Compute `nodes` from their receptive field, with the labels in `graph.y` (-1: none).

        Raises:
            ValueError: variant "tra", and the graph has another number of nodes than it was made
                for.
        """
        config: Any = self.config
        blocks = graph.blocks(nodes, config.num_hops, "sum")
        inputs = blocks[0].inputs
        rate = config.dropout if self.training else 0.0
        hidden = self.first.of_graph(graph, inputs, rate)
        own = self.last(relu_dropout(hidden, config.dropout, self.training))  # [n, C]
        scores, balance = self._numbers(graph, inputs)
        labels = graph.y if inputs is None else graph.y[inputs]
        known = (labels >= 0).unsqueeze(1)  # [n, 1]
        onehot = F.one_hot(labels.clamp(min=0), self.num_classes).to(own.dtype)
        h = torch.where(known, onehot, torch.full_like(onehot, 1.0 / self.num_classes))
        for block in blocks:
            n = block.num_outputs
            around = self._around(block, h, scores)
            h = (balance[:n] * around + (1 - balance[:n]) * own[:n]).relu()
            h = torch.where(known[:n], onehot[:n], h)
        return Output(h, hidden[: blocks[-1].num_outputs])

    def _numbers(self, graph: Graph, inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the scores e and the shares sigmoid(a) of the input nodes, [n, 1] each."""
        config: Any = self.config
        if config.variant == "ind":
            return self.score.of_graph(graph, inputs), self.balance.of_graph(
                graph, inputs
            ).sigmoid()
        if graph.num_nodes != self.num_nodes:
            raise ValueError(
                f"student 'cpf' with variant 'tra' was made for {self.num_nodes} nodes, and the "
                f"graph has {graph.num_nodes}; use variant 'ind'"
            )
        numbers = torch.stack([self.free_score, self.free_balance.sigmoid()])
        scores, balance = numbers if inputs is None else numbers.index_select(1, inputs)
        return scores.unsqueeze(1), balance.unsqueeze(1)

    def _around(self, block: Block, h: Tensor, scores: Tensor) -> Tensor:
        """Return the mean [n_out, C] of what neighbours say, weighted by attention."""
        config: Any = self.config
        adj = block.adj
        probs = edge_softmax(adj, scores.index_select(0, adj.indices.long()))  # [nnz, 1]
        probs = F.dropout(probs, config.attention_dropout, self.training)
        return weighted_spmm(adj, probs, h[: adj.shape[1]].unsqueeze(1)).squeeze(1)

    def batches(self, task: Task, step: Step) -> Iterable[Batch]:
        """Yield the observed nodes that are not in train, at once."""
        yield Batch(torch.nonzero(task.graph.y < 0).squeeze(1))

    def loss(self, task: Task, batch: Batch, step: Step) -> Tensor | None:
        """Return the Frobenius distance to the teacher's probabilities, of the whole graph."""
        assert task.teacher is not None
        logits = self(task.graph).logits.index_select(0, batch.nodes)
        gap = logits.softmax(1) - task.teacher.log_probs().exp()[batch.nodes]
        return torch.linalg.vector_norm(gap)
