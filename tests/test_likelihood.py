"""The likelihood attack: its quadratic against autograd, what it reaches under each defense, and what it admits."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from attack import Observation, ReconstructionError, TwoLayerNet, matched_rmse, observe, reconstruct
from attack.likelihood.entries import entries_of
from attack.likelihood.model import Model
from attack.likelihood.solve import _iterated, factored
from attack.networks.activation import apply_activation
from attack.reconstruction import Reconstruction
from bounds import (
    DPSGD,
    Clamping,
    Defense,
    DeterministicRounding,
    Dropout,
    GradientClipping,
    GradientNoise,
    GradientPruning,
    LikelihoodAttack,
    LocalAggregation,
    NoDefense,
    NoisyPruning,
    SecureAggregation,
    SignCompression,
    StochasticRounding,
    TensorAttack,
)
from bounds.density import Density, Masked, Plain, Rounded


@dataclass(frozen=True)
class Problem:
    """Unit features (B, d) in random directions, labels +1, -1, ..., a Gaussian network."""

    d: int = 20
    m: int = 400
    B: int = 2
    activation: str = "relu"
    seed: int = 0

    @property
    def X(self) -> torch.Tensor:
        drawn = np.random.default_rng([self.seed, self.d, self.B]).standard_normal((self.B, self.d))
        return torch.from_numpy(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))

    @property
    def y(self) -> torch.Tensor:
        return torch.tensor([1.0 if i % 2 == 0 else -1.0 for i in range(self.B)], dtype=torch.float64)

    @property
    def net(self) -> TwoLayerNet:
        return TwoLayerNet.sample(self.d, self.m, self.activation, self.seed)

    def seen(self, defense: Defense) -> Observation:
        return observe(defense, self.net, self.X, self.y, seed=self.seed + 1)

    def solved(self, defense: Defense, attack: LikelihoodAttack | None = None) -> Reconstruction:
        return reconstruct(self.seen(defense), self.net, attack=attack or LikelihoodAttack())

    def error(self, found: Reconstruction) -> float:
        return matched_rmse(self.X, found.features)


@pytest.mark.parametrize("activation", ["relu", "gelu", "softplus", "leaky_relu"])
@pytest.mark.parametrize(("d", "B"), [(20, 1), (20, 2), (20, 4), (6, 6)])
def test_undefended_it_is_exact_at_three_values_for_each_unknown(activation: str, d: int, B: int) -> None:
    problem = Problem(d, 3 * B * d + 10, B, activation)
    found = problem.solved(NoDefense())
    assert problem.error(found) < 1e-9
    assert found.diagnostics.status == "ok" and found.diagnostics.exact
    assert torch.sort(found.labels).values.tolist() == pytest.approx(sorted(problem.y.tolist()), abs=1e-8)


def test_eight_features_at_three_values_for_each_unknown() -> None:
    problem = Problem(30, 720, 8)
    found = problem.solved(NoDefense())
    assert problem.error(found) < 1e-9 and found.diagnostics.exact


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_odd_activations_leave_signs_open_or_not(activation: str) -> None:
    problem = Problem(12, 300, 2, activation)
    found = problem.solved(NoDefense())
    free = found.diagnostics.sign_free
    assert free == (activation == "tanh")
    assert matched_rmse(problem.X, found.features, sign_free=free) < 1e-7


@pytest.mark.parametrize(
    "defense",
    [
        GradientPruning(ratio=0.5),
        GradientPruning(ratio=0.9),
        Dropout(p=0.8, per_sample=False),
        Dropout(p=0.5),
        Clamping(limit=0.3),
        GradientClipping(max_norm=0.1),
        GradientClipping(max_norm=5.0, per_sample=True),
        SecureAggregation(clients=2),
        LocalAggregation(steps=4, lr_times_m=0.1),
    ],
    ids=str,
)
def test_defenses_that_keep_values_do_not_defend(defense: Defense) -> None:
    """R < 1e-6 where the tensor attack, on the same entries, has more than .05 or no result."""
    problem = Problem(15, 3_000, 2)
    found = problem.solved(defense)
    assert problem.error(found) < 1e-6
    assert found.diagnostics.status == "ok"
    try:
        other = reconstruct(problem.seen(defense), problem.net, attack=TensorAttack())
    except ReconstructionError:
        return
    assert problem.error(other) > 0.05


@pytest.mark.parametrize(
    ("defense", "most"),
    [
        (DeterministicRounding(step=0.5), 0.015),
        (StochasticRounding(step=0.5), 0.08),
        (SignCompression(), 0.06),
    ],
    ids=str,
)
def test_coarse_entries_are_used_as_sets(defense: Defense, most: float) -> None:
    """Least squares, which takes them for values, leaves more than ``most`` under rounding to the nearest and signs."""
    problem = Problem(15, 3_000, 2)
    found = problem.solved(defense)
    assert problem.error(found) < most
    assert found.diagnostics.status == "ok" and found.diagnostics.exact is None
    if not isinstance(defense, StochasticRounding):
        as_values = Observation(problem.seen(defense).gradient, 2, (1.0, 1.0), NoDefense())
        taken = reconstruct(as_values, problem.net, attack=LikelihoodAttack(starts=2))
        assert taken.diagnostics.status == "suspect"
        assert problem.error(taken) > most


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("sigma", [0.05, 0.5])
def test_with_noise_it_meets_cramer_rao(activation: str, sigma: float) -> None:
    """Mean of R^2 over the information's own, 12 problems of B (d - 1) = 38 coordinates: a spread of sqrt(2/456) = .066. The
    first order is that of wide networks: at m = 100 d ReLU has 1.42 with sigma = .5 (1.2 in R), and 1.2 at m = 200 d, while
    1.05 is left of it with sigma = .05. The tensor attack has more than 4."""
    ratios = []
    for seed in range(12):
        problem = Problem(20, 2_000, 2, activation, seed)
        found = problem.solved(GradientNoise(sigma=sigma))
        assert found.diagnostics.error is not None and found.diagnostics.status == "ok"
        ratios.append((problem.error(found) / found.diagnostics.error) ** 2)
        assert found.diagnostics.misfit == pytest.approx(found.diagnostics.expected, rel=0.2)
    assert 0.75 < np.mean(ratios) < (1.6 if (activation, sigma) == ("relu", 0.5) else 1.3)


def test_dp_sgd_is_noise_of_known_size() -> None:
    problem = Problem(15, 3_000, 2)
    found = problem.solved(DPSGD(max_norm=1.0, noise_multiplier=0.002))
    assert found.diagnostics.error is not None
    assert 0.5 < problem.error(found) / found.diagnostics.error < 1.5
    wrong = Observation(
        problem.seen(DPSGD(max_norm=1.0, noise_multiplier=0.002)).gradient, 2, (1.0, 1.0), DPSGD(1.0, 0.001)
    )
    assert reconstruct(wrong, problem.net, attack=LikelihoodAttack(starts=2)).diagnostics.status == "suspect"


@pytest.mark.parametrize(("said", "word"), [(0.5, "another"), (2.0, "smaller")])
def test_noise_of_another_size_is_noticed(said: float, word: str) -> None:
    problem = Problem(20, 2_000, 2)
    seen = problem.seen(GradientNoise(sigma=1.0))
    wrong = Observation(seen.gradient, 2, seen.norms, GradientNoise(sigma=said))
    found = reconstruct(wrong, problem.net, attack=LikelihoodAttack(starts=2))
    assert found.diagnostics.status == "suspect"
    assert any(word in text for text in found.diagnostics.warnings)


def test_one_feature_more_than_said_is_noticed() -> None:
    problem = Problem(20, 600, 3)
    wrong = Observation(problem.seen(NoDefense()).gradient, 2, (1.0, 1.0), NoDefense())
    found = reconstruct(wrong, problem.net, attack=LikelihoodAttack(starts=3))
    assert found.diagnostics.status == "suspect" and found.diagnostics.exact is False


def test_a_corrupted_entry_is_noticed() -> None:
    problem = Problem(20, 400, 2)
    gradient = problem.seen(NoDefense()).gradient.clone()
    gradient[7] += 0.1
    found = reconstruct(
        Observation(gradient, 2, (1.0, 1.0), NoDefense()), problem.net, attack=LikelihoodAttack(starts=2)
    )
    assert found.diagnostics.status == "suspect" and not found.diagnostics.exact


def test_fewer_entries_than_unknowns_are_no_exact_result() -> None:
    problem = Problem(20, 35, 2)
    found = problem.solved(NoDefense(), LikelihoodAttack(starts=2))
    assert found.diagnostics.status == "suspect"
    assert any("do not determine" in text for text in found.diagnostics.warnings)


def test_noisy_entries_that_are_removed_are_censored() -> None:
    """d = 15, m = 3000, 90 per cent removed, four problems: the root mean square is the error expected (to 40 per cent, 30
    being its own two standard errors) and no misfit is seen. Told that zeros are values of the noise it is far off."""
    problems = [Problem(15, 3_000, 2, seed=seed) for seed in range(4)]
    defense = NoisyPruning(sigma=0.1, ratio=0.9)
    found = [problem.solved(defense) for problem in problems]
    assert [one.diagnostics.status for one in found] == ["ok"] * 4
    error, expected = (
        math.sqrt(np.mean(np.square(values)))
        for values in (
            [problem.error(one) for problem, one in zip(problems, found, strict=True)],
            [one.diagnostics.error for one in found],
        )
    )
    assert error == pytest.approx(expected, rel=0.4) and error < 0.12
    wrong = dataclasses.replace(problems[0].seen(defense), defense=GradientNoise(0.1))
    other = reconstruct(wrong, problems[0].net, attack=LikelihoodAttack(starts=2))
    assert problems[0].error(other) > 2 * error and other.diagnostics.status == "suspect"


def test_where_pruning_leaves_two_explanations_labels_choose() -> None:
    """90 of 3 000 entries are kept, and two sets of features explain all of them. With labels +-1 the one that has them is
    the truth; with labels of another size nothing tells them apart, and the result says so."""
    problem = Problem(10, 3_000, 2, seed=2)
    found = problem.solved(GradientPruning(ratio=0.97))
    assert problem.error(found) < 1e-9 and found.diagnostics.status == "ok"
    other = observe(GradientPruning(ratio=0.97), problem.net, problem.X, 1.37 * problem.y, seed=1)
    unsure = reconstruct(other, problem.net, attack=LikelihoodAttack())
    assert unsure.diagnostics.status == "suspect"
    assert any("2 sets of features" in text for text in unsure.diagnostics.warnings)


def test_weights_may_have_any_distribution() -> None:
    generator = np.random.default_rng(0)
    problem = Problem(15, 300, 2)
    mixed = generator.uniform(-1, 1, (300, 15)) @ np.diag(np.linspace(0.5, 2, 15)) / 4
    net = TwoLayerNet.from_weights(torch.from_numpy(mixed))
    found = reconstruct(observe(NoDefense(), net, problem.X, problem.y), net, attack=LikelihoodAttack())
    assert problem.error(found) < 1e-9 and found.diagnostics.exact


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_unequal_norms_are_assigned(activation: str) -> None:
    problem = Problem(15, 600, 3, activation)
    X = problem.X * torch.tensor([0.8, 1.0, 1.3], dtype=torch.float64)[:, None]
    found = reconstruct(
        observe(NoDefense(), problem.net, X, problem.y), problem.net, attack=LikelihoodAttack()
    )
    assert matched_rmse(X, found.features) < 1e-8


def test_single_precision() -> None:
    problem = Problem(20, 400, 2)
    net = TwoLayerNet.sample(20, 400, seed=0, dtype=torch.float32)
    found = reconstruct(observe(NoDefense(), net, problem.X, problem.y), net, attack=LikelihoodAttack())
    assert problem.error(found) < 1e-4 and found.diagnostics.exact


@pytest.mark.parametrize("factor", [1e-150, 1e150])
def test_the_unit_of_the_gradient_plays_no_part(factor: float) -> None:
    problem = Problem(15, 200, 2)
    seen = problem.seen(NoDefense())
    scaled = Observation(seen.gradient * factor, 2, seen.norms, NoDefense())
    found = reconstruct(scaled, problem.net, attack=LikelihoodAttack())
    assert problem.error(found) < 1e-9
    assert float(found.residuals.abs().max()) / factor < 10


def test_a_gradient_of_zeros_is_refused() -> None:
    problem = Problem(15, 200, 2)
    with pytest.raises(ReconstructionError, match="zero"):
        reconstruct(
            Observation(torch.zeros(200, dtype=torch.float64), 2, (1.0, 1.0), NoDefense()),
            problem.net,
            attack=LikelihoodAttack(),
        )


def test_equal_seeds_give_equal_bits_and_no_start_sees_the_features() -> None:
    """All that enters is the observation: the same gradient with other true features beside it gives the same result."""
    problem = Problem(15, 300, 2)
    seen = problem.seen(NoDefense())
    results = [
        reconstruct(
            Observation(seen.gradient.clone(), 2, (1.0, 1.0), NoDefense()), problem.net, attack=a
        ).features
        for a in (LikelihoodAttack(start="random"), LikelihoodAttack(start="random"))
    ]
    assert torch.equal(*results)


@pytest.mark.parametrize("start", ["greedy", "random", "tensor", "auto"])
def test_every_start_ends_at_the_truth(start: str) -> None:
    problem = Problem(10, 4_000, 2)
    found = problem.solved(NoDefense(), LikelihoodAttack(start=start))
    assert problem.error(found) < 1e-9


@pytest.mark.parametrize(
    "options", [{"starts": 0}, {"start": "warm"}, {"precision": 0.0}, {"precision": 1.0}], ids=str
)
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        LikelihoodAttack(**options)  # type: ignore[arg-type]


def model_of(density: Density, radii: torch.Tensor | None, B: int = 2) -> tuple[Model, torch.Tensor]:
    problem = Problem(7, 60, B, "gelu")
    seen = problem.seen(NoDefense()).gradient
    if isinstance(density, Rounded):
        seen = density.step * torch.round(seen / density.step)
    entries = entries_of(density, seen, 1.0, B, torch.ones(60, dtype=torch.float64))
    near = problem.X + 0.2 * torch.from_numpy(np.random.default_rng(3).standard_normal((B, 7)))
    return Model(problem.net, entries, radii), near


@pytest.mark.parametrize("density", [Plain(sigma=0.3), Rounded(step=0.4), Masked(p=0.3)], ids=str)
@pytest.mark.parametrize("free", [True, False])
def test_the_quadratic_is_that_of_autograd(density: Density, free: bool) -> None:
    """Its gradient is the loss's, its matrix the Gauss-Newton one with residuals eliminated, written out or applied."""
    model, near = model_of(density, None if free else torch.ones(2, dtype=torch.float64))
    blur = 0.0 if density.sigma else 0.3
    place = model.at(near, blur)
    W = model.net.weights
    assert W is not None

    def terms(flat: torch.Tensor) -> torch.Tensor:
        X, r = flat[:14].reshape(2, 7), flat[14:]
        return apply_activation(model.net.activation, W @ X.T) * r

    flat = torch.cat([place.features.flatten(), place.residuals])
    J = torch.func.jacrev(terms)(flat)  # (m, B, 16)
    local = place.local
    bent = local.curvature if local.curvature.ndim == 3 else local.curvature[:, None, None].expand(-1, 2, 2)
    score = local.score if local.score.ndim == 2 else local.score[:, None].expand(-1, 2)
    full = torch.einsum("jia,jik,jkb->ab", J, bent, J)
    schur = full[:14, :14] - full[:14, 14:] @ torch.linalg.inv(full[14:, 14:]) @ full[14:, :14]
    right = torch.einsum("jia,ji->a", J, score)[:14]
    P = torch.eye(14, dtype=torch.float64)
    if not free:
        P = P - torch.block_diag(*(torch.outer(x, x) for x in place.features))
    assert torch.allclose(place.matrix, P @ schur @ P, rtol=1e-9, atol=1e-9)
    assert torch.allclose(place.descent.flatten(), P @ right, rtol=1e-9, atol=1e-9)
    for vector in torch.eye(14, dtype=torch.float64)[:3]:
        tangent = (P @ vector).reshape(2, 7)
        assert torch.allclose(place.curved(tangent).flatten(), place.matrix @ tangent.flatten(), atol=1e-9)


def test_conjugate_gradients_and_factoring_take_the_same_step() -> None:
    model, near = model_of(Plain(sigma=0.3), torch.ones(2, dtype=torch.float64))
    place = model.at(near, 0.0)
    exact = factored(place)(1e-2)
    by_products = _iterated(place)(1e-2)
    # the damping is scaled in two ways, and conjugate gradients stop at a tenth: both go down as far
    ends = [model.at(place.features + step, 0.0).loss for step in (exact, by_products)]
    assert max(ends) < 0.2 * place.loss


def test_more_values_than_are_needed_are_polished_on_all() -> None:
    """m = 40 B d: the valley is found on a part of the neurons, and the result is exact on all of them."""
    problem = Problem(10, 800, 2)
    found = problem.solved(NoDefense())
    seen = problem.seen(NoDefense()).gradient
    again = apply_activation(problem.net.activation, problem.net.weights @ found.features.T) @ found.residuals
    assert float((seen - again).abs().max()) < 1e-12 * math.sqrt(float(seen.square().mean())) * 10


def test_what_the_entries_do_not_determine_is_not_ok() -> None:
    """16 of 36 entries are not zero, for 20 coordinates; 60 signs, drawn at random, for 38; noise of 30 times the size."""
    assert Problem(20, 36, 1).solved(NoDefense()).diagnostics.status == "suspect"
    signs = torch.from_numpy(np.sign(np.random.default_rng(0).standard_normal(60)))
    net = TwoLayerNet.sample(20, 60, seed=0)
    drawn = Observation(signs, 2, (1.0, 1.0), SignCompression())
    assert reconstruct(drawn, net, attack=LikelihoodAttack(starts=2)).diagnostics.status == "suspect"
    for sigma in (3.0, 30.0):
        found = Problem(20, 1_000, 2).solved(GradientNoise(sigma=sigma), LikelihoodAttack(starts=2))
        assert found.diagnostics.status == "suspect"


def test_local_steps_that_move_the_weights_far_are_not_judged() -> None:
    drawn = torch.from_numpy(np.random.default_rng(0).standard_normal(40))
    seen = Observation(drawn, 2, (1.0, 1.0), LocalAggregation(steps=1_000, lr_times_m=0.01))
    found = reconstruct(seen, TwoLayerNet.sample(5, 40, seed=0), attack=LikelihoodAttack(starts=2))
    assert found.diagnostics.status == "suspect"


def test_the_error_of_unequal_norms_is_that_of_the_features() -> None:
    """R^2 over its expectation for norms 5 and 10, 6 problems of 18 coordinates each: within a factor of two."""
    ratios = []
    for seed in range(6):
        problem = Problem(10, 1_000, 2, seed=seed)
        X = problem.X * torch.tensor([[5.0], [10.0]], dtype=torch.float64)
        seen = observe(GradientNoise(sigma=0.1), problem.net, X, problem.y, seed=1)
        found = reconstruct(seen, problem.net, attack=LikelihoodAttack())
        assert found.diagnostics.error is not None
        ratios.append((matched_rmse(X, found.features) / found.diagnostics.error) ** 2)
    assert 0.5 < np.mean(ratios) < 2.0


def test_clamped_entries_in_single_precision_are_known_as_such() -> None:
    problem = Problem(10, 400, 2)
    net = TwoLayerNet.sample(10, 400, seed=0, dtype=torch.float32)
    seen = observe(Clamping(limit=0.7), net, problem.X, problem.y)
    assert problem.error(reconstruct(seen, net, attack=LikelihoodAttack())) < 1e-3


@pytest.mark.parametrize(
    "defense",
    [GradientPruning(ratio=0.999), Dropout(p=0.98, per_sample=False), GradientNoise(sigma=1e-300)],
    ids=str,
)
def test_extreme_defenses_end_without_a_defect(defense: Defense) -> None:
    """One entry is left of 80; noise whose square is no number."""
    found = Problem(6, 80, 2).solved(defense, LikelihoodAttack(starts=2))
    assert bool(torch.isfinite(found.features).all())
    assert (found.diagnostics.status == "ok") == isinstance(defense, GradientNoise)


@pytest.mark.parametrize("small", [0.0, 1e-9])
def test_a_vanishing_residual_or_nearly_parallel_features_are_not_exact(small: float) -> None:
    """Without noise, r_1 = small, or features at an angle of small: neither is told as known."""
    problem = Problem(6, 200, 2)
    outputs = problem.net.forward(problem.X)
    seen = observe(NoDefense(), problem.net, problem.X, torch.stack([outputs[0] + small, outputs[1] - 1]))
    found = reconstruct(seen, problem.net, attack=LikelihoodAttack(starts=2))
    assert found.diagnostics.status == "suspect" or problem.error(found) < 1e-3
    X = problem.X.clone()
    X[1] = X[0] + small * X[1]
    X[1] /= X[1].norm()
    near = reconstruct(
        observe(NoDefense(), problem.net, X, problem.y), problem.net, attack=LikelihoodAttack(starts=2)
    )
    assert near.diagnostics.status == "suspect" or matched_rmse(X, near.features) < 1e-3
