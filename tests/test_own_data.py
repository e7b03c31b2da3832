"""A point with an activation and features of a user's own: written, read back, measured, continued, kept compact."""

from __future__ import annotations

import json
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy as sp
import torch
from torch import nn

from attack import activation_of
from bounds import ACTIVATIONS, Activation, Setting, resolve_activation
from bounds.gaussian.activations import activation_text
from bounds.gaussian.expressions import LONGEST, Z, read_expression, written
from bounds.serial import setting_from_dict, setting_to_dict
from verify import Features, Point, own_experiment, point_strategy, read_records, sweep
from verify.cli import main
from verify.measure.features import read_rows
from verify.measure.files import compact, records_path

X = np.array([[0.6, 0.8, 0.0, 0.0, 0.0], [0.0, 0.6, 0.0, -0.8, 0.0]])

# --- expressions ------------------------------------------------------------------------------------------------------

TEXTS = (
    "z**2 + z**3",
    "max(z, z/10)",
    "0.3*z + Max(0, z)",
    "1.0507009873554805*(max(z, 0) + 1.6732632423543772*(exp(min(z, 0)) - 1))",
    "Piecewise((z, z > 0), (0.5*(exp(z) - 1), True))",
    "Piecewise((1, (z > 1) | (z < -1)), (z**2, True))",
    "gelu(z)**2 - leaky_relu(-z)",
    "z*tanh(max(z, 0) + log(1 + exp(-abs(z))))",
    "+sqrt(z**2 + 1) + sin(pi*z)*E**(-z**2)",
    "1e-05*z**2 + 123456789.123456789*z",
)


@pytest.mark.parametrize("text", TEXTS)
def test_the_text_of_an_expression_gives_it_back(text: str) -> None:
    found = resolve_activation(text)
    t = sp.Symbol("t")
    assert found is resolve_activation(found.name) is resolve_activation(found.expr.subs(Z, t))
    assert (
        activation_text(text) == activation_text(found) == found.name == written(read_expression(found.name))
    )
    assert Point("", Features("random"), 5, 100, 1, activation=text).activation == found.name
    spelled = text.replace("max", "np.maximum").replace("min", "np.minimum")
    if set("MPgo") & set(text) or "log" in text or "sqrt" in text or "exp" in text:
        return  # the others are Python as they stand
    z = np.linspace(-3, 3, 7)
    np.testing.assert_allclose(found(z), eval(spelled), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(
    "text",
    [
        "z.__class__",
        "().__class__.__bases__[0].__subclasses__()",
        "__import__('os').system('true')",
        "exec('1')",
        "(lambda: 1)()",
        "[z for z in (1, 2)]",
        "f'{z}'",
        "z if z else 1",
        "max(z, key=z)",
        "max(*(z, 1))",
        "(z := 2)",
        "y + z",
        "z > 0",
        "(z, z)",
        "'z' * 9",
        "z //2",
        "1e999*z",
        "9**9**9**9 + z",
        "((9**99)**99)**99 + z",
        "E**(10**9) + z",
        "(2*z)**(10**200)",
        "(sqrt(2)*z)**(10**9)",
        "(1 + 1/10**290)**(10**290)*z",
        "sqrt(1 + 1/10**290)**(10**9)*z",
        "10**" + "9" * 400 + "*z",
        "1 < z < 2",
        "z**",
        "z + \0",
        "z" + " + z" * LONGEST,
        "(" * 400 + "z" + ")" * 400,
        "log()",
        "max() + z",
        "max(" + "z, " * 20 + "1)",
        "abs(1 - " * 33 + "z" + ")" * 33,
        "exp(exp(exp(exp(10)))) + z",
    ],
)
def test_no_other_text_is_read(text: str) -> None:
    """None is executed, and none takes long."""
    start = time.process_time()
    with pytest.raises(ValueError, match=r"must be an expression in z|must have at most"):
        read_expression(text)
    with pytest.raises(ValueError, match="activation"):
        Setting.orthonormal(5, 100, 1, text)
    assert time.process_time() - start < 1


def test_a_word_is_a_name() -> None:
    with pytest.raises(
        ValueError, match=r"activation must be one of relu, .*, or an expression in z.*'rleu'"
    ):
        resolve_activation("rleu")
    assert resolve_activation("relu") is ACTIVATIONS["relu"]
    np.testing.assert_array_equal(resolve_activation("z")(np.arange(3.0)), np.arange(3.0))


def test_a_setting_keeps_an_expression() -> None:
    setting = Setting.orthonormal(5, 100, 2, resolve_activation("z**2 + max(z, 0)"))
    raw = json.loads(json.dumps(setting_to_dict(setting)))
    assert raw["activation"] == "z**2 + Max(0, z)"
    assert setting_from_dict(raw).activation is setting.activation


@pytest.mark.parametrize(
    "activation",
    [
        np.tanh,
        Activation("gelu", np.tanh),
        Activation("z**2", lambda t: t**2, expr=Z**2),
        sp.Float("0.1", 40) * Z,
    ],
    ids=["function", "foreign-gelu", "foreign-square", "long-number"],
)
def test_what_has_no_text_is_in_no_point(activation: Any) -> None:
    with pytest.raises(ValueError, match=r"activation must be one of relu.*expression in z, to be written"):
        Point("", Features("random"), 5, 100, 1, activation=activation)


# --- features ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given", [X, X.tolist(), torch.from_numpy(X), X.astype(">f8")], ids=lambda g: type(g).__name__
)
def test_features_are_given_and_come_back(given: Any) -> None:
    point = Point("own", Features.given(given), 5, 100, 2)
    raw = json.loads(json.dumps(point.to_dict()))
    back = Point.from_dict(raw)
    assert back == point == pickle.loads(pickle.dumps(point)) and back.key == point.key
    np.testing.assert_array_equal(back.features.sample(5, 2), X)
    np.testing.assert_array_equal(back.setting().gram, X @ X.T)
    assert str(point.features) in point.describe()["features"]
    assert Features.given(X[::-1]) != Features.given(X) and str(Features.given(X[::-1])) != str(
        Features.given(X)
    )


def test_points_without_given_features_are_written_as_they_were() -> None:
    assert "rows" not in Point("", Features("random"), 5, 100, 1).to_dict()["features"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Features.given(2 * X), "X must have rows of unit norm .* got norms from 2 to 2"),
        (lambda: Features.given(X.T), "at most as many rows as columns"),
        (lambda: Features.given(X[0]), r"X must have shape \(any, any\)"),
        (lambda: Features.given([[np.nan, 1.0]]), "X must be finite"),
        (lambda: Features("given"), "rows must be given for kind 'given'"),
        (lambda: Features("random", rows="AAAA"), "rows must be given for kind 'given'"),
        (lambda: Features("given", rows="?"), "rows must be float64 numbers in base 64"),
        (lambda: Features("given", rows="AAAA"), "rows must be float64 numbers in base 64"),
        (lambda: Features("given", rows=""), "rows must be finite numbers, at least one"),
        (lambda: Features("given", rows="AAAAAAAA+H8="), "rows must be finite numbers"),
        (lambda: Features.given(X).sample(4, 2), "B d must be the 10 entries .* B = 2, d = 4"),
        (lambda: own_experiment(X=X, d=6), "d must be that of X, 5; got 6"),
        (lambda: own_experiment(X=X, B=1), "B must be that of X, 2; got 1"),
        (
            lambda: own_experiment(X=X, features=Features("random")),
            "features and X must not be given together",
        ),
    ],
)
def test_what_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_run_with_both_is_continued_and_kept(tmp_path: Path) -> None:
    module = activation_of(nn.ELU(alpha=0.5))
    asked = own_experiment(X=X, activation=module, m=(2_000, 4_000), labels=(2, -2), trials=1)
    said: dict[str, Any] = {"d": 5, "B": 2, "m": (2_000, 4_000), "labels": (2, -2)}
    assert own_experiment(X=X.tolist(), activation=module.name, **said).points == asked.points
    assert {p.activation for p in asked.points} == {module.name} and {p.d for p in asked.points} == {5}
    first = sweep(asked, tmp_path, progress=False)
    both = sweep(asked, tmp_path, trials=2, progress=False)
    path = records_path(asked.name, tmp_path)
    assert both[:2] == first and len(both) == 4 and read_records(path) == both
    kept = read_records(compact(path))
    assert {r.point for r in kept} == set(asked.points)
    assert {(r.trial, r.outcome.rmse) for r in kept} == {(r.trial, r.outcome.rmse) for r in both}


def test_a_search_takes_expressions() -> None:
    point_strategy(activations=("relu", "z**2 + max(z, 0)"), labels=("small_residual",))
    with pytest.raises(ValueError, match=r"activations: activation 'exit\(z\)' must be an expression"):
        point_strategy(activations=("exit(z)",))


def shell(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    return int(stop.value.code or 0), *capsys.readouterr()


def test_the_shell_reads_features_and_expressions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "a.npy", X)
    np.savez(tmp_path / "b.npz", X=X, more=X)
    np.savetxt(tmp_path / "c.csv", X, delimiter=",")
    for name in ("a.npy", "b.npz", "c.csv"):
        np.testing.assert_array_equal(read_rows(tmp_path / name), X)
    own = (
        "--m",
        "2000",
        "--trials",
        "1",
        "--jobs",
        "1",
        "--format",
        "svg",
        "--out",
        str(tmp_path / "out"),
        "--json",
    )
    asked = ("verify", "none", "--features", str(tmp_path / "c.csv"), "--activation", "z**2 + max(z, 0)")
    code, out, err = shell(capsys, *asked, *own)
    assert code in (0, 1) and "z**2 + Max(0, z), given" in json.loads(out)["results"][0]["series"], err
    (kept,) = (tmp_path / "out" / "records").iterdir()
    assert read_records(kept)[0].point.features == Features.given(X)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npz", b"", "a.npz"),
        ("a.npy", pickle.dumps([1]), "a.npy: "),
        ("a.csv", b"1,x\n", "a.csv: could not convert string 'x'"),
        ("a.csv", b"", "a.csv: loadtxt: input contained no data"),
        ("a.csv", b"1,2\n3\n", "a.csv: the number of columns changed"),
        ("a.txt", b"1,2\n", "the suffix of a file of features must be one of .npy, .npz, .csv"),
        ("a.npy", None, "No such file"),
        ("a.csv", b"3,4\n", "X must have rows of unit norm"),
    ],
)
def test_bad_files_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    code, _, err = shell(
        capsys, "verify", "none", "--features", str(tmp_path / name), "--out", str(tmp_path / "o")
    )
    assert code == 2 and message in err and err.count("\n") == 1
