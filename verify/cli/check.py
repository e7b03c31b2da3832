"""``reconbound check``: search for a counterexample to a bound of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bounds import DEFENSES, Defense, Kind, TensorAttack, checks
from verify.cli.command import App
from verify.cli.options import (
    Json,
    Moments,
    Parameters,
    Seed,
    count,
    defense_of,
    family_of,
    span,
    with_defense_options,
)
from verify.cli.tables import print_json
from verify.measure.point import Point
from verify.search.check_bound import check_bound
from verify.search.claim import load_bound
from verify.search.point_strategy import default_sizes, point_strategy

if TYPE_CHECKING:
    from hypothesis import strategies as st

app = App()


def _range(name: str, text: str) -> Any:
    return typer.Option(name, metavar="N|LO:HI", help=text)


@app.command()
@with_defense_options
def check(
    my_bound: Annotated[
        str, typer.Argument(metavar="MODULE:FUNCTION", help="The bound: a callable or a Bound.")
    ],
    kind: Annotated[str, typer.Option(help=f"One of {', '.join(Kind)}.")],
    d: Annotated[str | None, _range("--d", "Feature dimension, or its range.")] = None,
    m: Annotated[str | None, _range("--m", "Hidden width, or its range.")] = None,
    B: Annotated[str | None, _range("--B", "Number of features, or its range.")] = None,
    activation: Annotated[
        list[str] | None, typer.Option("--activation", help="Name of an activation (may be repeated).")
    ] = None,
    defense: Annotated[
        list[str] | None,
        typer.Option(
            "--defense",
            help="A defense (may be repeated); without its parameters they are drawn. Default: every one.",
        ),
    ] = None,
    moments: Moments = "residualized",
    delta: Annotated[float, typer.Option(help="Failure probability of an upper bound.")] = 0.05,
    tolerance: Annotated[
        float | None, typer.Option(help="Of predicted's ratio (default .25) and rate's exponent (.2).")
    ] = None,
    max_examples: Annotated[int, typer.Option(help="Settings that are tried, at most.", parser=count)] = 30,
    trials: Annotated[int, typer.Option(help="Attacks in each.", parser=count)] = 20,
    seed: Seed = 0,
    as_json: Json = False,
    parameters: Parameters | None = None,
) -> None:
    """Search for a small setting in which the attack refutes a bound of yours.

    Exit code: 0 if it is not refuted, 1 if it is or no setting could have refuted it, 2 for bad input."""
    wanted = Kind(checks.choice("kind", kind, tuple(Kind)))
    sizes = {name: span(name, text) for name, text in {"d": d, "m": m, "B": B}.items() if text is not None}
    result = check_bound(
        _loaded(my_bound),
        wanted,
        _settings(wanted, sizes, activation, _defenses(defense or [], parameters or {}), moments),
        max_examples=max_examples,
        trials=trials,
        delta=delta,
        tolerance=tolerance,
        seed=seed,
        name=my_bound,
    )
    if as_json:
        print_json(result.to_dict())
    else:
        print(result)
    if result.status == "interrupted":
        raise KeyboardInterrupt("stopped before anything was found")
    if not result.survived:
        raise typer.Exit(1)


def _settings(
    kind: Kind,
    sizes: Mapping[str, tuple[int, int]],
    activations: Sequence[str] | None,
    defenses: Sequence[type[Defense] | Defense],
    moments: str,
) -> st.SearchStrategy[Point]:
    """Points with what was asked for, and the usual ranges for what was left open: small enough a batch for a small d."""
    ranges = {**default_sizes(kind), **sizes}
    if "B" not in sizes:
        least, most = ranges["B"]
        ranges["B"] = least, max(least, min(most, ranges["d"][1]))
    return point_strategy(
        defenses,
        d=ranges["d"],
        m=ranges["m"],
        B=ranges["B"],
        activations=activations or None,
        attack=TensorAttack(moments=moments),
    )


def _defenses(names: Sequence[str], parameters: Parameters) -> Sequence[type[Defense] | Defense]:
    """Every defense, the families named, or with parameters the one member of a family."""
    if any(value is not None for value in parameters.values()):
        if len(names) != 1:
            raise ValueError(
                f"defense must be one, whose parameters are given; got {', '.join(names) or 'none'}"
            )
        return (defense_of(names[0], parameters),)
    return [family_of(name, argument="defense") for name in names] or DEFENSES


def _loaded(name: str) -> Any:
    """The bound. Whatever goes wrong inside the user's module while it is imported is bad input."""
    try:
        return load_bound(name)
    except ValueError:
        raise
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"MODULE:FUNCTION must name a module that can be imported; {name!r} raised "
            f"{type(error).__name__}: {error}"
        ) from error
