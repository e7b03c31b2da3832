"""The house's rules: which way imports go, what each package does without, and what is shipped."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest

from verify.judge.verdict import Result

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


# What each package consists of, from the bottom to the top: a line may import from those above it in this table and from
# itself, never from one below. A wing is meant whole; a part of it that stands elsewhere has an entry of its own.
LAYERS: dict[str, tuple[str, ...]] = {
    "bounds": (
        "arrays errors",
        "checks",
        "gaussian losses density",
        "setting law estimator",
        "defense",
        "registry",
        "statement",
        "kinds.pairs",
        "wide_limits",
        "kinds",
        "defenses",
        "evaluation",
        "__init__",
        "serial",
    ),
    "attack": (
        "arrays streams metrics stream units",
        "device client registry",
        "networks observation",
        "channels reconstruction",
        "tensor gradient_matching",
        "likelihood message_passing",
        "rows",
        "certificate",
        "own",
        "image",
        "__init__",
    ),
    "verify": (
        "origin",
        "measure",
        "judge",
        "experiments",
        "images",
        "utility",
        "draw",
        "premises unexplained",
        "assessed",
        "outputs_confidence",
        "search studies confidence bench certified",
        "export",
        "__init__",
        "cli pytest_plugin",
        "__main__",
    ),
}


def module_name(file: Path, root: Path) -> str:
    name = ".".join(file.relative_to(root).with_suffix("").parts)
    return name.removesuffix(".__init__")


class Imports(ast.NodeVisitor):
    """The modules among ``known`` that a file imports, wherever it does, but for those that only types need."""

    def __init__(self, known: set[str]) -> None:
        self.known, self.found = known, set[str]()

    def visit_If(self, node: ast.If) -> None:
        if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.found |= {alias.name for alias in node.names} & self.known

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            named = f"{node.module}.{alias.name}"
            self.found |= {named if named in self.known else str(node.module)} & self.known


def import_graph(root: Path, package: str) -> dict[str, set[str]]:
    """For each module of a package the modules of the same package that it imports."""
    files = {module_name(file, root): file for file in (root / package).rglob("*.py")}
    graph = {}
    for name, file in files.items():
        seen = Imports(set(files))
        seen.visit(ast.parse(file.read_text("utf-8")))
        graph[name] = seen.found - {name}
    return graph


def layer(package: str, module: str) -> int:
    """The place of a module in the table: that of its longest entry. ``KeyError`` for one that has none."""
    inside = module.removeprefix(package).lstrip(".") or "__init__"
    places = {name: level for level, line in enumerate(LAYERS[package]) for name in line.split()}
    parts = inside.split(".")
    entries = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    for entry in entries:
        if entry in places:
            return places[entry]
    raise KeyError(f"{module} has no place in LAYERS")


def entry(package: str, module: str) -> str:
    """The wing or file of the package that a module belongs to."""
    return module.removeprefix(f"{package}.").split(".")[0]


def upward(package: str, graph: dict[str, set[str]]) -> list[str]:
    """Imports that do not go down: to a higher layer, or to a neighbour in the same one."""
    return sorted(
        f"{module} imports {other}"
        for module, others in graph.items()
        for other in others
        if layer(package, other) > layer(package, module)
        or (
            layer(package, other) == layer(package, module)
            and entry(package, other) != entry(package, module)
        )
    )


def circle(graph: dict[str, set[str]]) -> set[str]:
    """Modules that import one another in a circle, or lie between two circles; empty if none do."""
    left = {module: set(others) for module, others in graph.items()}
    while True:
        imported_by = {other for others in left.values() for other in others}
        ends = {module for module, others in left.items() if not others & left.keys()} | (
            left.keys() - imported_by
        )
        if not ends:
            return set(left)
        left = {module: others - ends for module, others in left.items() if module not in ends}


@pytest.mark.parametrize("package", LAYERS)
def test_imports_go_down_inside_each_package(package: str) -> None:
    assert upward(package, import_graph(ROOT, package)) == []


@pytest.mark.parametrize("package", LAYERS)
def test_no_modules_import_one_another_in_a_circle(package: str) -> None:
    assert circle(import_graph(ROOT, package)) == set()


@pytest.mark.parametrize("package", LAYERS)
def test_the_table_of_layers_names_what_is_there(package: str) -> None:
    there = set(import_graph(ROOT, package))
    named = [name for line in LAYERS[package] for name in line.split()]
    assert len(named) == len(set(named))
    for name in named:
        assert (package if name == "__init__" else f"{package}.{name}") in there


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("measure.point", "from verify.judge.base import bound_at", True),
        ("measure.point", "def f():\n    import verify.cli", True),
        ("search.claim", "from verify.studies import study", True),
        ("search.claim", "from verify.judge import base", False),
        ("judge.base", "from verify.measure import point\nfrom verify.judge import rate", False),
        ("measure.point", "if TYPE_CHECKING:\n    from verify.judge import base", False),
    ],
)
def test_the_check_of_layers_sees_them(tmp_path: Path, module: str, source: str, wrong: bool) -> None:
    for name in ("measure.point", "judge.base", "judge.rate", "search.claim", "studies.study", "cli.app"):
        file = tmp_path / "verify" / Path(*name.split(".")).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        (file.parent / "__init__.py").write_text("")
        file.write_text(source if name == module else "")
    assert bool(upward("verify", import_graph(tmp_path, "verify"))) is wrong


def test_the_check_of_circles_sees_them() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == set()
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == {"b", "c"}


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
        {"torch", "attack", "verify", "matplotlib", "sklearn", "typer"},
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


# --- one name for one thing ---------------------------------------------------------------------------------------------

#: Names that say one thing below and another above: a moment as theory has it and as it is measured; to run.
NAMESAKES = {"first_moment", "run"}


def test_what_bounds_offers_is_not_written_again_above_it() -> None:
    """A public function of ``bounds`` has no namesake in ``attack`` and ``verify``: it would be the same thing twice."""

    def functions(package: str) -> dict[str, str]:
        found = {}
        for path in modules(package):
            for node in ast.parse(path.read_text("utf-8")).body:
                if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                    found[node.name] = str(path.relative_to(ROOT))
        return found

    below = functions("bounds")
    twice = {
        name: place
        for above in ("attack", "verify")
        for name, place in functions(above).items()
        if name in below
    }
    assert {name: place for name, place in twice.items() if name not in NAMESAKES} == {}


def test_no_constant_is_written_that_nothing_reads() -> None:
    text = {path: path.read_text("utf-8") for folder in (*ALLOWED, "tests") for path in modules(folder)}
    words = Counter(word for source in text.values() for word in re.findall(r"\w+", source))
    unread = [
        f"{path.relative_to(ROOT)}: {target.id}"
        for path, source in text.items()
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name) and not target.id.startswith("__") and words[target.id] == 1
    ]
    assert unread == []


@pytest.mark.parametrize("result", Result.__subclasses__(), ids=lambda kind: kind.__name__)
def test_a_verdict_is_written_by_the_names_of_its_fields(result: type[Result]) -> None:
    """A dozen numbers side by side are told apart by nothing else."""
    assert all(field.kw_only for field in fields(result))
