"""How a command reads its arguments: what click lets pass in silence, or refuses by the wrong name, is said here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperCommand

from verify.cli.app import UsageError
from verify.cli.options import family_of


class Command(TyperCommand):
    """Refuses an option that takes one value and is given several, of which click would take the last. Where an option is
    unknown because its defense is, names the defense."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        except UsageError as error:
            if hasattr(error, "possibilities"):  # an unknown option
                self._require_defense(ctx, args)
            raise
        for option in dict.fromkeys(given):
            if given.count(option) > 1 and _single(option):
                raise UsageError(f"{option.opts[0]} must be given once; got it {given.count(option)} times")
        return super().parse_args(ctx, args)

    def _require_defense(self, ctx: Any, args: Sequence[str]) -> None:
        """``ValueError`` if the arguments name a defense that there is none of: its options cannot be known."""
        ctx.ignore_unknown_options = True
        told, rest, _ = self.make_parser(ctx).parse_args(args=list(args))
        names = told.get("defense") or ()
        for name in [names] if isinstance(names, str) else names:
            if name.startswith(
                "-"
            ):  # the unknown option itself came first, perhaps with a value: the defense is behind
                name = next((word for word in reversed(rest) if word[:1].isalpha()), "all")
            if name != "all":
                family_of(name)


def _single(option: Any) -> bool:
    """Whether a second one takes the place of the first: there is one value, or the choice of yes and no."""
    return not option.multiple and bool(not option.is_flag or option.secondary_opts)


class App(typer.Typer):
    """A command, or several, that read their arguments like that."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(add_completion=False, **settings)

    def command(
        self, name: str | None = None, *, cls: type[TyperCommand] | None = Command, **more: Any
    ) -> Any:
        return super().command(name, cls=cls, **more)
