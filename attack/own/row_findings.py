"""What about the rows of a shared first-layer gradient does not fit the model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import scipy
import torch

from attack.own.coordinates import STANDARD_ERRORS
from attack.own.findings import Finding, judged
from attack.own.frame import Frame
from attack.own.gradient import SharedGradient
from attack.own.known import Known
from attack.own.missing_weights import missing_weights
from attack.own.precision import Precision
from attack.own.problem import carrying, negligible, no_bias_gradient, scaled_rows
from attack.own.rows import RANK_TOLERANCE
from attack.own.units import root_mean_square
from bounds import Activation
from bounds.words import how_many

#: Points of the average over Gaussian preactivations.
_POINTS = 4001


def row_findings(shared: SharedGradient, known: Known, frame: Frame) -> tuple[Finding, ...]:
    """Findings about the rows (m, d) and, where the biases vary, dL/db. Only errors where the attack cannot start."""
    keep, B = carrying(shared), known.B
    left = int(keep.sum())
    if left <= B:
        text = (
            f"{how_many(left, 'neuron')} with an output weight other than zero; more than B = {B} are needed"
        )
        return (Finding("output weights", "error", text, float(left), float(B)),)
    there = frame.posed
    if there.bias_scale and shared.bias_gradient is None:
        return (Finding("bias_gradient", "error", no_bias_gradient(frame)),)
    rows = scaled_rows(shared, frame)
    if not bool(rows[keep].any()):
        return (Finding("zero rows", "error", "the gradient is zero: no feature can have made it", 1.0, 0.0),)
    missing = missing_weights(shared, known)
    if missing:
        return missing
    found = (
        _zero_rows(rows[keep], known.activation, frame.norms(known), there.bias_mean),
        _rank(rows[keep], B, Precision.of(shared.gradient, shared.bias_gradient)),
    )
    return found if left == shared.m else (_dropped(rows, keep, negligible(shared)), *found)


def _dropped(rows: torch.Tensor, keep: torch.Tensor, limit: float) -> Finding:
    """Rows that are left out, and whether they are as small as their output weights."""
    left = int((~keep).sum())
    size, rest = (root_mean_square(rows[which]) for which in (keep, ~keep))
    text = (
        f"{left} output weights are zero or below {limit:.2g} of their root mean square: these rows are left out; "
        f"they are {rest / size:.2g} times as large as the others"
    )
    return judged("output weights", rest / size, 10 * limit, text)


def _zero_rows(rows: torch.Tensor, activation: Activation, norms: Sequence[float], shift: float) -> Finding:
    """Rows without an entry, against the share of neurons at which sigma' vanishes for the feature where that is least."""
    zeros = float((~rows.any(dim=1)).double().mean())
    flat = 0.0
    if activation.derivative is not None:
        z = scipy.special.ndtri((np.arange(_POINTS) + 0.5) / _POINTS)
        flat = min(float(np.mean(np.asarray(activation.derivative(n * z + shift)) == 0)) for n in norms)
    threshold = flat + STANDARD_ERRORS * math.sqrt(max(flat * (1 - flat), 1 / len(rows)) / len(rows))
    text = (
        f"{zeros:.1%} of the rows are exactly zero; expected at most {flat:.1%}: beyond, pruning or dropout"
    )
    return judged("zero rows", zeros, threshold, text)


def _rank(rows: torch.Tensor, B: int, precision: Precision) -> Finding:
    """Rank without noise other than rounding; with noise, how many squared singular values stand above its edge."""
    values = torch.linalg.svdvals(torch.linalg.qr(rows.double(), mode="r")[1])
    rounding = precision.rounding * float(torch.linalg.vector_norm(values))
    rank = int((values > max(RANK_TOLERANCE * float(values[0]), rounding)).sum())
    columns = rows.shape[1]
    if rank < columns or rank == B:
        text = f"dL/dW has numerical rank {rank} to the precision of {precision.name}: estimated B = {rank}, told {B}"
        return Finding("rank", "ok" if rank == B else "warning", text, float(rank), float(B))
    above = _above_noise(values.square(), rows.shape[0])
    text = f"dL/dW has full rank {rank}, so that noise is in it: {above} singular values stand above: estimated B = {above}"
    return Finding("rank", "ok" if above == B else "warning", f"{text}, told {B}", float(above), float(B))


def _above_noise(squares: torch.Tensor, m: int) -> int:
    """How many of the squared singular values, largest first, stand above the edge ``mean (1 + 2 sqrt(k/m) + k/m)`` that
    noise of the size of the others would show, and three standard errors of an entry."""
    n = len(squares)
    for k in range(n - 1):
        ratio = (n - k) / m
        edge = float(squares[k:].mean()) * (1 + 2 * math.sqrt(ratio) + ratio + 3 * math.sqrt(2 / m))
        if float(squares[k]) <= edge:
            return k
    return n - 1
