"""Maximum likelihood of dL/da for what is known of norms and number: the features, and what the gradient says of both."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment

from attack.likelihood.model import Place
from attack.own.count import one_less, one_more
from attack.own.frame import Frame
from attack.own.gradient import SharedGradient
from attack.own.known import Known
from attack.own.least_squares import LeastSquares, ended
from attack.own.search import Outputs, Searched, by_chance, search
from attack.reconstruction import Diagnostics, Reconstruction, ReconstructionError
from bounds import LikelihoodAttack
from bounds.words import how_many


@dataclass(frozen=True, eq=False)
class Likely:
    """seen: the result, in the frame's units, with norms as they were told, or free where the gradient tells them; unit
    vectors where neither says them, or where they differ and the gradient does not tell them. free: the same with norms
    free, None where the gradient does not tell them. better: another number of features that explains the gradient better,
    or as well; None where there is none. standard: as posed in the frame's coordinates."""

    seen: LeastSquares
    free: LeastSquares | None
    better: int | None
    standard: Reconstruction


def most_likely(
    shared: SharedGradient, known: Known, frame: Frame, *, free: bool, attack: LikelihoodAttack, seed: int
) -> Likely:
    """free: whether the gradient tells norms. Raises ``ReconstructionError`` where nothing of features shows."""
    outputs = Outputs.of(shared, known, frame)
    radii = _radii(known, frame, free=free)
    found = search(outputs, radii, attack, seed, free=free)
    place = found.place
    unknowns = outputs.unknowns(known.B, radii)
    explained, chance = outputs.explained(place), by_chance(unknowns, shared.m)
    if explained <= chance:
        reason = (
            f"{how_many(known.B, 'feature')} explain {explained:.2g} of the gradient's variance, and of noise they would "
            f"explain up to {chance:.2g}: nothing of features shows"
        )
        failed = Diagnostics("failed", (reason,), starts=len(found.losses), agreeing=found.agreeing)
        raise ReconstructionError(reason, failed)
    if known.norms is not None and place.model.radii is None and not outputs.settled(place):
        place = outputs.polished(place.features, _nearest(known, frame, place.features))
    seen = ended(outputs, place)
    loose = None
    if free:
        known_ones = place.model.radii is not None
        loose = ended(outputs, outputs.polished(place.features, None)) if known_ones else seen
    other = one_less(outputs, place) if outputs.settled(place) else one_more(outputs, place, seed)
    better = None if other is None else len(other.features)
    return Likely(seen, loose, better, _standard(outputs, found, place, unknowns))


def _radii(known: Known, frame: Frame, *, free: bool) -> torch.Tensor | None:
    """On which spheres features are searched; None where norms are free."""
    if known.equal_norms and (known.norms is not None or not free):
        return _told(known, frame)
    return None if free else torch.full((known.B,), frame.posed.scale, dtype=torch.float64)


def _told(known: Known, frame: Frame) -> torch.Tensor:
    size = frame.posed.scale
    return torch.tensor(
        [size * math.ldexp(n, -frame.units.norms) for n in known.posed_norms], dtype=torch.float64
    )


def _nearest(known: Known, frame: Frame, features: torch.Tensor) -> torch.Tensor:
    """The norms that were told, each for the feature whose norm is nearest to it."""
    told, sizes = _told(known, frame), torch.linalg.vector_norm(features, dim=1)
    return told[linear_sum_assignment((sizes[:, None] - told).square().numpy())[1]]


def _standard(outputs: Outputs, found: Searched, place: Place, unknowns: int) -> Reconstruction:
    there = outputs.frame.posed
    features = place.features
    if there.bias_scale:
        features = torch.cat([features, torch.full_like(features[:, :1], there.bias_scale)], dim=1)
    residuals = outputs.known.to_model * outputs.scale * place.residuals
    warnings = _warnings(outputs, found, unknowns)
    diagnostics = Diagnostics(
        "suspect" if warnings else "ok",
        warnings,
        misfit=outputs.share(place),
        expected=outputs.least,
        agreeing=found.agreeing,
        starts=len(found.losses),
        sign_free=found.sign_free,
        exact=found.exact,
    )
    return Reconstruction(features, residuals, place.hidden.mean(dim=0) - residuals, diagnostics)


def _warnings(outputs: Outputs, found: Searched, unknowns: int) -> tuple[str, ...]:
    B = outputs.known.B
    if outputs.m <= unknowns + B:
        return (f"{outputs.m} entries for {unknowns + B} unknowns: they determine nothing",)
    if outputs.settled(found.place) and not found.exact:
        return ("the fit explains the neurons that it was made to, and not those that were kept out of it",)
    return ()
