"""Gaussian mathematics that knows no attack: activations, quadrature, symmetric tensors, tails."""
