"""Labels recovered, counted from records."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from bounds import GradientClipping
from tests.synthetic_records import make_point
from verify.judge.labels import HEADER, NAMED, label_rows, label_table
from verify.measure.files import read_records, record_files
from verify.measure.groups import group_records

FIGURES = Path(__file__).resolve().parents[1] / "figures"


@dataclass(frozen=True)
class Seen:
    """A trial as far as labels go; None, None: it failed."""

    label_accuracy: float | None
    residual_error: float | None

    @property
    def failed(self) -> bool:
        return self.label_accuracy is None


RIGHT, HALF, NONE = Seen(1.0, 0.1), Seen(0.5, 0.7), Seen(None, None)


def test_counts_by_hand() -> None:
    groups = {
        make_point(m=20_000): [RIGHT, RIGHT, NONE],
        make_point(m=20_000, moments="plain"): [HALF],
        make_point(m=40_000, B=4, labels=()): [Seen(0.75, 0.2), RIGHT],
        make_point(m=20_000, defense=GradientClipping(max_norm=1.0)): [HALF, HALF],
        make_point(m=20_000, activation="tanh"): [],  # not measured: no row
    }
    none, clipped = label_rows(groups)
    assert (none.defense, none.activation, none.trials, none.failed, none.right) == ("none", "relu", 6, 1, 3)
    # 2 + 2 + 1 labels of 3 pairs, 3 + 4 of 2 fours
    assert none.share == pytest.approx((5 + 7) / (6 + 8))
    assert none.residual_error == 0.1  # the median of .1, .1, .7, .2, .1
    assert none.lost == ("demo, m = 40 000: 1 of 2", "demo, m = 20 000: 1 of 3")
    assert (clipped.right, clipped.share, clipped.lost) == (0, 0.5, ("demo, m = 20 000: 2 of 2",))


def test_failures_are_counted_and_never_right() -> None:
    (row,) = label_rows({make_point(): [NONE, NONE]})
    assert (row.trials, row.failed, row.right, row.lost) == (2, 2, 0, ())
    assert math.isnan(row.share) and math.isnan(row.residual_error)
    assert row.cells() == ("none", "relu", "2", "2", "0 of 0", "", "", "")


def test_table_names_the_worst_and_counts_the_rest() -> None:
    widths = [10_000 * k for k in range(1, NAMED + 3)]
    rows = label_rows({make_point(m=m): [HALF] * i + [RIGHT] * 10 for i, m in enumerate(widths, 1)})
    assert rows[0].lost[0] == "demo, m = 50 000: 5 of 15"
    title, head, rule, cells = (line for line in label_table(rows).split("\n") if line)
    assert title.startswith("## ") and head == f"| {' | '.join(HEADER)} |" and set(rule) == set("| -")
    assert cells.endswith("demo, m = 30 000: 3 of 13; 2 more |")
    assert cells.count("|") == len(HEADER) + 1


def test_the_numbers_beside_the_verdicts_are_those_of_the_records() -> None:
    """What ``paper_notes.md`` says of labels (C3) rests on this table."""
    files = [p for p in record_files(FIGURES / "records") if not p.name.startswith(("pictures-", "study-"))]
    files.sort(key=lambda p: p.stem)  # the order in which they are drawn
    groups = {point: seen for p in files for point, seen in group_records(read_records(p)).items()}
    assert len(groups) > 100
    _, table = (FIGURES / "verdicts.md").read_text("utf-8").split("\n## Labels recovered\n")
    told = label_table(label_rows(groups)).split("\n")
    assert len(told) > 10
    assert sorted(table.strip().split("\n")) == sorted(line for line in told[2:] if line)
