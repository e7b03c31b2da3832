"""What is stated about each attack: one table, by the attack's specification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from bounds import checks
from bounds.defense import Defense
from bounds.estimator import (
    AttackSpec,
    GradientMatching,
    LikelihoodAttack,
    MessagePassing,
    RowAttack,
    TensorAttack,
)
from bounds.kinds.limit.optimal import LIMIT
from bounds.kinds.lower.theorem import LOWER
from bounds.kinds.predicted.elementwise import FLOOR, PREDICTED_ELEMENTWISE
from bounds.kinds.predicted.likelihood import PREDICTED_LIKELIHOOD
from bounds.kinds.predicted.unbiased import PREDICTED
from bounds.kinds.rate import RATE
from bounds.kinds.upper.theorem import UPPER
from bounds.registry import from_outside, require_named, require_redefined
from bounds.statement import Bound, Kind

#: What holds of every attack on the gradient with respect to the output weights.
OF_ANY: tuple[Bound, ...] = (LIMIT, LOWER)

#: The theory of every attack. A new attack of this tree is added here, with its code as ``reconstruct`` in
#: ``attack.<name>``; one from outside by ``register_attack``.
THEORY: Mapping[type[AttackSpec], tuple[Bound, ...]] = {
    TensorAttack: (*OF_ANY, RATE, PREDICTED, PREDICTED_ELEMENTWISE, FLOOR, UPPER),
    LikelihoodAttack: (*OF_ANY, PREDICTED_LIKELIHOOD),
    MessagePassing: OF_ANY,
    GradientMatching: OF_ANY,  # a rival to measure against: nothing is stated of it alone
    RowAttack: (),
}


def register_attack(spec: type[AttackSpec], *bounds: Bound) -> None:
    """Add an attack from outside the tree, with what theory says of it; ``attack.register_reconstruct`` gives its code.

    Nothing is taken out; a class that is defined again (the same name in the same module) takes the place of its
    predecessor. Raises ``TypeError`` or ``ValueError`` for a class that is no complete specification, one of the tree, and a
    name that is taken.
    """
    if not (isinstance(spec, type) and issubclass(spec, AttackSpec)):
        raise TypeError(f"an attack must be a subclass of bounds.AttackSpec; got {checks.shown(spec)}")
    require_named(spec, "an attack")
    if not from_outside(spec):
        raise ValueError(
            f"{spec.__name__} must come from outside the tree; what is stated of its own is in THEORY"
        )
    for bound in bounds:
        checks.instance("bounds", bound, Bound)
    alike = [other for other in THEORY if other.name == spec.name]
    for other in alike:
        require_redefined(other, spec)
    table = cast("dict[type[AttackSpec], tuple[Bound, ...]]", THEORY)
    for other in alike:
        del table[other]
    table[spec] = bounds


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
