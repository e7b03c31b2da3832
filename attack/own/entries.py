"""What about a shared gradient does not fit the model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from attack.own.coordinates import STANDARD_ERRORS, Coordinates
from attack.own.findings import Finding, judged
from attack.own.gradient import OPTIONAL, REQUIRED, SharedGradient, _errors, _norms
from attack.own.problem import _problem
from attack.own.row_findings import row_findings
from attack.streams import normal
from attack.tensor.contraction import apply_contracted, contraction_edge
from attack.tensor.moments import Response, apply_second_moment, first_moment, noise_edge
from attack.tensor.span import dominant_span
from bounds import Activation, checks, resolve_activation
from bounds.estimator import moment_orders

#: Spectrum and moments of the weights are taken from at most this many neurons.
SAMPLE = 100_000


#: Deviations of a shape (kurtosis, spread of row norms) below this do no harm worth a warning.
SHAPE_FLOOR = 0.05


# --- what does not fit ------------------------------------------------------------------------------------------------


def check_gradient(
    shared: SharedGradient,
    batch_size: int,
    activation: str | Activation = "relu",
    norms: Sequence[float] | None = None,
    scale: float | None = None,
    seed: int = 2,
) -> tuple[Finding, ...]:
    """What fits the model and what does not, cheap against the attack.

    norms (B,): public norms, 1 where None. scale: standard deviation of the weights' entries, measured where None. Stops
    at the first stage with an error: shapes and finite values, then gradient and weights, then the number of features.
    Thresholds are about five standard errors of what standard Gaussian weights show. Raises ``ValueError`` or
    ``TypeError`` on bad arguments.
    """
    B = checks.integer("batch_size", batch_size, 1)
    function = resolve_activation(activation)
    public = _norms(norms, B)
    if scale is not None and checks.real("scale", scale, 0.0) == 0.0:
        raise ValueError("scale must be positive; got 0")
    findings = _shapes(shared, B)
    if _errors(findings):
        return findings
    findings += _gradient_findings(shared, B, function, public, scale) + _weight_findings(shared, scale)
    if _errors(findings) or shared.gradient.ndim == 2:
        return findings
    return (*findings, _count(shared, B, function, public, scale, seed))


def _shapes(shared: SharedGradient, B: int) -> tuple[Finding, ...]:
    m, d = shared.m, shared.d
    shape = tuple(shared.gradient.shape)
    found = []
    if shape not in ((m,), (m, d)):
        turned = " (the weight looks transposed)" if shape in ((d,), (d, m)) else ""
        text = f"gradient must have shape (m,) = ({m},) or (m, d) = ({m}, {d}); got {shape}{turned}"
        found.append(Finding("shape", "error", text))
    for name in OPTIONAL:
        value = getattr(shared, name)
        if value is not None and tuple(value.shape) != (m,):
            found.append(
                Finding("shape", "error", f"{name} must have shape ({m},); got {tuple(value.shape)}")
            )
    if not d >= B or not m > B:
        found.append(Finding("shape", "error", f"B must be at most d = {d} and below m = {m}; got {B}"))
    for name in (*REQUIRED, *OPTIONAL):
        value = getattr(shared, name)
        bad = 0 if value is None else int((~torch.isfinite(value)).sum())
        if bad:
            text = f"{name} has {bad} of {value.numel()} entries that are not finite"
            found.append(Finding("finite", "error", text, float(bad), 0.0))
    if not found and not bool(shared.weight.any()):
        found.append(Finding("scale", "error", "every weight is zero", 0.0, 0.0))
    kind = "dL/da" if shape == (m,) else "dL/dW"
    return (
        tuple(found)
        if found
        else (Finding("shape", "ok", f"m = {m}, d = {d}, gradient of shape {shape}: {kind}"),)
    )


def _gradient_findings(
    shared: SharedGradient, B: int, activation: Activation, norms: Sequence[float], scale: float | None
) -> tuple[Finding, ...]:
    if shared.gradient.ndim == 2:
        return row_findings(shared, B, activation, norms, scale)
    g = shared.gradient.double()
    size = float(g.square().mean().sqrt())
    spread = float(g.std(correction=0))
    if spread <= 1e-9 * size:  # also where every entry is zero
        text = f"the gradient is constant ({float(g[0]):.3g}): no feature can have made it"
        return (Finding("constant", "error", text, spread, 1e-9 * size),)
    zeros = float((g == 0).double().mean())
    flat = bool(np.all(activation(np.array([-3.0, -1.0, -0.1])) == 0))
    allowed = (0.5 if flat else 0.0) + STANDARD_ERRORS / math.sqrt(len(g))
    why = "half, which one feature leaves" if flat else "none, as the activation has no flat part"
    text = f"{zeros:.1%} of the gradient's entries are exactly zero; expected at most {why}: beyond, pruning or dropout"
    found = [judged("zeros", zeros, allowed, text)]
    # The largest of m Gaussians is about sqrt(2 log m); what the activation makes of it, in units of its own size, times 3
    # for features whose gradients cancel.
    s = Coordinates.measured(shared.weight).scale if scale is None else scale
    reach = s * max(norms) * (math.sqrt(2 * math.log(len(g))) + 1)
    grid = np.linspace(-reach, reach, 2001)
    normal_grid = np.abs(activation(grid))
    typical = math.sqrt(
        float(np.average(normal_grid**2, weights=np.exp(-((grid / (s * max(norms))) ** 2) / 2)))
    )
    largest = float(g.abs().max()) / size
    limit = 3 * float(normal_grid.max()) / typical
    text = (
        f"the largest entry is {largest:.1f} times the root mean square; the model's stay below {limit:.1f}"
    )
    return (*found, judged("outliers", largest, limit, text))


def _weight_findings(shared: SharedGradient, scale: float | None) -> tuple[Finding, ...]:
    W = shared.weight[:SAMPLE].double()
    m, d = W.shape
    entries = m * d
    measured = float(W.square().mean().sqrt())
    found = []
    s = measured if scale is None else scale
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
    kurtosis = float((((shared.bias.double() - shared.bias.double().mean()) / spread) ** 4).mean()) - 3
    limit = max(SHAPE_FLOOR, STANDARD_ERRORS * math.sqrt(24 / shared.m))
    text += f" (taken for Gaussian; excess kurtosis {kurtosis:+.3f})"
    return (judged("bias", abs(kurtosis), limit, text),)


def _count(
    shared: SharedGradient,
    B: int,
    activation: Activation,
    norms: Sequence[float],
    scale: float | None,
    seed: int,
) -> Finding:
    """How many eigenvalues of the residualized second moment stand above the edge of its noise.

    Where mu_2 = 0 those of the third moment contracted with the gradient's linear part. That one may be orthogonal to a
    feature, so fewer than B are no finding there (with fewer than told the attack has no result).
    """
    net, observation, _ = _problem(shared, B, activation, norms, scale)
    try:
        odd = moment_orders(net.activation)[0] == 1
    except ValueError as error:  # the attack says so too
        return Finding("count", "warning", f"features are not counted: {error}")
    gradient = observation.gradient.to(net.dtype)
    mean, slope = first_moment(net, gradient)
    response = Response(gradient, mean.to(net.dtype), slope)
    width = min(net.d, B + 6)
    start = normal((net.d, width), seed, "count", device="cpu", dtype=torch.float64)
    vector = slope / torch.linalg.vector_norm(slope)

    def moment(V: torch.Tensor) -> torch.Tensor:
        return apply_contracted(net, response, vector, V) if odd else apply_second_moment(net, response, V)

    # A loose tolerance: outliers converge in a few passes, and the bulk's values are approached from below.
    found = dominant_span(moment, start, width, 0.1, max_passes=8)
    if odd:
        edge = contraction_edge(net, response, vector, 0)
    else:
        power = sum(
            float((response.of(rows, W @ slope.to(net.dtype)).double() ** 2).sum())
            for rows, W in net.blocks()
        )
        edge = noise_edge(power / net.m, net.d, net.m)
    sizes = found.eigenvalues.abs()
    above = int((sizes > edge).sum())
    several = "at least " if above == width or (odd and above < B) else ""
    source = "third moment, contracted," if odd else "second moment"
    text = (
        f"{several}{above} eigenvalues of the {source} stand above the noise ({edge:.3g}): estimated B = {above}, "
        f"told {B}; sizes {', '.join(f'{v:.3g}' for v in sizes[: B + 2].tolist())}"
    )
    agrees = above <= B if odd else above == B
    return Finding("count", "ok" if agrees else "warning", text, float(above), float(B))
