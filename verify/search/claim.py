"""What a bound claims in one setting, and the trials that test it."""

from __future__ import annotations

import importlib
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

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
    """What was given as a bound is none: ``name`` says which, ``what`` in a word or two how ("raised <exception>",
    "not a number", "negative", "infinite", "nothing"), ``text`` in a sentence, ``value`` what it was if a number, ``point``
    in which setting it showed."""

    def __init__(self, name: str, what: str, text: str, *, point: Point, value: float | None = None) -> None:
        super().__init__(f"{name} is no bound at {label(point)}: {text}")
        self.what, self.point, self.value = what, point, value


class ReturnedNone(UnsupportedBound):
    """A callable says with None that it states nothing here."""


#: What a bound is called that has no name by which it can be imported.
ANONYMOUS = "my_bound"


def name_of(my_bound: AnyBound) -> str:
    """Where ``my_bound`` can be imported from, as "module:function"; ``ANONYMOUS`` if from nowhere."""
    module, attribute = getattr(my_bound, "__module__", None), getattr(my_bound, "__qualname__", None)
    if not (isinstance(module, str) and isinstance(attribute, str)) or module == "__main__":
        return ANONYMOUS
    try:
        found = attrgetter(attribute)(sys.modules.get(module))
    except AttributeError:  # made inside a function
        return ANONYMOUS
    return f"{module}:{attribute}" if found is my_bound else ANONYMOUS


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


def _number(terms: Terms, point: Point) -> float:
    """The bound's number at a point: finite, not negative. Raises ``UnsupportedBound`` or ``BrokenBound``."""
    setting = point.setting()
    try:
        value = terms.numeric(point.defense, setting, point.attack, terms.delta)
    except UnsupportedBound:
        raise
    except (Exception, SystemExit) as error:
        kind = type(error).__name__
        said = f"it raised {kind}: {' '.join(str(error).split())}{_place(error)}"
        raise BrokenBound(terms.name, f"raised {kind}", said, point=point) from error
    if value is None:
        raise ReturnedNone(f"{terms.name} returned None")
    try:
        # A word is no number, even one that float() would read; nor is an answer to yes or no.
        number = math.nan if isinstance(value, str | bytes | bool | np.bool_) else float(value)
    except Exception:  # float() calls the value's own code
        number = math.nan
    broken = partial(BrokenBound, terms.name, text=f"it returned {checks.shown(value)}", point=point)
    if math.isnan(number):
        raise broken("not a number")
    if number < 0:
        raise broken("negative", value=number)
    if math.isinf(number):
        raise broken("infinite")
    return number


def _place(error: BaseException) -> str:
    """Where in a user's own file, the first that is not this one, an error comes from: " (my_bounds.py:12)"."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    theirs = [f for f in frames if f.filename == frames[0].filename]
    return f" ({Path(theirs[-1].filename).name}:{theirs[-1].lineno})" if theirs else ""


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
            meant = checks.nearest(part, dir(found))
            raise ValueError(f"MODULE:FUNCTION must name something in {module}; got {name!r}{meant}")
        found = getattr(found, part)
    return found


# --- a claim at a point, and its trials --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Terms:
    """What is asked, the same in every setting. name: of the bound, "module:function" if it can be imported."""

    name: str
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
        name: str | None = None,
    ) -> Terms:
        """The arguments of a search, checked. name: None: that by which the bound can be imported."""
        checks.inside("delta", delta)
        if tolerance is not None:
            checks.real("tolerance", tolerance, 0.0)
        checks.choice("variable", variable, ("m", "d"))
        steps = tuple(checks.integer("ladder", factor, 1) for factor in checks.several("ladder", ladder))
        if len(steps) < 2 or len(set(steps)) != len(steps):
            raise ValueError(f"ladder must be at least two distinct factors; got {tuple(ladder)}")
        chosen = JUDGES[kind].tolerance if tolerance is None else tolerance
        return Terms(
            name or name_of(my_bound), kind, _numeric(my_bound, kind), delta, chosen, variable, steps
        )

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
        values = [_number(terms, p) for p in points]
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
