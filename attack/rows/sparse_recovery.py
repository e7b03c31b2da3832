"""Exact recovery from ``dL/dW`` of a piecewise linear activation without noise: the rival of the tensor attack.

The idea is that of SPEAR (Dimitrov, Baader, Müller, Vechev, NeurIPS 2024, arXiv 2403.03945), here in the coordinates of the
span. With slopes ``low`` left and ``high`` right of a kink at zero, rows are ``c_j = sum_i (low or high) b_i`` with
``b_i = r_i x_i``. The direction q that is dual to b_i (orthogonal to every other b) sees two values only, ``low v`` and
``high v``. Among B random rows all lie on the same side of feature i with probability ``2^(1-B)``; then q is orthogonal to
their differences, and it is found as the kernel. For ReLU (low = 0) this is the sparsity that SPEAR uses; with differences a
leaky ReLU is the same problem.

Two values are necessary and not enough: where no neuron is inactive for feature 1 and active for feature 2 (few neurons, or
features nearly parallel), the difference of their patterns has two values as well, and spans the same columns with either of
them. So B patterns count only if each is the pattern of the feature that they give: active exactly where ``w_j.x_i > 0``.
Why: bounds/proofs/exact-recovery.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy
import torch

from attack.networks.two_layer import TwoLayerNet
from attack.reconstruction import Diagnostics, Reconstruction, ReconstructionError
from attack.rows.ica import alternate
from attack.rows.observation import FirstLayerObservation
from attack.rows.patterns import Found, Rows, Solved
from attack.rows.search import search
from attack.rows.space import RowSpace, in_span, require_rank, row_space
from attack.tensor.fit import LABEL_DOUBT
from bounds import GradientNoise, RowAttack, checks
from bounds.estimator import EQUAL_NORMS
from bounds.gaussian.activations import Activation

#: Two values count as equal below this fraction of the largest.
TOLERANCE = 1e-6


#: A gradient of rank B has its weakest singular value above rounding by this factor: less leaves no digits to decide with.
CLEAR_RANK = 1e3


#: Rows are the same where they agree in this many entries.
_COLUMNS = 4


_SAMPLES = 200_000


#: Up to this many features samples of rows come first, their number being about 2^B; alternating projections beyond.
_FEW = 6


#: Samples of rows are drawn where this many for each of the ``2^(B-1)`` that one feature takes are allowed.
_ENOUGH = 4


def sparse_recovery(
    observation: FirstLayerObservation,
    net: TwoLayerNet,
    batch_size: int | None = None,
    seed: int = 2,
    max_samples: int = _SAMPLES,
) -> Reconstruction:
    """Reconstruct the features exactly (to rounding) from the gradient of the first layer, for ReLU and leaky ReLU, by
    samples of rows: ``RowAttack(method="search")``, for larger batches see there.

    Samples of B rows are drawn until B dual directions are found whose features reproduce every row (so the gradient of what
    is returned is the observed one); a sample finds one with probability at most ``B 2^(1-B)``, so about ``2^(B-1) log B``
    are needed: B up to ten or so. Signs, residuals and labels come with the
    features; with unequal norms their assignment assumes labels in {-1, +1}. Diagnostics: ``gap`` as in
    ``first_layer_attack``, of the span alone, ``agreeing`` the features found (all), ``starts`` the samples drawn.

    Raises ``ValueError`` for an activation that is not linear on both sides of a kink at zero with slopes
    ``|low| < |high|``, for an observation with noise, or on bad input; ``ReconstructionError`` when the rank is below B, or
    after ``max_samples`` samples without all features, or without B among those found that explain every row.
    """
    attack = RowAttack(method="search", max_samples=max_samples)
    return recover(observation, net, batch_size, seed, attack=attack).reconstruction


@dataclass(frozen=True, eq=False)
class Recovered:
    """error: how far rounding of the rows' entries may have moved the features, as an R; 0 without rounding. unexplained:
    share of the rows' power that is left where every neuron is on the side of a feature on which its row shows it: features
    that are off by rounding have a neuron near the kink on the other side, which would leave all of its row. search: which
    search found the patterns, and in how many tries."""

    reconstruction: Reconstruction
    error: float
    unexplained: float
    search: str


def recover(
    observation: FirstLayerObservation,
    net: TwoLayerNet,
    batch_size: int | None = None,
    seed: int = 2,
    *,
    attack: RowAttack | None = None,
    rounding: float = 0.0,
) -> Recovered:
    """Exact recovery as ``attack`` describes it, ``RowAttack()`` where None, of rows that were rounded to fewer digits than
    float64 holds: ``rounding`` is the largest relative error that this makes of an entry. Comparisons are then made to half
    the digits that are left."""
    checks.instance("observation", observation, FirstLayerObservation)
    checks.instance("net", net, TwoLayerNet)
    checks.integer("seed", seed, 0)
    attack = RowAttack() if attack is None else attack
    checks.instance("attack", attack, RowAttack)
    tolerance = max(TOLERANCE, math.sqrt(rounding))
    B = observation.expected_batch(net, batch_size)
    sides = slopes(net.activation)
    defense = observation.defense
    if isinstance(defense, GradientNoise) and defense.sigma > 0:
        raise ValueError(
            f"the observation must be free of noise (sigma = 0) to be solved exactly; got {defense!r}"
        )
    if observation.gradient.dtype != torch.float64:
        raise ValueError(
            f"gradient must be float64 for exact recovery; got {observation.gradient.dtype}: rounding acts as noise"
        )
    space = row_space(observation.gradient.to(net.device), B)
    clear = float(space.values[-1]) / space.edge if space.edge > 0 else 0.0
    require_rank(space, clear, min(CLEAR_RANK, 1 / tolerance))
    inside = in_span(net, observation.gradient.to(net.device), space.V)
    problem = Rows(inside.rows.cpu().numpy(), inside.neurons.cpu().numpy(), sides, tolerance)
    found, solved = _patterns(problem, attack, seed, space)
    scaled, signs = solved.scaled, solved.signs
    size = np.linalg.norm(scaled, axis=1)
    directions = torch.from_numpy((signs / size)[:, None] * scaled).to(net.device) @ space.V.T
    outputs = net.forward(directions).cpu().numpy()  # of unit features: the activation is homogeneous
    norms, warnings = _assigned(np.array(observation.norms), outputs, signs * size)
    residuals = signs * size / norms
    result = Reconstruction(
        torch.from_numpy(norms).to(net.device)[:, None] * directions,
        torch.from_numpy(residuals).to(net.device),
        torch.from_numpy(norms * outputs - residuals).to(net.device),
        _diagnostics(space, "suspect" if warnings else "ok", B, found, warnings),
    )
    gradient = net.m * observation.gradient.to(net.device)
    left = gradient - torch.from_numpy(solved.design @ scaled).to(space.V) @ space.V.T
    unexplained = float(left.square().sum() / gradient.square().sum())
    error = 0.0
    if rounding:
        moved = _moved(gradient, left, solved, rounding)
        error = math.sqrt(float(np.mean((moved / residuals) ** 2)))
    return Recovered(result, error, unexplained, found.text)


def _patterns(problem: Rows, attack: RowAttack, seed: int, space: RowSpace) -> tuple[Found, Solved]:
    """By the searches that ``attack`` allows, the one that is expected to take less first. ``ReconstructionError`` where
    none of them solves it."""
    tried: list[Found] = []
    for found in _searches(problem, attack, seed):
        if found.solved is not None:
            return found, found.solved
        tried.append(found)
    B = problem.size[1]
    most = max(tried, key=lambda found: found.patterns)
    text, hint = f"{most.patterns} of {B} features found", "about 2^(B-1) log B are needed"
    if most.method == "ica":
        hint = "too few neurons, or features that hardly one neuron tells apart"
    if most.patterns >= B:
        text = f"{most.patterns} activity patterns found, but no {B} that explain every row"
        hint = "noise, too few neurons or nearly parallel features"
    after = " and ".join(f"{found.text} ({found.option} = {found.limit})" for found in tried)
    raise ReconstructionError(
        f"{text} after {after}; {hint}",
        _diagnostics(space, "failed", min(most.patterns, B), most),
    )


def _searches(problem: Rows, attack: RowAttack, seed: int) -> Iterator[Found]:
    B = problem.size[1]
    samples = attack.method == "search" or attack.max_samples >= _ENOUGH * 2 ** (B - 1)
    order = ("search", "ica") if B <= _FEW else ("ica", "search")
    for method in order if attack.method == "auto" else (attack.method,):
        if method == "ica":
            yield alternate(problem, seed, attack.max_starts)
        elif samples:
            yield search(problem, seed, attack.max_samples)


def _moved(rows: torch.Tensor, left: torch.Tensor, solved: Solved, rounding: float) -> np.ndarray:
    """Standard deviations (B,) of the lengths by which rounding moves ``r_i x_i``, which least squares takes from the rows.

    A row is off by what the fit leaves of it (``left``), or by its own rounding where that is more; rows that are the same,
    as those of one pattern are where output weights are, are off by the same. What rows of one pattern have in common of
    what is left, as another slope leaves it, may hide in ``r_i x_i`` as much again.
    """
    off = torch.linalg.vector_norm(left, dim=1)
    off = torch.maximum(off, rounding * torch.linalg.vector_norm(rows, dim=1)).cpu().numpy()
    _, same = np.unique(rows[:, :_COLUMNS].cpu().numpy(), axis=0, return_inverse=True)
    _, index, counts = np.unique(solved.design, axis=0, return_inverse=True, return_counts=True)
    sums = left.new_zeros(len(counts), left.shape[1]).index_add_(
        0, torch.from_numpy(index.ravel()).to(left.device), left
    )
    common = float(np.sum(sums.square().sum(dim=1).cpu().numpy() / counts))
    inverse = np.linalg.pinv(solved.design)
    weights = np.abs(inverse) * off
    groups = np.stack([np.bincount(same.ravel(), weights=w) for w in weights])
    return np.asarray(np.sqrt(np.sum(groups**2, axis=1) + common * np.sum(inverse**2, axis=1)))


def slopes(activation: Activation) -> tuple[float, float]:
    """Slopes left and right of the kink at zero; ``ValueError`` for an activation that this method does not cover."""
    probe = np.linspace(0.1, 30.0, 300)
    derivative = activation.derivative
    sides = (
        [] if derivative is None else [np.broadcast_to(derivative(s * probe), probe.shape) for s in (-1, 1)]
    )
    if not sides or activation.kinks != (0.0,) or max(np.ptp(side) for side in sides) > 0:
        raise ValueError(
            "activation must be linear on both sides of a kink at zero (relu, leaky_relu), so that every row is one of "
            f"2^B sums; got {activation.name!r}"
        )
    low, high = (float(side[0]) for side in sides)
    homogeneous = all(
        np.allclose(activation.function(s * probe), s * k * probe, rtol=1e-12, atol=0.0)
        for s, k in ((-1, low), (1, high))
    )
    if abs(low) >= abs(high) or activation.function(np.zeros(1))[0] != 0.0 or not homogeneous:
        raise ValueError(
            f"activation must have sigma(0) = 0, no jump and a steeper slope on the right, |low| < |high|; got "
            f"{activation.name!r} with slopes {low:g}, {high:g}"
        )
    return low, high


def _assigned(
    public: np.ndarray, outputs: np.ndarray, strengths: np.ndarray
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The public norm of each feature: any where they agree, else those that bring the labels nearest to +-1.

    outputs: of the network at unit features; strengths: residual times norm.
    """
    if np.ptp(public) <= EQUAL_NORMS * public.max():
        return public, ()
    labels = public[None] * outputs[:, None] - strengths[:, None] / public[None]
    distance = np.abs(np.abs(labels) - 1)
    found, columns = scipy.optimize.linear_sum_assignment(distance)
    worst = float(distance[found, columns].max())
    doubt = f"norms assigned by labels that are up to {worst:.2f} away from +-1"
    return public[columns], (doubt,) if worst > LABEL_DOUBT else ()


def _diagnostics(
    space: RowSpace, status: str, features: int, found: Found, warnings: tuple[str, ...] = ()
) -> Diagnostics:
    values = tuple(space.values.tolist())
    return Diagnostics(
        status,
        warnings,
        space.gap,
        values,
        space.edge,
        2,
        agreeing=features,
        starts=found.tries,
        method=found.method,
        exact=found.solved is not None,
    )
