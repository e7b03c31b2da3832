"""Maximum likelihood over features and residuals of what the server sees, for every defense that says its density.

No start ever sees the features: they begin at random, in the plane of the second moment, or at the tensor attack's result,
until one explains what is seen as well as the density lets expect.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy
import torch

from attack.likelihood.entries import Fit, entries_of
from attack.likelihood.model import DENSE, Model, Place
from attack.likelihood.solve import Effort, minimised
from attack.likelihood.starts import has_plane, random_starts, spectral_starts
from attack.networks.two_layer import TwoLayerNet
from attack.observation import Observation
from attack.reconstruction import Diagnostics, Reconstruction, ReconstructionError
from attack.tensor.attack import tensor_attack
from attack.tensor.fit import LABEL_DOUBT, signs_by_fit
from attack.units import gradient_unit, shift
from bounds import LikelihoodAttack, checks
from bounds.density import Clamped, Erased, Plain, Signs, Thresholded
from bounds.estimator import EQUAL_NORMS

#: Standard deviations above its expectation up to which a misfit is what the density lets expect.
_CLEAR = 5.0

#: A share of the gradient's power that is rounding: digits of the type that are left to be so.
_ROUNDING = {torch.float64: 1e-22, torch.float32: 1e-9}

#: Neurons that are kept out of the fit where nothing but rounding is expected, and of how many one is.
_HELD, _ONE_OF = 16, 20

#: Steps from a start at most.
_STEPS = 100

#: What is added for weights that move, over its order of size (``Density.moves``).
_DRIFT = 10.0

#: Two ends are the same where their misfits agree to this fraction.
_ALIKE = 1e-3

#: Densities of which an entry tells the clean one itself, where there is no noise.
_VALUED = Plain | Erased | Thresholded | Clamped


def likelihood_attack(
    observation: Observation,
    net: TwoLayerNet,
    batch_size: int | None = None,
    attack: LikelihoodAttack | None = None,
    seed: int = 2,
) -> Reconstruction:
    """Reconstruct the features from one observed gradient with respect to the output weights, by maximum likelihood.

    W may be any known weights. Norms are the observation's; where they differ, they are assigned as by ``tensor_attack``
    (activations homogeneous of degree one: by labels in {-1, +1}), or by the fit itself. Residuals are free: clipping,
    local steps and DP-SGD change them and little else (local steps move W by O(1/m^2), which is left out). Diagnostics:
    ``misfit`` is the share of the gradient's power that is left, beside ``expected``; ``starts`` those made, ``agreeing``
    those that ended where the best one did; ``exact``: see ``attack.likelihood.exact``; ``error``: the R that the
    information at the end lets expect, where there is noise.

    Raises ``ValueError`` or ``TypeError`` on bad input, ``UnsupportedBound`` for a defense that does not say its density,
    ``ReconstructionError`` for a gradient that is zero.
    """
    checks.instance("observation", observation, Observation)
    checks.instance("net", net, TwoLayerNet)
    attack = LikelihoodAttack() if attack is None else attack
    checks.instance("attack", attack, LikelihoodAttack)
    B = observation.expected_batch(net, batch_size)
    posed = _Posed.of(observation, net, B)
    best, tries = _best(posed, attack, seed)
    return _result(posed, best, tries)


@dataclass(frozen=True, eq=False)
class _Posed:
    """The problem in units of the gradient's root mean square ``scale``; held (m,): neurons that are not fitted."""

    observation: Observation
    net: TwoLayerNet
    B: int
    gradient: torch.Tensor
    scale: float
    model: Model
    whole: Model
    held: torch.Tensor

    @staticmethod
    def of(observation: Observation, net: TwoLayerNet, B: int) -> _Posed:
        seen = observation.gradient.to(net.device)
        unit = gradient_unit(seen)
        scale = math.ldexp(float(shift(seen.double(), -unit).square().mean().sqrt()), unit)
        density = observation.defense.density()
        if scale == 0:
            reason = "the gradient is zero: it tells nothing of features"
            raise ReconstructionError(reason, Diagnostics("failed", (reason,)))
        everything = torch.ones(net.m, dtype=torch.float64, device=net.device)
        entries = entries_of(density, seen, scale, B, everything)
        held = _held(entries.values(), B * net.d, exact=density.sigma == 0 and isinstance(density, _VALUED))
        fitted = entries_of(density, seen, scale, B, everything - held.to(everything))
        radii = _radii(net, observation.norms)
        free = isinstance(density, Signs)
        return _Posed(
            observation,
            net,
            B,
            seen.double() / scale,
            scale,
            Model(net, fitted, radii, free),
            Model(net, entries, radii, free),
            held,
        )

    @property
    def unknowns(self) -> int:
        return self.B * (self.net.d + (self.model.radii is None))

    @property
    def power(self) -> float:
        return float(self.gradient.square().sum())

    @property
    def drift(self) -> float:
        """A sum of squares that weights of the first layer which move in local steps may leave."""
        moved = _DRIFT * self.observation.defense.density().moves / self.net.m**2
        return (moved * self.scale) ** 2 * self.power * self.B

    @property
    def rounding(self) -> float:
        """A sum of squares that is rounding."""
        digits = min(_ROUNDING[self.net.dtype], 1.0)
        coarser = _ROUNDING.get(self.observation.gradient.dtype, _ROUNDING[torch.float32])
        return max(digits, coarser) * self.power


def _held(values: torch.Tensor, unknowns: int, *, exact: bool) -> torch.Tensor:
    """The last neurons that carry a value, as many as are not needed: none where noise is expected."""
    count = int(values.sum())
    most = min(_HELD, count // _ONE_OF, count - unknowns - 1) if exact else 0
    held = torch.zeros_like(values)
    if most > 0:
        held[torch.nonzero(values).flatten()[-most:]] = True
    return held


def _radii(net: TwoLayerNet, norms: tuple[float, ...]) -> torch.Tensor | None:
    """The norms where they are equal; 1 where they can be taken into the residuals; None where the fit has to tell them."""
    public = torch.tensor(norms, dtype=torch.float64, device=net.device)
    if float(public.max() - public.min()) <= EQUAL_NORMS * float(public.max()):
        return public
    return torch.ones_like(public) if net.activation.homogeneous else None


@dataclass(frozen=True, eq=False)
class _Tries:
    """What the starts gave: places, best first, the share of the power that each leaves, and the best one's fit."""

    losses: tuple[float, ...]
    fit: Fit
    settled: bool


def _best(posed: _Posed, attack: LikelihoodAttack, seed: int) -> tuple[Place, _Tries]:
    rounding = posed.rounding
    effort = Effort(_STEPS, attack.precision, near=1e-10 * posed.power, rounding=0.01 * rounding)
    best: Place | None = None
    fit, losses, settled = Fit(math.inf, 0.0, 0.0), [], False
    for start in itertools.islice(_starts(posed, attack, seed, effort), attack.starts):
        place = minimised(posed.model, start, effort).place
        losses.append(place.loss)
        if best is None or place.loss < best.loss:
            best, fit = place, posed.model.entries.fit(place.parts, posed.unknowns)
        settled = fit.left <= fit.expected + _CLEAR * fit.spread + fit.allowed + rounding + posed.drift
        if settled:
            break
    if best is None:
        reason = f"no start: the attack's are {attack.start}"
        raise ReconstructionError(reason, Diagnostics("failed", (reason,), starts=0))
    return best, _Tries(tuple(losses), fit, settled)


def _starts(posed: _Posed, attack: LikelihoodAttack, seed: int, effort: Effort) -> Iterator[torch.Tensor]:
    net, B = posed.net, posed.B
    if attack.start == "tensor":
        yield tensor_attack(posed.observation, net, B, seed=seed).features
        return
    shows = has_plane(net) and net.d > B
    spectral = (
        spectral_starts(posed.model, posed.gradient, B, seed, effort)
        if attack.start != "random" and shows
        else iter(())
    )
    drawn = iter(()) if attack.start == "spectral" else random_starts(posed.model, B, seed)
    while True:
        given = [*itertools.islice(spectral, 1), *itertools.islice(drawn, 2)]
        if not given:
            return
        yield from given


def _result(posed: _Posed, best: Place, tries: _Tries) -> Reconstruction:
    net, power = posed.net, posed.power
    features, residuals, notes = _assigned(posed, best)
    sign_free = False
    if has_plane(net) is False:
        signs, sign_free = signs_by_fit(net, posed.gradient, features)
        features = signs[:, None] * features
        residuals = posed.model.at(features, best.blur).residuals
    residuals = posed.scale * residuals
    forward = net.forward(features)
    same = sum(loss <= best.loss + _ALIKE * abs(best.loss) + posed.rounding for loss in tries.losses)
    exact = _exact(posed, best) if tries.fit.spread == 0 and posed.drift == 0 else None
    warnings = notes + _warnings(posed, tries)
    diagnostics = Diagnostics(
        status="suspect" if warnings else "ok",
        warnings=warnings,
        misfit=tries.fit.left / power,
        expected=tries.fit.expected / power,
        agreeing=same,
        starts=len(tries.losses),
        sign_free=sign_free,
        exact=exact,
        error=_error(posed, best),
    )
    return Reconstruction(features, residuals, forward - residuals, diagnostics)


def _warnings(posed: _Posed, tries: _Tries) -> tuple[str, ...]:
    fit, power = tries.fit, posed.power
    told = (
        f"{fit.left / power:.3g} of the gradient's power is left where {fit.expected / power:.3g} is expected"
    )
    made = f"after {len(tries.losses)} start{'s' * (len(tries.losses) != 1)}"
    few = posed.model.entries.telling() <= posed.unknowns + posed.B
    checks_made = (
        (
            not tries.settled,
            f"{told}, {made}: no start found features that explain it, or the law is another one",
        ),
        (
            fit.left < fit.expected - _CLEAR * fit.spread - posed.rounding,
            f"only {told}: the noise is smaller than it is said to be",
        ),
        (
            few,
            f"no more entries that tell anything than the {posed.unknowns + posed.B} unknowns: they determine nothing",
        ),
    )
    return tuple(text for failed, text in checks_made if failed)


def _exact(posed: _Posed, best: Place) -> bool | None:
    """Whether entries that were not fitted are explained to rounding too; None where none were kept for that."""
    if not bool(posed.held.any()):
        return None
    left = posed.whole.entries.local(slice(None), best.parts, 0.0).loss
    return float(left[posed.held].sum()) <= posed.rounding and float(left.sum()) <= posed.rounding


def _error(posed: _Posed, best: Place) -> float | None:
    """Root mean square error of the features by the information at the end; None where there is no noise."""
    if best.blur or posed.observation.defense.density().sigma == 0:
        return None
    B, d = best.features.shape
    if best.features.numel() <= DENSE:
        values = torch.linalg.eigvalsh(best.matrix)
        values = values[values > 1e-12 * values[-1]]
        return math.sqrt(float((1 / values).sum()) / B)
    per = float(torch.linalg.pinv(best.mixing, hermitian=True).diagonal().sum())
    return math.sqrt((d - (posed.model.radii is not None)) * per / B)


def _assigned(posed: _Posed, best: Place) -> tuple[torch.Tensor, torch.Tensor, tuple[str, ...]]:
    """Features of the public norms, their residuals, and warnings."""
    norms = np.array(posed.observation.norms)
    if np.ptp(norms) <= EQUAL_NORMS * norms.max():
        return best.features, best.residuals, ()
    public = torch.tensor(norms).to(best.features)
    if posed.model.radii is None:
        sizes = torch.linalg.vector_norm(best.features, dim=1)
        order = scipy.optimize.linear_sum_assignment((sizes[:, None] - public).square().cpu().numpy())[1]
        model = Model(posed.net, posed.model.entries, public[order], posed.model.scale_free)
        effort = Effort(_STEPS, 1e-9, near=0.0, rounding=0.01 * posed.rounding)
        again = minimised(model, best.features, effort).place
        return again.features, again.residuals, ()
    outputs = posed.net.forward(best.features).cpu().numpy()
    strengths = posed.scale * best.residuals.cpu().numpy()
    doubt = np.abs(np.abs(outputs[:, None] * norms - strengths[:, None] / norms) - 1)
    rows, order = scipy.optimize.linear_sum_assignment(doubt)
    worst = float(doubt[rows, order].max())
    notes = (
        (f"norms assigned by labels that are up to {worst:.2f} away from +-1",) if worst > LABEL_DOUBT else ()
    )
    own = public[torch.from_numpy(order).to(public.device)]
    return best.features * own[:, None], best.residuals / own, notes
