"""Gradient matching by first-order methods, as published for images, on the gradient of the output weights."""

from __future__ import annotations

import itertools
import math

import torch

from attack.gradient_matching.objective import Objective
from attack.gradient_matching.optimise import OPTIMISERS, Found, precision
from attack.networks.activation import require_derivative
from attack.networks.two_layer import TwoLayerNet
from attack.observation import Observation
from attack.reconstruction import Diagnostics, Reconstruction, ReconstructionError
from attack.streams import numpy_generator
from bounds import GradientMatching, NoDefense, checks
from bounds.estimator import EQUAL_NORMS
from bounds.gaussian.activations import ZERO, Activation


def gradient_matching(
    observation: Observation,
    net: TwoLayerNet,
    batch_size: int | None = None,
    attack: GradientMatching | None = None,
    seed: int = 2,
) -> Reconstruction:
    """Reconstruct the features from one observed gradient with respect to the output weights by gradient matching
    (``GradientMatching`` says what is published and what is ours).

    Whatever the defense is, the gradient is matched as it is seen, as the published attacks do: what a defense does to it is
    not modelled. Which public norm, where they differ, and which label belong together is not known: the starts go through
    the orders, and the misfit tells. Diagnostics: ``misfit`` is ``|ghat - g|^2 / |g|^2`` of the answer, ``starts`` counts
    those made, ``agreeing`` those with the answer's misfit to the method's precision, ``passes`` those over the weights.
    "suspect" where the misfit is not zero to the method's precision: with a defense that need not be a failure, and this
    attack cannot tell; and where there are no more entries than unknowns.

    Raises ``ValueError`` or ``TypeError`` on bad input or labels that are not B, ``ReconstructionError`` for a gradient that
    is zero, or where no start gives a finite misfit.
    """
    checks.instance("observation", observation, Observation)
    checks.instance("net", net, TwoLayerNet)
    attack = GradientMatching() if attack is None else attack
    checks.instance("attack", attack, GradientMatching)
    checks.integer("seed", seed, 0)
    B = observation.expected_batch(net, batch_size)
    if attack.labels is not None and len(attack.labels) != B:
        raise ValueError(f"labels must be {B}, one for each feature; got {len(attack.labels)}")
    require_derivative(net.activation)
    scale = _root_mean_square(observation.gradient)
    if scale == 0.0:
        raise _failure("the gradient is zero: it carries no trace of features", 0, 0)

    tolerance = precision(attack) ** 2
    ended: list[tuple[Objective, Found]] = []
    for start in range(attack.starts):
        objective, raw = _start(observation, net, attack, scale=scale, seed=seed, index=start)
        ended.append((objective, OPTIMISERS[attack.optimiser](objective, objective.start(raw), attack)))
        if ended[-1][1].value <= tolerance:
            break
    objective, best = min(ended, key=lambda end: end[1].value if math.isfinite(end[1].value) else math.inf)
    passes = sum(2 * end.evaluations for _, end in ended)
    if not math.isfinite(best.value):
        raise _failure("no start gives a finite misfit", len(ended), passes)

    features = objective.features(best.z)
    hidden = objective.hidden(features)
    residuals, misfit = scale * objective.residuals(hidden), objective.misfit(hidden)
    agreeing = sum(end.value <= best.value + tolerance for _, end in ended)
    sign_free = attack.labels is None and _odd(net.activation)
    warnings = _warnings(observation, net, attack, misfit=misfit, iterations=best.iterations)
    diagnostics = Diagnostics(
        status="suspect" if warnings else "ok",
        warnings=warnings,
        passes=passes,
        misfit=misfit,
        agreeing=agreeing,
        starts=len(ended),
        sign_free=sign_free,
    )
    return Reconstruction(features, residuals, hidden.mean(dim=1) - residuals, diagnostics)


def _start(
    observation: Observation,
    net: TwoLayerNet,
    attack: GradientMatching,
    *,
    scale: float,
    seed: int,
    index: int,
) -> tuple[Objective, torch.Tensor]:
    """The objective with the norms in the order that this start assumes, and its random directions (B, d)."""
    generator = numpy_generator(seed, "gradient matching", index)
    raw = generator.standard_normal((observation.batch_size, net.d))
    norms = next(itertools.islice(itertools.cycle(itertools.permutations(observation.norms)), index, None))

    def there(values: object) -> torch.Tensor:
        return torch.as_tensor(values, device=net.device, dtype=torch.float64)

    gradient = (observation.gradient.to(net.device).double() / scale).to(net.dtype)
    labels = None if attack.labels is None else there(attack.labels)
    return Objective(net, gradient, scale, there(norms), labels, attack.objective), there(raw)


def _root_mean_square(gradient: torch.Tensor) -> float:
    """Without squares of numbers that are too large or too small for it."""
    top = float(gradient.abs().max())
    return top * math.sqrt(float((gradient.double() / top).square().mean())) if top else 0.0


def _odd(activation: Activation) -> bool:
    """Whether all that the gradient shows is odd: (x, r) and (-x, -r) are the same then."""
    return max(abs(activation.coefficient(k)) for k in (0, 2, 4)) <= ZERO


def _warnings(
    observation: Observation, net: TwoLayerNet, attack: GradientMatching, *, misfit: float, iterations: int
) -> tuple[str, ...]:
    known = observation.norms
    unequal = known[-1] - known[0] > EQUAL_NORMS * known[-1]
    off = math.sqrt(misfit)
    left = f"the gradient is matched to {off:.1e} of its norm only"
    cause = (
        f"a local minimum, a wrong label, too few iterations ({iterations} made) or a gradient of something else"
        if isinstance(observation.defense, NoDefense)
        else f"{observation.defense.name} may be why, which this attack does not model"
    )
    B, told = len(observation.norms), attack.labels is not None
    unknowns = B * (net.d - 1) + (0 if told else B)
    doubtful = (
        (
            int((observation.gradient != 0).sum()) <= unknowns,
            f"no more entries other than zero than the {unknowns} unknowns: they determine nothing",
        ),
        (not off <= 2 * precision(attack), f"{left}: {cause}"),
        (
            unequal and attack.labels is None and net.activation.homogeneous,
            "which feature has which norm is not told by the gradient: assigned at random",
        ),
    )
    return tuple(text for failed, text in doubtful if failed)


def _failure(reason: str, starts: int, passes: int) -> ReconstructionError:
    diagnostics = Diagnostics("failed", (reason,), passes=passes, starts=starts)
    return ReconstructionError(reason, diagnostics)
