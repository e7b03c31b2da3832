"""``reconbound bench``: speed and memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from verify import bench as measure
from verify.cli.command import App
from verify.cli.options import Json, count
from verify.cli.tables import cell, print_json, print_rows, say

app = App()


@app.command()
def bench(
    large: Annotated[
        bool, typer.Option("--large", help="Also m = 1 000 000, d = 3072, B = 4 (minutes).")
    ] = False,
    repeats: Annotated[
        int | None,
        typer.Option(help="Repetitions; the median counts; default 5.", parser=count, metavar="INTEGER"),
    ] = None,
    peer: Annotated[
        list[Path] | None,
        typer.Option(
            help="Instead, attacks on pictures against a public implementation, whose checkout (of invertinggradients or "
            "breaching) is in this folder; its code is run (may be repeated)."
        ),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(help="With --peer: of every search; default 300.", parser=count, metavar="INTEGER"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Speed and memory, as ratios against references measured in the same run. Exit code 1 if a target is missed."""
    if peer:
        if large:
            raise ValueError("large must not be given with peer, which has its own sizes")
        if repeats is not None:
            raise ValueError(f"repeats must not be given with peer, which has its own seeds; got {repeats}")
        results = measure.against_peers(peer, 300 if iterations is None else iterations)
    elif iterations is not None:
        raise ValueError(f"iterations must be given with peer only; got {iterations}")
    else:
        results = measure.bench(large=large, repeats=5 if repeats is None else repeats)
    if as_json:
        print_json([r.to_dict() for r in results])
    else:
        _print(results)
    if not all(r.met for r in results):
        raise typer.Exit(1)


def _print(results: Sequence[measure.BenchResult]) -> None:
    """A line for each result; below, what each is and the numbers behind it."""
    print_rows(
        [
            {
                "name": r.name,
                "value": r.value,
                "target": f"{'>=' if r.at_least else '<='} {r.target:g}",
                "met": "yes" if r.met else "NO",
            }
            for r in results
        ],
        narrow=4,
    )
    for r in results:
        say(f"\n{r.name}: {r.statement}; medians of {r.repeats}, threads: {r.threads}")
        for name, value in r.details.items():
            say(f"{name}: {cell(value)}", 2)
