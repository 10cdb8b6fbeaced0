"""The text of splits with options, and of noise."""

import pytest

from bench import axes


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("random", "random"),
        ("public", "public"),
        ("default", "default"),
        ("random:train=5", "random:train=5"),
        ("random: train = 05", "random:train=5"),
        ("random:imbalance=10.0,train=40", "random:train=40,imbalance=10"),
        ("random:train=20,imbalance=1", "random"),  # as usual: it is the same split
    ],
)
def test_a_split_has_one_spelling(text, spelled):
    assert axes.canonical_split(text) == spelled
    assert axes.canonical_split(spelled) == spelled


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("none", ""),
        ("", ""),
        ("features=0", ""),
        ("edges=0.20", "edges=0.2"),
        ("teacher_labels=1 + edges = 2e-1", "edges=0.2+teacher_labels=1"),
        ("features=0+edges=0.1", "edges=0.1"),
    ],
)
def test_noise_has_one_spelling(text, spelled):
    assert axes.canonical_noise(text) == spelled
    assert axes.canonical_noise(spelled) == spelled


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("public:train=5", "only 'random' takes options: train, imbalance"),
        ("random:", "'' is not key=number; keys: train, imbalance"),
        ("random:train", "'train' is not key=number"),
        ("random:trian=5", "did you mean 'train'"),
        ("random:train=5,train=6", "gives train twice"),
        ("random:train=0", "a whole number between 1 and 10,000"),
        ("random:train=2.5", "a whole number"),
        ("random:train=many", "train is 'many', which is no number"),
        ("random:train=nan", "which is no number"),
        ("random:imbalance=0.5", "a number between 1"),
        ("random:imbalance=21", "of 20 train nodes .* lower it to 20"),
        (
            "random + edges=0.2",
            "in its name, as reports .* give split 'random' and noise=edges=0.2",
        ),
    ],
)
def test_a_wrong_option_is_refused_with_what_is_allowed(text, why):
    with pytest.raises(ValueError, match=why):
        axes.canonical_split(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("labels=0.2", "unknown key 'labels'.*known: edges, features, teacher_labels"),
        ("edges", "'edges' is not key=number; keys: features, edges, teacher_labels"),
        ("edges=1.5", "a share, from 0"),
        ("edges=-0.1", "a share"),
        ("edges=inf", "no number"),
        ("edges=0.1+edges=0.2", "gives edges twice"),
        ("edges=0.1,features=0.2", "not key=number|no number"),
    ],
)
def test_a_wrong_noise_is_refused_with_what_is_allowed(text, why):
    with pytest.raises(ValueError, match=why):
        axes.canonical_noise(text)


def test_what_is_shown_is_read_back_with_the_usual_levels():
    text = axes.shown("random:train=5", "edges=0.2+features=0.1")
    assert text == "random:train=5 + edges=0.2 + features=0.1"
    levels = {"train": 5, "imbalance": 1, "features": 0.1, "edges": 0.2, "teacher_labels": 0}
    assert axes.levels_of(text) == ("random", levels)
    assert axes.shown("public", "") == "public"
    assert axes.levels_of("public") == ("public", dict.fromkeys(axes.NOISE, 0.0))
    assert axes.split_name(text) == axes.split_name("random:train=5") == "random"
