"""The measurement behind the two concentration statements, at small size."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from verify import cli, concentration
from verify.concentration import QUANTITIES, draw, load, study


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concentration, "BASE", {"d": 20, "m": 4_000, "B": 1})
    monkeypatch.setattr(concentration, "VALUES", {"d": (10, 80)})


def rms(values: object) -> float:
    return math.sqrt(float(np.mean(np.square(np.asarray(values)))))


@pytest.mark.usefixtures("small")
def test_the_same_neurons_cost_a_bias(tmp_path: Path) -> None:
    """d/m = 0.02: the bias of order d/m stands out of the noise of 12 trials (seed of the study); fresh neurons and
    leave one out do not have it."""
    found = study(12, tmp_path / "c.json")
    wide = found.values["d"][80]
    assert rms(wide["same"]) > 2 * rms(wide["fresh"])
    assert rms(wide["left_out"]) < rms(wide["same"]) / 1.5
    assert rms(wide["span"]) > rms(found.values["d"][10]["span"])
    results = {r.series: r for r in found.exponents()}
    assert set(results) == set(QUANTITIES)
    assert results["same"].slope > results["fresh"].slope
    again = load(tmp_path / "c.json")
    assert again.values == found.values
    figure = draw(again)
    assert len(figure.axes) == 1 and len(figure.axes[0].get_legend().get_texts()) == 4


@pytest.mark.usefixtures("small")
def test_it_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.json"
    whole = study(2, path).values
    saved = json.loads(path.read_text())
    del saved["values"]["d"]["80"]
    path.write_text(json.dumps(saved))
    ran = []
    trial = concentration._trial
    monkeypatch.setattr(concentration, "_trial", lambda **where: ran.append(where["d"]) or trial(**where))
    assert study(2, path).values == whole
    assert ran == [80, 80]


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text("[]")
    with pytest.raises(ValueError, match="path must be"):
        load(tmp_path / "c.json")


@pytest.mark.usefixtures("small")
def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*options: str) -> object:
        with pytest.raises(SystemExit) as exit:
            cli.main(["concentration", *options, "--out", str(tmp_path)])
        return exit.value.code

    assert run("--trials", "2", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["quantity"] for row in rows} == set(QUANTITIES)
    assert (tmp_path / "concentration.png").stat().st_size > 5_000
    assert run("--trials", "1") == 2
