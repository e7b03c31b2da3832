"""The strongest attack against gradient matching on the same gradient, in the same process."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bounds import AttackSpec, GradientMatching, LikelihoodAttack, NoDefense
from bounds.setting import alternating
from verify.bench.shared import THREADS, BenchResult, as_tensor, medians, threads
from verify.measure.features import Features
from verify.origin import own

if TYPE_CHECKING:
    import torch

    from attack import Observation, TwoLayerNet

#: The error that both have to reach.
REACHED = 1e-3

#: How a rival is run; by the first it is judged.
_JUDGED = "labels told, cheapest iterations"
_MANNERS = (
    _JUDGED,
    "labels unknown, cheapest iterations",
    "labels told, own stopping rules",
    "labels unknown, own stopping rules",
)

#: Iterations among which the cheapest is chosen for a rival, and starts that it may make at each.
LADDER = tuple(round(25 * 2 ** (k / 2)) for k in range(15))  # 25, 35, 50, ... 3200
STARTS = 8


@dataclass(frozen=True)
class Rival:
    """A published attack, and how many times its time is to be that of ours."""

    name: str
    spec: GradientMatching
    target: float


RIVALS = (
    Rival("L-BFGS matching", GradientMatching(objective="squared", optimiser="lbfgs"), 5.0),
    Rival("cosine matching", GradientMatching(objective="cosine", optimiser="signed-adam"), 20.0),
)


@dataclass(frozen=True, eq=False)
class Problem:
    """Features, a network, what the server sees of them, and the seed of all."""

    X: torch.Tensor
    net: TwoLayerNet
    seen: Observation
    labels: tuple[float, ...]
    seed: int

    @staticmethod
    def drawn(d: int, m: int, B: int, seed: int) -> Problem:
        own("attack")
        from attack import TwoLayerNet, observe

        X, labels = as_tensor(Features("random", seed=seed).sample(d, B)), alternating(B)
        net = TwoLayerNet.sample(d, m, "relu", seed=seed)
        return Problem(X, net, observe(NoDefense(), net, X, list(labels)), labels, seed)

    def error(self, spec: AttackSpec, seed: int) -> float:
        """R of an attack; infinite where it has no result."""
        from attack import ReconstructionError, matched_rmse, reconstruct

        try:
            return matched_rmse(self.X, reconstruct(self.seen, self.net, attack=spec, seed=seed).features)
        except ReconstructionError:
            return math.inf


@dataclass(frozen=True)
class Run:
    """Runs of one specification, one for each seed, the last of which has the error; the time of all."""

    spec: AttackSpec
    seeds: tuple[int, ...]
    error: float
    seconds: float

    def again(self, problem: Problem) -> Callable[[], object]:
        return lambda: [problem.error(self.spec, seed) for seed in self.seeds]

    def __str__(self) -> str:
        limit = getattr(self.spec, "iterations", None)
        return f"{self.seconds:.3g} s, R {self.error:.1e}" + (f", {limit} iterations" if limit else "")


@dataclass(frozen=True)
class Pair:
    """Ours and a rival's on the same problem."""

    ours: Run
    rival: Run

    @property
    def ratio(self) -> float:
        """0 where ours misses the error, infinite where only the rival does."""
        if not self.ours.error < REACHED:
            return 0.0
        return self.rival.seconds / self.ours.seconds if self.rival.error < REACHED else math.inf


def against_rivals(
    d: int = 50,
    m: int = 5000,
    B: int = 4,
    problems: int = 3,
    repeats: int = 5,
    ours: AttackSpec | None = None,
) -> tuple[BenchResult, ...]:
    """Time of gradient matching over the time of ``ours`` (None: ``LikelihoodAttack()``) until R < 1e-3: ReLU, no defense,
    independent random features. For each rival the median over the problems, each with its own features and network.

    Ours runs by its own stopping rules, to its own precision, and knows no labels. All doubt goes to the rivals, which are
    this project's implementation of the published methods (``GradientMatching`` says what is theirs): they are told the
    labels; their number of iterations is the one of ``LADDER`` that is the cheapest on the very problem; and the truth
    tells them which start is the last. Details have the ratios without that too: with labels unknown to both, and with the
    rivals' own stopping rules (one run of up to 8 starts, not a median). Where ours misses the error a ratio is 0, where a
    rival does it is infinite.
    """
    attack = LikelihoodAttack() if ours is None else ours
    with threads(THREADS):
        trials = [_trial(Problem.drawn(d, m, B, seed), attack, repeats) for seed in range(problems)]
    return tuple(
        BenchResult(
            name=rival.name,
            statement=f"time of {rival.name} over time of {attack.name} attack to R < {REACHED:g}, relu, d = {d}, m = {m}, "
            f"B = {B}; {problems} problems",
            value=statistics.median(trial[rival.name, _JUDGED].ratio for trial in trials),
            target=rival.target,
            at_least=True,
            threads=THREADS,
            repeats=repeats,
            details=_details(rival, trials),
        )
        for rival in RIVALS
    )


def _trial(problem: Problem, attack: AttackSpec, repeats: int) -> dict[tuple[str, str], Pair]:
    """Every rival in every manner beside ours on one problem. The searched ones take turns with it; what runs by its own
    rules is long, and timed once."""
    mine = _timed(attack, problem, (problem.seed,))
    specs = [dataclasses.replace(rival.spec, labels=problem.labels) for rival in RIVALS]
    specs += [rival.spec for rival in RIVALS]
    searched = [cheapest(spec, problem) for spec in specs]
    mine_s, *searched_s = medians(repeats, *(run.again(problem) for run in (mine, *searched)))
    runs = [dataclasses.replace(run, seconds=s) for run, s in zip(searched, searched_s, strict=True)]
    runs += [_timed(spec, problem, (problem.seed,)) for spec in specs]
    keys = [(rival.name, manner) for manner in _MANNERS for rival in RIVALS]
    mine = dataclasses.replace(mine, seconds=mine_s)
    return {key: Pair(mine, run) for key, run in zip(keys, runs, strict=True)}


def _details(rival: Rival, trials: list[dict[tuple[str, str], Pair]]) -> dict[str, float | str]:
    pairs = {manner: [trial[rival.name, manner] for trial in trials] for manner in _MANNERS}
    details: dict[str, float | str] = {
        "failures_of_ours": sum(not p.ours.error < REACHED for p in pairs[_JUDGED])
    }
    for manner, found in pairs.items():
        ratios = [pair.ratio for pair in found]
        details[f"ratio, {manner}"] = (
            f"{statistics.median(ratios):.3g} ({min(ratios):.3g} to {max(ratios):.3g})"
        )
    for index, pair in enumerate(pairs[_JUDGED]):
        details[f"problem {index}"] = f"ours {pair.ours}; rival {pair.rival}, {len(pair.rival.seeds)} starts"
    return details


def _timed(spec: AttackSpec, problem: Problem, seeds: tuple[int, ...]) -> Run:
    """Runs with these seeds until one reaches the error."""
    begin, errors = time.perf_counter(), list[float]()
    for seed in seeds:
        errors.append(problem.error(spec, seed))
        if errors[-1] < REACHED:
            break
    return Run(spec, seeds[: len(errors)], errors[-1], time.perf_counter() - begin)


def cheapest(spec: GradientMatching, problem: Problem) -> Run:
    """The number of iterations of ``LADDER`` with which the error is reached in the least time, failed starts included; once
    it is reached, longer runs are tried for as long as the last start alone would not take longer than the best."""
    best: Run | None = None
    for iterations in LADDER:
        one = dataclasses.replace(spec, iterations=iterations, starts=1)
        found = _timed(one, problem, tuple(range(problem.seed, problem.seed + STARTS)))
        reached = found.error < REACHED
        if best is None or (reached and not (best.error < REACHED and best.seconds <= found.seconds)):
            best = found
        if best.error < REACHED and found.seconds / len(found.seeds) > best.seconds:
            break
    assert best is not None
    return best
