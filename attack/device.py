"""The device that a computation runs on."""

from __future__ import annotations

import torch

from attack.streams import Device


def resolve_device(device: Device) -> torch.device:
    """The torch device; "auto" is CUDA where there is one. ``ValueError`` if it does not exist."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:  # torch built without CUDA asserts
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"device must be auto, cpu or an available accelerator; got {device!r} ({reason})"
        ) from None
    return torch.device(device)
