"""Property-based test of a bound: search for a setting in which the attack refutes it, and make that setting small."""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bounds import Kind, UnsupportedBound, checks
from bounds.words import how_many
from verify.judge.verdict import Result
from verify.measure.point import Point
from verify.measure.series import label
from verify.search.again import again
from verify.search.claim import (
    AnyBound,
    BrokenBound,
    Case,
    ReturnedNone,
    Skipped,
    Terms,
    case_of,
)
from verify.search.point_strategy import default_sizes, point_strategy
from verify.search.result import CheckResult, Counterexample

if TYPE_CHECKING:
    from hypothesis import strategies as st

    from verify.judge.base import Sample

# --- the search -------------------------------------------------------------------------------------------------------


#: Settings in which there is nothing to run: another is drawn in their place, up to a limit.
_SILENT = ("unsupported", "vacuous", "beyond_first_order")


SKIPPED_PER_EXAMPLE = 5


#: Fresh trials for each of the first test's: a setting that was picked for its luck needs more than luck.
CONFIRMING = 2


@dataclass
class _Tally:
    """What one call has seen so far. Lives and dies with the call."""

    outcomes: dict[str, Counterexample | str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    slack: float | None = None
    tightest: Point | None = None
    found: Counterexample | None = None  #: the first
    #: The latest confirmed, the simplest so far as the search goes downhill.
    last: Counterexample | None = None
    #: my_bound gave what is no bound: only the simplest setting where it does is looked for.
    broken: bool = False
    nothing: list[Point] = field(default_factory=list)  #: where it returned None
    spent: int = 0  #: settings measured since the first was found

    def count(self, name: str, by: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + by


@dataclass(frozen=True)
class _Search:
    terms: Terms
    where: Callable[[Point], bool] | None
    trials: int
    significance: float
    seed: int
    device: str
    max_shrinks: int
    max_skipped: int

    def outcome(self, point: Point, tally: _Tally) -> Counterexample | str:
        """A counterexample, or in a word what became of this setting; each is measured once."""
        if point.key not in tally.outcomes:
            found = self._outcome(point, tally)
            if isinstance(found, Counterexample):
                tally.found, tally.last = tally.found or found, found
            else:
                tally.count(found)
            tally.outcomes[point.key] = found
        return tally.outcomes[point.key]

    def _outcome(self, point: Point, tally: _Tally) -> Counterexample | str:
        if self.where is not None and not self.where(point):
            return "excluded"
        if tally.found is None and sum(tally.counts.get(name, 0) for name in _SILENT) >= self.max_skipped:
            return "untried"
        try:
            case = case_of(self.terms, point)
        except Skipped as reason:
            tally.nothing += [point] if isinstance(reason.__cause__, ReturnedNone) else []
            return str(reason)
        except BrokenBound:
            if tally.found is not None:
                return "other"
            tally.broken = True
            raise
        if tally.broken:
            return "other"
        if tally.found is not None:
            if tally.spent >= self.max_shrinks:
                return "other"
            tally.spent += 1
        tally.count("settings")
        samples = self._run(case, 0, self.trials, tally)
        verdict = case.verdict(samples, self.significance)
        if verdict.verdict == "uninformative":
            return "learns_nothing"
        tally.count("informative")
        if verdict.verdict != "fails":
            # What the search stops at is told by its counterexample; slack is about what was not refuted.
            slack = case.judge.slack(case.claim, samples, verdict)
            if math.isfinite(slack) and (tally.slack is None or slack < tally.slack):
                tally.slack, tally.tightest = slack, point
            return "consistent"
        samples = self._run(case, self.trials, CONFIRMING * self.trials, tally)
        verdict = case.verdict(samples, self.significance)
        return self._violated(case, samples, verdict) if verdict.verdict == "fails" else "unconfirmed"

    def _run(self, case: Case, first: int, trials: int, tally: _Tally) -> list[Sample]:
        samples = case.measure(first, trials, self.seed, self.device)
        failed = sum(s.failed for s in samples)
        tally.count("trials", failed + sum(len(s.errors) for s in samples))
        tally.count("failed_trials", failed)
        return samples

    def _violated(self, case: Case, samples: Sequence[Sample], verdict: Result) -> Counterexample:
        measured, low, high = case.judge.statistic(case.claim, samples)
        return Counterexample(
            point=case.point,
            bound=case.claim.value,
            rms=measured,
            low=low,
            high=high,
            n=sum(len(s.errors) for s in samples),
            failed=sum(s.failed for s in samples),
            p_value=case.p_value(samples),
            significance=self.significance,
            seed=self.seed,
            first_trial=self.trials,
            trials=CONFIRMING * self.trials,
            text=verdict.text,
            reproduce=self._reproduce(case.point),
        )

    def _reproduce(self, point: Point) -> str:
        options = {
            "trials": CONFIRMING * self.trials,
            "first_trial": self.trials,
            "seed": self.seed,
            "significance": self.significance,
            **self.terms.options(),
        }
        return again(self.terms.name, self.terms.kind, point, options)

    def ensure_stated(self, tally: _Tally) -> None:
        """``BrokenBound`` if my_bound returned None wherever it was asked, as a function does that returns nothing."""
        if not tally.nothing or set(tally.counts) - {"unsupported", "excluded", "untried"}:
            return
        if len(tally.nothing) == tally.counts["unsupported"]:
            said = f"it returned None, here and wherever it was asked ({how_many(len(tally.nothing), 'setting')})"
            raise BrokenBound(self.terms.name, "nothing", said, point=tally.nothing[0])


class _Found(Exception):
    """Tells hypothesis that this setting refutes the bound."""

    def __init__(self, counterexample: Counterexample) -> None:
        super().__init__(counterexample.text)
        self.counterexample = counterexample


def check_bound(
    my_bound: AnyBound,
    kind: Kind | str,
    settings: st.SearchStrategy[Point] | None = None,
    *,
    where: Callable[[Point], bool] | None = None,
    max_examples: int = 30,
    max_shrinks: int = 60,
    trials: int = 20,
    alpha: float = 0.01,
    delta: float = 0.05,
    tolerance: float | None = None,
    variable: str = "m",
    ladder: Sequence[int] = (1, 4),
    seed: int = 0,
    device: str = "cpu",
    progress: bool | None = None,
    name: str | None = None,
) -> CheckResult:
    """Search for a setting in which the attack refutes ``my_bound``, and make it minimal.

    my_bound: a ``bounds.Bound`` of that kind, or a callable that returns a number, finite and not negative, the bound on R
    (root mean square distance of unit features, R = 1 for guessing zero). It is called with (defense, setting, attack,
    delta) if its signature takes four positional arguments, else with (setting,). It may raise ``UnsupportedBound`` or
    return None where it says nothing (counted). name: "module:function", by which messages and the counterexample's line
    call it; None: where it can be imported from, if it can.

    kind: UPPER, R exceeds it in a fraction of at most ``delta`` of all trials, failed ones included (exact binomial test).
    LOWER, the mean of R^2 is at least its square (one-sided t test); FLOOR, the same, by default at the largest width
    alone, as it is a limit. PREDICTED, the measured root mean square is within 1 ± ``tolerance`` of it (default 0.25).
    RATE, the exponent of R in ``variable`` ("m" or "d") over the sizes ``ladder`` times that of the setting is within
    ``tolerance`` of that of my_bound over the same sizes (default 0.2). PREDICTED and RATE are put to the test only where
    our own prediction, if there is one, has R and noise_over_signal at most 0.15; ``where`` can ask for more.
    Failed attacks: a violation for UPPER; left out of the mean, and reported, for the others.

    settings: a hypothesis strategy of ``verify.Point`` (default ``point_strategy()``); where: a filter of points.
    max_examples, max_shrinks: at most so many settings are measured before and after the first is refuted; one in which
    there is nothing to run is replaced by another, up to 5 max_examples of them in all. Searching
    never leaves ``settings``; what is minimal is decided by its shrinking, for ``point_strategy`` in the order B, d, m,
    features, labels, defense, activation. A refutable setting may be missed where the attack scatters too much for
    ``trials``; "minimal" means that the simpler settings tried were not refuted.

    Statistics: every setting is tested with ``trials`` trials at significance alpha / (max_examples + max_shrinks). One that
    is refuted is tested again at the same significance, with twice as many fresh trials, and counts only if refuted there
    too. By the second tests alone, a true bound is refuted with probability at most ``alpha`` (union bound over the most
    settings there can be), whatever the first did. This is exact for UPPER; for the others it is as good as Student's
    interval for the mean of R^2 of so few trials, which heavy tails (an attack that sometimes fails badly) spoil: that is
    what the two stages guard against.

    seed: of the search and of all trials, whose streams derive from seed, point and trial number. The same call gives the
    same result on the same device (hypothesis draws a few values from constants of loaded modules that are not installed
    packages: with other modules it may search elsewhere). Nothing is written. progress: a line on stderr (default: if it
    is a terminal). KeyboardInterrupt ends the search and what was found is returned.

    Raises ``BrokenBound`` (a ``ValueError``), with the setting, for a my_bound that raises something else or gives no
    number, a negative or an infinite one, or None everywhere: that is bad input, and no attack refutes it. ``ValueError`` or
    ``TypeError`` on values out of range, on a my_bound that cannot be called or takes other arguments, on a Bound of another
    kind, and on settings that are no strategy or yield something else than points.
    """
    wanted = Kind(checks.choice("kind", str(kind), tuple(Kind)))
    checks.integer("max_examples", max_examples, 1)
    checks.integer("max_shrinks", max_shrinks, 0)
    checks.inside("alpha", alpha)
    significance = alpha / (max_examples + max_shrinks)
    search = _Search(
        Terms.of(
            my_bound, wanted, delta=delta, tolerance=tolerance, variable=variable, ladder=ladder, name=name
        ),
        where,
        checks.integer("trials", trials, 2),
        significance,
        checks.integer("seed", seed, 0),
        device,
        max_shrinks,
        SKIPPED_PER_EXAMPLE * max_examples,
    )
    if where is not None and not callable(where):
        raise TypeError(f"where must be a callable of a Point; got {where!r}")
    tally = _Tally()
    with _progress(progress, wanted, max_examples) as advance:
        found, interrupted = _hunt(search, tally, settings, max_examples, advance)
    if not interrupted:
        search.ensure_stated(tally)
    counts = tally.counts
    if found is not None:
        status = "refuted"
    elif interrupted:
        status = "interrupted"
    else:
        status = "survived" if counts.get("informative") else "uninformative"
    return CheckResult(
        kind=wanted,
        status=status,
        counterexample=found,
        settings=counts.get("settings", 0),
        trials=counts.get("trials", 0),
        failed_trials=counts.get("failed_trials", 0),
        informative=counts.get("informative", 0),
        unsupported=counts.get("unsupported", 0),
        vacuous=counts.get("vacuous", 0),
        beyond_first_order=counts.get("beyond_first_order", 0),
        excluded=counts.get("excluded", 0),
        unconfirmed=counts.get("unconfirmed", 0),
        smallest_slack=tally.slack,
        tightest=tally.tightest,
        alpha=alpha,
        significance=significance,
        seed=seed,
        interrupted=interrupted,
    )


def _hunt(
    search: _Search,
    tally: _Tally,
    strategy: st.SearchStrategy[Point] | None,
    max_examples: int,
    advance: Callable[[_Tally], None],
) -> tuple[Counterexample | None, bool]:
    """Let hypothesis search and shrink. Returns the counterexample, if any, and whether the search was cut short."""
    import hypothesis
    from hypothesis import strategies as st
    from hypothesis.errors import Unsatisfiable

    if strategy is None:
        sizes = default_sizes(search.terms.kind, search.terms.variable)
        strategy = point_strategy(d=sizes["d"], m=sizes["m"], B=sizes["B"])
    if not isinstance(strategy, st.SearchStrategy):
        raise TypeError(
            f"settings must be a hypothesis strategy of points such as point_strategy(); got {strategy!r}"
        )

    @hypothesis.seed(search.seed)
    @hypothesis.settings(
        max_examples=max_examples,
        database=None,
        deadline=None,
        derandomize=False,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        report_multiple_bugs=False,
        print_blob=False,
        verbosity=hypothesis.Verbosity.quiet,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(strategy)
    def property(point: Point) -> None:
        if not isinstance(point, Point):
            raise TypeError(f"settings must yield verify.Point; got {point!r} ({type(point).__name__})")
        outcome = search.outcome(point, tally)
        advance(tally)
        if isinstance(outcome, Counterexample):
            raise _Found(outcome)
        if outcome in ("excluded", "untried", *_SILENT):
            hypothesis.reject()

    try:
        with _no_files():
            property()
    except _Found as found:
        return found.counterexample, False
    except Unsatisfiable:  # not one setting was to be measured
        return None, False
    except KeyboardInterrupt:
        return tally.last, True
    return None, False


@contextmanager
def _no_files() -> Iterator[None]:
    """hypothesis keeps a cache of the constants in local modules even without a data base: not in the user's directory."""
    from hypothesis import configuration

    before = getattr(configuration, "__hypothesis_home_directory", None)
    with tempfile.TemporaryDirectory() as elsewhere:
        configuration.set_hypothesis_home_dir(elsewhere)
        try:
            yield
        finally:
            configuration.set_hypothesis_home_dir(before)


def check_point(
    my_bound: AnyBound,
    kind: Kind | str,
    point: Point,
    *,
    trials: int = 20,
    first_trial: int = 0,
    seed: int = 0,
    significance: float = 0.01,
    delta: float = 0.05,
    tolerance: float | None = None,
    variable: str = "m",
    ladder: Sequence[int] = (1, 4),
    device: str = "cpu",
) -> Result:
    """The verdict on ``my_bound`` in one setting, from trials ``first_trial``, ... under ``seed``: what ``check_bound``
    does in each. A true bound "fails" with probability at most ``significance``.

    Raises ``BrokenBound`` (a ``ValueError``) for a bound that is no number, ``UnsupportedBound`` where it says nothing or
    nothing that trials could refute, and as ``check_bound`` does on bad arguments.
    """
    wanted = Kind(checks.choice("kind", str(kind), tuple(Kind)))
    checks.instance("point", point, Point)
    checks.integer("trials", trials, 2)
    checks.integer("first_trial", first_trial, 0)
    checks.inside("significance", significance, 0.5)
    terms = Terms.of(my_bound, wanted, delta=delta, tolerance=tolerance, variable=variable, ladder=ladder)
    try:
        case = case_of(terms, point)
    except Skipped as reason:
        raise UnsupportedBound(
            f"nothing to test at {label(point)}: {str(reason).replace('_', ' ')}"
        ) from reason
    return case.verdict(case.measure(first_trial, trials, seed, device), significance)


@contextmanager
def _progress(wanted: bool | None, kind: Kind, max_examples: int) -> Iterator[Callable[[_Tally], None]]:
    """A line on stderr that says how far the search is."""
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield lambda tally: None
        return
    from rich.console import Console

    with Console(stderr=True, force_terminal=wanted).status(f"checking {kind}") as status:

        def advance(tally: _Tally) -> None:
            doing = "searching" if tally.found is None else "a counterexample: making it smaller"
            status.update(
                f"checking {kind}: {how_many(tally.counts.get('settings', 0), 'setting')} (search: at most {max_examples}), "
                f"{how_many(tally.counts.get('trials', 0), 'trial')}; {doing}"
            )

        yield advance
