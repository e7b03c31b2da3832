"""The first-order prediction: closed forms, brute force in place of the pair table, a real minimiser in place of the
solution map, and the laws it has to obey."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sympy as sp
from helpers import EVEN, Array, correlated, labels, power, problems, rotation, symmetric
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from attack.tensor.decompose import decompose
from bounds import (
    ACTIVATIONS,
    Activation,
    Dropout,
    GradientNoise,
    GradientPruning,
    Kind,
    NoDefense,
    Setting,
    StochasticRounding,
    TensorAttack,
    evaluate,
)
from bounds.gaussian.quadrature import gaussian_rule
from bounds.gaussian.symmetric import symmetrised
from bounds.kinds.fit_model import solution, solution_map
from bounds.kinds.pairs import PairTable
from bounds.kinds.predicted.elementwise import elementwise_error
from bounds.kinds.predicted.unbiased import _activation_scatter, first_order
from bounds.law import Unbiased

PLAIN = TensorAttack(moments="plain")
RESIDUALIZED = TensorAttack()


def setting_of(X: Array, y: Any, activation: str = "gelu", m: int = 10_000) -> Setting:
    return Setting.from_features(X, y, m, activation)


def noisy_channel(setting: Setting, variance: float) -> Unbiased:
    return Unbiased(setting.residuals, variance)


# --- closed forms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("y", [(1.0, -1.0), (-0.3, 2.0)])
def test_orthonormal_relu_pair_in_closed_form(y: tuple[float, float]) -> None:
    """E[g^2 (z.A^-1 u_i)^2] = (3/2 r_i^2 + 4 c^2 r_i r_l + r_l^2 / 2) / (r_i c)^2 with c = mu_2 = 1/sqrt(2 pi)."""
    c = 1 / math.sqrt(2 * math.pi)
    r = c - np.array(y)
    found = first_order(Setting.orthonormal(50, 1000, 2, labels=y), PLAIN).orthogonal
    expected = (1.5 * r**2 + 4 * c**2 * r * r[::-1] + 0.5 * r[::-1] ** 2) / (r * c) ** 2
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_orthonormal_relu_pair_with_noise() -> None:
    """Noise adds sigma^2 E[(z.A^-1 u_i)^2] = sigma^2 / (r_i mu_2)^2; d = 100,
    m = 160 000: 0.0882, and 0.1817 at sigma = 2."""
    setting = Setting.orthonormal(100, 160_000, 2)
    quiet, noisy = first_order(setting, PLAIN), first_order(setting, PLAIN, noisy_channel(setting, 4.0))
    c = 1 / math.sqrt(2 * math.pi)
    np.testing.assert_allclose(
        noisy.orthogonal - quiet.orthogonal, 4 / (setting.residuals * c) ** 2, rtol=1e-10
    )
    for defense, expected in ((NoDefense(), 0.0882), (GradientNoise(sigma=2.0), 0.1817)):
        found = evaluate(defense, setting, PLAIN)[Kind.PREDICTED].details["orthogonal"]
        assert found == pytest.approx(expected, abs=5e-5)


def test_one_relu_feature_residualized() -> None:
    """B = 1: K = E[h(Z)^2 Z^2] / mu_2^2 with h = sigma - mu_0 - mu_1 Z; for ReLU h = |Z|/2 - mu_0 and
    E h^2 Z^2 = 3/4 - 2 mu_0^2 + mu_0^2 (E|Z|^3 = 2 sqrt(2/pi) = 4 mu_0)."""
    c = 1 / math.sqrt(2 * math.pi)
    found = first_order(Setting.orthonormal(50, 1000, 1), RESIDUALIZED)
    np.testing.assert_allclose(found.orthogonal, [(0.75 - 4 * c**2 + c**2) / c**2], rtol=1e-11)
    np.testing.assert_array_equal(found.inplane, [0.0])


# --- the pair table against brute force -------------------------------------------------------------------------------


def response(setting: Setting, z: Array, residualized: bool) -> Array:
    """h_2 and h_q at coordinates z (N, B), from their definition: (2, N)."""
    t = z @ setting.directions.T
    norms, r = setting.norms, setting.residuals
    raw = setting.activation(t * norms)
    if not residualized:
        return np.stack([raw @ r] * 2)
    c = np.array([[setting.activation.coefficient(k, n) for n in norms] for k in range(3)])
    once = raw - c[0] - c[1] * t
    return np.stack([once @ r, (once - c[2] * (t**2 - 1) / 2) @ r])


def wick(tensor: Array, z: Array) -> Array:
    """<tensor, He_k(z)> for a symmetric tensor with k axes and points (N, B), by subtracting traces."""
    identity = np.eye(z.shape[1])
    if tensor.ndim == 1:
        return z @ tensor
    if tensor.ndim == 2:
        return np.einsum("ab,na,nb->n", tensor, z, z) - np.trace(tensor)
    if tensor.ndim == 3:
        return np.einsum("abc,na,nb,nc->n", tensor, z, z, z) - 3 * z @ np.einsum("aab->b", tensor)
    trace = np.einsum("abcd,cd->ab", tensor, identity)
    power = np.einsum("abcd,na,nb,nc,nd->n", tensor, z, z, z, z, optimize=True)
    return power - 6 * np.einsum("ab,na,nb->n", trace, z, z) + 3 * np.trace(trace)


def grid(B: int) -> tuple[Array, Array]:
    """Points (40^B, B) and weights of a Gauss-Hermite rule for the standard normal distribution in B dimensions."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    z = np.stack(np.meshgrid(*[nodes] * B, indexing="ij"), axis=-1).reshape(-1, B)
    return z, power(weights / math.sqrt(2 * math.pi), B).ravel()


@pytest.mark.parametrize("activation", ["gelu", "z2z3"])
@pytest.mark.parametrize("residualized", [False, True])
def test_second_moments_on_a_full_grid(residualized: bool, activation: str) -> None:
    """B = 3, smooth: every Gaussian integral once more on a grid of 40^3 Gauss-Hermite points."""
    setting = setting_of(correlated(3, 8, norms=(1.0, 0.8, 1.2)), [1.0, -1.0, -0.4], activation)
    z, w = grid(3)
    h = response(setting, z, residualized)
    rng = np.random.default_rng(0)
    for order in (3, 4):
        table = PairTable.build(setting, residualized, (2, order), setting.directions)
        tensors = {k: np.stack([symmetric(3, k, rng) for _ in range(2)]) for k in (1, 2, order)}
        for p, q, a, b in (
            (0, 0, 1, 1),
            (0, 0, 2, 2),
            (0, 1, 2, order),
            (1, 1, order, order),
            (1, 0, order, 2),
        ):
            found = table.second_moment(p, q, tensors[a], tensors[b])
            expected = [
                w @ (h[p] * h[q] * wick(left, z) * wick(right, z))
                for left, right in zip(tensors[a], tensors[b], strict=True)
            ]
            np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9, err_msg=str((order, p, q)))


@pytest.mark.parametrize(("activation", "B"), [("relu", 3), ("elu", 4)])
def test_second_moments_by_sampling(activation: str, B: int) -> None:
    """Kinked activations against 200 000 samples (seed 1), within five standard errors. For squares these are below 12 % of
    the value, and a wrong combinatorial factor (off by 1/6 or more) cannot pass. The samples are spread out by a factor
    1.6 and weighted accordingly: polynomials of degree 10 live in the tails."""
    setting = setting_of(correlated(B, 9, norms=np.linspace(0.8, 1.2, B)), labels(B), activation)
    order = setting.activation.core_order
    assert order is not None
    rng = np.random.default_rng(1)
    spread = 1.6
    z = spread * rng.standard_normal((200_000, B))
    density = spread**B * np.exp(-np.sum(z**2, axis=1) * (1 - spread**-2) / 2)
    h = response(setting, z, True)
    table = PairTable.build(setting, True, (2, order), setting.directions)
    powers = {k: np.stack([power(u, k) for u in setting.directions]) for k in (2, order)}
    for p, q, a, b in ((0, 0, 2, 2), (0, 1, 2, order), (1, 1, order, order)):
        right = 0 if a == b else 1
        samples = density * h[p] * h[q] * wick(powers[a][0], z) * wick(powers[b][right], z)
        error = samples.std() / math.sqrt(len(samples))
        found = table.second_moment(p, q, powers[a][:1], powers[b][right : right + 1])[0]
        assert a != b or 5 * error < 0.12 * found
        assert found == pytest.approx(samples.mean(), abs=5 * error)


@pytest.mark.parametrize(("activation", "order"), [("gelu", 4), ("z2z3", 3)])
@pytest.mark.parametrize("residualized", [False, True])
def test_the_constants_on_a_full_grid(activation: str, order: int, residualized: bool) -> None:
    """B = 3, unequal norms, noise of variance 0.7: both constants from their definition, cross terms and all."""
    setting = setting_of(correlated(3, 8, norms=(1.0, 0.8, 1.2)), [-1.0, -2.0, -0.4], activation)
    attack = TensorAttack(moments="residualized" if residualized else "plain")
    z, w = grid(3)
    h = response(setting, z, residualized)
    u, norms = setting.directions, setting.norms
    c2, cq = (np.array([setting.activation.coefficient(k, n) for n in norms]) for k in (2, order))
    alpha = setting.residuals * c2
    a = u @ np.linalg.inv((u.T * alpha) @ u)
    orthogonal = [w @ ((h[0] ** 2 + 0.7) * (z @ row) ** 2) for row in a]
    left, right = solution_map(u, alpha, cq / c2, (2, order), attack.weight(order))
    moves = [(wick(two, z), wick(core, z)) for two, core in zip(left, right, strict=True)]
    rows = [w @ ((h[0] * two + h[1] * core) ** 2 + 0.7 * (two + core) ** 2) for two, core in moves]
    found = first_order(setting, attack, noisy_channel(setting, 0.7))
    np.testing.assert_allclose(found.orthogonal, norms**2 * orthogonal, rtol=1e-7)
    np.testing.assert_allclose(found.inplane, norms**2 * np.reshape(rows, (3, 2)).sum(axis=1), rtol=1e-7)


# --- the solution map against a minimiser -----------------------------------------------------------------------------


@pytest.mark.parametrize(("order", "B"), [(3, 2), (4, 2), (3, 4), (4, 3)])
def test_the_solution_map_is_the_derivative_of_the_fit(order: int, B: int) -> None:
    """Displacements of fitted directions under small changes of both moments, by central differences. Their size is of
    order 1, the error of the differences about 1e-6."""
    rng = np.random.default_rng(3)
    u = Setting.from_features(correlated(B, B, 1), np.ones(B), 100).directions
    alpha = rng.uniform(0.5, 1.5, B) * labels(B)
    ratio, omega, step = rng.uniform(0.6, 1.4, B), 0.4, 1e-4
    powers = [np.stack([power(v, k) for v in u]) for k in (2, order)]
    moments = [np.tensordot(alpha, powers[0], 1), np.tensordot(alpha * ratio, powers[1], 1)]
    left, right = solution_map(u, alpha, ratio, (2, order), omega)
    for _ in range(3):
        change = [symmetric(B, 2, rng) / 10, symmetric(B, order, rng) / 10]
        moved = []
        for sign in (1, -1):
            second, core = (a + sign * step * b for a, b in zip(moments, change, strict=True))
            moved.append(decompose(second, core, ratio, omega, 1, rng, u).directions)
        displacement = (moved[0] - moved[1]) / (2 * step)
        rows = np.tensordot(left, change[0], 2) + np.tensordot(right, change[1], order)
        found = np.sqrt(np.sum(rows.reshape(B, B - 1) ** 2, axis=1))
        np.testing.assert_allclose(found, np.linalg.norm(displacement, axis=1), rtol=1e-5)


def test_the_solution_map_gives_directions_too() -> None:
    """B = 2: there is one tangent direction, so the signed displacement can be compared."""
    u = Setting.from_features(correlated(2, 2, 1, 0.7), np.ones(2), 100).directions
    alpha, ratio = np.array([1.0, -0.6]), np.array([-0.9, -0.9])
    left, right = solution_map(u, alpha, ratio, (2, 4), 1 / 12)
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    eps = 1e-6  # turning the first direction changes the moments; the map must give that turn back
    turned = u[0] * math.cos(eps) + turn @ u[0] * math.sin(eps)
    second = alpha[0] * (np.outer(turned, turned) - np.outer(u[0], u[0])) / eps
    core = alpha[0] * ratio[0] * (power(turned, 4) - power(u[0], 4)) / eps
    found = np.tensordot(left, second, 2) + np.tensordot(right, core, 4)
    np.testing.assert_allclose(np.abs(found), [1.0, 0.0], atol=1e-5)


# --- laws -------------------------------------------------------------------------------------------------------------


@settings(max_examples=12)
@given(problems(), st.integers(0, 100), st.sampled_from(["gelu", "z2z3"]), st.booleans())
def test_rotations_change_nothing(
    problem: tuple[Array, Array], seed: int, activation: str, plain: bool
) -> None:
    X, y = problem
    attack = PLAIN if plain else RESIDUALIZED
    one = first_order(setting_of(X, y, activation), attack)
    other = first_order(setting_of(X @ rotation(6, seed), y, activation), attack)
    np.testing.assert_allclose(one.orthogonal, other.orthogonal, rtol=1e-8)
    np.testing.assert_allclose(one.inplane, other.inplane, rtol=1e-7)


@settings(max_examples=12)
@given(problems(), st.randoms(use_true_random=False), st.sampled_from(["relu", "elu"]))
def test_permutations_carry_over(problem: tuple[Array, Array], random: Any, activation: str) -> None:
    X, y = problem
    order = list(range(len(y)))
    random.shuffle(order)
    here, there = setting_of(X, y, activation), setting_of(X[order], y[order], activation)
    one = first_order(here, RESIDUALIZED, noisy_channel(here, 0.3))
    other = first_order(there, RESIDUALIZED, noisy_channel(there, 0.3))
    np.testing.assert_allclose(one.orthogonal[order], other.orthogonal, rtol=1e-8)
    np.testing.assert_allclose(one.inplane[order], other.inplane, rtol=1e-7)


@settings(max_examples=12)
@given(problems(), st.floats(0, 5), st.floats(0, 5))
def test_noise_enters_by_its_variance(problem: tuple[Array, Array], one: float, other: float) -> None:
    """Both constants are affine and increasing in sigma^2."""
    assume(abs(one - other) > 1e-3)
    setting = setting_of(*problem)
    low, high = sorted((one, other))
    at = {
        v: first_order(setting, RESIDUALIZED, noisy_channel(setting, v)) for v in (0.0, 1.0, low**2, high**2)
    }
    for part in ("orthogonal", "inplane"):
        base, unit = getattr(at[0.0], part), getattr(at[1.0], part) - getattr(at[0.0], part)
        assert np.all(unit > 0)
        np.testing.assert_allclose(getattr(at[low**2], part), base + low**2 * unit, rtol=1e-9)
        assert np.all(getattr(at[high**2], part) > getattr(at[low**2], part))


@given(st.integers(3, 10**7), st.floats(0, 10))
def test_the_error_falls_like_one_over_the_root_of_m(m: int, sigma: float) -> None:
    setting = setting_of(correlated(2, 6), [1.0, -1.0])
    found = [evaluate(GradientNoise(sigma=sigma), setting.with_width(k))[Kind.PREDICTED] for k in (m, 4 * m)]
    if found[0].value is None:
        assert found[0].why.startswith("not first order") and m < 10**6
    else:
        assert found[0].value == pytest.approx(2 * (found[1].value or 0), rel=1e-12)


@pytest.mark.parametrize("activation", EVEN)
def test_scaling_labels_and_activation_together_changes_nothing(activation: str) -> None:
    """sigma -> 3 sigma with residuals three times as large multiplies g by 9 and leaves the directions alone."""
    base = ACTIVATIONS[activation]
    tripled = replace(
        base, name="tripled", function=lambda t: 3 * base.function(t), closed_form=None, expr=None
    )
    X, y = correlated(2, 6, norms=(1.0, 1.2)), labels(2, activation) - 2.5
    one = first_order(setting_of(X, y, activation), RESIDUALIZED)
    other = first_order(Setting.from_features(X, 3 * y, 10_000, tripled), RESIDUALIZED)
    np.testing.assert_allclose(one.orthogonal, other.orthogonal, rtol=1e-9)
    np.testing.assert_allclose(one.inplane, other.inplane, rtol=1e-8)


def test_homogeneous_activations_scale_with_the_norms() -> None:
    """ReLU, all norms n times as large with labels n times as large: errors grow with n, their ratio to the norm stays."""
    X, y = correlated(3, 6), np.array([1.0, -1.0, -2.0])
    one = first_order(setting_of(X, y, "relu"), RESIDUALIZED)
    other = first_order(setting_of(2.5 * X, 2.5 * y, "relu"), RESIDUALIZED)
    np.testing.assert_allclose(2.5**2 * one.orthogonal, other.orthogonal, rtol=1e-9)
    np.testing.assert_allclose(2.5**2 * one.inplane, other.inplane, rtol=1e-8)


def test_parts_that_vanish() -> None:
    alone = evaluate(NoDefense(), setting_of(correlated(1, 6), [1.0]))[Kind.PREDICTED]
    assert alone.details["inplane"] == 0
    assert alone.details["orthogonal"] > 0
    full = evaluate(NoDefense(), setting_of(correlated(3, 3), labels(3)))[Kind.PREDICTED]
    assert full.details["orthogonal"] == 0
    assert full.details["inplane"] > 0


@pytest.mark.parametrize("activation", ["relu", "softplus", "gelu"])
def test_residualizing_helps(activation: str) -> None:
    setting = setting_of(correlated(2, 20), [1.0, -1.0], activation, 10**7)
    plain, better = (evaluate(NoDefense(), setting, a).predicted for a in (PLAIN, RESIDUALIZED))
    assert better is not None and plain is not None
    assert better < 0.7 * plain


def test_nearly_parallel_features_cost_more() -> None:
    found = [
        evaluate(NoDefense(), setting_of(correlated(2, 20, cosine=c), [1.0, -1.0], "relu", 10**9)).predicted
        for c in (0.0, 0.5, 0.8, 0.95, 0.99)
    ]
    assert np.all(np.diff(found) > 0)
    assert found[-1] > 10 * found[0]


def test_eight_features() -> None:
    """B = 8 and the three-feature answer inside it: features far from and orthogonal to the others, with tiny residuals,
    leave the first three's orthogonal constants almost as they were."""
    X = np.zeros((8, 8))
    X[:3, :3] = correlated(3, 3)
    X[3:, 3:] = np.eye(5)
    r0 = ACTIVATIONS["gelu"].coefficient(0)
    y = np.concatenate([[1.0, -1.0, -1.0], np.full(5, r0 - 1e-4)])
    many = first_order(setting_of(X, y), RESIDUALIZED)
    few = first_order(setting_of(X[:3, :3], y[:3]), RESIDUALIZED)
    np.testing.assert_allclose(many.orthogonal[:3], few.orthogonal, rtol=1e-2)
    assert np.all(many.orthogonal[3:] > 1e6)


# --- where there is no prediction -------------------------------------------------------------------------------------

PARALLEL = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("setting", "attack", "reason"),
    [
        (Setting.orthonormal(6, 100, 2, "z2z3"), RESIDUALIZED, "ill-posed: a residual vanishes"),
        (setting_of(PARALLEL, [1.0, -1.0], "relu"), RESIDUALIZED, "ill-posed.*(parallel|linearly dependent)"),
        (setting_of(PARALLEL, [-1.0, -1.0], "relu"), PLAIN, "ill-posed.*(parallel|linearly dependent)"),
        (
            setting_of(PARALLEL * [[1], [-1]], [1.0, -1.0], "relu"),
            PLAIN,
            "ill-posed.*(parallel|linearly dependent)",
        ),
        (
            setting_of(np.array([[1.0, 0, 0], [0, 1, 0], [0.6, 0.8, 0]]), [1.0, -1.0, 1.0], "relu"),
            RESIDUALIZED,
            "ill-posed.*linearly dependent",
        ),
        (
            Setting.orthonormal(6, 100, 2, sp.Symbol("z", real=True) ** 2),
            RESIDUALIZED,
            "not proved for this activation.*mu_3 = mu_4 = 0",
        ),
        (
            Setting.orthonormal(6, 100, 2, "tanh"),
            TensorAttack(contraction="random"),
            "not proved for a random contraction",
        ),
        (
            Setting.orthonormal(6, 100, 2),
            TensorAttack(same_neuron="ignored"),
            "not proved: .*same_neuron='ignored'",
        ),
    ],
)
def test_reasons_instead_of_numbers(setting: Setting, attack: TensorAttack, reason: str) -> None:
    found = evaluate(NoDefense(), setting, attack)[Kind.PREDICTED]
    assert found.value is None
    assert re.search(reason, found.why), found.why


@pytest.mark.parametrize("gap", [1e-3, 1e-4])
def test_almost_parallel_features_still_have_constants(gap: float) -> None:
    """Of the size that a prediction has; itself it is beyond first order at any width that there is."""
    setting = setting_of(np.array([[1.0, 0.0, 0.0], [1.0, gap, 0.0]]), [1.0, -1.0], "relu")
    found = first_order(setting, RESIDUALIZED)
    assert math.sqrt(np.mean(found.orthogonal + found.inplane) / setting.m) > 0.1 / gap**0.9
    assert evaluate(NoDefense(), setting)[Kind.PREDICTED].why.startswith("not first order")


# --- decisions of the estimator, and the second order inside the span -------------------------------------------------


def test_the_standard_error_of_the_sign_of_one_feature() -> None:
    """One ReLU feature, where nothing turns: the first moment over the weight, which the fit takes from the second moment
    and the core, 1 and w k parts over 1 + w k^2 (k = c_4/c_2). Noise adds its own to all three."""
    setting = Setting.orthonormal(50, 1000, 1, labels=[2.0])
    z, w = gaussian_rule((0.0,))
    c = [setting.activation.coefficient(k) for k in range(5)]
    r, omega = c[0] - 2.0, RESIDUALIZED.weight(4)
    relu = np.maximum(z, 0)
    once = relu - c[0] - c[1] * z
    part = np.array([1.0, omega * c[4] / c[2]]) / (1 + omega * (c[4] / c[2]) ** 2)
    he2, he4 = z**2 - 1, z**4 - 6 * z**2 + 3
    fit = part[0] * once * he2 + part[1] * (once - c[2] / 2 * he2) * he4
    own = w @ ((relu - c[0]) * z / c[1] - fit / c[2]) ** 2
    noise = 1 / c[1] ** 2 + (2 * part[0] ** 2 + 24 * part[1] ** 2) / c[2] ** 2
    for variance in (0.0, 3.0):
        found = first_order(setting, RESIDUALIZED, noisy_channel(setting, variance)).signs
        assert found == pytest.approx(1 / math.sqrt(own + variance / r**2 * noise), rel=1e-9)


def test_standard_errors_of_an_odd_core_by_sampling() -> None:
    """What the core says of every feature, from 300 samples of 4,000 neurons in the span: its scatter within 15 %."""
    setting = setting_of(correlated(2, 2), [-1.0, 3.0], "z2z3")
    rng = np.random.default_rng(0)
    dual = np.linalg.pinv(np.array([power(x, 3).ravel() for x in setting.directions])).T.reshape(-1, 2, 2, 2)
    told = []
    for _ in range(300):
        z = rng.standard_normal((4000, 2))
        told.append([np.mean(response(setting, z, True)[1] * wick(row, z)) for row in dual])
    expected = np.min(np.abs(np.mean(told, axis=0)) / np.std(told, axis=0)) / math.sqrt(4000)
    assert first_order(setting, RESIDUALIZED).signs == pytest.approx(expected, rel=0.15)


LEAKY = Activation(
    "leaky -.6", lambda t: np.where(t > 0, t, -0.6 * t), kinks=(0.0,), homogeneous=True
)  # mu_1 = .2: its signs turn easily


def residuals_of(cosine: float, residuals: tuple[float, float], activation: Activation, m: int) -> Setting:
    labels = activation.coefficient(0) - np.array(residuals)
    return Setting.from_features(correlated(2, 2, cosine=cosine), labels, m, activation)


@pytest.mark.parametrize(
    ("cosine", "residuals", "activation", "attack", "m"),
    [
        (0.0, (1.0, -0.3), LEAKY, PLAIN, 60_000),
        (0.6, (1.0, 0.3), ACTIVATIONS["relu"], RESIDUALIZED, 200_000),
    ],
    ids=["leaky", "relu"],
)
def test_standard_errors_of_the_first_moment_by_sampling(
    cosine: float, residuals: tuple[float, float], activation: Activation, attack: TensorAttack, m: int
) -> None:
    """The first moment in the directions that the fit finds, over the weights that it finds: scatter from 150 samples of m
    neurons in the span within 15 % (its own error is 6 %). In the true directions it would be .8 as large, or less."""
    setting = residuals_of(cosine, residuals, activation, m)
    u, identity = setting.directions, np.eye(2)
    ratio = np.full(2, activation.coefficient(4) / activation.coefficient(2))
    rng = np.random.default_rng(0)
    told, true = [], []
    for _ in range(150):
        z = rng.standard_normal((m, 2))
        h, core = response(setting, z, attack is RESIDUALIZED)
        g = activation(z @ u.T) @ setting.residuals
        b = (g - g.mean()) @ z / m
        two = (h[:, None] * z).T @ z / m - h.mean() * identity
        pairs = (z[:, :, None] * z[:, None]).reshape(m, 4)
        four = ((core[:, None] * pairs).T @ pairs / m).reshape(2, 2, 2, 2)
        inner = (core @ pairs / m).reshape(2, 2)
        four = four - 6 * symmetrised(np.multiply.outer(inner, identity))
        four = four + 3 * core.mean() * symmetrised(np.multiply.outer(identity, identity))
        found = decompose(two, four, ratio, attack.weight(4), 1, rng, u)
        same = np.sign(np.sum(found.directions * u, axis=1))
        told.append(same * np.linalg.lstsq(found.directions.T, b, rcond=None)[0] / found.alpha)
        true.append(np.linalg.lstsq(u.T, b, rcond=None)[0])
    told_at, true_at = (
        np.min(np.abs(np.mean(x, axis=0)) / np.std(x, axis=0)) / math.sqrt(m) for x in (told, true)
    )
    expected = first_order(setting, attack).signs
    assert expected == pytest.approx(told_at, rel=0.15)
    assert expected < 0.8 * true_at


def test_no_prediction_where_the_fitted_directions_leave_a_sign_open() -> None:
    """4.8 standard errors in the true directions (at 1550 neurons 4.04, and one sign in fifteen was wrong)."""
    setting = residuals_of(0.0, (1.0, -0.3), LEAKY, 2200)
    for defense in (NoDefense(), StochasticRounding(0.0)):
        found = evaluate(defense, setting, PLAIN)[Kind.PREDICTED]
        seen = re.match(r"not first order: a feature's sign is (.*) standard errors", found.why)
        assert seen is not None and float(seen[1]) == pytest.approx(2.6, abs=0.06), defense


def test_no_prediction_where_the_span_turns_far() -> None:
    """Orthonormal features, where the second order vanishes by symmetry: softplus, plain, 1.22 of the norm by first order
    at m = 60 000 and half of that measured. With labels 2 and -.5, of signs that are told, it is
    predicted where it comes to less than a quarter."""
    setting = setting_of(np.eye(2), [1.0, -1.0], "softplus", 60_000)
    for defense in (NoDefense(), StochasticRounding(0.0)):
        found = evaluate(defense, setting, PLAIN)[Kind.PREDICTED]
        seen = re.match(
            r"not first order: the error inside the span is (.*) of the features' norm", found.why
        )
        assert seen is not None and float(seen[1]) == pytest.approx(1.22, abs=0.05), defense
    told = setting_of(np.eye(2), [2.0, -0.5], "softplus", 10**6)
    inplane = math.sqrt(first_order(told, PLAIN).inplane.mean())
    for target in (0.24, 0.26):
        found = evaluate(NoDefense(), told.with_width(int((inplane / target) ** 2)), PLAIN)[Kind.PREDICTED]
        assert (found.value is None) == (target > 0.25)
        assert "inside the span is 0.26" in found.why or found.value == pytest.approx(target, rel=1e-3)


def test_no_prediction_where_the_fit_with_a_common_norm_diverges() -> None:
    """SiLU, norms .6 and 1.4, cosine .8: labels of weights above ten times the true ones decide nothing, at any width."""
    X = correlated(2, 2, norms=(0.6, 1.4), cosine=0.8)
    found = evaluate(NoDefense(), setting_of(X, [1.0, -1.0], "silu", 10**12))[Kind.PREDICTED]
    assert found.why == "not proved: the fit with a common norm has components that diverge"


@pytest.mark.parametrize("per_sample", [True, False])
def test_dropout_scatters_the_residuals(per_sample: bool) -> None:
    """A masked neuron's value 1/(1 - p) times as large with probability 1 - p: E of its square is E sigma^2/(1 - p)."""
    setting = Setting.orthonormal(50, 1000, 2)
    law = Dropout(0.6, per_sample).law(setting)
    expected = math.sqrt(0.5 / 0.4 - 1 / (2 * math.pi))
    np.testing.assert_allclose(_activation_scatter(setting, law), expected, rtol=1e-9)


def test_no_prediction_where_a_sign_is_not_told() -> None:
    """An activation whose first coefficient is .003: told at four standard errors and more, not below."""
    z = sp.Symbol("z", real=True)
    he = [z**2 - 1, z**4 - 6 * z**2 + 3]
    faint = Setting.orthonormal(20, 10**5, 2, he[0] + he[1] / 10 + sp.Rational(3, 1000) * z)
    found = evaluate(NoDefense(), faint)[Kind.PREDICTED]
    assert found.value is None
    seen = re.match(
        r"not first order: a feature's sign is (.*) standard errors from turning, not 4", found.why
    )
    assert seen is not None and 0 < float(seen[1]) < 4
    wide = int(faint.m * (4.5 / float(seen[1])) ** 2)
    assert evaluate(NoDefense(), faint.with_width(wide)).predicted is not None


NORMED = np.diag([1.0, 1.5, 1.0, 1.0])[:2]


def test_no_prediction_where_norms_may_be_assigned_wrongly() -> None:
    """ReLU, both labels 1: the rule ties where n_1 + n_2 = sqrt(2 pi), which 2.5 misses by .3 %. At a width that tells the
    two sums apart there is a prediction, and with labels +1, -1 there is one anyway."""
    tied = setting_of(NORMED, [1.0, 1.0], "relu", 20_000)
    found = evaluate(NoDefense(), tied)[Kind.PREDICTED]
    assert found.value is None
    seen = re.match(
        r"not first order: the assignment .* is (.*) standard errors from turning, not 4", found.why
    )
    assert seen is not None and 0 < float(seen[1]) < 0.1
    wide = int(20_000 * (4.2 / float(seen[1])) ** 2)
    assert evaluate(NoDefense(), tied.with_width(wide)).predicted is not None
    assert evaluate(NoDefense(), setting_of(NORMED, [1.0, -1.0], "relu", 20_000)).predicted is not None
    for channel in (StochasticRounding(0.5), GradientPruning(0.0)):
        assert evaluate(channel, tied)[Kind.PREDICTED].why.startswith("not first order: the assignment")


@pytest.mark.parametrize(("order", "B"), [(3, 2), (4, 2), (4, 3)])
def test_the_curvature_is_the_second_derivative_of_the_fit(order: int, B: int) -> None:
    """Moments of the model at a small displacement, fitted to first order: what is left of the turns is 1/2 H[x, x]."""
    rng = np.random.default_rng(5)
    u = Setting.from_features(correlated(B, B, 1), np.ones(B), 100).directions
    alpha, ratio = rng.uniform(0.5, 1.5, B) * labels(B), rng.uniform(0.6, 1.4, B)
    found = solution(u, alpha, ratio, (2, order), 0.4)
    H = found.curvature(u, alpha, ratio)

    def fitted(x: Array) -> Array:
        v = u + np.einsum("it,itb->ib", x[B:].reshape(B, B - 1), found.tangents)
        v = v / np.linalg.norm(v, axis=1, keepdims=True)
        low = sum(a * power(d, 2) for a, d in zip(alpha + x[:B], v, strict=True))
        core = sum(a * c * power(d, order) for a, c, d in zip(alpha + x[:B], ratio, v, strict=True))
        return np.tensordot(found.low, low, 2) + np.tensordot(found.core, core, order)

    for _ in range(5):
        x = 1e-3 * rng.standard_normal(B * B)
        even = (fitted(x) + fitted(-x)) / 2 - fitted(0 * x)
        np.testing.assert_allclose(even[B:], np.einsum("kab,a,b->k", H, x, x) / 2, rtol=1e-3, atol=1e-10)
        np.testing.assert_allclose((fitted(x) - fitted(-x)) / 2, x, rtol=1e-4, atol=1e-7)


def test_no_prediction_beyond_first_order_inside_the_span() -> None:
    """d = B: no part outside the span tells that first order has been left. A residual of -.1 beside 1.4: refused at
    m = 5000, where measured over predicted is about 1.5; predicted at 80 000, and the ratio falls like 1/sqrt(m)."""
    small = setting_of(np.eye(2), [0.299, -1.0], "relu", 5000)
    found = evaluate(NoDefense(), small)[Kind.PREDICTED]
    assert found.value is None
    seen = re.match(
        r"not first order: inside the span the second order is (.*) of the first, above", found.why
    )
    assert seen is not None
    wide = evaluate(NoDefense(), small.with_width(80_000))[Kind.PREDICTED]
    assert wide.details["inplane_over_curvature"] == pytest.approx(float(seen[1]) / 4, rel=0.02)
    assert (
        evaluate(NoDefense(), setting_of(correlated(1, 9), [1.0], "relu"))[Kind.PREDICTED].details[
            "inplane_over_curvature"
        ]
        == 0
    )


def test_both_ways_to_the_decisions_agree() -> None:
    """An elementwise channel that does nothing, on its grid, against the unbiased one's plane integrals."""
    setting = setting_of(correlated(2, 9), [2.0, -1.0], "relu")
    one = first_order(setting, RESIDUALIZED)
    law = StochasticRounding(0.0).law(setting)
    other = elementwise_error(setting, RESIDUALIZED, law)
    assert other.signs == pytest.approx(one.signs, rel=1e-3)
    assert other.curvature == pytest.approx(one.curvature, rel=0.1)
    np.testing.assert_allclose(other.scatter, one.scatter, rtol=0.5)
    assert np.all(other.scatter < 1.001 * one.scatter)  # which adds up what the other counts together
