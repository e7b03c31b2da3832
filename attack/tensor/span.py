"""The span of the features: dominant eigenvectors of a symmetric operator by block Krylov iteration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from bounds.estimator import RITZ_TOLERANCE


@dataclass(frozen=True, eq=False)
class Span:
    """V (d, B) orthonormal float64, ``eigenvalues`` (B,) by falling absolute value, ``next_value`` the absolute value of the
    (B+1)-st (0 if d = B), passes used, and whether the residual criterion was met."""

    V: torch.Tensor
    eigenvalues: torch.Tensor
    next_value: float
    passes: int
    converged: bool


def dominant_span(
    apply: Callable[[torch.Tensor], torch.Tensor],
    start: torch.Tensor,
    count: int,
    tolerance: float = RITZ_TOLERANCE,
    max_passes: int = 40,
) -> Span:
    """Eigenvectors of a symmetric operator for its ``count`` eigenvalues largest in absolute value.

    ``apply`` maps (d, k) to (d, k) in one pass over the data; ``start`` (d, k) with k >= count. Block Lanczos with full
    reorthogonalisation and Rayleigh-Ritz: after p passes the error falls like a Chebyshev polynomial of degree p - 1 in
    the ratio of the eigenvalues to the bulk. Stops when every residual ``|P v - theta v|`` is below ``tolerance`` times
    the smallest wanted eigenvalue (the angle is then wrong by about ``tolerance``, far below the sampling error), or
    when the Krylov space is exhausted (the result is then exact).
    """
    basis = torch.linalg.qr(start.double())[0]
    image = torch.empty(basis.shape[0], 0, device=basis.device, dtype=basis.dtype)
    block = basis
    passes = 0
    while True:
        new_image = apply(block)
        passes += 1
        image = torch.cat([image, new_image], dim=1)
        projected = basis.T @ image
        values, vectors = torch.linalg.eigh((projected + projected.T) / 2)
        by_size = torch.argsort(values.abs(), descending=True)
        values, vectors = values[by_size], vectors[:, by_size]
        wanted, coordinates = values[:count], vectors[:, :count]
        V = basis @ coordinates
        residual = torch.linalg.vector_norm(image @ coordinates - V * wanted, dim=0).max()
        converged = bool(residual <= tolerance * wanted.abs().min())
        block = _new_directions(new_image, basis)
        if block.shape[1] == 0:
            converged = True
        if converged or passes == max_passes:
            next_value = float(values[count].abs()) if len(values) > count else 0.0
            return Span(torch.linalg.qr(V)[0] * _qr_signs(V), wanted, next_value, passes, converged)
        basis = torch.cat([basis, block], dim=1)


def _new_directions(block: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """Orthonormal columns that span ``block`` beyond ``basis`` (orthogonalised twice); possibly none."""
    scale = torch.linalg.matrix_norm(block)
    remainder = block - basis @ (basis.T @ block)
    remainder = remainder - basis @ (basis.T @ remainder)
    left, sizes, _ = torch.linalg.svd(remainder, full_matrices=False)
    room = basis.shape[0] - basis.shape[1]
    new = left[:, : min(room, int((sizes > 1e-12 * scale).sum()))]
    new = new - basis @ (basis.T @ new)
    return torch.linalg.qr(new)[0]


def _qr_signs(V: torch.Tensor) -> torch.Tensor:
    """Signs that keep the orthonormalised columns pointing along V (QR is free to flip them)."""
    r = torch.linalg.qr(V)[1]
    return torch.sign(torch.diagonal(r))
