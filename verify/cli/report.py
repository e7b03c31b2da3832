"""What the commands ``verify`` and ``figures`` tell at their end: common figures, verdicts, exit code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from verify.cli.tables import console, print_json, say, table
from verify.draw.experiment import draw_judged
from verify.draw.side_by_side import is_common, plot_side_by_side
from verify.draw.style import VERDICTS
from verify.draw.summary import plot_summary
from verify.judge.base import Conduct
from verify.judge.compare import judged
from verify.judge.labels import label_rows, label_table
from verify.judge.predicted import RatioResult
from verify.judge.verdict import Result
from verify.measure.experiment import Experiment
from verify.measure.groups import group_records
from verify.measure.record import Record


def judge_and_draw(records: Sequence[Record], experiment: Experiment, out: Path, suffix: str) -> list[Result]:
    """The verdicts of one experiment and its figure, from records grouped and judged once."""
    groups = group_records(records, experiment)
    results = judged(groups, experiment.rules, Conduct())
    draw_judged(groups, results, out / f"{experiment.name}.{suffix}", experiment)
    return results


def report(
    results: Sequence[Result],
    records: Sequence[Record],
    out: Path,
    suffix: str,
    as_json: bool,
    foot: str = "",
) -> None:
    """Draw what all experiments share, keep the verdicts as a table, print them, ``foot`` below; exit 1 if any statement
    fails."""
    groups = group_records(records)
    if any(isinstance(r, RatioResult) for r in results):
        plot_summary(results, out / f"summary.{suffix}")
    common = [r for r in records if is_common(r.point)]
    if common:
        plot_side_by_side(common, out / f"side-by-side.{suffix}")
    if results:
        out.mkdir(parents=True, exist_ok=True)
        (out / "verdicts.md").write_text(
            verdict_table(results) + "\n" + label_table(label_rows(groups)), encoding="utf-8"
        )
    failed = sum(seen.failed for group in groups.values() for seen in group)
    if as_json:
        summary = {"trials": len(records), "failed_trials": failed, "figures": str(out)}
        print_json(summary | {"results": [r.to_dict() for r in results]})
    else:
        _print(results, f"{len(records)} trials, {failed} failed; figures in {out}")
        if foot:
            say(foot)
    if any(r.verdict == "fails" for r in results):
        raise typer.Exit(1)


def _print(results: Sequence[Result], foot: str) -> None:
    shown = table("kind", "verdict", "what was compared", narrow=2)
    for result in results:
        shown.add_row(str(result.kind), result.verdict, f"{result.series}: {result.text}")
    console().print(shown)
    counts = [f"{sum(r.verdict == verdict for r in results)} {verdict}" for verdict in VERDICTS]
    say(f"{', '.join(counts)}; {foot}")


def verdict_table(results: Sequence[Result]) -> str:
    """Every verdict as a row of a Markdown table."""
    rows = [("experiment", "series", "kind", "verdict", "what was compared"), ("---",) * 5]
    rows += [(r.experiment, r.series, str(r.kind), r.verdict, r.text) for r in results]
    return "".join(f"| {' | '.join(cell.replace('|', '∣') for cell in row)} |\n" for row in rows)
