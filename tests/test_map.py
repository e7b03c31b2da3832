"""Several attacks on the same defenses: the map, figures that they share, and which is the strongest."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from synthetic_records import make_record

import attack.registry
from attack import Reconstruction, ReconstructionError, register_reconstruct
from attack.reconstruction import Diagnostics
from bounds import (
    THEORY,
    AttackSpec,
    Bound,
    GradientNoise,
    GradientPruning,
    Kind,
    LikelihoodAttack,
    MessagePassing,
    NoDefense,
    Setting,
    TensorAttack,
    register_attack,
)
from bounds.setting import SIZES
from verify import EXPERIMENTS, compare, sweep
from verify.cli.options import attacks_of
from verify.cli.report import concluded, judge_and_draw
from verify.cli.screen import show
from verify.cli.verify import _chosen, _own_experiment
from verify.draw.plane import boundary, draw_plane, panels_of
from verify.experiments.beside import BESIDE
from verify.experiments.map import PLANES, Cells, plane
from verify.judge.base import _bounds_at
from verify.judge.lower import LowerCheck
from verify.judge.predicted import PredictedCheck, SpectralCheck
from verify.judge.statistics import Share
from verify.judge.strongest import reached, strongest_table
from verify.measure.experiment import Experiment, Reduced, by_figure
from verify.measure.groups import group_records
from verify.measure.outcome import EXACT
from verify.measure.plane import ABSCISSAE, Plane
from verify.measure.point import Point
from verify.measure.record import Record

ROOT = Path(__file__).parent.parent
D, B = 12, 2


@dataclass(frozen=True)
class Never(AttackSpec):
    """Has no result, ever."""

    name: ClassVar[str] = "never"


@dataclass(frozen=True)
class Oracle(AttackSpec):
    """Has the features that the planes are measured on, moved by ``off``."""

    name: ClassVar[str] = "oracle"
    off: float = 0.0


NOTHING = Diagnostics("failed", (), 0.0, (), 0.0, 0)


def never(observation: Any, net: Any, batch_size: Any = None, attack: Any = None, seed: int = 2) -> Any:
    raise ReconstructionError("it never has a result", NOTHING)


def oracle(observation: Any, net: Any, batch_size: Any = None, attack: Any = None, seed: int = 2) -> Any:
    X = torch.from_numpy(PLANES[0].points[0].features.sample(D, batch_size))
    ones = torch.ones(batch_size, dtype=torch.float64)
    return Reconstruction(X + attack.off, ones, ones, replace(NOTHING, status="ok"))


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(attack.registry, "_ATTACKS", dict(attack.registry._ATTACKS))
    before = dict(THEORY)
    _bounds_at.cache_clear()  # of what another test has stated
    for spec, code in ((Never, never), (Oracle, oracle)):
        register_attack(spec)
        register_reconstruct(spec)(code)
    yield
    for added in set(THEORY) - set(before):
        del THEORY[added]  # type: ignore[attr-defined]  # a dict behind its interface


def small_plane(*attacks: AttackSpec) -> tuple[Experiment, ...]:
    cells = (Cells(((D, B),), (2, 4), defenses=(NoDefense(), GradientPruning(0.5))),)
    over = Plane("kept per unknown", ("defense",))
    return plane(
        "map-small", "A small map", (), over, dict.fromkeys(attacks, cells), quick=Reduced(), trials=3
    )


# --- shares of trials -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (3, 7), (1, 1), (0, 1)])
def test_the_interval_of_a_share_is_clopper_and_pearsons(k: int, n: int) -> None:
    exact = binomtest(k, n).proportion_ci(0.99, "exact")
    found = Share.of(k, n, 0.99)
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-12)
    assert found.low <= found.value <= found.high
    assert Share.of(k, n, 0.9).high - Share.of(k, n, 0.9).low < found.high - found.low, (
        "it depends on the level"
    )


def test_of_no_trials_nothing_is_known() -> None:
    none = Share.of(0, 0)
    assert (none.low, none.high) == (0.0, 1.0) and math.isnan(none.value)


# --- planes -----------------------------------------------------------------------------------------------------------


def test_an_attack_that_always_fails_is_exact_in_none_of_all_and_one_that_knows_in_all(
    stand_ins: None, tmp_path: Path
) -> None:
    """Trials without a result stay in the denominator: 0 of 3, not 0 of 0."""
    measured = {
        e: sweep(e, tmp_path / "records", progress=False)
        for e in small_plane(Oracle(), Never(), Oracle(1e-3))
    }
    judge_and_draw(measured, tmp_path, "svg")
    assert [p.name for p in tmp_path.glob("map-*")] and (tmp_path / "map-small.svg").exists()
    told = (tmp_path / "map-small.caption.txt").read_text()
    none, all_of_them = Share.of(0, 3), Share.of(3, 3)
    lines = told.splitlines()
    starts = [k for k, line in enumerate(lines) if line.endswith(":") and "attack" in line]
    entries = {lines[k]: lines[k + 1 : k + 3] for k in starts}
    failing = [rows for head, rows in entries.items() if "never attack" in head]
    assert len(failing) == 2 and all("half" not in head for head in entries if "never" in head)
    for row in (row for rows in failing for row in rows):
        assert f"0 of 3 exact [{none.low:.2f}, {none.high:.2f}]" in row and row.endswith("3 failed")
    knowing = [rows for head, rows in entries.items() if "oracle attack" in head and "at least half" in head]
    assert len(knowing) == 2, "moved by 1e-3 it is not exact"
    for row in (row for rows in knowing for row in rows):
        assert f"3 of 3 exact [{all_of_them.low:.2f}, {all_of_them.high:.2f}]" in row
    assert f"R < {EXACT:g}" in told and "counts as one that is not" in " ".join(told.split())


def test_where_at_least_half_are_exact_from_there_on(stand_ins: None) -> None:
    """One lucky width below does not move the boundary; a width above at which it fails does."""
    (experiment,) = plane(
        "map-edge",
        "Edge",
        (),
        Plane("neurons per unknown", ("defense",)),
        {Oracle(): (Cells(((D, B),), (1, 2, 3, 4)),)},
        quick=Reduced(),
    )

    def edge(exact: dict[int, int]) -> float | None:
        records = [
            make_record(p, t, 1e-9 if t < exact[k] else 0.5)
            for k, p in enumerate(experiment.points)
            for t in range(4)
        ]
        (panel,) = panels_of(group_records(records), experiment, experiment.plane)  # type: ignore[arg-type]
        return boundary(panel.curves[0])

    assert edge({0: 4, 1: 1, 2: 2, 3: 4}) == pytest.approx(3)
    assert edge({0: 4, 1: 4, 2: 4, 3: 1}) is None
    assert edge({0: 2, 1: 2, 2: 2, 3: 2}) == pytest.approx(1)


def test_points_of_planes_are_where_they_are_said_to_be() -> None:
    """Rounding m moves an abscissa by at most half of what one neuron is worth."""
    for experiment in PLANES:
        assert experiment.plane is not None and experiment.reduced is not None
        across = ABSCISSAE[experiment.plane.across].of
        for point in experiment.points:
            step = across(point) - across(replace(point, m=point.m - 1))
            nearest = min((1, 1.1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 20, 30, 60, 100, 200, 300, 600, 1000, 3000),
                          key=lambda at: abs(at - across(point)))  # fmt: skip
            assert abs(across(point) - nearest) <= 0.51 * step + 1e-9, point
    pruned = next(p for e in PLANES for p in e.points if p.defense == GradientPruning(0.9))
    twice = replace(pruned, m=2 * pruned.m)
    of = ABSCISSAE["kept per unknown"].of
    assert of(twice) == pytest.approx(2 * of(pruned))
    assert of(pruned) == pytest.approx(0.1 * pruned.m / (2 * 50 + 2))
    with pytest.raises(ValueError, match="across must be one of"):
        Plane("width", ("d",))
    with pytest.raises(ValueError, match="panels must be one of"):
        Plane("kept per unknown", ("m",))


def test_a_plane_is_drawn_from_trials_and_for_an_experiment_that_has_one() -> None:
    (experiment,) = small_plane(Oracle())
    with pytest.raises(ValueError, match="groups must hold at least one trial"):
        draw_plane({}, experiment)
    with pytest.raises(ValueError, match="'noise' has none"):
        draw_plane({}, EXPERIMENTS["noise"])


# --- experiments that stand beside others -----------------------------------------------------------------------------


def test_what_stands_beside_an_experiment_is_in_its_figure_or_in_its_own() -> None:
    main, beside = EXPERIMENTS["noise"], EXPERIMENTS["noise-likelihood"]
    other = EXPERIMENTS["undefended"]
    assert by_figure([beside, other, main]) == [(other,), (main, beside)]
    assert by_figure([beside, other]) == [(beside,), (other,)]
    assert by_figure([main.quick(), beside.quick()]) == [(main.quick(), beside.quick())]
    assert by_figure([main, beside.quick()]) == [(main,), (beside.quick(),)], (
        "a full run and a quick one do not mix"
    )
    for experiment in (*BESIDE, *PLANES):
        assert not experiment.beside or experiment.beside in EXPERIMENTS
        spectral = any(isinstance(check, SpectralCheck) for check in experiment.rules)
        assert spectral == (experiment in PLANES and experiment.attacks == {TensorAttack})
        assert spectral or {check.kind for check in experiment.rules} <= {Kind.LIMIT}, "no rate, no constant"


def test_points_and_records_of_the_tensor_attack_are_what_they_were() -> None:
    for name in ("rounding", "strength-pruning"):
        kept = json.loads((ROOT / "figures" / "records" / f"{name}.json").read_text())
        assert {Point.from_dict(group["point"]).key for group in kept["points"]} == {
            p.key for p in EXPERIMENTS[name].points
        }


def joined() -> dict[Experiment, list[Record]]:
    """Records of a defense's experiment and of the likelihood attack beside it: exact, as if it were so."""
    main, beside = EXPERIMENTS["strength-noise"], EXPERIMENTS["strength-noise-likelihood"]
    records = {main: [make_record(p, t, 0.2) for p in main.points for t in range(3)], beside: []}
    for p in beside.points:
        for t in range(3):
            record = make_record(p, t, 1e-13)
            weaker = make_record(p, t, None).outcomes["tensor"]
            records[beside].append(replace(record, outcomes={**record.outcomes, "tensor": weaker}))
    return records


def test_one_figure_for_both_that_says_which_attack_a_verdict_is_about(tmp_path: Path) -> None:
    measured = joined()
    results = judge_and_draw(measured, tmp_path, "svg")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "strength-noise.caption.txt",
        "strength-noise.svg",
    ]
    told = " ".join((tmp_path / "strength-noise.caption.txt").read_text().split())
    assert "Exact: R < 1e-06, counted at its place and not drawn: 18 of 36 trials" in told
    about = {(r.kind, r.attack) for r in results}
    assert about == {(Kind.PREDICTED, "tensor attack"), (Kind.LIMIT, "likelihood attack")}
    assert all(r.attack in r.series for r in results)
    drawn = (tmp_path / "strength-noise.svg").read_text()
    for words in (
        "likelihood attack: each 3 of 3 exact",
        "PREDICTED (",
        "LIMIT (likelihood attack)",
        "m = 10 000",
    ):
        assert words in drawn, words
    assert "failed" not in drawn, "what runs also is compared in the table, not drawn"


def test_alone_it_has_a_figure_of_its_own(tmp_path: Path) -> None:
    *_, (beside, records) = joined().items()
    results = judge_and_draw({beside: records}, tmp_path, "svg")
    assert {(r.kind, r.attack, r.verdict) for r in results} == {(Kind.LIMIT, "likelihood attack", "fails")}, (
        "made-up errors of 1e-13 are below what noise allows"
    )
    assert (tmp_path / "strength-noise-likelihood.svg").exists()


# --- the strongest attack ---------------------------------------------------------------------------------------------


def test_attacks_are_compared_at_equal_width_and_failures_count_as_guessing() -> None:
    at = EXPERIMENTS["strength-noise-likelihood"].points[0]
    tensor = replace(at, attack=TensorAttack(), also=())
    wide = replace(tensor, m=320_000)
    one = [make_record(replace(at, also=()), t, e) for t, e in enumerate((0.1, 0.3, 0.2))]
    two = [make_record(tensor, t, e) for t, e in enumerate((0.15, None, None))]
    rows = reached(group_records([*one, *two, *(make_record(wide, t, 0.001) for t in range(3))]))
    assert [(r.attack, r.m, r.typical, r.failed, r.strongest) for r in rows] == [
        ("likelihood attack", 10_000, 0.2, 0, True),
        ("tensor attack", 10_000, 1.0, 2, False),
    ]
    assert reached(group_records([*one, *(make_record(wide, t, 0.001) for t in range(3))])) == [], (
        "at different widths nothing is compared"
    )
    table = strongest_table(rows)
    assert "| likelihood attack | 10 000 | 3 | 0 | 0 | 0.2 | yes |" in table and "R = 1" in table
    better = reached(group_records([*one, *(make_record(tensor, t, 0.01) for t in range(3))]))
    assert [r.strongest for r in better] == [False, True]
    guesses = reached(
        group_records([*(make_record(replace(at, also=()), t, 1.2) for t in range(3)), *two[1:]])
    )
    assert len(guesses) == 2 and not any(r.strongest for r in guesses), "neither is better than guessing"
    assert strongest_table([]) == ""


def test_the_screen_and_the_verdicts_name_the_attack_and_the_strongest_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = joined()
    results = judge_and_draw(measured, tmp_path, "svg")
    summary = concluded(results, [r for found in measured.values() for r in found], tmp_path, "svg")
    show(summary, "svg", False)
    out = capsys.readouterr().out
    told = " ".join(out.split())
    assert "verdicts are about the tensor attack" in told and "at equal width" in told
    assert out.index("likelihood attack exact in 18 of 18") < out.index("tensor attack 1")
    show(replace(summary, results=[]), "svg", False)
    alone = " ".join(capsys.readouterr().out.split())
    assert (
        "gradient noise, median error at equal width: likelihood attack exact in 18 of 18; tensor attack 1"
        in alone
    )
    text = (tmp_path / "verdicts.md").read_text()
    assert "## The strongest attack measured" in text and "tensor attack, residualized" in text


# --- what theory says of an attack ------------------------------------------------------------------------------------


def _limit(
    defense: GradientNoise, setting: Setting, attack: AttackSpec, delta: float
) -> tuple[float, dict[str, float]]:
    return defense.sigma * math.sqrt(setting.d / setting.m), {}


def stated(kind: Kind) -> Bound:
    symbols = SIZES["d"] / SIZES["m"]
    return Bound(kind, "a Cramér-Rao curve of this test", "this test", "R", (), _limit, symbols)


@pytest.mark.parametrize("check", [PredictedCheck(0.1), LowerCheck()])
def test_an_attack_is_judged_by_what_is_stated_of_it_and_only_then(stand_ins: None, check: Any) -> None:
    """100 trials at 1.03 times a made-up limit (seed 0, scatter 5 %): it holds, within 10 % and as a lower bound; multiplied
    by 3 it fails, as the interval of the mean is within 2 %."""
    rng = np.random.default_rng(0)
    point = Point(
        "map-noise", PLANES[0].points[0].features, D, 4_000, B, (), "relu", GradientNoise(1.0), Oracle()
    )
    errors = 1.03 * math.sqrt(D / 4_000) * (1 + 0.05 * rng.standard_normal(100))
    records = [make_record(point, t, float(e)) for t, e in enumerate(errors)]
    assert compare(records, check=check) == [], "nothing is stated of it: no verdict"
    register_attack(Oracle, stated(check.kind))
    (result,) = compare(records, check=check)
    assert (result.verdict, result.attack) == ("holds", "oracle attack")
    (corrupted,) = compare(records, check=check, corrupt_factor=3)
    assert corrupted.verdict == "fails"


# --- from the shell ---------------------------------------------------------------------------------------------------


def test_attacks_are_chosen_by_name_and_a_wrong_one_is_refused() -> None:
    assert (
        attacks_of(["likelihood,tensor"])
        == attacks_of(["likelihood", "tensor"])
        == (LikelihoodAttack, TensorAttack)
    )
    assert attacks_of(["message-passing"]) == (MessagePassing,)
    assert attacks_of(["tensor", "all"]) == tuple(THEORY)
    assert attacks_of([]) == ()
    with pytest.raises(ValueError, match="attack must be one of all, tensor, likelihood, message_passing"):
        attacks_of(["tensors"])


def names(*arguments: Any) -> set[str]:
    return {e.name for e in _chosen(*arguments)}


def test_a_run_has_the_experiments_of_the_attacks_that_are_asked_for() -> None:
    everything = names("all", [], (), False)
    tensor = names("all", [], (TensorAttack,), False)
    likelihood = names("all", [], (LikelihoodAttack,), False)
    passing = names("all", [], (MessagePassing,), False)
    assert tensor | likelihood | passing == everything == set(EXPERIMENTS)
    assert not tensor & likelihood and not passing & likelihood and "noise-message-passing" in passing
    assert "map-noise" in likelihood and "map-noise-tensor" in tensor
    assert names("none", ["undefended"], (), False) == {"undefended", "undefended-likelihood"}
    assert names("none", ["undefended"], (TensorAttack,), True) == {"undefended-quick"}
    quick = names("all", [], (), True)
    assert "strength-pruning-likelihood-quick" in quick
    assert not any(n.startswith("map-") or "passing" in n for n in quick), "what would take long"
    with pytest.raises(
        ValueError, match="attack must be one that an experiment about none has; got message_passing"
    ):
        names("none", ["undefended"], (MessagePassing,), False)


def test_a_setting_of_ones_own_takes_several_attacks_on_one_observation() -> None:
    given = {"m": [2_000], "d": [20], "moments": "plain"}
    own = _own_experiment("none", given, (LikelihoodAttack, TensorAttack), False, [], None)
    assert [p.attacks for p in own.points] == [(LikelihoodAttack(), TensorAttack(moments="plain"))]
    (alone,) = _own_experiment("none", {"m": [2_000]}, (), False, [], None).points
    assert alone.attacks == (TensorAttack(),)
    with pytest.raises(ValueError, match="moments are the tensor attack's; got them with likelihood"):
        _own_experiment("none", given, (LikelihoodAttack,), False, [], None)
