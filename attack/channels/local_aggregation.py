"""Several local gradient steps, observed through the sum of their gradients."""

from __future__ import annotations

import torch

from attack.networks.activation import apply_activation, apply_derivative
from attack.networks.two_layer import TwoLayerNet
from bounds import LocalAggregation
from bounds.wide_limits import assigned


def channel(
    defense: LocalAggregation,
    net: TwoLayerNet,
    X: torch.Tensor,
    y: torch.Tensor,
    groups: tuple[int, ...],
    seed: int,
) -> torch.Tensor:
    """The sum over the steps of dL/da at the weights of each step. Real steps of rate ``lr_times_m/m`` on both layers: the
    output weights a, and W, whose displacement is kept through its inner products with the features alone, as every gradient
    with respect to w_j lies in their span. Memory: a few arrays (B, m)."""
    if defense.steps == 1:
        return net.output_gradient(X, y)[0]
    when = (
        torch.zeros(X.shape[0], dtype=torch.long)
        if defense.batches == "same"
        else torch.tensor(assigned(groups, defense.steps, "steps"))
    )
    rate = defense.lr_times_m / net.m
    inner = torch.empty(X.shape[0], net.m, device=net.device, dtype=net.dtype)
    for rows, W in net.blocks():
        inner[:, rows] = X @ W.T
    gram = X @ X.T
    output = torch.full((net.m,), 1 / net.m, device=net.device, dtype=net.dtype)
    total = torch.zeros_like(output)
    for step in range(defense.steps):
        used = torch.ones(X.shape[0], dtype=torch.bool) if defense.batches == "same" else when == step
        used = used.to(net.device)
        if not bool(used.any()):
            continue
        hidden = apply_activation(net.activation, inner[used])
        residuals = (hidden.double() @ output.double() - y[used]).to(net.dtype)
        gradient = residuals @ hidden
        total += gradient
        if rate and step < defense.steps - 1:
            slopes = residuals[:, None] * apply_derivative(net.activation, inner[used]) * output
            inner -= rate * gram[:, used] @ slopes
            output = output - rate * gradient
    return total
