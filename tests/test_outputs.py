"""Exact recovery from the gradient of a network with several outputs, as automatic differentiation makes it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Array
from sklearn.datasets import load_digits
from torch import nn

from attack import ReconstructionError, matched_error
from attack.rows.cross_entropy import class_counts, norms_told, present_classes
from attack.rows.duals import find_duals
from attack.rows.outputs import OutputsGradient, recover_activity
from attack.rows.outputs_recovery import OutputsRecovery, recover_outputs
from attack.rows.two_outputs import two_output_duals
from bounds.losses import LOSSES, loss_of

#: What automatic differentiation is asked for, by the name of the loss.
FUNCTIONS = {
    "cross-entropy-mean": nn.CrossEntropyLoss(),
    "cross-entropy-sum": nn.CrossEntropyLoss(reduction="sum"),
    "mse-mean": nn.MSELoss(),
    "half-mse-sum": lambda f, y: nn.MSELoss(reduction="sum")(f, y) / 2,
}
ALL = ("weight_gradient", "bias_gradient", "output_gradient", "output_bias_gradient")
D = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A batch X (B, d) with classes (B,) and the gradient of a network of default initialisation at it."""

    X: Array
    classes: Array
    given: OutputsGradient

    def seen(self, *names: str) -> OutputsGradient:
        """With these gradients alone."""
        hidden: dict[str, Any] = {name: None for name in ALL if name not in names}
        return dataclasses.replace(self.given, **hidden)

    def error(self, found: OutputsRecovery) -> float:
        """R over the features' size."""
        size = float(np.sqrt(np.mean(np.sum(self.X**2, axis=1))))
        return matched_error(self.X, found.features).rmse / size

    def order(self, found: OutputsRecovery) -> list[int]:
        return list(matched_error(self.X, found.features).permutation)


def batch(B: int, seed: int, digits: bool, C: int = 10) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    if digits:  # as they are, with their mean
        data = load_digits()
        chosen = rng.permutation(len(data.data))[:B]
        return data.data[chosen] / 16, data.target[chosen] % C
    return rng.standard_normal((B, D)), rng.integers(0, C, B)


def case(
    B: int = 4,
    m: int = 1000,
    seed: int = 0,
    digits: bool = False,
    *,
    loss: str = "cross-entropy-mean",
    bias: bool = True,
    outputs: int = 10,
    dtype: torch.dtype = torch.float64,
) -> Case:
    X, y = batch(B, seed, digits, outputs)
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(D, m, bias=bias), nn.ReLU(), nn.Linear(m, outputs, bias=bias)).to(dtype)
    inputs, classes = torch.from_numpy(X).to(dtype), torch.from_numpy(y)
    wanted = classes if loss_of(loss).classes else torch.eye(outputs, dtype=dtype)[classes]  # type: ignore[union-attr]
    FUNCTIONS[loss](net(inputs), wanted).backward()
    held = {
        name: (p.detach().double().numpy(), p.grad.double().numpy()) for name, p in net.named_parameters()
    }
    W, A = held["0.weight"], held["2.weight"]
    b, c = (held.get(f"{i}.bias", (np.zeros(n), None)) for i, n in ((0, m), (2, outputs)))
    rounding = torch.finfo(dtype).eps / 2
    return Case(
        inputs.double().numpy(), y, OutputsGradient(W[0], b[0], A[0], c[0], W[1], b[1], A[1], c[1], rounding)
    )


# --- what is exact ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seen", [ALL, ("weight_gradient", "bias_gradient"), ("output_gradient",)])
@pytest.mark.parametrize("digits", [False, True])
@pytest.mark.parametrize("B", [1, 4, 8])
def test_cross_entropy_with_default_initialisation_is_exact(
    B: int, digits: bool, seen: tuple[str, ...]
) -> None:
    """Ten outputs, mean reduction; two networks (seeds 0 and 1): features to rounding, every label."""
    for seed in range(2):
        one = case(B, seed=seed, digits=digits)
        found = recover_outputs(one.seen(*seen), B, LOSSES["cross-entropy-mean"])
        assert found.exact and found.norms == "gradient" and found.unexplained < 1e-24
        assert one.error(found) < 1e-11
        assert found.method == ("columns" if seen == ("output_gradient",) else "rows")
        assert found.classes is not None
        np.testing.assert_array_equal(found.classes[one.order(found)], one.classes)


@pytest.mark.parametrize(("B", "digits"), [(12, True), (16, False), (24, False)])
def test_more_features_than_outputs_come_from_the_first_layer(B: int, digits: bool) -> None:
    one = case(B, 1500, digits=digits)
    found = recover_outputs(one.given, B, LOSSES["cross-entropy-mean"])
    assert found.exact and one.error(found) < 1e-11
    with pytest.raises(ReconstructionError, match="with 10 outputs at most 9 features of cross-entropy"):
        recover_outputs(one.seen("output_gradient"), B)


@pytest.mark.parametrize(("loss", "B"), [("cross-entropy-mean", 12), ("mse-mean", 6)])
def test_two_outputs_are_one_with_the_difference_of_weights(loss: str, B: int) -> None:
    """With cross-entropy, where strongly correlated features are those of one output; a squared loss takes the other way."""
    one = case(B, digits=True, loss=loss, outputs=2)
    found = recover_outputs(one.given, B, LOSSES[loss])
    assert found.exact and one.error(found) < 1e-11
    if found.classes is not None:
        np.testing.assert_array_equal(found.classes[one.order(found)], one.classes)
    span = np.linalg.svd(np.linalg.qr(rows_of(one.given), mode="r"))[2][:B].T
    neurons = np.column_stack([one.given.weight, one.given.bias]) @ span
    directions = two_output_duals(
        rows_of(one.given) @ span, neurons, one.given.output_weight, seed=2, max_starts=200, tolerance=1e-8
    )
    assert (directions is not None) is (loss == "cross-entropy-mean")


def rows_of(given: OutputsGradient) -> Array:
    assert given.weight_gradient is not None and given.bias_gradient is not None
    return np.column_stack([given.weight_gradient, given.bias_gradient])


@pytest.mark.parametrize(
    "seen", [("weight_gradient",), ("output_gradient",), ("weight_gradient", "output_gradient")]
)
def test_cross_entropy_tells_norms_where_no_bias_does(seen: tuple[str, ...]) -> None:
    """Without biases features of any length have the same patterns; their outputs have not (norms 6 to 10)."""
    one = case(4, bias=False)
    found = recover_outputs(one.seen(*seen), 4, LOSSES["cross-entropy-mean"])
    assert found.exact and found.norms == "loss" and one.error(found) < 1e-9
    biased = case(4, digits=True)
    found = recover_outputs(biased.seen("weight_gradient"), 4, LOSSES["cross-entropy-mean"])
    assert found.exact and found.norms == "loss" and biased.error(found) < 1e-9


def test_a_squared_loss_tells_no_norms_and_knows_targets() -> None:
    """Of a squared loss r_i may be anything: without biases directions alone, or equal norms that are told."""
    one = case(3, loss="mse-mean", bias=False)
    free = recover_outputs(one.given, 3, LOSSES["mse-mean"])
    assert free.norms == "unknown" and free.targets is None and free.exact
    unit = one.X / np.linalg.norm(one.X, axis=1)[:, None]
    assert matched_error(unit, free.features).rmse < 1e-11
    for loss in ("mse-mean", "half-mse-sum"):
        one = case(3, loss=loss)
        found = recover_outputs(one.given, 3, LOSSES[loss])
        assert found.exact and found.targets is not None and found.classes is None
        np.testing.assert_allclose(found.targets[one.order(found)], np.eye(10)[one.classes], atol=1e-10)


def test_single_precision_is_exact_to_its_rounding() -> None:
    for digits in (False, True):
        one = case(8, digits=digits, dtype=torch.float32)
        found = recover_outputs(one.given, 8, LOSSES["cross-entropy-mean"])
        size = float(np.sqrt(np.mean(np.sum(one.X**2, axis=1))))
        assert found.exact and one.error(found) < found.error / size < 1e-5
        assert found.classes is not None
        np.testing.assert_array_equal(found.classes[one.order(found)], one.classes)


@pytest.mark.parametrize("loss", ["cross-entropy-mean", "cross-entropy-sum"])
def test_the_loss_is_read_off_the_gradient(loss: str) -> None:
    one = case(4, loss=loss)
    found = recover_outputs(one.given, 4)
    assert found.identified and found.loss is LOSSES[loss] and found.classes is not None
    squared = recover_outputs(case(4, loss="mse-mean").given, 4)
    assert squared.loss is None and squared.classes is None and squared.exact


# --- what is refused, or not exact ------------------------------------------------------------------------------------


def test_another_loss_than_the_one_told_is_noticed() -> None:
    one = case(4, loss="cross-entropy-sum")
    found = recover_outputs(one.given, 4, LOSSES["cross-entropy-mean"])
    assert found.loss is None and found.classes is None and one.error(found) < 1e-11


@pytest.mark.parametrize("name", ALL)
def test_one_corrupted_entry_is_not_exact(name: str) -> None:
    """A row (a column, an entry) of each array that is off by a thousandth, of a thousand: an error, or not exact."""
    one = case(4)
    spoiled = getattr(one.given, name).copy()
    at = (slice(None), 5) if name == "output_gradient" else 5
    spoiled[at] += 1e-3 * np.sqrt(np.mean(spoiled**2))
    try:
        found = recover_outputs(
            dataclasses.replace(one.given, **{name: spoiled}), 4, LOSSES["cross-entropy-mean"]
        )
    except ReconstructionError as error:
        assert name in ("weight_gradient", "bias_gradient") and "rank" in str(error)
        return
    assert not found.exact and max(left.worst for left in found.left) > 1e-5


def test_noise_is_refused() -> None:
    one = case(4)
    rng = np.random.default_rng(0)
    for size in (1e-3, 1e-8):
        noisy = {
            name: values + size * np.sqrt(np.mean(values**2)) * rng.standard_normal(values.shape)
            for name in ALL
            if (values := getattr(one.given, name)) is not None
        }
        with pytest.raises(ReconstructionError, match="it has rank more than 12, told 4 features: noise"):
            recover_outputs(dataclasses.replace(one.given, **noisy), 4)


@pytest.mark.parametrize("told", [3, 5])
def test_another_number_of_features_is_refused(told: int) -> None:
    with pytest.raises(
        ReconstructionError, match=f"dL/dW: it has rank 4, told {told}.*dL/dA: it has rank 4, told {told}"
    ):
        recover_outputs(case(4).given, told)


def test_other_weights_are_refused() -> None:
    """The gradient of another network: no feature makes these patterns (seed 1 in place of 0)."""
    one, other = case(4), case(4, seed=1)
    wrong = dataclasses.replace(one.given, weight=other.given.weight, bias=other.given.bias)
    try:
        found = recover_outputs(wrong, 4, LOSSES["cross-entropy-mean"], max_starts=30)
    except ReconstructionError as error:
        assert "of 4 features found" in str(error)
        return
    assert not found.exact


def test_too_few_neurons_are_said() -> None:
    """From dL/dA a feature takes more than d active neurons; what is returned from few is right (3 networks)."""
    with pytest.raises(ReconstructionError, match=r"more than d = 64 are needed|of 4 features found"):
        recover_outputs(case(4, 120).seen("output_gradient"), 4, max_starts=40)
    failed = 0
    for seed in range(3):
        one = case(6, 24, seed)
        try:
            found = recover_outputs(one.given, 6, LOSSES["cross-entropy-mean"], max_starts=30)
        except ReconstructionError as error:
            assert error.diagnostics.status == "failed"
            failed += 1
            continue
        assert not found.exact or one.error(found) < 1e-8
    assert failed


def test_equal_samples_leave_no_rank() -> None:
    one = case(4)
    given, twice = one.given, np.array([0, 1, 2, 2])
    features, r = one.X[twice], np.random.default_rng(0).standard_normal((4, 10))
    weights = (given.hidden(features) > 0) * (given.output_weight.T @ r.T)
    again = dataclasses.replace(given, weight_gradient=weights @ features, bias_gradient=weights.sum(axis=1))
    with pytest.raises(
        ReconstructionError, match="dL/dW: it has rank 3, told 4 features: dependent features"
    ):
        recover_outputs(dataclasses.replace(again, output_gradient=None), 4)


def test_bad_input_is_refused() -> None:
    one = case(2)
    with pytest.raises(ValueError, match="must be given; got neither"):
        recover_activity(one.seen(), 2)
    with pytest.raises(ValueError, match="batch_size must be at least 1; got 0"):
        recover_outputs(one.given, 0)
    with pytest.raises(ValueError, match="max_starts must be at least 1; got 0"):
        recover_outputs(one.given, 2, max_starts=0)


# --- dual directions --------------------------------------------------------------------------------------------------


def test_dual_directions_are_those_of_linear_algebra() -> None:
    """Against the inverse of the features themselves, which no search has (B = 5, seed 0)."""
    rng = np.random.default_rng(0)
    features, neurons = rng.standard_normal((5, 5)), rng.standard_normal((600, 5))
    weights = rng.standard_normal((600, 5)) * (neurons @ features.T > 0)
    found = find_duals(weights @ features, neurons, seed=0, max_starts=100, tolerance=1e-8, shared=5)
    dual = np.linalg.inv(features).T
    cosines = (
        np.abs(found.duals @ dual.T)
        / np.linalg.norm(found.duals, axis=1)[:, None]
        / np.linalg.norm(dual, axis=1)
    )
    assert found.starts <= 20
    np.testing.assert_allclose(np.sort(cosines.max(axis=0)), 1.0, atol=1e-12)
    np.testing.assert_array_equal(found.zero[:, cosines.argmax(axis=0)], weights == 0)
    nothing = find_duals(
        rng.standard_normal((600, 5)), neurons, seed=0, max_starts=30, tolerance=1e-8, shared=5
    )
    assert len(nothing.duals) == 0 and nothing.starts == 30


# --- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_classes_are_seen_before_features_are(seed: int) -> None:
    """Counts of 12 from dL/dc and the output bias alone, of a fresh network; classes that are certain from dL/dA, from which
    no attack could tell the features."""
    one = case(12, seed=seed, digits=True)
    assert one.given.output_bias_gradient is not None and one.given.output_gradient is not None
    found = class_counts(one.given.output_bias_gradient, one.given.output_bias, 12)
    assert found.counts == tuple(np.bincount(one.classes, minlength=10)) and found.doubt < 0.5
    certain = present_classes(one.given.output_gradient)
    assert set(certain) <= set(one.classes.tolist()) and len(certain) >= 5


def test_sizes_are_those_at_which_the_softmax_agrees() -> None:
    """Of one feature of norm 3 by hand; strengths of another direction than any softmax fit none."""
    A = np.random.default_rng(0).standard_normal((4, 3))
    direction = np.array([[0.6, 0.0, 0.8]])
    logits = 3 * A @ direction[0]
    p = np.exp(logits) / np.exp(logits).sum()
    strength = 3 * 0.5 * (p - np.eye(4)[2])[None]
    found = norms_told(lambda X: X @ A.T, direction, strength, factor=0.5)
    assert found.norms[0] == pytest.approx(3.0, rel=1e-12) and found.off[0] < 1e-12
    off = norms_told(lambda X: X @ A.T, direction, strength[:, [1, 0, 2, 3]], factor=0.5)
    assert off.off[0] > 1e-2


def test_bad_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1; got 0"):
        class_counts(np.zeros(3), np.zeros(3), 0)
    with pytest.raises(ValueError, match=r"outputs must have shape \(C,\) or \(n, C\), C = 3; got \(2,\)"):
        class_counts(np.zeros(3), np.zeros(2), 1)
