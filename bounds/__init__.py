"""Theory of data reconstruction from gradients: settings, defenses, bounds. Uses sympy, numpy, scipy; never torch."""

from bounds.activations import ACTIVATIONS, Activation, resolve_activation
from bounds.bound import (
    Bound,
    BoundValue,
    Evaluation,
    Kind,
    TrivialBound,
    UnsupportedBound,
    evaluate,
    expression,
)
from bounds.defense import Defense, Param, param
from bounds.gradient_noise import GradientNoise
from bounds.none import NoDefense
from bounds.setting import SYMBOLS, Setting
from bounds.tensor_attack import TensorAttack

#: Which distribution this package belongs to: the import name ``bounds`` is not ours alone.
__distribution__ = "reconbound"

#: Every defense there is. A new one is added here, in a file of its own, and as a channel of the same name in ``attack``.
DEFENSES: tuple[type[Defense], ...] = (NoDefense, GradientNoise)

__all__ = [
    "ACTIVATIONS",
    "DEFENSES",
    "SYMBOLS",
    "Activation",
    "Bound",
    "BoundValue",
    "Defense",
    "Evaluation",
    "GradientNoise",
    "Kind",
    "NoDefense",
    "Param",
    "Setting",
    "TensorAttack",
    "TrivialBound",
    "UnsupportedBound",
    "evaluate",
    "expression",
    "param",
    "resolve_activation",
]
