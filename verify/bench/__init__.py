"""How fast is the attack? Ratios of times measured in one run, so that they mean the same on any computer.

Every time is a median over repetitions after one call that is not counted. What is compared takes turns, so
that other load on the computer falls on both sides, and both have a single thread: with more, each of the
attack's short steps waits for the slowest thread, and a busy computer is measured instead of the attack. A target
that is missed is reported as missed.
"""

from __future__ import annotations

from bounds import checks
from verify.bench.command import start_up
from verify.bench.images import against_peers, small_pictures
from verify.bench.memory import peak_memory
from verify.bench.rivals import against_rivals
from verify.bench.shared import BenchResult
from verify.bench.tensor import against_tensorly, in_passes, tensorly_parafac

__all__ = [
    "BenchResult",
    "against_peers",
    "against_rivals",
    "against_tensorly",
    "bench",
    "in_passes",
    "peak_memory",
    "small_pictures",
    "start_up",
]


def bench(large: bool = False, repeats: int = 5) -> tuple[BenchResult, ...]:
    """How long the command line takes to start, the attack against the full tensor with tensorly, the attack in passes
    over held weights, the strongest attack against gradient matching, gradient inversion of small pictures, and, if
    ``large`` (minutes), the peak memory of an attack on a network that does not fit.

    ``repeats``: timed calls of each kind. Raises ``ImportError`` if tensorly is missing, ``ValueError`` or
    ``TypeError`` for repeats below 1; all before any long computation.
    """
    checks.integer("repeats", repeats, 1)
    if not isinstance(large, bool):
        raise TypeError(f"large must be True or False; got {large!r}")
    tensorly_parafac()
    results = [start_up(repeats=repeats), against_tensorly(repeats=repeats)]
    results += [in_passes(m=m, repeats=repeats) for m in (160_000, 1_000_000)]
    results += against_rivals(repeats=repeats)
    results.append(small_pictures(repeats=repeats))
    if large:
        results.append(peak_memory())
    return tuple(results)
