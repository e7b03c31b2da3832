"""The ledger: a line for every claim and question, short enough to be read, and no interval that nothing printed."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from verify.studies.catalogue import STUDIES
from verify.studies.study import load

ROOT = Path(__file__).resolve().parents[1]
NOTES = ROOT / "paper_notes.md"
MEASURED = ROOT / "figures" / "measured.md"
CLAIMS = [f"C{i}" for i in range(1, 18)]
QUESTIONS = [f"Q{i}" for i in range(1, 11)]
INTERVAL = re.compile(r"[−+-]?\d+\.\d+ \[[−+-]?\d+\.\d+, [−+-]?\d+\.\d+\]")


def rows() -> dict[str, list[str]]:
    """The tables' lines by the name in their first cell."""
    found = {}
    for line in NOTES.read_text("utf-8").split("\n"):
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if re.fullmatch(r"[CQ]\d+", cells[0]):
            assert cells[0] not in found, f"{cells[0]} has two lines"
            found[cells[0]] = cells
    return found


@cache
def printed() -> str:
    return plain((ROOT / "figures" / "verdicts.md").read_text("utf-8"))


def plain(text: str) -> str:
    return text.replace("−", "-").replace("+", "")


def numbers(value: object) -> Iterator[float]:
    """Every number in a row of a study's table."""
    if isinstance(value, dict):
        yield from itertools.chain.from_iterable(map(numbers, value.values()))
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        yield float(value)


@cache
def studied() -> tuple[tuple[float, ...], ...]:
    """The numbers of each row of each study's table, from the records."""
    records = ROOT / "figures" / "records"
    return tuple(tuple(numbers(dict(row))) for s in STUDIES for row in s.summary(load(records / s.file)))


def is_printed(interval: str) -> bool:
    """Whether a verdict has this interval, or one row of a study's table all three numbers of it when rounded alike."""
    text = plain(interval)
    if text in printed():
        return True
    quoted = re.findall(r"-?\d+\.\d+", text)
    return any(
        all(any(f"{x:.{len(q.split('.')[1])}f}" == q for x in row) for q in quoted) for row in studied()
    )


def test_every_claim_and_question_has_one_line() -> None:
    assert sorted(rows()) == sorted(CLAIMS + QUESTIONS)
    assert {len(rows()[c]) for c in CLAIMS} == {8} and {len(rows()[q]) for q in QUESTIONS} == {7}
    assert len(NOTES.read_bytes()) < 40_000


@pytest.mark.parametrize("name", CLAIMS + QUESTIONS)
def test_a_line_has_verdict_number_figure_command_and_details(name: str) -> None:
    verdict, number, figure, command, details = rows()[name][-5:]
    words = (
        ("answered", "open") if name.startswith("Q") else ("holds", "holds with a change", "fails", "open")
    )
    assert re.match(rf"({'|'.join(words)})\b", verdict)
    if verdict == "open":
        assert {number, figure, command, details} == {"—"}
        return
    assert re.search(r"\d", number)
    assert re.fullmatch(r"\[(figure|table)\]\(figures/[^)]+\)", figure)
    own = r"`reconbound (study [\w-]+|verify utility|verify image( --only [\w-]+)+) --out figures`"
    assert command == "V" or re.fullmatch(own, command)
    assert details == f"[{name}](figures/measured.md#{name.lower()})"


@pytest.mark.parametrize("page", [NOTES, MEASURED], ids=lambda p: p.stem)
def test_every_interval_is_one_that_a_command_prints(page: Path) -> None:
    found = INTERVAL.findall(page.read_text("utf-8"))
    assert len(found) > 10
    assert [i for i in found if not is_printed(i)] == []


def test_an_interval_that_nothing_printed_is_found_out() -> None:
    assert is_printed("0.997 [0.984, 1.010]")
    assert not is_printed("0.997 [0.984, 1.011]")
    assert not is_printed("+0.530 [+0.455, +0.605]") and is_printed("+0.530 [+0.455, +0.604]")


def test_counts_of_labels_are_those_of_the_table() -> None:
    counts = re.findall(r"\d+ of \d+", rows()["C3"][4])
    assert len(counts) == 2 and all(f"| {c} |" in printed() for c in counts)


def test_counts_of_trials_and_verdicts_are_those_of_the_records() -> None:
    text = MEASURED.read_text("utf-8")
    verdicts = re.findall(r"^\|[^|]*\|[^|]*\| \w+ \| (\w+) \|", printed(), re.MULTILINE)
    told = re.search(
        r"All (\d+) checks: (\d+) hold, none fails, (\d+) are consistent but not decided .*? (\d+) are\s+uninformative",
        text,
        re.DOTALL,
    )
    assert told
    counted = [verdicts.count(v) for v in ("holds", "inconclusive", "uninformative")]
    assert [int(n) for n in told.groups()] == [sum(counted), *counted]
    assert "fails" not in verdicts
    section = printed().split("## Labels recovered")[1]
    trials = [
        [int(n) for n in r]
        for r in re.findall(r"^\| [\w ]+ \| \w+ \| (\d+) \| (\d+) \|", section, re.MULTILINE)
    ]
    assert f"{sum(t for t, _ in trials):,}".replace(",", " ") + " trials" in NOTES.read_text("utf-8")
    assert f"{sum(f for _, f in trials)} without a result" in NOTES.read_text("utf-8").replace("\n", " ")
