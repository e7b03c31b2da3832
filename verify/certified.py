"""What is certified of a user's own gradient: ``attack.certificate`` where its premises can be the gradient's."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bounds.defenses.gradient_noise import GradientNoise
from bounds.defenses.none import NoDefense
from bounds.errors import UnsupportedBound

if TYPE_CHECKING:
    from attack import Certificate, GradientAttack, OutputsAttack
    from attack.own.gradient import SharedGradient
    from attack.own.known import Known

DELTA = 0.05

#: The weights' standard deviation may be off 1 by this multiple of its standard error, output weights off 1/m by this share.
_SPREAD, _OUTPUT = 5.0, 1e-6


@dataclass(frozen=True)
class Certified:
    """The certificate, or None and why there is none."""

    certificate: Certificate | None
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        told = None if self.certificate is None else dataclasses.asdict(self.certificate)
        return {"certificate": told, "why": self.why}

    @property
    def text(self) -> str:
        """In one sentence, or two."""
        told = self.certificate
        if told is None:
            return f"nothing is certified: {self.why}"
        if not told.proved:
            return f"certified: no more than the norms say, R at most {told.value:.4g}; {told.why}"
        return (
            f"certified: R at most {told.value:.4g} with probability {1 - told.delta:g}; premises: "
            + "; ".join(told.premises)
        )


def certified(
    shared: SharedGradient,
    known: Known,
    attacked: GradientAttack | OutputsAttack,
    noise: float,
    delta: float = DELTA,
    seed: int = 2,
) -> Certified:
    """noise: standard deviation of the Gaussian noise on the entries, 0 for none, as the user knows it. Labels are taken to
    be at most 1 in absolute value."""
    from attack import certificate
    from attack.networks.two_layer import TwoLayerNet
    from attack.observation import Observation
    from attack.own.attack import GradientAttack
    from attack.reconstruction import Reconstruction

    why = _unfit(shared, known)
    if why or not isinstance(attacked, GradientAttack) or known.norms is None:
        return Certified(None, why or "several outputs")
    size = known.to_model
    defense = GradientNoise(noise * size) if noise else NoDefense()
    seen = Observation(size * shared.gradient.double(), known.B, tuple(sorted(known.norms)), defense)
    net = TwoLayerNet.from_weights(shared.weight, known.activation)
    residuals = attacked.residuals
    found = Reconstruction(attacked.features, residuals, residuals, attacked.standard.diagnostics)
    try:
        return Certified(certificate(seen, net, found, delta, seed=seed))
    except UnsupportedBound as reason:
        return Certified(None, str(reason))


def _unfit(shared: SharedGradient, known: Known) -> str:
    """Why the gradient is none that the certificate is proved for; empty where it may be."""
    off = abs(float(shared.weight.double().std()) - 1) * math.sqrt(2 * shared.weight.numel())
    biases = (shared.bias, shared.output_bias)
    output = shared.output_weight
    reasons = {
        "it is not dL/da of a network with one output": shared.gradient.ndim != 1 or shared.outputs > 1,
        "norms or a squared loss are not told": known.norms is None
        or known.loss is None
        or known.loss.classes,
        "there are biases": any(b is not None and bool(b.any()) for b in biases),
        "the weights' entries have not a standard deviation of 1": off > _SPREAD,
        "output weights are not 1/m": output is not None
        and bool(((output * shared.m - 1).abs() > _OUTPUT).any()),
    }
    return "; ".join(reason for reason, holds in reasons.items() if holds)
