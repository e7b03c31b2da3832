"""Which settings a bound is tried in: a hypothesis strategy of points, small enough that a trial takes milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from bounds import (
    ACTIVATIONS,
    DEFENSES,
    AttackSpec,
    Defense,
    Kind,
    TensorAttack,
    checks,
    resolve_activation,
)
from bounds.gaussian.activations import ZERO
from bounds.setting import alternating
from verify.judge import JUDGES
from verify.measure.features import Features
from verify.measure.point import Point

if TYPE_CHECKING:
    from hypothesis import strategies as st


#: What labels may be, the simplest first: +1, -1, ...; all -1; +3, -3, ...; a first residual of 0.2 in the wide limit.
LABELS = ("alternating", "equal", "strong", "small_residual")


#: Pairwise cosines: well apart, and nearly parallel.
COSINES = (0.3, 0.9)


def point_strategy(
    defenses: Sequence[type[Defense] | Defense] = DEFENSES,
    d: tuple[int, int] = (3, 24),
    m: tuple[int, int] = (1_000, 32_000),
    B: tuple[int, int] = (1, 3),
    activations: Sequence[str] | None = None,
    cosines: Sequence[float] = COSINES,
    labels: Sequence[str] = LABELS,
    random_features: bool = True,
    attack: AttackSpec | None = None,
) -> st.SearchStrategy[Point]:
    """Points with their sizes in the given ranges (both ends included), unit features, seed 0.

    activations: names; None: those that a second-moment attack covers, relu first.

    defenses: families, of which members are drawn parameter by parameter from ``off`` and the declared grid, or single
    members. d, m: on a ladder that doubles from the lower end (d at least B), with the upper end; B: every integer.
    cosines: those that B vectors can have are tried; random_features: independent directions too. labels: of ``LABELS``.

    It is biased to edges by construction: the ends of every ladder (B = 1, B = d, the smallest width), nearly parallel
    features and a small residual are as likely as anything in between. It shrinks, in this order of importance, to small
    B, d, m, orthonormal features, the first labels, the first defense with its parameters off, the first activation.

    Raises ``ValueError`` or ``TypeError`` on an empty range or sequence, and on values out of range.
    """
    from hypothesis import reject
    from hypothesis import strategies as st

    activations = even_activations() if activations is None else activations
    for name, ends, least in (("d", d, 1), ("m", m, 2), ("B", B, 1)):
        if len(checks.several(name, ends)) != 2:
            raise ValueError(f"{name} must be a range (lo, hi); got {ends!r}")
        lo, hi = ends
        checks.integer(f"lower end of {name}", lo, least)
        checks.integer(f"upper end of {name}", hi, lo)
    checks.integer("upper end of B", B[1], 1, d[1], "at most the upper end of d")
    for name, values in (("defenses", defenses), ("activations", activations), ("labels", labels)):
        if not checks.several(name, values):
            raise ValueError(f"{name} must have at least one entry; got {values!r}")
    for activation in activations:
        _require_known(activation)
    for choice in labels:
        checks.choice("labels", choice, LABELS)
    for cosine in checks.several("cosines", cosines):
        checks.real("cosines", cosine, -1.0, 1.0)
    estimator = TensorAttack() if attack is None else attack
    checks.instance("attack", estimator, AttackSpec, "TensorAttack()")

    @st.composite
    def points(draw: st.DrawFn) -> Point:
        size = draw(st.integers(*B))
        dimension = draw(st.sampled_from(ladder(max(d[0], size), d[1])))
        width = draw(st.sampled_from(ladder(max(m[0], size + 1), m[1])))
        features = draw(st.sampled_from(_features(size, cosines, random_features)))
        chosen = draw(st.sampled_from(labels))
        family = draw(st.sampled_from(tuple(defenses)))
        if isinstance(family, Defense):
            defense = family
        else:
            parameters = {
                p.name: draw(st.sampled_from(tuple(dict.fromkeys((p.off, *p.grid)))))
                for p in family.parameters()
            }
            try:
                defense = family(**parameters)
            except ValueError:  # values that a family allows one by one, but not together
                reject()
        activation = draw(st.sampled_from(tuple(activations)))
        return Point(
            "check",
            features,
            dimension,
            width,
            size,
            _labels(chosen, size, activation),
            activation,
            defense,
            estimator,
        )

    return points()


def default_sizes(kind: Kind, variable: str = "m") -> dict[str, tuple[int, int]]:
    """The ranges of d, m and B in which a bound of that kind is tried: where trials are cheap and can refute it. A rate is
    measured over several sizes, from the one drawn on."""
    judge = JUDGES[kind]
    if judge.ladder and variable == "d":
        return {"d": (3, 6), "m": (32_000, 32_000), "B": (1, 3)}
    return {"d": (3, 24), "m": judge.widths, "B": (1, 3)}


@cache
def even_activations() -> tuple[str, ...]:
    """The activations that a second-moment attack covers, relu first."""
    return tuple(name for name, a in ACTIVATIONS.items() if abs(a.coefficient(2)) > ZERO)


def _require_known(activation: str) -> None:
    try:
        resolve_activation(activation)
    except ValueError as error:
        raise ValueError(f"activations: {error}") from None


def ladder(lo: int, hi: int) -> tuple[int, ...]:
    """lo, 2 lo, 4 lo, ... below hi, and hi."""
    steps = [lo]
    while 2 * steps[-1] < hi:
        steps.append(2 * steps[-1])
    return tuple(dict.fromkeys((*steps, hi)))


def _features(size: int, cosines: Sequence[float], random: bool) -> tuple[Features, ...]:
    if size == 1:
        return (Features("orthonormal"),)
    possible = [c for c in cosines if -1 / (size - 1) < c < 1]
    return (
        Features("orthonormal"),
        *(Features("cosine", 0, c) for c in possible),
        *([Features("random")] if random else []),
    )


def _labels(chosen: str, size: int, activation: str) -> tuple[float, ...]:
    signs = alternating(size)
    if chosen == "equal":
        return (-1.0,) * size
    if chosen == "strong":
        return tuple(3 * s for s in signs)
    if chosen == "small_residual":
        return (round(resolve_activation(activation).coefficient(0) - 0.2, 3), *signs[1:])
    return signs
