"""What a figure's caption says: setting, marks, and every verdict in full. It is written beside the figure."""

from __future__ import annotations

import textwrap
from pathlib import Path

from bounds import Kind
from verify.draw.curves import drawn_kinds
from verify.draw.key import EXACTLY, guides
from verify.draw.shown import Shown

#: How theory is drawn, for the kinds that come with this project; another one's line is told by the figure's key.
MEANINGS = {
    Kind.PREDICTED: "PREDICTED: first-order asymptotics of this estimator, from the setting alone, nothing fitted.",
    Kind.UPPER: "UPPER: proved, exceeded with probability at most delta.",
    Kind.LOWER: "LOWER: no attack of its class does better.",
    Kind.LIMIT: "LIMIT: the least error that any attack can reach as d and m grow at m/d.",
    Kind.FLOOR: "FLOOR: the limit of this estimator's error as the width grows.",
}


def caption_path(path: str | Path) -> Path:
    """Where the caption of the figure at ``path`` is: NAME.caption.txt."""
    return Path(path).with_suffix(".caption.txt")


def caption(shown: Shown) -> str:
    """The caption, then a line for each verdict."""
    told = [
        f"{shown.title}. {', '.join(shown.wording.shared)}.",
        f"Dots: one trial each, {shown.error}; large marks: their root mean square with its {shown.level:.0%} interval.",
        *(MEANINGS[kind] for kind in drawn_kinds(shown.curves) if kind in MEANINGS),
        *(
            ["RATE: a slope without a height, raised above all that is drawn; never a bound."]
            if guides(shown)
            else []
        ),
    ]
    if exact := sum(n for c in shown.curves for n in c.exact):
        trials = sum(m.n + m.failed for c in shown.curves for m in c.measured)
        told.append(
            f"{EXACTLY[0].upper()}{EXACTLY[1:]}, counted at its place and not drawn: {exact} of {trials} trials."
        )
    paragraph = textwrap.fill(" ".join(told), 110)
    return "\n".join([paragraph, "", *verdict_lines(shown), ""])


def verdict_lines(shown: Shown) -> list[str]:
    """One line each; what the caption says of all points already is left out."""
    described = [p.describe() for c in shown.curves for p in c.points]
    known = set.intersection(*({w for text in d.values() for w in text.split(", ")} for d in described))
    lines = []
    for r in shown.results:
        name = ", ".join(word for word in r.series.split(", ") if word not in known)
        lines.append(f"{r.kind.name}{f' {name}' if name else ''}: {r.text}")
    return lines


def write_caption(shown: Shown, path: str | Path) -> None:
    """Beside the figure at ``path``."""
    caption_path(path).write_text(caption(shown), encoding="utf-8")
