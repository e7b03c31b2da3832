"""The benchmark at tiny sizes: it compares what it says, and numbers alone decide whether a target is met."""

from __future__ import annotations

import builtins
import dataclasses
import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from attack import TwoLayerNet
from bounds import GradientMatching, TensorAttack
from verify import bench as module
from verify.bench import BenchResult, against_tensorly, bench, in_passes, peak_memory, rivals, start_up
from verify.bench.memory import attack_regenerated
from verify.bench.rivals import LADDER, REACHED, RIVALS, Pair, Problem, Run, against_rivals, cheapest
from verify.bench.shared import threads
from verify.bench.tensor import one_pass, third_moment
from verify.cli.bench import _print


def result(value: float, target: float, at_least: bool) -> BenchResult:
    return BenchResult("n", "s", value, target, at_least, threads=1, repeats=1)


@pytest.mark.parametrize(
    ("value", "at_least", "met"),
    [(9.9, True, False), (10.0, True, True), (10.1, True, True), (9.9, False, True), (10.0, False, True),
     (10.1, False, False), (math.nan, True, False), (math.nan, False, False)],
)  # fmt: skip
def test_met_follows_from_value_and_target(value: float, at_least: bool, met: bool) -> None:
    assert result(value, 10.0, at_least).met is met
    assert result(value, 10.0, at_least).to_dict()["met"] is met


def test_met_cannot_be_claimed() -> None:
    with pytest.raises(TypeError, match="met"):
        BenchResult("n", "s", 1.0, 2.0, True, threads=1, repeats=1, met=True)  # type: ignore[call-arg]


def test_the_full_tensor_is_the_third_hermite_moment() -> None:
    d, m = 3, 457  # more than two blocks of rows, the last one short
    net = TwoLayerNet.sample(d, m, "z2z3", seed=5)
    g = torch.from_numpy(np.random.default_rng(0).standard_normal(m))
    assert net.weights is not None
    W, eye = net.weights.numpy(), np.eye(d)
    expected = np.zeros((d, d, d))
    for a, b, c in itertools.product(range(d), repeat=3):
        w = W[:, a] * W[:, b] * W[:, c] - W[:, a] * eye[b, c] - W[:, b] * eye[a, c] - W[:, c] * eye[a, b]
        expected[a, b, c] = g.numpy() @ w / m
    np.testing.assert_allclose(third_moment(net, g).numpy(), expected, rtol=0, atol=1e-14)


def test_the_fast_pass_is_the_one_line() -> None:
    d, m = 7, 100_003  # two logical blocks
    net = TwoLayerNet.sample(d, m, seed=5)
    assert net.weights is not None and m > net.block_rows
    g, V = torch.randn(m, dtype=torch.float64), torch.randn(d, 2, dtype=torch.float64)
    expected = net.weights.T @ (g[:, None] * (net.weights @ V))
    torch.testing.assert_close(one_pass(net, g, V), expected, rtol=0, atol=1e-9)


def test_weights_that_are_not_held_cannot_be_timed_as_if_they_were() -> None:
    net = TwoLayerNet.sample(3, 40, seed=5, memory_budget=0)
    with pytest.raises(ValueError, match="net must hold its weights"):
        third_moment(net, torch.zeros(40, dtype=torch.float64))


def test_against_tensorly_reports_what_it_divided() -> None:
    r = against_tensorly(d=8, m=4_000, repeats=2)
    details: dict[str, Any] = dict(r.details)
    assert r.value == pytest.approx(
        (details["build_s"] + details["parafac_s"]) / details["attack_s"], rel=1e-12
    )
    assert (r.target, r.at_least, r.repeats, r.threads) == (100.0, True, 2, 1)
    # Here both succeed: the two are given the same problem and solve it.
    assert 0 < details["attack_error"] < 0.3
    assert 0 < details["parafac_error_sign_free"] < 0.5
    assert json.loads(json.dumps(r.to_dict(), allow_nan=False))["met"] is r.met


def test_start_up_reports_what_it_divided() -> None:
    """The ratio itself is for ``bench``: a test on a busy computer would measure the others."""
    r = start_up(repeats=1)
    details: dict[str, Any] = dict(r.details)
    assert r.value == pytest.approx(details["help_s"] / details["imports_s"], rel=1e-12)
    assert (r.target, r.at_least) == (1.5, False) and 0 < r.value < math.inf


def test_results_are_readable_at_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line for each result, then the numbers behind it, one a line."""
    monkeypatch.setenv("COLUMNS", "80")
    details = {"attack_s": 0.0123456, "measured_on": "200 of 20000 neurons, scaled"}
    many = [
        BenchResult(
            name, "time of one thing over time of another, d = 100", 123456.7, 100.0, True, 1, 5, details
        )
        for name in ("full tensor", "passes")
    ]
    _print(many)
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert [line for line in lines if "full tensor" in line and "1.235e+05" in line and ">= 100" in line]
    assert lines.count("  attack_s: 0.01235") == 2
    assert not any(c in "".join(lines) for c in "{}'")


def test_the_number_of_threads_is_given_back() -> None:
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_in_passes_reports_what_it_divided() -> None:
    r = in_passes(d=8, m=20_000, B=2, repeats=2)
    details: dict[str, Any] = dict(r.details)
    assert r.value == pytest.approx(details["attack_s"] / details["pass_s"], rel=1e-12)
    assert details["ratio_to_one_line_pass"] == pytest.approx(
        details["attack_s"] / details["one_line_pass_s"], rel=1e-12
    )
    assert (r.target, r.at_least) == (12.0, False)
    assert details["error"] == pytest.approx(details["predicted_error"], rel=0.6)


def test_rivals_are_timed_where_they_reach_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours is L-BFGS here, with labels unknown and its own stopping rules."""
    short = [
        dataclasses.replace(rival, spec=dataclasses.replace(rival.spec, iterations=100)) for rival in RIVALS
    ]
    monkeypatch.setattr(rivals, "RIVALS", short)
    monkeypatch.setattr(rivals, "LADDER", (50, 100))
    results = against_rivals(d=8, m=300, B=1, problems=1, repeats=1, ours=GradientMatching(iterations=300))
    assert [(r.name, r.target, r.at_least) for r in results] == [
        ("L-BFGS matching", 5.0, True),
        ("cosine matching", 20.0, True),
    ]
    for r in results:
        details: dict[str, Any] = dict(r.details)
        assert details["failures_of_ours"] == 0 and len([k for k in details if k.startswith("ratio, ")]) == 4
        assert "to R < 0.001, relu, d = 8, m = 300, B = 1; 1 problems" in r.statement
        ours_s, rival_s = (float(part.split()[1]) for part in details["problem 0"].split("; "))
        assert r.value == pytest.approx(rival_s / ours_s, rel=0.02), "told with three digits"
        assert json.loads(json.dumps(r.to_dict(), allow_nan=False))["met"] is r.met


def test_an_attack_that_misses_the_error_beats_no_rival() -> None:
    """The negative control: a tensor attack of so few neurons, and a rival without iterations."""
    mine, rival = (Run(TensorAttack(), (0,), error, 1.0) for error in (REACHED, REACHED / 2))
    assert (Pair(mine, rival).ratio, Pair(rival, mine).ratio, Pair(rival, rival).ratio) == (
        0.0,
        math.inf,
        1.0,
    )
    found = Problem.drawn(8, 300, 2, 0)
    assert found.error(TensorAttack(), 0) > REACHED
    assert found.error(GradientMatching(labels=found.labels, iterations=1, starts=1), 0) > REACHED


def test_the_cheapest_run_is_one_that_reaches_the_error() -> None:
    found = Problem.drawn(8, 300, 2, 0)
    run = cheapest(GradientMatching(labels=found.labels), found)
    assert isinstance(run.spec, GradientMatching) and run.spec.starts == 1
    assert run.spec.iterations in LADDER and run.error < REACHED
    errors = [found.error(run.spec, seed) for seed in run.seeds]
    assert errors[-1] == run.error and all(e >= REACHED for e in errors[:-1])


def test_memory_is_that_of_a_process_of_its_own() -> None:
    r = peak_memory(d=16, m=40_000, B=2)
    assert 0.05 < r.value < 4.0, "a Python process with torch, and little more"
    assert r.met and r.target == 4.0
    assert r.details["weights_gb"] == pytest.approx(16 * 40_000 * 8e-9)
    assert r.details["error"] == pytest.approx(r.details["predicted_error"], rel=0.6)
    assert r.details["passes"] >= 4
    json.dumps(r.to_dict(), allow_nan=False)


def test_a_failed_attack_gives_a_reason_that_travels_between_processes() -> None:
    with pytest.raises(RuntimeError, match="ill-posed: the weakest of 3 directions") as caught:
        attack_regenerated(16, 30, 3, torch.get_num_threads())
    assert type(caught.value) is RuntimeError, "an error with more arguments than its text breaks the pool"


@pytest.mark.parametrize("large", [False, True])
def test_bench_is_all_of_its_parts(monkeypatch: pytest.MonkeyPatch, large: bool) -> None:
    calls: list[tuple[str, dict[str, int]]] = []

    def fake(name: str) -> Any:
        return lambda **kwargs: calls.append((name, kwargs)) or result(1.0, 2.0, True)

    for name in ("start_up", "against_tensorly", "in_passes", "small_pictures", "peak_memory"):
        monkeypatch.setattr(module, name, fake(name))
    monkeypatch.setattr(module, "against_rivals", lambda **kwargs: (fake("against_rivals")(**kwargs),))
    assert len(bench(large, repeats=3)) == len(calls)
    expected: list[tuple[str, dict[str, int]]] = [
        ("start_up", {"repeats": 3}),
        ("against_tensorly", {"repeats": 3}),
        ("in_passes", {"m": 160_000, "repeats": 3}),
        ("in_passes", {"m": 1_000_000, "repeats": 3}),
        ("against_rivals", {"repeats": 3}),
        ("small_pictures", {"repeats": 3}),
    ]
    assert calls == expected + ([("peak_memory", {})] if large else [])


def test_missing_tensorly_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "tensorly":
            raise ImportError("No module named 'tensorly'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"reconbound\[test\]"):
        bench()


@pytest.mark.parametrize(("repeats", "error"), [(0, ValueError), (2.5, TypeError)])
def test_repeats_are_a_positive_integer(repeats: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="repeats must be"):
        bench(repeats=repeats)


def test_large_is_yes_or_no() -> None:
    with pytest.raises(TypeError, match="large must be True or False; got 1"):
        bench(large=1)  # type: ignore[arg-type]
