"""What a comparison says: at equal loss of accuracy, the strength of each defense and what attacks find there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from bounds import Defense, LikelihoodAttack, NoDefense, Setting, evaluate
from verify.images.point import ImagePoint
from verify.images.record import ImageRecord
from verify.images.run import by_point
from verify.images.trial import half
from verify.measure.point import attack_name
from verify.measure.record import Record
from verify.utility.comparison import THEORY_ATTACKS, Comparison
from verify.utility.equal import Estimate, Match, Values, matched
from verify.utility.family import Family
from verify.utility.record import TrainingRecord

#: Of an attack without a result on theory's network: what guessing zero scores.
R_OF_A_GUESS = 1.0

#: The name of what needs no gradient at all.
MEAN_PICTURE = "mean picture"


@dataclass(frozen=True, eq=False)
class Curve:
    """A family as it was measured: losses (trainings, members) of accuracy, in points; errors: of every attack (trials,
    members), PSNR in dB or R; failed: trials without a result among these."""

    family: Family
    positions: tuple[float, ...]
    losses: Values
    errors: Mapping[str, Values]
    failed: int

    def at(self, loss: float, seed: int) -> Match:
        """Where it costs that."""
        return matched(self.positions, self.losses, dict(self.errors), loss, seed=seed)


def losses_of(comparison: Comparison, family: Family, trainings: Sequence[TrainingRecord]) -> Values:
    """(trainings, members): accuracy without a defense less accuracy under each member, in points, training by training;
    trainings that are not finished for all members are left out."""
    found = {(r.key, r.trial): 100 * r.accuracy for r in trainings}
    points = [comparison.baseline, *(family.at(one, comparison.federation) for one in family.members)]
    rows = [[found.get((p.key, t), math.nan) for p in points] for t in range(comparison.trainings)]
    told = _whole(np.array(rows))
    return np.asarray(told[:, :1] - told[:, 1:])


def picture_curves(
    comparison: Comparison,
    trainings: Sequence[TrainingRecord],
    records: Sequence[ImageRecord],
    *,
    first: bool,
) -> list[Curve]:
    """The families by PSNR of every contender, at the first weights or after some rounds; those of which no trial is whole
    are left out."""
    table = comparison.table(first=first)
    found = by_point(table, records)
    curves = []
    for family in comparison.families:
        errors, failed = {}, 0
        for contender in comparison.contenders:
            points = [comparison.attacked(family, one, contender, first=first) for one in family.members]
            errors[contender.name] = _whole(_psnr(points, found, table.trials))
            failed += sum(r.failed for p in points for r in found.get(p, ()))
        losses = losses_of(comparison, family, trainings)
        if len(losses) and all(len(values) for values in errors.values()):
            positions = tuple(family.position(one) for one in family.members)
            curves.append(Curve(family, positions, losses, errors, failed))
    return curves


def clean_psnr(comparison: Comparison, records: Sequence[ImageRecord], *, first: bool) -> dict[str, float]:
    """Mean PSNR of every contender without a defense."""
    table = comparison.table(first=first)
    found = by_point(table, records)
    points = {r.name: comparison.attacked(None, NoDefense(), r, first=first) for r in comparison.contenders}
    told = {name: _whole(_psnr([p], found, table.trials)) for name, p in points.items()}
    return {name: float(values.mean()) for name, values in told.items() if len(values)}


def theory_curves(
    comparison: Comparison, trainings: Sequence[TrainingRecord], records: Sequence[Record]
) -> list[Curve]:
    """The families by R of every attack on theory's network; a trial without a result counts as a guess. Records of other
    points (another size of the network, other attacks) play no part."""
    found = {(r.point.key, r.trial): r.outcomes for r in records}
    curves = []
    for family in comparison.carried:
        keys = [comparison.theory_point(family, one).key for one in family.members]
        losses, errors, failed = losses_of(comparison, family, trainings), {}, 0
        for attack in THEORY_ATTACKS:
            name = attack_name(attack)
            rows = np.full((comparison.theory_trials, len(keys)), math.nan)
            for t, k in np.ndindex(rows.shape):
                told = found.get((keys[k], t))
                if told is not None:
                    failed += told[name].failed
                    rows[t, k] = R_OF_A_GUESS if told[name].rmse is None else told[name].rmse
            errors[name] = _whole(rows)
        if len(losses) and all(len(values) for values in errors.values()):
            positions = tuple(family.position(one) for one in family.members)
            curves.append(Curve(family, positions, losses, errors, failed))
    return curves


def _psnr(
    points: Sequence[ImagePoint], found: Mapping[ImagePoint, Sequence[ImageRecord]], trials: int
) -> Values:
    """(trials, points): mean over pictures; nan where there is no record."""
    rows = np.full((trials, len(points)), math.nan)
    for k, point in enumerate(points):
        for record in found.get(point, ()):
            rows[record.trial, k] = float(np.mean(record.values["psnr"]))
    return rows


def _whole(rows: Values) -> Values:
    """The rows without a gap."""
    return rows[np.isfinite(rows).all(axis=1)]


# --- tables ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def guess(data: str) -> float:
    """PSNR in dB, a mean over pictures, of the mean picture of the half that is attacked: what a server could draw that has
    seen no gradient."""
    images = half(data, "reported").images.double()
    mse = (images - images.mean(dim=0)).square().flatten(1).mean(dim=1)
    return float((-10 * mse.log10()).mean())


@dataclass(frozen=True)
class Standing:
    """A family at one loss. weak, strong: PSNR of the weak attack, and of what is best there, ``by`` name: one of the
    attacks or, where all are worse, the mean picture; None where it costs that at no strength that was measured, and the
    match says why. ranks: 1 protects best, among those that are there; equal ones share the first, and so do all behind
    which an attack finds less than the mean picture shows: what is below that says nothing of the pictures."""

    family: Family
    loss: float
    match: Match
    weak: Estimate | None = None
    strong: Estimate | None = None
    by: str = ""
    rank_weak: int | None = None
    rank_strong: int | None = None


def standings(comparison: Comparison, curves: Sequence[Curve], loss: float) -> list[Standing]:
    """Every family at one loss, in the comparison's order, ranked under the weak and under the strongest attack."""
    weak, least = comparison.weak.name, guess(comparison.federation.data)
    found: list[Standing] = []
    for curve in curves:
        match = curve.at(loss, comparison.seed)
        if match.position is None:
            found.append(Standing(curve.family, loss, match))
            continue
        told = dict(match.errors) | {MEAN_PICTURE: Estimate(least, math.nan, math.nan, 1.0)}
        best = max(told, key=lambda name: told[name].value)  # the weak one may be it
        found.append(Standing(curve.family, loss, match, told[weak], told[best], best))
    by_weak = [max(s.weak.value, least) for s in found if s.weak is not None]
    by_strong = [s.strong.value for s in found if s.strong is not None]
    return [
        replace(
            s,
            rank_weak=_rank(max(s.weak.value, least), by_weak),
            rank_strong=_rank(s.strong.value, by_strong),
        )
        if s.weak is not None and s.strong is not None
        else s
        for s in found
    ]


def _rank(value: float, among: Sequence[float]) -> int:
    return 1 + sum(other < value for other in among)


def picture_rows(found: Iterable[Standing]) -> list[dict[str, Any]]:
    """A row for each standing."""
    return [
        {
            "points lost": f"{s.loss:g}",
            "defense": s.family.name,
            "strength": _strength(s.family, s.match),
            "PSNR weak": words(s.weak),
            "PSNR strongest": words(s.strong),
            "strongest": s.by or None,
            "next": _next(s),
            "reached": _reached(s.match),
            "rank weak": s.rank_weak,
            "rank strongest": s.rank_strong,
            "absent": s.match.why,
        }
        for s in found
    ]


def _next(standing: Standing) -> str | None:
    """The attack that is best beside the strongest, where that is an attack, with its PSNR."""
    errors = standing.match.errors
    if standing.by not in errors:
        return None
    name = max((other for other in errors if other != standing.by), key=lambda other: errors[other].value)
    return f"{name} {errors[name].value:.1f}"


def agreement(found: Iterable[Standing]) -> float | None:
    """Kendall's tau of the ranks under the weak and under the strongest attack at one loss; None below three families, or
    where all share a rank."""
    import scipy

    ranks = [(s.rank_weak, s.rank_strong) for s in found if s.rank_weak is not None]
    if len(ranks) < 3:
        return None
    tau = float(scipy.stats.kendalltau(*zip(*ranks, strict=True)).statistic)
    return tau if math.isfinite(tau) else None


def theory_rows(comparison: Comparison, curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """A row for each loss and family whose strength theory's network has: R of both attacks, interpolated as PSNR is, and
    LIMIT and LOWER, computed at that strength."""
    rows: list[dict[str, Any]] = []
    for loss in comparison.losses:
        for curve in curves:
            match = curve.at(loss, comparison.seed)
            limit, lower = None, None
            if match.position is not None:
                member = at_position(curve.family, match.position.value)
                limit, lower = bounds_at(comparison.in_theory(curve.family, member), comparison.setting)
            rows.append(
                {
                    "points lost": f"{loss:g}",
                    "defense": curve.family.name,
                    "strength": _strength(curve.family, match),
                    **{f"R {name}": words(match.errors.get(name), 3) for name in curve.errors},
                    "reached": _reached(match),
                    "LIMIT": limit,
                    "LOWER": lower,
                    "absent": match.why,
                }
            )
    return rows


def at_position(family: Family, position: float) -> Defense:
    """The member that would lie at a position of the scale."""
    parameter = family.members[0].strength_parameter()
    if parameter is None:
        return family.members[0]
    change: Any = replace
    found: Defense = change(family.members[0], **{parameter.name: family.strength_at(position)})
    return found


@lru_cache(maxsize=256)
def bounds_at(defense: Defense, setting: Setting) -> tuple[float | None, float | None]:
    """LIMIT and LOWER of a defense there; None where they are not computed."""
    found = evaluate(defense, setting, LikelihoodAttack())
    return found.limit, found.lower


def words(value: Estimate | None, digits: int = 1) -> str | None:
    """ "23.1 [20.0, 25.2]" """
    if value is None or math.isnan(value.value):
        return None
    if math.isnan(value.low):
        return f"{value.value:.{digits}f}"
    return f"{value.value:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def _reached(match: Match) -> str | None:
    """The share of the trials drawn again in which the loss is reached at all, where that is not all of them."""
    if match.position is None or match.position.reached == 1.0:
        return None
    return f"{match.position.reached:.3f}"


def _strength(family: Family, match: Match) -> str | None:
    if match.position is None:
        return None
    unit = f" {family.unit}" if family.unit else ""
    return f"{family.strength_at(match.position.value):.3g}{unit}"
