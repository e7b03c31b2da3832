"""The frame of studies: what it measures, keeps, resumes, counts and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from verify import cli
from verify.measure.lines import LedgerError, RecordError
from verify.studies import kept
from verify.studies import study as study_module
from verify.studies.catalogue import STUDIES
from verify.studies.study import Condition, Failure, Findings, Outcome, Row, Study, load, mixed, run

ROOT = Path(__file__).parents[1]


def throw(condition: Condition, seed: int) -> Outcome:
    """A number that the seed decides, scaled by the condition; every fifth seed fails."""
    if seed % 5 == 4:
        return Failure("the fifth")
    return {"size": float(condition["scale"]) * (1 + np.random.default_rng(seed).random())}


def rows(found: Findings) -> list[Row]:
    return [{**c.condition, "rms": c.measured("size").rms, "failed": len(c.failures)} for c in found.cells]


def figure(found: Findings) -> Figure:
    drawn = Figure()
    for cell in found.cells:
        drawn.add_subplot().plot(cell.values("size"))
    return drawn


TOY = Study(
    name="toy",
    title="a study of nothing",
    claims=(),
    conditions=({"scale": 1.0}, {"scale": 2.0}),
    quantities=("size",),
    trial=throw,
    summary=rows,
    draw=figure,
    trials=10,
    seed=3,
)


def counting(study: Study) -> tuple[Study, list[tuple[Condition, int]]]:
    """The study, and a list of the trials that it runs from now on."""
    ran: list[tuple[Condition, int]] = []
    trial: Callable[[Condition, int], Outcome] = study.trial
    return replace(study, trial=lambda c, seed: ran.append((c, seed)) or trial(c, seed)), ran


def test_failures_are_kept_counted_and_shown(tmp_path: Path) -> None:
    found = run(TOY, tmp_path / TOY.file)
    assert found.failed == 4 and [len(c.failures) for c in found.cells] == [2, 2]
    assert found.cells[0].measured("size").failed == 2 and found.cells[0].measured("size").n == 8
    assert [type(o) is Failure for o in found.cells[0].outcomes] == [False] * 4 + [True] + [False] * 4 + [
        True
    ]
    # The same seeds for every condition: they can be compared trial by trial.
    np.testing.assert_allclose(found.cells[1].values("size"), 2 * found.cells[0].values("size"), rtol=1e-15)
    assert load(tmp_path / TOY.file) == found
    assert found.where(scale=2.0) == (found.cells[1],) and found.where(scale=3.0) == ()


def test_it_resumes_after_every_trial(tmp_path: Path) -> None:
    path = tmp_path / TOY.file

    def stop(condition: Condition, seed: int) -> Outcome:
        if condition["scale"] == 2.0 and seed == 3004:
            raise KeyboardInterrupt
        return throw(condition, seed)

    with pytest.raises(
        KeyboardInterrupt, match=r"stopped with 14 of 20 trials recorded in .*study-toy\.jsonl"
    ):
        run(replace(TOY, trial=stop), path)
    assert [p.name for p in tmp_path.iterdir()] == ["study-toy.jsonl"]
    assert [c.condition for c in load(path).cells] == [{"scale": 1.0}], "half a condition is none"
    again, ran = counting(TOY)
    assert run(again, path) == run(TOY, tmp_path / "whole.json") == load(path)
    assert ran == [({"scale": 2.0}, 3000 + t) for t in range(4, 10)]
    assert path.read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["study-toy.json", "whole.json"]


def test_processes_give_what_one_process_gives(tmp_path: Path) -> None:
    assert run(TOY, tmp_path / "a.json", jobs=2) == run(TOY, tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize(
    ("changed", "trials", "measured"),
    [
        ({}, 10, 0),
        ({}, 14, 8),
        ({"conditions": ({"scale": 1.0}, {"scale": 2.0}, {"scale": 5.0})}, 10, 10),
    ],
)
def test_only_what_is_missing_is_measured(
    tmp_path: Path, changed: dict[str, object], trials: int, measured: int
) -> None:
    path = tmp_path / TOY.file
    run(TOY, path)
    again, ran = counting(replace(TOY, **changed))
    found = run(again, path, trials)
    assert len(ran) == measured
    assert [c.condition for c in found.cells] == list(again.conditions)
    assert all(len(c.outcomes) == trials for c in found.cells)
    assert load(path) == found


@pytest.mark.parametrize(
    ("changed", "trials", "message"),
    [
        ({}, 4, "holds more than the 4 trials asked for. Ask for at least 10"),
        ({"seed": 4}, 10, "holds seed 3, not 4"),
        (
            {"conditions": ({"scale": 1.0},)},
            10,
            r"holds a trial under {'scale': 2.0}, which study 'toy' lacks",
        ),
        ({"quantities": ("size", "other")}, 10, r"holds quantities \['size'\], not \['other', 'size'\]"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_trials_of_another_run_are_not_mixed_in(
    tmp_path: Path, changed: dict[str, object], trials: int, message: str, finished: bool
) -> None:
    path = tmp_path / TOY.file
    if finished:
        run(TOY, path)
    else:

        def stop(condition: Condition, seed: int) -> Outcome:
            if condition["scale"] == 2.0 and seed == 3006:
                raise KeyboardInterrupt
            return throw(condition, seed)

        with pytest.raises(KeyboardInterrupt):
            run(replace(TOY, trial=stop), path)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    again, ran = counting(replace(TOY, **changed))
    with pytest.raises(LedgerError, match=message):
        run(again, path, trials)
    assert ran == [] and {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_quantity_may_be_there_under_some_conditions_only(tmp_path: Path) -> None:
    def some(condition: Condition, seed: int) -> Outcome:
        return {"size": 1.0} | ({"other": 2.0} if condition["scale"] == 2.0 else {})

    path = tmp_path / TOY.file
    study = replace(TOY, quantities=("size", "other"), trial=some)
    found = run(study, path)
    assert found == load(path)
    assert found.cells[0].values("other").size == 0 and found.cells[1].values("other").tolist() == [2.0] * 10
    again, ran = counting(study)
    assert run(again, path) == found and ran == []


def test_files_of_the_first_version_are_read(tmp_path: Path) -> None:
    """Objects instead of rows; from before quantities were written they are taken to be those of the trials."""
    found = run(TOY, tmp_path / "new.json")
    raw = {
        "schema_version": 1,
        "study": "toy",
        "trials": 10,
        "seed": 3,
        "cells": [
            {
                "condition": dict(c.condition),
                "outcomes": [{"failed": o.reason} if isinstance(o, Failure) else dict(o) for o in c.outcomes],
            }
            for c in found.cells
        ],
    }
    path = tmp_path / TOY.file
    for more in ({}, {"quantities": ["size"]}):
        path.write_text(json.dumps(raw | more))
        assert load(path) == found
        again, ran = counting(TOY)
        assert run(again, path) == found and ran == []


@pytest.mark.parametrize("outcome", [{}, {"size": np.inf}, {"size": np.nan}, {"size": 1.0, "more": 1.0}])
def test_a_trial_that_gives_something_else_is_a_defect(tmp_path: Path, outcome: Outcome) -> None:
    with pytest.raises(ValueError, match="trial must give"):
        run(replace(TOY, trial=lambda c, seed: outcome), tmp_path / TOY.file)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"trials": 1}, "trials"),
        ({"trials": 1001}, "trials"),
        ({"seed": -1}, "seed"),
        ({"conditions": ()}, "conditions"),
        ({"quantities": ()}, "quantities"),
        ({"conditions": ({"a": 1, "b": 2}, {"b": 2, "a": 1})}, "different"),
    ],
)
def test_studies_that_contradict_themselves_are_refused(values: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        replace(TOY, **values)


def test_a_failure_has_a_reason() -> None:
    with pytest.raises(ValueError, match="reason"):
        Failure("")


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "no",
        "{}",
        '{"schema_version": 3}',
        "[" * 100_000,
        '{"schema_version": 1, "study": "toy", "trials": 3, "seed": 0, "cells": [{"condition": {}, "outcomes": []}]}',
        '{"schema_version": 1, "study": "toy", "trials": 2, "seed": 0, "cells": '
        '[{"condition": {}, "outcomes": [{"size": NaN}, {"size": 1}]}]}',
        *(
            '{"schema_version": 2, "study": "toy", "trials": 2, "seed": 3, "quantities": ["size"], "cells": '
            f'[{{"condition": {{"scale": 1.0}}, "conditions": null, "rows": {rows}}}]}}'
            for rows in (
                "[[0,1.0],[0,1.0]]",
                "[[0,1.0],[2,1.0]]",
                "[[true,1.0]]",
                '[["0",1.0]]',
                "[[0,true]]",
                "[[0,1.0,2.0]]",
                "[[0,null]]",
                '[[0,""]]',
                "[0]",
                "{}",
                "[]",
            )
        ),
    ],
)
def test_other_files_are_refused_and_kept(tmp_path: Path, text: str) -> None:
    path = tmp_path / TOY.file
    path.write_text(text)
    with pytest.raises(RecordError, match="path must be a file that a study has written"):
        run(TOY, path)
    assert path.read_text() == text


def test_the_file_of_another_study_is_refused(tmp_path: Path) -> None:
    run(TOY, tmp_path / "x.json")
    with pytest.raises(LedgerError, match="holds study 'toy', not 'other'"):
        run(replace(TOY, name="other"), tmp_path / "x.json")


def test_mixed_seeds_differ_by_every_key() -> None:
    seeds = [mixed(0), mixed(1), mixed(0, 1), mixed(0, 2), mixed(0, 1, 2), mixed(0, 2, 1)]
    assert len(set(seeds)) == len(seeds) and max(seeds) < 2**53
    assert mixed(5, 7) == mixed(5, 7)


def test_the_registry_is_consistent() -> None:
    assert len({s.name for s in STUDIES}) == len(STUDIES)
    notes = (ROOT / "paper_notes.md").read_text("utf-8")
    for study in STUDIES:
        assert all(f"\n| {claim} |" in notes for claim in study.claims), study.name
        assert f"`reconbound study {study.name} --out figures`" in notes


@pytest.mark.parametrize("study", STUDIES, ids=lambda s: s.name)
def test_kept_numbers_are_those_of_the_study(study: Study) -> None:
    """The records in the repository are complete, belong to the study as it is now, and can be told and drawn."""
    found = load(ROOT / "figures" / "records" / study.file)
    assert (found.name, found.trials, found.seed) == (study.name, study.trials, study.seed)
    assert [c.condition for c in found.cells] == list(study.conditions)
    assert set(found.quantities) == set(study.quantities)
    table = study.summary(found)
    assert table and all(row.keys() == table[0].keys() for row in table)
    assert study.draw(found).axes


def shell(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(TOY, name="other", seed=4)
    monkeypatch.setattr("verify.cli.study.STUDIES", (TOY, other))
    code, out, _ = shell(capsys, "study", "toy", "--trials", "5", "--out", str(tmp_path), "--json")
    assert code == 0
    (report,) = json.loads(out)
    assert report["study"] == "toy" and report["trials"] == 5 and report["failed"] == 2
    assert [row["failed"] for row in report["rows"]] == [1, 1]
    assert (tmp_path / "study-toy.png").read_bytes().startswith(b"\x89PNG")
    code, out, _ = shell(capsys, "study", "all", "--trials", "5", "--out", str(tmp_path))
    assert code == 0 and "toy:" in out and "other:" in out and "2 failed" in out
    monkeypatch.setattr("verify.cli.figures.STUDIES", (replace(TOY, trial=None), replace(other, trial=None)))
    again = tmp_path / "again"
    (tmp_path / "records" / "study-gone.json").write_text("{}")
    code, _, err = shell(capsys, "figures", "--from", str(tmp_path / "records"), "--out", str(again))
    assert code == 0 and "study-gone.json: no study of that name" in err
    for study in (TOY, other):
        assert (again / study.figure).read_bytes() == (tmp_path / study.figure).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fog"], ["NAME", "concentration", "deep", "'fog'"]),
        (["deep", "--trials", "1"], ["trials", "2", "1"]),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]
) -> None:
    code, out, err = shell(capsys, "study", *arguments, "--out", str(tmp_path))
    assert code == 2 and out == "" and len(err.strip().splitlines()) == 1
    assert all(word in err for word in words)


def test_an_interrupt_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(condition: Condition, seed: int) -> Outcome:
        raise KeyboardInterrupt

    monkeypatch.setattr("verify.cli.study.STUDIES", (replace(TOY, trial=stop),))
    code, _, err = shell(capsys, "study", "toy", "--out", str(tmp_path))
    assert code == 130 and "run it again" in err


def test_another_run_waits_until_the_file_of_numbers_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a second run would have measured between the numbers' writing and the lines' removal was lost."""
    path = tmp_path / TOY.file
    write = study_module.save_trials
    refused: list[str] = []

    def meanwhile(*arguments: Any) -> None:
        write(*arguments)
        with pytest.raises(LedgerError, match="another run is writing this file") as error:
            run(TOY, path, 12, progress=False)
        refused.append(str(error.value))

    monkeypatch.setattr(study_module, "save_trials", meanwhile)
    run(TOY, path, progress=False)
    monkeypatch.undo()
    assert refused and not path.with_suffix(".jsonl").exists()
    assert [len(c.outcomes) for c in run(TOY, path, 12, progress=False).cells] == [12, 12]


def test_a_finished_run_reads_its_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / TOY.file
    run(TOY, path, progress=False)
    read, load_all = [], kept.load_trials
    monkeypatch.setattr(kept, "load_trials", lambda p: read.append(p) or load_all(p))
    run(TOY, path, progress=False)
    assert read == [path]


def test_figures_sees_a_study_that_is_still_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its lines are all there is of it: told while it is not finished, drawn where only the last step is missing."""
    monkeypatch.setattr("verify.cli.figures.STUDIES", (TOY,))
    path = tmp_path / "records" / TOY.file
    lines = path.with_suffix(".jsonl")

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(study_module, "save_trials", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(TOY, path, progress=False)
    whole = lines.read_bytes().splitlines(keepends=True)
    lines.write_bytes(b"".join(whole[:-1]))
    command = ["figures", "--from", str(lines.parent)]
    with pytest.raises(SystemExit) as stop:
        cli.main(command)
    assert not stop.value.code and "1 of 2 conditions have all their trials" in capsys.readouterr().err
    lines.write_bytes(b"".join(whole))
    with pytest.raises(SystemExit) as stop:
        cli.main(command)
    assert not stop.value.code and (tmp_path / "study-toy.png").exists()
