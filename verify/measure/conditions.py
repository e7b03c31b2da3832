"""What a trial's numbers may depend on beside its point and its seed."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any

import numpy as np

from bounds import checks
from verify.origin import DISTRIBUTION, own


class OtherConditionsWarning(UserWarning):
    """A run goes on under other conditions than those under which it was begun."""


@dataclass(frozen=True)
class Conditions:
    """Where a trial ran: type of ``device`` ("cpu", "cuda", ...), number of ``threads``, ``versions`` of what computes.

    Raises ``ValueError`` or ``TypeError`` where these are no words and numbers.
    """

    device: str
    threads: int
    versions: Mapping[str, str]

    def __post_init__(self) -> None:
        checks.integer("threads", self.threads, 1)
        checks.instance("device", self.device, str)
        checks.instance("versions", self.versions, Mapping)
        if not all(isinstance(word, str) for pair in self.versions.items() for word in pair):
            raise TypeError(f"versions must be words by word; got {dict(self.versions)}")

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values, the parameters of ``Conditions``."""
        versions = dict(sorted(self.versions.items()))
        return {"device": self.device, "threads": self.threads, "versions": versions}

    def words(self) -> dict[str, str]:
        """Every part by name, as text."""
        return {"device": self.device, "threads": str(self.threads), **self.versions}


def present(device: str = "cpu", threads: int = 1) -> Conditions:
    """The conditions here and now."""
    return Conditions(device, threads, versions())


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    import torch

    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        DISTRIBUTION: _installed(),
    }


@cache
def _installed() -> str:
    """Read from the installation's files once: that takes longer than a small trial's passes over its weights."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "not installed"


def differences(recorded: Iterable[Conditions], now: Conditions) -> list[str]:
    """Where any of the recorded conditions differs from ``now``, in words: "threads 2, now 1"."""
    here = now.words()
    found = {
        (name, there.get(name, "none"), here.get(name, "none"))
        for there in (c.words() for c in recorded)
        for name in there.keys() | here.keys()
    }
    return [f"{name} {then}, now {new}" for name, then, new in sorted(found) if then != new]


def resolved(device: str) -> str:
    """The name of an available device; "auto" is the accelerator where there is one. ``ValueError`` if it does not exist."""
    own("attack")
    from attack.device import resolve_device

    return str(resolve_device(device))


@contextmanager
def limited(threads: int | None) -> Iterator[int]:
    """Gives torch and the linear algebra under NumPy so many threads (None: as they are), and says how many those are.

    Sums in another order have other last bits: numbers that are to be the same everywhere need one number of threads.
    """
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    if threads is None:
        yield before
        return
    with threadpool_limits(checks.integer("threads", threads, 1)):
        torch.set_num_threads(threads)
        try:
            yield threads
        finally:
            torch.set_num_threads(before)
