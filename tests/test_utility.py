"""Defenses at equal utility: what is learned under them, interpolation between measured strengths alone, records."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_cli import run

from attack.image.matching import ImageMatching
from attack.image.observed import observe_images
from bounds import (
    Clamping,
    Defense,
    DeterministicRounding,
    Dropout,
    GradientNoise,
    GradientPruning,
    NoDefense,
    NoisyPruning,
    SecureAggregation,
    SignCompression,
    StochasticRounding,
)
from verify.images.point import NetworkSpec
from verify.images.trial import half
from verify.measure.lines import LedgerError, RecordError
from verify.utility.catalogue import COMPARISONS, CONTENDERS, EQUAL_UTILITY, FAMILIES
from verify.utility.comparison import Comparison, Contender, train_all
from verify.utility.equal import between, crossing, matched, monotone
from verify.utility.family import Family
from verify.utility.federation import Federation, LearnedNetwork, TrainingPoint, learn
from verify.utility.record import TrainingRecord, read_training_records
from verify.utility.summary import (
    agreement,
    guess,
    losses_of,
    picture_curves,
    picture_rows,
    standings,
    theory_curves,
)

TINY = NetworkSpec(width=2, m=16, features=None, activation="gelu")
FEW = Federation(network=TINY, clients=2, B=2, rounds=2, rate=1e-2)
LEARNS = Federation(network=replace(TINY, width=4, m=64), clients=1, B=16, rounds=50, rate=2e-2)


def small(**more) -> Comparison:  # type: ignore[no-untyped-def]
    attack = ImageMatching(iterations=2)
    return Comparison(
        "utility-small",
        (
            Family("noise", (GradientNoise(0.1), GradientNoise(1.0)), relative=True),
            Family("signs", (SignCompression(),)),
        ),
        FEW,
        (Contender("weak", replace(attack, informed=False), strong=False), Contender("strong", attack)),
        trainings=2,
        trials=2,
        d=8,
        m=200,
        theory_trials=1,
        **more,
    )


# --- learning -------------------------------------------------------------------------------------------------------


def test_a_network_is_learned_and_noise_costs_accuracy() -> None:
    """800 pictures, 50 steps: above .75 of ten classes, where a guess has .1 (six seeds gave .82 to .87). The negative
    control: noise of eight times the gradient's entries leaves less than half of what was gained (six seeds gave at most
    .21), so that a federation that ignores its defense, or learns nothing, fails here."""
    clean = learn(TrainingPoint(LEARNS, NoDefense()), seed=1)
    noisy = learn(TrainingPoint(LEARNS, GradientNoise(8.0), relative=True), seed=1)
    assert not clean.reason and clean.accuracy > 0.75 and clean.loss is not None and clean.loss < 1.0
    assert noisy.accuracy < 0.1 + (clean.accuracy - 0.1) / 2
    assert noisy.loss is not None and noisy.loss > clean.loss


def test_what_is_learned_depends_on_seed_and_defense_alone() -> None:
    one = learn(TrainingPoint(FEW, NoDefense()), seed=3)
    assert learn(TrainingPoint(FEW, NoDefense()), seed=3) == one
    assert learn(TrainingPoint(FEW, NoDefense()), seed=4).loss != one.loss
    assert learn(TrainingPoint(FEW, GradientPruning(0.9)), seed=3).loss != one.loss
    # the sum over clients is all that the server uses: secure aggregation changes nothing but rounding
    together = learn(TrainingPoint(FEW, SecureAggregation(2)), seed=3)
    assert together.loss == pytest.approx(one.loss, rel=1e-4)


def test_the_server_steps_along_the_mean_of_what_clients_send() -> None:
    """One round of gradient descent, written out with autograd alone."""
    plain = replace(FEW, rounds=1, optimiser="sgd", rate=0.5)
    pictures = half("digits-8", "reported")
    before, after = TINY.build(pictures, 5, "cpu"), plain.learned(pictures, NoDefense(), seed=5)
    from attack.streams import numpy_generator

    drawn = torch.from_numpy(numpy_generator(5, "federation").permutation(len(pictures))[:4])
    module = before.module
    outputs = module(before.normalised(pictures.images[drawn]))
    torch.nn.functional.cross_entropy(outputs, pictures.labels[drawn]).backward()
    for old, new in zip(module.parameters(), after.parameters, strict=True):
        assert old.grad is not None
        assert torch.allclose(old - 0.5 * old.grad, new, atol=1e-6)


def test_weights_that_are_not_finite_are_a_guess_and_counted() -> None:
    with np.errstate(all="ignore"):
        found = learn(TrainingPoint(replace(FEW, optimiser="sgd", rate=1e30, rounds=3), NoDefense()), seed=0)
    assert found.reason and found.accuracy == 0.1 and found.loss is None


def test_a_learned_network_is_the_federations() -> None:
    pictures = half("digits-8", "reported")
    spec = LearnedNetwork.after(FEW)
    built = spec.build(pictures, 2, "cpu")
    direct = FEW.learned(pictures, NoDefense(), seed=2)
    first = TINY.build(pictures, 2, "cpu")
    assert all(torch.equal(a, b) for a, b in zip(built.parameters, direct.parameters, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(built.parameters, first.parameters, strict=True))


@pytest.mark.parametrize(
    "defense",
    [NoisyPruning(2.0, 0.5), StochasticRounding(2.0), DeterministicRounding(2.0), Clamping(2.0)],
)
def test_sizes_are_in_root_mean_squares(defense: Defense) -> None:
    pictures = half("digits-8", "reported")
    network = TINY.build(pictures, 0, "cpu")
    batch = pictures.images[:2], pictures.labels[:2]
    unit = float(observe_images(NoDefense(), network, *batch).entries.double().square().mean().sqrt())
    seen = observe_images(defense, network, *batch, relative=True).defense
    name = next(n for n in ("sigma", "step", "limit") if hasattr(seen, n))
    assert getattr(seen, name) == pytest.approx(2 * unit)


# --- equal utility --------------------------------------------------------------------------------------------------


def test_interpolation_is_exact_on_straight_lines_and_absent_outside() -> None:
    positions, losses = [0.0, 1.0, 3.0], [1.0, 2.0, 6.0]
    for wanted, place in ((1.0, 0.0), (1.5, 0.5), (2.0, 1.0), (4.0, 2.0), (6.0, 3.0)):
        assert crossing(positions, losses, wanted) == pytest.approx(place)
    assert crossing(positions, losses, 0.99) is None and crossing(positions, losses, 6.01) is None
    assert crossing([0.0, 1.0, 2.0], [0.0, 2.0, 2.0], 2.0) == 1.0  # on a plateau the weakest
    assert crossing([0.0], [2.0], 2.0) == 0.0 and crossing([0.0], [2.0], 1.0) is None
    assert between(positions, [30.0, 20.0, 10.0], 2.0) == pytest.approx(15.0)
    assert np.isnan(between(positions, [30.0, 20.0, 10.0], 3.1))
    assert np.isnan(between(positions, [30.0, 20.0, 10.0], None))


@pytest.mark.parametrize(
    ("positions", "losses", "words"),
    [
        ([0.0, 1.0], [2.0, 1.0], "must not fall"),
        ([1.0, 1.0], [1.0, 2.0], "must grow"),
        ([0.0], [1.0, 2.0], "one for each"),
        ([], [], "one for each"),
    ],
)
def test_bad_curves_are_refused(positions: list[float], losses: list[float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        crossing(positions, losses, 1.0)


def test_losses_are_made_monotone() -> None:
    assert monotone([0.0, 3.0, 1.0, 5.0]).tolist() == [0.0, 2.0, 2.0, 5.0]
    assert monotone([0.0, 1.0, 2.0]).tolist() == [0.0, 1.0, 2.0]


def test_a_match_has_the_uncertainty_of_both() -> None:
    """Losses 1 and 3 with nothing between trials: at 2 the middle, exactly. Trials that differ widen the interval, around
    the value of the means."""
    same = matched([0.0, 1.0], np.array([[1.0, 3.0]] * 3), {"a": np.array([[30.0, 10.0]] * 3)}, 2.0)
    assert same.position is not None and same.position.value == 0.5
    assert same.errors["a"].value == same.errors["a"].low == same.errors["a"].high == 20.0
    assert same.position.reached == 1.0
    losses = np.array([[0.5, 2.5], [1.0, 3.0], [1.5, 3.5]])
    wide = matched([0.0, 1.0], losses, {"a": np.array([[30.0, 10.0]] * 3)}, 2.0)
    assert wide.errors["a"].value == pytest.approx(20.0)
    assert wide.errors["a"].low < 18.0 and wide.errors["a"].high > 22.0
    alone = matched([0.0, 1.0], losses, {"a": np.array([[30.0, 10.0]])}, 2.0)
    assert alone.errors["a"].value == 20.0 and np.isnan(alone.errors["a"].low)
    absent = matched([0.0, 1.0], losses, {"a": losses}, 5.0)
    assert absent.position is None and absent.why == "costs 3.0 at most"
    assert matched([0.0, 1.0], losses, {"a": losses}, 0.2).why == "costs 1.0 at its weakest"


def test_families_grow_stronger() -> None:
    for family in FAMILIES:
        for one in family.members:
            if one.strength_parameter():
                again = family.strength_at(family.position(one))
                assert again == pytest.approx(family.strength(one))
    with pytest.raises(ValueError, match="stronger"):
        Family("clamping", (Clamping(0.1), Clamping(1.0)), "falling")
    with pytest.raises(ValueError, match="at least one"):
        Family("nothing", ())


# --- a comparison ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> list[TrainingRecord]:
    return train_all(small(), tmp_path_factory.mktemp("trainings"), progress=False)


def test_a_stopped_comparison_goes_on_where_it_was(trainings: list[TrainingRecord], tmp_path: Path) -> None:
    path = tmp_path / small().file
    lines = [json.dumps(r.to_dict()) for r in trainings]
    assert len(lines) == 8
    path.write_text("\n".join(lines[:5]) + "\n" + lines[5][:30])
    with pytest.warns(match="torn"):
        assert len(read_training_records(path)) == 5
    again = train_all(small(), tmp_path, progress=False)
    assert [r.to_dict() for r in again] == [r.to_dict() for r in trainings]
    for other, words in ((small(seed=1), "seed"), (replace(small(), trainings=1), "not asked for")):
        with pytest.raises(LedgerError, match=words):
            train_all(other, tmp_path, progress=False)


def test_records_that_are_none_are_refused(trainings: list[TrainingRecord], tmp_path: Path) -> None:
    good = trainings[0].to_dict()
    path = tmp_path / "utility-training.jsonl"
    for wrong in (
        good | {"accuracy": 1.5},
        good | {"loss": None},
        good | {"schema_version": 9},
        {"seed": 1},
    ):
        path.write_text(json.dumps(wrong) + "\n")
        with pytest.raises(RecordError):
            read_training_records(path)
    path.write_text((json.dumps(good) + "\n") * 2)
    with pytest.raises(RecordError, match="twice"):
        read_training_records(path)


def _with(
    records: list[TrainingRecord], comparison: Comparison, told: dict[str, float]
) -> list[TrainingRecord]:
    """The records with other accuracies, by the point's key."""
    return [replace(r, accuracy=told[r.key]) for r in records]


def test_standings_follow_the_numbers(trainings: list[TrainingRecord]) -> None:
    """Accuracies and PSNR put in by hand: .9 without a defense, .89 and .85 under noise, whose middle costs three points;
    signs cost five at their only strength."""
    comparison = small(losses=(1.0, 3.0, 5.0, 7.0))
    noise, signs = comparison.families
    keys = [p.key for p in comparison.training]
    told = dict(zip(keys, (0.9, 0.89, 0.85, 0.85), strict=True))
    found = _with(trainings, comparison, told)
    assert losses_of(comparison, noise, found) == pytest.approx(np.array([[1.0, 5.0]] * 2))
    psnr = {"weak": (20.0, 12.5, 11.8), "strong": (30.0, 13.0, 14.0)}
    records = []
    for point in comparison.table(first=True).points:
        if isinstance(point.defense, NoDefense):
            continue
        index = [*noise.members, *signs.members].index(point.defense)
        records += [_picture_record(point, t, psnr[point.rival][index]) for t in range(2)]
    curves = picture_curves(comparison, found, records, first=True)
    middle, none = standings(comparison, curves, 3.0)
    assert middle.weak is not None and middle.weak.value == pytest.approx(16.25)
    assert middle.strong is not None and middle.strong.value == pytest.approx(21.5) and middle.by == "strong"
    assert none.weak is None and none.match.why == "costs 5.0 at its weakest" and none.rank_weak is None
    assert guess("digits-8") == pytest.approx(11.4, abs=0.1)
    ranks = [(s.rank_weak, s.rank_strong) for s in standings(comparison, curves, 5.0)]
    assert ranks == [(2, 1), (1, 2)]  # the weak attack makes signs look the better defense
    assert agreement(standings(comparison, curves, 5.0)) is None
    rows = picture_rows(s for loss in comparison.losses for s in standings(comparison, curves, loss))
    # where every attack is worse than the mean picture nothing is told of the pictures, and all share a rank
    psnr |= {"weak": (20.0, 10.0, 8.0), "strong": (30.0, 9.0, 10.0)}
    worse = [
        _picture_record(p, t, psnr[p.rival][[*noise.members, *signs.members].index(p.defense)])
        for p in comparison.table(first=True).points
        if not isinstance(p.defense, NoDefense)
        for t in range(2)
    ]
    tied = standings(comparison, picture_curves(comparison, found, worse, first=True), 5.0)
    assert [(s.by, s.rank_strong, s.rank_weak) for s in tied] == [("mean picture", 1, 1)] * 2
    assert len(rows) == 8 and rows[-1]["absent"] == "costs 5.0 at most" and rows[-1]["PSNR weak"] is None


def _picture_record(point, trial, psnr):  # type: ignore[no-untyped-def]
    from verify.images.record import QUANTITIES, ImageRecord

    values = dict.fromkeys(QUANTITIES, (0.0,) * point.B) | {"psnr": (psnr,) * point.B}
    return ImageRecord(point.to_dict(), 0, trial, "", values, None, {}, None)


def test_theory_has_the_same_strengths_in_its_own_unit() -> None:
    """Relative noise s is s times the root mean square of dL/da, here from a drawn network to two per cent (m = 100 000: its
    own scatter is .3 per cent)."""
    from attack import TwoLayerNet, observe

    comparison = replace(small(), m=100_000)
    noise = comparison.in_theory(comparison.families[0], GradientNoise(0.1))
    assert isinstance(noise, GradientNoise)
    X = torch.eye(8, dtype=torch.float64)[:2]
    clean = observe(NoDefense(), TwoLayerNet.sample(8, 100_000, "relu", 0), X, (1.0, -1.0), 1).gradient
    assert noise.sigma == pytest.approx(0.1 * float(clean.square().mean().sqrt()), rel=0.02)
    pruned = Family("pruning", (GradientPruning(0.5),), "left")
    assert comparison.in_theory(pruned, GradientPruning(0.5)) == GradientPruning(0.5)
    assert theory_curves(comparison, [], []) == []


def test_bad_input_is_refused() -> None:
    for wrong, words in (
        ({"clients": 0}, "clients"),
        ({"rounds": 0}, "rounds"),
        ({"rate": 0.0}, "rate"),
        ({"optimiser": "none"}, "optimiser"),
    ):
        with pytest.raises(ValueError, match=words):
            replace(FEW, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="divide"):
        TrainingPoint(FEW, SecureAggregation(3))
    with pytest.raises(ValueError, match="clients times B"):
        learn(TrainingPoint(replace(FEW, clients=1000), NoDefense()), 0)
    with pytest.raises(ValueError, match="relative"):
        learn(TrainingPoint(FEW, Dropout(0.5), relative=True), 0)
    with pytest.raises(ValueError, match="different names"):
        replace(small(), families=(FAMILIES[0], FAMILIES[0]))
    with pytest.raises(ValueError, match="weak"):
        replace(small(), contenders=CONTENDERS[1:])


def test_the_catalogue_is_whole() -> None:
    names = [one.file for one in COMPARISONS] + [t.file for one in COMPARISONS for t in one.tables]
    assert len(set(names)) == len(names)
    told = {member for family in EQUAL_UTILITY.families for member in family.members}
    assert {type(member) for member in told} >= {GradientNoise, GradientPruning, Dropout, SecureAggregation}


def test_from_the_command_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison = replace(small(losses=(1.0,)), trainings=1, trials=1, families=small().families[:1])
    monkeypatch.setattr("verify.cli.utility.QUICK", comparison)
    monkeypatch.setattr("verify.cli.utility.COMPARISONS", (comparison,))
    monkeypatch.setattr("verify.cli.images.COMPARISONS", (comparison,))
    asked = ("verify", "utility", "--quick", "--jobs", "1", "--out", str(tmp_path))
    code, out, err = run(capsys, *asked)
    assert code == 0 and "without a defense" in out and "noise" in out, err
    drawn = sorted(p.name for p in tmp_path.glob("*.png"))
    assert drawn == ["utility-small.png", "utility-theory-small.png"]
    for file in tmp_path.glob("*.png"):
        file.unlink()
    code, _, err = run(capsys, "figures", "--from", str(tmp_path))
    assert code == 0 and sorted(p.name for p in tmp_path.glob("*.png")) == drawn, err
    code, _, _ = run(capsys, "export", str(tmp_path))
    csv = tmp_path / "records" / "csv" / "utility-training-small.csv"
    assert code == 0 and len(csv.read_text().splitlines()) == 4
    assert len(csv.with_name("utility-theory-small.csv").read_text().splitlines()) == 5
    code, out, _ = run(capsys, *asked, "--json")
    assert code == 0 and json.loads(out)["name"] == "utility-small"
    for wrong in (("--only", "grey-2"), ("--d", "5"), ("--attack", "tensor"), ("--trials", "0")):
        code, _, err = run(capsys, "verify", "utility", "--quick", *wrong, "--out", str(tmp_path))
        assert code == 2 and wrong[0].strip("-") in err
