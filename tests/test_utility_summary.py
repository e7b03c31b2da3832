"""What a comparison at equal utility says of hand-made records, and what it refuses before any run. Nothing is learned."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from synthetic_records import make_record

from attack.image.matching import ImageMatching
from bounds import (
    Clamping,
    Defense,
    Dropout,
    GradientNoise,
    LikelihoodAttack,
    NoDefense,
    SignCompression,
    evaluate,
)
from verify.cli.figures import figures
from verify.cli.utility import Measured, draw, redraw
from verify.export import tables_of
from verify.images.point import NetworkSpec
from verify.images.record import QUANTITIES, ImageRecord
from verify.images.trial import half
from verify.measure.record import Record
from verify.measure.saved import Saved
from verify.utility.comparison import Comparison, Contender
from verify.utility.family import Family
from verify.utility.federation import Federation, TrainingError, TrainingPoint, learn
from verify.utility.record import TrainingRecord
from verify.utility.summary import (
    MEAN_PICTURE,
    Curve,
    agreement,
    at_position,
    bounds_at,
    picture_rows,
    standings,
    theory_curves,
    theory_rows,
)

TINY = NetworkSpec(width=2, m=16, features=None, activation="gelu")
FEW = Federation(network=TINY, clients=2, B=2, rounds=2, rate=1e-2)
NOISE = Family("noise", (GradientNoise(0.1), GradientNoise(1.0)), relative=True)
WEAK, STRONG = Contender("weak", ImageMatching(starts=2), strong=False), Contender("strong", ImageMatching())

#: Noise costs 1 and 5 points: 3 in the middle of its scale.
SMALL = Comparison(
    "utility-small", (NOISE,), FEW, (WEAK, STRONG),
    losses=(3.0,), trainings=2, trials=1, d=8, m=200, theory_trials=1,
)  # fmt: skip


def trainings(comparison: Comparison = SMALL, seed: int = 0) -> list[TrainingRecord]:
    return [
        TrainingRecord(point.to_dict(), seed, t, accuracy, 0.5, "", None)
        for point, accuracy in zip(comparison.training, (0.9, 0.89, 0.85), strict=True)
        for t in range(comparison.trainings)
    ]


def pictures(psnr: float, seed: int = 0) -> list[ImageRecord]:
    return [
        ImageRecord(
            p.to_dict(), seed, 0, "", dict.fromkeys(QUANTITIES, (0.0,) * p.B) | {"psnr": (psnr,) * p.B}, None, {}, None
        )
        for p in SMALL.table(first=True).points
    ]  # fmt: skip


def theory(*errors: float | None, comparison: Comparison = SMALL) -> list[Record]:
    assert comparison.theory is not None
    return [make_record(p, 0, e) for p, e in zip(comparison.theory.points, errors, strict=True)]


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_network_that_is_not_attacked_after_learning_has_no_table() -> None:
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=f"learned must be at least 1; got {wrong}"):
            replace(SMALL, learned=wrong)
    with pytest.raises(ValueError, match="first must be True where learned is None"):
        SMALL.table(first=False)
    table = replace(SMALL, learned=3).table(first=False)
    assert table.title == "defenses at equal utility, at the end of a training of 3 rounds"
    assert table.points[0].network.words == f"{TINY.words}, at the end of 3 rounds of its own"
    assert [t.name for t in SMALL.tables] == ["utility-small"]


def _family(*members: Defense, scale: str = "log", relative: bool = False) -> Family:
    return Family("x", members, scale, relative)


@pytest.mark.parametrize(
    ("members", "more", "words"),
    [
        ((GradientNoise(1.0),), {"scale": "foo"}, "scale must be one of log, falling, left"),
        ((GradientNoise(0.0),), {}, r"strengths on the scale 'log'; 'x' has \[0.0\]"),
        ((GradientNoise(0.1), Clamping(1.0)), {}, "differ in the strength alone"),
        ((Dropout(0.5), Dropout(0.9, per_sample=False)), {"scale": "left"}, "differ in the strength alone"),
        ((Dropout(0.5),), {"scale": "left", "relative": True}, "relative must be False .* got Dropout"),
    ],
)
def test_families_are_checked(members: tuple[Defense, ...], more: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        _family(*members, **more)


@pytest.mark.parametrize(
    ("contenders", "words"),
    [
        ((WEAK, replace(STRONG, name="weak")), "different names; got weak, weak"),
        (
            (WEAK, STRONG, replace(WEAK, name="other")),
            "one weak attack and at least one strong one; got 2 and 1",
        ),
        ((WEAK,), "got 1 and 0"),
        ((STRONG,), "got 0 and 1"),
    ],
)
def test_contenders_are_checked(contenders: tuple[Contender, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(SMALL, contenders=contenders)


def test_trainings_are_checked() -> None:
    with pytest.raises(ValueError, match="scope must be one of"):
        TrainingPoint(FEW, NoDefense(), scope="foo")
    with pytest.raises(ValueError, match="relative must be False"):
        TrainingPoint(FEW, Dropout(0.5), relative=True)
    with pytest.raises(ValueError, match="epochs of the network must be 0"):
        replace(FEW, network=replace(TINY, epochs=1))


# --- a client without a gradient --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sure(NetworkSpec):
    """So sure of class 3 that the cross-entropy of its pictures is zero in float32, and their gradient with it."""

    def build(self, *args: Any, **more: Any) -> Any:
        network = super().build(*args, **more)
        with torch.no_grad():
            network.parameters[-1][3] += 1e4
        return network


def test_a_client_whose_gradient_is_zero_is_a_failed_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of zero is none. Other errors of a client propagate, also of this one's neighbour in the code."""
    data = half("digits-8", "reported")
    threes = data.at(torch.nonzero(data.labels == 3).flatten())
    sure = replace(FEW, network=Sure(**vars(TINY)))
    with pytest.raises(TrainingError, match="gradient is zero in round 1"):
        sure.learned(threes, Clamping(1.0), seed=0, relative=True)
    monkeypatch.setattr("verify.utility.federation.half", lambda *_: threes)
    found = learn(TrainingPoint(sure, Clamping(1.0), relative=True), seed=0)
    assert "gradient is zero" in found.reason and found.accuracy == 0.1 and found.loss is None
    with pytest.raises(ValueError, match="scope"):
        FEW.learned(threes, NoDefense(), seed=0, scope="foo")


# --- what is said -----------------------------------------------------------------------------------------------------


def _curve(name: str, weak: float, strong: float) -> Curve:
    errors = {"weak": np.array([[weak]]), "strong": np.array([[strong]])}
    return Curve(Family(name, (SignCompression(),)), (0.0,), np.array([[5.0]]), errors, 0)


@pytest.mark.parametrize(
    ("strong", "tau"),
    [((20.0, 25.0, 30.0), 1.0), ((20.0, 30.0, 25.0), 1 / 3), ((30.0, 25.0, 20.0), -1.0), ((20.0,) * 3, None)],
)
def test_agreement_of_three_families(strong: tuple[float, ...], tau: float | None) -> None:
    """Of three pairs all, two or none are in the same order under both attacks; ties of all have no tau."""
    curves = [_curve(n, w, s) for n, w, s in zip("abc", (12.0, 13.0, 14.0), strong, strict=True)]
    found = standings(SMALL, curves, 5.0)
    assert [s.rank_weak for s in found] == [1, 2, 3]
    assert agreement(found) == (None if tau is None else pytest.approx(tau))


def test_the_share_of_resamplings_that_reach_a_loss_is_told() -> None:
    """Two trainings that lose 2 and 6 points at most: drawn again, three in four have a mean of 3.5 or more. 400 draws, one
    seed: a standard error of .022, so .08 is 3.7 of them. Where all reach it nothing is told."""
    losses = np.array([[0.0, 2.0], [0.0, 6.0]])
    errors = dict.fromkeys(("weak", "strong"), np.array([[30.0, 20.0]] * 2))
    curve = Curve(NOISE, (-1.0, 0.0), losses, errors, 0)
    some, every = picture_rows(s for loss in (3.5, 1.0) for s in standings(SMALL, [curve], loss))
    assert float(some["reached"]) == pytest.approx(0.75, abs=0.08) and every["reached"] is None


@pytest.mark.parametrize(("weak", "strong", "told"), [(12.0, 20.0, "weak 12.0"), (3.0, 4.0, None)])
def test_the_best_beside_the_strongest_is_told(weak: float, strong: float, told: str | None) -> None:
    """Nothing where the mean picture is the strongest."""
    (row,) = picture_rows(standings(SMALL, [_curve("a", weak, strong)], 5.0))
    assert row["next"] == told and row["strongest"] == ("strong" if told else MEAN_PICTURE)


def test_theory_is_told_at_the_strength_of_equal_loss() -> None:
    """R of .1 and .3, in the middle .2; LIMIT and LOWER are those of the noise there, 10^-.5 of the root mean square."""
    (row,) = theory_rows(SMALL, theory_curves(SMALL, trainings(), theory(0.1, 0.3)))
    assert at_position(NOISE, -0.5) == GradientNoise(10**-0.5)
    assert row["strength"] == "0.316" and row["R tensor"] == "0.200" and row["absent"] == ""
    there = SMALL.in_theory(NOISE, GradientNoise(10**-0.5))
    direct = evaluate(there, SMALL.setting, LikelihoodAttack())
    assert direct.limit is not None and (row["LIMIT"], row["LOWER"]) == pytest.approx(
        (direct.limit, direct.lower)
    )
    weaker = bounds_at(SMALL.in_theory(NOISE, GradientNoise(0.1)), SMALL.setting)
    assert weaker[0] is not None and weaker[0] < 0.5 * row["LIMIT"]
    signs = Family("signs", (SignCompression(),))
    assert at_position(signs, 0.0) == SignCompression()


def test_a_failed_trial_of_theory_is_a_guess() -> None:
    (curve,) = theory_curves(SMALL, trainings(), theory(0.1, None))
    assert curve.failed == 2  # both attacks
    assert all(values.tolist() == [[pytest.approx(0.1), 1.0]] for values in curve.errors.values())


def test_records_of_another_network_or_attack_are_not_taken() -> None:
    assert len(theory_curves(SMALL, trainings(), theory(0.1, 0.3))) == 1
    assert theory_curves(replace(SMALL, d=9), trainings(), theory(0.1, 0.3)) == []
    others = [
        make_record(replace(r.point, also=(LikelihoodAttack(starts=7),)), 0, 0.1) for r in theory(0.1, 0.3)
    ]
    assert theory_curves(SMALL, trainings(), others) == []


# --- what is drawn ----------------------------------------------------------------------------------------------------


def test_a_figure_says_how_the_weak_attack_ran_and_what_is_clipped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("verify.draw.utility.draw_utility", lambda panels, *_: drawn.append(panels))
    for psnr in (-3.0, 20.0):
        missing = draw(SMALL, Measured(trainings(), {"utility-small": pictures(psnr)}, []), tmp_path, "png")
        assert missing == ["utility-theory-small"]
    low, high = (panels[0] for panels in drawn)
    assert low.title == "weak attack: weak, 2 starts; below 0 dB drawn at 0"
    assert high.title == "weak attack: weak, 2 starts"
    assert low.lines[0].errors == [0.0, 0.0] and high.lines[0].errors == [20.0, 20.0]


def _written(path: Path, records: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(r.to_dict()) + "\n" for r in records))
    return path


def test_what_is_not_drawn_again_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trainings of other settings, attacks of another seed, and theory's records alone."""
    monkeypatch.setattr("verify.cli.utility.COMPARISONS", (SMALL,))
    other = replace(SMALL, federation=replace(FEW, rounds=3))
    path = _written(tmp_path / SMALL.file, trainings(other))
    attacks = _written(tmp_path / SMALL.table(first=True).file, pictures(20.0))
    kept = _written(tmp_path / "utility-theory-small.jsonl", theory(0.1, 0.3))
    told = redraw(path, tmp_path, "png")
    assert told.startswith("6 trials of other settings left out; no trials of every member")
    assert told.endswith("for utility-small, utility-theory-small, not redrawn")
    _written(path, trainings())
    _written(attacks, pictures(20.0, seed=9))
    assert redraw(path, tmp_path, "png") == "trainings and attacks of different seeds (0, 9), not redrawn"
    path.unlink()
    attacks.unlink()
    saved = Saved.find("DIR", kept)
    assert list(saved.theories) == [kept] and len(tables_of(saved)["utility-theory-small"]) == 4
    figures(kept, tmp_path)
    assert "utility-theory-small.jsonl: drawn with the trainings" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.png"))
