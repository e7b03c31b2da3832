"""LIMIT: numbers computed before by other code, its limits in closed form, the free entropy by other means, the judge."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import scipy
from synthetic_records import make_point, make_record, simulated_errors

from bounds import (
    ACTIVATIONS,
    DPSGD,
    SYMBOLS,
    Dropout,
    GradientClipping,
    GradientNoise,
    GradientPruning,
    Kind,
    LikelihoodAttack,
    LocalAggregation,
    MessagePassing,
    NoDefense,
    NoisyPruning,
    Setting,
    UnsupportedBound,
    evaluate,
    expression,
    resolve_activation,
)
from bounds.arrays import Array
from bounds.density import Clamped, Density, Masked, Plain, Rounded, Signs
from bounds.gaussian.activations import Activation
from bounds.kinds.limit import optimal, state_evolution
from bounds.kinds.limit.channel import Channel
from bounds.kinds.limit.entries import Censored, sampled
from bounds.kinds.limit.optimal import LARGEST_ALPHA, free_entropy_gain, limit
from bounds.kinds.limit.state_evolution import gains, mean_information
from bounds.kinds.limit.thresholds import thresholds
from verify import compare
from verify.judge.base import bounds_at
from verify.judge.limit import ReachedCheck, finite
from verify.measure.record import Record

RELU, GELU = ACTIVATIONS["relu"], ACTIVATIONS["gelu"]
C = 1 / np.sqrt(2 * np.pi)
RESIDUALS = np.array([C - 1, C + 1])


def channel(
    alpha: float,
    density: Density,
    residuals: Array = RESIDUALS,
    gram: Array | None = None,
    activation: Activation = RELU,
) -> Channel:
    return Channel(alpha, np.eye(len(residuals)) if gram is None else gram, residuals, activation, density)


# --- values -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sigma", "alpha", "error"), [(1.0, 100, 0.224), (0.5, 5, 0.543), (0.5, 20, 0.265)])
def test_numbers_computed_before(sigma: float, alpha: int, error: float) -> None:
    """By other code, to three digits. Two scramblings of 1024 entries: about half a per cent."""
    found = evaluate(GradientNoise(sigma=sigma), Setting.orthonormal(100, 100 * alpha, 2))
    assert found.limit == pytest.approx(error, rel=0.015)
    parts = found[Kind.LIMIT].details
    assert parts["passing"] == found.limit == parts["limit"] and parts["gap"] == 0
    assert expression(GradientNoise, Kind.LIMIT).subs(SYMBOLS["limit"], parts["limit"]) == found.limit
    assert parts["alpha"] == alpha and parts["numerical"] < 0.02 * error


@pytest.mark.parametrize(("ratio", "error"), [(0.0, 0.021), (0.5, 0.026), (0.9, 0.085), (0.97, 0.26)])
def test_noise_then_pruning(ratio: float, error: float) -> None:
    """sigma = .1, alpha = 100, by other code whose threshold was that of 2048 entries: 5 per cent."""
    found = evaluate(NoisyPruning(sigma=0.1, ratio=ratio), Setting.orthonormal(100, 10_000, 2))
    assert found.limit == pytest.approx(error, rel=0.05)


def test_much_noise_leaves_nothing() -> None:
    assert limit(channel(10, Plain(sigma=100.0))).error == pytest.approx(1.0, abs=2e-3)


def test_with_many_neurons_it_is_cramer_rao() -> None:
    """``R^2 -> tr I^-1 / (alpha B)`` with the Fisher information of one entry, here of GELU and correlated features of
    unequal norms by quadrature; terms of order 1/alpha and two scramblings of 1024 entries: 2 per cent."""
    gram, r, sigma, alpha = np.array([[1.0, 0.6], [0.6, 1.4]]), np.array([0.8, -1.3]), 0.3, 3e4
    x, w = np.polynomial.hermite_e.hermegauss(60)
    z = np.stack(np.meshgrid(x, x, indexing="ij"), axis=-1).reshape(-1, 2) @ np.linalg.cholesky(gram).T
    slopes = r * (scipy.special.ndtr(z) + z * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi))
    information = (slopes.T * np.outer(w, w).ravel() / w.sum() ** 2) @ slopes / sigma**2
    expected = math.sqrt(np.trace(np.linalg.inv(information)) / alpha / 2)
    found = limit(channel(alpha, Plain(sigma=sigma), r, gram, GELU))
    assert found.error == pytest.approx(expected, rel=0.02)
    assert found.error != pytest.approx(1.1 * expected, rel=0.02)


# --- channels -----------------------------------------------------------------------------------------------------------


def test_one_mask_takes_neurons_away_and_nothing_else() -> None:
    masked = evaluate(Dropout(p=0.5, per_sample=False), Setting.orthonormal(100, 300, 1))
    fewer = evaluate(NoDefense(), Setting.orthonormal(100, 150, 1))
    assert masked.limit == fewer.limit
    assert masked.limit is not None and 0.2 < masked.limit < 0.9
    assert masked.limit != evaluate(NoDefense(), Setting.orthonormal(100, 300, 1)).limit


@pytest.mark.parametrize("v", [0.3, 0.01])
def test_a_mask_that_is_not_seen_tells_less_than_one_that_is(v: float) -> None:
    """Zeros of ReLU and of masks are not told apart; and the blur of entries without noise tells nothing of them."""
    one, V = np.ones(1), np.array([[v]])
    known = {}
    for density in (Masked(p=0.5), Plain()):
        entries = sampled(np.eye(1), one, RELU, density, 2**10)
        known[type(density)] = mean_information(np.eye(1), V, one, RELU, density, entries, 60)[0, 0]
    assert 0.5 * known[Plain] < 2 * known[Masked] < known[Plain]


def test_what_concentrates_takes_the_place_of_what_couples() -> None:
    setting = Setting.orthonormal(50, 5_000, 2)
    plain = Channel.of(NoDefense(), setting)
    whole = Channel.of(GradientClipping(max_norm=1.0), setting)
    assert np.array_equal(whole.residuals, plain.residuals) and whole.density == plain.density == Plain()
    private = DPSGD(max_norm=1.0, noise_multiplier=0.01, per_sample=False)
    assert Channel.of(private, setting).density == Plain(sigma=private.effective_noise(setting))
    clipped = DPSGD(max_norm=10.0, noise_multiplier=0.01)
    assert Channel.of(clipped, setting).density == Plain(sigma=0.1)
    assert np.ptp(np.abs(Channel.of(clipped, setting).residuals)) == pytest.approx(0, abs=1e-12)
    steps = LocalAggregation(steps=5, lr_times_m=0.1)
    assert np.array_equal(Channel.of(steps, setting).residuals, steps.effective_residuals(setting))
    pruned = Channel.of(GradientPruning(ratio=0.9), setting).density
    assert isinstance(pruned, Censored)
    rng = np.random.default_rng(0)
    clean = np.maximum(rng.standard_normal((200_000, 2)), 0) @ setting.residuals
    assert pruned.threshold == pytest.approx(np.quantile(np.abs(clean), 0.9), rel=0.01)


def test_edges_tell_as_much_as_they_are_wide() -> None:
    """Of rounding the error falls as 1/alpha, and what is scaled agrees with what is summed over 16 times as many entries:
    6 per cent, as few of them lie near the edge."""
    rounded = Rounded(step=1.0)
    first, second = (limit(channel(alpha, rounded, np.array([1.0]))) for alpha in (100, 1000))
    assert 10 * second.error == pytest.approx(first.error, rel=0.1)
    V, one = np.array([[4e-4]]), np.ones(1)
    sums = []
    for edge in (0.1, 1e-3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(state_evolution, "EDGE", edge)
            many = sampled(np.eye(1), one, RELU, Signs(), 2**14)
            sums.append(mean_information(np.eye(1), V, one, RELU, Signs(), many, 60)[0, 0])
    assert sums[0] == pytest.approx(sums[1], rel=0.06)


def between_edges(alpha: float, top: float) -> float:
    """The error of the best estimator to whom z below 0 and above ``top`` are half lines, and known between: the fixed point
    ``v = 1/(1 + alpha E g^2)`` by sums over a fine grid. For top = 0 this is the noiseless perceptron."""
    x = np.linspace(-10, 10, 20_001)
    weights = np.exp(-(x**2) / 2) * (x[1] - x[0]) / math.sqrt(2 * math.pi)

    def excess(log: float) -> float:
        v = math.exp(log)
        low, high = (end / math.sqrt(v) - x * math.sqrt((1 - v) / v) for end in (0.0, top))
        phi = [np.exp(-(edge**2) / 2) / math.sqrt(2 * math.pi) for edge in (low, high)]
        below = np.exp(-(low**2) - scipy.special.log_ndtr(low)) / (2 * math.pi)
        above = np.exp(-(high**2) - scipy.special.log_ndtr(-high)) / (2 * math.pi)
        inside = scipy.special.ndtr(high) - scipy.special.ndtr(low) - high * phi[1] + low * phi[0]
        return log + math.log1p(alpha * float(weights @ (below + above + inside)) / v)

    return math.exp(scipy.optimize.brentq(excess, -25, -1e-6) / 2)


@pytest.mark.parametrize("alpha", [3.0, 6.0])
def test_edges_without_noise_are_those_of_a_closed_form(alpha: float) -> None:
    """ReLU, clamped at .3: 0 below, known between, cut above. 4096 entries, lines' bias extrapolated: 1 per cent. Entries
    of 0 that were blurred next to the edge came out 5 to 10 per cent lower, and 'numerical' said less."""
    found = limit(channel(alpha, Clamped(limit=0.3), np.ones(1)))
    wanted = between_edges(alpha, 0.3)
    assert found.error == pytest.approx(wanted, rel=0.01)
    assert abs(found.error - wanted) < 2 * found.numerical < 0.06 * wanted


@pytest.mark.parametrize("alpha", [20, 400])
def test_signs_of_one_rectified_feature_are_those_of_the_feature(alpha: float) -> None:
    """A sign of 0 is an atom: together with the other it is the sign of z, the noiseless perceptron. 4096 entries: half a
    per cent, where half lines that leave the atom out have half as much again."""
    found = limit(channel(alpha, Signs(), np.array([-1.3])))
    assert found.error == pytest.approx(between_edges(alpha, 0.0), rel=0.005)
    assert found.error != pytest.approx(between_edges(0.97 * alpha, 0.0), rel=0.005)


def test_signs_of_two_rectified_features_have_the_posterior_of_a_fine_grid() -> None:
    """Signs +, -, 0 and V in general position: the mean of the points of a fine grid that explain a sign. The corner of the
    orthant falls between two of 14 lines: .015 of a spread of .6."""
    V, omega = np.array([[0.5, 0.15], [0.15, 0.3]]), np.array([[0.2, -0.1]] * 3)
    r, seen = np.array([-0.6, 1.4]), np.array([1.0, -1.0, 0.0])
    axis = np.linspace(-5, 5, 1001)
    xi = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    z = omega[0] + xi @ np.linalg.cholesky(V).T
    weights, signs = np.exp(-np.sum(xi**2, axis=1) / 2), np.sign(np.maximum(z, 0) @ r)
    wanted = np.stack([np.average(z[signs == y], axis=0, weights=weights[signs == y]) for y in seen])
    found = omega + gains(seen, omega, V, r, RELU, Signs(), 60) @ V
    np.testing.assert_allclose(found, wanted, atol=0.02)
    assert np.abs(wanted[2] - wanted[:2]).max() > 0.3


def test_signs_of_what_rests_and_falls_are_refused() -> None:
    bump = Activation("bump", lambda t: np.maximum(t, 0) * np.exp(-np.maximum(t, 0)), kinks=(0.0,))
    with pytest.raises(UnsupportedBound, match="falls somewhere"):
        limit(channel(20, Signs(), np.array([1.0]), activation=bump))


def test_vanishing_residuals_leave_the_features_unknown() -> None:
    """What is left of the other is what one feature alone has."""
    both = limit(channel(20, Plain(sigma=0.5), np.array([0.0, 1.2])))
    alone = limit(channel(20, Plain(sigma=0.5), np.array([1.2])))
    assert both.error == pytest.approx(math.sqrt((1 + alone.error**2) / 2), rel=0.005)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (Setting.orthonormal(20, 4_000, 7), "B is 7"),
        (Setting.from_features(np.ones((2, 4)) / 2, [1.0, -1.0], m=400), "linearly dependent"),
        (Setting.orthonormal(2, int(3 * LARGEST_ALPHA), 2), "m/d is 1.5e"),
    ],
)
def test_where_nothing_is_computed_a_reason_is_told(setting: Setting, message: str) -> None:
    found = evaluate(NoDefense(), setting)[Kind.LIMIT]
    assert found.value is None and message in found.why
    with pytest.raises(UnsupportedBound, match="every residual vanishes"):
        limit(channel(10, Plain(), np.zeros(2)))


def test_a_value_is_computed_once_for_all_that_leave_the_same_channel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = evaluate(GradientNoise(sigma=0.5), Setting.orthonormal(100, 2_000, 1)).limit
    monkeypatch.setattr(optimal, "state_evolution", None)
    for d, m in ((100, 2_000), (50, 1_000)):
        again = evaluate(GradientNoise(sigma=0.5), Setting.orthonormal(d, m, 1), LikelihoodAttack())
        assert again.limit == known


# --- selection ----------------------------------------------------------------------------------------------------------


def test_free_entropy_is_that_of_the_definition() -> None:
    """One feature, ReLU: ``(1 - v + log v)/2 + alpha E log p(y | omega, v)`` at two v, by quadrature over z and sums over a
    fine grid of y. The path's 256 entries: 2 per cent of the part with alpha."""
    alpha, sigma, r = 6.0, 0.4, 1.1
    x, w = np.polynomial.hermite_e.hermegauss(80)
    w = w / w.sum()
    y = np.linspace(-3, 6, 1801)

    def f(v: float) -> float:
        total = 0.0
        for point, weight in zip(x, w, strict=True):
            z = math.sqrt(1 - v) * point + math.sqrt(v) * x
            off = (y - r * np.maximum(z, 0)[:, None]) / sigma
            p = w @ np.exp(-(off**2) / 2) / (sigma * math.sqrt(2 * math.pi))
            total += weight * float(np.sum(p * np.log(np.maximum(p, 1e-300)))) * (y[1] - y[0])
        return (1 - v + math.log(v)) / 2 + alpha * total

    one = channel(alpha, Plain(sigma=sigma), np.array([r]))
    gain = free_entropy_gain(one, np.array([[0.1]]), np.array([[0.9]]))
    expected = f(0.1) - f(0.9)
    assert gain == pytest.approx(expected, abs=0.02)
    assert abs(expected) > 0.1


def test_where_fixed_points_differ_the_free_entropy_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Squares of one feature with little noise, between the thresholds: message passing stays, the best estimator does not;
    with a little fewer neurons both stay. 512 entries find the fixed points; with half as many the free entropies, .015
    apart, are not told."""
    monkeypatch.setattr(optimal, "ROUGH", (2**9, 2**8))
    square = resolve_activation("z**2")
    gap = limit(channel(1.1, Plain(sigma=1e-3), np.ones(1), activation=square))
    assert gap.error < 0.2 < 0.3 < gap.passing and gap.gain > 0
    none = limit(channel(0.7, Plain(sigma=1e-2), np.ones(1), activation=square))
    assert none.error == none.passing > 0.3


def test_features_that_enter_alike_are_told_apart() -> None:
    """From equal starts both would share what is known of either for ever."""
    alike = np.array([1.2, 1.2])
    assert (
        channel(20, Plain(sigma=0.3), alike).exchangeable and not channel(20, Plain(sigma=0.3)).exchangeable
    )
    found = limit(channel(20, Plain(sigma=0.3), alike))
    assert found.error < 0.3


# --- thresholds ---------------------------------------------------------------------------------------------------------


def test_thresholds_of_squares_are_those_of_the_literature() -> None:
    """Real phase retrieval: 1 and 1.13 (Barbier et al. 2019, arXiv 1708.03395)."""
    found = thresholds(resolve_activation("z**2"), [1.0], draws=2**11)
    assert found.information == pytest.approx(1.0, abs=1e-3)
    assert found.algorithm == pytest.approx(1.13, abs=0.02)
    assert found.error > 0.3


def test_relu_has_no_gap() -> None:
    """One entry in two tells a number: 2, and by message passing too."""
    found = thresholds(RELU, [1.0], draws=2**10)
    assert found.information == found.algorithm == pytest.approx(2.0, abs=0.01) and found.error == 0
    with pytest.raises(ValueError, match="without noise"):
        thresholds(RELU, [1.0], density=Plain(sigma=0.1))


@pytest.mark.parametrize(("alpha", "exact"), [(1.4, False), (3.0, True)])
def test_around_the_threshold(alpha: float, exact: bool) -> None:
    assert (limit(channel(alpha, Plain(), np.ones(1))).error == 0) == exact


# --- judge --------------------------------------------------------------------------------------------------------------


def records(attack: MessagePassing | LikelihoodAttack, factor: float, failures: int = 0) -> list[Record]:
    """40 trials of scatter .05 around the limit of a point: its interval is 2 per cent to either side."""
    point = make_point(d=100, m=2_000, B=1, defense=GradientNoise(0.5))
    point = dataclasses.replace(point, attack=attack)
    value = bounds_at(point).limit
    assert value is not None
    errors = simulated_errors(factor * value, 40, 0.05, np.random.default_rng(0))
    return [make_record(point, t, None if t < failures else float(e)) for t, e in enumerate(errors)]


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.5, "holds"), (1.0, "holds"), (0.95, "inconclusive"), (0.85, "fails")]
)
def test_no_attack_is_below_the_limit(factor: float, verdict: str) -> None:
    (found,) = compare(records(LikelihoodAttack(), factor), kind="limit")
    assert found.verdict == verdict and "limit" in found.text


def test_a_limit_too_large_is_refuted() -> None:
    (found,) = compare(records(LikelihoodAttack(), 1.0), kind="limit", corrupt_factor=1.3)
    assert found.verdict == "fails"
    (failed,) = compare(records(LikelihoodAttack(), 1.2, failures=1), kind="limit")
    assert failed.verdict == "inconclusive"


def test_message_passing_is_asked_from_both_sides() -> None:
    check = ReachedCheck()
    assert compare(records(LikelihoodAttack(), 1.0), check=check) == []
    verdicts = {
        factor: compare(records(MessagePassing(), factor), check=check)[0].verdict
        for factor in (0.85, 1.0, 1.2)
    }
    assert verdicts == {0.85: "fails", 1.0: "holds", 1.2: "fails"}


def test_what_finite_dimension_allows() -> None:
    point = make_point(d=100, B=3)
    assert finite(point) == 0.01


def test_prediction_is_not_asked_of_attacks_that_have_none() -> None:
    assert compare(records(MessagePassing(), 1.0), kind="predicted") == []
