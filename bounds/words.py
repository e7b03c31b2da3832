"""Words for numbers, in messages and tables."""

from __future__ import annotations


def how_many(number: int, noun: str) -> str:
    """``number`` of what ``noun`` is one of: "1 trial", "0 trials"."""
    return f"{number} {noun if number == 1 else f'{noun}s'}"
