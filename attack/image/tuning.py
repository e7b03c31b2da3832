"""The same chance for every method: total variation and step chosen on other pictures, for one number of gradients."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from attack.image.inversion import ImageAttack, InversionError, invert
from attack.image.metrics import image_errors
from attack.image.observed import ImageObservation
from bounds import checks

#: Evaluations of the guessed gradient that an iteration of an optimiser makes at most (1 unless it searches along a line).
_EVALUATIONS = {"lbfgs": 2}


@dataclass(frozen=True)
class Budget:
    """The grid of total variation's weights (``tv``) and of steps (``step``), of which a specification tries those that
    are fields of it, and the evaluations of a guessed gradient that it may make in all, over grid, cases and starts."""

    tv: tuple[float, ...] = (1e-5, 1e-3, 1e-2, 1e-1)
    step: tuple[float, ...] = (0.01, 0.03, 0.1)
    evaluations: int = 24_000

    def __post_init__(self) -> None:
        for name in ("tv", "step"):
            values = checks.several(name, getattr(self, name))
            if not values:
                raise ValueError(f"{name} must be at least one value; got none")
            object.__setattr__(self, name, tuple(checks.real(name, v, 0.0) for v in values))
        checks.integer("evaluations", self.evaluations, 1)


@dataclass(frozen=True, eq=False)
class Case:
    """One gradient to tune on: the observation, the pictures (B, C, H, W) behind it, and the labels (B,) that the server is
    given, if it is."""

    observation: ImageObservation
    images: torch.Tensor
    labels: torch.Tensor | None = None


@dataclass(frozen=True)
class Tried:
    """One point of the grid: the specification that was run, its mean PSNR over all pictures of all cases (grey where a
    picture was not found), the pictures that were not found, and the iterations made."""

    attack: ImageAttack
    psnr: float
    failed: int
    iterations: int


@dataclass(frozen=True)
class Tuned:
    """attack: the specification with the best weight and step, and its own iterations and starts; tried: the evidence."""

    attack: ImageAttack
    tried: tuple[Tried, ...] = field(repr=False)


def tune(
    attack: ImageAttack,
    cases: Sequence[Case],
    budget: Budget | None = None,
    *,
    reported: torch.Tensor | None = None,
    seed: int = 3,
    after: Callable[[Tried], None] = lambda tried: None,
) -> Tuned:
    """The point of the budget's grid with the largest mean PSNR; of equal ones the first.

    reported (n, C, H, W): pictures that results are reported on, none of which may be in a case. ``after`` is called with
    every point. Raises ``ValueError`` for no cases, for such a picture, for a budget of less than one iteration a run.
    """
    budget = Budget() if budget is None else budget
    checks.instance("attack", attack, ImageAttack)
    _require_apart(cases, reported)
    grid = _grid(attack, budget)
    tried = []
    for point in _affordable(attack, grid, budget, len(cases)):
        tried.append(_tried(point, cases, seed))
        after(tried[-1])
    best = max(range(len(grid)), key=lambda i: tried[i].psnr)
    return Tuned(grid[best], tuple(tried))


def _grid(attack: ImageAttack, budget: Budget) -> list[ImageAttack]:
    """The specification at every point, of what it has; L-BFGS has no use for a step."""
    fields = {f.name for f in dataclasses.fields(attack)}
    steps = getattr(attack, "optimiser", None) != "lbfgs"
    axes = {n: getattr(budget, n) for n in ("tv", "step") if n in fields and (n == "tv" or steps)}
    points = itertools.product(*axes.values())
    return [dataclasses.replace(attack, **dict(zip(axes, point, strict=True))) for point in points]


def _affordable(
    attack: ImageAttack, grid: list[ImageAttack], budget: Budget, cases: int
) -> list[ImageAttack]:
    """The grid with as many iterations as the budget has for a run; as it is where there are none (an analytic attack)."""
    fields = {f.name for f in dataclasses.fields(attack)}
    if "iterations" not in fields:
        return grid
    cost = _EVALUATIONS.get(getattr(attack, "optimiser", ""), 1) * getattr(attack, "starts", 1)
    iterations = budget.evaluations // (len(grid) * cases * cost)
    if iterations < 1:
        raise ValueError(
            f"evaluations must be at least {len(grid) * cases * cost}, one iteration of every run; got {budget.evaluations}"
        )
    return [dataclasses.replace(point, iterations=iterations) for point in grid]  # type: ignore[call-arg]


def _tried(attack: ImageAttack, cases: Sequence[Case], seed: int) -> Tried:
    psnr: list[float] = []
    failed = iterations = 0
    for case in cases:
        try:
            found = invert(case.observation, attack, labels=case.labels, seed=seed)
            errors = image_errors(case.images, found.images)
            iterations += found.diagnostics.iterations
        except InversionError as error:
            errors = image_errors(case.images, None)
            iterations += error.diagnostics.iterations
        psnr += errors.psnr
        failed += errors.failed
    return Tried(attack, sum(psnr) / len(psnr), failed, iterations)


def _require_apart(cases: Sequence[Case], reported: torch.Tensor | None) -> None:
    if not cases:
        raise ValueError("cases must be at least one; got none")
    if reported is None:
        return
    for case in cases:
        images, others = case.images.cpu().double(), reported.cpu().double()
        if any(torch.equal(one, other) for one in images for other in others):
            raise ValueError("cases must have other pictures than those reported; got one that is among them")
