"""The span from contractions of the third moment, for activations without a second one (mu_2 = 0: tanh, sigmoid).

``M_3 = (1/m) sum_j h_j He_3(w_j)`` has mean ``sum_i r_i mu_3 x_i^(x)3``. Contracted with a vector a it is a d x d matrix
with the features' span as its range; the weight of feature i in it is ``r_i mu_3 <a, x_i>``. A random a leaves
``1/sqrt(d)`` of the signal (Wang, Lee, Lei 2023, Remark 3), the gradient's own linear part ``bhat ~ mu_1 sum_i r_i x_i``
does not. The span is then refined by contracting with its own directions: the left singular vectors of the unfolding
``M_3(I, V, V)``. Why, and with which error: bounds/proofs/odd-activations.md.

A limitation: the span is refined only if every feature stands above the noise of a contraction, whose weakest eigenvalue
carries ``<a, u_i> = (G r)_i/|b|``, a factor that the refinement would not need. Where one of these is small (residuals of
very different size, norms far apart, noise, sigmoid with more than a few features) the attack reports an ill-posed problem
although refining would have found the span, at a predicted error of .06 to .2: more neurons than PREDICTED asks for are
needed there. To refine in any case takes other thresholds, as V is then chosen on the same data and pure noise reaches a
gap of about 1.4.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import torch

from attack.networks.two_layer import TwoLayerNet
from attack.stream import total
from attack.streams import normal
from attack.tensor.moments import Projection, Response, first_moment_start, noise_edge, symmetric_sum
from attack.tensor.span import dominant_span
from bounds.estimator import MIN_GAP, TensorAttack

#: How often the span is refined by contracting with its own directions; the first time already does nearly all.
REFINEMENTS = 2


#: How many contractions inside the span found so far are tried when the first moment misses a feature.
RECONTRACTIONS = 4


@dataclass(frozen=True, eq=False)
class _Found:
    """V (d, B) and how it came about: to first order, V is off the true span by ``mean_j h_j u_j (map He_2(y_j))^T``, u_j
    the part of w_j outside and ``map`` (B, K) acting on the K = B (B + 1)/2 entries a <= b, weighted as in ``_pairs``."""

    V: torch.Tensor
    map: torch.Tensor
    values: torch.Tensor
    edge: float
    passes: int
    converged: bool

    @property
    def gap(self) -> float:
        """Weakest value over the edge of the noise."""
        return float(self.values.abs().min()) / self.edge if self.edge > 0 else 0.0

    @property
    def certain(self) -> torch.Tensor:
        """The columns of V that stand above the noise."""
        return self.V[:, self.values.abs() >= MIN_GAP * self.edge]


def apply_contracted(
    net: TwoLayerNet, response: Response, vector: torch.Tensor, V: torch.Tensor
) -> torch.Tensor:
    """``M_3(I, I, a) V``, (d, k) float64, in one pass: ``(1/m) sum_j h_j [(a.w)(w w^T - I) - a w^T - w a^T] V``."""
    columns = torch.cat([V, vector[:, None], response.slope[:, None]], dim=1).T.to(net.dtype).contiguous()

    def kernel(rows: slice, W: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        projected = columns @ W.T
        h = response.of(rows, projected[-1])
        along = h * projected[-2]
        return (along * projected[:-2]) @ W, (h.unsqueeze(0) @ W).squeeze(0), along.double().sum()

    cubic, linear, mass = total(net, kernel)
    inside = vector @ V, linear @ V
    return (
        cubic.T - mass * V.double() - torch.outer(vector, inside[1]) - torch.outer(linear, inside[0])
    ) / net.m


def contraction_edge(net: TwoLayerNet, response: Response, vector: torch.Tensor, B: int) -> float:
    """The edge of the spectrum that ``M_3(I, I, a)`` would have of pure noise: ``noise_edge`` with the mean of (h a.w)^2."""
    columns = torch.stack([vector, response.slope]).to(net.dtype)

    def kernel(rows: slice, W: torch.Tensor) -> torch.Tensor:
        projected = columns @ W.T
        return ((response.of(rows, projected[1]) * projected[0]).double() ** 2).sum()

    return noise_edge(float(total(net, kernel)) / net.m, net.d - B, net.m)


def contract(
    net: TwoLayerNet, response: Response, vector: torch.Tensor, start: torch.Tensor, B: int
) -> _Found:
    """The dominant eigenvectors of ``M_3(I, I, a)`` for a = ``vector``, made a unit vector (unless it is zero, as the linear
    part of a constant gradient is: then nothing is found, with a gap of zero)."""
    vector = vector / torch.linalg.vector_norm(vector).clamp_min(sys.float_info.min)
    span = dominant_span(lambda V: apply_contracted(net, response, vector, V), start, B)
    edge = max(contraction_edge(net, response, vector, B), span.next_value)
    # He_2(y) a / eigenvalue, as a map of the distinct entries of He_2(y).
    a, b, weight = _pairs(B, net.device)
    inside = span.V.T @ vector
    entries = torch.zeros(B, len(a), device=net.device, dtype=torch.float64)
    k = torch.arange(len(a), device=net.device)
    entries[a, k] += inside[b] / weight
    entries[b, k] += torch.where(a == b, torch.zeros_like(inside[a]), inside[a] / weight)
    return _Found(
        span.V, entries / span.eigenvalues[:, None], span.eigenvalues, edge, span.passes + 1, span.converged
    )


def refine(net: TwoLayerNet, response: Response, V: torch.Tensor) -> _Found:
    """The left singular vectors of the unfolding ``M_3(I, V, V)``, a (d, K) matrix, in one pass. The edge is what the
    largest singular value of pure noise would be: ``(sqrt(d |S|) + sqrt(tr S))/sqrt(m)``, S that of ``h He_2(y)``."""
    B = V.shape[1]
    a, b, weight = _pairs(B, net.device)
    columns = torch.cat([V, response.slope[:, None]], dim=1).T.to(net.dtype).contiguous()

    def kernel(rows: slice, W: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        projected = columns @ W.T
        h, y = response.of(rows, projected[-1]), projected[:-1]
        entries = h * _second_hermite(y)
        return entries @ W, entries @ entries.T, y @ h

    unfolded, power, first = total(net, kernel)
    # He_3(w)(., v_a, v_b) = w (y_a y_b - [a = b]) - v_a y_b - v_b y_a.
    inside = weight[:, None] * (V[:, a] * first[b] + V[:, b] * first[a]).T
    left, values, right = torch.linalg.svd((unfolded - inside).T / net.m, full_matrices=False)
    power = power / net.m
    spread = float(torch.linalg.matrix_norm(power, 2))
    edge = (math.sqrt(spread * net.d) + math.sqrt(float(power.trace()))) / math.sqrt(net.m)
    # The map is of He_2 in the coordinates of V, and is used in those of the result: the same once the span has settled, but
    # for the signs of singular vectors, which a library may choose anew at every call.
    signs = torch.where((V * left[:, :B]).sum(dim=0) < 0, -1.0, 1.0)
    return _Found(left[:, :B] * signs, (signs / values[:B])[:, None] * right[:B], values[:B], edge, 1, True)


def contracted_projection(
    net: TwoLayerNet,
    response: Response,
    mean: torch.Tensor,
    slope: torch.Tensor,
    B: int,
    attack: TensorAttack,
    seed: int,
) -> Projection:
    """Span, first moment and core in it. ``mean``, ``slope`` (d,): of the gradient, whatever the response is."""

    def random(size: int, index: int) -> torch.Tensor:
        drawn = normal((net.d, 1), seed, "starts", index, device="cpu", dtype=torch.float64)
        return drawn.to(net.device)[:size, 0]

    start = first_moment_start(net, slope, B, seed)
    if attack.contraction == "random":
        found = contract(net, response, random(net.d, 2), start, B)
        passes = found.passes
    else:
        found = contract(net, response, slope, start, B)
        passes = found.passes
        for attempt in range(RECONTRACTIONS):
            known = found.certain
            if known.shape[1] in (0, B):
                break
            # The first moment is nearly orthogonal to a feature: contract with a direction of the span found so far.
            vector = known @ random(known.shape[1], 3 + attempt)
            again = contract(net, response, vector, start, B)
            passes += again.passes
            found = max(found, again, key=lambda candidate: candidate.gap)
        if found.gap >= MIN_GAP:
            for _ in range(REFINEMENTS):
                found = refine(net, response, found.V)
            passes += REFINEMENTS
    shift = found.map * ((net.d - B) / net.m) * (attack.same_neuron == "leave_one_out")
    first, core = _moments(net, response, mean, found.V, shift)
    return Projection(
        found.V, first, core, tuple(found.values.tolist()), found.gap, found.edge, passes + 1, found.converged
    )


def _moments(
    net: TwoLayerNet, response: Response, mean: torch.Tensor, V: torch.Tensor, shift: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """``(1/m) sum_j (g_j - gbar) y_j`` (B,) and ``(1/m) sum_j h_j He_3(y_j)`` (B, B, B) in one pass, at the coordinates
    ``y_j = V^T w_j - h_j shift He_2(V^T w_j)`` that the span of the other neurons gives."""
    B = V.shape[1]
    a, b, _ = _pairs(B, net.device)
    columns = torch.cat([V, response.slope[:, None]], dim=1).T.to(net.dtype).contiguous()

    def kernel(rows: slice, W: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        projected = (columns @ W.T).double()
        h, y = response.of(rows, projected[-1]), projected[:-1]
        y = y - h * (shift @ _second_hermite(y))
        return y @ (response.gradient[rows].double() - mean), y @ h, (h * y[a] * y[b]) @ y.T

    first, core_first, raw = total(net, kernel)
    where = torch.zeros(B, B, device=net.device, dtype=torch.long)
    where[a, b] = torch.arange(len(a), device=net.device)
    where[b, a] = where[a, b]
    identity = torch.eye(B, device=net.device, dtype=torch.float64)
    core = raw[where] - symmetric_sum("ab,c->abc", 3, identity, core_first)
    return first / net.m, core / net.m


def _pairs(B: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Indices a <= b, and the weights (1, sqrt(2) off the diagonal) that keep the norm of a symmetric matrix."""
    a, b = torch.triu_indices(B, B, device=device)
    return a, b, torch.sqrt(2.0 - (a == b).double())


def _second_hermite(y: torch.Tensor) -> torch.Tensor:
    """Weighted distinct entries of ``y y^T - I``: (B, n) to (K, n)."""
    a, b, weight = _pairs(y.shape[0], y.device)
    return weight.to(y.dtype)[:, None] * (y[a] * y[b] - (a == b).to(y.dtype)[:, None])
