"""Names of series: different for different series, and never more than what tells them apart."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations

import pytest
from synthetic_records import make_point

from bounds import DPSGD, Dropout, GradientNoise, GradientPruning, LocalAggregation, NoDefense, TensorAttack
from verify import EXPERIMENTS
from verify.draw.names import Wording
from verify.draw.shown import natural_axis
from verify.measure.experiment import Experiment
from verify.measure.features import Features
from verify.measure.point import Point
from verify.measure.series import series

ALL = [e for full in EXPERIMENTS.values() for e in full.forms]
BASE = make_point(B=4, d=20)
#: Points that differ from ``BASE`` in one property each, and the words for it.
CHANGED = {
    "gelu": replace(BASE, activation="gelu"),
    "random (seed 2)": replace(BASE, features=Features("random", 2)),
    "random (seed 3)": replace(BASE, features=Features("random", 3)),
    "d = 30": replace(BASE, d=30),
    "B = 5": replace(BASE, B=5, labels=()),
    "labels 1, 2, 3, 4": replace(BASE, labels=(1, 2, 3, 4)),
    "dropout (p = 0.3)": replace(BASE, defense=Dropout(0.3)),
    "plain moments": replace(BASE, attack=TensorAttack(moments="plain")),
    "starts = 9": replace(BASE, attack=TensorAttack(starts=9)),
    "float32": replace(BASE, dtype="float32"),
    "other": replace(BASE, experiment="other"),
}


def along_m(*points: Point) -> list[list[Point]]:
    return series([replace(p, m=m) for p in points for m in (20_000, 80_000)], "m")


def wording(experiment: Experiment) -> tuple[list[list[Point]], Wording]:
    x = natural_axis(experiment)
    together = series([p for one in experiment.points for p in one.single.values()], x)
    return together, Wording.of(together, x)


@pytest.mark.parametrize("words", CHANGED)
def test_a_name_says_what_differs_and_nothing_else(words: str) -> None:
    found = Wording.of(along_m(BASE, CHANGED[words]), "m")
    assert found.names[1] == words and found.names[0] not in ("", words)
    assert len(found.names[0].split(", ")) == 1
    assert not set(found.names) & set(found.shared)


def test_any_two_settings_have_different_names() -> None:
    for one, other in combinations(CHANGED.values(), 2):
        found = Wording.of(along_m(one, other), "m")
        assert len(set(found.names)) == 2 and "" not in found.names
    every = Wording.of(along_m(BASE, *CHANGED.values()), "m").names
    assert len(set(every)) == len(CHANGED) + 1


def test_values_that_are_the_same_when_rounded_are_told_apart() -> None:
    names = Wording.of(
        along_m(*(replace(BASE, defense=GradientNoise(s)) for s in (0.1234567, 0.12345678))), "m"
    ).names
    assert len(set(names)) == 2


def test_a_lone_series_has_no_name_and_what_it_has_is_shared() -> None:
    found = Wording.of(along_m(replace(BASE, defense=Dropout(0.3))), "m")
    assert found.names == ("",)
    assert found.shared == (
        "relu",
        "orthonormal (seed 3)",
        "d = 20",
        "B = 4",
        "dropout (p = 0.3, per sample)",
        "tensor attack",
        "residualized moments",
    )
    assert found.parameters == ("p = 0.3", "per sample")


def test_what_one_family_shares_is_said_once_and_a_strength_with_its_family() -> None:
    defenses = (NoDefense(), Dropout(0.5), Dropout(0.9), GradientPruning(0.7))
    found = Wording.of(along_m(*(replace(BASE, defense=d) for d in defenses)), "m")
    assert found.names == (
        "no defense",
        "dropout (p = 0.5)",
        "dropout (p = 0.9)",
        "gradient pruning (ratio = 0.7)",
    )
    assert "dropout: per sample" in found.shared


def test_along_strengths_the_other_parameters_tell_series_apart() -> None:
    """Where a strength varies inside a series, its value is on the axis and in no name."""
    noisy = [make_point(defense=DPSGD(1.0, z, per_sample=f)) for f in (True, False) for z in (0.001, 0.002)]
    found = Wording.of(series(noisy, "strength"), "strength")
    assert found.names == ("per sample", "not per sample") and found.parameters == ("max norm = 1",)
    local = [make_point(B=2 * k, defense=LocalAggregation(k, 0.1, "different"), labels=()) for k in (1, 2)]
    local += [make_point(defense=LocalAggregation(k, r)) for r in (0.1, 1.0) for k in (1, 2)]
    found = Wording.of(series(local, "strength"), "strength")
    assert sorted(found.names) == [
        "lr times m = 0.1, batches = different",
        "lr times m = 0.1, batches = same",
        "lr times m = 1, batches = same",
    ]
    assert "B = 2 to 4" in found.shared


def test_every_series_of_every_experiment_has_a_name_of_its_own() -> None:
    for experiment in ALL:
        together, found = wording(experiment)
        assert len(set(found.names)) == len(together), experiment.name
        assert ("" in found.names) == (len(together) == 1), experiment.name


COUNTS = {"one": 1, "a single": 1, "two": 2, "three": 3, "four": 4, "six": 6, "eight": 8}


def test_titles_state_no_number_that_is_not_true_of_all_that_is_drawn() -> None:
    """Full and quick: numbers of features are those of every point, other numbers are among what all points share."""
    for experiment in ALL:
        _, found = wording(experiment)
        title = experiment.title.replace("z^2 + z^3", "")
        for count in re.findall(rf"\b({'|'.join(COUNTS)})\b[\w ]* features?\b", title, re.IGNORECASE):
            assert {p.B for p in experiment.points} == {COUNTS[count.lower()]}, experiment.title
        for number in re.findall(r"\d+(?:\.\d+)?", title):
            assert any(re.search(rf"\b{re.escape(number)}\b", text) for text in found.shared), (
                experiment.title
            )
        assert not re.search(r"\bgrow|-fold\b", title), experiment.title
