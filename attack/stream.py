"""The one loop over the neurons. What is computed of them is a kernel: the formula, on one block of rows of W.

A pass visits the network's logical blocks in order, whether they are held, drawn by threads or drawn on a GPU, and adds in
float64. So a sum depends on the seed and on the block's size, not on the memory that was free. The same bits are promised
for the same device, the same type of the weights and the same number of threads: a matrix product splits its sums over
threads.

    J v    of the gradient's Jacobian J:  ``gathered(net, lambda rows, W: f(W) @ v)``
    J^T u  of the same:                   ``total(net, lambda rows, W: f(W).T @ u[rows])``
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import torch

#: What a kernel gives of a block: a tensor, or a tuple of such, of tuples of such, a NamedTuple.
Sums = TypeVar("Sums", bound=torch.Tensor | tuple[Any, ...])


class Neurons(Protocol):
    """Rows of weights that a pass can visit: m of them, in blocks, each with the slice of its rows."""

    @property
    def m(self) -> int: ...

    def blocks(self) -> Iterator[tuple[slice, torch.Tensor]]: ...


class Weights(Neurons, Protocol):
    """Rows of d weights each, of one device and type."""

    @property
    def d(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...


@dataclass(frozen=True, eq=False)
class Part:
    """The neurons from ``start`` to before ``stop`` of others, counted from 0: what belongs to a row is to be cut alike."""

    whole: Weights
    start: int
    stop: int

    @property
    def m(self) -> int:
        return self.stop - self.start

    @property
    def d(self) -> int:
        return self.whole.d

    @property
    def device(self) -> torch.device:
        return self.whole.device

    @property
    def dtype(self) -> torch.dtype:
        return self.whole.dtype

    def blocks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        for rows, W in self.whole.blocks():
            first, last = max(rows.start, self.start), min(rows.stop, self.stop)
            if first < last:
                yield (
                    slice(first - self.start, last - self.start),
                    W[first - rows.start : last - rows.start],
                )
            if rows.stop >= self.stop:
                return


def total(net: Neurons, kernel: Callable[[slice, torch.Tensor], Sums]) -> Sums:
    """The sum over all blocks of ``kernel(rows, W[rows])``, in float64, in the form that the kernel gives.

    A kernel with several sums gives a tuple of them (a NamedTuple where they need names); two kernels share a pass as
    ``lambda rows, W: (first(rows, W), second(rows, W))``.
    """
    sums: Sums | None = None
    for rows, W in net.blocks():
        terms = kernel(rows, W)
        sums = _mapped(_zeros, terms) if sums is None else sums
        _mapped(torch.Tensor.add_, sums, terms)
    assert sums is not None  # a network has at least one neuron
    return sums


def gathered(
    net: Neurons, kernel: Callable[[slice, torch.Tensor], torch.Tensor], axis: int = 0
) -> torch.Tensor:
    """``kernel(rows, W[rows])`` of all blocks side by side along ``axis``, that of the neurons, in the kernel's type.

    A kernel that gives (rows, k) makes an (m, k); one that gives (k, rows), with ``axis=1``, a (k, m).
    """
    out: torch.Tensor | None = None
    for rows, W in net.blocks():
        part = kernel(rows, W)
        if out is None:
            shape = (*part.shape[:axis], net.m, *part.shape[axis + 1 :])
            out = torch.empty(shape, device=part.device, dtype=part.dtype)
        out.narrow(axis, rows.start, rows.stop - rows.start).copy_(part)
    assert out is not None
    return out


def chosen(net: Neurons, mask: torch.Tensor) -> torch.Tensor:
    """The rows of W (n, d) where ``mask`` (m,) is true."""
    return torch.cat([W[mask[rows]] for rows, W in net.blocks() if bool(mask[rows].any())])


def _zeros(term: torch.Tensor) -> torch.Tensor:
    return torch.zeros(term.shape, device=term.device, dtype=torch.float64)


def _mapped(function: Callable[..., torch.Tensor], *values: Sums) -> Sums:
    """``function`` on tensors that stand at the same place of values of the same form."""
    first = values[0]
    if isinstance(first, torch.Tensor):
        return cast(Sums, function(*values))
    parts = [_mapped(function, *together) for together in zip(*values, strict=True)]
    # a NamedTuple is made of its fields one by one, a plain tuple of all at once
    return cast(Sums, type(first)(*parts) if hasattr(first, "_fields") else tuple(parts))
