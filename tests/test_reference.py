"""The committed reference reports are what the committed rows give."""

import re
from pathlib import Path

import pytest

import bench
from bench import sweep_file
from bench.reports import comparison, tuning
from bench.reports.notes import commits
from bench.results import load
from bench.tuning import best_trial, read_studies, read_tuned

pytestmark = pytest.mark.usefixtures("hurried")  # the text is compared, the figures are not

HOME = Path(bench.__file__).parent.parent
RECORDS = sorted((HOME / "results" / "reference").glob("*.csv"))
SHORT = {  # 5 seeds
    "ablation_progmlp", "ablation_rbm", "equal_budget", "robust_edges", "robust_features",
    "robust_imbalance", "robust_labels", "robust_teacher", "robust_teacher_labels", "why_nosmog",
    "why_public", "why_teacher",
}  # fmt: skip
TUNED = [path.stem for path in sorted((HOME / "results/reference/tuning").glob("*.json"))]
NAMES = ["key", "dataset", "split", "setting", "teacher", "student", "seed"]


def baselines_of(name):
    """What the sweep of this name compares with."""
    path = HOME / "sweeps" / f"{name}.yaml"
    content, _ = sweep_file.parse(path.read_text(), str(path))
    return {"baseline": content.get("baseline", ""), "controls": content.get("controls", [])}


def test_there_are_reference_results():
    assert {path.stem for path in RECORDS} >= {"glnn", "students", "teachers"}


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_reference_report_is_regenerated_from_its_rows(path, tmp_path):
    rows = load(path)
    planned = rows.drop_duplicates("key")[NAMES].to_dict("records")
    against = baselines_of(path.stem)
    comparison.write(rows, planned, tmp_path, title=path.stem, **against)
    committed = HOME / "reports" / "reference" / path.stem
    others = [
        n for n in ("effects.csv", "diagnostics.md", "diagnostics.csv") if against["baseline"]
    ]
    for name in ("comparison.md", "comparison.tex", "comparison.csv", *others):
        assert (tmp_path / name).read_text() == (committed / name).read_text()


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_reference_rows_are_whole_and_those_of_a_method_come_from_one_clean_commit(path):
    rows = load(path)
    assert set(rows["status"]) == {"ok"}
    assert set(rows["evaluate_test"]) == {True}
    assert set(rows["ran.git_dirty"]) == {False}
    assert not any("Caution" in sentence for sentence in commits(rows))
    groups = rows.drop_duplicates("key").groupby(NAMES[1:-1])["seed"]
    count = 5 if path.stem in SHORT else 10
    assert all(sorted(seeds) == list(range(count)) for _, seeds in groups)


@pytest.mark.parametrize("sweep", TUNED)
def test_the_tuning_report_is_regenerated_from_its_studies(sweep, tmp_path):
    studies = tuning.read(HOME / "results" / "reference", sweep)
    tuning.write(studies, tmp_path, title=sweep)
    for name in ("tuning.md", "tuning.tex", "tuning.csv", "best_of_n.csv"):
        committed = HOME / "reports" / "reference" / f"{sweep}-tuning" / name
        assert (tmp_path / name).read_text() == committed.read_text()


def worth(trial):
    """What a study ranks its trials by: val accuracy, then fewer parameters, then the earlier."""
    return -round(trial["val_accuracy"], 9), trial["size"], trial["number"]


@pytest.mark.parametrize("sweep", TUNED)
def test_what_was_chosen_is_what_the_studies_found_best_and_the_budgets_are_equal(sweep):
    studies = read_studies(HOME / "results" / "reference", sweep)
    chosen = {x.study: x for x in read_tuned(HOME / "sweeps" / "tuned" / f"{sweep}.yaml")}
    assert chosen.keys() == {study["id"] for study in studies}
    assert len({len(study["trials"]) for study in studies}) == 1
    for study in studies:
        best, found = best_trial(study), chosen[study["id"]]
        assert best == min((t for t in study["trials"] if t["state"] == "complete"), key=worth)
        assert found.trial == best["number"]
        assert found.seeds == study["search"]["seeds"]
        assert {k: best["config"][k] for k in found.config} == found.config
        assert set(study["search"]["seeds"]).isdisjoint(range(10))  # those that are reported


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_the_header_of_a_sweep_tells_the_time_that_its_rows_took(path):
    """On two cores, without the latencies and the report that come after the last fit."""
    text = (HOME / "sweeps" / f"{path.stem}.yaml").read_text()
    told = int(re.search(r"Time: about (\d+) minutes", text)[1])
    minutes = load(path).drop_duplicates("key")["ran.seconds"].sum() / 60 / 2
    assert 0.85 * minutes <= told <= 1.3 * minutes + 3


def test_reference_means_lie_within_a_point_and_a_half_of_the_published_ones():
    table = load(HOME / "results" / "reference" / "glnn.csv")
    published = {  # GLNN, arXiv 2110.08727, and the re-runs of VQGraph: per cent
        ("cpf-cora", "transductive"): {"sage:glnn": 80.64, "glnn": 80.26, "mlp": 59.18},
        ("cpf-cora", "production"): {"sage:glnn": 79.29, "glnn": 78.28, "mlp": 58.98},
        ("cpf-citeseer", "transductive"): {"sage:glnn": 70.49, "glnn": 71.22, "mlp": 58.50},
        ("cpf-citeseer", "production"): {"sage:glnn": 68.38, "glnn": 69.27, "mlp": 59.81},
    }
    for (dataset, setting), numbers in published.items():
        part = table[(table["dataset"] == dataset) & (table["setting"] == setting)]
        for method, number in numbers.items():
            name = ("", method) if method != "sage:glnn" else (method, "")
            teachers = ["sage:glnn", ""] if method == "glnn" else [name[0]]
            runs = part[(part["student"] == name[1]) & part["teacher"].isin(teachers)]
            assert len(runs) == 10
            assert abs(100 * runs["test_accuracy"].mean() - number) < 1.5


@pytest.mark.parametrize(("page", "least"), [("README.md", 12), ("docs/findings.md", 20)])
def test_the_numbers_of_a_page_stand_in_the_reference_reports(page, least):
    number, sign = r"\d+\.\d\d", "[+\N{MINUS SIGN}]"
    pattern = rf"\d{number} ± {number}|{sign}{number} \[{sign}{number}, {sign}{number}\]"
    shown = re.findall(pattern, " ".join((HOME / page).read_text().split()))
    told = "".join(p.read_text() for p in (HOME / "reports" / "reference").glob("*/*.md"))
    assert len(shown) > least
    assert [text for text in shown if text not in told] == []


def test_the_sparse_mixture_fails_where_its_teacher_is_unsure():
    """As README and findings say: by the teacher's calibration error, of 20 runs."""
    table = load(HOME / "results" / "reference" / "students_public.csv")
    place = ["dataset", "seed"]
    teacher = table[table["student"] == ""].set_index(place)["ece"]
    student = table[table["student"] == "moe"].set_index(place)["test_accuracy"]
    fails = student.reindex(teacher.index) < 0.5
    assert (int(fails.sum()), len(fails)) == (8, 20)
    assert teacher[fails].min() > 0.28
    assert teacher[~fails].max() < 0.21


def test_the_pages_that_the_findings_refer_to_are_there():
    links = re.findall(r"\]\(([^)]+)\)", (HOME / "docs" / "findings.md").read_text())
    assert len(links) > 5
    assert [link for link in links if not (HOME / "docs" / link).exists()] == []


def test_the_list_of_the_reports_is_whole_and_tells_the_times_of_their_sweeps():
    folder = HOME / "reports" / "reference"
    text = (folder / "README.md").read_text()
    links = set(re.findall(r"\]\(([^)]+)\)", text))
    assert {link.partition("/")[0] for link in links} == {
        f.parent.name for f in folder.glob("*/*.md")
    }
    assert all((folder / link).is_file() for link in links)
    for name, minutes in re.findall(r"^\| \[(\w+)\].* \| (\d+) min \|$", text, re.MULTILINE):
        header = (HOME / "sweeps" / f"{name}.yaml").read_text()
        assert re.search(r"Time: about (\d+) minutes", header)[1] == minutes
