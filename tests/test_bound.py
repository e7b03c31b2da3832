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
    THEORY,
    AttackSpec,
    Bound,
    BoundValue,
    Clamping,
    Defense,
    Evaluation,
    GradientNoise,
    GradientPruning,
    Kind,
    NoDefense,
    Setting,
    TensorAttack,
    UnsupportedBound,
    evaluate,
    expression,
    param,
    symbol,
)
from bounds.kinds.predicted import elementwise
from bounds.kinds.predicted.elementwise import elementwise_error
from bounds.law import Elementwise, Pruned, Unbiased
from bounds.setting import SIZES

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
    with pytest.raises(UnsupportedBound, match="no floor is stated for none"):
        expression(NoDefense, Kind.FLOOR)
    assert not issubclass(UnsupportedBound, ValueError)
    with pytest.raises(ValueError, match=r"kind must be one of rate, upper, .*'best'"):
        expression(NoDefense, "best")


@pytest.mark.parametrize("given", ["none", int, 3])
def test_expression_wants_a_defense(given: Any) -> None:
    with pytest.raises(TypeError, match="defense must be a Defense"):
        expression(given, Kind.RATE)


def stated(kind: Kind, number: float, **more: Any) -> Bound:
    def numeric(
        defense: Any, setting: Any, attack: Any, delta: float, **given: float
    ) -> tuple[float, dict[str, float]]:
        if number < 0:
            raise UnsupportedBound("not proved: here")
        return number * (1 + delta), {"part": number, **given}

    return Bound(
        kind, "a statement", "a source", "a statistic", ("an assumption",), numeric, sp.Integer(1), **more
    )


@dataclasses.dataclass(frozen=True)
class Guess(AttackSpec):
    name: ClassVar[str] = "guess"


@dataclasses.dataclass(frozen=True)
class Odd(Defense):
    name: ClassVar[str] = "odd"
    strength: float = param(lo=-1.0, hi=1.0, off=0.0, grid=(0.5,))

    def law(self, setting: Setting) -> Unbiased:
        return Unbiased(setting.residuals)


@dataclasses.dataclass(frozen=True)
class Rated(Odd):
    rate: ClassVar[sp.Expr | None] = SIZES["B"] * (1 + symbol("strength"))
    rate_source: ClassVar[str] = "here"


def test_a_kind_is_computed_when_it_is_first_read_and_once() -> None:
    computed = []

    def slow() -> BoundValue:
        computed.append(Kind.UPPER)
        return BoundValue(1.0, "slow")

    found = Evaluation({Kind.UPPER: slow, Kind.LOWER: BoundValue(0.5, "known")})
    assert found.lower == 0.5 and list(found) == [Kind.UPPER, Kind.LOWER] and len(found) == 2 and not computed
    assert found.upper == found["upper"].value == 1.0 and computed == [Kind.UPPER]  # type: ignore[index]


def theory(monkeypatch: pytest.MonkeyPatch, *bounds: Bound) -> None:
    monkeypatch.setitem(THEORY, Guess, bounds)  # type: ignore[arg-type]  # a dict behind its interface


def test_how_a_bound_is_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    theory(
        monkeypatch,
        stated(Kind.UPPER, 2.0),
        stated(Kind.LOWER, -1.0),
        stated(Kind.PREDICTED, 1.0, laws=(Elementwise, Pruned)),
    )
    found = evaluate(Odd(strength=1), SETTING, Guess(), delta=0.5)
    assert found.upper == 3.0
    assert found[Kind.UPPER].probability == 0.5
    assert found[Kind.UPPER].details == {"part": 2.0}
    assert found.lower is None
    assert found[Kind.LOWER].why == "not proved: here"
    assert found[Kind.LOWER].probability is None
    assert found[Kind.RATE].why == "not proved: no rate is stated for odd"
    assert found[Kind.PREDICTED].why == "not proved: no predicted is stated for odd"  # another law
    assert evaluate(GradientPruning(0.5), SETTING, Guess(), delta=0.5).predicted == 1.5
    assert expression(Odd, "upper", Guess) == 1


def test_two_statements_of_one_kind_are_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    theory(monkeypatch, stated(Kind.UPPER, 2.0), stated(Kind.UPPER, 1.0, laws=(Unbiased,)))
    with pytest.raises(ArithmeticError, match="two statements of kind upper about odd under guess"):
        evaluate(Odd(), SETTING, Guess())
    assert evaluate(GradientPruning(0.5), SETTING, Guess(), delta=0.5).upper == 3.0


def test_what_a_statement_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    both = stated(Kind.UPPER, 2.0, needs=frozenset({"net", "observation"}))
    theory(monkeypatch, both, stated(Kind.FLOOR, 1.0, needs=frozenset({"net"})))
    nothing = evaluate(Odd(), SETTING, Guess())
    assert nothing[Kind.UPPER].why == "not proved without net and observation, which evaluate was not given"
    assert nothing.upper is nothing.floor is nothing[Kind.UPPER].probability is None
    assert evaluate(Odd(), SETTING, Guess(), net=7).upper is None
    everything = evaluate(Odd(), SETTING, Guess(), net=7, observation=5)
    assert everything[Kind.UPPER].details == {"part": 2.0, "net": 7, "observation": 5}
    assert everything[Kind.FLOOR].details == {"part": 1.0, "net": 7}  # no more than it asks for
    with pytest.raises(ValueError, match=r"needs must be among net, observation; got \['truth'\]"):
        stated(Kind.UPPER, 2.0, needs=frozenset({"truth"}))


def test_a_defense_states_its_own_rate() -> None:
    formula = SIZES["B"] * (1 + symbol("strength")) * sp.sqrt(SIZES["d"] / SIZES["m"])
    assert (expression(Rated, Kind.RATE) - formula).equals(0)
    found = evaluate(Rated(strength=0.5), SETTING)[Kind.RATE]
    assert found.value == pytest.approx(3 * math.sqrt(6 / 5000), rel=1e-14)
    assert found.source == "here"
    with pytest.raises(UnsupportedBound):
        expression(Odd, Kind.RATE)


def test_a_defense_that_does_not_say_what_it_does() -> None:
    class Silent(Defense):
        name: ClassVar[str] = "silent"

    with pytest.raises(NotImplementedError, match="Silent does not say what it does"):
        Silent().law(SETTING)


@pytest.mark.parametrize("number", [math.inf, math.nan])
def test_a_bound_that_is_not_finite_is_a_defect(number: float) -> None:
    with pytest.raises(ArithmeticError, match="not finite"):
        stated(Kind.UPPER, number).value(NoDefense(), SETTING, TensorAttack(), 0.05)


def test_no_floor_where_quadrature_does_not_tell_a_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    """The floor of a feature that comes out with the wrong sign is that of another limit."""
    setting, defense = SETTING, Clamping(2.0)
    assert evaluate(defense, setting).floor is not None
    found = elementwise_error(setting, TensorAttack(), defense.law(setting))
    monkeypatch.setattr(elementwise, "_constants", lambda *given: dataclasses.replace(found, signs=1e-5))
    value = evaluate(defense, setting)[Kind.FLOOR]
    assert value.value is None and "for quadrature to tell the sign" in value.why
