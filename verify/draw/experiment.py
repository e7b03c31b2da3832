"""Figures from saved records alone; no attack is run.

Every trial is shown, and every failure. Kinds of statement are drawn differently: PREDICTED as a solid line;
RATE, which has no constant, as a thin grey guide above the data, with the verdict on its slope; UPPER and LOWER with
triangles pointing where the truth has to be. The key beside the panels, never on them, names each series by what tells it
from the others; the verdicts in full are in a caption beside the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bounds import checks
from verify.draw.caption import write_caption
from verify.draw.key import key_handles
from verify.draw.panels import draw_errors, draw_ratios
from verify.draw.rows import draw_error_rows, draw_ratio_rows
from verify.draw.shown import Shown, natural_axis, natural_checks, natural_tolerance
from verify.draw.style import AXES, Look, checked_path, legend_below, save_figure, wrapped
from verify.judge.base import Conduct, Groups
from verify.judge.compare import judged
from verify.judge.statistics import LEVEL
from verify.judge.verdict import Result
from verify.measure.experiment import Experiment
from verify.measure.groups import group_records
from verify.measure.record import Record


def plot(
    records: Iterable[Record],
    path: str | Path | None = None,
    experiment: Experiment | None = None,
    *,
    x: str | None = None,
    tolerance: float | None = None,
    level: float = LEVEL,
    width: float | str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Error against ``x`` (a key of ``AXES``; None: what the experiment's rate is about, else what varies at its one
    width, else "m"), log-log (a share between 0 and 1: linear), one colour for each series, with the ratio to PREDICTED
    below (band: 1 ± tolerance; None: the experiment's own, else 0.03). Where no series has two points, each is a row. A
    statement that takes long to compute (UPPER) is drawn where the experiment checks it or there is no experiment. Returns
    matplotlib's figure, and writes it to ``path`` if one is given: PNG, PDF or SVG by its suffix; its caption, with every
    verdict in full, to NAME.caption.txt beside it.

    width: None for a screen; "column" (3.4 inches), "page" (7) or inches for a paper, without a title, in text that can be
    read at that size. ax: draw the errors alone into these axes, a legend below them, and return their figure.

    Verdicts are those of ``compare``, by the experiment's rules, if one is given, else by those natural to ``x``. Raises
    ``ValueError`` for an unknown ``x`` or suffix, a number out of range, a ``width`` beside ``ax``, axes that are not
    rectilinear, or no records, ``TypeError`` for an ``ax`` that is no axes, and whatever ``compare`` raises.
    """
    _checked(path, width, ax)
    checks.inside("level", level)
    if tolerance is not None:
        checks.real("tolerance", tolerance, 0.0)
    x = x or natural_axis(experiment)
    if x not in AXES:
        raise ValueError(f"x must be one of {', '.join(AXES)}; got {x!r}")
    groups = group_records(records, experiment)
    if not any(groups.values()):
        raise ValueError("records must hold at least one trial; got none")
    tolerance = natural_tolerance(experiment) if tolerance is None else tolerance
    rules = natural_checks(x, tolerance) if experiment is None else experiment.rules
    results = judged(groups, rules, Conduct(level))
    return draw_judged(
        groups, results, path, experiment, x=x, tolerance=tolerance, level=level, width=width, ax=ax
    )


def draw_judged(
    groups: Groups,
    results: Sequence[Result],
    path: str | Path | None = None,
    experiment: Experiment | None = None,
    *,
    x: str | None = None,
    tolerance: float | None = None,
    level: float = LEVEL,
    width: float | str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """``plot`` for records that are grouped and judged already: at least one trial, and verdicts of the same ``level``."""
    look = _checked(path, width, ax)
    shown = Shown.of(
        groups,
        results,
        experiment,
        x=x or natural_axis(experiment),
        tolerance=natural_tolerance(experiment) if tolerance is None else tolerance,
        level=level,
        look=look,
    )
    figure = _whole(shown) if ax is None else _inside(ax, shown)
    if path is not None:
        save_figure(figure, path, look.dpi)
        write_caption(shown, path)
    return figure


def _checked(path: str | Path | None, width: float | str | None, ax: Axes | None) -> Look:
    """How large the figure is. ``ValueError`` for a suffix that is no format, and for what contradicts itself."""
    if path is not None:
        checked_path(path)
    if ax is None:
        return Look.of(width)
    if width is not None:
        raise ValueError(f"width must be None where ax is given, whose figure has one; got {width!r}")
    checks.instance("ax", ax, Axes, "those of matplotlib.pyplot.subplots()")
    if ax.name != "rectilinear":
        raise ValueError(f"ax must be rectilinear axes; got {ax.name} ones")
    return Look.inside(ax)


def _inside(axes: Axes, shown: Shown) -> Figure:
    """The errors alone, in axes of somebody else's figure."""
    wrap = 40
    guessed = draw_error_rows(axes, shown, 24) if shown.rows else draw_errors(axes, shown, labelled=True)
    legend_below(axes, key_handles(shown, wrap, guessed), shown.look.small, columns=2)
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure


def _whole(shown: Shown) -> Figure:
    """Both panels and the key: beside them where there is room, else below."""
    look = shown.look
    letters = look.width * 72 / (0.52 * look.small)  # that fit side by side
    title = "" if look.paper else _title(shown, int(0.8 * letters))
    head = (title.count("\n") + 1.5) * 1.3 * look.text / 72 if title else 0.0
    tall = 0.45 * len(shown.curves) + 0.9 if shown.rows else 1.42 * (1.1 + 0.3 * look.width) + 0.4
    figure = Figure(figsize=(look.width, tall + head), layout="constrained")
    if shown.rows:
        main, beside = figure.subplots(1, 2, sharey=True, width_ratios=(2.2, 1))
        guessed = draw_error_rows(main, shown, int(0.3 * letters))
        draw_ratio_rows(beside, shown)
    else:
        main, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 0.42))
        guessed = draw_errors(main, shown, labelled=False)
        draw_ratios(below, shown)
    handles = key_handles(shown, int((0.25 if look.wide else 0.4) * letters), guessed)
    _add_key(figure, handles, look, head)
    if title:
        figure.suptitle(title, fontsize=look.text + 1)
    return figure


def _title(shown: Shown, wrap: int) -> str:
    return f"{wrapped(shown.title, wrap)}\n{wrapped(', '.join(shown.wording.shared), wrap)}"


def _add_key(figure: Figure, handles: Sequence[Artist], look: Look, head: float) -> None:
    """The key outside all panels, clear of the title's ``head`` inches; the figure grows by what it needs."""
    lines = [1 + str(h.get_label()).count("\n") for h in handles]
    line = 1.55 * look.small / 72
    if look.wide:
        # In the middle of the height: the title is as wide as the figure.
        figure.set_figheight(max(figure.get_figheight(), sum(lines) * line + 2 * head + 0.2))
        figure.legend(handles=handles, loc="outside right center", fontsize=look.small, frameon=False)
        return
    half = -(-len(lines) // 2)
    figure.set_figheight(figure.get_figheight() + max(sum(lines[:half]), sum(lines[half:])) * line)
    figure.legend(
        handles=handles, loc="outside lower center", ncols=2, fontsize=look.small, frameon=False,
        columnspacing=1, handlelength=1.6,
    )  # fmt: skip
