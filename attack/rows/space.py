"""The row space of a first-layer gradient, and coordinates in it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from attack.networks.two_layer import TwoLayerNet
from attack.reconstruction import Diagnostics, ReconstructionError
from attack.stream import gathered, total


@dataclass(frozen=True, eq=False)
class RowSpace:
    """The B leading right singular vectors V (d, B) of G, float64, with their singular values (B,); ``edge``: the next
    one, or the rounding error of the largest where that is larger; ``gap``: how far the weakest stands out
    (``row_space``)."""

    V: torch.Tensor
    values: torch.Tensor
    edge: float
    gap: float


def row_space(gradient: torch.Tensor, B: int) -> RowSpace:
    """The row space of a gradient (m, d) as seen (through QR: d is small beside m).

    Noise raises every squared singular value by the same amount, the mean of those beyond B. ``gap`` is the weakest of the
    B squares less that, over the edge of what is left of the noise: the largest square beyond B less their mean, what pure
    noise would show (``mean (2 sqrt((d - B)/m) + 3 sqrt(2/m))``, as for the second moment), or rounding.
    """
    m, d = gradient.shape
    rounding = torch.finfo(gradient.dtype).eps * math.sqrt(max(m, d))
    triangle = torch.linalg.qr(gradient.double(), mode="r")[1]
    _, values, right = torch.linalg.svd(triangle, full_matrices=False)
    known = torch.cat([values, values.new_zeros(max(0, B + 1 - len(values)))])
    floor = float((known[B:] ** 2).mean())
    least = rounding * float(known[0])
    spread = max(
        float(known[B]) ** 2 - floor,
        floor * (2 * math.sqrt(max(d - B, 0) / m) + 3 * math.sqrt(2 / m)),
        least**2,
    )
    gap = (float(known[B - 1]) ** 2 - floor) / spread if spread > 0 else 0.0
    V = right[:B].T
    # SVD leaves the signs of singular vectors to the library: make the largest entry positive
    signs = torch.sign(V.gather(0, V.abs().argmax(dim=0, keepdim=True)))
    return RowSpace(V * signs, known[:B], max(float(known[B]), least), gap)


def moment_space(net: TwoLayerNet, gradient: torch.Tensor, B: int) -> RowSpace:
    """As ``row_space``, of the symmetrised second moment ``sum_j sym(G_j w_j^T)`` (d, d): its eigenvectors for the B largest
    absolute eigenvalues. Symmetrising mixes the weights' noise into a space that the rows know exactly, so this is there
    for comparison: it is how the output weights' gradient has to be read."""
    moment = total(net, lambda rows, W: gradient[rows].double().T @ W.double())
    values, vectors = torch.linalg.eigh((moment + moment.T) / 2)
    by_size = torch.argsort(values.abs(), descending=True)
    sizes = values[by_size].abs()
    edge = max(float(sizes[B]) if len(sizes) > B else 0.0, torch.finfo(gradient.dtype).eps * float(sizes[0]))
    gap = float(sizes[B - 1]) / edge if edge > 0 else 0.0
    return RowSpace(vectors[:, by_size[:B]], sizes[:B], edge, gap)


@dataclass(frozen=True, eq=False)
class InSpan:
    """Rows and neurons in coordinates of the span: ``rows`` (m, B), ``c_j = m V^T G_j``, and ``neurons`` (m, B),
    ``y_j = V^T w_j``."""

    rows: torch.Tensor
    neurons: torch.Tensor


def in_span(net: TwoLayerNet, gradient: torch.Tensor, V: torch.Tensor) -> InSpan:
    """Both in float64, in one pass over the weights."""
    return InSpan(net.m * (gradient.double() @ V), gathered(net, lambda rows, W: W.double() @ V))


def require_rank(space: RowSpace, gap: float, factor: float) -> None:
    """``ReconstructionError`` unless ``gap``, how far the B singular values stand out, is at least ``factor``."""
    if not gap >= factor:
        raise failure(
            f"the gradient is not of rank {len(space.values)}: its weakest singular value stands {gap:.2f} times over the "
            f"next one or rounding ({space.edge:.3g}): a vanishing residual, dependent features, or too much noise",
            space,
            gap,
        )


def failure(reason: str, space: RowSpace, gap: float) -> ReconstructionError:
    values = tuple(space.values.tolist())
    return ReconstructionError(reason, Diagnostics("failed", (reason,), gap, values, space.edge, 2))
