"""Message passing: its formulas against those of ``bounds`` and against differences, its error against state evolution."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from test_state_evolution import NOISY, RELU, RESIDUALS, problem

from attack import Observation, TwoLayerNet, matched_rmse, observe, reconstruct
from attack.message_passing.likelihood import Likelihood
from attack.message_passing.posterior import Points
from bounds import (
    DPSGD,
    Defense,
    DeterministicRounding,
    Dropout,
    GradientNoise,
    GradientPruning,
    MessagePassing,
    NoDefense,
    NoisyPruning,
)
from bounds.density import Density, Plain
from bounds.gaussian.lines import LARGEST_B
from bounds.kinds.limit.state_evolution import gains, state_evolution


def unit_features(B: int, d: int, seed: int) -> torch.Tensor:
    X = torch.from_numpy(np.random.default_rng(seed).standard_normal((B, d)))
    return X / torch.linalg.vector_norm(X, dim=1, keepdim=True)


def observation(
    defense: Defense, m: int, *, d: int = 60, labels: Sequence[float] = (1.0, -1.0), seed: int = 0
) -> tuple[TwoLayerNet, torch.Tensor, Observation]:
    net = TwoLayerNet.sample(d, m, "relu", seed=seed)
    X = unit_features(len(labels), d, seed + 100)
    return net, X, observe(defense, net, X, list(labels), seed=seed)


# --- formulas -----------------------------------------------------------------------------------------------------------


def values(density: Density, seen: np.ndarray, parts: np.ndarray, along: int) -> tuple[np.ndarray, ...]:
    """log, slopes (B of them), bends of the tensors' formulas at parts (n, N, B)."""
    law = Likelihood.of(density, torch.from_numpy(seen))
    found = law.at(
        slice(0, len(seen)),
        tuple(torch.from_numpy(parts[..., i].copy()) for i in range(parts.shape[2])),
        along,
    )
    return found.log.numpy(), *(np.stack([t.numpy() for t in each]) for each in (found.slopes, found.bends))


@pytest.mark.parametrize("density", NOISY, ids=lambda density: type(density).__name__)
def test_densities_are_those_of_bounds_and_their_derivatives(density: Density) -> None:
    """At 24 entries and 30 terms each, equal along lines so that no blur is added: to rounding, and derivatives to the
    differences' (steps of 1e-4: 1e-6 of a slope, 1e-5 of a bend)."""
    seen = problem(2, density)[0]
    parts = np.repeat(np.random.default_rng(1).normal(size=(len(seen), 10, 2)), 3, axis=1)

    def exact(moved: np.ndarray) -> np.ndarray:
        return density.log_density(np.repeat(seen, 30), (parts + moved).reshape(-1, 2)).reshape(-1, 30)

    log, slopes, bends = values(density, seen, parts, 3)
    np.testing.assert_allclose(log, exact(np.zeros(2)), rtol=1e-7, atol=1e-7)
    h = 1e-4 * np.eye(2)
    for i in range(2):
        slope = (exact(h[i]) - exact(-h[i])) / 2e-4
        np.testing.assert_allclose(slopes[i], slope, rtol=1e-5, atol=1e-5)
    for bend, (i, k) in zip(bends, ((0, 0), (0, 1), (1, 1)), strict=True):
        mixed = exact(h[i] + h[k]) - exact(h[i] - h[k]) - exact(h[k] - h[i]) + exact(-h[i] - h[k])
        np.testing.assert_allclose(bend, mixed / 4e-8 + slopes[i] * slopes[k], rtol=1e-4, atol=1e-4)


def test_far_from_what_is_seen_densities_stay_numbers() -> None:
    """Windows hundreds of widths away: the leading term of the tail, which grows with the distance."""
    for density in NOISY:
        seen = problem(1, density)[0]
        for far in (-1e3, 1e3):
            log, slopes, bends = values(density, seen, np.full((len(seen), 3, 1), far), 3)
            for found in (log, slopes, bends):
                assert np.isfinite(found).all(), density


@pytest.mark.parametrize("B", [1, 2])
@pytest.mark.parametrize("density", NOISY, ids=lambda density: type(density).__name__)
def test_gains_are_those_of_bounds(density: Density, B: int) -> None:
    seen, omega, V = problem(B, density)
    points = Points(RELU, torch.from_numpy(V), torch.from_numpy(RESIDUALS[-B:].copy()), 40)
    law = Likelihood.of(density, torch.from_numpy(seen))
    found, sums = points.gains(law, slice(0, len(seen)), torch.from_numpy(omega))
    wanted = gains(seen, omega, V, RESIDUALS[-B:], RELU, density, 40)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max())
    # the derivative by omega, and by the residuals, of what was just checked
    step = 1e-4
    slope = sum(
        (
            points.gains(law, slice(0, len(seen)), torch.from_numpy(omega + step * axis))[0]
            - points.gains(law, slice(0, len(seen)), torch.from_numpy(omega - step * axis))[0]
        ).sum(dim=0)[i]
        / (2 * step)
        for i, axis in enumerate(np.eye(B))
    )
    # a grid that moves with omega sees kinks pass between its points: 5 per cent of a sum over 24 entries
    assert -float(slope) == pytest.approx(float(sums.curvature.trace()), rel=0.05)


# --- the attack ---------------------------------------------------------------------------------------------------------


def test_its_error_is_that_of_state_evolution() -> None:
    """d = 100, m/d = 10, sigma = .5, 4 trials, seeds 0-3. The error of one trial scatters by 1/sqrt(2 B d) = 5 per cent or a
    little more, its mean by half of that: 10 per cent. So does what the attack itself expects. At another sigma the limit
    lies outside."""
    trials = [observation(GradientNoise(sigma=0.5), 1000, d=100, seed=seed) for seed in range(4)]
    found = [reconstruct(seen, net, attack=MessagePassing(starts=1, nodes=20)) for net, _, seen in trials]
    error = math.sqrt(
        np.mean([matched_rmse(X, rec.features) ** 2 for (_, X, _), rec in zip(trials, found, strict=True)])
    )
    limit, other = (
        state_evolution(10.0, np.eye(2), RESIDUALS, RELU, Plain(sigma=sigma), draws=2**9, along=24).error
        for sigma in (0.5, 0.7)
    )
    assert error == pytest.approx(limit, rel=0.1)
    assert error != pytest.approx(other, rel=0.1)
    for rec in found:
        assert rec.diagnostics.status == "ok", rec.diagnostics.warnings
        assert rec.diagnostics.error == pytest.approx(limit, rel=0.15)


def test_undefended_it_is_exact_from_few_neurons() -> None:
    """m = 5 d = 2.5 entries for each unknown, where the tensor attack has nothing."""
    net, X, seen = observation(NoDefense(), 300)
    rec = reconstruct(seen, net, attack=MessagePassing(starts=2, nodes=16))
    assert matched_rmse(X, rec.features) < 1e-9
    assert rec.diagnostics.status == "ok"
    assert sorted(rec.labels.tolist()) == pytest.approx([-1.0, 1.0], abs=1e-8)


@pytest.mark.parametrize(
    ("defense", "m", "largest"),
    [
        (Dropout(p=0.5), 600, 0.1),
        (Dropout(p=0.5, per_sample=False), 800, 0.1),
        (GradientPruning(ratio=0.5), 600, 0.1),
        (NoisyPruning(sigma=0.1, ratio=0.5), 900, 0.15),
        (DeterministicRounding(step=0.5), 900, 0.2),
        (DPSGD(max_norm=1.0, noise_multiplier=0.01), 900, 0.35),
    ],
    ids=lambda value: value.name if isinstance(value, Defense) else "",
)
def test_defenses_are_seen_through_by_their_densities(defense: Defense, m: int, largest: float) -> None:
    """d = 60, seed 0, twelve passes: well below what guessing scores, 1, and the attack knows how far it is (to a third)."""
    net, X, seen = observation(defense, m)
    rec = reconstruct(seen, net, attack=MessagePassing(iterations=12, starts=1, nodes=20))
    error = matched_rmse(X, rec.features)
    assert error < largest
    # entries kept for their size leave a doubt that no other law does
    kept = any("kept for their size" in warning for warning in rec.diagnostics.warnings)
    assert kept is isinstance(defense, GradientPruning | NoisyPruning)
    if defense.density().sigma > 0:
        assert rec.diagnostics.error == pytest.approx(error, rel=0.33)


@pytest.mark.parametrize("told", [0.25, 1.0])
def test_a_wrong_sigma_is_noticed(told: float) -> None:
    """Noise .5 of which .25 or 1 is told: entries lie too far from their forecast, or too near. Of too little noise an error
    is expected that is too small as well."""
    net, X, seen = observation(GradientNoise(sigma=0.5), 900)
    wrong = dataclasses.replace(seen, defense=GradientNoise(sigma=told))
    rec = reconstruct(wrong, net, attack=MessagePassing(starts=1, nodes=20))
    assert rec.diagnostics.status == "suspect"
    assert any("from their forecast" in warning for warning in rec.diagnostics.warnings)
    if told < 0.5:
        assert rec.diagnostics.error < 0.85 * matched_rmse(X, rec.features)


def test_a_feature_too_many_is_noticed() -> None:
    net, _, seen = observation(GradientNoise(sigma=0.3), 1200, labels=(1.0, -1.0, 1.0))
    fewer = Observation(seen.gradient, 2, seen.norms[:2], seen.defense)
    rec = reconstruct(fewer, net, attack=MessagePassing(starts=1, nodes=20))
    assert rec.diagnostics.status == "suspect"


def test_equal_seeds_give_equal_bits_in_any_unit() -> None:
    net, _, seen = observation(NoDefense(), 300)
    quick = MessagePassing(iterations=4, starts=1, nodes=16)
    first, again, other = (reconstruct(seen, net, attack=quick, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(first.features, again.features)
    assert not torch.equal(first.features, other.features)
    tiny = dataclasses.replace(seen, gradient=seen.gradient * 2.0**-200)
    huge = dataclasses.replace(seen, gradient=seen.gradient * 2.0**300)
    units = [reconstruct(each, net, attack=quick, seed=5) for each in (tiny, huge)]
    for rec, scale in zip(units, (2.0**-200, 2.0**300), strict=True):
        torch.testing.assert_close(rec.features, units[0].features)
        torch.testing.assert_close(rec.residuals / scale, units[0].residuals / 2.0**-200)


def test_bad_input_is_refused() -> None:
    net, _, seen = observation(NoDefense(), 300)
    with pytest.raises(ValueError, match="batch_size must be the observation's"):
        reconstruct(seen, net, batch_size=3, attack=MessagePassing())
    many = Observation(seen.gradient, LARGEST_B + 1, (1.0,) * (LARGEST_B + 1), seen.defense)
    with pytest.raises(ValueError, match=f"batch_size must be at most {LARGEST_B}"):
        reconstruct(many, net, attack=MessagePassing())
    for options in ({"iterations": 0}, {"starts": 0}, {"nodes": 5}, {"damping": 1.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            MessagePassing(**options)
    with pytest.raises(ValueError, match="density must be one of"):
        Likelihood.of(Density(), seen.gradient)
