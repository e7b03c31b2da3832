"""What is stated about each attack: one table, by the attack's specification."""

from __future__ import annotations

from collections.abc import Mapping

from bounds.defense import Defense
from bounds.estimator import AttackSpec, TensorAttack
from bounds.kinds.predicted.elementwise import FLOOR, PREDICTED_ELEMENTWISE
from bounds.kinds.predicted.unbiased import PREDICTED
from bounds.kinds.rate import RATE
from bounds.kinds.upper.theorem import UPPER
from bounds.statement import Bound, Kind

#: The theory of every attack. A new attack is added here, with its code as ``reconstruct`` in ``attack.<name>``.
THEORY: Mapping[type[AttackSpec], tuple[Bound, ...]] = {
    TensorAttack: (RATE, PREDICTED, PREDICTED_ELEMENTWISE, FLOOR, UPPER),
}


def stated(family: type[Defense], attack: type[AttackSpec] = TensorAttack) -> dict[Kind, Bound]:
    """The statements about a family of defenses under an attack, as they read for it.

    Raises ``ArithmeticError`` if there are two of one kind: a defect of the table.
    """
    found: dict[Kind, Bound] = {}
    for bound in THEORY[attack]:
        about = bound.about(family)
        if about is not None and found.setdefault(about.kind, about) is not about:
            raise ArithmeticError(
                f"two statements of kind {about.kind} about {family.name} under {attack.name}"
            )
    return found
