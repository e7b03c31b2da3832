"""Random streams, separated by purpose, so that equal seeds everywhere never make the noise equal the weights."""

from __future__ import annotations

import zlib

import numpy as np
import torch

from bounds import checks

Device = str | torch.device


def seed_sequence(seed: int, purpose: str, *keys: int) -> np.random.SeedSequence:
    """The seed sequence of one purpose ("weights", "noise", "starts", ...) and its sub-keys (a block number, say)."""
    checks.integer("seed", seed, 0)
    return np.random.SeedSequence(entropy=int(seed), spawn_key=(zlib.crc32(purpose.encode()), *keys))


def numpy_generator(seed: int, purpose: str, *keys: int) -> np.random.Generator:
    """A NumPy generator for that stream (SFC64: the fastest of NumPy's that passes the usual test batteries)."""
    return np.random.Generator(np.random.SFC64(seed_sequence(seed, purpose, *keys)))


def normal(
    shape: tuple[int, ...],
    seed: int,
    purpose: str,
    *keys: int,
    device: Device,
    dtype: torch.dtype,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Standard normals of that stream on the device, float32 or float64; into ``out``, a contiguous CPU tensor, if given.

    The same arguments give the same bits on the same kind of device; the CPU and CUDA streams differ (each uses its own
    fast generator).
    """
    if torch.device(device).type == "cpu":
        target = torch.empty(shape, dtype=dtype) if out is None else out
        kind = np.float32 if dtype == torch.float32 else np.float64
        numpy_generator(seed, purpose, *keys).standard_normal(out=target.numpy(), dtype=kind)
        return target
    generator = torch.Generator(device=device)
    generator.manual_seed(
        int(seed_sequence(seed, purpose, *keys).generate_state(1, np.uint64)[0] >> np.uint64(1))
    )
    return torch.randn(shape, generator=generator, device=device, dtype=dtype)


def uniform(
    shape: tuple[int, ...], seed: int, purpose: str, *keys: int, device: Device, dtype: torch.dtype
) -> torch.Tensor:
    """Uniform numbers in [0, 1) of that stream, as ``normal`` gives normals."""
    if torch.device(device).type == "cpu":
        kind = np.float32 if dtype == torch.float32 else np.float64
        return torch.from_numpy(numpy_generator(seed, purpose, *keys).random(shape, dtype=kind))
    generator = torch.Generator(device=device)
    generator.manual_seed(
        int(seed_sequence(seed, purpose, *keys).generate_state(1, np.uint64)[0] >> np.uint64(1))
    )
    return torch.rand(shape, generator=generator, device=device, dtype=dtype)
