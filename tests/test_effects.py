import math

import pandas as pd
import pytest
from click.testing import CliRunner

from bench.cli import main
from bench.reports import comparison, effects, figures, forest
from bench.reports.blocks import blocks
from bench.results import frame
from bench.tables import DASH
from tests.records import make_row, plan_of

WINS = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06)  # six different differences, all of one sign


def rows_of(student, accuracies, **options):
    return [make_row(student, seed, value, **options) for seed, value in enumerate(accuracies)]


def block_of(*parts):
    rows = [row for part in parts for row in part]
    (block,) = blocks(frame(rows), plan_of(rows))
    return block


def ahead_of(base, gaps):
    return [round(a + gap, 4) for a, gap in zip(base, gaps, strict=False)]


# ---- numbers --------------------------------------------------------------------------------


def test_a_difference_is_paired_by_seed_by_hand():
    # differences +1, +3, -1, 0 points: mean 0.75, s^2 = 8.75 / 3, t_3 = 3.182446
    base = (0.70, 0.80, 0.60, 0.75)
    gaps = (0.01, 0.03, -0.01, 0.0)
    (effect,) = effects.effects_of(
        block_of(rows_of("rbm", base), rows_of("glnn", ahead_of(base, gaps))), "rbm"
    )
    half = 3.182446 * math.sqrt(8.75 / 3) / 2 / 100
    gap = effect.gap
    assert (effect.line.name, effect.base.name) == ("glnn", "rbm")
    assert gap.mean == pytest.approx(0.0075)
    assert (gap.low, gap.high) == pytest.approx((0.0075 - half, 0.0075 + half), rel=1e-5)
    assert (gap.n, gap.wins, gap.ties, gap.losses) == (4, 2, 1, 1)


def test_only_common_seeds_are_compared():
    block = block_of(rows_of("rbm", (0.7, 0.8, 0.9)), rows_of("glnn", (0.71, 0.82)))
    (effect,) = effects.effects_of(block, "rbm")
    assert (effect.gap.n, effect.gap.mean) == (2, pytest.approx(0.015))


def test_no_p_value_below_six_pairs_and_the_exact_one_from_there_on():
    base = [0.70, 0.72, 0.74, 0.76, 0.78, 0.80]
    five = block_of(rows_of("rbm", base[:5]), rows_of("glnn", ahead_of(base[:5], WINS)))
    (effect,) = effects.effects_of(five, "rbm")
    assert math.isnan(effect.p)
    assert math.isnan(effect.adjusted)
    assert not effect.significant
    assert "No p-values: fewer than 6 common seeds." in effects.table_of(five, "rbm").notes[0]
    six = block_of(rows_of("rbm", base), rows_of("glnn", ahead_of(base, WINS)))
    (effect,) = effects.effects_of(six, "rbm")
    assert effect.p == effect.adjusted == 2 / 2**6
    assert effect.significant


def test_p_values_are_corrected_over_the_comparisons_with_one_baseline():
    base = [0.70, 0.72, 0.74, 0.76, 0.78, 0.80]
    block = block_of(
        rows_of("rbm", base),
        rows_of("glnn", ahead_of(base, WINS)),
        rows_of("moe", ahead_of(base, (0.01, -0.02, 0.03, -0.04, 0.05, -0.06))),
        rows_of("krd", ahead_of(base[:5], WINS)),  # no test, so no comparison either
    )
    found = {effect.line.name: effect for effect in effects.effects_of(block, "rbm")}
    assert found["glnn"].p == 2 / 2**6
    assert found["glnn"].adjusted == 4 / 2**6
    assert found["moe"].adjusted > 0.5
    assert math.isnan(found["krd"].adjusted)
    (note,) = effects.table_of(block, "rbm").notes
    assert note.endswith(
        "6 seeds cannot reach p < 0.05 after Holm's correction over 2 comparisons."
    )


def test_a_comparison_of_too_few_pairs_weakens_no_other():
    base = [0.70, 0.72, 0.74, 0.76, 0.78, 0.80, 0.82, 0.84]
    ahead = rows_of("glnn", ahead_of(base, (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, -0.005)))
    few = [rows_of(name, ahead_of(base[:6], WINS)) for name in ("krd", "moe")]  # 1 / 2**5 each
    block = block_of(rows_of("rbm", base), ahead, *few)
    found = {effect.line.name: effect for effect in effects.effects_of(block, "rbm")}
    assert found["glnn"].adjusted == found["glnn"].p == 4 / 2**8  # one comparison, not three
    assert all(math.isnan(found[name].p) for name in ("krd", "moe"))  # 3 / 2**5 is above 0.05
    (note,) = effects.table_of(block, "rbm").notes
    assert note.endswith("No p-values up to 6 common seeds: they cannot reach p < 0.05 after "
                         "Holm's correction.")  # fmt: skip


PARTS = ("exit", *(f"node0.{i}" for i in range(10, 60)))


def staged(accuracies, forms=("1", "2", *PARTS)):
    """A student whose first stage is two points below, and whose early forms are one above."""
    shift = {"1": -0.02, "2": 0.0}
    return [
        make_row(
            "progmlp",
            seed,
            variants={name: {"test_accuracy": value + shift.get(name, 0.01)} for name in forms},
        )
        for seed, value in enumerate(accuracies)
    ]


def test_parts_of_a_student_in_stages_have_a_difference_and_no_p():
    base = [0.70, 0.72, 0.74, 0.76, 0.78, 0.80]
    block = block_of(rows_of("glnn", base), staged(ahead_of(base, WINS)))
    found = {effect.line.name: effect for effect in effects.effects_of(block, "glnn")}
    whole, parts = found.pop("progmlp@2"), list(found.values())
    assert whole.p == whole.adjusted == 2 / 2**6  # one comparison, for all its 51 other forms
    assert len(parts) == len(PARTS) + 1
    assert all(math.isnan(effect.p) and math.isnan(effect.adjusted) for effect in parts)
    assert found["progmlp@exit"].gap.mean == pytest.approx(0.045)
    table = effects.table_of(block, "glnn")
    told = {row.label: [cell.text for cell in row.cells[:4]] for row in table.rows}
    assert told["progmlp@2"][3] == "0.031"
    assert told["progmlp@1"] == ["+1.50 [\N{MINUS SIGN}0.46, +3.46]", "6", "4/1/1", DASH]
    assert told["progmlp@exit"] == ["+4.50 [+2.54, +6.46]", "6", "6/0/0", DASH]
    assert table.notes[0].endswith("%.")  # six seeds are enough for one comparison


def test_of_a_baseline_in_stages_the_other_stages_are_not_tested():
    base = [0.70, 0.72, 0.74, 0.76, 0.78, 0.80]
    block = block_of(rows_of("glnn", base), staged(ahead_of(base, WINS)))
    found = {e.line.name: e.adjusted for e in effects.effects_of(block, "progmlp@2")}
    assert {name for name, p in found.items() if not math.isnan(p)} == {"glnn"}
    both = effects.effects_of(block, "progmlp@1")  # a part may be asked for as the baseline
    assert {e.line.name for e in both if not math.isnan(e.p)} == {"glnn", "progmlp@2"}


# ---- who is compared with whom --------------------------------------------------------------


@pytest.fixture
def no_figures(monkeypatch):
    """Reports without figures, which take most of a report's time."""
    monkeypatch.setattr("bench.reports.figures.draw", lambda found, out: [])
    monkeypatch.setattr("bench.reports.forest.draw", lambda rows, found, name, out: [])


def two_teachers():
    parts = [
        rows_of(student, (level, level + 0.02), teacher=teacher)
        for teacher, shift in (("gcn", 0.0), ("sage", 0.05))
        for student, level in (("glnn", 0.7 + shift), ("rbm", 0.71 + shift))
    ]
    return block_of(*parts, rows_of("mlp", (0.5, 0.54), teacher=""))


def pairs(block, name):
    return [(e.line.id, e.base.id, round(e.gap.mean, 4)) for e in effects.effects_of(block, name)]


def test_students_meet_the_baseline_of_their_own_teacher():
    assert pairs(two_teachers(), "glnn") == [
        ("gcn > rbm", "gcn > glnn", 0.01),
        ("mlp", "gcn > glnn", -0.19),
        ("sage > rbm", "sage > glnn", 0.01),
        ("mlp", "sage > glnn", -0.24),
    ]
    table = effects.table_of(two_teachers(), "glnn")
    assert table.columns[0].head == "against"
    assert [row.cells[0].text for row in table.rows][::2] == ["gcn → glnn", "sage → glnn"]


def test_all_students_meet_a_baseline_without_teacher():
    assert [pair[:2] for pair in pairs(two_teachers(), "mlp")] == [
        ("gcn > glnn", "mlp"),
        ("gcn > rbm", "mlp"),
        ("sage > glnn", "mlp"),
        ("sage > rbm", "mlp"),
    ]
    assert effects.table_of(two_teachers(), "mlp").columns[0].head == "difference"


def test_a_baseline_of_several_variants_must_be_named_in_full():
    both = {"1": {"test_accuracy": 0.7}, "2": {"test_accuracy": 0.8}}
    staged = [make_row("progmlp", seed, variants=both) for seed in range(2)]
    block = block_of(staged, rows_of("glnn", (0.75, 0.77)))
    assert effects.effects_of(block, "progmlp") == []
    told = "No run is the baseline progmlp; it could be one of progmlp@1, progmlp@2."
    assert effects.table_of(block, "progmlp").notes == (told,)
    assert effects.table_of(block, "progmlp@3").notes == (told.replace("mlp;", "mlp@3;"),)
    assert pairs(block, "progmlp@1") == [
        ("sage:glnn > progmlp@2", "sage:glnn > progmlp@1", 0.1),
        ("sage:glnn > glnn", "sage:glnn > progmlp@1", 0.06),
    ]


def test_a_baseline_without_a_run_says_so():
    failed = [make_row("rbm", seed, status="failed", reason="NaN") for seed in range(2)]
    table = effects.table_of(block_of(failed, rows_of("glnn", (0.7, 0.8))), "rbm")
    assert table.rows == ()
    assert table.notes == ("No run is the baseline rbm.",)


def test_a_block_without_the_baseline_has_no_table():
    assert effects.table_of(block_of(rows_of("glnn", (0.7, 0.8))), "rbm") is None


# ---- a grid of configurations ---------------------------------------------------------------


def mixture(label, experts, top_k, level, **config):
    config = {"num_experts": experts, "top_k": top_k, "dropout": 0.5, **config}
    return rows_of(label, (level, level + 0.02), config=config)


def grid_rows():
    parts = [
        mixture("base", 4, 3, 0.80),
        mixture("one", 1, 1, 0.78),
        mixture("few", 4, 1, 0.79),
        mixture("all", 4, 9, 0.81),  # top 9 of 4 is all of them
        mixture("other", 2, 1, 0.60, dropout=0.1),  # differs in something else
        rows_of("glnn", (0.75, 0.77), config={"dropout": 0.5}),
    ]
    return [row for part in parts for row in part]


def test_the_grid_holds_what_differs_in_experts_and_top_k_alone():
    rows = grid_rows()
    (block,) = blocks(frame(rows), plan_of(rows))
    (base,) = effects.baselines(block, "base")
    found = effects.experts_grid(frame(rows), block, base)
    means = {place: effect and round(effect.gap.mean, 4) for place, effect in found.items()}
    assert means == {(4, 3): None, (1, 1): -0.02, (4, 1): -0.01, (4, 4): 0.01}
    (other,) = effects.baselines(block, "glnn")
    assert effects.experts_grid(frame(rows), block, other) is None


def test_one_line_of_a_grid_is_no_grid():
    rows = [*mixture("base", 4, 3, 0.8), *mixture("few", 4, 1, 0.7)]
    (block,) = blocks(frame(rows), plan_of(rows))
    (base,) = effects.baselines(block, "base")
    assert effects.experts_grid(frame(rows), block, base) is None


def test_the_heat_map_shows_the_means_at_their_places():
    rows = grid_rows()
    found = blocks(frame(rows), plan_of(rows))
    drawn = dict(forest.figures_of(frame(rows), found, "base"))
    ax = drawn["effects_grid"].axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "3", "all"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1", "4"]
    told = {text.get_position(): text.get_text().partition("\n")[0] for text in ax.texts}
    minus = "\N{MINUS SIGN}"
    assert told == {
        (0.5, 0.5): f"{minus}2.00",
        (2.5, 0.5): f"{minus}2.00",  # 1 of 1 is all
        (0.5, 1.5): f"{minus}1.00",
        (1.5, 1.5): "baseline",
        (2.5, 1.5): "+1.00",
    }


# ---- the report -----------------------------------------------------------------------------


def sweep_rows():
    base = [0.80, 0.81, 0.82, 0.83, 0.84, 0.85, 0.86]
    costs = {"params": 1000.0, "macs": 5000.0}
    rows = []
    for student, shift in (("rbm", 0.0), ("glnn", 0.011), ("moe", -0.004), ("mlp", -0.3)):
        for seed, level in enumerate(base):
            numbers = {"test_accuracy": round(level + shift + seed % 2 / 1000, 4), **costs}
            rows.append(make_row(student, seed, variants={"": numbers}))
    return rows


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    rows, out = sweep_rows(), tmp_path_factory.mktemp("report")
    paths = comparison.write(frame(rows), plan_of(rows), out, title="t", baseline="rbm")
    return {path.name: path for path in paths}


def test_a_report_with_a_baseline_has_a_table_of_effects(report):
    text = report["comparison.md"].read_text()
    title = "### cpf-cora, random split, transductive: effects against rbm"
    assert title in text
    rows = text.partition(title)[2].splitlines()[4:7]
    assert [row.split(" | ")[0] for row in rows] == [
        f"| sage:glnn → {name}" for name in ("glnn", "moe", "mlp")
    ]
    told = ["**+1.10 [+1.10, +1.10]**", "7", "7/0/0", "0.047"]
    assert rows[0].split(" | ")[1:] == [*told, "1.00", "– |"]  # noqa: RUF001
    assert effects.LEGEND in text
    assert "<h3>Effects against rbm</h3>" in report["comparison.html"].read_text()
    assert r"effects against rbm" in report["comparison.tex"].read_text()


def test_the_effects_are_a_file_of_raw_numbers(report):
    table = pd.read_csv(report["effects.csv"])
    assert list(table) == list(effects.COLUMNS)
    first = table.iloc[0]
    assert (first["student"], first["baseline"], first["metric"]) == (
        "glnn",
        "rbm",
        "test_accuracy",
    )
    assert first["difference"] == pytest.approx(0.011)
    assert (first["n"], first["wins"], first["p"]) == (7, 7, 2 / 2**7)
    assert first["p_holm"] == pytest.approx(3 * 2 / 2**7)


def test_the_figures_are_in_the_order_of_the_sweep_and_cut_what_is_far_below(report):
    rows = sweep_rows()
    found = blocks(frame(rows), plan_of(rows))
    drawn = dict(forest.figures_of(frame(rows), found, "rbm"))
    assert list(drawn) == ["effects", "effects_budget"]
    ax = drawn["effects"].axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["glnn", "moe", "mlp"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first is above
    m = "\N{MINUS SIGN}"
    assert [text.get_text() for text in ax.texts] == [f"← {m}30.00 [{m}30.00, {m}30.00]"]
    low, high = ax.get_xlim()  # to three times the median end below, to the last dot above
    assert (low, high) == pytest.approx((-3.3 - 0.06 * 4.4, 1.1 + 0.06 * 4.4))
    labels = [ax.get_xlabel() for ax in drawn["effects_budget"].axes]
    assert labels == ["parameters, log scale", "MACs, whole graph, log scale"]
    shown = {name for name in report if name.endswith(".svg")}
    assert {"effects.svg", "effects_budget.svg"} <= shown
    assert all(forest.CAPTIONS[name] in report["comparison.html"].read_text() for name in drawn)


def test_the_same_rows_give_the_same_effects(report, tmp_path):
    rows = sweep_rows()
    found = blocks(frame(rows), plan_of(rows))
    effects.write_csv(found, ["rbm"], tmp_path)
    with figures.style():
        name, figure = next(forest.figures_of(frame(rows), found, "rbm"))
        figures.save(figure, tmp_path / name)
    for name in ("effects.csv", "effects.svg"):
        assert (tmp_path / name).read_bytes() == report[name].read_bytes()


@pytest.mark.usefixtures("no_figures")
def test_each_control_has_a_table_of_its_own_after_that_of_the_baseline(tmp_path):
    rows = sweep_rows()
    against = {"baseline": "rbm", "controls": ["glnn", "nobody"]}
    comparison.write(frame(rows), plan_of(rows), tmp_path, title="t", **against)
    text = (tmp_path / "comparison.md").read_text()
    titles = [
        line.partition("effects ")[2] for line in text.splitlines() if "effects against" in line
    ]
    assert titles == ["against rbm", "against glnn"]
    assert text.count(effects.LEGEND) == 1
    table = pd.read_csv(tmp_path / "effects.csv")
    assert list(table["baseline"]) == ["rbm"] * 3 + ["glnn"] * 3
    gap = table.set_index(["baseline", "student"])["difference"]
    assert gap["glnn", "rbm"] == pytest.approx(-gap["rbm", "glnn"])
    # moe minus glnn, by hand: -0.004 - 0.011
    assert gap["glnn", "moe"] == pytest.approx(-0.015)
    comparison.write(frame(rows), plan_of(rows), tmp_path, title="t", controls=["glnn"])
    assert set(pd.read_csv(tmp_path / "effects.csv")["baseline"]) == {"glnn"}


@pytest.mark.usefixtures("no_figures")
def test_forms_that_stop_at_a_threshold_are_in_the_csv_and_not_in_the_table(tmp_path):
    forms = {name: {"test_accuracy": 0.7} for name in ("1", "2", "exit", "exit0.3", "node0.9")}
    rows = [make_row("progmlp", seed, variants=forms) for seed in range(3)]
    rows += rows_of("glnn", (0.6, 0.6, 0.6))
    comparison.write(frame(rows), plan_of(rows), tmp_path, title="t", baseline="glnn")
    told = (tmp_path / "comparison.md").read_text().split("effects against glnn")[1]
    shown = [name for name in forms if f"progmlp@{name} " in told]
    assert shown == ["1", "2", "exit"]
    assert sorted(pd.read_csv(tmp_path / "effects.csv")["variant"]) == sorted(forms)


@pytest.mark.parametrize(("count", "shown"), [(3, 9), (14, 14)])
def test_of_many_students_in_stages_the_forest_has_the_whole_alone(count, shown):
    forms = {name: {"test_accuracy": 0.7} for name in ("1", "2", "3")}
    rows = [make_row(f"s{i}", seed, variants=forms) for i in range(count) for seed in range(3)]
    block = block_of(rows, rows_of("glnn", (0.6, 0.6, 0.6)))
    ax = forest._forest([block], "glnn").axes[0]
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert len(names) == shown
    assert all(name.endswith("@3") for name in names) == (count == 14)


@pytest.mark.usefixtures("no_figures")
def test_a_report_without_a_baseline_has_no_effects(tmp_path):
    rows = sweep_rows()[:14]
    paths = comparison.write(frame(rows), plan_of(rows), tmp_path, title="t")
    assert not [path for path in paths if path.name.startswith("effects")]
    assert "ffects" not in (tmp_path / "comparison.md").read_text()


# ---- the command line -----------------------------------------------------------------------


def gkdbench(*arguments):
    return CliRunner().invoke(main, list(arguments), prog_name="gkdbench")


@pytest.mark.usefixtures("no_figures")
def test_a_csv_is_reported_against_a_baseline_that_is_asked_for(tmp_path):
    rows, out = tmp_path / "rows.csv", str(tmp_path / "out")
    frame(sweep_rows()[:14]).to_csv(rows, index=False)
    done = gkdbench("report", "--results", str(rows), "--out", out, "--baseline", "rbm")
    assert done.exit_code == 0, done.output
    assert "effects against rbm" in done.output
    assert (tmp_path / "out" / "effects.csv").is_file()
    refused = gkdbench("report", "--results", str(rows), "--out", out, "--baseline", "rmb")
    assert refused.exit_code == 2
    assert refused.output == (
        "gkdbench: unknown baseline 'rmb'; did you mean 'rbm'? known: glnn, rbm\n"
    )


SWEEP = """\
datasets: ["synthetic:nodes=300,degree=6,classes=3"]
teachers: [gcn]
students: [{name: glnn, label: g, grid: {hidden_dim: [8, 16]}}]
baseline: g hidden_dim=8
cost_seeds: 0
config: {gcn: {max_epochs: 2}, glnn: {max_epochs: 2}}
"""


@pytest.mark.usefixtures("no_figures")
def test_a_sweep_is_reported_against_its_baseline_when_it_runs_and_later(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SWEEP)
    done = gkdbench("run", "small.yaml", "--no-track", "--jobs", "1")
    assert done.exit_code == 0, done.output
    assert "effects against g hidden_dim=8" in done.output
    text = (tmp_path / "reports" / "small" / "effects.csv").read_text()
    assert text.count("g hidden_dim=8") == 1
    again = gkdbench("report", "small", "--out", "later")
    assert "effects against g hidden_dim=8" in again.output
    assert (tmp_path / "later" / "effects.csv").read_text() == text
    none = gkdbench("report", "small", "--out", "none", "--baseline", "")
    assert "effects" not in none.output
