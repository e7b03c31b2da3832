"""A user's own defense in three small edits: a specification with its channel's theory, what the client does, one line in
``DEFENSES``. Everything else, the laws, the command line, a default experiment, has to follow."""

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
from typing import Any, ClassVar

import numpy as np
import sympy as sp

from bounds.statement import Bound
from bounds.law import Unbiased
from bounds.defense import Defense, param
from bounds.setting import SYMBOLS, Setting
from bounds.kinds.stated import unbiased_bounds


def _channel(defense: Any, setting: Setting) -> Unbiased:
    r, odds = setting.residuals, defense.p / (1 - defense.p)
    return Unbiased(r, 0.0, odds * np.outer(r, r))


@dataclass(frozen=True)
class RandomSparsification(Defense):
    """Every entry is kept with probability ``1 - p`` and divided by it."""

    name: ClassVar[str] = "random_sparsification"
    p: float = param(lo=0.0, hi=0.99, off=0.0, grid=(0.5,))
    bounds: ClassVar[tuple[Bound, ...]] = unbiased_bounds(
        _channel,
        SYMBOLS["B"] / sp.sqrt(1 - SYMBOLS["p"]),
        lambda defense, setting: setting.B / (1 - defense.p) ** 0.5,
        "folklore",
    )
'''

CHANNEL = '''"""Random sparsification."""

from __future__ import annotations

import torch

from attack.client import Client
from bounds import RandomSparsification


def channel(defense: RandomSparsification, client: Client, groups: tuple[int, ...], seed: int) -> torch.Tensor:
    """Entries kept or dropped by the stream "masks"."""
    kept = client.entries.uniform(seed, "masks") >= defense.p
    return client.gradient() * kept / (1 - defense.p)
'''


def run(where: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(where)}
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
    return run(where, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_laws.py", "-k", chosen)


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
        tmp_path, "-m", "verify", "bound", "random-sparsification", "--p", "0.5", "--m", "100000", "--json"
    )
    assert bound.returncode == 0, bound.stderr
    assert json.loads(bound.stdout)["bounds"]["predicted"]["value"] > 0
    listed = run(
        tmp_path, "-c", "from verify import EXPERIMENTS; print(EXPERIMENTS['random-sparsification'].title)"
    )
    assert listed.stdout.startswith("Random sparsification"), listed.stderr


def test_a_defense_with_a_false_prediction_is_caught(tmp_path: Path) -> None:
    """The same with a variance that leaves the mask out: the laws must go red. One member is enough."""
    copied(tmp_path)
    broken = (tmp_path / "bounds" / "defenses" / "dropout.py").read_text()
    assert "odds * (" in broken
    (tmp_path / "bounds" / "defenses" / "dropout.py").write_text(broken.replace("odds * (", "0 * odds * ("))
    red = laws(tmp_path, "measured_is_predicted and Dropout and 0.5 and False")
    assert red.returncode == 1 and "failed" in red.stdout, red.stdout[-3000:]
