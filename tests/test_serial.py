"""The one form in JSON: what is written is read back, and nothing else is read."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, ClassVar

import numpy as np
import pytest
from helpers import correlated, defense_members
from hypothesis import given
from hypothesis import strategies as st

import bounds
from bounds import (
    ACTIVATIONS,
    DEFENSES,
    DPSGD,
    AttackSpec,
    Defense,
    GradientNoise,
    Kind,
    Setting,
    TensorAttack,
)
from bounds.serial import (
    attack_from_dict,
    attack_to_dict,
    defense_from_dict,
    defense_to_dict,
    plain,
    setting_from_dict,
    setting_to_dict,
)

GRID = [d for family in DEFENSES for d in (*family.grid(), *([family.off()] if family.has_off else []))]


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value, allow_nan=False))


@given(st.data())
def test_defenses_come_back(data: st.DataObject) -> None:
    defense = data.draw(st.sampled_from(DEFENSES).flatmap(defense_members))
    assert defense_from_dict(through_json(defense_to_dict(defense))) == defense


@pytest.mark.parametrize("defense", GRID, ids=repr)
def test_every_member_of_the_grids_comes_back(defense: Defense) -> None:
    raw = through_json(defense_to_dict(defense))
    assert raw["name"] == defense.name and list(raw) == [
        "name",
        *(f.name for f in dataclasses.fields(defense)),
    ]
    found = defense_from_dict(raw)
    assert found == defense and type(found) is type(defense)


def test_infinity_is_written_by_its_name() -> None:
    raw = defense_to_dict(DPSGD())
    assert raw == {"name": "dp_sgd", "max_norm": "inf", "noise_multiplier": 0.0, "per_sample": True}
    assert defense_from_dict(raw) == DPSGD()


@given(
    st.builds(
        TensorAttack,
        st.sampled_from(["residualized", "plain"]),
        st.none() | st.floats(1e-300, 1e300),
        st.integers(1, 64),
        st.sampled_from(["leave_one_out", "ignored", "split"]),
        st.sampled_from(["first_moment", "random"]),
    )
)
def test_attacks_come_back(attack: TensorAttack) -> None:
    assert attack_from_dict(through_json(attack_to_dict(attack))) == attack


def test_the_tensor_attack_is_written_as_in_the_first_records() -> None:
    first = {"moments": "residualized", "core_weight": None, "starts": 8, "same_neuron": "leave_one_out"}
    assert attack_to_dict(TensorAttack()) == first
    assert attack_to_dict(TensorAttack(contraction="random")) == {**first, "contraction": "random"}


@given(st.integers(1, 3), st.sampled_from(sorted(ACTIVATIONS)), st.integers(4, 2**60), st.integers(0, 99))
def test_settings_come_back(B: int, activation: str, m: int, seed: int) -> None:
    X = correlated(B, 7, seed, norms=np.linspace(0.5, 2, B))
    setting = Setting.from_features(X, X[:, 0], min(m, 10**12), activation, groups=range(B))
    found = setting_from_dict(through_json(setting_to_dict(setting)))
    np.testing.assert_array_equal(found.gram, setting.gram)
    np.testing.assert_array_equal(found.labels, setting.labels)
    assert (found.d, found.m, found.groups) == (setting.d, setting.m, setting.groups)
    assert found.activation is setting.activation


def test_an_activation_of_ones_own_has_no_form() -> None:
    with pytest.raises(ValueError, match=r"activation must be one of relu.*'sin'"):
        setting_to_dict(Setting.orthonormal(5, 100, 1, np.sin))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (math.nan, "nan"),
        (np.float64("nan"), "nan"),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (10**30, 10**30),
        (1.0, 1.0),
        ((1, [2.0, (math.inf,)]), [1, [2.0, ["inf"]]]),
        (np.array([[1.0, math.nan]]), [[1.0, "nan"]]),
        ({"a": {"b": None}}, {"a": {"b": None}}),
        (Kind.UPPER, "upper"),
        (GradientNoise(sigma=2), {"sigma": 2.0}),
        (np.str_("word"), "word"),
    ],
    ids=repr,
)
def test_plain_values(value: Any, expected: Any) -> None:
    found = plain(value)
    assert found == expected and type(found) is type(expected)
    assert through_json(found) == expected


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    )
)
def test_plain_is_strict_json_and_idempotent(value: Any) -> None:
    found = plain(value)
    assert plain(found) == found == through_json(found)


@pytest.mark.parametrize(
    "value", [object(), {1: 2}, 1j, {3}, b"bytes", [lambda: 0]], ids=lambda value: type(value).__name__
)
def test_what_has_no_form(value: Any) -> None:
    with pytest.raises(TypeError, match=r"JSON|keys must be words"):
        plain(value)


NOISE = {"name": "gradient_noise", "sigma": 1.0}
ATTACK = attack_to_dict(TensorAttack())
SETTING = setting_to_dict(Setting.orthonormal(5, 100, 2))


@pytest.mark.parametrize(
    ("read", "raw", "message"),
    [
        (defense_from_dict, None, "defense must be an object"),
        (defense_from_dict, [1], "defense must be an object"),
        (defense_from_dict, {1: 2}, "defense must be an object"),
        (defense_from_dict, {}, "defense must be one of none, gradient_noise.*None"),
        (defense_from_dict, {"name": "noise"}, "defense must be one of.*'noise'"),
        (defense_from_dict, {"name": ["none"]}, r"defense must be one of.*\['none'\]"),
        (defense_from_dict, {"name": "gradient_noise"}, "missing or unknown: sigma"),
        (defense_from_dict, NOISE | {"p": 0.5}, "missing or unknown: p"),
        (defense_from_dict, NOISE | {"sigma": -1.0}, "sigma must be a finite number"),
        (defense_from_dict, NOISE | {"sigma": "inf"}, "sigma must be a finite number"),
        (defense_from_dict, NOISE | {"sigma": "nan"}, "sigma must be a finite number"),
        (defense_from_dict, NOISE | {"sigma": "1.0"}, "sigma must be a real number"),
        (defense_from_dict, NOISE | {"sigma": "Infinity"}, "sigma must be a real number"),
        (defense_from_dict, NOISE | {"sigma": True}, "sigma must be a real number"),
        (defense_from_dict, NOISE | {"sigma": None}, "sigma must be a real number"),
        (defense_from_dict, {"name": "secure_aggregation", "clients": 2.0}, "clients must be an integer"),
        (defense_from_dict, {"name": "secure_aggregation", "clients": "inf"}, "clients must be an integer"),
        (defense_from_dict, {"name": "dropout", "p": 0.5, "per_sample": 1}, "per_sample must be a bool"),
        (attack_from_dict, "plain", "attack must be an object"),
        (attack_from_dict, ATTACK | {"name": "tensor"}, "attack must be one of"),
        (attack_from_dict, ATTACK | {"restarts": 2}, "missing or unknown: restarts"),
        (attack_from_dict, {"moments": "plain"}, "missing or unknown: core_weight, same_neuron, starts"),
        (attack_from_dict, ATTACK | {"starts": 2.0}, "starts must be an integer"),
        (attack_from_dict, ATTACK | {"core_weight": "inf"}, "core_weight must be a finite number"),
        (setting_from_dict, SETTING | {"d": 1}, "B must be at most d"),
        (setting_from_dict, SETTING | {"d": 5.0}, "d must be an integer"),
        (setting_from_dict, SETTING | {"activation": "square"}, "activation must be one of"),
        (
            setting_from_dict,
            SETTING | {"activation": "exit(z)"},
            r"activation 'exit\(z\)' must be an expression",
        ),
        (setting_from_dict, SETTING | {"gram": [[1.0, "nan"], [0.0, 1.0]]}, "gram must be an array of real"),
        (setting_from_dict, SETTING | {"more": 1}, "missing or unknown: more"),
        (setting_from_dict, {}, "activation must be one of"),
    ],
)
def test_only_what_was_written_is_read(read: Any, raw: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(raw)


@dataclasses.dataclass(frozen=True)
class Widened(AttackSpec):
    """An attack with every form of option."""

    name: ClassVar[str] = "widened"
    reach: float = 1.0
    limit: float | None = None
    word: str = "inf"
    powers: tuple[int, ...] = ()
    box: tuple[tuple[float, float], ...] = ()
    pair: tuple[float, str] | None = None
    free: Any = None


@given(
    st.builds(
        Widened,
        st.floats(allow_nan=False),
        st.none() | st.floats(allow_nan=False),
        st.text(max_size=4) | st.sampled_from(["inf", "nan"]),
        st.lists(st.integers(), max_size=3).map(tuple),
        st.lists(st.tuples(st.floats(allow_nan=False), st.floats(allow_nan=False)), max_size=2).map(tuple),
        st.none() | st.tuples(st.floats(allow_nan=False), st.text(max_size=3) | st.just("inf")),
    )
)
def test_options_of_every_attack_come_back_by_their_types(attack: Widened) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bounds.ATTACKS", (*bounds.ATTACKS, Widened))
        found = attack_from_dict(through_json(attack_to_dict(attack)))
    assert found == attack and hash(found) == hash(attack)


@pytest.mark.parametrize(
    "attack",
    [Widened(float("nan")), Widened(free=(1,)), Widened(free=GradientNoise()), Widened(free=math.inf)],
    ids=repr,
)
def test_options_that_would_not_come_back_are_refused(
    attack: Widened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bounds.ATTACKS", (*bounds.ATTACKS, Widened))
    with pytest.raises(TypeError, match="attack must have options that come back from JSON as they are"):
        attack_to_dict(attack)


def test_a_tuple_of_another_length_is_no_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bounds.ATTACKS", (*bounds.ATTACKS, Widened))
    raw = attack_to_dict(Widened()) | {"pair": [1.0, "a", 2.0]}
    with pytest.raises(ValueError, match=r"attack: .*must have 2 entries"):
        attack_from_dict(raw)
