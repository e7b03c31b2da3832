"""Gradients and settings at the edge: constant, zero, of an extraordinary unit, norms beyond the largest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from attack import (
    FirstLayerObservation,
    Observation,
    ReconstructionError,
    TwoLayerNet,
    matched_rmse,
    observe,
    observe_first_layer,
    reconstruct,
)
from bounds import ACTIVATIONS, Kind, NoDefense, Setting, TensorAttack, checks, evaluate
from bounds.gaussian.activations import LARGEST_NORM
from verify import Experiment, Features, Point, compare, plot, sweep

D, M = 3, 3000
X, Y = np.eye(D)[:2], [1.0, -1.0]
NOISE = torch.randn(M, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("gradient", [torch.ones(M), torch.zeros(M), 1e-170 * NOISE, 1e200 * NOISE, NOISE])
def test_without_a_trace_of_features_there_is_no_result(activation: str, gradient: torch.Tensor) -> None:
    """Noise whose squares underflow was "ok" for one feature; a constant gradient stopped odd activations in the SVD."""
    net = TwoLayerNet.sample(D, M, activation)
    for B in (1, 2):
        with pytest.raises(ReconstructionError, match="ill-posed"):
            reconstruct(Observation(gradient.double(), B, (1.0,) * B, NoDefense()), net)


@pytest.mark.parametrize("exponent", [990, 600, 120, -120, -560, -900])
@pytest.mark.parametrize("kind", [Observation, FirstLayerObservation])
@pytest.mark.parametrize(("activation", "dtype"), [("relu", torch.float64), ("tanh", torch.float32)])
def test_the_unit_of_the_gradient_decides_nothing(
    kind: type[Observation] | type[FirstLayerObservation], activation: str, dtype: torch.dtype, exponent: int
) -> None:
    net = TwoLayerNet.sample(D, 20_000, activation, dtype=dtype)
    make = observe if kind is Observation else observe_first_layer
    gradient = make(NoDefense(), net, X, Y).gradient.double()
    plain = reconstruct(kind(gradient, 2, (1.0, 1.0), NoDefense()), net)
    scaled = reconstruct(kind(gradient * 2.0**exponent, 2, (1.0, 1.0), NoDefense()), net)
    free = plain.diagnostics.sign_free  # then rounding chooses the signs
    assert scaled.diagnostics.sign_free == free
    assert matched_rmse(plain.features, scaled.features, free) < 1e-4
    sizes = [r.residuals.abs().sort().values for r in (plain, scaled)]
    torch.testing.assert_close(sizes[1], sizes[0] * 2.0**exponent, rtol=1e-4, atol=0.0)


def test_norms_beyond_the_largest_are_refused_before_anything_is_computed() -> None:
    with pytest.raises(ValueError, match=r"gram must have norms of at most 1e\+06"):
        Setting.from_features(1.1e6 * X, Y, m=M)
    with pytest.raises(ValueError, match="norms must be a finite number"):
        observe(NoDefense(), TwoLayerNet.sample(D, M), 1.1e6 * X, Y)
    assert Setting.from_features(1e6 * X, Y, m=M).norms.max() <= LARGEST_NORM


def test_integers_beyond_floats_are_out_of_range() -> None:
    for value in (10**400, -(10**400)):
        with pytest.raises(ValueError, match="sigma must be a finite number"):
            checks.real("sigma", value)
        with pytest.raises(ValueError, match="C must be"):
            checks.real("C", value, 0.0, infinite=True)


def test_masked_entries_are_refused() -> None:
    masked = np.ma.masked_array(X, mask=X > 0)
    with pytest.raises(ValueError, match="X must have no masked entries; got 2"):
        Setting.from_features(masked, Y, m=M)


@pytest.mark.parametrize("B", [1, 2])
def test_a_proved_bound_of_huge_labels_overflows_nowhere(B: int) -> None:
    """Residuals of 1e10 are to the bound what those of 1e20 are: it is about directions. (A RuntimeWarning is a failure.)"""
    found = [
        evaluate(NoDefense(), Setting.from_features(np.eye(3)[:B], [y] * B, 100_000))[Kind.UPPER].value
        for y in (1e10, 1e20)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_labels_beyond_the_largest_are_refused() -> None:
    """Powers of their residuals are beyond the range of floats."""
    with pytest.raises(ValueError, match=r"labels must be at most 1e\+50"):
        Setting.from_features(X, [1e300, -1e300], m=M)
    with pytest.raises(ValueError, match="labels must be a finite number"):
        Point("e", Features("orthonormal"), d=D, m=M, B=2, labels=(1e300, -1.0))


def test_an_experiment_of_two_attacks_is_judged_and_drawn(tmp_path: Path) -> None:
    point = Point("e", Features("orthonormal"), d=5, m=5000, B=2, also=(TensorAttack(moments="plain"),))
    experiment = Experiment("e", "e", (point,), (), trials=2)
    records = sweep(experiment, tmp_path, progress=False, device="cpu")
    assert [len(r.outcomes) for r in records] == [2, 2]
    assert len(compare(records, kind="predicted")) == 2
    plot(records, tmp_path / "e.png", experiment)
    assert (tmp_path / "e.png").stat().st_size > 0
