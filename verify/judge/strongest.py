"""The strongest attack measured on each defense, told beside verdicts that are about one attack alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

from bounds import AttackSpec
from verify.judge.statistics import BASELINE
from verify.measure.outcome import EXACT, TrialOutcome
from verify.measure.point import Point, attack_words, point_key
from verify.measure.series import without

HEADER = ("defense", "setting", "attack", "m", "trials", "no result", "exact", "median R", "strongest")


@dataclass(frozen=True)
class Reached:
    """What one attack reached in one setting, at the largest width at which several attacks ran there.

    typical: the median of R over all trials, those without a result counted as guessing zero (R = 1); exact: trials in which
    the features came out exactly. strongest: no other attack's is smaller, and it is better
    than guessing.
    """

    defense: str
    described: str
    setting: str
    attack: str
    m: int
    trials: int
    failed: int
    exact: int
    typical: float
    strongest: bool

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values."""
        return asdict(self)

    def cells(self) -> tuple[str, ...]:
        """As text, in the order of ``HEADER``."""
        width = f"{self.m:,}".replace(",", " ")
        counts = (str(self.trials), str(self.failed), str(self.exact), f"{self.typical:.2g}")
        return (self.described, self.setting, self.attack, width, *counts, "yes" if self.strongest else "")


def reached(groups: Mapping[Point, Sequence[TrialOutcome]]) -> list[Reached]:
    """Of every setting (all of a point but its width, experiment and attack) what each family of attacks reached at the
    largest width at which several ran; of one with several options, its best. Settings in the order in which they come."""
    settings: dict[str, dict[int, dict[type[AttackSpec], list[Point]]]] = {}
    for point, found in groups.items():
        if found:
            key = point_key(without(point, ("experiment", "attack", "m")))
            widths = settings.setdefault(key, {}).setdefault(point.m, {})
            widths.setdefault(type(point.attack), []).append(point)
    rows: list[Reached] = []
    for at_widths in settings.values():
        common = [m for m, families in at_widths.items() if len(families) > 1]
        if common:
            own = [_best(points, groups) for points in at_widths[max(common)].values()]
            least = min(row.typical for row in own)
            rows += [replace(row, strongest=row.typical == least < BASELINE) for row in own]
    return rows


def _best(points: Sequence[Point], groups: Mapping[Point, Sequence[TrialOutcome]]) -> Reached:
    """One family of attacks at one width: all experiments together, the options that do best."""
    options: dict[AttackSpec, list[TrialOutcome]] = {}
    for point in points:
        options.setdefault(point.attack, []).extend(groups[point])
    best = min(options, key=lambda attack: typical(options[attack]))
    found, one = options[best], points[0]
    words = one.describe()
    setting = ", ".join(
        filter(None, (words[part] for part in ("activation", "features", "d", "B", "labels")))
    )
    return Reached(
        one.defense.name,
        words["defense"],
        setting,
        attack_words(best) if len(options) > 1 else best.called,
        one.m,
        len(found),
        sum(o.failed for o in found),
        sum(o.exact for o in found),
        typical(found),
        False,
    )


def typical(found: Iterable[TrialOutcome]) -> float:
    """The median of R over all trials, one without a result counted as guessing zero."""
    return median([1.0 if o.rmse is None else o.rmse for o in found])


def strongest_table(rows: Iterable[Reached]) -> str:
    """The rows as a section of a Markdown page; empty without any."""
    lines = [row.cells() for row in rows]
    if not lines:
        return ""
    head = (
        "## The strongest attack measured\n\nVerdicts are about the attack that they name. Where several attacks ran in "
        f"one setting: the errors at the largest width common to them; exact: R < {EXACT:g}; a trial without a result "
        "counts as R = 1 in the median.\n\n"
    )
    return head + "".join(f"| {' | '.join(cells)} |\n" for cells in (HEADER, ("---",) * len(HEADER), *lines))
