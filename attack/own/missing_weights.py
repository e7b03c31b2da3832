"""Whether the rows of dL/dW carry output weights that were not given.

``G_j = a_j sum_i r_i sigma'(w_j.x_i + b_j) x_i``: neurons that see the features alike have rows that are alike, but for a_j.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree

from attack.own.findings import Finding
from attack.own.gradient import SharedGradient
from attack.own.known import Known

#: Neurons that are compared at most; pairs of parallel rows that are needed.
_NEURONS, _PAIRS = 20_000, 30

#: Rows are parallel below this sine of their angle; they vary beyond this relative difference, on average (for B = 1 to 8,
#: m = 1000 to 4000 and every built-in activation rows of the model differ by up to .31, with output weights of both signs by
#: .82 to 1.2). Compared are rows above a fraction of their root mean square, where noise is below a fraction of it.
_PARALLEL, _VARY, _LEAST, _NOISE = 0.1, 0.5, 0.3, 0.05


def missing_weights(shared: SharedGradient, known: Known) -> tuple[Finding, ...]:
    """An error where rows (m, d) that should be equal are parallel only, and no output weights were given.

    Compared are the nearest neurons, in the span of the features. Nothing is found where noise or too few neurons forbid
    the comparison.
    """
    if shared.output_weight is not None or shared.d <= known.B:
        return ()
    used = torch.nonzero(shared.gradient.any(dim=1)).ravel()[:_NEURONS]
    rows = shared.gradient[used].double()
    rows = rows / rows.abs().max()
    V = torch.linalg.svd(torch.linalg.qr(rows, mode="r")[1], full_matrices=False)[2][: known.B].T
    inside = rows @ V
    noise = torch.linalg.matrix_norm(rows - inside @ V.T) / torch.linalg.matrix_norm(rows)
    if len(used) < _PAIRS or not float(noise) < _NOISE:
        return ()
    pairs = _nearest(_seen(shared, known, used, V))
    one, other = inside.numpy(), inside.numpy()[pairs]
    sizes, others = np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1)
    there = np.minimum(sizes, others) > _LEAST * np.sqrt(np.mean(sizes**2))
    one, other, sizes, others = one[there], other[there], sizes[there], others[there]
    cosines = np.sum(one * other, axis=1) / (sizes * others)
    parallel = 1 - cosines**2 < _PARALLEL**2
    if parallel.sum() < _PAIRS:
        return ()
    apart = np.linalg.norm(one - other, axis=1) / np.maximum(sizes, others)
    differ = float(apart[parallel].mean())
    if differ <= _VARY:
        return ()
    text = (
        f"output_weight must be given with dL/dW: rows of neurons that see the features alike are parallel and differ by "
        f"{differ:.0%} on average, as they do where output weights vary, which they carry as factors (or where the weights "
        "are not those of the gradient); got None"
    )
    return (Finding("output weights", "error", text, differ, _VARY),)


def _seen(shared: SharedGradient, known: Known, used: torch.Tensor, V: torch.Tensor) -> np.ndarray:
    """What a neuron makes of features in the span: its coordinates there, and its bias."""
    seen = shared.weight[used].double() @ V
    if shared.bias is not None:
        seen = torch.cat([seen, shared.bias[used].double()[:, None] / max(known.posed_norms)], dim=1)
    size = float(seen.abs().max())
    return (seen / size if size else seen).numpy()


def _nearest(points: np.ndarray) -> np.ndarray:
    """For every point the index of the nearest other one."""
    found = cKDTree(points).query(points, k=2)[1]
    own = found[:, 0] == np.arange(len(points))
    return np.where(own, found[:, 1], found[:, 0])
