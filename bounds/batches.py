"""Which of several batches, of clients or of local steps, each feature of an observation belongs to."""

from __future__ import annotations

from collections.abc import Sequence


def assigned(groups: Sequence[int], count: int, name: str) -> tuple[int, ...]:
    """The batch, 0 to ``count`` - 1, of each feature: by ``groups`` in increasing order, or in turn where there is one group
    only. ``name``: what the batches are, for messages.

    Raises ``ValueError`` for more groups than batches.
    """
    distinct = sorted(set(groups))
    if len(distinct) == 1:
        return tuple(i % count for i in range(len(groups)))
    if len(distinct) > count:
        raise ValueError(f"groups must be at most {name} = {count}; got {len(distinct)}")
    return tuple(distinct.index(g) for g in groups)
