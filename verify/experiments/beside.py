"""The other attacks on the defenses of ``defenses.py``: each beside one of its experiments, in whose figure it is drawn.

The tensor attack averages over hundreds of thousands of neurons; least squares needs a few for each unknown. So every attack
has widths and trials of its own, in records of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bounds import AttackSpec, LikelihoodAttack, MessagePassing
from verify.experiments.defenses import ON_DEFENSES
from verify.experiments.grid import RESIDUALIZED
from verify.judge.limit import LimitCheck
from verify.measure.check import Check
from verify.measure.experiment import Experiment, Reduced

#: Against strength: one width, a hundred neurons for each unknown of two features.
STRENGTH_WIDTH = 10_000

#: At each point: trials are seen, and compared with the tensor attack on the same observations.
TRIALS = 5

#: Of the quick versions: the quick run of everything is to name the strongest attack on every defense, no more.
QUICK_TRIALS, QUICK_WIDTH = 2, 2_000

#: By the experiment that it stands beside, the widths of the likelihood attack; strengths have one.
LIKELIHOOD: Mapping[str, tuple[int, ...]] = {
    "undefended": (400, 2_000, 8_000),
    "noise": (1_000, 4_000, 16_000),
    "dropout": (500, 2_000, 8_000),
    "clipping": (1_000, 4_000),
    "dp-sgd": (1_000, 4_000, 16_000),
    "rounding": (500, 2_000, 8_000),
    "biased": (500, 2_000, 8_000),
    "noisy-pruning": (STRENGTH_WIDTH,),
    "pruning-batch": (4_000,),
    "dropout-against-pruning": (2_000, 8_000),
    "local-aggregation": (1_000, 4_000),
    "batches": (2_000, 8_000),
    **{e.name: (STRENGTH_WIDTH,) for e in ON_DEFENSES if e.name.startswith("strength-")},
}

#: The same of message passing, on laws that act on each entry by itself; costlier where the law has no formula.
MESSAGE_PASSING: Mapping[str, tuple[int, ...]] = {
    "noise": (1_000, 4_000),
    "rounding": (500, 2_000),
    "biased": (500, 2_000),
    "strength-noise": (STRENGTH_WIDTH,),
}

#: Where what is seen leaves every attack an error: none of these two is to go below the limit.
LIMITED = ("noise", "rounding", "strength-noise")


def beside(
    main: Experiment, attack: AttackSpec, widths: Sequence[int], trials: int, *, in_all: bool
) -> Experiment:
    """``attack`` in every setting of ``main``, at these widths, under a name of its own, and the tensor attack on the same
    observations: what compares them needs equal widths, at which that costs next to nothing. Its quick version stands beside
    that of ``main``, in the same settings, and in the quick run of everything if that of ``main`` is and ``in_all``."""
    name = f"{main.name}-{attack.name.replace('_', '-')}"
    here = (
        replace(p, experiment=name, m=widths[0], attack=attack, also=(RESIDUALIZED,)) for p in main.points
    )
    settings = dict.fromkeys(here)
    points = dict.fromkeys(replace(p, m=m) for m in widths for p in settings)
    rules: tuple[Check, ...] = (LimitCheck(),) if main.name in LIMITED else ()
    kept = main.reduced
    quick = kept and Reduced(
        width=QUICK_WIDTH,
        trials=QUICK_TRIALS,
        defenses=kept.defenses,
        batches=kept.batches,
        narrowest=max(widths),  # of each setting one point, cut down to that width
        in_all=kept.in_all and in_all,
    )
    return Experiment(
        name,
        main.title,
        tuple(points),
        rules,
        main.claims,
        trials,
        main.seed,
        reduced=quick,
        beside=main.name,
    )


#: What these attacks reach is told beside the verdicts; of what no attack goes below, ``limit.py`` has more.
BESIDE: tuple[Experiment, ...] = tuple(
    beside(main, attack, widths[main.name], TRIALS, in_all=in_all)
    for attack, widths, in_all in (
        (LikelihoodAttack(), LIKELIHOOD, True),
        (MessagePassing(), MESSAGE_PASSING, False),
    )
    for main in ON_DEFENSES
    if main.name in widths
)
