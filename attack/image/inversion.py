"""The one entrance to every attack on a batch of pictures, and what an attack returns."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar

import torch

from attack.image.observed import ImageObservation
from bounds import checks

#: Up to so many pixels of all pictures and so many parameters torch's own convolutions are the quicker ones.
_FEW_PIXELS, _FEW_WEIGHTS = 1024, 10**5

#: Called with the iterations made, all iterations, and the best value so far.
Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class ImageAttack:
    """Base of the descriptions of attacks on pictures: frozen, inert, complete; options are fields. A subclass sets
    ``name``: the function ``invert`` of the module ``attack.image.NAME`` is its code. threat: what the server may do,
    "curious" (look at what it gets) or "malicious" (choose the weights too)."""

    name: ClassVar[str]
    threat: ClassVar[str] = "curious"


@dataclass(frozen=True)
class InversionDiagnostics:
    """status: "ok", "suspect" (see warnings) or "failed" (no result). objective: value of the answer, in the attack's own
    units; iterations: in all; starts: made; start_kept: index of the one kept. seconds: of the whole attack. labels_from:
    "given" or the strategy that recovered them."""

    status: str
    warnings: tuple[str, ...] = ()
    objective: float | None = None
    iterations: int = 0
    starts: int = 0
    start_kept: int | None = None
    seconds: float = 0.0
    labels_from: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a record."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}


class InversionError(RuntimeError):
    """The attack has no result to return; ``diagnostics`` say what it saw."""

    def __init__(self, reason: str, diagnostics: InversionDiagnostics) -> None:
        super().__init__(reason)
        self.diagnostics = diagnostics


@dataclass(frozen=True, eq=False)
class Inversion:
    """What an attack found, in no particular order: images (n, C, H, W), pixels in [0, 1], of the observation's B pictures
    or fewer; labels (n,) classes or None; features (k, d_f) of the attacked layer, each up to a factor, where the attack
    finds features first, else None."""

    images: torch.Tensor
    labels: torch.Tensor | None
    features: torch.Tensor | None
    diagnostics: InversionDiagnostics


def invert(
    observation: ImageObservation,
    attack: ImageAttack,
    *,
    labels: Any = None,
    seed: int = 2,
    progress: Progress | None = None,
) -> Inversion:
    """Reconstruct the pictures of an observation by the attack that a specification describes.

    labels (B,): classes, where the server knows them; else the attack recovers or searches them. The same seed gives the
    same result on the same device with the same threads. Raises ``TypeError`` for a specification without code,
    ``ValueError`` or ``TypeError`` on bad input, before the first iteration; ``InversionError`` where there is no result.
    """
    checks.instance("observation", observation, ImageObservation)
    checks.instance("attack", attack, ImageAttack)
    checks.integer("seed", seed, 0)
    known = None if labels is None else observation.network.checked_labels(labels, observation.batch_size)
    place = f"attack.image.{attack.name}"
    if find_spec(place) is None:
        raise TypeError(f"attack must be one that has code, a module {place}; got {attack!r}")
    code = import_module(place)
    with _kernels(observation):
        found: Inversion = code.invert(observation, attack, labels=known, seed=seed, progress=progress)
    return found


@contextmanager
def _kernels(observation: ImageObservation) -> Iterator[None]:
    """On a CPU, small pictures in small networks without oneDNN, which takes longer to set up their convolutions than
    torch's own kernels take for all. The switch is the process's: attacks in two threads share it."""
    network = observation.network
    pixels = observation.batch_size * math.prod(network.shape[1:])
    weights = sum(p.numel() for p in network.module.parameters())
    small = network.device.type == "cpu" and pixels <= _FEW_PIXELS and weights <= _FEW_WEIGHTS
    switch: Any = torch.backends.mkldnn
    before = bool(switch.enabled)
    switch.enabled = before and not small
    try:
        yield
    finally:
        switch.enabled = before
