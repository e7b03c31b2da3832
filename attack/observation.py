"""What the server sees, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from attack.networks.two_layer import TwoLayerNet
from bounds import Defense, checks


@dataclass(frozen=True, eq=False)
class Observation:
    """One observed gradient with respect to the output weights.

    gradient: (m,), the entries the server sees, on the scale ``g_j = sum_i r_i sigma(w_j.x_i)``; batch_size: the number B of
    features in it; norms: their publicly known norms, sorted (an order would tell more than the server knows); defense:
    the specification, which is public.

    Raises ``ValueError`` on wrong shapes or non-finite values.
    """

    gradient: torch.Tensor
    batch_size: int
    norms: tuple[float, ...]
    defense: Defense

    def __post_init__(self) -> None:
        checks.instance("defense", self.defense, Defense, "GradientNoise(sigma=1.0)")
        object.__setattr__(self, "gradient", checked_gradient(self.gradient, ("m",)))
        object.__setattr__(self, "batch_size", checks.integer("batch_size", self.batch_size, 1))
        object.__setattr__(self, "norms", public_norms(self.norms, self.batch_size))


def checked_gradient(gradient: Any, axes: tuple[str, ...]) -> torch.Tensor:
    """``gradient`` off any graph; ``ValueError`` or ``TypeError`` if it is not finite with the named axes, none empty."""
    checks.instance("gradient", gradient, torch.Tensor)
    found: torch.Tensor = gradient.detach()
    if found.ndim != len(axes) or not found.numel() or not found.is_floating_point():
        shape = f"({', '.join(axes)}{',' if len(axes) == 1 else ''})"
        raise ValueError(f"gradient must have shape {shape}; got {tuple(found.shape)} of type {found.dtype}")
    bad = int((~torch.isfinite(found)).sum())
    if bad:
        raise ValueError(f"gradient must be finite; got {bad} of {found.numel()} entries that are not")
    return found


def public_norms(norms: Sequence[float], batch_size: int) -> tuple[float, ...]:
    """The norms sorted; ``ValueError`` or ``TypeError`` if they are not ``batch_size`` positive numbers."""
    if len(norms) != batch_size:
        raise ValueError(f"norms must have batch_size = {batch_size} entries; got {len(norms)}")
    for norm in norms:
        if checks.real("norms", norm, 0.0) == 0.0:
            raise ValueError("norms must be positive; got 0")
    return tuple(sorted(float(n) for n in norms))


def observe(
    defense: Defense, net: TwoLayerNet, X: Any, y: Any, seed: int = 1, groups: Sequence[int] | None = None
) -> Observation:
    """What the server sees of the features ``X`` (B, d) with labels ``y`` (B,) under ``defense``.

    ``groups`` (B,) partitions the features over clients or local batches, for the defenses that aggregate. The same
    ``seed`` gives the same observation. Raises ``ValueError`` or ``TypeError`` on bad input.
    """
    checks.instance("defense", defense, Defense, "GradientNoise(sigma=1.0)")
    checks.instance("net", net, TwoLayerNet)
    if not hasattr(defense, "name"):
        raise TypeError(
            f"defense must be a member of a family such as GradientNoise(sigma=1.0); got {defense!r}"
        )
    checks.integer("seed", seed, 0)
    X = net.features(X)
    labels = net.labels(y, X.shape[0])
    parts = checks.groups(() if groups is None else groups, X.shape[0])
    # The channel of a defense lives in the file of the same name: bounds/defenses/foo.py, attack/channels/foo.py.
    channel = import_module(f"attack.channels.{defense.name}").channel
    gradient = channel(defense, net, X, labels, parts, seed)
    return Observation(
        gradient, X.shape[0], tuple(torch.linalg.vector_norm(X.double(), dim=1).tolist()), defense
    )
