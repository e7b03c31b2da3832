"""A thousand bad inputs, one slot wrong in each: one line and exit code 2 from the shell, ``ValueError`` or ``TypeError``
from Python, before anything long starts."""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import attack
import bounds
import verify
from verify.cli import app, main

#: No refusal may take longer than this: nothing was computed before it. (A first call imports.)
SECONDS = 5.0
COUNT = 1000

INTEGERS = ("-1", "1.5", "nan", "inf", "x", "", "1" * 400, "1e400", "0x10", "1 2", "--", "−3")
WORDS = ("", "foo", "x" * 5000, "../../etc/passwd", "RELU", "none ", "ß∂", "-", "[red]x[/red]", "\n")
REALS = ("nan", "x", "", "-1e300", "1e400x", "1,5", "--", "∞")


@dataclass(frozen=True)
class Command:
    """A valid command, and for each of its slots the values that make it invalid."""

    words: tuple[str, ...]
    bad: Mapping[str, tuple[str, ...]]

    def spoiled(self) -> Iterator[list[str]]:
        for slot, values in self.bad.items():
            at = self.words.index(slot)
            last = at if not slot.startswith("--") else at + 1
            for value in values:
                yield [*self.words[:last], value, *self.words[last + 1 :]]


def commands(where: Path) -> tuple[Command, ...]:
    missing = str(where / "missing")
    file = where / "file"
    file.write_text("not a directory")
    out = ("--out", str(where / "out"))
    return (
        Command(
            (
                "bound",
                "gradient-noise",
                "--sigma",
                "1",
                "--d",
                "20",
                "--m",
                "4000",
                "--B",
                "2",
                "--activation",
                "relu",
                "--moments",
                "plain",
                "--delta",
                ".1",
            ),
            {
                "gradient-noise": WORDS,
                "--sigma": (*REALS, "inf"),
                "--d": (*INTEGERS, "0"),
                "--m": (*INTEGERS, "0", "2"),
                "--B": (*INTEGERS, "0", "21"),
                "--activation": WORDS,
                "--moments": WORDS,
                "--delta": (*REALS, "0", "1", "inf"),
            },
        ),
        Command(("bound", "dropout", "--p", ".5"), {"--p": (*REALS, "1", "2", "-.1", "inf")}),
        Command(
            ("bound", "local-aggregation", "--steps", "2", "--batches", "same"),
            {"--steps": (*INTEGERS, "0"), "--batches": WORDS},
        ),
        Command(("bound", "none", "--sigma", "1"), {"--sigma": ("1", "0", "x")}),
        Command(
            (
                "verify",
                "none",
                "--only",
                "undefended",
                "--quick",
                "--trials",
                "1",
                "--seed",
                "0",
                "--jobs",
                "1",
                "--device",
                "cpu",
                *out,
            ),
            {
                "none": WORDS,
                "--only": WORDS,
                "--trials": (*INTEGERS, "0"),
                "--seed": INTEGERS,
                "--jobs": (*INTEGERS, "0"),
                "--device": (*WORDS, "cuda:99", "tpu"),
            },
        ),
        Command(
            (
                "attack",
                "tensor",
                "--images",
                "digits",
                "--B",
                "2",
                "--m",
                "2000",
                "--defense",
                "none",
                "--activation",
                "relu",
                "--moments",
                "plain",
                "--max-cosine",
                "1",
                "--seed",
                "0",
                "--device",
                "cpu",
                *out,
            ),
            {
                "--images": WORDS,
                "--B": (*INTEGERS, "0", "65"),
                "--m": (*INTEGERS, "0"),
                "--defense": WORDS,
                "--activation": WORDS,
                "--moments": WORDS,
                "--max-cosine": (*REALS, "2", "inf"),
                "--seed": INTEGERS,
                "--device": (*WORDS, "cuda:99"),
            },
        ),
        Command(
            ("attack", "gradient", "--file", "x.npz", "--B", "2"),
            {
                "--file": (missing, str(where), str(file), missing + ".npz", missing + ".safetensors", ""),
                "--B": INTEGERS,
            },
        ),
        Command(
            ("study", "odd", "--trials", "2", *out), {"odd": WORDS, "--trials": (*INTEGERS, "0", "1", "1001")}
        ),
        Command(
            ("check", "math:sqrt", "--kind", "upper", "--max-examples", "1", "--trials", "2", "--seed", "0"),
            {
                "math:sqrt": (*WORDS, "math:", ":sqrt", "math:pi", "nomodule:f", "math:nothing"),
                "--kind": (*WORDS, "mean"),
                "--max-examples": (*INTEGERS, "0"),
                "--trials": (*INTEGERS, "0", "1"),
                "--seed": INTEGERS,
            },
        ),
        Command(("figures", "--from", "records"), {"--from": (missing, str(file), str(where), "")}),
        Command(("export", "records"), {"records": (missing, str(file), str(where), "")}),
        Command(("bench", "--repeats", "1"), {"--repeats": (*INTEGERS, "0")}),
        Command(("nothing",), {"nothing": tuple(w for w in WORDS if w)}),
    )


HUGE = 10**30
NUMBERS: tuple[Any, ...] = (
    -1, 1.5, math.nan, math.inf, "1", None, True, 1j, [1], {}, np.array([1, 2]), HUGE, 10**400, b"1", object(),
    np.array(["a"]), torch.ones(3)
)  # fmt: skip
ARRAYS: tuple[Any, ...] = (
    None, "x", 1.0, [], [[]], [1.0], [[1.0, math.nan]], [[math.inf, 1.0]], [["a", "b"]], [[1j, 0]], [[True, False]],
    [[1.0], [1.0, 2.0]], np.zeros((2, 0)), np.zeros((2, 2, 2)), np.zeros((2, 5)), object(), {1: 2},
    np.ma.masked_array(np.eye(5)[:2], mask=np.eye(5)[:2] > 0), torch.eye(5)[:2].to_sparse(),
    torch.empty(2, 5, device="meta"),
    torch.eye(5, dtype=torch.complex64)[:2], np.array(["2020-01-01"], dtype="datetime64[D]"), [10**400, 1], (x for x in ()),
)  # fmt: skip
OBJECTS: tuple[Any, ...] = (
    0, "none", [], {}, object(), int, lambda: None, 1.5, True, ("a",), np.zeros(3), torch.ones(2), np.zeros((300, 300, 2))
)  # fmt: skip


def calls() -> Iterator[tuple[str, Callable[[], object]]]:
    X, y = np.eye(5)[:2], [1.0, -1.0]
    net = attack.TwoLayerNet.sample(5, 200, seed=0)
    seen = attack.observe(bounds.NoDefense(), net, X, y)
    setting = bounds.Setting.orthonormal(5, 200, 2)
    point = verify.Point("e", verify.Features("orthonormal"), d=5, m=200, B=2)

    def spoil(name: str, call: Callable[[Any], object], values: tuple[Any, ...], *more: Any) -> Iterator[Any]:
        for value in (*values, *more):
            yield f"{name}({value!r:.60})", lambda value=value: call(value)

    numbers = {
        "Setting d": lambda v: bounds.Setting.orthonormal(v, 200, 2),
        "Setting m": lambda v: bounds.Setting.orthonormal(5, v, 2),
        "Setting B": lambda v: bounds.Setting.orthonormal(5, 200, v),
        "net d": lambda v: attack.TwoLayerNet.sample(v, 200),
        "net m": lambda v: attack.TwoLayerNet.sample(5, v),
        "net chunk": lambda v: attack.TwoLayerNet.sample(5, 200, chunk=v),
        "Point d": lambda v: verify.Point("e", verify.Features("random"), d=v, m=200, B=2),
        "Point m": lambda v: verify.Point("e", verify.Features("random"), d=5, m=v, B=2),
        "Point B": lambda v: verify.Point("e", verify.Features("random"), d=5, m=200, B=v),
        "batch size": lambda v: attack.tensor_attack(seen, net, batch_size=v) if v is not None else int("x"),
        "starts": lambda v: bounds.TensorAttack(starts=v),
        "core weight": lambda v: (
            bounds.TensorAttack(core_weight=v) if v is not None and v is not NUMBERS[1] else int("x")
        ),
        "delta": lambda v: bounds.evaluate(bounds.NoDefense(), setting, delta=v),
    }
    for name, call in numbers.items():
        huge_is_fine = name in ("core weight", "net chunk")
        yield from spoil(
            name,
            call,
            tuple(
                v for v in NUMBERS if not ((huge_is_fine and v is HUGE) or (isinstance(v, int) and v > HUGE))
            ),
        )
    for family in bounds.DEFENSES:
        for parameter in family.parameters():
            wrong = [v for v in NUMBERS if not _allowed(parameter, v)]
            yield from spoil(
                f"{family.name} {parameter.name}",
                lambda v, f=family, p=parameter: f(**{p.name: v}),
                tuple(wrong),
            )
    arrays = {
        "from_features X": lambda v: bounds.Setting.from_features(v, y, m=200),
        "from_features y": lambda v: bounds.Setting.from_features(X, v, m=200),
        "observe X": lambda v: attack.observe(bounds.NoDefense(), net, v, y),
        "observe y": lambda v: attack.observe(bounds.NoDefense(), net, X, v),
        "matched X": lambda v: attack.matched_rmse(v, X),
        "matched guess": lambda v: attack.matched_rmse(X, v),
        "from_weights": lambda v: attack.TwoLayerNet.from_weights(v),
        "gradient": lambda v: attack.Observation(v, 2, (1.0, 1.0), bounds.NoDefense()),
    }
    for name, call in arrays.items():
        fits = {"matched X", "matched guess", "from_features X", "observe X"}
        yield from spoil(
            name, call, tuple(v for v in ARRAYS if not (name in fits and getattr(v, "shape", 0) == (2, 5)))
        )
    objects = {
        "evaluate defense": lambda v: bounds.evaluate(v, setting),
        "evaluate setting": lambda v: bounds.evaluate(bounds.NoDefense(), v),
        "evaluate attack": lambda v: bounds.evaluate(bounds.NoDefense(), setting, attack=v),
        "expression defense": lambda v: bounds.expression(v, "rate"),
        "expression kind": lambda v: bounds.expression(bounds.NoDefense(), v),
        "observe defense": lambda v: attack.observe(v, net, X, y),
        "observe net": lambda v: attack.observe(bounds.NoDefense(), v, X, y),
        "observe seed": lambda v: attack.observe(
            bounds.NoDefense(), net, X, y, seed=v if type(v) is not int else -1
        ),
        "observe groups": lambda v: attack.observe(
            bounds.NoDefense(), net, X, y, groups=v if not isinstance(v, list | dict) else 3
        ),
        "attack observation": lambda v: attack.tensor_attack(v, net),
        "attack net": lambda v: attack.tensor_attack(seen, v),
        "attack spec": lambda v: attack.tensor_attack(seen, net, attack=v),
        "reconstruct spec": lambda v: attack.reconstruct(seen, net, attack=v),
        "activation": lambda v: bounds.Setting.orthonormal(5, 200, 2, activation=v),
        "Point defense": lambda v: verify.Point("e", verify.Features("random"), d=5, m=200, B=2, defense=v),
        "Point features": lambda v: verify.Point("e", v, d=5, m=200, B=2),
        "Point from_dict": lambda v: verify.Point.from_dict(v),
        "Point label": lambda v: verify.Point(
            "e", verify.Features("random"), d=5, m=200, B=2, labels=(v, v, v)
        ),
        "Experiment points": lambda v: verify.Experiment("e", "e", v, ()),
        "Experiment trials": lambda v: verify.Experiment("e", "e", (point,), (), trials=v),
        "Features kind": lambda v: verify.Features(v),
        "Features seed": lambda v: verify.Features("random", seed=v if type(v) is not int else -1),
        "Features cosine": lambda v: verify.Features("cosine", cosine=v if type(v) is not int else 2.0),
        "check_bound": lambda v: (
            verify.check_bound(v, "upper", max_examples=1, trials=2)
            if not callable(v)
            else verify.check_bound("x", "upper")
        ),
        "check_bound kind": lambda v: verify.check_bound(lambda s: 1.0, v),
        "read_gradient": lambda v: attack.read_gradient(str(v)),
        "from_arrays": lambda v: attack.SharedGradient.from_arrays(v, v),
        "compare kind": lambda v: verify.compare([], kind=v),
    }
    for name, call in objects.items():
        yield from spoil(name, call, OBJECTS)


def _with_parameter(family: type[bounds.Defense], name: str, value: Any) -> bounds.Defense:
    return family(**{name: value})


def _allowed(parameter: bounds.Param, value: Any) -> bool:
    try:
        parameter.checked(value)
    except (ValueError, TypeError):
        return False
    return True


def test_from_the_shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        app, "load", functools.cache(app.load)
    )  # options are made anew for every call, which takes longest
    with pytest.raises(SystemExit):
        main(["verify", "nothing"])  # imports
    capsys.readouterr()
    tried, wrong = 0, []
    for spoiled in itertools.chain.from_iterable(c.spoiled() for c in commands(tmp_path)):
        start = time.perf_counter()
        try:
            main(spoiled)
            code: object = "returned"
        except SystemExit as stop:
            code = stop.code
        except BaseException as error:  # what must not happen is told with its name
            code = f"{type(error).__name__}: {error}"
        seconds = time.perf_counter() - start
        told = capsys.readouterr()
        tried += 1
        lines = told.err.strip().splitlines()
        if code != 2 or len(lines) != 1 or "Traceback" in told.err or seconds > SECONDS:
            wrong.append((spoiled, code, told.err[-200:], round(seconds, 1)))
    assert not wrong, f"{len(wrong)} of {tried}: {wrong[:20]}"
    assert tried > 350


def test_from_python() -> None:
    tried, wrong = 0, []
    for name, call in calls():
        start = time.perf_counter()
        try:
            call()
            told = "accepted"
        except (ValueError, TypeError, FileNotFoundError) as error:
            told = (
                ""
                if 0 < len(str(error)) < 2000 and "ambiguous" not in str(error)
                else f"message: {error!s:.200}"
            )
        except BaseException as error:
            told = f"{type(error).__name__}: {error!s:.100}"
        seconds = time.perf_counter() - start
        tried += 1
        if told or seconds > SECONDS:
            wrong.append((name, told, round(seconds, 1)))
    assert not wrong, f"{len(wrong)} of {tried}: " + "\n".join(map(str, wrong[:40]))
    assert tried > 600


def test_there_are_a_thousand(tmp_path: Path) -> None:
    shell = sum(1 for c in commands(tmp_path) for _ in c.spoiled())
    assert shell + sum(1 for _ in calls()) >= COUNT


def test_the_check_sees_what_is_accepted() -> None:
    """Negative control: a valid command does not exit with 2."""
    with pytest.raises(SystemExit) as stop:
        main(["bound", "none", "--d", "5", "--m", "200", "--B", "1"])
    assert stop.value.code == 0
    assert torch.is_tensor(attack.TwoLayerNet.sample(5, 200).weights)
