"""Maximum likelihood over features and residuals."""

from attack.likelihood.attack import likelihood_attack as reconstruct

__all__ = ["reconstruct"]
