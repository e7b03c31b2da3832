"""Gradient matching: its slope, what it recovers, and that it says so where it does not."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers import correlated

from attack import (
    Observation,
    Reconstruction,
    ReconstructionError,
    TwoLayerNet,
    matched_error,
    matched_rmse,
    observe,
    reconstruct,
)
from attack.gradient_matching.objective import Objective
from attack.gradient_matching.optimise import signed_adam
from bounds import (
    Activation,
    Defense,
    GradientClipping,
    GradientMatching,
    GradientNoise,
    Kind,
    NoDefense,
    Setting,
    evaluate,
    serial,
)
from bounds.kinds.stated import OF_ANY

Y = (1.0, -1.0)

#: Where L-BFGS claims a solution, gradients agree to 1e-4 of their norm, and features to about as much.
EXACT = 3e-4
SQUARED = GradientMatching(iterations=400)
COSINE = GradientMatching(objective="cosine", optimiser="signed-adam", iterations=200)


def problem(
    seed: int = 0,
    activation: str = "relu",
    defense: Defense | None = None,
    *,
    y: tuple[float, ...] = Y,
    norms: tuple[float, ...] | None = None,
    **net_options: Any,
) -> tuple[torch.Tensor, TwoLayerNet, Observation]:
    """d = 10, m = 400: 20 neurons for each unknown of two features."""
    X = torch.from_numpy(correlated(len(y), 10, seed, norms=norms))
    net = TwoLayerNet.sample(10, 400, activation, seed=seed, **net_options)
    return X, net, observe(NoDefense() if defense is None else defense, net, X, list(y), seed=seed)


def told(spec: GradientMatching, labels: tuple[float, ...] = Y) -> GradientMatching:
    return dataclasses.replace(spec, labels=labels)


def error(X: torch.Tensor, found: Reconstruction) -> float:
    return matched_rmse(X, found.features, found.diagnostics.sign_free)


@pytest.mark.parametrize("kind", ["squared", "cosine"])
@pytest.mark.parametrize("labels", [None, torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)])
def test_the_slope_is_that_of_the_value(kind: str, labels: torch.Tensor | None) -> None:
    """Against central differences of a smooth activation, whose error is of order 1e-10 here."""
    rng = np.random.default_rng(0)
    net = TwoLayerNet.sample(6, 200, "gelu", seed=0)
    seen, norms = torch.from_numpy(rng.standard_normal(200)), torch.tensor([0.7, 1.0, 1.3]).double()
    objective = Objective(net, seen, 1.7, norms, labels, kind)
    z = objective.start(torch.from_numpy(rng.standard_normal((3, 6))))
    z = z + 0.1 * torch.from_numpy(rng.standard_normal(len(z)))  # off unit length, and off least squares
    assert len(z) == (18 if labels is not None else 21)
    slope = objective(z)[1]
    for _ in range(5):
        along, step = torch.from_numpy(rng.standard_normal(len(z))), 1e-6
        numeric = (objective(z + step * along)[0] - objective(z - step * along)[0]) / (2 * step)
        assert numeric == pytest.approx(float(slope @ along), rel=1e-6, abs=1e-8)


def test_signed_adam_is_the_one_of_torch_on_signs() -> None:
    """A quadratic, iterate by iterate."""
    target, start = torch.linspace(-1, 1, 7).double(), torch.full((7,), 0.3).double()

    def quadratic(seen: list[torch.Tensor]) -> Any:
        return lambda z: (seen.append(z.clone()), (float((z - target).square().sum()), 2 * (z - target)))[1]

    ours: list[torch.Tensor] = []
    signed_adam(quadratic(ours), start, dataclasses.replace(COSINE, iterations=16))
    z = start.clone()
    adam = torch.optim.Adam([z], lr=COSINE.step)
    schedule = torch.optim.lr_scheduler.MultiStepLR(adam, [6, 10, 14], gamma=0.1)
    for mine in ours:
        torch.testing.assert_close(mine, z, rtol=0, atol=1e-12)
        z.grad = (z - target).sign()
        adam.step()
        schedule.step()
    assert len(ours) == 16 and not torch.equal(ours[-1], start)


@pytest.mark.parametrize("labels", [None, Y])
@pytest.mark.parametrize(
    ("spec", "tolerance"),
    [(SQUARED, EXACT), (dataclasses.replace(SQUARED, objective="cosine"), EXACT), (COSINE, 1e-3)],
    ids=["squared", "cosine", "cosine, signs"],
)
def test_an_undefended_gradient_is_inverted(
    spec: GradientMatching, tolerance: float, labels: tuple[float, ...] | None
) -> None:
    """Three of three. L-BFGS ends at rounding (1e-11 measured), signed Adam at its last step (1e-5 to 1e-4 measured); eight
    starts in local minima would fail it."""
    for seed in range(3):
        X, net, observation = problem(seed)
        found = reconstruct(observation, net, attack=dataclasses.replace(spec, labels=labels), seed=seed)
        assert error(X, found) < tolerance
        assert (found.diagnostics.status, found.diagnostics.warnings) == ("ok", ())
        assert found.diagnostics.misfit is not None and found.diagnostics.misfit < tolerance**2
        order = list(matched_error(X, found.features).permutation)
        np.testing.assert_allclose(found.labels[order].numpy(), Y, atol=10 * tolerance)
        forward = net.forward(found.features)
        torch.testing.assert_close(forward - found.residuals, found.labels, rtol=0, atol=1e-12)


@pytest.mark.parametrize("spec", [SQUARED, COSINE], ids=["squared", "cosine"])
@pytest.mark.parametrize("wrong", [(1.0, 1.0), (2.0, -1.0)])
def test_a_wrong_label_is_suspect(spec: GradientMatching, wrong: tuple[float, ...]) -> None:
    X, net, observation = problem()
    found = reconstruct(
        observation, net, attack=told(dataclasses.replace(spec, iterations=120, starts=1), wrong)
    )
    assert found.diagnostics.status == "suspect" and "a wrong label" in found.diagnostics.warnings[0]
    assert found.diagnostics.misfit is not None and found.diagnostics.misfit > 1e-4
    assert error(X, found) > 1e-2


def test_the_scale_of_told_labels_counts_under_the_cosine_too() -> None:
    """The cosine forgives a common factor of residuals and so finds the feature; the misfit does not."""
    X, net, observation = problem(y=(1.0,))
    spec = told(dataclasses.replace(SQUARED, objective="cosine"), (5.0,))
    found = reconstruct(observation, net, attack=spec)
    assert error(X, found) < EXACT and found.diagnostics.status == "suspect"


def test_the_order_of_told_labels_does_not_matter() -> None:
    X, net, observation = problem(y=(1.0, -1.0, 0.3))
    for order in ((1.0, -1.0, 0.3), (0.3, 1.0, -1.0)):
        assert error(X, reconstruct(observation, net, attack=told(SQUARED, order))) < EXACT


@pytest.mark.parametrize("spec", [SQUARED, told(SQUARED), COSINE], ids=["squared", "told", "cosine"])
def test_what_is_no_gradient_of_two_features_is_suspect(spec: GradientMatching) -> None:
    """The entries in another order; the gradient of three features."""
    spec = dataclasses.replace(spec, starts=2, iterations=60)
    _, net, observation = problem()
    shuffled = np.random.default_rng(0).permutation(400)
    found = reconstruct(
        dataclasses.replace(observation, gradient=observation.gradient[shuffled]), net, attack=spec
    )
    assert found.diagnostics.status == "suspect" and found.diagnostics.starts == 2
    _, net, three = problem(y=(1.0, -1.0, 1.0))
    found = reconstruct(Observation(three.gradient, 2, (1.0, 1.0), NoDefense()), net, attack=spec)
    assert found.diagnostics.status == "suspect"


def test_too_few_iterations_are_suspect() -> None:
    X, net, observation = problem()
    found = reconstruct(observation, net, attack=dataclasses.replace(SQUARED, iterations=5, starts=1))
    assert error(X, found) > 0.01 and "too few iterations (5 made)" in found.diagnostics.warnings[0]


def test_a_start_that_ends_in_a_local_minimum_is_followed_by_another() -> None:
    """Of five seeds with one start some fail, and say so; with eight starts none does."""
    single = dataclasses.replace(SQUARED, iterations=120, starts=1)
    failed = 0
    for seed in range(5):
        X, net, observation = problem(seed, y=(1.0, -1.0, 1.0))
        alone = reconstruct(observation, net, attack=single, seed=seed)
        lost = error(X, alone) > 1e-3
        assert (alone.diagnostics.status == "suspect") is lost
        failed += lost
        several = reconstruct(observation, net, attack=dataclasses.replace(single, starts=8), seed=seed)
        assert error(X, several) < 1e-3
        assert several.diagnostics.starts is not None and (several.diagnostics.starts > 1) is lost
    assert 0 < failed < 5


def test_equal_seeds_give_equal_results() -> None:
    _, net, observation = problem()
    short = (dataclasses.replace(spec, iterations=20, starts=1) for spec in (SQUARED, COSINE))
    for spec in short:
        one, two, other = (reconstruct(observation, net, attack=spec, seed=s) for s in (5, 5, 6))
        assert torch.equal(one.features, two.features) and torch.equal(one.residuals, two.residuals)
        assert one.diagnostics.to_dict() | {"gap": 0, "noise_edge": 0} == two.diagnostics.to_dict() | {
            "gap": 0,
            "noise_edge": 0,
        }
        assert not torch.equal(one.features, other.features)


def test_unequal_norms_are_given_to_their_features() -> None:
    norms = (0.6, 1.4)
    X, net, observation = problem(activation="gelu", norms=norms)
    assert error(X, reconstruct(observation, net, attack=SQUARED)) < EXACT
    X, net, observation = problem(norms=norms)
    assert error(X, reconstruct(observation, net, attack=told(SQUARED))) < EXACT
    free = reconstruct(observation, net, attack=SQUARED)
    assert free.diagnostics.status == "suspect" and "which norm" in free.diagnostics.warnings[0]
    units = torch.nn.functional.normalize(free.features, dim=1)
    assert matched_rmse(torch.nn.functional.normalize(X, dim=1), units) < EXACT


def test_odd_activations_leave_signs_open_unless_labels_are_told() -> None:
    X, net, observation = problem(activation="tanh")
    free, known = (reconstruct(observation, net, attack=spec) for spec in (SQUARED, told(SQUARED)))
    assert free.diagnostics.sign_free and error(X, free) < EXACT
    assert not known.diagnostics.sign_free and error(X, known) < EXACT


def test_a_defense_is_ignored_and_named() -> None:
    """Noise: an error of its order, above rounding. Clipping of the whole: exact with free residuals; told labels then have
    the wrong scale."""
    spec = dataclasses.replace(SQUARED, iterations=80, starts=1)
    X, net, observation = problem(defense=GradientNoise(sigma=0.2))
    noisy = reconstruct(observation, net, attack=spec)
    assert 0.01 < error(X, noisy) < 0.2
    assert (
        noisy.diagnostics.status == "suspect" and "gradient_noise may be why" in noisy.diagnostics.warnings[0]
    )
    X, net, observation = problem(defense=GradientClipping(max_norm=1.0, per_sample=False))
    assert error(X, reconstruct(observation, net, attack=spec)) < EXACT
    scaled = reconstruct(observation, net, attack=told(spec))
    assert scaled.diagnostics.status == "suspect" and error(X, scaled) > 0.01


@pytest.mark.parametrize("factor", [2.0**-900, 2.0**900])
def test_the_unit_of_the_gradient_plays_no_part(factor: float) -> None:
    _, net, observation = problem()
    scaled = dataclasses.replace(observation, gradient=observation.gradient * factor)
    one, two = (reconstruct(o, net, attack=SQUARED) for o in (observation, scaled))
    assert torch.equal(one.features, two.features)
    torch.testing.assert_close(two.residuals / factor, one.residuals, rtol=1e-12, atol=0)


def test_weights_may_be_drawn_anew_and_in_single_precision() -> None:
    X, net, observation = problem(memory_budget=0)
    assert net.weights is None
    assert error(X, reconstruct(observation, net, attack=SQUARED)) < EXACT
    X, net, observation = problem(dtype=torch.float32)
    found = reconstruct(observation, net, attack=SQUARED)
    assert error(X, found) < 1e-5 and found.diagnostics.status == "ok"


def test_a_gradient_of_zero_has_no_result() -> None:
    _, net, observation = problem()
    zero = dataclasses.replace(observation, gradient=torch.zeros(400, dtype=torch.float64))
    with pytest.raises(ReconstructionError, match="the gradient is zero") as caught:
        reconstruct(zero, net, attack=SQUARED)
    assert caught.value.diagnostics.status == "failed"


@pytest.mark.parametrize(
    ("options", "error_type", "message"),
    [
        ({"objective": "l1"}, ValueError, "objective must be one of squared, cosine"),
        ({"optimiser": "adam"}, ValueError, "optimiser must be one of lbfgs, signed-adam"),
        ({"labels": "free"}, TypeError, "labels must be several values"),
        ({"labels": (1.0, math.nan)}, ValueError, "labels must be a finite number"),
        ({"iterations": 0}, ValueError, "iterations must be at least 1"),
        ({"starts": 65}, ValueError, "starts must be between 1 and 64"),
        ({"step": 0.0}, ValueError, "step must lie strictly between 0 and 1"),
    ],
)
def test_bad_options_are_refused(options: Any, error_type: type[Exception], message: str) -> None:
    with pytest.raises(error_type, match=message):
        GradientMatching(**options)


def test_bad_input_is_refused_before_any_start() -> None:
    _, net, observation = problem()
    with pytest.raises(ValueError, match="labels must be 2, one for each feature; got 1"):
        reconstruct(observation, net, attack=told(SQUARED, (1.0,)))
    with pytest.raises(ValueError, match="batch_size must be the observation's, 2; got 3"):
        reconstruct(observation, net, batch_size=3, attack=SQUARED)
    plain = Activation("quartic", lambda z: z**4)
    with pytest.raises(ValueError, match="has no derivative"):
        reconstruct(observation, TwoLayerNet.sample(10, 400, plain), attack=SQUARED)


def test_the_specification_goes_through_records_and_nothing_is_stated_of_it_alone() -> None:
    for spec in (COSINE, told(SQUARED)):
        assert serial.attack_from_dict(serial.attack_to_dict(spec)) == spec
    stated = evaluate(NoDefense(), Setting.orthonormal(10, 400, 2), SQUARED)
    of_any = {bound.kind for bound in OF_ANY}
    assert all(stated[kind].value is None for kind in Kind if kind not in of_any)
