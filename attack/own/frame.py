"""Where the problem of a shared gradient is posed: coordinates in which its weights are standard Gaussian, and units."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from attack.own.coordinates import Coordinates, shifted
from attack.own.gradient import SharedGradient
from attack.own.known import Known
from attack.own.units import Units, exponent, root_mean_square
from attack.reconstruction import Reconstruction
from bounds import Activation
from bounds.estimator import moment_orders

#: Exponents of two that results may have in a double, and that sizes may have where labels of +-1 have to be recognised.
_LARGEST, _ORDINARY = 1000, 100

#: What weights may make of a feature, as a standard deviation, so that an activation that is not homogeneous is resolved.
RESOLVED = (1e-6, 1e4)

#: A scale that is given may be off by this factor, and biases outweigh what the weights make of a feature by this one.
_FAR_OFF, _DROWNED = 1e6, 1e8


@dataclass(frozen=True)
class Frame:
    """coordinates: those of the arrays as they are; units: what is divided out of them."""

    coordinates: Coordinates
    units: Units

    @staticmethod
    def of(shared: SharedGradient, known: Known) -> Frame:
        """From finite arrays of fitting shapes. The unit of the weights and norms is left where the activation is not
        homogeneous; every unit is left where norms differ, as they are then told apart by labels of +-1."""
        there = Coordinates.measured(shared.weight, shared.bias, known.scale, norm=min(known.posed_norms))
        units = _units(shared, known, there)
        return Frame(there, units if known.equal_norms else Units())

    @property
    def posed(self) -> Coordinates:
        """The coordinates of the arrays in these units."""
        there, units = self.coordinates, self.units
        bias_unit = -units.weights - units.norms
        return Coordinates(
            math.ldexp(there.scale, -units.weights),
            math.ldexp(there.bias_mean, bias_unit),
            math.ldexp(there.bias_scale, bias_unit),
        )

    def norms(self, known: Known) -> tuple[float, ...]:
        """Norms (B,) of the features as the posed problem has them."""
        return self.posed.observed_norms([math.ldexp(n, -self.units.norms) for n in known.posed_norms])

    def features(self, found: Reconstruction) -> torch.Tensor:
        """Features (B, d) in the original coordinates, in these units."""
        return self.posed.undo(found).features


def _units(shared: SharedGradient, known: Known, there: Coordinates) -> Units:
    weights = exponent(there.scale) if known.homogeneous else 0
    norms = exponent(max(known.posed_norms)) if known.homogeneous else 0
    gradient = exponent(root_mean_square(shared.gradient))
    own = exponent(1 / shared.m if shared.output_weight is None else root_mean_square(shared.output_weight))
    if shared.gradient.ndim == 1:  # r_i sigma(w.x_i)
        residuals = gradient - weights - norms
    else:  # a_j r_i sigma'(w.x_i) x_i
        if shared.bias_gradient is not None and bool(shared.bias_gradient.any()):
            gradient = max(gradient, exponent(root_mean_square(shared.bias_gradient)) + norms)
        residuals = gradient - own - norms
    return Units(weights, norms, gradient, own, residuals, own + weights + norms)


def unfit_sizes(shared: SharedGradient, known: Known) -> tuple[str, ...]:
    """What about the sizes of finite arrays of fitting shapes, the weight not zero, leaves no problem to pose."""
    found = []
    for name, values in shared.arrays.items():
        size, least = root_mean_square(values), torch.finfo(values.dtype).tiny
        if 0 < size < least:
            found.append(
                f"{name} must be zero or of a size that {values.dtype} resolves, at least {least:.3g}; got {size:.3g}"
            )
    measured = root_mean_square(shared.weight)
    if known.scale is not None and not 1 / _FAR_OFF <= known.scale / measured <= _FAR_OFF:
        found.append(f"scale must be that of the weights, which is {measured:.3g}; got {known.scale:.3g}")
    if found:
        return tuple(found)
    there = Coordinates.measured(shared.weight, shared.bias, known.scale, norm=min(known.posed_norms))
    shifts = math.hypot(there.bias_mean, there.bias_scale)
    if shifts / there.scale > _DROWNED * min(known.posed_norms):
        return (
            f"bias of size {shifts:.3g} must not drown what weights of size {there.scale:.3g} make of a feature",
        )
    return _unfit_problem(shared, known, there)


def _unfit_problem(shared: SharedGradient, known: Known, there: Coordinates) -> tuple[str, ...]:
    units = _units(shared, known, there)
    if not known.homogeneous:
        inside = [there.scale * n for n in known.posed_norms]
        reach = max(inside) + math.hypot(there.bias_mean, there.bias_scale)
        if min(inside) < RESOLVED[0] or reach > RESOLVED[1]:
            sizes = f"between {min(inside):.3g} and {reach:.3g}"
            return (
                f"weights, norms and biases must give activation {known.activation.name} arguments of a size between "
                f"{RESOLVED[0]:g} and {RESOLVED[1]:g}, beyond which it has no shape of its own; got {sizes}",
            )
    if max(abs(units.residuals), units.outputs) > _LARGEST:
        return (
            "gradient, weight and output_weight must have units that leave residuals and outputs within a double's range; "
            f"got residuals of about 2^{units.residuals} and outputs of about 2^{units.outputs}",
        )
    exponents = (units.weights, units.norms, units.gradient, units.residuals)
    if not known.equal_norms and max(map(abs, exponents)) > _ORDINARY:
        return (
            f"gradient, weight and norms must be of ordinary size, 2^-{_ORDINARY} to 2^{_ORDINARY}, where norms differ: "
            "labels of +-1 then tell which feature has which",
        )
    return _straight(known, Frame(there, units if known.equal_norms else Units()))


def _straight(known: Known, frame: Frame) -> tuple[str, ...]:
    """Far from its bend an activation is a straight line, of which no moment tells a direction."""
    mean = frame.posed.bias_mean
    if not mean or not _bends(known.activation) or _bends(shifted(known.activation, mean)):
        return ()
    where = f"biases of mean {frame.coordinates.bias_mean:.4g} beside weights of size {frame.coordinates.scale:.3g}"
    return (
        f"{where} put every neuron where {known.activation.name} is a straight line, as far as moments tell, and directions "
        "cannot be read off: a network whose training has diverged?",
    )


def _bends(activation: Activation) -> bool:
    try:
        moment_orders(activation)
    except ValueError:
        return False
    return True
