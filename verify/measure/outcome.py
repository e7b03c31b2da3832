"""What one attack gave in one trial."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bounds import checks
from verify.measure.failure import Failure

#: The numbers of an outcome, in the order of the columns of committed records.
MEASURED = ("rmse", "rmse_orthogonal", "rmse_inplane", "rmse_span", "label_accuracy", "residual_error")

#: An error below this is exact recovery: rounding alone is left of it (1e-12 where least squares ends), and no attack that
#: is merely close comes so near. No logarithmic axis shows it beside others: it is counted at the foot.
EXACT = 1e-6

#: rmse^2 = orthogonal^2 + inplane^2 holds to this relative precision (and absolutely, where R is rounding alone).
SUM_OF_PARTS = 1e-8, 1e-20


@dataclass(frozen=True)
class Outcome:
    """The error of one reconstruction, or why there is none.

    ``rmse`` is R = min_pi sqrt(mean_i |x_i - xhat_pi(i)|^2), and ``rmse_orthogonal``, ``rmse_inplane`` are its parts outside
    and inside the span of the features (rmse^2 = orthogonal^2 + inplane^2). ``rmse_span`` is the root mean square distance
    of the features from the span of the reconstructions (None in records of version 1). ``label_accuracy`` is the fraction
    of samples with |yhat_i - y_i| < 1 (for labels +1, -1: the right one is nearest); ``residual_error`` the largest
    |rhat_i - r_i| against the client's true residuals. All these are None exactly if there is a ``reason`` why the trial
    failed. ``diagnostics``: what the attack tells of itself; committed records do not keep them.

    Raises ``ValueError`` or ``TypeError`` for what cannot be true.
    """

    reason: str = ""
    rmse: float | None = None
    rmse_orthogonal: float | None = None
    rmse_inplane: float | None = None
    rmse_span: float | None = None
    label_accuracy: float | None = None
    residual_error: float | None = None
    diagnostics: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checks.instance("reason", self.reason, str)
        checks.instance("diagnostics", self.diagnostics, Mapping)
        for name in MEASURED:
            value = getattr(self, name)
            if self.failed and value is not None:
                raise ValueError(f"{name} must be None where the trial failed; got {value!r}")
            if not self.failed and not (name == "rmse_span" and value is None):
                checks.real(name, value, 0.0, 1.0 if name == "label_accuracy" else math.inf)
        if not self.failed:
            self._check_sum()

    def _check_sum(self) -> None:
        assert self.rmse is not None and self.rmse_orthogonal is not None and self.rmse_inplane is not None
        relative, absolute = SUM_OF_PARTS
        # Squares of numbers above 1e154 would overflow; hypot does not.
        parts = math.hypot(self.rmse_orthogonal, self.rmse_inplane)
        if not math.isclose(self.rmse, parts, rel_tol=relative, abs_tol=math.sqrt(absolute)):
            raise ValueError(
                f"rmse must be the root of the sum of the squares of its parts, {parts:.6g}; got {self.rmse:.6g}"
            )

    @staticmethod
    def of_failure(failure: Failure) -> Outcome:
        """The outcome of an attack that reports that it has no result."""
        return Outcome(reason=failure.reason, diagnostics=failure.diagnostics)

    @property
    def failed(self) -> bool:
        """Is there no result?"""
        return bool(self.reason)

    @property
    def exact(self) -> bool:
        """Are the features recovered to rounding? Never where there is no result."""
        return self.rmse is not None and self.rmse < EXACT

    @property
    def status(self) -> str:
        """ "ok" or "failed"."""
        return "failed" if self.failed else "ok"

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values, with the status for a reader's sake."""
        numbers = {name: getattr(self, name) for name in MEASURED}
        told = {"status": self.status, "reason": self.reason, "diagnostics": dict(self.diagnostics)}
        return told | numbers

    @staticmethod
    def from_dict(raw: Mapping[str, Any]) -> Outcome:
        """Inverse of ``to_dict``. ``ValueError`` or ``TypeError`` for anything that is not its result."""
        wanted = {"status", "reason", "diagnostics", *MEASURED}
        if raw.keys() != wanted:
            raise ValueError(f"fields missing or unknown: {', '.join(sorted(raw.keys() ^ wanted))}")
        if raw["status"] not in ("ok", "failed"):
            raise ValueError(f"status must be one of ok, failed; got {raw['status']!r}")
        if raw["status"] == "failed" and not raw["reason"]:
            raise ValueError("reason must be given where status is 'failed'; got an empty one")
        if raw["status"] == "ok" and raw["reason"]:
            raise ValueError(f"reason must be empty where status is 'ok'; got {raw['reason']!r}")
        return Outcome(**{k: v for k, v in raw.items() if k != "status"})


@dataclass(frozen=True)
class TrialOutcome(Outcome):
    """An outcome and the number of its trial."""

    trial: int = 0
