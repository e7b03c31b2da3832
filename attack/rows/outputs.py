"""Exact recovery from the gradient of a ReLU network with several outputs.

``f(x) = A relu(W x + b) + c`` with C outputs; r_i (C,) is the derivative of the loss by the outputs at x_i. Two gradients
hold the features: ``dL/dW`` has rows ``sum_i (a_j.r_i) [i active on j] x_i`` and dL/db the same without x_i, so that every
neuron weights the features by other numbers; ``dL/dA`` has the columns ``sum_i r_i relu(w_j.x_i + b_j)``, of rank at most C,
and C - 1 for cross-entropy, whose r_i sum to zero. In both the neurons on which a feature is inactive are those on which its
dual direction vanishes (``attack.rows.duals``). Features follow by linear algebra, r_i by least squares on the model itself,
and the result counts only if it explains every row: bounds/proofs/exact-recovery.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from attack.reconstruction import ReconstructionError, failure
from attack.rows.duals import Directions, find_duals
from attack.rows.two_outputs import two_output_duals
from attack.streams import numpy_generator
from bounds import checks

#: Singular values below this fraction of the norm, or this multiple of the entries' rounding, count as zero.
_RANK, _ROUNDINGS = 1e-13, 4.0

#: A sketch is this much wider than B, and made from the rows this often.
_WIDER, _SKETCHES = 8, 2

#: Size of a row in a direction in which it vanishes, over its own, in double precision, and in multiples of rounding.
_VANISHES, _BLUR = 1e-8, 8.0

#: Coarser rows do not tell a vanishing direction from another.
_COARSEST = 1e-2

#: How often patterns are read off features and features off patterns.
_ROUNDS = 2

#: Neurons this near to a feature's plane, in multiples of the tolerance and at most, are not relied on.
_UNSURE, _NEAREST = 30.0, 0.1

#: Error over the difference of two halves (half of it, were rounding independent), and what double precision adds.
_APART, _OWN = 1.5, 1024 * 2.0**-53

#: A feature's last coordinate, known to be 1, over its length: below this it cannot scale the others.
_LAST = 1e-9


@dataclass(frozen=True, eq=False)
class OutputsGradient:
    """A network with C outputs, weight (m, d), bias (m,), output_weight (C, m), output_bias (C,), and the gradients that the
    server sees, None where it does not: weight_gradient (m, d), bias_gradient (m,), output_gradient (C, m),
    output_bias_gradient (C,). Float64. rounding: the largest relative error that rounding has made of an entry."""

    weight: np.ndarray
    bias: np.ndarray
    output_weight: np.ndarray
    output_bias: np.ndarray
    weight_gradient: np.ndarray | None = None
    bias_gradient: np.ndarray | None = None
    output_gradient: np.ndarray | None = None
    output_bias_gradient: np.ndarray | None = None
    rounding: float = 2.0**-53

    @property
    def m(self) -> int:
        return int(self.weight.shape[0])

    @property
    def outputs(self) -> int:
        """C."""
        return int(self.output_weight.shape[0])

    def hidden(self, features: np.ndarray) -> np.ndarray:
        """``relu(W x + b)`` (m, B)."""
        return np.maximum(self.weight @ features.T + self.bias[:, None], 0.0)

    def forward(self, features: np.ndarray) -> np.ndarray:
        """f(x) (B, C)."""
        return np.asarray((self.output_weight @ self.hidden(features)).T + self.output_bias)


@dataclass(frozen=True, eq=False)
class Activity:
    """What patterns tell: features (B, d), unit vectors unless ``sized``; strengths (B, C): r_i, times the feature's norm
    where it is not sized; active (m, B): booleans; method: "rows" or "columns"; starts: how many it took; error: R that
    rounding leaves, as features from one half of the neurons and the other tell."""

    features: np.ndarray
    strengths: np.ndarray
    sized: bool
    active: np.ndarray
    method: str
    starts: int
    error: float


def recover_activity(given: OutputsGradient, B: int, *, seed: int = 2, max_starts: int = 1_000) -> Activity:
    """The features on their neurons, from dL/dW where it is there and else from dL/dA, or from that where the first has no
    result.

    Raises ``ValueError`` on bad input, ``ReconstructionError`` with the reason of each where there is no result.
    """
    checks.integer("batch_size", B, 1)
    checks.integer("max_starts", max_starts, 1)
    there: dict[str, Callable[..., Activity]] = {}
    if given.weight_gradient is not None:
        there["dL/dW"] = _from_rows
    if given.output_gradient is not None:
        there["dL/dA"] = _from_columns
    if not there:
        raise ValueError("weight_gradient or output_gradient must be given; got neither")
    reasons = []
    for name, method in there.items():
        try:
            return method(given, B, seed=seed, max_starts=max_starts)
        except ReconstructionError as error:
            reasons.append(f"{name}: {error}")
    raise failure("; ".join(reasons))


@dataclass(frozen=True, eq=False)
class _Span:
    """axes (n, B): an orthonormal basis of the row space; rows (m, B): in it; tolerance: see ``find_duals``."""

    axes: np.ndarray
    rows: np.ndarray
    tolerance: float

    @staticmethod
    def of(rows: np.ndarray, B: int, rounding: float, short: str) -> _Span:
        """``ReconstructionError`` unless the rows (m, n) have rank B; short: what is said where it is lower.

        By a random sketch (Halko, Martinsson, Tropp 2011) a little wider than B: what it leaves of the rows is measured."""
        size = float(np.linalg.norm(rows))
        if not size:
            raise failure("the gradient is zero: no feature can have made it")
        m, n = rows.shape
        width = min(m, n, B + _WIDER)
        frame = rows @ numpy_generator(0, "sketch").standard_normal((n, width))
        for _ in range(_SKETCHES):
            frame = np.linalg.qr(rows @ np.linalg.qr(rows.T @ np.linalg.qr(frame)[0])[0])[0]
        inside = frame.T @ rows
        values, axes = np.linalg.svd(inside, full_matrices=False)[1:]
        beyond = float(np.linalg.norm(rows - frame @ inside)) * (
            m**-0.5 + n**-0.5
        )  # largest value, were it noise
        limit = max(_RANK, _ROUNDINGS * rounding) * size
        rank = int(np.sum(values > limit))
        if rank != B or beyond > limit:
            shown = f"more than {width}" if beyond > limit else str(rank)
            more = "noise, or other features than were told" if beyond > limit or rank > B else short
            raise failure(f"it has rank {shown}, told {B} features: {more}")
        tolerance = max(_VANISHES, _BLUR * rounding * size / float(values[B - 1]))
        if tolerance > _COARSEST:
            raise failure(
                f"its weakest singular value is {values[B - 1] / size:.2g} of its norm, and rounding of the entries, "
                f"{rounding:.2g}, leaves no digits there"
            )
        return _Span(axes[:B].T, rows @ axes[:B].T, tolerance)


def _from_rows(given: OutputsGradient, B: int, *, seed: int, max_starts: int) -> Activity:
    """From dL/dW, and dL/db as one more column, whose feature's coordinate is 1."""
    assert given.weight_gradient is not None
    sized = given.bias_gradient is not None
    rows, weights = given.weight_gradient, given.weight
    if given.bias_gradient is not None:
        rows, weights = np.column_stack([rows, given.bias_gradient]), np.column_stack([weights, given.bias])
    short = "dependent features, or one that leaves no trace"
    if min(rows.shape) < B:
        short = f"more features than its {rows.shape[1]} columns"
    span = _Span.of(rows, B, given.rounding, short)
    neurons = weights @ span.axes
    if not sized and given.bias.any():
        neurons = np.column_stack([neurons, given.bias])
    found = None
    if (
        given.outputs == 2 and 1 < B == neurons.shape[1]
    ):  # patterns are those of one output, if it is cross-entropy
        found = two_output_duals(
            span.rows,
            neurons,
            given.output_weight,
            seed=seed,
            max_starts=max_starts,
            tolerance=span.tolerance,
        )
    if found is None:
        found = _directions(span, neurons, B, seed=seed, max_starts=max_starts, shared=B)
    return _rows_activity(given, rows, span, found, sized=sized)


def _rows_activity(
    given: OutputsGradient, rows: np.ndarray, span: _Span, found: Directions, *, sized: bool
) -> Activity:
    B = len(found.duals)

    def features(inactive: np.ndarray, active: np.ndarray) -> np.ndarray:
        duals = _refined(span.rows, inactive, found.duals)
        own = (span.axes @ _inverse(duals)).T
        if not sized:
            side = given.weight @ own.T
            signs = np.sign(np.sum(np.where(active, side, 0.0) - np.where(inactive, side, 0.0), axis=0))
            return np.asarray(signs[:, None] * own / np.linalg.norm(own, axis=1)[:, None])
        last = own[:, -1]
        if np.any(np.abs(last) < _LAST * np.linalg.norm(own, axis=1)):
            raise failure("a direction was found whose coordinate along dL/db vanishes: no feature")
        return np.asarray(own[:, :-1] / last[:, None])

    def strengths(own: np.ndarray, active: np.ndarray) -> np.ndarray:
        """Rows are sums of features with weights ``a_j.r_i`` on the neurons that are active."""
        directions = np.column_stack([own, np.ones(B)]) if sized else own
        weights = np.linalg.lstsq(directions.T, rows.T, rcond=None)[0]
        return np.stack(
            [
                np.linalg.lstsq(given.output_weight[:, on].T, weight[on], rcond=None)[0]
                for weight, on in zip(weights, active.T, strict=True)
            ]
        )

    return _activity(given, features, strengths, found, "rows", sized=sized)


def _inverse(duals: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.inv(duals)
    except np.linalg.LinAlgError:  # of half of the neurons, say
        raise failure("too few neurons tell the directions of two features apart") from None


def _from_columns(given: OutputsGradient, B: int, *, seed: int, max_starts: int) -> Activity:
    """From dL/dA: a dual direction gives ``relu(w_j.x + b_j)`` times a number, and the active neurons give x."""
    assert given.output_gradient is not None
    short = "dependent features, or two that have the same r_i"
    if given.outputs - 1 < B:
        short = (
            f"with {given.outputs} outputs at most {given.outputs - 1} features of cross-entropy can be told apart there, "
            f"{given.outputs} of another loss; dL/dW, of shape (m, d), tells more"
        )
    if given.m <= given.weight.shape[1]:
        raise failure(f"{given.m} neurons do not tell a feature of d = {given.weight.shape[1]} coordinates")
    columns = given.output_gradient.T
    span = _Span.of(columns, B, given.rounding, short)
    sized = bool(given.bias.any())
    neurons = np.column_stack([given.weight, given.bias]) if sized else given.weight
    found = _directions(span, neurons, B, seed=seed, max_starts=max_starts)

    def features(inactive: np.ndarray, active: np.ndarray) -> np.ndarray:
        hidden = span.rows @ _refined(span.rows, inactive, found.duals).T
        return np.stack([_solved(given, h, on) for h, on in zip(hidden.T, active.T, strict=True)])

    def strengths(own: np.ndarray, active: np.ndarray) -> np.ndarray:
        hidden = active * (given.weight @ own.T + given.bias[:, None])
        return np.asarray(np.linalg.lstsq(hidden, columns, rcond=None)[0])

    return _activity(given, features, strengths, found, "columns", sized=sized)


def _solved(given: OutputsGradient, hidden: np.ndarray, active: np.ndarray) -> np.ndarray:
    """x of ``w_j.x + b_j = s h_j`` on the active neurons, s > 0 unknown; without biases of length 1."""
    W, h = given.weight[active], hidden[active] * np.sign(hidden.sum())
    if len(W) <= given.weight.shape[1]:
        raise failure(
            f"{len(W)} neurons are active for a feature (half of them, for an estimate of its error); more than d = "
            f"{given.weight.shape[1]} are needed"
        )
    h = h / math.sqrt(float(np.mean(h**2)))
    if given.bias.any():
        return np.asarray(np.linalg.lstsq(np.column_stack([W, -h]), -given.bias[active], rcond=None)[0][:-1])
    x = np.linalg.lstsq(W, h, rcond=None)[0]
    return np.asarray(x / np.linalg.norm(x))


def _directions(
    span: _Span, neurons: np.ndarray, B: int, *, seed: int, max_starts: int, shared: int = 0
) -> Directions:
    found = find_duals(
        span.rows, neurons, seed=seed, max_starts=max_starts, tolerance=span.tolerance, shared=shared
    )
    if len(found.duals) < B:
        raise failure(
            f"{len(found.duals)} of {B} features found after {found.starts} starts (max_starts = {max_starts}): too few "
            "neurons, noise, or features that hardly one neuron tells apart"
        )
    return found


def _refined(rows: np.ndarray, inactive: np.ndarray, duals: np.ndarray) -> np.ndarray:
    """Dual directions (B, B) as all inactive rows give them; as they are where these do not suffice."""
    if len(duals) == 1:
        return duals
    scale = np.sqrt(np.mean(rows**2, axis=0))
    refined = []
    for own, dual in zip(inactive.T, duals, strict=True):
        vanishing = rows[own] / scale
        fits = len(vanishing) >= rows.shape[1]
        refined.append(np.linalg.svd(vanishing, full_matrices=False)[2][-1] / scale if fits else dual)
    return np.stack(refined)


def _activity(
    given: OutputsGradient,
    features: Callable[[np.ndarray, np.ndarray], np.ndarray],
    strengths: Callable[[np.ndarray, np.ndarray], np.ndarray],
    found: Directions,
    method: str,
    *,
    sized: bool,
) -> Activity:
    """From ``features(inactive, active)``, what features neurons (m, B) of which this is sure give: a feature says it better
    than rounded rows do, but of neurons near to its plane, which are left out. Without biases unit vectors say it too.

    Errors of the even and the odd neurons are independent but for what rounding has in common to all.
    """
    inactive, active = found.zero, ~found.zero
    every = features(inactive, active)
    for _ in range(_ROUNDS if sized or not given.bias.any() else 0):
        inside, near = sides(given, every, min(_UNSURE * found.tolerance, _NEAREST))
        inactive, active = ~inside & ~near, inside & ~near
        every = features(inactive, active)
    even = (np.arange(given.m) % 2 == 0)[:, None]
    halves = [features(inactive & half, active & half) for half in (even, ~even)]
    apart, size = (math.sqrt(float(np.mean(np.sum(v**2, axis=1)))) for v in (halves[0] - halves[1], every))
    error = math.hypot(_APART * apart, (given.rounding + _OWN) * size)
    pattern = sides(given, every, 0.0)[0] if sized or not given.bias.any() else ~found.zero
    return Activity(every, strengths(every, pattern), sized, pattern, method, found.starts, error)


def sides(given: OutputsGradient, features: np.ndarray, near: float) -> tuple[np.ndarray, np.ndarray]:
    """Which neurons (m, B) are active, and which are too near to the plane between a feature's sides to be sure."""
    inside = given.weight @ features.T + given.bias[:, None]
    sizes = np.linalg.norm(given.weight, axis=1)[:, None] * np.linalg.norm(features, axis=1)
    return inside > 0, np.abs(inside) <= near * (sizes + np.abs(given.bias)[:, None])
