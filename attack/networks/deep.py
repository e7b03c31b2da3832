"""Deep networks whose first layers a curious server has chosen ([W23], Algorithm 2 and Corollary 5.2).

The server sets the first layers so that they carry the input through, ``x -> (s(x), s(-x))`` with s the activation applied
k times, and gives the last hidden layer the weights ``[Z, -Z]``: its neurons then see ``Z (s(x) - s(-x))``. Where
``s(t) - s(-t) = c t`` they see ``c Z x``, as if the network had two layers. The factor c depends on activation and k: 1 for
ReLU, ``1 + slope^k`` for leaky ReLU (not the 1.01 of the paper, which is that of slope 0.01 and k = 1), and 1 for GELU,
SiLU and softplus with k = 1, whose odd part is t/2; deeper these three carry nothing exactly, nor do ELU, tanh or sigmoid
at any depth.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from attack.arrays import require_dense
from attack.client import LAYERS, Client, Mask
from attack.networks.activation import apply_activation, differentiable, require_derivative
from attack.networks.autograd_client import AutogradClient
from attack.networks.inputs import checked_features, checked_labels
from attack.networks.two_layer import TwoLayerNet
from attack.stream import gathered
from attack.streams import normal
from bounds import Activation, checks

#: ``s(t) - s(-t)`` may leave a straight line by this much, relative to its size.
STRAIGHT = 1e-9


def carry_factor(activation: Activation, layers: int) -> float:
    """The c with ``s(t) - s(-t) = c t`` for s = activation applied ``layers`` times; 1 for no layer.

    Raises ``ValueError`` where there is none: then layers of this activation do not carry their input through.
    """
    checks.integer("layers", layers, 0)
    if layers == 0:
        return 1.0
    t = np.geomspace(0.05, 20.0, 64)
    plus, minus = t, -t
    with np.errstate(all="ignore"):
        for _ in range(layers):
            plus, minus = activation(plus), activation(minus)
        factors = (plus - minus) / t
    factor = float(np.median(factors))
    straight = abs(factor) > STRAIGHT and bool(np.all(np.abs(factors - factor) <= STRAIGHT * abs(factor)))
    if not straight:
        raise ValueError(
            f"activation must satisfy s(t) - s(-t) = c t after {layers} layers (relu and leaky relus at any depth, gelu, "
            f"silu and softplus at depth 1); got {activation.name!r}, where (s(t) - s(-t))/t goes from "
            f"{np.min(factors):.4g} to {np.max(factors):.4g}"
        )
    return factor


@dataclass(frozen=True, eq=False)
class DeepNet:
    """``f(x) = a . sigma(W_l sigma(W_{l-1} ... sigma(W_1 x)))``, the network that the client runs.

    hidden: W_1 (n_1, d), ..., W_l (m, n_{l-1}), of one float type; output: a (m,). Make one with ``carrying``, or with
    ``standard`` for ordinary first layers. Raises ``ValueError`` or ``TypeError`` if shapes or types do not fit one another
    and for weights that are not finite.
    """

    hidden: tuple[torch.Tensor, ...]
    output: torch.Tensor
    activation: Activation

    def __post_init__(self) -> None:
        if not self.hidden:
            raise ValueError("hidden must hold at least one layer; got none")
        for weights in (*self.hidden, self.output):
            checks.instance("weights", weights, torch.Tensor)
            require_dense("weights", weights)
            if weights.dtype not in (torch.float32, torch.float64) or weights.dtype != self.output.dtype:
                raise ValueError(
                    f"weights must all be float32 or all float64; got {weights.dtype} and {self.output.dtype} (output)"
                )
            if not torch.isfinite(weights).all():
                raise ValueError("weights must be finite; got values that are not")
        shapes = [tuple(W.shape) for W in self.hidden]
        chained = all(len(s) == 2 for s in shapes) and all(
            after[1] == before[0] for before, after in itertools.pairwise(shapes)
        )
        if not chained or tuple(self.output.shape) != (shapes[-1][0],):
            raise ValueError(
                f"hidden must be matrices (n, d), ..., (m, n') that follow one another and output (m,); "
                f"got {shapes} and {tuple(self.output.shape)}"
            )

    @staticmethod
    def carrying(
        net: TwoLayerNet, layers: int, width: int | None = None, factor: float | None = None
    ) -> DeepNet:
        """The server's network: ``layers`` layers that carry the input through, then ``net`` on what arrives.

        The first layer is [I; -I], the further ones the identity, the last hidden layer [W, -W]/c with W those of
        ``net`` and c the carry factor, so that its neurons see W x; 0 layers give ``net`` itself. width: of the carry
        layers, at least 2d (the default), the rest filled with zeros. factor: what to divide by instead of c (a wrong
        one scales the features by c / factor). Raises ``ValueError`` for an activation that does not carry.
        """
        checks.instance("net", net, TwoLayerNet)
        right = carry_factor(net.activation, layers)
        c = right if factor is None else checks.real("factor", factor, 1e-6, 1e6)
        n = 2 * net.d if width is None else checks.integer("width", width, 2 * net.d, why="2 d")
        W = _all_weights(net)
        output = torch.full((net.m,), 1 / net.m, dtype=net.dtype, device=net.device)
        if layers == 0:
            return DeepNet((W / c,), output, net.activation)
        eye = torch.eye(net.d, dtype=net.dtype, device=net.device)
        first = torch.zeros(n, net.d, dtype=net.dtype, device=net.device)
        first[: net.d], first[net.d : 2 * net.d] = eye, -eye
        same = torch.zeros(n, n, dtype=net.dtype, device=net.device)
        same[: 2 * net.d, : 2 * net.d].fill_diagonal_(1.0)
        last = torch.zeros(net.m, n, dtype=net.dtype, device=net.device)
        last[:, : net.d], last[:, net.d : 2 * net.d] = W / c, -W / c
        return DeepNet((first, *(same,) * (layers - 1), last), output, net.activation)

    @staticmethod
    def standard(net: TwoLayerNet, layers: int, seed: int = 0) -> DeepNet:
        """``net`` behind ``layers`` square layers of independent N(0, 2/d) weights drawn from ``seed``: a network as
        anyone would start it, for comparison."""
        checks.instance("net", net, TwoLayerNet)
        checks.integer("layers", layers, 0)
        first = tuple(
            (2 / net.d) ** 0.5
            * normal((net.d, net.d), seed, "first layers", k, device=net.device, dtype=net.dtype)
            for k in range(layers)
        )
        output = torch.full((net.m,), 1 / net.m, dtype=net.dtype, device=net.device)
        return DeepNet((*first, _all_weights(net)), output, net.activation)

    @property
    def d(self) -> int:
        """Input dimension."""
        return int(self.hidden[0].shape[1])

    @property
    def m(self) -> int:
        """Width of the last hidden layer."""
        return int(self.output.shape[0])

    def representation(self, X: Any) -> torch.Tensor:
        """What the last hidden layer receives of the features ``X`` (B, d): (B, n). ``ValueError`` or ``TypeError`` on bad
        ones."""
        h = checked_features(X, self.d, self.m).to(self.output)
        for W in self.hidden[:-1]:
            h = apply_activation(self.activation, h @ W.T)
        return h

    def forward(self, X: Any) -> torch.Tensor:
        """``f(x_i)`` through all layers, shape (B,)."""
        return apply_activation(self.activation, self.representation(X) @ self.hidden[-1].T) @ self.output

    def output_gradient(self, X: Any, y: Any) -> torch.Tensor:
        """The gradient of ``1/2 sum_i (f(x_i) - y_i)^2`` with respect to the output weights: (m,)."""
        return self.client(X, y).gradient()

    def last_hidden_gradient(self, X: Any, y: Any) -> torch.Tensor:
        """The gradient of the same loss with respect to the last hidden layer's weights: (m, n).

        Raises ``ValueError`` for an activation without a derivative.
        """
        return self.client(X, y, "hidden").gradient()

    def client(self, X: Any, y: Any, layer: str = "output") -> Client:
        """The client with features ``X`` (B, d) and labels ``y`` (B,) whose gradient is that of ``layer``: "output", (m,),
        or "hidden", that of the last hidden layer's weights, (m, n). By autograd; local steps move every layer.

        Raises ``ValueError`` or ``TypeError`` on bad input, and for an activation without the derivative that the hidden
        layer's gradient needs (local steps need it too, and say so when they are taken).
        """
        checks.choice("layer", layer, LAYERS)
        if layer == "hidden":
            require_derivative(self.activation)
        features = checked_features(X, self.d, self.m).to(self.output)
        labels = checked_labels(y, len(features)).to(self.output.device)
        last = len(self.hidden)
        seen, key = ((last,), ()) if layer == "output" else ((last - 1,), (1,))
        return AutogradClient(
            self._losses, (*self.hidden, self.output), seen, features, labels, units=self.m, key=key
        )

    def _losses(
        self, parameters: tuple[torch.Tensor, ...], X: torch.Tensor, y: torch.Tensor, mask: Mask | None
    ) -> torch.Tensor:
        """``1/2 (f(x_i) - y_i)^2`` of each sample, for these weights and what dropout leaves of the last hidden layer."""
        *hidden, output = parameters
        h = X
        for W in hidden:
            h = differentiable(self.activation, h @ W.T)
        units = h if mask is None else mask.on(h)
        return 0.5 * (units @ output - y.to(h)) ** 2

    def head(self) -> TwoLayerNet:
        """The last two layers as a network of their own, whose features are the ``representation``."""
        return TwoLayerNet.from_weights(self.hidden[-1], self.activation)

    def reduced(self) -> TwoLayerNet:
        """The two-layer network that gives the same outputs and output gradients, for the inputs themselves as features.

        Raises ``ValueError`` if the first layers do not carry the input through.
        """
        layers = len(self.hidden) - 1
        if layers == 0:
            return self.head()
        first, *middle = self.hidden[:-1]
        last, d = self.hidden[-1], self.d
        n = first.shape[0]
        eye = torch.eye(max(n, d), dtype=first.dtype, device=first.device)
        carries = n >= 2 * d and torch.equal(
            first, torch.cat([eye[:d, :d], -eye[:d, :d], 0 * eye[2 * d : n, :d]])
        )
        carries = carries and all(
            W.shape == (n, n) and torch.equal(W[: 2 * d], eye[: 2 * d, :n]) for W in middle
        )
        if not (carries and torch.equal(last[:, :d], -last[:, d : 2 * d]) and not last[:, 2 * d :].any()):
            raise ValueError(
                "hidden must be [I; -I], identities and [Z, -Z], as DeepNet.carrying makes them; got other layers"
            )
        return TwoLayerNet.from_weights(carry_factor(self.activation, layers) * last[:, :d], self.activation)


def _all_weights(net: TwoLayerNet) -> torch.Tensor:
    return net.weights if net.weights is not None else gathered(net, lambda rows, W: W)
