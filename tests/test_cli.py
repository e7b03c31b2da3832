"""The command line: what it prints, what it writes, and how it refuses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from synthetic_records import make_record

from bounds import DEFENSES, GradientNoise, Kind, Setting, TensorAttack, evaluate
from bounds.words import how_many
from verify import (
    EXPERIMENTS,
    Features,
    Point,
    __all__,
    append_record,
    cli,
    compare,
    experiment_of,
    own_experiment,
    plot,
    point_strategy,
    read_records,
    sweep,
)
from verify.cli.app import COMMANDS, load
from verify.cli.options import LARGEST, NAMES, count
from verify.cli.tables import cell, print_rows, print_wide
from verify.draw.shown import natural_axis
from verify.judge import JUDGES
from verify.judge.base import bound_at
from verify.judge.rate import RateCheck
from verify.measure.experiment import Reduced
from verify.measure.saved import Saved
from verify.studies.catalogue import STUDIES
from verify.studies.study import load as load_study

ROOT = Path(__file__).parent.parent
SMALL = ["--quick", "--trials", "2", "--jobs", "1", "--only", "one-feature"]
OWN = ["--d", "12", "--B", "1", "--m", "2e3", "--m", "8000", "--trials", "4", "--jobs", "1"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def told_by(summary: dict[str, Any]) -> int:
    """The exit code that goes with these results."""
    return int(any(result["verdict"] == "fails" for result in summary["results"]))


def shell(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "verify", *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        timeout=300,
    )


@pytest.fixture
def small_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    """One experiment at one small point, so that a run takes a second."""
    full = EXPERIMENTS["one-feature"]
    points = tuple(replace(p, m=4_000, d=20) for p in full.points[:2])
    small = replace(full, points=points, rules=full.rules[:2], reduced=Reduced(4_000))
    for command in ("verify", "figures", "export"):
        monkeypatch.setattr(f"verify.cli.{command}.EXPERIMENTS", {"one-feature": small})


# --- start-up ---------------------------------------------------------------------------------------------------------

HEAVY = ("torch", "matplotlib", "sklearn", "hypothesis", "scipy", "joblib", "numpy", "sympy")


@pytest.mark.parametrize(
    "code",
    [
        "import verify, verify.cli, verify.pytest_plugin",
        "from verify.cli import main\ntry: main(['--help'])\nexcept SystemExit as done: assert done.code == 0",
        "from verify.cli import main\ntry: main(['--version'])\nexcept SystemExit as done: assert done.code == 0",
        "from verify.cli import main\ntry: main(['fog'])\nexcept SystemExit as done: assert done.code == 2",
    ],
)
def test_nothing_heavy_is_imported_before_a_command_is_called(code: str) -> None:
    told = f"{code}\nimport sys\nprint('loaded:', *sorted({HEAVY!r} & sys.modules.keys()))"
    told = told.replace(repr(HEAVY), repr(set(HEAVY)))
    done = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].strip() == "loaded:"


def test_a_bound_and_the_help_of_commands_need_neither_torch_nor_matplotlib() -> None:
    asked = [
        ["bound", "none", "--json"],
        ["attack", "gradient", "--help"],
        *([name, "--help"] for name in COMMANDS),
    ]
    code = (
        f"import sys, bounds\nfrom verify.cli import main\nfor asked in {asked}:\n"
        "    try: main(asked)\n    except SystemExit as done: assert done.code == 0\n"
        "print({'torch', 'matplotlib', 'sklearn', 'hypothesis'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "set()"


def test_every_public_name_is_there() -> None:
    import verify

    for name in __all__:
        assert getattr(verify, name) is not None
        assert name in dir(verify)
    with pytest.raises(AttributeError, match="no attribute 'fog'"):
        _ = verify.fog
    assert set(verify._HOMES) | {"__distribution__"} == set(__all__)


def test_the_list_of_commands_is_that_of_the_files() -> None:
    files = (ROOT / "verify" / "cli").glob("*.py")
    assert {*COMMANDS, "app"} == {p.stem for p in files if "\napp = " in p.read_text()}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_command_says_first_what_the_list_says(name: str) -> None:
    assert re.split(r"[.:]", load(name).help)[0].startswith(re.split(r"[.:]", COMMANDS[name])[0])


# --- bound ------------------------------------------------------------------------------------------------------------


def test_bound_as_json_agrees_with_evaluate(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(
        capsys, "bound", "gradient-noise", "--sigma", "2", "--d", "50", "--m", "9e3", "--B", "3", "--json"
    )
    assert code == 0
    found = json.loads(out)
    expected = evaluate(GradientNoise(sigma=2.0), Setting.orthonormal(50, 9000, 3))
    assert found["parameters"] == {"sigma": 2.0}
    assert found["bounds"]["predicted"]["value"] == expected.predicted
    assert found["bounds"]["rate"]["value"] == expected.rate_scale
    assert found["bounds"]["upper"]["trivial"] and "trivial" in found["bounds"]["upper"]["why"]
    assert found["bounds"]["lower"]["value"] == expected.lower
    assert found["bounds"]["floor"]["value"] is None and "not proved" in found["bounds"]["floor"]["why"]


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_defense_has_its_options(capsys: pytest.CaptureFixture[str], name: str) -> None:
    options = [
        text for p in NAMES[name].parameters() for text in (f"--{p.name.replace('_', '-')}", str(p.grid[0]))
    ]
    strength = NAMES[name].strength_parameter()
    one = (
        "--B",
        str(strength.grid[0] if strength and strength.integer else 1),
    )  # a feature for each client or step
    code, out, _ = run(capsys, "bound", name, *one, *options)
    assert code == 0 and "predicted" in out
    assert run(capsys, "bound", name, *one, *options, "--latex")[1].count("% ") >= 1
    for chosen in (options, []):  # without options: off, which is infinity for some
        code, out, err = run(capsys, "bound", name, *one, *chosen, "--json")
        assert code == 0, err
        assert json.loads(out, parse_constant=refuse_constant)["defense"] == NAMES[name].name


def test_names_cover_the_defenses() -> None:
    assert set(NAMES.values()) == set(DEFENSES)


@pytest.mark.parametrize("width", ["80", "120"])
def test_no_character_of_a_table_is_swallowed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: str
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    words = ["[nan, nan]", "[bold]", ":smile:", "x" * 100, "a [/] b"]
    print_rows([{"one": w, "two": w[::-1], "three": 1.5} for w in words])
    out, _ = capsys.readouterr()
    assert all(len(line) <= int(width) for line in out.splitlines())
    for word in words:
        assert all(out.count(c) >= word.count(c) for c in set(word) - {" "}), out
    assert "[nan, nan]" in out and ":smile:" in out and out.count("x") == 200


@pytest.mark.parametrize("name", ["concentration", "odd", "deep", "assumptions", "privacy"])
def test_a_study_is_readable_at_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """From the committed records, the first three rows and the last: no line is wider, and no value is broken; a table of
    all columns, which is the negative control, breaks some wherever there are ten columns or more."""
    monkeypatch.setenv("COLUMNS", "80")
    (study,) = (s for s in STUDIES if s.name == name)
    rows = study.summary(load_study(Path(__file__).resolve().parents[1] / "figures" / "records" / study.file))
    shown = [*rows[:3], rows[-1]]

    def printed(show: Callable[[list[dict[str, Any]]], None]) -> tuple[list[str], int]:
        show(shown)
        out = capsys.readouterr().out
        told = [cell(v) for row in shown for v in row.values() if v is not None]
        return out.splitlines(), sum(" ".join(out.split()).count(t) == 0 for t in told)

    lines, broken = printed(print_wide)
    assert broken == 0 and all(len(line) <= 80 for line in lines)
    assert (lines[0][0] == "┏") == (len(rows[0]) < 10), "a table where it fits"
    assert (printed(print_rows)[1] > 0) == (len(rows[0]) >= 10)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_any_encoding_of_the_terminal_will_do(encoding: str) -> None:
    done = shell("bound", "gradient-noise", "--sigma", "1", PYTHONIOENCODING=encoding, COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert "predicted" in done.stdout.decode(encoding)
    refused = shell("bound", "σ", PYTHONIOENCODING=encoding)
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [("7", 7), ("1e5", 100_000), ("2.5e3", 2500), ("3.0", 3), ("-4", -4), (160_000, 160_000), (str(LARGEST), LARGEST)],
)  # fmt: skip
def test_a_whole_number_may_be_written_as_a_float(text: Any, number: int) -> None:
    assert count(text) == number


@pytest.mark.parametrize("text", ["1.5", "nan", "inf", "", "x", "1e16", "1e999999999", "9" * 5000, "0x10"])
def test_what_is_no_whole_number_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="must be a whole number of at most"):
        count(text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fog"], ["fog"]),
        (["attack"], ["command"]),
        (["bound"], ["DEFENSE"]),
        (["bound", "none", "--fog", "1"], ["--fog"]),
        (["bound", "fog"], ["DEFENSE", "none", "'fog'"]),
        (["bound", "gradient-noise", "--sigma", "-1"], ["sigma", "[0,", "-1"]),
        (["bound", "gradient-noise", "--sigma", "nan"], ["sigma", "nan"]),
        (["bound", "gradient-noise", "--sigma", "x"], ["sigma"]),
        (["bound", "local-aggregation", "--steps", "1e30"], ["steps", "1e30"]),
        (["bound", "none", "--sigma", "1"], ["none", "--sigma"]),
        (["bound", "none", "--B", "101"], ["B", "100", "101"]),
        (["bound", "none", "--m", "0"], ["m", "at least 1", "0"]),
        (["bound", "none", "--m", "1.5"], ["--m", "1.5"]),
        (["bound", "none", "--d", "9" * 20], ["--d", "whole number", "9" * 20]),
        (["bound", "none", "--d", "1", "--m", "1", "--B", "1"], ["m", "larger than B"]),
        (["bound", "none", "--activation", "spline"], ["activation", "relu", "'spline'"]),
        (["bound", "none", "--moments", "third"], ["moments", "plain", "'third'"]),
        (["bound", "none", "--delta", "1"], ["delta", "1"]),
        (["bound", "none", "--json", "--latex"], ["json", "latex"]),
        (["verify", "fog"], ["DEFENSE", "all", "'fog'"]),
        (["verify", "all", "--only", "fog"], ["only", "'fog'"]),
        (["verify", "all", "--trials", "0"], ["trials", "at least 1", "0"]),
        (["verify", "all", "--format", "gif"], ["format", "svg", "'gif'"]),
        (["verify", "all", "--d", "30"], ["DEFENSE", "one defense", "of your own", "--d", "'all'"]),
        (["verify", "all", "--sigma", "1"], ["DEFENSE", "one defense", "of your own", "--sigma", "'all'"]),
        (
            ["verify", "noise", "--b", ".4"],
            ["DEFENSE", "'noise'; did you mean 'gradient-noise'?", "--plugin MODULE"],
        ),
        (["verify", "--b", ".4", "laplace"], ["DEFENSE", "'laplace'", "--plugin MODULE"]),
        (["verify", "laplace"], ["DEFENSE", "'laplace'", "--plugin MODULE"]),
        (["bound", "laplace", "--b", ".4"], ["DEFENSE", "'laplace'", "--plugin MODULE"]),
        (
            ["attack", "tensor", "--defense", "laplace", "--b", ".4"],
            ["DEFENSE", "'laplace'", "--plugin MODULE"],
        ),
        (
            ["check", "math:sqrt", "--kind", "upper", "--defense", "laplace", "--b", ".4"],
            ["'laplace'", "--plugin"],
        ),
        (["check", "math:sqrt", "--kind", "upper", "--defense", "laplace"], ["'laplace'", "--plugin MODULE"]),
        (["verify", "--fog", ".4", "none"], ["No such option", "--fog"]),
        (["verify", "none", "--fog"], ["No such option", "--fog"]),
        (["verify", "all", "--fog", "x"], ["No such option", "--fog"]),
        (
            ["verify", "gradient-noise", "--sigma", "1", "--sigma", "2"],
            ["--sigma must be given once", "2 times"],
        ),
        (["verify", "none", "--trials", "3", "--trials=4", "--trials", "5"], ["--trials", "once", "3 times"]),
        (["verify", "none", "--B", "1", "--B", "2", "--labels", "1,-1"], ["labels", "B is several (1, 2)"]),
        (["verify", "none", "--B", "2", "--B", "101"], ["B", "at most d", "101"]),
        (["verify", "none", "--B", "2", "--B", "4", "--cosine", "-0.5"], ["cosine", "B = 4", "-0.5"]),
        (["verify", "none", "--features", "nofile.npy"], ["nofile.npy: No such file or directory"]),
        (["attack", "gradient", "--file", "x.npz", "--B", "2", "--B", "3"], ["--B must be given once"]),
        (["bound", "none", "--d", "30", "--d", "40"], ["--d must be given once"]),
        (["study", "odd", "--format", "png", "--format", "svg"], ["--format must be given once"]),
        (["export", "tests", "--out", "x", "--out", "y"], ["--out must be given once"]),
        (["bench", "--repeats", "1", "--repeats", "2"], ["--repeats must be given once"]),
        (["bound", "dropout", "--per-sample", "--no-per-sample"], ["--per-sample must be given once"]),
        (["verify", "none", "--d", "30", "--quick"], ["quick", "--d"]),
        (["verify", "none", "--m", "0"], ["m", "0"]),
        (["verify", "none", "--activation", "spline"], ["activation", "'spline'"]),
        (["verify", "none", "--features", "clouds"], ["features", "'clouds'"]),
        (["verify", "none", "--features", "cosine"], ["cosine"]),
        (["verify", "none", "--B", "3", "--cosine", "-0.9"], ["cosine", "-0.9"]),
        (["verify", "none", "--features", "digits", "--d", "65"], ["d", "64", "65"]),
        (["verify", "none", "--labels", "1,x"], ["labels", "'x'"]),
        (["verify", "none", "--labels", "1,2,3"], ["labels", "B = 2", "3"]),
        (["verify", "none", "--tolerance", "0", "--m", "5000"], ["tolerance", "0"]),
        (["verify", "none", "--sigma", "1"], ["none", "--sigma"]),
        (
            ["verify", "all", "--device", "abacus", "--jobs", "1", "--only", "one-feature", "--quick"],
            ["device"],
        ),
        (["figures", "--from", "nowhere"], ["from", "nowhere"]),
        (["figures", "--from", "tests"], ["from", "records", "tests"]),
        (["export", "nowhere"], ["nowhere"]),
        (["study", "deep", "--format", "gif"], ["format", "'gif'"]),
        (["check", "verify:sweep", "--kind", "upper", "--trials", "x"], ["--trials", "'x'"]),
        (["bench", "--repeats", "0"], ["repeats", "0"]),
        (["attack", "tensor", "--images", "cats"], ["images", "'cats'"]),
        (["attack", "tensor", "--images", "mnist"], ["path"]),
        (["attack", "tensor", "--images", "digits", "--path", "x"], ["path", "digits"]),
        (["attack", "tensor", "--B", "0"], ["B", "0"]),
        (["attack", "likelihood", "--images", "cats"], ["images", "'cats'"]),
        (["attack", "likelihood", "--m", "2"], ["m must be larger than B"]),
        (["attack", "tensor", "--m", "-5"], ["m", "-5"]),
        (["attack", "tensor", "--device", "abacus"], ["device", "'abacus'"]),
        (["attack", "tensor", "--images", "cifar10", "--path", "nowhere"], ["nowhere"]),
        (["attack", "gradient", "--file", "nowhere.npz", "--B", "2"], ["nowhere.npz"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    if arguments[0] == "verify" or arguments[:2] in (["attack", "tensor"], ["attack", "likelihood"]):
        arguments = [*arguments, "--out", str(tmp_path)]
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert len(err.strip().splitlines()) == 1 and err.startswith("reconbound: ")
    for word in words:
        assert word in err
    assert out == ""
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize(
    "arguments",
    [["verify", "none", "--m", "5000"], ["study", "odd"], ["attack", "tensor"], ["figures", "--from", "figures/records"]],
)  # fmt: skip
def test_a_file_is_no_directory_to_write_to(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setattr("attack.observe", None)  # refused before any attack
    (tmp_path / "taken").write_text("")
    for out in ("taken", "taken/below"):
        code, _, err = run(capsys, *arguments, "--out", str(tmp_path / out))
        assert code == 2 and err.startswith(
            f"reconbound: out must be a directory or a new name; got {tmp_path}"
        )


def test_an_array_of_another_type_is_bad_input(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A ``TypeError`` too is one line and exit code 2: 1 would mean that the attack failed."""
    path = tmp_path / "bool.npz"
    rng = np.random.default_rng(0)
    np.savez(path, weight=rng.standard_normal((500, 5)) > 0, gradient=rng.standard_normal(500))
    code, out, err = run(capsys, "attack", "gradient", "--file", str(path), "--B", "1")
    assert code == 2 and out == "" and len(err.strip().splitlines()) == 1 and "weight" in err


@pytest.mark.parametrize(
    ("source", "words"),
    [("x = 3", ["callable", "3"]), ("raise RuntimeError('boom')", ["boom"]), ("def x(:", ["SyntaxError"])],
)
def test_a_module_that_holds_no_bound_is_bad_input(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    words: list[str],
) -> None:
    (tmp_path / "holds_no_bound.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "holds_no_bound", raising=False)
    code, out, err = run(capsys, "check", "holds_no_bound:x", "--kind", "upper")
    assert code == 2 and out == "" and len(err.strip().splitlines()) == 1
    assert all(word in err for word in words)


# --- verify and figures -----------------------------------------------------------------------------------------------


def test_verify_writes_records_and_figures_and_resumes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, small_experiment: None
) -> None:
    code, out, _ = run(capsys, "verify", "none", *SMALL, "--out", str(tmp_path), "--json")
    summary = json.loads(out)
    assert code == told_by(summary)  # two trials cannot decide; what is tested here is the plumbing
    assert summary["trials"] == 4 and len(summary["results"]) >= 2
    records = tmp_path / "records" / "one-feature-quick.jsonl"
    before = records.read_bytes()
    assert len(before.splitlines()) == 4
    for name in ("one-feature-quick.png", "summary.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    told = (tmp_path / "verdicts.md").read_text(encoding="utf-8")
    verdicts, labels = told.split("\n\n## Labels recovered\n")
    assert "| none | relu | 4 |" in labels
    rows = verdicts.splitlines()
    assert len(rows) == 2 + len(summary["results"]) and len({row.count("|") for row in rows}) == 1
    assert all(
        r["verdict"] in row and r["series"] in row
        for r, row in zip(summary["results"], rows[2:], strict=True)
    )
    run(capsys, "verify", "none", *SMALL, "--out", str(tmp_path))
    assert records.read_bytes() == before  # nothing was run again
    code, told, _ = run(capsys, "export", str(tmp_path), "--compact", "--json")
    kept = records.with_suffix(".json")
    assert code == 0 and json.loads(told) == [str(kept)] and list(records.parent.iterdir()) == [kept]
    run(capsys, "verify", "none", *SMALL, "--out", str(tmp_path))
    assert list(records.parent.iterdir()) == [kept] and len(read_records(kept)) == 4  # still finished
    code, _, err = run(capsys, "export", str(records.parent), "--compact", "--out", str(tmp_path))
    assert code == 2 and "--compact" in err
    code, _, err = run(capsys, "verify", "none", *SMALL, "--seed", "5", "--out", str(tmp_path))
    assert code == 2 and "seed" in err


def test_figures_are_redrawn_without_any_attack(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    small_experiment: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(capsys, "verify", "none", *SMALL, "--out", str(tmp_path))
    drawn = (tmp_path / "one-feature-quick.png").read_bytes()
    monkeypatch.setattr("attack.observe", None)  # any attempt to attack would raise
    again = ("--from", str(tmp_path / "records"), "--out", str(tmp_path / "again"))
    code, out, _ = run(capsys, "figures", *again, "--json")
    assert code == told_by(json.loads(out))
    assert (tmp_path / "again" / "one-feature-quick.png").read_bytes() == drawn


def test_figures_refuse_a_file_that_is_not_what_it_claims(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "x.jsonl").write_text('{"schema_version": 1}\n')
    code, _, err = run(capsys, "figures", "--from", str(tmp_path))
    assert code == 2 and "x.jsonl" in err and "line 1" in err


def test_a_setting_of_one_s_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Measured, judged, drawn, and drawn again from its records alone, with the checks that are natural to it."""
    own = ["gradient-noise", "--sigma", ".7", "--activation", "gelu", *OWN, "--out", str(tmp_path)]
    code, out, _ = run(capsys, "verify", *own, "--json", "--format", "svg")
    summary = json.loads(out)
    assert code == told_by(summary)
    assert summary["trials"] == 8
    assert [r["kind"] for r in summary["results"]] == [
        *("predicted", "predicted", "rate"),
        *("upper", "upper", "lower", "lower", "limit", "limit"),
    ]
    (records,) = (tmp_path / "records").glob("own-gradient-noise-*.jsonl")
    assert b"<svg" in (tmp_path / f"{records.stem}.svg").read_bytes()
    code, again, _ = run(
        capsys, "figures", "--from", str(records.parent), "--out", str(tmp_path / "again"), "--json"
    )
    assert json.loads(again)["results"] == summary["results"] and code == told_by(summary)
    assert (tmp_path / "again" / f"{records.stem}.png").read_bytes().startswith(b"\x89PNG")
    code, told, _ = run(capsys, "export", str(tmp_path), "--json")
    (table,) = map(Path, json.loads(told))
    assert code == 0 and table == records.parent / "csv" / f"{records.stem}.csv"
    assert len(table.read_text(encoding="utf-8").splitlines()) == 1 + summary["trials"]
    assert experiment_of(read_records(records)).rules == own_experiment(GradientNoise(0.7), d=12, B=1).rules


def test_a_grid_of_sizes_is_asked_for_the_rate_in_each(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Repeated, ``--B`` is no longer dropped: every batch is measured, and the exponent in B is asked as an upper order."""
    monkeypatch.setattr("verify.cli.verify.judge_and_draw", lambda *_: [])
    sizes = ("--d", "10", "--m", "2000", "--B", "1", "--B", "2", "--B", "4", "--trials", "1", "--jobs", "1")
    code, told, _ = run(capsys, "verify", "none", *sizes, "--out", str(tmp_path), "--json")
    assert code == 0 and json.loads(told)["trials"] == 3
    (path,) = (tmp_path / "records").iterdir()
    experiment = own_experiment(d=10, m=2_000, B=(1, 2, 4))
    assert [r.point for r in read_records(path)] == list(experiment.points)
    assert experiment_of(read_records(path)).rules == experiment.rules
    assert [c for c in experiment.rules if isinstance(c, RateCheck)] == [RateCheck("B", 0.1, upper=True)]
    assert natural_axis(experiment) == "B" and "B =" not in experiment.title


def test_several_sizes_are_every_combination() -> None:
    whole = own_experiment(d=(10, 20), B=[1, 2, 1], m=range(3_000, 5_000, 1_000))
    sizes = [(p.d, p.B, p.m) for p in whole.points]
    assert sizes == [(d, B, m) for d in (10, 20) for B in (1, 2) for m in (3_000, 4_000)]
    rates = [c for c in whole.rules if isinstance(c, RateCheck)]
    assert rates == [RateCheck("m", 0.1), RateCheck("B", 0.1, upper=True), RateCheck("d", 0.1)]
    assert natural_axis(own_experiment(d=(10, 20), m=3_000)) == "d"
    drawn = own_experiment(d=(10, 20), m=3_000, attack=TensorAttack(contraction="random"), activation="tanh")
    assert [c.kind for c in drawn.rules] == [Kind.PREDICTED, Kind.LIMIT] and natural_axis(
        drawn
    ) == "d"  # no rate, yet an axis


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: own_experiment(m="4000"), r"m must be an integer; got '4000' \(str\)"),  # type: ignore[arg-type]
        (lambda: own_experiment(B=(2, "x")), r"B must be an integer; got 'x' \(str\)"),  # type: ignore[arg-type]
        (lambda: own_experiment(d=()), "d must hold at least one size"),
        (lambda: own_experiment(d=(20, 0)), "d must be at least 1; got 0"),
        (lambda: own_experiment(labels="1,-1"), r"labels must be several values; got '1,-1' \(str\)"),  # type: ignore[arg-type]
        (lambda: Point("e", Features("random"), 5, 200, 2, labels=3.0), "labels must be several values; got 3.0"),  # type: ignore[arg-type]
        (lambda: point_strategy(m="4000"), "m must be several values; got '4000'"),  # type: ignore[arg-type]
        (lambda: point_strategy(d=(1, 2, 3)), r"d must be a range \(lo, hi\); got \(1, 2, 3\)"),  # type: ignore[arg-type]
        (lambda: point_strategy(activations="relu"), "activations must be several values; got 'relu'"),
    ],
)  # fmt: skip
def test_a_text_is_one_value_and_named_as_a_whole(call: Callable[[], object], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_one_is_no_plural() -> None:
    assert [how_many(n, "trial") for n in (0, 1, 2)] == ["0 trials", "1 trial", "2 trials"]


def test_records_are_found_from_wherever_they_are_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run's directory, its records, or one file of them, for both commands; without any, nothing is made."""
    point = Point("one", Features("random"), 20, 2_000, 1)
    (tmp_path / "records").mkdir()
    for name in ("one", "two"):
        append_record(tmp_path / "records" / f"{name}.jsonl", make_record(replace(point, experiment=name), 0))
    records, csv = tmp_path / "records", tmp_path / "records" / "csv"
    for source, names in (
        (tmp_path, ["one", "two"]),
        (records, ["one", "two"]),
        (records / "two.jsonl", ["two"]),
    ):
        code, told, err = run(capsys, "export", str(source), "--json")
        assert code == 0 and json.loads(told) == [str(csv / f"{name}.csv") for name in names], err
        assert Saved.find("x", source).home == tmp_path
    monkeypatch.chdir(records)
    assert Saved.find("x", Path(".")).home.resolve() == tmp_path  # not the working directory itself
    code, told, _ = run(capsys, "export", "two.jsonl", "--compact", "--json")
    assert code == 0 and json.loads(told) == ["two.json"] and (records / "one.jsonl").exists()
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "torn.jsonl").write_text('{"schema_version": 1}\n')
    for command, source, flag in (
        ("export", tmp_path / "none", ()),
        ("figures", tmp_path / "none", ("--from",)),
    ):
        code, _, err = run(capsys, command, *flag, str(source), "--out", str(tmp_path / "new"))
        assert code == 2 and "torn.jsonl" in err
    (tmp_path / "none" / "torn.jsonl").unlink()
    assert run(capsys, "export", str(tmp_path / "none"))[0] == 2 and not list((tmp_path / "none").iterdir())


def test_figures_of_records_that_python_wrote_lie_beside_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``sweep(experiment, "t2")`` writes t2/NAME.jsonl: what is above t2 is nobody's to write to."""
    (tmp_path / "t2").mkdir()
    drawn: list[Path] = []
    monkeypatch.setattr("verify.cli.report.judge_and_draw", lambda *told: drawn.append(told[1]) or [])
    append_record(
        tmp_path / "t2" / "one.jsonl", make_record(Point("one", Features("random"), 20, 2_000, 1), 0)
    )
    code, told, err = run(capsys, "figures", "--from", str(tmp_path / "t2"), "--json")
    assert code == 0 and json.loads(told)["figures"] == str(tmp_path / "t2"), err
    assert drawn == [tmp_path / "t2"] and [p.name for p in tmp_path.iterdir()] == ["t2"]


@pytest.mark.parametrize(
    "command", [("attack", "gradient"), ("check",), ("verify",)], ids=lambda command: " ".join(command)
)
def test_exit_codes_are_in_the_help(capsys: pytest.CaptureFixture[str], command: tuple[str, ...]) -> None:
    code, told, _ = run(capsys, *command, "--help")
    assert code == 0 and re.search(r"Exit code: 0.* 1 if .* 2 for bad input", " ".join(told.split()))


def test_a_setting_of_one_s_own_from_python(tmp_path: Path) -> None:
    """The five lines of its docstring, and what the command line makes of the same setting."""
    experiment = own_experiment(GradientNoise(sigma=0.7), d=12, B=1, m=(2_000, 8_000), activation="gelu")
    records = sweep(experiment, tmp_path, trials=4, progress=False)
    results = compare(records, experiment)
    plot(records, tmp_path / "own.pdf", experiment)
    assert (tmp_path / "own.pdf").read_bytes().startswith(b"%PDF")
    assert {r.kind for r in results} == {Kind.PREDICTED, Kind.RATE, Kind.UPPER, Kind.LOWER, Kind.LIMIT}
    assert {r.experiment for r in results} == {experiment.name}


def test_several_attacks_on_one_observation_are_judged_and_redrawn_from_their_records(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    attacks = (TensorAttack(moments="plain"), TensorAttack(contraction="random"))
    points = [
        Point("both", Features("random"), 20, m, 1, also=attacks, defense=GradientNoise(0.7))
        for m in (2_000, 8_000)
    ]
    records = [make_record(p, t, 0.1 + t / 100) for t in range(3) for p in points]
    experiment = experiment_of(records)
    assert experiment.points == tuple(points) and experiment.trials == 3
    results = compare(records, experiment)
    assert [r.kind for r in results].count(Kind.PREDICTED) == 6  # three attacks at two widths
    (tmp_path / "records").mkdir()
    for record in records:
        append_record(tmp_path / "records" / "both.jsonl", record)
    code, told, _ = run(capsys, "figures", "--from", str(tmp_path / "records"), "--json")
    assert json.loads(told)["results"] == [r.to_dict() for r in results]
    assert code == told_by(json.loads(told)) == 1  # made-up errors: what is predicted they are not
    assert (tmp_path / "both.png").exists()


def test_another_setting_has_another_name() -> None:
    base: dict[str, Any] = {"d": 10, "B": 2, "m": (3_000, 4_000)}
    changes: list[dict[str, Any]] = [
        {}, {"d": 11}, {"B": 1}, {"m": 3_000}, {"activation": "gelu"}, {"labels": (1.0, 1.0)}, {"seed": 1},
        {"features": Features("orthonormal")}, {"defense": GradientNoise(0.5)}, {"defense": GradientNoise(0.6)},
    ]  # fmt: skip
    names = [own_experiment(**(base | change)).name for change in changes]
    assert len(set(names)) == len(names)
    assert own_experiment(**base, trials=99).name == names[0]  # more trials go on in the same file
    assert own_experiment(**base, tolerance=0.2).name == names[0]


@pytest.mark.parametrize("defense", DEFENSES)
def test_natural_checks_are_those_that_are_stated(defense: Any) -> None:
    experiment = own_experiment(defense.grid()[0], d=20, B=2, m=(3_000, 6_000))
    kinds = [check.kind for check in experiment.rules]

    def stated(kind: Kind) -> bool:
        return any(bound_at(p, kind).value is not None for p in experiment.points)

    assert kinds == [kind for kind in JUDGES if kind is Kind.PREDICTED or stated(kind)]
    alone = own_experiment(defense.grid()[0], d=20, B=2, m=3_000)
    assert [check.kind for check in alone.rules] == [kind for kind in kinds if kind is not Kind.RATE]


def test_nothing_is_asked_that_is_stated_elsewhere_alone() -> None:
    """Of odd activations there is no UPPER, and no rate for a contraction drawn at random."""
    odd = {"d": 20, "B": 2, "m": (3_000, 6_000), "activation": "tanh"}
    asked = [c.kind for c in own_experiment(**odd).rules]  # type: ignore[arg-type]
    assert asked == [Kind.PREDICTED, Kind.RATE, Kind.LIMIT]
    drawn = own_experiment(**odd, attack=TensorAttack(contraction="random"))  # type: ignore[arg-type]
    assert [c.kind for c in drawn.rules] == [Kind.PREDICTED, Kind.LIMIT]


# --- the other commands -----------------------------------------------------------------------------------------------


def test_attack_tensor_draws_originals_over_reconstructions(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, _ = run(
        capsys,
        *("attack", "tensor", "--B", "2", "--m", "3000", "--m", "30000", "--out", str(tmp_path), "--json"),
    )
    assert code == 0
    rows = json.loads(out)["rows"]
    assert [(row["m"], row["attack"]) for row in rows] == [(3000, "tensor"), (30000, "tensor")]
    assert rows[1]["rmse"] < rows[0]["rmse"] < 1
    assert (tmp_path / "pictures-digits-B2.png").read_bytes().startswith(b"\x89PNG")


def test_attack_likelihood_draws_the_tensor_attack_beside_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, err = run(
        capsys, *("attack", "likelihood", "--B", "2", "--m", "600", "--out", str(tmp_path), "--seed", "3")
    )
    assert code == 0, err
    said = " ".join(out.split())
    assert "tensor attack, m = 600, failed (" in said and "ill-posed: " in said
    assert "likelihood attack, m = 600, exact: R = " in said
    stem = "pictures-digits-B2-likelihood"
    assert (tmp_path / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in (tmp_path / "records").iterdir()] == [f"{stem}.json"]


def test_attack_tensor_takes_noise(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    common = ["attack", "tensor", "--B", "2", "--m", "30000", "--json", "--out", str(tmp_path)]
    plain = json.loads(run(capsys, *common)[1])["rows"][0]["rmse"]
    noisy = run(capsys, *common, "--defense", "gradient-noise", "--sigma", "1")
    assert np.isfinite(plain) and json.loads(noisy[1])["rows"][0]["rmse"] > 2 * plain


@pytest.mark.parametrize("defense", ["local-aggregation", "gradient-clipping"])
def test_pictures_under_every_kind_of_parameter(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, defense: str
) -> None:
    """Words and infinities among a defense's parameters: drawn, saved, and drawn again."""
    common = ["attack", "tensor", "--B", "2", "--m", "4000", "--defense", defense, "--out", str(tmp_path)]
    code, _, err = run(capsys, *common)
    assert code == 0, err
    (picture,) = tmp_path.glob("*.png")
    code, _, err = run(
        capsys, "figures", "--from", str(tmp_path / "records"), "--out", str(tmp_path / "again")
    )
    assert code == 0, err
    assert (tmp_path / "again" / picture.name).read_bytes().startswith(b"\x89PNG")


def test_an_interrupt_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt("stopped; run it again to continue")

    monkeypatch.setattr("verify.cli.verify.sweep", interrupted)
    code, _, err = run(capsys, "verify", "all", "--quick", "--out", str(tmp_path))
    assert code == 130 and "run it again" in err


def test_module_and_script_are_the_same() -> None:
    found = shell("--help")
    assert found.returncode == 0 and b"Usage" in found.stdout, found.stderr
    assert shell().stdout == found.stdout
    assert shell("--version").stdout.startswith(b"reconbound ")


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m verify bound none --json | head -1", shell=True, cwd=ROOT, capture_output=True, text=True
    )  # fmt: skip
    assert done.stdout == "{\n" and done.stderr == ""
