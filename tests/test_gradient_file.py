"""A gradient of one's own: reading, what does not fit, the attack, and how far its result can be trusted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Array, correlated
from safetensors.numpy import save_file

from attack import (
    Known,
    SharedGradient,
    attack_gradient,
    check_gradient,
    matched_error,
    matched_rmse,
    read_gradient,
)
from bounds import ACTIVATIONS, TensorAttack
from verify import cli
from verify.confidence import assess

D, M, B = 20, 20_000, 2
X, Y = correlated(B, D, seed=5), np.array([1.0, -1.0])
TOLD = Known.of(B, norms=(1.0,) * B)


def arrays(
    seed: int = 0, scale: float = 1.0, noise: float = 0.0, activation: str = "relu", bias: float = 0.0
) -> dict[str, Array]:
    """Weights N(0, scale^2), biases N(0, bias^2), and dL/da + noise; f has output weights 1/m."""
    rng = np.random.default_rng(seed)
    W, b = scale * rng.standard_normal((M, D)), bias * rng.standard_normal(M)
    hidden = ACTIVATIONS[activation](X @ W.T + b)
    g = (hidden.mean(axis=1) - Y) @ hidden + noise * rng.standard_normal(M)
    return {"weight": W, "gradient": g} | ({"bias": b} if bias else {})


def levels(found: Any) -> dict[str, str]:
    return {f.name: f.level for f in found}


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_a_file_is_the_arrays(tmp_path: Path, kind: str) -> None:
    given = arrays(bias=0.5) | {"output_weight": np.full((1, M), 1 / M)}
    path = tmp_path / f"mine.{kind}"
    np.savez(path, **given) if kind == "npz" else save_file(given, path)
    shared = read_gradient(path)
    for name in ("weight", "gradient", "bias"):
        np.testing.assert_array_equal(getattr(shared, name), given[name])
    assert shared.output_weight is not None and shared.output_weight.shape == (M,)


def test_arrays_of_other_frameworks_and_layouts() -> None:
    """A linear layer's (1, m) gradient, half precision, lists, tensors that carry a graph."""
    W = torch.randn(30, 4, dtype=torch.float16, requires_grad=True)
    shared = SharedGradient.from_arrays(W, torch.ones(1, 30))
    assert shared.weight.dtype == torch.float32 and not shared.weight.requires_grad
    assert shared.gradient.shape == (30,)
    assert SharedGradient.from_arrays([[1, 2], [3, 4], [5, 6]], [[1], [2], [3]]).gradient.shape == (3,)
    assert SharedGradient.from_arrays(np.ones((3, 2), np.float32), [1, 2, 3]).weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"", "end in .npz or .safetensors"),
        ("a.npz", b"no archive", "cannot be read"),
        ("a.safetensors", b"no tensors", "cannot be read"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_gradient(tmp_path / name)


def test_pickles_and_wrong_names_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "pickle.npz", weight=np.array([{}], dtype=object), gradient=np.ones(1))
    with pytest.raises(ValueError, match="pickle"):
        read_gradient(tmp_path / "pickle.npz")
    np.savez(tmp_path / "names.npz", weight=np.ones((3, 2)), grad=np.ones(3))
    with pytest.raises(ValueError, match="missing: gradient, unknown: grad"):
        read_gradient(tmp_path / "names.npz")
    with pytest.raises(FileNotFoundError):
        read_gradient(tmp_path / "none.npz")
    with pytest.raises(TypeError, match="gradient must be a dense array of real numbers"):
        SharedGradient.from_arrays(np.ones((3, 2)), ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"weight must have shape \(m, d\)"):
        SharedGradient.from_arrays(np.ones(3), np.ones(3))


# --- what does not fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", [{}, {"scale": 0.2}, {"activation": "gelu"}])
def test_the_model_itself_raises_no_finding(seed: int, case: dict[str, Any]) -> None:
    """3 trials each, seeds 0 to 2; every threshold is about five standard errors."""
    shared = SharedGradient.from_arrays(**arrays(seed, **case))
    found = check_gradient(shared, Known.of(B, case.get("activation", "relu")))
    assert set(levels(found).values()) == {"ok"}, found


def _changed(name: str) -> tuple[dict[str, Any], int]:
    given: dict[str, Any] = arrays()
    W, g = given["weight"], given["gradient"]
    rng = np.random.default_rng(1)
    changes: dict[str, dict[str, Any]] = {
        "mean": {"weight": W + 0.1},
        "kurtosis": {"weight": math.sqrt(3) * rng.uniform(-1, 1, W.shape)},
        "row norms": {"weight": W / np.linalg.norm(W, axis=1, keepdims=True) * math.sqrt(D)},
        "correlation": {"weight": W @ np.diag(np.linspace(0.7, 1.3, D))},
        "bias": {"bias": rng.uniform(-1, 1, M)},
        "zeros": {"gradient": np.where(np.abs(g) < np.quantile(np.abs(g), 0.7), 0, g)},
        "outliers": {"gradient": np.where(np.arange(M) == 5, 1e3, g)},
    }
    return given | changes[name], B


@pytest.mark.parametrize(
    "name", ["mean", "kurtosis", "row norms", "correlation", "bias", "zeros", "outliers"]
)
def test_each_misfit_is_named(name: str) -> None:
    given, size = _changed(name)
    found = check_gradient(SharedGradient.from_arrays(**given), Known.of(size))
    assert levels(found)[name] == "warning"
    (finding,) = (f for f in found if f.name == name)
    assert finding.value is not None and finding.threshold is not None and finding.value > finding.threshold


def test_scale_and_number_of_features() -> None:
    shared = SharedGradient.from_arrays(**arrays(scale=0.2))
    assert levels(check_gradient(shared, Known.of(B)))["scale"] == "ok"
    assert levels(check_gradient(shared, Known.of(B, scale=0.2)))["scale"] == "ok"
    assert levels(check_gradient(shared, Known.of(B, scale=1.0)))["scale"] == "warning"
    for told in (1, 3):
        (count,) = (f for f in check_gradient(shared, Known.of(told)) if f.name == "count")
        assert (count.level, count.value) == ("warning", 2.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gradient": np.ones(M)}, "constant"),
        ({"gradient": np.zeros(M)}, "constant"),
        ({"gradient": np.full(M, np.nan)}, "not finite"),
        ({"gradient": np.ones(M - 1)}, "must have shape"),
        ({"gradient": np.ones(D)}, "transposed"),
        ({"bias": np.ones(3)}, "bias must have shape"),
        ({"weight": np.zeros((M, D))}, "every weight is zero"),
    ],
)
def test_errors_stop_before_the_attack(changes: dict[str, Array], words: str) -> None:
    found = assess(SharedGradient.from_arrays(**(arrays() | changes)), Known.of(B))
    assert found.attacked is None and found.confidence.status == "failed"
    assert any(words in reason for reason in found.confidence.reasons)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"norms": (1.0,)}, "norms must have B = 2"),
        ({"norms": (1.0, 0.0)}, "norms must be positive"),
        ({"scale": 0.0}, "scale must be positive"),
        ({"batch_size": 0}, "batch_size"),
        ({"activation": "spline"}, "activation"),
        ({"loss": "median"}, "loss must be one of mse-mean, mse-sum"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Known.of(**({"batch_size": B} | arguments))


# --- confidence -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "noisy"), [({}, False), ({"scale": 0.2}, False), ({"noise": 0.5}, True), ({"bias": 0.5}, False)]
)
def test_the_prediction_at_the_reconstruction_is_the_measured_error(
    case: dict[str, float], noisy: bool
) -> None:
    """10 trials, seeds 0 to 9: root mean square of the error over that of the prediction within 25 %; the unexplained share
    of the gradient within 30 % of its prediction without noise, the noise found within 3 % of it with noise .5."""
    errors, predicted, shares, noise = [], [], [], []
    for seed in range(10):
        found = assess(SharedGradient.from_arrays(**arrays(seed, **case)), TOLD, TensorAttack())
        sure = found.confidence
        assert sure.status == ("suspect" if noisy else "ok"), sure
        assert found.attacked is not None
        errors.append(matched_rmse(X, found.attacked.features))
        predicted.append(sure.predicted)
        shares.append((sure.unexplained, sure.expected))
        noise.append(sure.noise)
    ratio = math.sqrt(np.mean(np.square(errors)) / np.mean(np.square(np.array(predicted, dtype=float))))
    assert ratio == pytest.approx(1.0, abs=0.25)
    if noisy:
        assert np.mean(np.array(noise, dtype=float)) == pytest.approx(0.5, rel=0.03)
    else:
        unexplained, expected = np.mean(np.array(shares, dtype=float), axis=0)
        assert unexplained / expected == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize(("activation", "m"), [("tanh", 20_000), ("sigmoid", 60_000)])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_confidence_where_the_third_moment_gives_the_span(activation: str, m: int, noise: float) -> None:
    """8 trials, seeds 0 to 7, d = 20: as above, for mu_2 = 0. Noise .3 times the largest entry that the activation leaves
    room for (sigmoid: a tenth of it, as its third moment is small)."""
    spread = noise * (0.1 if activation == "sigmoid" else 1.0)
    errors, predicted, shares, found_noise = [], [], [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        W = rng.standard_normal((m, D))
        hidden = ACTIVATIONS[activation](X @ W.T)
        g = (hidden.mean(axis=1) - Y) @ hidden + spread * rng.standard_normal(m)
        found = assess(SharedGradient.from_arrays(W, g), Known.of(B, activation, (1.0,) * B), TensorAttack())
        sure = found.confidence
        assert sure.status == ("suspect" if noise else "ok"), sure
        assert levels(found.findings)["count"] == "ok"
        assert sure.sign_free == (activation == "tanh")
        if noise:
            assert len(sure.reasons) == 1 and "not explained" in sure.reasons[0]
        assert found.attacked is not None
        features = found.attacked.features
        errors.append(matched_error(X, features, sign_free=sure.sign_free).rmse)
        predicted.append(sure.predicted)
        shares.append((sure.unexplained, sure.expected))
        found_noise.append(sure.noise)
    ratio = math.sqrt(np.mean(np.square(errors)) / np.mean(np.square(np.array(predicted, dtype=float))))
    assert ratio == pytest.approx(1.0, abs=0.25)
    if noise:
        assert np.mean(np.array(found_noise, dtype=float)) == pytest.approx(spread, rel=0.03)
    else:
        unexplained, expected = np.mean(np.array(shares, dtype=float), axis=0)
        assert unexplained / expected == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize("told", [1, 3])
def test_another_number_of_features_is_not_ok_for_tanh(told: int) -> None:
    """One fewer is counted; one more has no result."""
    found = assess(
        SharedGradient.from_arrays(**arrays(activation="tanh")), Known.of(told, "tanh"), TensorAttack()
    )
    assert found.confidence.status == ("suspect" if told == 1 else "failed")
    assert any(("estimated B = 2" if told == 1 else "ill-posed") in r for r in found.confidence.reasons)


@pytest.mark.parametrize(("size", "d", "m"), [(4, 5, 100_000), (2, 2, 20_000), (2, 4, 20_000)])
def test_errors_inside_the_span_are_no_noise(size: int, d: int, m: int) -> None:
    """d near B, 4 networks each (seeds 0 to 3), ReLU: what the in-plane errors leave is expected, so the result is ok. It is
    counted up to four times, as the errors compensate in part."""
    features, y = correlated(size, d, 1, cosine=0.3), np.resize([1.0, -1.0], size)
    shares = []
    for seed in range(4):
        W = np.random.default_rng(seed).standard_normal((m, d))
        hidden = np.maximum(features @ W.T, 0)
        shared = SharedGradient.from_arrays(W, (hidden.mean(axis=1) - y) @ hidden)
        sure = assess(shared, Known.of(size, norms=(1.0,) * size), TensorAttack()).confidence
        assert sure.status == "ok", sure
        shares.append((sure.unexplained, sure.expected))
    unexplained, expected = np.mean(np.array(shares, dtype=float), axis=0)
    assert 0.15 < unexplained / expected < 1.3


def test_labels_and_the_mean_loss() -> None:
    """With a mean loss and output weights of its own the network's labels come back (seed 0), to the rounding of sums."""
    rng = np.random.default_rng(0)
    W, a = rng.standard_normal((M, D)), rng.standard_normal(M) / math.sqrt(M)
    hidden = np.maximum(X @ W.T, 0)
    gradient = (hidden @ a - Y) @ hidden / B
    shared = SharedGradient.from_arrays(W, gradient, output_weight=a)
    found = attack_gradient(shared, Known.of(B, norms=(1.0,) * B, loss="half-mse-mean"))
    assert found.labels is not None
    assert matched_rmse(X, found.features) < 1e-9
    np.testing.assert_allclose(np.sort(found.labels), np.sort(Y), atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_noise_alone_is_never_ok(seed: int) -> None:
    """3 draws, seeds 0 to 2, each with 1 and 2 features told; also a gradient of other weights than those in the file."""
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((M, D))
    for told in (1, 2):
        assert (
            assess(SharedGradient.from_arrays(W, rng.standard_normal(M)), Known.of(told)).confidence.status
            == "failed"
        )
    other = SharedGradient.from_arrays(W, arrays(seed + 100)["gradient"])
    assert assess(other, Known.of(B)).confidence.status == "failed"


def test_another_activation_is_suspect() -> None:
    """The gradient of a GELU network taken for one of ReLU (seed 0)."""
    found = assess(SharedGradient.from_arrays(**arrays(activation="gelu")), TOLD)
    assert found.confidence.status == "suspect"
    assert any("not explained" in reason for reason in found.confidence.reasons)


# --- the command ------------------------------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays())
    code, out, _ = run(
        capsys,
        "attack",
        "gradient",
        "--file",
        str(path),
        "--B",
        "2",
        "--norms",
        "1,1",
        "--out",
        str(tmp_path),
        "--json",
    )
    result = json.loads(out)
    assert code == 0 and result["confidence"]["status"] == "ok"
    with np.load(tmp_path / "reconstruction.npz", allow_pickle=False) as archive:
        error = matched_rmse(X, archive["features"])
    assert result["confidence"]["exact"] is True and result["confidence"]["method"] == "likelihood"
    assert error <= 2 * result["confidence"]["predicted"] < 1e-9
    assert result["labels"] is None and {"loss", "output weights"} == set(result["confidence"]["assumed"])
    told = ("--norms", "1,1", "--scale", "1", "--loss", "half-mse-sum")
    code, out, _ = run(capsys, "attack", "gradient", "--file", str(path), "--B", "2", *told)
    assert code == 0 and "status: ok" in out and "predicted error" in out
    assert "labels: " in out and "exact: nothing but rounding is left" in " ".join(out.split())
    code, out, _ = run(
        capsys, "attack", "gradient", "--file", str(path), "--norms", "1,1", "--method", "tensor", "--json"
    )
    result = json.loads(out)["confidence"]
    assert code == 0 and result["method"] == "tensor_attack" and 0.01 < result["predicted"] < 0.2
    np.savez(path, **arrays(activation="tanh"))
    tanh = (
        "attack",
        "gradient",
        "--file",
        str(path),
        "--B",
        "2",
        "--activation",
        "tanh",
        "--loss",
        "half-mse-sum",
    )
    code, out, _ = run(capsys, *tanh)
    assert code == 0 and "up to its sign only" in out and "labels: " not in out
    result = json.loads(run(capsys, *tanh, "--json")[1])
    assert result["labels"] is None and result["confidence"]["sign_free"] is True
    np.savez(path, **(arrays() | {"gradient": np.ones(M)}))
    code, out, _ = run(capsys, "attack", "gradient", "--file", str(path), "--B", "2")
    assert code == 1 and "status: failed" in out
    for arguments, words in (
        (["--scale", "big"], "scale must be a number"),
        (["--norms", "1,x"], "norms must be a"),
    ):
        code, _, err = run(capsys, "attack", "gradient", "--file", str(path), "--B", "2", *arguments)
        assert code == 2 and words in err
