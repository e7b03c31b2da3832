"""The one entrance to every attack, what an attack returns, and how sure it may be of itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from attack.observation import Observed
from attack.registry import code_of
from bounds import TensorAttack, checks
from bounds.estimator import AttackSpec

if TYPE_CHECKING:
    from attack.networks.two_layer import TwoLayerNet


@dataclass(frozen=True)
class Diagnostics:
    """How sure the attack may be of itself.

    status: "ok", "suspect" (see warnings) or "failed". eigenvalues, noise_edge: of the gradient, over its power of two
    (``attack.units``) where its size is not ordinary. gap: weakest eigenvalue of the span over the edge of the noise. These
    three are of attacks that look for a span first, else None.
    misfit: objective of the fit over the squared norm of its data; expected: what of it the noise lets expect, where the
    attack knows. agreeing: starts that ended at the same solution. exact: whether nothing but rounding is left, also of
    entries that were not fitted; None where noise is expected. error: the R that the attack itself expects.
    passes: passes over the weights, 0 where they are not counted. sign_free: each feature is known up to its sign only, its
    residual with it, and its label not at all (odd activations: (x, r) and (-x, -r) give the same gradient). method: of
    those that an attack chooses from, the one that served.
    """

    status: str
    warnings: tuple[str, ...]
    gap: float | None = None
    eigenvalues: tuple[float, ...] | None = None
    noise_edge: float | None = None
    passes: int = 0
    misfit: float | None = None
    agreeing: int | None = None
    starts: int | None = None
    complex_starts: int | None = None
    sign_free: bool = False
    expected: float | None = None
    exact: bool | None = None
    error: float | None = None
    method: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a record."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}


class ReconstructionError(RuntimeError):
    """The attack has no result to return; ``diagnostics`` say what it saw."""

    def __init__(self, reason: str, diagnostics: Diagnostics) -> None:
        super().__init__(reason)
        self.diagnostics = diagnostics


def failure(reason: str) -> ReconstructionError:
    """The error of an attack that saw nothing else worth telling than why it has no result."""
    return ReconstructionError(reason, Diagnostics("failed", (reason,)))


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """features (B, d), residuals (B,), labels (B,), in no particular order, and diagnostics.

    Float64, on the network's device. residuals are those that the gradient as it was sent is made of, and labels are f(x)
    less these: a defense that rescales residuals (clipping, several local steps) or bends entries (pruning, rounding to
    the nearest, clamping) moves both, and directions tell nothing of that.
    """

    features: torch.Tensor
    residuals: torch.Tensor
    labels: torch.Tensor
    diagnostics: Diagnostics


def reconstruct(
    observation: Observed,
    net: TwoLayerNet,
    batch_size: int | None = None,
    attack: AttackSpec | None = None,
    seed: int = 2,
) -> Reconstruction:
    """Reconstruct the features from an observation by the attack that a specification describes, ``TensorAttack()`` where
    None: the one entrance to every attack, for the gradient of the output weights and of the first layer.

    The code of a specification lives under its name: ``reconstruct`` of ``attack.<name>``, and of ``attack.rows.<name>``
    for a ``FirstLayerObservation``, with these same arguments; from outside the tree it is given by
    ``register_reconstruct``. Raises ``TypeError`` for a specification that has no code for
    the observation, and else what that attack raises.
    """
    checks.instance("observation", observation, Observed)
    attack = TensorAttack() if attack is None else attack
    checks.instance("attack", attack, AttackSpec, "TensorAttack()")
    run = code_of(type(attack), observation.attacks)
    if run is None:
        there = [kind.__name__ for kind in _below(AttackSpec) if code_of(kind, observation.attacks)]
        raise TypeError(
            f"attack must be one that has code for this {type(observation).__name__} ({', '.join(sorted(there))}); "
            f"got {attack!r}"
        )
    return run(observation, net, batch_size=batch_size, attack=attack, seed=seed)


def _below(kind: type[AttackSpec]) -> Iterator[type[AttackSpec]]:
    """Every class derived from it, at any depth."""
    for derived in kind.__subclasses__():
        yield derived
        yield from _below(derived)
