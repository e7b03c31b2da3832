"""What a bound claims in one setting, and the trials that test it."""

from __future__ import annotations

import importlib
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

from bounds import AttackSpec, Bound, Defense, Kind, Setting, TrivialBound, UnsupportedBound, checks
from verify.judge import JUDGES
from verify.judge.base import Claim, Judge, Sample, bounds_at
from verify.judge.verdict import Result
from verify.measure.point import Point
from verify.measure.series import label

AnyBound: TypeAlias = Bound | Callable[..., Any]


Numeric: TypeAlias = Callable[[Defense, Setting, AttackSpec, float], Any]


#: First-order asymptotics (PREDICTED, RATE) are put to the test where our own prediction has R and the noise over the
#: weakest signal below these.
FIRST_ORDER_ERROR, FIRST_ORDER_NOISE = 0.15, 0.15


# --- the bound: one signature, and what may be wrong with it ---------------------------------------------------------


class BrokenBound(ValueError):
    """What was given as a bound is none: ``what`` says in a word or two how ("raised <exception>", "not a number",
    "negative", "infinite"), ``value`` what it was if a number, ``point`` in which setting it showed."""

    def __init__(self, what: str, text: str, point: Point, value: float | None = None) -> None:
        super().__init__(f"my_bound is no bound at {label(point)}: {text}")
        self.what, self.point, self.value = what, point, value


def _numeric(my_bound: AnyBound, kind: Kind) -> Numeric:
    """The bound as a callable of (defense, setting, attack, delta)."""
    if isinstance(my_bound, Bound):
        if my_bound.kind is not kind:
            raise ValueError(f"kind must be {my_bound.kind}, that of my_bound; got {kind}")
        return partial(_stated, my_bound)
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


def _stated(bound: Bound, defense: Defense, setting: Setting, attack: AttackSpec, delta: float) -> float:
    """The number of a ``Bound``, as ``evaluate`` would have it without observation and net, which a search does not have:
    the reason why there is none is ``UnsupportedBound``, or ``TrivialBound``."""
    about = bound.about(type(defense))
    if about is None:
        raise UnsupportedBound(f"not proved: my_bound does not speak of {defense.name}")
    found = about.value(defense, setting, attack, delta)
    if found.value is None:
        raise UnsupportedBound(found.why)
    if found.trivial:
        raise TrivialBound(found.value, found.why, found.details)
    return found.value


def _number(numeric: Numeric, point: Point, delta: float) -> float:
    """The bound's number at a point: finite, not negative. Raises ``UnsupportedBound`` or ``BrokenBound``."""
    setting = point.setting()
    try:
        value = numeric(point.defense, setting, point.attack, delta)
    except UnsupportedBound:
        raise
    except Exception as error:
        name = type(error).__name__
        said = f"it raised {name}: {' '.join(str(error).split())}"
        raise BrokenBound(f"raised {name}", said, point) from error
    if value is None:
        raise UnsupportedBound("my_bound returned None")
    try:
        number = float("nan") if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    said = f"it returned {value!r}"
    if math.isnan(number):
        raise BrokenBound("not a number", said, point)
    if number < 0:
        raise BrokenBound("negative", said, point, number)
    if math.isinf(number):
        raise BrokenBound("infinite", said, point)
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


# --- a claim at a point, and its trials --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Terms:
    """What is asked, the same in every setting."""

    kind: Kind
    numeric: Numeric
    delta: float
    tolerance: float
    variable: str
    ladder: tuple[int, ...]

    @property
    def judge(self) -> Judge:
        return JUDGES[self.kind]

    @staticmethod
    def of(
        my_bound: AnyBound,
        kind: Kind,
        *,
        delta: float,
        tolerance: float | None,
        variable: str,
        ladder: Sequence[int],
    ) -> Terms:
        """The arguments of a search, checked."""
        open_interval("delta", delta)
        if tolerance is not None:
            checks.real("tolerance", tolerance, 0.0)
        checks.choice("variable", variable, ("m", "d"))
        steps = tuple(checks.integer("ladder", factor, 1) for factor in ladder)
        if len(steps) < 2 or len(set(steps)) != len(steps):
            raise ValueError(f"ladder must be at least two distinct factors; got {tuple(ladder)}")
        chosen = JUDGES[kind].tolerance if tolerance is None else tolerance
        return Terms(kind, _numeric(my_bound, kind), delta, chosen, variable, steps)

    def options(self) -> dict[str, Any]:
        """Those of the terms that the kind has a use for."""
        return {name: getattr(self, name) for name in self.judge.options}


class Skipped(Exception):
    """No trial here could refute or support anything; the argument is the counter's name."""


@dataclass(frozen=True)
class Case:
    """A claim and the points at which its trials are made: its setting, or a ladder of sizes from there."""

    point: Point
    points: tuple[Point, ...]
    claim: Claim
    judge: Judge

    def verdict(self, samples: Sequence[Sample], significance: float) -> Result:
        """A true bound "fails" with probability at most ``significance``."""
        return self.judge.test(self.claim, samples, significance)

    def p_value(self, samples: Sequence[Sample]) -> float:
        """The smallest significance at which the rule refutes the claim (by bisection, down to 1e-12)."""
        low, high = math.log(1e-12), math.log(0.49)
        if self.verdict(samples, 0.49).verdict != "fails":
            return 1.0
        while high - low > 1e-3:
            middle = (low + high) / 2
            refuted = self.verdict(samples, math.exp(middle)).verdict == "fails"
            low, high = (low, middle) if refuted else (middle, high)
        return math.exp(high)

    def measure(self, first: int, trials: int, seed: int, device: str) -> list[Sample]:
        """Trials ``first``, ... at every point."""
        from verify.measure.trial import run_trial

        numbers = range(first, first + trials)
        return [Sample.of(run_trial(p, t, seed, device).outcome for t in numbers) for p in self.points]


def case_of(terms: Terms, point: Point) -> Case:
    """What the bound claims at a point. Raises ``Skipped`` where nothing can be learnt, ``BrokenBound``."""
    judge = terms.judge
    points = (
        tuple(_scaled(point, terms.variable, factor) for factor in terms.ladder) if judge.ladder else (point,)
    )
    try:
        values = [_number(terms.numeric, p, terms.delta) for p in points]
    except TrivialBound as reason:
        raise Skipped("vacuous") from reason
    except UnsupportedBound as reason:
        raise Skipped("unsupported") from reason
    if judge.vacuous(values):
        raise Skipped("vacuous")
    guarded = judge.first_order and _of_first_order(points, values[0], judge.reach)
    sizes = tuple(float(getattr(p, terms.variable)) for p in points)
    claim = Claim(
        judge.claimed(values, sizes), terms.delta, terms.tolerance, terms.variable, sizes, guarded=guarded
    )
    return Case(point, points, claim, judge)


def _of_first_order(points: Sequence[Point], value: float, reach: float) -> bool:
    """Whether our own prediction says so at every point; False where there is none. Raises ``Skipped`` where it, or without
    it ``value`` itself, says that first order does not apply."""
    own = [bounds_at(p)[Kind.PREDICTED] for p in points]
    if any(
        (b.value or 0) > FIRST_ORDER_ERROR or b.details.get("noise_over_signal", 0) > FIRST_ORDER_NOISE
        for b in own
    ):
        raise Skipped("beyond_first_order")
    guarded = all(b.value is not None for b in own)
    if not guarded and value > reach:
        raise Skipped("beyond_first_order")
    return guarded


def _scaled(point: Point, variable: str, factor: int) -> Point:
    size = factor * getattr(point, variable)
    return replace(point, d=size) if variable == "d" else replace(point, m=size)


def open_interval(name: str, value: float, hi: float = 1.0) -> None:
    """``ValueError`` unless 0 < value < hi."""
    if not 0 < checks.real(name, value) < hi:
        raise ValueError(f"{name} must lie strictly between 0 and {hi:g}; got {value}")
