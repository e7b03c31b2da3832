"""A table of attacks on pictures: every trial in one durable file, resumable, in parallel."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bounds import checks
from verify.images.point import ImagePoint
from verify.images.record import ImageRecord, image_ledger, point_keys
from verify.images.summary import mean
from verify.images.trial import run_image_trial
from verify.measure.conditions import present, resolved
from verify.measure.ledger import carry_out
from verify.measure.progress import Progress, following

if TYPE_CHECKING:
    from attack.image.inversion import ImageAttack


@dataclass(frozen=True)
class Tuning:
    """What every attack is given the best of, under the same defense, on batches of ``B`` pictures that are not reported:
    the weight of total variation, and the step as a factor of its own, with so many iterations of one start (as many as are
    reported, as a slow choice looks better in fewer), in so many trials. The iterations are those of the search for
    pictures; an L-BFGS has no step, so a choice of tv only. What finds features first searches outside this count. name:
    of its records, which tables that ask for the same choices share."""

    name: str
    tv: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)
    step: tuple[float, ...] = (1.0, 3.0)
    B: int = 2
    iterations: int = 300
    trials: int = 2

    def candidates(self, point: ImagePoint) -> tuple[ImagePoint, ...]:
        """The point with every choice, the same for rivals that search alike. L-BFGS has no use for a step."""
        search = searched(point.attack)
        factors = (1.0,) if search.optimiser == "lbfgs" else self.step
        steps = [float(f"{factor * search.step:.6g}") for factor in factors]
        choices = ({"tv": tv, "step": step} for tv in self.tv for step in steps)
        return tuple(
            replace(
                point,
                B=self.B,
                part="tuning",
                rival="",
                attack=with_options(point.attack, iterations=self.iterations, starts=1, **choice),
            )
            for choice in choices
        )

    def best(self, point: ImagePoint, records: Mapping[str, Sequence[ImageRecord]]) -> ImagePoint:
        """The point with the choice that gave the largest mean PSNR, the first of equal ones. ``ValueError`` where a choice
        was not measured."""
        tried = self.candidates(point)
        missing = sum(not records.get(p.key) for p in tried)
        if missing:
            raise ValueError(f"records must hold every choice that is tuned; {point.rival} lacks {missing}")
        chosen = searched(max(tried, key=lambda p: mean(records[p.key], "psnr").value).attack)
        return replace(point, attack=with_options(point.attack, tv=chosen.tv, step=chosen.step))


#: Fields that hold the options of the search for pictures, where it is not the attack itself that has them.
_INSIDE = ("pictures", "matching")


def searched(attack: ImageAttack) -> Any:
    """What has the options of the search for pictures: the attack itself, or what is inside it: how it makes pictures of
    features, or matches gradients."""
    place = _place(attack)
    return attack if place is None else getattr(attack, place)


def with_options(attack: ImageAttack, **options: Any) -> ImageAttack:
    """The attack with other options of its search for pictures, which it has to have."""
    change: Any = replace
    inner, place = change(searched(attack), **options), _place(attack)
    found: ImageAttack = inner if place is None else change(attack, **{place: inner})
    return found


def _place(attack: ImageAttack) -> str | None:
    return next((name for name in _INSIDE if hasattr(attack, name)), None)


@dataclass(frozen=True)
class ImageTable:
    """points, the trials at each and the seed of all. notes: what a reader has to know of how it was measured. sample:
    points of the quick form, with a name of its own, so that its records never mix with the others. tuning: what is chosen
    before. pairs: of rivals whose difference is told."""

    name: str
    title: str
    points: tuple[ImagePoint, ...]
    trials: int = 4
    seed: int = 0
    claims: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    sample: tuple[ImagePoint, ...] = ()
    tuning: Tuning | None = None
    pairs: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        checks.integer("trials", self.trials, 1)
        checks.integer("seed", self.seed, 0)
        if not self.points:
            raise ValueError(f"points must hold at least one point; got none in {self.name!r}")
        point_keys(self.points)

    def quick(self) -> ImageTable:
        """The quick form: few points, one trial of each, and of two choices in tuning, with a third of its iterations.
        ``ValueError`` if there is none."""
        tuning = self.tuning and replace(
            self.tuning, name=f"{self.tuning.name}-quick", iterations=-(-self.tuning.iterations // 3), trials=1,
            tv=self.tuning.tv[:2], step=self.tuning.step[-1:],
        )  # fmt: skip
        return replace(
            self, name=f"{self.name}-quick", title=f"{self.title} (quick)",
            points=self.sample, trials=1, sample=(), tuning=tuning,
        )  # fmt: skip

    @property
    def forms(self) -> tuple[ImageTable, ...]:
        """The table, and its quick form if it has one."""
        return (self, self.quick()) if self.sample else (self,)

    @property
    def candidates(self) -> ImageTable | None:
        """The table of what is tried for tuning; None where nothing is."""
        if self.tuning is None:
            return None
        points = dict.fromkeys(c for point in self.points for c in self.tuning.candidates(point))
        return replace(
            self, name=f"{self.tuning.name}-tuning", title=f"{self.title}: tuning", points=tuple(points),
            trials=self.tuning.trials, sample=(), tuning=None,
        )  # fmt: skip

    def tuned(self, records: Sequence[ImageRecord]) -> ImageTable:
        """The table with the best choices, by the records of ``candidates``."""
        if self.tuning is None:
            return self
        found: dict[str, list[ImageRecord]] = {}
        for record in records:
            found.setdefault(record.key, []).append(record)
        return replace(self, points=tuple(self.tuning.best(p, found) for p in self.points), tuning=None)

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
