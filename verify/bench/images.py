"""Gradient inversion against its public implementations, on the same gradients, from the same starts, and against itself
with other convolutions."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bounds import NoDefense, checks
from verify.bench.peers import Loaded, Peer, loaded
from verify.bench.shared import THREADS, BenchResult, medians, threads
from verify.origin import own

if TYPE_CHECKING:
    import torch

    from attack.image.matching import ImageMatching

#: Embedded pictures and batch sizes; a peer without pictures of one channel has those with colours.
CASES = tuple(
    (data, B) for data in ("patches-16-grey", "patches-16-colour", "patches-32-colour") for B in (1, 2)
)

#: Decibels by which ours may be worse in the mean: signs amplify what differs in the last digit, so that descents from
#: one start part, and single cases differ by decibels in either direction.
WORSE = 0.5

SEEDS = (0, 1)


def small_pictures(repeats: int = 5, iterations: int = 40) -> BenchResult:
    """Time of gradient matching on two pictures of 16 x 16, over its time with oneDNN's convolutions, which ``invert`` does
    without for so few pixels."""
    own("attack")
    from attack.image import inversion, matching
    from verify.images.catalogue import CONV
    from verify.images.point import ImagePoint
    from verify.images.trial import observed

    attack = matching.ImageMatching(iterations=iterations)
    point = ImagePoint("patches-16-grey", 2, CONV, NoDefense(), "", attack)
    with threads(THREADS):
        _, labels, seen = observed(point, 0, "cpu")
        ours_s, with_s = medians(
            repeats,
            lambda: inversion.invert(seen, attack, labels=labels),
            lambda: matching.invert(seen, attack, labels=labels, seed=2, progress=None),
        )
    return BenchResult(
        "small pictures", f"time of {iterations} iterations on 2 pictures of 16 x 16 over that with oneDNN",
        ours_s / with_s, 1.0, at_least=False, threads=THREADS, repeats=repeats,
        details={"ours_s": ours_s, "with_onednn_s": with_s},
    )  # fmt: skip


@dataclass(frozen=True)
class Compared:
    """One case: seconds of all iterations, and mean PSNR in dB, of both."""

    name: str
    ours_s: float
    peer_s: float
    ours: float
    peer: float

    @property
    def words(self) -> str:
        return f"ours {self.ours:.2f} dB, {self.ours_s:.3g} s; peer {self.peer:.2f} dB, {self.peer_s:.3g} s"


def against_peers(
    checkouts: Sequence[Path],
    iterations: int = 300,
    cases: Sequence[tuple[str, int]] = CASES,
    seeds: Sequence[int] = SEEDS,
) -> tuple[BenchResult, ...]:
    """Of each peer whose checkout is given: time of ours over time of theirs at as many iterations (the median over cases),
    and by how many dB the PSNR of ours is the larger (the mean).

    Both minimise the same: cosine, Adam on signs with .1 and milestones, pixels in [0, 1], the peer's weight of total
    variation and its choice of the iterate; labels told, the same start, float32, the untrained network of the tables.
    (The peer breaching counts differences across the border, to zero, in its total variation.)

    Raises ``ValueError`` or ``TypeError`` on bad input, before the first iteration.
    """
    checks.integer("iterations", iterations, 1)
    own("attack")
    from attack.image.picture_set import PICTURE_SETS

    for data, B in cases:
        checks.choice("data", data, tuple(PICTURE_SETS))
        checks.integer("B", B, 1)
    for seed in seeds:
        checks.integer("seeds", seed, 0)
    if not seeds:
        raise ValueError("seeds must hold at least one seed; got none")
    found = [loaded(checkout) for checkout in checkouts]
    fits = [[(data, B) for data, B in cases if one.peer.grey or not data.endswith("grey")] for one in found]
    for one, fitting in zip(found, fits, strict=True):
        if not fitting:
            told = ", ".join(dict.fromkeys(data for data, _ in cases)) or "none"
            raise ValueError(f"cases must hold pictures that {one.peer.name} takes; got {told}")
    results: list[BenchResult] = []
    for one, fitting in zip(found, fits, strict=True):
        with threads(THREADS):
            _compared(one, *fitting[0], seed=0, iterations=2)  # the first call of each is not counted
            compared = [
                _compared(one, *case, seed=s, iterations=iterations) for case in fitting for s in seeds
            ]
        results += _results(one.peer, compared, iterations)
    return tuple(results)


def _compared(one: Loaded, data: str, B: int, *, seed: int, iterations: int) -> Compared:
    own("attack")
    from attack.image.inversion import invert
    from attack.image.metrics import image_errors
    from attack.image.pictures import Pixels
    from verify.images.catalogue import CONV
    from verify.images.point import ImagePoint
    from verify.images.trial import observed

    attack = like(one.peer, iterations)
    point = ImagePoint(data, B, CONV, NoDefense(), "", attack)
    private, labels, observation = observed(point, seed, "cpu")
    start = Pixels(observation.network, B).start(seed, 0)[0]
    ours, ours_s = _timed(lambda: invert(observation, attack, labels=labels, seed=seed).images)
    theirs, peer_s = _timed(lambda: one.pictures(observation, labels, start, iterations))
    psnr = [image_errors(private, images).mean_psnr for images in (ours, theirs)]
    return Compared(f"{data}, B = {B}, seed {seed}", ours_s, peer_s, *psnr)


def like(peer: Peer, iterations: int) -> ImageMatching:
    """Ours with the settings of the peer."""
    from attack.image.matching import ImageMatching

    return ImageMatching(tv=peer.tv, keep=peer.keep, iterations=iterations, informed=False)


def _timed(call: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, float]:
    begin = time.perf_counter()
    result = call()
    return result, time.perf_counter() - begin


def _results(peer: Peer, compared: Sequence[Compared], iterations: int) -> tuple[BenchResult, ...]:
    ratios = [c.ours_s / c.peer_s for c in compared]
    gains = [c.ours - c.peer for c in compared]
    about = f"{iterations} iterations, {len(compared)} gradients of untrained networks, tv {peer.tv:g}"
    speed: dict[str, float | str] = {
        "ratios": f"{min(ratios):.3g} to {max(ratios):.3g}",
        "ours_s": sum(c.ours_s for c in compared),
        "peer_s": sum(c.peer_s for c in compared),
    }
    quality: dict[str, float | str] = {
        "ours_db": statistics.mean(c.ours for c in compared),
        "peer_db": statistics.mean(c.peer for c in compared),
        "better": f"{sum(gain > 0 for gain in gains)} of {len(gains)}",
    }
    return (
        BenchResult(
            f"time, {peer.name}", f"time of gradient matching over time of {peer.name}, {about}",
            statistics.median(ratios), 1.0, at_least=False, threads=THREADS, repeats=len(compared), details=speed,
        ),
        BenchResult(
            f"PSNR, {peer.name}", f"mean PSNR in dB of gradient matching less that of {peer.name}, {about}",
            statistics.mean(gains), -WORSE, at_least=True, threads=THREADS, repeats=len(compared),
            details=quality | {c.name: c.words for c in compared},
        ),
    )  # fmt: skip
