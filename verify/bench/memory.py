"""The peak memory of an attack on a network that does not fit."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from bounds.setting import alternating
from verify.bench.shared import BenchResult, predicted_error, problem
from verify.origin import own

MEMORY_LIMIT_GB = 4.0


def peak_memory(d: int = 3072, m: int = 1_000_000, B: int = 4) -> BenchResult:
    """Peak resident memory, in units of 10^9 bytes, of a process that does one whole attack on the CPU with W
    drawn anew in every pass.

    A fresh process does it, and measures itself with ``getrusage``. On Linux a process inherits the peak of
    the one that started it, so the number may be too large, never too small. Raises
    ``RuntimeError`` with the attack's reason if it has no result.
    """
    import torch

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as child:
        details = child.submit(attack_regenerated, d, m, B, torch.get_num_threads()).result()
    peak = details.pop("peak_bytes") / 1e9
    return BenchResult(
        name="memory",
        statement=f"peak memory in GB, W drawn in every pass, relu, d = {d}, m = {m}, B = {B}",
        value=peak,
        target=MEMORY_LIMIT_GB,
        at_least=False,
        threads=int(details.pop("threads")),
        repeats=1,
        details=details | {"weights_gb": 8e-9 * m * d},
    )


def attack_regenerated(d: int, m: int, B: int, threads: int) -> dict[str, float]:
    """What the fresh process runs."""
    own("attack")
    import resource

    import torch

    from attack import ReconstructionError, matched_rmse, tensor_attack

    torch.set_num_threads(threads)
    start = time.perf_counter()
    X, net, seen = problem(d, m, B, "relu", alternating(B), memory_budget=0)
    observed = time.perf_counter()
    try:
        found = tensor_attack(seen, net)
    except ReconstructionError as error:
        raise RuntimeError(str(error)) from None  # its diagnostics do not travel between processes
    done = time.perf_counter()
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {
        "peak_bytes": float(peak),
        "threads": torch.get_num_threads(),
        "observe_s": observed - start,
        "attack_s": done - observed,
        "passes": found.diagnostics.passes,
        "error": matched_rmse(X, found.features),
        "predicted_error": predicted_error(X, m),
    }
