"""Gradient matching, the published rival: features whose gradient is nearest to the observed one."""

from attack.gradient_matching.attack import gradient_matching as reconstruct

__all__ = ["reconstruct"]
