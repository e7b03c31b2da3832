"""Evaluation: one entry for every kind, reasons instead of numbers where nothing is proved, bad input refused."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import pytest
import sympy as sp
from helpers import correlated

from bounds import (
    SYMBOLS,
    Bound,
    BoundValue,
    Defense,
    Evaluation,
    GradientNoise,
    Kind,
    NoDefense,
    Setting,
    TensorAttack,
    UnsupportedBound,
    evaluate,
    expression,
    param,
)

SETTING = Setting.from_features(correlated(2, 6), [1.0, -1.0], m=5000)


def test_every_kind_has_an_entry() -> None:
    found = evaluate(NoDefense(), SETTING)
    assert list(found) == list(Kind)
    assert len(found) == len(Kind)
    for kind, value in found.items():
        assert value.why, kind
        if value.value is None:
            assert value.why.startswith("not proved")
        else:
            assert value.source and value.statistic and value.assumptions, kind
    assert found[Kind.PREDICTED].statistic.startswith("root mean square over trials of R")


def test_short_names_of_the_kinds() -> None:
    found = evaluate(GradientNoise(sigma=0.5), SETTING)
    names = {"upper": Kind.UPPER, "predicted": Kind.PREDICTED, "lower": Kind.LOWER, "floor": Kind.FLOOR}
    for name, kind in (names | {"rate_scale": Kind.RATE}).items():
        assert getattr(found, name) is found[kind].value
    assert found[Kind.UPPER] is found["upper"]  # type: ignore[index]  # a Kind is its string


def test_parts_of_the_prediction() -> None:
    found = evaluate(GradientNoise(sigma=0.5), SETTING)[Kind.PREDICTED]
    assert found.value is not None
    parts = found.details
    assert found.value == pytest.approx(math.hypot(parts["orthogonal"], parts["inplane"]), rel=1e-14)
    assert parts["orthogonal"] == pytest.approx(math.sqrt(4 / 5000 * parts["K_perp"]), rel=1e-14)
    assert parts["inplane"] == pytest.approx(math.sqrt(parts["K_par"] / 5000), rel=1e-14)
    symbols = {"d": 6, "m": 5000, "B": 2, "K_perp": parts["K_perp"], "K_par": parts["K_par"]}
    formula = expression(GradientNoise, Kind.PREDICTED)
    assert formula.free_symbols == {SYMBOLS[name] for name in symbols}
    assert float(formula.subs({SYMBOLS[n]: v for n, v in symbols.items()})) == pytest.approx(
        found.value, rel=1e-14
    )


def test_rates_by_hand() -> None:
    assert expression(NoDefense, Kind.RATE).equals(SYMBOLS["B"] * sp.sqrt(SYMBOLS["d"] / SYMBOLS["m"]))
    noisy = evaluate(GradientNoise(sigma=3.0), SETTING)
    assert noisy.rate_scale == pytest.approx((2 + 3) * math.sqrt(6 / 5000), rel=1e-15)
    assert expression("none" and NoDefense(), "rate") == expression(NoDefense, Kind.RATE)


def test_defaults() -> None:
    one, other = evaluate(NoDefense(), SETTING), evaluate(NoDefense(), SETTING, TensorAttack(), 0.05)
    assert dict(one) == dict(other)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((NoDefense, SETTING), TypeError, "defense must be a Defense.*NoDefense"),
        (("none", SETTING), TypeError, "defense must be a Defense.*'none'"),
        ((NoDefense(), "setting"), TypeError, "setting must be a Setting"),
        ((NoDefense(), SETTING, None, 0.0), ValueError, "delta must lie strictly between 0 and 1; got 0"),
        ((NoDefense(), SETTING, None, 1.0), ValueError, "delta must lie strictly between 0 and 1; got 1"),
        ((NoDefense(), SETTING, None, math.nan), ValueError, "delta.*nan"),
        ((NoDefense(), SETTING, None, True), TypeError, "delta must be a real number; got True"),
        ((NoDefense(), SETTING, "plain"), TypeError, "attack must be a TensorAttack.*'?plain"),
    ],
)
def test_bad_input(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        evaluate(*arguments)


def test_not_proved_differs_from_unknown() -> None:
    with pytest.raises(UnsupportedBound, match="no lower is stated for none"):
        expression(NoDefense, Kind.LOWER)
    assert not issubclass(UnsupportedBound, ValueError)
    with pytest.raises(ValueError, match=r"kind must be one of rate, upper, .*'best'"):
        expression(NoDefense, "best")


@pytest.mark.parametrize("given", ["none", int, 3])
def test_expression_wants_a_defense(given: Any) -> None:
    with pytest.raises(TypeError, match="defense must be a Defense"):
        expression(given, Kind.RATE)


def stated(kind: Kind, number: float) -> Bound:
    def numeric(defense: Any, setting: Any, attack: Any, delta: float) -> tuple[float, dict[str, float]]:
        if number < 0:
            raise UnsupportedBound("not proved: here")
        return number * (1 + delta), {"part": number}

    return Bound(kind, "a statement", "a source", "a statistic", ("an assumption",), numeric, sp.Integer(1))


def test_a_kind_is_computed_when_it_is_first_read_and_once() -> None:
    computed = []

    def slow() -> BoundValue:
        computed.append(Kind.UPPER)
        return BoundValue(1.0, "slow")

    found = Evaluation({Kind.UPPER: slow, Kind.LOWER: BoundValue(0.5, "known")})
    assert found.lower == 0.5 and list(found) == [Kind.UPPER, Kind.LOWER] and len(found) == 2 and not computed
    assert found.upper == found["upper"].value == 1.0 and computed == [Kind.UPPER]  # type: ignore[index]


def test_how_a_bound_is_evaluated() -> None:
    @dataclasses.dataclass(frozen=True)
    class Odd(Defense):
        name: ClassVar[str] = "odd"
        strength: float = param(lo=-1.0, hi=1.0, off=0.0, grid=(0.5,))
        bounds: ClassVar[tuple[Bound, ...]] = (stated(Kind.UPPER, 2.0), stated(Kind.LOWER, -1.0))

    found = evaluate(Odd(strength=1), SETTING, delta=0.5)
    assert found.upper == 3.0
    assert found[Kind.UPPER].probability == 0.5
    assert found[Kind.UPPER].details == {"part": 2.0}
    assert found.lower is None
    assert found[Kind.LOWER].why == "not proved: here"
    assert found[Kind.LOWER].probability is None
    assert found[Kind.RATE].why == "not proved: no rate is stated for odd"


@pytest.mark.parametrize("number", [math.inf, math.nan])
def test_a_bound_that_is_not_finite_is_a_defect(number: float) -> None:
    with pytest.raises(ArithmeticError, match="not finite"):
        stated(Kind.UPPER, number).value(NoDefense(), SETTING, TensorAttack(), 0.05)
