"""RATE as an order that the error does not exceed, and whether it is tight: the batch size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from synthetic_records import make_point, make_record, simulated_errors

from verify import EXPERIMENTS, compare, read_records
from verify.judge.rate import RateCheck, RateResult, judge_rate
from verify.judge.statistics import Measured

SIZES = (1.0, 2.0, 4.0, 8.0)


def measured(exponent: float, trials: int = 40, failed: int = 0, seed: int = 0) -> dict[float, Measured]:
    rng = np.random.default_rng(seed)
    return {B: Measured.of(simulated_errors(0.02 * B**exponent, trials, 0.1, rng), failed) for B in SIZES}


@pytest.mark.parametrize(
    ("exponent", "verdict", "tightness"),
    [(0.5, "holds", "not tight"), (1.0, "holds", "tight"), (1.2, "fails", ""), (-0.3, "holds", "not tight")],
)
def test_an_upper_order_holds_below_itself_and_is_tight_at_itself(
    exponent: float, verdict: str, tightness: str
) -> None:
    found = judge_rate(measured(exponent), 1.0, "B", upper=True)
    assert (found.verdict, found.tightness) == (verdict, tightness)
    assert "for at most +1 ± 0.05" in found.text
    assert (f"; {tightness} as an order" in found.text) == bool(tightness)
    own = judge_rate(measured(exponent), 1.0, "B")
    assert own.verdict == ("holds" if tightness == "tight" else "fails") and own.tightness == ""


def test_too_few_trials_decide_neither() -> None:
    found = judge_rate(measured(1.0, trials=3), 1.0, "B", upper=True)
    assert (found.verdict, found.tightness) == ("inconclusive", "")
    loose = judge_rate(measured(0.97, trials=12, seed=3), 1.0, "B", tolerance=0.1, upper=True)
    assert loose.verdict == "holds"
    assert judge_rate(measured(0.5, failed=1), 1.0, "B", upper=True).verdict == "inconclusive"


def test_a_true_upper_order_is_refuted_as_rarely_as_the_level_says() -> None:
    """At its edge, exponent + tolerance, where refuting it is easiest."""
    refuted = [
        judge_rate(measured(1.0, trials=10, seed=s), 0.95, "B", 0.05, 0.9, upper=True).verdict == "fails"
        for s in range(400)
    ]
    assert np.mean(refuted) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)
    assert np.mean(refuted) > 0.01, "the level is used"


def test_the_rate_of_the_batch_size_is_asked_of_records() -> None:
    rng = np.random.default_rng(1)
    points = [make_point(B=B, labels=()) for B in (1, 2, 4, 8)]
    records = [
        make_record(p, t, float(e))
        for p in points
        for t, e in enumerate(simulated_errors(0.05 * p.B**0.5, 30, 0.1, rng))
    ]
    (found,) = compare(records, check=RateCheck("B", upper=True))
    assert isinstance(found, RateResult)
    assert (found.variable, found.exponent, found.upper, found.tightness) == ("B", 1.0, True, "not tight")
    (raised,) = compare(records, check=RateCheck("B", upper=True), corrupt_exponent=-1.0)
    assert raised.verdict == "fails", "the negative control"
    with pytest.raises(ValueError, match=r"variable must be one of m, d, B, .*; got 'k'"):
        RateCheck("k")


def test_the_published_order_in_the_batch_size_is_not_tight() -> None:
    """What ``paper_notes.md`` says of it, from the records."""
    experiment = EXPERIMENTS["strength-batch"]
    records = read_records(Path(__file__).parents[1] / "figures/records/strength-batch.json")
    check = RateCheck("B", upper=True)
    assert check in experiment.rules
    (found,) = compare(records, experiment, check=check)
    assert isinstance(found, RateResult)
    assert (found.verdict, found.tightness, found.exponent) == ("holds", "not tight", 1.0)
    assert found.low < 0.47 < found.high < 0.5
