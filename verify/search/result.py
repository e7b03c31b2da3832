"""What a search for a counterexample found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from bounds import Kind, serial
from bounds.words import how_many
from verify.measure.point import Point
from verify.measure.series import label


@dataclass(frozen=True)
class Counterexample:
    """One setting in which a bound is wrong.

    point: defense, setting and estimator. bound: its number there (RATE:
    its exponent). rms, low, high: measured root mean square of R in the confirming trials and its
    99 % interval (RATE: exponent). p_value: of the confirming trials, by the rule of the kind.
    n, failed: confirming trials with and without a result. first_trial, trials, seed: which they were. text: the rule's
    verdict in one line. reproduce: one line of Python that measures it again, given ``my_bound``.
    """

    point: Point
    bound: float
    rms: float
    low: float
    high: float
    n: int
    failed: int
    p_value: float
    significance: float
    seed: int
    first_trial: int
    trials: int
    text: str
    reproduce: str

    def __str__(self) -> str:
        return "\n".join(
            (
                f"violated at {label(self.point)}, bound {self.bound:.5g}",
                f"  {self.text}",
                f"  p = {self.p_value:.2g} (level {self.significance:.2g}) on trials {self.first_trial} to "
                f"{self.first_trial + self.trials - 1}, seed {self.seed}",
                f"  again: {self.reproduce}",
            )
        )


@dataclass(frozen=True)
class CheckResult:
    """What a search found. status: "refuted" (``counterexample`` says where), "survived" (nothing found, and at least one
    setting was informative), "uninformative" (no setting could have refuted or supported anything), "interrupted" (by the
    keyboard, before anything was found).

    settings: distinct settings in which the attack ran; trials: of it, failed_trials: those without a result.
    informative: settings whose statement applies and whose attack was better than guessing zero. Not counted as support:
    unsupported (``UnsupportedBound`` or None), vacuous (says nothing of anything), beyond_first_order, excluded (by
    ``where``). unconfirmed: settings that looked refuted and were not on fresh trials.
    smallest_slack: over informative settings, how much room the bound left, at ``tightest``. UPPER: bound over the 1 -
    delta quantile of R; LOWER, FLOOR: measured root mean square over bound (1: none left). PREDICTED, RATE: tolerance less
    the deviation of ratio or exponent (0: none left). None if there is none. interrupted: the search was cut short; a
    counterexample is then confirmed but perhaps not minimal. alpha: probability of refuting a true bound, at most;
    significance: of each test.
    """

    kind: Kind
    status: str
    counterexample: Counterexample | None
    settings: int
    trials: int
    failed_trials: int
    informative: int
    unsupported: int
    vacuous: int
    beyond_first_order: int
    excluded: int
    unconfirmed: int
    smallest_slack: float | None
    tightest: Point | None
    alpha: float
    significance: float
    seed: int
    interrupted: bool

    @property
    def survived(self) -> bool:
        return self.status == "survived"

    @property
    def refuted(self) -> bool:
        return self.status == "refuted"

    def __str__(self) -> str:
        head = f"{self.kind} {self.status}" + (" (interrupted)" if self.interrupted else "")
        if self.status == "uninformative":
            head += ": no setting could have refuted it, which supports nothing"
        if self.counterexample is not None:
            head += f": {self.counterexample}"
        skipped = ", ".join(
            f"{n} {name}"
            for name, n in (
                ("not supported", self.unsupported),
                ("vacuous", self.vacuous),
                ("beyond first order", self.beyond_first_order),
                ("excluded", self.excluded),
            )
            if n
        )
        tried = (
            f"tried {how_many(self.settings, 'setting')}, {self.informative} of them informative, "
            + how_many(self.trials, "trial")
            + (f", {self.failed_trials} FAILED" if self.failed_trials else "")
            + (f"; {self.unconfirmed} looked refuted and were not confirmed" if self.unconfirmed else "")
            + (f"; not run: {skipped}" if skipped else "")
        )
        slack = (
            f"\nsmallest slack {self.smallest_slack:.3g} at {label(self.tightest)}"
            if self.smallest_slack is not None and self.tightest is not None
            else ""
        )
        return f"{head}\n{tried}{slack}"

    def to_dict(self) -> dict[str, Any]:
        """As strict JSON values; points by ``Point.to_dict``, infinite ends of intervals by name."""
        raw = asdict(self)
        raw["tightest"] = None if self.tightest is None else self.tightest.to_dict()
        if self.counterexample is not None:
            raw["counterexample"]["point"] = self.counterexample.point.to_dict()
        return dict(serial.plain(raw))
