"""Features by weighted least squares on the model itself: of all layers from the attacked one on, whatever the defense.

The unknowns are the features z_i (B, d_f) alone: given these and the labels, the network from the attacked layer on makes
its own gradients, which are compared with what is seen of them, each entry by what is known of it (``attack.image.known``).
With Gaussian noise this is maximum likelihood, and the Cramér-Rao bound, which it reaches where noise is small, is what it
predicts of its own error, given the labels: of wrong ones the misfit tells, which under noise it may not. Any
differentiable activation, any weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch

from attack.image.head_network import head_observation
from attack.image.known import Between, Entries, Model, Seen, model_of
from attack.image.observed import SUMS, ImageObservation
from attack.likelihood.errors import SINGULAR
from attack.likelihood.solve import Effort, descended, factored
from attack.reconstruction import failure
from attack.streams import normal, uniform
from bounds import StochasticRounding, checks

#: How many roundings of an entry are still no misfit where there is no noise.
_MANY = 75.0

#: Standard deviations of chi^2 above its mean up to which what is left is noise.
_SIGMAS = 5.0

#: Steps of a start, and the relative decrease that ends them.
_STEPS, _PRECISION = 60, 1e-4

#: Size of the noise of a start, over that of features: those of noise pictures are too much alike.
_APART = 0.5

#: Entries times unknowns of the largest Jacobian that is held.
_LARGEST = 2**27


@dataclass(frozen=True, eq=False)
class LikelyFeatures:
    """features (B, d_f), in the order of the labels; error (B,): predicted mean of 1 - cos^2 if the labels are right; limit
    (B,): two standard deviations above it; both 1 where what is left is not noise, and of a feature that may be noise
    alone; distance (B,): two standard deviations above the mean of |found - truth|^2 over |found|^2, inf there. misfit: mean
    square of what is left, over that of noise, for each entry that is not made up for by an unknown; starts: that were made;
    believed: whether what is left is noise."""

    features: torch.Tensor
    error: torch.Tensor
    limit: torch.Tensor
    distance: torch.Tensor
    misfit: float
    starts: int
    believed: bool


@dataclass(frozen=True, eq=False)
class _Law:
    """target (n,): what entries are compared with; precision (n,): one over the variance of their noise and rounding, 0
    where nothing is known; noisy: whether there is noise."""

    target: torch.Tensor
    precision: torch.Tensor
    noisy: bool


def likely_features(
    observation: ImageObservation, labels: torch.Tensor, *, seed: int = 2, starts: int = 8
) -> LikelyFeatures:
    """The features whose gradient explains what is seen best, of several starts: the first that leaves no more than
    rounding; under noise, of which a wrong minimum may leave little more, the best when two have found it.

    labels (B,): of the features. Raises ``ReconstructionError`` where the gradient does not determine the features, or says
    nothing whose law is known here (signs, stochastic rounding, and noise before pruning: the entries that are left are
    those of large noise), or for more unknowns than are held; ``ValueError`` without an attacked layer.
    """
    checks.integer("starts", starts, 1)
    head = head_observation(observation)
    model = model_of(head)
    law = _law(head, model, eps=torch.finfo(observation.network.dtype).eps)
    unknowns, entries = head.batch_size * observation.network.d, int((law.precision > 0).sum())
    if unknowns * len(law.target) > _LARGEST:
        raise failure(
            f"{len(law.target)} entries times {unknowns} unknowns are more than the {_LARGEST} that are held"
        )
    if entries <= unknowns:
        raise failure(f"{entries} entries are left for {unknowns} unknowns")
    fit = _Fit(model, law, labels, entries - unknowns)
    # what rounding leaves is not worth a step; of noise the least that is left counts
    effort = Effort(_STEPS, _PRECISION, near=0.0, rounding=0.0 if law.noisy else 0.5 * fit.dof)
    best: _Place | None = None
    losses: list[float] = []
    for start in _starts(observation, seed, starts):
        place = descended(_Place(fit, start), effort, factored)
        losses.append(place.loss)
        if best is None or place.loss < best.loss:
            best = place
        if best.believed and (not law.noisy or _agreeing(losses, unknowns)):
            break
    assert best is not None  # there is a start
    error, limit, distance = best.errors()
    return LikelyFeatures(best.features, error, limit, distance, best.misfit, len(losses), best.believed)


def _agreeing(losses: Sequence[float], unknowns: int) -> bool:
    """Whether two are as near to the least as chance is: the truth's is above it by half of chi^2 of all unknowns."""
    least = sorted(losses)[:2]
    return len(least) == 2 and least[1] - least[0] <= math.sqrt(unknowns / 2)


@dataclass(frozen=True, eq=False)
class _Fit:
    model: Model
    law: _Law
    labels: torch.Tensor
    dof: int

    @property
    def limit(self) -> float:
        """Of the misfit, up to which what is left is noise, or rounding where there is none."""
        return 1 + _SIGMAS * math.sqrt(2 / self.dof) if self.law.noisy else _MANY**2


@dataclass(frozen=True, eq=False)
class _Place:
    """A point of the search, see ``attack.likelihood.solve.Point``."""

    fit: _Fit
    features: torch.Tensor
    radii: None = None

    def moved(self, features: torch.Tensor) -> _Place:
        return _Place(self.fit, features)

    @cached_property
    def _gradient(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Features on the graph of their gradient (n,), and that."""
        z = self.features.detach().requires_grad_()
        with torch.enable_grad():
            parts = self.fit.model.client(z[:, :, None, None], self.fit.labels)
            return z, torch.cat([g.reshape(-1) for g in parts])

    @cached_property
    def _left(self) -> torch.Tensor:
        return self._gradient[1].detach() - self.fit.law.target

    @cached_property
    def loss(self) -> float:
        return 0.5 * float(self.fit.law.precision.mul(self._left).dot(self._left))

    @cached_property
    def _jacobian(self) -> torch.Tensor:
        """Of the whitened entries, (B d_f, n): derivatives of ``J^T u``, which is linear, by u."""
        z, gradient = self._gradient
        u = torch.zeros_like(gradient, requires_grad=True)
        (pulled,) = torch.autograd.grad(gradient, z, u, create_graph=True)
        units = torch.eye(z.numel(), dtype=z.dtype, device=z.device)
        (rows,) = torch.autograd.grad(pulled.reshape(-1), u, units, is_grads_batched=True, retain_graph=True)
        return rows.mul_(self.fit.law.precision.sqrt())

    @cached_property
    def descent(self) -> torch.Tensor:
        white = self.fit.law.precision.sqrt() * self._left
        return -(self._jacobian @ white).view_as(self.features)

    @cached_property
    def matrix(self) -> torch.Tensor:
        return self._jacobian @ self._jacobian.T

    @property
    def misfit(self) -> float:
        return 2 * self.loss / self.fit.dof

    @property
    def believed(self) -> bool:
        return self.misfit <= self.fit.limit

    def errors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Predicted mean of 1 - cos^2, two standard deviations above it (``angles``), and the same of the squared distance
        (``distances``): by the Cramér-Rao covariance at this place, times what is left where that is more than rounding
        should leave."""
        B, d = self.features.shape
        if not self.believed:
            ones = torch.ones(B, dtype=self.features.dtype, device=self.features.device)
            return ones, ones, ones * math.inf
        units = self.matrix.diagonal().sqrt().clamp_min(torch.finfo(self.matrix.dtype).tiny)
        values, vectors = torch.linalg.eigh(self.matrix / units[:, None] / units)
        if float(values[0]) < SINGULAR * float(values[-1]):
            raise failure("what is seen of the gradient does not determine the features")
        covariance = (vectors / values) @ vectors.T / units[:, None] / units * max(1.0, self.misfit)
        own = covariance.reshape(B, d, B, d)[range(B), :, range(B), :]
        error, limit = angles(self.features, own)
        return error, limit, torch.where(limit < 1, distances(self.features, own), math.inf)


def angles(features: torch.Tensor, covariance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of 1 - cos^2 between what was to be found and features (B, d), which are that and Gaussian errors of covariance
    (B, d, d), and two standard deviations above it: the error's power across the feature, over the feature's own.

    The square of a found length has the error's power ``tr C`` in it, which is taken off. What is left scatters by
    ``sqrt(2 tr C^2)`` where there is nothing but error, whose direction the found one then has, so that it seems to have no
    error across: where less than two of these are left both are 1. Of worthless features that leaves .4 % (errors of equal
    size in all directions of d = 8) to 5 % (of one direction) to be believed, wrongly; of features of the error's size with
    errors of one direction, a tenth.
    """
    powers = features.square().sum(dim=1)
    along = torch.einsum("ia,ib->iab", features, features) / powers[:, None, None]
    across = torch.eye(features.shape[1], dtype=along.dtype, device=along.device) - along
    across = across @ covariance @ across
    left = powers - _trace(covariance)
    stands = left > 2 * _scatter(covariance)
    mean, limit = _trace(across) / left, (_trace(across) + 2 * _scatter(across)) / left
    ones = torch.ones_like(left)
    return torch.where(stands, mean.clamp(0.0, 1.0), ones), torch.where(stands, limit.clamp(0.0, 1.0), ones)


def distances(features: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """Two standard deviations above the mean of the error's power, over that of the features (B, d) as they are found."""
    return (_trace(covariance) + 2 * _scatter(covariance)) / features.square().sum(dim=1)


def _trace(covariance: torch.Tensor) -> torch.Tensor:
    """Mean (B,) of the squared length of Gaussian vectors."""
    return covariance.diagonal(dim1=1, dim2=2).sum(dim=1)


def _scatter(covariance: torch.Tensor) -> torch.Tensor:
    """Standard deviation (B,) of that."""
    return (2 * covariance.square().sum(dim=(1, 2))).sqrt()


def _starts(observation: ImageObservation, seed: int, starts: int) -> Iterator[torch.Tensor]:
    """Features of pictures of uniform pixels, which are of the right size, and noise that tells them apart."""
    network, B = observation.network, observation.batch_size
    for index in range(starts):
        shape = (B, *network.shape)
        shown = uniform(shape, seed, "features", index, device=network.device, dtype=network.dtype)
        with torch.no_grad():
            found = network.features(shown).double()
        apart = normal(tuple(found.shape), seed, "apart", index, device=found.device, dtype=found.dtype)
        yield found + _APART * found.square().mean().sqrt() * apart


def _law(head: ImageObservation, model: Model, *, eps: float) -> _Law:
    """eps: of the type in which gradients were sent."""
    selected = (
        model.noise > 0 and model.entries.kept is not None
    )  # by size, after noise: no Gaussian any more
    if type(model.entries) not in _KNOWN or isinstance(head.defense, StochasticRounding) or selected:
        raise failure("what is known of the gradient's entries has no law of which an error is predicted")
    target, variance = _KNOWN[type(model.entries)](model.entries)
    variance = variance + model.noise**2
    noisy = bool((variance[torch.isfinite(variance)] > 0).any())
    return _Law(target, 1 / (variance + _rounding(head, SUMS * eps)), noisy)


def _rounding(head: ImageObservation, relative: float) -> torch.Tensor:
    """Variance (n,) of what rounding made of each entry, from that of all of its parameter that are sent."""
    powers = [g[g != 0].square().mean() if bool(g.any()) else g.new_zeros(()) for g in head.gradients]
    tiny = torch.finfo(torch.float64).tiny
    return torch.cat(
        [
            (relative**2 * p).clamp_min(tiny).expand(g.numel())
            for p, g in zip(powers, head.gradients, strict=True)
        ]
    )


def _seen(entries: Seen) -> tuple[torch.Tensor, torch.Tensor]:
    zeros = torch.zeros_like(entries.seen)
    return entries.seen, zeros if entries.kept is None else torch.where(entries.kept > 0, zeros, math.inf)


def _between(entries: Between) -> tuple[torch.Tensor, torch.Tensor]:
    """Uniform between two ends. Not known is one with an infinite end, nor one about zero: an entry that is smaller than the
    step is rounded by as much as it is, not by chance."""
    known = torch.isfinite(entries.low) & torch.isfinite(entries.high) & (entries.low != -entries.high)
    middle = torch.where(known, (entries.low + entries.high) / 2, 0.0)
    return middle, torch.where(known, (entries.high - entries.low).square() / 12, math.inf)


#: What entries are compared with, and the variance of what was added to it, by what is known of them.
_KNOWN: Mapping[type[Entries], Callable[[Any], tuple[torch.Tensor, torch.Tensor]]] = MappingProxyType(
    {Seen: _seen, Between: _between}
)
