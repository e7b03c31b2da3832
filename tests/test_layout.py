"""The house's rules: which way imports go, what each package does without, and what is shipped."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Imports go bounds <- attack <- verify: what each package may import of the three.
ALLOWED = {"bounds": {"bounds"}, "attack": {"attack", "bounds"}, "verify": {"verify", "attack", "bounds"}}

# The attack may read specs and settings, never a bound's value: it must not know what it is measured against.
BOUND_VALUES = {"evaluate", "expression"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(source: str) -> set[str]:
    """Top-level names that a module's absolute imports refer to, wherever in the module they stand."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            names.add(node.module.split(".")[0])
    return names


def wrong_way(package: str, source: str) -> set[str]:
    return imported(source) & (set(ALLOWED) - ALLOWED[package])


def bound_values(source: str) -> set[str]:
    """Names of ``BOUND_VALUES`` that a module takes from ``bounds``, by import or as an attribute."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "bounds":
            found |= {alias.name for alias in node.names} & BOUND_VALUES
        elif (
            isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "bounds"
        ):
            found |= {node.attr} & BOUND_VALUES
    return found


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_go_one_way(package: str) -> None:
    files = modules(package)
    assert files, f"no modules under {ROOT / package}"
    offending = {str(file.relative_to(ROOT)): wrong_way(package, file.read_text("utf-8")) for file in files}
    assert {file: names for file, names in offending.items() if names} == {}


def test_the_attack_reads_no_bound_value() -> None:
    offending = {
        str(file.relative_to(ROOT)): bound_values(file.read_text("utf-8")) for file in modules("attack")
    }
    assert {file: names for file, names in offending.items() if names} == {}


@pytest.mark.parametrize(
    ("package", "source", "names"),
    [
        ("bounds", "import attack.network", {"attack"}),
        ("bounds", "def f():\n    from verify import sweep", {"verify"}),
        ("attack", "if True:\n    import numpy, verify.record as r", {"verify"}),
        ("attack", "from bounds import Setting\nfrom . import verify", set()),
        ("verify", "import attack, bounds, verify", set()),
    ],
)
def test_the_check_of_imports_sees_them(package: str, source: str, names: set[str]) -> None:
    assert wrong_way(package, source) == names


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("from bounds import Setting, evaluate", {"evaluate"}),
        ("from bounds.bound import expression", {"expression"}),
        ("import bounds\nx = bounds.evaluate(1, 2)", {"evaluate"}),
        ("from bounds import Setting\nmodel.evaluate()", set()),
    ],
)
def test_the_check_of_bound_values_sees_them(source: str, names: set[str]) -> None:
    assert bound_values(source) == names


def test_all_packages_are_shipped() -> None:
    """The list in pyproject.toml names every package of the tree and no other."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    tree = {".".join(file.parent.relative_to(ROOT).parts) for package in ALLOWED for file in modules(package)}
    assert sorted(project["tool"]["setuptools"]["packages"]) == sorted(tree)


# A finder ahead of all others that refuses the modules named in BLOCKED, so that importing one of them fails
# anywhere, installed or not.
BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ImportError("blocked: " + name)
        return None

sys.meta_path.insert(0, Blocker())
"""


def run(code: str, *path: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs ``code`` in a fresh interpreter that looks for modules in ``cwd``, then in ``path``."""
    search = {"PYTHONPATH": os.pathsep.join(map(str, path)), "PYTHONSAFEPATH": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env=os.environ | search,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def run_without(blocked: set[str], code: str) -> subprocess.CompletedProcess[str]:
    return run(f"BLOCKED = {sorted(blocked)!r}\n{BLOCKER}\n{code}", cwd=ROOT)


def test_the_blocker_blocks() -> None:
    done = run_without({"sympy"}, "import sympy.core")
    assert done.returncode != 0
    assert "ImportError: blocked: sympy" in done.stderr


def test_bounds_works_alone() -> None:
    """Theory needs neither torch nor the attack: a bound is evaluated where none of them can be imported."""
    done = run_without(
        {"torch", "attack", "verify"},
        "import bounds\n"
        'setting = bounds.Setting.orthonormal(d=100, m=160000, B=2, activation="relu")\n'
        "print(bounds.evaluate(bounds.NoDefense(), setting).predicted)",
    )
    assert done.returncode == 0, done.stderr
    assert 0 < float(done.stdout) < 1


def test_attack_needs_no_interface_and_no_oracle() -> None:
    done = run_without(
        {"verify", "typer", "rich", "tensorly", "matplotlib", "sklearn"},
        "import attack, attack.channels, attack.image\nprint('imported')",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "imported\n"


@pytest.mark.parametrize("package", ["attack", "verify"])
@pytest.mark.parametrize("form", ["bounds.py", "bounds/__init__.py"])
def test_a_foreign_bounds_is_named(tmp_path: Path, package: str, form: str) -> None:
    """Other distributions ship packages of these names; a mix-up is told with the file it comes from."""
    foreign = tmp_path / form
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("lower = 0\n")
    done = run(f"import {package}", ROOT, cwd=tmp_path)
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError:"), done.stderr
    assert str(foreign) in last
