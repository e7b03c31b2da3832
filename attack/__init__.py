"""The tensor attack on a shared gradient, and what each defense does to that gradient. Uses torch; any device."""

import bounds

if getattr(bounds, "__distribution__", None) != "reconbound":
    raise ImportError(
        f"reconbound's package 'bounds' is hidden by a foreign module of that name at {getattr(bounds, '__file__', '?')}; "
        "install reconbound in an environment of its own"
    )

from attack.certificate import Certificate, certificate
from attack.likelihood.attack import refine
from attack.metrics import MatchedError, matched_error, matched_rmse
from attack.networks.modules import activation_of
from attack.networks.two_layer import TwoLayerNet
from attack.observation import Observation, observe
from attack.own.attack import GradientAttack, attack_gradient
from attack.own.check import check_gradient
from attack.own.files import read_gradient
from attack.own.findings import Finding
from attack.own.gradient import SharedGradient
from attack.own.known import Known
from attack.own.outputs import OutputsAttack
from attack.reconstruction import Diagnostics, Reconstruction, ReconstructionError, reconstruct
from attack.registry import register_channel, register_reconstruct
from attack.rows.observation import FirstLayerObservation, observe_first_layer
from attack.rows.sparse_recovery import sparse_recovery
from attack.rows.tensor import first_layer_attack
from attack.tensor.attack import tensor_attack

#: Which distribution this package belongs to: the import name ``attack`` is not ours alone.
__distribution__ = "reconbound"

__all__ = [
    "Certificate",
    "Diagnostics",
    "Finding",
    "FirstLayerObservation",
    "GradientAttack",
    "Known",
    "MatchedError",
    "Observation",
    "OutputsAttack",
    "Reconstruction",
    "ReconstructionError",
    "SharedGradient",
    "TwoLayerNet",
    "activation_of",
    "attack_gradient",
    "certificate",
    "check_gradient",
    "first_layer_attack",
    "matched_error",
    "matched_rmse",
    "observe",
    "observe_first_layer",
    "read_gradient",
    "reconstruct",
    "refine",
    "register_channel",
    "register_reconstruct",
    "sparse_recovery",
    "tensor_attack",
]
