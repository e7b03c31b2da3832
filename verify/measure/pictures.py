"""Reconstructions of real pictures at growing widths, and the file that keeps them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bounds import DEFENSES, Defense, NoDefense, Setting, TensorAttack, checks, evaluate
from bounds.estimator import moment_orders
from verify.measure.record import RecordError, finite_json
from verify.measure.trial import versions
from verify.origin import own

if TYPE_CHECKING:
    from attack.image.datasets import ImageBatch


FloatArray = NDArray[np.float64]


PICTURES_VERSION = 1


#: Pictures are kept in the file of numbers while they are fewer numbers than this, originals included.
KEPT_NUMBERS = 60_000


@dataclass(frozen=True, eq=False)
class PictureRow:
    """One attack on a batch of pictures by the server of a network of width ``m``, and how to run it again.

    ``features`` (B, D): the reconstruction, row i matched to picture i of the batch; None if the attack
    failed or if the file it was read from does not keep pictures. ``rmse`` is the matched error R, None
    exactly if the attack failed; ``reason`` then says why, and is empty otherwise. ``predicted`` is PREDICTED
    for R, None where theory has none. ``warnings`` are the attack's own. Raises ``ValueError`` if the fields
    contradict one another.
    """

    m: int
    rmse: float | None
    predicted: float | None
    reason: str
    warnings: tuple[str, ...]
    seed: int
    activation: str
    defense: Defense
    attack: TensorAttack
    features: FloatArray | None

    def __post_init__(self) -> None:
        checks.integer("m", self.m, 1)
        checks.integer("seed", self.seed, 0)
        for name in ("rmse", "predicted"):
            if getattr(self, name) is not None:
                checks.real(name, getattr(self, name), 0.0)
        if self.failed != (self.rmse is None) or (self.failed and self.features is not None):
            raise ValueError(
                f"a row must have either a reason or an error and pictures; got reason {self.reason!r}, "
                f"rmse {self.rmse}, {'no ' if self.features is None else ''}features"
            )

    @property
    def failed(self) -> bool:
        return bool(self.reason)

    @property
    def label(self) -> str:
        """ "m = 100 000, R = 0.12 (predicted 0.11)" """
        theory = "no prediction" if self.predicted is None else f"predicted {self.predicted:.2g}"
        outcome = "failed" if self.rmse is None else f"R = {self.rmse:.2g}"
        return f"m = {_spaced(self.m)}, {outcome} ({theory})"


def reconstruct_pictures(
    batch: ImageBatch,
    widths: Iterable[int],
    seed: int,
    activation: str = "relu",
    defense: Defense | None = None,
    attack: TensorAttack | None = None,
    device: str = "auto",
    progress: Callable[[PictureRow], None] | None = None,
) -> list[PictureRow]:
    """Attack the batch once at each of ``widths``, in their order.

    One seed serves weights, noise and starts, whose streams are separate; a wider network has the neurons of
    a narrower one and more. ``defense`` and ``attack`` default to none and ``TensorAttack()``; ``progress``
    is called with each row as it is finished. An attack that reports that it has no result gives a row that
    says why. Raises ``ValueError`` or ``TypeError`` on bad input, before the first attack.
    """
    own("attack")
    import torch

    from attack import ReconstructionError, TwoLayerNet, matched_error, observe, tensor_attack

    defense = NoDefense() if defense is None else defense
    attack = TensorAttack() if attack is None else attack
    if not isinstance(attack, TensorAttack):
        raise TypeError(f"attack must be a TensorAttack; got {attack!r}")
    checks.integer("seed", seed, 0)
    from attack.device import resolve_device

    place = resolve_device(device)
    settings = [Setting.from_features(batch.features, batch.labels, m, activation) for m in widths]
    if not settings:
        raise ValueError("widths must hold at least one width; got none")
    moment_orders(settings[0].activation)
    predictions = [evaluate(defense, setting, attack).predicted for setting in settings]

    X = torch.from_numpy(batch.features)
    rows = []
    for setting, predicted in zip(settings, predictions, strict=True):
        net = TwoLayerNet.sample(setting.d, setting.m, setting.activation, seed, device=place)
        seen = observe(defense, net, X, batch.labels, seed=seed)
        rmse, features, reason = None, None, ""
        warnings: tuple[str, ...] = ()
        try:
            found = tensor_attack(seen, net, batch_size=setting.B, attack=attack, seed=seed)
        except ReconstructionError as error:
            reason = str(error) or type(error).__name__
        else:
            match = matched_error(X, found.features)
            rmse, warnings = match.rmse, found.diagnostics.warnings
            features = found.features.cpu().numpy()[list(match.permutation)]
        row = PictureRow(
            m=setting.m,
            rmse=rmse,
            predicted=predicted,
            reason=reason,
            warnings=warnings,
            seed=seed,
            activation=setting.activation.name,
            defense=defense,
            attack=attack,
            features=features,
        )
        rows.append(row)
        if progress is not None:
            progress(row)
    return rows


def _spaced(number: int) -> str:
    return f"{number:,}".replace(",", " ")


# --- the file of numbers ------------------------------------------------------------------------------------


def save_pictures(path: str | Path, batch: ImageBatch, rows: Sequence[PictureRow]) -> None:
    """Write batch and rows as strict JSON, from which ``load_pictures`` and ``draw_pictures`` make the figure
    again. Originals and reconstructions are kept as float32, or not at all from ``KEPT_NUMBERS`` numbers on.

    The file is replaced as a whole: it never holds half a record.
    """
    drawn = [row for row in rows if row.features is not None]
    kept = batch.features.size * (1 + len(drawn)) < KEPT_NUMBERS
    raw = {
        "schema_version": PICTURES_VERSION,
        "versions": versions(),
        "batch": {
            "name": batch.name,
            "shape": list(batch.shape),
            "mean": batch.mean.reshape(batch.shape[0], -1)[:, 0].tolist(),  # constant within a channel
            "labels": batch.labels.tolist(),
            "classes": batch.classes.tolist(),
            "indices": batch.indices.tolist(),
            "norms": batch.norms.tolist(),
            "features": _single(batch.features) if kept else None,
        },
        "rows": [
            {f.name: getattr(row, f.name) for f in fields(row)}
            | {
                "warnings": list(row.warnings),
                "defense": {"name": row.defense.name, **asdict(row.defense)},
                "attack": asdict(row.attack),
                "features": _single(row.features) if kept and row.features is not None else None,
            }
            for row in rows
        ],
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(finite_json(raw), allow_nan=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def load_pictures(path: str | Path) -> tuple[ImageBatch | None, list[PictureRow]]:
    """Inverse of ``save_pictures``, features to the precision of float32. The batch is None, and so are the
    rows' features, if the file keeps no pictures.

    Raises ``RecordError``, a ``ValueError``, naming the file and what is wrong with it, and ``OSError`` if it
    cannot be read.
    """
    path = Path(path)
    try:
        raw = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise RecordError(f"{path}: not strict JSON ({error})") from None
    try:
        return _parse(raw)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RecordError(f"{path}: {error}") from None


def _parse(raw: Any) -> tuple[ImageBatch | None, list[PictureRow]]:
    raw = _object("a file of pictures", raw, {"schema_version", "versions", "batch", "rows"}, versioned=True)
    stated = _object("batch", raw["batch"], _BATCH_FIELDS)
    shape = _counts("shape", stated["shape"], 3).tolist()
    if not isinstance(stated["labels"], list):
        raise TypeError(f"labels must be a list; got {stated['labels']!r}")
    size = len(stated["labels"])
    form = (size, math.prod(shape))
    labels, norms = (checks.array(name, stated[name], (size,)) for name in ("labels", "norms"))
    classes, indices = (_counts(name, stated[name], size) for name in ("classes", "indices"))
    mean = np.repeat(checks.array("mean", stated["mean"], (shape[0],)), shape[1] * shape[2])
    if not isinstance(stated["name"], str):
        raise TypeError(f"name must be a string; got {stated['name']!r}")
    if not isinstance(raw["rows"], list):
        raise TypeError(f"rows must be a list; got {type(raw['rows']).__name__}")
    rows = [_parse_row(row, form) for row in raw["rows"]]
    if stated["features"] is None:
        return None, rows
    own("attack")
    from attack.image.datasets import ImageBatch

    features = checks.array("features", stated["features"], form)
    name = stated["name"]
    batch = ImageBatch(features, labels, classes, (shape[0], shape[1], shape[2]), mean, norms, indices, name)
    return batch, rows


def _parse_row(raw: Any, form: tuple[int, int]) -> PictureRow:
    values = _object("a row", raw, {f.name for f in fields(PictureRow)})
    for name in ("reason", "activation"):
        if not isinstance(values[name], str):
            raise TypeError(f"{name} must be a string; got {values[name]!r}")
    if not isinstance(values["warnings"], list):
        raise TypeError(f"warnings must be a list; got {values['warnings']!r}")
    parameters = dict(_object("defense", values["defense"]))
    by_name = {cls.name: cls for cls in DEFENSES}
    defense = by_name[checks.choice("defense", parameters.pop("name", None), tuple(by_name))]
    found = values["features"]
    return PictureRow(
        **values
        | {
            "warnings": tuple(str(w) for w in values["warnings"]),
            "defense": defense(**parameters),
            "attack": TensorAttack(**_object("attack", values["attack"])),
            "features": None if found is None else checks.array("features", found, form),
        }
    )


_BATCH_FIELDS = {"name", "shape", "mean", "labels", "classes", "indices", "norms", "features"}


def _object(name: str, raw: Any, wanted: set[str] | None = None, versioned: bool = False) -> dict[str, Any]:
    """``raw`` as an object with exactly the ``wanted`` fields (None: any), of our version if so."""
    if not isinstance(raw, dict):
        raise TypeError(f"{name} must be a JSON object; got {type(raw).__name__}")
    # The version first: a file of another one may well have other fields.
    if versioned and raw.get("schema_version") != PICTURES_VERSION:
        raise ValueError(f"schema_version must be {PICTURES_VERSION}; got {raw.get('schema_version')!r}")
    if wanted is not None and raw.keys() != wanted:
        raise ValueError(f"{name}: fields missing or unknown: {', '.join(sorted(raw.keys() ^ wanted))}")
    return raw


def _counts(name: str, values: Any, size: int) -> NDArray[np.int64]:
    if not isinstance(values, list) or len(values) != size:
        raise ValueError(f"{name} must be a list of {size} integers; got {values!r}")
    return np.array([checks.integer(name, n, 0) for n in values], dtype=np.int64)


def _single(values: FloatArray) -> list[list[float]]:
    """As float32, in the fewest digits that give the same float32 back."""
    return [[float(str(v)) for v in row] for row in values.astype(np.float32)]


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not allowed")
