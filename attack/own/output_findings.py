"""What about a shared gradient of the output weights, dL/da, does not fit the model."""

from __future__ import annotations

import math

import numpy as np
import torch

from attack.own.coordinates import STANDARD_ERRORS
from attack.own.findings import Finding, judged
from attack.own.frame import Frame
from attack.own.gradient import SharedGradient
from attack.own.known import Known
from attack.own.problem import output_problem
from attack.stream import total
from attack.streams import normal
from attack.tensor.contraction import apply_contracted, contraction_edge
from attack.tensor.moments import Response, apply_second_moment, first_moment, noise_edge
from attack.tensor.span import dominant_span
from attack.units import shift
from bounds.estimator import moment_orders

#: Entries that vary by less than this fraction of their size are one constant.
CONSTANT = 1e-9


def output_findings(shared: SharedGradient, known: Known, frame: Frame) -> tuple[Finding, ...]:
    """Findings about the entries (m,): constant, zero, or far larger than the model makes them."""
    g = shift(shared.gradient.double(), -frame.units.gradient)
    size, spread = float(g.square().mean().sqrt()), float(g.std(correction=0))
    if spread <= CONSTANT * size:  # also where every entry is zero
        text = f"the gradient is constant ({float(shared.gradient[0]):.3g}): no feature can have made it"
        relative = spread / size if size else 0.0
        return (Finding("constant", "error", text, relative, CONSTANT),)
    zeros = float((g == 0).double().mean())
    flat = bool(np.all(known.activation(np.array([-3.0, -1.0, -0.1])) == 0))
    allowed = (0.5 if flat else 0.0) + STANDARD_ERRORS / math.sqrt(len(g))
    why = "half, which one feature leaves" if flat else "none, as the activation has no flat part"
    text = f"{zeros:.1%} of the gradient's entries are exactly zero; expected at most {why}: beyond, pruning or dropout"
    largest, limit = float(g.abs().max()) / size, _largest_expected(len(g), known, frame)
    outliers = (
        f"the largest entry is {largest:.1f} times the root mean square; the model's stay below {limit:.1f}"
    )
    return judged("zeros", zeros, allowed, text), judged("outliers", largest, limit, outliers)


def _largest_expected(m: int, known: Known, frame: Frame) -> float:
    """The largest of m Gaussians is about sqrt(2 log m); what the activation makes of it, in units of its own size, times 3
    for features whose gradients cancel."""
    spread = frame.posed.scale * math.ldexp(max(known.posed_norms), -frame.units.norms)
    reach = spread * (math.sqrt(2 * math.log(m)) + 1)
    grid = np.linspace(-reach, reach, 2001)
    sizes = np.abs(known.activation(grid))
    typical = math.sqrt(float(np.average(sizes**2, weights=np.exp(-((grid / spread) ** 2) / 2))))
    return 3 * float(sizes.max()) / typical


def count_finding(shared: SharedGradient, known: Known, frame: Frame, *, seed: int) -> Finding:
    """How many eigenvalues of the residualized second moment stand above the edge of its noise.

    Where mu_2 = 0 those of the third moment contracted with the gradient's linear part. That one may be orthogonal to a
    feature, so fewer than B are no finding there (with fewer than told the attack has no result).
    """
    problem = output_problem(shared, known, frame)
    net, B = problem.net, known.B
    try:
        odd = moment_orders(net.activation)[0] == 1
    except ValueError as error:  # the attack says so too
        return Finding("count", "warning", f"features are not counted: {error}")
    gradient = problem.observation.gradient.to(net.dtype)
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
        along = slope.to(net.dtype)
        power = total(net, lambda rows, W: (response.of(rows, W @ along).double() ** 2).sum())
        edge = noise_edge(float(power) / net.m, net.d, net.m)
    sizes = found.eigenvalues.abs()
    above = int((sizes > edge).sum())
    several = "at least " if above == width or (odd and above < B) else ""
    source = "third moment, contracted," if odd else "second moment"
    shown = [f"{math.ldexp(v, frame.units.gradient):.3g}" for v in (edge, *sizes[: B + 2].tolist())]
    text = (
        f"{several}{above} eigenvalues of the {source} stand above the noise ({shown[0]}): estimated B = {above}, "
        f"told {B}; sizes {', '.join(shown[1:])}"
    )
    agrees = above <= B if odd else above == B
    return Finding("count", "ok" if agrees else "warning", text, float(above), float(B))
