"""Are the imported packages ours? Packages named ``bounds`` and ``attack`` by other authors exist."""

from __future__ import annotations

import importlib
from types import ModuleType

DISTRIBUTION = "reconbound"


def own(name: str) -> ModuleType:
    """The imported package ``name``; ``ImportError`` naming the file if another project's package answers to
    that name."""
    module = importlib.import_module(name)
    if getattr(module, "__distribution__", None) != DISTRIBUTION:
        where = getattr(module, "__file__", None) or "a namespace package without a file"
        raise ImportError(
            f"package {name!r} must be {DISTRIBUTION}'s, but a foreign one was imported: {where}"
        )
    return module
