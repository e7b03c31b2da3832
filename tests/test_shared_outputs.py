"""A shared gradient of a network with several outputs: modules, state dicts, arrays and files of PyTorch's making."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Array
from safetensors.torch import save_file
from torch import nn

from attack import (
    Known,
    OutputsAttack,
    ReconstructionError,
    SharedGradient,
    attack_gradient,
    check_gradient,
    matched_error,
    matched_rmse,
    read_gradient,
)
from bounds.losses import LOSSES
from verify import cli
from verify.confidence import assess

B, C, D, M = 3, 10, 12, 400
X = np.random.default_rng(0).standard_normal((B, D))
CLASSES = np.array([7, 2, 7])

WRITTEN = {
    "mse-mean": nn.MSELoss(),
    "mse-sum": nn.MSELoss(reduction="sum"),
    "half-mse-mean": lambda f, y: nn.functional.mse_loss(f, y) / 2,
    "half-mse-sum": lambda f, y: nn.functional.mse_loss(f, y, reduction="sum") / 2,
    "cross-entropy-mean": nn.CrossEntropyLoss(),
    "cross-entropy-sum": nn.CrossEntropyLoss(reduction="sum"),
}


def network(
    loss: str = "cross-entropy-mean",
    activation: nn.Module | None = None,
    *,
    dtype: torch.dtype = torch.float64,
    bias: bool = True,
) -> nn.Sequential:
    """PyTorch's initialisation (seed 0), after a backward pass."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(D, M, bias=bias), activation or nn.ReLU(), nn.Linear(M, C, bias=bias)).to(
        dtype
    )
    y = torch.from_numpy(CLASSES)
    WRITTEN[loss](
        net(torch.from_numpy(X).to(dtype)), y if LOSSES[loss].classes else torch.eye(C, dtype=dtype)[y]
    ).backward()
    return net


def gradients(net: nn.Module) -> dict[str, Any]:
    return {name: p.grad for name, p in net.named_parameters()}


def arrays(net: nn.Sequential) -> dict[str, Any]:
    grads = gradients(net)
    return {
        "weight": net[0].weight,
        "gradient": grads["0.weight"],
        "bias": net[0].bias,
        "output_weight": net[2].weight,
        "bias_gradient": grads["0.bias"],
        "output_bias": net[2].bias,
        "output_gradient": grads["2.weight"],
        "output_bias_gradient": grads["2.bias"],
    }


def known(mine: SharedGradient, loss: str | None = "cross-entropy-mean", size: int = B, **more: Any) -> Known:
    return Known.of(size, mine.activation, loss=loss, **more)


def ordered(found: OutputsAttack, values: Any) -> Array:
    return np.asarray(values)[list(matched_error(X, found.features).permutation)]


# --- what comes in, and what comes back ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [None, "first", "output"])
@pytest.mark.parametrize("name", list(LOSSES))
def test_labels_come_back_for_every_loss(name: str, layer: str | None) -> None:
    """Features to rounding, classes or targets, from all gradients, dL/dW with dL/db, and dL/dA alone."""
    mine = SharedGradient.from_module(network(name), layer=layer)
    assert mine.outputs == C
    found = assess(mine, known(mine, name))
    sure, attacked = found.confidence, found.attacked
    assert isinstance(attacked, OutputsAttack) and attacked.labels is not None
    assert sure.status == "ok" and sure.method == "dual_directions" and attacked.exact, sure
    assert sure.predicted is not None and matched_rmse(X, attacked.features) < 1e-10
    wanted = CLASSES if LOSSES[name].classes else np.eye(C)[CLASSES]
    np.testing.assert_allclose(ordered(attacked, attacked.labels), wanted, atol=1e-9)
    tested = {p.name for p in sure.premises if p.tested}
    assert {"activation", "batch size", "norms"} <= tested
    assert ("loss" in tested) == LOSSES[name].classes  # a squared loss of any size has some targets


def test_all_ways_in_are_one() -> None:
    """Module, state dict with gradients by name and in order, arrays; float64."""
    net = network()
    first = SharedGradient.from_module(net)
    ways = (
        SharedGradient.from_state_dict(net.state_dict(), gradients(net)),
        SharedGradient.from_state_dict(net.state_dict(), list(gradients(net).values())),
        SharedGradient.from_arrays(**arrays(net)),
    )
    for other in ways:
        assert other.arrays.keys() == first.arrays.keys()
        assert all(torch.equal(other.arrays[name], values) for name, values in first.arrays.items())
    assert isinstance(attack_gradient(first, known(first)), OutputsAttack)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_file_from_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    """Single precision, as networks are trained: exact to its rounding; classes come back, features are written."""
    net, path = network(dtype=torch.float32), tmp_path / f"ten{suffix}"
    if suffix == ".npz":
        np.savez(path, **{name: values.detach().numpy() for name, values in arrays(net).items()})
    else:
        save_file(net.state_dict() | {f"grad.{name}": grad for name, grad in gradients(net).items()}, path)
    mine = read_gradient(path)
    assert mine.outputs == C and mine.output_gradient is not None
    call = ["attack", "gradient", "--file", str(path), "--B", str(B), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main([*call, "--loss", "cross-entropy-mean", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["confidence"]["status"] == "ok" and told["inexact"] is None and told["precision"] == "float32"
    assert sorted(told["labels"]) == sorted(CLASSES.tolist())
    assert np.shape(told["residuals"]) == (B, C) and told["search"].endswith("starts")
    kept = np.load(told["file"])
    assert matched_rmse(X.astype(np.float32), kept["features"]) < told["confidence"]["predicted"] < 1e-5
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main(call[:-2])
    shown = " ".join(capsys.readouterr().out.split())
    assert "exact but for rounding of the entries to float32" in shown and "leave of the worst row" in shown
    assert "nn.CrossEntropyLoss()" in shown  # found, not told


def test_norms_without_biases() -> None:
    """Cross-entropy tells them; a squared loss does not: directions, or the norms that are told, untested."""
    mine = SharedGradient.from_module(network(bias=False))
    found = assess(mine, known(mine))
    assert found.confidence.status == "ok" and found.attacked is not None and found.attacked.norms == "loss"
    assert matched_rmse(X, found.attacked.features) < 1e-8
    mine = SharedGradient.from_module(network("mse-mean", bias=False))
    free = assess(mine, known(mine, "mse-mean"))
    assert (
        free.confidence.status == "directions only"
        and free.attacked is not None
        and free.attacked.labels is None
    )
    assert matched_rmse(X / np.linalg.norm(X, axis=1)[:, None], free.attacked.features) < 1e-10
    told = assess(mine, known(mine, "mse-mean", norms=(2.0,) * B))
    assert told.attacked is not None and "norms" in told.confidence.untested
    np.testing.assert_allclose(told.attacked.features.norm(dim=1), 2.0)


def test_two_outputs_without_biases_may_not_tell_mean_from_sum() -> None:
    """The residuals of two outputs are one number, which some norm may fit: *ok* then rests on the loss that is told, and
    without one there are directions alone."""
    for loss in ("cross-entropy-mean", "cross-entropy-sum"):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(D, M, bias=False), nn.ReLU(), nn.Linear(M, 2, bias=False)).double()
        WRITTEN[loss](net(torch.from_numpy(X)), torch.from_numpy(CLASSES % 2)).backward()
        mine = SharedGradient.from_module(net)
        for told in ("cross-entropy-mean", "cross-entropy-sum", None):
            found = assess(mine, known(mine, told))
            assert found.confidence.status in ("ok", "directions only") and found.attacked is not None
            right = matched_rmse(X, found.attacked.features) < 1e-8
            assert right or found.confidence.status != "ok" or found.confidence.untested == ("loss",)
            assert right or told != loss
    told = assess(mine, known(mine, loss)).confidence
    biased = SharedGradient.from_module(network())
    assert told.status == "ok" and assess(biased, known(biased)).confidence.untested == ()


# --- what does not fit ------------------------------------------------------------------------------------------------


def spoiled(name: str, how: Any) -> SharedGradient:
    given = {key: values.detach().numpy().copy() for key, values in arrays(network()).items()}
    given[name] = how(given[name])
    return SharedGradient.from_arrays(**given)


def one_entry(values: Array) -> Array:
    values.reshape(-1)[7] += 1e-3 * np.sqrt(np.mean(values**2))
    return values


@pytest.mark.parametrize(
    "name", ["gradient", "bias_gradient", "output_gradient", "output_bias_gradient", "output_weight"]
)
def test_one_wrong_entry_is_never_ok(name: str) -> None:
    mine = spoiled(name, one_entry)
    found = assess(mine, known(mine))
    assert found.confidence.status in ("suspect", "failed") and found.confidence.predicted is None
    if found.attacked is not None:
        assert (
            found.attacked.inexact is not None and "a row is left unexplained" in found.confidence.reasons[0]
        )


@pytest.mark.parametrize("size", [1e-2, 1e-6])
def test_noise_is_never_ok(size: float) -> None:
    def noisy(values: Array) -> Array:
        return values + size * np.sqrt(np.mean(values**2)) * np.random.default_rng(0).standard_normal(
            values.shape
        )

    mine = spoiled("gradient", noisy)
    found = assess(mine, known(mine))
    assert found.confidence.status != "ok"
    if found.attacked is not None:  # from dL/dA, which has no noise
        assert not found.attacked.exact and matched_rmse(X, found.attacked.features) < 1e-9


@pytest.mark.parametrize(
    ("made", "layer"), [(nn.LeakyReLU(0.01), "first"), (nn.GELU(), "first"), (nn.ELU(), "output")]
)
def test_another_activation_than_the_one_told_is_never_ok(made: nn.Module, layer: str) -> None:
    given = arrays(network(activation=made))
    if layer == "output":
        given["gradient"] = given["output_gradient"]
        given = {
            name: values for name, values in given.items() if "gradient" not in name or name == "gradient"
        }
    found = assess(SharedGradient.from_arrays(**given), Known.of(B, "relu", loss="cross-entropy-mean"))
    assert found.confidence.status in ("suspect", "failed") and found.confidence.predicted is None


@pytest.mark.parametrize(
    "how",
    [
        lambda name, g, values: 0.5 * g,  # clipped
        lambda name, g, values: g + 0.01 * values,  # weight decay
        lambda name, g, values: np.sign(g),
        lambda name, g, values: np.where(np.abs(g) > np.quantile(np.abs(g), 0.3), g, 0.0),  # pruned
        lambda name, g, values: np.random.default_rng(len(name)).permutation(g),
    ],
)
def test_what_is_done_to_a_gradient_is_never_ok(how: Any) -> None:
    """Every array of it alike; of a clipped one features are right, and the loss is not the one that was told."""
    given = {name: values.detach().numpy() for name, values in arrays(network()).items()}
    of = {"gradient": "weight", "bias_gradient": "bias", "output_gradient": "output_weight"}
    of |= {"output_bias_gradient": "output_bias"}
    done = given | {name: how(name, given[name], given[values]) for name, values in of.items()}
    mine = SharedGradient.from_arrays(**done)
    found = assess(mine, known(mine))
    assert found.confidence.status in ("suspect", "failed")


@pytest.mark.parametrize("told", [2, 4])
def test_another_batch_size_has_no_result(told: int) -> None:
    mine = SharedGradient.from_module(network())
    found = assess(mine, known(mine, size=told))
    assert (
        found.confidence.status == "failed"
        and f"it has rank {B}, told {told} features" in found.confidence.reasons[0]
    )


def test_another_loss_is_suspect() -> None:
    mine = SharedGradient.from_module(network("cross-entropy-sum"))
    found = assess(mine, known(mine, "cross-entropy-mean"))
    assert (
        found.confidence.status == "suspect" and found.attacked is not None and found.attacked.labels is None
    )
    assert "loss: cross-entropy-mean told, but" in found.confidence.reasons[0]
    assert matched_rmse(X, found.attacked.features) < 1e-10


def test_other_norms_than_those_told_are_suspect() -> None:
    mine = SharedGradient.from_module(network())
    found = assess(mine, known(mine, norms=(1.0,) * B))
    assert found.confidence.status == "suspect" and "the gradient says" in found.confidence.reasons[0]


def test_told_norms_that_patterns_refute_are_suspect() -> None:
    """dL/dW without dL/db, of a squared loss: nothing tells norms but on which side of its plane biases put a neuron."""
    given = arrays(network("mse-mean"))
    mine = SharedGradient.from_arrays(
        **{name: given[name] for name in ("weight", "gradient", "bias", "output_weight")}
    )
    free = assess(mine, Known.of(B, loss="mse-mean"))
    assert free.confidence.status == "directions only" and free.attacked is not None
    assert matched_rmse(X / np.linalg.norm(X, axis=1)[:, None], free.attacked.features) < 1e-10
    told = assess(mine, Known.of(B, norms=(0.5,) * B, loss="mse-mean"))
    assert (
        told.confidence.status == "suspect" and "weight_gradient a row is left" in told.confidence.reasons[0]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"output_weight": None},
            r"several outputs: gradient has shape \(10, 400\).*output_weight must then be given",
        ),
        (
            {"gradient": np.ones((9, M))},
            r"gradient must have shape \(C, m\) = \(10, 400\) or \(m, d\) = \(400, 12\)",
        ),
        ({"output_bias": np.ones(9)}, r"output_bias must have shape \(10,\); got \(9,\)"),
        ({"output_bias_gradient": np.ones(1)}, r"output_bias_gradient must have shape \(10,\); got \(1,\)"),
        (
            {"output_gradient": np.ones((M, 9))},
            r"output_gradient must have shape \(10, 400\); got \(400, 9\)",
        ),
        ({"gradient": np.zeros((C, M))}, "is zero: no feature can have made it"),
        ({"gradient": np.full((C, M), np.nan)}, "4000 of 4000 entries that are not finite"),
        ({"gradient": np.full((C, M), 1e200)}, "gradient must be zero or of a size between 1e-60 and 1e.60"),
    ],
)
def test_arrays_that_do_not_fit_are_errors(changes: dict[str, Any], message: str) -> None:
    net = network()
    given = {
        "weight": net[0].weight,
        "gradient": net[2].weight.grad,
        "output_weight": net[2].weight,
    } | changes
    mine = SharedGradient.from_arrays(
        **{name: values for name, values in given.items() if values is not None}
    )
    (finding,) = (f for f in check_gradient(mine, Known.of(2)) if f.level == "error")
    assert re.search(message, finding.text), finding.text
    with pytest.raises((ValueError, ReconstructionError), match=message):
        attack_gradient(mine, Known.of(2))


def test_other_activations_and_one_output_are_refused() -> None:
    mine = SharedGradient.from_module(network(activation=nn.GELU()))
    found = assess(mine, known(mine))
    assert found.confidence.reasons == (
        "activation must be relu for several outputs, whose inactive neurons tell features apart; got gelu",
    )
    one = SharedGradient.from_arrays(np.ones((5, 2)), np.ones(5))
    found = assess(one, Known.of(1, loss="cross-entropy-mean"))
    assert found.confidence.status == "failed"
    assert (
        "a squared loss where the network has one output; got cross-entropy-mean"
        in found.confidence.reasons[0]
    )


def test_a_gradient_of_the_shape_of_the_output_weights_is_theirs() -> None:
    """With C = d outputs (C, m) is also that of a transposed dL/dW."""
    rng = np.random.default_rng(0)
    W, A, G = rng.standard_normal((30, 4)), rng.standard_normal((4, 30)), rng.standard_normal((4, 30))
    assert tuple(SharedGradient.from_arrays(W, G, output_weight=A).gradient.shape) == (4, 30)
    turned = SharedGradient.from_arrays(W, G, output_weight=rng.standard_normal((5, 30)))
    assert tuple(turned.gradient.shape) == (30, 4) and "transposed" in turned.notes[0]


def test_classes_are_counted_before_any_feature_is_known() -> None:
    mine = SharedGradient.from_module(network())
    (finding,) = (f for f in check_gradient(mine, known(mine)) if f.name == "classes")
    assert "1 of class 2, 2 of class 7" in finding.text
    given = {name: arrays(network())[name] for name in ("weight", "bias", "output_weight", "output_gradient")}
    alone = SharedGradient.from_arrays(gradient=given.pop("output_gradient"), **given)
    (finding,) = (f for f in check_gradient(alone, known(alone)) if f.name == "classes")
    assert "shows samples of classes 2, 7," in finding.text
