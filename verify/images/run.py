"""A table of attacks on pictures: every trial in one durable file, resumable, in parallel."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bounds import checks
from verify.images.point import ImagePoint
from verify.images.record import ImageRecord, image_ledger, point_keys
from verify.images.trial import run_image_trial
from verify.measure.conditions import present, resolved
from verify.measure.ledger import carry_out
from verify.measure.progress import Progress, following


@dataclass(frozen=True)
class ImageTable:
    """points, the trials at each and the seed of all. notes: what a reader has to know of how it was measured. sample: points of
    the quick form, with a name of its own, so that its records never mix with the others."""

    name: str
    title: str
    points: tuple[ImagePoint, ...]
    trials: int = 4
    seed: int = 0
    claims: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    sample: tuple[ImagePoint, ...] = ()

    def __post_init__(self) -> None:
        checks.integer("trials", self.trials, 1)
        checks.integer("seed", self.seed, 0)
        if not self.points:
            raise ValueError(f"points must hold at least one point; got none in {self.name!r}")
        point_keys(self.points)

    def quick(self) -> ImageTable:
        """The quick form: few points, one trial. ``ValueError`` if there is none."""
        return replace(
            self, name=f"{self.name}-quick", title=f"{self.title} (quick)", points=self.sample, trials=1, sample=()
        )

    @property
    def file(self) -> str:
        """Name of its records."""
        return f"images-{self.name}.jsonl"


def run_table(
    table: ImageTable,
    directory: Path,
    *,
    trials: int | None = None,
    seed: int | None = None,
    jobs: int = 1,
    threads: int = 1,
    device: str = "auto",
    progress: Progress | bool = True,
) -> list[ImageRecord]:
    """Every trial that ``directory`` has no record of yet; all records, trial by trial.

    Trials go round all points before any gets its next one. Raises ``ValueError`` or ``TypeError`` on bad input before
    anything is written, ``LedgerError`` if the file holds records of other points or of another seed.
    """
    count = table.trials if trials is None else checks.integer("trials", trials, 1)
    root = table.seed if seed is None else checks.integer("seed", seed, 0)
    checks.integer("jobs", jobs, 1)
    checks.integer("threads", threads, 1)
    place = resolved(device)
    tasks: dict[Hashable, Callable[[], ImageRecord]] = {
        (point.key, trial): partial(run_image_trial, point, trial, root, device=place, threads=threads)
        for trial in range(count)
        for point in table.points
    }
    with following(progress, table.name) as told:
        return carry_out(
            image_ledger(directory / table.file, root, tasks),
            tasks,
            present(place.partition(":")[0], threads),
            jobs=jobs,
            progress=told,
        )


def by_point(table: ImageTable, records: Sequence[ImageRecord]) -> dict[ImagePoint, list[ImageRecord]]:
    """The records of every point, in the table's order; points without any are left out."""
    keys = point_keys(table.points)
    found: dict[ImagePoint, list[ImageRecord]] = {}
    for record in records:
        if record.key in keys:
            found.setdefault(keys[record.key], []).append(record)
    return {point: found[point] for point in table.points if point in found}
