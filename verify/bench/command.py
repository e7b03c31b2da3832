"""How long the command line takes to start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from verify.bench.shared import THREADS, BenchResult, medians


def start_up(repeats: int = 5) -> BenchResult:
    """Time of ``reconbound --help`` over the time of importing sympy and typer, each in a fresh process."""
    here = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])

    def fresh(*arguments: str) -> Callable[[], object]:
        command, environment = [sys.executable, *arguments], os.environ | {"PYTHONPATH": path}
        return lambda: subprocess.run(command, env=environment, check=True, capture_output=True)

    help_s, imports_s = medians(repeats, fresh("-m", "verify", "--help"), fresh("-c", "import sympy, typer"))
    return BenchResult(
        name="start-up",
        statement="time of reconbound --help over time of importing sympy and typer",
        value=help_s / imports_s,
        target=1.5,
        at_least=False,
        threads=THREADS,
        repeats=repeats,
        details={"help_s": help_s, "imports_s": imports_s},
    )
