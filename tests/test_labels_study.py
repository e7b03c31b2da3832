"""The comparison of strategies for labels, at small size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from verify.studies.labels import STRATEGIES, STUDY, _line, by_chance, trial
from verify.studies.study import Cell, run


def test_fresh_networks_show_their_labels_and_noise_of_twenty_sizes_hides_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a defense counting is exact in fresh networks, seed 0 to 2; what noise leaves is near what chance has: over
    three trials of 8 labels a share of .8 would be 3 standard deviations (.08) above it."""
    from bounds import GradientNoise
    from verify.studies import labels

    for seed in range(3):
        found = trial({"defense": "none", "epochs": 0, "B": 8}, seed)
        assert found["bias"] == found["ilrg"] == 1.0
    monkeypatch.setitem(labels.DEFENSES, "noise 1", (GradientNoise(300.0), True))  # type: ignore[arg-type]
    noisy = [trial({"defense": "noise 1", "epochs": 0, "B": 8}, seed)["bias"] for seed in range(3)]
    assert sum(noisy) / 3 < 0.8


def test_chance_is_counted() -> None:
    """Two labels of ten classes, by enumeration of all pairs of draws; 20,000 draws err by .002 (one deviation)."""
    exact = sum(
        min(a.count(c), b.count(c)) / 2
        for a in [(i, j) for i in range(10) for j in range(10)]
        for b in [(i, j) for i in range(10) for j in range(10)]
        for c in set(a)
    )
    assert by_chance(2) == pytest.approx(exact / 1e4, abs=0.005)


def test_the_study_tells_and_draws(tmp_path: Path) -> None:
    small = replace(STUDY, conditions=tuple(c for c in STUDY.conditions if not c["epochs"] and c["B"] != 8))
    found = run(small, tmp_path / STUDY.file, 2, progress=False)
    rows = STUDY.summary(found)
    assert len(rows) == 8 and all(set(row) == set(rows[0]) for row in rows)
    assert [row["yin"] is None for row in rows] == [row["B"] == 32 for row in rows]
    figure = STUDY.draw(found)
    assert len(figure.axes) == 8 and len(figure.legends[0].get_texts()) == len(STRATEGIES) + 1


@pytest.mark.filterwarnings("error")
def test_a_line_is_of_cells_with_results_and_one_result_has_no_bar() -> None:
    """Three results at 2 (mean .5, standard error .1), one at 8, none at 32, all of whose trials failed."""
    cells = {
        B: Cell({"B": B}, tuple({"llg": v} for v in values))
        for B, values in ((2, (0.3, 0.5, 0.7)), (8, (1.0,)), (32, ()))
    }
    axes = Figure().subplots()
    _line(axes, cells, "llg")
    line, _, (bars,) = axes.containers[0]
    assert line.get_xydata() == pytest.approx(np.array([[2.0, 0.5], [8.0, 1.0]]))
    low, high = bars.get_segments()[0][:, 1]
    assert high - low == pytest.approx(2 * 0.2 / 3**0.5)
    assert [len(segment) for segment in bars.get_segments()] == [2, 0]
