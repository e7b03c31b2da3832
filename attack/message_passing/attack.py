"""The Bayes-optimal attack for elementwise defenses: approximate message passing with several components."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from attack.message_passing.iteration import Belief, first, step
from attack.message_passing.likelihood import Likelihood
from attack.message_passing.posterior import Points
from attack.networks.two_layer import TwoLayerNet
from attack.observation import Observation
from attack.reconstruction import Diagnostics, Reconstruction, ReconstructionError
from attack.streams import normal
from attack.units import gradient_unit, shift
from bounds import checks
from bounds.density import Thresholded
from bounds.estimator import MessagePassing
from bounds.gaussian.activations import ZERO
from bounds.gaussian.lines import LARGEST_B, RESOLVED

#: Part of the Gram matrix that a start claims to know: features of this squared size in random directions.
START = 0.01

#: Blur of the likelihood at the start, in units of the root mean square of what is seen.
START_BLUR = 0.5

#: Share of the old iterate that every other start keeps at least.
DAMPED = 0.5

#: Residuals that are tried for the starts, on so many neurons and points on a line.
CANDIDATES, FEW_NEURONS, FEW_NODES = 32, 300, 12

#: Passes end when the features move by less than this part of the error that is expected, and the blur is as small beside
#: what the error leaves open of an entry.
PRECISION = 0.03

#: ... or when the error that is expected has come down to this many times what the sharpest likelihood resolves,
EXACT = 10.0

#: ... or has not fallen to a new low for so many passes.
PATIENCE = 20

#: A start whose expected error is above this part of the features' size has found nothing.
UNINFORMED = 0.95

#: A share of its squared norm above which a feature has not been seen.
UNSEEN = 0.9

#: Standard errors that the surplus may be from zero.
SURPRISE = 5.0


@dataclass(frozen=True, eq=False)
class _Run:
    """One start to its end: what is believed, the passes made, and what speaks against it (nothing: the attack is done)."""

    belief: Belief
    passes: int
    doubts: tuple[str, ...]


def message_passing_attack(
    observation: Observation,
    net: TwoLayerNet,
    batch_size: int | None = None,
    attack: MessagePassing | None = None,
    seed: int = 2,
) -> Reconstruction:
    """The posterior mean of the features given one observed gradient with respect to the output weights, residuals and Gram
    matrix estimated on the way; norms are public, labels are not known. Needs Gaussian weights.

    The features are shorter than the public norms by what is not known of them: the posterior mean has the least error.
    Their Gram matrix is EM's from that of orthogonal features, the residuals are those of the largest evidence (Newton
    steps) from random ones. Diagnostics: ``misfit`` is the mean over neurons of the squared distance of ``w_j.x`` from
    its forecast, over its expectation, 1; ``error`` the R that the posterior expects. Passes end as ``PRECISION`` says;
    a start whose passes do not, or whose answer is suspect, is followed by another, up to ``attack.starts``: the same one
    with damping, then one from elsewhere. The first without a doubt is returned, else that of the largest evidence.

    batch_size: B, at most ``LARGEST_B``; must equal the observation's when given. Raises ``ValueError`` on bad input, a
    larger B or a defense whose density has no formulas here, ``ReconstructionError`` when no start gives a number.
    """
    checks.instance("observation", observation, Observation)
    checks.instance("net", net, TwoLayerNet)
    attack = MessagePassing() if attack is None else attack
    checks.instance("attack", attack, MessagePassing)
    checks.integer("seed", seed, 0)
    B = observation.expected_batch(net, batch_size)
    if B > LARGEST_B:
        raise ValueError(
            f"batch_size must be at most {LARGEST_B} for message passing, whose posteriors are sums over points in B "
            f"dimensions; got {B}"
        )
    unit = gradient_unit(observation.gradient)
    seen = shift(observation.gradient.double(), -unit).to(net.device)
    if not bool(seen.any()):
        reason = "the gradient is zero: it tells nothing of features"
        raise ReconstructionError(reason, Diagnostics("failed", (reason,)))
    likelihood = Likelihood.of(observation.defense.density(), seen, unit, _rounding(net))
    runs = _runs(net, likelihood, observation.norms, attack, seed)
    passes = sum(run.passes for run in runs)
    finite = [run for run in runs if math.isfinite(run.belief.evidence)]
    if not finite:
        reason = f"none of {len(runs)} starts gave numbers: too few neurons, or a density that excludes what is seen"
        raise ReconstructionError(reason, Diagnostics("failed", (reason,), passes=passes, starts=len(runs)))
    best = next((run for run in finite if not run.doubts), max(finite, key=lambda run: run.belief.evidence))
    warnings = best.doubts + _ambiguity(likelihood, B) + _unseen(best.belief, net.m)
    features = best.belief.features
    residuals = shift(best.belief.residuals, unit)
    lengths = torch.linalg.vector_norm(features, dim=1, keepdim=True).clamp_min(1e-300)
    norms = torch.tensor(observation.norms, device=net.device, dtype=torch.float64)[:, None]
    labels = net.forward((features * norms / lengths).to(net.dtype)) - residuals
    return Reconstruction(
        features,
        residuals,
        labels,
        Diagnostics(
            status="suspect" if warnings else "ok",
            warnings=warnings,
            passes=passes + 1,
            misfit=1 + best.belief.surplus.mean / B,
            expected=1.0,
            error=best.belief.error,
            starts=len(runs),
            sign_free=_odd(net),
        ),
    )


def _unseen(belief: Belief, m: int) -> tuple[str, ...]:
    """Warnings of what no neuron tells: features that are as uncertain as at first, entries fewer than unknowns."""
    B, d = belief.features.shape
    free = 1 - belief.features.square().sum(dim=1) / torch.diagonal(belief.gram)
    hidden = [str(i) for i in range(B) if float(free[i]) > UNSEEN]
    few = f"m = {m} entries are no more than the {B * d + B} unknowns: they determine nothing"
    said = (
        (
            bool(hidden),
            f"nothing is told of feature {', '.join(hidden)}: a vanishing residual, or too much noise",
        ),
        (m <= B * d + B and float(free.mean()) < 0.5, few),
    )
    return tuple(text for failed, text in said if failed)


def _runs(
    net: TwoLayerNet, likelihood: Likelihood, norms: tuple[float, ...], attack: MessagePassing, seed: int
) -> list[_Run]:
    """One start after the other, until one leaves no doubt. Every other one goes where that before it went, with damping:
    passes that swing then come to rest."""
    gram = torch.diag(torch.tensor(norms, device=net.device, dtype=torch.float64) ** 2)
    residuals = _residual_starts(net, likelihood, gram, -(-attack.starts // 2), seed)
    slower = replace(attack, damping=max(attack.damping, DAMPED))
    runs: list[_Run] = []
    for start in range(attack.starts):
        place = start // 2
        belief = _start(net, likelihood, gram, residuals[place], seed, place)
        runs.append(_run(net, likelihood, belief, slower if start % 2 else attack))
        if not runs[-1].doubts:
            break
    return runs


def _start(
    net: TwoLayerNet,
    likelihood: Likelihood,
    gram: torch.Tensor,
    residuals: torch.Tensor,
    seed: int,
    start: int,
) -> Belief:
    """Features in random directions, ``START`` of the Gram matrix explained."""
    drawn = normal((len(gram), net.d), seed, "starts", 0, start, device="cpu", dtype=torch.float64)
    features = torch.sqrt(START * torch.diagonal(gram) / net.d)[:, None] * drawn.to(net.device)
    return first(net, features, residuals, gram, START, START_BLUR * likelihood.size)


def _residual_starts(
    net: TwoLayerNet, likelihood: Likelihood, gram: torch.Tensor, count: int, seed: int
) -> torch.Tensor:
    """Residuals (count, B) for the starts: of random ones that give entries of the size that is seen, those under which the
    distribution of the first ``FEW_NEURONS`` entries is likeliest, the best one first."""
    B = len(gram)
    drawn = normal((max(CANDIDATES, count), B), seed, "starts", 1, device="cpu", dtype=torch.float64).to(
        net.device
    )
    sizes = [_size(net, float(square) ** 0.5) for square in torch.diagonal(gram)]
    sized = drawn * torch.tensor(sizes, device=net.device, dtype=torch.float64)
    drawn *= likelihood.size / torch.linalg.vector_norm(sized, dim=1, keepdim=True)
    blurred = likelihood.blurred(START_BLUR / 4 * likelihood.size)
    nothing = torch.zeros(min(FEW_NEURONS, net.m), B, device=net.device, dtype=torch.float64)
    likely = [
        float(
            Points(net.activation, gram, r, FEW_NODES)
            .gains(blurred, slice(0, len(nothing)), nothing)[1]
            .evidence
        )
        for r in drawn
    ]
    best = sorted(range(len(likely)), key=lambda k: -likely[k])
    return drawn[best[:count]]


def _size(net: TwoLayerNet, norm: float) -> float:
    """Root mean square of ``sigma(norm Z)`` to its first Hermite coefficients, which has no part to be exact."""
    return math.sqrt(sum(net.activation.coefficient(k, norm) ** 2 / math.factorial(k) for k in range(5)))


def _run(net: TwoLayerNet, likelihood: Likelihood, belief: Belief, attack: MessagePassing) -> _Run:
    """From one start to rest."""
    size = float(torch.sqrt(belief.gram.trace() / len(belief.gram)))
    lowest, since, converged, passes = math.inf, 0, False, 0
    while passes < attack.iterations and since < PATIENCE and not converged:
        before, passes = belief, passes + 1
        belief = step(net, likelihood, before, attack)
        if not math.isfinite(belief.evidence):
            return _Run(belief, passes, ("passes diverged",))
        moved = float(torch.linalg.vector_norm(belief.features - before.features)) / math.sqrt(
            len(belief.gram)
        )
        left = likelihood.size * belief.error / size
        if left <= EXACT * likelihood.least:
            return _Run(belief, passes, _doubts(likelihood, belief, size, passes, converged=True))
        converged = moved <= PRECISION * belief.error and belief.blur <= PRECISION * left
        since = 0 if belief.error < (1 - PRECISION) * lowest else since + 1
        lowest = min(lowest, belief.error)
    return _Run(belief, passes, _doubts(likelihood, belief, size, passes, converged=converged))


def _doubts(
    likelihood: Likelihood, belief: Belief, size: float, passes: int, *, converged: bool
) -> tuple[str, ...]:
    """What speaks against the answer. Data may lie too far from their forecast; too near they can lie only where the noise,
    and not the distance of points, is the width of the likelihood."""
    surplus, part = belief.surplus, belief.error / size
    sharp = likelihood.density.sigma > RESOLVED * likelihood.size * part
    off = abs(surplus.mean) if sharp else surplus.mean
    ratio = 1 + surplus.mean / len(belief.gram)
    checks_made = (
        (not converged, f"not at rest after {passes} passes"),
        (part > UNINFORMED, f"uninformative: the error expected is {part:.2f} of the features' size"),
        (
            off > SURPRISE * surplus.error,
            f"entries lie {ratio:.2f} times as far from their forecast as the defense's density lets expect "
            f"({off / max(surplus.error, 1e-300):.0f} standard errors)",
        ),
    )
    return tuple(text for failed, text in checks_made if failed)


def _ambiguity(likelihood: Likelihood, B: int) -> tuple[str, ...]:
    """Of entries kept for their size. ``sigma(z) = sigma(-z) + z`` for ReLU and others, and on the neurons that a strong
    feature activates its term takes up the linear part of another's: the posterior has a second peak nearly as high, which
    is seen from there alone."""
    if (
        not isinstance(likelihood.density, Thresholded)
        or B == 1
        or bool((likelihood.lower == likelihood.upper).all())
    ):
        return ()
    return (
        "entries are kept for their size: with one feature turned round others may explain them nearly as well",
    )


def _rounding(net: TwoLayerNet) -> float:
    return float(torch.finfo(net.dtype).eps)


def _odd(net: TwoLayerNet) -> bool:
    return all(abs(net.activation.coefficient(k)) <= ZERO for k in (0, 2, 4, 6, 8))
