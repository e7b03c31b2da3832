"""How far one example can move the gradient: sup over the sphere of |h(x)|, h(x) = r(x) sigma(W x)
(bounds/proofs/published.md).

Weights are Gaussian, so a bound that holds for every x holds for most networks: each states the probability that it
fails.
"""

from __future__ import annotations

import math
from enum import StrEnum

import numpy as np

from bounds import checks
from bounds.errors import UnsupportedBound
from bounds.gaussian.activations import Activation
from bounds.gaussian.slope import steepest
from bounds.kinds.published.entries import Entry, entries
from bounds.setting import Setting


class Adjacency(StrEnum):
    """Which batches are neighbours in the sense of differential privacy."""

    ADD_REMOVE = "add_remove"  #: one has an example more
    REPLACE_ONE = "replace_one"  #: they differ in one example, features and label


#: Networks on which a sensitivity need not hold, as a share of all.
FAILURE = 1e-6


def sensitivity(
    setting: Setting, adjacency: Adjacency, *, failure: float = FAILURE, max_norm: float = math.inf
) -> float:
    """L2 distance, at most, between the gradients dL/da of neighbouring batches.

    Examples are all (x, y) with a norm that the setting has and ``|y| <= max |labels|``. With per-sample clipping to
    ``max_norm`` = C an example contributes C at most, whatever the network; without, ``(|mu_0| + max|y| + L D/sqrt(m))
    (sqrt(m E sigma^2) + L D)`` with probability at least 1 - ``failure`` over the network, L the activation's Lipschitz
    constant and D ``uniform_deviation``. The smaller one is returned, twice for ``REPLACE_ONE``.

    Raises ``UnsupportedBound`` for an activation whose slope is not bounded, where there is no clipping.
    """
    checks.inside("failure", failure)
    clip = checks.real("max_norm", max_norm, 0.0, infinite=True)
    copies = {Adjacency.ADD_REMOVE: 1.0, Adjacency.REPLACE_ONE: 2.0}[Adjacency(adjacency)]
    if math.isinf(clip):
        return copies * _contribution(setting, failure)
    try:
        return copies * min(clip, _contribution(setting, failure))
    except UnsupportedBound:  # the clip alone bounds it
        return copies * clip


def wide_sensitivity(setting: Setting, adjacency: Adjacency) -> float:
    """What ``sensitivity`` cannot be below as m grows, without clipping: one example of the setting's largest
    contribution; for ``REPLACE_ONE`` one whose label changes from one end of its range to the other. What DP asks
    for is between the two."""
    label = float(np.max(np.abs(setting.labels)))
    sizes = {
        Adjacency.ADD_REMOVE: [(abs(e.mean) + label) * e.rms for e in entries(setting)],
        Adjacency.REPLACE_ONE: [2 * label * e.rms for e in entries(setting)],
    }
    return math.sqrt(setting.m) * max(sizes[Adjacency(adjacency)])


def _contribution(setting: Setting, failure: float) -> float:
    steepest, deviation = lipschitz(setting.activation), uniform_deviation(setting.d, setting.m, failure)
    root, label = math.sqrt(setting.m), float(np.max(np.abs(setting.labels)))
    largest = 0.0
    for entry in entries(setting):
        moved = entry.norm * steepest * deviation
        largest = max(largest, (abs(entry.mean) + label + moved / root) * (root * entry.rms + moved))
    return largest


def worst_distance(entry: Entry, activation: Activation, d: int, m: int, failure: float = FAILURE) -> float:
    """``|h(x) - c|``, at most, for all x of the entry's norm and its label, c = r* E sigma (1, ..., 1); with
    probability at least 1 - ``failure`` over the network."""
    return _distance(entry, activation, m, uniform_deviation(d, m, failure))


def typical_distance(entry: Entry, activation: Activation, m: int, failure: float) -> float:
    """The same for one x, or one drawn independently of the network: Gaussian concentration in place of a net."""
    return _distance(entry, activation, m, math.sqrt(2 * math.log(3 / failure)))


def _distance(entry: Entry, activation: Activation, m: int, deviation: float) -> float:
    moved = entry.norm * lipschitz(activation) * deviation
    size = abs(entry.residual) + moved / math.sqrt(m)
    return size * (math.sqrt(m) * entry.deviation + moved) + abs(entry.mean) * moved


def uniform_deviation(d: int, m: int, failure: float) -> float:
    """D such that with probability at least 1 - ``failure`` over an m x d Gaussian matrix W, for every unit x: F(W
    x) is at most E F(W x) + D, F(W x) = |sigma(W x)| or |sigma(W x) - E sigma| with 1-Lipschitz sigma (one of the
    two), and ``|mean_j sigma(w_j.x) - E sigma| <= D / sqrt(m)``.

    A net of (1 + 2/eps)^d points, Gaussian concentration at each, |W| between them; the best eps of a grid.
    """
    eps = np.geomspace(1e-4, 1.0, 200)
    at_net = np.sqrt(2 * (d * np.log1p(2 / eps) + math.log(6 / failure)))
    norm = math.sqrt(m) + math.sqrt(d) + math.sqrt(2 * math.log(2 / failure))
    return float(np.min(at_net + eps * norm))


def lipschitz(activation: Activation) -> float:
    """Largest |sigma'|. Raises ``UnsupportedBound`` where it grows with the argument."""
    largest = steepest(activation)
    if math.isinf(largest):
        raise UnsupportedBound(
            f"not proved: the slope of {activation.name} is not bounded, so neither is what an example adds"
        )
    return largest
