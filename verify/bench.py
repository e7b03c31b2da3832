"""How fast is the attack? Ratios of times measured in one run, so that they mean the same on any computer.

Every time is a median over repetitions after one call that is not counted. What is compared takes turns, so
that other load on the computer falls on both sides, and both have a single thread: with more, each of the
attack's short steps waits for the slowest thread, and a busy computer is measured instead of the attack. A target
that is missed is reported as missed.
"""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bounds import NoDefense, Setting, TensorAttack, checks, evaluate, serial
from bounds.setting import alternating
from verify.measure.features import Features
from verify.origin import own

if TYPE_CHECKING:
    import torch

    from attack import Observation, TwoLayerNet

FEATURES = Features("orthonormal", seed=11)
CUBIC, CUBIC_LABELS = "z2z3", (-1.0, 3.0)  # mu_3 != 0, and labels that keep both residuals at +-2
ROWS = 200  # neurons at a time for the full tensor: ROWS d^2 numbers, 16 MB at d = 100, are the fastest
ONE_LINE_SHARE = 100  # the one-line einsum is timed on this fraction of the neurons
MEMORY_LIMIT_GB = 4.0
THREADS = 1


@dataclass(frozen=True)
class BenchResult:
    """One number against its target.

    ``statement`` says what ``value`` is; the target is a least value if ``at_least``, else a largest one.
    ``threads`` for torch and the linear algebra libraries; ``repeats`` of which the medians are; ``details``
    the numbers behind the value, times in seconds.
    """

    name: str
    statement: str
    value: float
    target: float
    at_least: bool
    threads: int
    repeats: int
    details: Mapping[str, float | str] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        """Whether the value is on the right side of its target; a value that is not a number is not."""
        return self.value >= self.target if self.at_least else self.value <= self.target

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values, ``met`` included."""
        return dict(serial.plain(asdict(self) | {"met": self.met}))


def bench(large: bool = False, repeats: int = 5) -> tuple[BenchResult, ...]:
    """How long the command line takes to start, the attack against the full tensor with tensorly, the attack in passes
    over held weights, and, if ``large`` (minutes), the peak memory of an attack on a network that does not fit.

    ``repeats``: timed calls of each kind. Raises ``ImportError`` if tensorly is missing, ``ValueError`` or
    ``TypeError`` for repeats below 1; all before any long computation.
    """
    checks.integer("repeats", repeats, 1)
    if not isinstance(large, bool):
        raise TypeError(f"large must be True or False; got {large!r}")
    _tensorly()
    results = [start_up(repeats=repeats), against_tensorly(repeats=repeats)]
    results += [in_passes(m=m, repeats=repeats) for m in (160_000, 1_000_000)]
    if large:
        results.append(peak_memory())
    return tuple(results)


# --- start-up -----------------------------------------------------------------------------------------------


def start_up(repeats: int = 5) -> BenchResult:
    """Time of ``reconbound --help`` over the time of importing sympy and typer, each in a fresh process."""
    here = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])

    def fresh(*arguments: str) -> Callable[[], object]:
        command, environment = [sys.executable, *arguments], os.environ | {"PYTHONPATH": path}
        return lambda: subprocess.run(command, env=environment, check=True, capture_output=True)

    help_s, imports_s = _medians(repeats, fresh("-m", "verify", "--help"), fresh("-c", "import sympy, typer"))
    return BenchResult(
        name="start-up",
        statement="time of reconbound --help over time of importing sympy and typer",
        value=help_s / imports_s,
        target=1.5,
        at_least=False,
        threads=THREADS,
        repeats=repeats,
        details={"help_s": help_s, "imports_s": imports_s},
    )


# --- against the full tensor --------------------------------------------------------------------------------


def against_tensorly(d: int = 100, m: int = 20_000, repeats: int = 5) -> BenchResult:
    """Two features: time of the full third moment and its CP decomposition over the time of the attack.

    Both get the same gradient, with the activation z^2 + z^3 (ReLU's third moment vanishes) and W in memory.
    The d×d×d tensor is built by one matrix product for each block of neurons, the fastest way we know;
    details have the one-line einsum as well. tensorly's call is ``parafac(tensor, rank=2)`` with its
    defaults. Its error is sign-free, in its favour (a third moment alone cannot tell x from -x); the attack's
    is not.
    """
    parafac = _tensorly()
    from attack import matched_rmse, tensor_attack

    X, net, seen = _problem(d, m, 2, CUBIC, CUBIC_LABELS)
    with _threads(THREADS):
        tensor = third_moment(net, seen.gradient).numpy()
        part = max(1, m // ONE_LINE_SHARE)
        W, g = _held(net)[:part].numpy(), seen.gradient[:part].numpy()
        attack_s, build_s, cp_s, one_line_s = _medians(
            repeats,
            lambda: tensor_attack(seen, net),
            lambda: third_moment(net, seen.gradient),
            lambda: parafac(tensor, rank=2),
            lambda: np.einsum("j,ja,jb,jc->abc", g, W, W, W),
        )
        found, (_, factors) = tensor_attack(seen, net), parafac(tensor, rank=2)
    directions = (factors[0] / np.linalg.norm(factors[0], axis=0)).T
    one_line_s *= m / part
    return BenchResult(
        name="full tensor",
        statement=f"time of full tensor and CP over time of attack, {CUBIC}, d = {d}, m = {m}, B = 2",
        value=(build_s + cp_s) / attack_s,
        target=100.0,
        at_least=True,
        threads=THREADS,
        repeats=repeats,
        details={
            "attack_s": attack_s,
            "build_s": build_s,
            "parafac_s": cp_s,
            "build_one_line_einsum_s": one_line_s,
            "build_one_line_einsum_measured_on": f"{part} of {m} neurons, scaled",
            "ratio_with_one_line_einsum": (one_line_s + cp_s) / attack_s,
            "attack_error": matched_rmse(X, found.features),
            "parafac_error_sign_free": matched_rmse(X, directions, sign_free=True),
            "attack_passes": found.diagnostics.passes,
        },
    )


def third_moment(net: TwoLayerNet, gradient: torch.Tensor) -> torch.Tensor:
    """The whole ``(1/m) sum_j g_j He_3(w_j)``, shape (d, d, d), from held weights."""
    import torch

    W, d = _held(net), net.d
    raw = torch.zeros(d * d, d, dtype=W.dtype)
    for start in range(0, net.m, ROWS):
        rows = W[start : start + ROWS]
        weighted = gradient[start : start + ROWS, None] * rows
        raw += (weighted[:, :, None] * rows[:, None, :]).reshape(-1, d * d).T @ rows
    first, identity = W.T @ gradient, torch.eye(d, dtype=W.dtype)
    mixed = torch.einsum("a,bc->abc", first, identity)
    return (raw.reshape(d, d, d) - mixed - mixed.permute(1, 0, 2) - mixed.permute(2, 1, 0)) / net.m


def _tensorly() -> Callable[..., Any]:
    try:
        from tensorly.decomposition import parafac
    except ImportError as error:
        raise ImportError(f"bench compares with tensorly; install reconbound[test] ({error})") from error
    found: Callable[..., Any] = parafac
    return found


# --- in passes ----------------------------------------------------------------------------------------------


def in_passes(d: int = 100, m: int = 160_000, B: int = 2, repeats: int = 5) -> BenchResult:
    """Time of the whole attack (ReLU, residualized) over the time of one pass over weights in memory."""
    from attack import matched_rmse, tensor_attack

    X, net, seen = _problem(d, m, B, "relu", alternating(B))
    V = _tensor(np.linalg.qr(np.random.default_rng(0).standard_normal((d, B)))[0])
    W, g = _held(net), seen.gradient
    with _threads(THREADS):
        found = tensor_attack(seen, net)
        attack_s, pass_s, one_line_s = _medians(
            repeats,
            lambda: tensor_attack(seen, net),
            lambda: one_pass(net, g, V),
            lambda: W.T @ (g[:, None] * (W @ V)),
        )
    return BenchResult(
        name="passes",
        statement=f"time of attack over time of one pass W^T(g * (W V)), relu, d = {d}, m = {m}, B = {B}",
        value=attack_s / pass_s,
        target=12.0,
        at_least=False,
        threads=THREADS,
        repeats=repeats,
        details={
            "attack_s": attack_s,
            "pass_s": pass_s,
            "one_line_pass_s": one_line_s,
            "ratio_to_one_line_pass": attack_s / one_line_s,
            "passes": found.diagnostics.passes,
            "error": matched_rmse(X, found.features),
            "predicted_error": _predicted(X, m),
        },
    )


def one_pass(net: TwoLayerNet, gradient: torch.Tensor, V: torch.Tensor) -> torch.Tensor:
    """``W^T (g * (W V))``, V and result (d, B), block by block and in the orientation that is fastest for
    small B."""
    import torch

    columns = V.T.contiguous()
    total = torch.zeros_like(columns)
    for rows, W in net.blocks():
        total += (gradient[rows] * (columns @ W.T)) @ W
    return total.T


# --- memory -------------------------------------------------------------------------------------------------


def peak_memory(d: int = 3072, m: int = 1_000_000, B: int = 4) -> BenchResult:
    """Peak resident memory, in units of 10^9 bytes, of a process that does one whole attack on the CPU with W
    drawn anew in every pass.

    A fresh process does it, and measures itself with ``getrusage``. On Linux a process inherits the peak of
    the one that started it, so the number may be too large, never too small. Raises
    ``RuntimeError`` with the attack's reason if it has no result.
    """
    import torch

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as child:
        details = child.submit(_attack_regenerated, d, m, B, torch.get_num_threads()).result()
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


def _attack_regenerated(d: int, m: int, B: int, threads: int) -> dict[str, float]:
    """What the fresh process runs."""
    own("attack")
    import resource

    import torch

    from attack import ReconstructionError, matched_rmse, tensor_attack

    torch.set_num_threads(threads)
    start = time.perf_counter()
    X, net, seen = _problem(d, m, B, "relu", alternating(B), memory_budget=0)
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
        "predicted_error": _predicted(X, m),
    }


# --- shared -------------------------------------------------------------------------------------------------


def _problem(
    d: int, m: int, B: int, activation: str, labels: tuple[float, ...], memory_budget: int | None = None
) -> tuple[torch.Tensor, TwoLayerNet, Observation]:
    """Features, network on the CPU (W in memory unless there is a budget), and what the server sees."""
    own("attack")
    from attack import TwoLayerNet, observe

    X = _tensor(FEATURES.sample(d, B))
    budget = 8 * m * d if memory_budget is None else memory_budget
    net = TwoLayerNet.sample(d, m, activation, seed=0, memory_budget=budget)
    return X, net, observe(NoDefense(), net, X, list(labels))


def _predicted(X: torch.Tensor, m: int) -> float:
    setting = Setting.from_features(X.numpy(), alternating(len(X)), m)
    predicted = evaluate(NoDefense(), setting, TensorAttack()).predicted
    return math.nan if predicted is None else predicted


def _held(net: TwoLayerNet) -> torch.Tensor:
    if net.weights is None:
        raise ValueError("net must hold its weights in memory; got one that draws them in every pass")
    return net.weights


def _tensor(values: Any) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """That many threads for torch and for the libraries under NumPy and SciPy."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    try:
        with threadpool_limits(limits=count):
            torch.set_num_threads(count)
            yield
    finally:
        torch.set_num_threads(before)


def _medians(repeats: int, *calls: Callable[[], object]) -> list[float]:
    """Median wall time of each call, which take turns; one call of each comes first and is not counted."""
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats + 1):
        for call, times in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    return [statistics.median(times[1:]) for times in seconds]
