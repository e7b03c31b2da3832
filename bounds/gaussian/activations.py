"""Activations and their Hermite coefficients, symbolic and numeric.

Convention: probabilists' Hermite polynomials He_k, Z ~ N(0, 1), and ``c_k(n) = E[sigma(n Z) He_k(Z)]``, so that
``E[sigma(w.x) He_k(w)] = c_k(|x|) u^{(x)k}`` with ``u = x / |x|`` (Stein's identity). For unit norm this is mu_k of the
literature; in general ``c_k(n) = n^k E sigma^{(k)}(n Z)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from types import MappingProxyType

import numpy as np
import scipy
import sympy as sp

from bounds import checks
from bounds.arrays import Array
from bounds.gaussian.expressions import Z, read_expression, written
from bounds.gaussian.quadrature import TAIL, gaussian_rule, hermite
from bounds.gaussian.variation import Variation

#: The largest norm of a feature, 1e6 to rounding, that expectations are computed for.
LARGEST_NORM = 1e6 * (1 + 1e-6)

#: Below this absolute value a unit-norm Hermite coefficient counts as zero (quadrature error is below 1e-13).
ZERO = 1e-9


def _density(z: sp.Expr) -> sp.Expr:
    return sp.exp(-(z**2) / 2) / sp.sqrt(2 * sp.pi)


def _hermite_symbolic(k: int) -> sp.Expr:
    """Probabilists' He_k in Z (sympy's ``hermite`` is the physicists' one)."""
    return sp.expand(2 ** sp.Rational(-k, 2) * sp.hermite(k, Z / sp.sqrt(2)))


@dataclass(frozen=True, eq=False)
class Activation:
    """A scalar activation.

    ``function`` maps a float64 array to an array of the same shape; ``kinks`` are the points where it is not smooth
    (between them it must be). ``derivative`` is optional and only needed for first-layer gradients. ``expr`` is the sympy
    form in the symbol ``bounds.gaussian.activations.Z``; ``closed_form(k)`` gives c_k(1) in closed form where one is known.
    ``homogeneous`` says sigma(n t) = n sigma(t) for n > 0. ``variation`` declares what the function does between the points
    at which it is evaluated; a proved upper bound needs it, nothing else does. At norms above 3 a feature far from zero that
    no node of the quadrature's panels meets is not seen (``bounds.gaussian.quadrature.edges``): declare it as a kink.
    """

    name: str
    function: Callable[[Array], Array]
    derivative: Callable[[Array], Array] | None = None
    kinks: tuple[float, ...] = ()
    expr: sp.Expr | None = None
    closed_form: Callable[[int], sp.Expr] | None = field(default=None, repr=False)
    homogeneous: bool = False
    variation: Variation | None = None

    def __call__(self, t: Array) -> Array:
        return self.function(t)

    def coefficient(self, k: int, norm: float = 1.0) -> float:
        """``c_k(norm)``, numerically, for k up to 8 and norm > 0 (piecewise Gauss-Legendre; the absolute error is below
        1e-12 at unit norm). ``ValueError`` or ``TypeError`` for another k or norm."""
        checks.integer("k", k, 0, _MAX_ORDER)
        if checks.real("norm", norm, 0.0, LARGEST_NORM) == 0.0:
            raise ValueError("norm must be positive; got 0")
        return float(_coefficients(self, float(norm))[k])

    def symbolic_coefficient(self, k: int) -> sp.Expr:
        """``c_k(1)`` as a sympy expression: closed form where known, else an unevaluated integral (``.evalf()`` works).

        Raises ``ValueError`` if the activation was given as a plain callable without a symbolic form.
        """
        if self.closed_form is not None:
            return self.closed_form(k)
        if self.expr is None:
            raise ValueError(f"activation {self.name!r} has no symbolic form; give it as a sympy expression")
        return sp.Integral(self.expr * _hermite_symbolic(k) * _density(Z), (Z, -sp.oo, sp.oo))

    @property
    def core_order(self) -> int | None:
        """Order q of the core tensor: of 3 and 4 the one with more signal, ``|c_q| / sqrt(q!)``; None if both vanish."""
        signal = {q: abs(self.coefficient(q)) / math.sqrt(math.factorial(q)) for q in (3, 4)}
        best = max(signal, key=lambda q: signal[q])
        return best if signal[best] > ZERO else None


_MAX_ORDER = 8


@lru_cache(maxsize=512)
def _coefficients(activation: Activation, norm: float, refinement: float = 1.0) -> Array:
    breaks = [k / norm for k in activation.kinks]
    if refinement > 1:
        x, w = gaussian_rule(breaks, refinement * norm)
    else:
        x, w = gaussian_rule(breaks, norm, lambda t: activation.function(norm * t))
    return hermite(_MAX_ORDER, x) @ (w * activation.function(norm * x))


# --- closed forms -----------------------------------------------------------------------------------------------------
# All from Stein's identity c_k = E sigma^{(k)}(Z) with E delta^{(i)}(Z) = He_i(0) phi(0).


def _hermite_at_zero(n: int) -> sp.Integer:
    return sp.Integer(0) if n % 2 else (-1) ** (n // 2) * sp.factorial2(n - 1)


def _leaky_coefficient(slope: sp.Expr) -> Callable[[int], sp.Expr]:
    """sigma'' = (1 - slope) delta."""

    def closed_form(k: int) -> sp.Expr:
        if k == 1:
            return (1 + slope) / 2
        return (1 - slope) * _hermite_at_zero(max(k - 2, 0)) / sp.sqrt(2 * sp.pi)

    return closed_form


def _gelu_coefficient(k: int) -> sp.Expr:
    """sigma = z Phi(z), and z He_k = He_{k+1} + k He_{k-1}."""
    return _normal_cdf_coefficient(k + 1) + (k * _normal_cdf_coefficient(k - 1) if k else 0)


def _normal_cdf_coefficient(k: int) -> sp.Expr:
    """E[Phi(Z) He_k(Z)]: for k >= 1 the (k-1)-th derivative at 0 of the density of N(0, 2)."""
    if k == 0:
        return sp.Rational(1, 2)
    return _hermite_at_zero(k - 1) / (sp.sqrt(2) ** (k - 1) * sp.sqrt(4 * sp.pi))


def _elu_coefficient(k: int) -> sp.Expr:
    """sigma'' = exp(z) 1(z < 0), and each further derivative adds one -delta^{(i)}."""
    exponential = sp.exp(sp.Rational(1, 2)) * sp.erfc(1 / sp.sqrt(2)) / 2
    if k == 0:
        return 1 / sp.sqrt(2 * sp.pi) + exponential - sp.Rational(1, 2)
    if k == 1:
        return sp.Rational(1, 2) + exponential
    return exponential - sum(_hermite_at_zero(i) for i in range(k - 2)) / sp.sqrt(2 * sp.pi)


def _polynomial_coefficient(expr: sp.Expr) -> Callable[[int], sp.Expr]:
    def closed_form(k: int) -> sp.Expr:
        terms = sp.Poly(expr * _hermite_symbolic(k), Z).terms()
        return sum((c * (0 if n % 2 else sp.factorial2(n - 1)) for (n,), c in terms), sp.Integer(0))

    return closed_form


# --- the table --------------------------------------------------------------------------------------------------------

_LEAK = 0.01


def _sigmoid_derivative(t: Array) -> Array:
    s = scipy.special.expit(t)
    return s * (1 - s)


def _normal_density(t: Array) -> Array:
    return np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi)


def _silu_derivative(t: Array) -> Array:
    s = scipy.special.expit(t)
    return s * (1 + t * (1 - s))


# Why the declared variations hold, for t = x + iy with |y| <= w, w the width. Linear pieces: |t| <= |x| + w. z2z3:
# |t|^2 + |t|^3, |t| <= |x| + w. 1 + exp(-t) has at w = 3 no value closer to 0 than sin 3 > .141, so |sigmoid| <= 7.1;
# SiLU is t times that; tanh(t) = 2 sigmoid(2t) - 1. softplus: |log |1 + exp t|| <= max(2, |x| + .7) and |arg| < pi. GELU:
# |Phi(t)| <= exp(y^2/2) Phi(x), as the density at s + iy is at most exp(y^2/2) times that at s. ELU: exp(x) with x <= w,
# or |t|.
_TABLE = (
    Activation(
        "relu",
        lambda t: np.maximum(t, 0.0),
        lambda t: (t > 0).astype(float),
        kinks=(0.0,),
        expr=sp.Max(Z, 0),
        closed_form=_leaky_coefficient(sp.Integer(0)),
        homogeneous=True,
        variation=Variation(3.0, 3.0),
    ),
    Activation(
        "leaky_relu",
        lambda t: np.where(t > 0, t, _LEAK * t),
        lambda t: np.where(t > 0, 1.0, _LEAK),
        kinks=(0.0,),
        expr=sp.Max(Z, Z / 100),
        closed_form=_leaky_coefficient(sp.Rational(1, 100)),
        homogeneous=True,
        variation=Variation(3.0, 3.0),
    ),
    Activation(
        "gelu",
        lambda t: t * scipy.special.ndtr(t),
        lambda t: scipy.special.ndtr(t) + t * _normal_density(t),
        expr=Z * (1 + sp.erf(Z / sp.sqrt(2))) / 2,
        closed_form=_gelu_coefficient,
        variation=Variation(3.0, 271.0),
    ),
    Activation(
        "silu",
        lambda t: t * scipy.special.expit(t),
        _silu_derivative,
        expr=Z / (1 + sp.exp(-Z)),
        variation=Variation(3.0, 22.0),
    ),
    Activation(
        "softplus",
        lambda t: np.logaddexp(0.0, t),
        lambda t: scipy.special.expit(t),
        expr=sp.log(1 + sp.exp(Z)),
        variation=Variation(3.0, 6.0),
    ),
    Activation(
        "tanh", np.tanh, lambda t: 1 - np.tanh(t) ** 2, expr=sp.tanh(Z), variation=Variation(1.5, 16.0, 0)
    ),
    Activation(
        "sigmoid",
        lambda t: scipy.special.expit(t),
        _sigmoid_derivative,
        expr=1 / (1 + sp.exp(-Z)),
        variation=Variation(3.0, 7.1, 0),
    ),
    Activation(
        "z2z3",
        lambda t: t**2 + t**3,
        lambda t: 2 * t + 3 * t**2,
        expr=Z**2 + Z**3,
        closed_form=_polynomial_coefficient(Z**2 + Z**3),
        variation=Variation(3.0, 36.0, 3),
    ),
    Activation(
        "elu",
        lambda t: np.where(t > 0, t, np.expm1(np.minimum(t, 0.0))),
        lambda t: np.where(t > 0, 1.0, np.exp(np.minimum(t, 0.0))),
        kinks=(0.0,),
        expr=sp.Piecewise((Z, Z > 0), (sp.exp(Z) - 1, True)),
        closed_form=_elu_coefficient,
        variation=Variation(3.0, 22.0),
    ),
)


#: The built-in activations by name. ``elu`` has even and odd coefficients of every order.
ACTIVATIONS: Mapping[str, Activation] = MappingProxyType({a.name: a for a in _TABLE})

#: The same as functions inside an expression.
_SYMBOLIC = {name: partial(a.expr.subs, Z) for name, a in ACTIVATIONS.items() if a.expr is not None}


def resolve_activation(activation: str | Activation | sp.Expr | Callable[[Array], Array]) -> Activation:
    """The ``Activation`` for a name of the table, an expression in one symbol (sympy's, or a text such as "z**2 + z**3" in
    z, where the names of the table are functions too), a callable, or an ``Activation``.

    Equal expressions give the same object, whose name is the text. A callable maps a float64 array to a real array of the
    same shape and must be smooth; give an ``Activation`` with ``kinks`` for one that is not. Raises ``ValueError`` for an
    unknown name, a text that is no expression, kinks that cannot be found, a function that cannot be evaluated, is not
    finite, does not keep the shape or grows too fast for Gaussian moments, and for one that is found not to be smooth
    between its kinks (by two quadratures at unit norm) or not to vary as declared (by values at a spacing of 1/1000 on
    [-40, 40]): what happens between the points is the caller's word. At norms above 3 a feature far from zero that no node
    of the panels meets is not seen. ``TypeError`` for another type.
    """
    if isinstance(activation, Activation):
        return _checked(activation)
    if isinstance(activation, str):
        return _named(activation)
    if isinstance(activation, sp.Expr):
        return _from_expression(activation)
    if any(kind.__module__.startswith("torch.nn.") for kind in type(activation).__mro__):
        raise TypeError(
            f"activation must not be a module of torch here: give attack.activation_of({activation})"
        )
    if callable(activation):
        return _checked(Activation(getattr(activation, "__name__", "user"), activation))
    raise TypeError(
        f"activation must be a name, a sympy expression, a callable or an Activation; got {type(activation).__name__}"
    )


def activation_text(activation: str | Activation | sp.Expr | Callable[[Array], Array]) -> str:
    """The text that ``resolve_activation`` makes this very activation of. ``ValueError`` for one that has none: a function
    alone, or what holds more than its expression says."""
    found = resolve_activation(activation)
    try:
        same = _named(found.name) is found
    except ValueError:
        same = False
    if not same:
        raise ValueError(
            f"activation must be one of {', '.join(ACTIVATIONS)}, or an expression in z, to be written; got {found.name!r}"
        )
    return found.name


@cache
def _named(text: str) -> Activation:
    if text in ACTIVATIONS:
        return ACTIVATIONS[text]
    if text.isidentifier() and text != Z.name:
        raise ValueError(
            f"activation must be one of {', '.join(ACTIVATIONS)}, or an expression in z such as 'z**2 + max(z, 0)'; "
            f"got {text!r}{checks.nearest(text, ACTIVATIONS)}"
        )
    try:
        expr = read_expression(text, _SYMBOLIC)
    except ValueError as error:
        raise ValueError(f"activation {error}") from None
    return _from_expression(expr)


def _from_expression(expr: sp.Expr) -> Activation:
    symbols = sorted(expr.free_symbols, key=str)
    if len(symbols) != 1:
        raise ValueError(
            f"activation must be an expression in exactly one symbol; got {expr} with {len(symbols)}"
        )
    return _of(expr.subs(symbols[0], Z))


@cache
def _of(expr: sp.Expr) -> Activation:
    kinks = _symbolic_kinks(expr)
    try:
        text, slope = written(expr), sp.diff(expr, Z)
        function, derivative = (sp.lambdify(Z, e, modules=["scipy", "numpy"]) for e in (expr, slope))
    except Exception as error:  # sympy raises many kinds
        reason = " ".join(str(error).split())
        raise ValueError(
            f"activation must be an expression that can be computed; got {expr}: {reason}"
        ) from error
    jumps = slope.has(sp.DiracDelta, sp.Derivative)  # no derivative to compute with
    return _checked(Activation(text, function, None if jumps else derivative, kinks=kinks, expr=expr))


#: Functions are probed on [-REACH, REACH].
REACH = 40


def _symbolic_kinks(expr: sp.Expr) -> tuple[float, ...]:
    """Where Max, Min, Abs, sign, Heaviside or Piecewise inside ``expr`` switch: real roots of their conditions."""
    unclear = ValueError(
        f"activation {expr} has kinks that cannot be found; give Activation(..., kinks=(...))"
    )
    switches: set[sp.Expr] = set()
    for node in sp.preorder_traversal(expr):
        if isinstance(node, sp.Max | sp.Min):
            args = list(node.args)
            switches |= {args[i] - args[j] for i in range(len(args)) for j in range(i)}
        elif isinstance(node, sp.Abs | sp.sign | sp.Heaviside):
            switches.add(node.args[0])
        elif isinstance(node, sp.core.relational.Relational):
            switches.add(node.lhs - node.rhs)
        elif isinstance(node, sp.floor | sp.ceiling | sp.Mod | sp.frac):
            raise unclear
    roots: set[float] = set()
    for switch in switches:
        found = sp.solveset(switch, Z, sp.S.Reals)
        if not isinstance(found, sp.FiniteSet) and found is not sp.S.EmptySet:
            raise unclear
        roots |= {float(r) for r in found}
    return tuple(sorted(roots))


@lru_cache(maxsize=256)
def _checked(activation: Activation) -> Activation:
    """``activation`` itself, once it has been found to be a real function with Gaussian moments, smooth between kinks."""
    name = activation.name
    probe = np.linspace(-REACH, REACH, 161)
    try:
        with np.errstate(all="ignore"):
            values = np.asarray(activation.function(probe))
    except Exception as error:  # a user's function may raise anything
        reason = " ".join(str(error).split())
        raise ValueError(
            f"activation {name!r} must map a float64 array to an array; it raised {reason}"
        ) from error
    if values.dtype.kind not in "iuf" or values.shape != probe.shape or not np.all(np.isfinite(values)):
        raise ValueError(
            f"activation {name!r} must map an array to finite real values of the same shape; for {probe.size} values on "
            f"[-{REACH}, {REACH}] it gave shape {values.shape} of type {values.dtype}"
        )
    ends = np.asarray(activation.function(np.array([-TAIL, TAIL])))
    if np.max(ends**2) * math.exp(-(TAIL**2) / 2) > 1e-9:
        raise ValueError(f"activation {name!r} must have Gaussian moments; E sigma(Z)^2 does not converge")
    coarse, fine = _coefficients(activation, 1.0), _coefficients(activation, 1.0, 7.0)
    if np.max(np.abs(coarse - fine)) > 1e-9 * max(1.0, np.max(np.abs(fine))):
        raise ValueError(
            f"activation {name!r} must be smooth between its kinks {activation.kinks}: two quadratures of its Hermite "
            f"coefficients differ by {np.max(np.abs(coarse - fine)):.1g}; give Activation(..., kinks=(...))"
        )
    if activation.variation is not None:
        refuted = activation.variation.refuted(activation.function, activation.kinks)
        if refuted:
            raise ValueError(f"activation {name!r} must vary as declared, {activation.variation}: {refuted}")
    return activation
