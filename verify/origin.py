"""Are the imported packages ours? Packages named ``bounds`` and ``attack`` by other authors exist."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

DISTRIBUTION = "reconbound"


def own(name: str) -> ModuleType:
    """The imported package ``name``; ``ImportError`` naming the file if another project's package answers to
    that name."""
    beside(name)
    module = importlib.import_module(name)
    if getattr(module, "__distribution__", None) != DISTRIBUTION:
        raise _foreign(name, getattr(module, "__file__", None))
    return module


def beside(name: str) -> None:
    """``ImportError`` as above unless ``name`` would be imported from where this package lies: all of ours are shipped
    together. Nothing is imported."""
    try:
        found = find_spec(name)
        where = found.origin if found is not None else None
    except ValueError:  # imported already, by hand and without a specification
        where = getattr(sys.modules[name], "__file__", None)
    if where is None or Path(where).resolve().parents[1] != Path(__file__).resolve().parents[1]:
        raise _foreign(name, where)


def _foreign(name: str, where: str | None) -> ImportError:
    return ImportError(
        f"package {name!r} must be {DISTRIBUTION}'s, but a foreign one is found: "
        f"{where or 'none, or a namespace package without a file'}"
    )
