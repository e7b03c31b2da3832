"""The two first-order methods of published gradient matching, from one start."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import scipy
import torch

from bounds import GradientMatching

#: Of a vector z: a number and its slope.
_Map = Callable[[torch.Tensor], tuple[float, torch.Tensor]]

#: Pairs that L-BFGS remembers; evaluations that it may make for an iteration; the slope at which it stops.
_MEMORY, _EVALUATIONS, _FLAT = 50, 2, 1e-10

#: Where the step of signed Adam decays, as fractions of its iterations, and by which factor (Geiping et al. 2020).
MILESTONES, DECAY = (3 / 8, 5 / 8, 7 / 8), 0.1

#: Adam's own numbers, the usual ones.
BETAS, TINY = (0.9, 0.999), 1e-8


@dataclass(frozen=True, eq=False)
class Found:
    """The best z of one start, its value, the iterations and evaluations made."""

    z: torch.Tensor
    value: float
    iterations: int
    evaluations: int


def lbfgs_options(iterations: int) -> dict[str, float]:
    """Of SciPy's L-BFGS-B, for so many iterations at most."""
    return {
        "maxiter": iterations,
        "maxfun": _EVALUATIONS * iterations,
        "maxcor": _MEMORY,
        "ftol": 0.0,
        "gtol": _FLAT,
    }


def lbfgs(objective: _Map, start: torch.Tensor, attack: GradientMatching) -> Found:
    """SciPy's L-BFGS-B without bounds (a line search with the strong Wolfe conditions); stops at a vanishing slope or where
    no step improves the value. Its numbers are on the CPU, the objective's on the start's device."""

    def at(z: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = objective(torch.from_numpy(z).to(start.device))
        return value, slope.cpu().numpy()

    options = lbfgs_options(attack.iterations)
    end = scipy.optimize.minimize(at, start.cpu().numpy(), jac=True, method="L-BFGS-B", options=options)
    z = torch.from_numpy(end.x).to(start.device)
    return Found(z, float(end.fun), int(end.nit), int(end.nfev))


def signed_adam(objective: _Map, start: torch.Tensor, attack: GradientMatching) -> Found:
    """Adam on the signs of the slope, its step divided by ten at three milestones; of all iterates the best.

    Written out, as a step of ``torch.optim`` takes a quarter of the time of the objective (and the first one seconds).
    """
    z, best, least = start, start, math.inf
    mean, power = torch.zeros_like(z), torch.zeros_like(z)
    for done in range(attack.iterations):
        value, slope = objective(z)
        if value < least:
            best, least = z, value
        sign = slope.sign()
        mean.lerp_(sign, 1 - BETAS[0])
        power.lerp_(sign.square(), 1 - BETAS[1])
        passed = sum(done >= part * attack.iterations for part in MILESTONES)
        unbiased, spread = (x / (1 - b ** (done + 1)) for x, b in zip((mean, power), BETAS, strict=True))
        z = z - attack.step * DECAY**passed * unbiased / (spread.sqrt() + TINY)
    return Found(best, least, attack.iterations, attack.iterations)


def precision(attack: GradientMatching) -> float:
    """The relative distance of two gradients, root mean square, that counts as none: what the method can do where it has
    found the solution. L-BFGS ends far below 1e-4 (or on its way, with too few iterations); signed Adam at about its last
    step, as vectors start with unit length."""
    return 1e-4 if attack.optimiser == "lbfgs" else attack.step * DECAY ** len(MILESTONES) * 10


OPTIMISERS: Mapping[str, Callable[[_Map, torch.Tensor, GradientMatching], Found]] = MappingProxyType(
    {"lbfgs": lbfgs, "signed-adam": signed_adam}
)
