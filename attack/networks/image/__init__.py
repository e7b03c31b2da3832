"""Networks on pictures, with the fully connected layer whose gradient tells of features."""

from attack.networks.image.network import ImageNetwork

__all__ = ["ImageNetwork"]
