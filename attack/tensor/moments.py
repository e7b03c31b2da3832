"""Hermite moments of the observed gradient, streamed over the neurons: never a d x d matrix, never a d^3 tensor.

Each moment is a kernel of ``attack.stream.total``: its formula on a block of neurons.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from attack.stream import Weights, total
from attack.streams import normal


@dataclass(frozen=True, eq=False)
class Response:
    """The scalar that weights neuron j in every moment, ``h_j = g_j - offset - slope.w_j``.

    offset, slope (d,): zero for plain moments; the mean of g and its linear part for residualized ones.
    """

    gradient: torch.Tensor
    offset: torch.Tensor
    slope: torch.Tensor

    def of(self, rows: slice, linear: torch.Tensor) -> torch.Tensor:
        """h on a block of rows, given ``linear = W[rows] @ slope``."""
        return self.gradient[rows] - self.offset - linear


def first_moment(net: Weights, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``gbar = mean g_j`` and ``bhat = (1/m) sum_j (g_j - gbar) w_j`` (d,), in one pass."""
    mean = gradient.double().mean()
    centred = (gradient - mean.to(gradient.dtype)).unsqueeze(0)
    return mean, total(net, lambda rows, W: (centred[:, rows] @ W).squeeze(0)) / net.m


def first_moment_start(net: Weights, slope: torch.Tensor, B: int, seed: int) -> torch.Tensor:
    """Where the search of the span starts, (d, min(d, B + 2)) float64: the first moment, which lies in the span but for
    noise, and random directions."""
    start = normal((net.d, min(net.d, B + 2)), seed, "starts", 0, device="cpu", dtype=torch.float64)
    start = start.to(net.device)
    start[:, 0] = slope + 1e-12 * start[:, 0]
    return start


def noise_edge(power: float, dimension: int, m: int) -> float:
    """The edge of the spectrum that ``(1/m) sum_j h_j (u_j u_j^T - I)`` has of pure noise, u_j in R^dimension and ``power``
    the mean of h^2: that of the semicircle, and three standard errors of an entry."""
    return math.sqrt(power) * (2 * math.sqrt(dimension / m) + 3 * math.sqrt(2 / m))


def apply_second_moment(net: Weights, response: Response, V: torch.Tensor) -> torch.Tensor:
    """``P V`` with ``P = (1/m) sum_j h_j (w_j w_j^T - I)``, V (d, k): (d, k) float64, in one pass.

    Products are written as (k, d) @ (d, rows) and (k, rows) @ (rows, d): with few columns this is two to three times as
    fast as the other orientation.
    """
    columns = torch.cat([V, response.slope.unsqueeze(1)], dim=1).T.to(net.dtype).contiguous()

    def kernel(rows: slice, W: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        projected = columns @ W.T
        h = response.of(rows, projected[-1])
        return (h * projected[:-1]) @ W, h.double().sum()

    weighted, mass = total(net, kernel)
    return (weighted.T - mass * V.double()) / net.m


@dataclass(frozen=True, eq=False)
class Projection:
    """What is left of an observation once the span is found: V (d, B), and the two moments that the fit uses in its
    coordinates, ``low`` (B,)*k and ``core`` (B,)*q, float64.

    values: how strongly each direction of V shows; gap: the weakest of them over ``edge``, the largest that pure noise would
    show; passes over the weights.
    """

    V: torch.Tensor
    low: torch.Tensor
    core: torch.Tensor
    values: tuple[float, ...]
    gap: float
    edge: float
    passes: int
    converged: bool


@dataclass(frozen=True, eq=False)
class CoreMoments:
    """Moments in the B-dimensional span, float64: ``second`` (B, B), ``core`` (B,)*q, and ``power``, the mean square of the
    weights that gave the span."""

    second: torch.Tensor
    core: torch.Tensor
    power: float


class _CoreSums(NamedTuple):
    """Sums over the neurons, with h of the response and h' of the core's, of the span's weights squared, h, h z z^T, and h',
    h' z, h' z z^T, and of h' times the core's monomials in z."""

    power: torch.Tensor
    mass: torch.Tensor
    second: torch.Tensor
    core_mass: torch.Tensor
    core_first: torch.Tensor
    core_second: torch.Tensor
    raw: torch.Tensor


def core_moments(
    net: Weights,
    response: Response,
    V: torch.Tensor,
    eigenvalues: torch.Tensor,
    order: int,
    residualized: bool,
    leave_one_out: bool,
    *,
    shown: Response | None = None,
    second: torch.Tensor | None = None,
) -> CoreMoments:
    """``(1/m) sum_j h_j He_k(z_j)`` for k = 2 and k = order (3 or 4) with ``z_j = V^T w_j``, in one pass.

    eigenvalues (B,): those of the second moment that belong to V's columns. shown: the weights h' of that moment, where they
    are others than the response's h. residualized: the core also loses the second Hermite component
    ``1/2 <P_V, z z^T - I>``, P_V the response's ``second`` moment (B, B), diag(eigenvalues) unless given.

    leave_one_out: V depends on neuron j through ``(1/m) h'_j (w_j w_j^T - I)``; to first order, without j the
    coordinates are ``z_j - (h'_j (d - B)/m) A^{-1} z_j`` with A = diag(eigenvalues). Using these removes the bias of
    order d/m that comes from estimating span and core on the same neurons (bounds/proofs/same-neuron-bias.md).
    """
    B = V.shape[1]
    shown = response if shown is None else shown
    quadratic = torch.diag(eigenvalues) if second is None else second
    slopes = torch.stack([shown.slope, response.slope], dim=1)
    columns = torch.cat([V, slopes], dim=1).T.to(net.dtype).contiguous()
    shrink = (net.d - B) / (net.m * eigenvalues) if leave_one_out else torch.zeros_like(eigenvalues)
    pairs = torch.triu_indices(B, B, device=net.device)

    def kernel(rows: slice, W: torch.Tensor) -> _CoreSums:
        projected = (columns @ W.T).double()
        h, weight = response.of(rows, projected[-1]), shown.of(rows, projected[-2])
        z = projected[:-2] * (1 - weight * shrink.unsqueeze(1))
        h_core = h - ((quadratic @ z * z).sum(dim=0) - quadratic.trace()) / 2 if residualized else h
        zz = z[pairs[0]] * z[pairs[1]]
        return _CoreSums(
            power=(weight * weight).sum(),
            mass=h.sum(),
            second=(h * z) @ z.T,
            core_mass=h_core.sum(),
            core_first=z @ h_core,
            core_second=(h_core * z) @ z.T,
            raw=(h_core * zz) @ (z if order == 3 else zz).T,
        )

    sums = total(net, kernel)
    identity = torch.eye(B, device=net.device, dtype=torch.float64)
    where = torch.zeros(B, B, device=net.device, dtype=torch.long)
    where[pairs[0], pairs[1]] = torch.arange(pairs.shape[1], device=net.device)
    where[pairs[1], pairs[0]] = where[pairs[0], pairs[1]]
    if order == 3:
        core = sums.raw[where] - symmetric_sum("ab,c->abc", 3, identity, sums.core_first)
    else:
        core = sums.raw[where][:, :, where] - symmetric_sum("ab,cd->abcd", 6, identity, sums.core_second)
        core = core + sums.core_mass * symmetric_sum("ab,cd->abcd", 3, identity, identity)
    second = (sums.second - sums.mass * identity) / net.m
    return CoreMoments(second, core / net.m, float(sums.power / net.m))


def symmetric_sum(spec: str, terms: int, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Sum of the ``terms`` distinct index arrangements of the outer product of two symmetric tensors."""
    product = torch.einsum(spec, left, right)
    arrangements = list(itertools.permutations(range(product.ndim)))
    return sum((product.permute(p) for p in arrangements), torch.zeros_like(product)) * (
        terms / len(arrangements)
    )
