"""Records: what is written is what is read, and nothing damaged is taken for a record."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_records import make_point, make_record

from verify.measure.record import (
    RecordError,
    TornRecordWarning,
    append_record,
    finite_json,
    read_records,
    repair,
)

RECORDS = [
    make_record(make_point(), 0, 0.125),
    make_record(make_point(), 1, None),
    make_record(make_point(), 2, 1 / 3),
]


def write(path: Path, count: int = 3) -> Path:
    for record in RECORDS[:count]:
        append_record(path, record)
    return path


def test_round_trip_is_exact(tmp_path: Path) -> None:
    assert read_records(write(tmp_path / "r.jsonl")) == RECORDS


def test_each_record_is_one_line_of_strict_json(tmp_path: Path) -> None:
    lines = write(tmp_path / "r.jsonl").read_text().splitlines()
    assert [json.loads(line)["trial"] for line in lines] == [0, 1, 2]


def test_a_record_is_on_disk_before_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "r.jsonl", 1)
    synced: list[tuple[int, int]] = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (synced.append((os.fstat(fd).st_ino, path.stat().st_size)), real(fd))[1]
    )
    append_record(path, RECORDS[1])
    assert (path.stat().st_ino, path.stat().st_size) in synced, "synced only after the whole line was written"


@pytest.mark.parametrize("cut", [1, 2, 40, 700])
def test_a_torn_last_line_is_reported_skipped_and_repaired(tmp_path: Path, cut: int) -> None:
    path = write(tmp_path / "r.jsonl")
    os.truncate(path, path.stat().st_size - cut)
    with pytest.warns(TornRecordWarning, match=r"r\.jsonl, line 3: torn"):
        assert read_records(path) == RECORDS[:2]
    append_record(path, RECORDS[2])
    assert read_records(path) == RECORDS


def test_a_file_that_is_all_torn_line_becomes_empty(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'{"experiment": "de')
    repair(path)
    assert path.read_bytes() == b""


def test_repair_leaves_a_sound_file_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl")
    before = path.read_bytes()
    repair(path)
    assert path.read_bytes() == before


def damaged(line: bytes, **changes: object) -> bytes:
    return json.dumps({**json.loads(line), **changes}).encode()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda line: line[:-5], "not a line of strict JSON"),
        (lambda line: b"", "not a line of strict JSON"),
        (lambda line: b"\xff\xfe", "not a line of strict JSON"),
        (lambda line: b"[1, 2]", "must be a JSON object; got list"),
        (lambda line: damaged(line, schema_version=3), "schema_version must be 1 to 2; got 3"),
        (lambda line: damaged(line, extra=1), "missing or unknown: extra"),
        (lambda line: line.replace(b'"trial": 1, ', b""), "missing or unknown: trial"),
        (lambda line: damaged(line, status="great"), "status must be one of ok, failed; got 'great'"),
        (lambda line: damaged(line, rmse=0.5), "rmse must be None where status is 'failed'; got 0.5"),
        (lambda line: line.replace(b'"seconds": 0.5', b'"seconds": NaN'), "NaN is not allowed"),
    ],
)
def test_anything_but_a_torn_end_is_refused_with_file_and_line(tmp_path: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    path = write(tmp_path / "r.jsonl")
    lines = path.read_bytes().splitlines()
    lines[1] = damage(lines[1])
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(RecordError, match=message) as caught:
        read_records(path)
    assert "r.jsonl, line 2: " in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rmse": math.nan}, "rmse must be finite"),
        ({"rmse_inplane": None}, "rmse_inplane must be finite"),
        ({"residual_error": -1.0}, "residual_error must be finite and >= 0"),
        ({"status": "failed"}, "reason must be given"),
        ({"status": "failed", "reason": "because"}, "rmse must be None"),
    ],
)
def test_a_record_cannot_contradict_itself(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(RECORDS[0], **changes)  # type: ignore[arg-type]


def test_numbers_that_are_not_finite_never_reach_the_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        append_record(tmp_path / "r.jsonl", replace(RECORDS[0], seconds=math.inf))
    assert not (tmp_path / "r.jsonl").exists()
    assert finite_json({"a": (math.inf, -math.inf, 1.0), "b": math.nan}) == {
        "a": ["inf", "-inf", 1.0],
        "b": "nan",
    }
