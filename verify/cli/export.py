"""``reconbound export``: saved records as tables, or in the compact form."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from verify import EXPERIMENTS
from verify.cli.options import Json, new_directory
from verify.cli.tables import print_json
from verify.export import export_csv
from verify.measure.files import compact_finished, records_directory

app = typer.Typer(add_completion=False)


@app.command()
def export(
    source: Annotated[
        Path, typer.Argument(metavar="DIR", help="Directory that a run wrote to, or its records.")
    ],
    out: Annotated[Path | None, typer.Option(help="Where the tables go; default: csv beside them.")] = None,
    compact: Annotated[
        bool,
        typer.Option(
            "--compact", help="No tables: bring finished runs into the compact form, where they are."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Write saved records as tables (CSV), or (--compact) the lines of every finished run as one compact file.

    The compact form takes the place of the lines. It keeps every number that figures and verdicts use, and no times or
    diagnostics."""
    if not source.is_dir():
        raise ValueError(f"DIR must be a directory with records; got {source}")
    if compact and out is not None:
        raise ValueError(f"--out must not be given with --compact, which writes where they are; got {out}")
    source = records_directory(source)
    if compact:
        written, left = compact_finished(
            source, {e.name: e for full in EXPERIMENTS.values() for e in full.forms}
        )
        for path, why in left.items():
            print(f"{path}: left as it is: {why}", file=sys.stderr)
    else:
        written = export_csv(source, new_directory("out", source / "csv" if out is None else out))
    if as_json:
        print_json([str(path) for path in written])
    else:
        for path in written:
            print(path)
