"""A finished run, kept with all that it was made from: to tell it again takes the time of reading it.

``DIR/run.manifest`` holds what the run found and digests: of what that follows from (experiments and their checks, options,
records, the code that judges and draws, the libraries under it), of itself, and of every file that was written. Where
anything of it has changed, everything is judged and drawn anew; nothing is kept in parts. A run may take hours, so each part
is digested as it was when the run took it: the code before all else, records as soon as they are there.
"""

from __future__ import annotations

import glob
import hashlib
import json
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import bounds
import verify
from bounds.registry import from_outside
from verify.cli.screen import Summary
from verify.measure.experiment import Experiment
from verify.measure.files import records_path
from verify.measure.lines import write_whole
from verify.measure.point import Point

NAME = "run.manifest"

#: On whose numbers and lines verdicts and figures depend.
LIBRARIES = ("numpy", "scipy", "sympy", "mpmath", "matplotlib")


def asked_digest(experiments: Sequence[Experiment], options: Mapping[str, Any]) -> str:
    """What is asked, and the code that answers, to be taken before anything is measured. Empty where that cannot be said: a
    defense or an attack is code that is not ours.

    The attack's code is no part of it: what is recorded is not measured again when that changes."""
    if any(_foreign(point) for e in experiments for point in e.points):
        return ""
    digest = hashlib.sha256()
    versions = {name: metadata.version(name) for name in LIBRARIES} | {"python": platform.python_version()}
    asked = [
        (e.name, e.title, e.rules, e.trials, e.seed, [p.key for p in e.points], e.beside, e.plane)
        for e in experiments
    ]
    for told in (asked, sorted(options.items()), sorted(versions.items())):
        digest.update(repr(told).encode())
    return _with_files(digest, _sources())


def records_digest(experiment: Experiment, directory: Path) -> str:
    """The records of one experiment as they are now, in either form."""
    running = records_path(experiment.name, directory)
    paths = (running.with_suffix(".json"), running)
    return _with_files(hashlib.sha256(), (path for path in paths if path.exists()))


def made_from(asked: str, records: Iterable[str]) -> str:
    """Everything that verdicts and figures follow from: ``asked_digest``, and ``records_digest`` of every experiment. Empty
    where the first is."""
    return hashlib.sha256(" ".join((asked, *records)).encode()).hexdigest() if asked else ""


def read_finished(out: Path, made: str) -> Summary | None:
    """What the run in ``out`` found, if it was made from this and every file that it wrote is as it was; None otherwise."""
    if not made:
        return None
    try:
        kept = json.loads((out / NAME).read_text(encoding="utf-8"))
        same = kept["made_from"] == made and kept["files"] == {n: _digest(out / n) for n in kept["files"]}
        whole = kept["told"] == _told(kept["summary"])
        return Summary(**kept["summary"] | {"figures": str(out)}) if same and whole else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):  # not there, or not ours
        return None


def write_finished(out: Path, made: str, summary: Summary, written: Sequence[str]) -> None:
    """Keep what a run found, beside the files that it has written: ``written`` has their names, with whatever suffixes."""
    files = [path for name in written for path in sorted(out.glob(f"{glob.escape(name)}.*"))]
    told = asdict(summary)
    kept = {
        "made_from": made,
        "files": {path.name: _digest(path) for path in files},
        "told": _told(told),
        "summary": told,
    }
    write_whole(out / NAME, json.dumps(kept, indent=1, allow_nan=False) + "\n")


def _foreign(point: Point) -> bool:
    """Whether a defense or an attack comes from outside, where its code may change unseen."""
    return any(map(from_outside, (type(point.defense), *map(type, point.attacks))))


def _sources() -> Iterator[Path]:
    for package in (bounds, verify):
        yield from sorted(Path(str(package.__file__)).parent.rglob("*.py"))


def _with_files(digest: hashlib._Hash, paths: Iterable[Path]) -> str:
    for path in paths:
        digest.update(f"{path.name} {_digest(path)} ".encode())
    return digest.hexdigest()


def _told(summary: Mapping[str, Any]) -> str:
    """A digest of what was found: a manifest that has been edited is none."""
    return hashlib.sha256(json.dumps(summary, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
