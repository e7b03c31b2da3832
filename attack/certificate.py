"""A certificate: how far a reconstruction may be from the truth, from what the server has.

The neurons are split. An attack of the certificate's own sees one part only; what its result, the *reference*, leaves of the
other part bounds its distance from the truth (bounds/proofs/certificate.md). Any reconstruction, whatever made it and
whichever neurons it used, is then as far from the truth as from the reference, and the reference's own distance more.

The entries that the reference is found from hold the residuals, B numbers that the held-out neurons move too. Noise in these
entries hides them: that of the defense, or else what the certificate adds (step 1 of the proof).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch

from attack.metrics import matched_rmse
from attack.networks.activation import apply_activation, apply_derivative
from attack.networks.two_layer import TwoLayerNet
from attack.observation import Observation
from attack.reconstruction import Reconstruction, ReconstructionError, reconstruct
from attack.stream import chosen, total
from attack.streams import normal
from bounds import LikelihoodAttack, checks
from bounds.defenses.gradient_noise import GradientNoise
from bounds.defenses.none import NoDefense
from bounds.defenses.secure_aggregation import SecureAggregation
from bounds.errors import UnsupportedBound
from bounds.estimator import AttackSpec
from bounds.kinds.certificate.held_out import HeldOut, held_out_bound
from bounds.kinds.certificate.least_squares import LARGEST, Normal

#: Defenses that leave the residuals as they are and add nothing but Gaussian noise of a known size.
DEFENSES = (NoDefense, GradientNoise, SecureAggregation)

#: Norms that differ by less than this part of the largest are one and the same up to rounding.
_EQUAL = 1e-12

#: The share of the neurons that is held out, without noise and with.
_HELD, _HELD_NOISY = 0.95, 0.75

#: Noise that the certificate itself adds to the reference's entries where there is less, over their size.
_BLUR = 4e-3


@dataclass(frozen=True)
class Certificate:
    """value: R of the reconstruction, at most, with probability ``1 - delta`` over weights and noise, whatever the attack.

    method: ``"held-out"``, or ``"norms"`` where no more is certified than what the public norms say; why: for what reason.
    near: a smaller value, supposed that every feature's angle to the reference's has a sine of at most ``within``, which is
    not proved; None where there is none. apart: R between the reconstruction and the reference; reference: R of the
    reference, at most (None by norms), before a step of least squares on the held-out neurons; distance: root mean square
    of what the reference misses of the gradient's function, at most. held: neurons that the reference does not know of.
    premises: what the certificate rests on.
    """

    value: float
    delta: float
    method: str
    why: str
    premises: tuple[str, ...]
    near: float | None = None
    within: float | None = None
    apart: float | None = None
    reference: float | None = None
    distance: float | None = None
    held: int = 0

    @property
    def proved(self) -> bool:
        """Whether it says more than public norms do."""
        return self.method == "held-out"


def certificate(
    observation: Observation,
    net: TwoLayerNet,
    reconstruction: Reconstruction,
    delta: float = 0.05,
    *,
    held: float | None = None,
    largest_label: float = 1.0,
    attack: AttackSpec | None = None,
    seed: int = 2,
) -> Certificate:
    """With probability at least ``1 - delta`` the reconstruction's R is at most ``.value`` on the ``.premises``
    (bounds/proofs/certificate.md). It is of one call: the best of several needs ``delta`` split among them.

    held: the share of the neurons, the last ones, that the certificate's own ``attack`` (``LikelihoodAttack()`` unless
    given) does not see; 0.95 without noise, 0.75 with noise unless given. largest_label: in absolute value. The
    reconstruction may have used all neurons. seed: of the attack, and of the noise that is added to its entries, whose
    stream (``attack.streams``, "certificate") an ``attack`` of one's own must not draw from. Raises ``ValueError`` or
    ``TypeError`` on bad input, ``bounds.UnsupportedBound`` for a defense that does more than add Gaussian noise, and for
    unequal norms; where no more is proved than norms say, ``.why`` says the reason.
    """
    checks.instance("observation", observation, Observation)
    checks.instance("net", net, TwoLayerNet)
    checks.instance("reconstruction", reconstruction, Reconstruction)
    checks.inside("delta", delta)
    checks.real("largest_label", largest_label, 0.0)
    B = observation.expected_batch(net, len(reconstruction.features))
    if type(observation.defense) not in DEFENSES:  # one that is derived may do more
        raise UnsupportedBound(
            f"not proved under {observation.defense!r}: it does more than add Gaussian noise"
        )
    norm = max(observation.norms)
    if norm - min(observation.norms) > _EQUAL * norm:
        raise UnsupportedBound("not proved for unequal norms")
    sigma = observation.defense.density().sigma
    share = checks.inside("held", (_HELD_NOISY if sigma else _HELD) if held is None else held)
    kept = net.m - math.ceil(share * net.m)
    given = reconstruction.features.double()
    by_norms = Certificate(
        math.sqrt(float(given.square().sum()) / B) + norm, delta, "norms", "", ("the norms are public",)
    )
    if kept <= B * (net.d + 1):
        return dataclasses.replace(
            by_norms, why=f"{kept} neurons for {B * (net.d + 1)} unknowns are left to an attack"
        )
    mask = torch.arange(net.m, device=net.device) < kept
    part = TwoLayerNet.from_weights(chosen(net, mask), net.activation)
    own = _own_noise(net, norm, largest_label, sigma)
    seen = _blurred(observation, kept, own, seed)
    try:
        reference = reconstruct(seen, part, B, LikelihoodAttack() if attack is None else attack, seed=seed)
    except ReconstructionError as failed:
        return dataclasses.replace(by_norms, why=f"no reference: {failed}")
    features = reference.features.double()
    features = norm * features / torch.linalg.vector_norm(features, dim=1, keepdim=True)
    left = _left(observation, net, features, reference.residuals, kept)
    residuals = reference.residuals.cpu().numpy()
    posed = HeldOut(
        features.cpu().numpy(),
        residuals,
        norm,
        net.activation,
        left,
        net.m - kept,
        net.m,
        blur=math.hypot(sigma, own),
        sigma=sigma,
        largest_label=largest_label,
        normal=_normal(observation, net, features, reference.residuals, kept),
    )
    try:
        bound = held_out_bound(posed, delta)
    except UnsupportedBound as reason:
        return dataclasses.replace(by_norms, why=str(reason))
    apart, error = matched_rmse(given, features), bound.error
    value = math.inf if error is None else apart + error
    if bound.corrected is not None:
        step = bound.corrected
        value = min(value, matched_rmse(given, torch.from_numpy(step.features)) + step.error)
    found = dataclasses.replace(
        by_norms,
        why=bound.why,
        near=None if bound.near is None else apart + bound.near,
        within=bound.within,
        apart=apart,
        distance=bound.distance,
        held=net.m - kept,
    )
    if value >= by_norms.value:
        return found
    premises = (
        "the weights are independent standard Gaussians, and the batch was chosen without regard to them",
        f"all features have norm {norm:g}, labels are at most {largest_label:g} in absolute value, B = {B}",
        f"the noise is Gaussian with standard deviation {sigma:g}" if sigma else "no noise in what is seen",
        "floating point, expectations by quadrature",
    )
    return dataclasses.replace(
        found, value=value, method="held-out", premises=premises, reference=bound.error
    )


def _own_noise(net: TwoLayerNet, norm: float, largest_label: float, sigma: float) -> float:
    """Standard deviation of what is added to the reference's entries, where these do not carry as much noise: a share of
    the size that public numbers give them, as their own would tell of the residuals."""
    size = norm * (largest_label + abs(net.activation.coefficient(0, norm)) or 1.0)
    return math.sqrt(max(0.0, (_BLUR * size) ** 2 - sigma**2))


def _blurred(observation: Observation, kept: int, own: float, seed: int) -> Observation:
    """What the reference is found from."""
    gradient = observation.gradient[:kept]
    if own == 0:
        return dataclasses.replace(observation, gradient=gradient)
    noise = normal((kept,), seed, "certificate", device=gradient.device, dtype=torch.float64)
    sigma = observation.defense.density().sigma
    return dataclasses.replace(
        observation,
        gradient=gradient.double() + own * noise,
        defense=GradientNoise(math.hypot(sigma, own)),
    )


def _normal(
    observation: Observation, net: TwoLayerNet, features: torch.Tensor, residuals: torch.Tensor, kept: int
) -> Normal | None:
    """The equations of a step of least squares over the neurons from ``kept`` on; None where there are too many."""
    B, d = features.shape
    if net.activation.derivative is None or B * d + B > LARGEST:
        return None
    seen = observation.gradient.to(net.device).double()
    guesses, sizes = features.to(net.device), residuals.to(net.device).double()
    norms = torch.linalg.vector_norm(guesses, dim=1)

    def kernel(rows: slice, W: torch.Tensor) -> torch.Tensor:
        held = slice(max(0, kept - rows.start), None)
        w = W[held].double()
        z = w @ guesses.T
        value = apply_activation(net.activation, z)
        left = seen[rows][held] - value @ sizes
        slopes = norms * apply_derivative(net.activation, z)
        columns = torch.cat([value, (slopes[:, :, None] * w[:, None, :]).flatten(1), left[:, None]], dim=1)
        return columns.T @ columns

    means = (total(net, kernel) / (net.m - kept)).cpu().numpy()
    return Normal(means[:-1, :-1], means[:-1, -1])


def _left(
    observation: Observation, net: TwoLayerNet, features: torch.Tensor, residuals: torch.Tensor, kept: int
) -> float:
    """Mean square, over the neurons from ``kept`` on, of what the features do not explain."""
    seen = observation.gradient.to(net.device).double()
    guesses, sizes = features.to(net.device), residuals.to(net.device).double()

    def kernel(rows: slice, W: torch.Tensor) -> torch.Tensor:
        predicted = apply_activation(net.activation, W.double() @ guesses.T) @ sizes
        return (seen[rows] - predicted)[max(0, kept - rows.start) :].square().sum()

    return float(total(net, kernel)) / (net.m - kept)
