"""The one loop over the neurons: sums, rows side by side, and what they do not depend on."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import attack
from attack import TwoLayerNet
from attack.stream import gathered, total

D, M = 2**15, 37  # blocks of 16 rows on the CPU


def network(**more: object) -> TwoLayerNet:
    return TwoLayerNet.sample(D, M, seed=3, **more)  # type: ignore[arg-type]


NET = network()
W = NET.weights
assert W is not None


class Sums(NamedTuple):
    count: torch.Tensor
    second: torch.Tensor


def sums(rows: slice, block: torch.Tensor) -> Sums:
    return Sums(torch.tensor(float(len(block))), block[:, :3].T @ block[:, :3])


def test_sums_are_those_of_the_whole() -> None:
    assert len(list(NET.blocks())) == 3  # the last one is short
    found = total(NET, lambda rows, block: block.sum(dim=0))
    torch.testing.assert_close(found, W.sum(dim=0), rtol=1e-13, atol=1e-13)
    named = total(NET, sums)
    assert isinstance(named, Sums) and float(named.count) == M
    torch.testing.assert_close(named.second, W[:, :3].T @ W[:, :3], rtol=1e-13, atol=1e-13)


def test_kernels_share_a_pass() -> None:
    """Each sum has the bits that it has by itself."""
    passes = []

    def both(rows: slice, block: torch.Tensor) -> tuple[Sums, torch.Tensor]:
        passes.append(rows)
        return sums(rows, block), block[:, 0].sum()

    first, second = total(NET, both)
    assert torch.equal(first.second, total(NET, sums).second)
    assert torch.equal(second, total(NET, lambda rows, block: block[:, 0].sum()))
    assert passes == [slice(0, 16), slice(16, 32), slice(32, 37)]


def test_rows_side_by_side() -> None:
    assert torch.equal(gathered(NET, lambda rows, block: block[:, :4]), W[:, :4])
    assert torch.equal(gathered(NET, lambda rows, block: block[:, :4].T, axis=1), W[:, :4].T)
    assert torch.equal(gathered(NET, lambda rows, block: block[:, 0]), W[:, 0])
    single = gathered(network(dtype=torch.float32), lambda rows, block: block[:, :4] > 0)
    assert single.dtype == torch.bool and single.shape == (M, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_way_of_holding_the_weights_changes_a_bit(dtype: torch.dtype) -> None:
    """Held, drawn ahead by threads, and drawn further ahead."""
    v = torch.ones(D, 2, dtype=dtype)
    found = [
        (total(net, lambda rows, block: block.T @ block[:, :2]), gathered(net, lambda rows, block: block @ v))
        for net in (network(dtype=dtype), *(network(dtype=dtype, memory_budget=0, chunk=c) for c in (1, M)))
    ]
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_sums_are_in_double_precision() -> None:
    """Of 1, 2^-30, 2^-30 in single precision a sum in single precision would be 1."""
    small = iter((1.0, 2.0**-30, 2.0**-30))
    found = total(NET, lambda rows, block: torch.tensor(next(small), dtype=torch.float32))
    assert found.dtype == torch.float64 and float(found) == 1 + 2.0**-29


def test_what_a_kernel_gives_is_its_own() -> None:
    """Sums are kept apart from the kernel's tensors, which may be views of what it holds."""
    held = torch.ones(2, dtype=torch.float64)
    assert total(NET, lambda rows, block: held).tolist() == [3.0, 3.0]
    assert held.tolist() == [1.0, 1.0]


def test_products_with_a_jacobian_and_its_transpose() -> None:
    """J v and J^T u of the entries sigma(w_j.x) by x, without J: <u, J v> = <J^T u, v>, and J v against differences."""
    net = TwoLayerNet.sample(5, 3000, "tanh", seed=1)
    x, v = torch.linspace(-1, 1, 5, dtype=torch.float64), torch.linspace(1, 2, 5, dtype=torch.float64)
    u = torch.sin(torch.arange(3000, dtype=torch.float64))
    forward = gathered(net, lambda rows, block: (1 - torch.tanh(block @ x) ** 2) * (block @ v))
    back = total(net, lambda rows, block: block.T @ (u[rows] * (1 - torch.tanh(block @ x) ** 2)))
    assert float(u @ forward) == pytest.approx(float(back @ v), rel=1e-12)
    step = 1e-6
    ends = [net.hidden((x + s * step * v)[None])[0] for s in (1, -1)]
    torch.testing.assert_close((ends[0] - ends[1]) / (2 * step), forward, rtol=1e-7, atol=1e-8)


def test_no_pass_is_written_by_hand() -> None:
    root = Path(attack.__path__[0])
    by_hand = {str(f.relative_to(root)) for f in root.rglob("*.py") if ".blocks()" in f.read_text("utf-8")}
    assert by_hand == {"stream.py"}


def test_a_kernel_s_error_ends_the_pass() -> None:
    """Threads that draw blocks ahead end with it."""

    def broken(rows: slice, block: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("broken")

    for net in (NET, network(memory_budget=0)):
        with pytest.raises(RuntimeError, match="broken"):
            total(net, broken)
