import math

import pytest

from bench.reports import budget
from tests.studies import make_study, make_trial


def study(values, teacher="sage:glnn", student="glnn"):
    trials = [make_trial(i, [v] if v else [], state="complete" if v else "failed") for i, v in
              enumerate(values)]  # fmt: skip
    return make_study(trials, teacher, student)


def test_a_curve_holds_the_expected_best_and_the_real_course():
    curve = budget.curve_of(study([0.5, 0.7, 0.6]))
    assert [p.mean for p in curve.expected] == pytest.approx([0.6, 2 / 3, 0.7])
    assert curve.course == ((1, 10.0, 0.5), (2, 20.0, 0.7), (3, 30.0, 0.7))
    assert curve.seconds == 10.0


def test_a_trial_without_a_score_counts_as_a_draw_worth_the_worst_complete_one():
    curve = budget.curve_of(study([None, 0.7, 0.5]))
    assert [p.mean for p in curve.expected] == pytest.approx([1.7 / 3, 1.9 / 3, 0.7])
    assert [n for n, *_ in curve.course] == [2, 3]  # nothing was found before
    assert budget.curve_of(study([None, None])) is None


def test_a_frame_has_a_line_for_each_study_and_budget():
    table = budget.frame([study([0.5, 0.7]), study([0.4], "", "mlp")])
    assert list(table["n"]) == [1, 2, 1]
    assert list(table["seconds"]) == [10.0, 20.0, 10.0]
    assert list(table["best_so_far"]) == [0.5, 0.7, 0.4]
    assert budget.frame([study([None])]).empty


def test_students_without_a_teacher_stand_in_every_panel_of_their_data():
    some = [study([0.5, 0.7], t, s) for t, s in (("gcn", "glnn"), ("sage", "glnn"), ("", "mlp"))]
    panels = budget.panels_of([budget.curve_of(one) for one in some])
    assert list(panels) == [
        "cora\nrandom  ·  transductive  ·  gcn",
        "cora\nrandom  ·  transductive  ·  sage",
    ]
    assert [[c.student for c in own] for own in panels.values()] == [["glnn", "mlp"]] * 2
    alone = budget.panels_of([budget.curve_of(some[2])])
    assert list(alone) == ["cora\nrandom  ·  transductive"]


def test_a_panel_is_cut_above_curves_that_are_far_below():
    far = [budget.curve_of(study(values)) for values in ([0.6], [0.88], [0.9])]
    assert budget._floor(far) == 0.88
    assert budget._floor(far[1:]) == -math.inf


def test_every_student_has_a_panel_with_the_others_in_grey_and_all_have_one_scale():
    students = {"glnn": [0.80, 0.84, 0.82], "krd": [0.50, 0.83, 0.85], "mlp": [0.58, 0.6, 0.59]}
    curves = [
        budget.curve_of(study(values, "" if name == "mlp" else "gcn", name))
        for name, values in students.items()
    ]
    shown = [ax for ax in budget._figure(curves, timed=False).axes if ax.get_visible()]
    assert [ax.get_title(loc="left") for ax in shown] == ["glnn", "krd", "mlp"]
    for ax, curve in zip(shown, curves, strict=True):
        grey = [line for line in ax.lines if line.get_color() == "#cccccc"]
        own = [line for line in ax.lines if line.get_linewidth() == 1.9]
        assert (len(grey), len(own)) == (2, 1)
        assert [*own[0].get_ydata()] == pytest.approx([100 * p.mean for p in curve.expected])
        # From glnn's first trial (krd's is far below) to krd's best, and 8 % of that for edges.
        assert ax.get_ylim() == pytest.approx((80 - 0.4, 85 + 0.4))
    assert [text.get_text() for text in shown[2].texts] == ["↓ 60.0"]


def test_figures_are_the_same_byte_for_byte_and_absent_without_a_search(tmp_path):
    some = [study([0.8, 0.84, 0.82]), study([0.5, 0.6, 0.55], "", "mlp")]
    files = budget.draw(some, tmp_path)
    assert sorted(file.name for file in files) == [
        *("best_of_seconds.png", "best_of_seconds.svg", "best_of_trials.png", "best_of_trials.svg")
    ]
    before = (tmp_path / "best_of_trials.svg").read_bytes()
    budget.draw(some, tmp_path)
    assert (tmp_path / "best_of_trials.svg").read_bytes() == before
    assert budget.draw([study([0.8])], tmp_path) == []
