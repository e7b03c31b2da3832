"""What an entry that is seen tells of the clean one: densities against channels, the likelihood on tensors against both."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attack import TwoLayerNet, observe
from attack.likelihood.entries import Censored, entries_of
from bounds import (
    DEFENSES,
    DPSGD,
    Clamping,
    Defense,
    DeterministicRounding,
    Dropout,
    GradientNoise,
    GradientPruning,
    NoisyPruning,
    SignCompression,
    StochasticRounding,
    UnsupportedBound,
)
from bounds.density import Clamped, Dithered, Erased, Masked, Plain, Rounded, Signs, Thresholded, log_window

# Defenses whose density is tested against the channel, one entry law each.
DEFENDED: tuple[Defense, ...] = (
    GradientNoise(sigma=0.7),
    DPSGD(max_norm=1.0, noise_multiplier=0.002),
    Dropout(p=0.6, per_sample=False),
    Dropout(p=0.3),
    GradientPruning(ratio=0.8),
    NoisyPruning(sigma=0.1, ratio=0.8),
    DeterministicRounding(step=0.8),
    StochasticRounding(step=0.8),
    SignCompression(),
    Clamping(limit=0.6),
)

DENSITIES = (
    Plain(sigma=0.4),
    Erased(p=0.6),
    Thresholded(ratio=0.8),
    Thresholded(sigma=0.3, ratio=0.8),
    Rounded(step=0.7),
    Dithered(step=0.7),
    Signs(),
    Clamped(limit=0.6),
    Masked(p=0.3),
)


def seen_under(defense: Defense, m: int = 4_000) -> tuple[np.ndarray, np.ndarray]:
    """Entries under the defense, and the terms (m, B) they are made of (of clipped residuals, for DP-SGD)."""
    generator = np.random.default_rng(5)
    X = generator.standard_normal((2, 6))
    X = torch.from_numpy(X / np.linalg.norm(X, axis=1, keepdims=True))
    y = torch.tensor([1.0, -1.0], dtype=torch.float64)
    net = TwoLayerNet.sample(6, m, seed=3)
    seen = observe(defense, net, X, y, seed=1).gradient.numpy()
    hidden = net.hidden(X).numpy().T
    residuals = net.forward(X).numpy() - y.numpy()
    if isinstance(defense, Dropout):  # residuals are those of the masked network
        design = hidden[:, None, :] * np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]) / (1 - defense.p)
        for _ in range(20):
            off = seen[:, None] - design @ residuals
            best = design[np.arange(m), np.abs(off).argmin(axis=1)]
            used = np.abs(seen) > 0
            residuals = np.linalg.lstsq(best[used], seen[used], rcond=None)[0]
    if isinstance(defense, DPSGD):
        sizes = np.abs(residuals) * np.linalg.norm(hidden, axis=0)
        residuals = residuals * np.minimum(1, defense.max_norm / sizes)
    return seen, hidden * residuals


@pytest.mark.parametrize("defense", DEFENDED, ids=str)
def test_what_a_channel_sends_is_likely_under_the_density_and_not_under_another(defense: Defense) -> None:
    """The clean entries' own log-likelihood is above that of entries 5 per cent larger, by far more than it varies:
    m = 4 000, at a blur of a hundredth of the entries. A density that puts the window elsewhere turns it round."""
    seen, parts = seen_under(defense)
    blur = 0.01 if defense.density().sigma == 0 else 0.0
    own, other = (defense.density().log_density(seen, factor * parts, blur).sum() for factor in (1.0, 1.05))
    if isinstance(defense, SignCompression):  # the size of entries is not told
        other = defense.density().log_density(seen, parts[:, ::-1] * np.array([-1.0, 1.0]), blur).sum()
    assert own > other + 10


@pytest.mark.parametrize("density", DENSITIES, ids=lambda d: type(d).__name__)
def test_the_likelihood_on_tensors_is_that_of_numpy(density: Plain) -> None:
    """Differences of log-likelihoods of two sets of terms agree to 1e-9 relative: constants drop out."""
    generator = np.random.default_rng(0)
    parts = generator.standard_normal((500, 2)) * np.array([1.0, 0.5])
    seen = parts.sum(axis=1)
    if isinstance(density, Erased | Thresholded):
        seen = np.where(np.abs(seen) > 0.5, seen, 0.0)
    if isinstance(density, Rounded | Dithered):
        seen = density.step * np.round(seen / density.step)
    if isinstance(density, Signs):
        seen = np.sign(seen)
    if isinstance(density, Clamped):
        seen = np.clip(seen, -density.limit, density.limit)
    entries = entries_of(density, torch.from_numpy(seen), 1.0, 2, torch.ones(500, dtype=torch.float64))
    blur = 0.0 if density.sigma else 0.2
    others = parts + 0.1 * generator.standard_normal(parts.shape)
    told = [
        float(entries.local(slice(None), torch.from_numpy(terms), blur).loss.sum())
        for terms in (parts, others)
    ]
    expected = [float(density.log_density(seen, terms, blur).sum()) for terms in (parts, others)]
    assert told[0] - told[1] == pytest.approx(expected[1] - expected[0], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("density", DENSITIES, ids=lambda d: type(d).__name__)
def test_scores_and_curvatures_are_derivatives(density: Plain) -> None:
    """Against central differences of the loss, relative to the largest: 1e-6 for the score. The curvature is the second
    derivative, but for masks, where it is that of complete data and at least as large."""
    generator = np.random.default_rng(1)
    parts = torch.from_numpy(generator.standard_normal((300, 2)))
    seen = parts.sum(dim=1) + 0.3 * torch.from_numpy(generator.standard_normal(300))
    if isinstance(density, Dithered | Rounded):
        seen = density.step * torch.round(seen / density.step)
    if isinstance(density, Signs):
        seen = torch.sign(seen)
    if isinstance(density, Thresholded):
        seen = torch.where(seen.abs() > 0.5, seen, 0.0)
    entries = entries_of(density, seen, 1.0, 2, torch.ones(300, dtype=torch.float64))
    blur = 0.0 if density.sigma else 0.25

    def loss(shift: float) -> torch.Tensor:
        moved = parts + torch.tensor([shift, 0.0], dtype=torch.float64)
        return entries.local(slice(None), moved, blur).loss

    local = entries.local(slice(None), parts, blur)
    score = local.score if local.score.ndim == 1 else local.score[:, 0]
    slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
    assert float((score + slope).abs().max()) < 1e-6 * float(slope.abs().max())
    bend = (loss(1e-4) - 2 * loss(0.0) + loss(-1e-4)) / 1e-8
    if isinstance(density, Masked):
        assert bool((local.curvature[:, 0, 0] > bend - 1e-4).all())
    else:
        assert float((local.curvature - bend).abs().max()) < 1e-4 * float(bend.abs().max())


@pytest.mark.parametrize("density", [Rounded(step=0.5), Dithered(step=0.5), Signs()], ids=str)
def test_far_from_the_window_derivatives_stay_finite(density: Plain) -> None:
    parts = torch.linspace(-300, 300, 601, dtype=torch.float64)[:, None]
    seen = (
        torch.zeros(601, dtype=torch.float64) if not isinstance(density, Signs) else torch.ones(601).double()
    )
    entries = entries_of(density, seen, 1.0, 1, torch.ones(601, dtype=torch.float64))
    local = entries.local(slice(None), parts, 0.005)
    assert all(bool(torch.isfinite(values).all()) for values in local)
    assert bool((local.curvature >= 0).all())


def test_windows_integrate_to_one() -> None:
    edges = np.linspace(-12, 12, 4_001)
    mass = np.exp(log_window(edges[:-1], edges[1:], 1.3)).sum()
    assert mass == pytest.approx(1, abs=1e-12)
    steps = 0.7 * np.arange(-40, 41)
    for blur in (0.0, 0.1):
        for clean in (0.0, 0.3, 1.1):
            parts = np.full((len(steps), 1), clean)
            total = np.exp(Dithered(step=0.7).log_density(steps, parts, blur)).sum()
            assert total == pytest.approx(1, abs=1e-9)
            assert np.exp(Rounded(step=0.7).log_density(steps, parts, 0.1)).sum() == pytest.approx(
                1, abs=1e-9
            )


def test_every_defense_of_the_tree_says_its_density() -> None:
    for family in DEFENSES:
        for member in family.grid():
            assert member.density().sigma >= 0


def test_what_a_fit_leaves_of_censored_entries_is_what_is_expected() -> None:
    """200 draws of 500 noisy entries (seed 2), 70 per cent removed: at the truth the mean of what is left is as expected to
    four standard errors, and its standard deviation to 20 per cent (5 is its own); entries counted as noise are far off."""
    generator = np.random.default_rng(2)
    clean = generator.standard_normal(500)
    density, left, told = Thresholded(sigma=0.5, ratio=0.7), [], []
    for _ in range(200):
        noisy = clean + density.sigma * generator.standard_normal(500)
        seen = np.where(np.abs(noisy) > np.sort(np.abs(noisy))[349], noisy, 0.0)
        entries = entries_of(density, torch.from_numpy(seen), 1.0, 1, torch.ones(500, dtype=torch.float64))
        assert isinstance(entries, Censored)
        fit = entries.fit(torch.from_numpy(clean)[:, None], 0)
        left.append(fit.left)
        told.append((fit.expected, fit.spread))
    expected, spread = np.mean(told, axis=0)
    error = np.std(left) / np.sqrt(200)
    assert abs(np.mean(left) - expected) < 4 * error < 0.1 * expected
    assert np.std(left) == pytest.approx(spread, rel=0.2)
    assert abs(np.mean(left) - 500 * density.sigma**2) > 100 * error


def test_a_defense_that_does_not_is_told_so() -> None:
    class Silent(Defense):
        name = "silent"

    with pytest.raises(UnsupportedBound, match="Silent does not say the density"):
        Silent().density()
