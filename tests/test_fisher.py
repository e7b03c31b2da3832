"""Fisher information of a network against automatic differentiation, Cramer and Rao's bound, and what goes below it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bounds import (
    DPSGD,
    Defense,
    Dropout,
    GradientNoise,
    Kind,
    LikelihoodAttack,
    NoisyPruning,
    Setting,
    UnsupportedBound,
    cramer_rao,
    evaluate,
    fisher_information,
)
from bounds.arrays import Array
from bounds.kinds.lower import fisher
from bounds.kinds.predicted.likelihood import population_cramer_rao, population_information

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 4))
X /= np.linalg.norm(X, axis=1, keepdims=True)
Y = np.array([1.0, -0.5])
W = RNG.standard_normal((40, 4))
TORCH = {"relu": torch.relu, "gelu": torch.nn.functional.gelu, "tanh": torch.tanh}


def differentiated(
    activation: str, norms: str, residuals: str, clip: float = math.inf, per_sample: bool = False
) -> Array:
    """The information about features (8, 8) for unit noise, by the Jacobian of what a client computes."""
    weights, labels = torch.from_numpy(W), torch.from_numpy(Y)
    start = torch.from_numpy(X)
    actual = TORCH[activation](start @ weights.T).mean(dim=1) - labels

    def entries(flat: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        x = flat.reshape(2, 4)
        if norms == "sphere":
            x = x / torch.linalg.vector_norm(x, dim=1, keepdim=True)
        hidden = TORCH[activation](x @ weights.T)
        r = hidden.mean(dim=1) - labels if residuals == "function" else given
        terms = r[:, None] * hidden
        if per_sample:
            factors = torch.clamp(clip / torch.linalg.vector_norm(terms, dim=1), max=1.0)
            return (terms * factors[:, None]).sum(dim=0)
        whole = terms.sum(dim=0)
        if math.isinf(clip):
            return whole
        return whole * torch.clamp(clip / torch.linalg.vector_norm(whole), max=1.0)

    by_x, by_r = torch.autograd.functional.jacobian(entries, (start.reshape(-1), actual))
    J = by_x.numpy()
    if residuals == "free":
        H = by_r.numpy()
        J = J - H @ np.linalg.pinv(H * (np.abs(H) > 1e-12)) @ J  # clipped samples do not tell their residuals
    return np.asarray(J.T @ J)


@pytest.mark.parametrize("residuals", fisher.RESIDUALS)
@pytest.mark.parametrize("norms", fisher.NORMS)
@pytest.mark.parametrize("activation", TORCH)
def test_information_is_that_of_automatic_differentiation(
    activation: str, norms: str, residuals: str
) -> None:
    setting = Setting.from_features(X, Y, 40, activation)
    found = fisher_information(GradientNoise(0.5), setting, W, features=X, norms=norms, residuals=residuals)
    expected = differentiated(activation, norms, residuals) / 0.25
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("residuals", fisher.RESIDUALS)
@pytest.mark.parametrize(("clip", "per_sample"), [(1.0, True), (1.0, False), (2.5, True), (1e3, False)])
def test_clipping_is_differentiated_too(clip: float, per_sample: bool, residuals: str) -> None:
    defense = DPSGD(max_norm=clip, noise_multiplier=0.1, per_sample=per_sample)
    setting = Setting.from_features(X, Y, 40, "gelu")
    found = fisher_information(defense, setting, W, features=X, residuals=residuals)
    expected = differentiated("gelu", "sphere", residuals, clip, per_sample) / (0.1 * clip) ** 2
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9 * np.abs(expected).max())


def test_products_without_a_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimated trace is within 4 of its standard errors of the computed one, which are below 3 %."""
    setting = Setting.orthonormal(20, 600, 2)
    weights = np.random.default_rng(1).standard_normal((600, 20))
    for defense, residuals in (
        (GradientNoise(0.5), "function"),
        (GradientNoise(0.5), "free"),
        (DPSGD(max_norm=2.0, noise_multiplier=0.1), "known"),
    ):
        exact = cramer_rao(defense, setting, weights, residuals=residuals)
        with monkeypatch.context() as patch:
            patch.setattr(fisher, "_AT_A_TIME", 1000)  # in parts, and the same
            assert cramer_rao(defense, setting, weights, residuals=residuals).error == pytest.approx(
                exact.error
            )
            patch.setattr(fisher, "DENSE", 10)
            near = cramer_rao(defense, setting, weights, residuals=residuals)
            with pytest.raises(ValueError, match="B d must be at most 10"):
                fisher_information(defense, setting, weights, residuals=residuals)
        assert exact.standard_error == 0 < near.standard_error < 0.03 * exact.error
        assert abs(near.error - exact.error) < 4 * near.standard_error
        assert exact.identifiable == exact.unknowns == 38


def test_what_is_known_makes_the_bound_smaller() -> None:
    setting = Setting.orthonormal(10, 400, 2, "gelu")
    weights = np.random.default_rng(2).standard_normal((400, 10))

    def error(norms: str, residuals: str) -> float:
        return cramer_rao(GradientNoise(0.1), setting, weights, norms=norms, residuals=residuals).error

    for norms in fisher.NORMS:
        assert error(norms, "known") < error(norms, "free")
    for residuals in fisher.RESIDUALS:
        assert error("sphere", residuals) < error("free", residuals)


def test_what_is_not_determined_is_named_and_bounds_the_rest() -> None:
    weights = np.random.default_rng(3).standard_normal((300, 5))
    noise = GradientNoise(0.5)
    setting = Setting.orthonormal(5, 300, 2)
    free = cramer_rao(noise, setting, weights, norms="free", residuals="free")
    assert free.identifiable == 8 and free.unknowns == 10
    assert free.degenerate == (
        "the norm of feature 0 is not determined",
        "the norm of feature 1 is not determined",
    )
    sphere = cramer_rao(noise, setting, weights, norms="sphere", residuals="free")
    assert free.error == pytest.approx(sphere.error, rel=1e-6) and sphere.degenerate == ()
    # a residual of exactly 0 leaves no trace of its feature where residuals are numbers
    hidden = np.maximum(weights[:, :2], 0).mean(axis=0)
    still = Setting.orthonormal(5, 300, 2, labels=[hidden[0], -1.0])
    features = np.eye(2, 5)
    none = cramer_rao(noise, still, weights, features=features, residuals="known")
    assert none.identifiable == 4 and len(none.degenerate) == 1 and "feature 0: 4" in none.degenerate[0]
    assert math.isfinite(none.error)
    alone = Setting.orthonormal(5, 300, 1, labels=[hidden[0]])
    with pytest.raises(UnsupportedBound, match="nothing of the features is determined"):
        cramer_rao(noise, alone, weights, features=np.eye(1, 5), residuals="known")


def test_bad_input_and_no_noise() -> None:
    setting = Setting.from_features(X, Y, 40, "relu")
    for wrong in ({"norms": "known"}, {"residuals": "none"}, {"features": 2 * X}, {"threshold": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            fisher_information(GradientNoise(1.0), setting, W, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="net_weights"):
        fisher_information(GradientNoise(1.0), setting, W[:5])
    defenses: tuple[Defense, ...] = (GradientNoise(0.0), Dropout(p=0.5))
    for defense in defenses:
        with pytest.raises(UnsupportedBound, match="without noise"):
            fisher_information(defense, setting, W)


# --- the population -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("B", "activation"), [(1, "relu"), (2, "relu"), (3, "gelu")])
def test_predicted_is_cramer_rao_on_wide_networks(B: int, activation: str) -> None:
    """Norms known, residuals unknown: a network of 20 000 neurons in 8 dimensions has it within 2 %, where the count of
    directions alone, (d - 1)/m tr Q^-1, is off by more for B = 3."""
    setting = Setting.orthonormal(8, 20_000, B, activation)
    weights = np.random.default_rng(4).standard_normal((20_000, 8))
    found = cramer_rao(GradientNoise(0.3), setting, weights, residuals="free").error
    predicted = evaluate(GradientNoise(0.3), setting, LikelihoodAttack()).predicted
    assert predicted == pytest.approx(found, rel=0.02)
    whole = population_information(setting.gram, setting.residuals, setting.activation)
    assert np.allclose(whole, whole.T) and np.linalg.eigvalsh(whole)[0] > 0
    if B == 3:
        counted = population_cramer_rao(
            GradientNoise(0.3).density(), setting.gram, setting.residuals, setting.activation, d=8, m=20_000
        )
        assert abs(counted / found - 1) > 0.02


def test_predicted_where_it_is_stated() -> None:
    attack = LikelihoodAttack()
    value = evaluate(DPSGD(max_norm=1.0, noise_multiplier=0.002), Setting.orthonormal(50, 20_000, 2), attack)
    assert value.predicted is not None and value.lower is not None and value.lower < value.predicted
    for defense, m, why in (
        (GradientNoise(0.0), 5000, "without noise"),
        (Dropout(p=0.5), 5000, "without noise"),
        (GradientNoise(3.0), 2000, "which is not small"),
        (GradientNoise(0.01), 900, "fewer than 10 for each"),
    ):
        found = evaluate(defense, Setting.orthonormal(50, m, 2), attack)[Kind.PREDICTED]
        assert found.value is None and why in found.why
    vanishing = Setting.orthonormal(50, 5000, 2, labels=[1 / math.sqrt(2 * math.pi), 1.0])
    found = evaluate(GradientNoise(0.1), vanishing, attack)[Kind.PREDICTED]
    assert found.value is None and "a residual vanishes" in found.why


def local_errors(shrink: float, sigma: float, m: int, d: int, trials: int) -> tuple[Array, float]:
    """Squared errors of one Gauss-Newton step of the known-residual model from the truth (efficient, unbiased) times
    ``shrink``; and the mean of Cramer and Rao's bound. One ReLU feature, seed 5."""
    rng = np.random.default_rng(5)
    x, errors, bounds = np.eye(1, d)[0], [], []
    for _ in range(trials):
        weights = rng.standard_normal((m, d))
        r = float(np.maximum(weights @ x, 0).mean()) - 1.0
        J = r * (weights @ x > 0)[:, None] * weights[:, 1:]
        step = np.linalg.solve(J.T @ J, J.T @ (sigma * rng.standard_normal(m)))
        estimate = shrink * np.append(1.0, step)
        errors.append(float(np.sum((estimate - x) ** 2)))
        bounds.append(sigma**2 * float(np.trace(np.linalg.inv(J.T @ J))))
    return np.array(errors), float(np.mean(bounds))


def test_shrinking_goes_below_cramer_rao_and_not_below_lower() -> None:
    """200 trials of strong noise, 4 standard errors: the step itself is at Cramer and Rao's bound; shrunk by 1/(1 + its mean
    square) it is far below, and above LOWER, and below three times LOWER."""
    d, m, sigma = 20, 400, 1.0
    plain, bound = local_errors(1.0, sigma, m, d, 200)
    error = plain.std() / math.sqrt(200)
    assert abs(plain.mean() - bound) < 4 * error
    shrunk, _ = local_errors(1 / (1 + bound), sigma, m, d, 200)
    spread = shrunk.std() / math.sqrt(200)
    lower = evaluate(GradientNoise(sigma), Setting.orthonormal(d, m, 1)).lower
    assert lower is not None
    assert lower**2 < shrunk.mean() - 4 * spread
    assert shrunk.mean() + 4 * spread < bound
    assert shrunk.mean() + 4 * spread < 9 * lower**2


def test_pruned_entries_tell_that_they_are_small() -> None:
    """The threshold is that of many entries unless given: that of these 2000 as drawn (seed 7), to 1 per cent of the bound.
    Known as 0 it takes nothing, and as it is it costs."""
    setting = Setting.orthonormal(6, 2_000, 2)
    rng = np.random.default_rng(7)
    weights = rng.standard_normal((2_000, 6))
    defense, sigma = NoisyPruning(sigma=0.5, ratio=0.8), 0.5
    hidden = np.maximum(weights[:, :2], 0)
    noisy = hidden @ (hidden.mean(axis=0) - setting.labels) + sigma * rng.standard_normal(2_000)
    told = {t: cramer_rao(defense, setting, weights, threshold=t).error for t in (None, 0.0)}
    drawn = cramer_rao(defense, setting, weights, threshold=float(np.quantile(np.abs(noisy), 0.8))).error
    alone = cramer_rao(GradientNoise(sigma), setting, weights).error
    assert told[None] == pytest.approx(drawn, rel=0.01)
    assert told[0.0] == pytest.approx(alone, rel=1e-9) and told[None] > 1.1 * alone
    assert cramer_rao(NoisyPruning(sigma, 0.0), setting, weights).error == pytest.approx(alone, rel=1e-9)


def test_rows_that_are_kept_are_no_bound_where_features_choose_them() -> None:
    """One feature, d = 20, the quarter of 16 000 entries that is largest, with noise of 10 on values that are kept (5
    networks, seed 6). Cramer and Rao's bound on kept rows is above .8; the mean of the kept neurons' weights, the mask
    alone, has R below .1: nothing of the kind is stated for pruning before noise."""
    rng = np.random.default_rng(6)
    d, m, sigma = 20, 16_000, 10.0
    x = np.eye(1, d)[0]
    for _ in range(5):
        weights = rng.standard_normal((m, d))
        r = float(np.maximum(weights @ x, 0).mean()) - 1.0
        g = r * np.maximum(weights @ x, 0)
        kept = np.abs(g) >= np.quantile(np.abs(g), 0.75)
        rows = weights[kept][:, 1:]
        claimed = sigma / abs(r) * math.sqrt(np.trace(np.linalg.inv(rows.T @ rows)))
        mask = weights[kept].sum(axis=0)
        found = float(np.linalg.norm(mask / np.linalg.norm(mask) - x))
        assert found < 0.1 and claimed > 0.8
