"""Theory's written side: every page opens with its table, every name in it exists, and nothing points nowhere."""

from __future__ import annotations

import dataclasses
import importlib
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROOFS = ROOT / "bounds" / "proofs"
PAGES = sorted(p for p in PROOFS.glob("*.md") if p.name != "README.md")
LONGEST = 120
HEADER = "| symbol | what it is | code name |"

#: Where a page named in prose may stand, beside the folder of what names it.
SHELVES = (ROOT, PROOFS, ROOT / "figures")
PACKAGES = ("attack", "bounds", "verify")

#: Modules beside the theorems that prove nothing of their own.
BOOKKEEPING = ("__init__.py", "budget.py", "envelopes.py")


def rows_of(text: str) -> list[list[str]]:
    """Cells of the rows of the table that follows ``HEADER`` and its rule; a bar that is escaped does not end a cell."""
    lines = text.split("\n")
    start = lines.index(HEADER) + 2
    found = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return found


def resolve(name: str) -> None:
    """Import as much of a dotted name as is a module and look the rest up. Raises if there is no such thing; a
    dataclass's field without a default counts as an attribute."""
    parts = name.split(".")
    for size in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:size]))
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise  # the module is there, and something that it imports is not
            continue
        for part in parts[size:]:
            if dataclasses.is_dataclass(found) and part in {f.name for f in dataclasses.fields(found)}:
                found = None
            else:
                found = getattr(found, part)
        return
    raise ModuleNotFoundError(name)


@cache
def tracked() -> tuple[Path, ...]:
    """The project's text files: what git knows or would add, or what lies here where there is no git."""
    ls = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(ls, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")
        files = [ROOT / name for name in names if name]
    except (OSError, subprocess.CalledProcessError):
        files = [p for top in (*PACKAGES, "tests", "figures") for p in (ROOT / top).rglob("*")]
        files += list(ROOT.glob("*.md"))
    return tuple(sorted(f for f in files if f.suffix in (".py", ".md") and f.is_file()))


def documents() -> list[Path]:
    return [f for f in tracked() if f.suffix == ".md"]


def anchors(path: Path) -> set[str]:
    """The anchors that a Markdown page's headings make, as common renderers do."""
    heads = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in heads}


def dead_links(path: Path, text: str) -> list[str]:
    """Targets of Markdown links that do not exist, page or anchor."""
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+://", target):
            continue
        name, _, anchor = target.partition("#")
        page = path.parent / name if name else path
        if not page.exists() or (anchor and anchor not in anchors(page)):
            dead.append(target)
    return dead


def missing_pages(path: Path, text: str) -> list[str]:
    """Names of Markdown pages in code or prose that stand on no shelf."""
    names = re.findall(r"(?<![\w/*{.-])(?:[\w.-]+/)*[\w-]+\.md\b", text)
    return [n for n in names if not any((shelf / n).exists() for shelf in (path.parent, *SHELVES))]


def missing_paths(text: str) -> list[str]:
    """Paths and dotted names between backticks that belong to the project and do not exist, and files of tests anywhere."""
    bad = [name for name in re.findall(r"tests/\w+\.py", text) if not (ROOT / name).exists()]
    for quoted in re.findall(r"`([^`\n]+)`", text):
        if re.fullmatch(rf"(?:{'|'.join(PACKAGES)}|tests|figures)/[\w./-]*", quoted):
            if not (ROOT / quoted).exists() and not quoted.endswith("/foo.py"):
                bad.append(quoted)
        elif re.fullmatch(rf"(?:{'|'.join(PACKAGES)})(?:\.\w+)+(?<!\.py)", quoted):
            try:
                resolve(quoted)
            except (AttributeError, ModuleNotFoundError):
                bad.append(quoted)
    return bad


def test_there_are_pages_and_all_are_listed() -> None:
    assert len(PAGES) >= 10
    index = (PROOFS / "README.md").read_text("utf-8")
    assert {p.name for p in PAGES} == {t for t in re.findall(r"\]\(([\w-]+\.md)\)", index)}


@pytest.mark.parametrize("page", [*PAGES, PROOFS / "README.md"], ids=lambda p: p.stem)
def test_lines_are_short(page: Path) -> None:
    long = [i for i, line in enumerate(page.read_text("utf-8").split("\n"), 1) if len(line) > LONGEST]
    assert long == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_a_page_opens_with_claim_and_table(page: Path) -> None:
    title, claim, table, *proof = page.read_text("utf-8").split("\n\n")
    assert title.startswith("# ") and not claim.startswith(("#", "|")) and table.startswith(HEADER)
    assert len("\n\n".join(proof)) > 500
    rows = rows_of(page.read_text("utf-8"))
    assert len(rows) >= 5
    for row in rows:
        symbol, meaning, code = row  # three cells
        assert symbol and meaning
        name = re.fullmatch(r"`([\w.]+)`", code)
        assert name, row
        resolve(name[1])


def test_names_that_do_not_exist_are_found_out() -> None:
    resolve("bounds.law.Unbiased.residuals")  # a field without a default
    for name, error in (
        ("bounds.law.Unbiased.nothing", AttributeError),
        ("bounds.nothing", AttributeError),
        ("nothing.at.all", ModuleNotFoundError),
    ):
        with pytest.raises(error):
            resolve(name)
    page = ROOT / "README.md"
    assert dead_links(page, "[a](LICENSE) [b](nothing.md) [c](#from-the-shell) [d](#nothing)") == [
        "nothing.md",
        "#nothing",
    ]
    assert missing_pages(page, "see README.md, span.md, nowhere.md and bounds/proofs/other.md") == [
        "nowhere.md",
        "bounds/proofs/other.md",
    ]
    text = "`bounds/law.py`, `bounds/lore.py`, `attack.nothing`, `verify.compare`, `pytest tests/test_no.py`"
    assert missing_paths(text) == [
        "tests/test_no.py",
        "bounds/lore.py",
        "attack.nothing",
    ]


@pytest.mark.parametrize("path", documents(), ids=lambda p: str(p.relative_to(ROOT)))
def test_documents_point_at_what_exists(path: Path) -> None:
    text = path.read_text("utf-8")
    assert dead_links(path, text) == []
    assert missing_paths(text) == []


def test_pages_named_in_code_and_prose_exist() -> None:
    missing = {
        str(f.relative_to(ROOT)): names
        for f in tracked()
        if not f.is_relative_to(ROOT / "tests") and (names := missing_pages(f, f.read_text("utf-8")))
    }
    assert missing == {}


def test_every_theorem_of_a_proved_kind_names_its_page() -> None:
    modules = [p for kind in ("upper", "lower") for p in (ROOT / "bounds" / "kinds" / kind).rglob("*.py")]
    theorems = [p for p in modules if p.name not in BOOKKEEPING]
    assert theorems
    silent = [p.name for p in theorems if not re.search(r"bounds/proofs/[\w-]+\.md", p.read_text("utf-8"))]
    assert silent == []


def test_no_module_of_theory_or_attack_sends_its_reader_to_the_ledger() -> None:
    """Derivations are on their pages; ``paper_notes.md`` has claims and verdicts alone."""
    modules = [p for top in ("bounds", "attack") for p in (ROOT / top).rglob("*.py")]
    assert [p.name for p in modules if "paper_notes" in p.read_text("utf-8")] == []


def test_every_page_is_named_by_code() -> None:
    """A proof that no module points at is a proof of nothing."""
    code = "".join(
        f.read_text("utf-8") for f in tracked() if f.suffix == ".py" and f.is_relative_to(ROOT / "bounds")
    )
    code += "".join(f.read_text("utf-8") for top in ("attack", "verify") for f in (ROOT / top).rglob("*.py"))
    assert [p.name for p in PAGES if p.name not in code] == []
