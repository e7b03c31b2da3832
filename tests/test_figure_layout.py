"""What a figure's layout promises: keys that hide nothing, no point alone in a box, sizes for papers, axes of one's own."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from synthetic_records import make_experiment, make_point, make_record

from bounds import DPSGD, Dropout, GradientNoise, NoDefense
from verify import EXPERIMENTS, plot
from verify.draw.side_by_side import plot_side_by_side
from verify.measure.point import Point
from verify.measure.record import Record
from verify.studies.catalogue import STUDIES
from verify.studies.study import load

RECORDS = Path(__file__).resolve().parents[1] / "figures" / "records"


def hidden(figure: Figure) -> list[str]:
    """What stands under a legend: data, names of axes, titles."""
    figure.draw_without_rendering()
    legends = [*figure.legends, *(a.get_legend() for a in figure.axes)]
    boxes = [legend.get_window_extent() for legend in legends if legend is not None]
    found = []
    for axes in figure.axes:
        inside = axes.get_window_extent()
        for line in axes.lines:
            for x, y in line.get_transform().transform(np.asarray(line.get_xydata(), dtype=float)):
                found += [
                    f"data at {x:.0f}, {y:.0f}" for b in boxes if inside.contains(x, y) and b.contains(x, y)
                ]
        for axis in (axes.xaxis, axes.yaxis):  # with its values and its name
            around = axis.get_tightbbox()
            found += [
                f"an axis, {axis.get_label_text()!r}"
                for b in boxes
                if around is not None and b.overlaps(around)
            ]
        found += [
            axes.get_title() for b in boxes if axes.get_title() and b.overlaps(axes.title.get_window_extent())
        ]
        found += ["a panel" for b in boxes if b.overlaps(inside)]
    if figure.get_suptitle():
        title = figure._suptitle.get_window_extent()  # type: ignore[attr-defined]  # matplotlib has no other way to it
        found += ["the title" for b in boxes if b.overlaps(title)]
    return found


def test_a_legend_over_data_is_found_out() -> None:
    figure = Figure()
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], label="rising")
    axes.legend(loc="upper right")
    assert any(what.startswith("data") for what in hidden(figure)) and "a panel" in hidden(figure)


DEFENSES = (NoDefense(), Dropout(0.5, True), Dropout(0.5, False), GradientNoise(0.5))
MANY = [make_point(m=m, defense=d) for d in DEFENSES for m in (80_000, 320_000)]
ALONE = [make_point(moments=moments) for moments in ("residualized", "plain")]


def some(points: list[Point]) -> list[Record]:
    """Four trials at each point."""
    return [make_record(p, t, 0.1 + 0.01 * t + 1e-7 * p.m) for p in points for t in range(4)]


@pytest.mark.parametrize("width", [None, "page", "column"])
@pytest.mark.parametrize("points", [MANY, ALONE, ALONE[:1]], ids=["several widths", "rows", "one row"])
def test_the_key_hides_nothing_and_all_of_it_is_in_the_figure(points: list[Point], width: str | None) -> None:
    figure = plot(some(points), width=width)
    assert hidden(figure) == []
    inches = {None: 9.2, "page": 7.0, "column": 3.4}[width]
    assert figure.get_figwidth() == inches
    everything = figure.get_tightbbox()
    assert everything.x0 > -0.02 and everything.x1 < inches + 0.02
    assert everything.y0 > -0.02 and everything.y1 < figure.get_figheight() + 0.02


@pytest.mark.parametrize(
    "name", ["concentration", "odd"]
)  # the cheap ones; the others' legends are placed alike
def test_legends_of_studies_hide_nothing(name: str) -> None:
    (study,) = (s for s in STUDIES if s.name == name)
    assert hidden(study.draw(load(RECORDS / study.file))) == []


def test_legends_of_all_defenses_hide_nothing() -> None:
    common = EXPERIMENTS["undefended"].points[0]
    widths = [(m, Dropout(0.5, f)) for f in (True, False) for m in (80_000, 320_000)]
    strengths = [(320_000, DPSGD(1.0, z, per_sample=f)) for f in (True, False) for z in (0.001, 0.002)]
    records = [
        make_record(Point("e", common.features, 50, m, 2, defense=d), t, 0.1)
        for m, d in (*widths, *strengths)
        for t in range(2)
    ]
    assert hidden(plot_side_by_side(records)) == []


def test_labels_of_few_measured_defenses_are_whole_and_side_by_side() -> None:
    """As a quick run measures them: one at several widths, the others at two strengths and one width."""
    common = EXPERIMENTS["undefended"].points[0]
    points = [replace(common, m=m) for m in (20_000, 80_000)]
    for defenses in ((GradientNoise(0.5), GradientNoise(1.0)), (DPSGD(1.0, 0.001), DPSGD(1.0, 0.002))):
        points += [replace(common, m=40_000, defense=defense) for defense in defenses]
    figure = plot_side_by_side(some(points))
    figure.draw_without_rendering()
    assert hidden(figure) == [] and len(figure.axes) == 3
    assert not any(t.get_text() for axes in figure.axes for t in axes.texts)
    words = [text for axes in figure.axes for text in (axes.xaxis.label, axes.title)]
    assert "noise multiplier (m = 40 000, max norm = 1, per sample)" in [
        text.get_text().replace("\n", " ") for text in words
    ]
    boxes = [text.get_window_extent() for text in words]
    whole = figure.bbox
    assert all(whole.x0 <= b.x0 and b.x1 <= whole.x1 and whole.y0 <= b.y0 and b.y1 <= whole.y1 for b in boxes)
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


@pytest.mark.parametrize("width", ["page", "column"])
def test_the_long_name_of_an_axis_is_whole(width: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = " ".join(["standard deviation"] * 8)
    monkeypatch.setattr("verify.draw.curves.AXES", {"m": name})
    figure = plot(some(MANY[:2]), width=width)
    figure.draw_without_rendering()
    label = figure.axes[-1].xaxis.label
    box = label.get_window_extent()
    assert label.get_text().replace("\n", " ") == name
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0


@pytest.mark.parametrize("width", ["column", "page"])
def test_text_in_a_paper_is_seven_points_or_more_and_there_is_no_title(width: str) -> None:
    figure = plot(some(MANY[:4]), width=width)
    figure.draw_without_rendering()
    texts = [a.xaxis.label for a in figure.axes] + [a.yaxis.label for a in figure.axes]
    texts += [t for a in figure.axes for t in (*a.get_xticklabels(), *a.get_yticklabels())]
    sizes = [t.get_size() for t in texts]
    sizes += [t.get_size() for legend in figure.legends for t in legend.get_texts()]
    assert min(sizes) >= 7 and max(sizes) <= 10
    assert figure.get_suptitle() == ""


def test_a_column_is_saved_at_its_size_and_widths_out_of_range_are_refused(tmp_path: Path) -> None:
    records = some(ALONE[:1])
    plot(records, tmp_path / "column.png", width="column")
    with Image.open(tmp_path / "column.png") as picture:
        assert picture.width == round(3.4 * 300)
    for width, words in (("wide", "column, page"), (1.0, r"\[2.5, 20\]"), (float("nan"), "width")):
        with pytest.raises(ValueError, match=words):
            plot(records, width=width)


def test_axes_of_ones_own_get_the_errors_alone() -> None:
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    records = some([make_point(m=m, moments=k) for k in ("residualized", "plain") for m in (20_000, 80_000)])
    assert plot(records, ax=left) is figure and len(figure.axes) == 2
    assert left.get_xlabel() == "width m" and left.get_ylabel() == "error R"
    assert [t.get_text() for t in left.get_xticklabels()] == ["20 000", "80 000"]
    plot(some(ALONE), ax=right)
    assert [t.get_text() for t in right.get_yticklabels()] == ["residualized moments", "plain moments"]
    assert hidden(figure) == []
    with pytest.raises(ValueError, match="width must be None where ax is given"):
        plot(records, ax=left, width="column")
    for ax, error in ((figure, TypeError), (figure.add_subplot(projection="polar"), ValueError)):
        with pytest.raises(error, match="ax must be"):
            plot(records, ax=ax)


@pytest.mark.parametrize("wrong", [{"level": 2.0}, {"level": 0}, {"tolerance": -1}, {"tolerance": math.nan}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must"):
        plot(some(ALONE), **wrong)


def test_points_alone_are_rows_with_their_names_and_what_failed() -> None:
    points = [*ALONE, make_point(moments="residualized", defense=GradientNoise(0.5))]
    records = [
        make_record(p, t, None if (k, t) == (1, 0) else 0.0 if (k, t) == (0, 0) else 0.1 + 0.01 * t)
        for k, p in enumerate(points)
        for t in range(5)
    ]
    main, beside = plot(records, experiment=make_experiment(points)).axes
    assert [t.get_text().replace("\n", " ") for t in main.get_yticklabels()] == [
        "no defense, residualized moments 1 of 5 exact",
        "no defense, plain moments 1 of 5 failed",
        "gradient noise (sigma = 0.5), residualized moments",
    ]
    dots = [np.asarray(line.get_xydata()) for line in main.lines if line.get_alpha() == 0.35]
    assert [len(d) for d in dots] == [4, 4, 5], "an exact one is counted, not drawn"
    assert all(np.abs(d[:, 1] - row).max() < 0.5 for row, d in enumerate(dots)), "trials stay in their row"
    assert main.get_xlabel() == "error R" and beside.get_xlabel() == "measured /\npredicted"
    low, high = main.get_xlim()
    assert all(low < x < high for d in dots for x in d[:, 0] if x > 0)


def test_an_axis_of_errors_has_values_to_read_whatever_its_range() -> None:
    for ends in ((0.1, 0.104), (0.1, 0.2), (0.01, 1.0)):
        records = [make_record(make_point(m=m), t, e) for m in (20_000, 80_000) for t, e in enumerate(ends)]
        axes = plot(records).axes[0]
        axes.figure.draw_without_rendering()
        low, high = axes.get_ylim()
        told = [
            t.get_position()[1]
            for t in (*axes.get_yticklabels(), *axes.get_yticklabels(minor=True))
            if t.get_text() and low <= t.get_position()[1] <= high
        ]
        assert len(told) >= 3 and all(b > a for a, b in pairwise(sorted(told)))
