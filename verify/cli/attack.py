"""``reconbound attack``: what a server reads off a gradient, of pictures or one that the user brings."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from bounds import TensorAttack, checks
from bounds.losses import MODEL, explained
from verify.cli.options import (
    NAMES,
    Activation,
    Batch,
    Device,
    Json,
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
from verify.cli.tables import console, print_json, say, table
from verify.confidence import Assessed, assess
from verify.draw.pictures import draw_pictures
from verify.measure.pictures import PictureRow, reconstruct_pictures

if TYPE_CHECKING:
    from attack.image.datasets import ImageBatch

app = typer.Typer(add_completion=False, help="Run an attack and draw what it reconstructs.")

#: Pictures that come with scikit-learn, and those that the user has as files.
BUILT_IN, FROM_FILES = ("digits", "patches"), ("mnist", "cifar10")


@app.command("tensor")
@with_defense_options
def tensor(
    images: Annotated[str, typer.Option(help=f"One of {', '.join((*BUILT_IN, *FROM_FILES))}.")] = "digits",
    path: Annotated[
        Path | None, typer.Option(help="File with the images (mnist: idx images; cifar10: binary batch).")
    ] = None,
    labels_path: Annotated[Path | None, typer.Option(help="MNIST: the idx labels.")] = None,
    B: Batch = 4,
    m: Widths = None,
    defense: Annotated[str, typer.Option(help=f"One of {', '.join(NAMES)}.")] = "none",
    activation: Activation = "relu",
    moments: Moments = "residualized",
    raw: Annotated[
        bool, typer.Option("--raw", help="Keep the mean of the pictures (nearly parallel features).")
    ] = False,
    max_cosine: Annotated[float, typer.Option(help="Skip a picture closer than this to a chosen one.")] = 1.0,
    seed: Seed = 0,
    device: Device = "auto",
    out: Out = Path("results"),
    as_json: Json = False,
    parameters: Parameters | None = None,
) -> None:
    """Reconstruct real pictures from a gradient at growing widths; writes the originals over the reconstructions."""
    spec = defense_of(defense, parameters or {})
    estimator = TensorAttack(moments=moments)
    batch = _batch(images, path, labels_path, size=B, seed=seed, center=not raw, max_cosine=max_cosine)
    stem = f"pictures-{images}-B{B}" + ("-raw" if raw else "")
    new_directory("out", out)
    rows = reconstruct_pictures(
        batch,
        m or (10_000, 100_000),
        seed,
        activation,
        spec,
        estimator,
        device,
        path=out / "records" / f"{stem}.json",
    )
    picture = out / f"{stem}.png"
    draw_pictures(batch, rows, picture)
    if as_json:
        print_json({"picture": str(picture), "rows": [_without_pixels(row) for row in rows]})
        return
    for row in rows:
        say(f"{row.label}: {row.reason}" if row.failed else row.label)
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
    return {k: getattr(row, k) for k in ("m", "rmse", "predicted", "reason", "warnings", "seed")}


@app.command("gradient")
def gradient(
    file: Annotated[
        Path,
        typer.Option(
            help=".npz or .safetensors: weight, gradient (dL/da or dL/dW); optional bias, output_weight, bias_gradient, "
            "output_bias; or a PyTorch state dict, with the gradient of NAME as grad.NAME."
        ),
    ],
    B: Batch,
    activation: Annotated[str | None, typer.Option(help="Name of the activation; default: relu.")] = None,
    norms: Annotated[str | None, typer.Option(help="Public norms, such as 1,1; default: all 1.")] = None,
    scale: Annotated[str, typer.Option(help="Standard deviation of the weights' entries, or auto.")] = "auto",
    loss: Annotated[
        str | None, typer.Option(help=f"{explained()}, the default. Labels depend on it.")
    ] = None,
    moments: Moments = "residualized",
    seed: Seed = 2,
    out: Annotated[Path | None, typer.Option(help="Directory for the reconstruction.")] = None,
    as_json: Json = False,
) -> None:
    """Check a gradient of your own, reconstruct the features in it, and say how far the result can be trusted.

    Exits with 1 when the status is failed."""
    from attack.own.files import read_gradient

    known_norms = None if norms is None else numbers("norms", norms)
    known_scale = None if scale == "auto" else number("scale", scale)
    estimator = TensorAttack(moments=moments)
    if out is not None:
        new_directory("out", out)
    found = assess(read_gradient(file), B, activation, known_norms, known_scale, estimator, loss, seed)
    target = None
    if out is not None and found.attacked is not None:
        target = out / "reconstruction.npz"
        arrays = {k: getattr(found.attacked, k).numpy() for k in ("features", "residuals", "labels")}
        np.savez(target, **arrays)
    if as_json:
        print_json(_assessed(found, target, loss))
    else:
        _print_assessed(found, target, loss)
    if found.confidence.status == "failed":
        raise typer.Exit(1)


def _assessed(found: Assessed, target: Path | None, loss: str | None) -> dict[str, Any]:
    sure, attacked = found.confidence, found.attacked
    return {
        "findings": [dataclasses.asdict(f) for f in found.findings],
        "confidence": sure.to_dict(),
        "labels": None if attacked is None or sure.sign_free else attacked.labels.tolist(),
        "residuals": None if attacked is None else attacked.residuals.tolist(),
        "loss": loss or MODEL.name,
        "inexact": None if attacked is None else attacked.inexact,
        "precision": None if attacked is None or attacked.precision is None else attacked.precision.name,
        "coordinates": None if attacked is None else dataclasses.asdict(attacked.coordinates),
        "file": None if target is None else str(target),
    }


def _print_assessed(found: Assessed, target: Path | None, loss: str | None) -> None:
    sure, attacked = found.confidence, found.attacked
    shown = table("check", "level", "what was found", narrow=2)
    for finding in found.findings:
        shown.add_row(finding.name, finding.level, finding.text)
    console().print(shown)
    say(f"status: {sure.status}")
    for reason in sure.reasons:
        say(reason, 2)
    if attacked is not None:
        say(f"method: {sure.method}")
        if sure.predicted is not None and sure.relative is not None:
            say(f"predicted error: {sure.predicted:.4g} ({sure.relative:.2%} of the features' norm)")
        say(f"unexplained share of the gradient: {sure.unexplained:.3%}, predicted {sure.expected:.3%}")
        if sure.method == "sparse_recovery":
            to = "" if attacked.precision is None else f" of the entries to {attacked.precision.name}"
            say(f"gap: {sure.gap:.3g}; every row is explained: the features are exact but for rounding{to}")
        else:
            misfit = "none" if sure.misfit is None else f"{sure.misfit:.2g}"
            say(f"gap: {sure.gap:.3g}, misfit: {misfit}, {sure.agreeing} of {sure.starts} starts agree")
        if sure.sign_free:
            say("signs: each feature is known up to its sign only, its label not at all")
        else:
            of = loss or f"{MODEL.name}, which is assumed"
            say("labels: " + ", ".join(f"{v:.4g}" for v in attacked.labels.tolist()) + f" (loss: {of})")
        if attacked.inexact is not None:
            say(attacked.inexact)
    if target is not None:
        say(f"reconstruction: {target}")
