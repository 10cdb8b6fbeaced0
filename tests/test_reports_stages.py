"""Accuracy against cost over the stages of one fit, from hand-made rows."""

import pytest

from bench.reports import panels, stages
from bench.reports.blocks import blocks
from bench.results import frame
from bench.stats import spread
from tests.records import make_row, plan_of

STAGED = {"node0.5": 1.2, "node0.9": 2.4, "exit0.3": 2.0, "exit0.2": 1.0}
STAGED |= {"exit": 2.0, "1": 1.0, "2": 2.0, "10": 10.0}


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
        ("progmlp", "batch"): ["exit0.2", "exit0.3"],
        ("progmlp", "exit"): ["exit"],
        ("adagmlp", "stages"): ["1", "2"],
        ("ensemble", "stages"): ["ensemble-k2", "ensemble-k4"],
        ("glnn", "point"): ["glnn"],
    }
    every = [line for c in stages.curves(block, "gcn") for _, line in c.points]
    assert {line.teacher for line in every} == {"gcn"}


def test_sizes_under_several_configurations_are_a_curve_each():
    made = []
    for m in (2, 4):
        for dropout in (0.1, 0.3):
            options = {"config": {"dropout": dropout}, "cost": {"": _cost(float(m), True)}}
            made.append(make_row(f"ensemble-k{m}", 0, 0.7, **options))
    (block,) = blocks(frame(made), plan_of(made))
    curves = {c.family: [name for name, _ in c.points] for c in stages.curves(block, "sage:glnn")}
    sizes = ["ensemble-k2", "ensemble-k4"]
    assert curves == {"ensemble [dropout=0.1]": sizes, "ensemble [dropout=0.3]": sizes}


def test_a_teacher_of_one_seed_is_paired_with_its_students_by_split():
    made = early((0.70, 0.80), (1.0, 1.0))
    for row in made:
        row.cell["teacher_seed"] = 7
        row.cell["seed"] = row.cell["seed"] if row.cell["student"] else 7
    block, ax, _ = panel_of(made)
    star = point_of(block, "exit", "macs", "sage:glnn")
    assert star.accuracy.mean == pytest.approx((0.70 - 0.90 + 0.80 - 0.91) / 2)
    assert ax.get_ylabel() == "accuracy over teacher (90.5 %), points"


def test_every_teacher_with_a_staged_student_has_a_panel():
    (block,) = found()
    assert stages.staged(block) == ["gcn", "sage"]
    plain = [row for row in rows() if (row.cell["student"] or {}).get("label") == "glnn"]
    assert [stages.staged(b) for b in blocks(frame(plain), plan_of(plain))] == [[]]


def test_figures_of_single_methods_leave_thresholds_to_the_curve():
    every = [line.name for line in found(teachers=("gcn",))[0].lines]
    points = {"progmlp@node0.5", "progmlp@node0.9", "progmlp@exit0.2", "progmlp@exit0.3"}
    (clear,) = panels.without_thresholds(found(teachers=("gcn",)))
    assert [line.name for line in clear.lines] == [name for name in every if name not in points]
    (kept,) = panels.without_thresholds(found(teachers=("gcn",)), baseline="progmlp@node0.9")
    assert set(every) - {x.name for x in kept.lines} == points - {"progmlp@node0.9"}


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


# ---- what is drawn --------------------------------------------------------------------------


def early(accuracies, macs, latencies=(), *, first=0.70):
    """An `exit` that runs other stages on other seeds, beside its two stages; costs by seed."""
    made = []
    for seed, (accuracy, count) in enumerate(zip(accuracies, macs, strict=True)):
        forms = {"exit": accuracy, "exit0.2": accuracy, "1": first + seed / 100, "2": 0.8}
        cost = {"exit": {"macs": count}, "exit0.2": {"macs": count}, "1": {"macs": 1.0}}
        cost["2"] = {"macs": 2.0}
        for numbers in cost.values() if seed < len(latencies) else ():
            numbers["latency_ms"] = latencies[seed]
        variants = {name: {"test_accuracy": value} for name, value in forms.items()}
        made.append(make_row("progmlp", seed, variants=variants, cost=cost))
        made.append(make_row("", seed, 0.9 + seed / 100, cost={"": dict(cost["2"])}))
    return made


def panel_of(made, cost="macs"):
    (block,) = blocks(frame(made), plan_of(made))
    (figure,) = [stages._figure([(block, "sage:glnn")], cost)]
    return block, figure.axes[0], figure


def point_of(block, name, cost, teacher=""):
    curves = stages.curves(block, "sage:glnn")
    points = [p for c in curves for p in stages.points_of(block, c, cost, teacher)]
    return next(point for point in points if point.name == name)


def test_cost_and_accuracy_are_means_over_the_same_seeds_by_hand():
    made = early((0.70, 0.76, 0.82, 0.84), (1.0, 2.0, 2.0, 5.0), latencies=(3.0, 8.0, 10.0))
    block, ax, _ = panel_of(made)
    exits = point_of(block, "exit", "macs")
    assert (exits.cost.mean, exits.accuracy.mean) == pytest.approx((2.5, 0.78))  # no median, 2.0
    timed = point_of(block, "exit", "latency_ms")
    assert (timed.cost.mean, timed.accuracy.mean) == pytest.approx((7.0, 0.76))
    assert (timed.seeds, timed.cost.n, timed.accuracy.n) == ({0, 1, 2}, 3, 3)
    assert ax.get_xlabel() == "MACs, whole graph (4 seeds), log scale"
    # The teacher has 0.90, 0.91, 0.92, 0.93: -0.20, -0.15, -0.10, -0.09 are left.
    assert point_of(block, "exit", "macs", "sage:glnn").accuracy.mean == pytest.approx(-0.135)
    assert point_of(block, "exit", "latency_ms", "sage:glnn").accuracy.mean == pytest.approx(-0.15)
    (star,) = [line for line in ax.lines if line.get_marker() == "*"]
    assert star.get_xydata().tolist() == [[2.5, pytest.approx(-13.5)]]
    assert ax.get_ylabel() == "accuracy over teacher (91.5 %), points"


def test_the_latency_panel_shows_the_timed_seeds_alone():
    made = early((0.70, 0.76, 0.82, 0.84), (1.0, 2.0, 2.0, 5.0), latencies=(3.0, 8.0))
    _, ax, _ = panel_of(made, "latency_ms")
    assert ax.get_xlabel() == "latency, whole graph (ms; 2 seeds), log scale"
    (star,) = [line for line in ax.lines if line.get_marker() == "*"]
    assert star.get_xydata().tolist() == [[5.5, pytest.approx(-17.5)]]


def test_seeds_that_the_teacher_lacks_are_left_out_and_without_any_accuracy_is_shown_as_it_is():
    made = early((0.70, 0.76, 0.82), (1.0, 2.0, 6.0))
    some = [row for row in made if row.cell["student"] or row.cell["seed"] < 2]
    block, ax, _ = panel_of(some)
    point = point_of(block, "exit", "macs", "sage:glnn")
    assert (point.cost.mean, point.accuracy.mean) == pytest.approx((1.5, -0.175))
    alone = [row for row in made if row.cell["student"]]
    block, ax, _ = panel_of(alone)
    point = point_of(block, "exit", "macs", "sage:glnn")
    assert (point.cost.mean, point.accuracy.mean) == pytest.approx((3.0, 0.76))
    assert ax.get_ylabel() == "accuracy, %"
    assert not [line for line in ax.lines if line.get_linestyle() == ":"]  # no line at zero


def test_a_seed_without_a_cost_is_in_neither_mean():
    made = early((0.70, 0.76, 0.82), (1.0, 2.0, 6.0))
    (third,) = [r for r in made if r.cell["student"] and r.cell["seed"] == 2]
    del third.cost["exit"]
    block, ax, _ = panel_of(made)
    point = point_of(block, "exit", "macs")
    assert (point.cost.mean, point.accuracy.mean) == pytest.approx((1.5, 0.73))
    assert ax.get_xlabel() == "MACs, whole graph (2 to 3 seeds), log scale"


def test_the_star_and_the_curves_of_thresholds_have_their_intervals():
    (block,) = found(teachers=("gcn",))
    (figure,) = [stages._figure([(block, "gcn")], "macs")]
    ax = figure.axes[0]
    kinds = [type(part).__name__ for part in ax.collections]
    # bands: stages, nodes, batch, members, ensembles; the star has a bar each way, GLNN one
    assert [kinds.count("FillBetweenPolyCollection"), kinds.count("LineCollection")] == [5, 3]
    s = spread({seed: 0.72 + seed / 500 - 0.8 for seed in range(3)})
    upright = [c for c in ax.collections if type(c).__name__ == "LineCollection"]
    bars = [part.tolist() for c in upright for part in c.get_segments()]
    assert [[2e6, 100 * s.low], [2e6, 100 * s.high]] in [
        [[x, pytest.approx(y)] for x, y in bar] for bar in bars
    ]


def test_batch_and_node_thresholds_are_told_apart():
    (block,) = found(teachers=("gcn",))
    (figure,) = [stages._figure([(block, "gcn")], "macs")]
    styles = [([*line.get_xdata()], line.get_linestyle()) for line in figure.axes[0].lines]
    assert ([1.2e6, 2.4e6], "--") in styles  # node0.5, node0.9
    assert ([1e6, 2e6], "-.") in styles  # exit0.2, exit0.3
    (legend,) = figure.legends
    looks = {handle.get_label(): handle.get_linestyle() for handle in legend.legend_handles}
    assert looks["a node stops when sure"] == "--"
    assert looks["the batch stops when sure"] == "-."
    plain = early((0.7, 0.8), (1.0, 2.0))
    for row in plain:
        row.variants.pop("exit0.2", None)
    _, _, figure = panel_of(plain)
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == ["progmlp", "stages 1, 2, ...", "exit", "teacher"]


def test_what_is_far_below_leaves_the_panel_and_is_named():
    made = early((0.80, 0.80), (2.0, 2.0), first=0.30)
    _, ax, _ = panel_of(made)
    low, high = ax.get_ylim()
    assert -20 < low < -10 < 0 < high < 5  # the teacher's mean is 90.5
    minus = "\N{MINUS SIGN}"
    assert [text.get_text() for text in ax.texts] == ["1", "2", f"↓ progmlp 1: {minus}60.0"]
    (curve,) = [line for line in ax.lines if [*line.get_xdata()] == [1.0, 2.0]]
    assert [*curve.get_ydata()] == pytest.approx([-60.0, -10.5])  # it runs out of the panel


def test_all_forms_of_a_student_that_are_far_below_share_a_line():
    made = [make_row("", 0, 0.91, cost={"": {"macs": 3.0}})]
    near = [(name, (0.88, 0.89)) for name in ("krd", "glnn", "moe", "rbm")]
    for name, values in (*near, ("one", (0.20, 0.30)), ("two", (0.40, 0.40))):
        forms = {str(k): {"test_accuracy": value} for k, value in enumerate(values, start=1)}
        cost = {form: {"macs": float(form)} for form in forms}
        made.append(make_row(name, 0, variants=forms, cost=cost))
    _, ax, _ = panel_of(made)
    told = [text for text in ax.texts if text.get_text().startswith("↓")]
    minus = "\N{MINUS SIGN}"
    lines = [f"↓ two 1 to 2: {minus}51.0", f"↓ one 1 to 2: {minus}71.0 to {minus}61.0"]
    assert [text.get_text() for text in told] == lines
    heights = [text.xyann[1] for text in told]
    assert heights[1] - heights[0] >= told[0].get_fontsize()  # one above the other


def test_where_colours_run_out_students_in_one_form_share_a_grey():
    def colours(others):
        made = rows(teachers=("gcn",))
        for i in range(others):
            at = {"teacher": "gcn", "cost": {"": _cost(1.0 + i, True)}}
            made += [make_row(f"other{i}", seed, 0.7, **at) for seed in range(3)]
        (block,) = blocks(frame(made), plan_of(made))
        return stages._colours(stages.curves(block, "gcn"))

    few, many = colours(6), colours(7)  # with progmlp, adagmlp, ensemble and glnn: 10 and 11
    assert len(set(few.values())) == len(few) == 10
    assert {many[f"other{i}"] for i in range(7)} == {many["glnn"]} == {stages.OTHERS}
    staged = [many[name] for name in ("progmlp", "adagmlp", "ensemble")]
    assert len({*staged, stages.OTHERS}) == 4
