"""Records by point."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from verify.measure.experiment import Experiment
from verify.measure.lines import RecordError
from verify.measure.outcome import Outcome, TrialOutcome
from verify.measure.point import Point
from verify.measure.record import Record, distinct
from verify.measure.series import label


def group_records(
    records: Iterable[Record], experiment: Experiment | None = None
) -> dict[Point, list[TrialOutcome]]:
    """What each attack gave at each point, trials in order; every point has one attack: where several ran on the same
    observation, the point stands once for each.

    With an experiment, every one of its points is there and no other is allowed. ``RecordError``, a ``ValueError``, for
    records of other points, and for a trial that is there twice.
    """
    groups: dict[Point, list[TrialOutcome]] = {}
    if experiment is not None:
        groups = {alone: [] for p in experiment.points for alone in p.single.values()}
    for record in distinct(records):
        if experiment is not None and record.point not in experiment.points:
            raise RecordError(
                f"records must belong to experiment {experiment.name!r}; got a trial at {label(record.point)}"
            )
        for name, point in record.point.single.items():
            groups.setdefault(point, []).append(_with_trial(record.outcomes[name], record.trial))
    return {point: sorted(found, key=lambda o: o.trial) for point, found in groups.items()}


def _with_trial(outcome: Outcome, trial: int) -> TrialOutcome:
    return TrialOutcome(**{f.name: getattr(outcome, f.name) for f in fields(Outcome)}, trial=trial)
