"""The tensor attack: moments, span, core, decomposition."""

from attack.tensor.attack import tensor_attack as reconstruct

__all__ = ["reconstruct"]
