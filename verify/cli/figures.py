"""``reconbound figures``: every figure again, from what was saved.

What draws is imported where something is drawn: matplotlib takes longer than everything else here."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from bounds import checks
from verify import EXPERIMENTS
from verify.cli.options import FORMATS, Format, Json, new_directory
from verify.experiments.own import experiment_of
from verify.judge.verdict import Result
from verify.measure.files import read_records, record_files, records_directory
from verify.measure.pictures import load_pictures
from verify.measure.record import Record
from verify.studies.catalogue import STUDIES
from verify.studies.study import load

app = typer.Typer(add_completion=False)


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
        Path | None, typer.Option(help="Where the figures go; default: the directory above the records.")
    ] = None,
    format: Format = "png",
    as_json: Json = False,
) -> None:
    """Redraw every figure from saved records, pictures and studies, running no attack."""
    checks.choice("format", format, FORMATS)
    saved = _saved(source)
    target = new_directory("out", saved.directory.parent if out is None else out)
    for path in saved.pictures:
        _redraw_pictures(path, target, format)
    for path in saved.studies:
        _redraw_study(path, target, format)
    results: list[Result] = []
    records: list[Record] = []
    for path in saved.records:
        found = read_records(path)
        records += found
        results += _redraw_records(path, found, target, format)
    from verify.cli.report import report

    report(results, records, target, format, as_json)


@dataclass(frozen=True)
class _Saved:
    """What can be redrawn, one path for each, all in ``directory``."""

    directory: Path
    records: Sequence[Path]
    pictures: Sequence[Path]
    studies: Sequence[Path]

    @staticmethod
    def of(directory: Path) -> _Saved:
        studies = {p.with_suffix(".json") for p in directory.glob("study-*.json*")}
        return _Saved(
            directory, record_files(directory), sorted(directory.glob("pictures-*.json")), sorted(studies)
        )

    def only(self, path: Path) -> _Saved:
        """Of all this the one that ``path`` is a file of."""
        kept = (
            [p for p in found if p.stem == path.stem] for found in (self.records, self.pictures, self.studies)
        )
        return _Saved(self.directory, *kept)

    def __bool__(self) -> bool:
        return bool(self.records or self.pictures or self.studies)


def _saved(source: Path) -> _Saved:
    """What is in a directory, or in the ``records`` that a run made in it, or the one that a file belongs to."""
    if source.is_file():
        saved = _Saved.of(source.parent).only(source)
    elif source.is_dir():
        saved = _Saved.of(records_directory(source))
    else:
        raise ValueError(f"--from must be a directory or a file with records; got {source}")
    if not saved:
        raise ValueError(
            "--from must hold records (NAME.json, NAME.jsonl), pictures (pictures-*.json) or studies (study-*.json); "
            f"got none in {source}"
        )
    return saved


def _redraw_pictures(path: Path, target: Path, suffix: str) -> None:
    from verify.draw.pictures import draw_pictures

    batch, rows = load_pictures(path)
    if batch is None:
        _tell(path, "too large to be kept, not redrawn")
    else:
        draw_pictures(batch, rows, target / f"{path.stem}.{suffix}")


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


def _redraw_records(path: Path, found: list[Record], target: Path, suffix: str) -> list[Result]:
    """One experiment: of the catalogue by its name, else what its records say of themselves."""
    from verify.cli.report import judge_and_draw

    if not found:
        _tell(path, "no trials yet")
        return []
    known = {e.name: e for full in EXPERIMENTS.values() for e in full.forms}
    experiment = known.get(found[0].experiment) or experiment_of(found)
    return judge_and_draw(found, experiment, target, suffix)


def _tell(path: Path, what: str) -> None:
    print(f"{path.name}: {what}", file=sys.stderr)
