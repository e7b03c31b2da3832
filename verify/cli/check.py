"""``reconbound check``: search for a counterexample to a bound of one's own."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bounds import Kind
from verify.cli.options import Json, Seed, count
from verify.cli.tables import print_json
from verify.search.check_bound import check_bound
from verify.search.claim import load_bound

app = typer.Typer(add_completion=False)


@app.command()
def check(
    my_bound: Annotated[
        str, typer.Argument(metavar="MODULE:FUNCTION", help="The bound: a callable or a Bound.")
    ],
    kind: Annotated[str, typer.Option(help=f"One of {', '.join(Kind)}.")],
    max_examples: Annotated[int, typer.Option(help="Settings that are tried, at most.", parser=count)] = 30,
    trials: Annotated[int, typer.Option(help="Attacks in each.", parser=count)] = 20,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Search for a small setting in which the attack refutes a bound of yours. Exit code 1 if there is one."""
    result = check_bound(_loaded(my_bound), kind, max_examples=max_examples, trials=trials, seed=seed)
    if as_json:
        print_json(result.to_dict())
    else:
        print(result)
    if result.status == "interrupted":
        raise KeyboardInterrupt("stopped before anything was found")
    if result.refuted:
        raise typer.Exit(1)


def _loaded(name: str) -> Any:
    """The bound. Whatever goes wrong inside the user's module while it is imported is bad input."""
    try:
        return load_bound(name)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(
            f"MODULE:FUNCTION must name a module that can be imported; {name!r} raised "
            f"{type(error).__name__}: {error}"
        ) from error
