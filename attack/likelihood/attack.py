"""Maximum likelihood over features and residuals of what the server sees, for every defense that says its density.

No start ever sees the features: they begin at random, in the plane of the second moment, or at the tensor attack's result,
until one explains what is seen as well as the density lets expect.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy
import torch

from attack.likelihood.alternatives import alternatives, told_apart
from attack.likelihood.entries import Fit
from attack.likelihood.judged import judged, shows
from attack.likelihood.model import Model, Place
from attack.likelihood.posed import Posed
from attack.likelihood.solve import minimised
from attack.likelihood.starts import mended, starts
from attack.networks.two_layer import TwoLayerNet
from attack.observation import Observation
from attack.reconstruction import Diagnostics, Reconstruction, ReconstructionError
from attack.tensor.attack import tensor_attack
from attack.tensor.fit import LABEL_DOUBT, signs_by_fit
from bounds import LikelihoodAttack, checks
from bounds.estimator import EQUAL_NORMS, moment_orders

#: Stages of blur, the last ones, from where a part of the entries led.
_LAST = 3

#: Two ends are the same where their misfits agree to this fraction.
_ALIKE = 1e-3


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
    local steps and DP-SGD change them and little else (local steps move W by O(1/m^2), which is left out). Where several
    sets of features explain the entries alike (``attack.likelihood.alternatives``), that with labels in {-1, +1} is taken,
    if it is one of them. Diagnostics:
    ``misfit`` is the share of the gradient's power that is left, beside ``expected``; ``starts`` those made, ``agreeing``
    those that ended where the best one did; ``exact``: whether also entries that were not fitted are
    explained to rounding (``bounds/proofs/exactness.md``); ``error``: the R that the information at the end lets expect,
    where there is noise.

    Raises ``ValueError`` or ``TypeError`` on bad input, ``UnsupportedBound`` for a defense that does not say its density,
    ``ReconstructionError`` for a gradient that is zero.
    """
    checks.instance("observation", observation, Observation)
    checks.instance("net", net, TwoLayerNet)
    attack = LikelihoodAttack() if attack is None else attack
    checks.instance("attack", attack, LikelihoodAttack)
    B = observation.expected_batch(net, batch_size)
    posed = Posed.of(observation, net, B)
    best, tries = _best(posed, attack, seed)
    others = alternatives(posed, best, attack.precision) if posed.settled(tries.fit) else []
    if not others:
        return _result(posed, best, tries)
    chosen, clear = told_apart(posed, [best, *others])
    note = f"{len(others) + 1} sets of features explain the entries alike, and no labels in {{-1, +1}} tell them apart"
    tries = dataclasses.replace(tries, fit=posed.fit(chosen))
    return _result(posed, chosen, tries, () if clear else (note,))


def refine(reconstruction: Reconstruction, observation: Observation, net: TwoLayerNet) -> Reconstruction:
    """The likelihood attack from one start, the features of a reconstruction by any attack: maximum likelihood near them.

    Diagnostics as of ``likelihood_attack``, with one start. Raises ``ValueError`` or ``TypeError`` on bad input and features
    (B, d) that do not fit, and what ``likelihood_attack`` raises.
    """
    checks.instance("reconstruction", reconstruction, Reconstruction)
    checks.instance("observation", observation, Observation)
    checks.instance("net", net, TwoLayerNet)
    start = net.features(reconstruction.features).double()
    posed = Posed.of(observation, net, observation.expected_batch(net, len(start)))
    place = minimised(posed.model, start, posed.effort(LikelihoodAttack().precision))
    fit = posed.fit(place)
    return _result(posed, place, _Tries((place.loss,), fit))


@dataclass(frozen=True, eq=False)
class _Tries:
    """losses: where the starts ended, in their order; fit: of the best one."""

    losses: tuple[float, ...]
    fit: Fit


def _best(posed: Posed, attack: LikelihoodAttack, seed: int) -> tuple[Place, _Tries]:
    best: Place | None = None
    fit, losses = Fit(math.inf, 0.0, 0.0), []
    few = posed.few
    source = posed if few is None or attack.start == "tensor" else few
    for start in itertools.islice(_starts(source, attack, seed), attack.starts):
        blurs = posed.model.entries.blurs
        if few is not None:
            start, blurs = _mended(few, start, seed, blurs).features, blurs[-_LAST:]
        found = _mended(posed, start, seed, blurs).features
        place = minimised(posed.model, found, posed.effort(attack.precision), blurs[-1:])
        losses.append(place.loss)
        if best is None or place.loss < best.loss:
            best, fit = place, posed.fit(place)
        if posed.settled(fit) and shows(posed, best):
            break
    if best is None:
        reason = f"no start: the attack's are {attack.start}"
        raise ReconstructionError(reason, Diagnostics("failed", (reason,), starts=0))
    return best, _Tries(tuple(losses), fit)


def _mended(posed: Posed, start: torch.Tensor, seed: int, blurs: tuple[float, ...]) -> Place:
    """Where steps from a start end, through stages of blur, and features given up for others while that settles more."""
    place = minimised(posed.model, start, posed.searching, blurs)
    return mended(place, lambda place: posed.settled(posed.fit(place)), posed.searching, seed, posed.crude)


def _starts(posed: Posed, attack: LikelihoodAttack, seed: int) -> Iterator[torch.Tensor]:
    if attack.start == "tensor":
        return iter((tensor_attack(posed.observation, posed.net, posed.B, seed=seed).features,))
    return starts(posed.crude, posed.B, seed, attack.start)


def _result(posed: Posed, best: Place, tries: _Tries, notes: tuple[str, ...] = ()) -> Reconstruction:
    net, power = posed.net, posed.power
    assigned = _assigned(posed, best)
    place, features, residuals = assigned.place, assigned.features, assigned.residuals
    fit = tries.fit if place is best else posed.fit(place)
    sign_free = False
    if moment_orders(net.activation)[0] == 1:
        signs, sign_free = signs_by_fit(net, posed.gradient, features)
        features = signs[:, None] * features
        residuals = posed.model.at(features, best.blur).residuals
    residuals = posed.scale * residuals
    forward = net.forward(features)
    same = sum(loss <= best.loss + _ALIKE * abs(best.loss) + posed.rounding for loss in tries.losses)
    told = judged(posed, place, fit, starts=len(tries.losses), norms=assigned.factors)
    warnings = assigned.notes + notes + told.warnings
    diagnostics = Diagnostics(
        status="suspect" if warnings else "ok",
        warnings=warnings,
        misfit=fit.left / power,
        expected=fit.expected / power,
        agreeing=same,
        starts=len(tries.losses),
        sign_free=sign_free,
        exact=told.exact,
        error=told.error,
    )
    return Reconstruction(features, residuals, forward - residuals, diagnostics)


@dataclass(frozen=True, eq=False)
class _Assigned:
    """Features (B, d) of the public norms, their residuals, the place that was fitted, by what factors (B,) its features are
    to be multiplied, and warnings."""

    features: torch.Tensor
    residuals: torch.Tensor
    place: Place
    factors: torch.Tensor
    notes: tuple[str, ...] = ()


def _assigned(posed: Posed, best: Place) -> _Assigned:
    norms = np.array(posed.observation.norms)
    ones = torch.ones_like(best.residuals)
    if np.ptp(norms) <= EQUAL_NORMS * norms.max():
        return _Assigned(best.features, best.residuals, best, ones)
    public = torch.tensor(norms).to(best.features)
    if posed.model.radii is None:
        sizes = torch.linalg.vector_norm(best.features, dim=1)
        order = scipy.optimize.linear_sum_assignment((sizes[:, None] - public).square().cpu().numpy())[1]
        model = Model(posed.net, posed.model.entries, public[order], posed.model.scale_free)
        again = minimised(model, best.features, posed.effort(1e-9))
        return _Assigned(again.features, again.residuals, again, ones)
    outputs = posed.net.forward(best.features).cpu().numpy()
    strengths = posed.scale * best.residuals.cpu().numpy()
    doubt = np.abs(np.abs(outputs[:, None] * norms - strengths[:, None] / norms) - 1)
    rows, order = scipy.optimize.linear_sum_assignment(doubt)
    worst = float(doubt[rows, order].max())
    notes = (
        (f"norms assigned by labels that are up to {worst:.2f} away from +-1",) if worst > LABEL_DOUBT else ()
    )
    own = public[torch.from_numpy(order).to(public.device)]
    return _Assigned(best.features * own[:, None], best.residuals / own, best, own, notes)
