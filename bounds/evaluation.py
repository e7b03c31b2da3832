"""Every kind of statement about a defense, a setting and an attack."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import sympy as sp

from bounds import checks
from bounds.defense import Defense
from bounds.errors import UnsupportedBound
from bounds.estimator import AttackSpec, TensorAttack
from bounds.kinds.stated import THEORY, stated
from bounds.setting import Setting
from bounds.statement import BoundValue, Kind


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

    def __repr__(self) -> str:
        """A table: a line for each kind with its value and what that is, or why there is none. Computes all of them."""
        rows = [("kind", "value", "statement")]
        rows += [
            (str(kind), "None" if b.value is None else f"{b.value:.5g}", b.why) for kind, b in self.items()
        ]
        widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
        return "\n".join(f"{kind:{widths[0]}}  {value:{widths[1]}}  {why}" for kind, value, why in rows)

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
    def limit(self) -> float | None:
        return self[Kind.LIMIT].value

    @property
    def floor(self) -> float | None:
        return self[Kind.FLOOR].value

    @property
    def rate_scale(self) -> float | None:
        """The rate's expression at this setting. It has no constant and is never a bound."""
        return self[Kind.RATE].value


def evaluate(
    defense: Defense,
    setting: Setting,
    attack: AttackSpec | None = None,
    delta: float = 0.05,
    *,
    observation: Any = None,
    net: Any = None,
) -> Evaluation:
    """Every kind of statement about ``defense`` in ``setting`` for the estimator ``attack`` (None: the tensor attack).

    delta in (0, 1): an UPPER holds with probability at least 1 - delta. ``observation`` and ``net``: what the server has,
    for the statements that need it. A kind without a proof has value None and a reason; every kind is computed when it is
    first read. Raises ``TypeError`` or ``ValueError`` on bad input.
    """
    checks.instance("defense", defense, Defense, "GradientNoise(sigma=1.0)")
    checks.instance("setting", setting, Setting)
    checks.inside("delta", delta)
    attack = TensorAttack() if attack is None else attack
    if type(attack) not in THEORY:
        known = " or a ".join(spec.__name__ for spec in THEORY)
        raise TypeError(f"attack must be a {known}; got {attack!r} ({type(attack).__name__})")
    bounds = stated(type(defense), type(attack))
    return Evaluation(
        {
            kind: partial(
                bounds[kind].value, defense, setting, attack, delta, observation=observation, net=net
            )
            if kind in bounds
            else BoundValue(None, f"not proved: no {kind} is stated for {defense.name}")
            for kind in Kind
        }
    )


def expression(
    defense: Defense | type[Defense], kind: Kind | str, attack: type[AttackSpec] = TensorAttack
) -> sp.Expr:
    """The statement about an attack as a sympy expression over ``bounds.SYMBOLS``.

    Raises ``UnsupportedBound`` when that kind is not stated for the defense, ``ValueError`` for an unknown kind.
    """
    family = defense if isinstance(defense, type) else type(defense)
    if not issubclass(family, Defense):
        raise TypeError(f"defense must be a Defense or a class of them; got {defense!r}")
    wanted = Kind(checks.choice("kind", str(kind), tuple(Kind)))
    found = stated(family, attack).get(wanted)
    if found is None:
        raise UnsupportedBound(f"not proved: no {wanted} is stated for {family.name}")
    return found.symbolic
