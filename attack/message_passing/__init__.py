"""Message passing: the posterior mean of the features, from any density of what is seen, by passes over the neurons."""

from attack.message_passing.attack import message_passing_attack as reconstruct

__all__ = ["reconstruct"]
