"""dL/da of one's own by maximum likelihood: few neurons, any weights, norms and numbers told or not, noise, other models."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Array

from attack import (
    Known,
    Reconstruction,
    ReconstructionError,
    SharedGradient,
    TwoLayerNet,
    attack_gradient,
    matched_rmse,
    observe,
    refine,
    tensor_attack,
)
from bounds import ACTIVATIONS, GradientNoise, LikelihoodAttack, NoDefense, TensorAttack
from verify.confidence import Assessed, assess

D, M = 10, 120  # six entries for each unknown of two features


def weights(kind: str, m: int, rng: np.random.Generator) -> Array:
    """As a network has them at its start, or after training: correlated, and not centred."""
    if kind == "uniform":
        return rng.uniform(-1, 1, (m, D)) / math.sqrt(D)
    W = rng.standard_normal((m, D))
    if kind == "kaiming":
        return W * math.sqrt(2 / D)
    mix = np.eye(D) + 0.5 * rng.standard_normal((D, D)) / math.sqrt(D)
    return 0.3 * W @ mix + 0.2 * rng.standard_normal(D)


def features(rng: np.random.Generator, norms: tuple[float, ...]) -> Array:
    X = rng.standard_normal((len(norms), D))
    return X / np.linalg.norm(X, axis=1, keepdims=True) * np.array(norms)[:, None]


def made(
    seed: int,
    activation: str = "relu",
    kind: str = "kaiming",
    *,
    norms: tuple[float, ...] = (1.2, 0.8),
    bias: bool = False,
    noise: float = 0.0,
    m: int = M,
) -> tuple[SharedGradient, Array]:
    """Output weights of its own, labels of +-1, noise of ``noise`` times the entries' root mean square."""
    rng = np.random.default_rng(seed)
    W, X, a = weights(kind, m, rng), features(rng, norms), rng.standard_normal(m) / math.sqrt(m)
    b = rng.uniform(-1, 1, m) / math.sqrt(D) if bias else None
    hidden = ACTIVATIONS[activation](X @ W.T + (0.0 if b is None else b))
    g = (hidden @ a - np.resize([1.0, -1.0], len(X))) @ hidden
    g = g + noise * math.sqrt(np.mean(g**2)) * rng.standard_normal(m)
    return SharedGradient.from_arrays(W, g, bias=b, output_weight=a), X


def error(X: Array, found: Assessed) -> float:
    assert found.attacked is not None
    truth = X / np.linalg.norm(X, axis=1, keepdims=True) if found.confidence.directions_only else X
    return matched_rmse(truth, found.attacked.features, sign_free=found.confidence.sign_free)


@pytest.mark.parametrize(
    ("kind", "activation", "bias", "status"),
    [
        ("kaiming", "relu", False, "directions only"),
        ("trained", "relu", False, "directions only"),
        ("uniform", "relu", True, "ok"),
        ("uniform", "gelu", False, "ok"),
        ("trained", "gelu", True, "ok"),
        ("kaiming", "tanh", False, "ok"),
        ("trained", "tanh", True, "ok"),
    ],
)
def test_few_neurons_are_exact(kind: str, activation: str, bias: bool, status: str) -> None:
    """120 neurons, of any weights: two features to 1e-9 and no more than twice the predicted error, said to be exact, labels
    of +-1 where the gradient tells them (seed 0)."""
    shared, X = made(0, activation, kind, bias=bias)
    known = Known.of(2, activation, loss="half-mse-sum")
    found = assess(shared, known)
    sure = found.confidence
    assert (sure.status, sure.method, sure.exact) == (status, "likelihood", True), sure
    assert sure.predicted is not None and error(X, found) <= max(2 * sure.predicted, 1e-12) < 1e-8
    assert sure.sign_free == (activation == "tanh" and not bias)
    assert found.attacked is not None
    if status == "ok" and not sure.sign_free:
        assert found.attacked.labels is not None
        np.testing.assert_allclose(np.sort(found.attacked.labels), [-1, 1], atol=1e-7)


def test_the_tensor_attack_has_no_result_there() -> None:
    """The same gradients of ReLU networks: none is claimed (seed 0)."""
    for kind in ("kaiming", "uniform", "trained"):
        shared, _ = made(0, kind=kind)
        sure = assess(shared, Known.of(2), TensorAttack()).confidence
        assert sure.method in (None, "tensor_attack") and sure.status in ("suspect", "failed"), sure


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh"])
def test_told_norms_serve_and_are_tested(activation: str) -> None:
    """Equal ones, unequal ones (of ReLU by labels of +-1), and wrong ones where the gradient tells them (seed 1)."""
    for norms in ((1.0, 1.0), (1.2, 0.8)):
        shared, X = made(1, activation, norms=norms)
        found = assess(shared, Known.of(2, activation, norms, loss="half-mse-sum"))
        assert found.confidence.status == "ok" and error(X, found) < 1e-9, found
        assert found.confidence.untested == (("norms",) if activation == "relu" else ("activation",)[:0])
    if activation != "relu":
        shared, _ = made(1, activation, norms=(1.2, 1.2))
        sure = assess(shared, Known.of(2, activation, (1.0, 1.0))).confidence
        assert sure.status == "suspect" and sure.predicted is None
        assert any(r.startswith("norms: 1, 1 told, but the gradient says 1.2, 1.2") for r in sure.reasons)


@pytest.mark.parametrize(
    ("activation", "bias", "B"),
    [("relu", False, 3), ("gelu", True, 2), ("tanh", False, 2), ("relu", True, 1)],
)
def test_the_number_of_features_is_found(activation: str, bias: bool, B: int) -> None:
    """Not told, it is that of the gradient, and the premise says so (seed 2)."""
    shared, X = made(2, activation, norms=(1.0, 1.2, 0.8)[:B], bias=bias, m=200)
    found = assess(shared, Known.of(None, activation))
    sure = found.confidence
    assert sure.status in ("ok", "directions only") and sure.exact, sure
    assert found.attacked is not None and len(found.attacked.features) == B and error(X, found) < 1e-8
    (premise,) = (p for p in sure.premises if p.name == "batch size")
    assert premise.source == "gradient" and premise.tested


@pytest.mark.parametrize(
    ("activation", "bias", "told", "made_of"),
    [
        ("relu", False, 2, 3),
        ("gelu", True, 1, 2),
        ("tanh", False, 1, 2),
        ("relu", True, 3, 2),
        ("tanh", False, 3, 2),
    ],
)
def test_a_wrong_number_is_suspect(activation: str, bias: bool, told: int, made_of: int) -> None:
    """One more, or one fewer, than there are: no predicted error, and the reason says how many explain it (seed 3)."""
    shared, _ = made(3, activation, norms=(1.0, 1.2, 0.8)[:made_of], bias=bias, m=200)
    sure = assess(shared, Known.of(told, activation)).confidence
    assert sure.status in ("suspect", "failed") and sure.predicted is None and sure.reasons
    doubt = [r for r in sure.reasons if r.startswith("batch size: ")]
    assert doubt and f", but {made_of} explain" in doubt[0], sure.reasons


@pytest.mark.parametrize(("of", "told"), [("gelu", "relu"), ("relu", "gelu"), ("elu", "softplus")])
def test_a_wrong_activation_is_suspect(of: str, told: str) -> None:
    """And never exact (seed 4)."""
    shared, _ = made(4, of, "uniform", bias=True, m=300)
    sure = assess(shared, Known.of(2, told)).confidence
    assert sure.status in ("suspect", "failed") and not sure.exact, sure


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_noise_has_an_error_estimate(activation: str) -> None:
    """Noise of 10 % of the entries, 4 networks (seeds 0 to 3), norms told: root mean square of the error between 1/2 and 1
    of the prediction, which lies two standard deviations above its mean; noise within 10 %. Never exact, and the number of
    features stands."""
    errors, predicted = [], []
    for seed in range(4):
        shared, X = made(seed, activation, norms=(1.0, 1.0), noise=0.1, m=500)
        found = assess(shared, Known.of(2, activation, (1.0, 1.0)))
        sure = found.confidence
        assert sure.status == "suspect" and not sure.exact and sure.predicted is not None, sure
        assert [r for r in sure.reasons if "noise of standard deviation" in r] == list(sure.reasons)
        size = math.sqrt(float(shared.gradient.square().mean()))
        assert sure.noise == pytest.approx(0.1 * size, rel=0.1)
        errors.append(error(X, found))
        predicted.append(sure.predicted)
    ratio = math.sqrt(np.mean(np.square(errors)) / np.mean(np.square(predicted)))
    assert 0.5 < ratio < 1.0, ratio


def test_too_few_entries_claim_nothing() -> None:
    """As many as unknowns, or fewer: every fit explains them."""
    for m in (15, 20, 22):
        shared, _ = made(5, m=m)
        sure = assess(shared, Known.of(2)).confidence
        assert sure.status in ("suspect", "failed") and not sure.exact, (m, sure)


def test_entries_of_noise_have_no_result() -> None:
    rng = np.random.default_rng(6)
    W = weights("kaiming", 600, rng)
    with pytest.raises(ReconstructionError, match="nothing of features shows"):
        attack_gradient(SharedGradient.from_arrays(W, rng.standard_normal(600)), Known.of(2))


def test_attacks_that_a_gradient_has_no_use_for() -> None:
    shared, _ = made(0)
    for wrong in ("likelihood", NoDefense()):
        with pytest.raises(TypeError, match="attack must be a LikelihoodAttack or a TensorAttack for dL/da"):
            attack_gradient(shared, Known.of(2), wrong)  # type: ignore[arg-type]
    rows = SharedGradient.from_arrays(shared.weight, torch.ones_like(shared.weight))
    with pytest.raises(TypeError, match="attack must be a TensorAttack for dL/dW"):
        attack_gradient(rows, Known.of(2), LikelihoodAttack())
    with pytest.raises(ValueError, match="batch_size"):
        Known.of(0)


# --- refine -----------------------------------------------------------------------------------------------------------


def world(defense: Any, activation: str = "relu") -> tuple[TwoLayerNet, torch.Tensor, Any, Reconstruction]:
    d, m = 20, 8000
    net = TwoLayerNet.sample(d, m, activation, seed=1)
    X = torch.nn.functional.normalize(
        torch.randn(2, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    )
    observation = observe(defense, net, X, torch.tensor([1.0, -1.0], dtype=torch.float64), seed=3)
    return net, X, observation, tensor_attack(observation, net, 2, seed=2)


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh"])
def test_refine_ends_exactly(activation: str) -> None:
    """From the tensor attack's features, off by .1 and more: exact where nothing is defended, labels with them (seed 1)."""
    net, X, observation, found = world(NoDefense(), activation)
    refined = refine(found, observation, net)
    odd = activation == "tanh"
    before = matched_rmse(X, found.features, sign_free=odd)
    assert before > 0.05 and matched_rmse(X, refined.features, sign_free=odd) < 1e-9
    assert refined.diagnostics.exact is True and refined.diagnostics.starts == 1
    if not odd:
        np.testing.assert_allclose(np.sort(refined.labels), [-1, 1], atol=1e-9)


def test_refine_with_noise_is_nearer_and_says_how_near() -> None:
    net, X, observation, found = world(GradientNoise(0.5))
    refined = refine(found, observation, net)
    after = matched_rmse(X, refined.features)
    assert after < 0.8 * matched_rmse(X, found.features)
    assert refined.diagnostics.error is not None and 0.5 < after / refined.diagnostics.error < 2
    assert refined.diagnostics.status == "ok"


def test_refine_says_where_a_start_is_too_far() -> None:
    """One valley from one start: features at random end elsewhere, with a misfit, or exactly, and never in between."""
    net, X, observation, found = world(NoDefense())
    for seed in range(4):
        drawn = torch.randn(2, 20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        refined = refine(
            Reconstruction(drawn, found.residuals, found.labels, found.diagnostics), observation, net
        )
        exact = matched_rmse(X, refined.features) < 1e-9
        assert refined.diagnostics.exact is exact and (refined.diagnostics.status == "ok") is exact


def test_what_refine_refuses() -> None:
    net, _, observation, found = world(NoDefense())
    three = Reconstruction(torch.eye(3, 20).double(), found.residuals, found.labels, found.diagnostics)
    with pytest.raises(ValueError, match="batch_size"):
        refine(three, observation, net)
    with pytest.raises(TypeError, match="reconstruction must be"):
        refine(found.features, observation, net)  # type: ignore[arg-type]
