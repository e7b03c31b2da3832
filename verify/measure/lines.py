"""Append-only files of JSON lines: durable, with one writer, mended after a kill, read with suspicion."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class RecordError(ValueError):
    """A file of records is not what it claims to be, or holds what cannot be true."""


class LedgerError(ValueError):
    """The records already in a file do not belong to the run asked for, or another run is writing them."""


class TornRecordWarning(UserWarning):
    """The last line of a file was cut short: a run was killed while writing it. That one trial is to be run again."""


def append_line(path: str | Path, value: Mapping[str, Any]) -> None:
    """Append ``value`` as one line of strict JSON, on disk when this returns. A torn last line is cut off first.

    Not safe against a second writer: hold ``only_writer``.
    """
    path = Path(path)
    line = json.dumps(value, allow_nan=False, sort_keys=True).encode() + b"\n"
    repair(path)
    first = not path.exists() or path.stat().st_size == 0
    with open(path, "ab", buffering=0) as file:
        # A short write (full disk) leaves a torn line, which the next append mends.
        if file.write(line) != len(line):
            raise OSError(f"could not write a whole record to {path}")
        os.fsync(file.fileno())
    if first:
        fsync_directory(path.parent)


def repair(path: str | Path) -> None:
    """Cut off a torn last line of ``path``, if there is one; nothing else is touched."""
    path = Path(path)
    if not path.exists() or path.stat().st_size == 0:
        return
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        torn = file.read(1) != b"\n"
    if torn:
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)


def read_lines(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every line's object, with the words "FILE, line N" for messages.

    A last line without its line end is what a killed run leaves: it is skipped with a ``TornRecordWarning``. Anything else
    that is no object of strict JSON raises ``RecordError``.
    """
    path = Path(path)
    *lines, tail = path.read_bytes().split(b"\n")
    if tail:
        message = f"{path}, line {len(lines) + 1}: torn last line skipped"
        warnings.warn(message, TornRecordWarning, stacklevel=2)
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        yield where, json_object(parse(line, where), where)


def parse(text: bytes, where: str) -> Any:
    """The value of strict JSON; ``RecordError`` for any other text."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise RecordError(f"{where}: not strict JSON ({error})") from None


def json_object(raw: Any, where: str, wanted: set[str] | None = None) -> dict[str, Any]:
    """``raw`` as an object with exactly the ``wanted`` fields (None: any); ``RecordError`` else."""
    if not isinstance(raw, dict):
        raise RecordError(f"{where}: must be a JSON object; got {type(raw).__name__}")
    if wanted is not None and raw.keys() != wanted:
        raise RecordError(f"{where}: fields missing or unknown: {', '.join(sorted(raw.keys() ^ wanted))}")
    return raw


def write_whole(path: str | Path, text: str) -> None:
    """Replace the file as a whole, durably: at no moment does it hold half of something."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with open(part, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    fsync_directory(path.parent)


def fsync_directory(directory: Path) -> None:
    """Make a new file's name durable (a directory cannot be opened for this on every system)."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file, made if need be and taken away again if nothing was written.

    The system drops the lock when this process ends, however it ends, so it never goes stale. (POSIX; elsewhere the lock is
    refused with ``OSError`` rather than skipped.) ``LedgerError`` while another run holds it.
    """
    try:
        import fcntl
    except ImportError:
        raise OSError("runs need POSIX file locks, which this system does not have") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file_is_ours = False
        else:  # the one who held it may have taken the empty file away in between
            file_is_ours = path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())
        if not file_is_ours:
            raise LedgerError(
                f"{path}: another run is writing this file; wait for it or use another directory"
            )
        try:
            yield
        finally:  # where it has been taken away, a file of that name is another run's
            ours = path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())
            if ours and path.stat().st_size == 0:
                path.unlink()


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not allowed")
