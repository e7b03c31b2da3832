"""What a check of a shared gradient found, and against which threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """level: "ok", "warning" or "error"; the number found and the threshold it was held against, where there are such."""

    name: str
    level: str
    text: str
    value: float | None = None
    threshold: float | None = None


def judged(name: str, value: float, threshold: float, text: str) -> Finding:
    """A warning if the value exceeds the threshold, which is what is expected of weights and gradients of the model."""
    return Finding(name, "warning" if value > threshold else "ok", text, value, threshold)


def errors(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Those that leave nothing to attack."""
    return tuple(f for f in findings if f.level == "error")
