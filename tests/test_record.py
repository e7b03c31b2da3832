"""Records: what is written is what is read, and nothing damaged or impossible is taken for a record."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic_records import make_experiment, make_outcome, make_point, make_record

from bounds import GradientNoise, TensorAttack
from verify.measure.compact import read_compact, write_compact
from verify.measure.files import compact, compact_finished, read_records, record_files
from verify.measure.groups import group_records
from verify.measure.lines import RecordError, TornRecordWarning, only_writer, repair
from verify.measure.point import Point, attack_name
from verify.measure.record import Record, append_record

BOTH = replace(make_point(), also=(TensorAttack(moments="plain"),))

RECORDS = [
    make_record(make_point(), 0, 0.125),
    make_record(make_point(), 1, None),
    make_record(make_point(), 2, 1 / 3),
]


def write(path: Path, count: int = 3) -> Path:
    for record in RECORDS[:count]:
        append_record(path, record)
    return path


# --- running lines


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


def changed(line: bytes, **changes: object) -> bytes:
    return json.dumps({**json.loads(line), **changes}).encode()


def changed_outcome(line: bytes, **changes: object) -> bytes:
    raw = json.loads(line)
    raw["outcomes"]["tensor"].update(changes)
    return json.dumps(raw).encode()


def changed_point(line: bytes, **changes: object) -> bytes:
    raw = json.loads(line)
    raw["point"].update(changes)
    return json.dumps(raw).encode()


def with_seed(line: bytes, name: str, value: object) -> bytes:
    raw = json.loads(line)
    raw["seeds"][name] = value
    return json.dumps(raw).encode()


#: What the first line of a file may be turned into, and what is said about it.
DAMAGE: list[tuple[Callable[[bytes], bytes], str]] = [
    (lambda line: line[:-5], "not strict JSON"),
    (lambda line: b"", "not strict JSON"),
    (lambda line: b"\xff\xfe", "not strict JSON"),
    (lambda line: b"[1, 2]", "must be a JSON object; got list"),
    (lambda line: b"[" * 100_000 + b"]" * 100_000, "not strict JSON"),
    (lambda line: changed(line, schema_version=4), "schema_version must be 1 to 3; got 4"),
    (lambda line: changed(line, schema_version=True), "schema_version must be 1 to 3; got True"),
    (lambda line: changed(line, schema_version=[3]), r"schema_version must be 1 to 3; got \[3\]"),
    (lambda line: changed(line, extra=1), "missing or unknown: extra"),
    (lambda line: line.replace(b'"trial": 0, ', b""), "missing or unknown: trial"),
    (lambda line: line.replace(b'"seconds": 0.5', b'"seconds": NaN'), "NaN is not allowed"),
    (lambda line: changed(line, seconds=-1), "seconds must be a finite number"),
    (lambda line: changed(line, trial=-1), "trial must be between 0 and 999999; got -1"),
    (lambda line: changed(line, trial=10**6), "trial must be between 0 and 999999; got 1000000"),
    (lambda line: changed(line, trial=10**400), "trial must be between 0 and 999999"),
    (lambda line: changed(line, trial="0"), "trial must be an integer; got '0'"),
    (lambda line: changed(line, trial=True), "trial must be an integer; got True"),
    (lambda line: changed(line, trial=0.0), "trial must be an integer; got 0.0"),
    (lambda line: changed(line, trial=[1]), r"trial must be an integer; got \[1\]"),
    (lambda line: changed(line, trial=1), "seeds must be those of the trial"),
    (lambda line: with_seed(line, "network", 1), "seeds must be those of the trial"),
    (lambda line: with_seed(line, "experiment", 7), "seeds must be those of the trial"),
    (lambda line: with_seed(line, "experiment", None), "seed must be an integer; got None"),
    (lambda line: changed(line, seeds={}), "seed must be at least 0"),
    (lambda line: changed(line, seeds=[]), "seeds: must be a JSON object"),
    (lambda line: changed(line, experiment=["demo"]), "experiment must be that of the point, 'demo'"),
    (lambda line: changed(line, point_key="0" * 16), "point_key must be that of the point"),
    (lambda line: changed(line, dtype="float32"), "dtype must be that of the point"),
    (lambda line: changed(line, point=[]), "point: must be a JSON object; got list"),
    (lambda line: changed_point(line, m=30_000), "point_key must be that of the point"),
    (lambda line: changed_point(line, m=2), "m must be between 3 and"),
    (lambda line: changed_point(line, m=True), "m must be an integer"),
    (lambda line: changed_point(line, more=1), "point: fields missing or unknown: more"),
    (lambda line: changed_point(line, features={"kind": "orthonormal"}), "features: fields missing"),
    (lambda line: changed_point(line, labels="ab"), "labels and also must be lists"),
    (lambda line: changed_point(line, labels=[10**400, 1]), "must be a finite number"),
    (lambda line: changed_point(line, attack={"moments": "plain"}), "attack: fields missing"),
    (lambda line: changed_point(line, defense={"name": "moat"}), "defense must be one of none"),
    (lambda line: changed(line, device=3), "device must be a str"),
    (lambda line: changed(line, threads=0), "threads must be at least 1; got 0"),
    (lambda line: changed(line, versions={"python": 3}), "versions must be words by word"),
    (lambda line: changed(line, outcomes={}), "outcomes must be those of tensor; got "),
    (lambda line: changed(line, outcomes=[]), "outcomes: must be a JSON object"),
    (lambda line: changed(line, outcomes={"tensor": 1}), "tensor: must be a JSON object"),
    (lambda line: changed_outcome(line, status="great"), "status must be one of ok, failed; got 'great'"),
    (lambda line: changed_outcome(line, status="failed"), "reason must be given"),
    (lambda line: changed_outcome(line, reason="because"), "reason must be empty where status is 'ok'"),
    (lambda line: changed_outcome(line, status="failed", reason="because"), "rmse must be None where"),
    (
        lambda line: changed_outcome(line, rmse=9.0),
        "root of the sum of the squares of its parts, 0.125; got 9",
    ),
    (
        lambda line: changed_outcome(line, rmse=0.0),
        "root of the sum of the squares of its parts, 0.125; got 0",
    ),
    (lambda line: changed_outcome(line, rmse=-0.125), "rmse must be a finite number"),
    (lambda line: changed_outcome(line, rmse="0.125"), "rmse must be a real number; got '0.125'"),
    (lambda line: changed_outcome(line, rmse=None), "rmse must be a real number; got None"),
    (lambda line: changed_outcome(line, rmse_inplane=True), "rmse_inplane must be a real number; got True"),
    (lambda line: changed_outcome(line, rmse=10**400), "must be a finite number"),
    (lambda line: changed_outcome(line, label_accuracy=1.5), r"label_accuracy must be .* \[0, 1\]; got 1.5"),
    (lambda line: changed_outcome(line, diagnostics=[1]), "diagnostics must be a Mapping"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_anything_but_a_torn_end_is_refused_with_file_and_line(
    tmp_path: Path, damage: Callable[[bytes], bytes], message: str
) -> None:
    path = write(tmp_path / "r.jsonl", 1)
    line = path.read_bytes().strip()
    append_record(path, RECORDS[1])
    other = path.read_bytes().splitlines()[1]
    path.write_bytes(other + b"\n" + damage(line) + b"\n")
    with pytest.raises(RecordError, match=message) as caught:
        read_records(path)
    assert "r.jsonl, line 2: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_trial_twice_is_refused_on_reading_and_in_groups(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl")
    append_record(path, RECORDS[1])
    with pytest.raises(RecordError, match=r"r\.jsonl: trial 1 at point .* is there twice"):
        read_records(path)
    with pytest.raises(RecordError, match=r"trial 1 at point .* is there twice"):
        group_records([*RECORDS, RECORDS[1]])


def test_no_error_at_all_is_an_error_too() -> None:
    assert make_outcome(0.0).rmse == 0.0 and not make_outcome(0.0).failed


def test_numbers_that_are_not_finite_never_reach_the_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seconds must be a finite number"):
        replace(RECORDS[0], seconds=math.inf)
    wrong = replace(RECORDS[0].outcome, diagnostics={"gap": math.inf})
    with pytest.raises(ValueError, match="JSON"):
        append_record(tmp_path / "r.jsonl", replace(RECORDS[0], outcomes={"tensor": wrong}))
    assert not (tmp_path / "r.jsonl").exists()


def flat_line(record: Record, version: int) -> dict[str, Any]:
    """A line as versions 1 and 2 wrote it."""
    raw = record.to_dict()
    (outcome,) = raw.pop("outcomes").values()
    if version == 1:
        del outcome["rmse_span"]
    return raw | outcome | {"schema_version": version}


def test_lines_of_older_versions_are_read(tmp_path: Path) -> None:
    path = tmp_path / "old.jsonl"
    lines = [flat_line(record, version) for record, version in zip(RECORDS, (1, 2, 2), strict=True)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    first, *others = read_records(path)
    assert others == RECORDS[1:]
    assert first.outcome == replace(RECORDS[0].outcome, rmse_span=None)
    path.write_text(json.dumps(lines[2] | {"rmse_span": None}) + "\n")
    with pytest.raises(RecordError, match="line 1: rmse_span must be a real number; got None"):
        read_records(path)


# --- several attacks on one observation


def test_a_point_with_several_attacks_stands_once_for_each_in_groups() -> None:
    assert BOTH.names == ("tensor", "tensor(moments=plain)") and BOTH.key != make_point().key
    assert Point.from_dict(json.loads(json.dumps(BOTH.to_dict()))) == BOTH
    records = [make_record(BOTH, trial, 0.1 + trial) for trial in (1, 0)]
    groups = group_records(records)
    assert list(groups) == [make_point(), make_point(moments="plain")]
    for found in groups.values():
        assert [(o.trial, o.rmse, o.failed) for o in found] == [(0, 0.1, False), (1, 1.1, False)]
    with pytest.raises(ValueError, match="outcome must be the only one; this trial has tensor, tensor"):
        _ = records[0].outcome
    with pytest.raises(ValueError, match=r"outcomes must be those of tensor, tensor\(moments=plain\)"):
        replace(records[0], outcomes={"tensor": make_outcome()})
    with pytest.raises(ValueError, match="attacks at a point must be distinct"):
        replace(make_point(), also=(TensorAttack(),))


def test_attacks_have_names_of_their_own() -> None:
    options = [
        {},
        {"moments": "plain"},
        {"starts": 3},
        {"core_weight": 2.0},
        {"moments": "plain", "starts": 3},
    ]
    assert len({attack_name(TensorAttack(**o)) for o in options}) == len(options)  # type: ignore[arg-type]


# --- the compact form


def test_the_compact_form_keeps_every_number_and_nothing_that_changes(tmp_path: Path) -> None:
    points = [make_point(m=m, defense=GradientNoise(0.3)) for m in (9_000, 80_000)]
    records = [make_record(p, t, None if t == 2 else 0.1 + t / 7) for t in (2, 0, 1) for p in (*points, BOTH)]
    for record in records:
        append_record(tmp_path / "demo.jsonl", record)
    path = compact(tmp_path / "demo.jsonl")
    assert path == tmp_path / "demo.json" and [p.name for p in tmp_path.iterdir()] == ["demo.json"]
    found = read_records(path)
    assert len(found) == len(records) == len({r.identity for r in found})
    by_identity = {r.identity: r for r in found}
    for record in records:
        kept = by_identity[record.identity]
        assert kept.seconds is None and (kept.point, kept.conditions) == (record.point, record.conditions)
        for name, outcome in record.outcomes.items():
            assert kept.outcomes[name] == replace(outcome, diagnostics={})
    raw = json.loads(path.read_bytes())
    assert [g["point"]["m"] for g in raw["points"]] == [20_000, 9_000, 80_000], (
        "in order of the points' cells"
    )
    assert [row[0] for row in raw["points"][0]["rows"]] == [0, 1, 2]
    before = path.read_bytes()
    assert compact(path).read_bytes() == before, "written again it is the same"
    write_compact(path, reversed(records))
    assert path.read_bytes() == before, "whoever finished first"


def test_finished_runs_are_brought_into_the_compact_form(tmp_path: Path) -> None:
    """Those that every point of has all its trials; not one that is being written, nor one that was stopped."""
    points = [make_point(m=m) for m in (9_000, 80_000)]
    for name, count in (("whole", 4), ("stopped", 3), ("begun", 1), ("written", 4)):
        there = [replace(p, experiment=name) for p in points]
        for record in [make_record(p, t) for t in range(2) for p in there][:count]:
            append_record(tmp_path / f"{name}.jsonl", record)
    known = {"begun": make_experiment([replace(p, experiment="begun") for p in points])}
    whole = sorted(read_records(tmp_path / "whole.jsonl"), key=lambda r: r.point.m)
    with only_writer(tmp_path / "written.jsonl"):
        made, left = compact_finished(record_files(tmp_path), known)
    assert made == [tmp_path / "whole.json"] and not (tmp_path / "whole.jsonl").exists()
    assert [r.outcome.rmse for r in read_records(made[0])] == [r.outcome.rmse for r in whole]
    told = {path.stem: why for path, why in left.items()}
    assert told["stopped"] == "it is not finished: 1 of 4 trials missing"
    assert told["begun"] == "it is not finished: 1 of 2 trials missing"
    assert "another run is writing this file" in told["written"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "begun.jsonl",
        "stopped.jsonl",
        "whole.json",
        "written.jsonl",
    ]


def test_a_file_that_another_run_has_begun_is_not_taken_away(tmp_path: Path) -> None:
    """Where the lines are gone, an empty file of that name is the next writer's, who holds its lock already."""
    path = tmp_path / "demo.jsonl"
    with only_writer(path):
        path.unlink()
        with only_writer(path):
            pass
        path.touch()
    assert path.exists()


def test_both_forms_of_a_name_are_read_together(tmp_path: Path) -> None:
    kept = compact(write(tmp_path / "demo.jsonl", 2))
    append_record(tmp_path / "demo.jsonl", RECORDS[2])
    assert [r.trial for r in read_records(kept)] == [0, 1, 2]
    assert read_records(tmp_path / "demo.jsonl") == read_records(kept)
    for name in ("study-x.json", "pictures-x.json", "study-x.jsonl", "other.jsonl", "notes.md"):
        (tmp_path / name).write_text("")
    assert [p.stem for p in record_files(tmp_path)] == ["demo", "other"]
    # A compaction that was stopped before it took the lines away leaves the same trials in both forms.
    append_record(tmp_path / "demo.jsonl", RECORDS[1])
    assert [r.trial for r in read_records(kept)] == [0, 1, 2]
    append_record(tmp_path / "demo.jsonl", make_record(make_point(), 0, 0.5))
    with pytest.raises(RecordError, match=r"demo\.jsonl: trial 0 at point .* is another in demo\.json"):
        read_records(kept)


def row(raw: dict[str, Any], *path: int) -> Any:
    found = raw["points"][0]["rows"]
    for index in path:
        found = found[index]
    return found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(compact_version=2), "compact_version must be 1; got 2"),
        (lambda r: r.pop("columns"), "fields missing or unknown: columns"),
        (lambda r: r["columns"].reverse(), "columns must be trial, rmse"),
        (lambda r: r["points"][0].pop("seed"), "point 1: fields missing or unknown: seed"),
        (lambda r: r["points"][0].update(seed=-1), "point 1, row 1: seed must be at least 0"),
        (lambda r: r["points"][0]["point"].update(m="many"), "point 1: point must be what"),
        (lambda r: r["points"][0].update(attacks=["oracle"]), "attacks must be those of the point"),
        (lambda r: r["points"][0]["conditions"].update(more=1), "point 1: .*more"),
        (lambda r: r["points"][0].update(rows={}), "rows must be a list; got dict"),
        (lambda r: row(r, 0).append(1), "row 1: a row must be a trial and an outcome for each attack"),
        (lambda r: row(r).append(row(r, 0)), "trial 0 at point .* is there twice"),
        (lambda r: row(r, 0).__setitem__(0, True), "row 1: trial must be an integer; got True"),
        (lambda r: row(r, 2).__setitem__(0, 10**6), "row 3: trial must be between 0 and 999999"),
        (lambda r: row(r, 0, 1).pop(), "row 1: an outcome must be 6 numbers or a reason"),
        (lambda r: row(r, 1).__setitem__(1, ""), "row 2: a failed trial must have a reason"),
        (lambda r: row(r, 0, 1).__setitem__(0, 9.0), "row 1: rmse must be the root"),
        (lambda r: row(r, 0, 1).__setitem__(0, "9"), "row 1: rmse must be a real number"),
        (lambda r: row(r, 0, 1).__setitem__(4, 2), "row 1: label_accuracy must be"),
    ],
)
def test_a_damaged_compact_file_is_refused_with_the_place(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = compact(write(tmp_path / "demo.jsonl"))
    raw = json.loads(path.read_bytes())
    change(raw)
    path.write_text(json.dumps(raw))
    with pytest.raises(RecordError, match=message) as caught:
        read_compact(path)
    assert str(path) in str(caught.value)
