"""The spectral law of the tensor attack's second moment, and the preprocessing that it chooses."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from attack import ReconstructionError, TwoLayerNet, matched_rmse, observe, tensor_attack
from bounds import GradientNoise, GradientPruning, Kind, NoDefense, Setting, TensorAttack, evaluate
from bounds.arrays import Array
from bounds.density import Plain
from bounds.errors import UnsupportedBound
from bounds.gaussian.activations import resolve_activation
from bounds.kinds.predicted.spectral.law import Weights, found_span, outliers, weights
from bounds.kinds.predicted.spectral.preprocessing import preprocessing
from bounds.kinds.predicted.spectral.sample import sample
from bounds.kinds.predicted.spectral.span import SpectralLaw
from bounds.kinds.predicted.unbiased import first_order
from bounds.law import Unbiased
from verify.measure.pictures import load_pictures

RECORDS = Path(__file__).resolve().parents[1] / "figures" / "records"
PLAIN, RESIDUALIZED, PREPROCESSED = (
    TensorAttack(moments="plain"),
    TensorAttack(),
    TensorAttack(preprocessing="optimal"),
)
GRAM = np.array([[1.0, 0.3], [0.3, 1.0]])
LABELS = [1.0, -1.0]


def setting(d: int, m: int, gram: Array = GRAM, activation: str = "relu") -> Setting:
    return Setting(d, m, gram, np.resize(LABELS, len(gram)), resolve_activation(activation))


def simulated(here: Setting, residualized: bool, sigma: float, seed: int) -> tuple[Array, Array]:
    """Eigenvalues of one second moment, rising, and the squared length (d,) of its eigenvectors' part in the span."""
    rng, B = np.random.default_rng(seed), here.B
    W = rng.standard_normal((here.m, here.d))
    h = here.activation(W[:, :B] @ here.directions.T * here.norms) @ here.residuals
    h = h + sigma * rng.standard_normal(here.m)
    if residualized:
        h = h - h.mean()
        h = h - W @ (h @ W / here.m)
    values, vectors = np.linalg.eigh((W.T * h) @ W / here.m - h.mean() * np.eye(here.d))
    return values, np.sum(vectors[:B] ** 2, axis=0)


@pytest.mark.parametrize(
    ("residualized", "activation", "sigma", "ratio"),
    [(True, "relu", 0.0, 20), (False, "gelu", 0.0, 30), (True, "gelu", 0.5, 15)],
)
def test_edges_outliers_and_overlaps_are_those_of_simulated_moments(
    residualized: bool, activation: str, sigma: float, ratio: int
) -> None:
    """Three matrices, d = 300, seeds 0 to 2. Measured deviations of the means: edges 1 to 4 % (outermost eigenvalues lie
    inside by n^(-2/3)), outliers up to 2 %, overlaps up to .02; asked for are 6 %, 5 % and .05. The law at half the ratio is
    the negative control: its overlaps are off by more."""
    here = setting(300, 300 * ratio, activation=activation)
    seen = sample(GradientNoise(sigma), here)

    def law(m: int) -> tuple[float, float, Array, Array]:
        found = outliers(weights(seen, seen.seen, residualized, here.d - here.B, m), here.B, m)
        return found.lower, found.upper, found.values, np.sum(found.vectors**2, axis=1)

    lower, upper, values, overlaps = law(here.m)
    runs = [simulated(here, residualized, sigma, seed) for seed in range(3)]
    assert values[0] > 0 > values[1] and len(values) == 2
    assert np.mean([v[0][[-1, 0]] for v in runs], axis=0) == pytest.approx(values, rel=0.05)
    assert np.mean([v[0][[-2, 1]] for v in runs], axis=0) == pytest.approx([upper, lower], rel=0.06)
    measured = np.mean([v[1][[-1, 0]] for v in runs], axis=0)
    assert measured == pytest.approx(overlaps, abs=0.05)
    wrong = law(here.m // 2)[3]
    assert len(wrong) < 2 or np.max(np.abs(wrong[:2] - measured)) > 0.05


@pytest.mark.parametrize("attack", [PLAIN, RESIDUALIZED])
@pytest.mark.parametrize(("activation", "variance"), [("relu", 0.0), ("softplus", 0.3)])
def test_many_neurons_for_each_dimension_are_first_order(
    attack: TensorAttack, activation: str, variance: float
) -> None:
    """At m = 1e5 d the span's error is first order's, to 4 % (quadrature: measured up to 3 % for softplus, .5 % for ReLU);
    at m = 50 d it is not, so that the agreement is no identity."""
    here = setting(200, 20_000_000, activation=activation)
    constants = first_order(here, attack, Unbiased(here.residuals, variance)).orthogonal

    def ratio(m: int) -> Array:
        found = SpectralLaw(GradientNoise(math.sqrt(variance)), here.with_width(m), attack).found()
        return found.turned / (constants * (here.d - here.B) / m)

    assert ratio(here.m) == pytest.approx(1, abs=0.04)
    assert np.max(np.abs(ratio(10_000) - 1)) > 0.04


def test_the_threshold_of_one_feature_is_the_known_one() -> None:
    """Mondelli and Montanari 2018: with 1 - 1/E[z^2 | y] an outlier appears at m/n = 1/E[(E[z^2 | y] - 1)^2]."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal(2**16)
    y = np.maximum(z, 0) + 0.7 * rng.standard_normal(len(z))
    groups = np.argsort(y).reshape(64, -1)
    G = np.empty_like(z)
    G[groups] = np.mean(z[groups] ** 2, axis=1, keepdims=True) - 1
    of = Weights(G / (1 + G), z[:, None], None, 1000)
    threshold = 1000 / np.mean(G**2)
    below, above = (found_span(of, np.eye(1), round(factor * threshold)) for factor in (0.98, 1.02))
    assert below.lost and not above.lost and 0 < above.kept[0] < 0.3
    # another weight of the same entries finds nothing there
    assert found_span(Weights(y, z[:, None], None, 1000), np.eye(1), round(1.02 * threshold)).lost


@pytest.mark.parametrize(
    "name", ["pictures-patches-B2", "pictures-digits-B4", "pictures-digits-B4-raw", "pictures-digits-B8"]
)
def test_recorded_failures_lie_below_the_threshold_and_successes_above(name: str) -> None:
    """Every width of the recorded runs, one trial each; where first order is beyond its reach PREDICTED is that of the
    spectral law, within 5 % of what was measured, or says from which width on there is a result."""
    batch, rows = load_pictures(RECORDS / f"{name}.json")
    assert batch is not None and {row.failed for row in rows} == {True, False}
    for row in rows:
        here = Setting.from_features(batch.features, batch.labels, row.m)
        found = SpectralLaw(row.defense, here, TensorAttack()).found()
        assert found.unreported is row.failed, (row.m, found)
        if row.rmse is not None and row.predicted is not None and row.predicted > 0.25:
            assert evaluate(NoDefense(), here).predicted == pytest.approx(row.rmse, rel=0.05)
            assert abs(row.predicted / row.rmse - 1) > 0.05  # first order's was not


def test_four_photographs_need_more_neurons_than_were_tried() -> None:
    """Four photographs as in the recorded pair (seed 13, |cosine| at most .5): no result up to m = 80 000, nor at 160 000;
    one at 240 000."""
    from attack.image.datasets import load_patches

    batch = load_patches(4, 13, max_cosine=0.5)
    for m, failed in ((20_000, True), (80_000, True), (160_000, True), (240_000, False)):
        here = Setting.from_features(batch.features, batch.labels, m)
        assert SpectralLaw(NoDefense(), here, TensorAttack()).found().unreported is failed


def test_predicted_names_the_thresholds_where_the_span_is_lost() -> None:
    here = setting(300, 2400)
    found = evaluate(NoDefense(), here)[Kind.PREDICTED]
    told = re.search(r"lost below m = (\S+), and the attack gives no result below m = (\S+)$", found.why)
    assert found.value is None and told is not None
    lost, result = (float(number) for number in told.groups())
    assert 2400 < lost < result
    assert evaluate(NoDefense(), here.with_width(round(0.9 * result))).predicted is None
    above = evaluate(NoDefense(), here.with_width(round(1.1 * result)))[Kind.PREDICTED]
    assert above.value is not None and above.details["span_gap"] > 1.05
    assert above.value > 1.02 * above.details["first_order"]


def test_predicted_is_first_order_within_its_reach() -> None:
    for m, attack in ((60_000, RESIDUALIZED), (200_000, PLAIN)):
        details = evaluate(NoDefense(), setting(300, m), attack)[Kind.PREDICTED].details
        assert "span_gap" not in details and details["orthogonal"] < 0.25
    few = evaluate(NoDefense(), setting(20, 900))[Kind.PREDICTED]  # too few directions for a law of many
    assert few.value is not None and few.value > 0.25 and "span_gap" not in few.details


def test_a_biased_channel_has_its_floor_and_the_spectral_error() -> None:
    here, defense = setting(300, 4000, np.eye(1)), GradientPruning(0.7)
    found = evaluate(defense, here)[Kind.PREDICTED]
    span = SpectralLaw(defense, here, RESIDUALIZED).found()
    parts = found.details
    assert parts["orthogonal"] ** 2 == pytest.approx(float(span.turned.mean()))
    assert found.value == pytest.approx(
        math.sqrt(parts["floor"] ** 2 + parts["orthogonal"] ** 2 + parts["inplane"] ** 2)
    )


def attacked(here: Setting, attack: TensorAttack, seed: int) -> float | None:
    """R of one trial, None without a result."""
    frame = np.linalg.qr(np.random.default_rng(seed).standard_normal((here.d, here.B)))[0]
    X = torch.from_numpy(here.directions @ frame.T)
    net = TwoLayerNet.sample(here.d, here.m, activation=here.activation, seed=seed)
    seen = observe(NoDefense(), net, X, torch.tensor(here.labels.tolist(), dtype=X.dtype), seed=seed + 100)
    try:
        return float(matched_rmse(X, tensor_attack(seen, net, attack=attack).features))
    except ReconstructionError:
        return None


def test_preprocessing_finds_the_span_where_entries_as_they_are_do_not() -> None:
    """Orthonormal ReLU pair, d = 300, m = 9 d, seeds 0 to 2: with preprocessing a result in each, the root mean square
    within 12 % of PREDICTED (one trial scatters by 4 % at d = 400); without none, as predicted. At m = 40 d both have one,
    and the preprocessed is the better one in every trial."""
    few, many = setting(300, 2700, np.eye(2)), setting(300, 12_000, np.eye(2))
    predicted = evaluate(NoDefense(), few, PREPROCESSED).predicted
    assert predicted is not None and evaluate(NoDefense(), few).predicted is None
    found = [attacked(few, PREPROCESSED, seed) for seed in range(3)]
    errors = [error for error in found if error is not None]
    assert len(errors) == 3
    assert math.sqrt(np.mean(np.square(errors))) == pytest.approx(predicted, rel=0.12)
    assert [attacked(few, RESIDUALIZED, seed) for seed in range(3)] == [None] * 3
    better, plain = (attacked(many, attack, 0) for attack in (PREPROCESSED, RESIDUALIZED))
    assert better is not None and plain is not None and better < plain


def test_preprocessing_halves_the_width_that_a_result_needs() -> None:
    """By the law, orthonormal ReLU pair: at 6.5 d with preprocessing, not at 13 d without (thresholds 5.9 d, 14.1 d). With
    equal residuals the entries as they are show both features alike, and the choice does not make it worse."""
    d = 300
    with_it = SpectralLaw(NoDefense(), setting(d, 2000, np.eye(2)), PREPROCESSED)
    assert not with_it.found(round(6.5 * d)).unreported
    assert SpectralLaw(NoDefense(), setting(d, 13 * d, np.eye(2)), RESIDUALIZED).found().unreported
    equal = Setting(d, 8 * d, np.eye(2), np.ones(2), resolve_activation("relu"))
    better, plain = (SpectralLaw(NoDefense(), equal, a).found() for a in (PREPROCESSED, RESIDUALIZED))
    assert better.turned.mean() <= 1.02 * plain.turned.mean()


def test_the_model_s_residuals_are_read_off_the_quantiles() -> None:
    here = setting(300, 3000, np.eye(2))
    seen = sample(GradientNoise(0.3), here)
    found = preprocessing(seen.seen, here.norms, here.activation, Plain(sigma=0.3), residualized=True)
    assert sorted(found.residuals) == pytest.approx(sorted(here.residuals), abs=0.05)


def test_bad_input_is_told() -> None:
    with pytest.raises(ValueError, match="preprocessing must be one of"):
        TensorAttack(preprocessing="best")
    with pytest.raises(UnsupportedBound, match="d - B = 10"):
        SpectralLaw(NoDefense(), setting(12, 400), RESIDUALIZED)
    with pytest.raises(UnsupportedBound, match="odd activation"):
        SpectralLaw(NoDefense(), setting(300, 4000, activation="tanh"), RESIDUALIZED)
    with pytest.raises(ValueError, match="must not be the same everywhere"):
        preprocessing(np.ones(10), np.ones(2), resolve_activation("relu"), Plain(), residualized=True)
    net = TwoLayerNet.sample(12, 100, activation="tanh", seed=0)
    seen = observe(NoDefense(), net, torch.eye(2, 12, dtype=torch.float64), torch.tensor([1.0, -1.0]))
    with pytest.raises(ValueError, match="preprocessing must be 'none'"):
        tensor_attack(seen, net, attack=PREPROCESSED)
    assert "preprocessed entries" in evaluate(NoDefense(), setting(300, 4000), PREPROCESSED)[Kind.UPPER].why
