"""Records as CSV: every trial, attack and failure a row, every digit there, every cell quoted where it must be."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from synthetic_records import make_outcome, make_point, make_record

from bounds import GradientNoise, TensorAttack
from verify.export import export_csv, to_frame, to_rows
from verify.measure.files import compact
from verify.measure.outcome import Outcome
from verify.measure.record import append_record
from verify.measure.seeds import trial_seeds
from verify.studies.study import Failure, Study, run

ROOT = Path(__file__).parents[1]

POINT = replace(make_point(defense=GradientNoise(0.3)), also=(TensorAttack(moments="plain"),))

REASON = 'ill-posed: "1.02", the edge,\nand a new line'


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("kept", [False, True], ids=["lines", "compact"])
def test_an_experiment_has_a_row_for_each_trial_and_attack(tmp_path: Path, kept: bool) -> None:
    running = tmp_path / "records" / "demo.jsonl"
    running.parent.mkdir()
    good = make_record(POINT, 0, 1 / 3)
    bad = replace(good, trial=1, outcomes={POINT.names[0]: make_outcome(), POINT.names[1]: Outcome(REASON)})
    for record in (good, bad):
        append_record(running, record)
    if kept:
        compact(running)
    assert export_csv(tmp_path / "records", tmp_path / "out") == [tmp_path / "out" / "demo.csv"]
    rows = rows_of(tmp_path / "out" / "demo.csv")
    assert [(r["trial"], r["attack.name"], r["status"]) for r in rows] == [
        ("0", "tensor", "ok"),
        ("0", "tensor(moments=plain)", "ok"),
        ("1", "tensor", "ok"),
        ("1", "tensor(moments=plain)", "failed"),
    ]
    first, last = rows[0], rows[-1]
    assert float(first["rmse"]) == 1 / 3 and float(first["rmse_span"]) == good.outcomes["tensor"].rmse_span
    assert (first["defense.name"], first["defense.sigma"], first["m"]) == ("gradient_noise", "0.3", "20000")
    assert json.loads(first["labels"]) == [1.0, -1.0] and first["attack.moments"] == "residualized"
    assert int(first["seeds.network"]) == trial_seeds(POINT, 0, 0)["network"]
    assert first["conditions.threads"] == "1" and first["conditions.versions.python"]
    assert (last["reason"], last["rmse"], last["attack.moments"]) == (REASON, "", "plain")


def test_records_are_rows_and_a_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = replace(
        make_record(POINT), outcomes={POINT.names[0]: make_outcome(), POINT.names[1]: Outcome(REASON)}
    )
    good, failed = to_rows([bad])
    assert (good["defense.sigma"], good["m"], good["rmse"], good["status"]) == (0.3, POINT.m, 0.1, "ok")
    assert (failed["rmse"], failed["status"], failed["reason"]) == (None, "failed", REASON)
    assert good["attack.name"] != failed["attack.name"] and good.keys() == failed.keys()
    # pandas is no dependency: it is handed the rows as they are, and missed by the name of what brings it.
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=lambda rows: ("frame", rows)))
    assert to_frame([bad]) == ("frame", [good, failed])
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install 'reconbound\[pandas\]'"):
        to_frame([bad])


def test_studies_and_pictures_have_rows_too(tmp_path: Path) -> None:
    def trial(condition: Any, seed: int) -> Any:
        return Failure(REASON) if seed == 1 else {"size": condition["scale"] / 3}

    study = Study("toy", "", (), ({"scale": 1.0, "kind": "a,b"},), ("size", "other"), trial, list, list, 2)  # type: ignore[arg-type]
    run(study, tmp_path / study.file)
    name = "pictures-digits-B2.json"
    (tmp_path / name).write_bytes((ROOT / "figures" / "records" / name).read_bytes())
    paths = export_csv(tmp_path, tmp_path / "out")
    assert [p.name for p in paths] == ["study-toy.csv", "pictures-digits-B2.csv"]
    good, bad = rows_of(paths[0])
    assert (good["condition.kind"], float(good["size"]), good["other"]) == ("a,b", 1 / 3, "")
    assert (bad["status"], bad["reason"], bad["size"]) == ("failed", REASON, "")
    raw = json.loads((tmp_path / name).read_bytes())["rows"]
    rows = rows_of(paths[1])
    assert [int(r["m"]) for r in rows] == [r["m"] for r in raw]
    assert [float(r["rmse"]) if r["rmse"] else None for r in rows] == [r["rmse"] for r in raw]


def test_what_has_no_rows_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="source must be a directory or a file with records; got "):
        export_csv(tmp_path / "none", tmp_path)
    with pytest.raises(
        ValueError,
        match=r"source must hold records \(.*\), pictures \(.*\), studies \(.*\), tables .* or a comparison",
    ):
        export_csv(tmp_path, tmp_path)
