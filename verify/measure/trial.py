"""One trial: a fresh network, what the server sees, the attack, the error. Everything from one integer
seed."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from bounds import checks
from verify.measure.point import Point
from verify.measure.record import Record, finite_json
from verify.origin import DISTRIBUTION, own

if TYPE_CHECKING:
    import torch


PURPOSES = ("network", "observation", "attack")


def trial_seeds(point: Point, trial: int, seed: int) -> dict[str, int]:
    """Independent seeds for the purposes of one trial, from the experiment's seed, the point and the trial's
    number. Below 2^53, so that every reader of JSON keeps them exactly."""
    state = np.random.SeedSequence([seed, int(point.key, 16), trial]).generate_state(len(PURPOSES), np.uint64)
    return {"experiment": seed} | {
        name: int(s >> np.uint64(11)) for name, s in zip(PURPOSES, state, strict=True)
    }


def run_trial(
    point: Point, trial: int, seed: int, device: str = "auto", threads: int | None = None
) -> Record:
    """Run trial number ``trial`` of ``point`` under the experiment's ``seed``.

    device: "auto" (CUDA if there is one), "cpu", "cuda", ...; threads: for torch during this call (None: as
    they are). A reconstruction that the attack itself reports as impossible gives a record of status
    "failed". Every other exception is a defect and propagates. ``ValueError`` or ``TypeError`` on bad input.
    """
    checks.integer("trial", trial, 0)
    checks.integer("seed", seed, 0)
    if threads is not None:
        checks.integer("threads", threads, 1)
    own("attack")
    import torch

    from attack.device import resolve_device

    place = resolve_device(device)
    with _torch_threads(threads):
        used = torch.get_num_threads()
        start = time.perf_counter()
        outcome = _measure(point, trial_seeds(point, trial, seed), place)
        seconds = time.perf_counter() - start
    return Record(
        experiment=point.experiment,
        point=point.to_dict(),
        point_key=point.key,
        trial=trial,
        seeds=trial_seeds(point, trial, seed),
        seconds=seconds,
        device=place.type,
        dtype=point.dtype,
        threads=used,
        versions=versions(),
        **outcome,
    )


def _measure(point: Point, seeds: Mapping[str, int], device: torch.device) -> dict[str, Any]:
    import torch

    from attack import ReconstructionError, TwoLayerNet, matched_error, observe, tensor_attack

    X = torch.from_numpy(point.features.sample(point.d, point.B))
    y = torch.tensor(point.labels, dtype=torch.float64)
    dtype = getattr(torch, point.dtype)
    net = TwoLayerNet.sample(point.d, point.m, point.activation, seeds["network"], device=device, dtype=dtype)
    observation = observe(point.defense, net, X, y, seed=seeds["observation"])
    try:
        found = tensor_attack(observation, net, batch_size=point.B, attack=point.attack, seed=seeds["attack"])
    except ReconstructionError as error:
        diagnostics = getattr(error, "diagnostics", None)
        unmeasured = dict.fromkeys(
            ("rmse", "rmse_orthogonal", "rmse_inplane", "rmse_span", "label_accuracy", "residual_error")
        )
        return unmeasured | {
            "status": "failed",
            "reason": str(error) or type(error).__name__,
            "diagnostics": finite_json(diagnostics.to_dict()) if diagnostics is not None else {},
        }
    # Where the attack itself says that signs are unknown, they are not counted as errors.
    match = matched_error(X, found.features, sign_free=found.diagnostics.sign_free)
    order = torch.tensor(match.permutation)
    labels = found.labels.detach().cpu().double()[order]
    residuals = found.residuals.detach().cpu().double()[order] * torch.tensor(match.signs)
    true_residuals = (
        net.forward(X).detach().cpu().double() - y
    )  # the client's: f(x_i) - y_i at this very network
    return {
        "status": "ok",
        "reason": "",
        "rmse": match.rmse,
        "rmse_orthogonal": match.orthogonal,
        "rmse_inplane": match.inplane,
        "rmse_span": match.span,
        "label_accuracy": float(((labels - y).abs() < 1).double().mean()),
        "residual_error": float((residuals - true_residuals).abs().max()),
        "diagnostics": finite_json(found.diagnostics.to_dict()),
    }


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    import torch

    try:
        ours = metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        ours = "not installed"
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        DISTRIBUTION: ours,
    }


@contextmanager
def _torch_threads(threads: int | None) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
