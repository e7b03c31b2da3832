"""The entries that give the span: what is seen, or the function of it that shows the span best."""

from __future__ import annotations

import torch

from attack.networks.two_layer import TwoLayerNet
from attack.observation import Observation
from attack.reconstruction import Diagnostics, ReconstructionError
from attack.units import gradient_unit, shift
from bounds.arrays import Array
from bounds.errors import UnsupportedBound
from bounds.kinds.predicted.spectral.preprocessing import preprocessing


def preprocessed(observation: Observation, net: TwoLayerNet, *, residualized: bool) -> torch.Tensor:
    """h of every entry, (m,), in the weights' type and of a size near 1 (the entries themselves, to a power of 2, where no
    other function shows more).

    Raises ``ReconstructionError`` where entries are all equal, or the defense does not say how they come about.
    """
    seen: Array = observation.gradient.double().cpu().numpy()
    norms = torch.tensor(observation.norms, dtype=torch.float64).numpy()
    if (seen == seen[0]).all():
        raise _none("all entries are equal, and tell nothing of features")
    try:
        density = observation.defense.density()
        found = preprocessing(seen, norms, net.activation, density, residualized=residualized)
    except UnsupportedBound as error:
        raise _none(str(error)) from error
    curve = found.best(net.d - observation.batch_size, net.m)
    if curve is None:
        entries = shift(observation.gradient, -gradient_unit(observation.gradient))
    else:
        entries = torch.from_numpy(curve(seen))
    return entries.to(device=net.device, dtype=net.dtype)


def _none(why: str) -> ReconstructionError:
    reason = f"no preprocessing: {why}"
    return ReconstructionError(reason, Diagnostics("failed", (reason,)))
