from pathlib import Path

import pytest

from bench.expand import expand
from bench.sweep import MAX_SEED, from_overrides, make, parse_seeds, read

DATA = "synthetic:nodes=300,degree=4,classes=3"
HEAD = f"datasets: ['{DATA}']\nsplits: [random]\n"  # lines 1 and 2


def write(folder: Path, text: str) -> Path:
    path = folder / "my sweep.yaml"
    path.write_text(text)
    return path


def cells_of(folder: Path, text: str, *overrides: str):
    return expand(read(write(folder, text), overrides), folder)


def refusal(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the callers look at the message)
        cells_of(folder, text, *overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(folder / "my sweep.yaml"), "FILE")


GCN = HEAD + "teachers: [gcn]\n"
REFUSED = {  # what is wrong -> the file after HEAD, the beginning of the sentence
    "an empty axis": ("teachers: []", "FILE, line 3: teachers is empty; give at least one"),
    "an axis of nothing": ("teachers: [gcn]\nsettings:", "FILE, line 4: settings is None"),
    "a number for an axis": ("teachers: 3", "FILE, line 3: teachers is 3; give a list"),
    "a number for an entry": ("teachers:\n- gcn\n- 3", "FILE, line 5: teachers.1 is 3; give a"),
    "the same entry": (
        "teachers:\n- gcn\n- sage\n- gcn",
        "FILE, line 6: 'gcn' stands twice in teachers; give each its own `label`",
    ),
    "the same label": (
        "teachers:\n- gcn\n- {name: sage, label: gcn}",
        "FILE, line 5: 'gcn' stands twice",
    ),
    "the same seed": ("teachers: [gcn]\nseeds: [0, 1, 0]", "FILE, line 4: '0' stands twice in"),
    "the same key": ("teachers: [gcn]\nseeds: 1\nseeds: 2", "FILE, line 5: key 'seeds' stands"),
    "the same inner key": (
        "teachers: [gcn]\nconfig:\n  gcn: {lr: 0.1,\n        lr: 0.2}",
        "FILE, line 6: key 'lr' stands there twice",
    ),
    "no method": ("", "FILE: a sweep needs teachers, students or both"),
    "a tab": ("teachers: [gcn]\nconfig:\n\tgcn: 3", "FILE, line 5: not valid YAML"),
    "an open list": ("teachers: [gcn\nseeds: 3", "FILE, line 4: not valid YAML"),
    "code": ("name: !!python/object/apply:os.system [ls]", "FILE, line 3: not valid YAML"),
    "a key that is a number": ("3: gcn", "FILE, line 3: a key is a name, not 3"),
    "a key that is a list": ("[a]: gcn", "FILE, line 3: a key is a name, not ['a']"),
    "an unknown key": ("studnts: [mlp]", "FILE, line 3: unknown key 'studnts'; did you mean 'stu"),
    "an unknown key of an entry": (
        "teachers:\n- gcn\n- name: sage\n  labl: x",
        "FILE, line 6: unknown key 'labl'; did you mean 'label'?",
    ),
    "an entry without name": (
        "teachers:\n- gcn\n- label: x",
        "FILE, line 5: key 'teachers.1.name'",
    ),
    "a blank label": ("teachers: [{name: gcn, label: ' '}]", "FILE, line 3: label ' ' is not"),
    "yes for true": ("teachers: [gcn]\nself_loops: yes", "FILE, line 4: self_loops is 'yes'; give"),
    "text for a number": ("teachers: [gcn]\nhidden_rate: x", "FILE, line 4: hidden_rate is 'x'"),
    "a rate of zero": ("teachers: [gcn]\nhidden_rate: 0", "FILE, line 4: hidden_rate is 0; it"),
    "a rate above one": ("teachers: [gcn]\nhidden_rate: 2", "FILE, line 4: hidden_rate is 2; it"),
    "a rate that observes nobody": (
        "teachers: [gcn]\nsettings: [inductive, production]\nhidden_rate: 1",
        "FILE, line 5: hidden_rate is 1, and setting 'production' scores observed test nodes too",
    ),
    "an unknown device": ("teachers: [gcn]\ndevice: tpu", "FILE, line 4: device is 'tpu'; it"),
    "a name with a folder": ("name: ../x", "FILE, line 3: name '../x' also names files"),
    "a name that is a number": ("teachers: [gcn]\nname: 7", "FILE, line 4: name is 7; give text"),
    "an unknown setting": (
        "settings:\n- transductive\n- inductiv",
        "FILE, line 5: unknown setting 'inductiv'; did you mean 'inductive'?",
    ),
    "an unknown teacher": ("teachers:\n- gcn\n- saga", "FILE, line 5: unknown teacher 'saga'; did"),
    "an unknown student": ("students: [gln]", "FILE, line 3: unknown student 'gln'; did you mean"),
    "an unknown preset": ("teachers:\n- gcn\n- sage:glm", "FILE, line 5: unknown preset of"),
    "a student without teacher": ("students:\n- mlp\n- glnn", "FILE, line 5: student 'glnn' needs"),
    "the same question": (
        "teachers:\n- gcn\n- {name: gcn, label: twin}",
        "FILE, line 5: 'gcn' and 'twin' have the same configuration",
    ),
    "the same question under a label as tuning writes it": (
        "students:\n- {name: mlp, label: a}\n- {name: mlp, label: b (tuned)}",
        "FILE, line 5: 'a' and 'b (tuned)' have the same configuration on synthetic:nodes=300",
    ),
    "a config of nobody": (
        "teachers: [gcn]\nconfig:\n  gcn: {lr: 0.1}\n  sage: {lr: 0.1}",
        "FILE, line 6: config names no method 'sage'",
    ),
    "a config of nothing": ("teachers: [gcn]\nconfig:\n  gcn:", "FILE, line 5: config.gcn is None"),
    "an unknown hyper-parameter": (
        "teachers: [gcn]\nconfig:\n  gcn:\n    lr: 0.1\n    droput: 0.1",
        "FILE, line 7: teacher 'gcn': unknown config key 'droput'; did you mean 'dropout'?",
    ),
    "an unknown hyper-parameter of an entry": (
        "teachers:\n- name: gcn\n  config:\n    lr: 0.1\n    droput: 0.1",
        "FILE, line 7: teacher 'gcn': unknown config key 'droput'; did you mean 'dropout'?",
    ),
    "a value out of range": (
        "teachers: [gcn]\nconfig:\n  gcn:\n    lr: 0.1\n    dropout: 1.5",
        "FILE, line 7: teacher 'gcn': dropout is 1.5; allowed: 0.95 or less",
    ),
    "an empty grid": (
        "teachers:\n- name: gcn\n  grid:\n    lr: []",
        "FILE, line 6: grid.lr is empty; give at least one value",
    ),
    "a grid of one value": (
        "teachers:\n- {name: gcn, grid: {lr: 0.1}}",
        "FILE, line 4: teachers.0.grid.lr is 0.1; give a list",
    ),
    "a value twice in a grid": (
        "teachers:\n- name: gcn\n  grid:\n    lr: [0.1, 0.1]",
        "FILE, line 6: grid.lr has 0.1 twice",
    ),
    "a key in config and in grid": (
        "teachers:\n- name: gcn\n  config: {lr: 0.1}\n  grid: {lr: [0.2]}",
        "FILE, line 6: 'lr' stands in `config` and in `grid`; leave one out",
    ),
    "an unknown hyper-parameter of a grid": (
        "teachers:\n- gcn\n- name: gcn\n  label: x\n  grid: {lr: [0.1],\n         droput: [0.1]}",
        "FILE, line 8: teacher 'gcn': unknown config key 'droput'; did you mean 'dropout'?",
    ),
    "a value of a grid out of range": (
        "teachers:\n- name: gcn\n  grid:\n    dropout: [0.5, 1.5]",
        "FILE, line 6: teacher 'gcn': dropout is 1.5; allowed: 0.95 or less",
    ),
    "two grids of the same labels": (
        "teachers:\n- {name: gcn, grid: {lr: [0.1, 0.2]}}\n- {name: gcn, grid: {lr: [0.2, 0.3]}}",
        "FILE, line 5: 'gcn lr=0.2' stands twice in teachers; give each its own `label`",
    ),
    "a point of a grid that is there already": (
        "teachers:\n- gcn\n- {name: gcn, grid: {hidden_dim: [32, 64]}}",
        "FILE, line 5: 'gcn' and 'gcn hidden_dim=64' have the same configuration",
    ),
    "a baseline of nobody": (
        "teachers: [gcn]\nstudents: [mlp, glnn]\nbaseline: gln",
        "FILE, line 5: unknown baseline 'gln'; did you mean 'glnn'? known: glnn, mlp",
    ),
    "a baseline that is a teacher": (
        "teachers: [gcn]\nstudents: [mlp]\nbaseline: gcn",
        "FILE, line 5: unknown baseline 'gcn'; known: mlp",
    ),
    "a baseline without students": ("teachers: [gcn]\nbaseline: gcn", "FILE, line 4: unknown base"),
    "not a number": ("teachers: [gcn]\nconfig: {gcn: {lr: .nan}}", "FILE, line 4: teacher 'gcn':"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_refused_with_its_line(case, tmp_path):
    text, sentence = REFUSED[case]
    assert refusal(tmp_path, HEAD + text).startswith(sentence)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "FILE: a sweep is a mapping of keys to values, this is empty"),
        ("# only this\n", "FILE: a sweep is a mapping of keys to values, this is empty"),
        ("- a\n- b\n", "FILE: a sweep is a mapping of keys to values, this is a list"),
        ("hello\n", "FILE: a sweep is a mapping of keys to values, this is text"),
        ("teachers: [gcn]\n", "FILE: key 'datasets' is missing"),
        ("datasets: [3]\nteachers: [gcn]\n", "FILE, line 1: datasets.0 is 3; give text"),
        ("datasets:\n- synthetic\n- coro\nteachers: [gcn]", "FILE, line 3: unknown dataset 'coro'"),
        (
            "datasets: [synthetic]\nsplits:\n- random\n- public\nteachers: [gcn]",
            "FILE, line 4: dataset 'synthetic' has no split 'public'; it can use: random, ratio",
        ),
        (
            "datasets:\n- synthetic\n- synthetic:nodes=2500\nteachers: [gcn]",
            "FILE, line 3: 'synthetic' and 'synthetic:nodes=2500' are the same data",
        ),
    ],
)
def test_a_file_without_the_usual_head_is_refused(text, sentence, tmp_path):
    assert refusal(tmp_path, text).startswith(sentence)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(ValueError, match=r"binary.yaml is not a text file in UTF-8"):
        read(tmp_path / "binary.yaml")


def test_a_missing_file_is_told_with_the_nearest_name(tmp_path):
    write(tmp_path, GCN)
    with pytest.raises(FileNotFoundError, match=r"did you mean 'my sweep.yaml'"):
        read(tmp_path / "my_sweep.yaml")


def test_the_name_of_a_sweep_is_its_files_unless_given(tmp_path):
    assert read(write(tmp_path, GCN)).name == "my sweep"
    assert read(write(tmp_path, GCN + "name: other\n")).name == "other"


# ---- numbers and seeds ----------------------------------------------------------------------


def test_numbers_are_those_of_yaml_1_2(tmp_path):
    text = GCN + "config: {gcn: {weight_decay: 1e-7, hidden_dim: 010}}\nname: 2024-01-01\n"
    sweep = read(write(tmp_path, text), ["gcn.lr=1e-4"])
    assert sweep.config == {"gcn": {"weight_decay": 1e-7, "hidden_dim": 10, "lr": 1e-4}}
    assert sweep.name == "2024-01-01"


def test_a_merge_key_is_understood(tmp_path):
    text = GCN + "config:\n  gcn: &fast {max_epochs: 3}\n  sage: {<<: *fast, lr: 0.02}\n"
    assert read(write(tmp_path, text)).config["sage"] == {"max_epochs": 3, "lr": 0.02}


@pytest.mark.parametrize(
    ("given", "seeds"),
    [(3, [3]), ("3", [3]), ("0-3", [0, 1, 2, 3]), (" 0, 2,5 - 7", [0, 2, 5, 6, 7]), ([4], [4])],
)
def test_seeds_are_read(given, seeds):
    assert parse_seeds(given) == seeds


@pytest.mark.parametrize(
    "given", ["9-0", "a", "-1", "0.5", "true", "0-99999999999", "", f"{MAX_SEED + 1}", "{a: 1}"]
)
def test_seeds_that_make_no_sense_are_refused(given, tmp_path):
    assert refusal(tmp_path, GCN + f"seeds: {given}").startswith("FILE, line 4: seed")


def test_a_list_of_seeds_is_refused_at_the_culprit(tmp_path):
    message = refusal(tmp_path, GCN + "seeds:\n- 0\n- -1")
    assert message == f"FILE, line 6: seed -1 is not between 0 and {MAX_SEED}"
    assert refusal(tmp_path, GCN + "seeds: [0.5]").startswith(
        "FILE, line 4: seeds.0 is 0.5; give a"
    )


# ---- overrides ------------------------------------------------------------------------------


def test_an_override_wins_over_the_file_and_is_blamed_itself(tmp_path):
    text = GCN + "hidden_rate: 0.3\nconfig: {gcn: {lr: 0.1}}\n"
    assert read(write(tmp_path, text), ["hidden_rate=0.5"]).hidden_rate == 0.5
    assert refusal(tmp_path, text, "hidden_rate=7").startswith("command line: hidden_rate is 7")
    assert refusal(tmp_path, text, "gcn.lr=7").startswith("command line: teacher 'gcn': lr is 7")
    assert refusal(tmp_path, text, "teachers=gcm").startswith("command line: unknown teacher 'gcm'")
    assert refusal(tmp_path, text + "sede: 1", "gcn.lr=0.2").startswith("FILE, line 6: unknown key")


@pytest.mark.parametrize("text", ["novalue", "=3", "gcn.lr=", "gcn.lr=[1", "gcn.lr=null"])
def test_an_override_that_cannot_be_read_is_refused(text, tmp_path):
    assert refusal(tmp_path, GCN, text).startswith(f"override '{text}' ")


def test_the_commas_of_a_dataset_are_its_own():
    given = "datasets=cora,synthetic:nodes=600, degree=6,citeseer , pubmed"
    sweep = from_overrides([given, "teachers=gcn, sage:glnn"])
    assert sweep.datasets == ["cora", "synthetic:nodes=600, degree=6", "citeseer", "pubmed"]
    assert [entry.name for entry in sweep.teachers] == ["gcn", "sage:glnn"]


# ---- expansion ------------------------------------------------------------------------------


def test_the_matrix_is_complete_and_teachers_come_before_their_students(tmp_path):
    text = HEAD + (
        "settings: [transductive, production]\nteachers: [gcn, sage]\n"
        "students: [mlp, glnn]\nseeds: 0-2\n"
    )
    cells = cells_of(tmp_path, text)
    # for each setting and seed: 2 teachers, 1 student without and 2 with a teacher
    assert len(cells) == len({cell.key for cell in cells}) == 2 * 3 * (2 + 1 + 2)
    seen = set()
    for cell in cells:
        seen.add(cell.key)
        assert cell.teacher_cell is None or cell.teacher_cell.key in seen


def test_one_teacher_for_all_seeds_is_one_cell(tmp_path):
    text = GCN + "students: glnn\nseeds: 0-4\nteacher_seed: 7\nsplit_seed: 1\n"
    cells = cells_of(tmp_path, text)
    assert [cell.seed for cell in cells] == [7, 0, 1, 2, 3, 4]
    assert {(cell.split_seed, cell.teacher_seed) for cell in cells} == {(1, 7)}


def test_the_more_specific_config_wins(tmp_path):
    text = HEAD + (
        "teachers:\n- gcn\n- {name: gcn, label: own, config: {lr: 0.2, dropout: 0.2}}\n"
        "- {name: gcn, label: both, config: {lr: 0.3}}\n"
        "config: {gcn: {lr: 0.1, max_epochs: 5}, both: {lr: 0.4}}\n"
    )
    configs = {cell.teacher.label: cell.teacher.config for cell in cells_of(tmp_path, text)}
    assert {label: config["lr"] for label, config in configs.items()} == {
        "gcn": 0.1,
        "own": 0.2,
        "both": 0.4,
    }
    assert {config["max_epochs"] for config in configs.values()} == {5}


GRID = "teachers:\n- {name: gcn, label: %s, grid: {lr: [0.1, 0.2], norm: [none, batch]}}\n"


def labels_of(folder: Path, label: str) -> list[str]:
    return [cell.teacher.label for cell in cells_of(folder, HEAD + GRID % f"'{label}'")]


def test_a_grid_is_every_combination_the_last_key_fastest(tmp_path):
    cells = cells_of(tmp_path, HEAD + GRID % "g")
    assert [(c.teacher.config["lr"], c.teacher.config["norm"]) for c in cells] == [
        (0.1, "none"),
        (0.1, "batch"),
        (0.2, "none"),
        (0.2, "batch"),
    ]
    assert [c.teacher.changed for c in cells] == ["lr", "lr, norm"] * 2


def test_a_grid_names_its_points(tmp_path):
    assert labels_of(tmp_path, "")[:2] == ["gcn lr=0.1, norm=none", "gcn lr=0.1, norm=batch"]
    assert labels_of(tmp_path, "{norm} at {lr}")[2:] == ["none at 0.2", "batch at 0.2"]
    assert labels_of(tmp_path, "a {norm}")[1] == "a batch lr=0.1"


def test_a_grid_lies_over_the_methods_config_and_under_its_labels(tmp_path):
    text = (
        HEAD + GRID % "'{norm} {lr}'" + "config: {gcn: {lr: 0.9, dropout: 0.3}, none 0.2: {lr: 1}}"
    )
    cells = cells_of(tmp_path, text)
    assert [cell.teacher.config["lr"] for cell in cells] == [0.1, 0.1, 1.0, 0.2]
    assert {cell.teacher.config["dropout"] for cell in cells} == {0.3}


def test_a_grid_survives_being_stored(tmp_path):
    sweep = read(write(tmp_path, HEAD + GRID % "g" + "students: [mlp]\nbaseline: mlp\n"))
    again = make(sweep.model_dump())
    assert again.baseline == "mlp"
    assert [c.key for c in expand(again, tmp_path)] == [c.key for c in expand(sweep, tmp_path)]


def test_the_baseline_may_be_a_point_of_a_grid_or_a_variant(tmp_path):
    text = HEAD + "students: [{name: mlp, grid: {dropout: [0.1, 0.2]}}]\nbaseline: mlp dropout=0.2"
    assert read(write(tmp_path, text)).baseline == "mlp dropout=0.2"
    assert read(write(tmp_path, text + "@1")).baseline == "mlp dropout=0.2@1"
    assert refusal(tmp_path, text + "5@1").startswith("FILE, line 4: unknown baseline")


def test_controls_are_students_too_and_leave_with_them(tmp_path):
    text = GCN + "students: [mlp, glnn, krd]\nbaseline: glnn\ncontrols: [krd, mlp]\n"
    path = write(tmp_path, text)
    assert read(path).controls == ["krd", "mlp"]
    narrow = read(path, ["students=mlp,glnn"])
    assert (narrow.baseline, narrow.controls) == ("glnn", ["mlp"])
    message = refusal(tmp_path, text.replace("[krd, mlp]", "[kdr]"))
    assert message.endswith("unknown controls 'kdr'; did you mean 'krd'? known: glnn, krd, mlp")


def test_choosing_other_students_leaves_a_files_baseline_alone(tmp_path):
    text = GCN + "students: [mlp, glnn]\nbaseline: glnn\n"
    path = write(tmp_path, text)
    assert read(path, ["students=mlp"]).baseline == ""
    assert read(path, ["students=mlp,glnn"]).baseline == "glnn"
    message = refusal(tmp_path, text, "students=mlp", "baseline=glnn")
    assert message == "command line: unknown baseline 'glnn'; known: mlp"


def test_an_override_wins_over_the_config_of_an_entry_without_label(tmp_path):
    text = HEAD + "teachers: [{name: gcn, config: {lr: 0.2}}]\n"
    (cell,) = cells_of(tmp_path, text, "gcn.lr=0.3")
    assert cell.teacher.config["lr"] == 0.3


def test_a_split_named_twice_by_default_and_by_name_runs_once(tmp_path):
    text = GCN.replace("[random]", "[default, random]")
    assert len(cells_of(tmp_path, text)) == 1


def test_the_hidden_rate_enters_only_where_something_is_hidden(tmp_path):
    text = GCN + "settings: [transductive, production, inductive]\n"
    rates = {c.protocol.setting: c.protocol.hidden_rate for c in cells_of(tmp_path, text)}
    assert rates == {"transductive": 0.0, "production": 0.2, "inductive": 0.2}


def test_the_inductive_setting_may_hide_all_test_nodes(tmp_path):
    (cell,) = cells_of(tmp_path, GCN + "settings: inductive\nhidden_rate: 1\n")
    assert cell.protocol.hidden_rate == 1.0


def test_plain_data_makes_the_same_sweep_as_a_file(tmp_path):
    text = GCN + "students: [mlp, {name: glnn, label: g}]\nseeds: 0-1\n"
    sweep = read(write(tmp_path, text))
    again = make(sweep.model_dump())
    assert again.model_dump() == sweep.model_dump()
    assert [c.key for c in expand(again, tmp_path)] == [c.key for c in expand(sweep, tmp_path)]


def test_a_missing_data_file_is_named_with_the_way_to_get_it(tmp_path):
    sweep = from_overrides(["datasets=cora", "teachers=gcn"])
    with pytest.raises(FileNotFoundError, match=r"ind\.cora\.x .*run `gkdbench prepare cora`"):
        expand(sweep, tmp_path)


def test_choosing_other_methods_leaves_a_files_config_for_the_rest_alone(tmp_path):
    text = HEAD + "teachers: [gcn, sage]\nconfig: {gcn: {lr: 0.1}, sage: {lr: 0.2}}\n"
    (cell,) = cells_of(tmp_path, text, "teachers=gcn")
    assert cell.teacher.config["lr"] == 0.1
    message = refusal(tmp_path, text, "teachers=gcn", "sage.lr=0.3")
    assert message == "command line: config names no method 'sage'; this sweep has: gcn"


# ---- noise and options of splits ------------------------------------------------------------


def test_noise_is_an_axis_and_no_noise_is_the_cell_of_a_sweep_without_it(tmp_path):
    plain = cells_of(tmp_path, GCN)
    cells = cells_of(tmp_path, GCN + "noise: [none, edges=0.2, 'features=0.1 + edges=0.20']\n")
    assert [c.protocol.noise for c in cells] == ["", "edges=0.2", "features=0.1+edges=0.2"]
    assert cells[0].key == plain[0].key
    assert len({c.key for c in cells}) == 3


def test_a_split_with_options_is_a_split_and_its_usual_values_are_the_plain_one(tmp_path):
    text = f"datasets: ['{DATA}']\nteachers: [gcn]\nsplits: ['random:train=20', 'random:train=5']\n"
    cells = cells_of(tmp_path, text)
    assert [c.protocol.split for c in cells] == ["random", "random:train=5"]
    assert cells[0].key == cells_of(tmp_path, GCN)[0].key
    assert cells[1].teacher.config == cells[0].teacher.config  # presets go by the bare name


def test_the_command_line_splits_axes_at_their_commas():
    asked = ["datasets=synthetic", "teachers=gcn", "noise=none,edges=0.2+features=0.1,features=0.3"]
    sweep = from_overrides([*asked, "splits=random:train=5,random:train=7,imbalance=2,ratio"])
    assert sweep.noise == ["none", "features=0.1+edges=0.2", "features=0.3"]
    assert sweep.splits == ["random:train=5", "random:train=7,imbalance=2", "ratio"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("noise:\n- none\n- edgs=0.2", "FILE, line 6: noise 'edgs=0.2': unknown key 'edgs'"),
        ("noise: [edges=2]", "FILE, line 4: noise 'edges=2': edges is 2; it is a share"),
        ("noise: [none, edges=0]", "FILE, line 4: 'none' stands twice in noise"),
        ("noise: 3", "FILE, line 4: noise is 3; give a list"),
    ],
)
def test_a_mistake_in_noise_is_refused_with_its_line(text, sentence, tmp_path):
    assert refusal(tmp_path, GCN + text).startswith(sentence)
