"""``reconbound attack``: what a server reads off a gradient, of pictures or one that the user brings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from bounds import AttackSpec, Defense, LikelihoodAttack, TensorAttack, checks
from bounds.losses import explained
from bounds.words import how_many
from verify.assessed import Assessed, Confidence
from verify.certified import certified
from verify.cli.attack_image import image
from verify.cli.command import App
from verify.cli.options import (
    NAMES,
    Activation,
    AnyBatch,
    Batch,
    Device,
    ImagesFile,
    Json,
    LabelsFile,
    Moments,
    Out,
    Parameters,
    Seed,
    Widths,
    defense_of,
    new_directory,
    number,
    numbers,
    with_defense_options,
)
from verify.cli.tables import console, print_findings, print_json, say, table
from verify.confidence import assess
from verify.measure.pictures import PictureRow, reconstruct_pictures, row_labels
from verify.measure.point import attack_name

if TYPE_CHECKING:
    from attack import GradientAttack, OutputsAttack
    from attack.image.datasets import ImageBatch

#: Why nothing but rounding left means that the features are those of the gradient.
EXACT = (
    "exact: nothing but rounding is left, also at neurons that were not fitted. Other features than the true ones would "
    "have to meet more equations than they have unknowns, which for weights in general position none do"
)

app = App(help="Run an attack and draw what it reconstructs.")

app.command("image")(with_defense_options(image))

#: Pictures that come with scikit-learn, and those that the user has as files.
BUILT_IN, FROM_FILES = ("digits", "patches"), ("mnist", "cifar10")


Images = Annotated[str, typer.Option(help=f"One of {', '.join((*BUILT_IN, *FROM_FILES))}.")]
DefenseOption = Annotated[str, typer.Option(help=f"One of {', '.join(NAMES)}.")]
Raw = Annotated[bool, typer.Option("--raw", help="Keep the mean of the pictures (nearly parallel features).")]
MaxCosine = Annotated[float, typer.Option(help="Skip a picture closer than this to a chosen one.")]


@app.command("tensor")
@with_defense_options
def tensor(
    images: Images = "digits",
    path: ImagesFile = None,
    labels_path: LabelsFile = None,
    B: Batch = 4,
    m: Widths = None,
    defense: DefenseOption = "none",
    activation: Activation = "relu",
    moments: Moments = "residualized",
    raw: Raw = False,
    max_cosine: MaxCosine = 1.0,
    seed: Seed = 0,
    device: Device = "auto",
    out: Out = Path("results"),
    as_json: Json = False,
    parameters: Parameters | None = None,
) -> None:
    """Reconstruct real pictures from a gradient at growing widths; writes the originals over the reconstructions."""
    spec = defense_of(defense, parameters or {})
    attacks = (TensorAttack(moments=moments),)
    batch = _batch(images, path, labels_path, size=B, seed=seed, center=not raw, max_cosine=max_cosine)
    run = _Run(_stem(images, B, raw), m or (10_000, 100_000), spec, activation, attacks, seed, device)
    _carried_out(run, batch, out, as_json)


@app.command("likelihood")
@with_defense_options
def likelihood(
    images: Images = "digits",
    path: ImagesFile = None,
    labels_path: LabelsFile = None,
    B: Batch = 2,
    m: Widths = None,
    defense: DefenseOption = "none",
    activation: Activation = "relu",
    moments: Moments = "residualized",
    raw: Raw = False,
    max_cosine: MaxCosine = 1.0,
    seed: Seed = 0,
    device: Device = "auto",
    out: Out = Path("results"),
    as_json: Json = False,
    parameters: Parameters | None = None,
) -> None:
    """Reconstruct real pictures by maximum likelihood, and by the tensor attack from the same gradients beside it."""
    spec = defense_of(defense, parameters or {})
    attacks = (TensorAttack(moments=moments), LikelihoodAttack())
    batch = _batch(images, path, labels_path, size=B, seed=seed, center=not raw, max_cosine=max_cosine)
    stem = f"{_stem(images, B, raw)}-likelihood"
    run = _Run(stem, m or (10_000,), spec, activation, attacks, seed, device)
    _carried_out(run, batch, out, as_json)


def _stem(images: str, B: int, raw: bool) -> str:
    return f"pictures-{images}-B{B}" + ("-raw" if raw else "")


@dataclass(frozen=True)
class _Run:
    """Attacks on a batch of pictures; stem: of the files that are written."""

    stem: str
    widths: Sequence[int]
    defense: Defense
    activation: str
    attacks: tuple[AttackSpec, ...]
    seed: int
    device: str


def _carried_out(run: _Run, batch: ImageBatch, out: Path, as_json: bool) -> None:
    from verify.draw.pictures import (
        draw_pictures,  # brings matplotlib, which a user's own gradient has no use for
    )

    new_directory("out", out)
    rows = reconstruct_pictures(
        batch,
        run.widths,
        run.seed,
        run.activation,
        run.defense,
        run.attacks,
        run.device,
        path=out / "records" / f"{run.stem}.json",
    )
    picture = out / f"{run.stem}.png"
    draw_pictures(batch, rows, picture)
    if as_json:
        print_json({"picture": str(picture), "rows": [_without_pixels(row) for row in rows]})
        return
    for label, row in zip(row_labels(rows), rows, strict=True):
        say(f"{label}: {row.reason}" if row.failed else label)
    print(f"picture: {picture}")


def _batch(
    images: str,
    path: Path | None,
    labels_path: Path | None,
    *,
    size: int,
    seed: int,
    center: bool,
    max_cosine: float,
) -> ImageBatch:
    """The private pictures. ``ValueError`` for files too many or too few."""
    from attack.image.datasets import load_cifar10_binary, load_images, load_mnist_idx

    checks.choice("images", images, (*BUILT_IN, *FROM_FILES))
    if images in BUILT_IN:
        if path is not None or labels_path is not None:
            raise ValueError(
                f"path and labels-path belong to mnist and cifar10; got them with images = {images}"
            )
        return load_images(images, size, seed, center, max_cosine)
    if images == "cifar10" and path is not None:
        return load_cifar10_binary(path, size, seed, center, max_cosine)
    if images == "mnist" and path is not None and labels_path is not None:
        return load_mnist_idx(path, labels_path, size, seed, center, max_cosine)
    needed = "path and labels-path" if images == "mnist" else "path"
    raise ValueError(f"{needed} must be given for images = {images}")


def _without_pixels(row: PictureRow) -> dict[str, Any]:
    kept = {k: getattr(row, k) for k in ("m", "rmse", "predicted", "reason", "warnings", "seed")}
    return kept | {"attack": attack_name(row.attack)}


@app.command("gradient")
def gradient(
    file: Annotated[
        Path,
        typer.Option(
            help=".npz or .safetensors: weight, gradient (dL/da or dL/dW); optional bias, output_weight, bias_gradient, "
            "output_bias, and of several outputs output_gradient, output_bias_gradient; or a PyTorch state dict, with the "
            "gradient of NAME as grad.NAME."
        ),
    ],
    B: AnyBatch = None,
    activation: Activation = "relu",
    norms: Annotated[
        str | None,
        typer.Option(help="Public norms, such as 1,1; default: not known, and read off the gradient."),
    ] = None,
    scale: Annotated[str, typer.Option(help="Standard deviation of the weights' entries, or auto.")] = "auto",
    loss: Annotated[
        str | None, typer.Option(help=f"{explained()}. Default: not known, and no labels.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="auto: maximum likelihood of dL/da, exact recovery from dL/dW where it applies; tensor (or "
            "--moments plain): the tensor attack."
        ),
    ] = "auto",
    moments: Moments = "residualized",
    certificate: Annotated[
        float | None,
        typer.Option(
            help="Bound R, too, with probability .95 (seconds to minutes): for weights that were drawn from N(0, 1), equal "
            "public norms, labels of at most 1, Gaussian noise of this standard deviation on the entries, 0 for none."
        ),
    ] = None,
    seed: Seed = 2,
    out: Annotated[Path | None, typer.Option(help="Directory for the reconstruction.")] = None,
    as_json: Json = False,
) -> None:
    """Check a gradient of your own, reconstruct the features in it, and say how far the result can be trusted.

    Exit code: 0 if the status is ok or suspect, 1 if it is failed, 2 for bad input."""
    from attack.own.files import read_gradient
    from attack.own.known import Known

    known_norms = None if norms is None else numbers("norms", norms)
    known_scale = None if scale == "auto" else number("scale", scale)
    checks.choice("method", method, ("auto", "tensor"))
    chosen = TensorAttack(moments=moments) if method == "tensor" or moments != "residualized" else None
    if certificate is not None:
        checks.real("certificate", certificate, 0.0)
    if out is not None:
        new_directory("out", out)
    known = Known.of(B, activation, known_norms, scale=known_scale, loss=loss)
    shared = read_gradient(file)
    found = assess(shared, known, chosen, seed)
    told = None
    if certificate is not None and found.attacked is not None:
        told = certified(shared, known, found.attacked, certificate, seed=seed)
    target = None
    if out is not None and found.attacked is not None:
        target = out / "reconstruction.npz"
        np.savez(target, **_arrays(found.attacked))
    if as_json:
        bound = {} if told is None else {"certified": told.to_dict()}
        print_json(_assessed(found, target) | bound)
    else:
        _print_assessed(found, target)
        if told is not None:
            say(told.text)
    if found.confidence.status == "failed":
        raise typer.Exit(1)


def _arrays(attacked: GradientAttack | OutputsAttack) -> dict[str, Any]:
    """What is kept, under names that say what it is: unit vectors are no features."""
    name = "directions" if attacked.directions_only else "features"
    arrays = {name: attacked.features, "residuals": attacked.residuals, "labels": attacked.labels}
    return {k: v.numpy() for k, v in arrays.items() if v is not None}


def _labels(found: Assessed) -> list[Any] | None:
    """Where they are known: numbers, classes, or of a squared loss of several outputs a list for each feature."""
    if found.attacked is None or found.attacked.labels is None or found.confidence.sign_free:
        return None
    known: list[Any] = found.attacked.labels.tolist()
    return known


def _assessed(found: Assessed, target: Path | None) -> dict[str, Any]:
    attacked = found.attacked
    return {
        "findings": [dataclasses.asdict(f) for f in found.findings],
        "confidence": found.confidence.to_dict(),
        "labels": _labels(found),
        "residuals": None if attacked is None else attacked.residuals.tolist(),
        "inexact": None if attacked is None else attacked.inexact,
        "search": None if attacked is None else attacked.search,
        "precision": None if attacked is None or attacked.precision is None else attacked.precision.name,
        "coordinates": None
        if attacked is None or attacked.coordinates is None
        else dataclasses.asdict(attacked.coordinates),
        "file": None if target is None else str(target),
    }


def _print_assessed(found: Assessed, target: Path | None) -> None:
    sure = found.confidence
    print_findings(found.findings)
    if sure.premises:
        rests = table("rests on", "source", "tested", "what", narrow=3)
        for p in sure.premises:
            rests.add_row(p.name, p.source, "doubtful" if p.doubtful else "yes" if p.tested else "no", p.text)
        console().print(rests)
    say(f"status: {sure.verdict}")
    for reason in sure.reasons:
        say(reason, 2)
    if found.attacked is not None:
        _print_numbers(found, sure)
    if target is not None:
        say(f"reconstruction: {target}")


def _exactness(attacked: GradientAttack | OutputsAttack | None) -> str:
    """Of dL/dW, and of several outputs: whether it was solved exactly, or why not."""
    if attacked is None or attacked.precision is None:
        return ""
    if attacked.inexact is not None:
        return f" ({attacked.inexact})"
    return f", exact but for rounding of the entries to {attacked.precision.name}, in {attacked.search}"


def _print_numbers(found: Assessed, sure: Confidence) -> None:
    say(f"method: {sure.method}{_exactness(found.attacked)}")
    if found.attacked is not None and found.attacked.why is not None:
        say(found.attacked.why, 2)
    if sure.predicted is not None and sure.relative is not None:
        what = "the directions" if sure.directions_only else "the features"
        say(f"predicted error of {what}: {sure.predicted:.4g} ({sure.relative:.2%} of their norm)")
    say(f"unexplained share of the gradient: {sure.unexplained:.2g}, predicted {sure.expected:.2g}")
    seen = sure.diagnostics
    if seen is not None and sure.method == "likelihood":
        say(f"{seen.agreeing} of {how_many(seen.starts or 0, 'start')} ended there")
    if sure.exact:
        say(EXACT)
    if seen is not None and sure.method in ("tensor_attack", "first_layer_attack"):
        misfit = "none" if seen.misfit is None else f"{seen.misfit:.2g}"
        say(f"gap: {seen.gap:.3g}, misfit: {misfit}, {seen.agreeing} of {seen.starts} starts agree")
    labels = _labels(found)
    if sure.sign_free:
        say("signs: each feature is known up to its sign only, its label not at all")
    elif labels is not None:
        say("labels: " + ", ".join(_shown(label) for label in labels))


def _shown(label: Any) -> str:
    return f"({', '.join(map(_shown, label))})" if isinstance(label, list) else f"{label:.4g}"
