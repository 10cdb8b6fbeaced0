"""What the headers of shipped sweeps call one thing changed is one, and equal sizes are equal."""

import re
from pathlib import Path

import pytest

import bench
from bench.cell import Cell, Protocol
from bench.expand import expand
from bench.kinds import KIND_OF
from bench.sweep import read

SWEEPS = Path(bench.__file__).parent.parent / "sweeps"
TABLE_2 = "datasets=pubmed,coauthor-cs,coauthor-physics,amazon-photo,amazon-computers"


def _protocols(sweep, root):
    """Those of a sweep, without a look at its files; Planetoid's come with their public split."""
    for dataset in sweep.datasets:
        split = "public" if dataset in ("cora", "citeseer", "pubmed") else "random"
        for setting in sweep.settings:
            yield Protocol(dataset, dataset, split, setting)


@pytest.fixture
def cells_of(monkeypatch):
    """The cells of a sweep by its name."""
    monkeypatch.setattr("bench.expand._protocols", _protocols)

    def expanded(name: str, *overrides: str) -> list[Cell]:
        return expand(read(SWEEPS / f"{name}.yaml", overrides), Path())

    return expanded


@pytest.fixture
def groups_of(cells_of):
    """For each dataset, setting and teacher of a sweep, label -> the student's configuration."""

    def grouped(name: str, *overrides: str) -> list[dict[str, dict]]:
        found: dict[tuple, dict[str, dict]] = {}
        for cell in cells_of(name, *overrides):
            if cell.student and cell.teacher:
                where = cell.protocol.dataset, cell.protocol.setting, cell.teacher.label
                found.setdefault(where, {})[cell.student.label] = dict(cell.student.config)
        return list(found.values())

    return grouped


def moved(config: dict, base: dict) -> set[str]:
    """The hyper-parameters in which two configurations of one method differ."""
    assert set(config) == set(base)
    return {key for key in config if config[key] != base[key]}


# ---- ProGMLP --------------------------------------------------------------------------------

PARTS = {"structure", "progressive_distillation", "mixup"}


@pytest.mark.parametrize("overrides", [(), (TABLE_2, "teachers=gcn:glnn,gat:glnn,sage:glnn")])
def test_progmlp_is_compared_at_one_size(groups_of, overrides):
    groups = groups_of("progmlp", *overrides)
    assert len(groups) == (15 if overrides else 8)
    for students in groups:
        assert len(students) == 8
        for config in students.values():
            shape = [config[key] for key in ("num_layers", "hidden_dim", "width_factor", "norm")]
            assert shape == [2, 256, 1.0, "none"]
        for label, config in students.items():
            if label.startswith(("ensemble-k", "adagmlp-k")):
                assert config["num_members"] == int(label[-1])
                assert not config.get("match_parameters")


def test_independent_students_differ_from_progmlps_in_its_three_parts(groups_of):
    for students in groups_of("progmlp"):
        alone, whole = students["independent"], students["progmlp"]
        assert moved(alone, whole) == PARTS
        assert not any(alone[part] for part in PARTS)
        assert whole["num_stages"] == 4
        assert whole["exit_threshold"] == 0.75
        assert whole["exit_thresholds"] == [0.2, 0.3, 0.4, 0.5, 0.6]


def test_glnns_members_have_the_recipe_that_the_header_of_progmlp_tells(groups_of):
    keys = ("label_weight", "schedule", "batch_size", "max_epochs")
    for students in groups_of("progmlp"):
        member, stage = students["ensemble-k4"], students["progmlp"]
        assert [member[key] for key in keys] == [0.0, "steps", 512, 200]
        assert [stage[key] for key in keys] == [0.1, "mean", 0, 500]
        assert member["dropout"] != stage["dropout"]
    decays = [
        [students[label]["weight_decay"] for label in ("ensemble-k4", "progmlp")]
        for students in groups_of("progmlp")
    ]
    assert decays[:4] == [[0.0, 0.0]] * 4  # public splits
    assert all(one != two for one, two in decays[4:])


# Line of the ablation -> the line it is compared with, and what it changes of it.
ABLATION = {
    "no structure": ("base", {"structure"}),
    "no progressive distillation": ("base", {"progressive_distillation"}),
    "no mixup": ("base", {"mixup"}),
    "no part at all": ("base", PARTS),
    "gamma=0": ("base", {"mixup_rate"}),
    "gamma=1": ("base", {"mixup_rate"}),
    "lambda=0.3": ("gamma=0", {"mixup_start"}),
    "mixup as printed": ("base", {"mixup_rule"}),
    "mixup every epoch": ("base", {"mixup_update"}),
    "no mixup, alpha=0": ("no mixup", {"label_weight"}),
    "no mixup, alpha=0.3": ("no mixup", {"label_weight"}),
    "no mixup, alpha=0.5": ("no mixup", {"label_weight"}),
    "no mixup, alpha=0.9": ("no mixup", {"label_weight"}),
    "alpha=0": ("base", {"label_weight"}),
    "beta=1": ("base", {"distillation_power"}),
}


def test_each_line_of_progmlps_ablation_changes_what_it_says(groups_of):
    groups = groups_of("ablation_progmlp")
    assert len(groups) == 4
    for students in groups:
        assert set(students) == {"base", *ABLATION}
        for label, (control, keys) in ABLATION.items():
            found = moved(students[label], students[control])
            assert found - {"node_thresholds", "exit_thresholds"} == keys  # which need no fit
        values = {"gamma": "mixup_rate", "alpha": "label_weight", "beta": "distillation_power"}
        for label, config in students.items():
            if match := re.search(r"(gamma|alpha|beta)=(.+)", label):
                assert config[values[match[1]]] == float(match[2])


def test_the_base_of_progmlps_ablation_is_what_its_header_tells(groups_of):
    for students in groups_of("ablation_progmlp"):
        base = students["base"]
        keys = ("mixup_start", "mixup_rate", "mixup_target", "label_weight", "num_stages")
        assert [base[key] for key in keys] == [0.0, 0.1, 0.1, 0.1, 4]
        assert (base["mixup_rule"], base["mixup_update"]) == ("intent", "stage")
        assert not base["scale_mixup"]
        mixing = students["lambda=0.3"]
        assert (mixing["mixup_start"], mixing["mixup_rate"]) == (0.3, 0.0)
        assert base["exit_thresholds"][0] == 0.2
        assert base["exit_thresholds"][-1] == 0.6
        assert (base["node_thresholds"][0], base["node_thresholds"][-1]) == (0.3, 0.99)


# ---- NORM -----------------------------------------------------------------------------------

SEGMENTS = (1, 2, 4, 8, 16)
NORM = {
    **{f"N={n}": ("N=8", {"num_segments"}) for n in SEGMENTS if n != 8},
    **{f"N={n}, alpha=1": (f"N={n}", {"matching_weight"}) for n in SEGMENTS},
    "alpha=0.1": ("N=8", {"matching_weight"}),
    "no matching": ("N=8", {"matching_weight"}),
    "plain (own code)": ("N=8", {"num_segments"}),
    "no residual": ("N=8", {"residual"}),
    "no batch norm": ("N=8", {"batch_norm"}),
    "constant alpha": ("N=8", {"matching_schedule"}),
    "logits normalised": ("N=8", {"normalise_logits"}),
    "one step": ("N=8", {"schedule"}),
    "no soft labels": ("one step", {"label_weight", "matching_weight"}),
    "labels alone": ("no soft labels", {"matching_weight"}),
    "N=1 one to one": ("N=1", {"residual", "batch_norm"}),
    "N=1 one to one, alpha=1": ("N=1 one to one", {"matching_weight"}),
}
NORM_GNN = {
    **{f"N={n}": ("plain GCN", {"num_segments"}) for n in SEGMENTS},
    "N=1 one to one": ("N=1", {"residual"}),
    "no matching": ("N=8", {"matching_weight"}),
}


def test_each_line_of_norm_changes_what_it_says(groups_of):
    (students,) = groups_of("norm")
    glnn = students.pop("glnn")
    assert set(students) == {"N=8", *NORM}
    for label, (control, keys) in NORM.items():
        assert moved(students[label], students[control]) == keys
    for label, config in students.items():
        other = {key for key in glnn if config[key] != glnn[key]}
        joint = label in ("one step", "no soft labels", "labels alone")
        assert other <= ({"label_weight", "schedule"} if joint else set())


def test_the_lines_of_norm_have_the_values_of_their_labels(groups_of):
    (students,) = groups_of("norm")
    for n in SEGMENTS:
        assert students[f"N={n}"]["num_segments"] == n
        assert students[f"N={n}"]["matching_weight"] == 0.01
        assert students[f"N={n}, alpha=1"]["matching_weight"] == 1.0
    for label, weight in {"N=1 one to one": 0.01, "N=1 one to one, alpha=1": 1.0}.items():
        keys = ("num_segments", "residual", "batch_norm", "matching_weight")
        assert [students[label][key] for key in keys] == [1, False, "none", weight]
    keys = ("label_weight", "schedule", "matching_weight")
    assert [students["no soft labels"][key] for key in keys] == [1.0, "mean", 8.0]
    assert [students["labels alone"][key] for key in keys] == [1.0, "mean", 0.0]
    assert students["no matching"]["matching_weight"] == 0.0
    assert students["plain (own code)"]["num_segments"] == 0


def test_each_line_of_norm_gnn_changes_what_it_says(groups_of):
    (students,) = groups_of("norm_gnn")
    assert set(students) == {"plain GCN", *NORM_GNN}
    for label, (control, keys) in NORM_GNN.items():
        assert moved(students[label], students[control]) == keys
    for label, config in students.items():
        keys = ("backbone", "num_layers", "hidden_dim", "batch_norm", "label_weight")
        assert [config[key] for key in keys] == ["gcn", 2, 16, "none", 0.0]
        assert config["matching_weight"] == (0.0 if label == "no matching" else 1.0)
    counts = {label: config["num_segments"] for label, config in students.items()}
    assert counts == {
        **{"plain GCN": 0, "N=1 one to one": 1, "no matching": 8},
        **{f"N={n}": n for n in SEGMENTS},
    }


# ---- kinds of knowledge ---------------------------------------------------------------------

TERMS = {
    "fitnet": {"fitnet_weight"},
    "attention": {"attention_weight"},
    "lsp": {"lsp_weight"},
    "rkd": {"rkd_distance_weight", "rkd_angle_weight"},
    "gram": {"gram_weight"},
    "gcrd": {"contrast_weight"},
    "fitnet+gram": {"fitnet_weight", "gram_weight"},
}


@pytest.mark.parametrize(
    ("name", "method", "shape"),
    [("knowledge", "kd", [2, 128]), ("knowledge_gnn", "kd_gnn", [2, 16])],
)
def test_kinds_of_knowledge_differ_from_a_control_in_the_weights_of_their_terms(
    groups_of, name, method, shape
):
    (every,) = groups_of(name)
    students = {label: config for label, config in every.items() if label.startswith(method)}
    soft, labels = students[f"{method}:soft"], students[f"{method} labels"]
    assert moved(labels, soft) == {"label_weight", "soft_weight"}
    assert [(c["label_weight"], c["soft_weight"]) for c in (labels, soft)] == [
        (1.0, 0.0),
        (0.0, 1.0),
    ]
    assert {key for key in list(KIND_OF)[1:] if labels[key] or soft[key]} == set()
    seen = {f"{method}:soft", f"{method} labels"}
    for terms, keys in TERMS.items():
        heat = {"contrast_temperature"} if terms == "gcrd" else set()
        assert moved(students[f"{method}:soft+{terms}"], soft) == keys | heat
        seen.add(f"{method}:soft+{terms}")
        if "+" not in terms:
            assert moved(students[f"{method}:{terms}"], labels) == keys
            seen.add(f"{method}:{terms}")
    assert seen == set(students)
    for config in students.values():
        assert [config["num_layers"], config["hidden_dim"]] == shape
        assert (config["width_factor"], config["norm"], config["batch_size"]) == (1.0, "none", 0)


def test_the_other_students_of_knowledge_are_as_wide_as_its_header_says(cells_of):
    cells = [cell for cell in cells_of("knowledge") if cell.student]
    width = {cell.student.label: cell.student.config["hidden_dim"] for cell in cells}
    assert {label: wide for label, wide in width.items() if not label.startswith("kd")} == {
        **{"mlp": 128, "cpf": 64, "cpf:tra": 64},
        **{"linkdist": 256, "colinkdist": 256, "tgs": 256},
    }


@pytest.mark.parametrize("name", ["knowledge_gnn", "norm_gnn"])
def test_the_teacher_of_small_gnns_is_the_one_that_the_header_tells(cells_of, name):
    teachers = {(cell.teacher.name, cell.teacher.config["hidden_dim"]) for cell in cells_of(name)}
    assert teachers == {("sage", 128)}


# ---- all ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_header_names_baselines_and_counts_that_there_are(path, cells_of):
    header = path.read_text().partition("\ndescription:")[0]
    for text in re.findall(r'--baseline ("[^"]+"|[^\s`]+)', header):
        read(path, [f"baseline={text}"])  # refuses one of nobody
    for count in re.findall(r"for (\d+) cells", header):
        assert len(cells_of(path.stem)) == int(count)
