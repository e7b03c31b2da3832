"""The studies of noise on dL/da, at small sizes: what they measure, tell, draw, and what they would refute."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bounds.kinds.published.entries import entries
from bounds.kinds.published.privacy import multiplier
from bounds.kinds.published.sensitivity import Adjacency, sensitivity
from bounds.kinds.published.together import PUBLISHED
from verify.studies import privacy, published
from verify.studies.noisy import attacked, completed, setting
from verify.studies.study import Cell, Condition, Failure, Findings, load, run

SIZES = {"d": 10, "m": 2_000, "B": 1}


#: At which V m / sigma^2 = (d - 1) log 2: the noise for failure, but for terms of order V/sigma^2.
HALF = math.sqrt(2_000 * entries(setting(10, 2_000, 1))[0].spread / (9 * math.log(2)))


def condition(sigma: float, attack: str) -> Condition:
    return {**SIZES, "sigma": sigma, "attack": attack}


# --- the trial of both ------------------------------------------------------------------------------------------------


def test_network_and_noise_are_those_of_the_seed() -> None:
    """Twice the same; another seed, another error; a tenth of the noise, about a tenth of the likelihood's error."""
    first, again, other, less = (
        attacked("likelihood", 10, 2_000, 1, sigma=s, seed=k) for s, k in ((0.3, 0), (0.3, 0), (0.3, 1), (0.03, 0))
    )  # fmt: skip
    assert not any(isinstance(o, Failure) for o in (first, again, other, less))
    assert first == again != other
    assert less["error"] == pytest.approx(first["error"] / 10, rel=0.2)


def test_what_hides_the_span_is_a_failure_with_its_reason() -> None:
    failed = attacked("tensor", 10, 2_000, 1, sigma=10 * HALF, seed=0)
    assert isinstance(failed, Failure) and "ill-posed" in failed.reason
    cell = Cell({}, (failed, {"error": 0.5}))
    reached = completed(cell)
    assert (reached.n, reached.failed, reached.rms) == (2, 1, pytest.approx(math.sqrt(0.625)))
    assert cell.measured("error").rms == 0.5


# --- published --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def noised(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """Six networks, the seed of the study, at little noise and at .7 of the noise for failure."""
    sigmas = (0.02 * HALF, 0.7 * HALF)
    conditions = tuple(condition(s, a) for s in sigmas for a in ("likelihood", "tensor"))
    path = tmp_path_factory.mktemp("published") / published.STUDY.file
    found = run(replace(published.STUDY, conditions=conditions), path, 6, progress=False)
    assert load(path) == found
    return found


def test_no_attack_crosses_a_bound_on_every_attack_and_three_times_it_is_crossed(noised: Findings) -> None:
    """99 % intervals of six trials: three times the entropy bound is refuted where much is hidden, three times Fisher
    information loss where little is, neither as it is."""
    rows = {(r["sigma"], r["attack"]): r for r in published.summary(noised)}
    assert all(r["crossed"] == "" for r in rows.values())
    for cell in noised.where(attack="likelihood"):
        sigma = float(cell.condition["sigma"])
        name = "entropy" if sigma > 0.1 * HALF else "fisher"
        bound = rows[sigma, "likelihood"][name]
        assert published.crossed(completed(cell), {name: bound, "larger": 3 * bound}) == ["larger"]
        assert published.crossed(completed(cell), {"none": None}) == []


def test_rows_have_every_bound_at_the_noise_of_their_condition(noised: Findings) -> None:
    rows = published.summary(noised)
    assert all(row.keys() == rows[0].keys() for row in rows) and len(rows) == 4
    for row in rows:
        exact = math.sqrt((1 + entries(setting(10, 2_000, 1))[0].spread / row["sigma"] ** 2) ** (-2_000 / 9))
        assert row["entropy"] == pytest.approx(exact, rel=1e-9, abs=1e-15)
        assert all(row[name] is not None for name in PUBLISHED)
        assert row["R"] is None or row["low"] <= row["R"] <= row["high"]


def test_an_attack_below_a_bound_on_unbiased_ones_has_passed_it_and_crossed_nothing() -> None:
    """A guess of zero, where the noise hides all: the bounds on every attack are below 1, Fisher information loss is not."""
    cell = Cell(condition(20 * HALF, "tensor"), (Failure("nothing"),) * 3)
    (row,) = published.summary(Findings("published", 3, 0, (cell,), ("error",)))
    assert row["R"] is None and row["failed"] == 3 and row["R with guesses"] == 1
    assert row["crossed"] == "" and "fisher" in row["passed"] and row["fisher"] > 1
    assert 0.9 < row["entropy"] <= 1


def test_unbiased_bounds_are_dashed_the_others_solid_and_ours_appear_where_they_are_stated(
    noised: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lines(**stated: float | None) -> dict[str, object]:
        monkeypatch.setattr(published, "ours", lambda d, m, B, sigma: {"lower": None, "limit": None} | stated)
        (axes,) = published.draw(noised).axes
        return {str(line.get_label()): line for line in axes.lines}

    drawn = lines(lower=0.25)
    for bound in PUBLISHED.values():
        name = bound.words + ("" if bound.any_attack else ", unbiased attackers")
        assert (drawn[name].get_linestyle() == "-") == bound.any_attack  # type: ignore[attr-defined]
    assert np.all(drawn["LOWER"].get_ydata() == 0.25)  # type: ignore[attr-defined]
    assert published.OURS["limit"] not in drawn and "LOWER" not in lines()
    assert published.OURS["limit"] in lines(limit=0.5)


# --- privacy ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """Noises at three dimensions, two widths and two delta, and the attacks on six networks of one size."""
    noises = [{"of": "noise", "d": d, "m": m, "delta": 1e-5} for d in (25, 100, 400) for m in (10**6, 10**8)]
    smaller = {"of": "noise", "d": 100, "m": 10**6, "delta": 1e-10}
    tried = [
        {"of": name, "d": 10, "m": 2_000, "share": s} for s in (1.0, 0.1) for name in ("likelihood", "tensor")
    ]
    study = replace(privacy.STUDY, conditions=(*noises, smaller, *tried))
    return run(study, tmp_path_factory.mktemp("privacy") / study.file, 6, progress=False)


def test_the_noises_and_their_quotient_are_recomputed(private: Findings) -> None:
    """From the sensitivity, the multiplier and the first-order noise for failure, sqrt(m V/((d - 1) log 2)): to a
    thousandth; with d for d - 1 it would be off by 2 % at d = 25."""
    for cell in private.where(of="noise", delta=1e-5):
        d, m = (int(cell.condition[k]) for k in ("d", "m"))
        told = {q: float(cell.values(q)[0]) for q in privacy.NOISES}
        assert np.ptp(cell.values("quotient")) == 0
        where = setting(d, m, 1)
        dp = sensitivity(where, Adjacency.REPLACE_ONE) * multiplier(1.0, 1e-5)
        failure = math.sqrt(m * entries(where)[0].spread / ((d - 1) * math.log(2)))
        assert told["dp"] == pytest.approx(dp, rel=1e-9)
        assert told["failure"] == pytest.approx(failure, rel=1e-3)
        assert told["quotient"] == pytest.approx(dp / failure, rel=1e-3)
        assert told["quotient"] != pytest.approx(dp / (failure * math.sqrt((d - 1) / d)), rel=1e-3)
        assert told["dp_least"] < told["dp"] and told["epsilon"] > 5 * d


def test_exponents_are_those_of_the_claim(private: Findings) -> None:
    """Both noises grow as sqrt(m), their quotient as sqrt(d) and not with m: to .02, and .1 for what is proved of DP, whose
    uniform deviation still shrinks. In log(1/delta) DP's order 1/2 is reached from above. A quotient that grew as d is told
    apart."""
    rows = {r["of"]: r for r in privacy.summary(private) if str(r["of"]).startswith("exponent")}
    assert set(rows) == {"exponent of m", "exponent of d", "exponent of log(1/delta)"}
    m, d, log = rows.values()
    assert m["failure"] == pytest.approx(0.5, abs=0.02) and m["dp"] == pytest.approx(0.5, abs=0.1)
    assert m["dp_least"] == pytest.approx(0.5, abs=0.02) and abs(m["quotient_least"]) < 0.02
    assert d["failure"] == pytest.approx(-0.5, abs=0.02) and d["quotient_least"] == pytest.approx(
        0.5, abs=0.02
    )
    assert abs(d["quotient"] - 1) > 0.3
    assert log["dp"] == pytest.approx(log["dp_least"], rel=1e-9) and log["failure"] == 0
    assert 0.5 < log["dp"] < 0.7
    smaller = math.log(multiplier(1.0, 1e-24) / multiplier(1.0, 1e-12)) / math.log(2)
    assert 0.5 < smaller < log["dp"] - 0.03


def test_where_failure_is_proved_no_attack_succeeds_and_at_a_tenth_of_it_both_do(private: Findings) -> None:
    """Six networks, the seed of the study, 99 % intervals; the tenth is the negative control: what is proved at the whole
    noise would be refuted there."""
    rows = [r for r in privacy.summary(private) if r["share"] is not None]
    assert len(rows) == 4 and all(r.keys() == rows[0].keys() for r in rows)
    for row in rows:
        if row["share"] == 1:
            assert row["at least 1/sqrt(2)"] == "yes" and row["R with guesses"] > 0.6
        else:
            assert row["at least 1/sqrt(2)"] == "not claimed"
            assert row["failed"] == 0 and row["high"] < privacy.ERROR
    assert any(r["failed"] and r["of"] == "tensor" for r in rows), "failures are told"
    faked = [replace(c, condition={**c.condition, "share": 1.0}) for c in private.where(share=0.1)]
    told = privacy.summary(replace(private, cells=(*private.where(of="noise"), *faked)))
    assert [r["at least 1/sqrt(2)"] for r in told if r["share"] is not None] == ["NO", "NO"]


def test_the_figure_has_its_noises_quotients_and_attacks(private: Findings) -> None:
    left, middle, right = privacy.draw(private).axes
    words = [[t.get_text() for t in axes.get_legend().get_texts()] for axes in (left, middle, right)]
    assert {"d = 25: DP, proved", "d = 400: reconstruction fails", "√m"} <= set(words[0])
    assert {"proved, m = 1 000 000", "no less, as m grows", "√d"} <= set(words[1])
    assert "tensor, d = 10, at 1 × the noise for failure" in words[2]
    assert any("failed" in t.get_text().lower() for t in right.texts)


def test_without_the_accountant_the_study_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    privacy.noises.cache_clear()
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ImportError, match=r"pip install 'reconbound\[privacy\]'"):
        run(privacy.STUDY, tmp_path / privacy.STUDY.file, 2, progress=False)
    attack = {"of": "likelihood", "d": 10, "m": 1_000, "share": 0.1}
    assert not isinstance(privacy.trial(attack, 0), Failure), "attacks have no use for it"
