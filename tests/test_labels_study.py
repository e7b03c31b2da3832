"""The comparison of strategies for labels, at small size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from verify.studies.labels import STRATEGIES, STUDY, _line, evenly, trial
from verify.studies.study import Cell, run


def test_fresh_networks_show_their_labels_and_noise_of_twenty_sizes_hides_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a defense counting is exact in fresh networks, seed 0 to 2; what noise leaves is near what is right without
    the gradient, .57: over three trials of 8 labels a share of .8 would be 3 standard deviations (.08) above it."""
    from bounds import GradientNoise
    from verify.studies import labels

    for seed in range(3):
        found = trial({"defense": "none", "epochs": 0, "B": 8}, seed)
        assert found["bias"] == found["ilrg"] == 1.0
    monkeypatch.setitem(labels.DEFENSES, "noise 1", (GradientNoise(300.0), True))  # type: ignore[arg-type]
    noisy = [trial({"defense": "noise 1", "epochs": 0, "B": 8}, seed)["bias"] for seed in range(3)]
    assert sum(noisy) / 3 < 0.8


@pytest.mark.parametrize(("B", "told"), [(2, 0.19), (8, 0.57), (32, 0.79)])
def test_without_the_gradient_classes_are_named_evenly(B: int, told: float) -> None:
    """Against 20,000 draws (seed 0), whose mean share errs by .002 at most (one deviation); drawing the labels that are
    named is worse by .01 (B = 2) to .12 (B = 8)."""
    draws = np.random.default_rng(0).multinomial(B, [0.1] * 10, size=(2, 20_000))
    named = np.bincount(np.arange(B) % 10, minlength=10)
    share = np.minimum(draws[0], named).sum(axis=1).mean() / B
    assert evenly(B) == pytest.approx(share, abs=0.008) and round(evenly(B), 2) == told
    at_random = np.minimum(*draws).sum(axis=1).mean() / B
    assert at_random < evenly(B) - 0.01


def test_the_study_tells_and_draws(tmp_path: Path) -> None:
    small = replace(STUDY, conditions=tuple(c for c in STUDY.conditions if not c["epochs"] and c["B"] != 8))
    found = run(small, tmp_path / STUDY.file, 2, progress=False)
    rows = STUDY.summary(found)
    assert len(rows) == 8 and all(set(row) == set(rows[0]) for row in rows)
    assert {row["B"]: row["without the gradient"] for row in rows} == {2: 0.19, 32: round(evenly(32), 3)}
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
