"""``reconbound export``: saved records as tables, or in the compact form."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from verify import EXPERIMENTS
from verify.cli.command import App
from verify.cli.options import Json, new_directory
from verify.cli.tables import print_json
from verify.export import tables_of, write_tables
from verify.measure.files import compact_finished
from verify.measure.saved import Saved

app = App()


@app.command()
def export(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="Directory that a run wrote to, its records, or one file of them (NAME.json, NAME.jsonl).",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Where the tables go; default: csv beside the records.")
    ] = None,
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
    saved = Saved.find("DIR", source)
    if compact and out is not None:
        raise ValueError(
            f"--out must not be given with --compact, which writes where the records are; got {out}"
        )
    if compact:
        written, left = compact_finished(
            saved.records, {e.name: e for full in EXPERIMENTS.values() for e in full.forms}
        )
        for path, why in left.items():
            print(f"{path}: left as it is: {why}", file=sys.stderr)
    else:
        tables = tables_of(saved)
        written = write_tables(tables, new_directory("out", saved.directory / "csv" if out is None else out))
    if as_json:
        print_json([str(path) for path in written])
    else:
        for path in written:
            print(path)
