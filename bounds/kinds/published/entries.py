"""What one feature puts into the gradient: moments of ``h(x) = r(x) sigma(W x)``, exact at every width.

``r(x) = f(x) - y`` with ``f(x) = mean_j sigma(w_j.x)`` and y known, as an informed adversary may: who does not know it does
no better. With s_j = sigma(w_j.x), independent over j, the residual is ``(s_1 + others)/m - y``; the others have mean
``a = (m - 1)/m E s - y`` and variance ``(m - 1)/m^2 Var s``. Expectations by quadrature (bounds/proofs/published.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from bounds.arrays import Array
from bounds.gaussian.activations import Activation
from bounds.gaussian.quadrature import gaussian_rule, plane_moments
from bounds.gaussian.slope import derivative
from bounds.setting import Setting

#: Angles at which the contributions of two features are compared, in radians.
ANGLES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.25, np.pi / 2)


@dataclass(frozen=True)
class Entry:
    """Moments of one feature's contribution to one entry of the gradient, over the network.

    norm: of the feature. spread: ``E|h - c|^2 / m`` about the best constant vector c. slope: ``E|dh|^2`` for each
    unit of the feature's displacement along its sphere, over m; ``E tr(J^T J)`` there is (d - 1) m slope. chords:
    ``E|h(x) - h(x')|^2 / m`` for x, x' of this norm at the ``ANGLES``. residual: the wide limit r*. deviation:
    standard deviation of sigma(w.x). mean: E sigma(w.x). rms: root mean square of sigma(w.x).
    """

    norm: float
    spread: float
    slope: float
    chords: tuple[float, ...]
    residual: float
    mean: float
    deviation: float
    rms: float


@dataclass(frozen=True)
class _Line:
    """Expectations over one neuron: of powers of s = sigma(w.x) and of p = sigma'(w.x), as named."""

    s: float
    s2: float
    s3: float
    s4: float
    p2: float
    sp2: float
    s2p2: float


def entries(setting: Setting) -> tuple[Entry, ...]:
    """One ``Entry`` for each feature. Raises ``UnsupportedBound`` for an activation without a derivative."""
    return tuple(
        _entry(setting.activation, float(norm), float(label), setting.m)
        for norm, label in zip(setting.norms, setting.labels, strict=True)
    )


@lru_cache(maxsize=512)
def _entry(activation: Activation, norm: float, label: float, m: int) -> Entry:
    line = _line(activation, norm)
    a = (m - 1) / m * line.s - label
    variance = (m - 1) / m**2 * (line.s2 - line.s**2)
    energy = (a**2 + variance) * line.s2 + 2 * a / m * line.s3 + line.s4 / m**2
    moved = (a**2 + variance) * line.p2 + 2 * a / m * line.sp2 + line.s2p2 / m**2
    # The residual moves too: dr = mean_k sigma'(w_k.x) w_k dx.
    with_residual = 2 / m * (a * line.sp2 + line.s2p2 / m)
    residual_alone = ((1 - 1 / m) * line.p2 * line.s2 + line.s2p2 / m) / m
    chords = []
    for angle in ANGLES:
        pair = _plane(activation, norm, angle)
        common = (m - 1) / m**2 * (pair[0, 0] - line.s**2)
        cross = (a**2 + common) * pair[0, 0] + a / m * (pair[0, 1] + pair[1, 0]) + pair[1, 1] / m**2
        chords.append(2 * max(energy - float(cross), 0.0))
    return Entry(
        norm=norm,
        spread=max(energy - (a * line.s + line.s2 / m) ** 2, 0.0),
        slope=moved + with_residual + residual_alone,
        chords=tuple(chords),
        residual=line.s - label,
        mean=line.s,
        deviation=max(line.s2 - line.s**2, 0.0) ** 0.5,
        rms=line.s2**0.5,
    )


def _line(activation: Activation, norm: float) -> _Line:
    x, w = gaussian_rule(
        [k / norm for k in activation.kinks], norm, lambda t: np.asarray(activation.function(norm * t))
    )
    s, p = activation.function(norm * x), derivative(activation)(norm * x)
    return _Line(*(float(w @ v) for v in (s, s**2, s**3, s**4, p**2, s * p**2, (s * p) ** 2)))


@lru_cache(maxsize=512)
def _plane(activation: Activation, norm: float, angle: float) -> Array:
    """``E[s^p s'^q]`` for p, q in (1, 2) and two features of this norm at this angle."""

    def powers(t: Array) -> Array:
        s = activation.function(norm * t)
        return np.stack([s, s**2])

    kinks = [k / norm for k in activation.kinks]
    return plane_moments(powers, powers, float(np.cos(angle)), 0, kinks, kinks, scale=norm)[:, :, 0, 0]
