"""What about the weights and biases of a shared gradient does not fit the model."""

from __future__ import annotations

import math

import torch

from attack.own.coordinates import STANDARD_ERRORS, Coordinates
from attack.own.findings import Finding, judged
from attack.own.gradient import SharedGradient
from attack.own.known import Known
from attack.own.units import root_mean_square

#: Spectrum and moments of the weights are taken from at most this many neurons.
SAMPLE = 100_000

#: Deviations of a shape (kurtosis, spread of row norms) below this do no harm worth a warning.
SHAPE_FLOOR = 0.05


def weight_findings(shared: SharedGradient, known: Known) -> tuple[Finding, ...]:
    """Findings about scale and shape of the weights' distribution, and about the biases."""
    W = shared.weight[:SAMPLE].double()
    m, d = W.shape
    entries = m * d
    measured = root_mean_square(shared.weight)
    found = []
    s = measured if known.scale is None else known.scale
    off, tolerance = abs(measured / s - 1), STANDARD_ERRORS / math.sqrt(2 * entries) + 1e-3
    rescaled = "" if abs(s - 1) < tolerance else "; rescaled to 1"
    found.append(judged("scale", off, tolerance, f"weights have standard deviation {measured:.4g}{rescaled}"))
    W = W / measured
    centre = float(torch.linalg.vector_norm(W.mean(dim=0)))
    edge = math.sqrt((d + STANDARD_ERRORS * math.sqrt(2 * d)) / m)
    found.append(
        judged("mean", centre, edge, f"mean weight vector of norm {centre:.3g} in units of the scale")
    )
    kurtosis = float((W**4).mean()) - 3
    limit = max(SHAPE_FLOOR, STANDARD_ERRORS * math.sqrt(24 / entries))
    text = f"excess kurtosis of the weights' entries {kurtosis:+.3f} (Gaussian 0, uniform -1.2)"
    found.append(judged("kurtosis", abs(kurtosis), limit, text))
    rows = W.square().sum(dim=1)
    ratio = float(rows.var()) / (2 * d)
    limit = max(SHAPE_FLOOR, STANDARD_ERRORS * math.sqrt((2 + 12 / d) / m))
    text = f"squared row norms vary {ratio:.3f} times as much as chi-squared with d degrees of freedom"
    found.append(judged("row norms", abs(ratio - 1), limit, text))
    return (*found, *_spectrum(W), *_bias(shared))


def _spectrum(W: torch.Tensor) -> tuple[Finding, ...]:
    """Eigenvalues of W^T W/m against the Marchenko-Pastur edges ``(1 -+ sqrt(d/m))^2`` and five times the scale of their
    fluctuations (Johnstone 2001, Tracy-Widom)."""
    m, d = W.shape
    if d >= m:
        return ()
    values = torch.linalg.eigvalsh(W.T @ W / m)
    low, high = float(values[0]), float(values[-1])
    root_m, root_d = math.sqrt(m), math.sqrt(d)
    slack_high = STANDARD_ERRORS * (root_m + root_d) * (1 / root_m + 1 / root_d) ** (1 / 3) / m
    slack_low = STANDARD_ERRORS * (root_m - root_d) * abs(1 / root_d - 1 / root_m) ** (1 / 3) / m
    top, bottom = (1 + root_d / root_m) ** 2 + slack_high, (1 - root_d / root_m) ** 2 - slack_low
    text = f"coordinates of the weights are {'un' if high <= top and low >= bottom else ''}correlated: eigenvalues "
    text += f"of W^T W/m in [{low:.3f}, {high:.3f}], expected in [{bottom:.3f}, {top:.3f}]"
    return (judged("correlation", max(high - top, bottom - low), 0.0, text),)


def _bias(shared: SharedGradient) -> tuple[Finding, ...]:
    if shared.bias is None or not bool((shared.bias != 0).any()):
        return ()
    there = Coordinates.measured(shared.weight[:1], shared.bias, 1.0)
    mean, spread = there.bias_mean, there.bias_scale
    text = (
        f"biases of mean {mean:.3g} and standard deviation {spread:.3g}; the model has none. Their mean shifts the "
        "activation, their spread is one more coordinate of the features"
    )
    if not spread:
        return (Finding("bias", "ok", text, spread, 0.0),)
    inside = shared.bias.double() / spread
    kurtosis = float(((inside - inside.mean()) ** 4).mean()) - 3
    limit = max(SHAPE_FLOOR, STANDARD_ERRORS * math.sqrt(24 / shared.m))
    text += f" (taken for Gaussian; excess kurtosis {kurtosis:+.3f})"
    return (judged("bias", abs(kurtosis), limit, text),)
