"""What the commands' options share: their types, the defense they name, and paths that are checked before any work."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from bounds import ATTACKS, DEFENSES, AttackSpec, Defense, Param, checks
from bounds.registry import Live

#: Whole numbers up to here are exact as floats too.
LARGEST = 2**53

FORMATS = ("png", "pdf", "svg")

#: A defense's parameters by name; None: not given.
Parameters: TypeAlias = Mapping[str, float | bool | str | None]


ImagesFile = Annotated[
    Path | None, typer.Option(help="File with the images (mnist: idx images; cifar10: binary batch).")
]
LabelsFile = Annotated[Path | None, typer.Option(help="MNIST: the idx labels.")]


def count(text: Any) -> int:
    """The whole number that an option gives: "100000" or "1e5". ``typer.BadParameter`` for anything else."""
    try:
        number = Decimal(str(text))
    except InvalidOperation:
        number = Decimal("nan")
    if number.is_finite() and -LARGEST <= number <= LARGEST and number == number.to_integral_value():
        return int(number)
    raise typer.BadParameter(f"must be a whole number of at most {LARGEST}; got {str(text)[:40]!r}")


def whole(name: str, text: str) -> int:
    """A whole number; ``ValueError`` naming the option otherwise."""
    try:
        return count(text)
    except typer.BadParameter as error:
        raise ValueError(f"{name} {error.message}") from None


def span(name: str, text: str) -> tuple[int, int]:
    """The range of whole numbers that an option gives: "1e3:32e3", or one number, both of its ends. ``ValueError`` for
    anything else."""
    ends = [whole(name, part) for part in text.split(":")]
    if len(ends) > 2:
        raise ValueError(f"{name} must be a whole number or two as LO:HI; got {text!r}")
    return ends[0], ends[-1]


def _counted(name: str, text: str) -> Any:
    return typer.Option(name, help=text, parser=count, metavar="INTEGER")


Json = Annotated[bool, typer.Option("--json", help="Print JSON to standard output instead of a table.")]
Out = Annotated[Path, typer.Option(help="Directory for records and figures.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Moments = Annotated[str, typer.Option(help="residualized or plain.")]
Activation = Annotated[str, typer.Option(help="Name of the activation, or an expression in z.")]
Format = Annotated[str, typer.Option("--format", help=f"Of the figures: {', '.join(FORMATS)}.")]
Dimension = Annotated[int, _counted("--d", "Feature dimension.")]
Width = Annotated[int, _counted("--m", "Hidden width.")]
Widths = Annotated[list[int] | None, _counted("--m", "Hidden width (may be repeated).")]
Batch = Annotated[int, _counted("--B", "Number of features in the gradient.")]
AnyBatch = Annotated[int | None, _counted("--B", "Number of features; default: not known, and found.")]
Jobs = Annotated[int, _counted("--jobs", "Processes, each with one thread.")]
Trials = Annotated[
    int | None, _counted("--trials", "Trials at each point; default: what is measured says it.")
]
Seed = Annotated[int, _counted("--seed", "Seed of everything random.")]

#: Command-line spelling of every defense.
NAMES: Mapping[str, type[Defense]] = Live(lambda: {cls.name.replace("_", "-"): cls for cls in DEFENSES})

DefenseName = Annotated[str, typer.Argument(metavar="DEFENSE", help=f"One of {', '.join(NAMES)}.")]


def family_of(name: str, *more: str, argument: str = "DEFENSE") -> type[Defense]:
    """The family of that name. ``ValueError`` if there is none; ``more``: what else the argument may be."""
    try:
        return NAMES[checks.choice(argument, name, (*more, *NAMES))]
    except ValueError as error:
        raise ValueError(f"{error} (one of your own needs --plugin MODULE before the command)") from None


def attacks_of(names: Sequence[str]) -> tuple[type[AttackSpec], ...]:
    """The families of attacks that ``--attack`` names, several of them divided by commas or in repeated options; "all" is
    every one. ``ValueError`` for a name that is none."""
    known = {family.name: family for family in ATTACKS}
    told = [part.strip().replace("-", "_") for name in names for part in name.split(",")]
    chosen = [checks.choice("attack", name, ("all", *known)) for name in told]
    return tuple(known.values()) if "all" in chosen else tuple(known[name] for name in dict.fromkeys(chosen))


def defense_of(name: str, parameters: Parameters) -> Defense:
    """The defense that the options describe. ``ValueError`` or ``TypeError`` for one that is none."""
    family = family_of(name)
    own = _declared(family)
    given: dict[str, Any] = {k: v for k, v in parameters.items() if v is not None}
    foreign = sorted(set(given) - own)
    if foreign:
        allowed = ", ".join(spelled(p) for p in sorted(own)) or "no parameter"
        raise ValueError(f"{name} takes {allowed}; got {spelled(foreign[0])}")
    return family(**given)


def with_defense_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option for every parameter that any defense declares, collected in its argument ``parameters``:
    a new defense brings its options along with no line here."""
    return _WithDefenseOptions(command)


class _WithDefenseOptions:
    """The command; its options are those of the defenses that there are when it is made ready to be called."""

    def __init__(self, command: Callable[..., None]) -> None:
        self._command = command
        self.__name__, self.__doc__ = command.__name__, command.__doc__

    def __call__(self, **values: Any) -> None:
        parameters = {name: values.pop(name) for name in _defense_options() if name in values}
        self._command(**values, parameters=parameters)

    @property
    def __signature__(self) -> inspect.Signature:
        command = inspect.signature(self._command, eval_str=True)
        own = [p for p in command.parameters.values() if p.name != "parameters"]
        options = _defense_options()
        taken = {p.name for p in own} & set(options)
        if taken:
            whose = ", ".join(cls.name for cls in DEFENSES if taken & _declared(cls))
            raise ValueError(
                f"parameters of defenses must not have names of options; {', '.join(sorted(taken))} of {whose} does"
            )
        extra = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
            for name, option in options.items()
        ]
        return inspect.Signature(own + extra)

    @property
    def __annotations__(self) -> dict[str, Any]:  # type: ignore[override]
        return {p.name: p.annotation for p in self.__signature__.parameters.values()}


def _declared(family: type[Defense]) -> set[str]:
    return {p.name for p in family.parameters()} | set(family.choices())


def _defense_options() -> dict[str, Any]:
    """One option for every parameter and choice; where several defenses share a name, the first one's words."""
    options: dict[str, Any] = {}
    for cls in DEFENSES:
        for p in cls.parameters():
            options.setdefault(p.name, _of_parameter(p))
        for name, allowed in cls.choices().items():
            options.setdefault(name, _of_choice(name, allowed))
    return options


def spelled(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _of_parameter(p: Param) -> Any:
    text = f"In [{p.lo:g}, {p.hi:g}], off at {p.off:g}."
    if p.integer:
        return Annotated[int | None, _counted(spelled(p.name), text)]
    return Annotated[float | None, typer.Option(spelled(p.name), help=text)]


def _of_choice(name: str, allowed: tuple[bool | str, ...]) -> Any:
    if isinstance(allowed[0], bool):
        switch = f"{spelled(name)}/{spelled(f'no-{name}')}"
        return Annotated[bool | None, typer.Option(switch, help="Yes or no.")]
    return Annotated[str | None, typer.Option(spelled(name), help=f"One of {', '.join(map(str, allowed))}.")]


def numbers(name: str, text: str) -> tuple[float, ...]:
    """Numbers separated by commas. ``ValueError`` if a part is none."""
    return tuple(number(name, part) for part in text.split(","))


def number(name: str, text: str) -> float:
    """A number; ``ValueError`` naming the option otherwise."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name} must be a number; got {text!r}") from None


def new_directory(name: str, path: Path) -> Path:
    """``path`` as a directory that can be written to, made if it is not there. ``ValueError`` if it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{name} must be a directory or a new name; got {path} ({error.strerror})") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise ValueError(f"{name} must be a directory that can be written to; got {path}")
    return path
