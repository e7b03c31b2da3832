"""Minus the logarithm of what is seen of the entries, as a function of the terms of the clean ones, with two derivatives: on
tensors, in formulas of its own (``bounds.density`` has the same likelihood in numpy).

An entry that nothing blurs has no density. Where such entries are values, or sets that a value may leave, the square of the
distance from the set stands for it (the limit of small noise, in which no scale matters). Where they are sets only
(rounding, signs, random rounding, masks), the likelihood is blurred by Gaussian noise that is made smaller from stage to
stage.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from bounds.density import Clamped, Density, Dithered, Erased, Masked, Plain, Rounded, Signs, Thresholded

#: Subsets of terms that are summed over at most: 2^B of them.
MOST_MASKED = 10

#: Blurs of a law of sets, over the size of its steps (of the entries, for signs), from stage to stage; of masks.
_STAGES = (0.5, 0.25, 0.1, 0.05, 0.02, 0.01)
_MASK_STAGES = (0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 1e-3, 1e-5, 1e-7)

#: Entries may be off a set by this fraction of the last blur, in the root mean square.
_ALLOWED = 0.1

#: Noise below this, over the entries' root mean square, is far below rounding.
NOISE = 1e-30

#: Beyond so many standard deviations the tail of the blurred hat stands for it.
_TAIL = 5.0


class Local(NamedTuple):
    """loss (n,): minus the log-likelihood of an entry, up to a constant. score (n,) or (n, B): minus its derivative with
    respect to the clean entry, or to its terms one by one; curvature (n,) or (n, B, B): its second derivative, or a positive
    semidefinite matrix in its place."""

    loss: torch.Tensor
    score: torch.Tensor
    curvature: torch.Tensor


class Fit(NamedTuple):
    """How well terms explain the entries: the sum of squares that is left, what the density lets expect of it, the standard
    deviation of that, and what the last blur allows on top."""

    left: float
    expected: float
    spread: float
    allowed: float = 0.0


class Entries(Protocol):
    """The entries that are seen. blurs: the stages, in units of the entries; one stage where nothing is blurred."""

    @property
    def blurs(self) -> tuple[float, ...]: ...

    def local(self, rows: slice, parts: torch.Tensor, blur: float) -> Local:
        """Of ``rows``, given their terms ``parts`` (n, B)."""
        ...

    def fit(self, parts: torch.Tensor, unknowns: int) -> Fit:
        """Of all entries, given terms (m, B) fitted with so many unknowns."""
        ...

    def values(self) -> torch.Tensor:
        """Which entries (m,) carry a value of the clean one, noise or not."""
        ...

    def telling(self) -> int:
        """The number of entries that tell anything."""
        ...

    def some(self, rows: torch.Tensor) -> Entries:
        """Those with these indices."""
        ...

    def left(self, clean: torch.Tensor | None) -> torch.Tensor:
        """What clean entries (m,), zeros where None, leave of those that are seen: (m,), 0 of sets that they are in."""
        ...

    @property
    def power(self) -> float:
        """Sum of the squares of the entries that are seen."""
        ...

    @property
    def crude(self) -> Entries:
        """The same where every entry is taken for a value with noise, if it is one in the mean: for starts."""
        ...


@dataclass(frozen=True, eq=False)
class Windowed:
    """Values and sets: t + sigma N in [lower, upper] (m,). blurs: see ``Entries``; 0 for the square of the distance.
    weight (m,): 0 for entries that are left out of the fit. seen (m,): the entries themselves."""

    seen: torch.Tensor
    lower: torch.Tensor
    upper: torch.Tensor
    sigma: float
    blurs: tuple[float, ...]
    weight: torch.Tensor

    def local(self, rows: slice, parts: torch.Tensor, blur: float) -> Local:
        clean, weight = parts.sum(dim=1), self.weight[rows]
        lower, upper = self.lower[rows] - clean, self.upper[rows] - clean
        scale = math.hypot(self.sigma, blur)
        if blur == 0:
            off = lower.clamp_min(0) + upper.clamp_max(0)
            scale = scale or 1.0
            outside = ((lower >= 0) | (upper <= 0)).to(clean) * weight / scale**2
            return Local(0.5 * off**2 * outside, off * outside, outside)
        loss, score, curvature = _blurred_window(lower / scale, upper / scale)
        return Local(weight * loss, weight * score / scale, weight * curvature / scale**2)

    def fit(self, parts: torch.Tensor, unknowns: int) -> Fit:
        clean = parts.sum(dim=1)
        count = float(self.weight.sum())
        variance = self.sigma**2
        # t = 0 is on the edge of both half lines, and has neither sign
        edge = ((self.lower == 0) != (self.upper == 0)) & (clean == 0)
        left = float((self.left(clean).square() + self.weight * edge).sum())
        allowed = count * (_ALLOWED * self.blurs[-1]) ** 2
        return Fit(left, variance * max(0.0, count - unknowns), variance * math.sqrt(2 * count), allowed)

    def values(self) -> torch.Tensor:
        return self.lower == self.upper

    def left(self, clean: torch.Tensor | None) -> torch.Tensor:
        off = 0.0 if clean is None else clean
        return self.weight * ((self.lower - off).clamp_min(0) + (self.upper - off).clamp_max(0))

    @property
    def power(self) -> float:
        return float(self.seen.square().sum())

    @property
    def crude(self) -> Entries:
        return self if self.blurs[-1] == 0 else _Whole(self.seen).crude

    def some(self, rows: torch.Tensor) -> Entries:
        cut = {name: getattr(self, name)[rows] for name in ("seen", "lower", "upper", "weight")}
        return dataclasses.replace(self, **cut)

    def telling(self) -> int:
        return int((torch.isfinite(self.lower) | torch.isfinite(self.upper)).sum())


@dataclass(frozen=True, eq=False)
class Censored(Windowed):
    """Entries with noise: values where that leaves them above ``threshold`` in size; of the others nothing else is known."""

    threshold: float = 0.0

    def local(self, rows: slice, parts: torch.Tensor, blur: float) -> Local:
        clean, weight, scale = parts.sum(dim=1), self.weight[rows], math.hypot(self.sigma, blur)
        ends = ((bound[rows] - clean) / scale for bound in (self.lower, self.upper))
        loss, score, curvature = _blurred_window(*ends)
        return Local(weight * loss, weight * score / scale, weight * curvature / scale**2)

    def fit(self, parts: torch.Tensor, unknowns: int) -> Fit:
        """Of the squares of distances: from values, whose noise has been chosen, and from the threshold, of terms above it
        whose entries are not seen."""
        clean = parts.sum(dim=1)
        size = clean.abs()
        a, b = (-self.threshold - size) / self.sigma, (self.threshold - size) / self.sigma
        at_a, at_b = (torch.exp(-0.5 * t**2) / math.sqrt(2 * math.pi) for t in (a, b))
        gone = torch.special.ndtr(b) - torch.special.ndtr(a)
        second = 1 - gone - a * at_a + b * at_b  # of the noise where the entry is kept
        fourth = 3 * second - a**3 * at_a + b**3 * at_b
        above = (-b).clamp_min(0)
        mean = second + gone * above**2
        variance = (fourth + gone * above**4 - mean**2).clamp_min(0)
        return Fit(
            float(self.left(clean).square().sum()),
            self.sigma**2 * max(0.0, float((self.weight * mean).sum()) - unknowns),
            self.sigma**2 * math.sqrt(float((self.weight * variance).sum())),
        )

    @property
    def crude(self) -> Entries:
        """By distances alone."""
        return Windowed(self.seen, self.lower, self.upper, self.sigma, self.blurs, self.weight)


@dataclass(frozen=True, eq=False)
class _Whole:
    """Entries (m,) that each carry a value in the mean, whatever blurs it."""

    seen: torch.Tensor

    def values(self) -> torch.Tensor:
        return torch.ones_like(self.seen, dtype=torch.bool)

    def left(self, clean: torch.Tensor | None) -> torch.Tensor:
        return self.seen if clean is None else self.seen - clean

    @property
    def power(self) -> float:
        return float(self.seen.square().sum())

    @property
    def crude(self) -> Entries:
        ones = torch.ones_like(self.seen)
        return Windowed(self.seen, self.seen, self.seen, 0.0, (0.0,), ones)


@dataclass(frozen=True, eq=False)
class DitheredEntries(_Whole):
    """Entries (m,) rounded at random to a multiple of ``step``."""

    step: float

    @property
    def blurs(self) -> tuple[float, ...]:
        return tuple(b * self.step for b in _STAGES)

    def local(self, rows: slice, parts: torch.Tensor, blur: float) -> Local:
        off = (parts.sum(dim=1) - self.seen[rows]) / self.step
        loss, slope, curvature = _blurred_hat(off, blur / self.step)
        return Local(loss, -slope / self.step, curvature / self.step**2)

    def fit(self, parts: torch.Tensor, unknowns: int) -> Fit:
        clean = parts.sum(dim=1)
        f = torch.remainder(clean / self.step, 1.0)
        variance = self.step**2 * f * (1 - f)
        fourth = self.step**4 * f * (1 - f) * (f**3 + (1 - f) ** 3)
        freedom = max(0.0, 1 - unknowns / len(clean))
        return Fit(
            float((self.seen - clean).square().sum()),
            float(variance.sum()) * freedom,
            math.sqrt(float((fourth - variance**2).sum())),
        )

    def some(self, rows: torch.Tensor) -> Entries:
        return DitheredEntries(self.seen[rows], self.step)

    def telling(self) -> int:
        return len(self.seen)


@dataclass(frozen=True, eq=False)
class MaskedEntries(_Whole):
    """Entries (m,) whose terms are dropped one by one with probability ``p``."""

    p: float
    patterns: torch.Tensor
    blurs: tuple[float, ...]

    def local(self, rows: slice, parts: torch.Tensor, blur: float) -> Local:
        kept = self.patterns / (1 - self.p)
        off = self.seen[rows, None] - parts @ kept.T
        count = self.patterns.sum(dim=1)
        prior = count * math.log1p(-self.p) + (self.patterns.shape[1] - count) * math.log(self.p)
        logs = prior - 0.5 * (off / blur) ** 2
        posterior = torch.softmax(logs, dim=1)
        return Local(
            -torch.logsumexp(logs, dim=1),
            (posterior * off) @ kept / blur**2,
            torch.einsum("nk,ki,kl->nil", posterior, kept, kept) / blur**2,
        )

    def fit(self, parts: torch.Tensor, unknowns: int) -> Fit:
        off = self.seen[:, None] - parts @ self.patterns.T / (1 - self.p)
        allowed = len(self.seen) * (_ALLOWED * self.blurs[-1]) ** 2
        return Fit(float(off.square().amin(dim=1).sum()), 0.0, 0.0, allowed)

    def some(self, rows: torch.Tensor) -> Entries:
        return MaskedEntries(self.seen[rows], self.p, self.patterns, self.blurs)

    def telling(self) -> int:
        return int((self.seen != 0).sum())


def entries_of(density: Density, seen: torch.Tensor, scale: float, B: int, fitted: torch.Tensor) -> Entries:
    """The entries ``seen`` (m,) over ``scale``, in float64; fitted (m,): 0 for those that are left out, else 1.

    Raises ``ValueError`` for a mixture over more than 2^``MOST_MASKED`` subsets, ``TypeError`` for a density of which the
    likelihood is not known here.
    """
    gradient = seen.double() / scale
    if isinstance(density, Masked):
        if B > MOST_MASKED:
            raise ValueError(
                f"batch_size must be at most {MOST_MASKED} where every sample has a mask of its own; got {B}"
            )
        patterns = torch.tensor(list(itertools.product((0.0, 1.0), repeat=B)), dtype=torch.float64).to(
            gradient
        )
        size = float(gradient.square().mean().sqrt())
        return MaskedEntries(gradient, density.p, patterns, tuple(size * b for b in _MASK_STAGES))
    if isinstance(density, Dithered):
        return DitheredEntries(gradient, density.step / scale)
    if not isinstance(density, Plain | Erased | Thresholded | Rounded | Signs | Clamped):
        raise TypeError(f"the likelihood of {density!r} is not known: a density of bounds.density is")
    windows = density.windows(seen.double().cpu().numpy())
    lower, upper = (torch.from_numpy(bound).to(gradient) / scale for bound in windows)
    unit = density.step / scale if isinstance(density, Rounded) else 1.0
    sigma = density.sigma / scale
    blurred = isinstance(density, Rounded | Signs)
    blurs = tuple(unit * b for b in _STAGES) if blurred else (0.0,)
    sigma = sigma if sigma > NOISE else 0.0
    weight = fitted.to(gradient)
    if isinstance(density, Thresholded) and sigma > 0 and bool((lower < upper).any()):
        return Censored(gradient, lower, upper, sigma, blurs, weight, float(upper[lower < upper].max()))
    return Windowed(gradient, lower, upper, sigma, blurs, weight)


def _blurred_window(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``-log P(a <= N - t <= b)`` at t = 0, minus its derivative by t, and its second one; where a = b, of the density."""
    point = a == b
    # from the side where both tails are small, so that their difference keeps its digits
    flipped = a > 0
    low, high = torch.where(flipped, -b, a), torch.where(flipped, -a, b)
    top = torch.special.log_ndtr(high)
    log_mass = top + torch.log1p(-torch.exp(torch.special.log_ndtr(low) - top))
    at_a, at_b = (torch.exp(-0.5 * t**2 - math.log(math.sqrt(2 * math.pi)) - log_mass) for t in (a, b))
    score = at_a - at_b
    bent = torch.where(at_a > 0, a * at_a, 0.0) - torch.where(at_b > 0, b * at_b, 0.0)
    curvature = (score**2 - bent).clamp_min(0)
    return (
        torch.where(point, 0.5 * a**2, -log_mass),
        torch.where(point, a, score),
        torch.where(point, 1.0, curvature),
    )


def _blurred_hat(off: torch.Tensor, s: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``-log E max(0, 1 - |off + s N|)`` with its first and second derivative by ``off``."""
    size = off.abs()
    v = ((size - 1) / s).clamp_min(_TAIL)
    mills = math.sqrt(math.pi / 2) * torch.special.erfcx(v / math.sqrt(2))
    rest = 1 - v * mills
    tail_loss = 0.5 * v**2 + 0.5 * math.log(2 * math.pi) - math.log(s) - torch.log(rest)
    tail_slope = mills / (s * rest)
    tail_bend = tail_slope**2 - 1 / (s**2 * rest)

    def ramp(u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        t = u / s
        density = torch.exp(-0.5 * t**2) / math.sqrt(2 * math.pi)
        mass = torch.special.ndtr(t)
        return u * mass + s * density, mass, density / s

    near = torch.minimum(size, torch.tensor(1 + _TAIL * s).to(size))
    (p1, d1, c1), (p2, d2, c2), (p3, d3, c3) = ramp(near + 1), ramp(near), ramp(near - 1)
    p = p1 - 2 * p2 + p3
    slope, bend = (d1 - 2 * d2 + d3) / p, (c1 - 2 * c2 + c3) / p
    inside = size < 1 + _TAIL * s
    loss = torch.where(inside, -torch.log(p), tail_loss)
    first = torch.where(inside, -slope, tail_slope) * torch.sign(off)
    second = torch.where(inside, slope**2 - bend, tail_bend).clamp_min(0)
    return loss, first, second
