import pytest

from bench import published

CORA = ("cpf-cora", "random", "transductive")


def one(protocol, metric, teacher, student):
    (number,) = published.find(protocol, metric, teacher, student)
    return number


def test_spot_checks():
    sage = one(CORA, "test_accuracy", "sage:glnn", "")
    assert (sage.mean, sage.std, sage.std_kind) == (0.8064, 0.0157, "unknown")
    at = ("cpf-citeseer", "random", "production")
    ind = one(at, "ind_accuracy", "", "mlp")
    assert (ind.mean, ind.std, ind.std_kind, ind.runs) == (0.6006, 0.05, "population", 10)
    prod = one(
        ("ogbn-products", "official", "production"), "prod_accuracy", "sage:glnn", "glnn:plus"
    )
    assert (prod.mean, prod.std) == (0.7577, None)
    gcn = one(("cora", "public", "transductive"), "test_accuracy", "gcn:kipf", "")
    assert (gcn.mean, gcn.std, gcn.arxiv) == (0.815, None, "1609.02907")


def test_the_own_paper_comes_before_others():
    sources = [n.source for n in published.find(CORA, "test_accuracy", "sage:glnn", "glnn")]
    assert sources == ["GLNN", "VQGraph"]


def test_contradictory_and_unplaced_numbers_are_kept_but_never_matched():
    arxiv = ("ogbn-arxiv", "official", "production")
    for metric in ("ind_accuracy", "tran_accuracy"):
        assert published.find(arxiv, metric, "sage:glnn", "glnn:plus") == ()
        assert published.find(arxiv, metric, "sage:glnn", "")
    barred = [n for n in published.load() if not n.comparable]
    assert {n.source for n in barred} == {"GLNN", "ProGMLP"}
    assert all(n.note for n in barred)
    assert all(n.split == "not stated" for n in barred if n.source == "ProGMLP")


def test_no_number_is_given_twice_by_one_source():
    keys = [
        (n.source, n.dataset, n.split, n.setting, n.metric, n.teacher, n.student)
        for n in published.load()
    ]
    assert len(keys) == len(set(keys))


def test_production_is_the_mix_of_its_parts():
    printed = {
        (n.dataset, n.teacher, n.student, n.metric): n.mean
        for n in published.load()
        if n.setting == "production" and n.comparable
    }
    known_slip = ("amazon-photo", "sage:glnn", "")
    checked = 0
    for (*method, metric), prod in printed.items():
        parts = [printed.get((*method, part)) for part in ("tran_accuracy", "ind_accuracy")]
        if metric == "prod_accuracy" and None not in parts and tuple(method) != known_slip:
            assert 0.8 * parts[0] + 0.2 * parts[1] == pytest.approx(prod, abs=2.1e-4), method
            checked += 1
    assert checked == 19


def test_every_number_is_a_fraction_with_a_source():
    for n in published.load():
        assert 0.4 < n.mean < 1
        assert n.std is None or 0 < n.std < 0.06
        assert n.metric.endswith("_accuracy")
        assert n.citation.startswith(f"{n.source} (arXiv {n.arxiv}), ")


DOCUMENT = {
    "source": {"label": "X", "paper": "X", "arxiv": "1", "order": 1},
    "std": "unknown",
    "runs": None,
    "tables": [
        {
            "table": "Table 1",
            "read": "by hand",
            "split": "random",
            "setting": "transductive",
            "metric": "test_accuracy",
            "columns": [{"teacher": "", "student": "mlp"}],
            "rows": {"cora": ["59.1"]},
        }
    ],
}


def changed(**table):
    return {**DOCUMENT, "tables": [{**DOCUMENT["tables"][0], **table}]}


def test_a_document_is_read():
    (number,) = published.read(DOCUMENT, "x.yaml")
    assert (number.mean, number.std, number.runs, number.student) == (0.591, None, None, "mlp")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({**DOCUMENT, "std": "sample"}, "x.yaml: std is 'sample'; allowed: population"),
        (changed(rows={"cora": ["about 59"]}), "x.yaml: cora: 'about 59' is no number"),
        (changed(rows={"cora": ["59.1", "3"]}), "x.yaml: cora has 2 numbers for 1 columns"),
    ],
)
def test_a_slip_in_a_document_is_an_error(document, message):
    with pytest.raises(ValueError, match=message):
        published.read(document, "x.yaml")
