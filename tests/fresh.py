"""A run of this project's packages from another tree, or from this one, as if in an interpreter of its own.

The process is forked, forgets every module of the project and of the tests, and looks for them in the tree that it is
given; torch, SymPy and the like, whose import takes seconds, stay loaded. What is about a new interpreter itself (what it
imports, how it writes to a locale, how it dies) needs a real one.
"""

from __future__ import annotations

import importlib
import io
import os
import runpy
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from subprocess import CompletedProcess
from typing import NoReturn

ROOT = Path(__file__).parent.parent
PACKAGES = ("bounds", "attack", "verify")


def run(
    where: Path, *command: str, path: tuple[Path, ...] = (), timeout: float = 600, **environment: str
) -> CompletedProcess[str]:
    """``python COMMAND`` in ``where`` (``-m MODULE ARGUMENTS`` or ``-c CODE``), with modules from there, then from ``path``;
    killed after ``timeout`` seconds."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # threads of the test runner: the child uses none
            child = os.fork()
        if child == 0:
            _start(where, command, path, (out.fileno(), err.fileno()), environment)
        code = _ended(child, time.monotonic() + timeout)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return CompletedProcess(command, code, *texts)


def _ended(child: int, deadline: float) -> int:
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)


def _start(
    where: Path,
    command: tuple[str, ...],
    path: tuple[Path, ...],
    outputs: tuple[int, int],
    environment: Mapping[str, str],
) -> NoReturn:
    """The child's whole life; it leaves without any of the parent's clean-up."""
    code = 1
    try:
        for number, file in enumerate(outputs, start=1):
            os.dup2(file, number)
        sys.stdout, sys.stderr = (
            io.TextIOWrapper(io.FileIO(number, "w", closefd=False), "utf-8") for number in (1, 2)
        )
        sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
        os.chdir(where)
        os.environ.update(environment)
        _forget(where, path)
        code = _exit_code(command)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _forget(where: Path, path: tuple[Path, ...]) -> None:
    """No module of the project or of its tests stays loaded, and none is found but in the given places."""
    tests = str(Path(__file__).parent)
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        if name.split(".")[0] in PACKAGES or file.startswith(tests):
            del sys.modules[name]
    ours = {str(ROOT), tests, ""}
    sys.path[:] = [str(where), *map(str, path), *(p for p in sys.path if p not in ours)]
    # The test runner's own importer rewrites assertions of this tree's tests; a runner in the child brings its own.
    sys.meta_path[:] = [m for m in sys.meta_path if not type(m).__module__.startswith("_pytest")]
    sys.dont_write_bytecode = False  # a second run in the same tree starts sooner
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()


def _exit_code(command: tuple[str, ...]) -> int:
    kind, what, *arguments = command
    sys.argv = [kind, *arguments]
    try:
        if kind == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            assert kind == "-c", command
            exec(compile(what, "<code>", "exec"), {"__name__": "__main__"})
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    return 0
