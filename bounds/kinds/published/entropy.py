"""Entropy bounds: what few bits about a feature cannot tell (bounds/proofs/published.md)."""

from __future__ import annotations

import math

import numpy as np

from bounds.arrays import Array
from bounds.kinds.published.entries import entries
from bounds.kinds.published.spheres import ambient, radii
from bounds.setting import Setting


def entropy_bound(entropy: float, information: Array, dimension: int) -> Array:
    """``E|x^ - x|^2 >= dimension/(2 pi e) e^(2 (entropy - information)/dimension)``, any attacker, x with this
    differential entropy.

    For rho-zCDP the information is rho at most (Bun and Steinke 2016), and divided by E|x|^2 = dimension the right
    side is e^(2 (h - rho)/d)/(2 pi e). All in nats. Equality for Gaussian x and Gaussian noise. On a sphere the
    entropy is minus infinity: ``sphere_bound``.
    """
    return np.asarray(
        dimension
        / (2 * math.pi * math.e)
        * np.exp(2 * (entropy - np.asarray(information, dtype=float)) / dimension)
    )


def ball_entropy(dimension: int, radius: float = 1.0) -> float:
    """Differential entropy of the uniform distribution in a ball: log of its volume."""
    half = dimension / 2
    return half * math.log(math.pi) + dimension * math.log(radius) - math.lgamma(half + 1)


def sphere_bound(ambient: int, information: Array) -> Array:
    """``E|x^ - x|^2 / radius^2 >= exp(-2 information/(ambient - 1))``, x uniform on a sphere in R^ambient, any
    attacker who has that many nats about it: the sphere's own form, with its dimension and without 1/(2 pi e). Ours;
    0 for ambient 1 (two points)."""
    if ambient == 1:
        return np.zeros(np.shape(information))
    return np.asarray(np.exp(-2 * np.asarray(information, dtype=float) / (ambient - 1)))


def entropy_bound_on_r(setting: Setting, sigmas: Array, max_norm: float = math.inf) -> Array:
    """R^2 of every attack by the entropy of the sphere; prior and adversary as in
    ``bounds.kinds.published.spheres``.

    Information about a feature, mean over networks: m/2 log(1 + V/sigma^2), V = ``Entry.spread``, which is below m
    V/(2 sigma^2), the zCDP parameter with the mean square distance in place of the worst one; and log B for the
    choice among B guesses. With per-sample clipping to ``max_norm`` = C, m V is C^2 at most.
    """
    rest, found = radii(setting), []
    for radius, entry in zip(rest, entries(setting), strict=True):
        spread = min(entry.spread, max_norm**2 / setting.m)
        nats = setting.m / 2 * np.log1p(spread / np.square(sigmas)) + math.log(setting.B)
        found.append(radius**2 * sphere_bound(ambient(setting), nats))
    return np.asarray(np.mean(found, axis=0))
