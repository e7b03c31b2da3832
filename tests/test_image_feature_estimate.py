"""Sources of features, and whether the errors that they predict are those that they make."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from attack.image.feature_estimate import SOURCES, FeatureEstimate, estimate_features
from attack.image.feature_likelihood import angles, distances, likely_features
from attack.image.head_network import head_observation
from attack.image.known import model_of
from attack.image.observed import ImageObservation, observe_images
from attack.networks.image.convnet import conv_net
from attack.networks.image.head import Head
from attack.networks.image.network import ImageNetwork
from attack.reconstruction import ReconstructionError
from attack.streams import normal, uniform
from bounds import (
    DPSGD,
    Clamping,
    Defense,
    DeterministicRounding,
    Dropout,
    GradientClipping,
    GradientNoise,
    GradientPruning,
    LocalAggregation,
    NoDefense,
    NoisyPruning,
    SecureAggregation,
    SignCompression,
    StochasticRounding,
)

SHAPE, LABELS = (1, 8, 8), torch.tensor([3, 7])


def build(activation: str = "relu", dtype: torch.dtype = torch.float32, **head: object) -> ImageNetwork:
    return conv_net(
        SHAPE, 10, channels=(4,), activation=activation, dtype=dtype,
        head=Head(m=96, features=16, activation=activation, **head),  # type: ignore[arg-type]
    )  # fmt: skip


NETWORK = build()

#: Wide enough for exact rows.
WIDE = conv_net(SHAPE, 10, channels=(4,), head=Head(m=256, features=32), dtype=torch.float64)
_RAMP = torch.linspace(0.0, 0.9, 8).square()
IMAGES = torch.stack([_RAMP.expand(1, 8, 8), _RAMP.flip(0)[:, None].expand(1, 8, 8)]) + 0.1 * uniform(
    (2, *SHAPE), 5, "test", device="cpu", dtype=torch.float32
)


def off(network: ImageNetwork, found: FeatureEstimate, images: torch.Tensor = IMAGES) -> np.ndarray:
    """``1 - cos^2`` of each feature found to its own: that of the best assignment."""
    with torch.no_grad():
        truth = network.features(images.to(network.dtype)).double()
    unit, own = (torch.nn.functional.normalize(z.double(), dim=1) for z in (truth, found.features))
    left = 1 - (own @ unit.T).square().numpy()
    rows, columns = linear_sum_assignment(left)
    return np.asarray(left[rows, columns])


def seen_of(defense: Defense, network: ImageNetwork = NETWORK, **given: object) -> ImageObservation:
    return observe_images(defense, network, IMAGES.to(network.dtype), LABELS, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "defense",
    [
        NoDefense(),
        GradientPruning(0.5),
        GradientPruning(0.7),
        GradientPruning(0.9),
        SecureAggregation(2),
        GradientClipping(0.5, per_sample=True),
        Dropout(0.5, per_sample=False),
        Dropout(0.5, per_sample=True),
        Clamping(0.05),
    ],
    ids=str,
)
def test_least_squares_are_exact_without_noise(defense: Defense) -> None:
    """To rounding of float32, as predicted, and each with the label of its picture."""
    given = {"groups": (0, 1)} if isinstance(defense, SecureAggregation) else {}
    seen = seen_of(defense, scope="layer", **given)
    found = estimate_features(seen, "likelihood", labels=LABELS)
    assert off(NETWORK, found).max() < 1e-8 and float(found.error.max()) < 1e-6
    assert found.trusted and found.sized and not found.warnings
    assert found.classes is not None and found.classes.tolist() == LABELS.tolist()
    with torch.no_grad():  # in the order of the labels, with their lengths
        torch.testing.assert_close(found.features.float(), NETWORK.features(IMAGES), rtol=1e-3, atol=1e-4)


def test_wrong_labels_are_not_believed() -> None:
    found = estimate_features(seen_of(NoDefense()), "likelihood", labels=torch.tensor([0, 1]))
    assert not found.trusted and "not believed" in found.warnings[0] and found.error.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("activation", ["gelu", "tanh"])
def test_any_activation_serves(activation: str) -> None:
    network = build(activation, torch.float64, bias=False)
    seen = seen_of(NoDefense(), network)
    found = estimate_features(seen, "best", labels=LABELS)
    assert found.source == "likelihood" and off(network, found).max() < 1e-12
    with pytest.raises(ReconstructionError, match="ReLU"):
        estimate_features(seen, "rows")


@pytest.mark.parametrize(
    ("defense", "relative"),
    [
        (GradientNoise(0.3), True),
        (DPSGD(1.0, 0.01, per_sample=True), False),
    ],
    ids=str,
)
def test_the_error_that_is_predicted_is_that_which_is_made(defense: Defense, relative: bool) -> None:
    """Sums over 8 draws of the noise (seeds 0 to 7) and two features: 16 sums of 15 squares, of which the mean has a
    standard deviation of .12 (a few of the 15 weigh most); within a factor of 1.45. Half or twice the noise would be a
    factor of 4. At most one of the 16 exceeds its limit, two standard deviations above."""
    made, told, beyond = [], [], 0
    for seed in range(8):
        found = estimate_features(
            seen_of(defense, relative=relative, scope="layer", seed=seed), "likelihood", labels=LABELS
        )
        assert found.trusted, seed
        made.append(off(NETWORK, found).sum())
        told.append(float(found.error.sum()))
        beyond += int((off(NETWORK, found) > found.limit.numpy()).sum())
    assert beyond <= 1
    ratio = np.sum(made) / np.sum(told)
    assert 1 / 1.45 < ratio < 1.45, ratio
    assert 1e-4 < np.mean(told) < 0.5


@pytest.mark.parametrize(("decay", "most"), [(0.0, 0.02), (2.0, 0.065)], ids=["even", "one direction"])
def test_noise_alone_is_hardly_ever_believed(decay: float, most: float) -> None:
    """20,000 errors of d = 8 in a linear model (seed 4), covariance of eigenvalues 4^-(decay k): .004 and .049 of those
    about nothing are believed (standard deviation .002); with the found length as it is .07 and .5, the negative control. Of
    features of ten times the error's power nearly all are, off by .88 and .82 of what is predicted (the power that is
    taken off counts twice, and a steep covariance is met at a wrong angle), and .03 and .07 exceed their limits."""
    spread = 4.0 ** (-decay * torch.arange(8, dtype=torch.float64) / 2)
    spread /= spread.square().sum().sqrt()
    shape = (20_000, 8)
    errors = spread * normal(shape, 4, "errors", device="cpu", dtype=torch.float64)
    covariance = spread.square().diag().expand(*shape, 8)
    assert float((angles(errors, covariance)[1] < 1).double().mean()) < most
    plain = angles(errors, covariance * 1e-9)[1] * 1e9  # so little that nothing is taken off the length
    assert float((plain < 1).double().mean()) > 2 * most
    truth = torch.nn.functional.normalize(normal(shape, 4, "truth", device="cpu", dtype=torch.float64), dim=1)
    found = 10**0.5 * truth + errors
    made = 1 - torch.nn.functional.cosine_similarity(found, truth).square()
    error, limit = angles(found, covariance)
    assert float((limit < 1).double().mean()) > 0.97
    assert 0.75 < float(made.mean() / error.mean()) < 1
    assert float((made > limit).double().mean()) < 0.1


@pytest.mark.parametrize("size", [0.1, 0.5])
def test_distances_are_hardly_exceeded(size: float) -> None:
    """20,000 features of d = 16 and errors of that size (seed 5), mean and two standard deviations of chi^2: .03 to .05 of
    the errors are beyond, over the square of what is found .002 to .05; with a fifth less twice as many are (the control).
    The limit is 1.3 to 2.5 times what is there in the median, so that it is none by being wide."""
    shape = (20_000, 16)
    truth, drawn = (normal(shape, 5, part, device="cpu", dtype=torch.float64) for part in ("truth", "errors"))
    found = truth + size * drawn
    covariance = torch.eye(16, dtype=torch.float64).mul(size**2).expand(*shape, 16)
    made = (size * drawn).square().sum(dim=1) / found.square().sum(dim=1)
    limit = distances(found, covariance)
    beyond = [float((made > share * limit).double().mean()) for share in (1.0, 0.8)]
    assert 0.001 < beyond[0] < 0.06 and beyond[1] > 2 * beyond[0], beyond
    assert 1.3 < float((limit / made).median()) < 2.5


def test_features_under_heavy_noise_are_not_believed() -> None:
    """Noise of ten root mean squares of the entries (seeds 2, 3, 5, 6), which leaves features .8 off and more: with the
    found length as it is each of these draws has a feature believed."""
    network = conv_net(
        SHAPE, 10, channels=(4,), activation="gelu", dtype=torch.float64,
        head=Head(m=64, features=8, activation="gelu"),
    )  # fmt: skip
    for seed in (2, 3, 5, 6):
        seen = seen_of(GradientNoise(10.0), network, relative=True, seed=seed)
        found = likely_features(seen, LABELS, starts=3)
        assert found.believed and found.limit.tolist() == [1.0, 1.0], seed
        assert found.distance.isinf().all(), seed


def test_more_noise_than_is_public_is_not_believed() -> None:
    loud = seen_of(GradientNoise(0.1), relative=True)
    sigma = loud.defense.sigma  # type: ignore[attr-defined]
    quiet = ImageObservation(loud.gradients, NETWORK, 2, GradientNoise(sigma / 2), loud.scope)
    assert estimate_features(loud, "likelihood", labels=LABELS).trusted
    assert not estimate_features(quiet, "likelihood", labels=LABELS).trusted


def test_rounded_entries_have_the_error_of_uniform_noise() -> None:
    """Over four steps: 8 sums of 15 squares, with a standard deviation of .2 together; within a factor of 2."""
    made, told = [], []
    for step in (0.002, 0.0025, 0.003, 0.004):
        found = estimate_features(seen_of(DeterministicRounding(step)), "likelihood", labels=LABELS)
        made.append(off(NETWORK, found).sum() / step**2)
        told.append(float(found.error.sum()) / step**2)
    assert 0.5 < np.sum(made) / np.sum(told) < 2, (made, told)


def test_the_head_is_a_network_of_its_own() -> None:
    """On features it makes the gradients that the whole makes on pictures, under a mask and clipping by layers too."""
    network = build(dtype=torch.float64)
    images = IMAGES.double()
    with torch.no_grad():
        features = network.features(images)[:, :, None, None]
    for defense in (NoDefense(), GradientClipping(0.2, per_sample=True), Dropout(0.5, per_sample=False)):
        head = head_observation(observe_images(defense, network, images, LABELS, scope="layer"))
        assert head.network.names == tuple(f"module.head.{n}" for n in
            ("hidden.weight", "hidden.bias", "output.weight", "output.bias"))  # fmt: skip
        made = model_of(head).client(features, LABELS)
        for one, other in zip(made, head.gradients, strict=True):
            torch.testing.assert_close(one.detach(), other, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(head.network.features(features), features.flatten(1))


def test_the_best_source_is_the_first_that_is_believed() -> None:
    """The likelihood where it explains the gradient, rows where it is told wrong labels; where neither is, both reasons are
    told."""
    assert estimate_features(seen_of(NoDefense(), WIDE), labels=LABELS).source == "likelihood"
    wrong = estimate_features(seen_of(NoDefense(), WIDE), labels=torch.tensor([0, 1]))
    assert wrong.source == "rows" and wrong.classes is not None and set(wrong.classes.tolist()) == {3, 7}
    with pytest.raises(ReconstructionError, match=r"likelihood: .*law.*rows: "):
        estimate_features(seen_of(SignCompression()), labels=LABELS)


def test_only_what_a_source_cannot_do_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network without ReLU, weights that are frozen, a Jacobian that is too large: the next source, or the reasons of all.
    An error of another kind is nobody's reason, and propagates."""
    smooth = seen_of(NoDefense(), build("tanh"))
    with pytest.raises(ReconstructionError, match=r"likelihood: .*rows: .*ReLU"):
        monkeypatch.setattr("attack.image.feature_likelihood._LARGEST", 10)
        estimate_features(smooth, labels=LABELS)
    assert estimate_features(seen_of(NoDefense(), WIDE), labels=LABELS).source == "rows"
    module = copy.deepcopy(NETWORK.module)
    module.get_submodule(NETWORK.output).weight.requires_grad_(False)
    frozen = seen_of(NoDefense(), ImageNetwork.of(module, SHAPE))
    with pytest.raises(ReconstructionError, match=r"likelihood: no gradient of .*rows: no gradient of"):
        estimate_features(frozen)

    def broken(*given: object, **options: object) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr("attack.image.feature_estimate.likely_features", broken)
    with pytest.raises(ValueError, match="a defect"):
        estimate_features(seen_of(NoDefense(), WIDE), labels=LABELS)


def test_noise_before_pruning_has_no_law() -> None:
    """What is left is chosen by its noise. Noise alone, pruning alone, and none of either have one (the controls)."""
    unit = float(seen_of(NoDefense()).entries.square().mean().sqrt())
    for defense in (NoisyPruning(0.0, 0.5), NoisyPruning(0.01 * unit, 0.0)):
        assert estimate_features(seen_of(defense), "likelihood", labels=LABELS).trusted
    with pytest.raises(ReconstructionError, match="law"):
        estimate_features(seen_of(NoisyPruning(0.01 * unit, 0.5)), "likelihood", labels=LABELS)


def test_rows_predict_rounding() -> None:
    found = estimate_features(seen_of(NoDefense(), WIDE), "rows")
    assert found.classes is not None and sorted(found.classes.tolist()) == LABELS.tolist()
    assert off(WIDE, found).max() < 1e-14 and 0 < float(found.error.max()) < 1e-20
    coarse = WIDE.to("cpu", torch.float32)  # rounding of single precision predicts more
    assert float(estimate_features(seen_of(NoDefense(), coarse), "rows").error.min()) > 1e-15


def test_components_predict_nothing() -> None:
    found = estimate_features(seen_of(NoDefense()), "cocktail")
    assert (
        torch.isnan(found.error).all()
        and found.limit.tolist() == [1, 1]
        and not found.trusted
        and "predicts" in found.warnings[0]
    )
    assert found.features.shape == (2, 16) and found.classes is None


@pytest.mark.parametrize(
    ("defense", "scope", "reason"),
    [
        (GradientClipping(0.1), "global", "norm of all layers"),
        (LocalAggregation(3, 1.0), "global", "local steps"),
        (GradientPruning(0.99), "layer", "entries are left|determine"),
        (SignCompression(), "global", "law"),
        (StochasticRounding(0.02), "global", "law"),
    ],
)
def test_what_the_layers_alone_do_not_tell_is_refused(defense: Defense, scope: str, reason: str) -> None:
    with pytest.raises(ReconstructionError, match=reason):
        estimate_features(seen_of(defense, scope=scope), "likelihood", labels=LABELS)


def test_bad_input_is_named() -> None:
    seen = seen_of(NoDefense())
    with pytest.raises(ValueError, match="source must be one of"):
        estimate_features(seen, "magic")
    with pytest.raises(ValueError, match="y must be B = 2"):
        estimate_features(seen, "likelihood", labels=torch.tensor([1]))
    with pytest.raises(TypeError, match="observation"):
        estimate_features(NETWORK, "rows")  # type: ignore[arg-type]
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    bare = ImageNetwork.of(module, SHAPE)
    with pytest.raises(ValueError, match="attacked layer"):
        estimate_features(seen_of(NoDefense(), bare), "rows")
    assert set(SOURCES) == {"rows", "likelihood", "cocktail", "best"}
