"""Data and strategies that several tests share. Features are never orthonormal unless a test asks for it: orthonormal
data hide mistakes between a basis and its dual."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import sympy as sp
from hypothesis import strategies as st
from numpy.typing import NDArray

from bounds import ACTIVATIONS, SYMBOLS, Defense, Setting

Array = NDArray[np.float64]

#: The built-in activations that the second-moment attack covers.
EVEN = tuple(name for name, a in ACTIVATIONS.items() if abs(a.coefficient(2)) > 1e-9)
ODD = tuple(name for name in ACTIVATIONS if name not in EVEN)


def correlated(
    B: int, d: int, seed: int = 0, cosine: float = 0.4, norms: Sequence[float] | None = None
) -> Array:
    """Features (B, d) in random position, all pairwise cosines equal, unit norms unless given."""
    frame = np.linalg.qr(np.random.default_rng(seed).standard_normal((d, B)))[0].T
    gram = np.full((B, B), cosine) + (1 - cosine) * np.eye(B)
    return np.linalg.cholesky(gram) @ frame * np.reshape(1.0 if norms is None else norms, (-1, 1))


def labels(B: int, activation: str = "relu") -> Array:
    """+1, -1, +1, ...; all -1 for z^2 + z^3, whose residual vanishes at +1."""
    return np.where((np.arange(B) % 2 == 0) & (activation != "z2z3"), 1.0, -1.0)


def rotation(d: int, seed: int = 0) -> Array:
    """A random orthogonal matrix (d, d)."""
    return np.linalg.qr(np.random.default_rng([seed, d]).standard_normal((d, d)))[0]


def power(vector: Array, order: int) -> Array:
    """``vector`` times itself, ``order`` times, as an outer product."""
    tensor = vector
    for _ in range(order - 1):
        tensor = np.multiply.outer(tensor, vector)
    return tensor


def symmetric(size: int, order: int, rng: np.random.Generator) -> Array:
    """A random symmetric tensor with ``order`` axes: a sum of powers of random vectors."""
    return sum(rng.standard_normal() * power(rng.standard_normal(size), order) for _ in range(3 * size))


def defense_members(cls: type[Defense], largest: float = 1e12) -> st.SearchStrategy[Defense]:
    """Members of a family of defenses, drawn from its declared ranges (cut at ``largest``)."""
    values: dict[str, st.SearchStrategy[Any]] = {
        p.name: st.integers(int(p.lo), int(min(p.hi, largest)))
        if p.integer
        else st.floats(p.lo, min(p.hi, largest))
        for p in cls.parameters()
    }
    return st.builds(cls, **values, **{k: st.sampled_from(v) for k, v in cls.choices().items()})


@st.composite
def problems(draw: st.DrawFn, largest_B: int = 3) -> tuple[Array, Array]:
    """Features (B, 6) with norms in [0.7, 1.5], well away from parallel, and labels in [-2, -1]: no residual vanishes."""
    B = draw(st.integers(2, largest_B))
    cosine = draw(st.floats(-0.3, 0.6))
    norms = draw(st.lists(st.floats(0.7, 1.5), min_size=B, max_size=B))
    y = draw(st.lists(st.floats(-2.0, -1.0), min_size=B, max_size=B))
    return correlated(B, 6, draw(st.integers(0, 1000)), cosine, norms), np.array(y)


def symbol_values(
    expression: sp.Expr, setting: Setting, defense: Defense, **more: float
) -> dict[sp.Symbol, Any]:
    """The value of every symbol in an expression: sizes from the setting, the rest from the defense or ``more``."""
    known = {"d": setting.d, "m": setting.m, "B": setting.B, **dataclasses.asdict(defense), **more}
    unknown = {s.name for s in expression.free_symbols} - set(known)
    assert not unknown, f"symbols that no setting or defense gives: {unknown}"
    assert all(SYMBOLS[s.name] == s for s in expression.free_symbols), "symbols outside the table"
    return {s: known[s.name] for s in expression.free_symbols}


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises ``TimeoutError`` in the main thread after that many seconds: for what might never end."""

    def interrupt(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
