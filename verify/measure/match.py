"""A reconstruction against the truth: the one matching that trials and pictures are scored by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from attack import Reconstruction
    from attack.metrics import MatchedError


@dataclass(frozen=True, eq=False)
class Matched:
    """``error``: matched error, and the order and signs it holds for; features (B, d), residuals (B,) and labels (B,) of the
    reconstruction in that order and with those signs, float64 on the CPU."""

    error: MatchedError
    features: torch.Tensor
    residuals: torch.Tensor
    labels: torch.Tensor


def matched(X: torch.Tensor, found: Reconstruction) -> Matched:
    """Match a reconstruction to the features X (B, d). Where the attack itself says that signs are unknown, they are not
    counted as errors."""
    import torch

    from attack import matched_error

    error = matched_error(X, found.features, sign_free=found.diagnostics.sign_free)
    order, signs = torch.tensor(error.permutation), torch.tensor(error.signs)
    features, residuals, labels = (
        values.detach().cpu().double()[order] for values in (found.features, found.residuals, found.labels)
    )
    return Matched(error, features * signs[:, None], residuals * signs, labels)
