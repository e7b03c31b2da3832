"""The comparison with public implementations, with small stand-ins for them: a checkout is never part of the tests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from verify.bench.images import WORSE, against_peers, like, small_pictures
from verify.bench.peers import PEERS, loaded
from verify.cli.bench import bench as command

#: Imports what the real file does and checks what it is given; its pictures are its start, whatever the iterations.
INVERSEFED = """
import torch
import torchvision
from inversefed.nn import MetaMonkey
from .metrics import answer

class GradientReconstructor:
    def __init__(self, model, mean_std, config, num_images):
        assert config["signed"] and config["total_variation"] == 1e-6 and config["max_iterations"] > 0
        self.model, self.mean_std, self.num_images = model, mean_std, num_images

    def reconstruct(self, gradients, labels, img_shape):
        print("loud")
        x = self._init_images(img_shape)[0]
        assert x.shape == (self.num_images, *img_shape) and len(gradients) == len(list(self.model.parameters()))
        return answer(x), {}
"""

BREACHING = """
from ..cases.models.transformer_dictionary import lookup_grad_indices

class OptimizationBasedAttacker:
    def __init__(self, model, loss, cfg, setup):
        assert cfg.optim.signed == "hard" and cfg.regularization["total_variation"].scale == 0.2
        assert not hasattr(cfg, "fog")

    def reconstruct(self, payload, shared, secrets, initial_data):
        assert len(payload[0]["parameters"]) == len(shared[0]["gradients"])
        return {"data": initial_data, "labels": shared[0]["metadata"]["labels"]}, {}
"""


def written(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_small_pictures_are_timed_with_and_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each manner of the two with its own convolutions; numbers of iterations are those that are asked for."""
    seen: list[tuple[int, bool]] = []

    def told(observation: object, attack: Any, **options: object) -> None:
        seen.append((attack.iterations, torch.backends.mkldnn.enabled))

    monkeypatch.setattr("attack.image.matching.invert", told)
    found = small_pictures(repeats=1, iterations=3)
    assert seen == [(3, False), (3, torch.backends.mkldnn.enabled)] * 2
    assert found.value > 0 and found.details.keys() == {"ours_s", "with_onednn_s"}


@pytest.fixture
def inversefed(tmp_path: Path) -> Path:
    files = {
        PEERS["invertinggradients"].file: INVERSEFED,
        "inversefed/metrics.py": "def answer(x):\n    return x",
        "inversefed/__init__.py": "raise RuntimeError('the package itself is not run')",
    }
    return written(tmp_path / "one", files)


@pytest.fixture
def breaching(tmp_path: Path) -> Path:
    files = {
        PEERS["breaching"].file: BREACHING,
        "breaching/cases/models/transformer_dictionary.py": "lookup_grad_indices = None",
        "breaching/cases/__init__.py": "raise RuntimeError('nor this one')",
    }
    return written(tmp_path / "other", files)


def test_a_peer_that_does_not_search_is_faster_and_worse(inversefed: Path, breaching: Path) -> None:
    """Both numbers of each: its pictures are standard normal noise, and 40 iterations of ours are nearer in every case."""
    cases = [("patches-16-grey", 1), ("patches-16-colour", 1)]
    before = set(sys.modules)
    found = against_peers([inversefed, breaching], iterations=40, cases=cases, seeds=(0,))
    assert not {
        name for name in set(sys.modules) - before if name.split(".")[0] in {"inversefed", "breaching"}
    }
    assert [r.name for r in found] == [f"{what}, {name}" for name in PEERS for what in ("time", "PSNR")]
    for time, psnr in (found[:2], found[2:]):
        assert time.value > 1 and not time.met
        assert psnr.value > 1 and psnr.met and psnr.target == -WORSE
    assert [r.repeats for r in found] == [2, 2, 1, 1], "breaching takes no grey pictures"


def test_ours_has_the_peers_settings() -> None:
    for peer in PEERS.values():
        attack = like(peer, 7)
        assert (attack.tv, attack.keep, attack.iterations, attack.informed) == (peer.tv, peer.keep, 7, False)
        assert (attack.objective, attack.optimiser, attack.schedule, attack.step, attack.boxed) == (
            "cosine",
            "signed_adam",
            "milestones",
            0.1,
            True,
        )


def test_what_is_no_peer_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"peer must be a folder, .* invertinggradients or breaching; got nowhere"
    ):
        loaded(Path("nowhere"))
    with pytest.raises(ValueError, match=r"reconstruction_algorithms.py \(invertinggradients\)"):
        loaded(tmp_path)
    broken = written(tmp_path, {PEERS["invertinggradients"].file: "import nowhere_at_all"})
    with pytest.raises(ValueError, match=r"can be imported; .* raised ModuleNotFoundError: .*nowhere_at_all"):
        loaded(broken)
    assert "inversefed" not in sys.modules and "torchvision" not in sys.modules


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"peer": [Path("nowhere")]}, "peer must be a folder"),
        ({"peer": [Path(".")], "large": True}, "large must not be given with peer"),
        ({"peer": [Path(".")], "repeats": 9}, "repeats must not be given with peer.*got 9"),
        ({"iterations": 3}, "iterations must be given with peer only"),
    ],
)
def test_the_command_says_what_is_wrong(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        command(**given)


def test_a_checkout_stays_as_it_is(inversefed: Path) -> None:
    """Its files, imported ones among them, with Python's own setting as it was."""
    before, writes = sorted(inversefed.rglob("*")), sys.dont_write_bytecode
    sys.dont_write_bytecode = False
    try:
        loaded(inversefed)
        assert sys.dont_write_bytecode is False
    finally:
        sys.dont_write_bytecode = writes
    assert sorted(inversefed.rglob("*")) == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"cases": [("patches-16-grey", 1)]},
            "cases must hold pictures that breaching takes; got patches-16-grey",
        ),
        ({"cases": []}, "cases must hold .*; got none"),
        ({"cases": [("patches-16-colour", 1), ("nothing", 1)]}, "data must be one of .*nothing"),
        ({"seeds": ()}, "seeds must hold at least one"),
        ({"seeds": (-1,)}, "seeds must be at least 0"),
    ],
)
def test_cases_and_seeds_are_checked_before_any_search(
    breaching: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr("verify.bench.images._compared", lambda *_, **__: pytest.fail("a search was begun"))
    with pytest.raises(ValueError, match=message):
        against_peers([breaching], **given)


@pytest.mark.parametrize(("name", "value"), [("iterations", 0), ("B", 0)])
def test_numbers_are_checked_before_anything_is_imported(inversefed: Path, name: str, value: int) -> None:
    given: dict[str, Any] = (
        {"iterations": value} if name == "iterations" else {"cases": [("patches-16-grey", value)]}
    )
    with pytest.raises(ValueError, match=f"{name} must be .*{value}"):
        against_peers([inversefed], **given)
