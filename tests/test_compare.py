"""The judge is judged: verdicts against simulated truth, coverage of intervals, negative controls that must
go red."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
from scipy import stats
from synthetic_records import make_experiment, make_point, make_record, simulated_errors, simulated_records

import bounds
from bounds import (
    DEFENSES,
    DPSGD,
    SYMBOLS,
    THEORY,
    AttackSpec,
    Bound,
    BoundValue,
    Defense,
    GradientNoise,
    GradientPruning,
    Kind,
    NoDefense,
    SecureAggregation,
    StochasticRounding,
    TensorAttack,
    expression,
)
from verify import compare, plot
from verify.judge.base import Sample, bounds_at, corrupted
from verify.judge.floor import FloorCheck, FloorResult, judge_floor
from verify.judge.lower import LowerCheck, LowerResult, judge_lower
from verify.judge.predicted import (
    ImprovementCheck,
    LostResult,
    PredictedCheck,
    RatioResult,
    SpectralCheck,
    judge_improvement,
    judge_lost,
    judge_predicted,
)
from verify.judge.rate import RateCheck, RateResult, judge_rate, rate_exponent
from verify.judge.statistics import Measured
from verify.judge.upper import UpperCheck, UpperResult, bound_of, judge_upper
from verify.measure.check import Check
from verify.measure.point import Point
from verify.measure.record import Record
from verify.measure.series import series, value_of

REPETITIONS = 2000
RMS = 0.1


def stated(value: float | None, why: str = "a statement") -> BoundValue:
    return BoundValue(value, why)


def sample(
    n: int, rng: np.random.Generator, rms: float = RMS, scatter: float = 0.1, failed: int = 0
) -> Measured:
    return Measured.of(simulated_errors(rms, n, scatter, rng), failed)


# --- the statistics -----------------------------------------------------------------------------------------


def test_the_simulated_errors_are_what_they_claim() -> None:
    errors = simulated_errors(RMS, 200_000, 0.1, np.random.default_rng(0))
    assert math.sqrt(np.mean(errors**2)) == pytest.approx(RMS, rel=2e-3)
    assert errors.std() / RMS == pytest.approx(0.1, rel=2e-2)


def test_the_interval_is_student_s_for_the_mean_square() -> None:
    errors = simulated_errors(RMS, 17, 0.1, np.random.default_rng(1))
    found = Measured.of(errors, level=0.95)
    oracle = stats.ttest_1samp(errors**2, 0).confidence_interval(0.95)
    assert (found.low**2, found.high**2) == pytest.approx((oracle.low, oracle.high), rel=1e-12)
    assert found.rms == pytest.approx(math.sqrt(np.mean(errors**2)), rel=1e-12)


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_the_interval_covers_as_often_as_it_says(level: float) -> None:
    """n = 30, scatter 10 %. Allowed: three binomial standard errors, and 0.3 % for the skewness of R^2 at
    this n."""
    rng = np.random.default_rng(2)
    intervals = [Measured.of(simulated_errors(RMS, 30, 0.1, rng), level=level) for _ in range(REPETITIONS)]
    coverage = np.mean([m.low <= RMS <= m.high for m in intervals])
    assert abs(coverage - level) <= 3 * math.sqrt(level * (1 - level) / REPETITIONS) + 0.003


@pytest.mark.parametrize("level", [0.9, 0.99])
def test_the_interval_of_the_exponent_covers_as_often_as_it_says(level: float) -> None:
    """Four widths, 12 trials each, scatter different at each. Allowed as above."""
    rng = np.random.default_rng(3)
    scatters = {1e4: 0.05, 2e4: 0.15, 4e4: 0.08, 8e4: 0.12}

    def covered() -> bool:
        points = {m: sample(12, rng, m**-0.5, s) for m, s in scatters.items()}
        found = judge_rate(points, -0.5, level=level)
        return found.low <= -0.5 <= found.high

    coverage = np.mean([covered() for _ in range(REPETITIONS)])
    assert abs(coverage - level) <= 3 * math.sqrt(level * (1 - level) / REPETITIONS) + 0.003


def test_the_slope_is_least_squares() -> None:
    rng = np.random.default_rng(4)
    points = {m: sample(20, rng, 3 * m**-0.45) for m in (1e4, 3e4, 9e4, 2e5)}
    oracle = stats.linregress(np.log(list(points)), np.log([m.rms for m in points.values()]))
    assert judge_rate(points, -0.5).slope == pytest.approx(oracle.slope, rel=1e-10)


def test_lack_of_fit_is_calibrated_and_sees_a_curve() -> None:
    rng = np.random.default_rng(5)
    widths = (1e4, 2e4, 4e4, 8e4)
    p_values = [
        judge_rate({m: sample(40, rng, m**-0.5) for m in widths}, -0.5).lack_of_fit for _ in range(400)
    ]
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    to_a_floor = {m: sample(400, rng, math.hypot(10 * m**-0.5, 0.05)) for m in widths}
    found = judge_rate(to_a_floor, -0.5)
    assert found.lack_of_fit < 1e-6 and "not a straight line" in found.text and found.verdict == "fails"


@pytest.mark.parametrize(
    ("defense", "variable", "exponent"),
    [
        (NoDefense, "m", -0.5),
        (NoDefense, "d", 0.5),
        (NoDefense, "B", 1.0),
        (NoDefense, "sigma", 0.0),
        (GradientNoise, "m", -0.5),
        (GradientNoise, "d", 0.5),
        (GradientNoise, "sigma", 1.0),
    ],
)
def test_the_exponent_of_a_rate_is_its_limit(defense: type, variable: str, exponent: float) -> None:
    rate, symbol = expression(defense, Kind.RATE), SYMBOLS[variable]
    assert rate_exponent(rate, symbol) == exponent
    # An independent look: the logarithmic slope far out, by numbers alone.
    others = {s: 2 for s in rate.free_symbols - {symbol}}
    low, high = (float(rate.subs(others).subs(symbol, x)) for x in (1e8, 1e9))
    assert math.log10(high / low) == pytest.approx(exponent, abs=1e-6)


# --- PREDICTED ----------------------------------------------------------------------------------------------


def verdicts(factor: float, count: int = 100) -> list[str]:
    """Of 200 trials of scatter 10 %, over and over, against a prediction that is wrong by ``factor``."""
    rng = np.random.default_rng(6)
    return [judge_predicted(sample(200, rng), corrupted(stated(RMS), factor)).verdict for _ in range(count)]


@pytest.mark.parametrize("factor", [1.15, 1 / 1.15])
def test_a_prediction_wrong_by_15_percent_always_goes_red(factor: float) -> None:
    assert set(verdicts(factor)) == {"fails"}


def test_a_true_prediction_holds_and_never_fails() -> None:
    """Half the 99 % interval is 1.8 %, so it leaves the 3 % band when the mean is off by 1.2 %: in about 8 %
    of cases."""
    found = verdicts(1.0)
    assert found.count("holds") >= 80 and "fails" not in found


@pytest.mark.parametrize("factor", [1.03, 1 / 1.03])
def test_a_prediction_on_the_edge_is_not_decided(factor: float) -> None:
    found = verdicts(factor)
    assert found.count("inconclusive") >= 95


def test_few_trials_cannot_decide_and_say_so() -> None:
    found = judge_predicted(sample(10, np.random.default_rng(7)), stated(RMS))
    assert found.verdict == "inconclusive" and found.text.endswith("inconclusive; consistent, n = 10")


def test_a_failed_trial_is_never_counted_out() -> None:
    rng = np.random.default_rng(8)
    assert judge_predicted(sample(5000, rng), stated(RMS)).verdict == "holds"
    found = judge_predicted(sample(5000, rng, failed=1), stated(RMS))
    assert (found.verdict, found.failed) == ("inconclusive", 1) and "1 FAILED" in found.text
    assert judge_predicted(sample(5000, rng, failed=1), stated(2 * RMS)).verdict == "fails"


def test_a_prediction_beyond_first_order_is_stated_but_not_judged() -> None:
    for predicted, verdict in ((0.24, "holds"), (0.26, "uninformative")):
        found = judge_predicted(Measured.of([predicted] * 1000), stated(predicted))
        assert found.verdict == verdict and found.ratio == pytest.approx(1.0)


def test_where_the_spectral_law_is_in_force_a_large_error_is_judged_as_any_other() -> None:
    """200 trials of scatter 10 % about .4, half the 99 % interval 1.8 %: it holds, off by 15 % it fails; without the law it
    says nothing, whatever the noise over signal."""
    rng = np.random.default_rng(13)
    m = sample(200, rng, 0.4)
    law = BoundValue(0.4, "a statement", details={"span_gap": 1.3, "noise_over_signal": 1.2})
    assert judge_predicted(m, law).verdict == "holds"
    assert judge_predicted(m, corrupted(law, 1.15)).verdict == "fails"
    assert judge_predicted(replace(m, failed=1), law).verdict == "inconclusive"
    without = replace(law, details={"noise_over_signal": 1.2})
    assert judge_predicted(m, without).verdict == "uninformative"
    # no better than guessing, it still verifies nothing
    guess = Measured.of([0.95] * 200)
    assert judge_predicted(guess, replace(law, value=0.95)).verdict == "uninformative"


LOST = BoundValue(None, "the span is lost", details={"span_above": 0.9, "span_gap": 0.8})


@pytest.mark.parametrize(
    ("errors", "failed", "verdict"),
    [
        ([], 10, "holds"),
        ([1.2, 1.3], 8, "holds"),
        ([0.92] * 10, 0, "holds"),
        ([0.6], 9, "inconclusive"),
        ([], 1, "inconclusive"),  # one trial has no interval
        ([], 0, "inconclusive"),
        ([0.3, 0.31] * 4, 2, "fails"),
        ([0.5, 0.6] * 10, 0, "fails"),
    ],
)
def test_where_the_span_is_lost_an_attack_that_succeeds_refutes(
    errors: list[float], failed: int, verdict: str
) -> None:
    """By the interval of R, a trial without a result at 1, against .9: a single success among ten leaves it open."""
    found = judge_lost(Sample(tuple(errors), failed), LOST)
    assert found.verdict == verdict and f"{failed} of {len(errors) + failed} without a result" in found.text
    assert (found.n, found.failed) == (len(errors) + failed, failed)
    json.dumps(found.to_dict(), allow_nan=False)


def test_only_a_lost_span_is_judged_as_one() -> None:
    for other in (stated(RMS), stated(None, WHY), replace(LOST, details={"span_above": 1.01})):
        with pytest.raises(ValueError, match="bound must say that the span is lost"):
            judge_lost(Sample((RMS,), 3), other)


def test_a_broken_attack_refutes_and_does_not_pass_as_uninformative() -> None:
    """Negative control: the vacuity guard forbids "holds", it does not excuse a refuted statement."""
    broken = Measured.of([1.4] * 50)
    assert judge_predicted(broken, stated(0.05)).verdict == "fails"
    assert judge_predicted(Measured.of([], failed=50), stated(0.05)).verdict == "fails"
    assert judge_upper([1.4] * 50, 0, stated(0.3), 0.05).verdict == "fails"
    assert judge_upper([], 50, stated(0.3), 0.05).verdict == "fails"
    assert judge_lower(broken, stated(1.45)).verdict == "fails"


@pytest.mark.parametrize("rms", [0.9, 1.0, 1.4])
def test_an_attack_no_better_than_guessing_verifies_nothing(rms: float) -> None:
    exact = Measured.of([rms] * 1000)
    assert judge_predicted(exact, stated(rms)).verdict == "uninformative"
    assert judge_predicted(exact, stated(rms), baseline=2.0, reach=2.0).verdict == "holds"
    assert judge_lower(exact, stated(0.1)).verdict == "uninformative"
    assert judge_upper([rms] * 1000, 0, stated(1.5), 0.05).verdict == "uninformative"
    assert judge_rate({1e4: exact, 2e4: Measured.of([0.5] * 10)}, -0.5).verdict == "uninformative"


@pytest.mark.parametrize(
    ("errors", "failed", "bound", "verdict"),
    [
        ([], 0, stated(RMS), "inconclusive"),
        ([RMS], 0, stated(RMS), "inconclusive"),
        ([], 7, stated(RMS), "uninformative"),
        ([RMS] * 9, 0, stated(None, "not proved"), "uninformative"),
    ],
)
def test_too_little_to_judge(errors: list[float], failed: int, bound: BoundValue, verdict: str) -> None:
    m = Measured.of(errors, failed)
    results = [
        judge_predicted(m, bound),
        judge_lower(m, bound),
        judge_improvement(m, m, bound.value or math.nan),
        judge_rate({1e4: m, 2e4: m}, -0.5, unproved="" if bound.value else bound.why),
    ]
    wanted = [verdict] * len(results)
    if not errors and failed:
        wanted[0] = "fails"  # a prediction is refuted when every trial fails
    assert [r.verdict for r in results] == wanted, [r.text for r in results]
    for r in results:
        json.dumps(r.to_dict(), allow_nan=False)


WHY = "not proved: the reason"


@pytest.mark.parametrize("value", [None, 0.0, RMS])
@pytest.mark.parametrize(
    ("errors", "failed"), [([], 0), ([], 7), ([0.0] * 5, 0), ([RMS], 1), ([RMS, 0.11] * 9, 0)]
)
def test_no_line_of_a_verdict_has_a_number_that_is_none(
    value: float | None, errors: list[float], failed: int
) -> None:
    m, bound = Measured.of(errors, failed), stated(value, "" if value else WHY)
    unproved = WHY if value is None else ""
    results = [
        judge_predicted(m, bound),
        judge_improvement(m, m, value or math.nan, unproved=unproved),
        judge_rate({1e4: m, 2e4: m}, math.nan if value is None else -0.5, unproved=unproved),
        judge_upper(errors, failed, bound, 0.05),
        judge_lower(m, bound),
        judge_floor(m, bound, math.inf if value is None else 0.01),
    ]
    for r in results:
        assert not re.search(r"\bnan\b", r.text), r.text
        assert (r.verdict == "uninformative") <= (r.why != "" and r.why in r.text), r
        if value is None:
            assert (r.verdict, r.why) == ("uninformative", WHY), r.text
            assert isinstance(r, RateResult) or "not stated" in r.text, r.text


def test_a_span_of_which_nothing_is_said_is_not_judged() -> None:
    found = judge_upper([0.1] * 99, 0, bound_of(stated(RMS), "span"), 0.3, part="span")
    assert found.text == "span: bound not stated: uninformative: not stated of the span, n = 99"
    assert bound_of(stated(None, WHY), "span").why == WHY


# --- improvement, RATE, UPPER, LOWER ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("true", "verdict"), [(2.0, "holds"), (1.7, "fails"), (2.3, "fails"), (2.1, "inconclusive")]
)
def test_the_factor_of_improvement(true: float, verdict: str) -> None:
    rng = np.random.default_rng(9)
    found = judge_improvement(sample(300, rng, true * RMS), sample(300, rng, RMS), 2.0)
    assert found.verdict == verdict and found.measured == pytest.approx(true, rel=0.03)


def test_no_improvement_is_not_an_improvement_though_predicted() -> None:
    same = Measured.of([0.1, 0.1001] * 500)
    assert judge_improvement(same, same, 1.0).verdict == "inconclusive"
    failed = replace(same, failed=1)
    double = replace(same, rms=2 * same.rms)
    assert judge_improvement(double, same, 2.0).verdict == "holds"
    assert judge_improvement(double, failed, 2.0).verdict == "inconclusive"


@pytest.mark.parametrize("n", [4, 60])
@pytest.mark.parametrize("shift", [0.25, -0.25])
def test_an_exponent_wrong_by_a_quarter_never_holds_and_with_enough_trials_fails(
    n: int, shift: float
) -> None:
    rng = np.random.default_rng(10)
    for _ in range(50):
        points = {m: sample(n, rng, 10 * m**-0.5) for m in (2e4, 4e4, 8e4, 1.6e5)}
        found = judge_rate(points, -0.5 + shift)
        assert found.verdict != "holds"
        assert n == 4 or (found.verdict == "fails" and judge_rate(points, -0.5).verdict == "holds")


def test_a_rate_needs_every_one_of_its_values() -> None:
    rng = np.random.default_rng(11)
    points = {m: sample(60, rng, 10 * m**-0.5) for m in (2e4, 4e4, 8e4, 1.6e5)}
    assert judge_rate({**points, 3.2e5: Measured.of([])}, -0.5).verdict == "inconclusive"
    assert judge_rate({**points, 4e4: replace(points[4e4], failed=1)}, -0.5).verdict == "inconclusive"
    assert judge_rate({2e4: points[2e4]}, -0.5).verdict == "inconclusive"


@pytest.mark.parametrize(
    ("above", "n", "failed", "verdict"),
    [
        (0, 100, 0, "holds"),
        (0, 50, 0, "inconclusive"),  # 0.95^50 = 8 %: not enough to claim a probability of 5 % at level 99 %
        (5, 100, 0, "inconclusive"),
        (12, 100, 0, "fails"),
        (4, 92, 8, "fails"),  # failures are violations
        (1000, 1000, 0, "fails"),
    ],
)
def test_violations_of_an_upper_bound(above: int, n: int, failed: int, verdict: str) -> None:
    errors = [0.3] * above + [0.1] * (n - above)
    found = judge_upper(errors, failed, stated(0.2), 0.05)
    assert (found.verdict, found.violations) == (verdict, above + failed)
    oracle = stats.binomtest(above + failed, n + failed, 0.05, alternative="greater")
    assert found.p_value == pytest.approx(oracle.pvalue, rel=1e-9)
    limit = stats.binomtest(above + failed, n + failed, alternative="less").proportion_ci(0.99, "exact").high
    assert (verdict == "holds") == (limit <= 0.05)


def test_a_vacuous_bound_is_not_verified() -> None:
    assert judge_upper([0.1] * 500, 0, stated(1.0), 0.05).verdict == "uninformative"
    assert judge_upper([0.1] * 500, 0, stated(0.99), 0.05).verdict == "holds"
    assert judge_lower(Measured.of([0.1] * 500), stated(0.0)).verdict == "uninformative"


@pytest.mark.parametrize(
    ("bound", "failed", "verdict"),
    [
        (0.08, 0, "holds"),
        (0.1, 0, "inconclusive"),
        (0.12, 0, "fails"),
        (0.08, 1, "inconclusive"),
        (0.12, 1, "fails"),
    ],
)
def test_a_lower_bound(bound: float, failed: int, verdict: str) -> None:
    found = judge_lower(sample(200, np.random.default_rng(12), failed=failed), stated(bound))
    assert found.verdict == verdict


# --- FLOOR --------------------------------------------------------------------------------------------------

FLOOR = 0.1


def at_the_floor(random: float, factor: float = 1.0, n: int = 200, failed: int = 0) -> Measured:
    """Errors whose limit is ``factor`` times the floor and whose random part is ``random``."""
    rng = np.random.default_rng(13)
    return sample(n, rng, math.hypot(factor * FLOOR, random), failed=failed)


@pytest.mark.parametrize("random", [0.0, 0.02, 0.03])
@pytest.mark.parametrize(
    ("factor", "verdict"),
    [(1.0, "holds"), (1.15, "fails"), (1 / 1.15, "fails"), (1.05, "inconclusive"), (0.95, "inconclusive")],
)
def test_a_floor_is_the_limit_of_the_error(random: float, factor: float, verdict: str) -> None:
    found = judge_floor(at_the_floor(random, factor), stated(FLOOR), random)
    assert found.verdict == verdict, found.text
    assert found.limit == pytest.approx(factor * FLOOR, rel=0.03) and found.low < found.limit < found.high


@pytest.mark.parametrize("random", [0.032, 0.1, math.inf])
def test_a_floor_under_a_large_random_part_is_refuted_from_below_alone(random: float) -> None:
    """An error above it may still fall, so that it says nothing; there is no such excuse for one below."""
    for factor in (1.0, 1.5):
        found = judge_floor(at_the_floor(min(random, 0.1), factor), stated(FLOOR), random)
        assert found.verdict == "inconclusive" and "larger m would show it" in found.text
    below = judge_floor(at_the_floor(0.0, 0.8), stated(FLOOR), random)
    assert below.verdict == "fails", below.text


def test_a_wrong_random_part_moves_the_limit_by_no_more_than_the_tolerance() -> None:
    """At the largest random part that is taken out, none and twice as much: the limit stays within 5 %."""
    for tolerance in (0.02, 0.05, 0.1):
        largest = math.sqrt(2 * tolerance) * FLOOR
        for true in (0.0, math.sqrt(2) * largest):
            m = Measured.of([math.hypot(FLOOR, true)] * 50)
            found = judge_floor(m, stated(FLOOR), largest, tolerance)
            assert abs(found.limit / FLOOR - 1) <= tolerance * (1 + tolerance), found.text


def test_a_floor_that_says_nothing_or_was_not_reached_is_not_verified() -> None:
    assert judge_floor(at_the_floor(0.0), stated(0.0), 0.0).verdict == "uninformative"
    assert judge_floor(at_the_floor(0.0), stated(None, "not proved"), math.inf).verdict == "uninformative"
    assert judge_floor(Measured.of([0.95] * 50), stated(0.95), 0.0).verdict == "uninformative"
    assert judge_floor(Measured.of([], 7), stated(FLOOR), 0.0).verdict == "uninformative"
    assert judge_floor(Measured.of([FLOOR]), stated(FLOOR), 0.0).verdict == "inconclusive"
    assert judge_floor(at_the_floor(0.0, failed=1), stated(FLOOR), 0.0).verdict == "inconclusive"


def test_the_floor_is_judged_at_the_largest_width_and_corrupted_it_goes_red() -> None:
    """Pruning of 70 %: at m = 320 000 the random part is a tenth of the floor, at 2000 larger than it."""
    points = [make_point(m=m, defense=GradientPruning(0.7)) for m in (2_000, 320_000)]
    records = simulated_records(points, 60, scatter=0.05)
    (found,) = compare(records, kind="floor")
    assert isinstance(found, FloorResult) and found.verdict == "holds", found.text
    assert "m = 320 000" in found.series and found.floor < found.measured
    for factor in (1.15, 1 / 1.15):
        (red,) = compare(records, check=FloorCheck(), corrupt_factor=factor)
        assert red.verdict == "fails", red.text
    (narrow,) = compare(records[:60], kind="floor")
    assert narrow.verdict == "inconclusive" and narrow.n == 60
    json.dumps(found.to_dict(), allow_nan=False)


def test_exact_recovery_breaks_no_rule() -> None:
    """R = 0 in every trial: no logarithm of it, no division by it."""
    zero = Measured.of([0.0] * 9)
    assert judge_predicted(zero, stated(RMS)).verdict == "fails"
    assert judge_improvement(zero, zero, 2.0).verdict == "inconclusive"
    assert judge_improvement(at_the_floor(0.0), zero, 2.0).verdict == "inconclusive"
    assert judge_rate({1e4: zero, 2e4: zero}, -0.5).verdict == "inconclusive"
    assert judge_upper([0.0] * 500, 0, stated(0.5), 0.05).verdict == "holds"
    assert judge_lower(zero, stated(RMS)).verdict == "fails"
    assert judge_floor(zero, stated(RMS), 0.01).verdict == "fails"


def test_the_check_of_the_spectral_law_leaves_out_what_is_of_first_order() -> None:
    """d = 100, B = 2: m = 400 is below the threshold, 1300 hardly above, 4000 beyond first order, 80 000 within. Failures
    below hold, successes there refute; so do errors 1.5 times what the law says."""
    points = [make_point(d=100, m=m) for m in (400, 1300, 4_000, 80_000)]
    few, near, beyond, within = (bounds_at(p)[Kind.PREDICTED] for p in points)
    assert few.details["span_above"] < 1 < near.details["span_above"] and near.value is None
    assert beyond.value is not None and beyond.details["span_gap"] > 1 and "span_gap" not in within.details
    errors: list[list[Any]] = [[None] * 20, [None] * 20, [beyond.value] * 20, [0.05] * 20]
    told = compare(_records(points, errors), check=SpectralCheck())
    assert [type(r) for r in told] == [LostResult, RatioResult, RatioResult]
    assert [r.verdict for r in told] == ["holds", "uninformative", "holds"]
    assert "hardly stands out" in told[1].why
    errors = [[0.3] * 20, [None] * 20, [1.5 * beyond.value] * 20, [0.05] * 20]
    told = compare(_records(points, errors), check=SpectralCheck())
    assert [r.verdict for r in told] == ["fails", "uninformative", "fails"]
    assert compare(_records(points[3:], errors[3:]), check=SpectralCheck()) == []


def _records(points: list[Point], errors: list[list[Any]]) -> list[Record]:
    return [
        make_record(p, t, None if e is None else e * (1 + 1e-3 * t))
        for p, found in zip(points, errors, strict=True)
        for t, e in enumerate(found)
    ]


# --- compare: from records to results -----------------------------------------------------------------------

WIDTHS = (20_000, 40_000, 80_000, 160_000)
POINTS = [make_point(m=m, moments=moments) for m in WIDTHS for moments in ("residualized", "plain")]
RULES: tuple[Check, ...] = (PredictedCheck(), ImprovementCheck(), RateCheck("m"))
EXPERIMENT = make_experiment(POINTS, rules=RULES, trials=200)


def test_records_drawn_around_the_prediction_hold_throughout() -> None:
    results = compare(simulated_records(POINTS, 300, seed=1), EXPERIMENT)
    assert [type(r) for r in results] == [RatioResult] * 3 + [RateResult] * 2
    assert [r.verdict for r in results] == ["holds"] * 5, [r.text for r in results]
    assert ["m = 160 000" in r.series for r in results] == [True] * 3 + [False] * 2


@pytest.mark.parametrize("factor", [1.15, 1 / 1.15])
def test_negative_control_every_corrupted_bound_goes_red(factor: float) -> None:
    records = simulated_records(POINTS, 200, seed=1)
    shift = 0.25 if factor > 1 else -0.25
    results = compare(records, EXPERIMENT, corrupt_factor=factor, corrupt_exponent=shift)
    assert [r.verdict for r in results] == ["fails"] * 5, [r.text for r in results]


def test_failures_block_every_rule_they_touch() -> None:
    results = compare(simulated_records(POINTS, 300, failures=1, seed=1), EXPERIMENT)
    assert {r.verdict for r in results} == {"inconclusive"} and all(r.failed for r in results)


def test_a_point_without_records_is_undecided_and_not_left_out() -> None:
    records = [r for r in simulated_records(POINTS, 300) if r.point.m < 160_000]
    results = compare(records, EXPERIMENT)
    assert len(results) == 5 and {r.verdict for r in results} == {"inconclusive"}
    assert [r.n for r in results[:3]] == [0, 0, 0]


def test_without_an_experiment_a_kind_judges_every_point() -> None:
    records = simulated_records(POINTS, 300)
    assert len(compare(records, kind="predicted")) == len(POINTS)
    assert len(compare(records, kind=Kind.RATE)) == 2
    assert {r.verdict for r in compare(records, kind="upper")} == {"uninformative"}, (
        "no upper bound is proved yet"
    )
    assert all("not proved" in r.text for r in compare(records, kind="lower"))
    assert [type(compare(records, check=c)[0]) for c in (UpperCheck(), LowerCheck())] == [
        UpperResult,
        LowerResult,
    ]


def test_the_exponent_of_the_noise_is_judged_across_defenses() -> None:
    points = [make_point(d=20, m=1_000_000, defense=GradientNoise(s)) for s in (8.0, 4.0, 16.0)]
    (result,) = compare(simulated_records(points, 100), check=RateCheck("sigma"))
    assert isinstance(result, RateResult) and result.verdict == "holds" and result.exponent == 1.0
    (apart,) = compare(simulated_records(points, 100), check=RateCheck("sigma"), corrupt_exponent=0.25)
    assert apart.verdict == "fails"


def test_series_differ_in_one_variable_alone_and_are_sorted() -> None:
    shuffled = [POINTS[i] for i in (6, 1, 4, 3, 2, 5, 0, 7)]
    found = series(shuffled, "m")
    assert sorted(tuple(p.m for p in s) for s in found) == [WIDTHS, WIDTHS]
    assert all(len({p.attack for p in s}) == 1 for s in found)


class Unknown(Check):
    kind = Kind.UPPER


def test_compare_refuses_what_it_cannot_judge() -> None:
    records = simulated_records(POINTS[:2], 3)
    with pytest.raises(TypeError, match="check must be one of UpperCheck for upper; got"):
        compare(records, check=Unknown())
    with pytest.raises(ValueError, match="kind must be one of"):
        compare(records, kind="bound")
    with pytest.raises(ValueError, match="compare needs an experiment, or one of check and kind"):
        compare(records)
    with pytest.raises(ValueError, match="level must lie strictly between 0 and 1; got 1"):
        compare(records, kind="rate", level=1.0)
    with pytest.raises(ValueError, match=r"trial 0 at point .* is there twice"):
        compare([*records, records[0]], kind="predicted")
    with pytest.raises(ValueError, match="records must belong to experiment 'demo'; got a trial at"):
        compare([make_record(make_point(m=30_000))], EXPERIMENT)
    with pytest.raises(ValueError, match="variable 'sigma' must be a parameter of the defense"):
        compare(records, check=RateCheck("sigma"))
    with pytest.raises(ValueError, match="an ImprovementCheck needs points that differ"):
        compare(records[:3], check=ImprovementCheck())


def test_results_are_strict_json() -> None:
    for result in compare(simulated_records(POINTS, 1), EXPERIMENT):
        raw = json.loads(json.dumps(result.to_dict(), allow_nan=False))
        assert (
            raw["verdict"] == "inconclusive"
            and raw["text"] == result.text
            and raw["kind"] == result.kind.value
        )


def test_more_clients_bring_more_features_in_one_series() -> None:
    points = [make_point(B=2 * n, defense=SecureAggregation(n)) for n in (3, 1, 2)]
    (together,) = series(points, "strength")
    assert [(p.B, value_of(p, "strength")) for p in together] == [(2, 1), (4, 2), (6, 3)]
    # Where one strength comes with several batches, batches are told apart.
    several = [make_point(B=B, defense=GradientPruning(r)) for B in (2, 3) for r in (0.5, 0.7)]
    assert [[(p.B, value_of(p, "strength")) for p in s] for s in series(several, "strength")] == [
        [(2, 0.5), (2, 0.7)],
        [(3, 0.5), (3, 0.7)],
    ]
    batches = [make_point(B=B) for B in (4, 1, 2)]
    assert [[p.B for p in s] for s in series(batches, "B")] == [[1, 2, 4]]


def test_the_strength_of_dp_sgd_is_its_noise_and_a_defense_without_parameters_has_none() -> None:
    assert value_of(make_point(defense=DPSGD(1.0, 0.003)), "strength") == 0.003
    with pytest.raises(ValueError, match="'strength' must be a parameter of the defense"):
        value_of(make_point(), "strength")


def test_the_rate_of_dp_sgd_does_not_fall_with_the_width() -> None:
    """|G| grows as sqrt(m): the exponent of m is 0, that of d one half."""
    rate = expression(DPSGD, Kind.RATE)
    assert rate_exponent(rate, SYMBOLS["m"]) == pytest.approx(0, abs=1e-12)
    assert rate_exponent(rate, SYMBOLS["d"]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "changes",
    [
        {"activation": "tanh", "attack": TensorAttack(contraction="random")},
        {"labels": (0.39894228040143265, -1.0)},  # E relu(Z): the first residual vanishes
    ],
    ids=["random contraction", "vanishing residual"],
)
def test_no_rate_is_judged_where_none_is_stated(changes: dict[str, Any]) -> None:
    points = [replace(make_point(m=m), **changes) for m in (20_000, 80_000)]
    why = bounds_at(points[0])[Kind.RATE].why
    records = [make_record(p, t, 0.1 * (20_000 / p.m) ** 0.5 + 0.001 * t) for p in points for t in range(30)]
    (found,) = compare(records, check=RateCheck("m"))
    assert isinstance(found, RateResult) and found.verdict == "uninformative"
    assert math.isnan(found.exponent) and why and why in found.text
    figure = plot(records)
    texts = [t.get_text() for legend in figure.legends for t in legend.get_texts()]
    assert "RATE: 1 uninformative" in texts and not any("slope" in t for t in texts)  # no guide of one


def test_every_parameter_of_a_defense_can_be_varied() -> None:
    """Points, verdicts and figures ask the defense which parameters it has."""
    points = [make_point(defense=StochasticRounding(s)) for s in (4.0, 1.0, 2.0)]
    (together,) = series(points, "step")
    assert [value_of(p, "step") for p in together] == [1.0, 2.0, 4.0]
    records = [make_record(p, t, 0.05 * p.defense.step + 1e-4 * t) for p in points for t in range(20)]  # type: ignore[attr-defined]
    (found,) = compare(records, check=RateCheck("step"))
    assert isinstance(found, RateResult) and found.variable == "step" and "step" not in found.series
    assert math.isfinite(found.exponent)
    figure = plot(records, x="step")
    assert figure.axes[1].get_xlabel() == "step"
    plain = make_point(moments="plain", defense=NoDefense())
    assert len(series([plain, make_point()], "moments")) == 1
    assert [len(s) for s in series([plain, make_point()], "contraction")] == [1, 1]
    with pytest.raises(ValueError, match=r"variable must be one of m, d, .*; got 'p'"):
        RateCheck("p")  # a share does not grow


def test_an_attack_is_judged_by_its_own_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Faster(AttackSpec):
        name: ClassVar[str] = "faster"

    rate = Bound(
        Kind.RATE,
        "falls like 1/m",
        "nobody",
        "exponents of R",
        (),
        lambda defense, setting, attack, delta: (setting.d / setting.m, {}),
        SYMBOLS["d"] / SYMBOLS["m"],
    )
    monkeypatch.setitem(THEORY, Faster, (rate,))  # type: ignore[arg-type]
    monkeypatch.setattr(bounds, "ATTACKS", (*bounds.ATTACKS, Faster))
    points = [replace(make_point(m=m), attack=Faster()) for m in (20_000, 80_000)]
    rng = np.random.default_rng(0)
    records = [
        make_record(p, t, float(e))
        for p in points
        for t, e in enumerate(simulated_errors(2_000 / p.m, 100, 0.05, rng))
    ]
    (found,) = compare(records, kind=Kind.RATE)
    assert isinstance(found, RateResult) and found.exponent == -1 and found.verdict == "holds"


@pytest.mark.parametrize("family", DEFENSES)
def test_a_series_varies_any_parameter_that_a_defense_has(family: type[Defense]) -> None:
    """By its name, without a list of them anywhere."""
    for parameter in family.parameters():
        try:
            members = [family(**{parameter.name: value}) for value in parameter.grid]
        except ValueError:
            continue  # not without another one
        points = [make_point(defense=d) for d in members]
        (together,) = series(points, parameter.name)
        assert [value_of(p, parameter.name) for p in together] == sorted(parameter.grid)
