"""The command line: one file for each command, imported when that command is called."""

from verify.cli.app import main

__all__ = ["main"]
