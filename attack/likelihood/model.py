"""The clean entries as a function of features and residuals, and the steps of Gauss and Newton on what is seen of them.

Terms are ``c_ij = r_i sigma(w_j.x_i + b_j)``. Residuals are fitted anew at every features; what is expanded is the loss with
the residuals eliminated (variable projection, Golub and Pereyra 1973, in Kaufman's form): a quadratic in the features alone,
on the tangent spaces of the spheres where norms are known. Small ones are written out (B^2 blocks d x d); large ones are
applied to vectors, one pass over W each.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import torch

from attack.likelihood.entries import Entries, Local
from attack.networks.activation import apply_activation, slopes_of
from attack.networks.two_layer import TwoLayerNet
from attack.stream import gathered, total

#: Unknowns up to which the quadratic is written out.
DENSE = 600

#: Newton steps on the residuals alone, the gain, over the loss, that is worth one, and halvings of one.
_REFITS, _GAIN, _HALVINGS = 4, 1e-6, 3


@dataclass(frozen=True, eq=False)
class Model:
    """A network, what is seen of its gradient, and what is known of the features' norms: radii (B,), None where they are
    free. scale_free: what is seen tells nothing of the size of the entries, which is then held at 1. bias (m,)."""

    net: TwoLayerNet
    entries: Entries
    radii: torch.Tensor | None
    scale_free: bool = False
    bias: torch.Tensor | None = None

    def at(self, features: torch.Tensor, blur: float, residuals: torch.Tensor | None = None) -> Place:
        """The place with these features, and the residuals that explain most; near ``residuals`` where these are given."""
        features = self.retracted(features)
        guesses, bias = features.to(self.net.dtype), self.bias

        def inside(rows: slice, W: torch.Tensor) -> torch.Tensor:
            found = (guesses @ W.T).T
            return (found if bias is None else found + bias[rows, None]).double()

        preactivations = gathered(self.net, inside)
        hidden = apply_activation(self.net.activation, preactivations)
        return self._refitted(features, preactivations, hidden, blur, residuals)

    @cached_property
    def size(self) -> float:
        """Mean square of the weights."""
        net = self.net
        return float(total(net, lambda rows, W: W.double().square().sum())) / (net.m * net.d)

    def of(self, count: int) -> Model:
        """The same with so many features."""
        radii = None if self.radii is None else self.radii[:1].expand(count)
        return dataclasses.replace(self, radii=radii)

    def on(self, net: TwoLayerNet) -> Model:
        """The same on other weights."""
        return dataclasses.replace(self, net=net)

    def retracted(self, features: torch.Tensor) -> torch.Tensor:
        """On the spheres, where norms are known."""
        if self.radii is None:
            return features
        return features * (self.radii / torch.linalg.vector_norm(features, dim=1))[:, None]

    def _refitted(
        self,
        features: torch.Tensor,
        inside: torch.Tensor,
        hidden: torch.Tensor,
        blur: float,
        residuals: torch.Tensor | None,
    ) -> Place:
        if residuals is None:
            residuals = _least_squares(hidden, self.entries)
        place = Place(self, features, self._sized(hidden, residuals), inside, hidden, blur)
        for _ in range(_REFITS):
            local = place.local
            gram, right = _gram(hidden, local.curvature), _pulled(hidden, local.score)
            step = torch.linalg.pinv(gram, hermitian=True) @ right
            if 0.5 * float(right @ step) < _GAIN * abs(place.loss):
                break
            better = self._halved(place, step)
            if better is None:
                break
            place = better
        return place

    def _halved(self, place: Place, step: torch.Tensor) -> Place | None:
        for halving in range(_HALVINGS):
            residuals = self._sized(place.hidden, place.residuals + 0.5**halving * step)
            moved = Place(self, place.features, residuals, place.inside, place.hidden, place.blur)
            if moved.loss < place.loss:
                return moved
        return None

    def _sized(self, hidden: torch.Tensor, residuals: torch.Tensor) -> torch.Tensor:
        if not self.scale_free:
            return residuals
        return residuals / (hidden @ residuals).square().mean().sqrt().clamp_min(1e-300)


@dataclass(frozen=True, eq=False)
class Place:
    """Features (B, d) and residuals (B,), with the preactivations ``inside`` and the units ``hidden`` (m, B) there."""

    model: Model
    features: torch.Tensor
    residuals: torch.Tensor
    inside: torch.Tensor
    hidden: torch.Tensor
    blur: float

    @cached_property
    def parts(self) -> torch.Tensor:
        """Terms (m, B) of the clean entries."""
        return self.hidden * self.residuals

    @property
    def radii(self) -> torch.Tensor | None:
        return self.model.radii

    def moved(self, features: torch.Tensor) -> Place:
        """The place of other features, at the same blur, with residuals near these."""
        return self.model.at(features, self.blur, self.residuals)

    @cached_property
    def local(self) -> Local:
        return self.model.entries.local(slice(None), self.parts, self.blur)

    @cached_property
    def loss(self) -> float:
        return float(self.local.loss.sum())

    @cached_property
    def slopes(self) -> torch.Tensor:
        """Derivatives (m, B) of the terms by the preactivations."""
        return slopes_of(self.model.net.activation, self.inside) * self.residuals

    @cached_property
    def descent(self) -> torch.Tensor:
        """Minus the gradient (B, d) of the loss by the features, in the tangent spaces."""
        return self.tangent(self.pulled(_each(self.local.score, self.slopes)))

    def tangent(self, vectors: torch.Tensor) -> torch.Tensor:
        """Projections of (B, d) where norms are known."""
        if self.model.radii is None:
            return vectors
        unit = self.features / self.model.radii[:, None]
        return vectors - (vectors * unit).sum(dim=1, keepdim=True) * unit

    def pulled(self, weights: torch.Tensor) -> torch.Tensor:
        """``weights^T W`` (B, d), weights (m, B)."""
        given = weights.to(self.model.net.dtype)
        return total(self.model.net, lambda rows, W: given[rows].T @ W)

    def curved(self, vectors: torch.Tensor) -> torch.Tensor:
        """The quadratic's matrix times tangent vectors (B, d): one pass."""
        net, slopes, curvature = self.model.net, self.slopes, self.local.curvature
        given = vectors.to(net.dtype)

        def kernel(rows: slice, W: torch.Tensor) -> torch.Tensor:
            moved = _bent(curvature[rows], (given @ W.T).T.double() * slopes[rows])
            return _each(moved, slopes[rows]).to(W.dtype).T @ W

        through = torch.einsum("idk,id->k", self.coupling, vectors)
        return self.tangent(total(net, kernel) - self.coupling @ (self.inverse @ through))

    @cached_property
    def coupling(self) -> torch.Tensor:
        """The loss's mixed derivatives (B, d, B) by features and residuals."""
        B, d = self.features.shape
        slopes, curvature, hidden, dtype = (
            self.slopes,
            self.local.curvature,
            self.hidden,
            self.model.net.dtype,
        )

        def kernel(rows: slice, W: torch.Tensor) -> torch.Tensor:
            columns = [_row(curvature[rows], i, B) * slopes[rows, i, None] * hidden[rows] for i in range(B)]
            return torch.cat(columns, dim=1).to(dtype).T @ W

        return total(self.model.net, kernel).reshape(B, B, d).transpose(1, 2)

    @cached_property
    def inverse(self) -> torch.Tensor:
        """That of the residuals' own second derivatives (B, B)."""
        return torch.linalg.pinv(_gram(self.hidden, self.local.curvature), hermitian=True)

    @cached_property
    def mixing(self) -> torch.Tensor:
        """The matrix (B, B) whose product with the identity (d, d) the quadratic is where W is isotropic."""
        return self.model.size * _gram(self.slopes, self.local.curvature)

    @cached_property
    def matrix(self) -> torch.Tensor:
        """The quadratic's matrix (B d, B d), written out."""
        B, d = self.features.shape
        slopes, curvature = self.slopes, self.local.curvature
        pairs = [(i, k) for i in range(B) for k in range(i, B)]

        def kernel(rows: slice, W: torch.Tensor) -> torch.Tensor:
            W, D, bent = W.double(), slopes[rows], curvature[rows]
            return torch.stack(
                [W.T @ ((_pair(bent, i, k) * D[:, i] * D[:, k])[:, None] * W) for i, k in pairs]
            )

        full = slopes.new_zeros(B, d, B, d)
        for (i, k), block in zip(pairs, total(self.model.net, kernel), strict=True):
            full[i, :, k, :] = block
            full[k, :, i, :] = block.T
        flat = self.coupling.reshape(B * d, B)
        matrix = full.reshape(B * d, B * d) - flat @ self.inverse @ flat.T
        return self.projected(matrix)

    def projected(self, matrix: torch.Tensor) -> torch.Tensor:
        """A matrix (B d, B d), a tensor on features in both axes, in the tangent spaces."""
        if self.model.radii is None:
            return matrix
        B, d = self.features.shape
        unit = self.features / self.model.radii[:, None]

        def left(M: torch.Tensor) -> torch.Tensor:
            shaped = M.reshape(B, d, B * d)
            along = torch.einsum("ia,ian->in", unit, shaped)
            return (shaped - unit[:, :, None] * along[:, None, :]).reshape(B * d, B * d)

        return left(left(matrix).T).T


def _bent(curvature: torch.Tensor, parts: torch.Tensor) -> torch.Tensor:
    if curvature.ndim == 1:
        return curvature * parts.sum(dim=1)
    return torch.einsum("nil,nl->ni", curvature, parts)


def _each(score: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    """A score (m,) or (m, B) on every term, times slopes (m, B)."""
    return (score[:, None] if score.ndim == 1 else score) * slopes


def _pulled(hidden: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
    """``sum_j score_ij hidden_ij`` (B,)."""
    return hidden.T @ score if score.ndim == 1 else (hidden * score).sum(dim=0)


def _gram(columns: torch.Tensor, curvature: torch.Tensor) -> torch.Tensor:
    """``sum_j columns_ij curvature_j,ik columns_kj`` (B, B)."""
    if curvature.ndim == 1:
        return columns.T @ (curvature[:, None] * columns)
    return torch.einsum("ni,nik,nk->ik", columns, curvature, columns)


def _pair(curvature: torch.Tensor, i: int, k: int) -> torch.Tensor:
    return curvature if curvature.ndim == 1 else curvature[:, i, k]


def _row(curvature: torch.Tensor, i: int, B: int) -> torch.Tensor:
    return curvature[:, None] if curvature.ndim == 1 else curvature[:, i, :]


def _least_squares(hidden: torch.Tensor, entries: Entries) -> torch.Tensor:
    """Residuals to begin with: least squares at the curvature that zero terms have."""
    zero = torch.zeros_like(hidden)
    local = entries.local(slice(None), zero, max(entries.blurs[0], 0.0))
    gram, right = _gram(hidden, local.curvature), _pulled(hidden, local.score)
    return torch.linalg.pinv(gram, hermitian=True) @ right
