"""The tensor attack against the full tensor, and in passes over the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from bounds.setting import alternating
from verify.bench.shared import (
    THREADS,
    BenchResult,
    as_tensor,
    held,
    medians,
    predicted_error,
    problem,
    threads,
)

if TYPE_CHECKING:
    import torch

    from attack import TwoLayerNet

CUBIC, CUBIC_LABELS = "z2z3", (-1.0, 3.0)  # mu_3 != 0, and labels that keep both residuals at +-2
ROWS = 200  # neurons at a time for the full tensor: ROWS d^2 numbers, 16 MB at d = 100, are the fastest
ONE_LINE_SHARE = 100  # the one-line einsum is timed on this fraction of the neurons


def against_tensorly(d: int = 100, m: int = 20_000, repeats: int = 5) -> BenchResult:
    """Two features: time of the full third moment and its CP decomposition over the time of the attack.

    Both get the same gradient, with the activation z^2 + z^3 (ReLU's third moment vanishes) and W in memory.
    The d×d×d tensor is built by one matrix product for each block of neurons, the fastest way we know;
    details have the one-line einsum as well. tensorly's call is ``parafac(tensor, rank=2)`` with its
    defaults. Its error is sign-free, in its favour (a third moment alone cannot tell x from -x); the attack's
    is not.
    """
    parafac = tensorly_parafac()
    from attack import matched_rmse, tensor_attack

    X, net, seen = problem(d, m, 2, CUBIC, CUBIC_LABELS)
    with threads(THREADS):
        tensor = third_moment(net, seen.gradient).numpy()
        part = max(1, m // ONE_LINE_SHARE)
        W, g = held(net)[:part].numpy(), seen.gradient[:part].numpy()
        attack_s, build_s, cp_s, one_line_s = medians(
            repeats,
            lambda: tensor_attack(seen, net),
            lambda: third_moment(net, seen.gradient),
            lambda: parafac(tensor, rank=2),
            lambda: np.einsum("j,ja,jb,jc->abc", g, W, W, W),
        )
        found, (_, factors) = tensor_attack(seen, net), parafac(tensor, rank=2)
    directions = (factors[0] / np.linalg.norm(factors[0], axis=0)).T
    one_line_s *= m / part
    return BenchResult(
        name="full tensor",
        statement=f"time of full tensor and CP over time of attack, {CUBIC}, d = {d}, m = {m}, B = 2",
        value=(build_s + cp_s) / attack_s,
        target=100.0,
        at_least=True,
        threads=THREADS,
        repeats=repeats,
        details={
            "attack_s": attack_s,
            "build_s": build_s,
            "parafac_s": cp_s,
            "build_one_line_einsum_s": one_line_s,
            "build_one_line_einsum_measured_on": f"{part} of {m} neurons, scaled",
            "ratio_with_one_line_einsum": (one_line_s + cp_s) / attack_s,
            "attack_error": matched_rmse(X, found.features),
            "parafac_error_sign_free": matched_rmse(X, directions, sign_free=True),
            "attack_passes": found.diagnostics.passes,
        },
    )


def third_moment(net: TwoLayerNet, gradient: torch.Tensor) -> torch.Tensor:
    """The whole ``(1/m) sum_j g_j He_3(w_j)``, shape (d, d, d), from held weights."""
    import torch

    W, d = held(net), net.d
    raw = torch.zeros(d * d, d, dtype=W.dtype)
    for start in range(0, net.m, ROWS):
        rows = W[start : start + ROWS]
        weighted = gradient[start : start + ROWS, None] * rows
        raw += (weighted[:, :, None] * rows[:, None, :]).reshape(-1, d * d).T @ rows
    first, identity = W.T @ gradient, torch.eye(d, dtype=W.dtype)
    mixed = torch.einsum("a,bc->abc", first, identity)
    return (raw.reshape(d, d, d) - mixed - mixed.permute(1, 0, 2) - mixed.permute(2, 1, 0)) / net.m


def tensorly_parafac() -> Callable[..., Any]:
    try:
        from tensorly.decomposition import parafac
    except ImportError as error:
        raise ImportError(f"bench compares with tensorly; install reconbound[test] ({error})") from error
    found: Callable[..., Any] = parafac
    return found


def in_passes(d: int = 100, m: int = 160_000, B: int = 2, repeats: int = 5) -> BenchResult:
    """Time of the whole attack (ReLU, residualized) over the time of one pass over weights in memory."""
    from attack import matched_rmse, tensor_attack

    X, net, seen = problem(d, m, B, "relu", alternating(B))
    V = as_tensor(np.linalg.qr(np.random.default_rng(0).standard_normal((d, B)))[0])
    W, g = held(net), seen.gradient
    with threads(THREADS):
        found = tensor_attack(seen, net)
        attack_s, pass_s, one_line_s = medians(
            repeats,
            lambda: tensor_attack(seen, net),
            lambda: one_pass(net, g, V),
            lambda: W.T @ (g[:, None] * (W @ V)),
        )
    return BenchResult(
        name="passes",
        statement=f"time of attack over time of one pass W^T(g * (W V)), relu, d = {d}, m = {m}, B = {B}",
        value=attack_s / pass_s,
        target=12.0,
        at_least=False,
        threads=THREADS,
        repeats=repeats,
        details={
            "attack_s": attack_s,
            "pass_s": pass_s,
            "one_line_pass_s": one_line_s,
            "ratio_to_one_line_pass": attack_s / one_line_s,
            "passes": found.diagnostics.passes,
            "error": matched_rmse(X, found.features),
            "predicted_error": predicted_error(X, m),
        },
    )


def one_pass(net: TwoLayerNet, gradient: torch.Tensor, V: torch.Tensor) -> torch.Tensor:
    """``W^T (g * (W V))``, V and result (d, B), block by block and in the orientation that is fastest for
    small B."""
    import torch

    columns = V.T.contiguous()
    total = torch.zeros_like(columns)
    for rows, W in net.blocks():
        total += (gradient[rows] * (columns @ W.T)) @ W
    return total.T
