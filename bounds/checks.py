"""Checks of arguments. Every message names the argument, its allowed range and the value."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from bounds.arrays import Array


def shown(value: Any) -> str:
    """``repr(value)`` on one line of at most 200 characters, for a message."""
    text = repr(value)
    text = " ".join(text.split()) if "\n" in text else text
    return text if len(text) <= 200 else f"{text[:197]}..."


def integer(name: str, value: Any, lo: int, hi: float = math.inf, why: str = "") -> int:
    """``value`` as an int with lo <= value <= hi; ``TypeError`` if it is none, ``ValueError`` if out of range."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer; got {shown(value)} ({type(value).__name__})")
    result = int(value)
    if not lo <= result <= hi:
        limits = f"at least {lo}" if hi == math.inf else f"between {lo} and {hi}"
        raise ValueError(f"{name} must be {limits}{f' ({why})' if why else ''}; got {shown(value)}")
    return result


def real(name: str, value: Any, lo: float = -math.inf, hi: float = math.inf, infinite: bool = False) -> float:
    """``value`` as a float with lo <= value <= hi, finite unless ``infinite``; ``TypeError`` or ``ValueError`` otherwise."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number; got {shown(value)} ({type(value).__name__})")
    try:
        result = float(value)
    except OverflowError:  # an integer beyond the range of floats
        result, infinite = math.inf, False
    if not (lo <= result <= hi and (infinite or math.isfinite(result))):
        kind = "number" if infinite else "finite number"
        raise ValueError(f"{name} must be a {kind} in [{lo:g}, {hi:g}]; got {shown(value)}")
    return result


def inside(name: str, value: Any, hi: float = 1.0) -> float:
    """``value`` as a float with 0 < value < hi; ``TypeError`` or ``ValueError`` otherwise."""
    result = real(name, value)
    if not 0 < result < hi:
        raise ValueError(f"{name} must lie strictly between 0 and {hi:g}; got {shown(value)}")
    return result


def choice(name: str, value: Any, allowed: Collection[str]) -> str:
    """``value`` if it is one of ``allowed``, else ``ValueError``, which names the closest one."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(
            f"{name} must be one of {', '.join(allowed)}; got {shown(value)}{nearest(value, allowed)}"
        )
    return str(value)


def nearest(value: Any, allowed: Iterable[str]) -> str:
    """The end of a message about an unknown name: "; did you mean ...?" with the closest one that holds it ("noise":
    "gradient-noise"), else with the closest one, or nothing if none is close. Case, "-" and "_" do not count."""

    def plain(name: str) -> str:
        return name.lower().replace("_", "-")

    if not isinstance(value, str):
        return ""
    word, names = plain(value), {plain(name): str(name) for name in allowed}
    holding = [name for name in names if len(word) > 2 and word in name]
    close = difflib.get_close_matches(word, holding, 1, 0.0) or difflib.get_close_matches(word, names, 1)
    return f"; did you mean {names[close[0]]!r}?" if close else ""


def several(name: str, value: Any) -> tuple[Any, ...]:
    """``value`` as a tuple; ``TypeError`` for a single one, such as a text, whose letters are nothing that was meant."""
    if (
        isinstance(value, Iterable)
        and not isinstance(value, str | bytes)
        and getattr(value, "ndim", None) != 0
    ):
        return tuple(value)
    raise TypeError(f"{name} must be several values; got {shown(value)} ({type(value).__name__})")


def array(name: str, value: Any, shape: tuple[int | None, ...]) -> Array:
    """``value`` as a finite float64 array of the given shape (None: any positive size). Copies.

    Tensors of any library are taken off their graph and device first (by their own ``detach`` and ``cpu``).
    """
    parts = value if isinstance(value, (list, tuple)) else (value,)
    hidden = sum(np.ma.count_masked(part) for part in parts if isinstance(part, np.ma.MaskedArray))
    if hidden:
        raise ValueError(f"{name} must have no masked entries; got {hidden} that are")
    try:
        raw = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"{name} must be an array of real numbers; got {type(value).__name__}") from error
    if raw.dtype.kind not in "iuf":
        what = type(value).__name__ if raw.ndim == 0 else f"values of type {raw.dtype}"
        raise TypeError(f"{name} must be an array of real numbers; got {what}")
    result = np.array(raw, dtype=float)
    fits = result.ndim == len(shape) and all(
        size > 0 and wanted in (None, size) for size, wanted in zip(result.shape, shape, strict=False)
    )
    if not fits:
        wanted = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
        raise ValueError(f"{name} must have shape {wanted}; got {result.shape}")
    if not np.all(np.isfinite(result)):
        raise ValueError(
            f"{name} must be finite; got {np.count_nonzero(~np.isfinite(result))} values that are not"
        )
    return result


def groups(value: Any, size: int) -> tuple[int, ...]:
    """A partition of ``size`` features into groups as a tuple of non-negative integers; empty means one group."""
    try:
        labels = tuple(value)
    except TypeError as error:
        raise TypeError(f"groups must be a sequence of integers; got {shown(value)}") from error
    if labels and len(labels) != size:
        raise ValueError(f"groups must have B = {size} entries; got {len(labels)}")
    return tuple(integer("groups", g, 0) for g in labels) or (0,) * size


def instance(name: str, value: Any, wanted: type, example: str = "") -> None:
    """``TypeError`` unless ``value`` is an instance of ``wanted``."""
    if not isinstance(value, wanted):
        hint = f" such as {example}" if example else ""
        raise TypeError(
            f"{name} must be a {wanted.__name__}{hint}; got {shown(value)} ({type(value).__name__})"
        )
