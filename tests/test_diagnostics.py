import numpy as np
import pandas as pd
import pytest

from bench import launch
from bench.reports import comparison, diagnostics, experts, routing, strata
from bench.reports.blocks import COST, DIAGNOSTICS, QUALITY, SIZES, STRATA, blocks
from bench.results import Store, frame, load
from tests.records import make_row, plan_of

DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
NAMES = ("accuracy_border", "accuracy_interior", "accuracy_degree_low", "accuracy_degree_high")


def numbers(level, border=0.0, *, nodes=100.0, **more):
    """A variant's numbers: accuracy `level` on every stratum, but `border` more on the border."""
    found = {"test_accuracy": level, **{name: level for name in NAMES}}
    found["accuracy_border"] = level + border
    return {**found, **{SIZES[name]: nodes for name in NAMES}, **more}


def rows(gain=0.02):
    """Three seeds of a teacher, GLNN, a student that gains on the border, and one without any."""
    found = []
    for seed in range(3):
        own = 0.7 + 0.01 * seed
        found += [
            make_row("", seed, variants={"": numbers(own)}),
            make_row("glnn", seed, variants={"": numbers(own)}),
            make_row("rbm", seed, variants={"": numbers(own, gain + 0.001 * seed)}),
            make_row("mlp", seed, teacher="", variants={"": numbers(own - 0.1)}),
        ]
    return found


def block_of(some):
    (block,) = blocks(frame(some), plan_of(some))
    return block


def line_of(block, name):
    return next(line for line in block.lines if line.name == name)


def texts(table, head, unit):
    """Label -> text of one column."""
    place = next(i for i, c in enumerate(table.columns) if (c.head, c.unit) == (head, unit))
    return {row.label: row.cells[place].text for row in table.rows if row.cells}


# ---- what a comparison keeps out ------------------------------------------------------------


def test_diagnostics_stay_out_of_the_comparison():
    assert not set(DIAGNOSTICS) & {*QUALITY, *COST}
    some = rows()
    plain = [make_row(r.cell["student"]["label"], 0, 0.7) for r in some if r.cell["student"]][:1]
    columns = [list(comparison.summary(blocks(frame(x), []))) for x in (some, plain)]
    assert columns[0] == columns[1]
    heads = {column.head for column in comparison.table_of(block_of(some)).columns}
    assert heads.isdisjoint({column.head for column in strata.HEADS.values()})


def test_every_stratum_has_a_head():
    assert list(strata.HEADS) == STRATA


def test_rows_without_diagnostics_give_no_page_and_the_comparison_names_none(tmp_path):
    some = [make_row("glnn", seed, 0.7) for seed in range(2)]
    paths = comparison.write(frame(some), plan_of(some), tmp_path, title="x")
    assert not [path for path in paths if path.stem not in ("accuracy", *_comparison())]
    assert "diagnostics" not in (tmp_path / "comparison.html").read_text()


def _comparison():
    return ("comparison", "comparison_standalone")


# ---- strata ---------------------------------------------------------------------------------


def test_the_table_shows_the_strata_that_rows_have_and_how_many_nodes_those_have():
    table = next(strata.tables_of(block_of(rows())))
    assert [(c.head, c.unit) for c in table.columns] == [
        ("degree", "low"),
        ("degree", "high"),
        ("neighbours", "border"),
        ("neighbours", "interior"),
    ]
    found = texts(table, "neighbours", "border")
    assert found["rbm"] == "73.10 ± 1.10"
    assert found["nodes (mean)"] == "100"
    assert [row.label for row in table.rows] == [
        "sage:glnn (teacher)",
        "glnn",
        "rbm",
        "no teacher",
        "mlp",
        "nodes (mean)",
    ]
    best = [row.label for row in table.rows for cell in row.cells[2:3] if cell.best]
    assert best == ["rbm"]
    assert not table.notes


def test_parts_of_few_nodes_are_named():
    some = [make_row("glnn", s, variants={"": numbers(0.7, nodes=12.0)}) for s in range(2)]
    table = next(strata.tables_of(block_of(some)))
    assert table.notes[0].startswith("Fewer than 50 nodes, read with care: low degree, high")


def test_differences_are_from_glnn_of_the_same_teacher_and_paired_by_seed():
    _, table = strata.tables_of(block_of(rows()))
    assert [row.label for row in table.rows] == ["sage:glnn (teacher)", "rbm"]
    low, high = 2.1 - 4.3027 * 0.1 / 3**0.5, 2.1 + 4.3027 * 0.1 / 3**0.5  # t_2, std 0.1 points
    assert texts(table, "neighbours", "border")["rbm"] == f"+2.10 [+{low:.2f}, +{high:.2f}]"
    assert texts(table, "degree", "low")["rbm"] == "0.00 [0.00, 0.00]"


def test_without_glnn_of_the_teacher_there_are_no_differences():
    some = [row for row in rows() if (row.cell["student"] or {}).get("label") != "glnn"]
    assert len(list(strata.tables_of(block_of(some)))) == 1
    assert strata.baseline_of(block_of(rows()), line_of(block_of(rows()), "mlp")) is None


def test_one_common_seed_gives_a_difference_without_an_interval():
    some = [row for row in rows() if row.cell["seed"] == 0]
    _, table = strata.tables_of(block_of(some))
    assert texts(table, "neighbours", "border")["rbm"] == "+2.00"


def test_two_seeds_give_no_interval_since_theirs_would_be_as_wide_as_the_page():
    some = [row for row in rows() if row.cell["seed"] < 2]
    block = block_of(some)
    _, table = strata.tables_of(block)
    assert texts(table, "neighbours", "border")["rbm"] == "+2.05"
    shown = strata._accuracy(block, line_of(block, "rbm"), "accuracy_border")
    assert np.isnan([shown.low, shown.high]).all()


def test_records_hold_raw_fractions_and_the_paired_difference():
    table = pd.DataFrame(strata.records(block_of(rows())))
    one = table[(table["student"] == "rbm") & (table["metric"] == "accuracy_border")].iloc[0]
    assert one["mean"] == pytest.approx(0.731)
    assert one["difference_from_glnn"] == pytest.approx(0.021)
    assert (one["n"], one["pairs"], one["nodes"]) == (3, 3, 100.0)


def test_figures_have_a_row_for_each_block_and_a_panel_for_each_family():
    both = [*rows(), *(make_row("glnn", 0, dataset="d", variants={"": numbers(0.6)}),)]
    found = blocks(frame(both), plan_of(both))
    drawn = strata.figures_of(found)
    assert len(drawn["strata"].axes) == 2 * 2
    assert len(drawn["strata_difference"].axes) == 2  # the second block compares nothing
    ticks = [text.get_text() for text in drawn["strata_difference"].axes[0].get_yticklabels()]
    assert ticks == ["sage:glnn (teacher)", "rbm"]


def test_a_family_that_a_block_lacks_leaves_its_panel_out():
    lone = {"test_accuracy": 0.6, "accuracy_border": 0.5, "accuracy_interior": 0.7}
    both = [*rows(), make_row("glnn", 0, dataset="d", variants={"": lone})]
    figure = strata.figures_of(blocks(frame(both), plan_of(both)))["strata"]
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["degree", "neighbours"] * 2
    shown = [ax.has_data() for ax in figure.axes]
    assert shown[:2] == [True, True]
    assert shown[3]
    assert figure.axes[2].get_legend() is None


# ---- experts --------------------------------------------------------------------------------


def arrays(load=(0.5, 0.5, 0.0), n=40, *, hidden=True, variant="_"):
    """One layer of three experts, k = 2: the nodes of class c prefer expert c, the third is idle.

    The gates of a node are 3/4 and 1/4, so a class gives 3/4 of its gates to its own expert.
    """
    labels = np.arange(n) % 2
    own = np.stack([labels, 1 - labels], 1).astype(np.uint8)
    found = {
        f"{variant}/0/experts": own,
        f"{variant}/0/gates": np.tile(np.float16([0.75, 0.25]), (n, 1)),
        f"{variant}/0/load": np.float32(load),
        f"{variant}/entropy": np.float32([0.63]),
        f"{variant}/predicted": labels.astype(np.int16),
        "labels": labels.astype(np.int16),
    }
    if hidden:
        found[f"{variant}/nodes"] = np.arange(0, n, 2, dtype=np.int32)
        states = np.random.default_rng(0).normal(size=(n // 2, 5)) * [9, 3, 1, 1, 1]
        found[f"{variant}/hidden"] = states.astype(np.float16)
    return found


@pytest.fixture
def store(tmp_path):
    """A results folder with two seeds of `moe`; in the second one an expert is idle."""
    store = Store(tmp_path / "results")
    for seed in range(2):
        told = {"expert_entropy": 0.63 + 0.01 * seed, "experts_collapsed": float(seed)}
        row = make_row("moe", seed, variants={"": numbers(0.7, **told)})
        row.key = f"key{seed}"
        with store.draft(row.key) as draft:
            np.savez(draft / "experts.npz", **arrays())
            store.write(row, draft)
    return store


def read_of(store):
    """The block of the rows in the store, and the routings of `moe`."""
    (block,) = blocks(load(store.root), [])
    line = line_of(block, "moe")
    found, troubles = experts.routings(store, line)
    return block, {line.id: found}, troubles


def test_the_table_of_experts_tells_layers_and_names_idle_ones_in_words(store):
    block, found, troubles = read_of(store)
    table = experts.table_of(block, found)
    assert [(c.head, c.unit) for c in table.columns][:2] == [
        ("entropy", ""),
        ("entropy", "layer 1"),
    ]
    assert table.rows[0].cells[0].text == "0.635 ± 0.007"
    assert table.rows[0].cells[2].text == "0.5"
    assert table.notes == (
        "Caution: sage:glnn → moe has experts without a node in 1 of 2 runs: "
        "seed 1: expert 3 of layer 1.",
    )
    assert troubles == []


def test_without_a_results_folder_the_numbers_of_the_rows_are_left(store):
    (block,) = blocks(load(store.root), [])
    found, _ = experts.routings(None, line_of(block, "moe"))
    assert found == {}
    table = experts.table_of(block, {})
    assert len(table.columns) == 3
    assert table.notes[0].endswith("in 1 of 2 runs.")


def test_where_all_experts_have_nodes_the_note_says_so():
    even = {"expert_entropy": 0.9, "experts_collapsed": 0.0}
    some = [make_row("moe", s, variants={"": numbers(0.7, **even)}) for s in range(2)]
    table = experts.table_of(block_of(some), {})
    assert table.notes == ("sage:glnn → moe: every expert has nodes, in all 2 runs.",)
    assert experts.table_of(block_of(rows()), {}) is None


def test_a_damaged_artefact_is_left_out_and_named(store):
    path = store.folder("key0") / "experts.npz"
    path.write_bytes(path.read_bytes() + b" ")
    _, found, troubles = read_of(store)
    assert list(next(iter(found.values()))) == [1]
    assert "seed 0, are left out" in troubles[0]
    assert "does not match its checksum" in troubles[0]


def test_a_variant_reads_its_own_arrays(store):
    row = store.read("key0")
    with store.draft("key0") as draft:
        np.savez(draft / "experts.npz", **{**arrays(), **arrays(variant="@1", hidden=False)})
        store.write(row, draft)
    assert experts.read(store, "key0", "@1").hidden is None
    assert experts.read(store, "key0", "").hidden is not None
    assert experts.read(store, "key0", "@2") is None


def test_a_class_shares_its_gates_and_unknown_labels_do_not_count():
    made = arrays()
    made["labels"] = np.where(np.arange(40) < 4, -1, made["labels"])
    layer = experts.Layer(made["_/0/experts"], made["_/0/gates"], made["_/0/load"], 0.6)
    found = experts.Routing([layer], made["labels"], made["labels"], np.zeros(0, int), None)
    classes, (table,) = routing.shares_by_class(found)
    assert classes == [0, 1]
    assert table.tolist() == [[0.75, 0.25, 0.0], [0.25, 0.75, 0.0]]
    assert layer.idle == [3]


def test_the_projection_is_that_of_the_singular_vectors_with_a_fixed_sign():
    states = np.random.default_rng(1).normal(size=(50, 6)) * [5, 3, 1, 1, 1, 1]
    points, shares = routing.projected(states)
    centred = states - states.mean(axis=0)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(points), np.abs(centred @ axes[:2].T), atol=1e-9)
    np.testing.assert_allclose(shares, values[:2] ** 2 / np.sum(values**2))
    again, _ = routing.projected(-states)
    np.testing.assert_allclose(again, -points, atol=1e-9)  # the axes keep their direction


def test_states_of_one_column_and_equal_states_can_be_projected():
    for states in (np.ones((4, 3)), np.arange(5.0)[:, None]):
        points, shares = routing.projected(states)
        assert points.shape == (len(states), 2)
        assert np.isfinite(shares).all()


# ---- the page -------------------------------------------------------------------------------


def test_the_page_is_written_beside_the_comparison_and_the_figures_are_in_it(store, tmp_path):
    out = tmp_path / "report"
    outcome = launch.Outcome([], {key: store.read(key) for key in ("key0", "key1")})
    paths = launch.report(outcome, "x", out, store=store)
    names = {path.name for path in paths}
    assert names >= {"diagnostics.md", "diagnostics.csv", "diagnostics.html"}
    assert names >= {"strata.png", "strata.svg", "experts_1_moe.png", "experts_1_moe.svg"}
    assert not [name for name in names if "strata_difference" in name]  # there is no GLNN
    assert 'href="diagnostics.html"' in (out / "comparison.html").read_text()
    page = (out / "diagnostics.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 2
    assert 'href="comparison.html"' in page
    assert "expert 3 of layer 1" in (out / "diagnostics.md").read_text()
    numbers = pd.read_csv(out / "diagnostics.csv")
    assert set(numbers["metric"]) == {*NAMES, "expert_entropy", "experts_collapsed"}
    first = (out / "experts_1_moe.svg").read_bytes()
    diagnostics.write(blocks(load(store.root), []), out, title="x", store=store, told=[])
    assert (out / "experts_1_moe.svg").read_bytes() == first


def test_from_a_csv_file_the_figures_of_experts_are_absent(store, tmp_path):
    load(store.root).to_csv(tmp_path / "rows.csv", index=False)
    found = blocks(load(tmp_path / "rows.csv"), [])
    paths = diagnostics.write(found, tmp_path, title="x", store=None, told=[])
    assert not [path for path in paths if "experts" in path.name]
    assert "0.635 ± 0.007" in (tmp_path / "diagnostics.md").read_text()


def test_figures_of_experts_are_limited_and_the_others_named(store, tmp_path, monkeypatch):
    monkeypatch.setattr(diagnostics, "FIGURES", 0)
    found = blocks(load(store.root), [])
    paths = diagnostics.write(found, tmp_path, title="x", store=store, told=[])
    assert not [path for path in paths if "experts" in path.name]
    told = (tmp_path / "diagnostics.md").read_text()
    assert "drawn for the first 0 methods; not for sage:glnn" in told
