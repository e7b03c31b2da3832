"""Seeds of one trial, one for each purpose."""

from __future__ import annotations

import numpy as np

from verify.measure.point import Point

PURPOSES = ("network", "observation", "attack")


def trial_seeds(point: Point, trial: int, seed: int) -> dict[str, int]:
    """Independent seeds for the purposes of one trial, from the experiment's seed, the point and the trial's
    number. Below 2^53, so that every reader of JSON keeps them exactly."""
    state = np.random.SeedSequence([seed, int(point.key, 16), trial]).generate_state(len(PURPOSES), np.uint64)
    return {"experiment": seed} | {
        name: int(s >> np.uint64(11)) for name, s in zip(PURPOSES, state, strict=True)
    }
