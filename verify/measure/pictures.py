"""Reconstructions of real pictures at growing widths, and the file that keeps them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bounds import AttackSpec, Defense, NoDefense, Setting, TensorAttack, checks, evaluate, serial
from bounds.estimator import moment_orders
from verify.measure.conditions import Conditions, limited, present, resolved
from verify.measure.failure import Failure, attempt
from verify.measure.ledger import Ledger, carry_out
from verify.measure.lines import LedgerError, RecordError, json_object, parse, read_lines, write_whole
from verify.measure.match import matched
from verify.measure.outcome import EXACT
from verify.measure.point import attack_words
from verify.measure.workers import in_turn
from verify.origin import own

if TYPE_CHECKING:
    from attack.image.datasets import ImageBatch


FloatArray = NDArray[np.float64]


#: Of the file of numbers. Version 1, whose rows do not say under which conditions they were made, is still read.
PICTURES_VERSION = 2


#: Pictures are kept in the file of numbers while they are fewer numbers than this, originals included.
KEPT_NUMBERS = 60_000


@dataclass(frozen=True, eq=False)
class PictureRow:
    """One attack on a batch of pictures by the server of a network of width ``m``, and how to run it again.

    ``features`` (B, D): the reconstruction, row i matched to picture i of the batch (and negated if that is nearer and the
    attack itself says that signs are unknown); None if the attack failed or if the file it was read from does not keep
    pictures. ``rmse`` is the matched error R, None
    exactly if the attack failed; ``reason`` then says why, and is empty otherwise. ``predicted`` is PREDICTED
    for R, None where theory has none. ``warnings`` are the attack's own; ``conditions`` those it ran under, None where they
    are not kept. Raises ``ValueError`` if the fields contradict one another.
    """

    m: int
    rmse: float | None
    predicted: float | None
    reason: str
    warnings: tuple[str, ...]
    seed: int
    activation: str
    defense: Defense
    attack: AttackSpec
    features: FloatArray | None
    conditions: Conditions | None = None

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
        return f"m = {_spaced(self.m)}, {self._outcome} ({theory})"

    @property
    def _outcome(self) -> str:
        if self.rmse is None:
            return "failed"
        return f"exact: R = {self.rmse:.1e}" if self.rmse < EXACT else f"R = {self.rmse:.2g}"


def row_labels(rows: Sequence[PictureRow]) -> list[str]:
    """The rows' labels, each with its attack before it where they are of several: as short as tells these apart."""
    attacks = dict.fromkeys(row.attack for row in rows)
    if len(attacks) == 1:
        return [row.label for row in rows]
    alike = len({attack.called for attack in attacks}) < len(attacks)
    return [f"{attack_words(row.attack) if alike else row.attack.called}, {row.label}" for row in rows]


def reconstruct_pictures(
    batch: ImageBatch,
    widths: Iterable[int],
    seed: int,
    activation: str = "relu",
    defense: Defense | None = None,
    attack: AttackSpec | Sequence[AttackSpec] | None = None,
    device: str = "auto",
    progress: Callable[[PictureRow], None] | None = None,
    *,
    path: Path | None = None,
    jobs: int = 1,
    threads: int | None = None,
) -> list[PictureRow]:
    """Attack the batch at each of ``widths``, in their order: once, or by each of several attacks, on the same gradient.

    One seed serves weights, noise and starts, whose streams are separate; a wider network has the neurons of
    a narrower one and more. ``defense`` and ``attack`` default to none and ``TensorAttack()``; of several attacks, no two
    alike, the rows of a width are in their order. ``progress`` is called with each row as it is finished. An attack that
    reports that it has no result gives a row that says why. jobs: processes; threads: of each attack (None: as many as
    torch has here).

    path: NAME.json, the file of numbers that is written at the end (``save_pictures``). Until then each finished row is at
    once on disk, as a line of NAME.jsonl, so that a run that was stopped or killed goes on where it was.

    Raises ``ValueError`` or ``TypeError`` on bad input, before the first attack and before anything is written;
    ``LedgerError`` if NAME.jsonl is what a run with other pictures or settings has left.
    """
    own("attack")
    import torch

    defense = NoDefense() if defense is None else defense
    attacks = _attacks(attack)
    checks.integer("seed", seed, 0)
    place = resolved(device)
    settings = [
        Setting.from_features(batch.features, batch.labels, m, activation)
        for m in checks.several("widths", widths)
    ]
    if not settings:
        raise ValueError("widths must hold at least one width; got none")
    if any(isinstance(attack, TensorAttack) for attack in attacks):
        moment_orders(settings[0].activation)
    used = torch.get_num_threads() if threads is None else checks.integer("threads", threads, 1)
    job = _Job(batch, seed, settings[0].activation.name, defense, attacks, place, used)
    tasks: dict[Hashable, Callable[[], PictureRow]] = {
        (s.m, attack): partial(_row, job, s.m, attack, evaluate(defense, s, attack).predicted)
        for s in settings
        for attack in attacks
    }

    def ordered(rows: Sequence[PictureRow]) -> list[PictureRow]:
        found = {(row.m, row.attack): row for row in rows}
        return [found[s.m, attack] for s in settings for attack in attacks]

    if path is None:
        rows = []
        for row in in_turn(tasks.values(), checks.integer("jobs", jobs, 1)):
            rows.append(row)
            if progress is not None:
                progress(row)
    else:
        book = _ledger(path.with_suffix(".jsonl"), job)
        rows = carry_out(
            book,
            tasks,
            job.conditions,
            jobs=jobs,
            told=progress,
            finish=lambda found: save_pictures(path, batch, ordered(found)),
        )
    return ordered(rows)


def _attacks(attack: AttackSpec | Sequence[AttackSpec] | None) -> tuple[AttackSpec, ...]:
    """Those that are asked for: at least one, no two alike."""
    if attack is None:
        return (TensorAttack(),)
    attacks = (attack,) if isinstance(attack, AttackSpec | str) else checks.several("attack", attack)
    for one in attacks:
        checks.instance("attack", one, AttackSpec, "TensorAttack()")
    if not attacks or len(set(attacks)) < len(attacks):
        raise ValueError(f"attack must be one, or several that differ; got {list(attacks)}")
    return attacks


@dataclass(frozen=True, eq=False)
class _Job:
    """What all rows of a run have in common; attacks: those of each width."""

    batch: ImageBatch
    seed: int
    activation: str
    defense: Defense
    attacks: tuple[AttackSpec, ...]
    device: str
    threads: int

    @property
    def conditions(self) -> Conditions:
        return present(self.device.partition(":")[0], self.threads)


def _row(job: _Job, m: int, attack: AttackSpec, predicted: float | None) -> PictureRow:
    """One attack on the batch."""
    import torch

    from attack import TwoLayerNet, observe, reconstruct

    batch, seed = job.batch, job.seed
    size, d = batch.features.shape
    X = torch.from_numpy(batch.features)
    with limited(job.threads):
        net = TwoLayerNet.sample(d, m, job.activation, seed, device=job.device)
        seen = observe(job.defense, net, X, batch.labels, seed=seed)
        found = attempt(lambda: reconstruct(seen, net, batch_size=size, attack=attack, seed=seed))
    rmse, features = None, None
    warnings: tuple[str, ...] = ()
    if not isinstance(found, Failure):
        match = matched(X, found)
        rmse, warnings = match.error.rmse, found.diagnostics.warnings
        features = match.features.numpy()
    return PictureRow(
        m=m,
        rmse=rmse,
        predicted=predicted,
        reason=found.reason if isinstance(found, Failure) else "",
        warnings=warnings,
        seed=seed,
        activation=job.activation,
        defense=job.defense,
        attack=attack,
        features=features,
        conditions=job.conditions,
    )


def _ledger(path: Path, job: _Job) -> Ledger[PictureRow]:
    """The book of one run over the widths."""
    digest, form = _digest(job.batch), (job.batch.features.shape[0], job.batch.features.shape[1])

    def read() -> Sequence[PictureRow]:
        rows: dict[tuple[int, AttackSpec], PictureRow] = {}
        for where, raw in read_lines(path) if path.exists() else ():
            try:
                line = _object(
                    "a line", raw, {"schema_version", "batch", "row"}, versions=(PICTURES_VERSION,)
                )
                row = _parse_row(line["row"], form)
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise RecordError(f"{where}: {error}") from None
            if line["batch"] != digest:
                raise LedgerError(f"{where}: of other pictures. {_REMOVE}")
            if (row.m, row.attack) in rows:
                raise RecordError(f"{where}: m = {row.m} is recorded twice for the {row.attack.called}")
            rows[row.m, row.attack] = row
        return list(rows.values())

    def identity(row: PictureRow) -> Hashable:
        settings = (row.seed, row.activation, row.defense)
        if settings != (job.seed, job.activation, job.defense) or row.attack not in job.attacks:
            raise LedgerError(f"{path}: m = {row.m} was attacked with other settings. {_REMOVE}")
        return row.m, row.attack

    def line(row: PictureRow) -> Mapping[str, Any]:
        pixels = None if row.features is None else row.features.tolist()
        return {"schema_version": PICTURES_VERSION, "batch": digest, "row": _written(row, pixels)}

    return Ledger(path.stem, path, read, line, identity, lambda row: row.conditions)


_REMOVE = "It is what a stopped run has left: remove it or use another directory"


def _digest(batch: ImageBatch) -> str:
    """A short hash of what the attack is made on."""
    whole = hashlib.sha256(np.ascontiguousarray(batch.features).tobytes())
    whole.update(np.ascontiguousarray(batch.labels).tobytes())
    return whole.hexdigest()[:16]


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
            _written(row, _single(row.features) if kept and row.features is not None else None)
            for row in rows
        ],
    }
    write_whole(path, json.dumps(serial.plain(raw), allow_nan=False) + "\n")


def _written(row: PictureRow, features: list[list[float]] | None) -> dict[str, Any]:
    """A row as JSON-able values."""
    return {f.name: getattr(row, f.name) for f in fields(row)} | {
        "warnings": list(row.warnings),
        "defense": serial.defense_to_dict(row.defense),
        "attack": serial.attack_to_dict(row.attack),
        "features": features,
        "conditions": None if row.conditions is None else row.conditions.to_dict(),
    }


def load_pictures(path: str | Path) -> tuple[ImageBatch | None, list[PictureRow]]:
    """Inverse of ``save_pictures``, features to the precision of float32. The batch is None, and so are the
    rows' features, if the file keeps no pictures.

    Raises ``RecordError``, a ``ValueError``, naming the file and what is wrong with it, and ``OSError`` if it
    cannot be read.
    """
    path = Path(path)
    raw = parse(path.read_bytes(), str(path))
    try:
        return _parse(raw)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RecordError(f"{path}: {error}") from None


def _parse(raw: Any) -> tuple[ImageBatch | None, list[PictureRow]]:
    raw = _object("a file of pictures", raw, versions=(1, PICTURES_VERSION))
    if (
        raw["schema_version"] == 1
    ):  # it told the versions that it was made with once for all rows, and no threads
        raw = {k: v for k, v in raw.items() if k != "versions"}
        rows = raw.get("rows")
        raw["rows"] = (
            [{**r, "conditions": None} for r in rows if isinstance(r, dict)]
            if isinstance(rows, list)
            else rows
        )
    _object("a file of pictures", raw, {"schema_version", "batch", "rows"})
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
    found, under = values["features"], values["conditions"]
    return PictureRow(
        **values
        | {
            "warnings": tuple(str(w) for w in values["warnings"]),
            "defense": serial.defense_from_dict(values["defense"]),
            "attack": serial.attack_from_dict(values["attack"]),
            "features": None if found is None else checks.array("features", found, form),
            "conditions": None if under is None else Conditions(**_object("conditions", under)),
        }
    )


_BATCH_FIELDS = {"name", "shape", "mean", "labels", "classes", "indices", "norms", "features"}


def _object(
    name: str, raw: Any, wanted: set[str] | None = None, versions: tuple[int, ...] = ()
) -> dict[str, Any]:
    """``raw`` as an object with exactly the ``wanted`` fields (None: any), of one of the ``versions`` if there are any."""
    # The version first: a file of another one may well have other fields.
    version = json_object(raw, name).get("schema_version")
    if versions and (isinstance(version, bool) or version not in versions):
        raise ValueError(f"schema_version must be {' or '.join(map(str, versions))}; got {version!r}")
    return json_object(raw, name, wanted)


def _counts(name: str, values: Any, size: int) -> NDArray[np.int64]:
    if not isinstance(values, list) or len(values) != size:
        raise ValueError(f"{name} must be a list of {size} integers; got {values!r}")
    return np.array([checks.integer(name, n, 0) for n in values], dtype=np.int64)


def _single(values: FloatArray) -> list[list[float]]:
    """As float32, in the fewest digits that give the same float32 back."""
    return [[float(str(v)) for v in row] for row in values.astype(np.float32)]
