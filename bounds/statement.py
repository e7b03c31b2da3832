"""Kinds of statement, a bound, and its evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import sympy as sp

from bounds.defense import Defense
from bounds.errors import TrivialBound, UnsupportedBound
from bounds.estimator import TensorAttack
from bounds.setting import Setting


class Kind(StrEnum):
    """What sort of guarantee a statement is; the kind chooses how it is compared with experiment."""

    RATE = "rate"  #: order of growth only, no constant
    UPPER = "upper"  #: non-asymptotic, explicit constants, holds with probability at least 1 - delta
    PREDICTED = "predicted"  #: first-order asymptotics of a named estimator; ratio to experiment tends to 1
    LOWER = "lower"  #: information-theoretic
    FLOOR = "floor"  #: limit as m grows without bound


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
