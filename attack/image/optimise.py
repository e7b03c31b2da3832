"""Descent from several starts: Adam and its variants with signs, L-BFGS. Any attack that searches pictures may use it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np
import scipy
import torch

from attack.gradient_matching.optimise import BETAS, DECAY, MILESTONES, TINY, lbfgs_options
from attack.image.inversion import Progress
from attack.image.pictures import Limits
from bounds import checks


class Evaluation(NamedTuple):
    """What is minimised, its slope by every variable, and the part of it that noise keeps from zero at the truth."""

    value: float
    slopes: Sequence[torch.Tensor]
    misfit: float


Function = Callable[[Sequence[torch.Tensor]], Evaluation]

#: Called with the iterations made and the best value so far.
Report = Callable[[int, float], None]

#: Iterations between two reports.
_EVERY = 25

KEEPS = ("best", "last")

#: The first iterate whose misfit is down to what noise makes of it, for searches that know that.
FLOOR = "floor"


class Search(Protocol):
    """What a specification says of its descent: keys of ``OPTIMISERS`` and ``SCHEDULES``; the step in the units of the
    variables; iterations over which it grows to its full size at first (warmup); how many are made, from how many starts;
    which is kept."""

    @property
    def optimiser(self) -> str: ...
    @property
    def step(self) -> float: ...
    @property
    def schedule(self) -> str: ...
    @property
    def warmup(self) -> int: ...
    @property
    def iterations(self) -> int: ...
    @property
    def starts(self) -> int: ...
    @property
    def keep(self) -> str: ...


@dataclass(frozen=True, eq=False)
class Found:
    """Where one start ended: its variables and their value; inf where no iterate has a finite one. reached: whether its
    misfit is down to the level that was asked for."""

    variables: tuple[torch.Tensor, ...]
    value: float
    iterations: int
    evaluations: int
    reached: bool = False


#: Of a slope (changed in place), the iterations made and all of them: what Adam receives.
_Change = Callable[[torch.Tensor, int, int], torch.Tensor]


def _as_it_is(slope: torch.Tensor, done: int, total: int) -> torch.Tensor:
    return slope


def _hard(slope: torch.Tensor, done: int, total: int) -> torch.Tensor:
    return slope.sign_()


def _soft(slope: torch.Tensor, done: int, total: int) -> torch.Tensor:
    """``tanh(t g)/t``, t from 1 to 0: the slope, more and more, and never more than 1/t of it (breaching's "soft")."""
    left = 1 - done / total
    return slope.mul_(left).tanh_().div_(left)


#: A factor of the step after a fraction of the iterations.
SCHEDULES: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {
        "constant": lambda part: 1.0,
        "milestones": lambda part: DECAY ** sum(part >= m for m in MILESTONES),
        "cosine": lambda part: 0.5 * (1 + math.cos(math.pi * part)),
    }
)


def rate(search: Search, done: int) -> float:
    """The step of the iteration after ``done`` ones."""
    grown = min(1.0, (done + 1) / search.warmup) if search.warmup else 1.0
    return search.step * grown * SCHEDULES[search.schedule](done / search.iterations)


def _adam(change: _Change) -> Callable[..., Found]:
    def descend(
        function: Function,
        start: Sequence[torch.Tensor],
        search: Search,
        *,
        limits: Sequence[Limits],
        report: Report,
        level: float,
    ) -> Found:
        """Written out, as ``torch.optim`` takes seconds for its first step and more than this for each."""
        variables = [v.detach().clone().requires_grad_() for v in start]
        means, powers = ([torch.zeros_like(v) for v in variables] for _ in range(2))
        best, least, last = tuple(start), math.inf, math.inf
        done, reached = 0, False
        while True:
            last, slopes, misfit = function(variables)
            if not math.isfinite(last):
                break
            reached = _down(misfit, level)
            if last < least or reached:
                least, best = last, tuple(v.detach().clone() for v in variables)
            if done == search.iterations or reached:
                break
            size = rate(search, done) / (1 - BETAS[0] ** (done + 1))
            spread = math.sqrt(1 - BETAS[1] ** (done + 1))
            with torch.no_grad():
                for v, slope, mean, power, limit in zip(
                    variables, slopes, means, powers, limits, strict=True
                ):
                    told = change(slope, done, search.iterations)
                    mean.lerp_(told, 1 - BETAS[0])
                    power.mul_(BETAS[1]).addcmul_(told, told, value=1 - BETAS[1])
                    v.addcdiv_(mean, power.sqrt().div_(spread).add_(TINY), value=-size)
                    if limit is not None:
                        v.clamp_(*limit)
            done += 1
            if done % _EVERY == 0:
                report(done, least)
        if search.keep == "last" and math.isfinite(last):
            best, least = tuple(v.detach() for v in variables), last
        return Found(best, least, done, done + 1, reached)

    return descend


def _down(misfit: float, level: float) -> bool:
    """Whether the misfit is down to a level, where there is one."""
    return level > 0 and misfit <= level


class _Ended(Exception):
    """Ends L-BFGS, also within a line search: where the misfit is down to the level, and where no evaluation is left."""


def _lbfgs(
    function: Function,
    start: Sequence[torch.Tensor],
    search: Search,
    *,
    limits: Sequence[Limits],
    report: Report,
    level: float,
) -> Found:
    """SciPy's L-BFGS-B (a line search with the strong Wolfe conditions) within the limits; the best point that was
    evaluated is kept, one of a line search too. It stops early at a vanishing slope, where no step improves the value, or at
    the first point that is down to the level, which then is kept, and evaluates the function no more often than the others
    do: once for each of the search's iterations and once at the start. Neither step nor schedule play a part."""
    shapes, sizes = [v.shape for v in start], [v.numel() for v in start]
    flat = torch.cat([v.flatten() for v in start]).double().cpu().numpy()
    best, least, done, made, reached = flat, math.inf, 0, 0, False

    def variables(z: np.ndarray) -> list[torch.Tensor]:
        parts = torch.from_numpy(z).to(start[0]).split(sizes)
        return [p.view(s).requires_grad_() for p, s in zip(parts, shapes, strict=True)]

    def at(z: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best, least, made, reached
        if made > search.iterations:  # SciPy counts between line searches only
            raise _Ended
        value, slopes, misfit = function(variables(z))
        made, reached = made + 1, _down(misfit, level)
        if value < least or reached:
            best, least = z.copy(), value
        if reached:
            raise _Ended
        return value, torch.cat([s.flatten() for s in slopes]).double().cpu().numpy()

    def after(z: np.ndarray) -> None:
        nonlocal done
        done += 1
        if done % _EVERY == 0:
            report(done, least)

    with suppress(_Ended):
        scipy.optimize.minimize(
            at, flat, jac=True, method="L-BFGS-B", bounds=_box(limits, shapes), callback=after,
            options=lbfgs_options(search.iterations) | {"maxfun": search.iterations + 1},
        )  # fmt: skip
    found = tuple(v.detach() for v in variables(best))
    return Found(found, least if math.isfinite(least) else math.inf, done, made, reached)


def _box(limits: Sequence[Limits], shapes: Sequence[torch.Size]) -> scipy.optimize.Bounds | None:
    if all(limit is None for limit in limits):
        return None

    def side(index: int) -> np.ndarray:
        ends = []
        for limit, shape in zip(limits, shapes, strict=True):
            free = torch.full(shape, math.inf if index else -math.inf, dtype=torch.float64)
            ends.append(free if limit is None else limit[index].double().cpu().expand(shape))
        return torch.cat([end.flatten() for end in ends]).numpy()

    return scipy.optimize.Bounds(side(0), side(1))


OPTIMISERS: Mapping[str, Callable[..., Found]] = MappingProxyType(
    {"adam": _adam(_as_it_is), "signed_adam": _adam(_hard), "soft_sign": _adam(_soft), "lbfgs": _lbfgs}
)


def minimise(
    function: Function,
    start: Sequence[torch.Tensor],
    search: Search,
    *,
    limits: Sequence[Limits],
    report: Report = lambda done, best: None,
    level: float = 0.0,
) -> Found:
    """Descend from ``start`` within ``limits``, one for each variable. The value of an iterate is of the whole function;
    "best" keeps the one with the least, "last" the last. level: the first iterate whose misfit is at most this is kept, and
    ends the descent; 0: none does."""
    return OPTIMISERS[search.optimiser](function, start, search, limits=limits, report=report, level=level)


def check_search(search: Search, keeps: tuple[str, ...] = KEEPS) -> None:
    """``ValueError`` or ``TypeError`` unless its options are those of a descent, with ``keeps`` what it may keep."""
    checks.choice("optimiser", search.optimiser, tuple(OPTIMISERS))
    checks.choice("schedule", search.schedule, tuple(SCHEDULES))
    checks.choice("keep", search.keep, keeps)
    checks.integer("iterations", search.iterations, 1)
    checks.integer("starts", search.starts, 1)
    checks.integer("warmup", search.warmup, 0)
    if checks.real("step", search.step, 0.0) == 0.0:
        raise ValueError("step must be positive; got 0")


@dataclass(frozen=True, eq=False)
class Best:
    """Of all starts, before others those that are down to the level, the one that ended with the least value, its index,
    the iterations of all, and how many there were."""

    found: Found
    index: int
    iterations: int
    starts: int

    @property
    def finite(self) -> bool:
        """Whether any start has a finite value."""
        return math.isfinite(self.found.value)


def best_start(
    function: Function,
    starts: Iterable[Sequence[torch.Tensor]],
    search: Search,
    *,
    limits: Sequence[Limits],
    progress: Progress | None,
    level: float = 0.0,
) -> Best:
    """Descend from each of ``starts``, as many as the search has, as ``minimise`` does; ``progress`` is told of the
    iterations of all."""
    ended: list[Found] = []
    for start in starts:
        report = over_all(progress, search, ended)
        ended.append(minimise(function, start, search, limits=limits, report=report, level=level))
    return best_of(ended)


def best_of(ended: Sequence[Found]) -> Best:
    """The one of least value, the first of equal ones, of those that are down to the level if there are any."""
    index = min(range(len(ended)), key=lambda i: (not ended[i].reached, ended[i].value))
    return Best(ended[index], index, sum(one.iterations for one in ended), len(ended))


def over_all(progress: Progress | None, search: Search, ended: Sequence[Found]) -> Report:
    """Reports of the next start as ``progress`` has them."""
    done, least = len(ended) * search.iterations, min((end.value for end in ended), default=math.inf)

    def report(made: int, best: float) -> None:
        if progress is not None:
            progress(done + made, search.starts * search.iterations, min(best, least))

    return report


def by_autograd(objective: Callable[..., torch.Tensor]) -> Function:
    """A differentiable objective of variables as a ``Function``, all of which is misfit."""

    def at(variables: Sequence[torch.Tensor]) -> Evaluation:
        value = objective(*variables)
        number = float(value.detach())
        return Evaluation(number, torch.autograd.grad(value, list(variables)), number)

    return at
