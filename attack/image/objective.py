"""How far the gradient of guessed pictures is from the observed one, in which unit, and what else a search minimises."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch

from attack.image.known import Model
from attack.image.optimise import Evaluation
from attack.image.pictures import Picture
from attack.networks.image.network import ImageNetwork

#: Of u and t, both (n,), and the square of the length of what is seen: a number, and its slope by u.
_Distance = Callable[[torch.Tensor, torch.Tensor, float], tuple[float, torch.Tensor]]

#: Pictures (B, C, H, W), pixels, to a number: what else is to be small, differentiable.
Term = Callable[[torch.Tensor], torch.Tensor]

WEIGHTS = ("global", "layer")

#: Entries whose products are held at once: they stay in the cache.
_AT_ONCE = 2**18

#: Standard deviations above its mean that what noise makes of the misfit at the truth is, in one of twenty draws.
_RARE = 1.645


def _inner(u: torch.Tensor, t: torch.Tensor) -> float:
    """``u . t``, summed in pairs: ``torch.dot`` loses digits in float32 that the last steps of a search need (50 dB where
    this way 90 are reached). On a CPU in parts, as a product of all entries of a large network is new memory each time."""
    at_once = _AT_ONCE if u.device.type == "cpu" else max(1, len(u))
    return sum(float((a * b).sum()) for a, b in zip(u.split(at_once), t.split(at_once), strict=True))


def _squared(u: torch.Tensor, t: torch.Tensor, power: float) -> tuple[float, torch.Tensor]:
    """``|u - t|^2 / |seen|^2``."""
    off = u - t
    return _inner(off, off) / power, off.mul_(2 / power)


def _cosine(u: torch.Tensor, t: torch.Tensor, power: float) -> tuple[float, torch.Tensor]:
    """``1 - cos(u, t)``; 1 where one of them is zero."""
    own = _inner(u, u)
    both = math.sqrt(own * _inner(t, t))
    if both == 0.0:
        return 1.0, torch.zeros_like(u)
    cosine = _inner(u, t) / both
    return 1 - cosine, (u * (cosine / own)).sub_(t, alpha=1 / both)


OBJECTIVES: Mapping[str, _Distance] = MappingProxyType({"cosine": _cosine, "squared": _squared})


@dataclass(frozen=True, eq=False)
class Misfit:
    """The distance of a guessed gradient (n,) from what is known of the clean one, and its slope by the guess.

    kind: a key of ``OBJECTIVES``. weights: "global" (one distance over all entries) or "layer" (the mean over parameters of
    the distance of each; with noise each weighs as the share of its energy that is not noise, and one of nothing but zeros
    or noise not at all). floor: the value that noise makes at the truth, in the mean. level: what it exceeds there in one
    of twenty draws with "global" weights (with "layer", whose shares the noise draws too, in 1 to 19 % of draws of strong
    noise); 0 without noise, and where noise could be all that is seen.

    Of n entries that have the power P together with their noise of sigma, the value at the truth is ``c/P`` ("squared"), c
    the power of the noise, or ``1 - sqrt(1 - c/P)`` ("cosine"), c that across the gradient: c is sigma^2 times chi^2 of n,
    or n - 1, and spreads by ``sqrt(2/n)`` of itself. The least value of a search of p variables is lower by p/n, so that
    one which stopped at the mean itself would, in half of all draws, go on into the noise or never get there.
    Where entries are pruned after noise, n counts the kept ones. These are rather those of large noise: floor and level are
    below what is there, by little where the gradient is above the noise.
    """

    model: Model
    kind: str
    sizes: tuple[int, ...]
    shares: tuple[float, ...]
    powers: tuple[float, ...]
    floor: float
    level: float

    @staticmethod
    def of(model: Model, seen: torch.Tensor, sizes: tuple[int, ...], *, kind: str, weights: str) -> Misfit:
        """seen: the gradient (n,), other than zero; sizes: of its parameters."""
        parts = sizes if weights == "layer" else (sum(sizes),)
        powers = tuple(float(part.double().square().sum()) for part in seen.split(parts))
        kept = model.entries.kept
        noisy = parts if kept is None else [int(part.sum()) for part in kept.split(parts)]
        noise = [n * model.noise**2 for n in noisy]
        signal = [max(0.0, 1 - s / p) if p else 0.0 for s, p in zip(noise, powers, strict=True)]
        if not any(signal):  # nothing stands out of the noise: every layer counts as it does without
            signal = [float(p > 0) for p in powers]
        total = sum(signal)
        shares = tuple(s / total for s in signal)

        def floors(more: float) -> list[float]:
            """Of each part, with noise of more power by so many standard deviations."""
            return [
                w * _FLOORS[kind](min(1.0, (1 + more * math.sqrt(2 / n)) * s / p)) if p else 0.0
                for n, w, s, p in zip(noisy, shares, noise, powers, strict=True)
            ]

        floor, spread = sum(floors(0.0)), math.dist(floors(1.0), floors(0.0))
        level = floor + _RARE * spread
        return Misfit(model, kind, parts, shares, powers, floor, level if level < 1 else 0.0)

    def __call__(self, guess: torch.Tensor) -> tuple[float, torch.Tensor]:
        entries, distance = self.model.entries, OBJECTIVES[self.kind]
        compared, target = entries.compared(guess)
        value, slopes, others = 0.0, [], []
        for u, t, share, power in zip(
            compared.split(self.sizes), target.split(self.sizes), self.shares, self.powers, strict=True
        ):
            if share == 0.0:
                slopes.append(torch.zeros_like(u))
                others.append(slopes[-1])
                continue
            one, slope = distance(u, t, power)
            value += share * one
            slopes.append(slope if share == 1.0 else slope.mul_(share))
            if entries.moves:
                others.append(distance(t, u, power)[1].mul_(share))
        joined = slopes[0] if len(slopes) == 1 else torch.cat(slopes)
        return value, entries.back(guess, joined, torch.cat(others) if others else joined)


#: The value at the truth, of the share of what is seen that is noise.
_FLOORS: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {"cosine": lambda share: 1 - math.sqrt(1 - share), "squared": lambda share: share}
)


@dataclass(frozen=True, eq=False)
class Objective:
    """What a search minimises, of variables: those of the picture and, where labels are None, logits (B, classes).

    ``misfit + tv TV + sum_k w_k term_k``, with TV the anisotropic total variation of normalised pixels: the mean absolute
    difference of neighbours along rows plus that along columns (Geiping et al. 2020).
    """

    network: ImageNetwork
    picture: Picture
    misfit: Misfit
    labels: torch.Tensor | None
    tv: float = 0.0
    terms: tuple[tuple[float, Term], ...] = ()

    def __call__(self, variables: Sequence[torch.Tensor]) -> Evaluation:
        """The value, its slope by every variable (these have to require one), and the misfit alone."""
        images = self.picture.images(variables)
        guess = self.misfit.model.client(images, self._labels(variables))
        with torch.no_grad():
            misfit, slope = self.misfit(torch.cat([g.reshape(-1) for g in guess]))
            value = misfit
            outputs, slopes = list(guess), list(self.network.split(slope))
            if self.tv:
                variation, by_images = variation_slope(images, self.network)
                value += self.tv * variation
                outputs.append(images)
                slopes.append(by_images.mul_(self.tv))
        for weight, term in self.terms:
            extra = weight * term(images)
            value += float(extra.detach())
            outputs.append(extra)
            slopes.append(torch.ones_like(extra))
        return Evaluation(value, torch.autograd.grad(outputs, list(variables), slopes), misfit)

    def matched(self, variables: Sequence[torch.Tensor]) -> float:
        """The misfit alone."""
        guess = self.misfit.model.client(self.picture.images(variables), self._labels(variables))
        with torch.no_grad():
            return self.misfit(torch.cat([g.reshape(-1) for g in guess]))[0]

    def _labels(self, variables: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.softmax(variables[-1], dim=1) if self.labels is None else self.labels


def total_variation(pictures: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of pixels (n, C, H, W) and their neighbours, below plus beside, differentiable. A side of one
    pixel has no neighbours and adds nothing."""
    parts = [off for _, off in _differences(pictures)]
    return sum((off.abs().mean() for off in parts), start=pictures.new_zeros(()))


def variation_slope(images: torch.Tensor, network: ImageNetwork) -> tuple[float, torch.Tensor]:
    """``total_variation`` of pixels (B, C, H, W), in normalised units, and its slope, which is cheaper by hand."""
    x = network.normalised(images)
    slope = torch.zeros_like(x)
    value = 0.0
    for dim, off in _differences(x):
        side = x.shape[dim]
        value += float(off.abs().mean())
        sign = off.sign_().div_(off.numel())
        slope.narrow(dim, 1, side - 1).add_(sign)
        slope.narrow(dim, 0, side - 1).sub_(sign)
    return value, network.scaled(slope)


def _differences(x: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """Of neighbours along each side of (n, C, H, W) that has any, with its dimension."""
    for dim in (2, 3):
        side = x.shape[dim]
        if side > 1:
            yield dim, x.narrow(dim, 1, side - 1) - x.narrow(dim, 0, side - 1)
