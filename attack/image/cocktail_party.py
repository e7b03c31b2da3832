"""The cocktail-party attack: features of the attacked layer as independent components of its gradient, then pictures.

Kariyappa et al. 2023 (ICML, "Cocktail Party Attack"). Rows of the attacked layer's gradient are mixtures of the B features,
a sample of which is a coordinate: features are found as the directions in the row space that are least Gaussian, most alike
real features, and most unlike one another. Where the layer receives the pixels features are pictures.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch

from attack.image.feature_inversion import FeatureInversion, invert_features
from attack.image.head_gradient import head_gradient, on_pixels, pictures_of
from attack.image.inversion import (
    ImageAttack,
    Inversion,
    InversionDiagnostics,
    InversionError,
    Progress,
)
from attack.image.objective import total_variation
from attack.image.observed import ImageObservation
from attack.image.optimise import best_start, by_autograd, check_search
from attack.streams import normal, numpy_generator
from bounds import checks

#: ``E log cosh`` of a standard Gaussian, from which negentropy is counted.
_GAUSSIAN = 0.3745672075

METHODS = ("negentropy", "fastica")

LENGTHS = ("bias", "range")

#: The weakest direction, over the strongest, below which rows hold fewer features than were told.
_RANK = 1e-12


@dataclass(frozen=True)
class CocktailParty(ImageAttack):
    """Threat model B of Carletti et al. (USENIX Security 2025): an eavesdropper who knows the batch size.

    method: "negentropy", by Adam on the unmixing matrix: minus the negentropies' mean, plus ``decorrelation`` times the mean
    of ``exp(temperature |cos|) - 1`` over pairs of its rows, plus ``tv`` times the total variation where features are
    pictures, plus ``sign`` times the smaller of the lengths of a feature's positive and negative part, where features are
    known to be of one sign (the paper's objective; its published settings are the defaults of decorrelation, temperature, tv
    and sign, with 25,000 iterations of step .001: fewer of a larger one, which fades, end at the same place). "fastica":
    scikit-learn's. starts: of which the smallest objective counts, the first at FastICA's components, the second at the
    principal ones, where the paper begins (and where decorrelation holds it: negentropies are of the order .001).

    lengths: "bias" divides a feature by the same mixture of the bias' gradient, which is its length and sign if it is
    alone; "range" (the paper's, and where there is no bias) stretches a picture to [0, 1], the sign being that of its mean.
    pictures: how features that are not pixels become pictures.
    """

    name: ClassVar[str] = "cocktail_party"

    method: str = "negentropy"
    decorrelation: float = 1.47
    temperature: float = 12.4
    tv: float = 3.1
    sign: float = 0.13
    iterations: int = 3_000
    step: float = 0.01
    starts: int = 2
    optimiser: str = "adam"
    schedule: str = "cosine"
    warmup: int = 0
    keep: str = "best"
    lengths: str = "bias"
    pictures: FeatureInversion = field(default_factory=FeatureInversion)

    def __post_init__(self) -> None:
        checks.choice("method", self.method, METHODS)
        checks.choice("lengths", self.lengths, LENGTHS)
        check_search(self)
        for name in ("decorrelation", "temperature", "tv", "sign"):
            checks.real(name, getattr(self, name), 0.0)
        checks.instance("pictures", self.pictures, FeatureInversion)


@dataclass(frozen=True, eq=False)
class Components:
    """features (B, d_f), float64 on the CPU, each up to a factor unless ``sized``; value: of the objective; iterations;
    start: which was kept."""

    features: torch.Tensor
    sized: bool
    value: float
    iterations: int
    start: int


@dataclass(frozen=True, eq=False)
class _White:
    """signals (B, d): of variance 1 and uncorrelated over coordinates, without their means; means (B,): those; mixtures
    (B, m): what makes of the gradient's rows the signals with their means."""

    signals: torch.Tensor
    means: torch.Tensor
    mixtures: torch.Tensor


@dataclass(frozen=True, eq=False)
class _Unmixed:
    """unmixing (B, B): unit rows, of the white signals; value: of the objective; iterations; start: which was kept."""

    unmixing: torch.Tensor
    value: float
    iterations: int
    start: int


def invert(
    observation: ImageObservation,
    attack: CocktailParty,
    *,
    labels: torch.Tensor | None,
    seed: int,
    progress: Progress | None,
) -> Inversion:
    """See ``attack.image.inversion.invert``. Labels are not used, as no component has one. Of a pruned gradient the
    rows that its kept entries determine are used, else the rows with zeros."""
    began = time.monotonic()
    network = observation.network
    found = components(observation, attack, seed=seed, progress=progress)
    features = found.features
    if on_pixels(network):
        images = pictures_of(network, features) if found.sized else _stretched(features, network.shape)
        images, iterations = images.to(network.device, network.dtype), 0
    else:
        made = invert_features(
            network, features, attack.pictures, sized=found.sized, seed=seed, progress=progress
        )
        images, iterations = made.images, made.iterations
    return Inversion(
        images,
        None,
        features,
        InversionDiagnostics(
            "ok",
            (),
            objective=found.value,
            iterations=found.iterations + iterations,
            starts=attack.starts,
            start_kept=found.start,
            seconds=time.monotonic() - began,
        ),
    )


def components(
    observation: ImageObservation, attack: CocktailParty, *, seed: int = 2, progress: Progress | None = None
) -> Components:
    """The features alone. Raises ``InversionError`` where rows hold fewer than B, or one has no length."""
    began = time.monotonic()
    network, B = observation.network, observation.batch_size
    seen = head_gradient(observation)
    white = _whitened(torch.from_numpy(seen.weight[seen.sure]), B, began)
    shape = network.shape if on_pixels(network) else None
    found = _SEPARATE[attack.method](white, attack, shape, seed, progress)
    features = found.unmixing @ (white.signals + white.means[:, None])
    bias = None if seen.bias is None else torch.from_numpy(seen.bias[seen.sure])
    sized = attack.lengths == "bias" and bias is not None
    if sized:
        assert bias is not None
        features = features / (found.unmixing @ white.mixtures @ bias)[:, None]
    if not torch.isfinite(features).all():
        raise _failed("a component has no length along the bias' gradient", began)
    return Components(features, sized, found.value, found.iterations, found.start)


def _whitened(rows: torch.Tensor, B: int, began: float) -> _White:
    """Rows (m, d) of which B directions are kept; ``InversionError`` where there are not as many."""
    means = rows.mean(dim=1)
    left, values, right = torch.linalg.svd(rows - means[:, None], full_matrices=False)
    if len(values) < B or not float(values[B - 1]) > _RANK * float(values[0]):
        raise _failed(f"the attacked layer's gradient has a rank below the batch size, {B}", began)
    scale = (rows.shape[1] - 1) ** 0.5
    mixtures = (scale / values[:B])[:, None] * left[:, :B].T
    return _White(scale * right[:B], mixtures @ means, mixtures)


def _by_negentropy(
    white: _White,
    attack: CocktailParty,
    shape: tuple[int, int, int] | None,
    seed: int,
    progress: Progress | None,
) -> _Unmixed:
    B = len(white.means)
    whole = white.signals + white.means[:, None]

    def objective(free: torch.Tensor) -> torch.Tensor:
        unmixing = free / torch.linalg.vector_norm(free, dim=1, keepdim=True)
        value = -_negentropy(unmixing @ white.signals).mean()
        if attack.decorrelation and B > 1:
            cosines = (unmixing @ unmixing.T).abs()
            value = (
                value + attack.decorrelation * (torch.exp(attack.temperature * cosines) - 1).triu(1).mean()
            )
        signals = unmixing @ whole
        if shape is not None and attack.tv:
            value = value + attack.tv * total_variation(signals.view(-1, *shape))
        if shape is None and attack.sign:
            parts = [torch.linalg.vector_norm(torch.relu(s * signals), dim=1) for s in (1, -1)]
            value = value + attack.sign * torch.minimum(*parts).mean()
        return value

    starts = ((_start(white, attack, seed, index),) for index in range(attack.starts))
    best = best_start(by_autograd(objective), starts, attack, limits=(None,), progress=progress)
    free = best.found.variables[0]
    unit = free / torch.linalg.vector_norm(free, dim=1, keepdim=True)
    return _Unmixed(unit, best.found.value, best.iterations, best.index)


def _start(white: _White, attack: CocktailParty, seed: int, index: int) -> torch.Tensor:
    """Where the search of that number begins: FastICA's components, the principal ones (the paper's start), random ones."""
    B = len(white.means)
    if index == 0:
        return _fastica(white, attack, seed, index)[0]
    if index == 1:
        return torch.eye(B, dtype=white.signals.dtype)
    drawn = normal((B, B), seed, "unmixing", index, device="cpu", dtype=white.signals.dtype)
    return torch.linalg.qr(drawn)[0]


def _by_fastica(
    white: _White,
    attack: CocktailParty,
    shape: tuple[int, int, int] | None,
    seed: int,
    progress: Progress | None,
) -> _Unmixed:
    found = [_fastica(white, attack, seed, index) for index in range(attack.starts)]
    values = [-float(_negentropy(unmixing @ white.signals).mean()) for unmixing, _ in found]
    kept = values.index(min(values))
    return _Unmixed(found[kept][0], values[kept], sum(iterations for _, iterations in found), kept)


def _fastica(white: _White, attack: CocktailParty, seed: int, index: int) -> tuple[torch.Tensor, int]:
    """Unit rows (B, B) that scikit-learn's FastICA ends in from the start of that number, and its iterations."""
    from sklearn.decomposition import FastICA  # which brings half of scikit-learn
    from sklearn.exceptions import ConvergenceWarning

    state = int(numpy_generator(seed, "fastica", index).integers(2**31))
    separate = FastICA(whiten=False, fun="logcosh", random_state=state, max_iter=attack.iterations)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        separate.fit(white.signals.T.numpy())
    unmixing = torch.from_numpy(np.ascontiguousarray(separate.components_))
    return unmixing / torch.linalg.vector_norm(unmixing, dim=1, keepdim=True), int(separate.n_iter_)


_SEPARATE = dict(zip(METHODS, (_by_negentropy, _by_fastica), strict=True))


def _negentropy(signals: torch.Tensor) -> torch.Tensor:
    """``(E log cosh s - E log cosh N)^2`` (B,) of signals (B, d) of variance 1 (Hyvärinen, Oja 2000)."""
    size = signals.abs()  # log cosh s = |s| + log(1 + exp(-2|s|)) - log 2, which does not overflow
    contrast = size + torch.log1p(torch.exp(-2 * size)) - float(np.log(2))
    return (contrast.mean(dim=1) - _GAUSSIAN).square()


def _stretched(features: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """Each on [0, 1], the greater part of its deviations from the mean being upward if its mean is positive."""
    turned = features * torch.where(features.mean(dim=1) < 0, -1.0, 1.0).to(features)[:, None]
    low, high = turned.amin(dim=1, keepdim=True), turned.amax(dim=1, keepdim=True)
    return ((turned - low) / (high - low).clamp_min(torch.finfo(features.dtype).tiny)).view(-1, *shape)


def _failed(reason: str, began: float) -> InversionError:
    diagnostics = InversionDiagnostics("failed", (reason,), seconds=time.monotonic() - began)
    return InversionError(reason, diagnostics)
