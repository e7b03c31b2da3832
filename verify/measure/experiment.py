"""What is measured: features, points, and experiments with the checks to be made on them. All of it is inert
data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from bounds import AttackSpec, Defense, checks
from verify.measure.check import Check
from verify.measure.plane import Plane
from verify.measure.point import Point


@dataclass(frozen=True)
class Reduced:
    """A quick version of an experiment: fewer points, trials and checks, never a weaker check, chosen so that its checks
    are decided.

    With R scattering by a share c, n trials give a 99 % interval of ±2.6 c / √n, and its centre scatters by c / √n: a check
    to within t is decided from n = (4.2 c / t)² on. c is about .1 for two features in 50 dimensions, less for more of
    either, more for plain moments and strong defenses; the trials below are chosen by the c of the full run's records. Not
    kept is what these widths cannot decide: exponents from two close widths, features or moments far from first order.

    width: every m is cut down to it. narrowest: points of smaller m are left out. trials: at each point. defenses, batches,
    attacks: those whose points are kept, all if none is named. checks: those of the experiment that are made, all if none is
    named. in_all: whether it takes part in the quick run of all experiments, which has to say something of every defense in
    little time.
    """

    width: int = 20_000
    trials: int = 10
    defenses: tuple[Defense, ...] = ()
    batches: tuple[int, ...] = ()
    attacks: tuple[AttackSpec, ...] = ()
    checks: tuple[Check, ...] = ()
    narrowest: int = 0
    in_all: bool = False

    def keeps(self, point: Point) -> bool:
        return (
            point.m >= self.narrowest
            and (not self.defenses or point.defense in self.defenses)
            and (not self.batches or point.B in self.batches)
            and (not self.attacks or point.attack in self.attacks)
        )


@dataclass(frozen=True)
class Experiment:
    """Points, the number of trials at each, the seed of all of them, and what is to be checked.

    ``claims`` are the ids of the claims it bears on; ``reduced`` is what its quick version keeps (None: it has none, as
    nothing that it asks is decided in little time). ``beside``: the experiment in whose figure it is drawn
    wherever that is drawn too: another attack on the same defenses, at widths of its own. ``plane``: drawn as a phase
    diagram, and how.
    """

    name: str
    title: str
    points: tuple[Point, ...]
    rules: tuple[Check, ...]
    claims: tuple[str, ...] = ()
    trials: int = 200
    seed: int = 0
    reduced: Reduced | None = None
    beside: str = ""
    plane: Plane | None = None

    def __post_init__(self) -> None:
        checks.integer("trials", self.trials, 1)
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
        if self.reduced is None:
            return
        checks.integer("reduced.trials", self.reduced.trials, 1)
        if not any(map(self.reduced.keeps, self.points)):
            raise ValueError(
                f"reduced must keep at least one point of experiment {self.name!r}; got {self.reduced}"
            )
        if not set(self.reduced.checks) <= set(self.rules):
            raise ValueError(
                f"reduced must keep checks of experiment {self.name!r} as they are; got {self.reduced.checks}"
            )

    def quick(self) -> Experiment:
        """The reduced version, under a name of its own, so that its records never mix with the full run's. ``ValueError``
        if there is none."""
        if self.reduced is None:
            raise ValueError(f"experiment {self.name!r} has no quick version: its checks need the full run")
        name = f"{self.name}-quick"
        kept = filter(self.reduced.keeps, self.points)
        points = [replace(p, experiment=name, m=min(p.m, self.reduced.width)) for p in kept]
        return replace(
            self,
            name=name,
            title=f"{self.title} (quick)",
            points=tuple(dict.fromkeys(points)),
            rules=self.reduced.checks or self.rules,
            trials=min(self.trials, self.reduced.trials),
            reduced=None,
            beside=self.beside and f"{self.beside}-quick",
        )

    @property
    def attacks(self) -> frozenset[type[AttackSpec]]:
        """The families of attacks that it is about: not those that its points run also."""
        return frozenset(type(point.attack) for point in self.points)

    @property
    def forms(self) -> tuple[Experiment, ...]:
        """The experiment, and its quick version if it has one."""
        return (self,) if self.reduced is None else (self, self.quick())


def by_figure(experiments: Iterable[Experiment]) -> list[tuple[Experiment, ...]]:
    """Those that are drawn in one figure together: each with all that stand beside it, in the order in which they come. One
    that stands beside none of these has a figure of its own."""
    given = list(experiments)
    names = {e.name for e in given}
    together: dict[str, list[Experiment]] = {e.name: [e] for e in given if e.beside not in names}
    for e in given:
        if e.name not in together:
            together.setdefault(e.beside, []).append(e)
    return [tuple(found) for found in together.values()]
