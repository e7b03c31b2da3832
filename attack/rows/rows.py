"""``RowAttack``: exact recovery from the gradient of the first layer, by whichever search serves."""

from __future__ import annotations

from attack.networks.two_layer import TwoLayerNet
from attack.reconstruction import Reconstruction
from attack.rows.observation import FirstLayerObservation
from attack.rows.sparse_recovery import recover
from bounds import RowAttack


def reconstruct(
    observation: FirstLayerObservation,
    net: TwoLayerNet,
    batch_size: int | None = None,
    attack: RowAttack | None = None,
    seed: int = 2,
) -> Reconstruction:
    """As ``sparse_recovery``, for batches of any size up to d: ``diagnostics.method`` says which search served, "search" or
    "ica", and ``starts`` how many samples or starts it took. What is returned explains every row, whichever it was.

    Raises as ``sparse_recovery``.
    """
    return recover(observation, net, batch_size, seed, attack=attack).reconstruction
