"""The search for counterexamples: planted false bounds are found and made small, true ones survive."""

from __future__ import annotations

import doctest
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, Verbosity, find, given, seed, settings
from hypothesis import strategies as st
from synthetic_records import make_outcome

import bounds
from bounds import (
    AttackSpec,
    Defense,
    GradientNoise,
    Kind,
    NoDefense,
    Setting,
    SignCompression,
    TensorAttack,
    TrivialBound,
    UnsupportedBound,
    evaluate,
)
from bounds.kinds.rate import RATE
from bounds.kinds.stated import stated
from verify import Features, Point, check_bound, check_point, cli, point_strategy
from verify.cli.check import _settings
from verify.measure.outcome import Outcome
from verify.search.again import code
from verify.search.claim import BrokenBound, load_bound, name_of
from verify.search.point_strategy import even_activations, ladder
from verify.search.result import CheckResult

#: Points whose trials cost some tens of milliseconds, and a budget for them.
SMALL = point_strategy(d=(3, 6), m=(1_000, 16_000), B=(1, 2), activations=("relu", "gelu"), cosines=(0.3,))
WIDE = point_strategy(d=(12, 24), m=(4_000, 8_000), B=(1, 1), activations=("relu",), labels=("strong",))
TINY = point_strategy((NoDefense,), (3, 6), (1_000, 4_000), (1, 1), ("relu",))
PAIRS = point_strategy(
    (NoDefense,), (3, 3), (1_000, 2_000), (1, 2), ("relu",), labels=("alternating", "strong")
)
BUDGET: dict[str, Any] = {"max_examples": 8, "max_shrinks": 20, "trials": 8}
SIMPLEST = Point("check", Features("orthonormal"), 3, 1_000, 1)

Full = Callable[[Defense, Setting, TensorAttack, float], float | None]


def predicted(factor: float) -> Full:
    """Our prediction times a factor."""

    def stated(defense: Defense, setting: Setting, attack: TensorAttack, delta: float) -> float | None:
        value = evaluate(defense, setting, attack, delta).predicted
        return None if value is None else factor * value

    return stated


@dataclass(frozen=True)
class Stub:
    """What a search reads of a record."""

    outcome: Outcome


def trial_of(error: Callable[[Point, int, int], float]) -> Callable[[Point, int, int, str], Stub]:
    """Stands in for ``run_trial`` where the search is on trial and not the attack: R as given."""
    outcome = cache(make_outcome)
    return lambda point, trial, seed, device: Stub(outcome(error(point, trial, seed)))


def run_again(result: CheckResult, my_bound: object, capsys: pytest.CaptureFixture[str]) -> str:
    assert result.counterexample is not None
    exec(result.counterexample.reproduce, {"my_bound": my_bound})
    return capsys.readouterr().out.strip()


# --- false bounds -----------------------------------------------------------------------------------------------------


def test_a_constant_too_small_is_refuted_at_the_simplest_setting(capsys: pytest.CaptureFixture[str]) -> None:
    """A third of the typical error: nearly all of 8 trials (seed 0) exceed it, 4 refute it at 3.6e-4."""
    my_bound = predicted(1 / 3)
    result = check_bound(my_bound, "upper", SMALL, **BUDGET)
    found = result.counterexample
    assert result.refuted and found is not None and not result.survived
    assert found.point == SIMPLEST  # orthonormal, no defense, default labels, relu
    assert found.p_value < found.significance == 0.01 / 28
    assert found.bound == my_bound(NoDefense(), SIMPLEST.setting(), TensorAttack(), 0.05)
    assert 2 * found.bound < found.rms and 0 <= found.low < found.rms < found.high
    assert (found.first_trial, found.trials, found.n) == (8, 16, 16)  # the confirming trials are fresh
    assert run_again(result, my_bound, capsys) == found.text
    assert found.reproduce in str(result) and "\n" not in found.reproduce


def test_wrong_at_one_feature_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verify.measure.trial.run_trial", trial_of(lambda point, trial, seed: 0.1))

    def my_bound(setting: Setting) -> float:
        return 0.95 if setting.B > 1 else 0.01

    found = check_bound(my_bound, Kind.UPPER, SMALL, **BUDGET).counterexample
    assert found is not None and found.point == SIMPLEST


def test_wrong_at_two_features_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the simplest value of B is right, so that shrinking has to keep the other."""
    monkeypatch.setattr("verify.measure.trial.run_trial", trial_of(lambda point, trial, seed: 0.1))

    def my_bound(setting: Setting) -> float:
        return 0.99 if setting.B == 1 else 0.01

    found = check_bound(my_bound, Kind.UPPER, PAIRS, **BUDGET).counterexample
    assert found is not None and found.point == replace(SIMPLEST, B=2, labels=())


def test_a_wrong_exponent_is_refuted_at_a_large_width() -> None:
    """170 sqrt(d) / m is five times the typical error at m = 1000 and more than at 4000, and half of it at 64 000."""

    def my_bound(setting: Setting) -> float:
        return 170 * math.sqrt(setting.d) / setting.m

    family = point_strategy(
        (NoDefense,), (3, 6), (1_000, 64_000), (1, 1), ("relu",), labels=("alternating", "strong")
    )
    result = check_bound(my_bound, "upper", family, **BUDGET)
    found = result.counterexample
    assert found is not None
    assert found.point == replace(SIMPLEST, m=found.point.m) and found.point.m in (16_000, 32_000)


def test_a_wrong_exponent_is_refuted_as_a_rate() -> None:
    """8 trials at each end of a factor of 4 in m, seed 0: the exponent is known to about +-0.4 at the significance used."""
    family = point_strategy((NoDefense,), (12, 12), (4_000, 4_000), (1, 1), ("relu",))
    options = BUDGET | {"max_shrinks": 0, "tolerance": 0.2}
    refuted = check_bound(lambda s: s.d / s.m**1.5, "rate", family, **options)
    assert refuted.counterexample is not None and refuted.counterexample.bound == pytest.approx(-1.5)
    assert refuted.counterexample.low < -0.5 < refuted.counterexample.high
    assert check_bound(lambda s: math.sqrt(s.d / s.m), "rate", family, **options).survived
    dims = point_strategy((NoDefense,), (6, 6), (16_000, 16_000), (1, 1), ("relu",))
    assert check_bound(lambda s: math.sqrt(s.d / s.m), "rate", dims, variable="d", **options).survived
    refuted = check_bound(lambda s: s.d**-0.6, "rate", dims, variable="d", **options)
    assert refuted.counterexample is not None and refuted.counterexample.bound == pytest.approx(-0.6)


@pytest.mark.parametrize(
    ("kind", "factor"), [("lower", 3.0), ("floor", 3.0), ("predicted", 3.0), ("predicted", 0.4)]
)
def test_other_kinds_are_refuted(kind: str, factor: float, capsys: pytest.CaptureFixture[str]) -> None:
    """12 trials, seed 0: the interval of the ratio is about +-0.3 at the significance used."""
    my_bound = predicted(factor)
    result = check_bound(my_bound, kind, WIDE, **(BUDGET | {"trials": 12}))
    found = result.counterexample
    assert found is not None and result.kind is Kind(kind)
    assert found.point == Point("check", Features("orthonormal"), 12, 4_000, 1, labels=(3.0,))
    assert found.p_value < found.significance
    assert run_again(result, my_bound, capsys) == found.text


# --- true bounds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "factor"), [("upper", 3.0), ("lower", 0.2), ("floor", 0.2), ("predicted", 1.0)]
)
def test_true_bounds_survive(kind: str, factor: float) -> None:
    result = check_bound(predicted(factor), kind, WIDE, **(BUDGET | {"max_examples": 4}))
    assert result.survived and result.counterexample is None
    assert 1 <= result.informative <= result.settings <= 4
    assert result.trials >= 8 * result.settings
    assert result.tightest is not None and result.smallest_slack is not None
    assert f"{result.informative} of them informative" in str(result)


def test_the_trivial_bound_is_never_refuted_and_never_supported() -> None:
    result = check_bound(lambda setting: 2.0, "upper", SMALL, **(BUDGET | {"max_examples": 3}))
    assert result.status == "uninformative" and not result.survived and not result.refuted
    assert result.vacuous > 0 and result.settings == result.trials == 0
    assert "supports nothing" in str(result)


def test_vacuous_is_told_for_every_kind() -> None:
    def trivial(defense: Defense, setting: Setting, attack: TensorAttack, delta: float) -> float:
        raise TrivialBound(2.0, "says nothing", {})

    few = BUDGET | {"max_examples": 2}
    assert check_bound(trivial, "upper", WIDE, **few).vacuous > 0
    for kind in ("lower", "floor", "predicted", "rate"):
        result = check_bound(lambda setting: 0.0, kind, WIDE, **few)
        assert result.status == "uninformative" and result.vacuous > 0


def test_an_attack_that_learns_nothing_is_no_support() -> None:
    """Noise of standard deviation 1000: every error is about 1 or the attack fails."""
    drowned = point_strategy((GradientNoise(sigma=1e3),), (3, 3), (1_000, 1_000), (1, 1), ("relu",))
    result = check_bound(lambda setting: 0.01, "lower", drowned, **BUDGET)
    assert result.status == "uninformative" and result.settings > 0 and result.informative == 0
    assert check_bound(lambda setting: 0.01, "upper", drowned, **BUDGET).refuted  # it can still refute


def test_beyond_first_order_predictions_are_not_put_to_the_test() -> None:
    narrow = point_strategy((NoDefense,), (24, 24), (200, 200), (1, 1), ("relu",), labels=("strong",))
    result = check_bound(predicted(2.0), "predicted", narrow, **BUDGET)
    assert result.status == "uninformative" and result.beyond_first_order == 1 and result.settings == 0


# --- what a callable may do -------------------------------------------------------------------------------------------


def broken(value: object, at: int = 4) -> Callable[[Setting], object]:
    """Vacuous below dimension ``at``; from there ``value``, raised if it is an exception."""

    def my_bound(setting: Setting) -> object:
        if setting.d < at:
            return 1.0
        if isinstance(value, BaseException):
            raise value
        return value

    return my_bound


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (math.nan, "not a number"),
        ("0.1 m", "not a number"),
        ("0.1", "not a number"),
        ([1.0, 2.0], "not a number"),
        (-0.5, "negative"),
        (-math.inf, "negative"),
        (math.inf, "infinite"),
        (True, "not a number"),
        (np.bool_(False), "not a number"),
        (ZeroDivisionError("by nothing"), "raised ZeroDivisionError"),
        (SystemExit(3), "raised SystemExit"),
    ],
)
def test_what_is_no_bound_is_bad_input_told_at_the_simplest_setting(value: object, what: str) -> None:
    """No attack refutes it: it is not a counterexample. 3 is right, and the ladder of d goes on with 6."""
    with pytest.raises(
        BrokenBound, match="my_bound is no bound at relu, orthonormal, d = 6, m = 1 000"
    ) as caught:
        check_bound(broken(value), "upper", SMALL, **BUDGET)
    assert caught.value.what == what and caught.value.point == replace(SIMPLEST, d=6)
    assert isinstance(caught.value, ValueError) and "\n" not in str(caught.value)
    with pytest.raises(BrokenBound, match=f"^{re.escape(str(caught.value))}$"):
        check_point(broken(value), "upper", caught.value.point)


def test_a_bound_that_is_refuted_before_it_breaks_is_refuted() -> None:
    """Where the search has a counterexample, shrinking passes by settings in which there is no number."""

    def my_bound(setting: Setting) -> float:
        if setting.d < 6:
            raise RuntimeError("boom")
        return 0.01

    from_six = point_strategy((NoDefense,), (6, 6), (1_000, 1_000), (1, 1), ("relu",))
    assert check_bound(my_bound, "upper", from_six, **BUDGET).refuted
    with pytest.raises(BrokenBound, match="it raised RuntimeError: boom"):
        check_bound(my_bound, "upper", TINY, where=lambda p: p.d < 6, **BUDGET)


def test_unsupported_settings_are_skipped_and_counted() -> None:
    few = BUDGET | {"max_examples": 2}
    result = check_bound(broken(UnsupportedBound("not there"), 1), "upper", WIDE, **few)
    assert result.status == "uninformative" and result.unsupported > 0 and result.trials == 0
    somewhere = check_bound(broken(None, 13), "upper", WIDE, **BUDGET)  # 1 for d = 12, which refutes nothing
    assert somewhere.status == "uninformative" and min(somewhere.unsupported, somewhere.vacuous) > 0


def test_a_function_that_returns_nothing_anywhere_is_no_bound() -> None:
    with pytest.raises(
        BrokenBound, match=r"^my_bound is no bound at .*: it returned None, here and wherever"
    ) as caught:
        check_bound(broken(None, 1), "upper", WIDE, **(BUDGET | {"max_examples": 2}))
    assert caught.value.what == "nothing" and caught.value.point.d in (12, 24)


def outermost(setting: Setting) -> float:
    return 0.01 if setting.d < 99 else 1 / 0


class Holder:
    """Holds a bound."""

    @staticmethod
    def inner(setting: Setting) -> float:
        return 1 / (setting.d - setting.d)


def test_a_bound_is_called_by_the_name_that_it_can_be_imported_by(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("verify.measure.trial.run_trial", trial_of(lambda point, trial, seed: 0.1))
    assert (
        name_of(outermost) == f"{__name__}:outermost" and name_of(Holder.inner) == f"{__name__}:Holder.inner"
    )
    for hidden in (predicted(1.0), lambda setting: 0.1, RATE, Holder(), math.nan):
        assert name_of(hidden) == "my_bound"  # type: ignore[arg-type]
    result = check_bound(outermost, "upper", TINY, **BUDGET)
    found = result.counterexample
    assert found is not None and found.reproduce.startswith(
        f"from {__name__} import outermost; from verify import"
    )
    exec(found.reproduce, {})
    assert capsys.readouterr().out.strip() == found.text
    named = check_bound(lambda setting: 0.01, "upper", TINY, name="here:a.b", **BUDGET).counterexample
    assert (
        named is not None
        and "from here import a; " in named.reproduce
        and "check_point(a.b, " in named.reproduce
    )
    line = Holder.inner.__code__.co_firstlineno + 2
    with pytest.raises(
        BrokenBound, match=rf"^{__name__}:Holder.inner is no bound at .* \(test_check_bound.py:{line}\)$"
    ):
        check_bound(Holder.inner, "upper", TINY, **BUDGET)


def test_a_bound_object_is_taken_by_its_kind() -> None:
    rate = stated(NoDefense)[Kind.RATE]
    with pytest.raises(ValueError, match="kind must be rate, that of my_bound; got upper"):
        check_bound(rate, "upper", SMALL)
    family = point_strategy((NoDefense,), (12, 12), (8_000, 8_000), (1, 1), ("relu",))
    assert check_bound(rate, "rate", family, **BUDGET).survived


def test_the_signature_decides_what_a_callable_is_given() -> None:
    seen: list[tuple[object, ...]] = []

    def full(*arguments: object) -> None:
        seen.append(arguments)

    def simple(setting: Setting, factor: float = 1.0) -> None:
        seen.append((setting, factor))

    for my_bound in (full, simple):
        with pytest.raises(UnsupportedBound):
            check_point(my_bound, "upper", SIMPLEST, delta=0.1)
    assert [type(a) for a in seen[0]] == [NoDefense, Setting, TensorAttack, float] and seen[0][3] == 0.1
    assert isinstance(seen[1][0], Setting) and seen[1][1] == 1.0
    with pytest.raises(TypeError, match=r"my_bound must take .*; got \(a, b\)"):
        check_bound(lambda a, b: 1.0, "upper")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "middle"}, ["kind", "upper", "'middle'"]),
        ({"my_bound": 0.5}, ["my_bound", "callable", "0.5"]),
        ({"settings": 3}, ["settings", "strategy", "3"]),
        ({"settings": st.integers()}, ["settings", "Point", "int"]),
        ({"where": 3}, ["where", "callable", "3"]),
        ({"alpha": 0.0}, ["alpha", "0"]),
        ({"delta": 1.0}, ["delta", "1"]),
        ({"trials": 1}, ["trials", "at least 2", "1"]),
        ({"max_examples": 0}, ["max_examples", "0"]),
        ({"seed": -1}, ["seed", "-1"]),
        ({"tolerance": -1.0}, ["tolerance", "-1"]),
        ({"variable": "B"}, ["variable", "m, d", "'B'"]),
        ({"ladder": (2,)}, ["ladder", "two", "(2,)"]),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], words: list[str]) -> None:
    arguments = {"my_bound": lambda setting: 0.5, "kind": "upper"} | options
    with pytest.raises((ValueError, TypeError)) as caught:
        check_bound(**arguments)
    assert all(word in str(caught.value) for word in words), caught.value


# --- how it searches --------------------------------------------------------------------------------------------------


def test_the_same_call_gives_the_same_result_and_measures_no_point_twice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    calls: list[tuple[str, int]] = []

    def counted(point: Point, trial: int, seed: int) -> float:
        calls.append((point.key, trial))
        return float(np.random.default_rng([seed, trial, point.m]).uniform(0.1, 0.2))

    monkeypatch.setattr("verify.measure.trial.run_trial", trial_of(counted))
    one = check_bound(lambda s: 0.99 if s.d < 6 else 0.01, "upper", TINY, **BUDGET)
    assert one.refuted and len(calls) == len(set(calls)) == one.trials
    assert check_bound(lambda s: 0.99 if s.d < 6 else 0.01, "upper", TINY, **BUDGET) == one
    assert list(tmp_path.iterdir()) == []  # no data base of examples


def test_what_is_not_confirmed_on_fresh_trials_is_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every first trial is made to violate, no fresh one is."""
    lucky = trial_of(lambda point, trial, seed: 0.5 if trial < BUDGET["trials"] else 0.01)
    monkeypatch.setattr("verify.measure.trial.run_trial", lucky)
    result = check_bound(lambda setting: 0.1, "upper", SMALL, **BUDGET)
    assert result.survived and result.unconfirmed == result.informative > 0
    assert "were not confirmed" in str(result)


def test_false_alarms_are_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    """R exceeds the bound in exactly delta of all trials, the worst that a true bound allows: 60 searches (seeds 0 to 59,
    8 settings of 20 trials) at alpha = 0.2 refute it at most 19 times with probability 99 % (binomial)."""
    key = cache(lambda point: int(point.key, 16))

    def barely(point: Point, trial: int, seed: int) -> float:
        return 0.5 if np.random.default_rng([key(point), trial, seed]).uniform() < 0.05 else 0.01

    monkeypatch.setattr("verify.measure.trial.run_trial", trial_of(barely))
    refuted = sum(
        check_bound(
            lambda s: 0.1, "upper", SMALL, seed=i, alpha=0.2, trials=20, max_examples=8, max_shrinks=0
        ).refuted
        for i in range(60)
    )
    assert refuted <= 19


def test_exact_recovery_is_no_division_by_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """R = 0 in every trial: nothing above 0 is exceeded, and every lower bound is refuted."""
    monkeypatch.setattr("verify.measure.trial.run_trial", trial_of(lambda point, trial, seed: 0.0))
    options = BUDGET | {"max_examples": 2, "max_shrinks": 2}
    upper = check_bound(lambda s: 0.5, "upper", TINY, **options)
    assert upper.survived and upper.smallest_slack is None  # there is no ratio to zero
    for kind in ("lower", "floor", "predicted"):
        assert check_bound(lambda s: 0.1, kind, TINY, **options).refuted
    # no exponent can be fitted to zeros, which neither refutes nor supports much
    assert not check_bound(lambda s: math.sqrt(s.d / s.m), "rate", TINY, **options).refuted


def test_an_interrupt_returns_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped while searching, and stopped while shrinking."""
    calls = 0

    def stopped(point: Point, trial: int, seed: int) -> float:
        nonlocal calls
        calls += 1
        if calls > limit:
            raise KeyboardInterrupt
        return 0.1

    monkeypatch.setattr("verify.measure.trial.run_trial", trial_of(stopped))
    limit = 12
    searching = check_bound(lambda setting: 0.99, "upper", SMALL, **BUDGET)
    assert searching.status == "interrupted" and searching.interrupted and searching.informative == 1
    calls, limit = 0, 40
    shrinking = check_bound(lambda s: 0.99 if s.d == 3 else 0.01, "upper", SMALL, **BUDGET)
    assert shrinking.refuted and shrinking.interrupted and shrinking.counterexample is not None


def test_where_filters_points() -> None:
    result = check_bound(predicted(1 / 3), "upper", PAIRS, where=lambda p: p.B == 2, **BUDGET)
    assert result.counterexample is not None and result.excluded > 0
    assert result.counterexample.point == replace(SIMPLEST, B=2, labels=())


def test_it_runs_inside_a_property(capsys: pytest.CaptureFixture[str]) -> None:
    @settings(max_examples=2, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from([0.01, 0.02]))
    def inner(value: float) -> None:
        assert check_bound(lambda setting: value, "upper", SMALL, **BUDGET).refuted

    inner()
    assert capsys.readouterr() == ("", "")


def test_progress_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    check_bound(lambda setting: 0.01, "upper", SMALL, progress=True, **BUDGET)
    out, err = capsys.readouterr()
    assert out == "" and "checking upper" in err


# --- the points -------------------------------------------------------------------------------------------------------


def points_of(strategy: st.SearchStrategy[Point], examples: int) -> list[Point]:
    drawn: list[Point] = []

    @seed(0)
    @settings(
        max_examples=examples,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(point: Point) -> None:
        drawn.append(point)

    collect()
    return drawn


def test_points_are_in_range_and_reach_the_edges() -> None:
    drawn = points_of(point_strategy(), 300)
    assert all(3 <= p.d <= 24 and 1_000 <= p.m <= 32_000 and 1 <= p.B <= 3 for p in drawn)
    for p in drawn:
        p.setting()
    assert {p.activation for p in drawn} == set(even_activations())
    assert any(p.d == p.B for p in drawn) and any(p.B == 1 for p in drawn)
    assert any((p.features.cosine or 0) >= 0.9 for p in drawn)
    assert any(0.1 < abs(p.setting().residuals[0]) < 0.3 for p in drawn)
    assert len({p.defense for p in drawn}) > 2


def test_the_strategy_shrinks_to_the_simplest_point() -> None:
    quiet = settings(database=None, verbosity=Verbosity.quiet, suppress_health_check=list(HealthCheck))
    assert find(point_strategy(), lambda p: True, settings=quiet) == SIMPLEST
    assert find(point_strategy(), lambda p: p.B > 1, settings=quiet) == replace(SIMPLEST, B=2, labels=())
    noisy = find(point_strategy(), lambda p: p.defense != NoDefense() and p.m > 5_000, settings=quiet)
    assert noisy.m == 8_000 and (noisy.B, noisy.d) == (1, 3)


def test_code_is_what_a_person_would_write() -> None:
    point = Point(
        "check",
        Features("cosine", cosine=0.3),
        6,
        2_000,
        2,
        (3.0, -3.0),
        "gelu",
        GradientNoise(sigma=0.5),
        TensorAttack(starts=4),
    )
    assert eval(code(point)) == point
    assert code(SIMPLEST) == "Point('check', Features('orthonormal'), 3, 1000, 1)"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"d": (0, 3)}, ["d", "at least 1", "0"]),
        ({"m": (2_000, 1_000)}, ["m", "2000", "1000"]),
        ({"B": (1, 30)}, ["B", "24", "30"]),
        ({"defenses": ()}, ["defenses", "()"]),
        ({"activations": ("spline",)}, ["activations", "'spline'"]),
        ({"labels": ("odd",)}, ["labels", "alternating", "'odd'"]),
        ({"cosines": (2.0,)}, ["cosines", "2.0"]),
        ({"attack": "tensor"}, ["attack", "'tensor'"]),
    ],
)
def test_bad_ranges_are_named(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        point_strategy(**options)
    assert all(word in str(caught.value) for word in words), caught.value


def test_ladder() -> None:
    assert ladder(3, 24) == (3, 6, 12, 24) and ladder(3, 20) == (3, 6, 12, 20) and ladder(5, 5) == (5,)


# --- the plugin and the command ---------------------------------------------------------------------------------------

SUITE = """
import sys


def test_loading_the_plugin_imports_no_torch():
    assert "verify.pytest_plugin" in sys.modules and "torch" not in sys.modules


def test_false(check_bound):
    check_bound(lambda setting: 0.01, "upper", max_examples=2, max_shrinks=2, trials=6)


def test_vacuous(check_bound):
    check_bound(lambda setting: 2.0, "upper", max_examples=2, trials=6)


def test_broken(check_bound):
    check_bound(lambda setting: "0.1", "upper", max_examples=2, trials=6)


def test_true(check_bound):
    assert check_bound(lambda setting: 0.9, "upper", max_examples=1, trials=3).survived
"""


def test_the_fixture_fails_with_the_counterexample(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(SUITE)
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["verify.pytest_plugin"]\n')
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "verify.pytest_plugin",
            "-p",
            "no:cacheprovider",
            "test_mine.py",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "3 failed, 2 passed" in done.stdout, done.stdout + done.stderr
    assert "violated at relu, orthonormal, d = 3, m = 1 000, B = 1, no defense" in done.stdout
    assert (
        "again: from verify import Features, Point, check_point; print(check_point(my_bound, " in done.stdout
    )
    assert "upper uninformative: no setting could have refuted it" in done.stdout
    assert (
        "my_bound is no bound at relu, orthonormal, d = 3" in done.stdout and "returned '0.1'" in done.stdout
    )
    assert "Traceback" not in done.stdout
    assert not (tmp_path / ".hypothesis").exists()


MODULE = """
from math import sqrt

BROKEN = 3


def too_small(setting):
    return 0.1 * sqrt(setting.d / setting.m)


def trivial(setting):
    return 2.0


def word(setting):
    return "0.1"


def fails(setting):
    raise RuntimeError("on two\\nlines")
"""


@pytest.fixture
def my_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_bounds.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_bounds", raising=False)


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(["check", *arguments])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_the_command_refutes(capsys: pytest.CaptureFixture[str], my_bounds: None) -> None:
    options = ("--kind", "upper", "--max-examples", "3", "--trials", "6")
    code, out, _ = command(capsys, "my_bounds:too_small", *options)
    assert code == 1 and "upper refuted: violated at relu" in out
    code, out, _ = command(capsys, "my_bounds:too_small", *options, "--json")
    assert code == 1
    found = json.loads(out)
    assert found["status"] == "refuted"
    assert Point.from_dict(found["counterexample"]["point"]) == SIMPLEST
    code, out, _ = command(capsys, "my_bounds:trivial", *options)
    assert code == 1 and "uninformative" in out  # as the fixture fails: nothing could have refuted it
    assert "from my_bounds import too_small; " in found["counterexample"]["reproduce"]


@pytest.mark.parametrize(
    ("name", "said"),
    [("word", "it returned '0.1'"), ("fails", "it raised RuntimeError: on two lines (my_bounds.py:20)")],
)
def test_the_command_takes_what_is_no_bound_as_bad_input(
    capsys: pytest.CaptureFixture[str], my_bounds: None, name: str, said: str
) -> None:
    code, out, err = command(
        capsys, f"my_bounds:{name}", "--kind", "upper", "--d", "7", "--m", "1e3", "--B", "1"
    )
    assert code == 2 and out == "" and len(err.splitlines()) == 1
    assert (
        f"my_bounds:{name} is no bound at relu, orthonormal, d = 7, m = 1 000, B = 1" in err and said in err
    )


def test_settings_are_chosen_on_the_command_line(
    capsys: pytest.CaptureFixture[str], my_bounds: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verify.measure.trial.run_trial", trial_of(lambda point, trial, seed: 0.1))
    chosen = (
        "--d", "5", "--m", "2e3:4e3", "--B", "2", "--activation", "gelu", "--defense", "gradient-noise", "--sigma", ".3",
        "--moments", "plain", "--delta", ".1",
    )  # fmt: skip
    _, out, _ = command(capsys, "my_bounds:too_small", "--kind", "upper", *chosen, "--json")
    found = json.loads(out)["counterexample"]
    point = Point.from_dict(found["point"])
    assert (point.d, point.m, point.B, point.activation) == (5, 2_000, 2, "gelu")
    assert (point.defense, point.attack) == (GradientNoise(sigma=0.3), TensorAttack(moments="plain"))
    assert "delta=0.1" in found["reproduce"]
    # One feature at most where there is one dimension; a family without parameters is drawn from.
    drawn = _settings(Kind.UPPER, {"d": (1, 1)}, None, [GradientNoise], "residualized")
    points = points_of(drawn, 20)
    assert {p.B for p in points} == {1} and len({p.defense for p in points}) > 1


@pytest.mark.parametrize("defenses", [(), ("dropout", "gradient-noise")])
def test_parameters_are_those_of_one_defense(
    capsys: pytest.CaptureFixture[str], my_bounds: None, defenses: tuple[str, ...]
) -> None:
    named = [word for name in defenses for word in ("--defense", name)]
    code, _, err = command(capsys, "my_bounds:trivial", "--kind", "upper", "--sigma", "1", *named)
    assert code == 2 and "defense must be one, whose parameters are given" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["my_bounds", "--kind", "upper"], ["MODULE:FUNCTION", "'my_bounds'"]),
        (["nowhere:f", "--kind", "upper"], ["MODULE:FUNCTION", "'nowhere:f'"]),
        (["my_bounds:nothing", "--kind", "upper"], ["my_bounds", "nothing"]),
        (["my_bounds:trivial", "--kind", "middle"], ["kind", "'middle'"]),
        (["my_bounds:trivial", "--kind", "upper", "--trials", "0"], ["trials", "0"]),
    ],
)
def test_the_command_refuses_in_one_line(
    capsys: pytest.CaptureFixture[str], my_bounds: None, arguments: list[str], words: list[str]
) -> None:
    code, out, err = command(capsys, *arguments)
    assert code == 2 and out == "" and len(err.strip().splitlines()) == 1
    assert all(word in err for word in words), err


def test_a_bound_that_cannot_be_called_is_refused(
    capsys: pytest.CaptureFixture[str], my_bounds: None
) -> None:
    assert load_bound("my_bounds:trivial")(None) == 2.0
    with pytest.raises(TypeError, match="my_bound must be a Bound or callable; got 3"):
        check_bound(load_bound("my_bounds:BROKEN"), "upper")


def test_the_readme_s_example_says_what_it_prints() -> None:
    """10 trials (seed 0) in each setting; sqrt(d / m) is below the error for the simplest one: 0.055 against 0.07."""
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    example = doctest.DocTestParser().get_doctest(
        "\n".join(re.findall(r"```pycon\n(.*?)```", text, re.DOTALL)), {}, "README.md", "README.md", 0
    )
    assert len(example.examples) == 6
    assert doctest.DocTestRunner(verbose=False).run(example).failed == 0


def test_a_bound_that_needs_what_a_search_does_not_have_is_not_supported() -> None:
    def numeric(
        defense: Defense, setting: Setting, attack: TensorAttack, delta: float, *, net: object
    ) -> tuple[float, dict[str, float]]:
        raise AssertionError("asked without a net")

    needy = replace(stated(NoDefense)[Kind.PREDICTED], numeric=numeric, needs=frozenset({"net"}))
    with pytest.raises(UnsupportedBound, match=r"nothing to test .*unsupported"):
        check_point(needy, "predicted", SIMPLEST)
    result = check_bound(needy, "predicted", TINY, **(BUDGET | {"max_examples": 2}))
    assert result.status == "uninformative" and result.unsupported > 0 and result.trials == 0


def test_a_bound_is_not_asked_about_defenses_it_does_not_speak_of() -> None:
    silent = replace(SIMPLEST, defense=SignCompression())  # has no rate
    for rate in (RATE, stated(NoDefense)[Kind.RATE]):
        with pytest.raises(UnsupportedBound, match=r"nothing to test .*unsupported"):
            check_point(rate, "rate", silent)


@dataclass(frozen=True)
class Elsewhere(AttackSpec):
    """An attack from outside."""

    name: ClassVar[str] = "elsewhere"
    reach: float = 1.0
    widths: tuple[float, ...] = ()


def test_any_attack_is_searched_and_its_counterexample_runs_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("verify.measure.trial.run_trial", trial_of(lambda point, trial, seed: 0.1))
    monkeypatch.setattr("bounds.ATTACKS", (*bounds.ATTACKS, Elsewhere))
    spec = Elsewhere(math.inf, (1.0, -math.inf))
    there = point_strategy((NoDefense,), (3, 3), (1_000, 1_000), (1, 1), ("relu",), attack=spec)
    result = check_bound(lambda setting: 0.01, "upper", there, **BUDGET)
    assert result.counterexample is not None and result.counterexample.point.attack == spec
    assert run_again(result, lambda setting: 0.01, capsys) == result.counterexample.text
    with pytest.raises(TypeError, match="attack must be a AttackSpec"):
        point_strategy(attack="tensor")  # type: ignore[arg-type]
