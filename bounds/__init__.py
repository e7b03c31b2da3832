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
from bounds.clamping import Clamping
from bounds.defense import Defense, Param, choice, param
from bounds.deterministic_rounding import DeterministicRounding
from bounds.dp_sgd import DPSGD
from bounds.dropout import Dropout
from bounds.gradient_clipping import GradientClipping
from bounds.gradient_noise import GradientNoise
from bounds.gradient_pruning import GradientPruning
from bounds.local_aggregation import LocalAggregation
from bounds.none import NoDefense
from bounds.secure_aggregation import SecureAggregation
from bounds.setting import SYMBOLS, Setting
from bounds.sign_compression import SignCompression
from bounds.stochastic_rounding import StochasticRounding
from bounds.tensor_attack import TensorAttack

#: Which distribution this package belongs to: the import name ``bounds`` is not ours alone.
__distribution__ = "reconbound"

#: Every defense there is. A new one is added here, in a file of its own, and as a channel of the same name in ``attack``.
DEFENSES: tuple[type[Defense], ...] = (
    NoDefense,
    GradientNoise,
    GradientClipping,
    DPSGD,
    Dropout,
    StochasticRounding,
    DeterministicRounding,
    SignCompression,
    Clamping,
    GradientPruning,
    LocalAggregation,
    SecureAggregation,
)

__all__ = [
    "ACTIVATIONS",
    "DEFENSES",
    "DPSGD",
    "SYMBOLS",
    "Activation",
    "Bound",
    "BoundValue",
    "Clamping",
    "Defense",
    "DeterministicRounding",
    "Dropout",
    "Evaluation",
    "GradientClipping",
    "GradientNoise",
    "GradientPruning",
    "Kind",
    "LocalAggregation",
    "NoDefense",
    "Param",
    "SecureAggregation",
    "Setting",
    "SignCompression",
    "StochasticRounding",
    "TensorAttack",
    "TrivialBound",
    "UnsupportedBound",
    "choice",
    "evaluate",
    "expression",
    "param",
    "resolve_activation",
]
