"""What is measured: features, points, and experiments with the checks to be made on them. All of it is inert
data."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bounds import checks
from verify.measure.check import Check
from verify.measure.point import Point


@dataclass(frozen=True)
class Experiment:
    """Points, the number of trials at each, the seed of all of them, and what is to be checked.

    ``claims`` are the ids of the claims it bears on. ``quick_width`` is the largest m of its reduced version.
    """

    name: str
    title: str
    points: tuple[Point, ...]
    rules: tuple[Check, ...]
    claims: tuple[str, ...] = ()
    trials: int = 200
    seed: int = 0
    quick_width: int = 20_000
    quick_trials: int = 10

    def __post_init__(self) -> None:
        for name, value in (("trials", self.trials), ("quick_trials", self.quick_trials)):
            checks.integer(name, value, 1)
        checks.integer("seed", self.seed, 0)
        if not self.points or len(set(self.points)) != len(self.points):
            raise ValueError(
                f"points must be distinct, at least one; experiment {self.name!r} has {len(self.points)}"
            )
        strangers = {p.experiment for p in self.points} - {self.name}
        if strangers:
            raise ValueError(
                f"points must belong to experiment {self.name!r}; got {', '.join(sorted(strangers))}"
            )

    def quick(self) -> Experiment:
        """A reduced version under a name of its own (so that its records never mix with the full run's):
        every m cut down to ``quick_width``, ``quick_trials`` trials."""
        name = f"{self.name}-quick"
        points = [replace(p, experiment=name, m=min(p.m, self.quick_width)) for p in self.points]
        return replace(
            self,
            name=name,
            title=f"{self.title} (quick)",
            points=tuple(dict.fromkeys(points)),
            trials=min(self.trials, self.quick_trials),
        )
