"""What the server sees, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch

from attack.arrays import require_dense
from attack.client import Network
from attack.registry import channel_of
from bounds import Defense, checks
from bounds.gaussian.activations import LARGEST_NORM

if TYPE_CHECKING:
    from attack.networks.two_layer import TwoLayerNet


@dataclass(frozen=True, eq=False)
class Observed:
    """One gradient as the server sees it, of the layer that the subclass names.

    gradient: the entries, with the axes ``axes``; batch_size: the number B of features in it; norms: their publicly known
    norms, sorted (an order would tell more than the server knows); defense: the specification, which is public. ``attacks``:
    the package that holds the attacks on such a gradient.

    Raises ``ValueError`` or ``TypeError`` on wrong shapes or non-finite values.
    """

    layer: ClassVar[str]
    axes: ClassVar[tuple[str, ...]]
    attacks: ClassVar[str]

    gradient: torch.Tensor
    batch_size: int
    norms: tuple[float, ...]
    defense: Defense

    def __post_init__(self) -> None:
        checks.instance("defense", self.defense, Defense, "GradientNoise(sigma=1.0)")
        object.__setattr__(self, "gradient", _checked_gradient(self.gradient, self.axes))
        object.__setattr__(self, "batch_size", checks.integer("batch_size", self.batch_size, 1))
        object.__setattr__(self, "norms", _public_norms(self.norms, self.batch_size))

    def expected_batch(self, net: TwoLayerNet, batch_size: int | None) -> int:
        """B, once it (which must be the observation's where given) and the gradient's shape are found to fit the network;
        ``ValueError`` or ``TypeError`` if they do not."""
        B = self.batch_size if batch_size is None else checks.integer("batch_size", batch_size, 1)
        if self.batch_size != B:
            raise ValueError(f"batch_size must be the observation's, {self.batch_size}; got {B}")
        shape = tuple(int(getattr(net, axis)) for axis in self.axes)
        if tuple(self.gradient.shape) != shape:
            raise ValueError(
                f"the gradient must have shape {_shape(self.axes)} = {shape}; got {tuple(self.gradient.shape)}"
            )
        if min(net.d, net.m - 1) < B:
            raise ValueError(f"batch_size must be at most d = {net.d} and below m = {net.m}; got {B}")
        return B


@dataclass(frozen=True, eq=False)
class Observation(Observed):
    """One observed gradient with respect to the output weights: (m,), on the scale ``g_j = sum_i r_i sigma(w_j.x_i)``."""

    layer = "output"
    axes = ("m",)
    attacks = "attack"


def observe(
    defense: Defense,
    net: Network,
    X: Any,
    y: Any,
    seed: int = 1,
    groups: Sequence[int] | None = None,
    *,
    norms: Sequence[float] | None = None,
) -> Observation:
    """What the server sees of the output weights' gradient for the features ``X`` (B, d) with labels ``y`` (B,) under
    ``defense``; ``net``: a ``TwoLayerNet``, a ``DeepNet``, or anything else with a ``client``.

    ``groups`` (B,) partitions the features over clients or local batches, for the defenses that aggregate. ``norms`` (B,):
    the publicly known norms, where the server is after other features than ``X`` (what the last hidden layer of a deep
    network receives). The same ``seed`` gives the same observation on the same device, in the same type and with the same
    number of threads. Raises ``ValueError`` or ``TypeError`` on bad input.
    """
    return observed(Observation, defense, net, X, y, seed=seed, groups=groups, norms=norms)


AnyObserved = TypeVar("AnyObserved", bound=Observed)


def observed(
    kind: type[AnyObserved],
    defense: Defense,
    net: Network,
    X: Any,
    y: Any,
    *,
    seed: int,
    groups: Sequence[int] | None,
    norms: Sequence[float] | None,
) -> AnyObserved:
    """The observation of ``kind.layer``, as ``observe`` describes it."""
    checks.instance("defense", defense, Defense, "GradientNoise(sigma=1.0)")
    if not hasattr(defense, "name"):
        raise TypeError(
            f"defense must be a member of a family such as GradientNoise(sigma=1.0); got {defense!r}"
        )
    if not callable(getattr(net, "client", None)):
        raise TypeError(f"net must be a network with a client, such as a TwoLayerNet; got {net!r}")
    checks.integer("seed", seed, 0)
    client = net.client(X, y, kind.layer)
    parts = checks.groups(() if groups is None else groups, client.samples)
    gradient = channel_of(defense)(defense, client, parts, seed)
    known = client.norms if norms is None else tuple(float(n) for n in norms)
    return kind(gradient, client.samples, known, defense)


def _checked_gradient(gradient: Any, axes: tuple[str, ...]) -> torch.Tensor:
    """``gradient`` off any graph; ``ValueError`` or ``TypeError`` if it is not finite with the named axes, none empty."""
    checks.instance("gradient", gradient, torch.Tensor)
    require_dense("gradient", gradient)
    found: torch.Tensor = gradient.detach()
    if found.ndim != len(axes) or not found.numel() or not found.is_floating_point():
        raise ValueError(
            f"gradient must have shape {_shape(axes)}; got {tuple(found.shape)} of type {found.dtype}"
        )
    bad = int((~torch.isfinite(found)).sum())
    if bad:
        raise ValueError(f"gradient must be finite; got {bad} of {found.numel()} entries that are not")
    return found


def _public_norms(norms: Sequence[float], batch_size: int) -> tuple[float, ...]:
    """The norms sorted; ``ValueError`` or ``TypeError`` unless they are B numbers up to ``LARGEST_NORM``, above 0."""
    given = checks.several("norms", norms)
    if len(given) != batch_size:
        raise ValueError(f"norms must have batch_size = {batch_size} entries; got {len(given)}")
    for norm in given:
        if checks.real("norms", norm, 0.0, LARGEST_NORM) == 0.0:
            raise ValueError("norms must be positive; got 0")
    return tuple(sorted(float(n) for n in given))


def _shape(axes: tuple[str, ...]) -> str:
    return f"({', '.join(axes)}{',' if len(axes) == 1 else ''})"
