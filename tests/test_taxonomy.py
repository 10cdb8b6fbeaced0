"""The table of kinds of knowledge: which blocks have one, and what stands in it."""

import csv

import pytest

from bench import registry
from bench.cell import Protocol, from_data
from bench.expand import expand
from bench.hparams import fields_of
from bench.launch import relabelled
from bench.reports import comparison, taxonomy
from bench.reports.blocks import blocks
from bench.results import frame
from bench.sweep import make
from bench.tables import markdown
from tests.records import make_row, plan_of

pytestmark = pytest.mark.usefixtures("hurried")


def rows_of(student, knowledge, *accuracies, **options):
    """The rows of a student that is taught by something, one a seed."""
    found = []
    for seed, value in enumerate(accuracies):
        variants = {"": {"test_accuracy": value, "macro_f1": value - 0.1, "agreement": 0.9}}
        cost = {"": {"macs": 5000.0, "latency_ms": 2.0}}
        row = make_row(student, seed, variants=variants, cost=cost, **options)
        if knowledge:
            row.cell["student"]["knowledge"] = knowledge
        found.append(row)
    return found


def block_of(*parts):
    rows = [row for part in parts for row in part]
    (block,) = blocks(frame(rows), plan_of(rows))
    return block


MIXED = (
    rows_of("linkdist", "self", 0.70, 0.80, teacher=""),
    rows_of("both", "output, middle", 0.83, 0.81),
    rows_of("rkd", "constructed", 0.60, 0.60),
    rows_of("glnn", "output", 0.80, 0.82),
    rows_of("mlp", "labels", 0.58, 0.60, teacher=""),
    rows_of("lsp", "middle", 0.66, 0.64),
)


def test_students_stand_under_their_kinds_in_order():
    found = taxonomy.groups(block_of(*MIXED))
    assert {kinds: [line.student for line in lines] for kinds, lines in found.items()} == {
        ("labels",): ["mlp"],
        ("output",): ["glnn"],
        ("middle",): ["lsp"],
        ("constructed",): ["rkd"],
        ("output", "middle"): ["both"],
        ("self",): ["linkdist"],
    }
    assert next(iter(found)) == ("labels",)
    assert list(found)[-2:] == [("output", "middle"), ("self",)]


def test_the_table_has_means_spreads_and_medians():
    text = markdown(taxonomy.table_of(block_of(*MIXED)))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert (
        lines[0]
        == "| method | accuracy % | macro F1 % | agreement % | MACs graph | ms graph | fit s |"
    )
    numbers = "81.00 ± 1.41 | 71.00 ± 1.41 | 90.00 ± 0.00 | 5k | 2 | 1.5 |"
    assert f"| sage:glnn → glnn | {numbers}" in lines
    heads = [line.split("*")[1] for line in lines if line.startswith("| *")]
    assert heads == [
        "labels alone",
        "output: soft labels",
        "middle: hidden states and local structure",
        "constructed: relations among samples",
        "output + middle",
        "self: no teacher",
    ]


@pytest.mark.parametrize(
    ("kinds", "told"),
    [
        (("labels", "output"), False),
        (("output", "output, constructed"), False),
        (("output", "middle"), True),
        (("output", "output, middle"), True),
        (("labels", "constructed"), True),
        (("self", "self"), True),
        (("", ""), False),  # rows that do not tell, of an older version
    ],
)
def test_only_what_compares_kinds_has_a_table(kinds, told):
    block = block_of(*(rows_of(f"s{i}", kind, 0.5) for i, kind in enumerate(kinds)))
    assert taxonomy.has_any(block) == told
    assert bool(list(taxonomy.records([block]))) == told


def test_a_report_has_the_table_and_the_raw_numbers(tmp_path):
    rows = [row for part in MIXED for row in part]
    files = comparison.write(frame(rows), plan_of(rows), tmp_path, title="kinds")
    assert tmp_path / "taxonomy.csv" in files
    for name in ("comparison.md", "comparison.html", "comparison.tex"):
        assert "inds of knowledge" in (tmp_path / name).read_text(encoding="utf-8")
    with (tmp_path / "taxonomy.csv").open() as file:
        read = {line["student"]: line for line in csv.DictReader(file)}
    assert list(read) == ["mlp", "glnn", "lsp", "rkd", "both", "linkdist"]
    assert read["both"]["knowledge"] == "output, middle"
    assert float(read["both"]["accuracy_mean"]) == pytest.approx(0.82)
    assert read["both"]["n"] == "2"


def test_without_kinds_a_report_is_what_it_was(tmp_path):
    told = [*rows_of("glnn", "output", 0.80, 0.82), *rows_of("mlp", "labels", 0.6, 0.5, teacher="")]
    silent = [*rows_of("glnn", "", 0.80, 0.82), *rows_of("mlp", "", 0.6, 0.5, teacher="")]
    for name, rows in (("told", told), ("silent", silent)):
        comparison.write(frame(rows), plan_of(rows), tmp_path / name, title="t")
    for name in ("comparison.md", "comparison.csv", "comparison.tex"):
        one, two = ((tmp_path / folder / name).read_text() for folder in ("told", "silent"))
        assert one == two
    assert not (tmp_path / "told" / "taxonomy.csv").exists()


# ---- where the kinds come from --------------------------------------------------------------


@pytest.fixture
def cells(monkeypatch):
    where = Protocol("cpf-cora", "0", "random", "transductive")
    monkeypatch.setattr("bench.expand._protocols", lambda sweep, root: [where])

    def listed(*students):
        content = {"name": "t", "datasets": ["cpf-cora"], "teachers": ["sage"]}
        found = expand(make({**content, "students": list(students)}), None)
        return {(c.student.label if c.student else ""): c for c in found}

    return listed


def test_a_cell_tells_what_its_student_is_taught_by(cells):
    other = {"name": "kd:soft", "label": "no soft", "config": {"soft_weight": 0.0, "lsp_weight": 1}}
    found = cells("mlp", "glnn", "kd:soft+rkd", other, "linkdist")
    told = {label: cell.student.knowledge for label, cell in found.items() if label}
    assert told == {
        "mlp": "labels",
        "glnn": "output",
        "kd:soft+rkd": "output, constructed",
        "no soft": "middle",
        "linkdist": "self",
    }
    assert found[""].teacher.knowledge == ""


def test_the_kinds_are_in_rows_and_in_no_key(cells):
    cell = cells("glnn")["glnn"]
    described = cell.describe()
    assert described["student"]["knowledge"] == "output"
    assert "knowledge" not in described["teacher"]
    old = {**described, "student": {**described["student"]}}
    del old["student"]["knowledge"]
    assert from_data(old).key == from_data(described).key == cell.key
    row = make_row("glnn", 0, 0.5)
    assert "knowledge" not in frame([row])
    assert set(frame([relabelled(row, cell)])["knowledge"]) == {"output"}


@pytest.mark.parametrize("name", registry.methods("student"))
def test_every_student_is_taught_by_known_kinds(name):
    method = registry.load_method("student", name)
    for preset in registry.presets("student", name):
        config = registry.configure("student", f"{name}:{preset}", {}, {})
        kinds = method.knowledge_of(config)
        assert set(kinds) <= set(taxonomy.KINDS) - {"labels"}
        assert not (method.needs_teacher and "self" in kinds)


@pytest.mark.parametrize("name", registry.methods("student"))
def test_a_student_that_is_compared_by_similarity_is_taught_by_relations(name):
    method = registry.load_method("student", name)
    if "similarity_weight" in fields_of(method.Config):
        for weight in (0.0, 0.1):
            kinds = method.knowledge_of({"similarity_weight": weight})
            assert kinds == ("output", "constructed")[: 2 if weight else 1]
