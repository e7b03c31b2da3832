"""Kinds of statement, a bound, and its evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial

import sympy as sp

from bounds import checks
from bounds.defense import Defense
from bounds.setting import Setting
from bounds.tensor_attack import TensorAttack


class Kind(StrEnum):
    """What sort of guarantee a statement is; the kind chooses how it is compared with experiment."""

    RATE = "rate"  #: order of growth only, no constant
    UPPER = "upper"  #: non-asymptotic, explicit constants, holds with probability at least 1 - delta
    PREDICTED = "predicted"  #: first-order asymptotics of a named estimator; ratio to experiment tends to 1
    LOWER = "lower"  #: information-theoretic
    FLOOR = "floor"  #: limit as m grows without bound


class UnsupportedBound(Exception):
    """Not proved (or not defined) here: a fact about the theory, not bad input."""


class TrivialBound(UnsupportedBound):
    """Proved, but no better than what holds of anything: carries that value, and the named parts that are known."""

    def __init__(self, value: float, why: str, details: Mapping[str, float]) -> None:
        super().__init__(why)
        self.value, self.details = value, details


@dataclass(frozen=True)
class BoundValue:
    """One evaluated statement.

    value: the number, or None when there is none; ``why`` then says the reason, else what the number is.
    statistic: the statistic of experiment that it speaks about. details: named parts of the value. trivial: the value is
    no better than what holds of anything, and ``why`` says for what reason.
    """

    value: float | None
    why: str
    assumptions: tuple[str, ...] = ()
    source: str = ""
    probability: float | None = None
    statistic: str = ""
    details: Mapping[str, float] = field(default_factory=dict)
    trivial: bool = False


@dataclass(frozen=True)
class Bound:
    """One statement about one defense. ``numeric(defense, setting, attack, delta)`` returns the value and its named
    parts, and raises ``UnsupportedBound`` where the statement does not apply, ``TrivialBound`` where it is vacuous;
    ``symbolic`` is the same over ``SYMBOLS`` (constants such as K_perp are among the named parts)."""

    kind: Kind
    statement: str
    source: str
    statistic: str
    assumptions: tuple[str, ...]
    numeric: Callable[[Defense, Setting, TensorAttack, float], tuple[float, Mapping[str, float]]]
    symbolic: sp.Expr

    def value(self, defense: Defense, setting: Setting, attack: TensorAttack, delta: float) -> BoundValue:
        probability = 1 - delta if self.kind is Kind.UPPER else None
        try:
            number, details = self.numeric(defense, setting, attack, delta)
        except TrivialBound as found:
            return BoundValue(
                found.value,
                str(found),
                self.assumptions,
                self.source,
                probability,
                self.statistic,
                dict(found.details),
                trivial=True,
            )
        except UnsupportedBound as reason:
            return BoundValue(None, str(reason), self.assumptions, self.source, None, self.statistic)
        if not math.isfinite(number):
            raise ArithmeticError(
                f"{self.kind} of {defense!r} is not finite: {number} (a defect of the bound)"
            )
        return BoundValue(
            number, self.statement, self.assumptions, self.source, probability, self.statistic, dict(details)
        )


class Evaluation(Mapping[Kind, BoundValue]):
    """All kinds of statement for one defense, setting and attack: a mapping with one entry for every ``Kind``.

    A kind is computed when it is first read, and kept: a proved bound may take seconds, the others do not."""

    def __init__(self, values: Mapping[Kind, BoundValue | Callable[[], BoundValue]]) -> None:
        self._values = dict(values)

    def __getitem__(self, kind: Kind) -> BoundValue:
        found = self._values[kind]
        if not isinstance(found, BoundValue):
            found = self._values[kind] = found()
        return found

    def __iter__(self) -> Iterator[Kind]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def upper(self) -> float | None:
        return self[Kind.UPPER].value

    @property
    def predicted(self) -> float | None:
        return self[Kind.PREDICTED].value

    @property
    def lower(self) -> float | None:
        return self[Kind.LOWER].value

    @property
    def floor(self) -> float | None:
        return self[Kind.FLOOR].value

    @property
    def rate_scale(self) -> float | None:
        """The rate's expression at this setting. It has no constant and is never a bound."""
        return self[Kind.RATE].value


def evaluate(
    defense: Defense, setting: Setting, attack: TensorAttack | None = None, delta: float = 0.05
) -> Evaluation:
    """Every kind of statement about ``defense`` in ``setting`` for the estimator ``attack``.

    delta in (0, 1): an UPPER holds with probability at least 1 - delta. A kind without a proof has value None and a
    reason; every kind is computed when it is first read. Raises ``TypeError`` or ``ValueError`` on bad input.
    """
    checks.instance("defense", defense, Defense, "GradientNoise(sigma=1.0)")
    checks.instance("setting", setting, Setting)
    if not 0 < checks.real("delta", delta) < 1:
        raise ValueError(f"delta must lie strictly between 0 and 1; got {delta}")
    attack = TensorAttack() if attack is None else attack
    checks.instance("attack", attack, TensorAttack)
    stated = {bound.kind: bound for bound in defense.bounds}
    return Evaluation(
        {
            kind: partial(stated[kind].value, defense, setting, attack, delta)
            if kind in stated
            else BoundValue(None, f"not proved: no {kind} is stated for {defense.name}")
            for kind in Kind
        }
    )


def expression(defense: Defense | type[Defense], kind: Kind | str) -> sp.Expr:
    """The statement as a sympy expression over ``bounds.SYMBOLS``.

    Raises ``UnsupportedBound`` when that kind is not stated for the defense, ``ValueError`` for an unknown kind.
    """
    if not (isinstance(defense, Defense) or (isinstance(defense, type) and issubclass(defense, Defense))):
        raise TypeError(f"defense must be a Defense or a class of them; got {defense!r}")
    wanted = Kind(checks.choice("kind", str(kind), tuple(Kind)))
    for bound in defense.bounds:
        if bound.kind is wanted:
            return bound.symbolic
    raise UnsupportedBound(f"not proved: no {wanted} is stated for {defense.name}")
