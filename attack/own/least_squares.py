"""Least squares of a shared gradient on the model itself: what the gradient tells of features and norms, and how well.

The moments of a gradient say little of a norm; the activation's shape does, and so do biases. From features that an attack
has found, or that a search has (``attack.own.search``), the steps of ``attack.likelihood`` minimise the squares of
``g_j - sum_i r_i sigma(w_j.x_i + b_j)``, which is maximum likelihood for noise of unknown size, or those of the rows
``G_j - a_j sum_i r_i sigma'(w_j.x_i + b_j) x_i`` in the coordinates of their span, with dL/db as one more column. Weights
may have any distribution. Without noise the features are exact wherever the gradient determines them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from attack.likelihood.errors import SINGULAR, errors
from attack.likelihood.model import Place
from attack.likelihood.solve import Effort, descended, factored
from attack.own.frame import Frame
from attack.own.gradient import SharedGradient
from attack.own.known import Known
from attack.own.models import Arrays, RowPlace, Rows
from attack.own.search import Outputs
from attack.rows.space import row_space

#: Steps at most, from a start and with more neurons.
STEPS, POLISH = 60, 8

#: Multiplications in one pass: where all neurons would take more, the first ones serve, down to ``LEAST`` values for each
#: unknown. The valley is found with ``FIRST`` values for each.
WORK, LEAST, FIRST = 1e9, 4, 25

#: Squares below this share of the gradient's power are rounding in double precision.
_ROUNDING = 1e-30


@dataclass(frozen=True, eq=False)
class LeastSquares:
    """features (B, d) and residuals (B,), float64, in the units of the frame, residuals of the gradient as it is given.

    norm_errors (B,): standard errors of the features' norms. unexplained: share of the power that is left (``Model.share``);
    structure: share of that which depends on the features' preactivations, as noise and rounding seldom do; error: what R
    is to stay below, infinite where the gradient does not determine the features.
    outside: for dL/dW, the share that noise of the size found outside the features' span would leave, else None.
    """

    features: torch.Tensor
    residuals: torch.Tensor
    norm_errors: torch.Tensor
    unexplained: float
    structure: float
    error: float
    outside: float | None = None

    @property
    def norms(self) -> torch.Tensor:
        """Norms (B,) in the frame's units."""
        return torch.linalg.vector_norm(self.features, dim=1)

    @property
    def determined(self) -> bool:
        """Whether the gradient determines the features."""
        return math.isfinite(self.error)


def least_squares(
    shared: SharedGradient, known: Known, frame: Frame, start: torch.Tensor
) -> LeastSquares | None:
    """From features (B, d) in the frame's units; None where there are more unknowns than time or values allow."""
    fit = _outputs_fit if shared.gradient.ndim == 1 else _rows_fit
    return fit(shared, known, frame, start)


def _outputs_fit(
    shared: SharedGradient, known: Known, frame: Frame, start: torch.Tensor
) -> LeastSquares | None:
    outputs = Outputs.of(shared, known, frame)
    if shared.m <= outputs.unknowns(len(start), None) + len(start):
        return None
    return ended(outputs, outputs.refined(outputs.size * start, None))


def ended(outputs: Outputs, place: Place) -> LeastSquares:
    """What a place of dL/da says, with all neurons, in the frame's units."""
    structure = outputs.structure(place)
    off = errors(place, hidden=structure * 2 * place.loss)
    features, residuals = place.features / outputs.size, outputs.scale * place.residuals
    error = math.sqrt(off.square / len(features)) / outputs.size
    return LeastSquares(features, residuals, off.norms / outputs.size, outputs.share(place), structure, error)


def _rows_fit(shared: SharedGradient, known: Known, frame: Frame, start: torch.Tensor) -> LeastSquares | None:
    B, d = start.shape
    arrays = Arrays.of(shared, frame)
    counts = _affordable(shared.m, unknowns=B * (B + 1), columns=B)
    if not counts:
        return None
    V = row_space(arrays.gradient, B).V
    found = _staged([Rows(arrays.first(n), known.activation, V) for n in counts], start.double() @ V)
    whole = Rows(arrays, known.activation, V)
    # Outside the span every coordinate of r_i x_i is one more unknown, on which the gradient depends linearly.
    across = arrays.gradient - arrays.gradient @ V @ V.T
    noise = float(across.square().sum()) / max(1, (d - B) * shared.m)
    design = whole.slopes(found.features)
    spread = torch.linalg.pinv(design.T @ design, hermitian=True).diagonal() / found.residuals.square()
    outside = noise * whole.data.numel() / whole.power
    more = (d - B) * noise * float(spread.sum())
    return _judged(found, whole, found.features @ V.T, outside=outside, more=more)


def _judged(
    found: RowPlace, whole: Rows, features: torch.Tensor, *, outside: float | None = None, more: float = 0.0
) -> LeastSquares:
    """Held against all neurons; more: variance of the features that no unknown of the fit has."""
    left = whole.left(found.features, found.residuals)
    structure = whole.structure(found.features, found.residuals)
    errors = _errors(RowPlace(whole, found.features, found.residuals), hidden=structure * left)
    error = math.sqrt((errors.square + more) / len(features))
    unexplained = whole.share(found.features, found.residuals, error)
    return LeastSquares(features, found.residuals, errors.norms, unexplained, structure, error, outside)


def _affordable(m: int, *, unknowns: int, columns: int) -> tuple[int, ...]:
    """How many neurons are fitted, one stage after the other; none where these are too few."""
    most = min(m, int(WORK / (columns * unknowns**2)))
    if columns * most < LEAST * unknowns:
        return ()
    first = FIRST * unknowns // columns
    return (first, most) if first < most else (most,)


def _staged(models: Sequence[Rows], start: torch.Tensor) -> RowPlace:
    place, steps = models[0].at(start), STEPS
    for model in models:
        rounding = _ROUNDING * model.power / 2
        effort = Effort(steps, 1e-6, near=0.0, rounding=rounding)
        place, steps = descended(model.at(place.features), effort, factored), POLISH
    return place


@dataclass(frozen=True, eq=False)
class _Errors:
    """square: of the features' errors together, two standard deviations above its mean; norms (B,): standard errors."""

    square: float
    norms: torch.Tensor


def _errors(place: RowPlace, *, hidden: float) -> _Errors:
    """What is left is taken for independent of the neurons, of a size of its own at each of them (White 1980), as rounding
    has it. hidden: sum of squares of what is not; as much of it again may hide in the features, in the worst direction. The
    undamped step counts as an error too: in a narrow valley the steps end before the minimum."""
    B, q = place.features.shape
    gram, right = place.normal
    units = gram.diagonal().sqrt().clamp_min(torch.finfo(gram.dtype).tiny)
    values, vectors = torch.linalg.eigh(gram / units[:, None] / units)
    if float(values[0]) < SINGULAR * float(values[-1]):
        return _Errors(math.inf, torch.full((B,), math.inf, dtype=torch.float64))
    inverse = (vectors / values) @ vectors.T / units[:, None] / units
    scores = torch.zeros_like(gram)
    for left, jacobian in place.model.blocks(place.features, place.residuals):
        weighted = jacobian * left[:, None]
        scores += weighted.T @ weighted
    step = inverse @ right
    covariance = inverse @ scores @ inverse + hidden * inverse + step[:, None] * step
    covariance = covariance[: B * q, : B * q]
    spread = float(covariance.diagonal().sum()) + 2 * math.sqrt(2) * float(
        torch.linalg.matrix_norm(covariance)
    )
    own = covariance.reshape(B, q, B, q)[range(B), :, range(B), :]
    directions = place.features / torch.linalg.vector_norm(place.features, dim=1, keepdim=True)
    along = torch.einsum("ia,iab,ib->i", directions, own, directions)
    return _Errors(spread, along.clamp_min(0).sqrt())
