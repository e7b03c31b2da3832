"""The figure of all defenses: which trials enter, and that none is lost."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_records import make_record, simulated_records

from bounds import (
    Dropout,
    GradientNoise,
    GradientPruning,
    Kind,
    NoDefense,
    SecureAggregation,
    TensorAttack,
    evaluate,
)
from verify import EXPERIMENTS
from verify.cli.report import concluded
from verify.draw.side_by_side import PANELS, Panel, SideBySide, is_common, plot_side_by_side
from verify.experiments.beside import STRENGTH_WIDTH
from verify.experiments.defenses import SIDE_BY_SIDE_WIDTH
from verify.judge.base import bound_at
from verify.measure.features import Features
from verify.measure.groups import group_records
from verify.measure.point import Point

module = importlib.import_module("verify.draw.side_by_side")
COMMON = EXPERIMENTS["undefended"].points[0]
WIDTHS = [replace(COMMON, m=m) for m in (20_000, 80_000)]


def panels_of(points: list[Point]) -> dict[str, Panel]:
    return {p.title: p for p in SideBySide.of(simulated_records(points, 3)).panels}


def test_every_panel_can_be_filled_from_the_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against width for two features, and against strength at the width that is meant for it."""
    plain = evaluate(NoDefense(), COMMON.setting())  # which trials are drawn is the question, not where
    monkeypatch.setattr(importlib.import_module("verify.draw.curves"), "bounds_at", lambda point: plain)
    monkeypatch.setattr(module, "bound_at", lambda point, kind: plain[kind])
    records = [make_record(p) for e in EXPERIMENTS.values() for p in e.points if is_common(p)]
    panels = SideBySide.of(records).panels
    for panel in panels:
        assert panel.widths and panel.strengths, panel.title
        for c in (*panel.widths, *panel.strengths):
            assert c.other != isinstance(c.points[0].attack, TensorAttack)
        assert {p.m for c in panel.strengths if not c.other for p in c.points} == {SIDE_BY_SIDE_WIDTH}, (
            panel.title
        )
        assert {p.m for c in panel.strengths if c.other for p in c.points} == {STRENGTH_WIDTH}, panel.title
        tensor = [c for c in panel.widths if not c.other]
        assert all(c.name for c in tensor) or len(tensor) == 1, panel.title
        colour = {c.points[0].defense: c.colour for c in tensor}
        others = [c for c in panel.widths if c.other]
        assert others and all(colour[c.points[0].defense] == c.colour for c in others), panel.title
        if panel.title not in ("No defense", "Local aggregation", "Secure aggregation"):
            assert {p.B for p in panel.measured} == {2}, panel.title
    ratios = {p.title: p for p in panels}["Pruning"].strengths
    assert [c.x for c in ratios] == [(0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)] * 2


def test_trials_of_other_settings_do_not_enter() -> None:
    others = [
        replace(COMMON, d=40),
        replace(COMMON, features=Features("random", seed=3)),
        replace(COMMON, activation="gelu"),
        replace(COMMON, labels=(2.0, -1.0)),
        replace(COMMON, attack=TensorAttack(moments="plain")),
        replace(COMMON, B=3, labels=(), defense=GradientPruning(0.7)),
        replace(COMMON, B=2, defense=SecureAggregation(2)),
    ]
    assert not any(is_common(p) for p in others)
    panel = panels_of([*WIDTHS, *others])["No defense"]
    assert [c.points for c in panel.widths] == [
        tuple(replace(p, experiment="side-by-side") for p in WIDTHS)
    ], "one series, of the common setting"


def test_experiments_on_one_setting_are_put_together() -> None:
    again = [replace(p, experiment="another") for p in WIDTHS]
    (curve,) = panels_of([*WIDTHS, *again])["No defense"].widths
    assert [m.n for m in curve.measured] == [6, 6]
    assert curve.values(Kind.PREDICTED) == [bound_at(p, Kind.PREDICTED).value for p in WIDTHS]


def test_panels_say_what_is_missing_and_what_failed() -> None:
    """A point that is in both panels counts once; one at a width of its own is counted as not drawn."""
    both = [replace(p, defense=GradientNoise(1.0)) for p in WIDTHS]
    points = [*both, replace(both[1], defense=GradientNoise(2.0)), replace(COMMON, m=40_000)]
    figure = plot_side_by_side(simulated_records(points, 3, failures=1))
    titles = [axes.get_title() for axes in figure.axes]
    assert any("3 of 9 failed" in title for title in titles)
    told = figure.get_suptitle().replace("\n", " ")
    assert "Not drawn: 3 trials" in told and f"The tensor attack against 1 of {len(PANELS)} defenses" in told
    assert len(figure.axes) == 2, "a defense that was not measured has no panels"
    without = plot_side_by_side(simulated_records(both, 3))
    assert len(without.axes) == 1, "nor has one at a single strength a panel of strengths"
    assert without.axes[0].get_xlabel() == "width m (sigma = 1)"
    assert [t.get_text() for t in without.axes[0].get_xticklabels()] == ["20 000", "80 000"]
    assert without.get_suptitle().endswith("Error against width")
    nothing = plot_side_by_side(simulated_records(both[:1], 3))
    assert not nothing.axes and "Not drawn: 3 trials" in nothing.get_suptitle().replace("\n", " ")


def test_the_command_draws_it_where_there_is_something_to_compare(tmp_path: Path) -> None:
    for points, drawn in (
        (WIDTHS, False),
        ([*WIDTHS, *(replace(p, defense=GradientNoise(1.0)) for p in WIDTHS)], True),
    ):
        concluded([], simulated_records(points, 2), tmp_path, "svg")
        assert (tmp_path / "side-by-side.svg").exists() == drawn


def test_every_trial_drawn_is_inside_the_frame() -> None:
    wide = [replace(COMMON, m=m) for m in (5_000, 5_000_000)]
    records = simulated_records(wide, 3)
    axes = plot_side_by_side(records).axes[0]
    (low, high), (left, right) = axes.get_ylim(), axes.get_xlim()
    errors = [seen.rmse for group in group_records(records).values() for seen in group if seen.rmse]
    assert low < min(errors) < max(errors) < high and left < 5_000 < 5_000_000 < right


def test_strengths_are_compared_at_one_width_and_told_apart() -> None:
    points = [
        replace(COMMON, m=m, defense=Dropout(p, per_sample=f))
        for m in (20_000, 80_000)
        for f in (True, False)
        for p in ((0.2, 0.5) if m == 20_000 else (0.2, 0.5, 0.8))
    ]
    points += [replace(COMMON, B=2 * n, labels=(), defense=SecureAggregation(n)) for n in (1, 2, 3)]
    panels = panels_of(points)
    assert [c.name for c in panels["Dropout"].strengths] == ["per sample", "not per sample"]
    assert [c.x for c in panels["Dropout"].strengths] == [(0.2, 0.5, 0.8)] * 2
    assert len(panels["Dropout"].widths) == 4
    assert panels["Dropout"].widths[0].name == "p = 0.2, per sample"
    (clients,) = panels["Secure aggregation"].strengths
    assert clients.x == (1, 2, 3) and [p.B for p in clients.points] == [2, 4, 6]


def test_the_floor_is_drawn_where_there_is_one() -> None:
    points = [replace(COMMON, m=m, defense=GradientPruning(0.7)) for m in (20_000, 80_000)]
    (curve,) = panels_of(points)["Pruning"].widths
    floors = curve.values(Kind.FLOOR)
    assert floors[0] == pytest.approx(0.148, abs=5e-4)
    assert floors[1] == pytest.approx(floors[0], rel=1e-6)
    (undefended,) = panels_of(WIDTHS)["No defense"].widths
    assert all(math.isnan(v) for v in undefended.values(Kind.FLOOR))
