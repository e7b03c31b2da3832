"""What is measured: features, points, and experiments with the checks to be made on them. All of it is inert
data."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bounds import Defense, checks
from verify.measure.check import Check
from verify.measure.point import Point


@dataclass(frozen=True)
class Reduced:
    """A quick version of an experiment, fewer points and trials, never a weaker check.

    width: every m is cut down to it. narrowest: points of smaller m are left out. trials: at each point. defenses, batches:
    those whose points are kept, all if none is named. in_all: whether it takes part in the quick run of all experiments,
    which has to say something of every defense in little time.
    """

    width: int = 20_000
    trials: int = 10
    defenses: tuple[Defense, ...] = ()
    batches: tuple[int, ...] = ()
    narrowest: int = 0
    in_all: bool = False

    def keeps(self, point: Point) -> bool:
        return (
            point.m >= self.narrowest
            and (not self.defenses or point.defense in self.defenses)
            and (not self.batches or point.B in self.batches)
        )


@dataclass(frozen=True)
class Experiment:
    """Points, the number of trials at each, the seed of all of them, and what is to be checked.

    ``claims`` are the ids of the claims it bears on; ``reduced`` is what its quick version keeps.
    """

    name: str
    title: str
    points: tuple[Point, ...]
    rules: tuple[Check, ...]
    claims: tuple[str, ...] = ()
    trials: int = 200
    seed: int = 0
    reduced: Reduced = Reduced()

    def __post_init__(self) -> None:
        for name, value in (("trials", self.trials), ("reduced.trials", self.reduced.trials)):
            checks.integer(name, value, 1)
        checks.integer("seed", self.seed, 0)
        checks.instance("points", self.points, tuple)
        for point in self.points:
            checks.instance("points", point, Point)
        if not self.points or len(set(self.points)) != len(self.points):
            raise ValueError(
                f"points must be distinct, at least one; experiment {self.name!r} has {len(self.points)}"
            )
        strangers = {p.experiment for p in self.points} - {self.name}
        if strangers:
            raise ValueError(
                f"points must belong to experiment {self.name!r}; got {', '.join(sorted(strangers))}"
            )
        if not any(map(self.reduced.keeps, self.points)):
            raise ValueError(
                f"reduced must keep at least one point of experiment {self.name!r}; got {self.reduced}"
            )

    def quick(self) -> Experiment:
        """The reduced version, under a name of its own, so that its records never mix with the full run's."""
        name = f"{self.name}-quick"
        kept = filter(self.reduced.keeps, self.points)
        points = [replace(p, experiment=name, m=min(p.m, self.reduced.width)) for p in kept]
        return replace(
            self,
            name=name,
            title=f"{self.title} (quick)",
            points=tuple(dict.fromkeys(points)),
            trials=min(self.trials, self.reduced.trials),
            reduced=Reduced(),
        )
