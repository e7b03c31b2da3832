"""What a run tells: while it goes on, at its end, and when it is asked for again."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from synthetic_records import make_experiment, make_point, make_record

import bounds
from bounds import NoDefense
from verify import EXPERIMENTS, cli, sweep
from verify.cli import verify
from verify.cli.finished import NAME, asked_digest, made_from, read_finished, records_digest
from verify.cli.screen import Summary, show
from verify.judge.predicted import PredictedCheck
from verify.measure.experiment import Experiment, Reduced
from verify.measure.progress import EVERY, Progress

RESULT = {
    "experiment": "a",
    "defense": "none",
    "series": "relu",
    "verdict": "holds",
    "text": "t",
    "n": 9,
    "failed": 0,
}
RATIO = RESULT | {"kind": "predicted", "ratio": 1.0}
RATE = RESULT | {
    "kind": "rate",
    "variable": "m",
    "slope": -0.5074,
    "exponent": -0.5,
    "upper": False,
    "tightness": "",
}

#: Longest words and greatest numbers of the quick run, and what a library for terminals could take for its own.
RESULTS = [
    RATIO | {"experiment": "undefended-quick", "ratio": 0.8764},
    RATIO | {"experiment": "undefended-quick", "ratio": 1.1236},
    RATIO | {"experiment": "relu-quick", "ratio": 7.0, "verdict": "uninformative"},  # speaks of nothing
    RATE,
    RATE | {"slope": None, "verdict": "inconclusive"},
    RATE | {"variable": "B", "slope": 0.4678, "exponent": 1.0, "upper": True, "tightness": "not tight"},
    RESULT | {"kind": "upper", "bound": 0.0366, "rms": 0.02},
    RESULT | {"kind": "upper", "bound": 0.0313, "rms": 0.02},
    RATIO | {"experiment": "strength-local-aggregation-quick", "defense": "local_aggregation", "ratio": 1.0345},
    RATIO | {"defense": "gradient_pruning", "verdict": "fails", "experiment": "strength-pruning"},
    RESULT | {"kind": "floor", "defense": "gradient_pruning", "limit": 0.1493, "floor": 0.148},
    RESULT | {"kind": "floor", "defense": "local_aggregation",
              "experiment": "strength-local-aggregation-quick", "limit": 0.1, "floor": 0.0, "verdict": "uninformative",
              "why": "vacuous, floor 0: no error lies below it"},
    RESULT | {"kind": "lower", "defense": "sign_compression", "verdict": "uninformative", "bound": 0.1, "measured": 1.0,
              "why": "not proved: the fit diverges"},
    RATIO | {"defense": "[bold]mine[/bold]", "experiment": "[link]", "series": ":smile: [/]", "ratio": None,
             "text": "ratio nan [nan, nan]", "verdict": "inconclusive"},
]  # fmt: skip


def shown(capsys: pytest.CaptureFixture[str], **options: Any) -> str:
    show(Summary(46, 1, "results/quick", RESULTS), "png", False, **options)
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [80, 120])
def test_one_screen_of_a_row_for_each_defense(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    out = shown(capsys)
    assert max(map(len, out.splitlines())) <= width
    rows = out[out.index("──") : out.index("measured / predicted: median")]
    for words in (
        r"no defense +1\.000 +upper 1\.56–1\.83 +6 holds",
        r"undefended-quick\.png and 2 more +0\.876–1\.124 +rate in m −0\.51 +1 inconclusive",
        r"rate in m −0\.51 +1 inconclusive\s+for −0\.5, tight +1 uninformative",
        r"\s+order in B 0\.47\s+≤ 1 holds, not\s+tight",
        r"local aggregation +1\.034 +floor 0 +1 holds\s+strength-local-aggregation-quick\.png +1 uninf\w+\s+gr",
        r"gradient pruning +1\.000 +floor 1\.01 +1 holds\s+strength-pruning\.png and 1 more +1 fails",
        r"sign compression +— +— +1 uninformative\s+a\.png +\(not proved\)",
        r"\[bold\]mine\[/bold\] +— +— +1 inconclusive\s+\[link\]\.png",
    ):
        assert re.search(words, rows), words
    told = " ".join(out.split())
    assert "fails: strength-pruning inconclusive: a, [link]" in told
    assert "8 holds; 1 fails; 2 inconclusive; 3 uninformative; 46 trials, 1 failed" in told
    assert "results/quick/verdicts.md" in told
    assert len(out.splitlines()) <= 24, "a screen"


@pytest.mark.parametrize("width", [80, 120])
def test_every_comparison_on_demand_and_nothing_swallowed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    out = shown(capsys, verbose=True, foot="[dim]a sample[/dim]")
    assert max(map(len, out.splitlines())) <= width
    for words in (":smile: [/]: ratio nan [nan, nan]", "[dim]a sample[/dim]"):
        assert words in out


def test_of_nothing_asked_nothing_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    show(Summary(3, 0, "out", []), "png", False)
    out = capsys.readouterr().out
    assert "nothing was asked" in out and "verdicts.md" not in out and "3 trials" in out


# --- while it goes on -------------------------------------------------------------------------------------------------


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_total_over_everything_and_what_is_left() -> None:
    clock = Clock()
    with Progress({"first": 10.0, "second": 90.0, "third": 100.0}, shown=False, clock=clock) as progress:
        progress.start("first", total=5, done=5)
        clock.now = 1000  # what was read says nothing of how long work takes
        progress.start("second", total=9, done=3)
        assert progress.words() == "1 of 3 · second, trial 3 of 9"
        for _ in range(3):
            clock.now += 60
            progress.step(failed=False)
        assert (
            progress.words() == "1 of 3 · second, trial 6 of 9 · 13 min left"
        )  # 30 took 3 min, 130 are left
        for _ in range(3):
            progress.step(failed=True)
        assert progress.words() == "2 of 3 · second, trial 9 of 9 · 4 min left · 3 failed"
        progress.start("third", total=1, done=0)
        progress.step(failed=False)
        progress.end("common figures")
        assert progress.words() == "3 of 3 · common figures · 3 failed"


def test_without_a_terminal_a_line_now_and_then() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress({"noise [bold]": 1.0}, stream=stream, clock=clock) as progress:
        progress.start("noise [bold]", total=1000, done=0)
        for _ in range(1000):
            clock.now += EVERY / 64
            progress.step(failed=False)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 15
    assert lines[0] == "64 of 1000 · noise [bold] · 5 min left"


def test_on_a_terminal_a_bar_with_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    clock, stream = Clock(), Terminal()
    with Progress({"a": 1.0, "[nan, nan]": 1.0}, stream=stream, clock=clock) as progress:
        progress.start("a", total=1, done=1)
        assert not stream.getvalue(), "nothing to do is nothing to show"
        progress.start("[nan, nan]", total=3, done=0)
        for clock.now in (0, 60):
            progress.step(failed=False)
    assert "1 of 2 · [nan, nan], trial 2 of 3 · 1 min left" in stream.getvalue()


def test_a_sweep_tells_the_run_that_it_is_a_part_of(tmp_path: Path) -> None:
    experiment = make_experiment([make_point(m=m) for m in (200, 400)])
    progress = Progress({"demo": 1.0, "other": 1.0}, shown=False)

    def run(point: Any, trial: int, seed: int, **how: object) -> Any:
        return make_record(point, trial, rmse=None if trial else 0.1)

    sweep(experiment, tmp_path, run=run, progress=progress)
    assert progress.words() == "1 of 2 · demo, trial 6 of 6 · 4 failed"


# --- asked for again --------------------------------------------------------------------------------------------------

AGAIN = ["verify", "none", "--quick", "--only", "one-feature", "--jobs", "1"]


def write_records(out: Path, experiment: Experiment, rmse: float, trials: int = 2) -> None:
    lines = [make_record(p, trial, rmse).to_dict() for p in experiment.points for trial in range(trials)]
    (out / "records").mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (out / "records" / f"{experiment.name}.jsonl").write_text(text)


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """Names of the experiments that were judged and drawn; one small experiment, its records made up, a tree of our own."""
    full = EXPERIMENTS["one-feature"]
    points = tuple(replace(p, m=4_000, d=20) for p in full.points[:2])
    small = replace(full, points=points, rules=full.rules[:1], reduced=Reduced(4_000))
    monkeypatch.setattr("verify.cli.verify.EXPERIMENTS", {"one-feature": small})
    seen: list[str] = []
    from verify.cli.report import judge_and_draw

    def counted(found: Any, *rest: Any) -> Any:
        seen.extend(experiment.name for experiment in found)
        return judge_and_draw(found, *rest)

    monkeypatch.setattr("verify.cli.verify.judge_and_draw", counted)
    monkeypatch.setattr(
        "verify.measure.sweep.run_trial", lambda *a, **k: pytest.fail("every trial is recorded already")
    )
    write_records(tmp_path / "out", small.quick(), 0.05)
    copied = copytree(Path(bounds.__file__).parent, tmp_path / "bounds")
    monkeypatch.setattr(bounds, "__file__", str(copied / "__init__.py"))
    yield seen


def test_a_finished_run_is_told_again_and_never_stale(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, judged: list[str]
) -> None:
    out = tmp_path / "out"

    def told(*more: str) -> str:
        judged.clear()
        with pytest.raises(SystemExit):
            cli.main([*AGAIN, "--trials", "2", "--out", str(out), *more])
        return capsys.readouterr().out

    first = told()
    assert judged == ["one-feature-quick"] and "quick run is a sample" in first
    assert told() == first and judged == []
    assert "what was compared" in told("--verbose") and "what was compared" not in first and judged == []
    summary = json.loads(told("--json"))
    assert judged == [] and summary["trials"] == 4 and summary["results"][0]["defense"] == "none"
    figure = out / "one-feature-quick.png"
    drawn = figure.read_bytes()
    # A record, and with it a figure.
    write_records(out, verify.EXPERIMENTS["one-feature"].quick(), 0.15)
    changed = told()
    assert judged and changed != first and figure.read_bytes() != drawn
    assert "rms 0.15" in (out / "verdicts.md").read_text()
    # A bound.
    with (tmp_path / "bounds" / "kinds" / "rate.py").open("a") as source:
        source.write("# another rate\n")
    assert told() == changed and judged
    # A file that is not what was written.
    kept = json.loads((out / NAME).read_text())
    assert {"one-feature-quick.png", "summary.png", "verdicts.md"} <= kept["files"].keys()
    assert read_finished(out, kept["made_from"]) is not None
    kept["summary"]["results"][0]["verdict"] = "holds"
    (out / NAME).write_text(json.dumps(kept))
    assert read_finished(out, kept["made_from"]) is None
    told()
    figure.write_bytes(b"")
    assert read_finished(out, kept["made_from"]) is None
    figure.unlink()
    assert read_finished(out, kept["made_from"]) is None


def test_what_a_run_is_made_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = [make_point(m=m) for m in (200, 400)]
    experiment, options = make_experiment(points), {"trials": 2, "seed": None, "format": "png"}
    asked = asked_digest([experiment], options)
    others = [
        asked_digest([experiment], options | {"format": "svg"}),
        asked_digest([experiment], options | {"seed": 0}),
        asked_digest([make_experiment(points[:1])], options),
        asked_digest([make_experiment(points, rules=(PredictedCheck(0.2),))], options),
        asked_digest([make_experiment(points, title="Another")], options),
        asked_digest([experiment, experiment], options),
    ]
    assert asked == asked_digest([make_experiment(points)], options)
    assert len({asked, *others}) == 1 + len(others)
    recorded = [records_digest(experiment, tmp_path)]
    for suffix in (".jsonl", ".json"):
        (tmp_path / f"{experiment.name}{suffix}").write_text("{}")
        recorded.append(records_digest(experiment, tmp_path))
    assert len({made_from(asked, [digest]) for digest in recorded}) == 3
    monkeypatch.setattr(NoDefense, "__module__", "mine")  # from outside: its code may change unseen
    assert asked_digest([experiment], options) == made_from("", recorded) == ""


@pytest.mark.parametrize("changed", ["code", "records"])
def test_what_changes_while_a_run_goes_on_is_not_told_as_its_own(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    judged: list[str],
    monkeypatch: pytest.MonkeyPatch,
    changed: str,
) -> None:
    """Hours lie between the first figure and the manifest: what is edited, or recorded by another run, in between."""
    counted = verify.judge_and_draw

    def meanwhile(measured: Any, *rest: Any) -> Any:
        (experiment,) = measured
        found = counted(measured, *rest)
        if changed == "code":
            (tmp_path / "bounds" / "errors.py").write_text("# edited\n")
        else:
            write_records(tmp_path / "out", experiment, 0.05, trials=3)
        return found

    def run() -> int | str | None:
        judged.clear()
        with pytest.raises(SystemExit) as stop:
            cli.main([*AGAIN, "--trials", "2", "--out", str(tmp_path / "out")])
        capsys.readouterr()
        return stop.value.code

    monkeypatch.setattr("verify.cli.verify.judge_and_draw", meanwhile)
    first = run()
    assert judged and first in (0, 1)
    if changed == "code":
        assert run() == first and judged, "judged again by the code as it is now"
    else:
        assert run() == 2 and not judged, "there are more trials than were asked for"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "[" * 100_000, '{"made_from": 1}', '{"made_from": "", "files": {}, "summary": {}}'],
)
def test_what_is_no_manifest_is_not_believed(
    tmp_path: Path, judged: list[str], capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / NAME).write_text(text)
    assert read_finished(tmp_path, "made") is None
    assert read_finished(tmp_path, "") is None
