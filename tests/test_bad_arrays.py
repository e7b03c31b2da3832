"""Arrays and units that nobody should send: a result, or one line that says what is wrong; no verdict depends on a unit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Array, time_limit

from attack import Known, SharedGradient, attack_gradient, matched_rmse
from attack.own.units import exponent, root_mean_square
from attack.units import shift
from verify.confidence import Assessed, assess

M, D, B = 3000, 8, 2
RNG = np.random.default_rng(0)
W, OWN, BIAS = RNG.standard_normal((M, D)), RNG.standard_normal(M) / M**0.5, 0.4 * RNG.standard_normal(M)
X = np.linalg.qr(RNG.standard_normal((D, B)))[0].T
R = np.array([1.5, -1.0])
TOLD = Known.of(B, norms=(1.0,) * B)


def outputs(bias: bool = False) -> dict[str, Array]:
    """dL/da of a ReLU network, residuals R."""
    b = BIAS if bias else np.zeros(M)
    given = {"weight": W, "gradient": R @ np.maximum(X @ W.T + b, 0)}
    return given | ({"bias": b} if bias else {})


def rows(bias: bool = False) -> dict[str, Array]:
    """dL/dW of a ReLU network with output weights of its own, residuals R."""
    b = BIAS if bias else np.zeros(M)
    active = ((W @ X.T + b[:, None]) > 0) * R
    given = {"weight": W, "gradient": OWN[:, None] * (active @ X), "output_weight": OWN}
    return given | ({"bias": b, "bias_gradient": OWN * active.sum(axis=1)} if bias else {})


# --- arrays -----------------------------------------------------------------------------------------------------------


class Hostile:
    """An array only by name."""

    def __array__(self, *_: Any, **__: Any) -> Array:
        raise NotImplementedError("pages\n" * 50)


G = torch.from_numpy(outputs()["gradient"])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (G.to_sparse(), "a sparse tensor"),
        (lambda: torch.zeros(9, 9).to_sparse_csr(), "a sparse tensor"),
        (G.to("meta"), "a tensor without data"),
        (lambda: torch.quantize_per_tensor(G.float(), 0.1, 0, torch.qint8), "a quantized tensor"),
        (lambda: torch.nested.nested_tensor([G, G[:9]]), "a nested tensor"),
        (G > 0, "values of type torch.bool"),
        (G + 1j, "values of type torch.complex128"),
        (G.numpy() > 0, "values of type bool"),
        (G.numpy().astype(object), "values of type object"),
        (np.zeros(M, dtype=[("a", "f8")]), "values of type"),
        (np.zeros(M, dtype="M8[s]"), "values of type datetime64[s]"),
        ([[1.0, 2.0], [3.0]], "list"),
        ("text", "values of type <U4"),
        ({"a": 1}, "dict"),
        (Hostile(), "Hostile"),
    ],
)
def test_what_is_no_dense_array_of_real_numbers(value: Any, words: str) -> None:
    given = value() if callable(value) else value  # torch warns of some when they are made
    with pytest.raises(TypeError) as stop:
        SharedGradient.from_arrays(W, given)
    assert str(stop.value).startswith("gradient must be a dense array of real numbers; got ")
    assert words in str(stop.value) and "\n" not in str(stop.value) and len(str(stop.value)) < 200


def test_masked_entries_are_not_used() -> None:
    masked = np.ma.masked_array(G.numpy(), mask=np.arange(M) < 100)
    for value, count in ((masked, f"100 of {M}"), (list(masked[:200].reshape(2, 100)), "100 of 200")):
        with pytest.raises(ValueError, match=f"gradient must have no masked entries; got {count} masked"):
            SharedGradient.from_arrays(W, value)
    whole = SharedGradient.from_arrays(W, np.ma.masked_array(G.numpy()))
    np.testing.assert_array_equal(whole.gradient, G)


@pytest.mark.parametrize(
    "value",
    [
        G.clone().requires_grad_(),
        torch.nn.Parameter(G.clone()),
        torch.imag(torch.conj(-1j * G)),  # a view that is negated when it is read
        G.numpy().astype(">f8"),
        np.asmatrix(G.numpy()),
        G.tolist(),
    ],
)
def test_other_forms_of_the_same_numbers(value: Any) -> None:
    found = SharedGradient.from_arrays(W, value).gradient
    assert type(found) is torch.Tensor and not found.requires_grad and found.dtype == torch.float64
    np.testing.assert_array_equal(found, G)


# --- units ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [-320, -300, -160, -40, 0, 40, 160, 300])
def test_sizes_without_overflow(power: int) -> None:
    values = torch.tensor([3.0, -4.0], dtype=torch.float64) * 10.0**power
    # a subnormal number has few digits
    assert root_mean_square(values) == pytest.approx(
        12.5**0.5 * 10.0**power, rel=1e-3 if power < -310 else 1e-14
    )
    assert torch.equal(
        shift(shift(values, -exponent(root_mean_square(values))), exponent(root_mean_square(values))), values
    )
    assert exponent(1.01) == exponent(0.99) == exponent(0.0) == 0


def assert_same(one: Assessed, other: Assessed, norm: float = 1.0) -> None:
    """What must not depend on a unit: the verdict, the findings' levels, and, to rounding, the numbers."""
    assert one.attacked is not None and other.attacked is not None, (one.confidence, other.confidence)
    verdicts = [
        (f.confidence.status, f.confidence.method, [(g.name, g.level) for g in f.findings])
        for f in (one, other)
    ]
    assert verdicts[0] == verdicts[1]
    exact = one.confidence.method == "sparse_recovery"
    for tolerance, numbers in (
        (
            1e-6,
            lambda f, unit: (
                matched_rmse(X, f.attacked.features / unit),
                0 if exact else f.confidence.diagnostics.gap or 0,  # the likelihood attack has none
            ),
        ),
        # averages of random draws, in directions that rounding may turn
        # (relative is None where more features are counted than were told)
        (0.1, lambda f, unit: (f.confidence.relative or 0, f.confidence.unexplained, f.confidence.expected)),
    ):
        np.testing.assert_allclose(numbers(other, norm), numbers(one, 1.0), rtol=tolerance, atol=1e-9)


@pytest.mark.parametrize("make", [outputs, rows])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_verdict_does_not_depend_on_a_unit(
    make: Callable[[bool], dict[str, Array]], bias: bool, noise: float
) -> None:
    """Gradient (with dL/db), weights (with biases) and output weights in units of 10^k: residuals come in theirs."""
    given = make(bias)
    size = np.sqrt(np.mean(given["gradient"] ** 2))
    given["gradient"] = given["gradient"] + noise * size * np.random.default_rng(1).standard_normal(
        given["gradient"].shape
    )

    def attacked(names: tuple[str, ...], unit: float) -> Assessed:
        return assess(
            SharedGradient.from_arrays(**{k: unit * v if k in names else v for k, v in given.items()}), TOLD
        )

    # 1.5: no scale that is taken for the standard one
    for names in (("gradient", "bias_gradient"), ("weight", "bias"), ("output_weight",)):
        if not set(names) & set(given):
            continue
        first = attacked(names, 1.5)
        for k in (-300, -37, 3, 160, 300) if not noise else (-300, 300):
            again = attacked(names, 1.5 * 10.0**k)
            assert_same(first, again)
            power = {"gradient": k, "weight": -k if make is outputs else 0, "output_weight": -k}[names[0]]
            assert first.attacked is not None and again.attacked is not None
            np.testing.assert_allclose(
                again.attacked.residuals / 10.0**power, first.attacked.residuals, rtol=1e-6
            )


def test_norms_in_other_units() -> None:
    for make in (outputs, rows):
        first = assess(SharedGradient.from_arrays(**make(False)), TOLD)
        for k in (-300, 150):
            again = assess(SharedGradient.from_arrays(**make(False)), Known.of(B, norms=(10.0**k,) * B))
            assert_same(first, again, norm=10.0**k)


@pytest.mark.parametrize(
    ("changes", "arguments", "words"),
    [
        ({"gradient": 1e-310}, {}, "gradient must be zero or of a size that torch.float64 resolves"),
        ({"weight": 1e-310}, {}, "weight must be zero or of a size that torch.float64 resolves"),
        ({"weight": 1e300, "gradient": 1e-300}, {}, "residuals of about 2^-199"),
        ({}, {"scale": 1e9}, "scale must be that of the weights, which is 0.996; got 1e+09"),
        ({"weight": 1e30}, {"activation": "gelu"}, "arguments of a size between 1e-06 and 10000"),
        ({"weight": 1e-30}, {"activation": "tanh"}, "arguments of a size between 1e-06 and 10000"),
        (
            {"gradient": 1e40},
            {"norms": (1.0, 2.0)},
            "must be of ordinary size, 2^-100 to 2^100, where norms differ",
        ),
        ({"bias": 1e12}, {}, "must not drown what weights of size 1 make of a feature"),
    ],
)
def test_sizes_that_leave_no_problem(
    changes: dict[str, float], arguments: dict[str, Any], words: str
) -> None:
    given = outputs("bias" in changes)
    given = {name: changes.get(name, 1.0) * value for name, value in given.items()}
    found = assess(SharedGradient.from_arrays(**given), Known.of(B, **arguments))
    assert found.attacked is None and found.confidence.status == "failed"
    assert any(words in reason for reason in found.confidence.reasons), found.confidence.reasons
    with pytest.raises(ValueError) as stop:
        attack_gradient(SharedGradient.from_arrays(**given), Known.of(B, **arguments))
    assert words in str(stop.value) and "\n" not in str(stop.value)


# --- anything ---------------------------------------------------------------------------------------------------------


def _spoiled(values: Array, rng: np.random.Generator) -> Array:
    kinds: tuple[Callable[[Array], Array], ...] = (
        lambda a: 0 * a,
        lambda a: 0 * a + 1,
        lambda a: a * 10.0 ** float(rng.integers(-320, 309)),
        lambda a: a.astype(np.float32) * np.float32(10.0 ** float(rng.integers(-44, 38))),
        lambda a: a * 10.0 ** rng.integers(-300, 300, a.shape),
        lambda a: np.where(
            np.arange(a.size).reshape(a.shape) == 0, 10.0 ** float(rng.integers(-320, 309)), a
        ),
        lambda a: np.where(np.arange(a.size).reshape(a.shape) == 0, np.nan, a),
        lambda a: np.where(np.arange(a.size).reshape(a.shape) < a.size // 2, 0.0, a),
        np.sign,
        np.transpose,
    )
    with np.errstate(all="ignore"):
        return kinds[rng.integers(len(kinds))](values)


def test_spoiled_arrays() -> None:
    """60 gradients (seeds 0 to 59), some arrays of each spoiled or missing: a verdict with finite numbers, or one line."""
    attacked = 0
    with time_limit(120):
        for seed in range(60):
            rng = np.random.default_rng(seed)
            given = (rows if rng.integers(2) else outputs)(bool(rng.integers(2)))
            given = {name: value[:300] for name, value in given.items()}
            given = {name: _spoiled(v, rng) if rng.random() < 0.4 else v for name, v in given.items()}
            activation = str(rng.choice(["relu", "gelu", "tanh"]))
            try:
                found = assess(
                    SharedGradient.from_arrays(**given), Known.of(int(rng.integers(1, 4)), activation)
                )
            except (ValueError, TypeError) as error:
                assert "\n" not in str(error), seed
                continue
            sure = found.confidence
            numbers = (sure.predicted, sure.relative, sure.unexplained, sure.expected, sure.noise)
            assert sure.status in ("ok", "directions only", "suspect", "failed"), seed
            assert all(n is None or np.isfinite(n) for n in numbers), (seed, sure)
            if found.attacked is not None:
                attacked += 1
                assert bool(torch.isfinite(found.attacked.features).all()), seed
    assert attacked > 10
