import pytest
import torch

from bench import kept
from bench.graph import Graph
from bench.kept import Recent, held, once
from tests import toys


def test_what_is_made_once_is_made_again_under_another_key_and_for_another_owner():
    graph, calls = toys.random_graph(), []

    def make() -> int:
        calls.append(1)
        return len(calls)

    assert [once(graph, "a", make), once(graph, "a", make), once(graph, "b", make)] == [1, 1, 2]
    assert once(graph.replace(), "a", make) == 3


def test_what_fails_is_not_kept():
    graph = toys.random_graph()
    with pytest.raises(ZeroDivisionError):
        once(graph, "a", lambda: 1 // 0)
    assert once(graph, "a", lambda: 5) == 5


def bytes_of(*tensors: torch.Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def test_the_memory_of_graphs_counts_what_they_share_once_and_what_is_kept_with_them():
    graph = toys.graph(toys.path(5))
    x, y, adj = graph.x, graph.y, graph.adj
    own = bytes_of(x, y, adj.indptr, adj.indices, adj.values)
    assert held(graph) == held(graph, graph.replace(), [graph.adj], {"a": graph}) == own
    assert held(graph, graph.replace(y=-y)) == own + bytes_of(y)
    assert held(x, x[2:], x.T) == bytes_of(x)
    ones = graph.normalised("sum").values
    assert held(graph) == own + bytes_of(ones)
    assert held(adj.row_ids) + own + bytes_of(ones) == held(graph)


def graph_of(size: int) -> Graph:
    """A graph with `size` times 1000 bytes of features, and a few bytes beside them."""
    return toys.graph(toys.path(1), torch.zeros(1, 250 * size))


def ask(recent: Recent[Graph], *sizes: int) -> list[int]:
    """Ask for graphs, known by their sizes; return those that had to be made."""
    made: list[int] = []
    for size in sizes:
        recent.get(size, lambda size=size: made.append(size) or graph_of(size))
    return made


def test_of_small_things_the_last_few_are_kept():
    recent = Recent[Graph](count=3, size=10**9)
    assert ask(recent, 1, 2, 3, 1) == [1, 2, 3]
    assert ask(recent, 4) == [4]  # in the place of 2, which was asked for longest ago
    assert ask(recent, 1, 3, 4) == []
    assert ask(recent, 2, 1) == [2, 1]


def test_of_large_things_as_many_are_kept_as_have_room():
    recent = Recent[Graph](count=32, size=5_000)
    assert ask(recent, 1, 2, 3) == [1, 2, 3]  # 3 was made beside 3,000 bytes
    assert ask(recent, 1, 2, 3) == []
    assert ask(recent, 4) == [4]  # 1 had to go
    assert ask(recent, 3, 4, 1) == [1]
    assert ask(recent, 9) == [9]  # a single one may be of any size
    assert ask(recent, 9) == []


def test_what_was_kept_with_a_thing_since_counts_too():
    recent = Recent[Graph](count=32, size=3_500)
    assert ask(recent, 1, 2) == [1, 2]
    once(recent.get(1, lambda: None), "more", lambda: torch.zeros(250))
    assert ask(recent, 3) == [3]
    assert ask(recent, 1, 2) == [2]


def test_two_large_things_never_meet():
    """The last one is gone before the next is made."""
    recent, alive = Recent[Graph](count=32, size=1_000), []

    def make() -> Graph:
        alive.append(len(recent._things))
        return graph_of(2)

    for key in range(3):
        recent.get(key, make)
    assert alive == [0, 0, 0]
    assert kept.held(*recent._things.values()) > 2_000
