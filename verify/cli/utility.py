"""``reconbound verify utility``: defenses at equal loss of accuracy, under a weak and under the strongest attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bounds.words import how_many
from verify.cli.tables import cell, print_json, print_wide, say
from verify.images.record import ImageRecord, read_image_records
from verify.images.run import run_table, searched
from verify.measure.files import read_records, records_path
from verify.measure.progress import Progress
from verify.measure.record import Record
from verify.measure.sweep import sweep
from verify.utility.catalogue import COMPARISONS, EQUAL_UTILITY, QUICK
from verify.utility.comparison import Comparison, train_all
from verify.utility.equal import monotone
from verify.utility.record import TrainingRecord, read_training_records
from verify.utility.summary import (
    R_OF_A_GUESS,
    Curve,
    agreement,
    clean_psnr,
    guess,
    picture_curves,
    picture_rows,
    standings,
    theory_curves,
    theory_rows,
)


@dataclass(frozen=True, eq=False)
class Measured:
    """trainings; pictures: records of the attacks by their table's name; theory: of theory's network."""

    trainings: Sequence[TrainingRecord]
    pictures: Mapping[str, Sequence[ImageRecord]]
    theory: Sequence[Record]


def verify_utility(
    out: Path,
    *,
    quick: bool,
    trials: int | None,
    seed: int | None,
    jobs: int,
    device: str,
    suffix: str,
    as_json: bool,
) -> None:
    """Learn, attack, compare, draw, tell. Interrupted, it resumes when called again. trials: of trainings and attacks
    alike; None: the comparison's own numbers."""
    comparison = QUICK if quick else EQUAL_UTILITY
    if trials is not None:
        comparison = replace(
            comparison, trainings=trials, trials=trials, learned_trials=trials, theory_trials=trials
        )
    if seed is not None:
        comparison = replace(comparison, seed=seed)
    measured = _measured(comparison, out / "records", jobs=jobs, device=device)
    report = report_of(comparison, measured)
    draw(comparison, measured, out, suffix)
    if as_json:
        print_json(report)
        return
    tell(report)


def _measured(comparison: Comparison, directory: Path, *, jobs: int, device: str) -> Measured:
    theory = comparison.theory
    costs = {comparison.file: 3.0 * comparison.trainings * len(comparison.training)}
    costs |= {table.name: 1.5 * table.trials * len(table.points) for table in comparison.tables}
    costs |= {} if theory is None else {theory.name: 3.0 * theory.trials * len(theory.points)}
    with Progress(costs) as progress:
        how: dict[str, Any] = {"jobs": jobs, "device": device, "progress": progress}
        trainings = train_all(comparison, directory, **how)
        pictures = {table.name: run_table(table, directory, **how) for table in comparison.tables}
        return Measured(trainings, pictures, [] if theory is None else sweep(theory, directory, **how))


def report_of(comparison: Comparison, measured: Measured) -> dict[str, Any]:
    """What is told, as plain values."""
    theory = theory_curves(comparison, measured.trainings, measured.theory)
    pictures = {}
    for first, table in zip((True, False), comparison.tables, strict=False):
        curves = picture_curves(comparison, measured.trainings, measured.pictures[table.name], first=first)
        found = {loss: standings(comparison, curves, loss) for loss in comparison.losses}
        pictures[table.title] = {
            "trials": table.trials,
            "failed": sum(curve.failed for curve in curves),
            "PSNR without a defense": clean_psnr(comparison, measured.pictures[table.name], first=first),
            "rows": picture_rows(s for each in found.values() for s in each),
            "Kendall's tau of the ranks": {f"{loss:g}": agreement(each) for loss, each in found.items()},
        }
    told = [r.accuracy for r in measured.trainings if r.key == comparison.baseline.key]
    return {
        "name": comparison.name,
        "accuracy without a defense": float(np.mean(told)) if told else None,
        "trainings": len(measured.trainings),
        "trainings failed": sum(r.failed for r in measured.trainings),
        "PSNR of the mean picture": guess(comparison.federation.data),
        "pictures": pictures,
        "theory": {"failed": sum(curve.failed for curve in theory), "rows": theory_rows(comparison, theory)},
    }


def tell(report: Mapping[str, Any]) -> None:
    """As tables on standard output."""
    say(
        f"{report['name']}: accuracy {report['accuracy without a defense']:.3f} without a defense; "
        f"{how_many(report['trainings'], 'training')}, {report['trainings failed']} failed; a server that has seen nothing "
        f"and draws the mean picture has {report['PSNR of the mean picture']:.1f} dB. Rank 1 protects best; "
        "reached: the share of the trials drawn again in which a loss is reached at all, where that is not all of them"
    )
    for title, table in report["pictures"].items():
        clean = ", ".join(f"{name} {value:.1f}" for name, value in table["PSNR without a defense"].items())
        tried = f"{how_many(table['trials'], 'trial')}, {table['failed']} failed"
        say(f"{title}, {tried}; PSNR without a defense: {clean}")
        _tell_rows(table["rows"])
        taus = table["Kendall's tau of the ranks"].items()
        told = ", ".join(f"{loss}: {cell(tau, '.2f')}" for loss, tau in taus)
        say(f"agreement of both rankings (Kendall's tau) by points lost: {told}")
    if report["theory"]["rows"]:
        say(
            "the same strengths on theory's network of two layers; strengths of sizes are in root mean squares of entries; "
            f"{report['theory']['failed']} trials failed, each counted as a guess (R = 1)"
        )
        _tell_rows(report["theory"]["rows"])


def _tell_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """Those of defenses that cost that at a strength between those measured; of the others why not, in a line for each."""
    print_wide([{k: v for k, v in row.items() if k != "absent"} for row in rows if not row["absent"]])
    absent: dict[str, list[str]] = {}
    for row in rows:
        if row["absent"]:
            absent.setdefault(f"{row['defense']} {row['absent']}", []).append(row["points lost"])
    for words, losses in absent.items():
        say(f"{words}: not compared at {', '.join(losses)}", 2)


def draw(comparison: Comparison, measured: Measured, out: Path, suffix: str) -> list[str]:
    """A figure for each kind of weights, and one of theory's network; the names of those for which no trial is whole."""
    missing = []
    for first, table in zip((True, False), comparison.tables, strict=False):
        records = measured.pictures[table.name]
        curves = picture_curves(comparison, measured.trainings, records, first=first)
        if curves:
            clean = clean_psnr(comparison, records, first=first)
            _draw_pictures(comparison, curves, clean, out / f"{table.name}.{suffix}", first=first)
        else:
            missing.append(table.name)
    if comparison.theory is None:
        return missing
    theory = theory_curves(comparison, measured.trainings, measured.theory)
    if theory:
        _draw_theory(comparison, theory, out / f"{comparison.theory.name}.{suffix}")
    else:
        missing.append(comparison.theory.name)
    return missing


def _draw_pictures(
    comparison: Comparison, curves: Sequence[Curve], clean: Mapping[str, float], path: Path, *, first: bool
) -> None:
    from verify.draw.utility import Line, Panel, Shown, draw_utility

    weak, nothing = comparison.weak.name, guess(comparison.federation.data)
    starts = how_many(searched(comparison.weak.attack).starts, "start")
    below = any((curve.errors[weak].mean(axis=0) < 0).any() for curve in curves)
    drawn_at_zero = "; below 0 dB drawn at 0" if below else ""

    def line(curve: Curve, names: Sequence[str], least: float) -> Line:
        best = np.max([curve.errors[name].mean(axis=0) for name in names], axis=0).clip(min=least)
        return Line(curve.family.name, monotone(curve.losses.mean(axis=0)).tolist(), best.tolist())

    every = [r.name for r in comparison.contenders]
    panels = [
        Panel(
            f"weak attack: {weak}, {starts}{drawn_at_zero}", [line(c, [weak], 0.0) for c in curves], clean.get(weak)
        ),
        Panel(
            f"strongest of {len(every)} attacks and the mean picture", [line(c, every, nothing) for c in curves],
            max(clean.values(), default=None),
        ),
    ]  # fmt: skip
    B, net = comparison.federation.B, comparison.federation.network.words
    title = f"{comparison.table(first=first).title}: {comparison.federation.data}, B = {B}, {net}"
    shown = Shown(
        f"{title}\nfull line: no defense, dotted: the mean picture",
        [f.name for f in comparison.families],
        "PSNR of the reconstruction (dB), lower protects better",
        comparison.losses,
        nothing,
    )
    draw_utility(panels, shown, path)


def _draw_theory(comparison: Comparison, curves: Sequence[Curve], path: Path) -> None:
    from verify.draw.utility import Line, Panel, Shown, draw_utility

    least = 1e-4  # what is exact is drawn at the foot
    panels = [
        Panel(
            f"{name.partition('(')[0]} attack",
            [
                Line(
                    c.family.name,
                    monotone(c.losses.mean(axis=0)).tolist(),
                    np.maximum(c.errors[name].mean(axis=0), least).tolist(),
                )
                for c in curves
            ],
        )
        for name in curves[0].errors
    ]
    sizes = f"ReLU, B = {comparison.B}, d = {comparison.d}, m = {comparison.m}"
    shown = Shown(
        f"theory's network at the same strengths: {sizes}; a failed trial counts as R = 1 (dotted)",
        [f.name for f in comparison.families],
        f"R (at {least:g}: that or less), higher protects better",
        comparison.losses,
        R_OF_A_GUESS,
        log=True,
    )
    draw_utility(panels, shown, path)


def redraw(path: Path, out: Path, suffix: str) -> str:
    """The figures of saved records again, of the trainings in ``path`` and what lies beside it; why not, where not."""
    known = {comparison.file: comparison for comparison in COMPARISONS}
    comparison = known.get(path.name)
    if comparison is None:
        return "no comparison of that name, not redrawn"
    trainings = read_training_records(path)
    tried = 1 + max((r.trial for r in trainings), default=0)
    comparison = replace(comparison, trainings=max(tried, comparison.trainings))
    pictures: dict[str, Sequence[ImageRecord]] = {}
    for table in comparison.tables:
        beside = path.with_name(table.file)
        pictures[table.name] = read_image_records(beside) if beside.exists() else []
    theory: Sequence[Record] = []
    if comparison.theory is not None:
        kept = records_path(comparison.theory.name, path.parent)
        if kept.exists() or kept.with_suffix(".json").exists():
            theory = read_records(kept)
    if not trainings or not any(pictures.values()):
        return "no trainings or no attacks beside them, not redrawn"
    every: list[TrainingRecord | ImageRecord | Record] = [*trainings, *theory]
    every += [r for found in pictures.values() for r in found]
    if len(seeds := {r.seed for r in every}) > 1:
        return f"trainings and attacks of different seeds ({', '.join(map(str, sorted(seeds)))}), not redrawn"
    tried = 1 + max(r.trial for r in every)
    most = {
        name: max(tried, getattr(comparison, name)) for name in ("trials", "learned_trials", "theory_trials")
    }
    comparison = replace(comparison, seed=seeds.pop(), **most)
    measured = Measured(trainings, pictures, theory)
    why = []
    if others := _others(comparison, measured):
        why.append(f"{how_many(others, 'trial')} of other settings left out")
    if missing := draw(comparison, measured, out, suffix):
        why.append(f"no trials of every member of a family for {', '.join(missing)}, not redrawn")
    return "; ".join(why)


def _others(comparison: Comparison, measured: Measured) -> int:
    """How many records are of no point of the comparison."""
    wanted = {point.key for point in comparison.training}
    wanted |= {point.key for table in comparison.tables for point in table.points}
    wanted |= set() if comparison.theory is None else {point.key for point in comparison.theory.points}
    keys = [r.key for r in measured.trainings] + [r.point.key for r in measured.theory]
    keys += [r.key for found in measured.pictures.values() for r in found]
    return sum(key not in wanted for key in keys)
