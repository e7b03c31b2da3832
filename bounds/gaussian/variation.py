"""What is declared of an activation between its kinks, and what follows: how far nodes may miss it.

A function that is known at nodes alone may do anything between them. A proved bound therefore asks for a declaration, which
these consequences turn into numbers. Sources: Cauchy's estimate; Trefethen, Approximation Theory and Approximation Practice,
theorem 19.3, for Gauss-Legendre rules of functions that are analytic in an ellipse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bounds import checks
from bounds.arrays import Array
from bounds.gaussian.quadrature import PANEL_NODES, TAIL, panel_edges

#: A declaration is probed on [-_PROBED, _PROBED] at this spacing.
_PROBED, _SPACING = 40.0, 1e-3


#: The widest strip that the error of quadrature makes use of: the Gaussian density grows there as exp(y^2 / 2).
_WIDEST = 4.0


@dataclass(frozen=True)
class Variation:
    """Between two neighbouring kinks the activation continues analytically to all complex numbers within ``width`` of that
    piece of the line, and there ``|sigma(t)| <= size (1 + |Re t|)^degree``.

    width, size positive, degree an integer from 0 to 6; ``ValueError`` or ``TypeError`` otherwise.
    """

    width: float
    size: float
    degree: int = 1

    def __post_init__(self) -> None:
        for name in ("width", "size"):
            if checks.real(name, getattr(self, name), 0.0) == 0.0:
                raise ValueError(f"{name} must be positive; got 0")
        checks.integer("degree", self.degree, 0, 6)

    @property
    def words(self) -> str:
        """The declaration as a sentence about "it"."""
        return (
            f"it continues analytically to all t within {self.width:g} of the line, "
            f"|sigma(t)| <= {self.size:g} (1 + |Re t|)^{self.degree}"
        )

    def derivative(self, order: int, reach: Array) -> Array:
        """``|sigma^(order)(t)|`` between kinks, at most, for ``|t| <= reach``: Cauchy's estimate on a circle of radius
        ``width``."""
        largest = self.size * (1 + np.asarray(reach) + self.width) ** self.degree
        return np.asarray(math.factorial(order) * largest / self.width**order)

    def quadrature_error(self, norm: float) -> float:
        """What ``gaussian_rule`` may be off, for the product of ``t^8`` and two functions bounded as ``sigma(norm t)`` is:
        absolute, rounding aside.

        On a panel of half width a, a function that is at most M within ``y`` of it is integrated by n nodes up to
        ``(64/15) a M rho^(2 - 2n) / (1 - rho^-2)``, where the ellipse with ``(rho - 1/rho) / 2 = y / a`` fits in.
        """
        half = float(np.max(np.diff(panel_edges(norm)))) / 2
        y = min(self.width / norm, _WIDEST)
        rho = y / half + math.hypot(y / half, 1.0)
        centres = np.arange(-TAIL + half, TAIL, 2 * half)
        far, near = np.abs(centres) + half + y, np.maximum(np.abs(centres) - half - y, 0.0)
        growth = (self.size * (1 + norm * far) ** self.degree) ** 2 * np.maximum(far, 1.0) ** 8
        density = np.exp((y**2 - near**2) / 2) / math.sqrt(2 * math.pi)
        factor = 64 / 15 * half * rho ** (2.0 - 2 * PANEL_NODES) / (1 - rho**-2)
        return float(factor * np.sum(growth * density))

    def refuted(self, function: Callable[[Array], Array], kinks: Sequence[float]) -> str:
        """Where differences on a grid of spacing 1/1000 over [-40, 40] contradict the declaration, in words; empty if none
        does."""
        t = np.linspace(-_PROBED, _PROBED, round(2 * _PROBED / _SPACING) + 1)
        values = np.asarray(function(t), dtype=float)
        at_kink = np.zeros(len(t), dtype=bool)
        for kink in kinks:
            at_kink |= np.abs(t - kink) < 1.5 * _SPACING
        rounding = 1e-12 * float(np.max(np.abs(values)))
        for order, what in enumerate(("size", "slope", "second derivative")):
            seen = np.abs(np.diff(values, order)) / _SPACING**order
            where = (t[: len(seen)] + t[order:]) / 2
            if order:
                allowed = self.derivative(order, np.abs(where) + order * _SPACING)
                allowed = allowed + 4 * rounding / _SPACING**order
            else:
                allowed = self.size * (1 + np.abs(t)) ** self.degree * (1 + 1e-12)
            smooth = ~(at_kink[: len(seen)] | at_kink[order:]) | (order == 0)
            excess = np.where(smooth, seen - allowed, -math.inf)
            worst = int(np.argmax(excess))
            if excess[worst] > 0:
                return f"near {where[worst]:.4g} its {what} is {seen[worst]:.4g}, {allowed[worst]:.4g} at most is declared"
        return ""
