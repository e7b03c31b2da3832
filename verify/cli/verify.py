"""``reconbound verify``: the experiments of the catalogue, or a setting of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from bounds import AttackSpec, TensorAttack, checks
from verify import EXPERIMENTS
from verify.cli.command import App
from verify.cli.finished import asked_digest, made_from, read_finished, records_digest, write_finished
from verify.cli.options import (
    FORMATS,
    NAMES,
    Device,
    Format,
    Jobs,
    Json,
    Out,
    Parameters,
    Trials,
    attacks_of,
    count,
    defense_of,
    family_of,
    new_directory,
    numbers,
    spelled,
    with_defense_options,
)
from verify.cli.report import concluded, judge_and_draw
from verify.cli.screen import Summary, show
from verify.experiments.own import own_experiment
from verify.judge.verdict import Result
from verify.measure.experiment import Experiment, by_figure
from verify.measure.features import FEATURE_KINDS, Features, read_rows
from verify.measure.point import Point
from verify.measure.progress import Progress
from verify.measure.record import Record
from verify.measure.sweep import sweep

app = App()

OWN = "A setting of your own"

#: What a quick run says of itself at its end.
SAMPLE = (
    "A quick run is a sample: a few settings of each defense, and the checks that little time decides. The verdicts of the "
    "full run, on all settings, are in the repository, figures/verdicts.md."
)

#: A search from several starts takes about as long as drawing so many entries of W, as far as one number can say it.
SEARCHED = 30_000_000


def _own(name: str, text: str, **more: Any) -> Any:
    return typer.Option(name, help=text, rich_help_panel=OWN, **more)


def _sizes(name: str, text: str) -> Any:
    return _own(name, f"{text} (may be repeated).", parser=count, metavar="INTEGER")


@app.command()
@with_defense_options
def verify(
    defense: Annotated[
        str,
        typer.Argument(
            metavar="DEFENSE|all|image|utility",
            help="all, image (attacks on pictures), utility (defenses at equal loss of accuracy), "
            f"or one of {', '.join(NAMES)}.",
        ),
    ],
    quick: Annotated[bool, typer.Option("--quick", help="Smaller widths and few trials.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this experiment and those drawn beside it, or this table of image (may be repeated)."
        ),
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            "--attack",
            metavar="NAME|all",
            help="Only this attack: tensor, likelihood, message_passing (may be repeated; default: all that the "
            "catalogue has, tensor in a setting of your own).",
        ),
    ] = None,
    trials: Trials = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", help="Seed of all trials; default: the experiment's own.", parser=count),
    ] = None,
    jobs: Jobs = 2,
    device: Device = "auto",
    out: Out = Path("results"),
    format: Format = "png",
    as_json: Json = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Also every comparison in words.")] = False,
    m: Annotated[list[int] | None, _sizes("--m", "Hidden width")] = None,
    d: Annotated[list[int] | None, _sizes("--d", "Feature dimension")] = None,
    B: Annotated[list[int] | None, _sizes("--B", "Number of features")] = None,
    activation: Annotated[str | None, _own("--activation", "Its name, or an expression in z.")] = None,
    features: Annotated[
        str | None,
        _own("--features", f"One of {', '.join(FEATURE_KINDS)}, or a file of rows (npy, npz, csv)."),
    ] = None,
    cosine: Annotated[float | None, _own("--cosine", "All pairwise cosines of the features.")] = None,
    labels: Annotated[str | None, _own("--labels", "Such as 1,-1,1; default: alternating.")] = None,
    moments: Annotated[str | None, _own("--moments", "residualized or plain.")] = None,
    tolerance: Annotated[
        float | None, _own("--tolerance", "Of the ratio to theory and of exponents; default: 0.1.")
    ] = None,
    parameters: Parameters | None = None,
) -> None:
    """Measure DEFENSE, compare it with theory, draw the figures: the experiments of the catalogue, or, as soon as an option
    says something about the setting, that one (several sizes: every combination of them). Interrupted, it resumes when
    called again with the same arguments; finished, it tells again what it found, and judges and draws anew only if records,
    figures or this program have changed. image (attacks on pictures, table by table) and utility (defenses at equal loss of
    accuracy) have settings of their own.

    Exit code: 0, or 1 if a statement fails, 2 for bad input."""
    checks.choice("format", format, FORMATS)
    own = {
        "m": m or None, "d": d or None, "B": B or None, "activation": activation, "features": features, "cosine": cosine,
        "labels": labels, "moments": moments, "tolerance": tolerance, **(parameters or {}),
    }  # fmt: skip
    given = {name: value for name, value in own.items() if value is not None}
    only = only or []
    if defense in ("image", "utility"):
        _pictures(
            defense,
            given,
            attack,
            only,
            {
                "quick": quick,
                "trials": trials,
                "seed": seed,
                "jobs": jobs,
                "device": device,
                "out": out,
                "suffix": format,
                "as_json": as_json,
            },
        )
        return
    attacks = attacks_of(attack or ())
    if given:
        chosen = [_own_experiment(defense, given, attacks, quick, only, seed)]
    else:
        chosen = [e for together in by_figure(_chosen(defense, only, attacks, quick)) for e in together]
    if trials is not None:
        checks.integer("trials", trials, 1)
    checks.integer("jobs", jobs, 1)
    new_directory("out", out)
    asked = asked_digest(chosen, {"trials": trials, "seed": seed, "format": format})
    summary = read_finished(out, made_from(asked, (records_digest(e, out / "records") for e in chosen)))
    if summary is None:
        summary, digests = _measured(
            chosen, out, format, {"trials": trials, "seed": seed, "jobs": jobs, "device": device}
        )
        written = (*(e.name for e in chosen), "summary", "side-by-side", "verdicts")
        write_finished(out, made_from(asked, digests), summary, written)
    show(summary, format, as_json, verbose=verbose, foot=SAMPLE if quick else "")
    if summary.fails:
        raise typer.Exit(1)


def _pictures(
    what: str,
    given: Mapping[str, Any],
    attack: list[str] | None,
    only: Sequence[str],
    how: Mapping[str, Any],
) -> None:
    """The tables of attacks on pictures, or defenses at equal utility. ``ValueError`` for options that these have no use
    for."""
    if given or attack or (only and what == "utility"):
        told = spelled(next(iter(given), "attack" if attack else "only"))
        raise ValueError(f"{what} is measured as its tables say: {told} must not be given with it")
    from verify.cli.images import verify_images
    from verify.cli.utility import verify_utility

    checks.integer("jobs", how["jobs"], 1)
    if how["trials"] is not None:
        checks.integer("trials", how["trials"], 1)
    new_directory("out", how["out"])
    if what == "utility":
        verify_utility(**how)
    else:
        verify_images(only=only, **how)


def _measured(
    chosen: Sequence[Experiment], out: Path, suffix: str, how: Mapping[str, Any]
) -> tuple[Summary, list[str]]:
    """Every experiment measured, judged and drawn; the digests of the records that were. ``how``: further arguments of
    ``sweep``."""
    digests: list[str] = []
    results: list[Result] = []
    records: list[Record] = []
    costs = {e.name: (how["trials"] or e.trials) * sum(map(_cost, e.points)) for e in chosen}
    with Progress(costs) as progress:
        for together in by_figure(chosen):
            measured = {}
            for experiment in together:
                measured[experiment] = sweep(experiment, out / "records", progress=progress, **how)
                digests.append(records_digest(experiment, out / "records"))
            records += [record for found in measured.values() for record in found]
            results += judge_and_draw(measured, out, suffix)
        progress.end("common figures")
        return concluded(results, records, out, suffix), digests


def _cost(point: Point) -> float:
    """Entries of W drawn, which a trial's time goes with, or as many as another attack's search takes the time of."""
    return float(point.m * point.d + (0 if isinstance(point.attack, TensorAttack) else SEARCHED))


def _chosen(
    defense: str, only: Sequence[str], attacks: Sequence[type[AttackSpec]], quick: bool
) -> list[Experiment]:
    """Experiments of the catalogue, or their quick versions; ``attacks``: only those with any of these, if any is named."""
    family = () if defense == "all" else family_of(defense, "all")
    for name in only:
        checks.choice("only", name, tuple(EXPERIMENTS))
    wanted = list(EXPERIMENTS.values())
    if defense != "all":
        wanted = [e for e in wanted if any(isinstance(p.defense, family) for p in e.points)]
    chosen = [e for e in wanted if not only or e.name in only or e.beside in only]
    if not chosen:
        raise ValueError(
            f"only must name an experiment about {defense}: {', '.join(e.name for e in wanted)}; got {only}"
        )
    if attacks:
        chosen = [e for e in chosen if not e.attacks.isdisjoint(attacks)]
    if not chosen:
        raise ValueError(
            f"attack must be one that an experiment about {defense} has; got {', '.join(a.name for a in attacks)}"
        )
    if not quick:
        return chosen
    if only:
        return [e.quick() for e in chosen if e.reduced or e.name in only]
    # That of everything is for a verdict on every defense.
    return [e.quick() for e in chosen if e.reduced and (e.reduced.in_all or defense != "all")]


def _own_experiment(
    defense: str,
    given: Mapping[str, Any],
    attacks: Sequence[type[AttackSpec]],
    quick: bool,
    only: Sequence[str],
    seed: int | None,
) -> Experiment:
    """The experiment that the options describe, with defaults for what they leave open."""
    left, told = dict(given), spelled(next(iter(given)))
    if defense == "all":
        raise ValueError(f"DEFENSE must be one defense for a setting of your own ({told}); got 'all'")
    if quick or only:
        raise ValueError(f"quick and only belong to the catalogue; got them with {told}")
    if Path(left.get("features", "")).suffix:
        if "cosine" in left:
            raise ValueError(f"cosine must not be given with a file of features; got {left['cosine']:g}")
        left["X"] = read_rows(left.pop("features"))
    elif "cosine" in left or "features" in left:
        kind = checks.choice("features", left.pop("features", "cosine"), FEATURE_KINDS)
        left["features"] = Features(kind, cosine=left.pop("cosine", None))
    if "labels" in left:
        left["labels"] = numbers("labels", left["labels"])
    if attacks and TensorAttack not in attacks and "moments" in left:
        raise ValueError(f"moments are the tensor attack's; got them with {attacks[0].name}")
    moments = left.pop("moments", "residualized")
    specs = [a(moments=moments) if a is TensorAttack else a() for a in attacks or (TensorAttack,)]
    left |= {"attack": specs[0], "also": tuple(specs[1:])}
    setting = ("m", "d", "B", "activation", "features", "X", "labels", "attack", "also", "tolerance")
    chosen = {name: left.pop(name) for name in setting if name in left}
    return own_experiment(defense_of(defense, left), seed=seed or 0, **chosen)
