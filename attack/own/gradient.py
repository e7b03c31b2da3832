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
REQUIRED, OPTIONAL = ("weight", "gradient"), ("bias", "output_weight", "bias_gradient", "output_bias")


@dataclass(frozen=True, eq=False)
class SharedGradient:
    """What a server holds: weight (m, d); gradient, (m,) for dL/da or (m, d) for dL/dW; bias (m,); output_weight (m,);
    bias_gradient (m,): dL/db, which dL/dW needs where the biases vary; output_bias (1,).

    The network is ``f(x) = sum_j output_weight_j sigma(w_j.x + bias_j) + output_bias``, output weights 1/m where they are
    not given: a framework's last layer as it is, which has no 1/m. Float32 or float64 CPU tensors. activation: that of the
    module that they came from, by its outputs; notes: what the shapes left open, and how it was taken. Make one with
    ``from_arrays``, ``from_module``, ``from_state_dict`` or ``read_gradient``.
    """

    weight: torch.Tensor
    gradient: torch.Tensor
    bias: torch.Tensor | None = None
    output_weight: torch.Tensor | None = None
    bias_gradient: torch.Tensor | None = None
    output_bias: torch.Tensor | None = None
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
        }
        arrays = {name: real_tensor(name, value) for name, value in given.items() if value is not None}
        size = (len(W), W.shape[1])
        found: dict[str, Any] = {name: _held(name, array, size) for name, array in arrays.items()}
        return SharedGradient(W, **found, notes=_notes(tuple(arrays["gradient"].shape), size))

    @staticmethod
    def from_module(
        module: torch.nn.Module, activation: str | Activation | None = None, layer: str | None = None
    ) -> SharedGradient:
        """From a PyTorch module ``V sigma(W x + b) + c`` after ``loss.backward()``: weights, biases and gradients of its two
        linear layers, and the activation with which they give the module's own outputs (None: a built-in one).

        layer: whose gradient is attacked, "first" (dL/dW, with dL/db) or "output" (dL/dV); None: the first that has one.
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
        chosen = TwoLayers.of(_shapes(state_dict)).fields(tuple(there), layer)
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
    def arrays(self) -> Mapping[str, torch.Tensor]:
        """The arrays that are there, by name."""
        named = {name: getattr(self, name) for name in (*REQUIRED, *OPTIONAL)}
        return {name: value for name, value in named.items() if value is not None}


def _shapes(arrays: Mapping[str, Any]) -> Mapping[str, tuple[int, ...]]:
    return {name: tuple(getattr(value, "shape", ())) for name, value in arrays.items()}


def _held(name: str, array: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    shape = tuple(array.shape)
    return (
        array.T.contiguous() if _turned(name, shape, size) else array.reshape(held_shape(name, shape, size))
    )


def held_shape(name: str, shape: tuple[int, ...], size: tuple[int, int]) -> tuple[int, ...]:
    """The shape in which an array is held, ``size`` being the (m, d) of the weight: (1, m) and (m, 1) as (m,), a dL/dW of
    shape (d, m) as (m, d). With d = 1 an (m, 1) gradient would be both: it is taken as dL/da."""
    if name == "output_bias":
        return (1,) if math.prod(shape) == 1 else shape
    if shape in ((1, size[0]), (size[0], 1)):
        return size[:1]
    return size if _turned(name, shape, size) else shape


def _turned(name: str, shape: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether it is a transposed dL/dW."""
    return name == "gradient" and shape == size[::-1] and 1 < size[1] != size[0]


def _notes(shape: tuple[int, ...], size: tuple[int, int]) -> tuple[str, ...]:
    """What is said of the form in which the gradient came."""
    m, d = size
    if _turned("gradient", shape, size):
        return (f"dL/dW came as (d, m) = {shape} and was transposed",)
    if shape == size and m == d:
        return (f"m = d = {d}: the shapes do not tell whether dL/dW is transposed; it is taken as (m, d)",)
    return ()


def misfits(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """What is wrong with the shapes of arrays as they are held, that of ``weight`` being (m, d)."""
    m, d = shapes["weight"]
    several = [text for name, shape in shapes.items() for text in _several(name, shape, (m, d))]
    if several:
        return tuple(several[:1])
    found = []
    shape = shapes["gradient"]
    if shape not in ((m,), (m, d)):
        turned = " (the weight looks transposed)" if shape in ((d,), (d, m)) else ""
        found.append(f"gradient must have shape (m,) = ({m},) or (m, d) = ({m}, {d}); got {shape}{turned}")
    wanted = dict.fromkeys(OPTIONAL, (m,)) | {"output_bias": (1,)}
    for name, expected in wanted.items():
        if name in shapes and shapes[name] != expected:
            turned = " (the weight looks transposed)" if shapes[name] == (d,) != expected else ""
            found.append(f"{name} must have shape {expected}; got {shapes[name]}{turned}")
    return tuple(found)


def _several(name: str, shape: tuple[int, ...], size: tuple[int, int]) -> tuple[str, ...]:
    """A line for an array of a network with several outputs."""
    m, d = size
    axes = tuple(n for n in shape if n != m)
    fits = name == "output_weight" or (name == "gradient" and shape[:1] != (m,) and axes != (d,))
    if not fits or len(shape) != 2 or len(axes) != 1 or axes[0] == 1:
        return ()
    return (
        f"several outputs: {name} has shape {shape}, for {axes[0]} outputs; the attacks cover networks with one output so "
        "far, a squared loss of it, and output weights of shape (m,) or (1, m)",
    )
