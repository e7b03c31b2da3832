"""Joins the commands, and says in one place how a run ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module, metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from verify.origin import DISTRIBUTION

#: Every command, and its line in the list of commands. ``verify.cli.NAME`` holds it as ``app``.
COMMANDS: Mapping[str, str] = {
    "bound": "Every kind of statement about DEFENSE, with assumptions and sources.",
    "verify": "Measure DEFENSE, compare it with theory, draw the figures.",
    "figures": "Redraw every figure from saved records, pictures and studies, running no attack.",
    "attack": "Run an attack and draw what it reconstructs.",
    "study": "Measure what the experiments do not: parts of the attack, other networks, broken assumptions.",
    "check": "Search for a small setting in which the attack refutes a bound of yours.",
    "bench": "Speed and memory, as ratios against references measured in the same run.",
    "export": "Write saved records as tables (CSV).",
}

#: Errors of usage. Some versions of typer use click, others carry it inside: the class is found through one that all export.
UsageError: type[Exception] = typer.BadParameter.__mro__[2]

#: What bad input raises. Everything else is a defect, and keeps its traceback.
BAD_INPUT = (ValueError, TypeError, OSError, ImportError, OverflowError, MemoryError)


def load(name: str) -> Any:
    """A command, ready to be called. Its libraries are imported here."""
    return typer.main.get_command(import_module(f"verify.cli.{name}").app)


class Commands(TyperGroup):
    """Lists the commands without importing them; the one that is called is loaded."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, _, rest = super().resolve_command(ctx, args)
        return name, load(str(name)), rest


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    help="Data-reconstruction attacks on shared gradients, and the bounds that speak about them, side by side.",
)


def _version(asked: bool) -> None:
    if asked:
        try:
            found = metadata.version(DISTRIBUTION)
        except metadata.PackageNotFoundError:
            found = "(not installed)"
        print(f"{DISTRIBUTION} {found}")
        raise typer.Exit


def _plugins(modules: list[str] | None) -> list[str] | None:
    """Imported before the command is, as commands take their options from the defenses that there are. Modules are looked
    for in the working directory first; whatever goes wrong inside one is bad input."""
    if modules and "" not in sys.path:
        sys.path.insert(0, "")
    for name in modules or ():
        try:
            import_module(name)
        except (Exception, SystemExit) as error:
            raise ValueError(
                f"--plugin must name a module that can be imported; {name!r} raised {type(error).__name__}: {error}"
            ) from error
    return modules


@app.callback()
def _options(
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE",
            callback=_plugins,
            is_eager=True,
            help="Import this module first: it registers defenses of your own (may be repeated).",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def _listed() -> None:
    """Stands in the list of commands; ``Commands`` puts the real one in its place."""


for _name, _line in COMMANDS.items():
    app.command(_name, help=_line)(_listed)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0; 1 (a statement fails, a bound is refuted or nothing could refute it, an attack has
    no result); 2 (bad input, one line on standard error); 130 (interrupted)."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what the terminal's encoding lacks is written as an escape
            stream.reconfigure(errors="backslashreplace")
    try:
        _run(sys.argv[1:] if arguments is None else arguments)
        code = 0
    except typer.Exit as done:
        code = done.exit_code
    except KeyboardInterrupt as stop:
        code = _said(str(stop) or "interrupted", 130)
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except UsageError as error:
        code = _said(error.format_message(), 2)  # type: ignore[attr-defined]
    except BAD_INPUT as error:
        code = _said(_worded(error), 2)
    sys.exit(code)


def _run(arguments: Sequence[str]) -> None:
    command = typer.main.get_command(app)
    with command.make_context(DISTRIBUTION, list(arguments) or ["--help"]) as context:
        command.invoke(context)
    sys.stdout.flush()


def _worded(error: Exception) -> str:
    """Of a file that cannot be opened, its name and why, without the number that a system has for that."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error) or type(error).__name__


def _said(message: str, code: int) -> int:
    print(f"{DISTRIBUTION}: {' '.join(message.split())}", file=sys.stderr)
    return code
