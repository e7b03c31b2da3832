"""Patterns of activity on which the rows of ``dL/dW`` tell features apart, and the test that B of them pass.

Rows are ``c_j = sum_i s_ji b_i`` with slopes s_ji of two values. Whatever search found the patterns, they count only if they
explain every row and each is the pattern of the feature that they give: bounds/proofs/exact-recovery.md.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class Rows:
    """rows, neurons (m, B): in the coordinates of the span; sides: slopes left and right of the kink, |low| < |high|;
    tolerance: the relative difference below which two values are equal."""

    rows: np.ndarray
    neurons: np.ndarray
    sides: tuple[float, float]
    tolerance: float

    @property
    def size(self) -> tuple[int, int]:
        """m and B."""
        return self.rows.shape[0], self.rows.shape[1]

    @property
    def ratio(self) -> float:
        """The slope on the left, that on the right being one."""
        return self.sides[0] / self.sides[1]


@dataclass(frozen=True, eq=False)
class Solved:
    """``scaled`` (B, B): r_i x_i in the coordinates of the span; ``signs`` (B,): of the residuals; ``design`` (m, B): the
    slopes by which each row weights them."""

    design: np.ndarray
    scaled: np.ndarray
    signs: np.ndarray


@dataclass(frozen=True, eq=False)
class Found:
    """method: which search it was; solved: what explains every row, if anything does; patterns that were found, and tries:
    samples drawn, or starts made; limit: the most that it was allowed."""

    method: str
    solved: Solved | None
    patterns: int
    tries: int
    limit: int

    @property
    def text(self) -> str:
        """How often what was tried."""
        return f"{self.tries} {_WHAT[self.method][0]}"

    @property
    def option(self) -> str:
        """The option of ``RowAttack`` that sets the limit."""
        return _WHAT[self.method][1]


#: What a search tries, and the option that limits it.
_WHAT = {
    "search": ("samples of rows", "max_samples"),
    "ica": ("starts of alternating projections", "max_starts"),
}


@dataclass
class Patterns:
    """The patterns that a search has found so far, each once. limit: choices of B of them that are put to the test at most;
    one is enough unless patterns are ambiguous."""

    problem: Rows
    limit: int
    choices: int = 0
    found: dict[bytes, np.ndarray] = field(default_factory=dict)

    @property
    def exhausted(self) -> bool:
        return self.choices >= self.limit

    def add(self, active: np.ndarray) -> Solved | None:
        """One more (m,), if it is new and has two sides: the solution where B with it among them pass the test."""
        key = active.tobytes()
        if active.all() or not active.any() or key in self.found:
            return None  # one value alone says nothing about a side
        earlier = tuple(self.found.values())
        self.found[key] = active
        for others in itertools.combinations(earlier, self.problem.size[1] - 1):
            if self.exhausted:
                return None
            self.choices += 1
            solved = solve(self.problem, np.stack([*others, active], axis=1))
            if solved is not None:
                return solved
        return None


def solve(problem: Rows, active: np.ndarray) -> Solved | None:
    """The features that these patterns (m, B) give, by least squares over all rows (more accurate than the kernels of a few
    of them); None unless they explain every row and are active exactly where the patterns say."""
    rows, neurons, tolerance = problem.rows, problem.neurons, problem.tolerance
    low, high = problem.sides
    design = np.where(active, high, low)
    scaled = np.linalg.lstsq(design, rows, rcond=None)[0]
    if not np.linalg.norm(rows - design @ scaled) <= tolerance * np.linalg.norm(rows):
        return None
    inner = neurons @ scaled.T
    signs = np.where(np.sum(np.where(active, inner, -inner), axis=0) < 0, -1.0, 1.0)
    # A neuron in the plane that separates the sides, to rounding, may be on either.
    near = tolerance * np.linalg.norm(neurons, axis=1)[:, None] * np.linalg.norm(scaled, axis=1)
    if np.any(((signs * inner > 0) != active) & (np.abs(inner) > near)):
        return None
    return Solved(design, scaled, signs)


def two_valued(values: np.ndarray, ratio: float, tolerance: float) -> np.ndarray:
    """Whether each row (of values of one direction) takes the two values v and ratio v only: booleans."""
    largest = np.take_along_axis(values, np.abs(values).argmax(axis=1)[:, None], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = values / largest
    off = np.minimum(np.abs(relative - 1), np.abs(relative - ratio))
    return np.asarray(np.all(off < tolerance, axis=1))
