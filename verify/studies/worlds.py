"""Worlds in which an assumption of the tensor attack is broken."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from bounds import ACTIVATIONS, Activation, checks
from verify.studies.study import Condition

Array = NDArray[np.float64]


D, WIDTHS = 50, (40_000, 160_000)


#: The constant bias; +1 would make the residual of label 1 nearly vanish.
CONSTANT = -0.5


#: Training: mean-field rate over m, samples in a batch.
RATE, BATCH = 0.5, 10


@dataclass(frozen=True)
class Case:
    """world: keywords of ``build``; server: a name in ``SERVERS``; shown: the numbers that the figure shows.

    group: what is broken, in words; the conditions of a group differ in the server and in m.
    """

    group: str
    server: str
    m: int
    world: tuple[tuple[str, Any], ...] = ()
    shown: tuple[str, ...] = ("rmse",)

    @property
    def condition(self) -> Condition:
        """As the study names it; unique."""
        return {"broken": self.group, "server": self.server, "m": self.m}


@dataclass(frozen=True, eq=False)
class World:
    """W (m, d), bias (m,), output weights (m,) with f = sum_j output_j sigma(w_j.x + b_j), and the private X, y."""

    weights: Array
    bias: Array
    output: Array
    activation: Activation
    X: Array
    y: Array

    @cached_property
    def hidden(self) -> Array:
        return np.asarray(self.activation(self.X @ self.weights.T + self.bias))

    @cached_property
    def residuals(self) -> Array:
        return np.asarray(self.hidden @ self.output - self.y)

    @property
    def gradient(self) -> Array:
        """dL/d(output) for the loss 1/2 sum_i (f(x_i) - y_i)^2: it holds the output weights through f alone."""
        return np.asarray(self.residuals @ self.hidden)


# --- worlds -----------------------------------------------------------------------------------------------------------


def build(
    m: int,
    seed: int,
    activation: str = "relu",
    weights: str = "gaussian",
    output: str = "mean",
    bias: str = "none",
    features: str = "orthonormal",
    norms: tuple[float, ...] = (1.0, 1.0),
    steps: int = 0,
) -> World:
    """One draw. Streams are separated by purpose, so that equal seeds give equal weights whatever else differs.

    activation: a name of ``FUNCTIONS``. ``ValueError`` for any other.
    """
    from attack.streams import numpy_generator

    function = FUNCTIONS[checks.choice("activation", activation, tuple(FUNCTIONS))]
    generator = numpy_generator(seed, "weights")
    W = generator.standard_normal((m, D))
    if weights == "kaiming":
        W *= math.sqrt(2 / D)
    elif weights == "uniform":  # PyTorch's default for a linear layer
        W = (2 * scipy.special.ndtr(W) - 1) / math.sqrt(D)
    more = numpy_generator(seed, "noise")
    b = {
        "none": lambda: np.zeros(m),
        "gaussian": lambda: more.standard_normal(m),
        "constant": lambda: np.full(m, CONSTANT),
    }[bias]()
    a = np.full(m, 1 / m) if output == "mean" else more.standard_normal(m) / math.sqrt(m)
    X = _features(features, len(norms), numpy_generator(seed, "data")) * np.array(norms)[:, None]
    # E z^2 = 1: a label 1 would make the residual of z^2 vanish
    y = np.where((np.arange(len(norms)) % 2 == 0) & (function is not SQUARE), 1.0, -1.0)
    if steps:
        W, a = train(W, a, function, steps, numpy_generator(seed, "data", 1))
    return World(W, b, a, function, X, y)


def _features(kind: str, size: int, generator: np.random.Generator) -> Array:
    if kind == "axes":
        return np.eye(D)[:size]
    frame = np.linalg.qr(generator.standard_normal((D, size)))[0].T
    if kind == "dependent":
        frame[-1] = (frame[0] + frame[1]) / math.sqrt(2)
    if kind == "cosine .99":
        frame[1] = 0.99 * frame[0] + math.sqrt(1 - 0.99**2) * frame[1]
    return np.asarray(frame)


def train(
    W: Array, a: Array, activation: Activation, steps: int, generator: np.random.Generator
) -> tuple[Array, Array]:
    """Honest training: SGD on W and a with rate ``RATE m`` (so that every neuron moves by an amount of order one), on
    fresh batches of uniform unit vectors with labels sign(v.x), mean squared loss. (W, a) after ``steps`` steps."""
    m = len(a)
    assert activation.derivative is not None
    W, strength = W.astype(np.float32), (m * a).astype(np.float32)
    teacher = generator.standard_normal(D)
    for _ in range(steps):
        X = generator.standard_normal((BATCH, D))
        X = (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)
        inside = W @ X.T
        hidden = activation(inside).astype(np.float32)
        r = ((strength @ hidden) / m - np.sign(X @ teacher)).astype(np.float32) * np.float32(RATE / BATCH)
        W = W - ((activation.derivative(inside).astype(np.float32) * strength[:, None]) * r) @ X
        strength = strength - hidden @ r
    return W.astype(float), strength.astype(float) / m


#: z^2, which has no third or fourth Hermite coefficient.
SQUARE = Activation("z2", lambda t: t**2, lambda t: 2 * t)

#: The activations that a world may have, by name.
FUNCTIONS: Mapping[str, Activation] = {**ACTIVATIONS, SQUARE.name: SQUARE}
