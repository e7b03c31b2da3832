"""Records by point."""

from __future__ import annotations

from collections.abc import Iterable

from verify.measure.experiment import Experiment
from verify.measure.point import Point, point_key
from verify.measure.record import Record
from verify.measure.series import label


def group_records(
    records: Iterable[Record], experiment: Experiment | None = None
) -> dict[Point, list[Record]]:
    """Records by point; with an experiment, every one of its points is there and no other is allowed
    (``ValueError``)."""
    groups: dict[Point, list[Record]] = {p: [] for p in experiment.points} if experiment else {}
    seen: set[tuple[str, int, int]] = set()
    for record in records:
        if point_key(record.point) != record.point_key:
            raise ValueError(
                f"record of trial {record.trial}: its point does not have its key {record.point_key}"
            )
        identity = (record.point_key, record.trial, record.seeds["experiment"])
        if identity in seen:
            raise ValueError(
                f"records must be distinct; trial {record.trial} at point {record.point_key} is there twice"
            )
        seen.add(identity)
        point = Point.from_dict(record.point)
        if experiment is not None and point not in groups:
            raise ValueError(
                f"records must belong to experiment {experiment.name!r}; got a trial at {label(point)}"
            )
        groups.setdefault(point, []).append(record)
    return groups
