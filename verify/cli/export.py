"""``reconbound export``: saved records as tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from verify.cli.options import Json, new_directory
from verify.cli.tables import print_json
from verify.measure.export import export_csv

app = typer.Typer(add_completion=False)


@app.command()
def export(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="Directory with saved records.")],
    out: Annotated[Path | None, typer.Option(help="Where the tables go; default: csv in DIR.")] = None,
    as_json: Json = False,
) -> None:
    """Write saved records as tables (CSV)."""
    if not source.is_dir():
        raise ValueError(f"DIR must be a directory with records; got {source}")
    written = export_csv(source, new_directory("out", source / "csv" if out is None else out))
    if as_json:
        print_json([str(path) for path in written])
    else:
        for path in written:
            print(path)
