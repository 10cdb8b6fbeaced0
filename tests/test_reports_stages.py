"""Accuracy against cost over the stages of one fit, from hand-made rows."""

import pytest

from bench.reports import panels, stages
from bench.reports.blocks import blocks
from bench.results import frame
from tests.records import make_row, plan_of

STAGED = {
    **{"node0.5": 1.2, "node0.9": 2.4, "exit0.6": 2.0, "exit0.3": 1.0, "exit": 2.0},
    **{"1": 1.0, "2": 2.0, "10": 10.0},
}


def rows(*, cost: bool = True, teachers=("gcn", "sage")):
    """Per teacher: a staged student, AdaGMLP in members, ensembles of 2 and 4, and GLNN."""
    made = []
    for teacher in teachers:
        for seed in range(3):
            at = {"teacher": teacher}
            made.append(make_row("", seed, 0.8, cost={"": _cost(9.0, cost)}, **at))
            forms = {
                name: {"test_accuracy": 0.7 + x / 100 + seed / 500} for name, x in STAGED.items()
            }
            prices = {name: _cost(x, cost) for name, x in STAGED.items()}
            made.append(make_row("progmlp", seed, variants=forms, cost=prices, **at))
            members = {str(m): {"test_accuracy": 0.68 + m / 200 + seed / 500} for m in (1, 2)}
            prices = {name: _cost(float(name), cost) for name in members}
            made.append(make_row("adagmlp", seed, variants=members, cost=prices, **at))
            for m in (4, 2):
                one = {"cost": {"": _cost(float(m), cost)}, **at}
                made.append(make_row(f"ensemble-k{m}", seed, 0.69 + seed / 500, **one))
            made.append(make_row("glnn", seed, 0.7, cost={"": _cost(1.0, cost)}, **at))
    return made


def _cost(x: float, given: bool) -> dict[str, float]:
    return {"macs": 1e6 * x, "latency_ms": x, "latency_node_ms": x / 50} if given else {}


def found(**options):
    made = rows(**options)
    return blocks(frame(made), plan_of(made))


def test_forms_become_curves_in_the_order_of_their_stages():
    (block,) = found()
    shown = {
        (c.family, c.kind): [name for name, _ in c.points] for c in stages.curves(block, "gcn")
    }
    assert shown == {
        ("progmlp", "stages"): ["1", "2", "10"],
        ("progmlp", "thresholds"): ["node0.5", "node0.9"],
        ("progmlp", "exit"): ["exit0.3", "exit0.6", "exit"],
        ("adagmlp", "stages"): ["1", "2"],
        ("ensemble", "stages"): ["ensemble-k2", "ensemble-k4"],
        ("glnn", "point"): ["glnn"],
    }
    every = [line for c in stages.curves(block, "gcn") for _, line in c.points]
    assert {line.teacher for line in every} == {"gcn"}


def test_every_teacher_with_a_staged_student_has_a_panel():
    (block,) = found()
    assert stages.staged(block) == ["gcn", "sage"]
    plain = [row for row in rows() if (row.cell["student"] or {}).get("label") == "glnn"]
    assert [stages.staged(b) for b in blocks(frame(plain), plan_of(plain))] == [[]]


def test_figures_of_single_methods_leave_thresholds_to_the_curve():
    every = [line.name for line in found(teachers=("gcn",))[0].lines]
    points = {f"progmlp@{form}" for form in ("node0.5", "node0.9", "exit0.3", "exit0.6")}
    (clear,) = panels.without_thresholds(found(teachers=("gcn",)))
    assert [line.name for line in clear.lines] == [name for name in every if name not in points]
    (kept,) = panels.without_thresholds(found(teachers=("gcn",)), baseline="progmlp@node0.9")
    left_out = {name for name in every if name not in {x.name for x in kept.lines}}
    assert left_out == points - {"progmlp@node0.9"}


def test_a_student_in_stages_may_be_shown_by_its_last_one_alone():
    (whole,) = panels.whole_forms(found(teachers=("gcn",)))
    names = [line.name for line in whole.lines]
    assert names == ["gcn", "progmlp@10", "adagmlp@2", "ensemble-k4", "ensemble-k2", "glnn"]


def test_a_long_title_takes_two_lines():
    short, long = (
        "cora  ·  public  ·  transductive",
        "synthetic:nodes=600,degree=6  ·  random  ·  ind",
    )
    _, (one, two) = panels.grid([short, long], height=2.0)
    assert one.get_title(loc="left") == short
    assert two.get_title(loc="left") == "synthetic:nodes=600,degree=6\nrandom  ·  ind"


def test_there_is_a_figure_for_each_cost(tmp_path):
    files = stages.draw(found(teachers=("gcn",)), tmp_path)
    assert {path.stem for path in files} == set(stages.CAPTIONS)
    assert sorted(files) == sorted(tmp_path.iterdir())
    assert len(files) == 4  # PNG and SVG


@pytest.mark.parametrize("options", [{"cost": False}, {"teachers": ()}])
def test_without_stages_or_cost_there_is_no_figure(tmp_path, options):
    assert stages.draw(found(**options), tmp_path) == []
    assert not list(tmp_path.iterdir())
