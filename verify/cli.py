"""The command line: a thin layer over ``bounds``, ``attack`` and ``verify``. Bad input exits with code 2."""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import sympy as sp
import typer
from rich.console import Console
from rich.table import Table

from bounds import (
    DEFENSES,
    Defense,
    Kind,
    Setting,
    TensorAttack,
    UnsupportedBound,
    checks,
    evaluate,
    expression,
    serial,
)
from verify.confidence import Assessed, assess
from verify.draw.experiment import plot
from verify.draw.pictures import draw_pictures
from verify.draw.side_by_side import is_common, plot_side_by_side
from verify.draw.style import save_figure
from verify.draw.summary import plot_summary
from verify.experiments.catalogue import EXPERIMENTS
from verify.judge.compare import compare
from verify.judge.predicted import RatioResult
from verify.judge.verdict import Result
from verify.measure.experiment import Experiment
from verify.measure.pictures import PictureRow, load_pictures, reconstruct_pictures
from verify.measure.record import Record, read_records, record_files
from verify.measure.sweep import sweep
from verify.search.check_bound import check_bound
from verify.search.claim import load_bound
from verify.studies.catalogue import STUDIES
from verify.studies.study import Study, load, run

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Data-reconstruction attacks on shared gradients, and the bounds that speak about them, side by side.",
)
attack_app = typer.Typer(no_args_is_help=True, help="Run an attack and draw what it reconstructs.")
app.add_typer(attack_app, name="attack")

Json = Annotated[bool, typer.Option("--json", help="Print JSON to standard output instead of a table.")]
Out = Annotated[Path, typer.Option(help="Directory for records and figures.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Moments = Annotated[str, typer.Option(help="residualized or plain.")]
Activation = Annotated[str, typer.Option(help="Name of the activation.")]


class Interrupted(Exception):
    """The user stopped a run; carries how to go on. (An exception of its own, as typer swallows the message of Ctrl-C.)"""


#: Command-line spelling of every defense.
NAMES = {cls.name.replace("_", "-"): cls for cls in DEFENSES}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits 0, 1 (a verdict "fails"), 2 (bad input, one line on stderr) or 130 (interrupted)."""
    try:
        app(args=arguments, standalone_mode=True)
    except (ValueError, OSError, ImportError) as error:
        print(f"reconbound: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as stop:
        print(f"reconbound: {stop}", file=sys.stderr)
        sys.exit(130)


def _print_rows(rows: Sequence[dict[str, Any]], as_json: bool, number: str) -> None:
    """Rows of equal keys as JSON or as a table, its floats in the format ``number``."""
    if as_json:
        _print_json(rows)
    else:
        table = Table(*rows[0])
        for row in rows:
            table.add_row(*(_cell(v, number) for v in row.values()))
        Console().print(table)


def _cell(value: Any, number: str) -> str:
    if value is None:
        return "—"
    return format(value, number) if isinstance(value, float) else str(value)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, allow_nan=False))


def _defense(name: str, parameters: dict[str, float | bool | str | None]) -> Defense:
    cls = NAMES[checks.choice("DEFENSE", name, tuple(NAMES))]
    own = {p.name for p in cls.parameters()} | set(cls.choices())
    given = {k: v for k, v in parameters.items() if v is not None}
    foreign = sorted(set(given) - own)
    if foreign:
        allowed = ", ".join(f"--{p}" for p in sorted(own)) or "no parameter"
        raise ValueError(f"{name} takes {allowed}; got --{foreign[0].replace('_', '-')}")
    return cls(**given)


def with_defense_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option for every parameter that any defense declares, collected in its argument ``parameters``:
    a new defense brings its options along with no line here."""
    declared = {p.name: p for cls in DEFENSES for p in cls.parameters()}
    choices = {name: allowed for cls in DEFENSES for name, allowed in cls.choices().items()}

    def wrapper(**values: Any) -> None:
        parameters = {name: values.pop(name) for name in (*declared, *choices)}
        command(**values, parameters=parameters)

    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "parameters"]
    extra = [
        inspect.Parameter(
            p.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                (int if p.integer else float) | None,
                typer.Option(
                    f"--{p.name.replace('_', '-')}", help=f"In [{p.lo:g}, {p.hi:g}], off at {p.off:g}."
                ),
            ],
        )
        for p in declared.values()
    ] + [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                (bool if isinstance(allowed[0], bool) else str) | None,
                typer.Option(
                    f"--{name}".replace("_", "-")
                    + (f"/--no-{name}".replace("_", "-") if isinstance(allowed[0], bool) else ""),
                    help=f"One of {', '.join(str(a) for a in allowed)}.",
                ),
            ],
        )
        for name, allowed in choices.items()
    ]
    wrapper.__signature__ = inspect.Signature(own + extra)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in own + extra}
    wrapper.__doc__ = command.__doc__
    wrapper.__name__ = command.__name__
    return wrapper


DefenseName = Annotated[str, typer.Argument(metavar="DEFENSE", help=f"One of {', '.join(NAMES)}.")]


@app.command()
@with_defense_options
def bound(
    defense: DefenseName,
    d: Annotated[int, typer.Option("--d", help="Feature dimension.")] = 100,
    m: Annotated[int, typer.Option("--m", help="Hidden width.")] = 160_000,
    B: Annotated[int, typer.Option("--B", help="Number of features (orthonormal, labels +1, -1, ...).")] = 2,
    activation: Activation = "relu",
    moments: Moments = "residualized",
    delta: Annotated[float, typer.Option(help="Failure probability of an upper bound.")] = 0.05,
    as_json: Json = False,
    latex: Annotated[bool, typer.Option("--latex", help="Print the symbolic statements as LaTeX.")] = False,
    parameters: dict[str, float | bool | str | None] | None = None,
) -> None:
    """Every kind of statement about DEFENSE, with assumptions and sources."""
    if as_json and latex:
        raise ValueError("json and latex must not be given together; got both")
    spec = _defense(defense, parameters or {})
    evaluation = evaluate(
        spec, Setting.orthonormal(d, m, B, activation), TensorAttack(moments=moments), delta
    )
    symbolic = {kind: _symbolic(spec, kind) for kind in Kind}
    if as_json:
        _print_json(
            {
                "defense": spec.name,
                "parameters": dataclasses.asdict(spec),
                "setting": {"d": d, "m": m, "B": B, "activation": activation, "moments": moments},
                "bounds": {
                    str(kind): dataclasses.asdict(value)
                    | {"expression": None if symbolic[kind] is None else str(symbolic[kind])}
                    for kind, value in evaluation.items()
                },
            }
        )
        return
    if latex:
        for kind, formula in symbolic.items():
            if formula is not None:
                print(f"% {kind}\n{sp.latex(formula)}")
        return
    table = Table(
        "kind",
        "value",
        "what it is",
        "expression",
        "source",
        title=f"{spec!r}, d = {d}, m = {m}, B = {B}, {activation}",
    )
    for kind, value in evaluation.items():
        number = "—" if value.value is None else f"{value.value:.5g}"
        table.add_row(str(kind), number, value.why, str(symbolic[kind] or "—"), value.source)
    console = Console()
    console.print(table)
    for kind, value in evaluation.items():
        if value.value is not None:
            console.print(f"{kind} assumes: {'; '.join(value.assumptions)}")


def _symbolic(defense: Defense, kind: Kind) -> sp.Expr | None:
    try:
        return expression(defense, kind)
    except UnsupportedBound:
        return None


@app.command()
def verify(
    defense: Annotated[
        str, typer.Argument(metavar="DEFENSE|all", help=f"all, or one of {', '.join(NAMES)}.")
    ],
    quick: Annotated[bool, typer.Option("--quick", help="Smaller widths and few trials.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="Only this experiment (may be repeated).")] = None,
    trials: Annotated[
        int | None, typer.Option(help="Trials at each point; default: the experiment's own.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of all trials; default: the experiment's own.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Processes, each with one thread.")] = 2,
    device: Device = "auto",
    out: Out = Path("results"),
    as_json: Json = False,
) -> None:
    """Run the experiments on DEFENSE, compare them with theory, draw the figures. Interrupted, it resumes when called
    again with the same arguments."""
    chosen = _experiments(defense, only or [])
    if quick and not only:
        chosen = [e for e in chosen if e.rules]  # a quick run is for verdicts
    if trials is not None:
        checks.integer("trials", trials, 1)
    out.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    records: list[Record] = []
    for experiment in chosen:
        experiment = experiment.quick() if quick else experiment
        try:
            found = sweep(experiment, out / "records", trials=trials, seed=seed, jobs=jobs, device=device)
        except KeyboardInterrupt as stop:
            raise Interrupted(str(stop) or "interrupted") from None
        records += found
        results += compare(found, experiment)
        plot(found, out / f"{experiment.name}.png", experiment)
    _draw_all(results, records, out)
    _report(results, records, out, as_json)


def _draw_all(results: Sequence[Result], records: Sequence[Record], out: Path) -> None:
    """The figures that all experiments share, where there is something for them."""
    if any(isinstance(r, RatioResult) for r in results):
        plot_summary(results, out / "summary.png")
    if any(is_common(r.point) for r in records):
        plot_side_by_side(records, out / "side-by-side.png")


def _experiments(defense: str, only: Sequence[str]) -> list[Experiment]:
    checks.choice("DEFENSE", defense, ("all", *NAMES))
    for name in only:
        checks.choice("only", name, tuple(EXPERIMENTS))
    wanted = list(EXPERIMENTS.values())
    if defense != "all":
        wanted = [e for e in wanted if any(isinstance(p.defense, NAMES[defense]) for p in e.points)]
    chosen = [e for e in wanted if not only or e.name in only]
    if not chosen:
        raise ValueError(
            f"only must name an experiment about {defense}: {', '.join(e.name for e in wanted)}; got {only}"
        )
    return chosen


def _report(results: Sequence[Result], records: Sequence[Record], out: Path, as_json: bool) -> None:
    """Print verdicts and where the figures are, keep the verdicts as a table; exit 1 if any statement fails."""
    failed = sum(r.failed for r in records)
    if results:
        out.mkdir(parents=True, exist_ok=True)
        (out / "verdicts.md").write_text(_verdict_table(results))
    if as_json:
        summary = {"trials": len(records), "failed_trials": failed, "figures": str(out)}
        _print_json(summary | {"results": [r.to_dict() for r in results]})
    else:
        table = Table("kind", "verdict", "what was compared")
        for result in results:
            table.add_row(str(result.kind), result.verdict, result.text)
        console = Console()
        console.print(table)
        counts = {
            v: sum(r.verdict == v for r in results)
            for v in ("holds", "fails", "inconclusive", "uninformative")
        }
        console.print(
            ", ".join(f"{n} {v}" for v, n in counts.items())
            + f"; {len(records)} trials, {failed} failed; figures in {out}"
        )
    if any(r.verdict == "fails" for r in results):
        raise typer.Exit(1)


def _verdict_table(results: Sequence[Result]) -> str:
    """Every verdict as a row of a Markdown table."""
    rows = [("experiment", "series", "kind", "verdict", "what was compared"), ("---",) * 5]
    rows += [(r.experiment, r.series, str(r.kind), r.verdict, r.text) for r in results]
    return "".join(f"| {' | '.join(cell.replace('|', '∣') for cell in row)} |\n" for row in rows)


@app.command()
def figures(
    source: Annotated[Path, typer.Option("--from", help="Directory with saved records.")],
    out: Annotated[
        Path | None, typer.Option(help="Where the figures go; default: the directory above the records.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Redraw every figure from saved records, pictures and studies, running no attack."""
    if not source.is_dir():
        raise ValueError(f"--from must be a directory with records; got {source}")
    paths, pictures = record_files(source), sorted(source.glob("pictures-*.json"))
    studies = [(study, source / study.file) for study in STUDIES if (source / study.file).exists()]
    if not (paths or pictures or studies):
        raise ValueError(
            "--from must hold records (NAME.json, NAME.jsonl), pictures (pictures-*.json) or studies (study-*.json); "
            f"got none in {source}"
        )
    target = source.parent if out is None else out
    for path in pictures:
        batch, rows = load_pictures(path)
        if batch is None:
            print(f"{path.name}: too large to be kept, not redrawn", file=sys.stderr)
        else:
            draw_pictures(batch, rows, target / f"{path.stem}.png")
    for study, path in studies:
        save_figure(study.draw(load(path)), target / study.figure)
    for path in sorted(set(source.glob("study-*.json")) - {path for _, path in studies}):
        print(f"{path.name}: no study of that name, not redrawn", file=sys.stderr)
    known = {e.name: e for full in EXPERIMENTS.values() for e in (full, full.quick())}
    results: list[Result] = []
    records: list[Record] = []
    for path in paths:
        found = read_records(path)
        if not found:
            print(f"{path.name}: no trials yet", file=sys.stderr)
            continue
        experiment = known.get(path.stem)
        plot(found, target / f"{path.stem}.png", experiment)
        results += compare(found, experiment) if experiment else compare(found, kind=Kind.PREDICTED)
        records += found
    _draw_all(results, records, target)
    _report(results, records, target, as_json)


@attack_app.command("tensor")
@with_defense_options
def attack_tensor(
    images: Annotated[str, typer.Option(help="digits, patches, mnist or cifar10.")] = "digits",
    path: Annotated[
        Path | None, typer.Option(help="File with the images (mnist: idx images; cifar10: binary batch).")
    ] = None,
    labels_path: Annotated[Path | None, typer.Option(help="MNIST: the idx labels.")] = None,
    B: Annotated[int, typer.Option("--B", help="Pictures in the batch.")] = 4,
    m: Annotated[list[int] | None, typer.Option("--m", help="Hidden width (may be repeated).")] = None,
    defense: Annotated[str, typer.Option(help=f"One of {', '.join(NAMES)}.")] = "none",
    activation: Activation = "relu",
    moments: Moments = "residualized",
    raw: Annotated[
        bool, typer.Option("--raw", help="Keep the mean of the pictures (nearly parallel features).")
    ] = False,
    max_cosine: Annotated[float, typer.Option(help="Skip a picture closer than this to a chosen one.")] = 1.0,
    seed: Annotated[
        int, typer.Option(help="Seed of the choice of pictures, the network and the attack.")
    ] = 0,
    device: Device = "auto",
    out: Out = Path("results"),
    as_json: Json = False,
    parameters: dict[str, float | bool | str | None] | None = None,
) -> None:
    """Reconstruct real pictures from a gradient at growing widths; writes the originals over the reconstructions."""
    from attack.image.datasets import load_cifar10_binary, load_images, load_mnist_idx

    if images in ("digits", "patches") and (path is not None or labels_path is not None):
        raise ValueError(f"path and labels-path belong to mnist and cifar10; got them with images = {images}")
    spec = _defense(defense, parameters or {})
    checks.choice("images", images, ("digits", "patches", "mnist", "cifar10"))
    estimator = TensorAttack(moments=moments)
    widths = tuple(m or (10_000, 100_000))
    if images in ("digits", "patches"):
        batch = load_images(images, B, seed, not raw, max_cosine)
    elif path is None or (images == "mnist" and labels_path is None):
        raise ValueError(
            f"path{' and labels-path' if images == 'mnist' else ''} must be given for images = {images}"
        )
    elif images == "mnist":
        assert labels_path is not None
        batch = load_mnist_idx(path, labels_path, B, seed, not raw, max_cosine)
    else:
        batch = load_cifar10_binary(path, B, seed, not raw, max_cosine)
    stem = f"pictures-{images}-B{B}" + ("-raw" if raw else "")
    out.mkdir(parents=True, exist_ok=True)
    numbers = out / "records" / f"{stem}.json"
    rows = reconstruct_pictures(batch, widths, seed, activation, spec, estimator, device, path=numbers)
    draw_pictures(batch, rows, out / f"{stem}.png")
    if as_json:
        _print_json({"picture": str(out / f"{stem}.png"), "rows": [_without_pixels(row) for row in rows]})
        return
    for row in rows:
        print(row.label)
    print(f"picture: {out / stem}.png")


def _without_pixels(row: PictureRow) -> dict[str, Any]:
    return {k: getattr(row, k) for k in ("m", "rmse", "predicted", "reason", "warnings", "seed")}


@attack_app.command("gradient")
def attack_gradient(
    file: Annotated[
        Path,
        typer.Option(
            help=".npz or .safetensors: weight, gradient (dL/da or dL/dW); optional bias, output_weight, bias_gradient."
        ),
    ],
    B: Annotated[int, typer.Option("--B", help="Features in the gradient.")],
    activation: Activation = "relu",
    norms: Annotated[str | None, typer.Option(help="Public norms, such as 1,1; default: all 1.")] = None,
    scale: Annotated[str, typer.Option(help="Standard deviation of the weights' entries, or auto.")] = "auto",
    loss: Annotated[str, typer.Option(help="sum or mean over the batch.")] = "sum",
    moments: Moments = "residualized",
    seed: Annotated[int, typer.Option(help="Seed of the attack.")] = 2,
    out: Annotated[Path | None, typer.Option(help="Directory for the reconstruction.")] = None,
    as_json: Json = False,
) -> None:
    """Check a gradient of your own, reconstruct the features in it, and say how far the result can be trusted.

    Exits with 1 when the status is failed."""
    from attack.own.files import read_gradient

    found = assess(
        read_gradient(file),
        B,
        activation,
        None if norms is None else tuple(_number("norms", part) for part in norms.split(",")),
        None if scale == "auto" else _number("scale", scale),
        TensorAttack(moments=moments),
        loss,
        seed,
    )
    target = None
    if out is not None and found.attacked is not None:
        out.mkdir(parents=True, exist_ok=True)
        target = out / "reconstruction.npz"
        arrays = {k: getattr(found.attacked, k).numpy() for k in ("features", "residuals", "labels")}
        np.savez(target, **arrays)
    _print_assessed(found, target, as_json)
    if found.confidence.status == "failed":
        raise typer.Exit(1)


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name} must be a number; got {text!r}") from None


def _print_assessed(found: Assessed, target: Path | None, as_json: bool) -> None:
    sure, attacked = found.confidence, found.attacked
    if as_json:
        result = {
            "findings": [dataclasses.asdict(f) for f in found.findings],
            "confidence": sure.to_dict(),
            "labels": None if attacked is None or sure.sign_free else attacked.labels.tolist(),
            "residuals": None if attacked is None else attacked.residuals.tolist(),
            "coordinates": None if attacked is None else dataclasses.asdict(attacked.coordinates),
            "file": None if target is None else str(target),
        }
        _print_json(result)
        return
    table = Table("check", "level", "what was found")
    for finding in found.findings:
        table.add_row(finding.name, finding.level, finding.text)
    console = Console()
    console.print(table)
    print(f"status: {sure.status}")
    for reason in sure.reasons:
        print(f"  {reason}")
    if attacked is not None:
        print(f"method: {sure.method}")
        if sure.predicted is not None and sure.relative is not None:
            print(f"predicted error: {sure.predicted:.4g} ({sure.relative:.2%} of the features' norm)")
        print(f"unexplained share of the gradient: {sure.unexplained:.3%}, predicted {sure.expected:.3%}")
        if sure.method == "sparse_recovery":
            print(f"gap: {sure.gap:.3g}; every row is explained: the features are exact but for rounding")
        else:
            misfit = "none" if sure.misfit is None else f"{sure.misfit:.2g}"
            print(f"gap: {sure.gap:.3g}, misfit: {misfit}, {sure.agreeing} of {sure.starts} starts agree")
        if sure.sign_free:
            print("signs: each feature is known up to its sign only, its label not at all")
        else:
            print("labels: " + ", ".join(f"{v:.4g}" for v in attacked.labels.tolist()))
    if target is not None:
        print(f"reconstruction: {target}")


@app.command("study")
def study_command(
    name: Annotated[
        str, typer.Argument(metavar="NAME|all", help=f"all, or one of {', '.join(s.name for s in STUDIES)}.")
    ],
    trials: Annotated[
        int | None, typer.Option(help="Trials of each condition; default: the study's own.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory for the numbers and the figure.")] = Path("results"),
    as_json: Json = False,
) -> None:
    """Measure what the experiments do not: parts of the attack, other networks, broken assumptions (minutes each).

    Interrupted, it resumes when called again with the same arguments. The exit code does not depend on verdicts: a study
    may break an assumption on purpose."""
    checks.choice("NAME", name, ("all", *(s.name for s in STUDIES)))
    reports = [_study(s, out, trials) for s in STUDIES if name in ("all", s.name)]
    if as_json:
        _print_json(reports)
        return
    for report in reports:
        print(
            f"{report['study']}: {report['title']}; {report['trials']} trials each, {report['failed']} failed"
        )
        _print_rows(report["rows"], False, ".4g")


def _study(study: Study, out: Path, trials: int | None) -> dict[str, Any]:
    """Measure what is missing, draw, and tell."""
    path = out / "records" / study.file
    try:
        found = run(study, path, trials)
    except KeyboardInterrupt as stop:
        raise Interrupted(str(stop) or "interrupted") from None
    save_figure(study.draw(found), out / study.figure)
    return {
        "study": study.name,
        "title": study.title,
        "claims": list(study.claims),
        "trials": found.trials,
        "failed": found.failed,
        "rows": serial.plain(study.summary(found)),
    }


@app.command("check")
def check_command(
    my_bound: Annotated[
        str, typer.Argument(metavar="MODULE:FUNCTION", help="The bound: a callable or a Bound.")
    ],
    kind: Annotated[str, typer.Option(help=f"One of {', '.join(Kind)}.")],
    max_examples: Annotated[int, typer.Option(help="Settings that are tried, at most.")] = 30,
    trials: Annotated[int, typer.Option(help="Attacks in each.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the search and of all trials.")] = 0,
    as_json: Json = False,
) -> None:
    """Search for a small setting in which the attack refutes a bound of yours. Exit code 1 if there is one."""
    result = check_bound(load_bound(my_bound), kind, max_examples=max_examples, trials=trials, seed=seed)
    if as_json:
        _print_json(result.to_dict())
    else:
        print(result)
    if result.status == "interrupted":
        raise Interrupted("stopped before anything was found")
    if result.refuted:
        raise typer.Exit(1)


@app.command()
def bench(
    large: Annotated[
        bool, typer.Option("--large", help="Also m = 1 000 000, d = 3072, B = 4 (minutes).")
    ] = False,
    repeats: Annotated[int, typer.Option(help="Repetitions; the median counts.")] = 5,
    as_json: Json = False,
) -> None:
    """Speed and memory, as ratios against references measured in the same run."""
    from verify.bench import bench as run

    _print_bench(run(large=large, repeats=repeats), as_json)


def _print_bench(results: Iterable[Any], as_json: bool) -> None:
    rows = [r.to_dict() for r in results]
    _print_rows(rows, as_json, ".4g")
    if not all(row["met"] for row in rows):
        raise typer.Exit(1)
