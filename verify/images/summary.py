"""What a table of attacks on pictures says: means with intervals, paired differences, and failures counted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import scipy

from bounds import Defense, NoDefense
from verify.images.point import ImagePoint
from verify.images.record import ImageRecord
from verify.judge.statistics import Mean
from verify.measure.point import defense_words

#: Of the intervals in the table.
LEVEL = 0.95


def mean(records: Sequence[ImageRecord], quantity: str) -> Mean:
    """Over trials, each the mean over its pictures. A trial without a result counts as grey pictures."""
    return Mean.of([float(np.mean(r.values[quantity])) for r in records], LEVEL)


def paired(ours: Sequence[ImageRecord], other: Sequence[ImageRecord], quantity: str) -> Mean:
    """The difference, trial by trial, of two attacks on the same observations."""
    return Mean.of(list(_apart(ours, other, quantity).values()), LEVEL)


def _apart(ours: Sequence[ImageRecord], other: Sequence[ImageRecord], quantity: str) -> dict[int, float]:
    """By trial."""
    theirs = {r.trial: r for r in other}
    return {
        r.trial: float(np.mean(r.values[quantity]) - np.mean(theirs[r.trial].values[quantity]))
        for r in ours
        if r.trial in theirs
    }


def words(value: Mean) -> str:
    """ "23.1 ± 0.8", "23.1" of one trial."""
    half = value.high - value.value
    return f"{value.value:.3g} ± {half:.2g}" if math.isfinite(half) else f"{value.value:.3g}"


def heading(point: ImagePoint) -> str:
    """The defense as a table's row is headed: "gradient noise (sigma = 0.1), global", with the unit of relative noise."""
    unit = "in root mean squares of the gradient's entries" if point.relative else ""
    return ", ".join(filter(None, (described(point.defense), scope_words(point), unit)))


def scope_words(point: ImagePoint) -> str:
    """ "by layer" or "global"; empty for a defense that is the same either way."""
    from attack.image.observed import OF_SAMPLES

    if isinstance(point.defense, OF_SAMPLES):
        return ""
    return "by layer" if point.scope == "layer" else point.scope


def described(defense: Defense) -> str:
    """A defense in words, with its parameters."""
    return "none" if isinstance(defense, NoDefense) else defense_words(defense)


def rows(found: Mapping[ImagePoint, Sequence[ImageRecord]]) -> list[dict[str, object]]:
    """One row for each point: data, B, defense, rival, trials, failures, and each quantity's mean with its half interval;
    "no result" where every trial failed, as the numbers are those of grey pictures then. plain: trials in which an
    attack that has features first found none to believe, and was gradient matching alone. behind: how much larger the
    PSNR of the best rival is in the same setting, paired by trials, "best" of that itself. The best has the largest
    mean of these same trials, so that of equally good rivals chance chooses it, and an interval of "behind" then
    excludes 0 too often: with four of them in some 19 % of settings."""
    table: list[dict[str, object]] = []
    leaders = best_rivals(found)
    for point, records in found.items():
        failed = sum(r.failed for r in records)
        leader = leaders[point.setting]
        table.append(
            {
                "data": point.data,
                "B": point.B,
                "defense": heading(point),
                "rival": point.rival,
                "trials": len(records),
                "failed": failed,
                "plain": sum(was_plain(r) for r in records),
                **{
                    q: words(mean(records, q)) if failed < len(records) else "no result"
                    for q in ("psnr", "ssim", "feature_error")
                },
                "behind": "best" if leader == point else words(paired(found[leader], records, "psnr")),
            }
        )
    return table


def differences(
    found: Mapping[ImagePoint, Sequence[ImageRecord]], pairs: Sequence[tuple[str, str]]
) -> list[dict[str, object]]:
    """By how much the PSNR of the first rival of each pair is above that of the second, in every setting that has both, and
    in the mean over these: there each trial counts once, with its mean over settings, as they share its pictures."""
    table: list[dict[str, object]] = []
    by_name = {(point.setting, point.rival): point for point in found}
    for ours, other in pairs:
        both = [
            (by_name[setting, ours], by_name[setting, other])
            for setting, rival in by_name
            if rival == ours and (setting, other) in by_name
        ]
        apart = [_apart(found[one], found[two], "psnr") for one, two in both]
        named = [(heading(one), each) for (one, _), each in zip(both, apart, strict=True)]
        if len(apart) > 1:
            trials = set.intersection(*map(set, apart))
            together = {t: float(np.mean([each[t] for each in apart])) for t in trials}
            named.append((f"{len(apart)} together", together))
        for name, values in named:
            if values:
                said = words(Mean.of(list(values.values()), LEVEL))
                table.append(
                    {"rival": ours, "less": other, "defense": name, "trials": len(values), "psnr": said}
                )
    return table


def was_plain(record: ImageRecord) -> bool:
    """Whether the integrated attack had no features to believe, and says so."""
    return any("this is plain matching" in warning for warning in record.told.get("warnings", ()))


def best_rivals(found: Mapping[ImagePoint, Sequence[ImageRecord]]) -> dict[str, ImagePoint]:
    """In every setting (``ImagePoint.setting``) the point with the largest mean PSNR, of those with a result in some trial,
    of all where none has one: grey pictures are no attack, and may be nearer than an attack's."""

    def rank(point: ImagePoint) -> tuple[bool, float]:
        return any(not r.failed for r in found[point]), mean(found[point], "psnr").value

    best: dict[str, ImagePoint] = {}
    for point in found:
        if rank(point) > rank(best.setdefault(point.setting, point)):
            best[point.setting] = point
    return best


def correlation(records: Sequence[ImageRecord], one: str, other: str) -> tuple[float, int]:
    """Spearman's rank correlation of two quantities over all pictures of these records, and how many those are."""
    x, y = ([v for r in records if not r.failed for v in r.values[q]] for q in (one, other))
    if len(x) < 3:
        return math.nan, len(x)
    return float(scipy.stats.spearmanr(x, y).statistic), len(x)
