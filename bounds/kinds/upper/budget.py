"""How the failure probability of an upper bound is spent."""

from __future__ import annotations


class Budget:
    """Counts the events of probability exp(-exponent) that a computation has used."""

    def __init__(self, exponent: float) -> None:
        self.exponent = exponent
        self.used = 0
        self.closed = False

    def spend(self, events: int = 1) -> float:
        if self.closed:
            raise ArithmeticError("an event was used after all were counted")
        self.used += events
        return self.exponent

    def close(self) -> None:
        """From here on nothing random may be computed."""
        self.closed = True
