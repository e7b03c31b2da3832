"""Levenberg and Marquardt's steps on the quadratic of ``Place``: written out and factored, or by conjugate gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import torch

from attack.likelihood.model import DENSE, Model, Place

#: The first damping, what it is divided and multiplied by, its least value, and how often a step is shortened.
_DAMPING, _EASED, _RAISED, _LEAST, _TRIES = 1e-2, 5.0, 4.0, 1e-12, 12

#: The relative decrease of the loss that ends a stage which another one follows.
_PASSING = 1e-3

#: Conjugate gradients: their tolerance far from the end, its power of the loss near it, and their number at most.
_TOLERANCE, _POWER, _PRODUCTS = 0.1, 0.25, 60


class Point(Protocol):
    """What the steps need of where they are: features (B, d), on spheres of ``radii`` (B,) where these are known, the loss
    with everything else eliminated, minus its gradient (B, d), and the matrix (B d, B d) of a quadratic near it."""

    @property
    def features(self) -> torch.Tensor: ...

    @property
    def radii(self) -> torch.Tensor | None: ...

    @property
    def loss(self) -> float: ...

    @property
    def descent(self) -> torch.Tensor: ...

    @property
    def matrix(self) -> torch.Tensor: ...

    def moved(self, features: torch.Tensor) -> Self:
        """The point with other features."""
        ...


P = TypeVar("P", bound=Point)

#: The step for a damping.
Steps = Callable[[float], torch.Tensor]


@dataclass(frozen=True)
class Effort:
    """steps: at most; precision: the relative decrease of the loss that ends them, unless the loss is below ``near``;
    rounding: a loss that is rounding of the entries."""

    steps: int
    precision: float
    near: float
    rounding: float


def minimised(
    model: Model, features: torch.Tensor, effort: Effort, blurs: tuple[float, ...] | None = None
) -> Place:
    """Where steps from features (B, d) end, through the stages of blur that the entries have; ``blurs``: others."""
    residuals = None
    place = None
    stages = model.entries.blurs if blurs is None else blurs
    for stage, blur in enumerate(stages):
        place = model.at(features, blur, residuals)
        last = stage == len(stages) - 1
        effort_here = effort if last else dataclasses.replace(effort, precision=_PASSING)
        place = descended(place, effort_here, _solver)
        features, residuals = place.features, place.residuals
    assert place is not None  # there is a stage
    return place


def _solver(place: Place) -> Steps:
    return factored(place) if place.features.numel() <= DENSE else _iterated(place)


def descended(place: P, effort: Effort, solver: Callable[[P], Steps]) -> P:
    """Where the steps from a place end."""
    damping = _DAMPING
    for _ in range(effort.steps):
        if place.loss <= effort.rounding:
            return place
        solve = solver(place)
        for _ in range(_TRIES):
            moved = place.moved(place.features + solve(damping))
            if moved.loss < place.loss:
                break
            damping *= _RAISED
        else:
            return place
        change = place.loss - moved.loss
        before, place = place, moved
        damping = max(damping / _EASED, _LEAST)
        if change < effort.precision * abs(before.loss) and place.loss > effort.near:
            return place
    return place


def factored(place: Point) -> Steps:
    """The step for a damping, by factoring the matrix; every feature is damped in units of its own curvature."""
    B, d = place.features.shape
    matrix, right = place.matrix, place.descent.reshape(-1)
    units = matrix.diagonal().reshape(B, d).mean(dim=1).clamp_min(torch.finfo(matrix.dtype).tiny)
    if place.radii is not None:  # lifts the radial directions, along which the matrix is zero
        unit = place.features / place.radii[:, None]
        radial = torch.block_diag(*(units[i] * torch.outer(unit[i], unit[i]) for i in range(B)))
        matrix = matrix + radial
    scale = units.repeat_interleave(d)

    if not bool(torch.isfinite(matrix).all() and torch.isfinite(right).all()):
        return lambda damping: torch.zeros_like(place.features)

    def step(damping: float) -> torch.Tensor:
        damped = matrix + torch.diag(damping * scale)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if int(failed):
            return torch.linalg.lstsq(damped, right[:, None]).solution.reshape(B, d)
        return torch.cholesky_solve(right[:, None], factor).reshape(B, d)

    return step


def _iterated(place: Place) -> Steps:
    """The step for a damping, by conjugate gradients, preconditioned with ``mixing``."""
    mixing, right = place.mixing, place.descent
    tolerance = min(_TOLERANCE, (place.loss / place.model.entries.power) ** _POWER)
    units = mixing.diagonal().clamp_min(torch.finfo(mixing.dtype).tiny)

    def step(damping: float) -> torch.Tensor:
        inverse = torch.linalg.pinv(mixing + torch.diag(damping * units), hermitian=True)
        solution = torch.zeros_like(right)
        left = right.clone()
        size = float((left * left).sum())
        if size == 0:
            return solution
        ready = place.tangent(inverse @ left)
        along = ready.clone()
        inner = float((left * ready).sum())
        for _ in range(_PRODUCTS):
            curved = place.curved(along) + damping * units[:, None] * along
            bend = float((along * curved).sum())
            if bend <= 0:
                break
            length = inner / bend
            solution = solution + length * along
            left = left - length * curved
            if float((left * left).sum()) <= tolerance**2 * size:
                break
            ready = place.tangent(inverse @ left)
            inner, before = float((left * ready).sum()), inner
            along = ready + (inner / before) * along
        return solution

    return step
