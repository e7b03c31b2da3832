"""Features, points, experiments: deterministic, serialisable, checked on the way in."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from synthetic_records import make_experiment, make_point

from bounds import DEFENSES, GradientNoise, NoDefense, TensorAttack
from bounds.setting import alternating
from verify import EXPERIMENTS, Features, Point, read_records
from verify.judge.base import measured
from verify.judge.predicted import PredictedCheck
from verify.judge.rate import RateCheck
from verify.measure.experiment import Reduced
from verify.measure.groups import group_records
from verify.measure.point import point_key
from verify.measure.series import largest, series
from verify.origin import own

ROOT = Path(__file__).parent.parent

SYNTHETIC = [Features("orthonormal", 5), Features("random", 5), Features("cosine", 5, cosine=0.95)]


@pytest.mark.parametrize("features", SYNTHETIC, ids=str)
def test_features_are_unit_vectors_and_a_function_of_the_seed(features: Features) -> None:
    X = features.sample(30, 4)
    assert X.shape == (4, 30) and X.dtype == np.float64
    np.testing.assert_allclose(np.linalg.norm(X, axis=1), 1, atol=1e-12)
    np.testing.assert_array_equal(X, features.sample(30, 4))
    assert np.abs(X - replace(features, seed=6).sample(30, 4)).max() > 0.1


def test_orthonormal_features_are_a_frame_but_not_the_axes() -> None:
    X = Features("orthonormal").sample(30, 4)
    np.testing.assert_allclose(X @ X.T, np.eye(4), atol=1e-12)
    assert np.count_nonzero(np.abs(X) > 1e-3) > 60


@pytest.mark.parametrize(("cosine", "B"), [(0.95, 2), (0.3, 5), (-0.2, 4)])
def test_every_pair_has_the_stated_cosine(cosine: float, B: int) -> None:
    X = Features("cosine", cosine=cosine).sample(20, B)
    np.testing.assert_allclose(X @ X.T, np.full((B, B), cosine) + (1 - cosine) * np.eye(B), atol=1e-12)


def test_pictures_are_features_too() -> None:
    X = Features("digits", seed=3).sample(64, 3)
    np.testing.assert_allclose(np.linalg.norm(X, axis=1), 1, atol=1e-12)
    with pytest.raises(ValueError, match="d must be 64 for digits; got 100"):
        Features("digits").sample(100, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "axes"}, "kind must be one of"),
        ({"kind": "random", "seed": -1}, "seed must be at least 0"),
        ({"kind": "random", "cosine": 0.5}, "cosine must be given for kind 'cosine' and no other"),
        ({"kind": "cosine"}, "cosine must be given"),
        ({"kind": "cosine", "cosine": 1.5}, r"cosine must be a finite number in \[-1, 1\]; got 1.5"),
    ],
)
def test_features_refuse_bad_input(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Features(**arguments)


def test_a_cosine_that_no_vectors_have_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cosine must lie strictly between -0.5 and 1 for B = 3; got -0.6"):
        Features("cosine", cosine=-0.6).sample(10, 3)


@pytest.mark.parametrize("defense", [NoDefense(), GradientNoise(0.5)], ids=lambda d: d.name)
def test_points_survive_json(defense: NoDefense) -> None:
    point = make_point(
        defense=defense, features=Features("cosine", 7, 0.95), labels=(2, -1), activation="gelu"
    )
    again = Point.from_dict(json.loads(json.dumps(point.to_dict(), allow_nan=False)))
    assert again == point and again.key == point.key and type(again.defense) is type(defense)


def test_every_part_of_a_point_counts_in_its_key() -> None:
    point = make_point()
    others = [
        replace(point, experiment="other"),
        replace(point, features=Features("orthonormal", seed=4)),
        replace(point, d=51),
        replace(point, m=20_001),
        replace(point, labels=(-1.0, 1.0)),
        replace(point, activation="gelu"),
        replace(point, defense=GradientNoise(0.5)),
        replace(point, defense=GradientNoise(0.6)),
        replace(point, attack=TensorAttack(starts=9)),
        replace(point, dtype="float32"),
    ]
    assert len({p.key for p in [point, *others]}) == len(others) + 1


def test_the_key_is_stable_and_blind_to_the_form_of_a_number() -> None:
    assert make_point(labels=(1, -1)).key == make_point().key
    assert point_key({"a": 1.0, "b": [2]}) == point_key({"b": [2.0], "a": 1})
    assert point_key({"a": 1}) == "015abd7f5cc57a2d"  # sha256 of '{"a":1}': keys are kept in files


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"B": 51}, "B must be between 1 and 50"),
        ({"m": 2}, "m must be between 3 and"),
        ({"labels": (1.0,)}, "labels must have B = 2 entries; got 1"),
        ({"activation": "reul"}, "activation must be one of"),
        ({"dtype": "float16"}, "dtype must be one of float64, float32; got 'float16'"),
        ({"defense": "none"}, "defense must be a Defense; got 'none'"),
    ],
)
def test_points_refuse_bad_input(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make_point(**changes)


def test_a_point_s_setting_is_about_its_features() -> None:
    point = make_point(features=Features("cosine", cosine=0.95), labels=(3.0, 4.0))
    setting = point.setting()
    assert (setting.d, setting.m, setting.B, setting.activation.name) == (50, 20_000, 2, "relu")
    assert setting.gram[0, 1] == pytest.approx(0.95)
    assert setting.labels.tolist() == [3.0, 4.0] and alternating(3) == (1.0, -1.0, 1.0)


def test_experiments_refuse_points_that_are_not_theirs() -> None:
    with pytest.raises(ValueError, match="points must belong to experiment 'other'; got demo"):
        make_experiment(name="other")
    with pytest.raises(ValueError, match="points must be distinct"):
        make_experiment([make_point(), make_point()])
    with pytest.raises(ValueError, match="trials must be at least 1; got 0"):
        make_experiment(trials=0)
    with pytest.raises(ValueError, match=r"variable must be one of m, d, B, sigma, .*; got 'k'"):
        RateCheck("k")


def test_the_experiments_are_sound() -> None:
    assert isinstance(EXPERIMENTS, Mapping) and all(name == e.name for name, e in EXPERIMENTS.items())
    for experiment in EXPERIMENTS.values():
        if experiment.reduced is not None:
            quick = experiment.quick()
            assert {p.key for p in quick.points}.isdisjoint(p.key for p in experiment.points)
            assert max(p.m for p in quick.points) <= experiment.reduced.width
            assert 1 <= quick.trials <= experiment.trials
        asked = largest(experiment.points) if experiment.rules else []
        assert all(p.m > 10 * p.d for p in asked), "checks are made where d << m"
        for point in (p for form in experiment.forms for p in form.points):
            assert point.setting().kappa < 10, "a residual near zero belongs to no measurement of the error"


def test_the_quick_run_of_everything_is_short_and_asks_something_of_every_defense() -> None:
    quick = [e.quick() for e in EXPERIMENTS.values() if e.reduced and e.reduced.in_all]
    assert {type(p.defense) for e in quick if e.rules for p in e.points} == set(DEFENSES)
    # Entries of W drawn in all: what a run's time is made of (.06 s of one core for a million).
    assert sum(e.trials * p.m * p.d for e in quick for p in e.points) < 2.25e9
    for experiment in EXPERIMENTS.values():
        for form in experiment.forms:
            assert form.rules == () == experiment.rules or set() < set(form.rules) <= set(experiment.rules)
    assert len(quick) < sum(e.reduced is not None for e in EXPERIMENTS.values()) < len(EXPERIMENTS)


def test_a_quick_version_has_the_trials_that_its_checks_need() -> None:
    """By the scatter of the full run's errors in the same settings: an interval that is decided where its centre is one
    standard error off."""
    seen: list[str] = []
    for experiment in EXPERIMENTS.values():
        quick = experiment.quick() if experiment.reduced else None
        if quick is None or not {replace(p, experiment=experiment.name) for p in quick.points} <= set(
            experiment.points
        ):
            continue  # at widths of its own
        if not any(isinstance(check, PredictedCheck | RateCheck) for check in quick.rules):
            continue  # nothing that scatter decides
        groups = group_records(read_records(ROOT / "figures" / "records" / f"{experiment.name}.json"))

        found = {p: measured(groups[replace(p, experiment=experiment.name)]) for p in quick.points}
        # Of log rms, with as many trials as the quick version has.
        error = {p: m.se_log * math.sqrt(m.n / quick.trials) for p, m in found.items()}
        for check in quick.rules:
            if isinstance(check, PredictedCheck):
                errors = [error[p] for p in largest(quick.points)]
            elif isinstance(check, RateCheck):
                (widths,) = series(quick.points, "m")
                low, high = widths[0], widths[-1]
                errors = [math.hypot(error[low], error[high]) / math.log(high.m / low.m)]
            else:
                continue
            assert (2.7 + 1) * max(errors) < check.tolerance, (experiment.name, check)
            seen += [str(check.kind)] * len(errors)
    assert seen.count("predicted") > 10 and "rate" in seen


def test_an_experiment_without_a_quick_version_says_so() -> None:
    points = [make_point(m=m) for m in (20_000, 40_000)]
    alone = make_experiment(points)
    assert alone.forms == (alone,)
    with pytest.raises(ValueError, match="experiment 'demo' has no quick version"):
        alone.quick()
    with pytest.raises(ValueError, match="reduced must keep checks of experiment 'demo' as they are"):
        make_experiment(points, reduced=Reduced(10_000, 2, checks=(PredictedCheck(0.5),)))


def test_a_reduced_version_keeps_something() -> None:
    with pytest.raises(ValueError, match="reduced must keep at least one point of experiment 'demo'"):
        make_experiment(reduced=Reduced(batches=(7,)))
    points = [make_point(B=B, m=m) for B in (2, 3) for m in (20_000, 40_000)]
    quick = make_experiment(points, reduced=Reduced(10_000, 2, batches=(3,))).quick()
    assert [(p.B, p.m, p.experiment) for p in quick.points] == [(3, 10_000, "demo-quick")]
    assert quick.trials == 2
    assert [p.m for p in make_experiment(points, reduced=Reduced(narrowest=40_000)).quick().points] == [
        20_000
    ] * 2


def test_a_foreign_package_of_our_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = ModuleType("bounds")
    foreign.__file__ = "/elsewhere/bounds/__init__.py"
    monkeypatch.setitem(sys.modules, "bounds", foreign)
    with pytest.raises(ImportError, match=r"foreign one is found: /elsewhere/bounds/__init__.py"):
        own("bounds")
