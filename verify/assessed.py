"""What is said of a shared gradient and the attack on it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from verify.premises import Premise

if TYPE_CHECKING:
    from attack import Diagnostics
    from attack.own.attack import GradientAttack
    from attack.own.findings import Finding
    from attack.own.outputs import OutputsAttack


@dataclass(frozen=True)
class Confidence:
    """status: "ok"; "directions only", where norms are not known and features are unit vectors; "suspect" or "failed", with
    reasons. It speaks of the features under the ``premises`` that this gradient does not test; labels and residuals follow
    from more of them.

    method: the function that gave the result, "likelihood", "tensor_attack", "sparse_recovery", "first_layer_attack" or
    "least_squares"; "dual_directions" of several outputs.
    predicted: PREDICTED R of the features, in their own units, at the reconstruction in place of the truth, the power that
    is not explained taken for noise; relative: over the root mean square norm of the features; both speak of unit vectors
    where ``directions_only``. unexplained: share of the gradient's power that the reconstruction leaves; expected: the share
    that errors of the predicted size leave without noise; noise: standard deviation of independent noise on the entries
    that would make up the difference. For dL/dW noise is what lies outside the features' span and ``expected`` contains
    it. Of exact methods (likelihood, sparse recovery, least squares) predicted is what is left of the gradient carried over
    to the features, and expected what rounding leaves. None where there is no number, nor a meaning for one: another model
    than the one assumed, or errors as large as the features. diagnostics: the attack's own.
    """

    status: str
    reasons: tuple[str, ...]
    premises: tuple[Premise, ...] = ()
    method: str | None = None
    directions_only: bool = False
    predicted: float | None = None
    relative: float | None = None
    unexplained: float | None = None
    expected: float | None = None
    noise: float | None = None
    diagnostics: Diagnostics | None = None

    @property
    def sign_free(self) -> bool:
        """Whether each feature is known up to its sign only, and its label not at all."""
        return self.diagnostics is not None and self.diagnostics.sign_free

    @property
    def assumed(self) -> tuple[str, ...]:
        """Names of what is neither told by the user nor by this gradient."""
        return tuple(p.name for p in self.premises if p.source == "assumed" and not p.tested)

    @property
    def untested(self) -> tuple[str, ...]:
        """Names of what the user told, this gradient does not test, and features depend on."""
        return tuple(p.name for p in self.premises if p.source == "told" and p.of_features and not p.tested)

    @property
    def exact(self) -> bool:
        """Whether dL/da is explained to its rounding, also at neurons that were not fitted."""
        return self.diagnostics is not None and self.diagnostics.exact is True

    @property
    def verdict(self) -> str:
        """The status, and what a result that is claimed rests on untested."""
        if not self.untested or self.status not in ("ok", "directions only"):
            return self.status
        return f"{self.status}, if what is told of {' and '.join(self.untested)} is right"

    def __str__(self) -> str:
        """Status and reasons, the numbers, and what it rests on, a line each."""
        lines = [self.verdict, *(f"  {reason}" for reason in self.reasons)]
        if self.predicted is not None and self.relative is not None:
            what = "directions" if self.directions_only else "features"
            lines.append(
                f"  predicted error of the {what} {self.predicted:.2g} ({self.relative:.2g} of their norm), by {self.method}"
            )
        if self.unexplained is not None and self.expected is not None:
            lines.append(
                f"  {self.unexplained:.2g} of the gradient's power not explained, {self.expected:.2g} expected"
            )
        return "\n".join((*lines, *(f"  {premise}" for premise in self.premises)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self) | {
            "assumed": self.assumed,
            "untested": self.untested,
            "sign_free": self.sign_free,
            "exact": self.exact,
        }


@dataclass(frozen=True, eq=False)
class Assessed:
    """What was found about a shared gradient, the attack's result (None without one) and the confidence in it."""

    findings: tuple[Finding, ...]
    attacked: GradientAttack | OutputsAttack | None
    confidence: Confidence

    def __repr__(self) -> str:
        """A few lines without arrays: warnings by name, their texts are in ``findings``."""
        warned = ", ".join(f.name for f in self.findings if f.level != "ok")
        return f"{self.confidence}\n  findings: {warned or 'nothing against the model'}"
