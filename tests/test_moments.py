"""Streamed moments against einsum over full tensors, and the same-neuron correction against leaving neurons out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from helpers import correlated, labels, power

from attack import TwoLayerNet
from attack.streams import normal
from attack.tensor import moments as streamed
from attack.tensor.span import dominant_span

D, M, B = 40, 30_000, 3  # blocks of 8192 rows: four of them, the last one cut


def problem(d: int = D, m: int = M, seed: int = 0, **more: object) -> tuple[TwoLayerNet, torch.Tensor]:
    net = TwoLayerNet.sample(d, m, "elu", seed=seed, **more)  # type: ignore[arg-type]
    X, y = torch.from_numpy(correlated(B, d, norms=(1.0, 1.2, 0.9))), torch.from_numpy(labels(B))
    return net, net.output_gradient(X, y)[0]


def response_of(net: TwoLayerNet, gradient: torch.Tensor, residualized: bool) -> streamed.Response:
    mean, slope = streamed.first_moment(net, gradient)
    return streamed.Response(gradient, mean * residualized, slope * residualized)


def full_weights(net: TwoLayerNet) -> np.ndarray:
    return torch.cat([block for _, block in net.blocks()]).double().numpy()


def hermite_tensor(z: np.ndarray, order: int) -> np.ndarray:
    """He_k(z_j) of every point, (N, B, ..., B), from the product of coordinates and all pairings of its slots."""
    size = z.shape[1]
    delta = np.eye(size)
    if order == 2:
        return np.einsum("na,nb->nab", z, z) - delta
    if order == 3:
        t = np.einsum("na,nb,nc->nabc", z, z, z)
        for spec in ("na,bc->nabc", "nb,ac->nabc", "nc,ab->nabc"):
            t -= np.einsum(spec, z, delta)
        return t
    t = np.einsum("na,nb,nc,ne->nabce", z, z, z, z)
    for one in itertools.combinations("abce", 2):
        rest = "".join(c for c in "abce" if c not in one)
        t -= np.einsum(f"n{one[0]},n{one[1]},{rest}->nabce", z, z, delta)
    for spec in ("ab,ce->abce", "ac,be->abce", "ae,bc->abce"):
        t += np.einsum(spec, delta, delta)
    return t


def basis(d: int = D, seed: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    V = np.linalg.qr(np.random.default_rng(seed).standard_normal((d, B)))[0]
    return torch.from_numpy(V), torch.tensor([0.7, -0.5, 0.3], dtype=torch.float64)


def test_first_moments() -> None:
    net, gradient = problem()
    W, g = full_weights(net), gradient.numpy()
    mean, slope = streamed.first_moment(net, gradient)
    assert float(mean) == pytest.approx(g.mean(), rel=1e-12)
    np.testing.assert_allclose(
        slope.numpy(), np.einsum("j,ja->a", g - g.mean(), W) / M, rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("residualized", [False, True])
def test_the_second_moment(residualized: bool) -> None:
    net, gradient = problem()
    W, response = full_weights(net), response_of(net, gradient, residualized)
    h = gradient.numpy() - float(response.offset) - W @ response.slope.numpy()
    P = np.einsum("j,ja,jb->ab", h, W, W, optimize=True) / M - h.mean() * np.eye(D)
    V, _ = basis()
    found = streamed.apply_second_moment(net, response, V).numpy()
    np.testing.assert_allclose(found, P @ V.numpy(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("order", [3, 4])
@pytest.mark.parametrize("residualized", [False, True])
@pytest.mark.parametrize("leave_one_out", [False, True])
def test_core_moments(order: int, residualized: bool, leave_one_out: bool) -> None:
    net, gradient = problem()
    W, response = full_weights(net), response_of(net, gradient, residualized)
    V, theta = basis()
    h = gradient.numpy() - float(response.offset) - W @ response.slope.numpy()
    z = W @ V.numpy()
    if leave_one_out:
        z = z - (h[:, None] * (D - B) / M) * z / theta.numpy()
    h_core = h
    if residualized:
        h_core = h - 0.5 * np.einsum("ab,nab->n", np.diag(theta.numpy()), hermite_tensor(z, 2))
    found = streamed.core_moments(net, response, V, theta, order, residualized, leave_one_out)
    second = np.einsum("n,nab->ab", h, hermite_tensor(z, 2)) / M
    core = np.einsum("n,n...->...", h_core, hermite_tensor(z, order)) / M
    np.testing.assert_allclose(found.second.numpy(), second, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.core.numpy(), core, rtol=1e-12, atol=1e-12)
    assert found.power == pytest.approx(np.mean(h**2), rel=1e-12)


@pytest.mark.parametrize("chunk", [1, 101, 9973, 10**6])
def test_results_do_not_depend_on_how_weights_are_kept(chunk: int) -> None:
    V, theta = basis()
    found = []
    for more in ({}, {"memory_budget": 0, "chunk": chunk}):
        net, gradient = problem(**more)
        response = response_of(net, gradient, True)
        core = streamed.core_moments(net, response, V, theta, 4, True, True)
        applied = streamed.apply_second_moment(net, response, V)
        found.append([gradient, response.offset, response.slope, applied, core.second, core.core])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_single_precision_is_close() -> None:
    """Errors of single precision, about 1e-7 a term, average out: 1e-5 relative to the largest entry."""
    V, theta = basis()
    net, _ = problem(dtype=torch.float32)
    exact = TwoLayerNet.from_weights(torch.from_numpy(full_weights(net)), "elu")
    X, y = torch.from_numpy(correlated(B, D)), torch.from_numpy(labels(B))
    cores = []
    for n in (net, exact):
        gradient = n.output_gradient(X, y)[0]
        mean, slope = streamed.first_moment(n, gradient)
        response = streamed.Response(gradient, mean.to(n.dtype), slope)
        cores.append(streamed.core_moments(n, response, V, theta, 3, True, True).core)
    assert cores[0].dtype == torch.float64
    torch.testing.assert_close(*cores, rtol=0, atol=1e-5 * float(cores[1].abs().max()))


# --- the same-neuron bias ---------------------------------------------------------------------------------------------


def literal(net: TwoLayerNet, response: streamed.Response, order: int) -> tuple[np.ndarray, ...]:
    """The core three ways: with the span of all neurons, with the formula, and with a span found anew without neuron j
    for every j (eigenvectors of P less its j-th term, turned within their span towards the full ones)."""
    W = full_weights(net)
    h = response.gradient.numpy() - float(response.offset) - W @ response.slope.numpy()
    P = np.einsum("j,ja,jb->ab", h, W, W, optimize=True) / net.m - h.mean() * np.eye(net.d)

    def top(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, vectors = np.linalg.eigh(matrices)
        which = np.argsort(-np.abs(values), axis=-1)[..., :B]
        return np.take_along_axis(values, which, -1), np.take_along_axis(vectors, which[..., None, :], -1)

    theta, V = top(P)
    _, without = top(P - h[:, None, None] * (W[:, :, None] * W[:, None, :] - np.eye(net.d)) / net.m)
    left, _, right = np.linalg.svd(without.transpose(0, 2, 1) @ V)
    z = np.einsum("jka,jk->ja", left @ right, np.einsum("jdk,jd->jk", without, W))
    exact = np.einsum("n,n...->...", h, hermite_tensor(z, order)) / net.m
    args = (net, response, torch.from_numpy(np.ascontiguousarray(V)), torch.from_numpy(theta), order, False)
    ignored, formula = (streamed.core_moments(*args, flag).core.numpy() for flag in (False, True))
    return ignored, formula, exact


@pytest.mark.parametrize("order", [3, 4])
def test_the_correction_is_what_leaving_a_neuron_out_does(order: int) -> None:
    """d = 12, 6 networks at each of m = 3000 and 6000 (seeds 0 to 5), root mean squares over networks. The correction is of
    order 1/m. What it misses is of order m^(-3/2), from the scatter of |u_j|^2 around d - B, and m^-2: the formula gets at
    least 80 % of the effect, and the rest falls by more than 2.3 when m doubles (a wrong constant would leave a rest that
    falls by 2)."""
    size, rest = {}, {}
    for m in (3000, 6000):
        parts = []
        for seed in range(6):
            net, gradient = problem(12, m, seed)
            ignored, formula, exact = literal(net, response_of(net, gradient, True), order)
            parts.append((np.mean((exact - ignored) ** 2), np.mean((exact - formula) ** 2)))
        size[m], rest[m] = np.sqrt(np.mean(parts, axis=0))
    assert rest[3000] < 0.2 * size[3000], (size, rest)
    assert 1.5 < size[3000] / size[6000] < 2.6, (size, rest)
    assert rest[3000] > 2.3 * rest[6000], (size, rest)


@pytest.mark.parametrize(
    ("moments", "activation", "factor"), [("plain", "relu", 2.5), ("residualized", "gelu", 1.4)]
)
def test_what_ignoring_the_bias_costs(moments: str, activation: str, factor: float) -> None:
    """d = 200, m = 20 000, B = 2, 4 networks (seeds 0 to 3): error of the core around sum_i r_i c_4 u_i^(x)4, root mean
    square. Without leaving one out it is larger by 3.3 for plain moments and by 1.9 for residualized ones."""
    X, y = torch.from_numpy(correlated(2, 200)), torch.from_numpy(labels(2))
    errors = {False: 0.0, True: 0.0}
    for seed in range(4):
        net = TwoLayerNet.sample(200, 20_000, activation, seed=seed)
        gradient, residuals = net.output_gradient(X, y)
        response = response_of(net, gradient, moments == "residualized")
        start = normal((200, 4), seed, "starts", device="cpu", dtype=torch.float64)
        span = dominant_span(lambda V, n=net, r=response: streamed.apply_second_moment(n, r, V), start, 2)
        coordinates = (X @ span.V).numpy()
        u = coordinates / np.linalg.norm(coordinates, axis=1, keepdims=True)
        weight = residuals.numpy() * net.activation.coefficient(4)
        truth = sum(w * power(v, 4) for w, v in zip(weight, u, strict=True))
        for flag in errors:
            found = streamed.core_moments(
                net, response, span.V, span.eigenvalues, 4, moments == "residualized", flag
            )
            errors[flag] += float(np.sum((found.core.numpy() - truth) ** 2))
    assert errors[False] > factor**2 * errors[True], errors
