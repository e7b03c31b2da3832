"""What a figure shows of one experiment: its series with names, its axis, its verdicts, and how large."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bounds import Kind, TensorAttack
from verify.draw.curves import Axis, Curve, curve_of
from verify.draw.names import Wording
from verify.draw.style import STYLES, Look
from verify.judge import JUDGES
from verify.judge.base import Groups
from verify.judge.predicted import PredictedCheck
from verify.judge.rate import RateCheck, variables
from verify.judge.upper import UpperCheck
from verify.judge.verdict import Result
from verify.measure.check import Check
from verify.measure.experiment import Experiment
from verify.measure.point import Point, point_key
from verify.measure.series import series, value_of, without


@dataclass(frozen=True)
class Shown:
    """All that is drawn or told of one experiment. ``level`` of every interval; ``tolerance``: half the width of the band
    about ratio 1."""

    title: str
    curves: tuple[Curve, ...]
    wording: Wording
    axis: Axis
    results: tuple[Result, ...]
    level: float
    tolerance: float
    look: Look

    @staticmethod
    def of(
        groups: Groups,
        results: Sequence[Result],
        experiment: Experiment | None,
        *,
        x: str,
        tolerance: float,
        level: float,
        look: Look,
    ) -> Shown:
        """Of the points that have records. Those of experiments that stand beside this one become points of it."""
        judged: dict[str, set[Kind]] = {}
        for result in results:
            judged.setdefault(result.experiment, set()).add(result.kind)
        asked = {p: judged.get(p.experiment, set()) for p in groups}
        if experiment is not None:
            groups = {replace(p, experiment=experiment.name): group for p, group in groups.items()}
            asked = {replace(p, experiment=experiment.name): kinds for p, kinds in asked.items()}
        together = series([p for p, group in groups.items() if group], x)
        wording = Wording.of(together, x)
        part, kinds = _part(experiment), kinds_of(experiment)
        curves = tuple(
            curve_of(
                points,
                name,
                k,
                groups,
                x,
                level,
                part,
                [q for q in STYLES if q in kinds or q in asked[points[0]]],
            )
            for k, points, name in zip(colours(together, x), together, wording.names, strict=True)
        )
        points = [p for s in together for p in s]
        title = experiment.title if experiment else ", ".join(sorted({p.experiment for p in points}))
        axis = Axis.of(x, points)
        return Shown(title, curves, wording, axis, tuple(results), level, tolerance, look)

    @property
    def rows(self) -> bool:
        """Whether nothing varies along any series: then each is a row, as a point alone has no place on an axis."""
        return all(len(c.x) == 1 for c in self.curves)

    @property
    def compared(self) -> Kind:
        """What the measured error is divided by: PREDICTED; of the span, of which nothing is predicted, UPPER; of attacks of
        which nothing is predicted, LIMIT."""
        if self.curves[0].part == "span":
            return Kind.UPPER

        def stated(kind: Kind) -> bool:
            return any(value > 0 for curve in self.curves for value in curve.values(kind))

        return Kind.LIMIT if stated(Kind.LIMIT) and not stated(Kind.PREDICTED) else Kind.PREDICTED

    @property
    def error(self) -> str:
        """What is drawn, in words."""
        return "distance from the span" if self.curves[0].part == "span" else "error R"


def colours(together: Sequence[Sequence[Point]], x: str) -> list[int]:
    """A colour's number for each series: of the tensor attack one each; another attack's is that of the tensor attack in the
    same setting, at whatever width, where that is there."""
    numbers: list[int] = []
    known: dict[str, int] = {}
    for points in together:
        setting = point_key(without(points[0], ("attack", "m", x)))
        tensor = isinstance(points[0].attack, TensorAttack)
        number = known.get(setting)
        if number is None or tensor:
            number = len({*numbers})
        known.setdefault(setting, number)
        numbers.append(number)
    return numbers


def natural_axis(experiment: Experiment | None) -> str:
    """What an experiment is drawn against."""
    if experiment is None:
        return "m"
    rates = [c.variable for c in experiment.rules if isinstance(c, RateCheck)]
    if rates:
        return rates[0]
    points = experiment.points
    if len({p.m for p in points}) == 1 and len({type(p.defense) for p in points}) == 1:
        if points[0].defense.strength_parameter() and len({value_of(p, "strength") for p in points}) > 1:
            return "strength"
        for size in ("B", "d"):
            if len({getattr(p, size) for p in points}) > 1:
                return size
    return "m"


def natural_tolerance(experiment: Experiment | None) -> float:
    """Half the width of the band about ratio 1: the experiment's own, if it has one."""
    own = [c.tolerance for c in experiment.rules if isinstance(c, PredictedCheck)] if experiment else []
    return max(own, default=0.03)


def natural_checks(x: str, tolerance: float) -> tuple[Check, ...]:
    """What is asked of records along ``x`` that belong to no experiment."""
    predicted = PredictedCheck(tolerance)
    if x == "m":
        return (predicted, RateCheck("m"))
    if x == "B":
        return (predicted, RateCheck("B", upper=True))
    return (RateCheck(x),) if x in variables() else (predicted,)


def _part(experiment: Experiment | None) -> str:
    """What is drawn: R, or the distance from the span where the experiment's bounds are about that."""
    parts = {c.part for c in experiment.rules if isinstance(c, UpperCheck)} if experiment else set()
    return "span" if parts == {"span"} else "error"


def kinds_of(experiment: Experiment | None) -> tuple[Kind, ...]:
    """What is drawn of theory: all that can be, but for what is costly where no check asks for it."""
    asked = tuple(JUDGES) if experiment is None else tuple(c.kind for c in experiment.rules)
    return tuple(kind for kind in STYLES if kind in asked or not JUDGES[kind].costly)
