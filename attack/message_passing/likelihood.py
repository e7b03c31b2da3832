"""The densities of ``bounds.density`` at the points of posteriors, on tensors, with their slopes.

At each point the likelihood is as wide as the noise, or as the points resolve where that is wider: half the distance of the
clean entry from that at the neighbouring point of the line. As what is known of an entry narrows, the points draw together
and the blur falls: it anneals itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from bounds.density import Clamped, Density, Dithered, Erased, Masked, Plain, Rounded, Signs, Thresholded
from bounds.gaussian.lines import RESOLVED, SHARPEST

#: Parameters of densities that are lengths on the scale of an entry.
_LENGTHS = ("sigma", "step", "limit")

_SQRT_2PI, _ROOT_HALF = math.sqrt(2 * math.pi), math.sqrt(0.5)

#: Probabilities below this are told by the leading term of their tail.
_UNDERFLOW = 1e-280


@dataclass(frozen=True, eq=False)
class Values:
    """The density p at each point: log (n, N), its logarithm; slopes: its derivatives by each of the B terms over p,
    (n, N) each; bends: its second derivatives by two terms over p, by pairs i <= k in order."""

    log: torch.Tensor
    slopes: tuple[torch.Tensor, ...]
    bends: tuple[torch.Tensor, ...]

    @staticmethod
    def of_sum(log: torch.Tensor, slope: torch.Tensor, bend: torch.Tensor, B: int) -> Values:
        """Of a density of the sum of the terms."""
        return Values(log, (slope,) * B, (bend,) * (B * (B + 1) // 2))


@dataclass(frozen=True, eq=False)
class Likelihood:
    """The density of what is seen of m entries. lower, upper (m,): the window of each entry, or twice what is seen of it
    where there is none. least: no likelihood is sharper; size: root mean square of the entries, as far as they are known;
    blur: standard deviation of noise on top of the density's own."""

    density: Density
    lower: torch.Tensor
    upper: torch.Tensor
    least: float
    size: float
    blur: float = 0.0

    @staticmethod
    def of(density: Density, seen: torch.Tensor, unit: int = 0, rounding: float = 0.0) -> Likelihood:
        """Of what is seen (m,), float64, in units of ``2^unit`` of those that the density is stated in; entries are known to
        the part ``rounding`` of their size. Raises ``ValueError`` for a density without formulas here."""
        kind = type(density)
        if kind not in _VALUES:
            names = ", ".join(sorted(known.__name__ for known in _VALUES))
            raise ValueError(
                f"the defense's density must be one of {names} for message passing; got {density}"
            )
        density = _in_units(density, unit)
        values = seen.cpu().numpy()
        lower, upper = density.windows(values) if _VALUES[kind] is _window else (values, values)
        known = np.isfinite(lower) & np.isfinite(upper)
        middle = (lower[known] + upper[known]) / 2
        size = float(np.sqrt(np.mean(middle**2))) if len(middle) else 0.0
        size = size if size > 0 else 1.0
        ends = [
            torch.as_tensor(np.array(end), dtype=torch.float64, device=seen.device) for end in (lower, upper)
        ]
        return Likelihood(density, ends[0], ends[1], max(SHARPEST, 4 * rounding) * size, size)

    def blurred(self, blur: float) -> Likelihood:
        """With other noise on top."""
        return replace(self, blur=blur)

    def at(self, rows: slice, parts: tuple[torch.Tensor, ...], along: int) -> Values:
        """Of the entries ``rows`` at their points, where the terms are ``parts``, (n, N) each."""
        lower, upper = self.lower[rows, None], self.upper[rows, None]
        return _VALUES[type(self.density)](self, lower, upper, parts, along)

    def width(self, t: torch.Tensor, along: int) -> torch.Tensor:
        """The standard deviation of the Gaussian part of the density at each point (n, N) of the clean entries ``t``."""
        steps = t.reshape(len(t), -1, along).diff(dim=2).abs_()
        ends = steps.new_zeros(*steps.shape[:2], along + 1)
        ends[:, :, 1:-1] = steps
        farther = torch.maximum(ends[:, :, 1:], ends[:, :, :-1]).reshape(t.shape)
        return farther.mul_(RESOLVED).clamp_(min=max(math.hypot(self.density.sigma, self.blur), self.least))


def _in_units(density: Density, unit: int) -> Density:
    """The same density where entries are counted in ``2^unit``."""
    lengths = {name: math.ldexp(getattr(density, name), -unit) for name in _LENGTHS if hasattr(density, name)}
    return replace(density, **lengths) if unit else density


def _window(
    law: Likelihood, lower: torch.Tensor, upper: torch.Tensor, parts: tuple[torch.Tensor, ...], along: int
) -> Values:
    """``t + sigma N`` lies between lower and upper."""
    t = _sum(parts)
    width = law.width(t, along)
    point = (lower == upper)[:, 0]
    if bool(point.all()):
        return Values.of_sum(*_point(lower, upper, t, width), len(parts))
    log, slope, bend = torch.zeros_like(t), torch.zeros_like(t), torch.zeros_like(t)
    interval = ~point & ~torch.isinf(lower - upper)[:, 0] | (torch.isinf(lower) ^ torch.isinf(upper))[:, 0]
    for chosen, formula in ((point, _point), (interval, _interval)):
        rows = chosen.nonzero()[:, 0]
        if len(rows):
            log[rows], slope[rows], bend[rows] = formula(lower[rows], upper[rows], t[rows], width[rows])
    return Values.of_sum(log, slope, bend, len(parts))


def _point(
    lower: torch.Tensor, _: torch.Tensor, t: torch.Tensor, width: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    off = (lower - t) / width
    square = off * off
    return -square / 2 - torch.log(width * _SQRT_2PI), off / width, (square - 1) / (width * width)


def _interval(
    lower: torch.Tensor, upper: torch.Tensor, t: torch.Tensor, width: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    a, b = (lower - t) / width, (upper - t) / width
    # on the side where both tails are small, so that their difference keeps its digits
    flipped = a > 0
    near, far = torch.where(flipped, -a, b), torch.where(flipped, -b, a)
    mass = (torch.special.erfc(near * -_ROOT_HALF) - torch.special.erfc(far * -_ROOT_HALF)) / 2
    outside = mass < _UNDERFLOW
    mass = mass.clamp(min=_UNDERFLOW)
    tail = near.clamp(max=-1.0)
    log = torch.where(outside, -(tail * tail) / 2 - torch.log(tail * -_SQRT_2PI), torch.log(mass))
    # densities at the edges over the mass between; far out all of it lies at the near edge
    inner = torch.where(outside, -tail * _SQRT_2PI, torch.exp(-(near * near) / 2) / mass)
    outer = torch.where(outside, 0.0, torch.exp(-(far * far) / 2) / mass)
    slope = torch.where(flipped, inner - outer, outer - inner) / (width * _SQRT_2PI)
    # an edge at infinity has no density: inf * 0 there
    bend = torch.nan_to_num(far * outer, nan=0.0) - torch.nan_to_num(near * inner, nan=0.0)
    return log, slope, bend / (width * width * _SQRT_2PI)


def _dithered(
    law: Likelihood, lower: torch.Tensor, _: torch.Tensor, parts: tuple[torch.Tensor, ...], along: int
) -> Values:
    """``E max(0, 1 - |off + width N|)`` of the distance in steps; far outside, the leading term of its tail."""
    assert isinstance(law.density, Dithered)
    t = _sum(parts)
    step = law.density.step
    width = law.width(t, along) / step
    signed = (t - lower) / step
    off = signed.abs()
    value, slope, bend = torch.zeros_like(t), torch.zeros_like(t), torch.zeros_like(t)
    for shift, weight in ((1.0, 1.0), (0.0, -2.0), (-1.0, 1.0)):
        u = (off + shift) / width
        # E max(0, -(off + shift) - width N): the ramps of the far side, which are small where the value is
        mass = torch.special.erfc(u * _ROOT_HALF) / 2  # not torch's ndtr, which has no tail
        density = torch.exp(-(u * u) / 2) / _SQRT_2PI
        value += weight * (width * density - (off + shift) * mass)
        slope -= weight * mass
        bend += weight * density / width
    outside = value < _UNDERFLOW
    value = value.clamp(min=_UNDERFLOW)
    beyond = ((off - 1) / width).clamp(min=1.0)
    tail = torch.log(width / _SQRT_2PI) - 2 * torch.log(beyond) - beyond * beyond / 2
    log = torch.where(outside, tail, torch.log(value))
    slope = torch.where(outside, -beyond / width, slope / value)
    bend = torch.where(outside, (beyond / width) ** 2, bend / value)
    return Values.of_sum(log, torch.sign(signed) * slope / step, bend / step**2, len(parts))


def _masked(
    law: Likelihood, lower: torch.Tensor, _: torch.Tensor, parts: tuple[torch.Tensor, ...], along: int
) -> Values:
    """The mixture over the subsets of terms."""
    assert isinstance(law.density, Masked)
    p = law.density.p
    logs, slopes, bends = [], [], []
    patterns = list(itertools.product((False, True), repeat=len(parts)))
    for pattern in patterns:
        kept = tuple(part for part, there in zip(parts, pattern, strict=True) if there)
        t = _sum(kept) / (1 - p) if kept else torch.zeros_like(parts[0])
        log, slope, bend = _point(lower, lower, t, law.width(t, along))
        logs.append(log + len(kept) * math.log1p(-p) + (len(parts) - len(kept)) * math.log(p))
        slopes.append(slope / (1 - p))
        bends.append(bend / (1 - p) ** 2)
    total = torch.logsumexp(torch.stack(logs), dim=0)
    shares = [torch.exp(log - total) for log in logs]

    def mixed(values: list[torch.Tensor], *terms: int) -> torch.Tensor:
        """Over the patterns that keep these terms."""
        there = [all(pattern[i] for i in terms) for pattern in patterns]
        out = torch.zeros_like(total)
        for share, value, kept in zip(shares, values, there, strict=True):
            out += share * value if kept else 0.0
        return out

    each = range(len(parts))
    return Values(
        total,
        tuple(mixed(slopes, i) for i in each),
        tuple(mixed(bends, i, k) for i in each for k in each if i <= k),
    )


def _sum(parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
    t = parts[0].clone()
    for part in parts[1:]:
        t += part
    return t


_VALUES: Mapping[type[Density], Callable[..., Values]] = {
    Plain: _window,
    Erased: _window,
    Thresholded: _window,
    Rounded: _window,
    Signs: _window,
    Clamped: _window,
    Dithered: _dithered,
    Masked: _masked,
}
