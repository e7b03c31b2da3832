"""Adam with a step that may fade, from one start; of all iterates the best."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from attack.image.inversion import Progress

#: Adam's own numbers, the usual ones.
_BETAS, _TINY = (0.9, 0.999), 1e-8

SCHEDULES = ("constant", "cosine")

#: Iterations between two reports.
_REPORT = 50


@dataclass(frozen=True, eq=False)
class Found:
    """The best point, its value, the iterations made."""

    point: torch.Tensor
    value: float
    iterations: int


def minimise(
    objective: Callable[[torch.Tensor], torch.Tensor],
    start: torch.Tensor,
    *,
    iterations: int,
    step: float,
    schedule: str = "cosine",
    box: tuple[float, float] | None = None,
    progress: Progress | None = None,
) -> Found:
    """A minimum of a differentiable objective, from ``start``, with entries held in ``box`` after each step."""
    point = start.detach().clone().requires_grad_(True)
    best, least = point.detach().clone(), torch.full((), math.inf, dtype=start.dtype, device=start.device)
    mean, power = torch.zeros_like(best), torch.zeros_like(best)
    for done in range(iterations):
        value = objective(point)
        (slope,) = torch.autograd.grad(value, point)
        with torch.no_grad():
            better = value.detach() < least
            best = torch.where(better, point, best)
            least = torch.where(better, value.detach(), least)
            mean.lerp_(slope, 1 - _BETAS[0])
            power.mul_(_BETAS[1]).addcmul_(slope, slope, value=1 - _BETAS[1])
            size = step * (0.5 * (1 + math.cos(math.pi * done / iterations)) if schedule == "cosine" else 1.0)
            spread = (power / (1 - _BETAS[1] ** (done + 1))).sqrt_().add_(_TINY)
            point.addcdiv_(mean, spread, value=-size / (1 - _BETAS[0] ** (done + 1)))
            if box is not None:
                point.clamp_(*box)
        if progress is not None and (done + 1) % _REPORT == 0:
            progress(done + 1, iterations, float(least))
    return Found(best, float(least), iterations)
