"""What a person meets first: names that are nearly right, numbers as they are written, tables that say what they hold,
whatever a run has left as a place to draw from, and nothing loaded that is not needed."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path
from typing import get_args

import pytest
from synthetic_records import make_point, make_record

import verify
from bounds import (
    ACTIVATIONS,
    Evaluation,
    GradientNoise,
    Kind,
    NoDefense,
    Setting,
    checks,
    evaluate,
    expression,
    serial,
)
from bounds.setting import MEANINGS, SIZES
from verify import append_record, cli
from verify.cli.app import COMMANDS
from verify.cli.options import count, span
from verify.measure.files import compact
from verify.measure.saved import Saved
from verify.studies.deep import NAMES as DEEP_ACTIVATIONS
from verify.studies.deep import activation_of

ROOT = Path(__file__).parents[1]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


# --- what is loaded ---------------------------------------------------------------------------------------------------

LOADS = """
import sys
from importlib import import_module
heavy = ("torch", "matplotlib", "sklearn", "hypothesis", "joblib", "pandas",
         "scipy.special", "scipy.optimize", "scipy.stats")
commands = ("bound", "check", "figures", "study", "attack", "export", "bench")
for name in ("verify.measure.trial", "verify.judge", "verify.search.check_bound", "verify.studies.catalogue",
             "verify.export", *(f"verify.cli.{command}" for command in commands)):
    import_module(name)
    found = [library for library in heavy if library in sys.modules]
    if found:
        raise SystemExit(f"{name} loads {', '.join(found)}")
assert "sympy" in sys.modules and "numpy" in sys.modules
"""


def test_no_module_loads_a_library_before_something_needs_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADS], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_activations_of_the_deep_study_are_made_when_asked_for() -> None:
    for name in DEEP_ACTIVATIONS:
        assert activation_of(name) is activation_of(name)
    assert activation_of("ReLU") is ACTIVATIONS["relu"]
    assert activation_of("leaky ReLU, slope 0.3").kinks == (0.0,)


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["verfy", "all"], "verify"),
        (["bound", "gradient-nois"], "gradient-noise"),
        (["bound", "Gradient_Noise"], "gradient-noise"),
        (["bound", "noise"], "gradient-noise"),
        (["bound", "none", "--activation", "gelo"], "gelu"),
        (["bound", "none", "--moments", "residual"], "residualized"),
        (["verify", "drop-out"], "dropout"),
        (["verify", "all", "--only", "one-featur"], "one-feature"),
        (["study", "first_layer"], "first-layer"),
        (["attack", "tensor", "--images", "digit"], "digits"),
        (["check", "math:sqr", "--kind", "upper"], "sqrt"),
        (["check", "math:sqrt", "--kind", "uper"], "upper"),
        (["figures", "--from", "figures", "--format", "pngg"], "png"),
    ],
)
def test_an_unknown_name_brings_the_closest_one(
    capsys: pytest.CaptureFixture[str], arguments: list[str], meant: str
) -> None:
    code, out, err = run(capsys, *arguments)
    assert code == 2 and out == "" and len(err.splitlines()) == 1
    assert re.search(rf"[Dd]id you mean '{meant}'\?", err), err


def test_an_unknown_name_brings_the_closest_one_in_python_too() -> None:
    with pytest.raises(ValueError, match=r"got 'rely'; did you mean 'relu'\?$"):
        Setting.orthonormal(10, 100, 2, "rely")
    with pytest.raises(ValueError, match=r"; did you mean 'predicted'\?$"):
        expression(NoDefense(), "prediction")
    with pytest.raises(ValueError, match=r"; did you mean 'dropout'\?$"):
        serial.defense_from_dict({"name": "drop_out", "p": 0.5})
    with pytest.raises(AttributeError) as caught:
        _ = verify.swep
    assert (caught.value.name, caught.value.obj) == ("swep", verify)  # what Python's own suggestion asks for


@pytest.mark.parametrize("value", ["fog", "", 3, None, ["relu"]])
def test_nothing_is_suggested_where_nothing_is_close(value: object) -> None:
    assert checks.nearest(value, ACTIVATIONS) == ""
    with pytest.raises(ValueError, match=rf"got {re.escape(repr(value))}$"):
        checks.choice("activation", value, ACTIVATIONS)


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_a_range_is_one_number_or_two() -> None:
    assert span("m", "1e3:32e3") == (1_000, 32_000)
    assert span("m", "1e5") == (100_000, 100_000)


@pytest.mark.parametrize("text", ["1.5", "1:2.5", "1:2:3", "", ":", "1e", "many"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^m must be a whole number"):
        span("m", text)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_whole_number_of_a_command_may_be_written_as_a_float(name: str) -> None:
    """No option is left to typer's own integers, which refuse 1e5."""
    for command in import_module(f"verify.cli.{name}").app.registered_commands:
        for option in inspect.signature(command.callback, eval_str=True).parameters.values():
            kind, *declared = get_args(option.annotation) or (option.annotation,)
            if {int, list[int]} & {kind, *get_args(kind)}:
                assert [info.parser for info in declared] == [count], option


# --- tables -----------------------------------------------------------------------------------------------------------


def test_the_version_is_the_installed_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "version", {"reconbound": "9.8.7"}.__getitem__)
    assert run(capsys, "--version") == (0, "reconbound 9.8.7\n", "")


def test_an_evaluation_shows_itself_as_a_table() -> None:
    found = evaluate(GradientNoise(sigma=1.0), Setting.orthonormal(100, 160_000, 2, "relu"))
    head, *lines = repr(found).splitlines()
    assert head.split() == ["kind", "value", "statement"]
    assert [line.split()[0] for line in lines] == [str(kind) for kind in Kind]
    start = head.index("statement")
    for line, bound in zip(lines, found.values(), strict=True):
        shown = "None" if bound.value is None else f"{bound.value:.5g}"
        assert line[head.index("value") : start].strip() == shown
        assert line[start:] == bound.why


def test_every_symbol_has_a_meaning_and_constants_are_told_where_they_are_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert SIZES.keys() == MEANINGS.keys()
    setting = ("--d", "50", "--m", "2e5", "--B", "1")
    code, out, _ = run(capsys, "bound", "none", *setting)
    told = " ".join(out.split())
    details = evaluate(NoDefense(), Setting.orthonormal(50, 200_000, 1, "relu"))[Kind.UPPER].details
    assert code == 0 and f"K_upper = {details['K_upper']:.5g}: {MEANINGS['K_upper']}" in told
    assert f"K_par = 0: {MEANINGS['K_par']}" in told
    _, out, _ = run(capsys, "bound", "none", *setting, "--latex")
    assert f"% K_perp: {MEANINGS['K_perp']}" in out.splitlines()
    _, out, _ = run(capsys, "bound", "gradient-noise", "--sigma", "1", "--json")
    bounds = json.loads(out)["bounds"]
    assert bounds["upper"]["symbols"] == {name: MEANINGS[name] for name in ("B", "K_upper", "d", "m")}
    assert bounds["lower"]["symbols"] == {
        name: MEANINGS[name] for name in ("B", "I_lower", "P_lower", "d", "m")
    }
    _, out, _ = run(capsys, "bound", "gradient-noise", "--sigma", "1")
    assert "2 (trivial)" in out and f"K_upper: {MEANINGS['K_upper']}" in " ".join(out.split())


def test_from_where_on_the_readme_s_bound_is_not_the_trivial_one() -> None:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    said = re.search(
        r"reconbound bound gradient-noise --sigma 1 --d 100 --m (\S+) --B 2 \S+ +UPPER (\S+), PREDICTED (\S+); "
        r"UPPER is trivial before m = ([\d ]+\d)",
        text,
    )
    assert said
    m, first = count(said[1]), int(said[4].replace(" ", ""))

    def at(width: float) -> Evaluation:
        return evaluate(GradientNoise(sigma=1.0), Setting.orthonormal(100, int(width), 2, "relu"))

    assert at(0.95 * first)[Kind.UPPER].trivial and not at(first)[Kind.UPPER].trivial
    shown = at(m)
    assert (shown.upper, shown.predicted) == pytest.approx((float(said[2]), float(said[3])), abs=5e-4)


# --- what a run has left ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [".jsonl", ".json"])
def test_figures_come_from_whatever_a_run_has_left(tmp_path: Path, form: str) -> None:
    made = tmp_path / "run"
    lines = made / "records" / "demo.jsonl"
    lines.parent.mkdir(parents=True)
    for trial in range(3):
        append_record(lines, make_record(make_point(), trial, 0.0134))
    if form == ".json":
        compact(lines)
    (made / "demo.png").write_bytes(b"")
    (made / "verdicts.md").write_text("old")
    kept = lines.with_suffix(form)
    for source in (made, lines.parent, kept):
        saved = Saved.find("--from", source)
        assert (saved.directory, list(saved.records)) == (lines.parent, [kept])


def test_a_run_s_own_directory_is_drawn_into_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "records").mkdir()
    for trial in range(2):
        append_record(tmp_path / "records" / "demo.jsonl", make_record(make_point(), trial, 0.0134))
    code, out, err = run(capsys, "figures", "--from", str(tmp_path), "--json")
    assert code in (0, 1) and err == ""
    assert json.loads(out)["figures"] == str(tmp_path) and json.loads(out)["trials"] == 2
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")  # where the run itself drew


def test_one_file_is_redrawn_alone(tmp_path: Path) -> None:
    for name in ("one", "other"):
        append_record(tmp_path / f"{name}.jsonl", make_record(make_point(name)))
    (tmp_path / "study-odd.json").write_text("{}")
    saved = Saved.find("--from", tmp_path / "one.jsonl")
    assert [p.name for p in saved.records] == ["one.jsonl"] and not saved.studies
    assert [p.name for p in Saved.find("--from", tmp_path / "study-odd.json").studies] == ["study-odd.json"]


def test_what_holds_nothing_to_draw_is_refused(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    (tmp_path / "notes.txt").write_text("")
    for source in (tmp_path, tmp_path / "records", tmp_path / "notes.txt"):
        with pytest.raises(
            ValueError, match=rf"--from must hold records .* got none in {re.escape(str(source))}$"
        ):
            Saved.find("--from", source)
    with pytest.raises(ValueError, match=r"^--from must be a directory or a file"):
        Saved.find("--from", tmp_path / "nowhere")
