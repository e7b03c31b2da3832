"""What the spectral law expects of a span, had the attack found the truth: a check afterwards, where neurons are few."""

from __future__ import annotations

import math

import numpy as np

from attack.networks.two_layer import TwoLayerNet
from attack.observation import Observation
from attack.reconstruction import Reconstruction
from bounds import TensorAttack
from bounds.errors import UnsupportedBound
from bounds.estimator import moment_orders
from bounds.kinds.predicted.spectral.law import FoundSpan, found_span, weights
from bounds.kinds.predicted.spectral.sample import sample_of
from bounds.kinds.predicted.spectral.span import SMALLEST

#: With fewer neurons than this many times d what is found is held against the spectral law: the noise of the first moment
#: may look like a direction of the span there.
MANY_NEURONS = 8

#: Quasi-random neurons: 10 to 25 ms for one or two features.
_DRAWS = 2**13


def few_neurons(
    observation: Observation, net: TwoLayerNet, attack: TensorAttack, found: Reconstruction, clear: float
) -> str:
    """Why a result from few neurons is not to be trusted; empty where it is: by the spectral law the weakest direction of
    features and residuals as they were found is expected at less than ``clear`` times the edge of the noise, or there is no
    such law."""
    if net.m >= MANY_NEURONS * net.d:
        return ""
    few = f"m = {net.m} neurons are fewer than {MANY_NEURONS} d = {MANY_NEURONS * net.d}"
    span = expected(observation, net, attack, found)
    if span is None:
        return f"{few}, and no spectral law says whether they suffice"
    if span.gap >= clear:
        return ""
    error = math.sqrt(float(np.mean(np.square(observation.norms) * span.turned)))
    return (
        f"{few}: by the spectral law of what was found the weakest direction is {span.gap:.2f} times the edge of the noise, "
        f"and features are off by about {error:.2g}"
    )


def expected(
    observation: Observation, net: TwoLayerNet, attack: TensorAttack, found: Reconstruction
) -> FoundSpan | None:
    """The span that the attack would find of the features and residuals in ``found``; None where no law says so: odd
    activations, preprocessed entries, fewer than ``SMALLEST`` directions outside the span, a defense without a density."""
    outside = net.d - observation.batch_size
    if attack.preprocessing != "none" or moment_orders(net.activation)[0] == 1 or outside < SMALLEST:
        return None
    X = found.features.double().cpu().numpy()
    inside = np.linalg.qr(X.T)[1].T  # the features in coordinates of their span
    try:
        seen = sample_of(
            observation.defense.density(),
            found.residuals.double().cpu().numpy(),
            inside,
            net.activation,
            _DRAWS,
        )
    except UnsupportedBound:
        return None
    m = net.m // 2 if attack.same_neuron == "split" else net.m
    of = weights(seen, seen.seen, attack.residualized, outside, m)
    return found_span(of, inside / np.linalg.norm(inside, axis=1, keepdims=True), m)
