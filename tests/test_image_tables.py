"""Tables of attacks on pictures: resumable, tuned on other pictures, every trial counted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from attack.image.exact_rows import ExactRows
from attack.image.feature_inversion import FeatureInversion
from attack.image.matching import ImageMatching
from attack.image.observed import observe_images
from attack.networks.image.training import Trained
from bounds import Defense, GradientNoise, GradientPruning, LocalAggregation, NoDefense, SecureAggregation
from verify.cli.images import draw, grids, report_of
from verify.images.catalogue import TABLES
from verify.images.point import ImagePoint, NetworkSpec
from verify.images.record import ImageRecord, read_image_records
from verify.images.run import ImageTable, Tuning, by_point, run_table, with_options
from verify.images.summary import correlation, differences, mean, paired, rows
from verify.images.trial import observed, run_image_trial
from verify.measure.lines import LedgerError, RecordError

SMALL = NetworkSpec(width=2, m=16, features=8)
MATCHING = ImageMatching(iterations=3)


def point(defense=None, attack=MATCHING, **more) -> ImagePoint:  # type: ignore[no-untyped-def]
    return ImagePoint("digits-8", 2, SMALL, defense or NoDefense(), "cosine", attack, **more)


@pytest.fixture(scope="module")
def table() -> ImageTable:
    return ImageTable("small", "small", (point(), point(GradientPruning(0.5))), trials=2, seed=1)


@pytest.fixture(scope="module")
def records(table: ImageTable, tmp_path_factory: pytest.TempPathFactory) -> list[ImageRecord]:
    return run_table(table, tmp_path_factory.mktemp("records"), progress=False)


def test_a_stopped_table_goes_on_where_it_was(
    table: ImageTable, records: list[ImageRecord], tmp_path: Path
) -> None:
    path = tmp_path / table.file
    lines = [json.dumps(r.to_dict()) for r in records]
    path.write_text("\n".join(lines[:3]) + "\n" + lines[3][:40])
    with pytest.warns(match="torn"):
        assert len(read_image_records(path)) == 3
    again = run_table(table, tmp_path, progress=False)
    assert [r.to_dict() for r in again] == [r.to_dict() for r in records]
    before = path.read_bytes()
    run_table(table, tmp_path, progress=False)
    assert path.read_bytes() == before
    with pytest.raises(LedgerError, match="seed"):
        run_table(table, tmp_path, seed=2, progress=False)
    with pytest.raises(LedgerError, match="not asked for"):
        run_table(replace(table, points=table.points[:1]), tmp_path, progress=False)


def test_records_that_cannot_be_are_refused(records: list[ImageRecord]) -> None:
    whole = records[0].to_dict()
    assert ImageRecord.from_dict(json.loads(json.dumps(whole)), "here").to_dict() == whole
    for change in (
        {"values": {"mse": [0.1, 0.1]}},
        {"values": {**whole["values"], "psnr": [1.0]}},
        {"pictures": whole["pictures"][:-5]},
        {"shape": [2, 2, 1, 8, 9]},
        {"trial": -1},
        {"schema_version": 9},
        {"more": 1},
    ):
        with pytest.raises(RecordError):
            ImageRecord.from_dict({**whole, **change}, "here")


def test_trials_differ_and_points_share_their_pictures(records: list[ImageRecord]) -> None:
    first, other = (r for r in records if r.trial == 0)
    assert first.pictures is not None and other.pictures is not None
    np.testing.assert_array_equal(first.pictures[0], other.pictures[0])
    assert all(r.pictures is None for r in records if r.trial == 1)
    assert len({r.values["mse"] for r in records}) == len(records)


def test_tuning_takes_the_best_on_pictures_that_are_not_reported() -> None:
    """A step of 1e-6 leaves the start as it is: any other is better."""
    tuning = Tuning("tuned", tv=(0.0,), step=(1e-5, 1.0), iterations=40)
    table = ImageTable("tuned", "tuned", (point(GradientNoise(0.01)),), trials=1, tuning=tuning)
    candidates = table.candidates
    assert candidates is not None and [p.attack.step for p in candidates.points] == [1e-6, 0.1]
    tried = [run_image_trial(p, 0, 0) for p in candidates.points]
    (chosen,) = table.tuned(tried).points
    assert chosen.attack == replace(MATCHING, tv=0.0, step=0.1) and chosen.part == "reported"
    with pytest.raises(ValueError, match="lacks 1"):
        table.tuned(tried[:1])
    kept = {tuple(i.flatten().tolist()) for i in observed(candidates.points[0], 0, "cpu")[0]}
    shown = {tuple(i.flatten().tolist()) for s in range(20) for i in observed(chosen, s, "cpu")[0]}
    assert not kept & shown


def test_options_go_to_what_searches() -> None:
    rows = with_options(ExactRows(), tv=0.5, iterations=7)
    assert isinstance(rows, ExactRows) and rows.pictures == FeatureInversion(tv=0.5, iterations=7)
    assert with_options(MATCHING, tv=0.5) == replace(MATCHING, tv=0.5)
    with pytest.raises(TypeError):
        with_options(MATCHING, nothing=1)


def test_an_attack_without_a_result_counts_as_grey() -> None:
    """Exact rows find nothing in noise."""
    found = run_image_trial(point(GradientNoise(1.0), ExactRows(max_starts=2)), 0, 0)
    private = observed(point(GradientNoise(1.0)), _seed_of(found), "cpu")[0]
    assert found.failed and found.pictures is None
    grey = (private.double() - 0.5).square().flatten(1).mean(dim=1)
    assert found.values["mse"] == pytest.approx(grey.tolist(), rel=1e-6)


def _seed_of(record: ImageRecord) -> int:
    from verify.images.trial import trial_seed

    return trial_seed(record.seed, record.trial)


def test_several_clients_have_the_pictures_among_them() -> None:
    alone = observed(point(), 3, "cpu")[2]
    among = observed(point(SecureAggregation(clients=2)), 3, "cpu")[2]
    assert (alone.entries - among.entries).norm() < 1e-5 * alone.entries.norm()


@pytest.mark.parametrize("defense", [SecureAggregation(clients=2), LocalAggregation(2, 0.1, "different")])
def test_more_pictures_than_clients_or_steps_go_round(defense: Defense) -> None:
    images, labels, seen = observed(replace(point(defense), B=4), 3, "cpu")
    told = observe_images(defense, seen.network, images, labels, seed=3, groups=(0, 1, 0, 1), scope="layer")
    assert len(images) == 4 and torch.equal(seen.entries, told.entries)


def test_what_a_table_says(table: ImageTable, records: list[ImageRecord], tmp_path: Path) -> None:
    found = by_point(table, records)
    assert list(found) == list(table.points) and {len(r) for r in found.values()} == {2}
    one, other = found.values()
    apart = paired(one, other, "psnr")
    assert apart.value == pytest.approx(mean(one, "psnr").value - mean(other, "psnr").value)
    report = report_of(table, records)
    assert [row["defense"] for row in report["rows"]] == ["none", "gradient pruning (ratio = 0.5), by layer"]
    assert report["failed"] == 0 and report["trials"] == 4
    assert [row["behind"] for row in report["rows"]] == ["best", "best"]
    rank, pictures = correlation(records, "psnr", "mse")
    assert rank == pytest.approx(-1.0) and pictures == 8
    draw(table, records, tmp_path, "png")
    names = sorted(p.name for p in tmp_path.iterdir())
    grid_names = [f"images-small-{stem}.png" for stem in grids(found)]
    assert names == sorted(["images-small.png", "images-small-features.png", *grid_names]) and len(names) == 4
    by_defense = report["the same by defense"]
    assert by_defense.keys() == {row["defense"] for row in report["rows"]}
    assert all(-1 <= each <= 1 for each in by_defense.values())


def shifted(told: list[ImageRecord], *by: float) -> list[ImageRecord]:
    """Records whose PSNR is larger by so many dB, one number for each."""
    return [
        replace(r, values={**r.values, "psnr": tuple(v + b for v in r.values["psnr"])})
        for r, b in zip(told, by, strict=True)
    ]


def test_every_rival_is_compared_with_the_best_of_its_setting(records: list[ImageRecord]) -> None:
    """Three rivals of known PSNR: 3 dB behind in every trial, 1 and 5 dB behind, and the best."""
    mine = [r for r in records if r.key == point().key]
    names = {"even": shifted(mine, -3, -3), "uneven": shifted(mine, -1, -5), "first": shifted(mine, 0, 0)}
    alone = point(GradientNoise(0.1))
    found = {replace(point(), rival=name): told for name, told in names.items()} | {
        alone: shifted(mine, -9, -9)
    }
    told = {str(row["rival"]): row["behind"] for row in rows(found)}
    assert told["first"] == "best" and told["even"] == "3 ± 0" and str(told["uneven"]).startswith("3 ± 25")
    assert [row["behind"] for row in rows({alone: found[alone]})] == ["best"]


def test_differences_of_rivals_in_every_setting_and_in_the_mean(records: list[ImageRecord]) -> None:
    """Known shifts in dB: 1 and 5 in one setting, 3 and 3 in another, and so 2 and 4 in the mean, each trial for itself:
    half the interval (25 and 13 as it is written)."""
    mine = [r for r in records if r.key == point().key]

    def at(defense: Defense, rival: str) -> ImagePoint:
        return replace(point(defense), rival=rival)

    noise, pruned = GradientNoise(0.1), GradientPruning(0.5)
    found = {
        at(noise, "one"): shifted(mine, 1, 5), at(noise, "two"): shifted(mine, 0, 0),
        at(pruned, "one"): shifted(mine, 3, 3), at(pruned, "two"): shifted(mine, 0, 0), at(NoDefense(), "one"): mine,
    }  # fmt: skip
    told = differences(found, (("one", "two"), ("one", "nobody")))
    assert [row["trials"] for row in told] == [2, 2, 2] and {row["less"] for row in told} == {"two"}
    assert [str(row["psnr"]).partition(" ±")[0] for row in told] == ["3", "3", "3"]
    half = [float(str(row["psnr"]).rpartition(" ")[2]) for row in told]
    assert half[0] == pytest.approx(2 * half[2], rel=0.1) and half[1] < 1e-6 and half[2] > 10
    assert told[2]["defense"] == "2 together"
    assert differences({at(noise, "one"): shifted(mine, 1, 5)}, (("one", "two"),)) == []


def test_tables_that_share_tuning_ask_for_the_same() -> None:
    """Else one would refuse the records of the other. Their pairs are of rivals that there are."""
    asked: dict[str, set[str]] = {}
    for table in TABLES.values():
        if table.candidates is not None:
            keys = {p.key for p in table.candidates.points}
            assert asked.setdefault(table.candidates.name, keys) == keys
        assert {name for pair in table.pairs for name in pair} <= {p.rival for p in table.points}
    assert len(asked) < sum(table.candidates is not None for table in TABLES.values())


def test_plain_matching_is_counted(records: list[ImageRecord]) -> None:
    """A trial in which the integrated attack says that it had no features."""
    mine = [r for r in records if r.key == point().key]
    said = {**mine[0].told, "warnings": ["no feature is believed, so that this is plain matching: noise"]}
    (row,) = rows({point(): [replace(mine[0], told=said), *mine[1:]]})
    assert row["plain"] == 1 and rows({point(): mine})[0]["plain"] == 0


def test_grey_pictures_are_not_the_best_rival(records: list[ImageRecord]) -> None:
    """A rival that failed in every trial is behind, however near grey is; one that failed in one of two may be best; where
    all failed the nearest is."""
    own = [r for r in records if r.key == point().key]
    grey = [replace(r, reason="noise", values={**r.values, "psnr": (50.0, 50.0)}) for r in own]
    one, other = replace(point(), rival="one"), replace(point(), rival="other")

    def behind(*told: list[ImageRecord]) -> list[object]:
        return [row["behind"] for row in rows(dict(zip((one, other), told, strict=True)))]

    for told in (behind(grey, own), behind(own, grey)[::-1]):
        assert told[1] == "best" and str(told[0]).startswith("-")
    assert behind([grey[0], own[1]], own)[0] == "best"
    assert behind(own, [grey[0], own[1]])[1] == "best"
    assert behind([replace(r, reason="noise") for r in own], grey)[1] == "best"


def test_points_of_another_scope_or_without_a_result_are_told_apart(records: list[ImageRecord]) -> None:
    one = point(GradientPruning(0.5))
    other, third = replace(one, scope="global"), point(GradientNoise(0.1), relative=True)
    assert len(grids({one: records, other: records, third: records})) == 3
    nothing = [replace(r, reason="noise") for r in records]
    told = rows({one: records, other: nothing, third: [*records, *nothing]})
    assert [row["psnr"] == "no result" for row in told] == [False, True, False]
    assert [row["failed"] for row in told] == [0, 4, 4]
    assert [str(row["defense"]).rpartition(", ")[2] for row in told] == [
        "by layer",
        "global",
        "in root mean squares of the gradient's entries",
    ]


def test_a_network_may_have_been_trained_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """On pictures that are not attacked; half of its units Gaussian again, with output weights of the size asked for."""
    plain = replace(point(), network=replace(SMALL, m=200))
    fit = replace(plain, network=replace(plain.network, epochs=1))
    split = replace(plain, network=replace(fit.network, split=0.5, split_scale=1e-6))
    nets = [observed(p, 3, "cpu")[2].network for p in (plain, fit, split)]
    drawn, learnt, mixed = ((n.parameters[n.index("head.hidden.weight")], n) for n in nets)
    assert not torch.equal(drawn[0], learnt[0])
    kept = (learnt[0] == mixed[0]).all(dim=1)
    assert int(kept.sum()) == 100
    output = mixed[1].parameters[mixed[1].index("head.output.weight")]
    assert float(output[:, ~kept].abs().max()) < 1e-5 < float(output[:, kept].abs().max())
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(
        "attack.networks.image.training.trained",
        lambda net, images, labels, training: seen.append(images) or Trained(net, ()),
    )
    private = observed(fit, 3, "cpu")[0]
    shown = {tuple(i.flatten().tolist()) for i in seen[0]}
    assert len(shown) > 100 and not shown & {tuple(i.flatten().tolist()) for i in private}
    assert "1 epoch, 0.5 Gaussian" in split.network.words
    with pytest.raises(ValueError, match="split"):
        NetworkSpec(split=1.5)


def test_the_catalogue_is_whole() -> None:
    assert any(len(table.forms) == 2 for table in TABLES.values())
    for table in TABLES.values():
        for quick in table.forms[1:]:
            assert quick.file != table.file and len(quick.points) < len(table.points)
        for setting in {p.setting for p in table.points}:
            rivals = [p.rival for p in table.points if p.setting == setting]
            assert len(set(rivals)) == len(rivals)
        for each in table.points:
            assert json.loads(each.key)["rival"] == each.rival
    with pytest.raises(ValueError, match="one of them twice"):
        ImageTable("twice", "twice", (point(), point()))
