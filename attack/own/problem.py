"""A shared gradient as the problem that the attacks solve, posed in a frame.

With output weights a_j the rows of dL/dW are ``G_j = a_j sum_i r_i sigma'(w_j.x_i + b_j) x_i``, and dL/db_j is the same sum
without x_i. With ``w = s w'``, ``b = mean + t b'`` and ``x' = (s x, t)`` (see ``Coordinates``) the network of the theory,
with output weights 1/m, has the rows ``G'_j = (1/m) sum_i r_i sigma'(w_j.x_i + b_j) x'_i = (s G_j, t dL/db_j) / (m a_j)``.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch

from attack.networks.two_layer import TwoLayerNet
from attack.observation import Observation
from attack.own.coordinates import shifted
from attack.own.frame import Frame
from attack.own.gradient import SharedGradient
from attack.own.known import Known
from attack.own.precision import Precision
from attack.own.units import root_mean_square
from attack.rows.observation import FirstLayerObservation
from attack.units import shift
from bounds import NoDefense

#: Output weights below this fraction of their root mean square carry nothing but rounding: their rows are left out.
NEGLIGIBLE = 1e-3

#: Rows whose entries are known to less than this fraction of half their type's digits are left out, but not those with an
#: output weight above ``_MOST`` of the root mean square.
_COARSE, _MOST = 1 / 8, 0.5


@dataclass(frozen=True, eq=False)
class Problem:
    """dL/da of a network with standard Gaussian weights."""

    net: TwoLayerNet
    observation: Observation


@dataclass(frozen=True, eq=False)
class RowProblem:
    """dL/dW of a network with standard Gaussian weights; kept (m,): the neurons of the shared gradient that are in it;
    precision: of the shared gradient's entries. In float64 where exact recovery may serve, whatever the arrays are in."""

    net: TwoLayerNet
    observation: FirstLayerObservation
    kept: torch.Tensor
    precision: Precision


def output_problem(shared: SharedGradient, known: Known, frame: Frame) -> Problem:
    """The gradient with respect to the output weights, of the model's loss."""
    net = _network(shared.weight, shared.bias, known, frame)
    gradient = known.to_model * shift(shared.gradient, -frame.units.gradient)
    return Problem(net, Observation(gradient, known.B, frame.norms(known), NoDefense()))


def row_problem(shared: SharedGradient, known: Known, frame: Frame) -> RowProblem:
    """The gradient with respect to the weights, divided by the output weights, of the model's loss.

    Raises ``ValueError`` where dL/db is missing, or too few neurons have an output weight.
    """
    precision = Precision.of(shared.gradient, shared.bias_gradient)
    if known.homogeneous and not frame.posed.bias_mean:
        shared = shared.double()
    kept = carrying(shared)
    left = int(kept.sum())
    if left <= known.B:
        raise ValueError(
            f"output_weight must have more than B = {known.B} entries other than zero; got {left}"
        )
    rows = scaled_rows(shared, frame)[kept]
    bias = None if shared.bias is None else shared.bias[kept]
    net = _network(shared.weight[kept], bias, known, frame)
    unit = frame.units.output_weight
    if shared.output_weight is None:
        rows = rows * (known.to_model * math.ldexp(shared.m / left, unit))
    else:
        own = shift(shared.output_weight, -unit)[kept]
        rows = rows * (known.to_model / (left * own.to(rows)))[:, None]
    observation = FirstLayerObservation(rows, known.B, frame.norms(known), NoDefense())
    return RowProblem(net, observation, kept, precision)


def _network(weight: torch.Tensor, bias: torch.Tensor | None, known: Known, frame: Frame) -> TwoLayerNet:
    """Standard Gaussian weights are the same whatever the unit; the mean of the biases is not."""
    net = frame.coordinates.network(TwoLayerNet.from_weights(weight, known.activation), bias)
    return dataclasses.replace(net, activation=shifted(known.activation, frame.posed.bias_mean))


def carrying(shared: SharedGradient) -> torch.Tensor:
    """Which neurons have an output weight by which their row can be divided: booleans (m,)."""
    if shared.output_weight is None:
        return torch.ones(shared.m, dtype=torch.bool)
    return shared.output_weight.double().abs() > negligible(shared) * root_mean_square(shared.output_weight)


def negligible(shared: SharedGradient) -> float:
    """The size of an output weight, over their root mean square, below which a row is left out: it would hold nothing but
    rounding, also of entries near the smallest numbers of their type."""
    precision = Precision.of(shared.gradient, shared.bias_gradient)
    return max(NEGLIGIBLE, min(_MOST, precision.least / (_COARSE * math.sqrt(precision.unit))))


def scaled_rows(shared: SharedGradient, frame: Frame) -> torch.Tensor:
    """``(s G_j, t dL/db_j)`` in the frame's units, (m, d) or, with biases of positive spread, (m, d + 1).

    Raises ``ValueError`` where the biases are one more coordinate and there is no dL/db.
    """
    posed, units = frame.posed, frame.units
    rows = shift(shared.gradient, -units.gradient)
    rows = rows if posed.scale == 1.0 else posed.scale * rows
    if not posed.bias_scale:
        return rows
    if shared.bias_gradient is None:
        raise ValueError(no_bias_gradient(frame))
    last = posed.bias_scale * shift(shared.bias_gradient, units.norms - units.gradient)
    return torch.cat([rows, last.to(rows)[:, None]], dim=1)


def no_bias_gradient(frame: Frame) -> str:
    """What is said where dL/db is needed and missing."""
    return (
        f"bias_gradient, dL/db of shape (m,), must be given with dL/dW: biases of standard deviation "
        f"{frame.coordinates.bias_scale:.3g} are one more coordinate of the features; got None"
    )
