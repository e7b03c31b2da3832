"""How far the features at the end of the steps may be off, by what is left of the entries there."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from attack.likelihood.model import DENSE, Place
from attack.stream import total

#: Combinations of unknowns that change the entries by less than this fraction of what each of them does are not determined.
SINGULAR = 1e-13


@dataclass(frozen=True, eq=False)
class Errors:
    """square: sum of the squares of the features' errors, two standard deviations above its mean, infinite where the entries
    do not determine the features; norms (B,): standard errors of the features' norms."""

    square: float
    norms: torch.Tensor

    @property
    def determined(self) -> bool:
        return math.isfinite(self.square)


def errors(place: Place, *, hidden: float = 0.0) -> Errors:
    """Of a place whose entries carry noise of unknown size, and no blur.

    What is left is taken for independent of the neurons, of a size of its own at each of them (White 1980, with the factor
    m/(m - n) of the n unknowns), as rounding has it. hidden: sum of squares of what is not; as much of it again may hide in
    the features, in the worst direction. The undamped step counts as an error too: in a narrow valley the steps end before
    the minimum. Of more than ``DENSE`` unknowns the covariance is that of isotropic weights and of noise of one size.
    """
    B, d = place.features.shape
    count = len(place.inside)
    unknowns = B * (d + 1) - (0 if place.model.radii is None else B)
    spared = count / max(1, count - unknowns)
    left = place.local.score
    if B * d > DENSE:
        return _isotropic(place, spared * float(left.square().sum()) / count + hidden)
    inverse = _inverse(place)
    if inverse is None:
        return Errors(math.inf, torch.full((B,), math.inf, dtype=torch.float64))
    step = inverse @ place.descent.reshape(-1)
    covariance = spared * inverse @ _scores(place) @ inverse + hidden * inverse + step[:, None] * step
    square = float(covariance.diagonal().sum()) + 2 * math.sqrt(2) * float(
        torch.linalg.matrix_norm(covariance)
    )
    own = covariance.reshape(B, d, B, d)[range(B), :, range(B), :]
    directions = place.features / torch.linalg.vector_norm(place.features, dim=1, keepdim=True)
    return Errors(square, torch.einsum("ia,iab,ib->i", directions, own, directions).clamp_min(0).sqrt())


def _isotropic(place: Place, variance: float) -> Errors:
    B, d = place.features.shape
    inverse = torch.linalg.pinv(place.mixing, hermitian=True).diagonal()
    spread = 1 + 2 * math.sqrt(2 / (B * d))
    return Errors(d * variance * spread * float(inverse.sum()), (variance * inverse).sqrt())


def _inverse(place: Place) -> torch.Tensor | None:
    """Of the quadratic's matrix, zero along the radial directions where norms are known; None where it is singular beside
    what each unknown changes by itself."""
    B, d = place.features.shape
    slopes = place.slopes
    alone = total(place.model.net, lambda rows, W: slopes[rows].square().T @ W.double().square()).reshape(-1)
    units = alone.sqrt()
    if not bool((units > 0).all()):
        return None
    matrix = place.matrix / units[:, None] / units
    radial = torch.zeros(B * d, 0, dtype=matrix.dtype)
    if place.model.radii is not None:
        along = torch.block_diag(*place.features).T * units[:, None]
        radial = along / torch.linalg.vector_norm(along, dim=0)
        matrix = matrix + radial @ radial.T
    values, vectors = torch.linalg.eigh(matrix)
    if float(values[0]) < SINGULAR * float(values[-1]):
        return None
    inverse = (vectors / values) @ vectors.T - radial @ radial.T
    return place.projected(inverse / units[:, None] / units)


def _scores(place: Place) -> torch.Tensor:
    """``sum_j left_j^2 p_j p_j^T``, p_j the derivative of entry j by the features, less what residuals make up for."""
    slopes, hidden, squares = place.slopes, place.hidden, place.local.score.square()
    made_up = place.coupling.flatten(0, 1) @ place.inverse

    def kernel(rows: slice, W: torch.Tensor) -> torch.Tensor:
        moved = (slopes[rows][:, :, None] * W.double()[:, None, :]).flatten(1)
        seen = moved - hidden[rows] @ made_up.T
        return seen.T @ (squares[rows][:, None] * seen)

    return place.projected(total(place.model.net, kernel))
