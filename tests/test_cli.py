"""The command line: what it prints, what it writes, and how it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bounds import DEFENSES, GradientNoise, Setting, evaluate
from verify import EXPERIMENTS, cli
from verify.measure.experiment import Reduced

SMALL = ["--quick", "--trials", "2", "--jobs", "1", "--only", "one-feature"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


@pytest.fixture
def small_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    """One experiment at one small point, so that a run takes a second."""
    full = EXPERIMENTS["one-feature"]
    points = tuple(replace(p, m=4_000, d=20) for p in full.points[:2])
    small = replace(full, points=points, rules=full.rules[:2], reduced=Reduced(4_000))
    monkeypatch.setattr(cli, "EXPERIMENTS", {"one-feature": small})


def test_bound_as_json_agrees_with_evaluate(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(
        capsys, "bound", "gradient-noise", "--sigma", "2", "--d", "50", "--m", "9000", "--B", "3", "--json"
    )
    assert code == 0
    found = json.loads(out)
    expected = evaluate(GradientNoise(sigma=2.0), Setting.orthonormal(50, 9000, 3))
    assert found["parameters"] == {"sigma": 2.0}
    assert found["bounds"]["predicted"]["value"] == expected.predicted
    assert found["bounds"]["rate"]["value"] == expected.rate_scale
    assert found["bounds"]["upper"]["trivial"] and "trivial" in found["bounds"]["upper"]["why"]
    assert found["bounds"]["lower"]["value"] is None and "not proved" in found["bounds"]["lower"]["why"]


@pytest.mark.parametrize("name", sorted(cli.NAMES))
def test_every_defense_has_its_options(capsys: pytest.CaptureFixture[str], name: str) -> None:
    options = [
        text
        for p in cli.NAMES[name].parameters()
        for text in (f"--{p.name.replace('_', '-')}", str(p.grid[0]))
    ]
    code, out, _ = run(capsys, "bound", name, *options)
    assert code == 0 and "predicted" in out
    assert run(capsys, "bound", name, *options, "--latex")[1].count("% ") >= 1


def test_names_cover_the_defenses() -> None:
    assert set(cli.NAMES.values()) == set(DEFENSES)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bound", "fog"], ["DEFENSE", "none", "'fog'"]),
        (["bound", "gradient-noise", "--sigma", "-1"], ["sigma", "[0,", "-1"]),
        (["bound", "gradient-noise", "--sigma", "nan"], ["sigma", "nan"]),
        (["bound", "none", "--sigma", "1"], ["none", "--sigma"]),
        (["bound", "none", "--B", "101"], ["B", "100", "101"]),
        (["bound", "none", "--m", "0"], ["m", "at least 1", "0"]),
        (["bound", "none", "--d", "1", "--m", "1", "--B", "1"], ["m", "larger than B"]),
        (["bound", "none", "--activation", "spline"], ["activation", "relu", "'spline'"]),
        (["bound", "none", "--moments", "third"], ["moments", "plain", "'third'"]),
        (["bound", "none", "--delta", "1"], ["delta", "1"]),
        (["verify", "fog"], ["DEFENSE", "all", "'fog'"]),
        (["verify", "all", "--only", "fog"], ["only", "'fog'"]),
        (["verify", "all", "--trials", "0"], ["trials", "at least 1", "0"]),
        (
            ["verify", "all", "--device", "abacus", "--jobs", "1", "--only", "one-feature", "--quick"],
            ["device"],
        ),
        (["figures", "--from", "nowhere"], ["from", "nowhere"]),
        (["attack", "tensor", "--images", "cats"], ["images", "'cats'"]),
        (["attack", "tensor", "--images", "mnist"], ["path"]),
        (["attack", "tensor", "--B", "0"], ["B", "0"]),
        (["attack", "tensor", "--m", "-5"], ["m", "-5"]),
        (["attack", "tensor", "--images", "cifar10", "--path", "nowhere"], ["nowhere"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    if arguments[0] == "verify" or arguments[:2] == ["attack", "tensor"]:
        arguments = [*arguments, "--out", str(tmp_path)]
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert len(err.strip().splitlines()) == 1 and err.startswith("reconbound: ")
    for word in words:
        assert word in err
    assert out == ""


def test_verify_writes_records_and_figures_and_resumes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, small_experiment: None
) -> None:
    code, out, _ = run(capsys, "verify", "none", *SMALL, "--out", str(tmp_path), "--json")
    assert code in (0, 1)  # two trials cannot decide; what is tested here is the plumbing
    summary = json.loads(out)
    assert summary["trials"] == 4 and len(summary["results"]) >= 2
    records = tmp_path / "records" / "one-feature-quick.jsonl"
    before = records.read_bytes()
    assert len(before.splitlines()) == 4
    for name in ("one-feature-quick.png", "summary.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    rows = (tmp_path / "verdicts.md").read_text().splitlines()
    assert len(rows) == 2 + len(summary["results"]) and len({row.count("|") for row in rows}) == 1
    assert all(
        r["verdict"] in row and r["series"] in row
        for r, row in zip(summary["results"], rows[2:], strict=True)
    )
    run(capsys, "verify", "none", *SMALL, "--out", str(tmp_path))
    assert records.read_bytes() == before  # nothing was run again
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
    monkeypatch.setattr("attack.tensor_attack", None)  # any attempt to attack would raise
    code, _, _ = run(capsys, "figures", "--from", str(tmp_path / "records"), "--out", str(tmp_path / "again"))
    assert code in (0, 1)
    assert (tmp_path / "again" / "one-feature-quick.png").read_bytes() == drawn


def test_figures_refuse_a_file_that_is_not_what_it_claims(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "x.jsonl").write_text('{"schema_version": 1}\n')
    code, _, err = run(capsys, "figures", "--from", str(tmp_path))
    assert code == 2 and "x.jsonl" in err and "line 1" in err


def test_attack_tensor_draws_originals_over_reconstructions(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, _ = run(
        capsys,
        *("attack", "tensor", "--B", "2", "--m", "3000", "--m", "30000", "--out", str(tmp_path), "--json"),
    )
    assert code == 0
    rows = json.loads(out)["rows"]
    assert [row["m"] for row in rows] == [3000, 30000]
    assert rows[1]["rmse"] < rows[0]["rmse"] < 1
    assert (tmp_path / "pictures-digits-B2.png").read_bytes().startswith(b"\x89PNG")


def test_attack_tensor_takes_noise(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    common = ["attack", "tensor", "--B", "2", "--m", "30000", "--json", "--out", str(tmp_path)]
    plain = json.loads(run(capsys, *common)[1])["rows"][0]["rmse"]
    noisy = run(capsys, *common, "--defense", "gradient-noise", "--sigma", "1")
    assert np.isfinite(plain) and json.loads(noisy[1])["rows"][0]["rmse"] > 2 * plain


def test_an_interrupt_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt("stopped; run it again to continue")

    monkeypatch.setattr(cli, "sweep", interrupted)
    code, _, err = run(capsys, "verify", "all", "--quick", "--out", str(tmp_path))
    assert code == 130 and "run it again" in err


def test_module_and_script_are_the_same() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "verify", "--help"],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0 and "Usage" in found.stdout, found.stderr
