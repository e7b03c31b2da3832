"""A user's gradient and network: what belongs together passes, and what does not is told by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from attack.image.check import check_images, observation_of
from attack.image.gradient_file import read_image_gradients
from attack.image.observed import observe_images
from attack.networks.image.convnet import conv_net
from attack.networks.image.head import Head
from attack.networks.image.network import ImageNetwork
from attack.networks.image.resnet import resnet18
from attack.own.findings import Finding, errors
from bounds import (
    Defense,
    Dropout,
    GradientClipping,
    GradientNoise,
    GradientPruning,
    LocalAggregation,
    NoDefense,
    SecureAggregation,
)

SHAPE, B = (1, 8, 8), 4

Gradients = dict[str, torch.Tensor]


def resnet(batch_norm: str = "eval", seed: int = 0) -> ImageNetwork:
    """With statistics and slopes of batch norm that are not those of the start."""
    network = resnet18(SHAPE, 10, width=2, head=Head(m=30, features=16), batch_norm=batch_norm, seed=seed)
    module = network.module
    generator = torch.Generator().manual_seed(seed + 1)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values in (layer.running_mean, layer.running_var, layer.weight.data, layer.bias.data):
                assert values is not None
                values.copy_(0.5 + torch.rand(values.shape, generator=generator))
    return dataclasses.replace(network, module=module)


def small(seed: int = 0) -> ImageNetwork:
    return conv_net(SHAPE, 10, channels=(4, 4), head=Head(m=30, features=16), seed=seed)


def sent(network: ImageNetwork, defense: Defense | None = None, scope: str = "global") -> Gradients:
    images = torch.rand(B, *SHAPE, generator=torch.Generator().manual_seed(1))
    seen = observe_images(defense or NoDefense(), network, images, torch.tensor([1, 4, 7, 2]), scope=scope)
    return dict(zip(network.names, seen.gradients, strict=True))


def alarms(findings: tuple[Finding, ...]) -> dict[str, str]:
    return {finding.name: finding.level for finding in findings if finding.level != "ok"}


@pytest.mark.parametrize("network", [small(), resnet(), resnet("batch")], ids=["conv", "eval", "batch"])
@pytest.mark.parametrize(
    "defense",
    [NoDefense(), GradientClipping(0.1), SecureAggregation(clients=2), Dropout(0.3, per_sample=True)],
    ids=lambda defense: defense.name,
)
def test_what_belongs_together_passes(network: ImageNetwork, defense: Defense) -> None:
    findings = check_images(network, sent(network, defense), B, defense=defense)
    found = alarms(findings)
    if isinstance(defense, GradientClipping):
        assert found.pop("scale") == "warning"  # smaller than a sum, as a mean would be
    found.pop("zero", None)  # of a ReLU that is off for all samples
    assert found == {}
    assert {"names", "normalisation", "classes", "scale", "rank", "units"} <= {f.name for f in findings} | {
        "names"
    }
    assert ("batch norm" in {f.name for f in findings}) == ("body.1.weight" in network.names)


def off(change: str, network: ImageNetwork) -> Gradients:
    """A gradient with one thing wrong."""
    gradients = sent(network)
    hidden = "head.hidden.weight"
    if change == "missing":
        del gradients[hidden]
    elif change == "extra":
        gradients["fc.weight"] = gradients[hidden]
    elif change == "wrapped":
        return {f"module.{name}": g for name, g in gradients.items()}
    elif change == "statistics":
        gradients["body.1.running_mean"] = torch.ones(2)
    elif change == "transposed":
        gradients[hidden] = gradients[hidden].T
    elif change == "nan":
        gradients[hidden] = gradients[hidden].clone().index_fill(0, torch.tensor([1]), torch.nan)
    elif change == "zero":
        return {name: torch.zeros_like(g) for name, g in gradients.items()}
    return gradients


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "gradients of head.hidden.weight are missing"),
        ("extra", "no parameter of the module: fc.weight"),
        ("wrapped", "begin with 'module.'"),
        ("statistics", "statistics of batch norm, which have none: body.1.running_mean"),
        ("transposed", r"must have shape \(30, 16\); got \(16, 30\); it looks transposed"),
        ("nan", "must be finite; got 16 values"),
        ("zero", "all zero"),
    ],
)
def test_what_leaves_nothing_to_attack_is_an_error(change: str, message: str) -> None:
    network = resnet()
    with pytest.raises(ValueError, match=message):
        observation_of(network, off(change, network), B)


def test_other_inputs_are_refused() -> None:
    network = small()
    gradients = list(sent(network).values())
    assert alarms(check_images(network, gradients, B)) == {}
    assert alarms(check_images(network, gradients[:-1], B)) == {"names": "error"}
    with pytest.raises(TypeError, match="real numbers"):
        check_images(network, ["?"] * len(gradients), B)
    with pytest.raises(ValueError, match="batch_size"):
        check_images(network, gradients, 0)
    with pytest.raises(ValueError, match="scope"):
        check_images(network, gradients, B, scope="bogus")


def test_gradients_of_frozen_parameters_are_told() -> None:
    network = small()
    module, gradients = network.module, sent(network)
    module.get_parameter("head.output.bias").requires_grad_(False)
    frozen = dataclasses.replace(network, module=module)
    (finding,) = errors(check_images(frozen, gradients, B))
    assert "frozen parameters" in finding.text and "head.output.bias" in finding.text
    del gradients["head.output.bias"]
    assert errors(check_images(frozen, gradients, B)) == ()


def test_other_weights_are_noticed() -> None:
    findings = check_images(small(seed=1), sent(small()), B)
    assert alarms(findings) == {"units": "warning"}
    findings = check_images(resnet(seed=1), sent(resnet()), B)
    assert alarms(findings).items() >= {("units", "warning"), ("batch norm", "warning")}


@pytest.mark.parametrize(("used", "said"), [("eval", "batch"), ("batch", "eval")])
def test_the_mode_of_batch_norm_is_told(used: str, said: str) -> None:
    (finding,) = errors(check_images(resnet(said), sent(resnet(used)), B))
    assert finding.name == "batch norm" and f'batch_norm="{used}"' in finding.text


def test_other_statistics_are_noticed() -> None:
    network = resnet()
    module, gradients = network.module, sent(network)
    module.get_buffer("body.1.running_mean").add_(1.0)
    found = check_images(dataclasses.replace(network, module=module), gradients, B)
    assert alarms(found) == {"batch norm": "warning"}


def test_the_size_of_batch_and_gradient_is_judged() -> None:
    network = small()
    gradients = sent(network)
    assert alarms(check_images(network, gradients, B - 1)) == {"rank": "warning"}
    larger = {name: 3 * g for name, g in gradients.items()}
    assert alarms(check_images(network, larger, B)) == {"scale": "warning"}
    mean = {name: g / B for name, g in gradients.items()}
    assert alarms(check_images(network, mean, B)) == {"scale": "warning"}
    squared = dataclasses.replace(network, loss="squared")
    assert alarms(check_images(network, sent(squared), B))["classes"] == "warning"
    assert alarms(check_images(squared, sent(squared), B)) == {}


@pytest.mark.parametrize(
    "defense",
    [GradientNoise(0.01), GradientPruning(0.95), LocalAggregation(steps=3, lr_times_m=3.0)],
    ids=lambda defense: defense.name,
)
def test_a_defense_that_is_not_told_is_noticed_and_one_that_is_told_is_allowed_for(defense: Defense) -> None:
    network = small()
    gradients = sent(network, defense)
    assert alarms(check_images(network, gradients, B)).keys() & {"units", "rank", "classes", "scale"}
    assert not alarms(check_images(network, gradients, B, defense=defense)).keys() - {"zero"}


def test_what_a_gradient_cannot_show_is_said() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 10))
    network = ImageNetwork.of(module, SHAPE)
    found = alarms(check_images(network, sent(network), B))
    assert found == {"dropout": "warning", "attacked": "warning"}


# --- files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_a_file_holds_state_and_gradients(tmp_path: Path, ending: str) -> None:
    network = resnet()  # 187 arrays and 62 gradients, more than a file of two layers may have
    gradients, path = sent(network), tmp_path / f"gradient{ending}"
    arrays = network.module.state_dict() | {f"grad.{name}": g for name, g in gradients.items()}
    if ending == ".npz":
        np.savez(path, **{name: value.numpy() for name, value in arrays.items()})
    else:
        save_file(arrays, path)
    found = read_image_gradients(path)
    fresh = resnet(seed=5)
    module = fresh.module
    module.load_state_dict(found.state)
    loaded = dataclasses.replace(fresh, module=module)
    seen = observation_of(loaded, found.gradients, B)
    assert all(torch.equal(g, gradients[n]) for n, g in zip(network.names, seen.gradients, strict=True))
    with pytest.raises(ValueError, match="memory_limit"):
        read_image_gradients(path, 1000)


def test_a_file_without_gradients_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.ones(2, 2), "gradient": torch.ones(2)}, path)
    with pytest.raises(
        ValueError, match=r"weights.safetensors: it must hold the gradient of NAME as grad\.NAME"
    ):
        read_image_gradients(path)
    with pytest.raises(ValueError, match="pickles are never loaded"):
        read_image_gradients(tmp_path / "x.pt")
    words = tmp_path / "words.npz"
    np.savez(words, **{"grad.a": np.array(["b"])})
    with pytest.raises(TypeError, match="real numbers"):
        read_image_gradients(words)
