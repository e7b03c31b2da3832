"""How far the gradient of guessed features is from the observed one, and the slope of that distance in closed form.

The guess is ``ghat_j = sum_i r_i sigma(w_j.x_i)`` with ``x_i = n_i v_i / |v_i|``, n_i a public norm. Its slope is the one
that automatic differentiation gives, at the cost of two passes over W. Where residuals follow from labels,
``r_i = f(x_i) - y_i``, it has the part that goes through f.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

from attack.networks.activation import apply_activation, apply_derivative
from attack.networks.two_layer import TwoLayerNet
from attack.stream import gathered, total

#: Of a guess ghat and the observed g, both (m,): a number and its slope by ghat.
_Distance = Callable[[torch.Tensor, torch.Tensor], tuple[float, torch.Tensor]]


@dataclass(frozen=True, eq=False)
class Objective:
    """The objective of one observation, of a vector z: all v (B, d), flat, and, where labels are None, the residuals (B,).

    gradient (m,): observed, over ``scale``, its root mean square, the unit of the residuals too; norms (B,) and labels (B,)
    in the order of the guesses; kind: "squared" or "cosine".
    """

    net: TwoLayerNet
    gradient: torch.Tensor
    scale: float
    norms: torch.Tensor
    labels: torch.Tensor | None
    kind: str

    @property
    def directions(self) -> int:
        """Numbers of z that are directions."""
        return len(self.norms) * self.net.d

    def start(self, raw: torch.Tensor) -> torch.Tensor:
        """z for raw vectors (B, d), which get unit length; free residuals start from least squares."""
        flat = (raw / torch.linalg.vector_norm(raw, dim=1, keepdim=True)).flatten()
        return (
            flat
            if self.labels is not None
            else torch.cat([flat, self.residuals(self.hidden(self.features(flat)))])
        )

    def features(self, z: torch.Tensor) -> torch.Tensor:
        """The features (B, d) float64."""
        raw = z[: self.directions].view(-1, self.net.d)
        return self.norms[:, None] * raw / torch.linalg.vector_norm(raw, dim=1, keepdim=True)

    def hidden(self, features: torch.Tensor) -> torch.Tensor:
        """``sigma(w_j.x_i)``: (B, m) float64."""
        return apply_activation(self.net.activation, self._inner(features)).double()

    def residuals(self, hidden: torch.Tensor) -> torch.Tensor:
        """Residuals (B,) of these hidden units: those that the labels give, or those of least squares."""
        if self.labels is not None:
            return self._told(hidden, self.labels)
        return torch.linalg.pinv(hidden @ hidden.T, hermitian=True) @ (hidden @ self.gradient.double())

    def misfit(self, hidden: torch.Tensor) -> float:
        """``|ghat - g|^2 / |g|^2`` with these residuals, whatever the objective is."""
        return _squared(self.residuals(hidden) @ hidden, self.gradient.double())[0]

    def __call__(self, z: torch.Tensor) -> tuple[float, torch.Tensor]:
        """The value at z, and its slope."""
        net, raw = self.net, z[: self.directions].view(-1, self.net.d)
        lengths = torch.linalg.vector_norm(raw, dim=1, keepdim=True)
        along = raw / lengths
        inner = self._inner(self.norms[:, None] * along)
        hidden, slopes = apply_activation(net.activation, inner), apply_derivative(net.activation, inner)
        free = self.labels is None
        r = z[self.directions :] if self.labels is None else self._told(hidden, self.labels)
        value, back = _DISTANCES[self.kind](r.to(net.dtype) @ hidden, self.gradient)
        by_residuals = (hidden @ back).double()
        weights = r.to(net.dtype)[:, None] * back
        if not free:
            weights = weights + (by_residuals / (net.m * self.scale)).to(net.dtype)[:, None]
        weights = weights * slopes
        by_features = total(net, lambda rows, W: weights[:, rows] @ W)
        tangent = by_features - along * (along * by_features).sum(dim=1, keepdim=True)
        slope = (self.norms[:, None] / lengths * tangent).flatten()
        return value, torch.cat([slope, by_residuals]) if free else slope

    def _inner(self, features: torch.Tensor) -> torch.Tensor:
        """``w_j.x_i``: (B, m)."""
        guesses = features.to(self.net.dtype)
        return gathered(self.net, lambda rows, W: guesses @ W.T, axis=1)

    def _told(self, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (hidden.double().mean(dim=1) - labels) / self.scale


def _squared(guess: torch.Tensor, seen: torch.Tensor) -> tuple[float, torch.Tensor]:
    """``|ghat - g|^2 / |g|^2`` and its slope."""
    power = float(seen.double().square().sum())
    off = guess - seen
    return float(off.double().square().sum()) / power, 2 / power * off


def _cosine(guess: torch.Tensor, seen: torch.Tensor) -> tuple[float, torch.Tensor]:
    """``1 - cos(ghat, g)``, as half the squared distance of the two directions (exact where they agree), and its slope."""
    length = torch.linalg.vector_norm(guess)
    along, wanted = guess / length, seen / torch.linalg.vector_norm(seen)
    off = along - wanted
    return float(off.double().square().sum()) / 2, ((along @ wanted) * along - wanted) / length


_DISTANCES: Mapping[str, _Distance] = MappingProxyType({"squared": _squared, "cosine": _cosine})
