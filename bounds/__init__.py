"""Theory of data reconstruction from gradients: settings, defenses, bounds. Uses sympy, numpy, scipy; never torch."""

from collections.abc import KeysView, Mapping

import sympy as sp

from bounds.defense import Defense, Param, choice, param, symbol
from bounds.defenses.clamping import Clamping
from bounds.defenses.deterministic_rounding import DeterministicRounding
from bounds.defenses.dp_sgd import DPSGD
from bounds.defenses.dropout import Dropout
from bounds.defenses.gradient_clipping import GradientClipping
from bounds.defenses.gradient_noise import GradientNoise
from bounds.defenses.gradient_pruning import GradientPruning
from bounds.defenses.local_aggregation import LocalAggregation
from bounds.defenses.noisy_pruning import NoisyPruning
from bounds.defenses.none import NoDefense
from bounds.defenses.secure_aggregation import SecureAggregation
from bounds.defenses.sign_compression import SignCompression
from bounds.defenses.stochastic_rounding import StochasticRounding
from bounds.errors import TrivialBound, UnsupportedBound
from bounds.estimator import (
    AttackSpec,
    GradientMatching,
    LikelihoodAttack,
    MessagePassing,
    RowAttack,
    TensorAttack,
)
from bounds.evaluation import Evaluation, evaluate, expression
from bounds.gaussian.activations import ACTIVATIONS, Activation, resolve_activation
from bounds.gaussian.variation import Variation
from bounds.kinds.lower.fisher import CramerRao, cramer_rao, fisher_information
from bounds.kinds.stated import THEORY, register_attack
from bounds.registry import Defenses, Live
from bounds.setting import SIZES, Setting
from bounds.statement import Bound, BoundValue, Kind

#: Which distribution this package belongs to: the import name ``bounds`` is not ours alone.
__distribution__ = "reconbound"

#: Every defense there is. A new one of this tree is added here, in a file of its own, and as a channel of the same name in
#: ``attack``; one from outside by ``register_defense``.
DEFENSES = Defenses(
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
    NoisyPruning,
    LocalAggregation,
    SecureAggregation,
)

register_defense = DEFENSES.register

#: Every attack that theory speaks about.
ATTACKS: KeysView[type[AttackSpec]] = THEORY.keys()

#: Every symbol that a bound's expression may use.
SYMBOLS: Mapping[str, sp.Symbol] = Live(
    lambda: {**SIZES, **{p.name: p.symbol for family in DEFENSES for p in family.parameters()}}
)

__all__ = [
    "ACTIVATIONS",
    "ATTACKS",
    "DEFENSES",
    "DPSGD",
    "SYMBOLS",
    "THEORY",
    "Activation",
    "AttackSpec",
    "Bound",
    "BoundValue",
    "Clamping",
    "CramerRao",
    "Defense",
    "DeterministicRounding",
    "Dropout",
    "Evaluation",
    "GradientClipping",
    "GradientMatching",
    "GradientNoise",
    "GradientPruning",
    "Kind",
    "LikelihoodAttack",
    "LocalAggregation",
    "MessagePassing",
    "NoDefense",
    "NoisyPruning",
    "Param",
    "RowAttack",
    "SecureAggregation",
    "Setting",
    "SignCompression",
    "StochasticRounding",
    "TensorAttack",
    "TrivialBound",
    "UnsupportedBound",
    "Variation",
    "choice",
    "cramer_rao",
    "evaluate",
    "expression",
    "fisher_information",
    "param",
    "register_attack",
    "register_defense",
    "resolve_activation",
    "symbol",
]
