"""What the commands ``verify`` and ``figures`` do at their end: common figures, verdicts, exit code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import typer

from bounds.serial import plain
from verify.cli.screen import Summary, show
from verify.judge.base import Conduct
from verify.judge.compare import judged
from verify.judge.labels import label_rows, label_table
from verify.judge.predicted import RatioResult
from verify.judge.strongest import reached, strongest_table
from verify.judge.verdict import Result
from verify.measure.experiment import Experiment
from verify.measure.groups import group_records
from verify.measure.outcome import TrialOutcome
from verify.measure.point import Point
from verify.measure.record import Record

# What draws is imported where it draws: a run that is only told again does not wait for it.


def judge_and_draw(measured: Mapping[Experiment, Sequence[Record]], out: Path, suffix: str) -> list[Result]:
    """The verdicts of experiments that are drawn together (``by_figure``) and their figure, from records grouped and judged
    once. The figure bears the first one's name."""
    from verify.draw.experiment import draw_judged
    from verify.draw.plane import draw_plane

    groups: dict[Point, Sequence[TrialOutcome]] = {}
    results: list[Result] = []
    for experiment, records in measured.items():
        # What runs also where an experiment stands beside another is for comparing at equal width: ``strongest``.
        own = {
            p: g
            for p, g in group_records(records, experiment).items()
            if not experiment.beside or type(p.attack) in experiment.attacks
        }
        results += judged(own, experiment.rules, Conduct())
        groups |= own
    first = next(iter(measured))
    path = out / f"{first.name}.{suffix}"
    if first.plane:
        draw_plane(groups, first, path)
    else:
        draw_judged(groups, results, path, first)
    return results


def report(
    results: Sequence[Result],
    records: Sequence[Record],
    out: Path,
    suffix: str,
    as_json: bool,
) -> None:
    """``concluded``, printed; exit 1 if any statement fails."""
    summary = concluded(results, records, out, suffix)
    show(summary, suffix, as_json)
    if summary.fails:
        raise typer.Exit(1)


def concluded(results: Sequence[Result], records: Sequence[Record], out: Path, suffix: str) -> Summary:
    """Draw what all experiments share, and keep the verdicts as a table in words."""
    from verify.draw.side_by_side import SideBySide, draw_side_by_side
    from verify.draw.summary import plot_summary

    groups = group_records(records)
    if any(isinstance(r, RatioResult) for r in results):
        plot_summary(results, out / f"summary.{suffix}")
    chosen = SideBySide.of(records)
    if chosen.compares:
        draw_side_by_side(chosen, out / f"side-by-side.{suffix}")
    rows = reached(groups)
    if results or rows:
        out.mkdir(parents=True, exist_ok=True)
        parts = (
            verdict_table(results) if results else "",
            strongest_table(rows),
            label_table(label_rows(groups)),
        )
        text = "\n".join(filter(None, parts))
        (out / "verdicts.md").write_text(text, encoding="utf-8")
    failed = sum(seen.failed for group in groups.values() for seen in group)
    told = [plain(r.to_dict()) for r in results], [plain(row.to_dict()) for row in rows]
    return Summary(len(records), failed, str(out), *told)


def verdict_table(results: Sequence[Result]) -> str:
    """Every verdict as a row of a Markdown table."""
    rows = [("experiment", "series", "kind", "verdict", "what was compared"), ("---",) * 5]
    rows += [(r.experiment, r.series, str(r.kind), r.verdict, r.text) for r in results]
    return "".join(f"| {' | '.join(map(_in_cell, row))} |\n" for row in rows)


def _in_cell(text: str) -> str:
    """On one line, with nothing that ends the cell."""
    return " ".join(text.split()).replace("|", "∣")
