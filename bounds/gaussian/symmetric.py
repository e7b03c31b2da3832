"""Symmetric tensors: bases, distinct entries, powers."""

from __future__ import annotations

import itertools
import math

import numpy as np

from bounds.arrays import Array


def symmetric_indices(size: int, order: int) -> tuple[Array, Array]:
    """Sorted multi-indices (N, order) of a symmetric tensor and the square roots of their multiplicities."""
    index = np.array(list(itertools.combinations_with_replacement(range(size), order)))
    counts = np.stack([np.sum(index == k, axis=1) for k in range(size)], axis=1)
    multiplicity = [
        math.factorial(order) / math.prod(math.factorial(c) for c in row) for row in counts.tolist()
    ]
    return index, np.sqrt(multiplicity)


def slot_tables(size: int, index: Array) -> tuple[Array, Array]:
    """Of multi-indices (N, order): what is left without each slot, (N, order, order - 1), and the slot as a unit vector,
    (N, order, size)."""
    others = [np.delete(index, s, axis=1) for s in range(index.shape[1])]
    return np.stack(others, axis=1), np.eye(size)[index]


def symmetric_basis(size: int) -> Array:
    """An orthonormal basis of the symmetric matrices: (size (size + 1)/2, size, size)."""
    basis = []
    for i in range(size):
        for k in range(i, size):
            e = np.zeros((size, size))
            e[i, k] = e[k, i] = 1.0 if i == k else math.sqrt(0.5)
            basis.append(e)
    return np.array(basis)


def power(vector: Array, order: int) -> Array:
    """The tensor power of a vector."""
    found: Array = np.asarray(vector)
    for _ in range(order - 1):
        found = np.multiply.outer(found, vector)
    return found


def symmetrised(tensor: Array) -> Array:
    """The symmetric part of a tensor."""
    orders = list(itertools.permutations(range(tensor.ndim)))
    total: Array = np.zeros_like(tensor)
    for axes in orders:
        total = total + tensor.transpose(axes)
    return total / len(orders)


def symmetric_tensors(size: int, order: int) -> Array:
    """An orthonormal basis of the symmetric tensors of that order, each on one set of equal entries."""
    basis = []
    for index in itertools.combinations_with_replacement(range(size), order):
        entries = set(itertools.permutations(index))
        tensor = np.zeros((size,) * order)
        for entry in entries:
            tensor[entry] = 1 / math.sqrt(len(entries))
        basis.append(tensor)
    return np.array(basis)
