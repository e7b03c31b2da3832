"""Theory against records: groups records by point, evaluates the bounds there, and applies the rule of each
kind."""

from __future__ import annotations

from collections.abc import Iterable

from bounds import THEORY, Kind, checks
from verify.judge import JUDGES
from verify.judge.base import Conduct, Groups
from verify.judge.statistics import BASELINE, LEVEL
from verify.judge.verdict import Result
from verify.measure.check import Check
from verify.measure.experiment import Experiment
from verify.measure.groups import group_records
from verify.measure.record import Record


def compare(
    records: Iterable[Record],
    experiment: Experiment | None = None,
    kind: Kind | str | None = None,
    *,
    check: Check | None = None,
    level: float = LEVEL,
    baseline: float = BASELINE,
    corrupt_factor: float = 1.0,
    corrupt_exponent: float = 0.0,
) -> list[Result]:
    """Judge records: by the rules of ``experiment``, or by one ``check``, or by a ``kind`` with that kind's
    default check.

    With an experiment, its points decide what is to be there: a point without records is "inconclusive",
    never left out, and records of other points are refused. level: of all intervals; baseline: see
    ``statistics.BASELINE``. corrupt_factor, corrupt_exponent: negative control; every bound is multiplied by the
    one, every stated exponent raised by the other, and a sound comparison must then fail.

    Raises ``ValueError`` if none or several of the three are given, on values out of range, and for records that
    contradict their own points.
    """
    checks.inside("level", level)
    named = sum(way is not None for way in (check, kind))
    if named > 1 or (named == 0 and experiment is None):
        raise ValueError(
            "compare needs an experiment, or one of check and kind (with or without an experiment)"
        )
    conduct = Conduct(level, checks.real("baseline", baseline, 0.0), corrupt_factor, corrupt_exponent)
    asked: tuple[Check, ...]
    if kind is not None:
        asked = (JUDGES[Kind(checks.choice("kind", str(kind), tuple(JUDGES)))].default,)
    elif check is not None:
        asked = (check,)
    else:
        assert experiment is not None
        asked = experiment.rules
    return judged(group_records(records, experiment), asked, conduct)


def judged(groups: Groups, asked: Iterable[Check], conduct: Conduct) -> list[Result]:
    """The same for records that are grouped already: every check, answered by the judge of its kind. Trials of an attack of
    which theory states nothing of that kind, but of others does, have no verdict; ``strongest`` tells what it reached."""
    return [
        result
        for check in asked
        if (spoken := _spoken(groups, check.kind)) or not groups
        for result in JUDGES[check.kind].judge(check, spoken, conduct)
    ]


def _spoken(groups: Groups, kind: Kind) -> Groups:
    """The points of attacks of which theory states something of this kind; of a kind that is stated of none, all of attacks
    of which it states anything."""
    kinds = {attack: {bound.kind for bound in bounds} for attack, bounds in THEORY.items()}
    ever = any(kind in found for found in kinds.values())
    return {
        point: found
        for point, found in groups.items()
        if (known := kinds.get(type(point.attack))) is None or (kind in known if ever else known)
    }
