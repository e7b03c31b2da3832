"""What is compared: families of defenses, the network that is learned, the attacks, the cost at which all are judged."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bounds import (
    AttackSpec,
    Clamping,
    Defense,
    DeterministicRounding,
    Dropout,
    GradientNoise,
    GradientPruning,
    LikelihoodAttack,
    NoDefense,
    Setting,
    SignCompression,
    StochasticRounding,
    TensorAttack,
    checks,
)
from bounds.wide_limits import gradient_norm
from verify.images.point import ImagePoint, NetworkSpec
from verify.images.run import ImageTable
from verify.measure.conditions import present, resolved
from verify.measure.experiment import Experiment
from verify.measure.features import Features
from verify.measure.ledger import carry_out
from verify.measure.point import Point
from verify.measure.progress import Progress, following
from verify.utility.family import Family
from verify.utility.federation import Federation, LearnedNetwork, TrainingPoint
from verify.utility.record import TrainingRecord, run_training, training_ledger

if TYPE_CHECKING:
    from attack.image.inversion import ImageAttack

#: Defenses whose strength means the same in the network of the theory; sizes in root mean squares of a gradient's entries.
CARRIED: tuple[type[Defense], ...] = (
    NoDefense,
    GradientNoise,
    GradientPruning,
    Dropout,
    StochasticRounding,
    DeterministicRounding,
    SignCompression,
    Clamping,
)

#: Of the theory's network, the attack that most papers speak of, and the strongest that there is.
THEORY_ATTACKS: tuple[AttackSpec, ...] = (TensorAttack(), LikelihoodAttack(starts=3))


@dataclass(frozen=True)
class Contender:
    """An attack on pictures by name; strong: whether it is among those of which the best is the strongest attack, else it is
    the weak one."""

    name: str
    attack: ImageAttack
    strong: bool = True


@dataclass(frozen=True)
class Comparison:
    """families, each with its members; federation: what is learned under them; losses: of accuracy, in points, at which they
    are compared; trainings, trials: how many of the training and of each attack, at the first weights; learned: rounds of a
    training of its own, without a defense, at whose end the network is attacked as well, ``learned_trials`` times (None: it
    is not); its rate falls to zero in these rounds, so that it is not the network of those compared at that round. d, m: of
    the network of two layers that theory speaks of, with B orthonormal features; theory_trials: at each strength there.

    Raises ``ValueError`` or ``TypeError`` for values out of range, for families or attacks of one name, and
    unless one attack alone is weak.
    """

    name: str
    families: tuple[Family, ...]
    federation: Federation
    contenders: tuple[Contender, ...]
    losses: tuple[float, ...] = (2.0, 5.0, 10.0, 20.0)
    trainings: int = 3
    trials: int = 3
    learned: int | None = None
    learned_trials: int = 1
    d: int = 25
    m: int = 5_000
    B: int = 2
    theory_trials: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("trainings", "trials", "learned_trials", "theory_trials"):
            checks.integer(name, getattr(self, name), 1)
        checks.integer("seed", self.seed, 0)
        if self.learned is not None:
            checks.integer("learned", self.learned, 1)
        for loss in self.losses:
            checks.real("losses", loss, 0.0, 100.0)
        if len({f.name for f in self.families}) < len(self.families) or not self.families:
            raise ValueError(f"families must have different names, at least one; got {len(self.families)}")
        names = [contender.name for contender in self.contenders]
        if len(set(names)) < len(names):
            raise ValueError(f"contenders must have different names; got {', '.join(names)}")
        weak = sum(not contender.strong for contender in self.contenders)
        if weak != 1 or len(names) < 2:
            raise ValueError(
                f"contenders must hold one weak attack and at least one strong one; got {weak} and {len(names) - weak}"
            )

    @property
    def weak(self) -> Contender:
        """The attack that is compared with the strongest."""
        return next(contender for contender in self.contenders if not contender.strong)

    # --- what is measured ---------------------------------------------------------------------------------------------

    @property
    def baseline(self) -> TrainingPoint:
        """What losses of accuracy are from."""
        return TrainingPoint(self.federation, NoDefense())

    @property
    def training(self) -> tuple[TrainingPoint, ...]:
        """Every training, without a defense first."""
        return (self.baseline, *(f.at(one, self.federation) for f in self.families for one in f.members))

    def attacked(
        self, family: Family | None, member: Defense, contender: Contender, *, first: bool
    ) -> ImagePoint:
        """An attack on what one client sends under a member of a family (None: without a defense), of the network at its
        first weights or at the end of ``learned`` rounds. Under secure aggregation all clients that are seen as one are
        attacked. ``ValueError`` where that network is not attacked."""
        return ImagePoint(
            self.federation.data, self.federation.B * self.federation.parties(member), self.network(first=first), member,
            contender.name, contender.attack, scope="global", relative=family is not None and family.relative,
        )  # fmt: skip

    def network(self, *, first: bool) -> NetworkSpec:
        """What is attacked: at its first weights, or at the end of ``learned`` rounds (``ValueError`` where it is not)."""
        if first:
            return self.federation.network
        if self.learned is None:
            raise ValueError("first must be True where learned is None; got False")
        return LearnedNetwork.after(replace(self.federation, rounds=self.learned))

    def table(self, *, first: bool) -> ImageTable:
        """The attacks on pictures at the first weights, or at the end of ``learned`` rounds (``ValueError`` where there are
        none)."""
        pairs: list[tuple[Family | None, Defense]] = [(None, NoDefense())]
        pairs += [(family, member) for family in self.families for member in family.members]
        points = tuple(
            self.attacked(family, member, contender, first=first)
            for family, member in pairs
            for contender in self.contenders
        )
        where = "first weights" if first else f"at the end of a training of {self.learned} rounds"
        return ImageTable(
            self.name if first else f"{self.name}-learned",
            f"defenses at equal utility, {where}",
            points,
            self.trials if first else self.learned_trials,
            self.seed,
            ("C17",),
        )

    @property
    def tables(self) -> tuple[ImageTable, ...]:
        """Those of all weights that are attacked."""
        return tuple(
            self.table(first=first) for first in ((True,) if self.learned is None else (True, False))
        )

    @property
    def setting(self) -> Setting:
        """What theory is told of its network."""
        return Setting.orthonormal(d=self.d, m=self.m, B=self.B, activation="relu")

    def in_theory(self, family: Family, member: Defense) -> Defense:
        """A member of a family in theory's network: sizes in root mean squares of entries become absolute."""
        from attack.image.observed import SIZED

        if not family.relative:
            return member
        unit = gradient_norm(self.setting) / math.sqrt(self.m)
        change: Any = replace
        name = SIZED[type(member)]
        found: Defense = change(member, **{name: unit * getattr(member, name)})
        return found

    @property
    def carried(self) -> tuple[Family, ...]:
        """The families whose strength theory's network has too."""
        return tuple(f for f in self.families if isinstance(f.members[0], CARRIED))

    @property
    def _theory_name(self) -> str:
        return f"utility-theory{self.name.removeprefix('utility')}"

    def theory_point(self, family: Family, member: Defense) -> Point:
        """The attacks on theory's network under a member of a family."""
        return Point(
            self._theory_name, Features("orthonormal", seed=61), self.d, self.m, self.B,
            defense=self.in_theory(family, member), attack=THEORY_ATTACKS[0], also=THEORY_ATTACKS[1:],
        )  # fmt: skip

    @property
    def theory(self) -> Experiment | None:
        """The attacks on theory's network at the same strengths; None where no family has them there."""
        name = self._theory_name
        points = tuple(self.theory_point(f, member) for f in self.carried for member in f.members)
        if not points:
            return None
        return Experiment(
            name, "defenses at equal utility", points, (), ("C17",), self.theory_trials, self.seed
        )

    # --- where it is kept ---------------------------------------------------------------------------------------------

    @property
    def file(self) -> str:
        """Name of the records of its trainings; those of the attacks bear the names of their tables."""
        return f"utility-training{self.name.removeprefix('utility')}.jsonl"


def train_all(
    comparison: Comparison,
    directory: Path,
    *,
    jobs: int = 1,
    threads: int = 1,
    device: str = "auto",
    progress: Progress | bool = True,
) -> list[TrainingRecord]:
    """Every training that ``directory`` has no record of yet; all records, trial by trial. ``LedgerError`` if the file holds
    others."""
    checks.integer("jobs", jobs, 1)
    checks.integer("threads", threads, 1)
    place = resolved(device)
    tasks: dict[Hashable, Callable[[], TrainingRecord]] = {
        (point.key, trial): partial(
            run_training, point, trial, comparison.seed, device=place, threads=threads
        )
        for trial in range(comparison.trainings)
        for point in comparison.training
    }
    with following(progress, comparison.file) as told:
        return carry_out(
            training_ledger(directory / comparison.file, comparison.seed, tasks),
            tasks,
            present(place.partition(":")[0], threads),
            jobs=jobs,
            progress=told,
        )
