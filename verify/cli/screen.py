"""The one screen at the end of a run: a row for each defense."""

from __future__ import annotations

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
from verify.judge.verdict import Verdict

#: A judged statement as ``Result.to_dict`` has it: numbers that are not finite are None.
Judged: TypeAlias = Mapping[str, Any]

VERDICTS: tuple[str, ...] = get_args(Verdict)

#: No lines but that below the heads: 80 columns are to hold a row of the longest words.
_PLAIN = Box("    \n    \n ── \n    \n    \n    \n    \n    \n")


@dataclass(frozen=True)
class Summary:
    """What a run found, as JSON-able values: ``figures`` is the directory, ``results`` every verdict."""

    trials: int
    failed_trials: int
    figures: str
    results: Sequence[Judged]

    @property
    def fails(self) -> bool:
        """Does any statement fail?"""
        return any(r["verdict"] == "fails" for r in self.results)


@dataclass(frozen=True)
class _Shown:
    """How a kind is told in a row beside the ratio to PREDICTED: a number of each result, all of them in words, and what
    the number is."""

    number: Callable[[Judged], float | None]
    words: Callable[[Sequence[float]], str]
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
        shown, notes = overview(summary.results, suffix)
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
        say(f"nothing was asked of these records; figures: {out}")
    if foot:
        say(foot)


def overview(results: Sequence[Judged], suffix: str) -> tuple[Table, str]:
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
            Text.assemble((name, "bold"), f"\n{figure}"),
            _spread(ratios, ".3f"),
            "\n".join(_others(own)) or "—",
            "\n".join(_verdicts(own)),
        )
    kinds = [shown.what for kind, shown in _OTHERS.items() if _numbers(kind, results)]
    return made, "; ".join(("measured / predicted: median, range", *kinds))


def _speaks(result: Judged) -> bool:
    """Whether a statement applies there at all."""
    return result["verdict"] != "uninformative"


def _others(results: Sequence[Judged]) -> list[str]:
    return [
        f"{kind} {shown.words(own)}" for kind, shown in _OTHERS.items() if (own := _numbers(kind, results))
    ]


def _numbers(kind: str, results: Sequence[Judged]) -> list[float]:
    found = [_OTHERS[kind].number(r) for r in results if r["kind"] == kind and _speaks(r)]
    return [x for x in found if x is not None]


def _spread(values: Sequence[float], form: str) -> str:
    """Median and, of several, range."""
    if not values:
        return "—"
    middle = format(median(values), form)
    return middle if len(values) == 1 else f"{middle}\n{min(values):{form}}–{max(values):{form}}"


def _range(values: Sequence[float], form: str) -> str:
    ends = list(dict.fromkeys((format(min(values), form), format(max(values), form))))
    return "–".join(ends)


def _over(above: str, below: str) -> Callable[[Judged], float | None]:
    def ratio(result: Judged) -> float | None:
        over, under = result[above], result[below]
        return None if over is None or not under else float(over / under)

    return ratio


def _off(result: Judged) -> float | None:
    slope, exponent = result["slope"], result["exponent"]
    return None if slope is None or exponent is None else abs(slope - exponent)


_OTHERS: Mapping[str, _Shown] = {
    "floor": _Shown(_over("limit", "floor"), lambda v: _range(v, ".2f"), "floor: measured limit / floor"),
    "upper": _Shown(_over("bound", "rms"), lambda v: _range(v, ".2f"), "upper: bound / measured rms"),
    "rate": _Shown(
        _off, lambda v: f"±{max(v):.3f}", "rate: farthest that an exponent lies from the stated one"
    ),
}


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
