"""Kinds of statement, a bound, and its evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import sympy as sp

from bounds.defense import Defense
from bounds.errors import TrivialBound, UnsupportedBound
from bounds.estimator import AttackSpec
from bounds.law import Law
from bounds.setting import SIZES, Setting


class Kind(StrEnum):
    """What sort of guarantee a statement is; the kind chooses how it is compared with experiment."""

    RATE = "rate"  #: order of growth only, no constant
    UPPER = "upper"  #: non-asymptotic, explicit constants, holds with probability at least 1 - delta
    PREDICTED = "predicted"  #: first-order asymptotics of a named estimator; ratio to experiment tends to 1
    LOWER = "lower"  #: information-theoretic
    LIMIT = "limit"  #: least error of any attack as d and m grow at the same rate
    FLOOR = "floor"  #: limit as m grows without bound


@dataclass(frozen=True)
class BoundValue:
    """One evaluated statement.

    value: the number, or None when there is none; ``why`` then says the reason, else what the number is.
    statistic: the statistic of experiment that it speaks about. details: named parts of the value, or what is known without
    one. trivial: the value is
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


#: What a statement may need besides defense, setting, attack and delta: what the server has.
NEEDS = frozenset({"observation", "net"})


@dataclass(frozen=True)
class Bound:
    """One statement about an attack, for every defense with one of ``laws`` (whatever its law where there are none).

    ``numeric(defense, setting, attack, delta)``, with the keywords that ``needs`` names out of ``NEEDS``, returns the
    value and its named parts, and raises ``UnsupportedBound`` where the statement does not apply, ``TrivialBound``
    where it is vacuous; ``of_setting`` gives what it assumes of a setting besides; ``symbolic`` is the same over
    ``bounds.SYMBOLS`` (constants such as K_perp are among the named parts). A statement with the symbol ``factor`` is
    about the defenses that state a rate, and read with theirs.
    """

    kind: Kind
    statement: str
    source: str
    statistic: str
    assumptions: tuple[str, ...]
    numeric: Callable[..., tuple[float, Mapping[str, float]]]
    symbolic: sp.Expr
    laws: tuple[type[Law], ...] = ()
    needs: frozenset[str] = frozenset()
    of_setting: Callable[[Setting], tuple[str, ...]] | None = None

    def __post_init__(self) -> None:
        if not self.needs <= NEEDS:
            raise ValueError(f"needs must be among {', '.join(sorted(NEEDS))}; got {sorted(self.needs)}")

    def about(self, family: type[Defense]) -> Bound | None:
        """The statement as it reads for a family of defenses; None if it says nothing about it."""
        if self.laws and not all(issubclass(law, self.laws) for law in family.laws()):
            return None
        if SIZES["factor"] not in self.symbolic.free_symbols:
            return self
        if family.rate is None:
            return None
        return replace(
            self, symbolic=self.symbolic.subs(SIZES["factor"], family.rate), source=family.rate_source
        )

    def value(
        self, defense: Defense, setting: Setting, attack: AttackSpec, delta: float, **given: Any
    ) -> BoundValue:
        """The statement evaluated; ``given``: what there is of ``NEEDS``, None or left out where there is nothing."""
        probability = 1 - delta if self.kind is Kind.UPPER else None
        assumptions = self.assumptions + (self.of_setting(setting) if self.of_setting else ())
        known = BoundValue(None, self.statement, assumptions, self.source, None, self.statistic)
        missing = sorted(name for name in self.needs if given.get(name) is None)
        if missing:
            return replace(
                known, why=f"not proved without {' and '.join(missing)}, which evaluate was not given"
            )
        try:
            number, details = self.numeric(
                defense, setting, attack, delta, **{name: given[name] for name in self.needs}
            )
        except TrivialBound as found:
            details = dict(found.details)
            return replace(
                known,
                value=found.value,
                why=str(found),
                probability=probability,
                details=details,
                trivial=True,
            )
        except UnsupportedBound as reason:
            return replace(known, why=str(reason), details=dict(reason.details))
        if not math.isfinite(number):
            raise ArithmeticError(
                f"{self.kind} of {defense!r} is not finite: {number} (a defect of the bound)"
            )
        return replace(known, value=number, probability=probability, details=dict(details))
