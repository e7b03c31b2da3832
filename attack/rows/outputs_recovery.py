"""What a gradient of a network with several outputs gives: features, labels, and whether every entry is explained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from attack.rows.cross_entropy import norms_told, residuals_of
from attack.rows.outputs import Activity, OutputsGradient, recover_activity, sides
from bounds import checks
from bounds.estimator import EQUAL_NORMS
from bounds.losses import LOSSES, Loss

#: A gradient is explained where its worst row or column leaves less of the root mean square of all of them than rounding
#: does: sums in the entries' own precision add many roundings; those of half precision are computed in single and add few.
_EXPLAINED, _MANY, _FEW, _HALF = 1e-9, 300.0, 16.0, 1e-4

#: Seeds that are tried until a result is exact.
_ATTEMPTS = 3

#: Cross-entropy is the loss where what it makes of the outputs is off by less than this fraction.
_FITS = 1e-2

#: Where norms come from that neither patterns nor a loss tell.
UNKNOWN, TOLD, FROM_LOSS, FROM_GRADIENT = "unknown", "told", "loss", "gradient"


@dataclass(frozen=True, eq=False)
class Left:
    """Of one array of the gradient: share of its power that is not explained, and worst: the length of what is left of its
    worst row (of dL/dA: column), over the root mean square of all."""

    name: str
    share: float
    worst: float


@dataclass(frozen=True, eq=False)
class OutputsRecovery:
    """features (B, d), unit vectors where ``norms`` is "unknown"; norms: where those come from, "gradient", "loss" (the
    outputs that cross-entropy makes of them), "told" or "unknown"; residuals (B, C): f - y, or softmax(f) - e_y, of the loss
    that is known, else the derivatives r_i as they are in the gradient (times unknown norms).

    classes (B,): labels of cross-entropy; targets (B, C): of a squared loss; None without that loss. loss: which one, told
    or (``identified``) cross-entropy that explains every row of a gradient without a loss; None also where cross-entropy was
    told and does not fit; loss_tested: whether it is cross-entropy, and neither mean nor sum in its place would fit with
    other norms. left: for each array; with cross-entropy no number is free there but the features. limit: what ``worst``
    may be. active (m, B): on which neurons features are. method: "rows" (dL/dW) or "columns" (dL/dA); starts: how many its
    search took. error: R that rounding leaves.
    """

    features: np.ndarray
    norms: str
    residuals: np.ndarray
    classes: np.ndarray | None
    targets: np.ndarray | None
    loss: Loss | None
    identified: bool
    loss_tested: bool
    left: tuple[Left, ...]
    limit: float
    active: np.ndarray
    method: str
    starts: int
    error: float

    @property
    def exact(self) -> bool:
        """Whether every row that was given is explained to rounding: by features that are active exactly where it shows
        them, many more equations than unknowns (bounds/proofs/exact-recovery.md)."""
        return bool(self.left) and all(one.worst <= self.limit for one in self.left)

    @property
    def unexplained(self) -> float:
        """The largest share."""
        return max((one.share for one in self.left), default=1.0)


def recover_outputs(
    given: OutputsGradient,
    batch_size: int,
    loss: Loss | None = None,
    norms: Sequence[float] | None = None,
    *,
    seed: int = 2,
    max_starts: int = 1_000,
) -> OutputsRecovery:
    """Features of a batch from dL/dW (with dL/db where biases are there) or dL/dA of a ReLU network with C outputs.

    Any weights, biases, and loss serve. From dL/dW any B up to d (d + 1 with dL/db), from dL/dA at most as many as its rank
    holds: C, C - 1 for cross-entropy. Norms come with the features where dL/db, or biases with dL/dA, tell them; else from
    cross-entropy, which knows its own outputs; else equal ones that are told. Raises ``ValueError`` on bad input,
    ``ReconstructionError`` where there is no result; one that does not explain every row is returned, and not ``exact``.
    """
    B = checks.integer("batch_size", batch_size, 1)
    found = []
    for attempt in range(_ATTEMPTS):  # a wrong direction is seen by what it leaves
        activity = recover_activity(given, B, seed=seed + attempt, max_starts=max_starts)
        found.append(_recovered(given, activity, loss, norms))
        if found[-1].exact:
            break
    return min(found, key=lambda one: one.unexplained)


def _recovered(
    given: OutputsGradient, found: Activity, loss: Loss | None, norms: Sequence[float] | None
) -> OutputsRecovery:
    B = len(found.features)
    # of one sample the mean is the sum
    entropies = {one.to_model(B): one for one in reversed(list(LOSSES.values())) if one.classes}
    results = [_with_loss(given, found, one, norms) for one in entropies.values()]
    fits = [one for one in results if one.loss is not None and one.exact]
    if loss is None and len(fits) == 1:
        return replace(fits[0], identified=True, loss_tested=True)
    result = _with_loss(given, found, loss, norms)
    return replace(
        result,
        loss_tested=result.exact and result.loss is not None and result.loss.classes and len(fits) == 1,
    )


def _with_loss(
    given: OutputsGradient, found: Activity, loss: Loss | None, norms: Sequence[float] | None
) -> OutputsRecovery:
    """The result where this is the loss; of cross-entropy that does not fit ``loss`` is None."""
    B = len(found.features)
    unit = 1.0 if loss is None else 1 / loss.to_model(B, given.outputs)
    factor, source = _norms(given, found, loss, unit, norms)
    features, derivatives = found.features * factor[:, None], found.strengths / factor[:, None]
    classes = targets = None
    used = derivatives
    if loss is not None and source != UNKNOWN:
        outputs = given.forward(features)
        if loss.classes:
            classes = derivatives.argmin(axis=1)
            used = unit * residuals_of(outputs, classes)
        else:
            targets = outputs - derivatives / unit
    active = found.active if source == UNKNOWN else sides(given, features, 0.0)[0]
    off = float(np.abs(used - derivatives).max() / np.abs(derivatives).max())
    refuted = loss is not None and loss.classes and (source == UNKNOWN or off > _FITS)
    return OutputsRecovery(
        features,
        source,
        derivatives / unit if source != UNKNOWN else derivatives,
        None if refuted else classes,
        targets,
        None if refuted else loss,
        False,
        False,
        left(given, features, derivatives if refuted else used, active, sized=source != UNKNOWN),
        _limit(given.rounding),
        active,
        found.method,
        found.starts,
        found.error * (1.0 if found.sized else float(np.sqrt(np.mean(factor**2)))),
    )


def _limit(rounding: float) -> float:
    """What may be left of a row whose entries are known to this fraction."""
    return max(_EXPLAINED, min(_MANY * rounding, max(_FEW * rounding, _HALF)))


def _norms(
    given: OutputsGradient, found: Activity, loss: Loss | None, unit: float, norms: Sequence[float] | None
) -> tuple[np.ndarray, str]:
    """What found features are multiplied with, and where it comes from."""
    ones = np.ones(len(found.features))
    if found.sized:
        return ones, FROM_GRADIENT
    if loss is not None and loss.classes:
        seen = norms_told(given.forward, found.features, found.strengths, factor=unit)
        if seen.off.max() <= _FITS:
            return seen.norms, FROM_LOSS
    if norms is not None and max(norms) - min(norms) <= EQUAL_NORMS * max(norms):
        return ones * norms[0], TOLD
    return ones, UNKNOWN


def left(
    given: OutputsGradient, features: np.ndarray, derivatives: np.ndarray, active: np.ndarray, *, sized: bool
) -> tuple[Left, ...]:
    """What features (B, d) and r_i (B, C) leave of each array that was given; of unit vectors only of those that do not
    depend on norms."""
    weights = active * (given.output_weight.T @ derivatives.T)
    hidden = active * (given.weight @ features.T + (given.bias[:, None] if sized else 0.0))
    scale_free = sized or not given.bias.any()
    made = {
        "weight_gradient": (given.weight_gradient, lambda: weights @ features, True),
        "bias_gradient": (given.bias_gradient, lambda: weights.sum(axis=1)[:, None], sized),
        "output_gradient": (given.output_gradient, lambda: hidden @ derivatives, scale_free),
        "output_bias_gradient": (given.output_bias_gradient, lambda: derivatives.sum(axis=0)[:, None], sized),
    }
    found = []
    for name, (seen, make, told) in made.items():
        if seen is not None and told:
            rows = seen.T if name == "output_gradient" else seen.reshape(len(seen), -1)
            found.append(_left(name, rows, make()))
    return tuple(found)


def _left(name: str, rows: np.ndarray, made: np.ndarray) -> Left:
    powers, power = np.square(rows - made).sum(axis=1), float(np.square(rows).sum())
    if not power:
        return Left(name, 0.0 if not powers.any() else math.inf, 0.0 if not powers.any() else math.inf)
    return Left(name, float(powers.sum()) / power, math.sqrt(float(powers.max()) * len(rows) / power))
