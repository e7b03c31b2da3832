"""Exponents of every kind of statement, at few sizes: what the study measures, tells, draws, and what it tells apart."""

from __future__ import annotations

import math

import pytest

from verify.studies import exponents
from verify.studies.exponents import MEETINGS, STUDY, exponent, meeting, quantities, summary, trial
from verify.studies.study import Cell, Condition, Findings

#: Two features: noise along m and the noise itself, where UPPER says something; pruning along what is kept.
NOISE = {"of": "noise", "B": 1, "d": 100, "m": 100_000_000, "sigma": 1.0}
CONDITIONS: tuple[Condition, ...] = (
    *({**NOISE, "along": "m", "m": m} for m in (30_000_000, 100_000_000)),
    *({**NOISE, "along": "d", "d": d} for d in (100, 200)),
    *({**NOISE, "along": "sigma", "sigma": s} for s in (1.0, 2.0)),
    *({"of": "dropout", "along": "kept", "B": 2, "d": 100, "m": 10**6, "sigma": 1.0, "kept": k} for k in (0.1, 0.03)),
    *({"of": "pruning", "along": "kept", "B": 2, "d": 100, "m": 10**6, "sigma": 0.1, "kept": k} for k in (0.3, 0.1)),
)  # fmt: skip


@pytest.fixture(scope="module")
def found() -> Findings:
    return Findings("exponents", 2, 0, tuple(Cell(c, (trial(c, 0), trial(c, 1))) for c in CONDITIONS))


def told(found: Findings, what: str) -> dict[str, float]:
    (row,) = (row for row in summary(found) if row["what"] == what)
    return {name: value for name, value in row.items() if isinstance(value, float)}


def test_under_noise_the_kinds_have_one_exponent_in_m_and_d_and_information_has_it_in_sigma(
    found: Findings,
) -> None:
    """-1/2 and 1/2, to .01 for what is of first order (LIMIT's quadrature, d - 1 for d) and .03 for UPPER, whose smaller
    terms are not gone. In sigma 1, to .01, for what holds of information; less for the tensor attack and the rate, of which
    the gradient itself is a part: 1 + sigma for one feature."""
    along_m, along_d = (told(found, f"noise, B = 1, last two: exponent of {v}") for v in ("m", "d"))
    for name in ("rate", "tensor", "likelihood", "limit", "lower"):
        assert along_m[name] == pytest.approx(-0.5, abs=0.01), name
        assert along_d[name] == pytest.approx(0.5, abs=0.01), name
    assert along_m["upper"] == pytest.approx(-0.5, abs=0.03)
    assert abs(along_d["upper"] - 0.5) < 0.1
    sigma = told(found, "noise, B = 1, last two: exponent of sigma")
    for name in ("likelihood", "limit", "lower"):
        assert sigma[name] == pytest.approx(1, abs=0.01), name
    assert sigma["rate"] == pytest.approx(math.log2(3 / 2), abs=1e-9)
    assert 0.3 < sigma["tensor"] < 0.95


def test_an_exponent_that_is_another_is_told_apart() -> None:
    """A tenth more in the exponent, and the exponent of a sum that has not come to its limit."""
    x = [1e7, 1e8]
    assert exponent(x, [v**-0.5 for v in x]) == pytest.approx(-0.5)
    assert abs(exponent(x, [v**-0.45 for v in x]) + 0.5) > 0.03
    assert abs(exponent(x, [v**-0.5 + 1e-4 for v in x]) + 0.5) > 0.03


def test_dropout_is_fewer_neurons_and_pruning_is_not(found: Findings) -> None:
    """One mask after the noise: (1 - p) m for m in every kind of information, -1/2 in what is kept, to .01 (LIMIT .02).
    Pruning costs more: its exponent is beyond -.6 in what is kept, and -1/2 not even in the kept part of the Jacobian, C13's
    form; the tensor attack is at its floor, with an exponent of its own."""
    dropout = told(found, "dropout, B = 2, last two: exponent of kept")
    for name, off in (("rate", 0.01), ("likelihood", 0.01), ("limit", 0.02), ("lower", 0.01)):
        assert dropout[name] == pytest.approx(-0.5, abs=off), name
    pruning, share = (told(found, f"pruning, B = 2, last two: exponent of {v}") for v in ("kept", "share"))
    for name in ("likelihood", "limit", "lower"):
        assert pruning[name] < -0.6 and abs(share[name] + 0.5) > 0.03, name
    assert abs(pruning["tensor"] - pruning["floor"]) < 0.05


def test_gaps_are_over_lower_and_in_order(found: Findings) -> None:
    """LOWER, then LIMIT, then the likelihood's first order (LIMIT's quadrature: a per cent), the tensor attack, UPPER."""
    gap = told(found, "noise, B = 1, m = 1e+08: over LOWER")
    assert gap["lower"] == 1
    assert 1 <= gap["limit"] < 1.02 and gap["likelihood"] == pytest.approx(1, abs=0.01)
    assert 1.5 < gap["tensor"] < gap["upper"] < 3
    pruned = told(found, "pruning, B = 2, kept = 0.1: over LOWER")
    assert pruned["tensor"] > 10 and pruned["tensor"] >= pruned["floor"]


def test_what_is_vacuous_is_not_there() -> None:
    assert "upper" not in quantities("noise", 100, 100_000, 1, 1.0, 1.0)
    assert "upper" in quantities("noise", 100, 100_000_000, 1, 1.0, 1.0)


def test_curves_meet_where_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """To 2 per cent; below it is not so, above it is. One that never is is an error, not a number."""
    for what in ("tensor has a result", "pruning of .7: floor over random part"):
        width = meeting(what, 100, 2)["width"]
        assert not MEETINGS[what](100, 2, round(width / 1.05)) and MEETINGS[what](100, 2, round(1.05 * width))
    monkeypatch.setattr(exponents, "MEETINGS", {"never": lambda d, B, m: False})
    with pytest.raises(ArithmeticError, match="never is so at no width"):
        meeting("never", 100, 2)


def test_the_figure_has_a_panel_for_each_defense_and_variable(found: Findings) -> None:
    figure = STUDY.draw(found)
    assert [axes.get_title() for axes in figure.axes] == ["noise, B = 1"] * 3 + [
        "dropout, B = 2",
        "pruning, B = 2",
    ]
    assert len(figure.axes[0].lines) == 6 and len(figure.axes[4].lines) == 5
