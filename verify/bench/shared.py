"""What every benchmark shares: a result against its target, a problem, a clock."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bounds import NoDefense, Setting, TensorAttack, evaluate, serial
from bounds.setting import alternating
from verify.measure.features import Features
from verify.origin import own

if TYPE_CHECKING:
    import torch

    from attack import Observation, TwoLayerNet

FEATURES = Features("orthonormal", seed=11)
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


def problem(
    d: int, m: int, B: int, activation: str, labels: tuple[float, ...], memory_budget: int | None = None
) -> tuple[torch.Tensor, TwoLayerNet, Observation]:
    """Features, network on the CPU (W in memory unless there is a budget), and what the server sees."""
    own("attack")
    from attack import TwoLayerNet, observe

    X = as_tensor(FEATURES.sample(d, B))
    budget = 8 * m * d if memory_budget is None else memory_budget
    net = TwoLayerNet.sample(d, m, activation, seed=0, memory_budget=budget)
    return X, net, observe(NoDefense(), net, X, list(labels))


def predicted_error(X: torch.Tensor, m: int) -> float:
    setting = Setting.from_features(X.numpy(), alternating(len(X)), m)
    predicted = evaluate(NoDefense(), setting, TensorAttack()).predicted
    return math.nan if predicted is None else predicted


def held(net: TwoLayerNet) -> torch.Tensor:
    if net.weights is None:
        raise ValueError("net must hold its weights in memory; got one that draws them in every pass")
    return net.weights


def as_tensor(values: Any) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64))


@contextmanager
def threads(count: int) -> Iterator[None]:
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


def medians(repeats: int, *calls: Callable[[], object]) -> list[float]:
    """Median wall time of each call, which take turns; one call of each comes first and is not counted."""
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats + 1):
        for call, times in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    return [statistics.median(times[1:]) for times in seconds]
