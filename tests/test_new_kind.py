"""A kind of statement, an experiment and a study from outside the packages, each in the edits that it should take.

A kind: a line in ``Kind``, a statement with its line in the attack's theory, a judge with its line in ``JUDGES``.
Comparison, negative control, search for counterexamples, figures and command line then have it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fresh import run

ROOT = Path(__file__).parent.parent

STATEMENT = '''"""MEDIAN: what half of all trials stay below."""

import math

from bounds.kinds.predicted.unbiased import PREDICTED
from bounds.statement import Bound, Kind


def _numeric(defense, setting, attack, delta):
    value, details = PREDICTED.numeric(defense, setting, attack, delta)
    return 1.1 * value, details


MEDIAN = Bound(
    Kind.MEDIAN,
    "a tenth above the first-order error",
    "no source: an example",
    "median over trials of R",
    ("as PREDICTED",),
    _numeric,
    1.1 * PREDICTED.symbolic,
    laws=PREDICTED.laws,
)
'''

JUDGE = '''"""MEDIAN: the share of trials above it, by an exact binomial test."""

from dataclasses import dataclass

from scipy import stats

from bounds import Kind
from verify.judge.base import Judge, Sample, bound_at, corrupted, named
from verify.judge.statistics import LEVEL
from verify.judge.verdict import Result, noted, place, settled
from verify.measure.check import Check


@dataclass(frozen=True)
class MedianCheck(Check):
    kind = Kind.MEDIAN


@dataclass(frozen=True, kw_only=True)
class MedianResult(Result):
    bound: float
    above: int


def judge_median(sample, bound, level=LEVEL, **where):
    n = len(sample.errors) + sample.failed
    value = float("nan") if bound.value is None else bound.value
    above = sample.failed + sum(e > value for e in sample.errors)
    unstated = bound.why if bound.value is None else ""
    few = stats.binom.sf(above - 1, n, 0.5) < 1 - level if n else False
    many = stats.binom.cdf(above, n, 0.5) < 1 - level if n else False
    verdict = settled("fails" if few else "holds" if many else "inconclusive", 0, unstated)
    text = f"{above} of {n} above {value:.4f}: {noted(verdict, n, sample.failed, unstated)}"
    return MedianResult(
        kind=Kind.MEDIAN, **place(where), verdict=verdict, text=text, n=n, failed=sample.failed,
        bound=value, above=above,
    )


def _median(check, groups, conduct):
    for point, outcomes in groups.items():
        bound = corrupted(bound_at(point, Kind.MEDIAN), conduct.factor)
        yield judge_median(Sample.of(outcomes), bound, conduct.level, **named(point))


class MedianJudge(Judge):
    default = MedianCheck()
    rules = {MedianCheck: _median}
    style = {"linestyle": (0, (1, 1)), "linewidth": 1.0}

    def test(self, claim, samples, significance):
        return judge_median(samples[0], claim.stated, 1 - significance)
'''

USED = """
from pathlib import Path
from synthetic_records import make_experiment, make_point, simulated_records
from bounds import Kind
from verify import check_bound, compare, plot, point_strategy
from verify.judge.median import MedianCheck

points = [make_point(m=m) for m in (40_000, 80_000)]
records = simulated_records(points, 60)
experiment = make_experiment(points, rules=(MedianCheck(),))
print([r.verdict for r in compare(records, kind="median")])
print([r.verdict for r in compare(records, experiment, corrupt_factor=0.7)])
figure = plot(records, "median.svg", experiment)
texts = Path("median.caption.txt").read_text("utf-8").split("\\n")
legends = [t.get_text() for legend in figure.legends for t in legend.get_texts()]
print(sum("of 60 above" in t for t in texts), "MEDIAN: 2 hold" in legends)
small = point_strategy(d=(3, 3), m=(1_000, 1_000), B=(1, 1), activations=("relu",), labels=("strong",))
options = dict(max_examples=2, max_shrinks=2, trials=12)
print(check_bound(lambda setting: 0.01, "median", small, **options).status)
print(check_bound(lambda setting: 0.9, "median", small, **options).status)
"""


def edited(path: Path, *changes: tuple[str, str]) -> None:
    text = path.read_text()
    for old, new in changes:
        assert text.count(old) == 1, f"{path.name}: {old!r} is there {text.count(old)} times"
        text = text.replace(old, new)
    path.write_text(text)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    for name in ("bounds", "attack", "verify", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_a_kind_from_outside_is_compared_searched_and_drawn(copied: Path) -> None:
    (copied / "bounds" / "kinds" / "median.py").write_text(STATEMENT)
    (copied / "verify" / "judge" / "median.py").write_text(JUDGE)
    edited(
        copied / "bounds" / "statement.py",
        ('    FLOOR = "floor"', '    MEDIAN = "median"\n    FLOOR = "floor"'),
    )
    edited(
        copied / "bounds" / "kinds" / "stated.py",
        (
            "PREDICTED_ELEMENTWISE, FLOOR, UPPER),",
            "PREDICTED_ELEMENTWISE, FLOOR, UPPER, MEDIAN),",
        ),
        (
            "from bounds.kinds.rate import",
            "from bounds.kinds.median import MEDIAN\nfrom bounds.kinds.rate import",
        ),
    )
    edited(
        copied / "verify" / "judge" / "__init__.py",
        (
            "        Kind.FLOOR: FloorJudge(),",
            "        Kind.FLOOR: FloorJudge(),\n        Kind.MEDIAN: MedianJudge(),",
        ),
        (
            "from verify.judge.predicted import",
            "from verify.judge.median import MedianJudge\nfrom verify.judge.predicted import",
        ),
    )
    used = run(copied, "-c", USED, path=(copied / "tests",))
    assert used.returncode == 0, used.stderr
    assert used.stdout.splitlines() == [
        "['holds', 'holds']",
        "['fails', 'fails']",
        "2 True",
        "refuted",
        "survived",
    ]
    bound = run(copied, "-m", "verify", "bound", "none", "--json")
    assert bound.returncode == 0 and '"median"' in bound.stdout, bound.stderr


EXPERIMENT = """    experiment(
        "closeness",
        "An experiment from outside",
        (),
        (PredictedCheck(tolerance=0.3),),
        features=ORTHONORMAL,
        d=6,
        m=(4_000,),
        B=1,
        moments=("residualized",),
        trials=4,
    ),
"""

STUDY = '''"""An example: how far from a unit vector a random direction is."""

from matplotlib.figure import Figure

import numpy as np

from verify.studies.study import Study


def trial(condition, seed):
    drawn = np.random.default_rng([seed, condition["d"]]).standard_normal(condition["d"])
    return {"distance": abs(float(np.linalg.norm(drawn)) / condition["d"] ** 0.5 - 1)}


def summary(found):
    return [{"d": c.condition["d"], "distance": c.measured("distance").rms} for c in found.cells]


def draw(found):
    figure = Figure()
    figure.add_subplot().plot([r["d"] for r in summary(found)], [r["distance"] for r in summary(found)])
    return figure


STUDY = Study(
    "example", "An example", (), ({"d": 10}, {"d": 1000}), ("distance",), trial, summary, draw, trials=3
)
'''


def test_an_experiment_and_a_study_from_outside_are_run_and_drawn(copied: Path) -> None:
    edited(
        copied / "verify" / "experiments" / "scaling.py",
        (
            "SCALING: tuple[Experiment, ...] = (\n",
            f"SCALING: tuple[Experiment, ...] = (\n{EXPERIMENT}",
        ),
    )
    (copied / "verify" / "studies" / "example.py").write_text(STUDY)
    edited(
        copied / "verify" / "studies" / "catalogue.py",
        ("    deep,\n", "    deep,\n    example,\n"),
        ("    assumptions.STUDY,\n", "    assumptions.STUDY,\n    example.STUDY,\n"),
    )
    measured = run(
        copied, "-m", "verify", "verify", "none", "--only", "closeness", "--jobs", "1", "--out", "out"
    )
    told = (copied / "out" / "verdicts.md").read_text()
    assert "| closeness |" in told and (copied / "out" / "closeness.png").exists()
    assert measured.returncode == int("| fails |" in told), measured.stderr
    studied = run(copied, "-m", "verify", "study", "example", "--jobs", "1", "--out", "out")
    assert studied.returncode == 0, studied.stderr
    assert list((copied / "out").glob("**/study-example.*")), sorted((copied / "out").rglob("*"))
