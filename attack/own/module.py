"""A PyTorch module as the model has it: two linear layers, and the activation that its own outputs tell."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch

from attack.networks.activation import apply_activation
from attack.own.layers import TwoLayers
from bounds import ACTIVATIONS, Activation

#: Inputs on which module and model are compared, the size of what a neuron sees, and how far outputs may be apart.
_INPUTS, _SIZE, _TOLERANCE = 16, 2.0, 1e-9


def told_activation(
    module: torch.nn.Module, layers: TwoLayers, activation: Activation | None = None
) -> Activation:
    """The activation with which ``V sigma(W x + b) + c`` gives the module's own outputs: a built-in one, or the one given.

    Both are evaluated on a copy in double precision, in the mode (training or not) in which the module is. Raises
    ``ValueError`` where the module cannot be copied, takes no inputs (n, d), has outputs that are not finite, or no
    activation fits: another one, dropout, or another network.
    """
    try:
        probe = copy.deepcopy(module).to(device="cpu", dtype=torch.float64)
    except RuntimeError as error:  # of a tensor that it keeps with the graph from which it came
        raise ValueError(
            f"module must be one that copy.deepcopy copies; it raised {' '.join(str(error).split())[:120]}: give its "
            "state_dict() and gradients to from_state_dict"
        ) from None
    state = {name: value.detach() for name, value in probe.state_dict().items()}
    W, V = state[layers.weight], state[layers.output_weight]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_INPUTS, W.shape[1], generator=generator, dtype=torch.float64)
    x = x * (_SIZE / float((x @ W.T).square().mean().sqrt().clamp_min(torch.finfo(torch.float64).tiny)))
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=()):
            outputs = probe(x).reshape(_INPUTS, len(V))
    except Exception as error:  # what a forward of any module may raise
        raise ValueError(
            f"module must take inputs of shape (n, d) = (n, {W.shape[1]}) and return (n, C) = (n, {len(V)}); it raised "
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        ) from None
    if not outputs.isfinite().all():
        raise ValueError("module must have finite outputs; got others: its weights are zero, or not finite")
    inside = x @ W.T + (0.0 if layers.bias is None else state[layers.bias])
    shift = 0.0 if layers.output_bias is None else state[layers.output_bias]
    candidates: Mapping[str, Activation] = (
        ACTIVATIONS if activation is None else {activation.name: activation}
    )
    off = {
        name: float((apply_activation(function, inside) @ V.T + shift - outputs).abs().max())
        for name, function in candidates.items()
    }
    best = min(off, key=lambda name: off[name])
    size = float(outputs.abs().max())
    if not off[best] <= _TOLERANCE * size:
        raise ValueError(
            f"module must give the outputs of output_weight . sigma(weight x + bias) + output_bias with an activation of "
            f"{', '.join(candidates)}; the nearest, {best}, is off by {off[best] / size if size else 0.0:.2g} of their "
            "size: another activation (give it as activation=), dropout, or another network"
        )
    return candidates[best]
