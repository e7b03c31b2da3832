"""LOWER, step by step and as a whole: the information of an entry, its mean over networks, the soft matching, the bound."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from bounds import (
    ACTIVATIONS,
    ATTACKS,
    DEFENSES,
    DPSGD,
    GradientNoise,
    Kind,
    LikelihoodAttack,
    MessagePassing,
    NoDefense,
    RowAttack,
    Setting,
    UnsupportedBound,
    evaluate,
)
from bounds.arrays import Array
from bounds.density import Clamped, Density, Dithered, Erased, Masked, Plain, Rounded, Signs, Thresholded
from bounds.kinds.lower.fisher import fisher_information
from bounds.kinds.lower.information import information
from bounds.kinds.lower.orbit import _classes, _gain, filled, orbit_bound
from bounds.kinds.lower.slopes import fixed_residuals, moving_residuals, pair_means
from bounds.kinds.lower.theorem import lower_bound
from bounds.kinds.predicted.likelihood import population_cramer_rao

RELU = ACTIVATIONS["relu"]
THRESHOLD = 0.8

# --- the information of an entry ----------------------------------------------------------------------------------------

LINE = np.linspace(-9.0, 9.0, 6001)
STEPS = np.arange(-40, 41)


def outcomes(density: Density) -> tuple[Array, Array]:
    """Everything that may be seen, and the length that each stands for (1 for an outcome with a probability)."""
    width = np.full(LINE.shape, LINE[1] - LINE[0])
    if isinstance(density, Plain | Masked):
        return LINE, width
    if isinstance(density, Erased):  # an entry that is kept is rescaled
        return np.append(LINE / (1 - density.p), 0.0), np.append(width / (1 - density.p), 0.0)
    if isinstance(density, Thresholded):  # the smallest one that is kept says the threshold
        kept = np.abs(LINE) > THRESHOLD
        return np.append(LINE[kept], [0.0, THRESHOLD]), np.append(width[kept], [1.0, 0.0])
    if isinstance(density, Clamped):
        free = np.abs(LINE) < density.limit * (1 - 1e-6)
        ends = [-density.limit, density.limit]
        return np.append(LINE[free], ends), np.append(width[free], [1.0, 1.0])
    if isinstance(density, Signs):
        return np.array([-1.0, 1.0]), np.ones(2)
    assert isinstance(density, Rounded | Dithered)
    return density.step * STEPS, np.ones(len(STEPS))


LAWS = [
    Plain(sigma=0.7),
    Erased(sigma=0.7, p=0.4),
    Thresholded(sigma=0.5, ratio=0.5),
    Rounded(sigma=0.3, step=0.7),
    Dithered(sigma=0.25, step=0.6),
    Signs(sigma=0.6),
    Clamped(sigma=0.5, limit=0.9),
    Masked(sigma=0.5, p=0.3),
]


@pytest.mark.parametrize("density", LAWS, ids=lambda density: type(density).__name__)
def test_information_is_that_of_the_density(density: Density) -> None:
    """Against numeric derivatives of ``log_density`` over everything that may be seen, to 5e-3 (a cut cell at an edge of the
    line's points is what may be off). Erased: the outcomes that are kept have 1 - p of the probability."""
    seen, weight = outcomes(density)
    for parts in ([0.3, -0.2], [1.1, 0.4], [-0.9, 0.2]):
        centre, h = np.array(parts), 1e-4

        def log(at: Array) -> Array:
            return density.log_density(seen, np.broadcast_to(at, (len(seen), 2)))

        kept = 1 - density.p if isinstance(density, Erased) else 1.0
        chance = weight * np.exp(log(centre)) * (kept**2 if isinstance(density, Erased) else 1.0)
        assert chance.sum() == pytest.approx(kept, abs=5e-3)
        with np.errstate(invalid="ignore"):  # what is impossible stays so
            slopes = [(log(centre + h * e) - log(centre - h * e)) / (2 * h) for e in np.eye(2)]
        score = np.stack(slopes, axis=1)
        score[chance == 0] = 0.0
        expected = np.einsum("n,ni,nl->il", chance, score, score)
        found = information(density, centre[None], threshold=THRESHOLD)[0]
        assert found == pytest.approx(expected, rel=5e-3, abs=5e-3 * np.abs(expected).max())


@pytest.mark.parametrize("density", LAWS, ids=lambda density: type(density).__name__)
def test_no_law_tells_more_than_its_noise(density: Density) -> None:
    """Data processing; of masked terms no more than with the mask known."""
    parts = np.random.default_rng(0).normal(size=(50, 2))
    told = information(density, parts, threshold=THRESHOLD)
    most = np.full((2, 2), density.sigma**-2)
    if isinstance(density, Masked):
        most = (most + np.diag([density.p / (1 - density.p) * density.sigma**-2] * 2)).copy()
    assert np.linalg.eigvalsh(most - told).min() > -1e-9 * density.sigma**-2
    assert np.linalg.eigvalsh(told)[:, -1].min() > 0


def test_rounding_much_finer_than_the_noise_is_no_rounding() -> None:
    t = np.linspace(-1, 1, 7)[:, None]
    for law in (Rounded(sigma=0.5, step=1e-5), Dithered(sigma=0.5, step=1e-5), Rounded(sigma=0.5, step=1e-2)):
        assert information(law, t) == pytest.approx(4.0, rel=1e-4)
    coarse = information(Rounded(sigma=0.5, step=1e3), t)
    assert coarse.max() < 1e-12  # an entry deep inside its cell tells nothing


def test_without_noise_there_is_no_information() -> None:
    for law in (Plain(), Rounded(step=1.0), Signs(), Masked(p=0.5), Thresholded(ratio=0.5)):
        with pytest.raises(UnsupportedBound, match="not proved: without noise"):
            information(law, np.ones((1, 1)))
    with pytest.raises(UnsupportedBound, match="no information is known of Density"):
        information(Density(sigma=1.0), np.ones((1, 1)))
    with pytest.raises(UnsupportedBound, match="weights move"):
        information(Plain(sigma=1.0, moves=0.1), np.ones((1, 1)))
    with pytest.raises(ValueError, match="threshold"):
        information(Plain(sigma=1.0), np.ones((1, 1)), threshold=-1.0)


# --- its mean over networks ---------------------------------------------------------------------------------------------


def features(rng: np.random.Generator, B: int, d: int, norms: Array | None = None) -> Array:
    X = rng.standard_normal((B, d))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    return X if norms is None else norms[:, None] * X


def outside(matrix: Array, X: Array) -> Array:
    """Trace (B, B) over directions outside the span of an information (B d, B d), for each of them."""
    B, d = X.shape
    basis = np.linalg.svd(X)[2][B:]
    blocks = matrix.reshape(B, d, B, d)
    return np.einsum("ka,iajb,kb->ij", basis, blocks, basis) / (d - B)


def moved_entries(setting: Setting, X: Array, W: Array) -> Array:
    """Derivatives (n, m, B, d) of the entries of n networks W (n, m, d) by the features, outside their span."""
    inside, basis = W @ X.T, np.linalg.svd(X)[2][setting.B :]
    hidden, slope = setting.activation.function(inside), setting.activation.derivative
    assert slope is not None
    moved = slope(inside)
    u = W @ basis.T @ basis
    drift = np.einsum("nji,njk->nik", moved, u) / setting.m
    r = hidden.mean(axis=1) - setting.labels
    return np.einsum("ni,nji,njk->njik", r, moved, u) + hidden[..., None] * drift[:, None]


@pytest.mark.parametrize(("activation", "norms"), [("relu", None), ("gelu", (0.7, 1.5)), ("tanh", None)])
def test_mean_information_is_exact_with_moving_residuals(
    activation: str, norms: tuple[float, ...] | None
) -> None:
    """Mean over 20 000 networks (seed 1), within 4 standard errors (of 20 groups), at m = 8, where what residuals add is a
    large part: leaving it out is seen."""
    rng = np.random.default_rng(1)
    X = features(rng, 2, 6, None if norms is None else np.array(norms))
    setting = Setting.from_features(X, np.array([0.6, -0.3]), 8, activation)
    means = pair_means(setting.gram, setting.activation)
    centres = np.array([setting.activation.coefficient(0, float(n)) for n in setting.norms])
    expected = setting.m * moving_residuals(setting.residuals, means, centres, setting.m)
    groups = []
    for _ in range(20):
        J = moved_entries(setting, X, rng.standard_normal((1000, 8, 6)))
        groups.append(np.einsum("njik,njlk->il", J, J) / 1000 / 4)
    found, error = np.mean(groups, axis=0), np.std(groups, axis=0) / math.sqrt(20)
    assert np.all(np.abs(found - expected) < 4 * error)
    still = setting.m * np.outer(setting.residuals, setting.residuals) * means[0, 0]
    assert np.any(np.abs(found - still) > 6 * error)
    W = rng.standard_normal((1, 8, 6))
    J = moved_entries(setting, X, W)[0]
    one = outside(fisher_information(GradientNoise(1.0), setting, W[0], features=X), X)
    assert one == pytest.approx(np.einsum("jik,jlk->il", J, J) / 4, rel=1e-9)


@pytest.mark.parametrize("per_sample", [True, False])
@pytest.mark.parametrize("max_norm", [2.0, 25.0])
def test_clipped_information_is_below_its_bound(per_sample: bool, max_norm: float) -> None:
    """Mean over 30 networks of 2000 neurons (seed 2): the bound's information is no smaller, and at most 2.2 times that."""
    rng = np.random.default_rng(2)
    X = features(rng, 2, 4)
    setting = Setting.from_features(X, np.array([1.0, -1.0]), 2000, "relu")
    defense = DPSGD(max_norm=max_norm, noise_multiplier=0.05, per_sample=per_sample)
    told = np.mean(
        [
            outside(fisher_information(defense, setting, rng.standard_normal((2000, 4)), features=X), X)
            for _ in range(30)
        ],
        axis=0,
    )
    realised = orbit_bound(told, setting.gram, setting.d).square
    stated = evaluate(defense, setting).lower
    assert stated is not None
    assert realised / 2.2 < stated**2 < realised


def test_masks_known_tell_more() -> None:
    """Over 600 entries (seed 3): by more than a tenth in some direction, and less in none."""
    setting = Setting.orthonormal(10, 100, 2)
    law = Masked(sigma=0.5, p=0.4)
    genie = fixed_residuals(law, setting.residuals, setting.gram, setting.activation)
    z = np.random.default_rng(3).standard_normal((600, 2))
    moved = setting.residuals * (z > 0)
    told = information(law, setting.residuals * np.maximum(z, 0))
    exact = np.einsum("ni,nil,nl->il", moved, told, moved) / len(z)
    assert np.linalg.eigvalsh(genie - exact)[0] > 0.1


# --- the matching -------------------------------------------------------------------------------------------------------


def elements(B: int, signs: bool) -> list[Array]:
    """Permutations, with signs or without, as matrices."""
    choices = itertools.product((1.0, -1.0), repeat=B) if signs else [(1.0,) * B]
    return [np.diag(s) @ np.eye(B)[list(p)] for s in choices for p in itertools.permutations(range(B))]


@pytest.mark.parametrize(("B", "signs"), [(2, False), (3, False), (1, True), (2, True)])
def test_a_soft_matching_gains_and_tells_as_little_as_proved(B: int, signs: bool) -> None:
    """Random estimates near and far from random features, every sharpness: gain below its bound at the matched error, and
    tr Cov below that error plus the gain. The control: some case comes within 60 % of the bound."""
    rng = np.random.default_rng(4)
    closest = 0.0
    for _ in range(120):
        X = features(rng, B, 4)
        T = X + rng.uniform(0, 1.2) * rng.standard_normal(X.shape) / 2
        if rng.random() < 0.3 and B > 1:  # two estimates at the middle of two features: the worst case
            T[:2] = X[:2].mean(axis=0) + 0.05 * rng.standard_normal((2, 4))
        group = elements(B, signs)
        moved = np.stack([g @ T for g in group])
        losses = np.sum((moved - X) ** 2, axis=(1, 2))
        gram = X @ X.T
        inner = np.abs(gram) if signs else gram
        apart = [2 - 2 * inner[i, k] for i in range(B) for k in range(i)] + ([4.0] if signs else [])
        beta = float(10 ** rng.uniform(-0.5, 2))
        p = np.exp(-beta * (losses - losses.min()))
        p /= p.sum()
        gain = float(p @ losses - losses.min())
        allowed = _gain(_classes(B, signs), math.sqrt(min(apart)), beta, B)(float(losses.min()))
        assert gain <= allowed + 1e-12
        mean = np.tensordot(p, moved, axes=1)
        spread = float(p @ np.sum((moved - mean) ** 2, axis=(1, 2)))
        assert spread <= losses.min() + gain + 1e-12
        closest = max(closest, gain / allowed)
    assert closest > 0.6


def test_classes_count_permutations() -> None:
    for B, signs in ((2, False), (4, False), (5, False), (1, True), (3, True)):
        moved = [int(np.sum(np.diag(g) != 1)) for g in elements(B, signs)]
        for k, log in _classes(B, signs):
            assert moved.count(k) <= math.exp(log) * (1 + 1e-9) < 3 * moved.count(k)
    assert _classes(1, False) == ()
    many = _classes(500, False)
    assert (
        len(many) <= 16 and sum(math.exp(n - 2700) for _, n in many) >= math.exp(math.lgamma(501) - 2700) / 3
    )


def test_filling_lowest_levels_is_the_least_trace() -> None:
    rng = np.random.default_rng(5)
    levels = rng.uniform(0.5, 3, 3)
    for extra in (0.0, 0.3, 2.0, 50.0):
        least = filled(levels, extra)
        for _ in range(300):
            A = rng.standard_normal((3, 3))
            C = A @ A.T
            C *= extra / np.trace(C)
            assert np.trace(np.linalg.inv(np.diag(levels) + C)) >= least - 1e-12
    assert filled(levels, 0.0) == pytest.approx(np.sum(1 / levels))
    assert filled(np.array([1.0, 2.0, 9.0]), 3.0) == pytest.approx(2 / 3 + 1 / 9)


# --- the bound ----------------------------------------------------------------------------------------------------------


def test_known_values() -> None:
    """ReLU, B = 2, labels +-1: 1/(1 + 100 (d - 1)/d ...) has no closed form, so one of B = 1 is: Q = r^2/2."""
    r = Setting.orthonormal(50, 5000, 1).residuals[0]
    found = lower_bound(Plain(sigma=0.5), np.eye(1), np.array([r]), d=50, m=5000, activation=RELU)
    assert found.square == found.ordered == pytest.approx(1 / (1 + 5000 / 49 * r**2 / 2 / 0.25), rel=1e-9)


@pytest.mark.parametrize(("sigma", "alpha", "limit"), [(1.0, 20, 0.488), (1.0, 100, 0.224), (0.5, 20, 0.265)])
def test_it_is_below_the_best_error_there_is(sigma: float, alpha: int, limit: float) -> None:
    """ReLU, B = 2, labels +-1, at d = 400: from .81 to 1 of the limit of the best error."""
    value = evaluate(GradientNoise(sigma), Setting.orthonormal(400, 400 * alpha, 2)).lower
    assert value is not None
    assert 0.81 * limit < value < limit


def test_every_attack_on_the_output_gradient_has_it() -> None:
    setting = Setting.orthonormal(30, 3000, 2)
    values = {spec: evaluate(GradientNoise(1.0), setting, spec()).lower for spec in ATTACKS}
    assert values[RowAttack] is None
    assert len({v for spec, v in values.items() if spec is not RowAttack}) == 1
    assert values[LikelihoodAttack] == values[MessagePassing] is not None


def test_without_noise_nothing_is_stated_and_it_is_said() -> None:
    setting = Setting.orthonormal(30, 3000, 2)
    for family in DEFENSES:
        member = family() if family not in (DPSGD, GradientNoise) else NoDefense()
        value = evaluate(member, setting)[Kind.LOWER]
        assert value.value is None and value.why.startswith("not proved: without noise"), family
    assert evaluate(GradientNoise(1.0), Setting.orthonormal(2, 300, 2))[Kind.LOWER].value is None
    grows = evaluate(
        DPSGD(max_norm=1.0, noise_multiplier=0.1), Setting.orthonormal(20, 300, 1, "z2z3", [0.0])
    )
    assert "the slope of 'z2z3' is not bounded" in grows[Kind.LOWER].why


def test_wide_networks_give_cramer_rao_and_strong_noise_gives_everything() -> None:
    """As alpha grows the ratio to Cramer and Rao's bound tends to 1, from below; as sigma grows LOWER tends to what the
    matching leaves of 1: 1 - .0074 in the square at d = 100, B = 2, of order 1/d."""
    ratios = []
    for alpha in (10**2, 10**4, 10**6):
        setting = Setting.orthonormal(400, 400 * alpha, 2)
        lower = evaluate(GradientNoise(1.0), setting).lower
        local = population_cramer_rao(
            Plain(sigma=1.0), setting.gram, setting.residuals, setting.activation, d=400, m=setting.m
        )
        assert lower is not None
        ratios.append(lower / local)
    assert ratios == sorted(ratios) and 0.995 < ratios[-1] < 1.002
    for d, least in ((100, 0.992), (400, 0.998)):
        nothing = lower_bound(Plain(1e4), np.eye(2), np.array([-0.6, 1.4]), d=d, m=20 * d, activation=RELU)
        assert least < nothing.square < 1 and nothing.ordered == pytest.approx(1, abs=1e-6)


def test_dropout_in_both_conventions_and_noise_before_pruning() -> None:
    """Noise of standard deviation s on entries that dropout has rescaled is as noise (1 - p) s before it, which is as 1 - p
    of the neurons; a threshold takes information, down to that of no entry."""
    setting = Setting.orthonormal(50, 5000, 2)

    def bound(density: Density, m: int = 5000, threshold: float = 0.0) -> float:
        return lower_bound(
            density,
            setting.gram,
            setting.residuals,
            d=50,
            m=m,
            activation=RELU,
            threshold=threshold,
        ).square

    assert bound(Erased(sigma=0.5, p=0.6)) == pytest.approx(bound(Plain(sigma=0.5), 2000), rel=1e-9)
    assert bound(Erased(sigma=0.4 * 0.5, p=0.6)) < bound(
        Plain(sigma=0.5)
    )  # rescaled: C12 the other way round
    kept = [bound(Thresholded(sigma=0.3, ratio=0.5), threshold=t) for t in (0.0, 0.5, 2.0, 4.0)]
    assert kept == sorted(kept) and kept[0] == pytest.approx(bound(Plain(sigma=0.3)), rel=1e-3)
    assert kept[-1] > 3 * kept[0]


# --- against estimates --------------------------------------------------------------------------------------------------


def rotation(rng: np.random.Generator, d: int) -> Array:
    Q, R = np.linalg.qr(rng.standard_normal((d, d)))
    return np.asarray(Q * np.sign(np.diag(R)))


def bayes_errors(
    sigma: float, m: int, label: float, trials: int, seed: int, activation: str = "relu"
) -> Array:
    """Squared errors of the posterior mean of one unit feature in two dimensions, uniform prior, on a grid of 1000 angles:
    the best there is."""
    rng = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * np.pi, 1000, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    function = ACTIVATIONS[activation]

    def entries(x: Array, W: Array) -> Array:
        hidden = function(x @ W.T)
        return (hidden.mean(axis=-1, keepdims=True) - label) * hidden

    errors = []
    for _ in range(trials):
        W, angle = rng.standard_normal((m, 2)), rng.uniform(0, 2 * np.pi)
        x = np.array([np.cos(angle), np.sin(angle)])
        seen = entries(x, W) + sigma * rng.standard_normal(m)
        log = -np.sum((seen - entries(circle, W)) ** 2, axis=1) / (2 * sigma**2)
        p = np.exp(log - log.max())
        errors.append(float(np.sum((p @ circle / p.sum() - x) ** 2)))
    return np.array(errors)


@pytest.mark.parametrize(
    ("sigma", "m", "label", "activation"),
    [(1.0, 20, 1.0, "relu"), (1.0, 30, -1.0, "gelu"), (0.3, 60, 1.0, "elu"), (0.1, 60, -1.0, "relu")],
)
def test_the_best_estimate_of_one_feature_is_not_below(
    sigma: float, m: int, label: float, activation: str
) -> None:
    """200 trials (seed 6), 4 standard errors. Control: three times the bound on R^2 is refuted by as many."""
    errors = bayes_errors(sigma, m, label, 200, 6, activation)
    setting = Setting(2, m, np.eye(1), np.array([label]), ACTIVATIONS[activation])
    lower = evaluate(GradientNoise(sigma), setting).lower
    assert lower is not None
    error = errors.std() / math.sqrt(len(errors))
    assert errors.mean() > lower**2 - 4 * error
    assert errors.mean() < 3 * lower**2 - 4 * error


def matched_bayes_errors(sigma: float, m: int, d: int, trials: int, seed: int) -> Array:
    """Squared errors R^2 of the best estimate of two orthonormal features (ReLU, labels +-1) up to their order: what is
    posterior mean of the feature that is matched to it, over 1000 rotations that are drawn once."""
    rng = np.random.default_rng(seed)
    labels = np.array([1.0, -1.0])

    def drawn(n: int) -> Array:
        return np.stack([rotation(rng, d)[:2] for _ in range(n)])

    def entries(X: Array, W: Array) -> Array:
        hidden = np.maximum(X @ W.T, 0.0)
        return np.einsum("...i,...ij->...j", hidden.mean(axis=-1) - labels, hidden)

    prior, errors = drawn(1000), []
    for _ in range(trials):
        W, X = rng.standard_normal((m, d)), drawn(1)[0]
        seen = entries(X, W) + sigma * rng.standard_normal(m)
        log = -np.sum((seen - entries(prior, W)) ** 2, axis=1) / (2 * sigma**2)
        p = np.exp(log - log.max()) / np.exp(log - log.max()).sum()
        T = np.tensordot(p, prior, axes=1)
        for _ in range(20):
            turned = np.sum(prior * T[::-1], axis=(1, 2)) > np.sum(prior * T, axis=(1, 2))
            T = np.tensordot(p, np.where(turned[:, None, None], prior[:, ::-1], prior), axes=1)
        errors.append(min(float(np.sum((guess - X) ** 2)) for guess in (T, T[::-1])) / 2)
    return np.array(errors)


@pytest.mark.parametrize(("sigma", "m", "d"), [(3.0, 40, 8), (6.0, 60, 12)])
def test_the_best_estimate_of_two_features_up_to_their_order_is_not_below(
    sigma: float, m: int, d: int
) -> None:
    """100 trials (seed 7), 4 standard errors. Control: 1.8 times the bound on R^2 is refuted, and 1.3 times it at d = 12,
    where it is .82 and the best .96."""
    errors = matched_bayes_errors(sigma, m, d, 100, 7)
    lower = evaluate(GradientNoise(sigma), Setting.orthonormal(d, m, 2)).lower
    assert lower is not None
    error = errors.std() / 10
    assert lower**2 < errors.mean() - 4 * error < errors.mean() + 4 * error < 1.8 * lower**2
    if d == 12:
        assert errors.mean() + 4 * error < 1.3 * lower**2
