"""What a newcomer adds. A defense in three small edits: a specification with its law, what the client does, one line in
``DEFENSES``; everything else, the laws, the command line, a default experiment, has to follow. An attack likewise: a
specification with its theory, its code, one line in ``THEORY``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from subprocess import CompletedProcess

from fresh import run

ROOT = Path(__file__).parent.parent

SPECIFICATION = '''"""Random sparsification: every entry is sent with probability 1 - p, rescaled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import sympy as sp

from bounds.defense import Defense, param, symbol
from bounds.law import Unbiased
from bounds.setting import SIZES, Setting


@dataclass(frozen=True)
class RandomSparsification(Defense):
    """Every entry is kept with probability ``1 - dropped`` and divided by it."""

    name: ClassVar[str] = "random_sparsification"
    dropped: float = param(lo=0.0, hi=0.99, off=0.0, grid=(0.5,))
    rate: ClassVar[sp.Expr | None] = SIZES["B"] / sp.sqrt(1 - symbol("dropped"))
    rate_source: ClassVar[str] = "folklore"

    def law(self, setting: Setting) -> Unbiased:
        r, odds = setting.residuals, self.dropped / (1 - self.dropped)
        exact = "" if self.dropped == 0 else "entries are left out at random"
        return Unbiased(r, masking=odds * np.outer(r, r), inexact=exact)
'''

CHANNEL = '''"""Random sparsification."""

from __future__ import annotations

import torch

from attack.client import Client
from bounds import RandomSparsification


def channel(defense: RandomSparsification, client: Client, groups: tuple[int, ...], seed: int) -> torch.Tensor:
    """Entries kept or dropped by the stream "masks"."""
    kept = client.entries.uniform(seed, "masks") >= defense.dropped
    return client.gradient() * kept / (1 - defense.dropped)
'''


GUESS = '''"""A guess: unit directions drawn at random, whatever the server sees."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import sympy as sp

from bounds.defense import Defense
from bounds.errors import UnsupportedBound
from bounds.estimator import AttackSpec
from bounds.setting import Setting
from bounds.statement import Bound, Kind


@dataclass(frozen=True)
class RandomGuess(AttackSpec):
    """One direction for each feature."""

    name: ClassVar[str] = "guess"
    tries: int = 1


def _numeric(
    defense: Defense, setting: Setting, attack: RandomGuess, delta: float
) -> tuple[float, dict[str, float]]:
    if setting.B > 1:
        raise UnsupportedBound("not proved: the best order of several guesses")
    return math.sqrt(1 + float(setting.norms[0]) ** 2), {}


GUESSED = Bound(
    kind=Kind.PREDICTED,
    statement="a direction is uncorrelated with the feature",
    source="folklore",
    statistic="root mean square over trials of R",
    assumptions=("one feature",),
    numeric=_numeric,
    symbolic=sp.sqrt(2),
)
'''

GUESSING = '''"""Random unit directions."""

from __future__ import annotations

import torch

from attack.networks.two_layer import TwoLayerNet
from attack.observation import Observation
from attack.reconstruction import Diagnostics, Reconstruction
from attack.streams import numpy_generator
from bounds.guess import RandomGuess


def reconstruct(
    observation: Observation,
    net: TwoLayerNet,
    batch_size: int | None = None,
    attack: RandomGuess | None = None,
    seed: int = 2,
) -> Reconstruction:
    B = observation.batch_size if batch_size is None else batch_size
    drawn = torch.from_numpy(numpy_generator(seed, "starts", 1).standard_normal((B, net.d)))
    nothing = torch.zeros(B, dtype=torch.float64)
    features = drawn / drawn.norm(dim=1, keepdim=True)
    return Reconstruction(features, nothing, nothing, Diagnostics("ok", (), 1.0, (), 0.0, 0))
'''

GUESSED = """
import json
import torch
from attack import TwoLayerNet, matched_rmse, observe
from attack.guess import reconstruct
from bounds import ATTACKS, DEFENSES, Kind, NoDefense, Setting, UnsupportedBound, evaluate, expression
from bounds.guess import RandomGuess
from bounds.serial import attack_from_dict, attack_to_dict

spec = RandomGuess(tries=2)
assert RandomGuess in ATTACKS
assert attack_from_dict(json.loads(json.dumps(attack_to_dict(spec)))) == spec
assert attack_to_dict(spec) == {"name": "guess", "tries": 2}
one, two = (Setting.orthonormal(40, 2000, B) for B in (1, 2))
for family in DEFENSES:
    assert evaluate(family.grid()[0], one, spec).predicted == 2**0.5
    assert evaluate(family.grid()[0], one, spec)[Kind.UPPER].why == f"not proved: no upper is stated for {family.name}"
assert evaluate(NoDefense(), two, spec)[Kind.PREDICTED].why == "not proved: the best order of several guesses"
assert evaluate(NoDefense(), one).predicted < 1  # the tensor attack, as before
assert str(expression(NoDefense, "predicted", RandomGuess)) == "sqrt(2)"
net, X = TwoLayerNet.sample(40, 2000, "relu", 0), torch.eye(40, dtype=torch.float64)[:1]
seen = observe(NoDefense(), net, X, torch.tensor([1.0]))
errors = [float(matched_rmse(X, reconstruct(seen, net, attack=spec, seed=s).features)) for s in range(200)]
print(sum(e * e for e in errors) / len(errors))
"""


ECHO = '''"""The tensor attack under another name, with options of every form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import sympy as sp

from bounds.defense import Defense
from bounds.estimator import AttackSpec, TensorAttack
from bounds.kinds.predicted.unbiased import PREDICTED
from bounds.setting import Setting
from bounds.statement import Bound, Kind


@dataclass(frozen=True)
class Echo(AttackSpec):
    """Reach and scales play no part."""

    name: ClassVar[str] = "echo"
    reach: float = 1.0
    scales: tuple[float, ...] = ()


def _numeric(
    defense: Defense, setting: Setting, attack: Echo, delta: float
) -> tuple[float, dict[str, float]]:
    value, _ = PREDICTED.numeric(defense, setting, TensorAttack(), delta)
    return value, {}


ECHOED = Bound(
    kind=Kind.PREDICTED,
    statement="as the tensor attack",
    source="folklore",
    statistic="root mean square over trials of R",
    assumptions=(),
    numeric=_numeric,
    symbolic=sp.Symbol("K_perp", positive=True),
    laws=PREDICTED.laws,
)
'''

ECHOING = '''"""The tensor attack again."""

from __future__ import annotations

from attack.networks.two_layer import TwoLayerNet
from attack.observation import Observation
from attack.reconstruction import Reconstruction
from attack.tensor import reconstruct as tensor
from bounds.echo import Echo


def reconstruct(
    observation: Observation,
    net: TwoLayerNet,
    batch_size: int | None = None,
    attack: Echo | None = None,
    seed: int = 2,
) -> Reconstruction:
    return tensor(observation, net, batch_size=batch_size, seed=seed)
'''

MEASURED = """
import math
from dataclasses import replace
from pathlib import Path
import torch
from attack import TwoLayerNet, observe, reconstruct
from bounds import Kind, NoDefense, Setting, TensorAttack, evaluate
from bounds.echo import Echo
from test_layout import test_all_packages_are_shipped
from verify import Features, Point, check_point, compare, experiment_of, own_experiment, plot, read_records, sweep
from verify.judge.base import bound_at
from verify.judge.predicted import ImprovementCheck
from verify.measure.files import compact
from verify.search.again import code

test_all_packages_are_shipped()
spec = Echo(reach=math.inf, scales=(0.5, math.inf))
setting = Setting.orthonormal(12, 4000, 1)
stated = evaluate(NoDefense(), setting, spec)
assert stated.predicted == evaluate(NoDefense(), setting).predicted and stated.rate_scale is None
net, X = TwoLayerNet.sample(12, 4000, "relu", 0), torch.eye(12, dtype=torch.float64)[:1]
seen = observe(NoDefense(), net, X, torch.tensor([1.0]))
assert torch.equal(reconstruct(seen, net, attack=spec).features, reconstruct(seen, net).features)

alone = own_experiment(d=12, B=1, m=(2_000, 8_000), attack=spec)
assert [c.kind for c in alone.rules] == [Kind.PREDICTED]  # its theory has no rate and no UPPER
plain = TensorAttack(moments="plain")
both = tuple(Point("both", Features("orthonormal"), 12, m, 1, also=(spec, plain)) for m in (2_000, 8_000))
assert eval(code(both[0]), {**globals(), "Echo": Echo}) == both[0]
records = sweep(alone, "out/records", trials=8, jobs=1, progress=False)
together = replace(alone, name="both", points=both, rules=(*alone.rules, ImprovementCheck()))
records_of_both = sweep(together, "out/records", trials=8, jobs=1, progress=False)
for experiment, found in ((alone, records), (together, records_of_both)):
    path = Path("out/records") / f"{experiment.name}.jsonl"
    assert read_records(path) == found
    kept = compact(path)
    back = read_records(kept)
    assert {(r.point, r.trial) for r in back} == {(r.point, r.trial) for r in found}  # equal, and of one hash
    assert {type(a) for r in back for a in r.point.attacks} <= {TensorAttack, Echo} and spec in back[0].point.attacks
    results = compare(back, experiment)
    assert [r.text for r in results] == [r.text for r in compare(found, experiment)]
    assert {r.verdict for r in compare(back, experiment, kind="predicted", corrupt_factor=0.3)} == {"fails"}
    for x in ("m", "d"):
        plot(back, f"out/{experiment.name}-{x}.svg", experiment, x=x)
    own = experiment_of(back)
    assert set(own.points) == set(experiment.points)
    assert len(compare(back, own, kind="predicted")) == len(own.points) * len(own.points[0].attacks)
predicted = compare(records_of_both, together, kind="predicted")
one, two = (r for r in predicted if "2 000" in r.series and "plain" not in r.series)
assert one.measured == two.measured and one.predicted == two.predicted  # the same trials by either name
rates = compare(records_of_both, kind="rate")
assert len(rates) == 2 and all("tensor attack" in r.series and r.verdict != "uninformative" for r in rates), rates
assert check_point(lambda setting: 3.0 * stated.predicted, "predicted", alone.points[0], trials=6).verdict == "fails"
"""


def copied(where: Path) -> Path:
    """The packages and their tests, to be edited."""
    for name in ("bounds", "attack", "verify", "tests"):
        shutil.copytree(ROOT / name, where / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", where)
    return where


def laws(where: Path, chosen: str) -> CompletedProcess[str]:
    plugins = ("-p", "no:cacheprovider", "-n", "0")
    return run(where, "-m", "pytest", "-q", *plugins, "tests/test_laws.py", "-k", chosen)


def test_three_small_edits_are_enough(tmp_path: Path) -> None:
    copied(tmp_path)
    # the three edits
    (tmp_path / "bounds" / "defenses" / "random_sparsification.py").write_text(SPECIFICATION)
    (tmp_path / "attack" / "channels" / "random_sparsification.py").write_text(CHANNEL)
    registry = tmp_path / "bounds" / "__init__.py"
    text = registry.read_text()
    last = "    SecureAggregation,\n)"
    assert last in text
    text = text.replace(last, "    SecureAggregation,\n    RandomSparsification,\n)")
    registry.write_text(
        text.replace(
            "from bounds.setting import",
            "from bounds.defenses.random_sparsification import RandomSparsification\nfrom bounds.setting import",
        )
    )
    lawful = laws(tmp_path, "andom_sparsification or RandomSparsification")
    assert lawful.returncode == 0, lawful.stdout[-3000:]
    assert " passed" in lawful.stdout
    bound = run(
        tmp_path,
        "-m",
        "verify",
        "bound",
        "random-sparsification",
        "--dropped",
        "0.5",
        "--m",
        "100000",
        "--json",
    )
    assert bound.returncode == 0, bound.stderr
    assert json.loads(bound.stdout)["bounds"]["predicted"]["value"] > 0
    listed = run(
        tmp_path, "-c", "from verify import EXPERIMENTS; print(EXPERIMENTS['random-sparsification'].title)"
    )
    assert listed.stdout.startswith("Random sparsification"), listed.stderr


def test_an_attack_from_outside(tmp_path: Path) -> None:
    """200 guesses in 40 dimensions: the mean square error is 2 within 5 % (its standard error is 1 %)."""
    copied(tmp_path)
    (tmp_path / "bounds" / "guess.py").write_text(GUESS)
    (tmp_path / "attack" / "guess").mkdir()
    (tmp_path / "attack" / "guess" / "__init__.py").write_text(GUESSING)
    table = tmp_path / "bounds" / "kinds" / "stated.py"
    text = table.read_text()
    last = "FLOOR, UPPER),\n"
    assert last in text
    text = text.replace(last, last + "    RandomGuess: (GUESSED,),\n")
    table.write_text(
        text.replace(
            "from bounds.kinds.rate import",
            "from bounds.guess import GUESSED, RandomGuess\nfrom bounds.kinds.rate import",
        )
    )
    found = run(tmp_path, "-c", GUESSED)
    assert found.returncode == 0, found.stderr
    assert abs(float(found.stdout) - 2) < 0.1


def test_an_attack_from_outside_goes_all_the_way(tmp_path: Path) -> None:
    """A specification whose options JSON does not have (an infinity, a tuple), alone and beside the tensor attack on one
    observation: evaluated, run, measured, kept, judged, drawn, searched, redrawn and exported by the command line."""
    copied(tmp_path)
    (tmp_path / "bounds" / "echo.py").write_text(ECHO)
    (tmp_path / "attack" / "echo").mkdir()
    (tmp_path / "attack" / "echo" / "__init__.py").write_text(ECHOING)
    for name, changes in (
        (
            "bounds/kinds/stated.py",
            (
                ("FLOOR, UPPER),\n", "FLOOR, UPPER),\n    Echo: (ECHOED,),\n"),
                ("from bounds.kinds.rate", "from bounds.echo import ECHOED, Echo\nfrom bounds.kinds.rate"),
            ),
        ),
        ("pyproject.toml", (('"attack.channels",', '"attack.channels", "attack.echo",'),)),
    ):
        text = (tmp_path / name).read_text()
        for old, new in changes:
            assert text.count(old) == 1
            text = text.replace(old, new)
        (tmp_path / name).write_text(text)
    measured = run(tmp_path, "-c", "import sys; sys.path.append('tests')\n" + MEASURED)
    assert measured.returncode == 0, measured.stderr
    figures = run(tmp_path, "-m", "verify", "figures", "--from", "out/records", "--out", "again", "--json")
    told = json.loads(figures.stdout)
    assert figures.returncode == int(any(r["verdict"] == "fails" for r in told["results"])), figures.stderr
    echoed = [r["series"] for r in told["results"] if r["kind"] == "predicted" and "echo" in r["series"]]
    assert told["trials"] == 32 and len(set(echoed)) == 4
    assert len(list((tmp_path / "again").glob("*.png"))) >= 2
    tables = run(tmp_path, "-m", "verify", "export", "out/records", "--out", "tables")
    assert tables.returncode == 0, tables.stderr
    rows = (tmp_path / "tables" / "both.csv").read_text().splitlines()
    assert len(rows) == 1 + 16 * 3 and sum("echo" in row for row in rows) == 16


def test_a_defense_with_a_false_prediction_is_caught(tmp_path: Path) -> None:
    """The same with a variance that leaves the mask out: the laws must go red. One member is enough."""
    copied(tmp_path)
    broken = (tmp_path / "bounds" / "defenses" / "dropout.py").read_text()
    assert "odds * (" in broken
    (tmp_path / "bounds" / "defenses" / "dropout.py").write_text(broken.replace("odds * (", "0 * odds * ("))
    red = laws(tmp_path, "measured_is_predicted and Dropout and 0.5")
    assert red.returncode == 1 and "failed" in red.stdout, red.stdout[-3000:]
