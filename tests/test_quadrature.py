"""Gaussian expectations against rules that share nothing with the package's."""

from __future__ import annotations

import dataclasses
import math

import mpmath as mp
import numpy as np
import pytest
from helpers import Array, correlated, time_limit
from numpy.polynomial import hermite_e
from scipy import integrate, special

from bounds import ACTIVATIONS, Activation, Kind, NoDefense, Setting, UnsupportedBound, evaluate
from bounds.gaussian.quadrature import edges, gaussian_rule, hermite, plane_moments

COSINES = (0.0, 0.3, -0.7, 0.95, -0.99, 0.9999, 1.0, -1.0)


def test_hermite_polynomials() -> None:
    x = np.linspace(-4, 4, 9).reshape(3, 3)
    values = hermite(8, x)
    assert values.shape == (9, 3, 3)
    for k in range(9):
        np.testing.assert_allclose(values[k], hermite_e.hermeval(x, [0] * k + [1]), rtol=1e-13, atol=1e-12)
    assert hermite(0, x).shape == (1, 3, 3)


def test_the_line_rule_has_the_moments_of_a_gaussian() -> None:
    z, w = gaussian_rule()
    for power in range(0, 17, 2):
        assert w @ z**power == pytest.approx(
            special.factorial2(power - 1, exact=True) if power else 1.0, rel=1e-13
        )
        assert abs(w @ z ** (power + 1)) < 1e-12 * special.factorial2(power + 1, exact=True)


@pytest.mark.parametrize("kink", [0.0, 0.3, -2.0, 11.9, 40.0])
def test_the_line_rule_across_a_kink(kink: float) -> None:
    """E|Z - k| = 2 phi(k) + k (2 Phi(k) - 1)."""
    z, w = gaussian_rule([kink])
    density = math.exp(-(kink**2) / 2) / math.sqrt(2 * math.pi)
    assert w @ np.abs(z - kink) == pytest.approx(2 * density + kink * (2 * special.ndtr(kink) - 1), rel=1e-13)


def test_the_kink_has_to_be_told() -> None:
    """What the cuts are for: without this one the rule is wrong by more than 1e-6."""
    z, w = gaussian_rule()
    exact = 2 * math.exp(-0.045) / math.sqrt(2 * math.pi) + 0.3 * (2 * special.ndtr(0.3) - 1)
    assert abs(w @ np.abs(z - 0.3) - exact) > 1e-6


@pytest.mark.parametrize("cosine", COSINES)
def test_smooth_functions_in_the_plane(cosine: float) -> None:
    """Against a dense Gauss-Hermite grid, which converges geometrically for these entire functions."""
    order = 6
    nodes, weights = hermite_e.hermegauss(60)
    weights = weights / math.sqrt(2 * math.pi)
    z1, z2 = np.meshgrid(nodes, nodes, indexing="ij")
    t = cosine * z1 + math.sqrt(1 - cosine**2) * z2

    def f(s: np.ndarray) -> np.ndarray:
        return np.stack([np.sin(s), np.exp(s / 2)])

    def g(s: np.ndarray) -> np.ndarray:
        return np.stack([np.cos(2 * s), s**3 - s, np.exp(-s / 3)])

    found = plane_moments(f, g, cosine, order, (), ())
    he = np.stack([hermite_e.hermeval(nodes, [0] * k + [1]) for k in range(order + 1)])
    expected = np.einsum("pxy,qxy,ax,by,x,y->pqab", f(z1), g(t), he, he, weights, weights, optimize=True)
    low = np.add.outer(range(order + 1), range(order + 1)) <= order
    np.testing.assert_allclose(found, np.where(low, expected, 0.0), rtol=1e-10, atol=1e-10)


def relu_moment(cosine: float, a: int, b: int) -> float:
    """E[relu(s) relu(t) z1^a z2^b] in polar coordinates: a Gamma function times an integral over the angle."""
    n = a + b + 2
    angle = math.acos(cosine)
    low, high = angle - math.pi / 2, math.pi / 2
    arc = integrate.quad(
        lambda p: math.cos(p) * math.cos(p - angle) * math.cos(p) ** a * math.sin(p) ** b,
        low,
        high,
        epsabs=1e-14,
    )[0]
    return 2 ** (n / 2) * math.gamma(n / 2 + 1) * arc / (2 * math.pi)


@pytest.mark.parametrize("cosine", [*COSINES, 0.5, 0.999999, -0.999999])
def test_relu_in_the_plane(cosine: float) -> None:
    order = 8

    def relu(t: np.ndarray) -> np.ndarray:
        return np.maximum(t, 0.0)[None]

    found = plane_moments(relu, relu, cosine, order, [0.0], [0.0])[0, 0]
    power = [hermite_e.herme2poly([0] * k + [1]) for k in range(order + 1)]
    for a in range(order + 1):
        for b in range(order + 1 - a if abs(cosine) < 1 else 1):
            terms = [(c * e, i, j) for i, c in enumerate(power[a]) for j, e in enumerate(power[b]) if c * e]
            expected = sum(c * relu_moment(cosine, i, j) for c, i, j in terms)
            scale = math.sqrt(math.factorial(a) * math.factorial(b))
            assert found[a, b] == pytest.approx(expected, abs=2e-10 * scale), (a, b)


@pytest.mark.parametrize("cosine", [0.5, -0.9, 0.9999, 0.0])
def test_the_arc_cosine_kernels(cosine: float) -> None:
    """E[1(s > 0) 1(t > 0)] and E[relu(s) relu(t)] in closed form (Cho and Saul 2009): a jump and a kink."""
    angle = math.acos(cosine)

    def both(t: np.ndarray) -> np.ndarray:
        return np.stack([(t > 0).astype(float), np.maximum(t, 0.0)])

    found = plane_moments(both, both, cosine, 2, [0.0], [0.0])[:, :, 0, 0]
    assert found[0, 0] == pytest.approx((math.pi - angle) / (2 * math.pi), abs=1e-11)
    kernel = (math.sin(angle) + (math.pi - angle) * cosine) / (2 * math.pi)
    assert found[1, 1] == pytest.approx(kernel, abs=1e-11)


@pytest.mark.parametrize("cosine", [0.0, 0.4, -0.8, 0.99, 0.9999])
def test_kinks_away_from_the_origin(cosine: float) -> None:
    """f(s) = |s - 0.7|, g(t) = (t + 0.4)_+: the inner integral in closed form, the outer one adaptively."""
    sine = math.sqrt(1 - cosine**2)

    def inner(z: float) -> float:
        mean = cosine * z + 0.4
        density = math.exp(-((mean / sine) ** 2) / 2) / math.sqrt(2 * math.pi)
        return mean * special.ndtr(mean / sine) + sine * density

    layer = [-0.4 / cosine + k * sine for k in (-3, 0, 3)] if cosine else []
    expected = integrate.quad(
        lambda z: abs(z - 0.7) * inner(z) * math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi),
        -12,
        12,
        points=[0.7, *layer],
        limit=400,
        epsabs=1e-13,
    )[0]
    found = plane_moments(
        lambda s: np.abs(s - 0.7)[None], lambda t: np.maximum(t + 0.4, 0.0)[None], cosine, 0, [0.7], [-0.4]
    )
    assert found[0, 0, 0, 0] == pytest.approx(expected, abs=1e-10)


def test_the_two_functions_may_change_places() -> None:
    """E[f(s) g(t)] does not depend on which of the two carries the first axis."""

    def f(t: np.ndarray) -> np.ndarray:
        return np.maximum(t, 0.0)[None]

    def g(t: np.ndarray) -> np.ndarray:
        return np.tanh(t)[None] + 1

    there = plane_moments(f, g, 0.6, 0, [0.0], ())[0, 0, 0, 0]
    back = plane_moments(g, f, 0.6, 0, (), [0.0])[0, 0, 0, 0]
    assert there == pytest.approx(back, abs=1e-12)


# --- large and small norms --------------------------------------------------------------------------------------------

NORMS = (1e-3, 1.0, 3.0, 3.1, 30.0, 1e3, 1e5, 1e6)


@pytest.mark.parametrize("norm", NORMS)
def test_coefficients_at_any_norm(norm: float) -> None:
    """GELU in closed form, from ``c_k = n^k E sigma^{(k)}(n Z)``: to rounding, and on few nodes."""
    s = math.sqrt(1 + norm**2)
    expected = [
        norm**2 / math.sqrt(2 * math.pi) / s,
        norm / 2,
        norm**2 * (2 + norm**2) / math.sqrt(2 * math.pi) / s**3,
    ]
    gelu = ACTIVATIONS["gelu"]
    np.testing.assert_allclose([gelu.coefficient(k, norm) for k in range(3)], expected, rtol=1e-13)
    assert len(edges(lambda t: gelu(norm * t), norm)) < 150


@pytest.mark.parametrize("norm", [1.0, 30.0, 1e3, 1e5])
@pytest.mark.parametrize("activation", ["softplus", "tanh", "elu", "sigmoid"])
def test_means_by_mpmath(activation: str, norm: float) -> None:
    """``E sigma(n Z)^2`` against adaptive quadrature in 30 digits, cut where the functions bend."""
    functions = {
        "softplus": lambda x: mp.log1p(mp.exp(-abs(x))) + max(x, mp.mpf(0)),
        "tanh": mp.tanh,
        "elu": lambda x: x if x > 0 else mp.expm1(x),
        "sigmoid": lambda x: 1 / (1 + mp.exp(-x)),
    }
    with mp.workdps(30):
        places = [k / mp.mpf(norm) for k in (1, 4, 12, 40, 100)]
        bends = [p for p in (*places, *(-p for p in places)) if abs(p) < 14]
        cuts = sorted({mp.mpf(c) for c in (-14, -6, -2, 0, 2, 6, 14)} | set(bends))
        expected = mp.quad(lambda t: functions[activation](norm * t) ** 2 * mp.npdf(t), cuts)
    function = ACTIVATIONS[activation]
    x, w = gaussian_rule([0.0], norm, lambda t: function(norm * t))
    assert w @ function(norm * x) ** 2 == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("norm", [1.0, 30.0, 1e3, 1e5])
@pytest.mark.parametrize("cosine", [0.0, 0.5, -0.7, 0.999, 1 - 1e-7, 1.0, -1.0])
def test_pairs_at_any_norm(norm: float, cosine: float) -> None:
    """``E Phi(n s) Phi(n t) = 1/4 + arcsin(n^2 rho/(1 + n^2))/(2 pi)`` (Sheppard), in bounded time."""

    def step(t: Array) -> Array:
        return special.ndtr(norm * t)[None]

    with time_limit(20):
        found = plane_moments(step, step, cosine, 0, (), (), scale=norm)[0, 0, 0, 0]
    expected = 0.25 + math.asin(norm**2 * cosine / (1 + norm**2)) / (2 * math.pi)
    assert found == pytest.approx(expected, abs=2e-14)


def test_panels_are_uniform_up_to_scale_three() -> None:
    """So that nothing computed there depends on how panels are graded beyond."""
    for scale in (1e-6, 1.0, 3.0):
        np.testing.assert_array_equal(edges(np.sin, scale), np.linspace(-12, 12, 13))


def test_a_function_that_varies_everywhere() -> None:
    """sin(n t): as many panels as it takes, E sin(nZ)^2 = (1 - exp(-2 n^2))/2; none are computed with beyond the budget."""
    x, w = gaussian_rule((), 200.0, lambda t: np.sin(200 * t))
    assert w @ np.sin(200 * x) ** 2 == pytest.approx(0.5, rel=1e-12)
    with pytest.raises(UnsupportedBound, match="varies too fast at norm 1e\\+06: more than 20000 panels"):
        gaussian_rule((), 1e6, lambda t: np.sin(1e6 * t))
    slow = Setting.orthonormal(8, 1000, 2, Activation("waves", lambda t: np.sin(40 * t) + t**2))
    wide = dataclasses.replace(slow, gram=slow.gram * 1e8)
    assert evaluate(NoDefense(), wide)[Kind.PREDICTED].why.startswith(
        "not computed: the activation varies too fast"
    )


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh", "elu"])
def test_predictions_of_large_features_take_no_longer(activation: str) -> None:
    """Norms 1 to 1e5, each within seconds. At large norms GELU is ReLU: relative errors agree to 1/n^2."""
    base = correlated(2, 12)
    found = {}
    for norm in (1.0, 1e3, 1e5):
        with time_limit(20):
            setting = Setting.from_features(norm * base, [2 * norm, -norm], 10**9, activation)
            value = evaluate(NoDefense(), setting)[Kind.PREDICTED]
        assert value.value is not None or value.why.startswith("not"), value.why
        found[norm] = value.value
    if activation in ("relu", "gelu"):
        flat = evaluate(NoDefense(), Setting.from_features(base, [2, -1], 10**9)).predicted
        for norm in (1e3, 1e5):
            assert found[norm] / norm == pytest.approx(flat, rel=10 / norm**2 + 1e-9)
