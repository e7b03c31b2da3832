"""The one screen at the end of a run: a row for each defense."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias, get_args

from rich.box import Box
from rich.table import Table
from rich.text import Text

from bounds.words import how_many
from verify.cli.tables import console, print_json, say, table
from verify.judge.rate import TIGHTNESS
from verify.judge.verdict import Verdict

#: A judged statement as ``Result.to_dict`` has it: numbers that are not finite are None.
Judged: TypeAlias = Mapping[str, Any]

VERDICTS: tuple[str, ...] = get_args(Verdict)

#: No lines but that below the heads: 80 columns are to hold a row of the longest words.
_PLAIN = Box("    \n    \n ── \n    \n    \n    \n    \n    \n")


@dataclass(frozen=True)
class Summary:
    """What a run found, as JSON-able values: ``figures`` is the directory, ``results`` every verdict, ``reached`` what each
    attack reached where several ran (``strongest.Reached``)."""

    trials: int
    failed_trials: int
    figures: str
    results: Sequence[Judged]
    reached: Sequence[Judged] = ()

    @property
    def fails(self) -> bool:
        """Does any statement fail?"""
        return any(r["verdict"] == "fails" for r in self.results)


@dataclass(frozen=True)
class _Shown:
    """How a kind is told in a row beside the ratio to PREDICTED: lines about all of its results, and what their numbers
    are."""

    lines: Callable[[Sequence[Judged]], list[str]]
    what: str


def show(summary: Summary, suffix: str, as_json: bool, *, verbose: bool = False, foot: str = "") -> None:
    """Print it: as JSON, or a row for each defense (``verbose``: before it one for each verdict), what was not decided in
    favour, where the rest is, and ``foot``. ``suffix``: of the figures."""
    if as_json:
        print_json(asdict(summary))
        return
    if verbose and summary.results:
        console().print(_listing(summary.results))
    if summary.results:
        shown, notes = overview(summary.results, suffix, summary.reached)
        console().print(shown)
        say(notes)
    for verdict in ("fails", "inconclusive"):
        counts = _named(r["experiment"] for r in summary.results if r["verdict"] == verdict)
        if counts:
            say(f"{verdict}: {', '.join(counts)}")
    out = Path(summary.figures)
    verdicts = "; ".join(_verdicts(summary.results, zeros=True))
    say(f"{verdicts}; {how_many(summary.trials, 'trial')}, {summary.failed_trials} failed")
    if summary.results:
        say(f"every comparison in words: {out / 'verdicts.md'}, or --verbose; figures: {out}")
    else:
        for defense in dict.fromkeys(r["defense"] for r in summary.reached):
            own = [r for r in summary.reached if r["defense"] == defense]
            told = "; ".join(line.strip() for line in _reached(own))
            say(f"{str(defense).replace('_', ' ')}, median error at equal width: {told}")
        say(f"nothing was asked of these records; figures: {out}")
    if foot:
        say(foot)


def overview(results: Sequence[Judged], suffix: str, reached: Sequence[Judged] = ()) -> tuple[Table, str]:
    """The table with a row for each defense, in the order in which they come, and what its words mean."""
    made = Table(box=_PLAIN, padding=0, show_edge=False)
    for name in ("defense\nand its figure", "measured /\npredicted", "limits,\nbounds, rates", "verdicts"):
        made.add_column(name, overflow="fold")
    for defense in dict.fromkeys(r["defense"] for r in results):
        own = [r for r in results if r["defense"] == defense]
        first, *more = dict.fromkeys(f"{r['experiment']}.{suffix}" for r in own)
        figure = f"{first} and {len(more)} more" if more else first
        ratios = [r["ratio"] for r in own if _speaks(r) and r.get("ratio") is not None]
        name = str(defense).replace("_", " ") if defense != "none" else "no defense"
        made.add_row(
            Text.assemble(
                (name, "bold"), f"\n{figure}", *_reached([r for r in reached if r["defense"] == defense])
            ),
            _spread(ratios, ".3f"),
            _narrow(_others(own)) or "—",
            "\n".join([*_verdicts(own), *filter(None, [_narrow(_reasons(own))])]),
        )
    kinds = [s.what for k, s in _OTHERS.items() if s.lines([r for r in results if r["kind"] == k])]
    about = ", ".join(dict.fromkeys(r["attack"] for r in results if r.get("attack")))
    notes = [f"verdicts are about the {about}"] if about else []
    notes += ["measured / predicted: median, range", *kinds]
    notes += ["below a figure's name: the median error of each attack, at equal width"] if reached else []
    return made, "; ".join(notes)


def _reached(rows: Sequence[Judged]) -> list[str]:
    """A line for each attack, the strongest first: its median error, the range over settings; counted where exact."""
    lines = []
    by_attack = {
        name: [r for r in rows if r["attack"] == name] for name in dict.fromkeys(r["attack"] for r in rows)
    }
    for name, own in sorted(by_attack.items(), key=lambda pair: -sum(r["strongest"] for r in pair[1])):
        trials, exact = sum(r["trials"] for r in own), sum(r["exact"] for r in own)
        error = (
            f"exact in {exact} of {trials}"
            if 2 * exact > trials
            else _range([r["typical"] for r in own], ".2g")
        )
        lines.append(f"\n  {name} {error}")
    return lines


def _speaks(result: Judged) -> bool:
    """Whether a statement applies there at all."""
    return result["verdict"] != "uninformative"


def _others(results: Sequence[Judged]) -> list[str]:
    return [
        line
        for kind, shown in _OTHERS.items()
        if (own := [r for r in results if r["kind"] == kind])
        for line in shown.lines(own)
    ]


def _spread(values: Sequence[float], form: str) -> str:
    """Median and, of several, range."""
    if not values:
        return "—"
    middle = format(median(values), form)
    return middle if len(values) == 1 else f"{middle}\n{min(values):{form}}–{max(values):{form}}"


def _range(values: Sequence[float], form: str) -> str:
    ends = list(dict.fromkeys((format(min(values), form), format(max(values), form))))
    return "–".join(ends)


def _signed(values: Sequence[float]) -> str:
    """Their range, with signs that no hyphen is taken for."""
    ends = dict.fromkeys(f"{v:.2f}" for v in (min(values), max(values)))
    return " to ".join(ends).replace("-", "−")


def _quotients(kind: str, above: str, below: str) -> Callable[[Sequence[Judged]], list[str]]:
    """The range of one number over another, where the statement says anything."""

    def lines(results: Sequence[Judged]) -> list[str]:
        pairs = [(r[above], r[below]) for r in results if _speaks(r)]
        found = [over / under for over, under in pairs if over is not None and under]
        return [f"{kind} {_range(found, '.2f')}"] if found else []

    return lines


def _floors(results: Sequence[Judged]) -> list[str]:
    """A floor of zero says nothing of an error, but that is what it is."""
    zero = ["floor 0"] if any(r["floor"] == 0 for r in results) else []
    return [*_quotients("floor", "limit", "floor")(results), *zero]


def _rates(results: Sequence[Judged]) -> list[str]:
    """What was measured of each stated exponent. An order that the error does not exceed may hold without being its own;
    one that is asked from both sides is tight where it holds."""
    asked: dict[tuple[str, float, bool], list[Judged]] = {}
    for r in results:
        if r["slope"] is not None and r["exponent"] is not None:
            asked.setdefault((r["variable"], r["exponent"], r["upper"]), []).append(r)
    lines = []
    for (variable, exponent, upper), found in asked.items():
        slopes, stated = _signed([r["slope"] for r in found]), f"{exponent:g}".replace("-", "−")
        words = [_order(r) for r in found]
        said = (
            words[0] if len(words) == 1 else ", ".join(f"{words.count(w)} {w}" for w in dict.fromkeys(words))
        )
        lines.append(
            f"order in {variable} {slopes} ≤ {stated} {said}"
            if upper
            else f"rate in {variable} {slopes} for {stated}, {said}"
        )
    return lines


def _order(result: Judged) -> str:
    """A verdict on a rate in words."""
    verdict = str(result["verdict"])
    if result["upper"]:
        return f"{verdict}, {result['tightness']}" if result["tightness"] else verdict
    return TIGHTNESS["holds"] if verdict == "holds" else verdict


_OTHERS: Mapping[str, _Shown] = {
    "floor": _Shown(_floors, "floor: measured limit / floor"),
    "limit": _Shown(_quotients("limit", "measured", "limit"), "limit: measured rms / limit"),
    "upper": _Shown(_quotients("upper", "bound", "rms"), "upper: bound / measured rms"),
    "rate": _Shown(_rates, "rate, order: measured exponent, and the stated one"),
}


def _reasons(results: Sequence[Judged]) -> list[str]:
    """Why nothing can be said, in short: the head of each reason. The verdicts in words have all of it; that a floor is
    zero is said beside them."""
    told = [r.get("why") for r in results if not _speaks(r) and r.get("floor") != 0]
    return list(dict.fromkeys(f"({re.split(r': | [(]', why)[0]})" for why in told if why))


def _narrow(lines: Sequence[str]) -> str:
    """Each over as many lines as a narrow column needs: 80 letters hold a row of the longest words."""
    return "\n".join(textwrap.fill(line, 15, break_long_words=False) for line in lines)


def _verdicts(results: Sequence[Judged], zeros: bool = False) -> list[str]:
    counts = {v: sum(r["verdict"] == v for r in results) for v in VERDICTS}
    return [f"{n} {v}" for v, n in counts.items() if n or zeros]


def _named(names: Any) -> list[str]:
    """Every name once, with how often it is there where that is more than once."""
    found = list(names)
    return [name + (f" ({n})" if (n := found.count(name)) > 1 else "") for name in dict.fromkeys(found)]


def _listing(results: Sequence[Judged]) -> Table:
    """Every verdict in words."""
    made = table("kind", "verdict", "what was compared", narrow=2)
    for r in results:
        made.add_row(str(r["kind"]), r["verdict"], f"{r['series']}: {r['text']}")
    return made
