"""Odd activations: contractions of the third moment against brute force, the error against its prediction, signs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import sympy as sp
import torch
from helpers import Array, correlated, labels
from scipy import stats

from attack import ReconstructionError, TwoLayerNet, matched_error, observe, tensor_attack
from attack.tensor.contraction import _moments, _pairs, apply_contracted, contract, refine
from attack.tensor.fit import MANY_SIGNS, signs_by_fit
from attack.tensor.moments import Response, first_moment
from bounds import GradientNoise, NoDefense, Setting, TensorAttack, evaluate
from bounds.kinds.pairs import PairTable
from bounds.kinds.predicted.unbiased import first_order
from bounds.law import Unbiased

D, M, B = 7, 301, 2


def problem(residualized: bool) -> tuple[TwoLayerNet, Response, Array, Array]:
    """A small network, its response, W (M, D) and h (M,)."""
    net = TwoLayerNet.sample(D, M, "tanh", seed=3)
    gradient = observe(NoDefense(), net, torch.from_numpy(correlated(B, D)), labels(B)).gradient
    mean, slope = first_moment(net, gradient)
    response = Response(gradient, mean, slope) if residualized else Response(gradient, 0 * mean, 0 * slope)
    weights = net.weights
    assert weights is not None
    W = weights.numpy()
    return net, response, W, gradient.numpy() - float(response.offset) - W @ response.slope.numpy()


def third_hermite(W: Array) -> Array:
    """He_3(w_j) in full, (M, D, D, D)."""
    cube = np.einsum("ja,jb,jc->jabc", W, W, W)
    eye = np.eye(W.shape[1])
    for spec in ("ja,bc->jabc", "jb,ac->jabc", "jc,ab->jabc"):
        cube = cube - np.einsum(spec, W, eye)
    return cube


def frame(columns: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.linalg.qr(np.random.default_rng(seed).standard_normal((D, columns)))[0])


@pytest.mark.parametrize("residualized", [False, True])
def test_the_contracted_third_moment(residualized: bool) -> None:
    net, response, W, h = problem(residualized)
    a, V = frame(1, 1)[:, 0], frame(3, 2)
    full = np.einsum("j,jabc,c->ab", h, third_hermite(W), a.numpy()) / M
    found = apply_contracted(net, response, a, V).numpy()
    np.testing.assert_allclose(found, full @ V.numpy(), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("residualized", [False, True])
def test_the_unfolding(residualized: bool) -> None:
    """Left singular vectors, values and the map of the unfolding with all B^2 columns."""
    net, response, W, h = problem(residualized)
    V = frame(B)
    full = np.einsum("j,jabc,bk,cl->akl", h, third_hermite(W), V.numpy(), V.numpy(), optimize=True) / M
    left, values, right = np.linalg.svd(full.reshape(D, -1), full_matrices=False)
    found = refine(net, response, V)
    np.testing.assert_allclose(found.values.numpy(), values[:B], rtol=1e-10)
    np.testing.assert_allclose(np.abs(np.sum(found.V.numpy() * left[:, :B], axis=0)), 1, rtol=1e-10)
    y = np.random.default_rng(4).standard_normal(B)
    square = np.outer(y, y) - np.eye(B)
    a, b, weight = (t.numpy() for t in _pairs(B, torch.device("cpu")))
    mapped = found.map.numpy() @ (weight * square[a, b])
    expected = (right[:B] / values[:B, None]) @ square.ravel()
    signs = np.sign(np.sum(found.V.numpy() * left[:, :B], axis=0))
    np.testing.assert_allclose(mapped, signs * expected, rtol=1e-9)


def test_the_map_of_one_contraction() -> None:
    net, response, _, _ = problem(True)
    vector = frame(1, 1)[:, 0]
    found = contract(net, response, 2 * vector, frame(B + 2, 5), B)
    y = np.random.default_rng(4).standard_normal(B)
    a, b, weight = (t.numpy() for t in _pairs(B, torch.device("cpu")))
    square = np.outer(y, y) - np.eye(B)
    inside = (found.V.T @ vector).numpy()
    np.testing.assert_allclose(
        found.map.numpy() @ (weight * square[a, b]), square @ inside / found.values.numpy(), rtol=1e-10
    )


@pytest.mark.parametrize("residualized", [False, True])
def test_the_moments_in_the_span(residualized: bool) -> None:
    net, response, W, h = problem(residualized)
    V = frame(B)
    a, b, weight = (t.numpy() for t in _pairs(B, torch.device("cpu")))
    shift = 0.01 * np.random.default_rng(6).standard_normal((B, len(a)))
    y = W @ V.numpy()
    y = y - h[:, None] * ((weight * (y[:, a] * y[:, b] - (a == b))) @ shift.T)
    g = response.gradient.numpy()
    first, core = _moments(net, response, response.gradient.mean(), V, torch.from_numpy(shift))
    np.testing.assert_allclose(first.numpy(), (g - g.mean()) @ y / M, rtol=1e-11)
    np.testing.assert_allclose(core.numpy(), np.einsum("j,jabc->abc", h, third_hermite(y)) / M, rtol=1e-9)


# --- the whole attack -------------------------------------------------------------------------------------------------


def reconstruct(X: Array, y: Any, m: int, activation: Any, seed: int, **more: Any) -> Any:
    net = TwoLayerNet.sample(X.shape[1], m, activation, seed=seed)
    defense = more.pop("defense", NoDefense())
    return tensor_attack(observe(defense, net, torch.from_numpy(X), y, seed=seed), net, seed=seed, **more)


@pytest.mark.parametrize(
    ("d", "B", "m", "activation", "sigma", "norms", "moments"),
    [
        (20, 2, 40_000, "tanh", 0.0, None, "residualized"),
        (20, 2, 40_000, "tanh", 0.3, None, "residualized"),
        (15, 2, 60_000, "tanh", 0.0, None, "plain"),
        (20, 2, 40_000, "tanh", 0.0, (1.5, 1.5), "residualized"),
        (20, 1, 40_000, "tanh", 0.0, None, "residualized"),
        (4, 4, 60_000, "tanh", 0.0, None, "residualized"),
        (12, 2, 40_000, "sigmoid", 0.0, None, "residualized"),
    ],
)
def test_the_error_is_the_predicted_one(
    d: int, B: int, m: int, activation: str, sigma: float, norms: Any, moments: str
) -> None:
    """20 networks (seeds 0 to 19), features at cosine .3. The 99 % interval of the root mean square (up to signs) over the
    prediction must meet [0.94, 1.06], the room that second order is given at these widths, and be narrow enough that a
    prediction off by a factor 1.25 either way is refused."""
    X, y = correlated(B, d, cosine=0.3, norms=norms), labels(B)
    defense, attack = GradientNoise(sigma=sigma), TensorAttack(moments=moments)
    predicted = evaluate(defense, Setting.from_features(X, y, m, activation), attack).predicted
    assert predicted is not None
    squares = []
    for seed in range(20):
        found = reconstruct(X, y, m, activation, seed, defense=defense, attack=attack)
        squares.append(matched_error(X, found.features, sign_free=True).rmse ** 2)
    ratio = np.array(squares) / predicted**2
    half = stats.t.ppf(0.995, 19) * ratio.std(ddof=1) / math.sqrt(20)
    low, high = math.sqrt(max(0.0, ratio.mean() - half)), math.sqrt(ratio.mean() + half)
    assert low <= 1.06 and high >= 0.94, (low, high)
    assert low > 1.06 / 1.25 and high < 0.94 * 1.25, (low, high)


def test_a_feature_that_the_first_moment_misses() -> None:
    """cosine c and residuals (1, -1/c): the first moment is orthogonal to feature 0. The contraction is then repeated with a
    direction found. 5 networks (seeds 0 to 4), each within three times the prediction (a missed feature costs R > .5)."""
    c = 0.6
    X, y = correlated(2, 20, cosine=c), np.array([1.0, -1 / c])
    predicted = evaluate(NoDefense(), Setting.from_features(X, y, 60_000, "tanh")).predicted
    assert predicted is not None and predicted < 0.1
    for seed in range(5):
        found = reconstruct(X, y, 60_000, "tanh", seed)
        assert matched_error(X, found.features, sign_free=True).rmse < 3 * predicted


def test_a_random_contraction_is_worse() -> None:
    """[W23], Remark 3, at d = 40, m = 60 000: every error is at least 1.5 times that of the first moment's contraction, or
    the attack reports failure. 12 networks (seeds 0 to 11), of which at least 4 give a result to compare."""
    X, y = correlated(2, 40), labels(2)
    compared = 0
    for seed in range(12):
        try:
            other = reconstruct(X, y, 60_000, "tanh", seed, attack=TensorAttack(contraction="random"))
        except ReconstructionError:
            continue
        compared += 1
        ours = matched_error(X, reconstruct(X, y, 60_000, "tanh", seed).features, sign_free=True).rmse
        assert matched_error(X, other.features, sign_free=True).rmse > 1.5 * ours
    assert compared >= 4


def test_an_odd_activation_leaves_signs_unknown() -> None:
    """(x, y) and (-x, -y) give the same gradient of tanh, to the last bit."""
    X, y = correlated(2, 10), labels(2)
    net = TwoLayerNet.sample(10, 5000, "tanh", seed=1)
    one, other = (net.output_gradient(torch.from_numpy(s * X), s * y)[0] for s in (1, -1))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-15)
    found = reconstruct(X, y, 40_000, "tanh", 0)
    assert found.diagnostics.sign_free and found.diagnostics.status == "ok"


def test_the_sigmoid_gives_signs_by_its_mean() -> None:
    """r = (-.5, 1.5): the gradient's mean tells the signs, so features and labels come back with them. 5 networks,
    seeds 0 to 4; a wrong sign costs R > 1, and labels are within 0.3."""
    X = correlated(2, 10, cosine=0.2)
    for seed in range(5):
        found = reconstruct(X, [1.0, -1.0], 40_000, "sigmoid", seed)
        assert not found.diagnostics.sign_free
        match = matched_error(X, found.features)
        assert match.rmse < 0.2
        np.testing.assert_allclose(found.labels.numpy()[list(match.permutation)], [1.0, -1.0], atol=0.3)


@pytest.mark.parametrize("m", [3000, 40_000])
def test_a_near_tie_of_signs_is_never_claimed(m: int) -> None:
    """Sigmoid with labels 1 and 0: residuals are opposite but for f(x_1) + f(x_2) - 1, the two choices all but fit alike. 40
    networks each (seeds 0 to 39), all with a result: the rate of false claims is 0 of 40, as that of claims."""
    X = correlated(2, 10, cosine=0.2)
    found = [reconstruct(X, [1.0, 0.0], m, "sigmoid", seed) for seed in range(40)]
    assert sum(not f.diagnostics.sign_free for f in found) == 0


@pytest.mark.parametrize("even", [0.1, 0.02])
@pytest.mark.parametrize("y", [(1.0, -1.0), (-1.0, -2.0)])
def test_signs_of_an_activation_that_is_not_odd(even: float, y: tuple[float, float]) -> None:
    """mu_2 = 0 with a part of order 4: signs are known, and right. 8 networks (seeds 0 to 7); a wrong sign costs R > 1."""
    z = sp.Symbol("z", real=True)
    activation = z + (z**3 - 3 * z) / 6 + even * (z**4 - 6 * z**2 + 3)
    X = correlated(2, 10, cosine=0.3)
    for seed in range(8):
        found = reconstruct(X, list(y), 60_000, activation, seed)
        match = matched_error(X, found.features)
        assert not found.diagnostics.sign_free and match.rmse < 0.3
        np.testing.assert_allclose(found.labels.numpy()[list(match.permutation)], y, atol=0.3)


def test_signs_are_not_searched_among_too_many_features() -> None:
    """B = 11: one beyond the limit, at the true features of a sigmoid network."""
    for B, free in ((MANY_SIGNS, False), (MANY_SIGNS + 1, True)):
        X = torch.from_numpy(correlated(B, 12))
        net = TwoLayerNet.sample(12, 20_000, "sigmoid", seed=0)
        gradient = observe(NoDefense(), net, X, np.linspace(-1, -2, B)).gradient
        wrong = torch.ones(B, dtype=torch.float64)
        wrong[[0, 3]] = -1
        signs, unknown = signs_by_fit(net, gradient, wrong[:, None] * X)
        assert unknown == free
        torch.testing.assert_close(signs, torch.ones_like(wrong) if free else wrong)


def test_rounding_does_not_tell_signs() -> None:
    """tanh at the true features: both choices leave nothing but rounding."""
    X = torch.from_numpy(correlated(1, 5))
    net = TwoLayerNet.sample(5, 1000, "tanh", seed=0)
    gradient = observe(NoDefense(), net, X, [1.0]).gradient
    assert signs_by_fit(net, gradient, X)[1]


def test_unequal_norms_are_assigned() -> None:
    """tanh is not homogeneous: norms .7 and 1.4, labels +-1; networks 0 to 2, R below .15 (swapped norms: R > .6)."""
    X, y = correlated(2, 15, norms=(0.7, 1.4)), labels(2)
    for seed in range(3):
        found = reconstruct(X, y, 60_000, "tanh", seed)
        assert matched_error(X, found.features, sign_free=True).rmse < 0.15


def test_a_vanishing_residual_is_reported() -> None:
    with pytest.raises(ReconstructionError, match="ill-posed"):
        reconstruct(correlated(2, 10), [1.0, 0.0], 40_000, "tanh", 0)


# --- constants --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("residualized", [False, True])
def test_the_constants_on_a_full_grid(residualized: bool) -> None:
    """B = 2, noise of variance 0.7: orthogonal constants from their definition, with Gauss-Hermite points (60^2)."""
    setting = Setting.from_features(correlated(2, 8, norms=(1.0, 0.8)), [-1.0, -2.0], 1000, "tanh")
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    z = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), axis=-1).reshape(-1, 2)
    w = np.outer(weights, weights).ravel() / (2 * math.pi)
    u, norms, r = setting.directions, setting.norms, setting.residuals
    c1, c3 = (np.array([setting.activation.coefficient(k, n) for n in norms]) for k in (1, 3))
    t = z @ u.T
    h = (np.tanh(t * norms) - (c1 * t if residualized else 0)) @ r
    outer = np.einsum("na,nb->nab", z, z) - np.eye(2)
    Y = sum(ri * ci * np.outer(ui, np.outer(ui, ui).ravel()) for ri, ci, ui in zip(r, c3, u, strict=True))
    Z = (np.linalg.pinv(Y) @ u.T).T.reshape(2, 2, 2)
    expected = [
        n**2 * (w @ ((h**2 + 0.7) * np.einsum("nab,ab->n", outer, Zi) ** 2))
        for n, Zi in zip(norms, Z, strict=True)
    ]
    attack = TensorAttack(moments="residualized" if residualized else "plain")
    found = first_order(setting, attack, Unbiased(setting.residuals, 0.7))
    np.testing.assert_allclose(found.orthogonal, expected, rtol=1e-6)
    table = PairTable.build(setting, residualized, (1, 3), u)
    centred = np.tanh(t * norms) @ r
    basis = np.eye(2)
    np.testing.assert_allclose(
        table.second_moment(0, 0, basis, basis),
        [w @ (centred**2 * z[:, k] ** 2) for k in range(2)],
        rtol=1e-6,
    )


def test_a_slice_may_be_better_than_the_unfolding() -> None:
    """The example in the notes: cosine -.02, r = (-1.56, -1.74), plain moments, contraction with u_1 - u_2. Better in all,
    by .77, and not in the noise part, in which the unfolding's dual is the shortest."""
    X = correlated(2, 6, cosine=0.02) * np.array([[1.0], [-1.0]])
    setting = Setting.from_features(X, [1.56, 1.74], 1000, "tanh")
    u = setting.directions
    strength = setting.residuals * np.array([setting.activation.coefficient(3, n) for n in setting.norms])
    a = (u[0] - u[1]) / np.linalg.norm(u[0] - u[1])
    dual = np.linalg.solve((u.T * (strength * (u @ a))) @ u, u.T).T
    Z = np.einsum("a,ib->iab", a, dual)
    Z = (Z + Z.swapaxes(1, 2)) / 2
    table = PairTable.build(setting, False, (1, 3), u)
    quiet, loud = (
        first_order(setting, TensorAttack(moments="plain"), Unbiased(setting.residuals, s)).orthogonal
        for s in (0.0, 1.0)
    )
    assert table.second_moment(1, 1, Z, Z).sum() / quiet.sum() == pytest.approx(0.77, abs=0.01)
    assert np.all(2 * np.sum(Z**2, axis=(1, 2)) > loud - quiet)


def test_the_signs_of_singular_vectors_are_the_library_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features do not depend on the signs that a library gives singular vectors, anew at every call if it likes: here the
    first call turns one of them. Without care the correction for shared neurons has then the wrong sign in part, and
    features move by some 1e-2."""
    net = TwoLayerNet.sample(30, 30_000, "tanh", seed=3)
    X, y = torch.from_numpy(correlated(2, 30)), torch.from_numpy(labels(2))
    seen = observe(NoDefense(), net, X, y)
    svd, calls = torch.linalg.svd, 0

    def turned(matrix: torch.Tensor, full_matrices: bool = True) -> tuple[torch.Tensor, ...]:
        nonlocal calls
        left, values, right = svd(matrix, full_matrices=full_matrices)
        signs = torch.ones(len(values), dtype=matrix.dtype)
        if matrix.shape == (30, 3):  # the unfolding
            signs[0] = 1.0 if calls else -1.0
            calls += 1
        return left * signs, values, signs[:, None] * right

    found = tensor_attack(seen, net).features
    monkeypatch.setattr(torch.linalg, "svd", turned)
    again = tensor_attack(seen, net).features
    assert calls == 2
    assert matched_error(found, again, sign_free=True).rmse < 1e-9
