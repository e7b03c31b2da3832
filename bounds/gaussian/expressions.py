"""Functions of z as text, read without running it: arithmetic, a table of functions, nothing else."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import sympy as sp
from sympy.printing.str import StrPrinter

#: The variable of every symbolic activation.
Z = sp.Symbol("z", real=True)

#: The longest text that is read, in characters; the deepest nesting and the most arguments of a function in it.
LONGEST, DEEPEST, MOST = 400, 32, 8

#: Numbers are read up to this power of ten, powers of them too.
_LARGEST_POWER = 300

_CONSTANTS: Mapping[str, Any] = MappingProxyType({Z.name: Z, "pi": sp.pi, "E": sp.E})

_FUNCTIONS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        **{f.__name__: f for f in (sp.exp, sp.log, sp.sin, sp.cos, sp.tan, sp.sinh, sp.cosh, sp.tanh)},
        **{f.__name__: f for f in (sp.asinh, sp.atan, sp.erf, sp.erfc, sp.Abs, sp.Max, sp.Min, sp.sign)},
        **{"sqrt": sp.sqrt, "abs": sp.Abs, "max": sp.Max, "min": sp.Min},
        **{"Heaviside": sp.Heaviside, "Piecewise": sp.Piecewise},
    }
)


def _power(base: Any, exponent: Any) -> Any:
    """Refused before it is computed where it would fill the memory."""
    if exponent.is_number:
        size = abs(float(sp.re(exponent))) * _digits(base)
        if not size <= _LARGEST_POWER:
            raise ValueError(f"numbers must be below 1e{_LARGEST_POWER}")
    return base**exponent


def _digits(base: Any) -> float:
    """Of the numbers that sympy raises to a power of ``base``: a factor's, and of fractions near 1 those of their terms."""
    if base.is_Rational:
        return math.log10(max(abs(base.p), base.q))
    if base.is_Mul:
        return sum(map(_digits, base.args))
    if base.is_Pow and base.exp.is_number:
        return abs(float(sp.re(base.exp))) * _digits(base.base)
    return abs(math.log10(abs(complex(base)))) if base.is_number and base != 0 else 0.0


_OPERATORS: Mapping[type, Callable[..., Any]] = MappingProxyType(
    {
        ast.Add: operator.add,
        ast.Sub: operator.sub,
        ast.Mult: operator.mul,
        ast.Div: operator.truediv,
        ast.Pow: _power,
        ast.BitAnd: sp.And,
        ast.BitOr: sp.Or,
        ast.UAdd: operator.pos,
        ast.USub: operator.neg,
        ast.Lt: operator.lt,
        ast.LtE: operator.le,
        ast.Gt: operator.gt,
        ast.GtE: operator.ge,
    }
)


def read_expression(text: str, more: Mapping[str, Callable[..., Any]] = MappingProxyType({})) -> sp.Expr:
    """The expression in ``Z`` that a text such as "z**2 + max(z, 0)/3" writes, in Python's spelling; ``more``: further
    functions by name.

    The text is never executed: numbers, z, pi, E, + - * / **, comparisons and the functions of the table are read, anything
    else is a ``ValueError`` naming it.
    """
    if len(text) > LONGEST:
        raise ValueError(f"an expression must have at most {LONGEST} characters; got {len(text)}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        if _depth(tree) > DEEPEST:
            raise ValueError(f"it must be nested at most {DEEPEST} deep")
        found = _read(tree, {**_FUNCTIONS, **more})
        _require_floats(found)
    except ValueError as error:
        raise ValueError(f"{text!r} must be an expression in z: {error}") from None
    except Exception as error:  # of the text, or what sympy says to arguments that make no sense
        raise ValueError(f"{text!r} must be an expression in z: {type(error).__name__}, {error}") from None
    if not isinstance(found, sp.Expr):
        raise ValueError(f"{text!r} must be an expression in z; it is a {type(found).__name__}")
    return found


def _require_floats(found: Any) -> None:
    """``ValueError``, or what computing it raises, for a number that no float is near."""
    for part in sp.preorder_traversal(found):
        if isinstance(part, sp.Expr) and part.is_number and not math.isfinite(abs(complex(part))):
            raise ValueError(f"numbers must be below 1e{_LARGEST_POWER}")


def _depth(tree: ast.AST) -> int:
    """Of calls and operations inside each other: what makes of them takes far longer than reading them."""
    deepest, level = 0, [tree]
    while level:
        deepest += any(isinstance(node, ast.Call | ast.BinOp | ast.UnaryOp) for node in level)
        level = [inner for node in level for inner in ast.iter_child_nodes(node)]
    return deepest


def written(expr: sp.Expr) -> str:
    """The text of an expression, with as many digits as ``read_expression`` needs to give it back. ``ValueError`` where a
    number in it is no float."""
    return str(_Printer().doprint(expr))


class _Printer(StrPrinter):
    def _print_Float(self, expr: sp.Float) -> str:
        value = float(expr)
        if not math.isfinite(value) or (value == 0) != (expr == 0):
            raise ValueError(f"numbers must be floats; got {expr}")
        return repr(value)


def _read(node: ast.AST, functions: Mapping[str, Callable[..., Any]]) -> Any:
    match node:
        case ast.Constant(value=bool(value)):
            return sp.true if value else sp.false
        case ast.Constant(value=int(value)):
            if abs(value) > 10**_LARGEST_POWER:
                raise ValueError(f"numbers must be below 1e{_LARGEST_POWER}")
            return sp.Integer(value)
        case ast.Constant(value=float(value)) if math.isfinite(value):
            return sp.Float(value)
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_read(left, functions), _read(right, functions))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_read(operand, functions))
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_read(left, functions), _read(right, functions))
        case ast.Call(func=ast.Name(id=name), args=given, keywords=[]) if name in functions:
            if not 0 < len(given) <= MOST:
                raise ValueError(f"{name} must have 1 to {MOST} arguments; got {len(given)}")
            return functions[name](*(_read(one, functions) for one in given))
        case ast.Tuple(elts=parts):
            return tuple(_read(one, functions) for one in parts)
    raise ValueError(
        f"{ast.unparse(node)!r} is none of {', '.join((*_CONSTANTS, *functions))}, a number or an operation"
    )
