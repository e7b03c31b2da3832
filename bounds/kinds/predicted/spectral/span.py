"""What the spectral law says of the tensor attack's span: how near it comes, and from which width on it is found at all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bounds.arrays import Array
from bounds.defense import Defense
from bounds.errors import UnsupportedBound
from bounds.estimator import TensorAttack, moment_orders
from bounds.kinds.predicted.decisions import REACH
from bounds.kinds.predicted.spectral.law import FoundSpan, found_span, weights
from bounds.kinds.predicted.spectral.preprocessing import Preprocessing, preprocessing
from bounds.kinds.predicted.spectral.sample import DRAWS, Sample, sample
from bounds.setting import LARGEST_SIZE, Setting

#: The fewest directions outside the span for which a law of large dimension is stated.
SMALLEST = 20

#: Quasi-random neurons for a threshold, which asks for many spectra, and how near its logarithm is found.
_COARSE, _NEAR = 2**13, 0.01

#: Neurons for each dimension at which a threshold is looked for first.
_START = 64


@dataclass(frozen=True)
class Thresholds:
    """Widths m: the span is lost below ``span``, the attack gives no result below ``result``; infinite where that is so at
    every width up to ``LARGEST_SIZE``."""

    span: float
    result: float


@dataclass(frozen=True, eq=False)
class SpectralLaw:
    """The law for an attack on a defense's observation, at the width of ``setting`` and at others.

    Raises ``UnsupportedBound`` for odd activations, whose span comes from another moment, for fewer than ``SMALLEST``
    directions outside the span, and (when asked) where what is seen of a neuron cannot be drawn.
    """

    defense: Defense
    setting: Setting
    attack: TensorAttack

    def __post_init__(self) -> None:
        outside = self.setting.d - self.setting.B
        if outside < SMALLEST:
            raise UnsupportedBound(
                f"not computed: the spectral law is of many directions outside the span; got d - B = {outside}, not "
                f"{SMALLEST}"
            )
        if moment_orders(self.setting.activation)[0] == 1:
            raise UnsupportedBound("not proved: the spectral law of an odd activation's third moment")

    @cached_property
    def _preprocessing(self) -> Preprocessing:
        seen, setting = sample(self.defense, self.setting), self.setting
        return preprocessing(
            seen.seen,
            np.sort(setting.norms),
            setting.activation,
            seen.density,
            residualized=self.attack.residualized,
        )

    def _response(self, seen: Sample, m: int) -> Array:
        """What the attack makes its weights of."""
        if self.attack.preprocessing == "none":
            return seen.seen
        curve = self._preprocessing.best(self.setting.d - self.setting.B, m)
        return seen.seen if curve is None else curve(seen.seen)

    def found(self, m: int | None = None, draws: int = DRAWS) -> FoundSpan:
        """The span that the attack finds with ``m`` neurons (those of the setting)."""
        setting = self.setting if m is None else self.setting.with_width(m)
        seen = sample(self.defense, setting, draws)
        response = self._response(seen, setting.m)
        of = weights(seen, response, self.attack.residualized, setting.d - setting.B, setting.m)
        return found_span(of, setting.directions, setting.m)

    @cached_property
    def thresholds(self) -> Thresholds:
        """The largest widths at which the span is lost and at which there is no result: to a per cent or two for B = 2, to 5
        for B = 8, as quasi-random neurons tell."""
        known: dict[int, FoundSpan] = {}

        def at(logarithm: float) -> FoundSpan:
            m = min(round(math.exp(logarithm)), LARGEST_SIZE)
            if m not in known:
                known[m] = self.found(m, _COARSE)
            return known[m]

        def crossing(wrong: str) -> float:
            least, most, step = math.log(self.setting.B + 2), math.log(LARGEST_SIZE), math.log(2)
            high = min(math.log(_START * self.setting.d), most)
            while getattr(at(high), wrong):
                if high == most:
                    return math.inf
                high = min(high + 2 * step, most)
            # from above: with very few neurons noise may look like a direction of the span
            low = high - step
            while low > least and not getattr(at(low), wrong):
                low, high = low - step, low
            while high - low > _NEAR:
                middle = (low + high) / 2
                low, high = (middle, high) if getattr(at(middle), wrong) else (low, middle)
            return math.exp(high)

        return Thresholds(crossing("lost"), crossing("unreported"))


def spectral_error(
    defense: Defense, setting: Setting, attack: TensorAttack, random: float, noise: float
) -> tuple[float, dict[str, float]] | None:
    """The mean square error that the span leaves and its parts by name, where first order does not say it: None where it
    does (its ``random`` error at most ``REACH`` and its ``noise`` over signal below 1, entries not preprocessed), or where
    there is no spectral law to say more.

    Raises ``UnsupportedBound`` where by that law the attack gives no result, and says from which width on it does: in words,
    and in the details ``span_above`` (at most 1: the span is lost), ``span_gap``, ``span_from`` and ``result_from``.
    """
    if attack.preprocessing == "none" and random <= REACH and noise < 1:
        return None
    try:
        law = SpectralLaw(defense, setting, attack)
        found = law.found()
    except UnsupportedBound:
        if attack.preprocessing == "none":
            return None
        raise
    if found.unreported:
        widths = {"span_from": law.thresholds.span, "result_from": law.thresholds.result}
        raise UnsupportedBound(_lost(law, found), {"span_above": found.above, "span_gap": found.gap} | widths)
    square = float(np.mean(setting.norms**2 * found.turned))
    return square, {"orthogonal": math.sqrt(square), "span_gap": found.gap, "first_order": random}


def _lost(law: SpectralLaw, found: FoundSpan) -> str:
    B, found_from = law.setting.B, law.thresholds
    what = "the span is lost" if found.lost else "the span hardly stands out of the noise"
    if math.isinf(found_from.result):
        return f"{what}: the weakest of {B} directions is in the noise at every width that is computed with"
    return (
        f"{what}: by the spectral law the weakest of {B} directions is {found.gap:.2f} times the edge of the noise; it is "
        f"lost below m = {found_from.span:.3g}, and the attack gives no result below m = {found_from.result:.3g}"
    )
