"""The study of the two gradients: its trials, its predictions, and what its kept numbers say."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from verify.studies.first_layer import DIMENSIONS, SERIES, SIGMAS, STUDY, predicted, trial
from verify.studies.study import Failure, Findings, load

RECORDS = Path(__file__).resolve().parents[1] / "figures" / "records" / STUDY.file


@pytest.fixture(scope="module")
def kept() -> Findings:
    return load(RECORDS)


def test_one_trial_of_every_series() -> None:
    """At d = 20 without noise; the same seed gives the same number."""
    first = [c for c in STUDY.conditions if c["d"] == 20 and c["sigma"] == 0.0]
    assert len(first) == sum(len(series) for series in SERIES.values())
    for condition in first:
        outcome = trial(condition, 5)
        assert not isinstance(outcome, Failure) and 0 <= outcome["error"] < 0.6
        theory = predicted(condition)
        assert (theory is None) == (condition["observation"] in ("exact", "first-moment"))
        assert theory is None or outcome["error"] < 4 * theory
    assert trial(first[0], 5) == trial(first[0], 5)


def test_noise_above_the_signal_is_a_failure() -> None:
    condition = {"panel": "noise", "activation": "relu", "observation": "first", "moments": "residualized"}
    outcome = trial(condition | {"d": 20, "sigma": SIGMAS[-1]}, 0)
    assert isinstance(outcome, Failure) and "not of rank 2" in outcome.reason


def test_the_kept_numbers_carry_the_claim(kept: Findings) -> None:
    """In the paper's setting every trial on dL/dW (20 networks at each d) has a smaller error than the trial on dL/da
    with the same network, plain against plain, wherever the span comes from; and only the one with the rows' span does
    not grow with d (root mean squares at the ends within a factor 1.5)."""
    for d in DIMENSIONS:
        cells = {
            name: kept.where(panel="z2z3", observation=name, moments="plain", d=d)[0].values("error")
            for name in ("output", "first-moment", "first")
        }
        assert np.all(cells["first-moment"] < cells["output"]) and np.all(cells["first"] < cells["output"])
    ends = {
        name: [
            kept.where(panel="z2z3", observation=name, moments="plain", d=d)[0].measured("error").rms
            for d in (DIMENSIONS[0], DIMENSIONS[-1])
        ]
        for name in ("output", "first-moment", "first")
    }
    assert ends["output"][1] > 2 * ends["output"][0]
    assert ends["first-moment"][1] > 2 * ends["first-moment"][0]
    assert abs(math.log(ends["first"][1] / ends["first"][0])) < math.log(1.5)


def test_the_kept_numbers_are_as_predicted(kept: Findings) -> None:
    """dL/dW without noise: every series pooled over d (80 trials), measured over predicted within [0.8, 1.25]. (Two degrees
    of freedom in a trial: the 99 % half-width of a series is up to 0.2.)"""
    pooled: dict[tuple[object, ...], list[np.ndarray]] = {}
    for cell in kept.where(observation="first", sigma=0.0):
        theory = predicted(cell.condition)
        assert theory is not None
        key = tuple(cell.condition[k] for k in ("panel", "activation", "moments"))
        pooled.setdefault(key, []).append(cell.values("error") / theory)
    pooled = {key: parts for key, parts in pooled.items() if key[0] != "noise"}
    assert len(pooled) == 7
    for key, parts in pooled.items():
        ratio = float(np.sqrt(np.mean(np.concatenate(parts) ** 2)))
        assert 0.8 < ratio < 1.25, (key, ratio)
