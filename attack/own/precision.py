"""To how many digits the entries of a gradient are known, which their own values tell, whatever type holds them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from attack.own.units import root_mean_square

#: Types that floats are rounded to.
_TYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)

#: Entries that are looked at first: most arrays show with few that they are not of a coarse type.
FIRST = 4096


@dataclass(frozen=True)
class Precision:
    """name: of the type that holds every entry with the largest error. An entry is off by at most the fraction ``unit`` of
    it, and by ``least`` where it comes near the type's smallest numbers; ``least`` is over the entries' root mean square."""

    name: str
    unit: float
    least: float

    @property
    def rounding(self) -> float:
        """The error of the entries over their root mean square, at most."""
        return self.unit + self.least

    @staticmethod
    def of(values: torch.Tensor, *others: torch.Tensor | None) -> Precision:
        """Of the entries of a float32 or float64 tensor, in a type that holds those of the others too."""
        arrays = [array.reshape(-1) for array in (values, *others) if array is not None]
        kinds = [
            kind
            for kind in _TYPES
            if all(_holds(kind, array[:FIRST]) for array in arrays) and all(_holds(kind, a) for a in arrays)
        ]
        size = root_mean_square(values)
        return max((_of(kind, size) for kind in kinds), key=lambda p: p.rounding)


def _of(kind: torch.dtype, size: float) -> Precision:
    info = torch.finfo(kind)
    least = info.tiny * info.eps / 2 / size if size else 0.0
    return Precision(str(kind).removeprefix("torch."), info.eps / 2, least)


def _holds(kind: torch.dtype, values: torch.Tensor) -> bool:
    return torch.equal(values.to(kind).to(values.dtype), values)
