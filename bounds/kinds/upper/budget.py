"""How the failure probability of an upper bound is spent.

A theorem is a tuple of steps. A step takes what is known so far and returns its numbers; it draws the exponent of its events
from a ``Tally`` that is made for it, so how many events it used is a value that stands beside its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from bounds.estimator import TensorAttack, core_order
from bounds.gaussian.tails import chi
from bounds.setting import Setting

T = TypeVar("T")

#: An exponent with which events are counted, where values do not matter.
_PROBE = 20.0


class Tally:
    """The events of probability ``exp(-exponent)`` that one step uses."""

    def __init__(self, exponent: float) -> None:
        self.exponent = exponent
        self.events = 0

    def spend(self, events: int = 1) -> float:
        """The exponent, for that many events."""
        self.events += events
        return self.exponent

    def normal(self, events: int = 1) -> float:
        """``sqrt(2 exponent)``: what a standard normal stays below."""
        return math.sqrt(2 * self.spend(events))

    def chi(self, dimension: int) -> float:
        """What the norm of a standard normal vector stays below."""
        return chi(dimension, math.exp(-self.spend()))


class Spent(Tally):
    """After the last step: the same exponent, but nothing random may be computed any more."""

    def spend(self, events: int = 1) -> float:
        raise ArithmeticError("an event was used after all were counted")


@dataclass(frozen=True, eq=False)
class Known:
    """The numbers of a proof, by the class that holds them, and the events that each step used, by the step's name."""

    values: Mapping[type, object]
    events: Mapping[str, int] = field(default_factory=dict)

    @staticmethod
    def of(*values: object) -> Known:
        return Known({type(value): value for value in values})

    def __getitem__(self, kind: type[T]) -> T:
        found = self.values[kind]
        assert isinstance(found, kind)
        return found

    @property
    def spent(self) -> int:
        """Events of all steps together."""
        return sum(self.events.values())

    def after(self, step: Step, exponent: float) -> Known:
        """With what a step adds."""
        tally = Tally(exponent)
        found = step(self, tally)
        return Known({**self.values, type(found): found}, {**self.events, step.__name__: tally.events})


#: What is known so far and the step's own tally, to the step's numbers.
Step = Callable[[Known, Tally], object]


def run(steps: tuple[Step, ...], start: Known, exponent: float = _PROBE) -> Known:
    """Every step in its order, every event with that exponent."""
    known = start
    for step in steps:
        known = known.after(step, exponent)
    return known


def solved(steps: tuple[Step, ...], start: Known, events: int, share: float) -> Known:
    """Every step, the failure probability ``share`` split evenly over that many events. ``ArithmeticError`` if the steps
    use another number."""
    known = run(steps, start, math.log(events / share))
    if known.spent != events:
        raise ArithmeticError(f"the theorem used {known.spent} events, {events} were counted")
    return known


@dataclass(frozen=True)
class Shape:
    """All that the number of events depends on."""

    B: int
    order: int
    noisy: bool
    residualized: bool
    same_neuron: str

    @staticmethod
    def of(setting: Setting, attack: TensorAttack, noise_variance: float) -> Shape:
        return Shape(
            setting.B,
            core_order(setting.activation),
            noise_variance > 0,
            attack.residualized,
            attack.same_neuron,
        )

    def example(self) -> tuple[Setting, TensorAttack, float]:
        """A small setting, an attack and a noise variance of this shape, on which events are counted."""
        d, activation = self.B + 2, "relu" if self.order == 4 else "z2z3"
        setting = Setting.orthonormal(d, 100 * d, self.B, activation, labels=np.full(self.B, 3.0))
        attack = TensorAttack(
            "residualized" if self.residualized else "plain",
            same_neuron=self.same_neuron,
        )
        return setting, attack, float(self.noisy)
