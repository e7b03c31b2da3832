"""The block iteration against dense eigenvectors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import rotation

from attack.tensor.span import Span, dominant_span


def operator(values: list[float], bulk: float, d: int, seed: int = 0) -> torch.Tensor:
    """A symmetric (d, d) matrix with the given eigenvalues and others spread evenly over [-bulk, bulk]."""
    Q = rotation(d, seed)
    spectrum = np.concatenate([values, np.linspace(-bulk, bulk, d - len(values))])
    return torch.from_numpy((Q * spectrum) @ Q.T)


def run(P: torch.Tensor, count: int, width: int | None = None, **more: float) -> tuple[Span, list[int]]:
    sizes: list[int] = []

    def apply(V: torch.Tensor) -> torch.Tensor:
        sizes.append(V.shape[1])
        return P @ V

    generator = torch.Generator().manual_seed(1)
    start = torch.randn(len(P), min(len(P), width or count + 2), generator=generator, dtype=torch.float64)
    return dominant_span(apply, start, count, **more), sizes  # type: ignore[arg-type]


CASES: dict[str, Callable[[], tuple[torch.Tensor, int]]] = {
    "mixed signs": lambda: (operator([3.0, -2.0, 1.5], 0.5, 60), 3),
    "small gap": lambda: (operator([1.3, -1.2], 1.0, 60), 2),
    "clustered": lambda: (operator([2.0, 2.0, 2.0, -2.0], 0.5, 60), 4),
    "close together": lambda: (operator([2.0, 2.0 + 1e-9, -2.0 - 1e-5], 0.5, 60), 3),
    "opposite": lambda: (operator([2.0, -2.0], 0.5, 60), 2),
    "one": lambda: (operator([-1.0], 0.3, 60), 1),
    "d = B": lambda: (operator([3.0, -2.0, 1.5], 0.0, 3), 3),
    "d = 1": lambda: (torch.tensor([[-0.7]], dtype=torch.float64), 1),
    "d = B + 1": lambda: (operator([3.0, -2.0, 1.5], 0.5, 4), 3),
    "exactly low rank": lambda: (operator([3.0, -2.0], 0.0, 40), 2),
    "tiny": lambda: (1e-9 * operator([3.0, -2.0], 0.5, 40), 2),
}


@pytest.mark.parametrize("case", CASES)
def test_against_dense_eigenvectors(case: str) -> None:
    P, count = CASES[case]()
    span, sizes = run(P, count, tolerance=1e-9)
    values, vectors = torch.linalg.eigh(P)
    order = torch.argsort(values.abs(), descending=True)
    top = vectors[:, order[:count]]
    assert span.converged
    assert span.passes == len(sizes)
    torch.testing.assert_close(span.V.T @ span.V, torch.eye(count, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(span.V @ span.V.T, top @ top.T, rtol=0, atol=1e-7)
    scale = float(values.abs().max())
    sizes_found, sizes_wanted = span.eigenvalues.abs(), values[order[:count]].abs()
    torch.testing.assert_close(sizes_found, sizes_wanted, rtol=0, atol=1e-10 * scale)
    residual = P @ span.V - span.V * span.eigenvalues
    assert float(residual.abs().max()) < 1e-7 * scale
    expected = float(values[order[count]].abs()) if count < len(P) else 0.0
    assert span.next_value <= expected + 1e-9 * scale
    if count == len(P):
        assert span.next_value == 0


def test_the_default_tolerance_is_an_angle() -> None:
    span, _ = run(operator([1.5, -1.2, 1.2], 1.0, 300), 3)
    exact = torch.linalg.eigh(operator([1.5, -1.2, 1.2], 1.0, 300))[1]
    P = operator([1.5, -1.2, 1.2], 1.0, 300)
    top = exact[:, torch.argsort((exact.T @ P @ exact).diagonal().abs(), descending=True)[:3]]
    sine = float(torch.linalg.matrix_norm(span.V - top @ (top.T @ span.V), 2))
    # 1e-4 of the smallest eigenvalue over the gap 0.2 / 1.2, for three columns
    assert sine < 3e-4 * 1.2 / 0.2
    assert span.passes < 40


def test_too_few_passes_are_told() -> None:
    span, sizes = run(operator([1.1, -1.05], 1.0, 300), 2, max_passes=2)
    assert not span.converged
    assert span.passes == len(sizes) == 2


def test_it_takes_few_passes_where_the_gap_is_clear() -> None:
    """Eigenvalues three times the bulk: Chebyshev's rate is (3 + sqrt 8)^-1 a pass, 1e-4 after six or so."""
    span, _ = run(operator([3.0, -3.0], 1.0, 400), 2)
    assert span.converged
    assert span.passes <= 8
