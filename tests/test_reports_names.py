import io
import itertools

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from bench.reports import names, pareto
from bench.reports.blocks import blocks
from bench.results import frame
from tests.records import make_row, plan_of


def panel(size=(7.4, 5.2)):
    figure = Figure(figsize=size)
    ax = figure.subplots()
    ax.set(xlim=(0, 1), ylim=(0, 1))
    figure.draw_without_rendering()
    return ax


def boxes_of(ax, points):
    half = names.DOT * ax.figure.dpi / 72
    pixels = [ax.transData.transform(at) for at in points]
    return [Bbox.from_extents(x - half, y - half, x + half, y + half) for x, y in pixels]


def written(ax, points, others=()):
    named = [(tuple(at), f"student {i} (tuned)", "black") for i, at in enumerate(points)]
    return names.write(ax, named, list(others))


@pytest.mark.parametrize("seed", range(5))
def test_of_many_names_in_a_crowd_none_covers_another_or_a_dot_or_leaves_the_panel(seed):
    points = 0.5 + 0.08 * np.random.default_rng(seed).standard_normal((24, 2))
    ax = panel()
    texts = written(ax, points[:18], others=points[18:])
    boxes = [text.get_window_extent() for text in texts]
    assert [text.get_text() for text in texts] == [f"student {i} (tuned)" for i in range(18)]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert not any(a.overlaps(b) for a in boxes for b in boxes_of(ax, points))
    assert all(ax.bbox.x0 <= b.x0 and b.x1 <= ax.bbox.x1 for b in boxes)
    assert all(ax.bbox.y0 <= b.y0 and b.y1 <= ax.bbox.y1 for b in boxes)


def test_a_name_alone_stands_at_the_right_of_its_dot_and_at_an_edge_at_the_left():
    for x, side in ((0.3, 1), (0.98, -1)):
        ax = panel()
        (text,) = written(ax, [(x, 0.5)])
        dx, dy = text.get_position()
        assert (np.sign(dx), abs(dy) < 1e-9) == (side, True)
        assert len(ax.texts) == 1  # no line leads to it


def test_a_line_leads_to_a_name_that_is_far_away():
    ax = panel()
    ring = [(0.5 + x / 30, 0.5 + y / 40) for x in range(-5, 6) for y in range(-2, 3) if x or y]
    written(ax, [(0.5, 0.5)], others=ring)
    text, line = ax.texts
    assert line.arrow_patch is not None
    assert np.hypot(*text.get_position()) > 30
    assert line.xy == text.xy == (0.5, 0.5)
    assert line.get_position() == text.get_position()


def test_where_nothing_is_free_every_name_is_written_still():
    ax = panel((1.2, 0.8))
    texts = written(ax, [(0.5, 0.5)] * 4)
    assert len({text.get_position() for text in texts}) > 1


def test_the_same_dots_give_the_same_places():
    points = np.random.default_rng(0).random((12, 2))
    first, second = ([t.get_position() for t in written(panel(), points)] for _ in range(2))
    assert first == second


def found(**teachers):
    made = []
    for teacher, shift in teachers.items():
        for seed in range(3):
            cost = {"": {"latency_node_ms": 1.0 + shift}}
            made.append(make_row("", seed, 0.8, teacher=teacher, cost=cost))
            forms = {str(m): {"test_accuracy": 0.7 + m / 100 + shift} for m in (1, 2, 10)}
            forms["exit"] = {"test_accuracy": 0.75}
            cost = {name: {"latency_node_ms": 0.1 + 0.1 * i} for i, name in enumerate(forms)}
            made.append(make_row("progmlp", seed, variants=forms, cost=cost, teacher=teacher))
            cost = {"": {"latency_node_ms": 0.05}}
            made.append(make_row("a $ b $", seed, 0.1, cost=cost, teacher=teacher))
    return blocks(frame(made), plan_of(made))


def test_whole_students_are_named_in_the_colour_of_their_teacher_and_stages_are_joined():
    figure = pareto.figure_of(found(gcn=0.0, sage=0.02), "latency_node_ms")
    (ax,) = figure.axes
    colours = {text.get_text(): text.get_color() for text in figure.legends[0].texts}
    assert set(colours) == {"gcn", "sage", "teacher", "Pareto front"}
    shown = [text for text in ax.texts if text.get_text()]
    assert [t.get_text() for t in shown[-2:]] == ["progmlp@10"] * 2
    assert len({t.get_color() for t in shown[-2:]}) == 2
    assert [t.get_text() for t in shown[:-2]] == ["a $ b $\n↓ 10.0"] * 2  # far below, told so
    joined = [np.round(line.get_ydata(), 6).tolist() for line in ax.lines if line.get_alpha()]
    assert joined == [[71, 72, 80], [73, 74, 82]]
    figure.savefig(io.BytesIO())  # a "$" in a name is one


def test_panels_are_larger_where_there_are_many_students():
    def width(count):
        made = [
            make_row(f"s{i}", seed, 0.8, cost={"": {"macs": 1e6 + i}})
            for i in range(count)
            for seed in range(2)
        ]
        return pareto.figure_of(blocks(frame(made), plan_of(made)), "macs").get_figwidth()

    assert width(pareto.MANY) < width(pareto.MANY + 1)
