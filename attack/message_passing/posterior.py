"""The posterior of what one neuron says of the features: sums over points, for every neuron of a block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch

from attack.message_passing.likelihood import Likelihood
from attack.networks.activation import apply_activation
from bounds.gaussian.activations import Activation
from bounds.gaussian.lines import frame, lines

#: Points that are computed at a time: what fits the cache, or fills the device.
_AT_A_TIME: Mapping[str, int] = MappingProxyType({"cpu": 2**16, "cuda": 2**23})


#: Logarithm of the least weight of a point beside the largest: smaller ones are denormal numbers, which are slow.
_LEAST = -300.0


class Sums(NamedTuple):
    """Over neurons, with z ~ N(omega, V) before y is seen and g = V^-1 (E[z | y] - omega).

    evidence: of log p(y). square (B, B): of g g^T; curvature (B, B): of -dg/domega. score (B,), scatter (B, B), bend (B, B):
    of the derivative of log p(y) by the residuals, of its square, and of the second derivative of p(y) over p(y). surplus
    (2,): of ``tr V (g g^T + dg/domega)``, which has mean zero where the model holds, and of its square.
    """

    evidence: torch.Tensor
    square: torch.Tensor
    curvature: torch.Tensor
    score: torch.Tensor
    scatter: torch.Tensor
    bend: torch.Tensor
    surplus: torch.Tensor


class Points:
    """The points that stand for N(0, V), seen from every neuron's omega, at given residuals."""

    def __init__(self, activation: Activation, V: torch.Tensor, residuals: torch.Tensor, along: int) -> None:
        nodes = lines(len(residuals), along)
        M = frame(V.cpu().numpy(), residuals.cpu().numpy())
        B = len(M)
        place = V.device
        pairs = np.triu_indices(B)
        moments = np.concatenate(
            [nodes.points, nodes.points[:, pairs[0]] * nodes.points[:, pairs[1]]], axis=1
        )
        self.activation, self.residuals, self.along = activation, residuals, along
        self.offsets = torch.as_tensor((nodes.points @ M.T).T.copy(), device=place)
        self.log_weights = torch.as_tensor(np.log(nodes.weights), device=place)
        self.moments = torch.as_tensor(moments, device=place)
        self.pairs = tuple(torch.as_tensor(index, device=place) for index in pairs)
        self.inverse = torch.as_tensor(np.linalg.inv(M), device=place)

    def gains(self, likelihood: Likelihood, rows: slice, omega: torch.Tensor) -> tuple[torch.Tensor, Sums]:
        """g (n, B) of the neurons ``rows`` with ``omega`` (n, B), and the sums over them."""
        size = max(1, _AT_A_TIME.get(omega.device.type, _AT_A_TIME["cuda"]) // self.offsets.shape[1])
        gains, sums = [], []
        for start in range(0, len(omega), size):
            stop = min(start + size, len(omega))
            part = slice(rows.start + start, rows.start + stop)
            gain, terms = self._gains(likelihood, part, omega[start:stop])
            gains.append(gain)
            sums.append(terms)
        return torch.cat(gains), Sums(*(torch.stack(each).sum(dim=0) for each in zip(*sums, strict=True)))

    def _gains(self, likelihood: Likelihood, rows: slice, omega: torch.Tensor) -> tuple[torch.Tensor, Sums]:
        B = omega.shape[1]
        hidden = tuple(
            apply_activation(self.activation, omega[:, i, None] + self.offsets[i]) for i in range(B)
        )
        parts = tuple(r * h for r, h in zip(self.residuals, hidden, strict=True))
        values = likelihood.at(rows, parts, self.along)
        log = values.log + self.log_weights
        top = log.amax(dim=1, keepdim=True)
        p = torch.exp((log - top).clamp_(min=_LEAST))
        mass = p.sum(dim=1, keepdim=True)
        p /= mass
        moments = p @ self.moments
        first, second = moments[:, :B], moments[:, B:]
        score = torch.stack(
            [torch.linalg.vecdot(p, slope * h) for slope, h in zip(values.slopes, hidden, strict=True)], dim=1
        )
        bends = zip(values.bends, *(index.tolist() for index in self.pairs), strict=True)
        squares = self._paired(second.sum(dim=0))
        identity = torch.eye(B, device=omega.device, dtype=omega.dtype)
        outer = first.T @ first
        curvature = len(omega) * identity - (squares - outer)
        on_diagonal = self.pairs[0] == self.pairs[1]
        # tr V (g g^T + dg/domega) = |E eta|^2 - tr(1 - Cov eta) = E|eta|^2 - B
        surplus = second[:, on_diagonal].sum(dim=1) - B
        gain = first @ self.inverse
        return gain, Sums(
            evidence=(top + torch.log(mass)).sum(),
            square=self.inverse.T @ outer @ self.inverse,
            curvature=self.inverse.T @ curvature @ self.inverse,
            score=score.sum(dim=0),
            scatter=score.T @ score,
            bend=self._paired([torch.sum(p * bend * hidden[i] * hidden[k]) for bend, i, k in bends]),
            surplus=torch.stack([surplus.sum(), (surplus * surplus).sum()]),
        )

    def _paired(self, values: Sequence[torch.Tensor] | torch.Tensor) -> torch.Tensor:
        """The symmetric (B, B) matrix with these entries at i <= k, in order."""
        matrix = self.inverse.new_zeros(self.inverse.shape)
        for value, i, k in zip(values, *(index.tolist() for index in self.pairs), strict=True):
            matrix[i, k] = matrix[k, i] = value
        return matrix
