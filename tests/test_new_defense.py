"""What a newcomer adds. A defense in three small edits: a specification with its law, what the client does, one line in
``DEFENSES``; everything else, the laws, the command line, a default experiment, has to follow. An attack likewise: a
specification with its theory, its code, one line in ``THEORY``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

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


def run(where: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """What is compiled is kept, so that a second run in the same copy starts sooner."""
    environment = {**os.environ, "PYTHONPATH": str(where), "PYTHONDONTWRITEBYTECODE": ""}
    return subprocess.run(
        [sys.executable, *command], cwd=where, env=environment, capture_output=True, text=True, timeout=600
    )


def copied(where: Path) -> Path:
    """The packages and their tests, to be edited."""
    for name in ("bounds", "attack", "verify", "tests"):
        shutil.copytree(ROOT / name, where / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", where)
    return where


def laws(where: Path, chosen: str) -> subprocess.CompletedProcess[str]:
    plugins = ("-p", "no:cacheprovider", "-p", "no:xdist")
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


def test_a_defense_with_a_false_prediction_is_caught(tmp_path: Path) -> None:
    """The same with a variance that leaves the mask out: the laws must go red. One member is enough."""
    copied(tmp_path)
    broken = (tmp_path / "bounds" / "defenses" / "dropout.py").read_text()
    assert "odds * (" in broken
    (tmp_path / "bounds" / "defenses" / "dropout.py").write_text(broken.replace("odds * (", "0 * odds * ("))
    red = laws(tmp_path, "measured_is_predicted and Dropout and 0.5 and False")
    assert red.returncode == 1 and "failed" in red.stdout, red.stdout[-3000:]
