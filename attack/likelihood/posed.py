"""An observation as a problem of maximum likelihood, in units of the gradient's root mean square."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property

import torch

from attack.likelihood.entries import NOISE, Fit, entries_of
from attack.likelihood.model import Model, Place
from attack.likelihood.solve import Effort
from attack.networks.two_layer import TwoLayerNet
from attack.observation import Observation
from attack.reconstruction import Diagnostics, ReconstructionError
from attack.stream import chosen
from attack.units import gradient_unit, shift
from bounds.density import Clamped, Erased, Plain, Signs, Thresholded
from bounds.estimator import EQUAL_NORMS

#: Standard deviations above its expectation up to which a misfit is what the density lets expect.
CLEAR = 5.0

#: A share of the gradient's power that is rounding: digits of the type that are left to be so.
_ROUNDING = {torch.float64: 1e-22, torch.float32: 1e-9}

#: Neurons that are kept out of the fit where nothing but rounding is expected, and of how many one is.
_HELD, _ONE_OF = 16, 20

#: Entries for each unknown with which the valley is looked for first, without noise and with.
_FEW, _FEW_NOISY = 6, 30

#: The precision of the loss to which a valley is looked at.
_SEARCHING = 1e-3

#: Steps from a start at most.
_STEPS = 100

#: Densities of which an entry tells the clean one itself, where there is no noise.
_VALUED = Plain | Erased | Thresholded | Clamped

#: What is added for weights that move, over its order of size (``Density.moves``).
_DRIFT = 10.0


@dataclass(frozen=True, eq=False)
class Posed:
    """The problem in units of the gradient's root mean square ``scale``; held (m,): neurons that are not fitted."""

    observation: Observation
    net: TwoLayerNet
    B: int
    gradient: torch.Tensor
    scale: float
    model: Model
    whole: Model
    held: torch.Tensor

    @staticmethod
    def of(observation: Observation, net: TwoLayerNet, B: int) -> Posed:
        seen = observation.gradient.to(net.device)
        unit = gradient_unit(seen)
        scale = math.ldexp(float(shift(seen.double(), -unit).square().mean().sqrt()), unit)
        density = observation.defense.density()
        if scale == 0:
            reason = "the gradient is zero: it tells nothing of features"
            raise ReconstructionError(reason, Diagnostics("failed", (reason,)))
        everything = torch.ones(net.m, dtype=torch.float64, device=net.device)
        entries = entries_of(density, seen, scale, B, everything)
        held = _held(
            entries.values() & (seen != 0),
            B * net.d,
            exact=density.sigma <= NOISE * scale and isinstance(density, _VALUED),
        )
        fitted = entries if not held.any() else entries_of(density, seen, scale, B, (~held).to(everything))
        radii = _radii(net, observation.norms)
        free = isinstance(density, Signs)
        return Posed(
            observation,
            net,
            B,
            seen.double() / scale,
            scale,
            Model(net, fitted, radii, free),
            Model(net, entries, radii, free),
            held,
        )

    @cached_property
    def few(self) -> Posed | None:
        """The problem with a part of the neurons only, where many are there: so much is enough to find the valley."""
        entries = self.model.entries
        exact = entries.blurs[-1] == 0 and not self.noisy
        wanted = (_FEW if exact else _FEW_NOISY) * self.B * (self.net.d + 1)
        values = entries.values()
        rows = torch.nonzero(values if bool(values.any()) else ~values).flatten()
        if 2 * wanted > len(rows):
            return None
        rows = rows[:wanted]
        if self.noisy:  # which entries are values depends on the noise: none between them is left out
            rows = torch.arange(int(rows[-1]) + 1, device=rows.device)
        mask = torch.zeros(self.net.m, dtype=torch.bool, device=self.net.device)
        mask[rows] = True
        net = TwoLayerNet.from_weights(chosen(self.net, mask), self.net.activation)
        model = dataclasses.replace(self.model, net=net, entries=entries.some(rows))
        return dataclasses.replace(
            self, net=net, gradient=self.gradient[rows], model=model, whole=model, held=self.held[rows]
        )

    @property
    def crude(self) -> Model:
        """The model with entries for starts."""
        return dataclasses.replace(self.model, entries=self.model.entries.crude, scale_free=False)

    @property
    def searching(self) -> Effort:
        """Steps to see which valley it is."""
        return self.effort(_SEARCHING)

    def effort(self, precision: float) -> Effort:
        """Steps to that relative precision of the loss, and on to rounding where it is near."""
        return Effort(_STEPS, precision, near=1e-10 * self.power, rounding=0.01 * self.rounding)

    @property
    def noisy(self) -> bool:
        """Whether noise is expected."""
        return self.observation.defense.density().sigma > NOISE * self.scale

    @property
    def unknowns(self) -> int:
        return self.B * (self.net.d + (self.model.radii is None))

    @property
    def power(self) -> float:
        return float(self.gradient.square().sum())

    def fit(self, place: Place) -> Fit:
        """How well a place explains the entries that are fitted."""
        return self.model.entries.fit(place.parts, self.unknowns)

    def settled(self, fit: Fit) -> bool:
        """Whether no more is left than what the density lets expect."""
        expected = fit.expected + CLEAR * fit.spread + fit.allowed
        return fit.left <= expected + self.rounding + self.drift

    @property
    def drift(self) -> float:
        """A sum of squares that weights of the first layer which move in local steps may leave."""
        moved = _DRIFT * self.observation.defense.density().moves / self.net.m**2
        return (moved * self.scale) ** 2 * self.power * self.B

    @property
    def rounding(self) -> float:
        """A sum of squares that is rounding."""
        digits = _ROUNDING[self.net.dtype]
        coarser = _ROUNDING.get(self.observation.gradient.dtype, _ROUNDING[torch.float32])
        return max(digits, coarser) * self.power


def _held(values: torch.Tensor, unknowns: int, *, exact: bool) -> torch.Tensor:
    """The last neurons that carry a value, as many as are not needed: none where noise is expected."""
    count = int(values.sum())
    most = min(_HELD, count // _ONE_OF, count - unknowns - 1) if exact else 0
    held = torch.zeros_like(values)
    if most > 0:
        held[torch.nonzero(values).flatten()[-most:]] = True
    return held


def _radii(net: TwoLayerNet, norms: tuple[float, ...]) -> torch.Tensor | None:
    """The norms where they are equal; 1 where they can be taken into the residuals; None where the fit has to tell them."""
    public = torch.tensor(norms, dtype=torch.float64, device=net.device)
    if float(public.max() - public.min()) <= EQUAL_NORMS * float(public.max()):
        return public
    return torch.ones_like(public) if net.activation.homogeneous else None
