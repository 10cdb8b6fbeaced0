"""What a sweep may say of tuning, and the files that hold what won."""

import re
from dataclasses import field, make_dataclass

import pytest
import yaml

from bench.expand import expand
from bench.registry import load_method
from bench.sweep import make, read
from bench.tuning import Tuned, Tuning, read_tuned, start_digest, write_tuned

DATA = "synthetic:nodes=200,degree=6,classes=3"


def sweep(**tune):
    content = {"name": "s", "datasets": [DATA], "splits": ["random"], "teachers": ["gcn"]}
    return make({**content, "students": ["mlp", "glnn"], "seeds": "0-9", "tune": tune})


def won(**changes):
    where = {"dataset": DATA, "split": "random", "setting": "transductive"}
    facts = {"study": "ab", "trials": 8, "seconds": 1.5, "trial": 3, "val_accuracy": 0.75}
    given = {"teacher": "gcn", "student": "glnn", "config": {"lr": 0.02, "num_layers": 3}}
    return Tuned(**{**where, **facts, **given, **changes})


def test_the_tuning_seeds_are_apart_from_the_reported_ones_by_default():
    assert not set(sweep().tune.seeds) & set(sweep().seeds)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seeds": "5-12"}, "seed 5 is tuned on and reported; tuning needs seeds of its own"),
        ({"seeds": [100, 100]}, "seed 100 stands twice in tune.seeds"),
        ({"trial": 3}, "unknown key 'trial'; did you mean 'trials'?"),
        ({"trials": 0}, "tune.trials is 0"),
        ({"sampler": "bayes"}, "tune.sampler is 'bayes'"),
        ({"objectives": ["macs"]}, "the first objective is macs; it must be val_accuracy"),
        ({"objectives": "val_accuracy,val_accuracy"}, "val_accuracy stands twice in objectives"),
        ({"objectives": "val_accuracy,macs", "pruner": "median"}, "needs one objective"),
        ({"objectives": "val_accuracy,macs", "sampler": "cmaes"}, "'cmaes' searches for one obje"),
        ({"pruner": "wilcoxon"}, "could never stop a trial of 3 seeds"),
    ],
)
def test_a_mistake_is_one_sentence(given, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        sweep(**given)

    assert "\n" not in str(caught.value)


def test_a_search_space_of_nobody_is_refused(tmp_path):
    message = "tune.space names no method 'glmn'; this sweep has: glnn, mlp"
    with pytest.raises(ValueError, match=re.escape(message)):
        expand(sweep(space={"glmn": {"lr": 0.01}}), tmp_path)
    with pytest.raises(ValueError, match=r"tune\.space names no method 'gcn'"):
        expand(sweep(space={"gcn": {"lr": 0.01}}), tmp_path)  # a teacher is not tuned


def test_two_objectives_prune_nothing():
    assert Tuning(objectives=["val_accuracy", "macs"]).pruning == "none"
    assert Tuning().pruning == "median"


def test_the_command_line_lays_over_the_file(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("datasets: [cora]\nstudents: [mlp]\ntune: {trials: 4}\n")
    assert read(path, ["tune.trials=9", "tune.seeds=50-51"]).tune.trials == 9
    with pytest.raises(ValueError, match="command line: unknown key 'trails'"):
        read(path, ["tune.trails=9"])


# ---- tuned files ----------------------------------------------------------------------------


def test_a_tuned_file_reads_back_and_keeps_the_entries_of_other_studies(tmp_path):
    path = tmp_path / "tuned" / "s.yaml"
    write_tuned(path, [won(), won(student="mlp", teacher="")])
    write_tuned(path, [won(val_accuracy=0.8)])
    assert read_tuned(path) == [won(val_accuracy=0.8), won(student="mlp", teacher="")]
    assert path.read_text().startswith("# Written by `gkdbench tune`")


@pytest.mark.parametrize("text", ["", "tuned: 3", "tuned: [{a: 1}]", "- 1", "{", "\x00"])
def test_what_is_no_tuned_file_is_refused_in_a_sentence(tmp_path, text):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="is not a file that `gkdbench tune` wrote"):
        read_tuned(path)
    with pytest.raises(FileNotFoundError, match="`gkdbench tune` writes it"):
        read_tuned(tmp_path / "none.yaml")


def test_a_tuned_student_stands_beside_its_defaults(tmp_path):
    plain = expand(sweep(), tmp_path)
    both = expand(sweep(), tmp_path, [won(), won(student="krd")])
    added = [cell for cell in both if cell not in plain]
    assert [cell for cell in both if cell in plain] == plain
    assert {cell.student.label for cell in added} == {"glnn (tuned)"}
    assert [cell.seed for cell in added] == list(range(10))
    assert {cell.student.config["lr"] for cell in added} == {0.02}
    assert {cell.student.changed for cell in added} == {"lr, num_layers"}


def test_defaults_that_won_are_not_run_twice(tmp_path):
    plain = expand(sweep(), tmp_path)
    default = next(c.student.config for c in plain if c.student and c.student.name == "glnn")
    assert expand(sweep(), tmp_path, [won(config={"lr": default["lr"]})]) == plain


def default_of(name, folder):
    return next(
        c.student.config for c in expand(sweep(), folder) if c.student and c.student.name == name
    )


def test_values_found_on_a_reported_seed_are_refused(tmp_path):
    with pytest.raises(ValueError, match="seed 4 is reported, and 'glnn' was tuned on it"):
        expand(sweep(), tmp_path, [won(seeds=[4, 1000])])


def test_values_found_for_another_configuration_are_refused(tmp_path):
    config = default_of("glnn", tmp_path)
    kind = load_method("student", "glnn").Config
    entry = won(start=start_digest(kind, config))
    assert len(expand(sweep(), tmp_path, [entry])) == len(expand(sweep(), tmp_path)) + 10
    assert start_digest(kind, dict(reversed(config.items()))) == entry.start
    newer = make_dataclass("Newer", [("added", int, field(default=3))], bases=(kind,), frozen=True)
    assert start_digest(newer, {**config, "added": 3}) == entry.start
    assert start_digest(newer, {**config, "added": 4}) != entry.start
    narrow = sweep().model_copy(update={"config": {"glnn": {"hidden_dim": 64}}})
    with pytest.raises(ValueError, match="'glnn' was tuned from another configuration than it"):
        expand(narrow, tmp_path, [entry])


def test_a_tuned_student_that_is_there_under_another_name_is_not_run_twice(tmp_path):
    two = [{"name": "glnn"}, {"name": "glnn", "label": "mine", "config": won().config}]
    both = sweep().model_dump(exclude={"tune"}) | {"students": two}
    plain = expand(make(both), tmp_path)
    assert expand(make(both), tmp_path, [won()]) == plain


def test_a_tuned_file_is_plain_yaml(tmp_path):
    write_tuned(tmp_path / "s.yaml", [won()])
    (entry,) = yaml.safe_load((tmp_path / "s.yaml").read_text())["tuned"]
    assert entry["config"] == {"lr": 0.02, "num_layers": 3}
