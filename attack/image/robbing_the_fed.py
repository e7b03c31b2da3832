"""Robbing the Fed: a server that puts a layer in front whose gradient holds pictures one by one.

Fowl et al. 2022 (ICLR, arXiv 2110.13057). Neuron j of the layer measures one number of a picture, its mean brightness, and
is active where that is above c_j. All neurons act alike on what follows, so that the gradient's rows are a step function of
the threshold: ``G_j = sum_i [brightness_i > c_j] delta_i x_i``, and delta_i alone in the bias' gradient. A picture that
has a bin to itself is a step; its weights' part over its bias' part is the picture, exactly.
"""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import scipy
import torch
from torch import nn

from attack.image.completion import completed
from attack.image.head_gradient import pictures_of
from attack.image.inversion import (
    ImageAttack,
    Inversion,
    InversionDiagnostics,
    InversionError,
    Progress,
)
from attack.image.observed import PRUNED, ImageObservation
from attack.networks.image.network import ImageNetwork
from bounds import DPSGD, GradientNoise, NoisyPruning, checks

#: Mean and standard deviation of the mean brightness of ordinary pictures, where the server has none of its own.
BRIGHTNESS = (0.45, 0.2)

#: A step below this fraction of the largest is rounding, in multiples of the entries' precision; of noise alone a step is
#: longer than the root of its n entries by this many standard deviations of one with probability exp(-t^2/2).
_ROUNDING, _NOISE = 64.0, 5.0


@dataclass(frozen=True)
class RobbingTheFed(ImageAttack):
    """Threat model G of Carletti et al. (USENIX Security 2025), a manipulator with data of the kind: it changes the model
    that it sends (``imprinted``), with bins for the brightness of such pictures. Pictures that share a bin come out mixed; a
    picture darker than every threshold leaves no trace."""

    name: ClassVar[str] = "robbing_the_fed"
    threat: ClassVar[str] = "malicious"


class _Imprint(nn.Module):
    """``x + back(relu(imprint(x)))``, then the module that was there."""

    def __init__(
        self,
        inner: nn.Module,
        weight: torch.Tensor,
        bias: torch.Tensor,
        *,
        shape: tuple[int, int, int],
        gain: float,
    ) -> None:
        super().__init__()
        bins, size = weight.shape
        self.shape = shape
        self.imprint, self.back, self.inner = nn.Linear(size, bins), nn.Linear(bins, size, bias=False), inner
        with torch.no_grad():
            self.imprint.weight.copy_(weight)
            self.imprint.bias.copy_(bias)
            self.back.weight.fill_(gain / bins)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(1)
        seen = self.back(torch.relu(self.imprint(flat)))
        found: torch.Tensor = self.inner((flat + seen).view(-1, *self.shape))
        return found


def imprinted(
    network: ImageNetwork,
    bins: int,
    *,
    brightness: tuple[float, float] = BRIGHTNESS,
    pictures: Any = None,
    gain: float = 1.0,
) -> ImageNetwork:
    """The network with the layer in front: ``bins`` thresholds at the quantiles of the mean brightness of a picture, that of
    ``pictures`` (n, C, H, W), pixels in [0, 1], that the server has, else a Gaussian's of this mean and standard deviation.
    gain: how much of the layer is added to every pixel; with it grows the layer's share of the gradient, which noise
    and pruning then spare, and what follows is disturbed, so that local steps move it more.

    Raises ``ValueError`` or ``TypeError`` on bad input.
    """
    checks.instance("network", network, ImageNetwork)
    checks.integer("bins", bins, 1)
    checks.real("gain", gain)
    if gain == 0:
        raise ValueError("gain must not be 0, which leaves no gradient; got 0")
    share = (np.arange(bins) + 0.5) / bins
    if pictures is None:
        mean, spread = brightness
        checks.inside("the spread of brightness", spread, math.inf)
        cuts = scipy.stats.norm.ppf(share, mean, spread)
    else:
        own, _ = network.checked(pictures, torch.zeros(len(pictures), dtype=torch.int64))
        cuts = np.quantile(own.double().mean(dim=(1, 2, 3)).cpu().numpy(), share)
    channels, height, width = network.shape
    size = channels * height * width
    std, means = (
        np.broadcast_to(np.array(v, dtype=np.float64), (channels,)) for v in (network.std, network.mean)
    )
    weight = np.repeat(std, height * width) / size  # brightness of pixels, from normalised ones
    module = _Imprint(
        network.module,
        torch.from_numpy(np.tile(weight, (bins, 1))),
        torch.from_numpy(means.mean() - cuts),
        shape=network.shape,
        gain=gain,
    )
    return dataclasses.replace(
        network,
        module=module.to(network.device, network.dtype),
        attacked=None if network.attacked is None else f"inner.{network.attacked}",
        output=f"inner.{network.output}",
    )


def invert(
    observation: ImageObservation,
    attack: RobbingTheFed,
    *,
    labels: torch.Tensor | None,
    seed: int,
    progress: Progress | None,
) -> Inversion:
    """See ``attack.image.inversion.invert``; labels are not used. Raises ``ValueError`` for a network without the layer.

    What is known of a defense: noise is averaged over the bins between two steps, which are as many as there are pictures at
    most; entries that pruning removed are filled in by the rows' rank, where the others determine them.
    """
    began = time.monotonic()
    names = ("imprint.weight", "imprint.bias")
    if not set(names) <= set(observation.network.names):
        raise ValueError(
            "network must have the imprint layer in front, as robbing_the_fed.imprinted puts it there"
        )
    weight, bias = (observation.gradient(name).double() for name in names)
    rows = torch.cat([weight, bias[:, None]], dim=1)
    if isinstance(observation.defense, PRUNED) and observation.defense.ratio > 0:
        seen = rows.cpu().numpy()
        filled = completed(seen, seen != 0, observation.batch_size)
        rows = torch.from_numpy(filled.rows) if filled.determined else rows
    steps = _steps(rows, observation.batch_size, _least(observation, rows))
    sizes = steps[:, -1].abs()  # one whose part of the bias was pruned has no length
    steps = steps[sizes > torch.finfo(torch.float32).eps * sizes.max()] if len(steps) else steps
    if not len(steps):
        raise InversionError(
            "the imprint layer's gradient has no steps: no picture, or noise hides them",
            InversionDiagnostics("failed", ("no steps",), seconds=time.monotonic() - began),
        )
    images = pictures_of(observation.network, steps[:, :-1] / steps[:, -1:])
    found = images.to(observation.network.device, observation.network.dtype)
    missing = observation.batch_size - len(steps)
    warnings = (f"{len(steps)} bins for {observation.batch_size} pictures",) if missing else ()
    return Inversion(
        found,
        None,
        None,
        InversionDiagnostics("suspect" if missing else "ok", warnings, seconds=time.monotonic() - began),
    )


def _least(observation: ImageObservation, rows: torch.Tensor) -> float:
    """The smallest length of a step that is no rounding or noise."""
    defense = observation.defense
    sigma = 0.0
    if isinstance(defense, GradientNoise | NoisyPruning):
        sigma = defense.sigma
    elif isinstance(defense, DPSGD):
        sigma = defense.noise_multiplier * defense.max_norm
    rounding = _ROUNDING * torch.finfo(observation.network.dtype).eps
    size = float(torch.linalg.vector_norm(rows, dim=1).max())
    return max(rounding * size, sigma * (math.sqrt(rows.shape[1]) + _NOISE))


def _steps(rows: torch.Tensor, most: int, least: float) -> torch.Tensor:
    """Steps (k, n), k <= ``most``, of rows (bins, n) as a function that is constant between them and zero after the last
    row: the best cuts in two, one after the other, and means between cuts.

    A cut is made where the difference of means on its sides, times the root of how many rows tell it, is ``least`` or more.
    """
    signal = torch.cat([rows, torch.zeros_like(rows[:1])])
    sums = torch.cat([torch.zeros_like(rows[:1]), signal.cumsum(dim=0)])
    cuts = [0, len(signal)]
    gains: dict[tuple[int, int], tuple[float, int]] = {}
    while len(cuts) - 2 < most:
        for pair in pairwise(cuts):
            if pair not in gains:
                gains[pair] = _best_cut(sums, *pair)
        gain, cut = max(gains[pair] for pair in pairwise(cuts))
        if not gain > least:
            break
        cuts = sorted([*cuts, cut])
    means = torch.stack([(sums[b] - sums[a]) / (b - a) for a, b in pairwise(cuts)])
    means[-1] = 0.0  # beyond the last row there is nothing
    return means[:-1] - means[1:]


def _best_cut(sums: torch.Tensor, first: int, end: int) -> tuple[float, int]:
    """Between rows first .. end - 1 the cut that explains most, and the length of the step times the root of its rows."""
    if end - first < 2:
        return 0.0, first
    cut = torch.arange(first + 1, end, device=sums.device)
    before, after = (cut - first).to(sums), (end - cut).to(sums)
    step = (sums[cut] - sums[first]) / before[:, None] - (sums[end] - sums[cut]) / after[:, None]
    gain = torch.linalg.vector_norm(step, dim=1) * (before * after / (before + after)).sqrt()
    best = int(gain.argmax())
    return float(gain[best]), int(cut[best])
