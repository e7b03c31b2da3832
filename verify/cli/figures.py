"""``reconbound figures``: every figure again, from what was saved.

What draws is imported where something is drawn: matplotlib takes longer than everything else here."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from bounds import checks
from verify import EXPERIMENTS
from verify.cli.command import App
from verify.cli.options import FORMATS, Format, Json, new_directory
from verify.experiments.own import experiment_of
from verify.judge.verdict import Result
from verify.measure.experiment import Experiment, by_figure
from verify.measure.files import read_records
from verify.measure.pictures import load_pictures
from verify.measure.record import Record
from verify.measure.saved import Saved
from verify.studies.catalogue import STUDIES
from verify.studies.study import load

app = App()


@app.command()
def figures(
    source: Annotated[
        Path,
        typer.Option(
            "--from",
            help="Directory that a run wrote to, its records, or one file of them (NAME.json, NAME.jsonl).",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Where the figures go; default: DIR, be it given as such or as DIR/records."),
    ] = None,
    format: Format = "png",
    as_json: Json = False,
) -> None:
    """Redraw every figure from saved records, pictures and studies, running no attack."""
    checks.choice("format", format, FORMATS)
    saved = Saved.find("--from", source)
    target = new_directory("out", saved.home if out is None else out)
    for path in saved.pictures:
        _redraw_pictures(path, target, format)
    for path in saved.studies:
        _redraw_study(path, target, format)
    for path in saved.tables:
        _redraw_table(path, target, format)
    for path in saved.utilities:
        _redraw_utility(path, target, format)
    for path in () if saved.utilities else saved.theories:
        _tell(path, "drawn with the trainings of its comparison, not alone; not redrawn")
    results: list[Result] = []
    records: list[Record] = []
    from verify.cli.report import judge_and_draw, report

    kept = _kept(saved.records)
    for together in by_figure(kept):
        records += [record for e in together for record in kept[e]]
        results += judge_and_draw({e: kept[e] for e in together}, target, format)

    report(results, records, target, format, as_json)


def _redraw_pictures(path: Path, target: Path, suffix: str) -> None:
    from verify.draw.pictures import draw_pictures

    batch, rows = load_pictures(path)
    if batch is None:
        _tell(path, "too large to be kept, not redrawn")
    else:
        draw_pictures(batch, rows, target / f"{path.stem}.{suffix}")


def _redraw_table(path: Path, target: Path, suffix: str) -> None:
    from verify.cli.images import redraw

    if why := redraw(path, target, suffix):
        _tell(path, why)


def _redraw_utility(path: Path, target: Path, suffix: str) -> None:
    from verify.cli.utility import redraw

    if why := redraw(path, target, suffix):
        _tell(path, why)


def _redraw_study(path: Path, target: Path, suffix: str) -> None:
    from verify.draw.style import save_figure

    study = {s.file: s for s in STUDIES}.get(path.name)
    if study is None:
        _tell(path, "no study of that name, not redrawn")
        return
    found = load(path)
    whole, asked = len(found.cells), len(study.conditions)
    if path.with_suffix(".jsonl").exists() and whole < asked:
        _tell(path, f"not finished ({whole} of {asked} conditions have all their trials), not redrawn")
    else:
        save_figure(study.draw(found), (target / study.figure).with_suffix(f".{suffix}"))


def _kept(paths: Sequence[Path]) -> dict[Experiment, list[Record]]:
    """The records by their experiment: of the catalogue by its name, else what they say of themselves."""
    known = {e.name: e for full in EXPERIMENTS.values() for e in full.forms}
    kept: dict[Experiment, list[Record]] = {}
    for path in paths:
        if found := read_records(path):
            kept.setdefault(known.get(found[0].experiment) or experiment_of(found), []).extend(found)
        else:
            _tell(path, "no trials yet")
    return kept


def _tell(path: Path, what: str) -> None:
    print(f"{path.name}: {what}", file=sys.stderr)
