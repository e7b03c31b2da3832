"""One trial on a batch of pictures as it is kept: numbers of every picture, and the pictures themselves in eight bits."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Container, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bounds import checks
from verify.images.point import ImagePoint
from verify.measure.conditions import Conditions
from verify.measure.keyed import keyed_ledger, read_keyed
from verify.measure.ledger import Ledger
from verify.measure.lines import RecordError, json_object

VERSION = 1

#: Of every picture, in the order of the private ones.
QUANTITIES = ("mse", "psnr", "ssim", "feature_error")

_FIELDS = {
    "schema_version",
    "point",
    "seed",
    "trial",
    "reason",
    "values",
    "pictures",
    "shape",
    "told",
    "conditions",
}

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """point: as ``ImagePoint.to_dict``; values: ``QUANTITIES`` of every picture; reason: why there is no result, and then
    these are of grey pictures, which any server can draw; empty where there is one. pictures (2, B, C, H, W) uint8: private
    ones, and what was found, matched to them (kept for the first trials only, else None). told: the attack's own
    diagnostics."""

    point: Mapping[str, Any]
    seed: int
    trial: int
    reason: str
    values: Mapping[str, tuple[float, ...]]
    pictures: Bytes | None
    told: Mapping[str, Any]
    conditions: Conditions | None

    def __post_init__(self) -> None:
        checks.integer("seed", self.seed, 0)
        checks.integer("trial", self.trial, 0)
        if self.values.keys() != set(QUANTITIES):
            raise ValueError(f"values must be {', '.join(QUANTITIES)}; got {', '.join(self.values)}")
        B = checks.integer("B", self.point["B"], 1)
        for name, numbers in self.values.items():
            if len(numbers) != B:
                raise ValueError(f"{name} must be {B} numbers, one for each picture; got {len(numbers)}")
            for number in numbers:
                checks.real(name, number)

    @property
    def failed(self) -> bool:
        """Is there no result?"""
        return bool(self.reason)

    @property
    def key(self) -> str:
        """That of its point."""
        return json.dumps(dict(self.point), sort_keys=True)

    def to_dict(self) -> dict[str, Any]:
        """The line."""
        kept = None if self.pictures is None else _packed(self.pictures)
        return {
            "schema_version": VERSION,
            "point": dict(self.point),
            "seed": self.seed,
            "trial": self.trial,
            "reason": self.reason,
            "values": {name: [float(f"{v:.6g}") for v in numbers] for name, numbers in self.values.items()},
            "pictures": kept,
            "shape": None if self.pictures is None else list(self.pictures.shape),
            "told": dict(self.told),
            "conditions": None if self.conditions is None else self.conditions.to_dict(),
        }

    @staticmethod
    def from_dict(raw: Any, where: str) -> ImageRecord:
        """Inverse of ``to_dict``; ``RecordError`` for anything else."""
        try:
            values = json_object(raw, where, _FIELDS)
            if values["schema_version"] != VERSION:
                raise ValueError(f"schema_version must be {VERSION}; got {values['schema_version']!r}")
            numbers = json_object(values["values"], "values")
            return ImageRecord(
                point=json_object(values["point"], "point"),
                seed=values["seed"],
                trial=values["trial"],
                reason=str(values["reason"]),
                values={name: tuple(checks.real(name, v) for v in each) for name, each in numbers.items()},
                pictures=None
                if values["pictures"] is None
                else _unpacked(values["pictures"], values["shape"], values["point"]["B"]),
                told=json_object(values["told"], "told"),
                conditions=None
                if values["conditions"] is None
                else Conditions(**json_object(values["conditions"], "conditions")),
            )
        except (KeyError, TypeError, ValueError, OverflowError, zlib.error) as error:
            raise RecordError(f"{where}: {error}") from None


def read_image_records(path: Path) -> list[ImageRecord]:
    """Every record of a file. ``RecordError`` for a file that holds anything else, or a trial twice."""
    return read_keyed(path, ImageRecord.from_dict)


def image_ledger(path: Path, seed: int, tasks: Container[Hashable]) -> Ledger[ImageRecord]:
    """The book of a run into ``path`` (NAME.jsonl)."""
    return keyed_ledger(
        path,
        seed,
        tasks,
        read=read_image_records,
        words=lambda r: f"of {r.point['rival']} under {r.point['defense']}",
    )


def eight_bits(pictures: Any) -> Bytes:
    """Pictures, a tensor of pixels in [0, 1], in whole steps of 1/255."""
    return np.asarray((pictures.detach().cpu().double().clamp(0, 1) * 255).round().numpy(), dtype=np.uint8)


def point_keys(points: Sequence[ImagePoint]) -> dict[str, ImagePoint]:
    """The points by their key. ``ValueError`` if two are alike."""
    found = {point.key: point for point in points}
    if len(found) < len(points):
        raise ValueError("points must be different; got one of them twice")
    return found


def _packed(pictures: Bytes) -> str:
    return base64.b85encode(zlib.compress(pictures.tobytes(), 9)).decode("ascii")


def _unpacked(text: Any, shape: Any, B: int) -> Bytes:
    if not isinstance(shape, list) or len(shape) != 5 or shape[:2] != [2, B]:
        raise ValueError(f"shape must be [2, {B}, C, H, W]; got {shape!r}")
    sides = tuple(checks.integer("shape", side, 1, 4096) for side in shape)
    size = int(np.prod(sides))
    opened = zlib.decompressobj()
    data = opened.decompress(base64.b85decode(text), size + 1)
    if len(data) != size or not opened.eof:
        raise ValueError(
            f"pictures must hold {size} bytes, whole; got {'more' if len(data) > size else len(data)}"
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(sides)
