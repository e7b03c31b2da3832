"""What a server does about it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy

from bounds import Activation, NoDefense, Setting, TensorAttack, evaluate
from bounds.estimator import moment_orders
from verify.studies.worlds import CONSTANT, Array, Case, D, World, build

if TYPE_CHECKING:
    from attack import Observation, Reconstruction, TwoLayerNet

# --- servers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Public:
    """What the server has: its network, the gradient, the norms it believes in."""

    weights: Array
    bias: Array
    output: Array
    activation: Activation
    gradient: Array
    norms: tuple[float, ...]
    seed: int

    def network(self, weights: Array | None = None, activation: Activation | None = None) -> TwoLayerNet:
        import torch

        from attack import TwoLayerNet

        W = torch.from_numpy(self.weights if weights is None else weights)
        return TwoLayerNet.from_weights(W, self.activation if activation is None else activation)

    def observation(self) -> Observation:
        import torch

        from attack import Observation

        return Observation(torch.from_numpy(self.gradient), len(self.norms), self.norms, NoDefense())


@dataclass(frozen=True, eq=False)
class Found:
    """features (B, d); residuals (B,) or None; the setting whose PREDICTED, divided by ``scale``, speaks about it."""

    features: Array
    residuals: Array | None
    setting: Callable[[World], Setting] | None = None
    scale: float = 1.0


def _attack(net: TwoLayerNet, observation: Observation, seed: int) -> Reconstruction:
    from attack import Diagnostics, ReconstructionError, tensor_attack

    try:
        moment_orders(net.activation)
    except ValueError as error:  # a world may have an activation that the attack does not cover
        reason = str(error)
        raise ReconstructionError(reason, Diagnostics("failed", (reason,), 0.0, (), 0.0, 0)) from error
    return tensor_attack(observation, net, seed=seed)


def naive(public: Public) -> Found:
    """The attack as it is, and what theory promises where its assumptions hold."""
    found = _attack(public.network(), public.observation(), public.seed)
    return Found(found.features.numpy(), found.residuals.numpy(), _setting(1.0, 0.0, 0.0))


def known_scale(public: Public) -> Found:
    """The scale of the weights known (here measured: its relative error is 1/sqrt(2 m d))."""
    import torch

    from attack.own.coordinates import Coordinates

    return standardised(Coordinates.measured(torch.from_numpy(public.weights)).scale)(public)


def standardised(scale: float = 1.0, mean: float = 0.0, bias: float = 0.0) -> Callable[[Public], Found]:
    """In coordinates where weights and biases of known distribution are standard Gaussian."""

    def server(public: Public) -> Found:
        import torch

        from attack.own.coordinates import Coordinates

        there = Coordinates(scale, mean, bias)
        net = there.network(public.network(), torch.from_numpy(public.bias))
        found = there.undo(_attack(net, there.observation(public.observation()), public.seed))
        return Found(found.features.numpy(), found.residuals.numpy(), _setting(scale, mean, bias), scale)

    return server


def whitened(public: Public) -> Found:
    """Weights made white by their own second moment M: ``w.x = (M^-1/2 w).(M^1/2 x)``. The norm of M^1/2 x is not public,
    which does not matter to a homogeneous activation; the known norm is put back at the end."""
    values, vectors = np.linalg.eigh(public.weights.T @ public.weights / len(public.weights))
    inverse_root = (vectors / np.sqrt(values)) @ vectors.T
    found = _attack(public.network(public.weights @ inverse_root), public.observation(), public.seed)
    X = found.features.numpy() @ inverse_root
    X *= np.array(public.norms)[:, None] / np.linalg.norm(X, axis=1, keepdims=True)
    return Found(X, found.residuals.numpy(), _setting(1.0, 0.0, 0.0))


def gaussian_map(public: Public) -> Found:
    """Each entry of uniform weights mapped to a Gaussian one of equal rank, for the moments."""
    u = public.weights * math.sqrt(D)
    return _mapped(public, scipy.special.ndtri(np.clip((u + 1) / 2, 1e-12, 1 - 1e-12)))


def diagonal_removed(public: Public) -> Found:
    """Uniform weights of known scale, less the first-order effect of their fourth cumulant kappa on the span.

    For spread features ``E[g (w_k^2 - 1)] = (1 + kappa/2)`` times what Stein's identity gives, so the second moment is
    ``sum_i r_i mu_2 (x_i x_i^T + kappa/2 diag(x_i^2))`` and x_i moves out of the span by
    ``(I - UU^T) kappa/2 diag(sum_l r_l x_l^2) A^-1 x_i`` with ``A = sum_l r_l x_l x_l^T``: evaluated at the
    reconstruction and subtracted.
    """
    found = known_scale(public)
    X, r = found.features, found.residuals
    assert r is not None
    kappa = -1.2
    inverse = np.linalg.pinv(X.T @ np.diag(r) @ X)
    moved = kappa / 2 * (X @ inverse) * (r @ X**2)
    basis = np.linalg.qr(X.T)[0]
    return Found(X - (moved - moved @ basis @ basis.T), r, found.setting, found.scale)


def _mapped(public: Public, phi: Array) -> Found:
    """The attack on phi(W) in place of W. For spread features ``w.x`` is, given ``phi(w).x``, Gaussian with correlation c:
    the ReLU of it has the mean ``c t Phi(c t/s) + s phi(c t/s)``, s^2 = 1 - c^2 (features of norm 1)."""
    w = public.weights / math.sqrt(np.mean(public.weights**2))
    c = float(np.mean(w * phi))
    s = math.sqrt(1 - c * c)

    def smooth(t: Array) -> Array:
        u = c * t / s
        return np.asarray(c * t * scipy.special.ndtr(u) + s * np.exp(-(u**2) / 2) / math.sqrt(2 * math.pi))

    found = _attack(
        public.network(phi, Activation("smoothed relu", smooth)), public.observation(), public.seed
    )
    return Found(found.features.numpy(), None)


def span_only(public: Public) -> Found:
    """An orthonormal basis of the span, from the second moment: all that z^2 gives."""
    import torch

    from attack.tensor.moments import Response, apply_second_moment, first_moment
    from attack.tensor.span import dominant_span

    net, gradient = public.network(), torch.from_numpy(public.gradient)
    mean, slope = first_moment(net, gradient)
    response = Response(gradient, mean, slope)
    start = torch.from_numpy(np.random.default_rng(public.seed).standard_normal((D, 4)))
    span = dominant_span(lambda V: apply_second_moment(net, response, V), start, len(public.norms))
    return Found(span.V.T.numpy(), None)


def _setting(scale: float, mean: float, bias: float) -> Callable[[World], Setting]:
    """The setting, in the coordinates of the server, with the residuals that this very network has."""

    def setting(world: World) -> Setting:
        from attack.own.coordinates import Coordinates

        there = Coordinates(scale, mean, bias)
        exact = there.setting(world.X, world.y, len(world.weights), world.activation)
        # rounded, so that the quadratures of equal settings are done once
        gram = np.round(exact.gram, 12)
        norms = np.sqrt(np.diag(gram))
        if np.ptp(norms) > 1e-9:  # labels must be +-1 there
            return Setting(exact.d, exact.m, gram, world.y, exact.activation)
        wide = np.array([exact.activation.coefficient(0, float(n)) for n in norms])
        return Setting(exact.d, exact.m, gram, wide - world.residuals, exact.activation)

    return setting


#: What a server can do. Each uses ``Public`` alone.
SERVERS: Mapping[str, Callable[[Public], Found]] = {
    "naive": naive,
    "known scale": known_scale,
    "Gaussian map": gaussian_map,
    "diagonal removed": diagonal_removed,
    "whitened": whitened,
    "norms taken for 1": naive,
    "norms known": naive,
    "bias as a coordinate": standardised(bias=1.0),
    "shifted activation": standardised(mean=CONSTANT),
    "span only": span_only,
}


def attacked(case: Case, seed: int) -> dict[str, float]:
    """One attack: ``rmse`` (R), ``direction`` (R of unit vectors), ``span`` (distance from it), the largest error of a
    label with f from output weights 1/m (``label``) and from the network's own (``own_label``), and ``predicted``; those
    that there are.

    Raises ``attack.ReconstructionError`` where the attack reports that it has no result or refuses the activation.
    """
    from attack import matched_error

    world = build(case.m, seed, **dict(case.world))
    norms = np.linalg.norm(world.X, axis=1)
    known = np.ones_like(norms) if case.server == "norms taken for 1" else norms
    public = Public(
        world.weights,
        world.bias,
        world.output,
        world.activation,
        world.gradient,
        tuple(known.tolist()),
        seed,
    )
    found = SERVERS[case.server](public)
    match = matched_error(world.X, found.features)
    if case.server == "span only":
        return {"span": match.span}
    unit = found.features / np.linalg.norm(found.features, axis=1, keepdims=True)
    result = {
        "rmse": match.rmse,
        "direction": matched_error(world.X / norms[:, None], unit).rmse,
        "span": match.span,
    }
    if found.residuals is not None:
        hidden = world.activation(found.features @ world.weights.T + world.bias)
        for name, forward in (("label", hidden.mean(axis=1)), ("own_label", hidden @ world.output)):
            labels = (forward - found.residuals)[list(match.permutation)]
            result[name] = float(np.max(np.abs(labels - world.y)))
    if found.setting is not None:
        predicted = predicted_error(found.setting(world))
        if predicted is not None:
            result["predicted"] = predicted / found.scale
    return result


def predicted_error(setting: Setting) -> float | None:
    """PREDICTED of the undefended, residualized attack; None where it is not stated."""
    return evaluate(NoDefense(), setting, TensorAttack()).predicted
