"""Settings: what is derived from features, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import sympy as sp
from helpers import correlated, rotation
from hypothesis import given
from hypothesis import strategies as st

from bounds import ACTIVATIONS, SYMBOLS, GradientNoise, Setting, TensorAttack, evaluate
from bounds.estimator import core_order, moment_orders

X = correlated(3, 7, norms=(1.0, 1.4, 0.8))
Y = np.array([1.0, -1.0, -0.5])


def test_what_is_derived_from_features() -> None:
    setting = Setting.from_features(X, Y, m=1000, activation="gelu", groups=[0, 1, 1])
    assert (setting.d, setting.m, setting.B, setting.groups) == (7, 1000, 3, (0, 1, 1))
    np.testing.assert_allclose(setting.gram, X @ X.T, atol=1e-15)
    np.testing.assert_allclose(setting.norms, [1.0, 1.4, 0.8], rtol=1e-14)
    np.testing.assert_allclose(setting.cosines, 0.4 + 0.6 * np.eye(3), rtol=1e-13)
    np.testing.assert_allclose(setting.directions @ setting.directions.T, setting.cosines, atol=1e-14)
    gelu = ACTIVATIONS["gelu"]
    np.testing.assert_allclose(
        setting.residuals, [gelu.coefficient(0, n) for n in (1.0, 1.4, 0.8)] - Y, rtol=1e-13
    )
    sizes = sorted(np.abs(setting.residuals))
    assert setting.kappa == pytest.approx(sizes[-1] / sizes[0], rel=1e-13)
    assert setting.pi_min == pytest.approx(np.linalg.svd(X)[1][-1], rel=1e-12)


def test_orthonormal() -> None:
    setting = Setting.orthonormal(d=5, m=100, B=3)
    np.testing.assert_array_equal(setting.gram, np.eye(3))
    np.testing.assert_array_equal(setting.labels, [1, -1, 1])
    assert setting.pi_min == 1
    assert setting.activation is ACTIVATIONS["relu"]
    assert setting.groups == (0, 0, 0)
    assert Setting.orthonormal(d=5, m=100, B=2, labels=[0.5, 2]).labels.tolist() == [0.5, 2]


def test_labels_may_make_a_residual_vanish() -> None:
    setting = Setting.orthonormal(d=5, m=100, B=2, activation="z2z3")
    assert setting.residuals[0] == pytest.approx(0, abs=1e-13)
    assert setting.kappa == np.inf


@given(st.integers(0, 10_000), st.integers(1, 4))
def test_only_the_gram_matrix_matters(seed: int, B: int) -> None:
    features = correlated(B, 6, seed, norms=np.linspace(0.8, 1.3, B))
    y = -np.arange(1.0, B + 1)
    one = Setting.from_features(features, y, m=50)
    other = Setting.from_features(features @ rotation(6, seed), y, m=50)
    np.testing.assert_allclose(one.gram, other.gram, atol=1e-14)
    assert one.pi_min == pytest.approx(other.pi_min, rel=1e-10)


def test_with_width_changes_the_width_alone() -> None:
    setting = Setting.from_features(X, Y, m=1000)
    wider = setting.with_width(2000)
    assert (wider.m, setting.m) == (2000, 1000)
    np.testing.assert_array_equal(wider.gram, setting.gram)
    with pytest.raises(ValueError, match="m must be larger than B = 3; got m = 3"):
        setting.with_width(3)


def test_settings_are_frozen_and_their_arrays_read_only() -> None:
    features, y = X.copy(), Y.copy()
    setting = Setting.from_features(features, y, m=1000)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setting.m = 3  # type: ignore[misc]
    for array in (setting.gram, setting.labels):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    gram = setting.gram.copy()
    features[:] = 0
    y[:] = 0
    np.testing.assert_array_equal(setting.gram, gram)
    np.testing.assert_array_equal(setting.labels, Y)


def test_the_table_of_symbols() -> None:
    assert all(isinstance(s, sp.Symbol) and s.name == name for name, s in SYMBOLS.items())
    with pytest.raises(TypeError):
        SYMBOLS["new"] = sp.Symbol("new")  # type: ignore[index]


def from_gram(gram: Any, y: Any, d: Any = 5, m: Any = 100, **more: Any) -> Setting:
    return Setting(d, m, gram, y, ACTIVATIONS["relu"], **more)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Setting.orthonormal(d=1, m=100, B=2), ValueError, "B must be at most d = 1.*got B = 2"),
        (lambda: Setting.orthonormal(d=5, m=2, B=2), ValueError, "m must be larger than B = 2; got m = 2"),
        (lambda: Setting.orthonormal(d=0, m=100, B=1), ValueError, "d must be at least 1; got 0"),
        (lambda: Setting.orthonormal(d=5, m=-3, B=1), ValueError, "m must be at least 1; got -3"),
        (
            lambda: Setting.orthonormal(d=99999999999999999999, m=100, B=1),
            ValueError,
            "d must be between 1 and 1000000000000000; got 99999999999999999999",
        ),
        (
            lambda: Setting.orthonormal(d=5, m=10**15 + 1, B=1),
            ValueError,
            "m must be between 1 and 1000000000000000; got 1000000000000001",
        ),
        (
            lambda: Setting.orthonormal(d=10**15, m=10**15, B=10**15),
            ValueError,
            "B must be between 1 and 10000; got 1000000000000000",
        ),
        (lambda: Setting.orthonormal(d=5, m=100, B=0), ValueError, "B must be at least 1; got 0"),
        (lambda: Setting.orthonormal(d=5, m=100, B=-2), ValueError, "B must be at least 1; got -2"),
        (lambda: Setting.orthonormal(d=5, m=100, B=True), TypeError, "B must be an integer; got True"),
        (lambda: Setting.orthonormal(d=True, m=100, B=1), TypeError, "d must be an integer; got True"),
        (lambda: Setting.orthonormal(d=5, m=1e3, B=1), TypeError, "m must be an integer; got 1000.0"),
        (lambda: Setting.orthonormal(d=5, m="9", B=1), TypeError, "m must be an integer; got '9'"),
        (
            lambda: Setting.orthonormal(d=5, m=100, B=2, labels=[1]),
            ValueError,
            r"labels must have shape \(2\)",
        ),
        (lambda: Setting.orthonormal(activation="nope"), ValueError, "activation must be one of.*'nope'"),
        (
            lambda: Setting.from_features(X[0], Y, m=9),
            ValueError,
            r"X must have shape \(any, any\); got \(7,\)",
        ),
        (lambda: Setting.from_features(X[:0], Y[:0], m=9), ValueError, r"X must have shape.*got \(0, 7\)"),
        (
            lambda: Setting.from_features(X.T, np.ones(7), m=9),
            ValueError,
            "B must be at most d = 3; got X with B = 7 rows",
        ),
        (lambda: Setting.from_features(X, Y[:2], m=9), ValueError, r"y must have shape \(3\); got \(2,\)"),
        (lambda: Setting.from_features(X * np.nan, Y, m=9), ValueError, "X must be finite; got 21 values"),
        (lambda: Setting.from_features(X, Y / 0.0, m=9), ValueError, "y must be finite; got 3 values"),
        (
            lambda: Setting.from_features("pixels", Y, m=9),
            TypeError,
            "X must be an array of real numbers; got str",
        ),
        (lambda: Setting.from_features(X * 0, Y, m=9), ValueError, "gram must have a positive diagonal"),
        (
            lambda: Setting.from_features(X, Y, m=9, groups=[0, 1]),
            ValueError,
            "groups must have B = 3 entries; got 2",
        ),
        (
            lambda: Setting.from_features(X, Y, m=9, groups=[0, 1, -1]),
            ValueError,
            "groups must be at least 0; got -1",
        ),
        (lambda: from_gram(np.ones((2, 3)), [1, 1]), ValueError, r"gram must be square; got shape \(2, 3\)"),
        (lambda: from_gram([[1, 0.5], [0, 1]], [1, 1]), ValueError, "gram must be symmetric"),
        (lambda: from_gram([[1, 2], [2, 1]], [1, 1]), ValueError, "positive semidefinite.*-1"),
        (lambda: from_gram([[1, 0], [0, -1]], [1, 1]), ValueError, "gram must have a positive diagonal"),
        (
            lambda: from_gram([[1, np.inf], [np.inf, 1]], [1, 1]),
            ValueError,
            "gram must be finite; got 2 values",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
def test_bad_settings(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_the_largest_settings_are_computed_with() -> None:
    """Every kind, no overflow: d and m at their ends, one alone and both."""
    for d, m in ((10**15, 10**15), (10**15, 1000), (5, 10**15)):
        for kind, value in evaluate(GradientNoise(1.0), Setting.orthonormal(d, m, 1)).items():
            assert value.value is None or (np.isfinite(value.value) and value.value >= 0), kind


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"moments": "robust"}, ValueError, "moments must be one of residualized, plain; got 'robust'"),
        (
            {"same_neuron": True},
            ValueError,
            "same_neuron must be one of leave_one_out, ignored, split; got True",
        ),
        ({"starts": 0}, ValueError, "starts must be between 1 and 64; got 0"),
        ({"starts": 65}, ValueError, "starts must be between 1 and 64; got 65"),
        ({"starts": True}, TypeError, "starts must be an integer; got True"),
        ({"core_weight": 0.0}, ValueError, "core_weight must be positive.*got 0"),
        ({"core_weight": -1.0}, ValueError, r"core_weight must be a finite number in \[0, inf\]; got -1.0"),
        ({"core_weight": np.nan}, ValueError, "core_weight must be a finite number.*got nan"),
        ({"core_weight": "1"}, TypeError, "core_weight must be a real number; got '1'"),
    ],
)
def test_bad_attacks(values: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TensorAttack(**values)


def test_the_attack_is_an_inert_value() -> None:
    assert TensorAttack() == TensorAttack("residualized", None, 8, "leave_one_out")
    assert hash(TensorAttack(starts=3)) == hash(TensorAttack(starts=3))
    assert TensorAttack().weight(3) == pytest.approx(1 / 3)
    assert TensorAttack().weight(4) == pytest.approx(1 / 12)
    assert TensorAttack(core_weight=0.7).weight(4) == 0.7
    with pytest.raises(dataclasses.FrozenInstanceError):
        TensorAttack().starts = 2  # type: ignore[misc]


@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
def test_odd_activations_have_no_second_moment(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name!r} has mu_2 = 0"):
        core_order(ACTIVATIONS[name])
    assert moment_orders(ACTIVATIONS[name]) == (1, 3)
    assert TensorAttack().weight(3, 1) == pytest.approx(1 / 6)


def test_moment_orders_of_the_other_activations() -> None:
    assert moment_orders(ACTIVATIONS["relu"]) == (2, 4)
    assert moment_orders(ACTIVATIONS["z2z3"]) == (2, 3)
