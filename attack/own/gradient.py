"""A gradient that a user brings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from attack.arrays import real_tensor
from attack.own.layers import LAYERS, TwoLayers
from attack.own.module import told_activation
from bounds import Activation, checks, resolve_activation

#: Names of the arrays, in a file as here.
REQUIRED, OPTIONAL = (
    ("weight", "gradient"),
    ("bias", "output_weight", "bias_gradient", "output_bias", "output_gradient", "output_bias_gradient"),
)


@dataclass(frozen=True, eq=False)
class SharedGradient:
    """What a server holds: weight (m, d); gradient, (m,) for dL/da or (m, d) for dL/dW; bias (m,); output_weight (m,);
    bias_gradient (m,): dL/db, which dL/dW needs where the biases vary; output_bias (1,).

    The network is ``f(x) = sum_j output_weight_j sigma(w_j.x + bias_j) + output_bias``, output weights 1/m where they are
    not given: a framework's last layer as it is, which has no 1/m. With C outputs output_weight has shape (C, m),
    output_bias (C,); gradient is dL/dW (m, d), beside which there may be output_gradient, dL/dA (C, m), or that itself;
    output_bias_gradient (C,) is the derivative by output_bias. Float32 or float64 CPU tensors. activation: that of the
    module that they came from, by its outputs; notes: what the shapes left open, and how it was taken. Make one with
    ``from_arrays``, ``from_module``, ``from_state_dict`` or ``read_gradient``.
    """

    weight: torch.Tensor
    gradient: torch.Tensor
    bias: torch.Tensor | None = None
    output_weight: torch.Tensor | None = None
    bias_gradient: torch.Tensor | None = None
    output_bias: torch.Tensor | None = None
    output_gradient: torch.Tensor | None = None
    output_bias_gradient: torch.Tensor | None = None
    activation: Activation | None = None
    notes: tuple[str, ...] = ()

    @staticmethod
    def from_arrays(
        weight: Any,
        gradient: Any,
        bias: Any | None = None,
        output_weight: Any | None = None,
        bias_gradient: Any | None = None,
        output_bias: Any | None = None,
        output_gradient: Any | None = None,
        output_bias_gradient: Any | None = None,
    ) -> SharedGradient:
        """From arrays or tensors of any framework, half precision included. Vectors may come as (1, m) or (m, 1), as a
        linear layer has them, and dL/dW as (d, m), which ``notes`` then say.

        Raises ``TypeError`` for what is not a dense array of real numbers, ``ValueError`` for masked entries and a weight
        that is not a matrix; every further misfit is a finding of ``check_gradient``.
        """
        W = real_tensor("weight", weight)
        if W.ndim != 2 or 0 in W.shape:
            raise ValueError(f"weight must have shape (m, d); got {tuple(W.shape)}")
        given = {
            "gradient": gradient,
            "bias": bias,
            "output_weight": output_weight,
            "bias_gradient": bias_gradient,
            "output_bias": output_bias,
            "output_gradient": output_gradient,
            "output_bias_gradient": output_bias_gradient,
        }
        arrays = {name: real_tensor(name, value) for name, value in given.items() if value is not None}
        shapes = _shapes({"weight": W, **arrays})
        found: dict[str, Any] = {
            name: array.T.contiguous() if _turned(name, shapes) else array.reshape(held_shape(name, shapes))
            for name, array in arrays.items()
        }
        return SharedGradient(W, **found, notes=_notes(shapes))

    @staticmethod
    def from_module(
        module: torch.nn.Module, activation: str | Activation | None = None, layer: str | None = None
    ) -> SharedGradient:
        """From a PyTorch module ``V sigma(W x + b) + c`` after ``loss.backward()``: weights, biases and gradients of its two
        linear layers, and the activation with which they give the module's own outputs (None: a built-in one).

        layer: whose gradient is attacked, "first" (dL/dW, with dL/db) or "output" (dL/dV); None: the first that has one, and
        all of them with several outputs.
        Raises ``TypeError`` for no module, ``ValueError`` for another network, one without a gradient, and an activation
        that does not fit.
        """
        checks.instance("module", module, torch.nn.Module)
        gradients = {name: p.grad for name, p in module.named_parameters()}
        shared = SharedGradient.from_state_dict(module.state_dict(), gradients, layer=layer)
        layers = TwoLayers.of(_shapes(module.state_dict()))
        asked = None if activation is None else resolve_activation(activation)
        return replace(shared, activation=told_activation(module, layers, asked))

    @staticmethod
    def from_state_dict(
        state_dict: Mapping[str, Any],
        gradients: Mapping[str, Any] | Sequence[Any],
        layer: str | None = None,
    ) -> SharedGradient:
        """From the parameters of such a module by name, and their gradients: by the same names, or one for each in the same
        order, as ``torch.autograd.grad`` gives them; None where there is none. ``layer`` as of ``from_module``.

        Raises ``ValueError`` for parameters of another network and gradients that do not belong to them, ``TypeError`` for
        what holds neither.
        """
        if layer is not None:
            checks.choice("layer", layer, LAYERS)
        checks.instance("state_dict", state_dict, Mapping)
        if not isinstance(gradients, Mapping):
            checks.instance("gradients", gradients, Sequence)
            if len(gradients) != len(state_dict):
                raise ValueError(
                    f"gradients must be one for each of the {len(state_dict)} parameters; got {len(gradients)}"
                )
            gradients = dict(zip(state_dict, gradients, strict=True))
        foreign = sorted(set(gradients) - set(state_dict))
        if foreign:
            raise ValueError(
                f"gradients must have names of parameters ({', '.join(state_dict)}); got {', '.join(foreign[:5])}"
            )
        there = {name: value for name, value in gradients.items() if value is not None}
        shapes = _shapes(state_dict)
        chosen = TwoLayers.of(shapes).fields(tuple(there), layer, shapes=shapes)
        arrays = {
            field: (there if is_gradient else state_dict)[name]
            for field, (is_gradient, name) in chosen.items()
        }
        return SharedGradient.from_arrays(**arrays)

    def double(self) -> SharedGradient:
        """The same numbers as float64."""
        doubled: dict[str, Any] = {name: array.double() for name, array in self.arrays.items()}
        return replace(self, **doubled)

    @property
    def m(self) -> int:
        return int(self.weight.shape[0])

    @property
    def d(self) -> int:
        return int(self.weight.shape[1])

    @property
    def outputs(self) -> int:
        """C, the number of outputs."""
        return 1 if self.output_weight is None or self.output_weight.ndim < 2 else len(self.output_weight)

    @property
    def arrays(self) -> Mapping[str, torch.Tensor]:
        """The arrays that are there, by name."""
        named = {name: getattr(self, name) for name in (*REQUIRED, *OPTIONAL)}
        return {name: value for name, value in named.items() if value is not None}


def _shapes(arrays: Mapping[str, Any]) -> Mapping[str, tuple[int, ...]]:
    return {name: tuple(getattr(value, "shape", ())) for name, value in arrays.items()}


def held_shape(name: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The shape in which an array is held, of arrays of these shapes: (1, m) and (m, 1) as (m,), a dL/dW of shape (d, m) as
    (m, d). With d = 1 an (m, 1) gradient would be both: it is taken as dL/da."""
    size, shape = shapes["weight"], shapes[name]
    if name in ("output_bias", "output_bias_gradient"):
        return (1,) if math.prod(shape) == 1 else shape
    if shape in ((1, size[0]), (size[0], 1)):
        return size[:1]
    return size if _turned(name, shapes) else shape


def _turned(name: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether it is a transposed dL/dW; what has the shape of several outputs' weights is dL/dA."""
    size, shape = shapes["weight"], shapes[name]
    return (
        name == "gradient"
        and shape == size[::-1]
        and 1 < size[1] != size[0]
        and shape != shapes.get("output_weight")
    )


def _notes(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """What is said of the form in which the gradient came."""
    (m, d), shape = shapes["weight"], shapes["gradient"]
    if _turned("gradient", shapes):
        return (f"dL/dW came as (d, m) = {shape} and was transposed",)
    if shape == (m, d) and m == d:
        return (f"m = d = {d}: the shapes do not tell whether dL/dW is transposed; it is taken as (m, d)",)
    return ()


def misfits(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """What is wrong with the shapes of arrays as they are held, that of ``weight`` being (m, d)."""
    m, d = shapes["weight"]
    found = []
    shape, C = shapes["gradient"], _several(shapes)
    if C is None and len(shape) == 2 and shape[1] == m and shape != (m, d):
        return (
            f"several outputs: gradient has shape {shape}, for {shape[0]} outputs; output_weight must then be given, of the "
            f"same shape (C, m); got {shapes.get('output_weight')}",
        )
    output = ((m,), "(m,)") if C is None else ((C, m), "(C, m)")
    if shape not in (output[0], (m, d)):
        turned = " (the weight looks transposed)" if shape in ((d,), (d, m)) else ""
        found.append(
            f"gradient must have shape {output[1]} = {output[0]} or (m, d) = ({m}, {d}); got {shape}{turned}"
        )
    wanted: dict[str, tuple[int, ...]] = {name: (m,) for name in OPTIONAL}
    wanted |= {"output_bias": (1,), "output_bias_gradient": (1,)}
    if C is not None:
        wanted |= {name: (C, m) for name in ("output_weight", "output_gradient")}
        wanted |= {name: (C,) for name in ("output_bias", "output_bias_gradient")}
    for name, expected in wanted.items():
        if name in shapes and shapes[name] != expected:
            turned = " (the weight looks transposed)" if shapes[name] == (d,) != expected else ""
            found.append(f"{name} must have shape {expected}; got {shapes[name]}{turned}")
    return tuple(found)


def _several(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """C of a network with several outputs, which its output weights tell; None of one with one."""
    shape = shapes.get("output_weight", ())
    return shape[0] if len(shape) == 2 and shape[1] == shapes["weight"][0] and shape[0] > 1 else None
