"""The one entrance to every attack."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from helpers import correlated, labels

import attack
from attack import (
    Reconstruction,
    TwoLayerNet,
    first_layer_attack,
    matched_rmse,
    observe,
    observe_first_layer,
    reconstruct,
    tensor_attack,
)
from bounds import Clamping, GradientClipping, GradientNoise, NoDefense, SecureAggregation, TensorAttack
from bounds.estimator import AttackSpec

NET = TwoLayerNet.sample(12, 5000, seed=3)
X, Y = torch.from_numpy(correlated(2, 12)), torch.from_numpy(labels(2))


def same(left: Reconstruction, right: Reconstruction) -> bool:
    return left.diagnostics == right.diagnostics and all(
        torch.equal(getattr(left, name), getattr(right, name)) for name in ("features", "residuals", "labels")
    )


@pytest.mark.parametrize("estimator", [None, TensorAttack(), TensorAttack("plain", starts=3)], ids=repr)
def test_it_is_the_attack_that_the_specification_names(estimator: TensorAttack | None) -> None:
    """Bit for bit, for either layer's gradient."""
    seen = observe(GradientNoise(0.1), NET, X, Y)
    assert same(reconstruct(seen, NET, 2, estimator, 5), tensor_attack(seen, NET, 2, estimator, 5))
    rows = observe_first_layer(GradientNoise(1e-6), NET, X, Y)
    assert same(
        reconstruct(rows, NET, attack=estimator, seed=5), first_layer_attack(rows, NET, None, estimator, 5)
    )


@dataclass(frozen=True)
class Guess(AttackSpec):
    """Every feature is this number."""

    name: ClassVar[str] = "guess"
    value: float = 0.0


GUESS = """import torch
from attack import Reconstruction, Diagnostics

def reconstruct(observation, net, batch_size=None, attack=None, seed=2):
    B = observation.batch_size
    features = torch.full((B, net.d), attack.value, dtype=torch.float64)
    return Reconstruction(features, torch.zeros(B), torch.zeros(B), Diagnostics("ok", (), 1.0, (), 1.0, seed))
"""


def test_an_attack_of_one_s_own_is_a_specification_and_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = observe(NoDefense(), NET, X, Y)
    with pytest.raises(TypeError, match=r"attack must be one that has code for this Observation \(.*Tensor"):
        reconstruct(seen, NET, attack=Guess())
    (tmp_path / "guess.py").write_text(GUESS)
    monkeypatch.setattr(Guess, "__module__", "bounds.guess")  # in the tree; what is outside it is registered
    monkeypatch.setattr(attack, "__path__", [*attack.__path__, str(tmp_path)])
    found = reconstruct(seen, NET, attack=Guess(0.5), seed=7)
    assert float(found.features[1, 3]) == 0.5 and found.diagnostics.passes == 7
    with pytest.raises(
        TypeError,
        match=r"code for this FirstLayerObservation \(RowAttack, TensorAttack\); got Guess\(value=0.0\)",
    ):
        reconstruct(observe_first_layer(NoDefense(), NET, X, Y), NET, attack=Guess())


@pytest.mark.parametrize("wrong", ["tensor", NoDefense(), TensorAttack, AttackSpec()], ids=repr)
def test_what_is_no_attack(wrong: object) -> None:
    with pytest.raises(TypeError, match="attack must be"):
        reconstruct(observe(NoDefense(), NET, X, Y), NET, attack=wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="observation must be"):
        reconstruct(wrong, NET)  # type: ignore[arg-type]


def test_which_defenses_hide_nothing_in_the_first_layer() -> None:
    """Clipping as a whole and secure aggregation leave the rows' directions as they are: the same features to rounding.
    Clamping to half the median entry bends them."""
    rows = observe_first_layer(NoDefense(), NET, X, Y)
    clean = reconstruct(rows, NET).features
    for defense in (GradientClipping(1e-4), SecureAggregation(2)):
        found = reconstruct(observe_first_layer(defense, NET, X, Y), NET).features
        assert matched_rmse(clean, found) < 1e-8
    limit = float(rows.gradient.abs().median()) / 2
    bent = reconstruct(observe_first_layer(Clamping(limit), NET, X, Y), NET).features
    assert matched_rmse(clean, bent) > 0.05


def test_attacks_derived_from_attacks_are_listed() -> None:
    @dataclass(frozen=True)
    class Derived(Guess):
        name: ClassVar[str] = "tensor"

    Derived.__module__ = "bounds.derived"
    with pytest.raises(TypeError, match=r"\(Derived, .*TensorAttack"):
        reconstruct(observe(NoDefense(), NET, X, Y), NET, attack=AttackSpec())


def test_a_defense_without_a_channel_is_refused() -> None:
    @dataclass(frozen=True)
    class Unheard(NoDefense):
        name: ClassVar[str] = "unheard_of"

    for watch in (observe, observe_first_layer):
        with pytest.raises(TypeError, match=r"a module attack.channels.unheard_of; got .*Unheard\(\)"):
            watch(Unheard(), NET, X, Y)
