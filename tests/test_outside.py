"""A defense from outside the tree, the README's: everything that a defense of the tree has, in this process, where the
tables are afterwards what they were before."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import pickle
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import test_laws
import torch
from joblib.externals.loky.backend.reduction import dumps
from test_readme import examples

import attack.registry
import verify.measure.sweep
from attack import TwoLayerNet, matched_rmse, observe, reconstruct, register_channel, register_reconstruct
from bounds import (
    ATTACKS,
    DEFENSES,
    SYMBOLS,
    THEORY,
    AttackSpec,
    Defense,
    Kind,
    Setting,
    TensorAttack,
    evaluate,
    expression,
    param,
    register_attack,
    register_defense,
)
from bounds.kinds.predicted.unbiased import PREDICTED
from bounds.law import Unbiased
from bounds.setting import SIZES
from verify import (
    EXPERIMENTS,
    check_bound,
    compare,
    experiment_of,
    own_experiment,
    point_strategy,
    read_records,
    sweep,
)
from verify.cli import main
from verify.draw.style import AXES
from verify.judge.predicted import PredictedCheck
from verify.measure.files import compact, records_path
from verify.measure.lines import RecordError

SOURCE = next(e for e in examples() if "register_defense" in e)

#: Settings in which its errors are well within first order.
SMALL: dict[str, Any] = {"d": 8, "B": 1, "m": (8_000, 16_000), "labels": (3.0,)}


@pytest.fixture(autouse=True)
def _tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Copies, which a test may add to."""
    monkeypatch.setattr(DEFENSES, "_families", list(DEFENSES))
    monkeypatch.setattr(attack.registry, "_CHANNELS", dict(attack.registry._CHANNELS))
    monkeypatch.setattr(attack.registry, "_ATTACKS", dict(attack.registry._ATTACKS))
    before = dict(THEORY)
    yield
    for added in set(THEORY) - set(before):
        del THEORY[added]  # type: ignore[attr-defined]  # a dict behind its interface


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a user's module lies, not yet imported; the working directory."""
    (tmp_path / "sparsification.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("sparsification", None)


@pytest.fixture
def module(folder: Path) -> ModuleType:
    sys.path.insert(0, str(folder))
    return importlib.import_module("sparsification")


def shell(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    return int(stop.value.code or 0), *capsys.readouterr()


def test_theory_and_attack_know_it(module: ModuleType) -> None:
    defense = module.Sparsification(dropped=0.5)
    assert DEFENSES[-1] is module.Sparsification and len(DEFENSES) == len(set(DEFENSES)) == 14
    assert str(SYMBOLS["dropped"]) == "dropped" and AXES["dropped"] == "dropped"
    assert EXPERIMENTS["sparsification"].points[0].defense == defense and "sparsification" in set(EXPERIMENTS)
    setting = Setting.orthonormal(8, 32_000, 1)
    found = evaluate(defense, setting)
    assert found.predicted is not None and found.predicted > evaluate(DEFENSES[0](), setting).predicted
    assert "not proved" in found[Kind.UPPER].why and found.rate_scale is None
    assert expression(defense, Kind.PREDICTED).free_symbols <= set(SYMBOLS.values())
    net, X = TwoLayerNet.sample(8, 32_000), torch.eye(8, dtype=torch.float64)[:1]
    seen = observe(defense, net, X, torch.tensor([1.0]))
    assert int((seen.gradient == 0).sum()) > int((net.hidden(X) == 0).sum())
    assert float(matched_rmse(X, reconstruct(seen, net).features)) < 3 * found.predicted


def test_the_laws_of_every_defense_hold(module: ModuleType) -> None:
    family = module.Sparsification
    test_laws.test_off_leaves_the_observation_as_it_is(family)
    test_laws.test_off_has_the_undefended_bounds(family, "residualized")
    test_laws.test_bounds_of_three_features_are_finite_and_not_negative(family)
    for p in family.parameters():
        test_laws.test_out_of_range_is_refused(family, p)
        test_laws.test_the_ends_of_the_range_are_allowed(family, p)
    for member in family.grid():
        test_laws.test_other_members_do_something(member)
        test_laws.test_the_seed_decides_the_observation(member)
        test_laws.test_an_observation_keeps_its_form(member)


def test_it_is_measured_judged_kept_and_drawn(
    module: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 trials (seed 4) at each of two widths: the mean square error is told to about 30 %. Negative control: twice the
    prediction fails."""
    experiment = own_experiment(module.Sparsification(dropped=0.5), **SMALL, trials=20, seed=4)
    records = sweep(experiment, "out/records", progress=False)
    check = PredictedCheck(0.4, largest_m_only=True)
    assert [r.verdict for r in compare(records, check=check)] == ["holds"]
    assert [r.verdict for r in compare(records, check=check, corrupt_factor=2.0)] == ["fails"]
    path = records_path(experiment.name, "out/records")
    assert read_records(path) == records
    kept = compact(path)
    assert (
        {r.point for r in read_records(kept)} == set(experiment.points) == set(experiment_of(records).points)
    )
    assert experiment.title == "Sparsification, a setting of your own"
    again = ("figures", "--from", "out/records", "--out", "again", "--format", "svg", "--json")
    code, out, err = shell(capsys, "--plugin", "sparsification", *again)
    assert code in (0, 1) and len(json.loads(out)["results"]) == 2, err
    assert (folder / "again" / f"{experiment.name}.svg").is_file()
    monkeypatch.setattr(DEFENSES, "_families", list(DEFENSES)[:-1])
    with pytest.raises(RecordError, match=r"got 'sparsification' \(a defense from outside.*--plugin MODULE"):
        read_records(kept)
    assert shell(capsys, *again)[0] == 2


def test_the_shell_takes_it_by_its_module(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("bound", "sparsification", "--dropped", ".5", "--json")
    code, _, err = shell(capsys, *asked)
    assert code == 2 and "'sparsification' (one of your own needs --plugin MODULE" in err
    code, out, err = shell(capsys, "--plugin", "sparsification", *asked)
    assert code == 0, err
    expected = evaluate(DEFENSES[-1](dropped=0.5), Setting.orthonormal())
    assert json.loads(out)["bounds"]["predicted"]["value"] == expected.predicted
    small = (
        "--d",
        "6",
        "--B",
        "1",
        "--m",
        "2000",
        "--trials",
        "2",
        "--jobs",
        "1",
        "--format",
        "svg",
        "--json",
    )
    code, out, err = shell(capsys, "verify", "sparsification", "--dropped", ".3", *small, "--out", "out")
    assert code in (0, 1) and "sparsification (dropped = 0.3)" in json.loads(out)["results"][0]["series"], err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "--plugin must name a module that can be imported; 'broken' raised ModuleNotFoundError"),
        ("1/0", "'broken' raised ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "'broken' raised SystemExit: 3"),
    ],
)
def test_a_module_that_cannot_be_imported_is_bad_input(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str | None, message: str
) -> None:
    if text is not None:
        (folder / "broken.py").write_text(text)
    code, _, err = shell(capsys, "--plugin", "broken", "bound", "none")
    assert code == 2 and message in err and err.count("\n") == 1


def test_a_search_draws_it(module: ModuleType) -> None:
    points = point_strategy(defenses=(module.Sparsification,), d=(6, 6), m=(4_000, 4_000), B=(1, 1))
    result = check_bound(lambda setting: 1e-3, "upper", points, max_examples=2, trials=8)
    assert result.refuted and isinstance(result.counterexample.point.defense, module.Sparsification)


def test_a_worker_learns_the_channel_with_its_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module may be the script that is run, which a worker does not import: class and channel travel by value."""
    script: dict[str, Any] = {"__name__": "__main__"}
    exec(SOURCE, script)
    tasks: dict[Any, Any] = {}
    monkeypatch.setattr(
        verify.measure.sweep, "carry_out", lambda _, asked, *rest, **more: tasks.update(asked)
    )
    experiment = own_experiment(script["Sparsification"](dropped=0.5), **{**SMALL, "m": 2_000}, trials=1)
    sweep(experiment, "nowhere", jobs=2)
    (task,) = tasks.values()
    expected, sent = task(), dumps(task)
    attack.registry._CHANNELS.clear()
    with pytest.raises(TypeError, match=r"has a channel, a function under @attack.register_channel\(Sparsif"):
        observe(experiment.points[0].defense, TwoLayerNet.sample(8, 50), torch.eye(8)[:1], [1.0])
    found = pickle.loads(sent)()
    assert found.outcomes == expected.outcomes


def test_installed_packages_name_their_modules(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = folder / "users_defenses-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: users-defenses\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[reconbound.defenses]\nsparsification = sparsification\n")
    sys.path.insert(0, str(folder))
    monkeypatch.setattr(DEFENSES, "_searched", False)
    assert [family.name for family in DEFENSES][-1] == "sparsification" and len(DEFENSES) == 14
    (info / "entry_points.txt").write_text("[reconbound.defenses]\nfog = users_fog\n")
    monkeypatch.setattr(DEFENSES, "_searched", False)
    for _ in range(2):  # it is said again at the next look
        with pytest.raises(
            ImportError, match="users_fog, which package users-defenses names under the entry poi"
        ):
            list(DEFENSES)


# --- what is refused --------------------------------------------------------------------------------------------------


def family(name: str = "fog", **parts: Any) -> Any:
    """A complete specification, but for what is changed."""

    class Fog(Defense):
        thickness: float = param(lo=0.0, hi=1.0, off=0.0)

        def law(self, setting: Setting) -> Unbiased:
            return Unbiased(setting.residuals)

    Fog.name = name
    Fog.__annotations__ |= {k: float for k, v in parts.items() if not callable(v) and k in OWN}
    for part, value in parts.items():
        setattr(Fog, part, value)
    return dataclass(frozen=True)(Fog)


#: Names that are given to parameters below.
OWN = ("m", "steps", "per_sample", "plain")


def no_law(self: Any, setting: Setting):  # type: ignore[no-untyped-def]  # that is what is wrong with it
    return None


def other_law(self: Any, setting: Setting) -> float:
    return 0.0


def law_of(stated: str) -> Any:
    def law(self: Any, setting: Setting) -> None:
        raise AssertionError("only its annotation is looked at")

    law.__annotations__["return"] = stated
    return law


ANY = {"lo": 0.0, "hi": 1.0, "off": 0.0}


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: int, TypeError, "must be a subclass of bounds.Defense"),
        (lambda: Defense, ValueError, "Defense.name must be lower-case letters"),
        (
            lambda: type("Fog", (Defense,), {"name": "fog"}),
            TypeError,
            "Fog must be a frozen dataclass before",
        ),
        (lambda: family("Fog"), ValueError, "Fog.name must be lower-case letters.*got 'Fog'"),
        (lambda: family("../fog"), ValueError, r"Fog.name must be lower-case.*got '\.\./fog'"),
        (lambda: family("all"), ValueError, "Fog.name must be .*not 'all'"),
        (lambda: family("dropout"), ValueError, "'dropout' is bounds.defenses.dropout.Dropout already"),
        (lambda: family(plain=1.0), TypeError, r"Fog.plain must be declared with param\(\.\.\.\) or choice"),
        (lambda: family(m=param(**ANY)), ValueError, "Fog.m must not have the name of a size"),
        (lambda: family(steps=param(**ANY)), ValueError, "steps must be a whole number, as in local_aggreg"),
        (
            lambda: family(per_sample=param(**ANY)),
            ValueError,
            r"per_sample must be one of \(False, True\), as",
        ),
        (lambda: family(law=no_law), TypeError, "Fog.law must .* whose return type is .*got no return type"),
        (lambda: family(law=other_law), TypeError, "Fog.law must .*Unbiased, Elementwise, Pruned; got float"),
        (lambda: family(law=law_of("Unbiased |")), TypeError, "Fog.law must .*got SyntaxError"),
        (lambda: family(law=law_of("np.nothing")), TypeError, "Fog.law must .*got (Name|Attribute)Error"),
        (lambda: family(law=lambda self: None), TypeError, "Fog.law must .*got no return type"),
        (lambda: family(law=0.5), TypeError, "Fog.law must .*got TypeError"),
        (lambda: family(strength_name="depth"), ValueError, "Fog.strength_name must be one of .*got 'depth'"),
        (lambda: family(rate=SIZES["B"]), ValueError, "Fog.rate_source must say whose"),
        (lambda: family(rate=SYMBOLS["sigma"]), TypeError, "Fog.rate must be an expression.*got sigma"),
        (lambda: family(rate=2), TypeError, "Fog.rate must be an expression"),
    ],
)
def test_what_is_no_specification_is_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        register_defense(make())
    assert len(DEFENSES) == 13


def test_a_class_that_is_defined_again_takes_its_place_and_no_other_does() -> None:
    first, second = register_defense(family()), register_defense(family())
    assert first is not second and DEFENSES[13:] == (second,)
    with pytest.raises(TypeError, match=r"defense must be of a family in bounds.DEFENSES .*Fog"):
        own_experiment(first(), **SMALL)

    @dataclass(frozen=True)
    class Mist(family()):  # type: ignore[misc]
        name: ClassVar[str] = "fog"

    with pytest.raises(ValueError, match=r"'fog' is test_outside.family.<locals>.Fog already"):
        register_defense(Mist)


def one(defense: Any, client: Any, groups: Any, seed: int) -> Any:
    return client.gradient()


def test_a_defense_has_one_channel() -> None:
    fog = register_defense(family())
    assert register_channel(fog)(one) is one is register_channel(fog)(one)
    with pytest.raises(
        ValueError, match=r"Fog must have one such function; it has test_outside.one; got .*lambda"
    ):
        register_channel(fog)(lambda defense, client, groups, seed: client.gradient())
    with pytest.raises(ValueError, match=r"it has attack.channels.none.channel; got test_outside.one"):
        register_channel(DEFENSES[0])(one)
    with pytest.raises(TypeError, match=r"function of \(defense, client, groups, seed\)"):
        register_channel(family("mist"))(lambda client: client)
    with pytest.raises(TypeError, match=r"must be of a subclass of bounds\.Defense"):
        register_channel(fog())  # type: ignore[arg-type]


# --- an attack --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Echo(AttackSpec):
    """The tensor attack under another name, with options of every form."""

    name: ClassVar[str] = "echo"
    reach: float = 1.0
    scales: tuple[float, ...] = ()


def _echoed(defense: Defense, setting: Setting, attack: Echo, delta: float) -> tuple[float, dict[str, float]]:
    value, _ = PREDICTED.numeric(defense, setting, TensorAttack(), delta)
    return value, {}


ECHOED = dataclasses.replace(PREDICTED, statement="as the tensor attack", numeric=_echoed)


def echo(observation: Any, net: Any, batch_size: Any = None, attack: Any = None, seed: int = 2) -> Any:
    return reconstruct(observation, net, batch_size, seed=seed)


def test_an_attack_goes_all_the_way(tmp_path: Path) -> None:
    """Options that JSON does not have (an infinity, a tuple), alone and beside the tensor attack on one observation."""
    register_attack(Echo, ECHOED)
    register_reconstruct(Echo)(echo)
    spec = Echo(reach=math.inf, scales=(0.5, math.inf))
    stated = evaluate(DEFENSES[0](), Setting.orthonormal(12, 4000, 1), spec)
    assert stated.predicted == evaluate(DEFENSES[0](), Setting.orthonormal(12, 4000, 1)).predicted
    assert Echo in ATTACKS and stated.rate_scale is None
    alone = own_experiment(d=12, B=1, m=(2_000, 4_000), attack=spec, trials=2)
    assert [c.kind for c in alone.rules] == [Kind.PREDICTED]
    points = tuple(dataclasses.replace(p, also=(TensorAttack(),)) for p in alone.points)
    both = dataclasses.replace(alone, name=alone.name, points=points)
    records = sweep(both, tmp_path, progress=False)
    path = records_path(both.name, tmp_path)
    assert read_records(path) == records
    assert {r.point for r in read_records(compact(path))} == set(points)
    one, two = (r for r in compare(records, both, kind="predicted") if "4 000" in r.series)
    assert one.measured == two.measured and one.predicted == two.predicted  # the same trials by either name


def test_a_name_alone_is_given_no_code_of_the_tree() -> None:
    @dataclass(frozen=True)
    class Entrance(AttackSpec):
        name: ClassVar[str] = (
            "reconstruction"  # attack.reconstruction.reconstruct is the entrance to all attacks
        )

    net = TwoLayerNet.sample(8, 200, seed=0)
    observation = observe(DEFENSES[0](), net, torch.eye(1, 8, dtype=torch.float64), torch.ones(1), seed=1)
    with pytest.raises(TypeError, match="attack must be one that has code for this Observation"):
        reconstruct(observation, net, 1, Entrance())
    with pytest.raises(TypeError, match="defense must be one that has a channel"):
        attack.registry.channel_of(family("dropout")())


def test_what_is_no_attack_is_refused() -> None:
    before = set(ATTACKS)

    @dataclass(frozen=True)
    class Tensor(AttackSpec):
        name: ClassVar[str] = "tensor"

    class Bare(AttackSpec):
        name: ClassVar[str] = "bare"

    with pytest.raises(ValueError, match=r"'tensor' is bounds.estimator.TensorAttack already"):
        register_attack(Tensor, ECHOED)
    with pytest.raises(ValueError, match="TensorAttack must come from outside the tree"):
        register_attack(TensorAttack, ECHOED)
    with pytest.raises(TypeError, match=r"Bare must be a frozen dataclass before"):
        register_attack(Bare, ECHOED)
    with pytest.raises(TypeError, match=r"must be a subclass of bounds.AttackSpec"):
        register_attack(Echo(), ECHOED)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"bounds must be a Bound"):
        register_attack(Echo, 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"it has attack.tensor.attack.tensor_attack; got test_outside.echo"):
        register_reconstruct(TensorAttack)(echo)
    with pytest.raises(ValueError, match=r"package must be one of attack, attack.rows"):
        register_reconstruct(Echo, "rows")
    with pytest.raises(TypeError, match=r"function of \(observation, net, batch_size, attack, seed\)"):
        register_reconstruct(Echo)(one)
    assert set(ATTACKS) == before
