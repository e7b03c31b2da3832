"""What a bound claims in one setting, and the rule that judges it."""

from __future__ import annotations

import importlib
import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from bounds import (
    Bound,
    BoundValue,
    Defense,
    Kind,
    Setting,
    TensorAttack,
    TrivialBound,
    UnsupportedBound,
    checks,
)
from verify.judge.base import bounds_at
from verify.judge.lower import judge_lower
from verify.judge.predicted import FIRST_ORDER, RatioResult, judge_predicted
from verify.judge.rate import RateResult, judge_rate
from verify.judge.statistics import Measured
from verify.judge.upper import UpperResult, judge_upper
from verify.judge.verdict import Result
from verify.measure.outcome import Outcome
from verify.measure.point import Point

if TYPE_CHECKING:
    pass


AnyBound: TypeAlias = Bound | Callable[..., Any]


Numeric: TypeAlias = Callable[[Defense, Setting, TensorAttack, float], Any]


#: First-order asymptotics (PREDICTED, RATE) are put to the test where our own prediction has R and the noise over the
#: weakest signal below these.
FIRST_ORDER_ERROR, FIRST_ORDER_NOISE = 0.15, 0.15


#: Default tolerances: of the ratio for PREDICTED, of the exponent for RATE.
TOLERANCES: Mapping[Kind, float] = {Kind.PREDICTED: 0.25, Kind.RATE: 0.2}


# --- the bound: one signature, and what may be wrong with it ---------------------------------------------------------


class BrokenBound(ValueError):
    """A bound gave something that is no bound: ``what`` says in a word or two, ``value`` what it was if a number."""

    def __init__(self, what: str, text: str, value: float | None = None) -> None:
        super().__init__(text)
        self.what, self.value = what, value


def _numeric(my_bound: AnyBound, kind: Kind) -> Numeric:
    """The bound as a callable of (defense, setting, attack, delta)."""
    if isinstance(my_bound, Bound):
        if my_bound.kind is not kind:
            raise ValueError(f"kind must be {my_bound.kind}, that of my_bound; got {kind}")
        stated = my_bound.numeric
        return lambda *arguments: stated(*arguments)[0]
    if not callable(my_bound):
        raise TypeError(f"my_bound must be a Bound or callable; got {my_bound!r} ({type(my_bound).__name__})")
    try:
        signature = inspect.signature(my_bound)
    except ValueError:  # a builtin that does not tell
        return my_bound
    for arguments in (4, 1):
        try:
            signature.bind(*range(arguments))
        except TypeError:
            continue
        return my_bound if arguments == 4 else lambda defense, setting, attack, delta: my_bound(setting)
    raise TypeError(f"my_bound must take (defense, setting, attack, delta) or (setting); got {signature}")


def _number(numeric: Numeric, point: Point, delta: float) -> float:
    """The bound's number at a point: finite, not negative. Raises ``UnsupportedBound`` or ``BrokenBound``."""
    setting = point.setting()
    try:
        value = numeric(point.defense, setting, point.attack, delta)
    except UnsupportedBound:
        raise
    except Exception as error:
        name = type(error).__name__
        raise BrokenBound(f"raised {name}", f"{name}: {' '.join(str(error).split())}") from error
    if value is None:
        raise UnsupportedBound("my_bound returned None")
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise BrokenBound("not a number", f"my_bound returned {value!r}") from error
    if math.isnan(number):
        raise BrokenBound("not a number", f"my_bound returned {value!r}")
    if number < 0:
        raise BrokenBound("negative", f"my_bound returned {value!r}", number)
    if math.isinf(number):
        raise BrokenBound("infinite", f"my_bound returned {value!r}")
    return number


def load_bound(name: str) -> Any:
    """What "module:function" names; modules are looked for in the working directory first. ``ValueError`` if there is no
    such thing; an error of the module itself propagates."""
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ValueError(f"MODULE:FUNCTION must name a function in a module; got {name!r}")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(f"{error.name}.")):
            raise
        raise ValueError(f"MODULE:FUNCTION must name a module that can be imported; got {name!r}") from None
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ValueError(f"MODULE:FUNCTION must name something in {module}; got {name!r}")
        found = getattr(found, part)
    return found


# --- a claim: the bound at one setting, which trials it speaks about, and the rule that judges them -------------------


@dataclass(frozen=True)
class _Terms:
    """What is asked, the same in every setting."""

    kind: Kind
    numeric: Numeric
    delta: float
    tolerance: float
    variable: str
    ladder: tuple[int, ...]


class _Skipped(Exception):
    """No trial here could refute or support anything; the argument is the counter's name."""


@dataclass(frozen=True)
class _Claim:
    point: Point
    points: tuple[Point, ...]
    value: float
    terms: _Terms
    guarded: bool

    def judge(self, errors: Sequence[Sequence[float]], failed: Sequence[int], significance: float) -> Result:
        """The verdict of ``rules`` on the errors at every point; a true bound "fails" with probability at most
        ``significance``."""
        kind, terms, level = self.terms.kind, self.terms, 1 - significance
        stated = BoundValue(self.value, "my_bound")
        if kind is Kind.UPPER:
            return judge_upper(errors[0], failed[0], stated, terms.delta, level)
        if kind is Kind.RATE:
            found = [Measured.of(e, f, level) for e, f in zip(errors, failed, strict=True)]
            sizes = [float(getattr(p, terms.variable)) for p in self.points]
            return judge_rate(
                dict(zip(sizes, found, strict=True)), self.value, terms.variable, terms.tolerance, level
            )
        if kind is Kind.PREDICTED:
            reach = math.inf if self.guarded else FIRST_ORDER
            return judge_predicted(
                Measured.of(errors[0], failed[0], level), stated, terms.tolerance, reach=reach
            )
        one_sided = Measured.of(errors[0], failed[0], 1 - 2 * significance)
        return replace(judge_lower(one_sided, stated), kind=kind)

    def p_value(self, errors: Sequence[Sequence[float]], failed: Sequence[int]) -> float:
        """The smallest significance at which the rule refutes the claim (by bisection, down to 1e-12)."""
        low, high = math.log(1e-12), math.log(0.49)
        if self.judge(errors, failed, 0.49).verdict != "fails":
            return 1.0
        while high - low > 1e-3:
            middle = (low + high) / 2
            refuted = self.judge(errors, failed, math.exp(middle)).verdict == "fails"
            low, high = (low, middle) if refuted else (middle, high)
        return math.exp(high)

    def slack(self, errors: Sequence[Sequence[float]], failed: Sequence[int], verdict: Result) -> float:
        if isinstance(verdict, UpperResult):
            found = [*errors[0], *[math.inf] * failed[0]]
            return self.value / float(np.quantile(found, 1 - self.terms.delta, method="inverted_cdf"))
        if isinstance(verdict, RatioResult):
            return self.terms.tolerance - abs(verdict.ratio - 1)
        if isinstance(verdict, RateResult):
            return self.terms.tolerance - abs(verdict.slope - self.value)
        return Measured.of(errors[0]).rms / self.value


def _claim(terms: _Terms, point: Point) -> _Claim:
    """What the bound claims at a point. Raises ``_Skipped`` where nothing can be learnt, ``BrokenBound``."""
    points: tuple[Point, ...] = (point,)
    if terms.kind is Kind.RATE:
        variable = terms.variable
        points = tuple(_scaled(point, variable, factor) for factor in terms.ladder)
    try:
        values = [_number(terms.numeric, p, terms.delta) for p in points]
    except TrivialBound as reason:
        raise _Skipped("vacuous") from reason
    except UnsupportedBound as reason:
        raise _Skipped("unsupported") from reason
    value = values[0]
    if value <= 0 if terms.kind is not Kind.UPPER else value >= 1:
        raise _Skipped("vacuous")
    guarded = False
    if terms.kind in (Kind.PREDICTED, Kind.RATE):
        own = [bounds_at(p)[Kind.PREDICTED] for p in points]
        guarded = all(b.value is not None for b in own)
        if any(
            (b.value or 0) > FIRST_ORDER_ERROR or b.details.get("noise_over_signal", 0) > FIRST_ORDER_NOISE
            for b in own
        ):
            raise _Skipped("beyond_first_order")
        if terms.kind is Kind.PREDICTED and not guarded and value > FIRST_ORDER:
            raise _Skipped("beyond_first_order")
    if terms.kind is Kind.RATE:
        if min(values) <= 0:
            raise _Skipped("vacuous")
        sizes = [getattr(p, terms.variable) for p in points]
        value = float(np.polyfit(np.log(sizes), np.log(values), 1)[0])
    return _Claim(point, points, value, terms, guarded)


def _scaled(point: Point, variable: str, factor: int) -> Point:
    size = factor * getattr(point, variable)
    return replace(point, d=size) if variable == "d" else replace(point, m=size)


def _measure(claim: _Claim, first: int, trials: int, seed: int, device: str) -> list[list[Outcome]]:
    from verify.measure.trial import run_trial

    return [
        [run_trial(p, t, seed, device).outcome for t in range(first, first + trials)] for p in claim.points
    ]


def _terms(
    my_bound: AnyBound,
    kind: Kind,
    delta: float,
    tolerance: float | None,
    variable: str,
    ladder: Sequence[int],
) -> _Terms:
    _open_interval("delta", delta)
    if tolerance is not None:
        checks.real("tolerance", tolerance, 0.0)
    checks.choice("variable", variable, ("m", "d"))
    steps = tuple(checks.integer("ladder", factor, 1) for factor in ladder)
    if len(steps) < 2 or len(set(steps)) != len(steps):
        raise ValueError(f"ladder must be at least two distinct factors; got {tuple(ladder)}")
    chosen = TOLERANCES.get(kind, 0.0) if tolerance is None else tolerance
    return _Terms(kind, _numeric(my_bound, kind), delta, chosen, variable, steps)


def _open_interval(name: str, value: float, hi: float = 1.0) -> None:
    if not 0 < checks.real(name, value) < hi:
        raise ValueError(f"{name} must lie strictly between 0 and {hi:g}; got {value}")
