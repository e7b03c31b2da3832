"""The one word for a trial without a result: an attack that itself reports that it has none. All else is a defect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bounds import serial

T = TypeVar("T")


@dataclass(frozen=True)
class Failure:
    """A trial without a result, and why; ``diagnostics`` are the attack's own, where it gives any.

    Raises ``ValueError`` if no reason is given.
    """

    reason: str
    diagnostics: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.reason, str) or not self.reason:
            raise ValueError(f"reason must say why the trial failed; got {self.reason!r}")


def attempt(attack: Callable[[], T]) -> T | Failure:
    """What ``attack`` returns, or the ``Failure`` that it reports; every other exception propagates."""
    from attack import ReconstructionError

    try:
        return attack()
    except ReconstructionError as error:
        diagnostics = getattr(error, "diagnostics", None)
        told = {} if diagnostics is None else serial.plain(diagnostics.to_dict())
        return Failure(str(error) or type(error).__name__, told)
