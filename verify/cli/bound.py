"""``reconbound bound``: what theory says about a defense."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Annotated

import sympy as sp
import typer

from bounds import (
    BoundValue,
    Defense,
    Evaluation,
    Kind,
    Setting,
    TensorAttack,
    UnsupportedBound,
    evaluate,
    expression,
)
from bounds.setting import MEANINGS
from verify.cli.command import App
from verify.cli.options import (
    Activation,
    Batch,
    DefenseName,
    Dimension,
    Json,
    Moments,
    Parameters,
    Width,
    defense_of,
    with_defense_options,
)
from verify.cli.tables import console, print_json, say, table

app = App()


@app.command()
@with_defense_options
def bound(
    defense: DefenseName,
    d: Dimension = 100,
    m: Width = 160_000,
    B: Batch = 2,
    activation: Activation = "relu",
    moments: Moments = "residualized",
    delta: Annotated[float, typer.Option(help="Failure probability of an upper bound.")] = 0.05,
    as_json: Json = False,
    latex: Annotated[bool, typer.Option("--latex", help="Print the symbolic statements as LaTeX.")] = False,
    parameters: Parameters | None = None,
) -> None:
    """Every kind of statement about DEFENSE, with assumptions and sources. Features are orthonormal, labels +1, -1, ..."""
    if as_json and latex:
        raise ValueError("json and latex must not be given together; got both")
    spec = defense_of(defense, parameters or {})
    attack = TensorAttack(moments=moments)
    evaluation = evaluate(spec, Setting.orthonormal(d, m, B, activation), attack, delta)
    symbolic = {kind: _symbolic(spec, kind) for kind in Kind}
    if as_json:
        print_json(
            {
                "defense": spec.name,
                "parameters": spec,
                "setting": {"d": d, "m": m, "B": B, "activation": activation, "moments": moments},
                "bounds": {
                    str(kind): _fields(value)
                    | {
                        "expression": None if symbolic[kind] is None else str(symbolic[kind]),
                        "symbols": _meanings(symbolic[kind]),
                    }
                    for kind, value in evaluation.items()
                },
            }
        )
    elif latex:
        for kind, formula in symbolic.items():
            if formula is not None:
                print(f"% {kind}\n{sp.latex(formula)}")
                for name, meaning in _meanings(formula).items():
                    print(f"% {name}: {meaning}")
    else:
        say(f"{spec!r}, d = {d}, m = {m}, B = {B}, {activation}, {attack.called}")
        _print(evaluation, symbolic)


def _fields(value: object) -> dict[str, object]:
    return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}  # type: ignore[arg-type]


def _symbolic(defense: Defense, kind: Kind) -> sp.Expr | None:
    try:
        return expression(defense, kind)
    except UnsupportedBound:
        return None


def _meanings(formula: sp.Expr | None) -> dict[str, str]:
    """What the symbols of an expression stand for, but for the parameters of defenses."""
    names = sorted(str(symbol) for symbol in (formula.free_symbols if formula is not None else ()))
    return {name: MEANINGS[name] for name in names if name in MEANINGS}


def _constants(formula: sp.Expr | None, value: BoundValue) -> Iterator[str]:
    """Every symbol of a statement that the setting does not show, with its number, if it has one here, and its meaning."""
    for name, meaning in _meanings(formula).items():
        if name not in ("d", "m", "B") and value.value is not None:
            number = f" = {value.details[name]:.5g}" if name in value.details else ""
            yield f"{name}{number}: {meaning}"


def _print(evaluation: Evaluation, symbolic: Mapping[Kind, sp.Expr | None]) -> None:
    """The numbers as a table; below it what each of them is, which takes sentences."""
    numbers = table("kind", "value", "expression", narrow=2)
    for kind, value in evaluation.items():
        number = "—" if value.value is None else f"{value.value:.5g}{' (trivial)' if value.trivial else ''}"
        numbers.add_row(str(kind), number, str(symbolic[kind] or "—"))
    console().print(numbers)
    for kind, value in evaluation.items():
        say(f"{kind}: {value.why}")
        for line in _constants(symbolic[kind], value):
            say(line, 4)
        if value.value is not None:
            say(f"assumes: {'; '.join(value.assumptions)}", 4)
        if value.source:
            say(f"source: {value.source}", 4)
