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

import itertools
import math
from dataclasses import dataclass

import numpy as np
import scipy
import torch

from attack.networks.two_layer import TwoLayerNet
from attack.reconstruction import Diagnostics, Reconstruction, ReconstructionError
from attack.rows.observation import FirstLayerObservation
from attack.rows.space import RowSpace, in_span, require_rank, row_space
from attack.streams import numpy_generator
from attack.tensor.fit import LABEL_DOUBT
from bounds import GradientNoise, checks
from bounds.estimator import EQUAL_NORMS
from bounds.gaussian.activations import Activation

#: Two values count as equal below this fraction of the largest.
TOLERANCE = 1e-6


#: A gradient of rank B has its weakest singular value above rounding by this factor: less leaves no digits to decide with.
CLEAR_RANK = 1e3


_CHUNK = 512


#: Rows are the same where they agree in this many entries.
_COLUMNS = 4


_SAMPLES = 200_000


#: Choices of B patterns out of those found that are put to the test at most; one is enough unless patterns are ambiguous.
_CHOICES = 2_000


def sparse_recovery(
    observation: FirstLayerObservation,
    net: TwoLayerNet,
    batch_size: int | None = None,
    seed: int = 2,
    max_samples: int = _SAMPLES,
) -> Reconstruction:
    """Reconstruct the features exactly (to rounding) from the gradient of the first layer, for ReLU and leaky ReLU.

    Samples of B rows are drawn until B dual directions are found whose features reproduce every row (so the gradient of what
    is returned is the observed one); a sample finds one with probability at most ``B 2^(1-B)``, so about ``2^(B-1) log B``
    are needed: B up to ten or so. Signs, residuals and labels come with the
    features; with unequal norms their assignment assumes labels in {-1, +1}. Diagnostics: ``gap`` as in
    ``first_layer_attack``, of the span alone, ``agreeing`` the features found (all), ``starts`` the samples drawn.

    Raises ``ValueError`` for an activation that is not linear on both sides of a kink at zero with slopes
    ``|low| < |high|``, for an observation with noise, or on bad input; ``ReconstructionError`` when the rank is below B, or
    after ``max_samples`` samples without all features, or without B among those found that explain every row.
    """
    return recover(observation, net, batch_size, seed, max_samples=max_samples).reconstruction


@dataclass(frozen=True, eq=False)
class Recovered:
    """error: how far rounding of the rows' entries may have moved the features, as an R; 0 without rounding. unexplained:
    share of the rows' power that is left where every neuron is on the side of a feature on which its row shows it: features
    that are off by rounding have a neuron near the kink on the other side, which would leave all of its row."""

    reconstruction: Reconstruction
    error: float
    unexplained: float


def recover(
    observation: FirstLayerObservation,
    net: TwoLayerNet,
    batch_size: int | None = None,
    seed: int = 2,
    *,
    max_samples: int = _SAMPLES,
    rounding: float = 0.0,
) -> Recovered:
    """``sparse_recovery`` of rows that were rounded to fewer digits than float64 holds: ``rounding`` is the largest relative
    error that this makes of an entry. Comparisons are then made to half the digits that are left."""
    checks.instance("observation", observation, FirstLayerObservation)
    checks.instance("net", net, TwoLayerNet)
    checks.integer("seed", seed, 0)
    checks.integer("max_samples", max_samples, 1)
    tolerance = max(TOLERANCE, math.sqrt(rounding))
    B = observation.expected_batch(net, batch_size)
    low, high = slopes(net.activation)
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
    rows, neurons = inside.rows.cpu().numpy(), inside.neurons.cpu().numpy()
    search = _search(rows, neurons, (low, high), _Effort(seed, max_samples, tolerance))
    if search.solved is None:
        found_text = f"{search.found} of {B} features found"
        hint = "about 2^(B-1) log B are needed"
        if search.found >= B:
            found_text = f"{search.found} activity patterns found, but no {B} that explain every row"
            hint = "noise, too few neurons or nearly parallel features"
        raise ReconstructionError(
            f"{found_text} after {search.samples} samples of rows (max_samples = {max_samples}); {hint}",
            _diagnostics(space, "failed", min(search.found, B), search.samples),
        )
    scaled, signs, samples = search.solved.scaled, search.solved.signs, search.samples
    size = np.linalg.norm(scaled, axis=1)
    directions = torch.from_numpy((signs / size)[:, None] * scaled).to(net.device) @ space.V.T
    outputs = net.forward(directions).cpu().numpy()  # of unit features: the activation is homogeneous
    norms, warnings = _assigned(np.array(observation.norms), outputs, signs * size)
    residuals = signs * size / norms
    found = Reconstruction(
        torch.from_numpy(norms).to(net.device)[:, None] * directions,
        torch.from_numpy(residuals).to(net.device),
        torch.from_numpy(norms * outputs - residuals).to(net.device),
        _diagnostics(space, "suspect" if warnings else "ok", B, samples, warnings),
    )
    gradient = net.m * observation.gradient.to(net.device)
    left = gradient - torch.from_numpy(search.solved.design @ scaled).to(space.V) @ space.V.T
    unexplained = float(left.square().sum() / gradient.square().sum())
    if not rounding:
        return Recovered(found, 0.0, unexplained)
    moved = _moved(gradient, left, search.solved, rounding)
    return Recovered(found, math.sqrt(float(np.mean((moved / residuals) ** 2))), unexplained)


def _moved(rows: torch.Tensor, left: torch.Tensor, solved: _Solved, rounding: float) -> np.ndarray:
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


@dataclass(frozen=True, eq=False)
class _Solved:
    """``scaled`` (B, B): r_i x_i in the coordinates of the span; ``signs`` (B,): of the residuals; ``design`` (m, B): the
    slopes by which each row weights them."""

    design: np.ndarray
    scaled: np.ndarray
    signs: np.ndarray


@dataclass(frozen=True, eq=False)
class _Search:
    """What explains every row, if anything does; patterns found and samples drawn."""

    solved: _Solved | None
    found: int
    samples: int


@dataclass(frozen=True)
class _Effort:
    """Seed and number of samples, and the relative difference below which two values are equal."""

    seed: int
    max_samples: int
    tolerance: float


def _search(rows: np.ndarray, neurons: np.ndarray, sides: tuple[float, float], effort: _Effort) -> _Search:
    """Patterns of activity, one by one, until B of them explain every row. rows, neurons (m, B): in the coordinates of the
    span."""
    m, B = rows.shape
    ratio = sides[0] / sides[1]
    generator = numpy_generator(effort.seed, "rows")
    max_samples, tolerance = effort.max_samples, effort.tolerance
    found: dict[bytes, np.ndarray] = {}
    tried: set[bytes] = set()
    probe = rows[generator.permutation(m)[: min(m, 128)]]
    drawn, choices = 0, 0
    while drawn < max_samples and choices < _CHOICES:
        count = min(_CHUNK, max_samples - drawn)
        drawn += count
        sample = rows[generator.integers(0, m, (count, B))]
        differences = sample[:, 1:] - sample[:, :1]
        kernels = np.linalg.svd(differences, full_matrices=True)[2][:, -1] if B > 1 else np.ones((count, 1))
        # A few rows first: most kernels are no duals.
        kernels = kernels[_two_valued(kernels @ probe.T, ratio, tolerance)]
        heaviest = np.take_along_axis(kernels, np.abs(kernels).argmax(axis=1)[:, None], axis=1)
        for q, key in zip(kernels, np.round(kernels * np.sign(heaviest), 9) + 0.0, strict=True):
            if key.tobytes() in tried:  # the same dual comes again and again
                continue
            tried.add(key.tobytes())
            values = q @ rows.T
            if not _two_valued(values[None], ratio, tolerance)[0]:
                continue
            active = np.abs(values) > (1 + abs(ratio)) / 2 * np.abs(values).max()
            if active.all() or active.tobytes() in found:  # one value alone says nothing about a side
                continue
            earlier = tuple(found.values())
            found[active.tobytes()] = active
            for others in itertools.combinations(earlier, B - 1):
                choices += 1
                solved = _solve(
                    rows, neurons, np.stack([*others, active], axis=1), sides, tolerance=tolerance
                )
                if solved is not None:
                    return _Search(solved, len(found), drawn)
                if choices >= _CHOICES:
                    break
    return _Search(None, len(found), drawn)


def _solve(
    rows: np.ndarray,
    neurons: np.ndarray,
    active: np.ndarray,
    sides: tuple[float, float],
    *,
    tolerance: float,
) -> _Solved | None:
    """The features that these patterns (m, B) give, by least squares over all rows (more accurate than the kernels of a few
    of them); None unless they explain every row and are active exactly where the patterns say."""
    design = np.where(active, sides[1], sides[0])
    scaled = np.linalg.lstsq(design, rows, rcond=None)[0]
    if not np.linalg.norm(rows - design @ scaled) <= tolerance * np.linalg.norm(rows):
        return None
    inner = neurons @ scaled.T
    signs = np.where(np.sum(np.where(active, inner, -inner), axis=0) < 0, -1.0, 1.0)
    # A neuron in the plane that separates the sides, to rounding, may be on either.
    near = tolerance * np.linalg.norm(neurons, axis=1)[:, None] * np.linalg.norm(scaled, axis=1)
    if np.any(((signs * inner > 0) != active) & (np.abs(inner) > near)):
        return None
    return _Solved(design, scaled, signs)


def _two_valued(values: np.ndarray, ratio: float, tolerance: float) -> np.ndarray:
    """Whether each row (of values of one direction) takes the two values v and ratio v only: booleans."""
    largest = np.take_along_axis(values, np.abs(values).argmax(axis=1)[:, None], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = values / largest
    off = np.minimum(np.abs(relative - 1), np.abs(relative - ratio))
    return np.asarray(np.all(off < tolerance, axis=1))


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
    space: RowSpace, status: str, found: int, samples: int, warnings: tuple[str, ...] = ()
) -> Diagnostics:
    values = tuple(space.values.tolist())
    return Diagnostics(status, warnings, space.gap, values, space.edge, 2, agreeing=found, starts=samples)
