"""A shared gradient of the first layer, dL/dW, made by automatic differentiation of a torch network."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Array, correlated

from attack import (
    Known,
    SharedGradient,
    TwoLayerNet,
    attack_gradient,
    check_gradient,
    matched_rmse,
    read_gradient,
)
from attack.own.frame import Frame
from attack.own.problem import scaled_rows
from bounds import ACTIVATIONS, Setting, TensorAttack
from verify import cli
from verify.confidence import assess
from verify.unexplained import plug_in, unexplained_row_power

D, M, B = 8, 4000, 2
FINE = ("ok", "directions only")
X, R = correlated(B, D, seed=5), np.array([1.5, -1.0])
MODULES = {
    "relu": torch.nn.ReLU(),
    "leaky_relu": torch.nn.LeakyReLU(),
    "gelu": torch.nn.GELU(),
    "softplus": torch.nn.Softplus(),
    "tanh": torch.nn.Tanh(),
}


def arrays(
    seed: int = 0,
    activation: str = "relu",
    scale: float = 1.0,
    bias: float | None = None,
    even: bool = False,
    features: Array = X,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Array]:
    """Parameters and gradients of a two-layer network with half the mean squared loss: output weights N(0, 1/m), or
    1/m where ``even``, weights N(0, scale^2), biases N(0, bias^2); labels that leave the residuals R."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    d = features.shape[1]
    first = torch.nn.Linear(d, M, bias=bias is not None, dtype=dtype)
    last = torch.nn.Linear(M, 1, bias=False, dtype=dtype)
    net = torch.nn.Sequential(first, MODULES[activation], last)
    with torch.no_grad():
        first.weight.copy_(scale * draw(M, d))
        if bias is not None:
            first.bias.copy_(bias * draw(M))
        last.weight.copy_(torch.full((1, M), 1 / M) if even else draw(1, M) / math.sqrt(M))
    outputs = net(torch.from_numpy(features).to(dtype))[:, 0]
    y = outputs.detach() - torch.from_numpy(R).to(dtype)
    (torch.nn.functional.mse_loss(outputs, y) / 2).backward()
    grads = {name: p.grad for name, p in first.named_parameters()}
    assert grads["weight"] is not None
    given = {"weight": first.weight, "gradient": grads["weight"], "output_weight": last.weight}
    if bias is not None:
        assert grads["bias"] is not None
        given |= {"bias": first.bias, "bias_gradient": grads["bias"]}
    return {name: tensor.detach().numpy() for name, tensor in given.items()}


def known(activation: str = "relu", loss: str | None = "half-mse-mean", size: int = B) -> Known:
    """With norms of 1 told."""
    return Known.of(size, activation, (1.0,) * size, loss=loss)


def shared(**case: Any) -> SharedGradient:
    return SharedGradient.from_arrays(**arrays(**case))


def level(found: Any, name: str) -> str:
    (finding,) = (f for f in found if f.name == name)
    return str(finding.level)


# --- coordinates --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "gelu", "softplus"])
def test_rows_in_standard_coordinates_are_those_of_the_standard_network(activation: str) -> None:
    """Automatic differentiation in the original coordinates against the network with weights (w/s, (b - mean)/t),
    features (s x, t) and output weights 1/m, entry by entry."""
    given = arrays(activation=activation, scale=0.6, bias=0.4)
    mine = SharedGradient.from_arrays(**given)
    frame = Frame.of(mine, Known.of(B, activation))
    there, units = frame.coordinates, frame.units
    assert there.bias_scale and mine.output_weight is not None
    net = there.network(TwoLayerNet.from_weights(mine.weight, activation), mine.bias)
    Z = torch.from_numpy(there.features(X))
    rows = net.first_layer_gradient(Z, net.forward(Z) - torch.from_numpy(R))
    given = 2.0 ** (units.gradient + units.weights) * scaled_rows(mine, frame)
    np.testing.assert_allclose(B * given / (M * mine.output_weight)[:, None], rows, atol=1e-12 / M, rtol=1e-9)


# --- exact recovery ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
@pytest.mark.parametrize(
    "case", [{}, {"even": True}, {"scale": 0.2}, {"bias": 0.5}, {"scale": 0.2, "bias": 0.1}, {"bias": 0.0}]
)
def test_features_of_a_torch_network_are_recovered_exactly(
    tmp_path: Path, activation: str, case: dict[str, Any]
) -> None:
    """Saved, read, attacked: features, residuals and labels to rounding (seed 0)."""
    path = tmp_path / "rows.npz"
    given = arrays(activation=activation, **case)
    np.savez(path, **given)
    found = assess(read_gradient(path), known(activation))
    assert found.attacked is not None and found.confidence.status == "ok", found
    assert found.confidence.method == "sparse_recovery" and found.confidence.predicted < 1e-12  # rounding
    assert found.confidence.unexplained is not None and found.confidence.unexplained < 1e-20
    assert {f.level for f in found.findings} == {"ok"}
    assert matched_rmse(X, found.attacked.features) < 1e-9
    np.testing.assert_allclose(np.sort(found.attacked.residuals), np.sort(R), atol=1e-9)
    slope = 0.0 if activation == "relu" else 0.01
    inside = X @ given["weight"].T + given.get("bias", 0.0)
    outputs = np.where(inside > 0, inside, slope * inside) @ given["output_weight"][0]
    np.testing.assert_allclose(np.sort(found.attacked.labels), np.sort(outputs - R), atol=1e-9)


def test_exact_recovery_does_not_mind_other_weights() -> None:
    """The default initialisation of a torch layer is uniform: the finding says so, and the result stands."""
    given = arrays()
    layer = torch.nn.Linear(D, M, dtype=torch.float64)
    layer.weight.data.uniform_(-0.3, 0.3, generator=torch.Generator().manual_seed(0))
    W, a = layer.weight.detach().numpy(), given["output_weight"][0]
    rows = a[:, None] * (((W @ X.T > 0) * R) @ X)
    found = assess(SharedGradient.from_arrays(W, rows, output_weight=a), known(loss="half-mse-sum"))
    assert level(found.findings, "kurtosis") == "warning"
    assert found.attacked is not None and found.confidence.status == "ok"
    assert matched_rmse(X, found.attacked.features) < 1e-9


def test_biases_tell_the_norms() -> None:
    """One coordinate of every feature is then known, so that norms 1.5 and .6, told as 1, come back (seed 0)."""
    features = np.array([[1.5], [0.6]]) * X
    found = assess(shared(features=features, bias=0.5), Known.of(B, loss="half-mse-mean"))
    assert found.attacked is not None and found.confidence.status == "ok"
    assert matched_rmse(features, found.attacked.features) < 1e-9
    np.testing.assert_allclose(np.sort(found.attacked.residuals), np.sort(R), atol=1e-9)


def test_a_wrong_norm_is_suspect_where_the_tensor_attack_meets_biases() -> None:
    found = assess(shared(activation="gelu", features=2 * X, bias=0.5), known("gelu"))
    assert found.confidence.status != "ok"
    assert any("public norms" in reason for reason in found.confidence.reasons)


def test_rows_without_an_output_weight_are_left_out() -> None:
    given = arrays()
    a = given["output_weight"][0].copy()
    a[:100] = 0.0
    rows = np.where(a[:, None] == 0, 0.0, given["gradient"])
    found = assess(SharedGradient.from_arrays(given["weight"], rows, output_weight=a), known())
    assert level(found.findings, "output weights") == "ok" and found.confidence.status == "ok"
    assert found.attacked is not None and matched_rmse(X, found.attacked.features) < 1e-9
    assert found.attacked.neurons < M - 99
    np.testing.assert_allclose(np.sort(found.attacked.residuals), np.sort(R), atol=1e-9)
    kept = SharedGradient.from_arrays(given["weight"], given["gradient"], output_weight=a)
    assert (
        level(check_gradient(kept, known()), "output weights") == "warning"
    )  # a row of its old size is not the model's
    none = assess(SharedGradient.from_arrays(given["weight"], rows, output_weight=0 * a), known())
    assert none.attacked is None and "output weight other than zero" in none.confidence.reasons[0]


# --- the tensor attack ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "case", "sigma"),
    [
        ("gelu", {}, 0.0),
        ("softplus", {"scale": 1.5, "bias": 0.5}, 0.0),
        ("relu", {"even": True}, 0.1),
    ],
)
def test_the_prediction_at_the_reconstruction_is_the_measured_error(
    activation: str, case: dict[str, Any], sigma: float
) -> None:
    """20 trials, seeds 0 to 19, noise sigma/m on the entries: root mean square of the error over that of the prediction
    within 30 % (an error inside a plane has two components, so that of 20 trials scatters by about 16 %). The unexplained
    share is .2 to 2 times what independent errors leave without noise, within 10 % of it with noise, and the noise found
    within 2 % of what was added."""
    errors, predicted, shares, noise = [], [], [], []
    for seed in range(20):
        given = arrays(seed, activation, **case)
        given["gradient"] = given["gradient"] + sigma / M * np.random.default_rng(seed).standard_normal(
            (M, D)
        )
        found = assess(SharedGradient.from_arrays(**given), known(activation))
        assert found.attacked is not None, found.confidence
        assert found.confidence.method == "first_layer_attack"
        errors.append(matched_rmse(X, found.attacked.features))
        predicted.append(found.confidence.predicted)
        shares.append((found.confidence.unexplained, found.confidence.expected))
        noise.append(found.confidence.noise)
    ratio = math.sqrt(np.mean(np.square(errors)) / np.mean(np.square(np.array(predicted, dtype=float))))
    unexplained, expected = np.mean(np.array(shares, dtype=float), axis=0)
    assert ratio == pytest.approx(1.0, abs=0.3)
    if sigma:
        assert unexplained / expected == pytest.approx(1.0, abs=0.1)
        assert np.mean(np.array(noise, dtype=float)) * M == pytest.approx(sigma, rel=0.02)
    else:
        assert 0.2 < unexplained / expected < 2


def test_single_precision_is_solved_in_double() -> None:
    """Features are then off by the gradient's own rounding, which is predicted, half precision too (seed 0)."""
    found = assess(shared(dtype=torch.float32, even=True), known())
    assert found.attacked is not None and found.confidence.method == "sparse_recovery"
    assert found.confidence.status == "ok" and found.confidence.predicted is not None
    error = matched_rmse(X.astype(np.float32), found.attacked.features)
    assert 1e-9 < error < found.confidence.predicted < 1e-6
    assert level(found.findings, "rank") == "ok"
    given = arrays(even=True)
    half = SharedGradient.from_arrays(
        given["weight"], given["gradient"].astype(np.float16), output_weight=given["output_weight"]
    )
    coarse = assess(half, known())
    assert coarse.attacked is not None and coarse.confidence.method == "sparse_recovery"
    assert coarse.confidence.status == "ok" and coarse.confidence.predicted is not None
    assert matched_rmse(X, coarse.attacked.features) < coarse.confidence.predicted < 0.01
    assert level(coarse.findings, "rank") == "ok"


def test_odd_activations_leave_signs_open() -> None:
    found = assess(shared(activation="tanh", even=True), known("tanh"))
    assert found.attacked is not None and found.confidence.sign_free
    assert matched_rmse(X, found.attacked.features, sign_free=True) < 0.2
    told = assess(shared(activation="tanh", bias=0.5), known("tanh"))  # biases tell the sign
    assert told.attacked is not None and not told.confidence.sign_free
    assert matched_rmse(X, told.attacked.features) < 0.3


def test_the_unexplained_share_is_that_of_moved_features() -> None:
    """Zero for one feature without noise; with noise alone, its share (tolerance 2 %, averages of 40 times 2000)."""
    one = Setting.from_features(X[:1], [1.0], M, "gelu")
    assert unexplained_row_power(one, TensorAttack(), 0.0) == pytest.approx(0.0, abs=1e-20)
    found = attack_gradient(shared(activation="gelu", even=True), known("gelu"))
    setting = plug_in(found, ACTIVATIONS["gelu"])
    sigma, power = 0.3 / M, found.power
    assert unexplained_row_power(setting, TensorAttack(), sigma) == pytest.approx(
        sigma**2 / (power + sigma**2), rel=0.02
    )


# --- what does not fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_nonsense_is_never_ok(seed: int) -> None:
    """Noise, rows of rank B without the model's slopes, and the rows of other weights (3 draws, seeds 0 to 2)."""
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((M, D))
    for told in (1, 2):
        noise = assess(SharedGradient.from_arrays(W, rng.standard_normal((M, D))), Known.of(told))
        assert noise.confidence.status == "failed"
        low = rng.standard_normal((M, told)) @ rng.standard_normal((told, D))
        for activation in ("relu", "gelu"):
            assert (
                assess(SharedGradient.from_arrays(W, low), Known.of(told, activation)).confidence.status
                not in FINE
            )
    for activation in ("relu", "gelu"):
        given = arrays(seed, activation) | {"weight": W}
        assert (
            assess(SharedGradient.from_arrays(**given), Known.of(B, activation)).confidence.status not in FINE
        )


@pytest.mark.parametrize(("taken", "made"), [("relu", "gelu"), ("gelu", "relu"), ("softplus", "gelu")])
def test_another_activation_is_suspect(taken: str, made: str) -> None:
    found = assess(shared(activation=made, even=True), known(taken))
    assert found.confidence.status != "ok"


def test_rank_tells_the_number_of_features() -> None:
    for told in (1, 3):
        (rank,) = (f for f in check_gradient(shared(), Known.of(told)) if f.name == "rank")
        assert (rank.level, rank.value) == ("warning", 2.0)
    given = arrays(even=True)
    noisy = given["gradient"] + 0.1 / M * np.random.default_rng(0).standard_normal((M, D))
    given["gradient"] = noisy
    (rank,) = (
        f for f in check_gradient(SharedGradient.from_arrays(**given), Known.of(B)) if f.name == "rank"
    )
    assert (rank.level, rank.value) == ("ok", 2.0) and "noise" in rank.text


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_pruned_rows_are_named(activation: str) -> None:
    given = arrays(activation=activation)
    given["gradient"] = np.where(np.arange(M)[:, None] % 4 == 0, given["gradient"], 0.0)
    assert (
        level(check_gradient(SharedGradient.from_arrays(**given), Known.of(B, activation)), "zero rows")
        == "warning"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bias_gradient": None}, r"bias_gradient, dL/db of shape \(m,\), must be given"),
        ({"bias_gradient": np.ones(3)}, r"bias_gradient must have shape \(4000,\)"),
        ({"bias_gradient": np.full(M, np.nan)}, "bias_gradient has 4000 of 4000 entries that are not finite"),
        ({"gradient": np.zeros((M, D)), "bias_gradient": np.zeros(M)}, "the gradient is zero"),
        ({"gradient": np.zeros((D, M)), "bias_gradient": np.zeros(M)}, "the gradient is zero"),
        (
            {"gradient": np.zeros((D, M)), "bias": np.zeros(D)},
            r"bias must have .* \(the weight looks transposed",
        ),
    ],
)
def test_errors_stop_before_the_attack(changes: dict[str, Any], words: str) -> None:
    found = assess(SharedGradient.from_arrays(**(arrays(bias=0.5) | changes)), Known.of(B))
    assert found.attacked is None and found.confidence.status == "failed"
    assert any(re.search(words, reason) for reason in found.confidence.reasons)


def test_the_attack_itself_refuses_what_it_cannot_use() -> None:
    with pytest.raises(ValueError, match="bias_gradient, dL/db"):
        attack_gradient(SharedGradient.from_arrays(**(arrays(bias=0.5) | {"bias_gradient": None})), known())
    with pytest.raises(
        ValueError, match="output_weight must have more than B = 2 entries other than zero; got 0"
    ):
        attack_gradient(SharedGradient.from_arrays(**(arrays() | {"output_weight": np.zeros(M)})), known())


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "norms", "status", "words"),
    [
        ("relu", "1,1", "ok", "status: ok, if what is told of norms is right"),
        ("relu", None, "directions only", "predicted error of the directions"),
        ("gelu", "1,1", "ok", "starts agree"),
        ("gelu", None, "ok", "method: least_squares"),
    ],
)
def test_command(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    activation: str,
    norms: str | None,
    status: str,
    words: str,
) -> None:
    """Unit vectors are never called features, and have no labels."""
    path = tmp_path / "rows.npz"
    np.savez(path, **arrays(activation=activation, even=True))
    base = [
        "attack",
        "gradient",
        "--file",
        str(path),
        "--B",
        "2",
        "--activation",
        activation,
        "--loss",
        "half-mse-mean",
    ]
    base += [] if norms is None else ["--norms", norms]
    outputs = []
    for more in (["--json", "--out", str(tmp_path)], []):
        with pytest.raises(SystemExit) as stop:
            cli.main([*base, *more])
        assert not stop.value.code
        outputs.append(capsys.readouterr().out)
    result = json.loads(outputs[0])
    assert result["confidence"]["status"] == status
    assert words in outputs[1] and "method: " in outputs[1]
    name = "directions" if status == "directions only" else "features"
    assert (
        (result["labels"] is None) == (name == "directions") == ("norms" in result["confidence"]["assumed"])
    )
    with np.load(tmp_path / "reconstruction.npz", allow_pickle=False) as archive:
        assert set(archive) == {name, "residuals"} | ({"labels"} if name == "features" else set())
        assert matched_rmse(X, archive[name]) < 0.2
