"""``reconbound attack image``: pictures from the gradient of a whole network, embedded ones or the user's own."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from bounds import checks
from verify.cli.options import (
    NAMES,
    Batch,
    Device,
    ImagesFile,
    Json,
    LabelsFile,
    Out,
    Parameters,
    Seed,
    count,
    defense_of,
    new_directory,
    numbers,
)
from verify.cli.settings import with_settings
from verify.cli.tables import print_findings, print_json, say

if TYPE_CHECKING:
    import torch

    from attack.image.inversion import ImageAttack, Inversion
    from attack.image.observed import ImageObservation
    from attack.image.picture_set import PictureSet

Rival = Annotated[
    str,
    typer.Option(
        help="Name of the attack, as in the tables of `verify image` (cosine, integrated, ...) or as published (dlg, "
        "inverting-gradients, ...)."
    ),
]

_OWN = "A network and a gradient of your own"


def _own(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel=_OWN)


def image(
    data: Annotated[
        str,
        typer.Option(
            help="An embedded set of pictures, such as patches-16-grey, or mnist or cifar10, of files."
        ),
    ] = "",
    path: ImagesFile = None,
    labels_path: LabelsFile = None,
    B: Batch = 2,
    rival: Rival = "cosine",
    defense: Annotated[str, typer.Option(help=f"One of {', '.join(NAMES)}.")] = "none",
    scope: Annotated[
        str, typer.Option(help="Whether the defense acts on every layer for itself, or global.")
    ] = "layer",
    relative: Annotated[
        bool, typer.Option("--relative", help="sigma is in units of the gradient's root mean square.")
    ] = False,
    labels: Annotated[
        str | None, typer.Option(help="Classes that the server knows, such as 3,7; default: recovered.")
    ] = None,
    told: Annotated[bool, typer.Option("--told", help="The labels of embedded pictures are known.")] = False,
    iterations: Annotated[
        int | None,
        typer.Option(
            "--iterations", help="Of every start; default: the attack's.", parser=count, metavar="INTEGER"
        ),
    ] = None,
    starts: Annotated[
        int | None, typer.Option("--starts", help="Default: the attack's.", parser=count, metavar="INTEGER")
    ] = None,
    tv: Annotated[
        float | None, typer.Option(help="Weight of total variation; default: the attack's.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Step of the search; default: the attack's.")] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=VALUE, any other field of the attack's search for pictures or else of the attack, such as keep=floor "
            "or source=rows (may be repeated)."
        ),
    ] = None,
    module: Annotated[
        str | None,
        _own("MODULE:FUNCTION, a function without arguments that returns the torch module; it is run."),
    ] = None,
    gradient: Annotated[
        Path | None,
        _own(
            ".npz or .safetensors: the gradient of NAME as grad.NAME, summed over the batch; optional: the state dict."
        ),
    ] = None,
    shape: Annotated[str | None, _own("Of a picture: channels,height,width.")] = None,
    attacked: Annotated[str | None, _own("Name of the attacked linear layer; default: found.")] = None,
    loss: Annotated[str, _own("cross-entropy or squared.")] = "cross-entropy",
    batch_norm: Annotated[str, _own("eval (statistics that are kept) or batch.")] = "eval",
    mean: Annotated[str, _own("Of the normalisation, for every channel or all.")] = "0",
    std: Annotated[str, _own("Of the normalisation, for every channel or all.")] = "1",
    seed: Seed = 0,
    device: Device = "auto",
    out: Out = Path("results"),
    as_json: Json = False,
    parameters: Parameters | None = None,
) -> None:
    """Reconstruct pictures from the gradient of a whole network: of a set of pictures (--data), which tells errors too, or a
    gradient of your own (--module, --gradient, --shape), which is checked against the module first.

    Exit code: 0, 1 if the attack has no result, 2 for bad input."""
    spec = defense_of(defense, parameters or {})
    asked = {"iterations": iterations, "starts": starts, "tv": tv, "step": rate}
    attack = with_settings(_named(rival), setting or (), asked)
    own = {"module": module, "gradient": gradient, "shape": shape}
    given = [name for name, value in own.items() if value is not None]
    if bool(data) == bool(given):
        raise ValueError("data, or module, gradient and shape must be given, and not both")
    new_directory("out", out)
    from verify.measure.conditions import resolved

    place = resolved(device)
    if data:
        if labels is not None:
            raise ValueError(f"labels must not be given with data, whose labels --told tells; got {labels}")
        posed = _embedded(
            data, B, spec, pictures=_of_files(data, path, labels_path), scope=scope, relative=relative, seed=seed,
            place=place, told=told,
        )  # fmt: skip
    else:
        if path is not None or labels_path is not None:
            raise ValueError("path and labels-path belong to data mnist and cifar10; got them without data")
        missing = [name for name in own if name not in given]
        if missing:
            raise ValueError(f"{missing[0]} must be given with {given[0]}")
        if relative:
            raise ValueError(
                "relative must not be given with a gradient of your own: sigma is what was added"
            )
        posed = _users(
            str(module), Path(str(gradient)), str(shape), B=B, defense=spec, scope=scope, labels=labels,
            loss=loss, batch_norm=batch_norm, mean=mean, std=std, attacked=attacked, place=place,
        )  # fmt: skip
    _carried_out(posed, attack, rival, seed, out, as_json)


@dataclass(frozen=True, eq=False)
class _Posed:
    """The observation, labels that the server knows, the pictures behind it if there are any, what the checks found, and the
    stem of the files."""

    observation: ImageObservation
    labels: torch.Tensor | None
    private: torch.Tensor | None
    findings: tuple[Any, ...]
    stem: str


def _named(rival: str) -> ImageAttack:
    from attack.image.presets import PRESETS
    from verify.images.rivals import IN_COLOUR, RIVALS

    known = {**RIVALS, **IN_COLOUR, **PRESETS}
    return known[checks.choice("rival", rival, tuple(known))]


def _of_files(data: str, path: Path | None, labels_path: Path | None) -> PictureSet | None:
    """The set of pictures that files hold; None for an embedded one. ``ValueError`` for files too many or too few, and for
    such as are not of that data."""
    from attack.image.picture_set import cifar10_set, mnist_set

    given = {"path": path, "labels-path": labels_path}
    needed = {"mnist": ("path", "labels-path"), "cifar10": ("path",)}.get(data, ())
    for name, value in given.items():
        if (value is not None) != (name in needed):
            raise ValueError(f"{name} must {'' if name in needed else 'not '}be given for data {data}")
    if path is None:
        return None
    return cifar10_set(path) if labels_path is None else mnist_set(path, labels_path)


def _embedded(
    data: str,
    B: int,
    defense: Any,
    *,
    pictures: PictureSet | None,
    scope: str,
    relative: bool,
    seed: int,
    place: str,
    told: bool,
) -> _Posed:
    """The batch, network and gradient that a trial of the tables has, or would have of these pictures."""
    from verify.images.catalogue import CONV
    from verify.images.point import ImagePoint
    from verify.images.rivals import RIVALS
    from verify.images.trial import observed

    point = ImagePoint(
        data, B, CONV, defense, "", next(iter(RIVALS.values())), scope=scope, relative=relative
    )
    private, labels, observation = observed(point, seed, place, pictures)
    return _Posed(observation, labels if told else None, private, (), f"inversion-{data}-B{B}")


def _users(
    module: str,
    gradient: Path,
    shape: str,
    *,
    B: int,
    defense: Any,
    scope: str,
    labels: str | None,
    place: str,
    mean: str,
    std: str,
    **named: Any,
) -> _Posed:
    import torch

    from attack.image.check import check_images, observation_of
    from attack.image.gradient_file import read_image_gradients
    from attack.networks.image.network import ImageNetwork

    sides = numbers("shape", shape)
    if len(sides) != 3 or any(side != int(side) or side < 1 for side in sides):
        raise ValueError(f"shape must be three whole numbers above 0: channels,height,width; got {shape!r}")
    channels, height, width = (int(side) for side in sides)
    read = read_image_gradients(gradient)
    made = _made(module)
    if read.state:
        try:
            made.load_state_dict(read.state)
        except RuntimeError as error:
            raise ValueError(
                f"gradient must hold a state dict of the module, or none; {' '.join(str(error).split())[:300]}"
            ) from None
    network = ImageNetwork.of(
        made, (channels, height, width), named["attacked"], loss=named["loss"], batch_norm=named["batch_norm"],
        mean=numbers("mean", mean), std=numbers("std", std),
    ).to(place)  # fmt: skip
    how = {"defense": defense, "scope": scope}
    findings = check_images(network, read.gradients, B, **how)
    observation = observation_of(network, read.gradients, B, **how, findings=findings)
    classes = None
    if labels is not None:
        told = numbers("labels", labels)
        if any(v != int(v) for v in told):
            raise ValueError(f"labels must be whole numbers, such as 3,7; got {labels!r}")
        classes = network.checked_labels(torch.tensor([int(v) for v in told]), B)
    return _Posed(observation, classes, None, findings, f"inversion-{gradient.stem}")


def _made(place: str) -> Any:
    """The module that the user's function returns; whatever goes wrong inside is bad input."""
    import torch

    name, _, function = place.partition(":")
    if not name or not function:
        raise ValueError(f"module must be MODULE:FUNCTION, such as mynet:build; got {place!r}")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = getattr(import_module(name), function)()
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"module must name a function that returns a torch module; {place!r} raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(found, torch.nn.Module):
        raise TypeError(f"module must return a torch.nn.Module; {place!r} returned {type(found).__name__}")
    return found


def _carried_out(posed: _Posed, attack: ImageAttack, rival: str, seed: int, out: Path, as_json: bool) -> None:
    from attack.image.inversion import InversionError, invert
    from verify.draw.inversions import draw_inversion

    def told_progress(done: int, total: int, value: float) -> None:
        if sys.stderr.isatty():
            print(
                f"\r{done} of {total} iterations, objective {value:.3g}", end="", file=sys.stderr, flush=True
            )

    if not as_json and posed.findings:
        print_findings(posed.findings)
    try:
        found = invert(posed.observation, attack, labels=posed.labels, seed=seed, progress=told_progress)
    except InversionError as error:
        if as_json:
            print_json({"rival": rival, "reason": str(error), "diagnostics": error.diagnostics.to_dict()})
        else:
            say(f"{rival}: no result: {error}")
        raise typer.Exit(1) from None
    finally:
        if sys.stderr.isatty():
            print(file=sys.stderr)
    picture, arrays = out / f"{posed.stem}.png", out / f"{posed.stem}.npz"
    draw_inversion(posed.private, found.images, f"{rival}: {posed.stem}", picture)
    np.savez(arrays, **_arrays(found))
    _tell(posed, found, rival, picture, arrays, as_json)


def _tell(posed: _Posed, found: Inversion, rival: str, picture: Path, arrays: Path, as_json: bool) -> None:
    from attack.image.metrics import image_errors

    errors = None if posed.private is None else image_errors(posed.private, found.images)
    diagnostics = found.diagnostics
    if as_json:
        print_json(
            {
                "rival": rival,
                "labels": None if found.labels is None else found.labels.tolist(),
                "errors": None
                if errors is None
                else {"psnr": errors.psnr, "ssim": errors.ssim, "mse": errors.mse},
                "diagnostics": diagnostics.to_dict(),
                "findings": list(posed.findings),
                "picture": str(picture),
                "file": str(arrays),
            }
        )
        return
    say(f"{rival}: {diagnostics.status}, {diagnostics.iterations} iterations, {diagnostics.seconds:.1f} s")
    for warning in diagnostics.warnings:
        say(warning, 2)
    if found.labels is not None:
        where = f" ({diagnostics.labels_from})" if diagnostics.labels_from else ""
        say("labels: " + ", ".join(map(str, found.labels.tolist())) + where)
    if errors is not None:
        say("PSNR: " + ", ".join(f"{v:.1f}" for v in errors.psnr) + " dB")
        say("SSIM: " + ", ".join(f"{v:.2f}" for v in errors.ssim))
    print(f"picture: {picture}")
    print(f"reconstruction: {arrays}")


def _arrays(found: Inversion) -> dict[str, Any]:
    kept = {"images": found.images, "labels": found.labels, "features": found.features}
    return {name: value.cpu().numpy() for name, value in kept.items() if value is not None}
