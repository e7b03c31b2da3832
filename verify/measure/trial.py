"""One trial: a fresh network, what the server sees, every attack on it, the errors. Everything from one integer seed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bounds import checks, serial
from verify.measure.conditions import limited, present
from verify.measure.failure import Failure, attempt
from verify.measure.match import matched
from verify.measure.outcome import Outcome
from verify.measure.point import AttackSpec, Point
from verify.measure.record import Record
from verify.measure.seeds import trial_seeds
from verify.origin import own

if TYPE_CHECKING:
    import torch

    from attack import Reconstruction
    from attack.networks.two_layer_client import OutputClient


def run_trial(
    point: Point, trial: int, seed: int, device: str = "auto", threads: int | None = None
) -> Record:
    """Run trial number ``trial`` of ``point`` under the experiment's ``seed``: one observation, every attack of the point.

    device: "auto" (CUDA if there is one), "cpu", "cuda", ...; threads: during this call (None: as they are). A
    reconstruction that the attack itself reports as impossible gives a failed outcome. Every other exception is a defect and
    propagates. ``ValueError`` or ``TypeError`` on bad input.
    """
    checks.integer("trial", trial, 0)
    checks.integer("seed", seed, 0)
    if threads is not None:
        checks.integer("threads", threads, 1)
    own("attack")
    from attack.device import resolve_device

    place = resolve_device(device)
    with limited(threads) as used:
        start = time.perf_counter()
        outcomes = _measure(point, trial_seeds(point, trial, seed), place)
        seconds = time.perf_counter() - start
    return Record(point, trial, seed, outcomes, present(place.type, used), seconds)


def _measure(point: Point, seeds: Mapping[str, int], device: torch.device) -> dict[str, Outcome]:
    import torch

    from attack import TwoLayerNet, observe, reconstruct
    from attack.networks.two_layer_client import Batch, OutputClient

    X = torch.from_numpy(point.features.sample(point.d, point.B))
    y = torch.tensor(point.labels, dtype=torch.float64)
    dtype = getattr(torch, point.dtype)
    net = TwoLayerNet.sample(point.d, point.m, point.activation, seeds["network"], device=device, dtype=dtype)
    client = OutputClient(Batch(net, net.features(X), net.labels(y, point.B)))
    observation = observe(point.defense, _Once(client), X, y, seed=seeds["observation"])
    residuals = client.batch.residuals.cpu()  # f(x_i) - y_i at this very network, before any defense

    def outcome(spec: AttackSpec) -> Outcome:
        found = attempt(
            lambda: reconstruct(observation, net, batch_size=point.B, attack=spec, seed=seeds["attack"])
        )
        return Outcome.of_failure(found) if isinstance(found, Failure) else _errors(found, X, y, residuals)

    return {name: outcome(spec) for name, spec in zip(point.names, point.attacks, strict=True)}


@dataclass(frozen=True, eq=False)
class _Once:
    """A network that has its client already: what its forward pass gave the observation is there for the residuals too."""

    made: OutputClient

    def client(self, X: Any, y: Any, layer: str = "output") -> OutputClient:
        return self.made


def _errors(found: Reconstruction, X: torch.Tensor, y: torch.Tensor, true_residuals: torch.Tensor) -> Outcome:
    """A reconstruction against the truth."""
    match = matched(X, found)
    return Outcome(
        rmse=match.error.rmse,
        rmse_orthogonal=match.error.orthogonal,
        rmse_inplane=match.error.inplane,
        rmse_span=match.error.span,
        label_accuracy=float(((match.labels - y).abs() < 1).double().mean()),
        residual_error=float((match.residuals - true_residuals).abs().max()),
        diagnostics=serial.plain(found.diagnostics.to_dict()),
    )
