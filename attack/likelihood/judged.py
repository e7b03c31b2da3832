"""What may be said of the place where the steps ended: whether it explains what is seen, whether what is seen determines it,
and how well."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from attack.likelihood.entries import Fit
from attack.likelihood.model import DENSE, Place
from attack.likelihood.posed import CLEAR, Posed
from bounds.gaussian.activations import ZERO

#: Combinations of unknowns that change the entries by less than this, over what others do, are not determined.
_SINGULAR = 1e-12

#: An expected error above this fraction of the features' norm is beyond first order, and may be far too small.
_GUESS = 0.3

#: What moved weights may leave at most, as a share of the gradient's power.
_MOVED = 1e-4

#: Entries of signs for each unknown, below which many features have the same signs.
_SIGNS = 10

#: How far above rounding a feature's own share of the power has to be for four digits of it.
_SIGNIFICANT = 1e4

#: Rounding in entries that were not fitted, over its mean in all of them.
_HELD_ROUNDING = 100.0


@dataclass(frozen=True)
class Judged:
    """exact, error: as in ``Diagnostics``."""

    warnings: tuple[str, ...]
    exact: bool | None
    error: float | None


def judged(posed: Posed, place: Place, fit: Fit, *, starts: int, norms: torch.Tensor) -> Judged:
    """norms (B,): what the features of the place are multiplied by before they are returned."""
    power = posed.power
    missing = _undetermined(posed, place)
    error = _error(posed, place, norms) if not missing else (math.inf if posed.noisy else None)
    exact = None
    if fit.spread == 0 and posed.drift == 0 and not missing and float(place.residuals.abs().min()) > 0:
        exact = _exact(posed, place)
    told = (
        f"{fit.left / power:.3g} of the gradient's power is left where {fit.expected / power:.3g} is expected"
    )
    made = f"after {starts} start{'s' * (starts != 1)}"
    weakest = float(place.residuals.square().min()) * float(norms.square().min())
    size = float(posed.gradient.square().mean())
    said = (
        (
            not posed.settled(fit),
            f"{told}, {made}: no start found features that explain it, or the law is another one",
        ),
        (
            fit.left < fit.expected - CLEAR * fit.spread - posed.rounding,
            f"only {told}: the noise is smaller than it is said to be",
        ),
        (missing > 0, f"the entries do not determine the features: {missing} of their coordinates are free"),
        (
            posed.drift > _MOVED * power,
            "the weights move so far in the local steps that no fit can be judged",
        ),
        (
            posed.noisy and (error is None or error > _GUESS * max(posed.observation.norms)),
            "the noise leaves so little of the features that their error is not known",
        ),
        (not shows(posed, place), "a feature explains no more of the entries than noise would"),
        (
            weakest * posed.net.m < _SIGNIFICANT * posed.rounding / max(size, 1e-300),
            "a residual is so small that its feature is lost in rounding",
        ),
        (_even(posed), "signs are not identified: the activation is even"),
    )
    return Judged(tuple(text for failed, text in said if failed), exact, error)


def shows(posed: Posed, place: Place) -> bool:
    """Whether the features explain more of the entries than as many unknowns would of noise: every single one, of values
    with noise; all together, of sets. True where values have no noise."""
    if place.blur:
        entries = posed.model.entries
        nothing = float(entries.local(slice(None), torch.zeros_like(place.parts), place.blur).loss.sum())
        return nothing - place.loss > 2 * (posed.unknowns + posed.B)
    if not posed.noisy:
        return True
    gains = place.residuals.square() / place.inverse.diagonal()
    d = posed.net.d
    return bool((gains > 2 * d + CLEAR * math.sqrt(2 * d)).all())


def _undetermined(posed: Posed, place: Place) -> int:
    """How many coordinates of the features the entries leave free, to first order; by counting, where there are too many to
    look at all combinations, and for entries that are sets."""
    B, d = place.features.shape
    wanted = B * (d - (posed.model.radii is not None))
    if place.blur:
        return max(0, wanted - posed.model.entries.telling() // (_SIGNS if posed.model.scale_free else 1))
    if place.features.numel() > DENSE:
        return max(0, wanted + B - posed.model.entries.telling())
    values = torch.linalg.eigvalsh(place.matrix)
    return max(0, wanted - int((values > _SINGULAR * values[-1]).sum()))


def _exact(posed: Posed, place: Place) -> bool | None:
    """Whether entries that were not fitted are explained to rounding too; None where none were kept for that."""
    count = int(posed.held.sum())
    if not count:
        return None
    left = 2 * posed.whole.entries.local(slice(None), place.parts, 0.0).loss
    share = _HELD_ROUNDING * count / len(left)
    return float(left[posed.held].sum()) <= share * posed.rounding and float(left.sum()) <= posed.rounding


def _error(posed: Posed, place: Place, norms: torch.Tensor) -> float | None:
    """Root mean square error of the features by the information at the place; None where there is no noise."""
    if place.blur or not posed.noisy:
        return None
    B, d = place.features.shape
    if place.features.numel() <= DENSE:
        inverse = torch.linalg.pinv(place.matrix, hermitian=True, rtol=_SINGULAR)
        per = inverse.diagonal().reshape(B, d).sum(dim=1)
    else:
        inverse = torch.linalg.pinv(place.mixing, hermitian=True)
        per = (d - (posed.model.radii is not None)) * inverse.diagonal()
    return math.sqrt(float((norms.square() * per).sum()) / B)


def _even(posed: Posed) -> bool:
    activation = posed.net.activation
    return all(abs(activation.coefficient(k)) <= ZERO for k in (1, 3, 5))
