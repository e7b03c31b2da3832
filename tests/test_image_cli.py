"""Pictures from the command line: embedded ones, a network and a gradient of one's own, the tables."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_cli import run
from test_datasets import idx_bytes, mnist_arrays, write_cifar, write_mnist

from attack.image.integrated import Integrated
from attack.image.matching import ImageMatching
from attack.image.metrics import image_errors
from attack.image.picture_set import cifar10_set, mnist_set
from attack.networks.image.network import ImageNetwork
from bounds import NoDefense
from verify.cli.images import redraw
from verify.cli.settings import with_settings
from verify.images import catalogue
from verify.images.point import ImagePoint, NetworkSpec
from verify.images.rivals import RIVALS
from verify.images.run import ImageTable, Tuning, run_table, with_options
from verify.images.trial import observed, run_image_trial, trial_seed

MODULE = """
import torch
def build():
    layers = torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.Sigmoid(), torch.nn.Linear(32, 4)
    return torch.nn.Sequential(*layers).double()
"""

ROW = """
from attack.networks.image.convnet import conv_net
from attack.networks.image.head import Head
def build():
    return conv_net((1, 8, 8), 10, channels=(16, 32, 32), head=Head(m=64, features=16), seed=0).module
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, torch.Tensor]:
    """A file with the gradient of two pictures in a network of one's own, whose weights are in it too."""
    (tmp_path / "owned_network.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.manual_seed(0)
    scope: dict[str, object] = {}
    exec(MODULE, scope)
    module = scope["build"]()  # type: ignore[operator]
    images = torch.rand(1, 1, 8, 8, dtype=torch.float64)
    torch.nn.functional.cross_entropy(module(images), torch.tensor([3]), reduction="sum").backward()
    arrays = {f"grad.{name}": p.grad for name, p in module.named_parameters()}
    path = tmp_path / "shared.safetensors"
    save_file({**arrays, **{n: v.contiguous() for n, v in module.state_dict().items()}}, path)
    return path, images


GIVEN = ("--module", "owned_network:build", "--shape", "1,8,8", "--B", "1")


def test_a_gradient_of_ones_own(
    own: tuple[Path, torch.Tensor], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """L-BFGS on a sigmoid network: the setting of its paper, in which it ends at the picture."""
    path, images = own
    asked = ("--gradient", str(path), *GIVEN, "--rival", "L-BFGS", "--tv", "0", "--starts", "2")
    code, out, err = run(capsys, "attack", "image", *asked, "--out", str(tmp_path), "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["labels"] == [3] and told["diagnostics"]["labels_from"] == "auto"
    found = np.load(told["file"])["images"]
    assert np.mean((found - images.numpy()) ** 2) < 1e-3 and Path(told["picture"]).exists()


def test_what_does_not_belong_to_the_module_is_told_first(
    own: tuple[Path, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = own
    for wrong, words in (
        (("--shape", "1,8"), "three whole numbers"),
        (("--shape", "1,4,4"), "shape"),
        (("--module", "owned_network"), "MODULE:FUNCTION"),
        (("--module", "owned_network:nothing"), "raised AttributeError"),
        (("--labels", "3,7"), "y must be B = 1"),
        (("--labels", "9"), r"0..3"),
        (("--labels", "1.7"), "labels must be whole numbers"),
        (("--rival", "nobody"), "rival"),
        (("--relative",), "relative"),
        (("--data", "digits-8"), "not both"),
        (("--attacked", "3"), ""),
    ):
        options = dict(zip(GIVEN[::2], GIVEN[1::2], strict=True)) | {"--gradient": str(path)}
        if len(wrong) == 2:
            options[wrong[0]] = wrong[1]
        flat = [part for pair in options.items() for part in pair] + (list(wrong) if len(wrong) == 1 else [])
        code, out, err = run(capsys, "attack", "image", *flat)
        assert code == 2 and not out and words in err.replace("\n", " "), (wrong, err)
        assert "Traceback" not in err


def test_a_gradient_of_another_network_is_refused(
    own: tuple[Path, torch.Tensor], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "other.npz"
    np.savez(path, **{"grad.1.weight": np.zeros((32, 64)), "grad.1.bias": np.zeros(32)})
    code, _, err = run(capsys, "attack", "image", "--gradient", str(path), *GIVEN)
    assert code == 2 and "missing" in err


def test_embedded_pictures(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked = ("--data", "digits-8", "--B", "2", "--iterations", "3", "--starts", "1", "--out", str(tmp_path))
    code, out, _ = run(
        capsys, "attack", "image", *asked, "--told", "--defense", "gradient-pruning", "--ratio", ".5"
    )
    assert code == 0 and "PSNR" in out and "(given)" in out
    assert (tmp_path / "inversion-digits-8-B2.png").exists()
    code, out, _ = run(capsys, "attack", "image", *asked, "--rival", "exact rows", "--defense", "gradient-noise",
                       "--sigma", "1")  # fmt: skip
    assert code == 1 and "no result" in out
    code, _, err = run(capsys, "attack", "image", *asked, "--rival", "L-BFGS", "--rate", ".1")
    assert code == 2 and "rate (step) must not be given" in err


def test_every_setting_of_an_attack(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Published ones by name too. What the attack has not is refused, by name."""
    few = ("--data", "digits-8", "--B", "1", "--iterations", "2", "--told", "--out", str(tmp_path))
    asked = ("attack", "image", *few, "--starts", "2")
    for rival, *settings in (
        ("inverting-gradients", "informed=yes"),
        ("cosine", "keep=floor", "start=grey"),
        ("integrated", "source=rows", "plain=0", "weight=.1", "warmup=1"),
    ):
        options = [part for setting in settings for part in ("--setting", setting)]
        code, out, err = run(capsys, *asked, "--rival", rival, *options)
        assert code == 0 and "PSNR" in out, (rival, err)
    attack = with_settings(RIVALS["integrated"], ["plain=0", "boxed=no", "weight=.1"], {"tv": None})
    assert isinstance(attack, Integrated) and attack.plain == 0 and attack.weight == 0.1
    assert attack.matching == replace(RIVALS["cosine"], boxed=False)
    for order in (["picture=pixels", "boxed=no"], ["boxed=no", "picture=pixels"]):
        assert not with_settings(RIVALS["decoder"], order, {}).boxed  # type: ignore[attr-defined]
    for wrong, words in (
        ("keep", "NAME=VALUE"),
        ("keep=nothing", "keep must be one of"),
        ("matching=3", "setting must be one of"),
        ("boxed=1", "boxed must be one of"),
        ("warmup=x", "warmup must be a whole number"),
        ("betas=1", "setting must be one of"),
        ("keep=last --setting keep=best", "keep once"),
        ("iterations=3", "iterations once"),
        ("optimiser=lbfgs --setting step=.1", "rate (step) must not"),
    ):
        code, out, err = run(capsys, *asked, "--setting", *wrong.split())
        assert code == 2 and not out and words in err.replace("\n", " "), (wrong, err)


def test_a_row_of_the_table_from_a_gradient_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever holds a module and its gradient finds the pictures of the table's trial, digit by digit; another seed finds
    others (the control)."""
    point = ImagePoint(
        "digits-8", 2, NetworkSpec(m=64, features=16), NoDefense(), "integrated",
        with_options(RIVALS["integrated"], iterations=15, starts=2),
    )  # fmt: skip
    record = run_image_trial(point, 0, 5)
    seed = trial_seed(5, 0)
    private, labels, seen = observed(point, seed, "cpu")
    network = seen.network
    (tmp_path / "owned_row.py").write_text(ROW)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    named = zip(network.names, seen.gradients, strict=True)
    gradients = {f"grad.{name}": g.contiguous() for name, g in named}
    save_file({**gradients, **network.module.state_dict()}, tmp_path / "seen.safetensors")
    asked = (
        "attack", "image", "--module", "owned_row:build", "--gradient", "seen.safetensors", "--shape", "1,8,8", "--B", "2",
        "--mean", str(network.mean[0]), "--std", str(network.std[0]), "--labels", ",".join(map(str, labels.tolist())),
        "--rival", "integrated", "--iterations", "15", "--starts", "2", "--json", "--out", str(tmp_path),
    )  # fmt: skip
    for given, like in ((seed, True), (seed + 1, False)):
        code, out, err = run(capsys, *asked, "--seed", str(given))
        assert code == 0, err
        found = torch.from_numpy(np.load(json.loads(out)["file"])["images"])
        psnr = image_errors(private, found).psnr
        assert (psnr == pytest.approx(record.values["psnr"], abs=0.01)) is like


@pytest.mark.parametrize("data", ["mnist", "cifar10"])
def test_pictures_of_files(data: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pictures = idx_bytes(2051, mnist_arrays(height=28, width=28)[0])
    files = (write_cifar(tmp_path),) if data == "cifar10" else write_mnist(tmp_path, images=pictures)
    names = ("--path", "--labels-path")[: len(files)]
    options = [part for name, file in zip(names, files, strict=True) for part in (name, str(file))]
    short = f"--B 1 --iterations 2 --starts 1 --out {tmp_path}".split(" ")
    asked = ("attack", "image", "--data", data, *short)
    code, out, err = run(capsys, *asked, *options, "--json")
    assert code == 0, err
    told, found = json.loads(out), np.load(tmp_path / f"inversion-{data}-B1.npz")
    assert len(told["errors"]["psnr"]) == 1
    private = (cifar10_set if data == "cifar10" else mnist_set)(*files)
    assert found["images"].shape == (1, *private.shape)
    assert run(capsys, *asked)[0] == 2
    code, _, err = run(capsys, *asked, *options[:-2])
    assert code == 2 and f"{options[-2].removeprefix('--')} must be given for data {data}" in err


def test_files_that_belong_to_no_data_are_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = str(write_cifar(tmp_path))
    code, _, err = run(capsys, "attack", "image", "--data", "digits-8", "--path", file)
    assert code == 2 and "path must not be given for data digits-8" in err
    code, _, err = run(capsys, "attack", "image", "--data", "mnist", "--path", file, "--labels-path", file)
    assert code == 2 and "magic number" in err
    code, _, err = run(capsys, "attack", "image", "--path", file, "--module", "a:b")
    assert code == 2 and "without data" in err


def test_the_tables_from_the_command_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = ImageMatching(iterations=2)
    point = ImagePoint("digits-8", 2, NetworkSpec(width=2, m=8, features=4), NoDefense(), "cosine", attack)
    table = ImageTable(
        "tiny",
        "a tiny table",
        (point, replace(point, B=1)),
        trials=1,
        sample=(point,),
        tuning=Tuning("tiny", iterations=2),
    )
    monkeypatch.setattr("verify.cli.images.TABLES", {"tiny": table})
    asked = ("verify", "image", "--jobs", "1", "--out", str(tmp_path))
    code, out, err = run(capsys, *asked)
    assert code == 0 and "a tiny table" in out, err
    assert {p.name for p in (tmp_path / "records").iterdir()} == {
        "images-tiny.jsonl",
        "images-tiny-tuning.jsonl",
    }
    drawn = sorted(p.name for p in tmp_path.glob("*.png"))
    for file in tmp_path.glob("*.png"):
        file.unlink()
    code, _, err = run(capsys, "figures", "--from", str(tmp_path))
    assert code == 0 and sorted(p.name for p in tmp_path.glob("images-*.png")) == drawn and len(drawn) == 4, (
        err
    )
    code, _, _ = run(capsys, "export", str(tmp_path))
    assert code == 0 and len((tmp_path / "records" / "csv" / "images-tiny.csv").read_text().splitlines()) == 4
    code, out, _ = run(capsys, *asked, "--quick", "--json")
    assert code == 0 and json.loads(out)[0]["name"] == "tiny-quick"
    monkeypatch.setattr("verify.cli.images.TABLES", {"tiny": table, "long": replace(table, sample=())})
    code, _, err = run(capsys, *asked, "--quick", "--only", "long")
    assert code == 2 and "quick form (tiny)" in err
    for wrong in (("--only", "nothing"), ("--d", "5"), ("--attack", "tensor"), ("--jobs", "0")):
        code, out, err = run(capsys, "verify", "image", *wrong, "--out", str(tmp_path))
        assert code == 2 and wrong[0].strip("-") in err


def test_a_table_whose_tuning_is_not_whole_is_not_redrawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = ImagePoint(
        "digits-8", 1, NetworkSpec(width=2, m=8, features=4), NoDefense(), "one", ImageMatching(iterations=1)
    )
    table = ImageTable("tiny", "", (point,), trials=1, tuning=Tuning("tiny", B=1, iterations=1, trials=1))
    monkeypatch.setattr("verify.cli.images.TABLES", {"tiny": table})
    assert table.candidates is not None
    tried = tmp_path / table.candidates.file
    run_table(table.candidates, tmp_path, device="cpu", progress=False)
    (tmp_path / table.file).write_text("")
    assert redraw(tmp_path / table.file, tmp_path, "png") == "no trials of its points, not redrawn"
    _, *others = tried.read_text().splitlines(keepends=True)
    tried.write_text("".join(others))
    assert "one lacks 1; not redrawn" in redraw(tmp_path / table.file, tmp_path, "png")


def test_the_networks_of_the_tables_have_an_attacked_layer() -> None:
    for table in catalogue.TABLES.values():
        for spec in {point.network for point in table.points}:
            from attack.image.picture_set import picture_set

            network = spec.build(picture_set(table.points[0].data), 0, "cpu")
            assert (
                isinstance(network, ImageNetwork)
                and spec.features in (None, network.d)
                and network.units == spec.m
            )
