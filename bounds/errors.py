"""What a bound raises where it says nothing: facts about the theory, not bad input."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType


class UnsupportedBound(Exception):
    """Not proved (or not defined) here: a fact about the theory, not bad input. ``details``: named parts that are known
    all the same."""

    def __init__(self, why: str = "", details: Mapping[str, float] = MappingProxyType({})) -> None:
        super().__init__(why)
        self.details = details


class TrivialBound(UnsupportedBound):
    """Proved, but no better than what holds of anything: carries that value, and the named parts that are known."""

    def __init__(self, value: float, why: str, details: Mapping[str, float]) -> None:
        super().__init__(why, details)
        self.value = value
