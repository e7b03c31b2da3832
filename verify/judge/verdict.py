"""The four verdicts, what every judged statement tells, and what all rules share.

A verdict is one of four. "holds" and "fails" are decisions: the confidence interval lies inside, or wholly
outside, what the statement allows. "inconclusive": neither; more trials would decide. "uninformative":
no statement applies (not proved, vacuous, beyond first order), or the attack was no better than guessing zero, which
can confirm nothing (it can still refute). A failed trial is never counted out: with one, no statement about the size
of the error "holds" (UPPER, which speaks of a fraction of trials, counts it as a violation), and where all failed a
prediction fails.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from bounds import Kind

Verdict: TypeAlias = Literal["holds", "fails", "inconclusive", "uninformative"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """One statement judged. ``defense`` (its name), ``attack`` (in words) and ``series`` say of which points, ``text`` says
    it all in one line; ``why`` no statement applies or nothing is learnt, its head before a colon (empty: neither)."""

    kind: Kind
    experiment: str
    defense: str
    attack: str
    series: str
    verdict: Verdict
    text: str
    n: int
    failed: int
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As strict JSON: infinite ends of an interval, and what could not be computed, become None."""
        return {
            k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(self).items()
        }


def within(low: float, high: float, lo: float, hi: float) -> Verdict:
    """Is the interval [low, high] inside [lo, hi], disjoint from it, or neither?"""
    if lo <= low and high <= hi:
        return "holds"
    return "fails" if high < lo or low > hi else "inconclusive"


def settled(verdict: Verdict, failed: int, unstated: str, nothing: str = "") -> Verdict:
    """``unstated``: why no statement applies here; nothing can then be said. ``nothing``: why these trials teach nothing
    in favour of one; what they refute stays refuted."""
    if unstated or (nothing and verdict != "fails"):
        return "uninformative"
    return "inconclusive" if failed and verdict == "holds" else verdict


def noted(verdict: Verdict, n: int, failed: int, nothing: str) -> str:
    note = f"{verdict}: {nothing}" if nothing else verdict
    note += f"; consistent, n = {n}" if verdict == "inconclusive" else f", n = {n}"
    return note + (f", {failed} FAILED" if failed else "")


def theory_words(name: str, value: float | None) -> str:
    """What theory says, in words; the reason, where it says nothing, is in the verdict's note."""
    return f"{name} not stated" if value is None or math.isnan(value) else f"{name} {value:.4f}"


def place(where: Mapping[str, str]) -> dict[str, str]:
    """Where a result belongs, as ``base.named`` has it; nowhere unless told."""
    return {name: where.get(name, "") for name in ("experiment", "defense", "attack", "series")}
