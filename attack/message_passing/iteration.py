"""One pass over the neurons, and what is believed of the features after it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from attack.message_passing.likelihood import Likelihood
from attack.message_passing.posterior import Points, Sums
from attack.networks.two_layer import TwoLayerNet
from attack.stream import total
from bounds.estimator import MessagePassing

#: A step of the residuals is at most this part of their root mean square.
LONGEST_STEP = 0.3

#: Features that are believed to be parallel are taken to be this close to it.
LARGEST_COSINE = 1 - 1e-6

#: Least curvature of the evidence in units of the scatter of its scores.
FLATTEST = 1e-4


class Surplus(NamedTuple):
    """mean over neurons of ``tr V (g g^T + dg/domega) = |z - omega|^2`` in the metric of V less B, as the posterior expects
    it: zero where the model holds. error: its standard error."""

    mean: float
    error: float


NOT_SEEN = Surplus(0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Belief:
    """features (B, d), the posterior mean; covariance V (B, B) of each of their d columns, times d; gains (m, B) of the last
    pass and the V they were made with; residuals (B,); gram (B, B), as far as it is known.

    blur: standard deviation of the noise that the next pass adds to the density's own. evidence: Bethe's approximation to
    the logarithm of the probability of what is seen, and ``surplus``, both of what was believed before the last pass.
    """

    features: torch.Tensor
    covariance: torch.Tensor
    gains: torch.Tensor
    residuals: torch.Tensor
    gram: torch.Tensor
    blur: float
    evidence: float = -float("inf")
    surplus: Surplus = NOT_SEEN

    @property
    def error(self) -> float:
        """The R that is expected: ``sqrt(tr V / B)``."""
        return float(torch.sqrt(self.covariance.trace() / len(self.covariance)))


def first(
    net: TwoLayerNet,
    features: torch.Tensor,
    residuals: torch.Tensor,
    gram: torch.Tensor,
    overlap: float,
    blur: float,
) -> Belief:
    """What is believed at the start: ``overlap`` of the Gram matrix is explained."""
    gains = torch.zeros(net.m, len(features), device=net.device, dtype=torch.float64)
    return Belief(features, (1 - overlap) * gram, gains, residuals, gram, blur)


def step(net: TwoLayerNet, likelihood: Likelihood, before: Belief, attack: MessagePassing) -> Belief:
    """One pass: ``omega_j = Xhat w_j - V g_j``, the gains, and the posterior of the columns of X that they give.

    The Onsager terms are ``V g_j`` and ``A Xhat`` with ``A = -(m/d) mean_j dg_j/domega_j``.
    """
    V = before.covariance
    blurred = likelihood.blurred(before.blur)
    points = Points(net.activation, V, before.residuals, attack.nodes)
    features = before.features.to(net.dtype)
    gains = torch.empty_like(before.gains)

    def kernel(rows: slice, W: torch.Tensor) -> tuple[torch.Tensor, Sums]:
        omega = (W @ features.T).double() - before.gains[rows] @ V
        gains[rows], sums = points.gains(blurred, rows, omega)
        return gains[rows].T.to(net.dtype) @ W, sums

    backward, sums = total(net, kernel)
    if not bool(torch.isfinite(backward).all() and torch.isfinite(sums.curvature).all()):
        return replace(before, evidence=-float("inf"))
    information = _positive(sums.curvature / net.d)
    prior = torch.linalg.inv(before.gram)
    share = torch.linalg.inv(prior + information)
    mean = share @ (backward.double() / net.d + information @ before.features)
    covariance = _symmetric(share)
    surplus = _surplus(sums, net.m)
    mean = _on_norms(mean, covariance, before.gram)
    kept = attack.damping
    after = replace(
        before,
        features=(1 - kept) * mean + kept * before.features,
        covariance=(1 - kept) * covariance + kept * V,
        gains=(1 - kept) * gains + kept * before.gains,
        evidence=_evidence(net, before, sums),
        surplus=surplus,
        blur=_next_blur(before.blur, surplus, len(V)),
    )
    return replace(after, residuals=_residuals(before.residuals, sums), gram=_gram(after))


def _on_norms(mean: torch.Tensor, covariance: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """``mean`` with the rows' lengths for which ``|xhat_i|^2 + V_ii`` is the public squared norm. Else nothing but one
    coordinate of the prior in d holds the norm, and features and residuals scale against each other where sigma is
    homogeneous."""
    wanted = (torch.diagonal(gram) - torch.diagonal(covariance)).clamp(min=0)
    return mean * torch.sqrt(wanted / mean.square().sum(dim=1).clamp(min=1e-300))[:, None]


def _symmetric(matrix: torch.Tensor) -> torch.Tensor:
    return (matrix + matrix.T) / 2


def _positive(matrix: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(_symmetric(matrix))
    return (vectors * values.clamp(min=0)) @ vectors.T


def _surplus(sums: Sums, m: int) -> Surplus:
    mean, square = (sums.surplus / m).tolist()
    return Surplus(mean, max((square - mean * mean) / m, 0.0) ** 0.5)


def _next_blur(blur: float, surplus: Surplus, B: int) -> float:
    """Half as much where entries lie as far from their forecast as they should, more where they lie farther: with features
    and residuals still wrong, a likelihood as sharp as the density's own would be sure of nonsense."""
    return blur * min(max(0.5 + 4 * surplus.mean / B, 0.4), 3.0)


def _evidence(net: TwoLayerNet, before: Belief, sums: Sums) -> float:
    """Of the belief ``before`` (Krzakala, Manoel, Tramel, Zdeborova 2014, arXiv 1402.1384, for the matrix case)."""
    V, G = before.covariance, before.gram
    onsager = ((before.gains @ V) * before.gains).sum() / 2
    share = torch.linalg.solve(G, V + before.features @ before.features.T)
    divergence = net.d / 2 * (share.trace() - len(V) - torch.logdet(V) + torch.logdet(G))
    return float(sums.evidence + onsager - divergence)


def _residuals(before: torch.Tensor, sums: Sums) -> torch.Tensor:
    """A Newton step on the evidence. (Steps that fill in what is hidden, EM's, stand still without noise; and the scatter of
    the scores is their curvature only once they have no mean.) Where the evidence bends up, by their scatter."""
    values, vectors = torch.linalg.eigh(sums.scatter)
    root = vectors / torch.sqrt(values.clamp(min=1e-12 * float(values[-1])))
    curvature, axes = torch.linalg.eigh(root.T @ (sums.scatter - sums.bend) @ root)
    step = torch.where(curvature > 0, 1 / curvature.clamp(min=FLATTEST), 1.0)
    axes = root @ axes
    move = axes @ (step * (axes.T @ sums.score))
    longest = LONGEST_STEP * torch.sqrt(torch.mean(before * before))
    return before + move * torch.clamp(longest / torch.linalg.vector_norm(move).clamp(min=1e-300), max=1.0)


def _gram(after: Belief) -> torch.Tensor:
    """EM's: ``Xhat Xhat^T + V``, on the public norms, and with cosines a little below 1."""
    found = after.features @ after.features.T + after.covariance
    scale = torch.sqrt(torch.diagonal(after.gram) / torch.diagonal(found))
    gram = scale[:, None] * found * scale
    apart = torch.diag(torch.diagonal(gram))
    return apart + LARGEST_COSINE * (gram - apart)
