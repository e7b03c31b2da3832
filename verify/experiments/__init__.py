"""The experiments. They are written down here, seeds and checks included, before they are run. A new one is an entry in
one of these files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

from bounds import DEFENSES, Defense
from bounds.registry import Live
from verify.experiments.activations import ACTIVATIONS
from verify.experiments.beside import BESIDE
from verify.experiments.defenses import ON_DEFENSES
from verify.experiments.grid import RANDOM, STANDARD, experiment
from verify.experiments.limit import LIMITS, LOWERS
from verify.experiments.map import PLANES
from verify.experiments.scaling import SCALING
from verify.experiments.upper import UPPER
from verify.measure.experiment import Experiment, Reduced

#: Every experiment that is written down.
WRITTEN: tuple[Experiment, ...] = (
    *ACTIVATIONS,
    *ON_DEFENSES,
    *SCALING,
    *UPPER,
    *LIMITS,
    *LOWERS,
    *BESIDE,
    *PLANES,
)


def default_experiment(family: type[Defense]) -> Experiment:
    """What is measured of a defense that no experiment above is about: every value of its default grids, two widths."""
    return experiment(
        family.name.replace("_", "-"),
        f"{family.name.replace('_', ' ').capitalize()}, two random features",
        (),
        STANDARD,
        features=RANDOM,
        d=50,
        m=(80_000, 320_000),
        defenses=family.grid(),
        trials=60,
        reduced=Reduced(in_all=True),
    )


@lru_cache(maxsize=16)
def catalogue(families: tuple[type[Defense], ...]) -> Mapping[str, Experiment]:
    """Every experiment by name: those above, and a default one for each defense that they leave out."""
    covered = {type(p.defense) for e in WRITTEN for p in e.points}
    extra = [default_experiment(family) for family in families if family not in covered]
    return MappingProxyType({e.name: e for e in (*WRITTEN, *extra)})


#: Every experiment by name.
EXPERIMENTS: Mapping[str, Experiment] = Live(lambda: catalogue(tuple(DEFENSES)))
