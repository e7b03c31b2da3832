"""Gradients as users of PyTorch have them: modules, state dicts, losses by their names there, any precision and layout."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Array
from torch import nn

from attack import (
    FirstLayerObservation,
    Known,
    ReconstructionError,
    SharedGradient,
    TwoLayerNet,
    attack_gradient,
    check_gradient,
    matched_rmse,
    read_gradient,
)
from attack.own.precision import Precision
from attack.rows.sparse_recovery import recover
from bounds import ACTIVATIONS, Activation, NoDefense, RowAttack
from verify import cli
from verify.confidence import assess

README = Path(__file__).parents[1] / "README.md"
D, M = 10, 2000


def features(B: int, d: int = D) -> torch.Tensor:
    X = torch.randn(B, d, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return X / X.norm(dim=1, keepdim=True)


def labels(B: int) -> torch.Tensor:
    return torch.tensor([1.0, -1.0, 0.5, -2.0], dtype=torch.float64)[:B]


def network(
    activation: nn.Module | None = None,
    B: int = 2,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    *,
    dtype: torch.dtype = torch.float64,
    outputs: int = 1,
    m: int = M,
) -> nn.Sequential:
    """A network with PyTorch's initialisation (seed 0), after a backward pass."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(D, m), activation or nn.ReLU(), nn.Linear(m, outputs)).to(dtype)
    y = labels(B)[:, None].expand(B, outputs).to(dtype)
    (loss or nn.MSELoss())(net(features(B).to(dtype)), y.contiguous()).backward()
    return net


def known(mine: SharedGradient, B: int = 2, **more: Any) -> Known:
    """Norms are left to the gradient where it tells them."""
    norms = None if mine.bias is not None else (1.0,) * B
    return Known.of(B, mine.activation, norms, **more)


def gradients(net: nn.Module) -> dict[str, Any]:
    return {name: p.grad for name, p in net.named_parameters()}


def exported(net: nn.Module) -> dict[str, torch.Tensor]:
    return net.state_dict() | {f"grad.{name}": value for name, value in gradients(net).items()}


# --- losses -----------------------------------------------------------------------------------------------------------

WRITTEN: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "mse-mean": nn.MSELoss(),
    "mse-sum": nn.MSELoss(reduction="sum"),
    "half-mse-mean": lambda f, y: nn.functional.mse_loss(f, y) / 2,
    "half-mse-sum": lambda f, y: nn.functional.mse_loss(f, y, reduction="sum") / 2,
}


@pytest.mark.parametrize("B", [1, 2, 4])
@pytest.mark.parametrize("name", list(WRITTEN))
def test_labels_come_back_for_every_loss_and_batch(name: str, B: int) -> None:
    """Autograd's gradient, default initialisation with biases: dL/dW gives labels to rounding, whatever their size."""
    mine = SharedGradient.from_module(network(B=B, loss=WRITTEN[name]))
    found = assess(mine, known(mine, B, loss=name))
    assert found.attacked is not None and found.confidence.method == "sparse_recovery"
    assert found.attacked.labels is not None
    np.testing.assert_allclose(np.sort(found.attacked.labels), np.sort(labels(B)), atol=1e-9)
    assert matched_rmse(features(B), found.attacked.features) < 1e-9


@pytest.mark.parametrize("B", [1, 2])
@pytest.mark.parametrize("name", ["mse-mean", "mse-sum"])
def test_labels_of_the_output_weights_gradient(name: str, B: int) -> None:
    """dL/da of Gaussian weights: to rounding (d = 10, m = 20 000); a bias of 3 counts."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(D, 20_000, bias=False), nn.ReLU(), nn.Linear(20_000, 1)).double()
    nn.init.normal_(net[0].weight)
    nn.init.constant_(net[2].bias, 3.0)
    WRITTEN[name](net(features(B)), labels(B)[:, None]).backward()
    mine = SharedGradient.from_module(net, layer="output")
    found = attack_gradient(mine, known(mine, B, loss=name))
    assert found.method == "likelihood" and found.labels is not None
    np.testing.assert_allclose(np.sort(found.labels), np.sort(labels(B)), atol=1e-9)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        ("mean", "whether there is a factor of 1/2: mse-mean .nn.MSELoss...* or half-mse-mean"),
        ("sum", "whether there is a factor of 1/2: mse-sum .*reduction='sum'.* or half-mse-sum"),
        (
            "cross-entropy",
            "whether it is the mean or the sum: cross-entropy-mean .nn.CrossEntropyLoss.* or cross-entropy-sum",
        ),
        ("l1", "loss must be one of mse-mean, mse-sum, .*, cross-entropy-mean, cross-entropy-sum; got 'l1'"),
    ],
)
def test_losses_that_are_refused(loss: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Known.of(1, loss=loss)


# --- modules ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (nn.ReLU(), "relu"),
        (nn.LeakyReLU(), "leaky_relu"),
        (nn.GELU(), "gelu"),
        (nn.SiLU(), "silu"),
        (nn.Softplus(), "softplus"),
        (nn.ELU(), "elu"),
        (nn.Tanh(), "tanh"),
        (nn.Sigmoid(), "sigmoid"),
    ],
)
def test_a_module_tells_its_activation(module: nn.Module, name: str) -> None:
    """By what it computes; weights, biases and gradients are its own."""
    net = network(module)
    mine = SharedGradient.from_module(net)
    assert mine.activation is ACTIVATIONS[name]
    found = gradients(net)
    pairs = [
        (mine.weight, net[0].weight),
        (mine.bias, net[0].bias),
        (mine.output_weight, net[2].weight[0]),
        (mine.output_bias, net[2].bias),
        (mine.gradient, found["0.weight"]),
        (mine.bias_gradient, found["0.bias"]),
        (SharedGradient.from_module(net, layer="output").gradient, found["2.weight"][0]),
    ]
    assert all(a is not None and torch.equal(a, b.detach()) for a, b in pairs)


class Functional(nn.Module):
    """Layers in another order than they are run, a function for the activation, and outputs (n,)."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body = nn.Linear(M, 1, bias=False), nn.Linear(D, M, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(torch.tanh(self.body(x)))[:, 0]
        return out


def test_a_module_of_any_kind() -> None:
    net = Functional()
    net(torch.ones(1, D)).sum().backward()
    training = net.training
    mine = SharedGradient.from_module(net)
    assert mine.activation is ACTIVATIONS["tanh"] and mine.bias is None and mine.weight.shape == (M, D)
    assert net.training == training and mine.weight.dtype == torch.float32
    cubed = Activation("cube", lambda t: t**3)
    with pytest.raises(ValueError, match="with an activation of cube; the nearest, cube, is off by"):
        SharedGradient.from_module(net, activation=cubed)
    with pytest.raises(ValueError, match="activation must be tanh, which came with the gradient; got relu"):
        attack_gradient(mine, Known.of(1, "relu"))


def without_gradient() -> nn.Module:
    return nn.Sequential(nn.Linear(D, 5), nn.ReLU(), nn.Linear(5, 1))


def deep() -> nn.Module:
    return nn.Sequential(nn.Linear(D, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 1))


class Keeping(nn.Sequential):
    """Keeps its last outputs, as networks whose features are looked at do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = super().forward(x)
        return self.last


def keeping() -> nn.Module:
    net = Keeping(nn.Linear(D, 5), nn.ReLU(), nn.Linear(5, 1))
    net(torch.ones(2, D)).sum().backward()
    return net


def not_finite() -> nn.Module:
    net = network(m=50)
    nn.init.constant_(net.get_parameter("0.bias"), math.nan)
    return net


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (keeping, "one that copy.deepcopy copies; .*from_state_dict"),
        (not_finite, "module must have finite outputs"),
        (without_gradient, "gradient of 0.weight or 2.weight must be given .loss.backward.. makes it.; got"),
        (deep, r"two linear layers .* got 0.weight \(5, 10\), 0.bias \(5,\), .*4.weight"),
        (lambda: nn.Linear(D, 1), r"two linear layers .* got weight \(1, 10\)"),
        (
            lambda: nn.Sequential(nn.Linear(D, 5), nn.BatchNorm1d(5), nn.Linear(5, 1)),
            "nothing else with param",
        ),
        (lambda: nn.Sequential(nn.Linear(D, 5), nn.Linear(4, 1)), "one linear layer after the other"),
        (lambda: network(nn.GELU(approximate="tanh"), m=50), "the nearest, gelu, is off by"),
        (lambda: network(nn.Dropout(0.5), m=50), "another activation .* dropout, or another network"),
    ],
)
def test_modules_that_are_refused(make: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SharedGradient.from_module(make())


def test_a_state_dict_with_its_gradients() -> None:
    """By names, or in the order of the parameters as torch.autograd.grad gives them; some may be missing."""
    net = network()
    named = gradients(net)
    for given in (named, list(named.values()), {k: v for k, v in named.items() if k != "2.weight"}):
        mine = SharedGradient.from_state_dict(net.state_dict(), given)
        assert torch.equal(mine.gradient, named["0.weight"]) and mine.activation is None
    frozen = named | {"0.weight": None, "0.bias": None}
    assert SharedGradient.from_state_dict(net.state_dict(), frozen).gradient.shape == (M,)
    for wrong, words in (
        ([named["0.weight"]], "one for each of the 4 parameters; got 1"),
        ({"3.weight": named["0.weight"]}, "names of parameters .*; got 3.weight"),
    ):
        with pytest.raises(ValueError, match=words):
            SharedGradient.from_state_dict(net.state_dict(), wrong)
    with pytest.raises(ValueError, match="layer must be one of first, output"):
        SharedGradient.from_state_dict(net.state_dict(), named, layer="last")
    with pytest.raises(ValueError, match=r"gradient of 0\.weight must be given"):
        SharedGradient.from_state_dict(net.state_dict(), frozen, layer="first")
    with pytest.raises(TypeError, match="module must be"):
        SharedGradient.from_module(net.state_dict())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="gradients must be a Sequence"):
        SharedGradient.from_state_dict(net.state_dict(), None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="state_dict must be a Mapping"):
        SharedGradient.from_state_dict(net, named)  # type: ignore[arg-type]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, " ".join(err.split())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_file_that_the_readme_writes(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
) -> None:
    """Its three lines, then the command: the result is that of the module, in any precision."""
    net, path = network(dtype=dtype), tmp_path / "mine.safetensors"
    monkeypatch.chdir(tmp_path)
    (lines,) = re.findall(r"```python\n([^`]*save_file.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(lines, "README.md", "exec"), {"net": net})
    read, told = read_gradient(path), SharedGradient.from_module(net)
    assert all(torch.equal(value, told.arrays[name]) for name, value in read.arrays.items())
    base = ("attack", "gradient", "--file", str(path), "--B", "2")
    code, out, _ = run(capsys, *base, "--loss", "mse-mean", "--out", str(tmp_path), "--json")
    result = json.loads(out)
    assert code == 0 and result["precision"] == str(dtype)[6:]
    with np.load(tmp_path / "reconstruction.npz", allow_pickle=False) as archive:
        error = matched_rmse(features(2).to(dtype).double(), archive["features"])
    assert error < 2 * result["confidence"]["predicted"] < 1e-2
    np.testing.assert_allclose(np.sort(result["labels"]), [-1, 1], atol=2e-2)
    if dtype == torch.float16:
        out = " ".join(run(capsys, *base)[1].replace("│", " ").split())
        assert "exact but for rounding of the entries to float16" in out
        assert "labels: " not in out and "there are no labels" in out


def test_files_of_other_state_dicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.npz"
    whole = {name: value.numpy() for name, value in exported(network(m=50)).items()}
    np.savez(path, **whole)
    assert read_gradient(path).m == 50
    for changes, words in (
        ({"grad.9.weight": np.ones(3)}, "the parameter of every gradient; missing: '9.weight'"),
        ({"1.running_mean": np.ones(3)}, "two linear layers and nothing else with parameters"),
        ({"2.bias": np.ones(2)}, r"output_bias must have shape \(1,\); got \(2,\)"),
    ):
        np.savez(path, **(whole | changes))
        with pytest.raises(ValueError, match=words):
            read_gradient(path)
    torch.save(network(m=50).state_dict(), tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"got net.pt; pickles are never loaded: write net.state_dict\(\)"):
        read_gradient(tmp_path / "net.pt")


# --- dL/dW ------------------------------------------------------------------------------------------------------------


def rows(output: Array, activation: str = "relu", B: int = 2, sigma: float = 0.0) -> dict[str, Any]:
    """dL/dW of a network with standard Gaussian weights, residuals 1 and -1.5, noise of sigma times the entries' size."""
    net = TwoLayerNet.sample(D, len(output), activation)
    r = torch.tensor([1.0, -1.5], dtype=torch.float64)[:B]
    G = net.m * torch.from_numpy(output)[:, None] * net.first_layer_gradient(features(B), r)
    noise = torch.randn(G.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return {"weight": net.weights, "gradient": G + sigma * G.square().mean().sqrt() * noise}


EVEN = np.full(M, 1 / M)
VARIED = np.random.default_rng(0).uniform(-1, 1, M) / M**0.5


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh", "softplus"])
@pytest.mark.parametrize("B", [1, 2])
def test_missing_output_weights_are_named(activation: str, B: int) -> None:
    given = rows(VARIED, activation, B)
    told = Known.of(B, activation, (1.0,) * B)
    sure = assess(SharedGradient.from_arrays(**given), told).confidence
    assert sure.status == "failed" and sure.reasons[0].startswith("output_weight must be given with dL/dW")
    there = check_gradient(SharedGradient.from_arrays(**given, output_weight=VARIED), told)
    even = check_gradient(SharedGradient.from_arrays(**rows(EVEN, activation, B)), told)
    signed = check_gradient(SharedGradient.from_arrays(**rows(np.sign(VARIED) / M, activation, B)), told)
    noisy = check_gradient(SharedGradient.from_arrays(**rows(EVEN, activation, B, 0.5)), told)
    for found, named in ((there, False), (even, False), (signed, True), (noisy, False)):
        assert any("output_weight must be given" in f.text for f in found) == named


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("output", [EVEN, VARIED], ids=["even", "varied"])
def test_rounded_rows_are_exact_to_what_rounding_leaves(dtype: torch.dtype, output: Array) -> None:
    """Rows that are rounded, or held as float64 after that; also where equal rows are rounded alike. Measured error at most
    that which is predicted, and not below a thousandth of it."""
    given = rows(output)
    given["gradient"] = given["gradient"].to(dtype)
    given["output_weight"] = output
    seen = [
        assess(SharedGradient.from_arrays(**(given | {"gradient": g})), Known.of(2, "relu", (1.0, 1.0)))
        for g in (given["gradient"], given["gradient"].double())
    ]
    for found in seen:
        assert found.attacked is not None and found.attacked.precision is not None
        assert found.attacked.precision.name == str(dtype)[6:] and found.confidence.status == "ok", found
        predicted = found.confidence.predicted
        assert predicted is not None
        assert predicted / 1000 < matched_rmse(features(2), found.attacked.features) < predicted
    assert seen[0].confidence.predicted == pytest.approx(seen[1].confidence.predicted, rel=1e-6)


def test_why_recovery_was_not_exact_is_said() -> None:
    found = attack_gradient(SharedGradient.from_arrays(**rows(EVEN, "gelu")), Known.of(2, "gelu", (1.0, 1.0)))
    assert found.inexact == "exact recovery is for ReLU and leaky ReLU; the activation is gelu"
    noisy = rows(EVEN, sigma=0.01)
    noisy["gradient"] = noisy["gradient"].float()
    found = attack_gradient(SharedGradient.from_arrays(**noisy), Known.of(2, "relu", (1.0, 1.0)))
    assert found.method == "first_layer_attack" and found.inexact is not None
    assert found.inexact.startswith(
        "exact recovery, tried in double on entries of precision float32, has no result: "
    )


def test_precision_is_that_of_the_values() -> None:
    values = torch.randn(5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert Precision.of(values).name == "float64" and Precision.of(values).rounding < 2e-16
    for kind in (torch.float32, torch.float16, torch.bfloat16):
        rounded = values.to(kind).double()
        found = Precision.of(rounded)
        assert found.name == str(kind)[6:]
        assert float(((rounded - values) / values).abs().max()) <= found.rounding
    late = torch.cat([torch.zeros(9000, dtype=torch.float64), values])
    assert Precision.of(late).name == "float64"
    small = (1e-6 * values).half().double()  # near the type's smallest numbers rounding is no longer relative
    off = (small - 1e-6 * values).abs().max() / small.square().mean().sqrt()
    assert float(off) <= Precision.of(small).rounding < 0.1


def test_rounding_is_no_excuse_without_digits() -> None:
    """A tolerance of a half for rows of noise gives no features."""
    net = TwoLayerNet.sample(D, M)
    noise = torch.randn(M, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.raises(ReconstructionError):
        recover(
            FirstLayerObservation(noise, 2, (1.0, 1.0), NoDefense()),
            net,
            rounding=0.004,
            attack=RowAttack(max_samples=2000),
        )


def test_a_transposed_gradient_is_recognised(tmp_path: Path) -> None:
    given = rows(EVEN)
    turned = given | {"gradient": given["gradient"].T}
    np.savez(tmp_path / "a.npz", **{name: value.numpy() for name, value in turned.items()})
    for mine in (SharedGradient.from_arrays(**turned), read_gradient(tmp_path / "a.npz")):
        assert torch.equal(mine.gradient, given["gradient"])
        assert (
            "dL/dW came as (d, m) = (10, 2000) and was transposed"
            in check_gradient(mine, Known.of(2))[0].text
        )
    square = SharedGradient.from_arrays(given["weight"][:D], given["gradient"][:D])
    assert "m = d = 10: the shapes do not tell" in check_gradient(square, Known.of(2))[0].text
    assert SharedGradient.from_arrays(**given).notes == ()


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_failed_pictures_say_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "attack", "tensor", "--B", "4", "--m", "100", "--out", str(tmp_path))
    assert code == 0 and "failed" in out and "ill-posed: the weakest of 4 directions" in " ".join(out.split())
