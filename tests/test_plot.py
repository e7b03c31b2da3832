"""Figures: drawn from records alone, every trial and every failure visible, theory where theory says, kinds
told apart."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image
from synthetic_records import make_experiment, make_point, make_record, simulated_records

from bounds import Dropout, Evaluation, GradientNoise, Kind, StochasticRounding, evaluate
from verify import EXPERIMENTS, plot, plot_summary
from verify.draw.side_by_side import plot_side_by_side
from verify.draw.style import GUIDE
from verify.experiments.own import own_experiment
from verify.judge.base import bound_at
from verify.judge.compare import compare
from verify.judge.floor import FloorCheck
from verify.judge.predicted import ImprovementCheck, PredictedCheck
from verify.judge.rate import RateCheck
from verify.judge.upper import UpperCheck
from verify.measure.experiment import Experiment
from verify.measure.features import Features
from verify.measure.point import Point
from verify.measure.record import append_record

WIDTHS = (20_000, 40_000, 80_000)
POINTS = [make_point(m=m, moments=moments) for moments in ("residualized", "plain") for m in WIDTHS]
TRIALS = 12


@pytest.fixture(scope="module")
def drawn() -> Figure:
    """Two series at three widths, drawn once for all tests that only look at it."""
    return plot(simulated_records(POINTS, TRIALS))


def words(figure: Figure) -> str:
    texts = [t.get_text() for axes in figure.axes for t in axes.texts]
    for legend in [*figure.legends, *(a.get_legend() for a in figure.axes)]:
        texts += [t.get_text() for t in legend.get_texts()] if legend is not None else []
    texts += [t.get_text() for axes in figure.axes for t in axes.get_yticklabels()]
    return "\n".join([*texts, figure.get_suptitle()])


def lines(axes: Axes, **wanted: object) -> list[np.ndarray]:
    """(x, y) of the lines with these properties."""
    return [
        np.array(line.get_data(), dtype=float)
        for line in axes.lines
        if all(getattr(line, f"get_{k}")() == v for k, v in wanted.items())
    ]


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_the_suffix_chooses_the_format_and_equal_records_give_equal_bytes(
    suffix: str, tmp_path: Path
) -> None:
    records = simulated_records(POINTS[:2], 3)
    files = []
    for name in ("a", "b"):
        plot(records, tmp_path / f"{name}.{suffix}")
        files.append((tmp_path / f"{name}.{suffix}").read_bytes())
    assert files[0] == files[1]
    assert files[0].startswith({"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[suffix])
    if suffix == "pdf":
        assert b"/Type3" not in files[0] and b"/FontFile2" in files[0], "letters, not drawings of them"
    if suffix == "png":
        with Image.open(tmp_path / "a.png") as picture:
            assert picture.format == "PNG" and 800 < picture.width < 1300
            assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 50
        assert len(files[0]) < 300_000


def test_every_trial_is_a_dot_at_its_error() -> None:
    records = simulated_records(POINTS, TRIALS, failures=2)
    figure = plot(records)
    dots = lines(figure.axes[0], marker="o", alpha=0.35)
    assert [d.shape for d in dots] == [(2, TRIALS - 2)] * len(POINTS)
    drawn = np.sort(np.concatenate([d[1] for d in dots]))
    np.testing.assert_array_equal(
        drawn, sorted(r.outcome.rmse for r in records if r.outcome.rmse is not None)
    )
    for at, d in zip(WIDTHS * 2, dots, strict=True):
        assert np.all(np.abs(np.log(d[0] / at)) < 0.03), "jitter must not move a trial to another width"


def test_failures_are_marked_and_counted_where_they_happened() -> None:
    records = simulated_records(POINTS[:2], TRIALS, failures=2)
    records += [make_record(POINTS[2], t, None) for t in range(5)]
    figure = plot(records)
    main = figure.axes[0]
    assert [float(c[0, 0]) for c in lines(main, marker="x")] == list(WIDTHS)
    text = words(figure)
    assert text.count("2 of 12 failed") == 2 and text.count("5 of 5 failed") == 1
    assert "2 inconclusive" in text or "uninformative" in text
    top = main.get_ylim()[1]
    height = (np.log(max(r.outcome.rmse or 0 for r in records)) - np.log(main.get_ylim()[0])) / np.log(
        top / main.get_ylim()[0]
    )
    assert height < 0.95, "the row of failures stands clear of the data"


def test_theory_is_drawn_where_theory_says(drawn: Figure) -> None:
    solid = [s for s in lines(drawn.axes[0], linestyle="-") if s.shape[1] == len(WIDTHS)]
    assert len(solid) == 2
    for (x, y), points in zip(solid, (POINTS[:3], POINTS[3:]), strict=True):
        assert x.tolist() == list(WIDTHS)
        assert y.tolist() == [bound_at(p, Kind.PREDICTED).value for p in points]


def test_a_prediction_at_one_width_alone_is_seen() -> None:
    """Theory that has nothing to say beside it draws no line there."""
    points = [make_point(m=m, defense=Dropout(0.9)) for m in (20_000, 80_000)]
    stated = [bound_at(p, Kind.PREDICTED).value for p in points]
    assert stated[0] is None and stated[1] is not None
    records = [make_record(p, t, 0.2 + 0.01 * t) for p in points for t in range(3)]
    (dash,) = lines(plot(records, experiment=make_experiment(points)).axes[0], marker="_")
    assert np.isnan(dash[1, 0]) and dash[1, 1] == stated[1]


def test_the_rate_is_a_thin_grey_guide_above_all_data_with_its_verdict(drawn: Figure) -> None:
    main = drawn.axes[0]
    (guide,) = [line for line in main.lines if line.get_color() == GUIDE["color"]]
    colour = to_hex(guide.get_color())
    assert colour[1:3] == colour[3:5] == colour[5:7] and guide.get_linewidth() < 1
    x, y = (np.asarray(v, dtype=float) for v in guide.get_data())
    assert np.log(y[1] / y[0]) / np.log(x[1] / x[0]) == pytest.approx(-0.5)
    for at, height in np.concatenate(lines(main, marker="o", alpha=0.35), axis=1).T:
        assert height < y[0] * (at / x[0]) ** -0.5 / 1.1
    assert "RATE, order only, slope −1/2: 2 inconclusive" in words(drawn).replace("\n", " ")


def test_a_rate_is_drawn_nowhere_without_a_verdict() -> None:
    """Neither where an experiment does not ask for it, nor against another variable."""
    points = [make_point(B=B, d=20) for B in (1, 2, 4)]
    records = simulated_records(points, TRIALS)
    unasked = plot(records, experiment=make_experiment(points))
    assert unasked.axes[1].get_xlabel() == "batch size B"
    asked = plot(records, x="B")
    for figure, dashed in ((unasked, 0), (asked, 1)):
        assert len([line for line in figure.axes[0].lines if line.get_color() == GUIDE["color"]]) == dashed
        assert ("RATE" in words(figure)) == bool(dashed)
    assert "RATE, upper order only, slope 1: holds, not tight" in words(asked).replace("\n", " ")


def test_the_ratio_panel_shows_measured_over_predicted() -> None:
    records = simulated_records(POINTS[:3], TRIALS, factor=1.05)
    figure = plot(records)
    ratios = [float(r[1, 0]) for r in lines(figure.axes[1], marker="o")]
    for ratio, point in zip(ratios, POINTS[:3], strict=True):
        rms = np.sqrt(
            np.mean(
                [r.outcome.rmse**2 for r in records if r.point.m == point.m and r.outcome.rmse is not None]
            )
        )
        assert ratio == pytest.approx(rms / bound_at(point, Kind.PREDICTED).value)


def test_plain_and_residualized_are_told_apart_by_colour_and_marker(drawn: Figure) -> None:
    text = words(drawn)
    assert {"residualized moments", "plain moments"} <= set(text.split("\n"))
    assert "relu, orthonormal (seed 3), d = 50, B = 2, no defense" in text, "the title has what they share"
    looks = {
        (line.get_color(), line.get_marker()) for line in drawn.axes[1].lines if line.get_marker() != "None"
    }
    assert len({c for c, _ in looks}) == len({m for _, m in looks}) == 2


def test_verdicts_are_counted_in_the_figure_and_told_in_full_in_its_caption(tmp_path: Path) -> None:
    experiment = make_experiment(POINTS)
    records = simulated_records(POINTS, 300, factor=1.2)
    results = compare(records, experiment)
    assert [r.verdict for r in results] == ["fails", "fails"]
    text = words(plot(records, tmp_path / "own.svg", experiment))
    assert "PREDICTED: 2 fail" in text and "rms 0" not in text
    (told,) = tmp_path.glob("*.txt")
    assert told.name == "own.caption.txt"
    paragraph, *verdicts = told.read_text("utf-8").strip().split("\n\n")
    assert (
        "A demonstration. relu, orthonormal (seed 3), d = 50, B = 2, no defense, tensor attack."
        in paragraph.replace("\n", " ")
    )
    assert verdicts[0].split("\n") == [
        f"PREDICTED m = 80 000, {name}: {r.text}"
        for name, r in zip(("residualized", "plain"), results, strict=True)
    ]


def test_verdicts_without_a_line_are_counted_in_the_key_too() -> None:
    """Of a bound that is vacuous there; of a floor of zero, which no logarithm has."""
    points = [make_point(m=m, d=20, defense=StochasticRounding(1.0)) for m in (20_000, 40_000)]
    assert [bound_at(p, Kind.FLOOR).value for p in points] == [0, 0]
    rules = (PredictedCheck(), UpperCheck(), FloorCheck())
    figure = plot(simulated_records(points, 3), experiment=make_experiment(points, rules=rules))
    told = {t.get_text().replace("\n", " ") for t in figure.legends[0].get_texts()}
    assert {
        "UPPER: 2 uninformative",
        "FLOOR = 0 (not drawn): 1 uninformative",
        "PREDICTED: inconclusive",
        "tolerance: 1 ± 0.03",
    } <= told
    unasked = words(plot(simulated_records(points, 3), experiment=make_experiment(points)))
    assert "FLOOR = 0 (not drawn)\n" in unasked and "UPPER" not in unasked


def test_a_setting_of_ones_own_is_said_once() -> None:
    own = own_experiment(GradientNoise(0.7), d=40, activation="gelu", m=(2_000, 4_000))
    figure = plot([make_record(p, t) for p in own.points for t in range(3)], experiment=own)
    title, setting = figure.get_suptitle().split("\n", 1)
    assert title == "Gradient noise, a setting of your own"
    assert setting.startswith("gelu, random, d = 40, B = 2, gradient noise (sigma = 0.7)")
    assert own_experiment().title == "No defense, a setting of your own"


def test_an_experiment_about_another_variable_is_drawn_against_it() -> None:
    points = [make_point(d=20, m=400_000, defense=GradientNoise(s)) for s in (4.0, 8.0)]
    experiment = make_experiment(points, rules=(RateCheck("sigma"),))
    figure = plot(simulated_records(points, 30), experiment=experiment)
    assert figure.axes[1].get_xlabel() == "standard deviation of the noise σ"
    assert "slope 1:" in words(figure).replace("\n", " ")
    with pytest.raises(ValueError, match=r"x must be one of m, d, B, sigma, .*, strength; got 'k'"):
        plot(simulated_records(points, 3), x="k")


def test_the_summary_has_a_row_for_every_experiment_failed_trials_too() -> None:
    lost = make_point("lost")
    records = [*simulated_records(POINTS, 100, factor=1.2), *(make_record(lost, t, None) for t in range(4))]
    results = compare(records, check=PredictedCheck())
    assert [r.verdict for r in results] == ["fails", "fails", "fails"]
    figure = plot_summary(results)
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["demo", "lost"]
    text = words(figure)
    assert "2 fails; n = 100" in text and "1 fails; n = 0, 4 failed" in text
    drawn = sorted(float(x[0]) for x, _ in lines(axes, marker="X", linestyle="None"))
    np.testing.assert_allclose(drawn, sorted(r.ratio for r in results if r.n))


def test_no_records_no_figure() -> None:
    with pytest.raises(ValueError, match="records must hold at least one trial"):
        plot([])
    with pytest.raises(ValueError, match="results must hold at least one comparison"):
        plot_summary([])


WITHOUT_ATTACK = """
import sys
sys.path[:0] = {path!r}
from verify import compare, plot, plot_summary, read_records
records = read_records({file!r})
plot(records, {out!r})
plot_summary(compare(records, kind="predicted"), {out!r} + ".summary.png")
sys.exit("imported needlessly" if {{"torch", "attack"}} & set(sys.modules) else 0)
"""


def test_drawing_needs_no_attack_and_no_torch(tmp_path: Path) -> None:
    file, out = tmp_path / "r.jsonl", tmp_path / "r.png"
    for record in simulated_records(POINTS[:2], 2):
        append_record(file, record)
    script = WITHOUT_ATTACK.format(path=sys.path, file=str(file), out=str(out))
    subprocess.run([sys.executable, "-c", script], check=True)
    assert out.exists() and Path(f"{out}.summary.png").exists()


def test_bounds_of_the_span_are_drawn_with_the_distance_from_it() -> None:
    """Points of two features where R's bound is trivial and the span's is not."""
    point = Point("span", Features("orthonormal", 1), 20, 1_000_000, 2, labels=(3.0, -3.0))
    experiment = Experiment("span", "Span", (point,), (UpperCheck(0.05, "span"),))
    records = [make_record(point, t, 0.01) for t in range(5)]
    figure = plot(records, experiment=experiment)
    assert figure.axes[0].get_xlabel() == "distance from the span"
    results = compare(records, experiment)
    assert [r.verdict for r in results] == ["inconclusive"]
    assert "span: 0 of 5" in results[0].text
    high = [make_record(point, t, 1.0) for t in range(5)]
    assert [r.verdict for r in compare(high, experiment, baseline=9.0)] == ["fails"]


def test_strengths_at_one_width_are_drawn_against_strength() -> None:
    points = [
        make_point(m=640_000, defense=Dropout(p, per_sample=f))
        for f in (True, False)
        for p in (0.2, 0.5, 0.8)
    ]
    figure = plot(simulated_records(points, TRIALS), experiment=make_experiment(points))
    main, below = figure.axes[:2]
    assert below.get_xlabel() == "dropout: p" and main.get_xscale() == "linear"
    assert len(lines(main, linestyle="-", linewidth=1.6)) == 2, "one prediction for each form"
    assert [t.get_text() for t in below.get_xticklabels()] == ["0.2", "0.5", "0.8"]


def test_the_costly_upper_bound_is_drawn_where_a_check_asks_for_it_and_computed_nowhere_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    points = [make_point(B=1, d=20, m=m) for m in (160_000, 320_000)]
    records = simulated_records(points, TRIALS)
    asked = make_experiment(points, rules=(UpperCheck(),))
    assert "UPPER" in words(plot(records, experiment=asked))

    def without(point: Point, delta: float) -> Evaluation:
        stated = evaluate(point.defense, point.setting(), point.attack, delta)
        return Evaluation(
            {k: (lambda: pytest.fail("computed")) if k is Kind.UPPER else stated[k] for k in Kind}
        )

    monkeypatch.setattr("verify.judge.base._bounds_at", without)
    assert "UPPER" not in words(plot(records, experiment=make_experiment(points)))


def test_another_suffix_is_refused_before_anything_is_drawn() -> None:
    for draw in (plot, plot_summary, plot_side_by_side):
        with pytest.raises(ValueError, match=r"suffix must be one of \.png, \.pdf, \.svg; got '\.jpg'"):
            draw([], "figure.jpg")


@pytest.mark.parametrize("exact", [3, TRIALS])
def test_exact_recovery_is_counted_and_no_logarithm_of_it_is_taken(exact: int) -> None:
    """R = 0 in some trials, and in all of them."""
    records = [
        make_record(p, t, 0.0 if t < exact else 0.1 + 0.01 * t) for p in POINTS[:2] for t in range(TRIALS)
    ]
    figure = plot(records)
    assert words(figure).count(f"{exact} of {TRIALS} exact") == 2
    assert all(np.isfinite(axes.get_ylim()).all() for axes in figure.axes)
    for kind in Kind:
        compare(records, kind=kind)
    plot_summary(compare(records, kind="predicted")).draw_without_rendering()
    common = [replace(EXPERIMENTS["undefended"].points[0], m=m) for m in (20_000, 80_000)]
    both = plot_side_by_side([make_record(p, t, 0.0) for p in common for t in range(3)])
    both.draw_without_rendering()
    assert any("6 of 6 exact" in axes.get_title() for axes in both.axes)


def test_groups_that_failed_throughout_are_drawn_and_judged() -> None:
    records = [make_record(p, t, None) for p in POINTS for t in range(4)]
    assert words(plot(records)).count("4 of 4 failed") == len(POINTS)
    for kind in Kind:
        assert all(r.verdict in ("fails", "uninformative") for r in compare(records, kind=kind))
    assert compare(records, check=ImprovementCheck())[0].verdict == "uninformative"
    common = [replace(EXPERIMENTS["undefended"].points[0], m=m) for m in (20_000, 80_000)]
    both = plot_side_by_side([make_record(p, t, None) for p in common for t in range(3)])
    assert any("6 of 6 failed" in axes.get_title() for axes in both.axes)
