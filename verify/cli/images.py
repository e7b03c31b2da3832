"""``reconbound verify image``: attacks on pictures against each other, under every defense."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bounds import checks
from bounds.words import how_many
from verify.cli.tables import print_json, print_wide, say
from verify.images.catalogue import TABLES
from verify.images.point import ImagePoint
from verify.images.record import ImageRecord, read_image_records
from verify.images.run import ImageTable, by_point, run_table
from verify.images.summary import correlation, described, differences, heading, rows, scope_words
from verify.measure.progress import Progress
from verify.utility.catalogue import COMPARISONS


def verify_images(
    out: Path,
    *,
    quick: bool,
    only: Sequence[str],
    trials: int | None,
    seed: int | None,
    jobs: int,
    device: str,
    suffix: str,
    as_json: bool,
) -> None:
    """Measure the tables that are asked for (their quick forms), draw a grid for each defense, and tell. Interrupted, it
    resumes when called again. ``ValueError`` for a table that there is none of."""
    for name in only:
        checks.choice("only", name, tuple(TABLES))
    chosen = [table for name, table in TABLES.items() if not only or name in only]
    if quick:
        short = [table for table in chosen if table.sample]
        if not short:
            known = ", ".join(name for name, table in TABLES.items() if table.sample)
            raise ValueError(f"only must name a table that has a quick form ({known}); got {', '.join(only)}")
        chosen = [table.quick() for table in short]
    reports = []
    before = {t.name: t.candidates for t in chosen}
    costs = {t.name: float((trials or t.trials) * len(t.points)) for t in chosen}
    costs |= {c.name: float(c.trials * len(c.points)) for c in before.values() if c is not None}
    how: Mapping[str, Any] = {"seed": seed, "jobs": jobs, "device": device}
    with Progress(costs) as progress:
        for table in chosen:
            candidates = before[table.name]
            if candidates is not None:
                table = table.tuned(run_table(candidates, out / "records", progress=progress, **how))
            records = run_table(table, out / "records", trials=trials, progress=progress, **how)
            reports.append(report_of(table, records))
            draw(table, records, out, suffix)
    if as_json:
        print_json(reports)
        return
    for report in reports:
        say(
            f"{report['name']}: {report['title']}; {how_many(report['trials'], 'trial')}, {report['failed']} failed"
        )
        for note in report["notes"]:
            say(note, 2)
        print_wide(report["rows"])
        if report["differences"]:
            say("PSNR of one rival less that of another, on the same pictures, in dB:")
            print_wide(report["differences"])
        rank = report["rank correlation of feature error and squared error"]
        if rank is not None:
            say(f"feature error and squared error, all attacks and defenses: rank correlation {rank:.2f}")
            for name, each in report["the same by defense"].items():
                say(f"{name}: {each:.2f}", 2)


def correlations(found: Mapping[ImagePoint, Sequence[ImageRecord]]) -> dict[str, float]:
    """Rank correlation of the errors of features and of pixels over all rivals under each defense that has three results."""
    parts: dict[str, list[ImageRecord]] = {}
    for point, records in found.items():
        parts.setdefault(heading(point), []).extend(records)
    ranks = {name: correlation(records, "feature_error", "mse")[0] for name, records in parts.items()}
    return {name: rank for name, rank in ranks.items() if math.isfinite(rank)}


def report_of(table: ImageTable, records: Sequence[ImageRecord]) -> dict[str, Any]:
    """What a table says, as plain values."""
    rank, _ = correlation(records, "feature_error", "mse")
    found = by_point(table, records)
    return {
        "name": table.name,
        "title": table.title,
        "claims": list(table.claims),
        "notes": list(table.notes),
        "trials": len(records),
        "failed": sum(r.failed for r in records),
        "rank correlation of feature error and squared error": rank if math.isfinite(rank) else None,
        "the same by defense": correlations(found),
        "rows": rows(found),
        "differences": differences(found, table.pairs),
    }


def draw(table: ImageTable, records: Sequence[ImageRecord], out: Path, suffix: str) -> None:
    """All rivals under all defenses, features against pictures, and a grid for each defense (with scope and unit), data set
    and batch size whose pictures are kept."""
    from verify.draw.inversions import draw_grid
    from verify.draw.rivals import draw_feature_errors, draw_rivals

    found = by_point(table, records)
    title = textwrap.fill(table.title, 90)
    draw_rivals(found, title, out / f"images-{table.name}.{suffix}")
    draw_feature_errors(found, title, out / f"images-{table.name}-features.{suffix}")
    for stem, part in grids(found).items():
        if any(r.pictures is not None for found in part.values() for r in found):
            draw_grid(part, out / f"images-{table.name}-{stem}.{suffix}")


def grids(
    found: Mapping[ImagePoint, Sequence[ImageRecord]],
) -> dict[str, dict[ImagePoint, Sequence[ImageRecord]]]:
    """The points of each grid, by its name."""
    parts: dict[str, dict[ImagePoint, Sequence[ImageRecord]]] = {}
    for point, records in found.items():
        words = f"{described(point.defense)} {scope_words(point)}{' relative' if point.relative else ''}"
        plain = "".join(c if c.isalnum() or c == "." else "-" for c in f"{point.data} B{point.B} {words}")
        stem = "-".join(filter(None, plain.split("-")))
        parts.setdefault(stem, {})[point] = records
    return parts


def redraw(path: Path, out: Path, suffix: str) -> str:
    """The grids of saved records again, with the choices of the tuning that lies beside them; why not, where not."""
    known = {form.file: form for table in TABLES.values() for form in table.forms}
    candidates = [form.candidates for form in known.values()]
    compared = {one.file for each in COMPARISONS for one in each.tables}
    if path.name in compared or path.name in {c.file for c in candidates if c is not None}:
        return ""  # of tuning nothing is drawn, and what belongs to a comparison is drawn with it
    table = known.get(path.name)
    if table is None:
        return "no table of that name, not redrawn"
    if table.candidates is not None:
        beside = path.with_name(table.candidates.file)
        if not beside.exists():
            return f"{beside.name}, its tuning, is not there: not redrawn"
        tried = read_image_records(beside)
        try:
            table = table.tuned(tried)
        except ValueError as error:
            return f"{beside.name}: {error}; not redrawn"
    records = read_image_records(path)
    if not by_point(table, records):
        return "no trials of its points, not redrawn"
    draw(table, records, out, suffix)
    return ""
