"""Exact features of the attacked layer from its gradient: ReLU, every row explained (``attack.rows``)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from attack.image.head_gradient import HeadGradient, head_gradient, is_relu, parameter
from attack.image.masks import sample_masks
from attack.image.observed import CLIPPED, SUMS, ImageObservation
from attack.reconstruction import Diagnostics, failure
from attack.rows.outputs import OutputsGradient
from attack.rows.outputs_recovery import UNKNOWN, OutputsRecovery, recover_outputs
from bounds import Dropout, LocalAggregation
from bounds.losses import LOSSES

#: Defenses under which a gradient is a multiple of that of the loss, or the sum of several steps': no loss explains it.
_SCALED = (*CLIPPED, LocalAggregation)

#: Share of the units' values that features may leave unexplained: rounding over how far slopes are apart.
_LEFT = 1e-2

#: The loss of an ``ImageNetwork``, a sum over samples, by its name in ``bounds.losses``.
_LOSSES = {"cross-entropy": "cross-entropy-sum", "squared": "half-mse-sum"}


@dataclass(frozen=True, eq=False)
class ExactFeatures:
    """features (B, d_f), unit vectors unless ``sized``; classes (B,), None where the gradient does not tell them; error: R
    that rounding leaves, in the features' unit; exact: whether every row is explained to rounding."""

    features: np.ndarray
    sized: bool
    classes: np.ndarray | None
    error: float
    exact: bool
    diagnostics: Diagnostics


def exact_features(observation: ImageObservation, *, seed: int = 2, max_starts: int = 1_000) -> ExactFeatures:
    """The features of an observation, by the sparsity of ReLU's gradient: SPEAR's idea (Dimitrov et al. 2024) as
    ``attack.rows.outputs`` has it, with any weights, biases and number of outputs.

    Of a pruned gradient the rows that are known after completion are used, under dropout of one mask (for the batch, or of
    a batch of one) those that are left. Dropout of each sample for itself tells the samples' units
    (``attack.image.masks``), and features solve linear equations. Raises ``ReconstructionError`` where nothing explains the
    rows (noise, more features than dimensions, too few units left to a sample), ``ValueError`` where the hidden units are
    not ReLU of the attacked layer.
    """
    network, B = observation.network, observation.batch_size
    if not is_relu(network):
        raise ValueError(
            f"network must apply ReLU, and nothing else, between {network.attacked!r} and {network.output!r} for exact "
            f"features"
        )
    defense = observation.defense
    if isinstance(defense, Dropout) and defense.per_sample and defense.p > 0 and B > 1:
        return _of_masks(observation, defense.p)
    seen = head_gradient(observation)
    whole = seen.left is None and bool(seen.sure.all())
    if seen.left is not None and not seen.filled:
        raise failure(
            f"too few entries are left by pruning to determine rows of rank {B} (which leave {seen.left:.2g} of their power)"
        )
    known = whole and not isinstance(observation.defense, _SCALED)
    loss = LOSSES[_LOSSES[network.loss]] if known else None
    found = recover_outputs(_given(observation, seen, whole=whole), B, loss, seed=seed, max_starts=max_starts)
    if not found.exact:
        raise failure(f"the features found leave {found.unexplained:.2g} of the rows' power unexplained")
    return ExactFeatures(
        found.features,
        found.norms != UNKNOWN,
        _classes(observation, found),
        found.error,
        True,
        Diagnostics("ok", (), starts=found.starts, method=found.method, exact=True),
    )


def _of_masks(observation: ImageObservation, p: float) -> ExactFeatures:
    """From ``W z + b = (1 - p) a`` in the units that dropout has left to a sample, whose values a the output layer's
    gradient tells, as it does classes. The error is that of the worst sample, which R does not exceed."""
    network = observation.network
    W, b = (parameter(network, network.attacked_layer, kind) for kind in ("weight", "bias"))
    assert W is not None  # a linear layer has weights
    found = sample_masks(observation)
    if found is None:
        raise failure("the output layer's gradient does not show which sample has which units")
    features, errors = [], []
    for kept, values in zip(found.kept, found.values, strict=True):
        rows, wanted = W[kept], (1 - p) * values[kept] - (0.0 if b is None else b[kept])
        z, _, rank, spread = np.linalg.lstsq(rows, wanted, rcond=None)
        if rank < network.d:
            raise failure(f"dropout leaves a sample {len(rows)} units, too few for {network.d} features")
        left = float(np.linalg.norm(rows @ z - wanted))
        errors.append(max(left, found.rounding * float(np.abs(values).max())) / float(spread[-1]))
        if left > _LEFT * float(np.linalg.norm(wanted)):
            raise failure(f"the features found leave {left:.2g} of the hidden units unexplained")
        features.append(z)
    told = Diagnostics("ok", (), method="masks", exact=True)
    return ExactFeatures(np.stack(features), True, found.classes, max(errors), True, told)


def _given(observation: ImageObservation, seen: HeadGradient, *, whole: bool) -> OutputsGradient:
    network, on = observation.network, seen.sure
    W, b = (parameter(network, network.attacked_layer, kind) for kind in ("weight", "bias"))
    A, c = (parameter(network, network.output, kind) for kind in ("weight", "bias"))
    assert W is not None and A is not None  # linear layers have weights
    return OutputsGradient(
        W[on],
        np.zeros(int(on.sum())) if b is None else b[on],
        A[:, on],
        np.zeros(len(A)) if c is None else c,
        seen.weight[on],
        None if seen.bias is None else seen.bias[on],
        seen.output_weight if whole else None,
        seen.output_bias if whole else None,
        rounding=SUMS * float(torch.finfo(network.dtype).eps),
    )


def _classes(observation: ImageObservation, found: OutputsRecovery) -> np.ndarray | None:
    """Labels: the one output at which r_i is negative; of cross-entropy this is so whatever the norm is, of a squared loss
    only where outputs are smaller than a half."""
    if found.classes is not None:
        return found.classes
    if observation.network.loss == "cross-entropy":
        return np.asarray(found.residuals.argmin(axis=1))
    return None if found.targets is None else np.asarray(found.targets.argmax(axis=1))
