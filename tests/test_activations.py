"""Hermite coefficients against multiple-precision quadrature that shares no code with the package."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import mpmath as mp
import numpy as np
import pytest
import sympy as sp
from helpers import time_limit
from mpmath.calculus.quadrature import GaussLegendre

from bounds import ACTIVATIONS, Activation, Setting, resolve_activation
from bounds.gaussian.activations import Z

# mu_0 .. mu_4 as the literature has them, to five digits.
TABLE = {
    "relu": (0.39894, 0.5, 0.39894, 0, -0.39894),
    "leaky_relu": (0.39495, 0.505, 0.39495, 0, -0.39495),
    "gelu": (0.28209, 0.5, 0.42314, 0, -0.35262),
    "silu": (0.20662, 0.5, 0.35085, 0, -0.18521),
    "softplus": (0.80606, 0.5, 0.20662, 0, -0.06240),
    "tanh": (0, 0.60571, 0, -0.36360, 0),
    "sigmoid": (0.5, 0.20662, 0, -0.06240, 0),
    "z2z3": (1, 3, 2, 6, 0),
}

REFERENCE: dict[str, Callable[[Any], Any]] = {
    "relu": lambda t: max(t, mp.mpf(0)),
    "leaky_relu": lambda t: t if t > 0 else t / 100,
    "gelu": lambda t: t * mp.ncdf(t),
    "silu": lambda t: t / (1 + mp.exp(-t)),
    "softplus": lambda t: mp.log1p(mp.exp(t)),
    "tanh": mp.tanh,
    "sigmoid": lambda t: 1 / (1 + mp.exp(-t)),
    "z2z3": lambda t: t**2 + t**3,
    "elu": lambda t: t if t > 0 else mp.expm1(t),
}
CLOSED = [name for name, a in ACTIVATIONS.items() if a.closed_form is not None]


@cache
def legendre(digits: int) -> list[tuple[Any, Any]]:
    with mp.workdps(digits + 15):
        return GaussLegendre(mp.mp).calc_nodes(4 if digits <= 20 else 5, mp.mp.prec)  # 24 or 48 nodes


def oracle(
    function: Callable[[Any], Any], norm: float = 1.0, digits: int = 20, kinks: Any = (0,)
) -> list[Any]:
    """E[f(norm Z) He_k(Z)] for k = 0 .. 8: Gauss-Legendre panels of width 2, cut at the kinks, in multiple precision."""
    with mp.workdps(digits + 15):
        n = mp.mpf(norm)
        edge = 12 if digits <= 20 else 18  # with He_8 what is beyond weighs below 1e-22 and 1e-58
        points = sorted({mp.mpf(p) for p in range(-edge, edge + 1, 2)} | {mp.mpf(c) / n for c in kinks})
        total = [mp.mpf(0)] * 9
        for left, right in pairwise(points):
            half, centre = (right - left) / 2, (left + right) / 2
            for node, weight in legendre(digits):
                z = centre + half * node
                he = [mp.mpf(1), z]
                for k in range(1, 8):
                    he.append(z * he[k] - k * he[k - 1])
                value = half * weight * mp.npdf(z) * function(n * z)
                total = [t + value * h for t, h in zip(total, he, strict=True)]
        return total


@pytest.mark.parametrize("name", TABLE)
def test_the_table_to_five_digits(name: str) -> None:
    found = [ACTIVATIONS[name].coefficient(k) for k in range(5)]
    np.testing.assert_allclose(found, TABLE[name], rtol=0, atol=5.01e-6)


def test_the_reference_covers_every_activation() -> None:
    assert set(REFERENCE) == set(ACTIVATIONS)


@pytest.mark.parametrize("digits", [20, 50])
def test_the_oracle_knows_a_closed_form(digits: int) -> None:
    """E[cos(Z) He_k(Z)] = Re(i^k) / sqrt(e)."""
    with mp.workdps(digits + 15):
        found = oracle(mp.cos, digits=digits, kinks=())
        errors = [abs(c - mp.re(mp.mpc(0, 1) ** k) / mp.sqrt(mp.e)) for k, c in enumerate(found)]
        assert max(errors) < mp.mpf(10) ** -digits


@pytest.mark.parametrize("norm", [1.0, 0.3, 1.7, 3.0])
@pytest.mark.parametrize("name", REFERENCE)
def test_the_numeric_rule(name: str, norm: float) -> None:
    """The documented absolute accuracy of 1e-12 at unit norm; 1e-11 relative to the largest coefficient elsewhere."""
    expected = [float(c) for c in oracle(REFERENCE[name], norm)]
    found = [ACTIVATIONS[name].coefficient(k, norm) for k in range(9)]
    np.testing.assert_allclose(
        found, expected, rtol=0, atol=1e-12 if norm == 1 else 1e-11 * np.max(np.abs(expected))
    )


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_to_fifty_digits(name: str) -> None:
    expected = oracle(REFERENCE[name], digits=50)
    with mp.workdps(65):
        for k in range(9):
            exact = mp.mpf(sp.N(ACTIVATIONS[name].symbolic_coefficient(k), 62))
            assert abs(exact - expected[k]) < mp.mpf(10) ** -50, k


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_equal_numeric(name: str) -> None:
    for k in range(9):
        symbolic = float(sp.N(ACTIVATIONS[name].symbolic_coefficient(k), 20))
        assert ACTIVATIONS[name].coefficient(k) == pytest.approx(symbolic, abs=1e-12), k


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name not in CLOSED])
def test_symbolic_integrals_equal_numeric(name: str) -> None:
    """Where no closed form is known the symbolic form is the integral itself; its integrand is integrated here."""
    for k in (0, 1, 2, 3, 4):
        integral = ACTIVATIONS[name].symbolic_coefficient(k)
        assert isinstance(integral, sp.Integral)
        assert integral.limits == ((Z, -sp.oo, sp.oo),)
        integrand = sp.lambdify(Z, integral.function, modules="mpmath")
        whole = oracle(lambda t, f=integrand: f(t) / mp.npdf(t))[0]
        assert ACTIVATIONS[name].coefficient(k) == pytest.approx(float(whole), abs=1e-12), k


def test_a_symbolic_integral_evaluates() -> None:
    activation = ACTIVATIONS["tanh"]
    assert float(activation.symbolic_coefficient(1).evalf()) == pytest.approx(
        activation.coefficient(1), abs=1e-12
    )


@pytest.mark.parametrize("name", ["gelu", "silu", "softplus", "tanh", "sigmoid", "z2z3"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_stein_for_smooth_activations(name: str, k: int) -> None:
    """c_k(n) = n^k E sigma^(k)(n Z), the derivative taken symbolically, the mean by Gauss-Hermite with 200 nodes."""
    n = 1.3
    x, w = np.polynomial.hermite_e.hermegauss(200)
    derivative = sp.lambdify(Z, sp.diff(ACTIVATIONS[name].expr, Z, k), modules=["scipy", "numpy"])
    mean = np.broadcast_to(derivative(n * x), x.shape) @ w / np.sqrt(2 * np.pi)
    assert ACTIVATIONS[name].coefficient(k, n) == pytest.approx(n**k * mean, rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_homogeneity_is_declared_where_it_holds(name: str) -> None:
    activation, t = ACTIVATIONS[name], np.linspace(-3, 3, 13)
    holds = np.allclose(activation(2.5 * t), 2.5 * activation(t), rtol=1e-14)
    assert holds == activation.homogeneous
    if holds:
        for k in range(5):
            assert activation.coefficient(k, 2.5) == pytest.approx(
                2.5 * activation.coefficient(k), rel=1e-12, abs=1e-13
            )


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivatives_and_expressions_belong_to_the_function(name: str) -> None:
    activation = ACTIVATIONS[name]
    t = np.linspace(-4, 4, 40)  # an even number of points: zero, the kink, is not among them
    h = 1e-5
    assert activation.derivative is not None
    slope = (activation(t + h) - activation(t - h)) / (2 * h)
    np.testing.assert_allclose(activation.derivative(t), slope, rtol=1e-7, atol=1e-8)
    expression = sp.lambdify(Z, activation.expr, modules=["scipy", "numpy"])
    np.testing.assert_allclose(expression(t), activation(t), rtol=1e-13, atol=1e-14)


def test_large_arguments_do_not_overflow() -> None:
    t = np.array([-800.0, 800.0])
    with np.errstate(over="raise", invalid="raise"):
        for name in ("silu", "softplus", "tanh", "sigmoid", "elu", "gelu"):
            assert np.all(np.isfinite(ACTIVATIONS[name](t))), name


x = sp.Symbol("x")
USER = {
    "max": (sp.Max(x, 0), REFERENCE["relu"], (0,)),
    "abs": (sp.Abs(x - sp.Rational(1, 2)), lambda t: abs(t - mp.mpf(1) / 2), (0.5,)),
    "two kinks": (
        sp.Max(-1, sp.Min(1, x + sp.Rational(1, 4))),
        lambda t: max(-1, min(1, t + mp.mpf(1) / 4)),
        (-1.25, 0.75),
    ),
    "piecewise": (
        sp.Piecewise((-1, x < -1), (x**2 - 2, x < 1), (x - 2, True)),
        lambda t: mp.mpf(-1) if t < -1 else (t**2 - 2 if t < 1 else t - 2),
        (-1, 1),
    ),
    "softsign shifted": (x / (1 + sp.Abs(x)) + x**2, lambda t: t / (1 + abs(t)) + t**2, (0,)),
    "smooth": (sp.exp(-(x**2) / 2) * (1 + x), lambda t: mp.exp(-(t**2) / 2) * (1 + t), ()),
    "nested": (sp.Abs(x**2 - 1), lambda t: abs(t**2 - 1), (-1, 1)),
}


@pytest.mark.parametrize("case", USER)
@pytest.mark.parametrize("norm", [1.0, 1.6])
def test_user_expressions(case: str, norm: float) -> None:
    expression, reference, kinks = USER[case]
    activation = resolve_activation(expression)
    np.testing.assert_allclose(sorted(activation.kinks), kinks, atol=1e-14)
    expected = [float(c) for c in oracle(reference, norm, kinks=kinks)][:6]
    np.testing.assert_allclose(
        [activation.coefficient(k, norm) for k in range(6)], expected, rtol=0, atol=1e-11
    )


def test_a_user_expression_has_its_derivative() -> None:
    activation = resolve_activation(sp.Max(x, x / 10) + x**2 / 4)
    t = np.array([-2.0, -0.5, 0.5, 3.0])
    assert activation.derivative is not None
    np.testing.assert_allclose(activation.derivative(t), np.where(t > 0, 1.0, 0.1) + t / 2)


def test_a_user_callable_is_taken_as_it_is() -> None:
    activation = resolve_activation(lambda t: np.tanh(t) + t**2)
    for k in range(5):
        expected = ACTIVATIONS["tanh"].coefficient(k) + (1.0 if k == 0 else 2.0 if k == 2 else 0.0)
        assert activation.coefficient(k) == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ValueError, match="no symbolic form"):
        activation.symbolic_coefficient(2)
    assert Setting.orthonormal(10, 1000, 2, activation).activation is activation


def test_names_and_activations_resolve_to_themselves() -> None:
    for name, activation in ACTIVATIONS.items():
        assert resolve_activation(name) is activation is resolve_activation(activation)
        assert activation.name == name


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("relux", ValueError, r"activation must be one of relu, .*'relux'"),
        (3.0, TypeError, r"activation must be a name.*float"),
        (None, TypeError, r"activation must be a name.*NoneType"),
        (x + sp.Symbol("y"), ValueError, r"exactly one symbol.*with 2"),
        (sp.Integer(3), ValueError, r"exactly one symbol.*with 0"),
        (lambda t: np.full_like(t, np.nan), ValueError, r"finite real values"),
        (lambda t: t[:-1], ValueError, r"same shape.*\(160,\)"),
        (sp.log(x), ValueError, r"finite real values"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
def test_bad_activations(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        resolve_activation(given)


def test_the_core_order_has_the_stronger_signal() -> None:
    orders = {name: a.core_order for name, a in ACTIVATIONS.items()}
    assert {name: orders[name] for name in ("relu", "gelu", "z2z3", "tanh")} == {
        "relu": 4,
        "gelu": 4,
        "z2z3": 3,
        "tanh": 3,
    }
    assert Activation("square", lambda t: t**2).core_order is None


def test_the_ninth_activation_has_even_and_odd_coefficients() -> None:
    assert all(abs(ACTIVATIONS["elu"].coefficient(k)) > 0.05 for k in range(5))


# --- kinks and norms that are easy to get wrong ------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "reference", "kinks"),
    [
        (
            sp.Piecewise((x, (x > -1) & (x < 1.3)), (0, True)),
            lambda t: t if -1 < t < mp.mpf(1.3) else 0 * t,
            (-1, 1.3),
        ),
        (
            sp.Piecewise((x**2, (x > -1) | (x < -2)), (0, True)),
            lambda t: 0 * t if -2 <= t <= -1 else t**2,
            (-1, -2),
        ),
    ],
    ids=["and", "or"],
)
def test_kinks_of_compound_conditions(
    expression: sp.Expr, reference: Callable[[Any], Any], kinks: Any
) -> None:
    """Missing the kinks of And and Or gives coefficients wrong by 5e-4, silently."""
    activation = resolve_activation(expression)
    expected = [float(c) for c in oracle(reference, kinks=kinks)][:5]
    np.testing.assert_allclose([activation.coefficient(k) for k in range(5)], expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("expression", [sp.Max(sp.tanh(x), x - 1), sp.Max(sp.exp(x) - 2, x**2)])
def test_kinks_that_have_no_closed_form(expression: sp.Expr) -> None:
    """Either the kinks are found numerically, or one clear line says that they were not."""
    try:
        activation = resolve_activation(expression)
    except ValueError as error:
        assert "kink" in str(error)
        return
    assert len(activation.kinks) >= 1


@pytest.mark.parametrize("expression", [sp.Abs(sp.sin(x)), sp.floor(x) + x**2])
def test_infinitely_many_kinks_are_refused(expression: sp.Expr) -> None:
    """|sin x| has a kink at every multiple of pi: walking through them would never end."""
    with time_limit(20), pytest.raises(ValueError, match="kinks"):
        resolve_activation(expression)


@pytest.mark.parametrize("expression", [sp.sign(x) + x**2, x * sp.Heaviside(x - sp.Rational(1, 3))])
def test_a_jump_has_no_derivative(expression: sp.Expr) -> None:
    """A function that jumps is a valid activation for the output weights; its derivative must be None, or work."""
    activation = resolve_activation(expression)
    if activation.derivative is not None:
        assert np.all(np.isfinite(activation.derivative(np.array([-0.5, 0.7]))))


@pytest.mark.parametrize("name", ["gelu", "tanh", "softplus"])
def test_the_numeric_rule_at_a_large_norm(name: str) -> None:
    """The norm of a centred MNIST digit is about 10. The documented accuracy, 1e-12, here relaxed to 1e-11."""
    expected = [float(c) for c in oracle_at_large_norm(REFERENCE[name], 10.0)]
    found = [ACTIVATIONS[name].coefficient(k, 10.0) for k in range(9)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * np.max(np.abs(expected)))


def oracle_at_large_norm(function: Callable[[Any], Any], norm: float) -> list[Any]:
    """The oracle with panels of width 0.2 where the function changes."""
    return oracle(function, norm, kinks=[norm * i / 5 for i in range(-10, 11)])
