"""Files and arrays that nobody should send: a result, or one line that says what is wrong, in bounded memory and time."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Array, time_limit
from safetensors.numpy import save

from attack import SharedGradient, attack_gradient, matched_rmse, read_gradient
from attack.own.units import exponent, root_mean_square, shift
from verify import cli
from verify.confidence import Assessed, assess

M, D, B = 3000, 8, 2
RNG = np.random.default_rng(0)
W, OWN, BIAS = RNG.standard_normal((M, D)), RNG.standard_normal(M) / M**0.5, 0.4 * RNG.standard_normal(M)
X = np.linalg.qr(RNG.standard_normal((D, B)))[0].T
R = np.array([1.5, -1.0])
MIB = 2**20


def outputs(bias: bool = False) -> dict[str, Array]:
    """dL/da of a ReLU network, residuals R."""
    b = BIAS if bias else np.zeros(M)
    given = {"weight": W, "gradient": R @ np.maximum(X @ W.T + b, 0)}
    return given | ({"bias": b} if bias else {})


def rows(bias: bool = False) -> dict[str, Array]:
    """dL/dW of a ReLU network with output weights of its own, residuals R."""
    b = BIAS if bias else np.zeros(M)
    active = ((W @ X.T + b[:, None]) > 0) * R
    given = {"weight": W, "gradient": OWN[:, None] * (active @ X), "output_weight": OWN}
    return given | ({"bias": b, "bias_gradient": OWN * active.sum(axis=1)} if bias else {})


# --- files: judged by their headers -----------------------------------------------------------------------------------


def header(shape: Any, descr: Any = "<f8", fortran: Any = False) -> bytes:
    text = repr({"descr": descr, "fortran_order": fortran, "shape": shape}).encode("latin1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def archive(path: Path, method: int = zipfile.ZIP_DEFLATED, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", method, compresslevel=1) as target:
        for name, content in members.items():
            target.writestr(f"{name}.npy", content)
    return path


def peak(call: Callable[[], Any]) -> tuple[str, float]:
    """The one line with which ``call`` refuses, and the MiB it took."""
    tracemalloc.start()
    try:
        with time_limit(20), pytest.raises((ValueError, TypeError)) as stop:
            call()
        return str(stop.value), tracemalloc.get_traced_memory()[1] / MIB
    finally:
        tracemalloc.stop()


ZEROS = bytes(64 * MIB)
SMALL = {"weight": header((4, 2)) + bytes(64), "gradient": header((4,)) + bytes(32)}


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (SMALL | {"junk": header((2**23,)) + ZEROS}, "unknown: junk"),
        (SMALL | {"weight": header((2**23,)) + ZEROS}, r"weight must have shape (m, d); got (8388608,)"),
        (SMALL | {"weight": header((2**20, 8)) + ZEROS}, "gradient must have shape (m,) = (1048576,)"),
        (SMALL | {"bias": header((2**23,)) + ZEROS}, "bias must have shape (4,); got (8388608,)"),
        (
            SMALL | {"bias": header((4,)) + ZEROS},
            "declares 32 bytes of data, shape (4,) of float64; the archive says",
        ),
        (
            SMALL | {"bias": header((2**26,), "|b1") + ZEROS},
            "bias must be a dense array of real numbers; got values of",
        ),
        (
            {"weight": header((2**20, 8)) + ZEROS, "gradient": header((2**20,)) + bytes(8 * MIB)},
            "take 75497472 bytes in memory; memory_limit = 67108864 bytes",
        ),
    ],
)
def test_a_small_archive_does_not_unpack_to_a_large_one(
    tmp_path: Path, members: dict[str, bytes], words: str
) -> None:
    """64 MiB of zeros in an archive of some hundred kilobytes: refused for 4 MiB of memory."""
    path = archive(tmp_path / "bomb.npz", **members)
    assert path.stat().st_size < 2 * MIB
    line, used = peak(lambda: read_gradient(path, memory_limit=64 * MIB))
    assert words in line and "\n" not in line and used < 4


def test_an_archive_costs_what_its_arrays_take(tmp_path: Path) -> None:
    """8 MiB of weights, double or single precision, transposed or not, packed or not: no second copy."""
    path = tmp_path / "mine.npz"
    for dtype, order in (("f8", "C"), (">f8", "F"), ("f4", "F")):
        weight = np.asarray(RNG.standard_normal((2**17, 8)), dtype=dtype, order=order)
        (np.savez_compressed if dtype == "f4" else np.savez)(
            path, weight=np.round(weight), gradient=weight[:, 0]
        )
        tracemalloc.start()
        found = read_gradient(path)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        np.testing.assert_array_equal(found.weight, np.round(weight))
        assert used < 1.15 * found.weight.numpy().nbytes + 4 * MIB


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x93XUMPY\x01\x00" + bytes(90), "is no NumPy array of version 1 to 3"),
        (b"\x93NUMPY\x09\x00" + bytes(90), "is no NumPy array of version 1 to 3"),
        (b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31), "must have a header of at most 10000 bytes"),
        (header((-1, 2)), "must have a shape of non-negative integers; its header says (-1, 2)"),
        (header((True, 2)), "must have a shape of non-negative integers"),
        (header(7), "must have a shape of non-negative integers; its header says 7"),
        (header((4, 2), fortran="maybe"), "must have fortran_order True or False"),
        (header((4, 2), descr="<q9"), "must have a header with descr, fortran_order and shape"),
        (header((4, 2), descr=None), "must have a header with descr, fortran_order and shape"),
        (b"\x93NUMPY\x01\x00" + struct.pack("<H", 4000) + b"(" * 4000, "it cannot be read"),
        (
            header((4, 2)) + bytes(63),
            "declares 64 bytes of data, shape (4, 2) of float64; the archive says 63",
        ),
        (header((10**9, 10**9)), "declares 8000000000000000000 bytes of data"),
        (header((4, 2), descr="|O") + bytes(64), "pickled Python objects, which are never loaded"),
        (header((4, 2), descr="<c16") + bytes(128), "got values of type complex128"),
        (header((4, 2), descr="<M8[s]") + bytes(64), "got values of type datetime64[s]"),
        (header((4, 2), descr="<U2") + bytes(64), "got values of type <U2"),
        (header((4, 2), descr=[("a", "<f8")]) + bytes(64), "got values of type [('a', '<f8')]"),
    ],
)
def test_headers_that_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    line, _ = peak(lambda: read_gradient(archive(tmp_path / "a.npz", **(SMALL | {"weight": content}))))
    assert words in line and "\n" not in line


def _encrypted(data: bytes) -> bytes:
    at = data.index(b"PK\x01\x02")
    return data[: at + 8] + b"\x01" + data[at + 9 :]


@pytest.mark.parametrize(
    ("method", "change", "words"),
    [
        (zipfile.ZIP_BZIP2, lambda data: data, "compressed by method 12; stored or deflated is expected"),
        (zipfile.ZIP_STORED, _encrypted, "weight.npy is encrypted"),
        (zipfile.ZIP_STORED, lambda data: data[:-30], "the archive is damaged"),
        (zipfile.ZIP_STORED, lambda data: data.replace(bytes(32), b"\x01" * 32), "Bad CRC-32"),
        # a directory that claims 2 GiB
        (zipfile.ZIP_STORED, lambda data: data[:-10] + struct.pack("<I", 2**31) + data[-6:], "damaged"),
    ],
)
def test_archives_that_are_refused(
    tmp_path: Path, method: int, change: Callable[[bytes], bytes], words: str
) -> None:
    path = archive(tmp_path / "a.npz", method, **SMALL)
    path.write_bytes(change(path.read_bytes()))
    line, used = peak(lambda: read_gradient(path))
    assert words in line and "\n" not in line and used < 4


def test_names_twice_and_many(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "w") as target:
        for name in ("weight", "gradient", "weight"):
            target.writestr(f"{name}.npy", SMALL[name])
    with pytest.raises(ValueError, match="each array once; weight is there more than once"):
        read_gradient(path)
    archive(path, **SMALL, **{f"layer\n{i}": b"" for i in range(20)})
    with pytest.raises(ValueError, match=r"unknown: 'layer\\n0', .* and 15 more"):
        read_gradient(path)
    archive(path, **{f"a{i}": b"" for i in range(100)})
    with pytest.raises(ValueError, match="holds 100 arrays; at most 64"):
        read_gradient(path)


def tensors(head: Any, data: bytes = b"") -> bytes:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(shape: list[int], start: int, stop: int, dtype: str = "F64") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (struct.pack("<Q", 2**40) + b"{}", "declares a header of 1099511627776 bytes"),
        (tensors(b"{" * 4000), "damaged"),
        (tensors({"weight": 5}), "damaged"),
        (tensors({"weight": tensor([4, 2], 0, 64), "gradient": tensor([4], 64, 999)}, bytes(96)), "damaged"),
        (tensors({"weight": tensor([4, 2], 0, 64), "gradient": tensor([5], 64, 96)}, bytes(96)), "damaged"),
        (tensors({"weight": tensor([4, 2], 0, 64), "grad": tensor([4], 64, 96)}, bytes(96)), "unknown: grad"),
        (
            tensors({"weight": tensor([4, 2], 0, 64), "gradient": tensor([4], 64, 68, "BOOL")}, bytes(68)),
            "BOOL",
        ),
        (
            tensors({"weight": tensor([4, 2], 0, 64), "gradient": tensor([2, 2], 64, 96)}, bytes(96)),
            "must have shape",
        ),
    ],
)
def test_tensors_that_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    line, used = peak(lambda: read_gradient(tmp_path / "a.safetensors"))
    assert words in line and "\n" not in line and used < 4


def test_the_memory_limit_of_tensors(tmp_path: Path) -> None:
    """Half precision is held as single precision: 12 entries, 48 bytes; limits that are none are refused."""
    content = tensors(
        {"weight": tensor([4, 2], 0, 16, "BF16"), "gradient": tensor([4], 16, 24, "F16")}, bytes(24)
    )
    (tmp_path / "a.safetensors").write_bytes(content)
    assert read_gradient(tmp_path / "a.safetensors", 48).weight.dtype == torch.float32
    with pytest.raises(ValueError, match="take 48 bytes in memory; memory_limit = 47 bytes"):
        read_gradient(tmp_path / "a.safetensors", 47)
    with pytest.raises(ValueError, match="memory_limit must be at least 1"):
        read_gradient(tmp_path / "a.safetensors", 0)


def _npy() -> bytes:
    target = io.BytesIO()
    np.save(target, np.zeros((9, 3)))
    return target.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "a.npz",
            _npy(),
            "it is a single NumPy array (.npy); expected a zip archive of arrays, as numpy.savez",
        ),
        (
            "a.npz",
            b"garbage" * 99,
            "it is nothing known (it begins with b'garbagegarbagega'); expected a zip archive",
        ),
        ("a.npz", b"", "it is empty"),
        ("a.npz", pickle.dumps({"weight": 1}), "it is a Python pickle, which is never loaded"),
        ("a.npz", tensors({}), "it is a file of safetensors"),
        ("a.safetensors", b"\x89HDF\r\n\x1a\n", "it is an HDF5 file; expected named tensors"),
        (
            "a.safetensors",
            b"PK\x03\x04" + bytes(99),
            "it is a zip archive, as .npz is; expected named tensors",
        ),
    ],
)
def test_a_message_says_what_the_file_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as stop:
        read_gradient(tmp_path / name)
    assert words in str(stop.value)
    assert not any(word in str(stop.value) for word in ("allow_pickle", "unsafe", "\n"))


def test_a_checkpoint_is_no_archive_of_arrays(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"missing: weight, gradient, unknown: .*pkl \(not .npy\)"):
        read_gradient(tmp_path / "a.npz")


def test_the_command_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An array that is not of real numbers is bad input, exit code 2, and no failed attack."""
    np.savez(tmp_path / "a.npz", weight=W > 0, gradient=outputs()["gradient"])
    with pytest.raises(SystemExit) as stop:
        cli.main(["attack", "gradient", "--file", str(tmp_path / "a.npz"), "--B", "1"])
    line = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and "got values of type bool" in line and "\n" not in line


# --- arrays -----------------------------------------------------------------------------------------------------------


class Hostile:
    """An array only by name."""

    def __array__(self, *_: Any, **__: Any) -> Array:
        raise NotImplementedError("pages\n" * 50)


G = torch.from_numpy(outputs()["gradient"])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (G.to_sparse(), "a sparse tensor"),
        (lambda: torch.zeros(9, 9).to_sparse_csr(), "a sparse tensor"),
        (G.to("meta"), "a tensor without data"),
        (lambda: torch.quantize_per_tensor(G.float(), 0.1, 0, torch.qint8), "a quantized tensor"),
        (lambda: torch.nested.nested_tensor([G, G[:9]]), "a nested tensor"),
        (G > 0, "values of type torch.bool"),
        (G + 1j, "values of type torch.complex128"),
        (G.numpy() > 0, "values of type bool"),
        (G.numpy().astype(object), "values of type object"),
        (np.zeros(M, dtype=[("a", "f8")]), "values of type"),
        (np.zeros(M, dtype="M8[s]"), "values of type datetime64[s]"),
        ([[1.0, 2.0], [3.0]], "list"),
        ("text", "values of type <U4"),
        ({"a": 1}, "dict"),
        (Hostile(), "Hostile"),
    ],
)
def test_what_is_no_dense_array_of_real_numbers(value: Any, words: str) -> None:
    given = value() if callable(value) else value  # torch warns of some when they are made
    with pytest.raises(TypeError) as stop:
        SharedGradient.from_arrays(W, given)
    assert str(stop.value).startswith("gradient must be a dense array of real numbers; got ")
    assert words in str(stop.value) and "\n" not in str(stop.value) and len(str(stop.value)) < 200


def test_masked_entries_are_not_used() -> None:
    masked = np.ma.masked_array(G.numpy(), mask=np.arange(M) < 100)
    for value, count in ((masked, f"100 of {M}"), (list(masked[:200].reshape(2, 100)), "100 of 200")):
        with pytest.raises(ValueError, match=f"gradient must have no masked entries; got {count} masked"):
            SharedGradient.from_arrays(W, value)
    whole = SharedGradient.from_arrays(W, np.ma.masked_array(G.numpy()))
    np.testing.assert_array_equal(whole.gradient, G)


@pytest.mark.parametrize(
    "value",
    [
        G.clone().requires_grad_(),
        torch.nn.Parameter(G.clone()),
        torch.imag(torch.conj(-1j * G)),  # a view that is negated when it is read
        G.numpy().astype(">f8"),
        np.asmatrix(G.numpy()),
        G.tolist(),
    ],
)
def test_other_forms_of_the_same_numbers(value: Any) -> None:
    found = SharedGradient.from_arrays(W, value).gradient
    assert type(found) is torch.Tensor and not found.requires_grad and found.dtype == torch.float64
    np.testing.assert_array_equal(found, G)


# --- units ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [-320, -300, -160, -40, 0, 40, 160, 300])
def test_sizes_without_overflow(power: int) -> None:
    values = torch.tensor([3.0, -4.0], dtype=torch.float64) * 10.0**power
    # a subnormal number has few digits
    assert root_mean_square(values) == pytest.approx(
        12.5**0.5 * 10.0**power, rel=1e-3 if power < -310 else 1e-14
    )
    assert torch.equal(
        shift(shift(values, -exponent(root_mean_square(values))), exponent(root_mean_square(values))), values
    )
    assert exponent(1.01) == exponent(0.99) == exponent(0.0) == 0


def assert_same(one: Assessed, other: Assessed, norm: float = 1.0) -> None:
    """What must not depend on a unit: the verdict, the findings' levels, and, to rounding, the numbers."""
    assert one.attacked is not None and other.attacked is not None, (one.confidence, other.confidence)
    verdicts = [
        (f.confidence.status, f.confidence.method, [(g.name, g.level) for g in f.findings])
        for f in (one, other)
    ]
    assert verdicts[0] == verdicts[1]
    exact = one.confidence.method == "sparse_recovery"
    for tolerance, numbers in (
        (
            1e-6,
            lambda f, unit: (matched_rmse(X, f.attacked.features / unit), 0 if exact else f.confidence.gap),
        ),
        # averages of random draws, in directions that rounding may turn
        (0.1, lambda f, unit: (f.confidence.relative, f.confidence.unexplained, f.confidence.expected)),
    ):
        np.testing.assert_allclose(numbers(other, norm), numbers(one, 1.0), rtol=tolerance, atol=1e-9)


@pytest.mark.parametrize("make", [outputs, rows])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_verdict_does_not_depend_on_a_unit(
    make: Callable[[bool], dict[str, Array]], bias: bool, noise: float
) -> None:
    """Gradient (with dL/db), weights (with biases) and output weights in units of 10^k: residuals come in theirs."""
    given = make(bias)
    size = np.sqrt(np.mean(given["gradient"] ** 2))
    given["gradient"] = given["gradient"] + noise * size * np.random.default_rng(1).standard_normal(
        given["gradient"].shape
    )

    def attacked(names: tuple[str, ...], unit: float) -> Assessed:
        return assess(
            SharedGradient.from_arrays(**{k: unit * v if k in names else v for k, v in given.items()}), B
        )

    # 1.5: no scale that is taken for the standard one
    for names in (("gradient", "bias_gradient"), ("weight", "bias"), ("output_weight",)):
        if not set(names) & set(given):
            continue
        first = attacked(names, 1.5)
        for k in (-300, -37, 3, 160, 300) if not noise else (-300, 300):
            again = attacked(names, 1.5 * 10.0**k)
            assert_same(first, again)
            power = {"gradient": k, "weight": -k if make is outputs else 0, "output_weight": -k}[names[0]]
            assert first.attacked is not None and again.attacked is not None
            np.testing.assert_allclose(
                again.attacked.residuals / 10.0**power, first.attacked.residuals, rtol=1e-6
            )


def test_norms_in_other_units() -> None:
    for make in (outputs, rows):
        first = assess(SharedGradient.from_arrays(**make(False)), B)
        for k in (-300, 150):
            again = assess(SharedGradient.from_arrays(**make(False)), B, norms=(10.0**k,) * B)
            assert_same(first, again, norm=10.0**k)


@pytest.mark.parametrize(
    ("changes", "arguments", "words"),
    [
        ({"gradient": 1e-310}, {}, "gradient must be zero or of a size that torch.float64 resolves"),
        ({"weight": 1e-310}, {}, "weight must be zero or of a size that torch.float64 resolves"),
        ({"weight": 1e300, "gradient": 1e-300}, {}, "residuals of about 2^-199"),
        ({}, {"scale": 1e9}, "scale must be that of the weights, which is 0.996; got 1e+09"),
        ({"weight": 1e30}, {"activation": "gelu"}, "arguments of a size between 1e-06 and 10000"),
        ({"weight": 1e-30}, {"activation": "tanh"}, "arguments of a size between 1e-06 and 10000"),
        (
            {"gradient": 1e40},
            {"norms": (1.0, 2.0)},
            "must be of ordinary size, 2^-100 to 2^100, where norms differ",
        ),
        ({"bias": 1e12}, {}, "must not drown what weights of size 1 make of a feature"),
    ],
)
def test_sizes_that_leave_no_problem(
    changes: dict[str, float], arguments: dict[str, Any], words: str
) -> None:
    given = outputs("bias" in changes)
    given = {name: changes.get(name, 1.0) * value for name, value in given.items()}
    found = assess(SharedGradient.from_arrays(**given), B, **arguments)
    assert found.attacked is None and found.confidence.status == "failed"
    assert any(words in reason for reason in found.confidence.reasons), found.confidence.reasons
    with pytest.raises(ValueError) as stop:
        attack_gradient(SharedGradient.from_arrays(**given), B, **arguments)
    assert words in str(stop.value) and "\n" not in str(stop.value)


# --- anything ---------------------------------------------------------------------------------------------------------


def _file(kind: str, rng: np.random.Generator) -> bytes:
    given = {"weight": rng.standard_normal((40, 3)), "gradient": rng.standard_normal(40)}
    if kind == "safetensors":
        return save(given)
    target = io.BytesIO()
    (np.savez if rng.integers(2) else np.savez_compressed)(target, **given)
    return target.getvalue()


def _mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """One to three changes: bits, bytes, cuts, insertions, sizes, digits of a header."""
    out = bytearray(data)
    for kind in rng.integers(0, 7, rng.integers(1, 4)):
        at, length = int(rng.integers(0, max(len(out), 1))), int(rng.integers(1, 50))
        if not out:
            break
        if kind == 0:
            out[at] = int(rng.integers(0, 256))
        elif kind == 1:
            out[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 2:
            del out[at:]
        elif kind == 3:
            out[at:at] = rng.bytes(length)
        elif kind == 4:
            del out[at : at + length]
        elif kind == 5:
            out[at : at + 4] = struct.pack("<I", int(rng.choice([0, 1, 2**20, 2**31 - 1, 2**32 - 1])))
        else:
            digits = [i for i, c in enumerate(out[:400]) if 48 <= c < 58] or [at]
            out[int(rng.choice(digits))] = int(rng.integers(48, 58))
    return bytes(out)


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_mutated_files(tmp_path: Path, kind: str) -> None:
    """200 files of a kilobyte (seeds 0 to 199): arrays, or one line, for at most 8 MiB and within 20 seconds in all."""
    refused = 0
    tracemalloc.start()
    try:
        with time_limit(20):
            for seed in range(200):
                rng = np.random.default_rng(seed)
                path = tmp_path / f"a.{kind}"
                path.write_bytes(_mutated(_file(kind, rng), rng))
                try:
                    assert read_gradient(path).weight.ndim == 2
                except (ValueError, TypeError, OSError) as error:
                    refused += 1
                    assert "\n" not in str(error) and len(str(error)) < 700, seed
        assert refused > 100 and tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()


def _spoiled(values: Array, rng: np.random.Generator) -> Array:
    kinds: tuple[Callable[[Array], Array], ...] = (
        lambda a: 0 * a,
        lambda a: 0 * a + 1,
        lambda a: a * 10.0 ** float(rng.integers(-320, 309)),
        lambda a: a.astype(np.float32) * np.float32(10.0 ** float(rng.integers(-44, 38))),
        lambda a: a * 10.0 ** rng.integers(-300, 300, a.shape),
        lambda a: np.where(
            np.arange(a.size).reshape(a.shape) == 0, 10.0 ** float(rng.integers(-320, 309)), a
        ),
        lambda a: np.where(np.arange(a.size).reshape(a.shape) == 0, np.nan, a),
        lambda a: np.where(np.arange(a.size).reshape(a.shape) < a.size // 2, 0.0, a),
        np.sign,
        np.transpose,
    )
    with np.errstate(all="ignore"):
        return kinds[rng.integers(len(kinds))](values)


def test_spoiled_arrays() -> None:
    """60 gradients (seeds 0 to 59), some arrays of each spoiled or missing: a verdict with finite numbers, or one line."""
    attacked = 0
    with time_limit(60):
        for seed in range(60):
            rng = np.random.default_rng(seed)
            given = (rows if rng.integers(2) else outputs)(bool(rng.integers(2)))
            given = {name: value[:300] for name, value in given.items()}
            given = {name: _spoiled(v, rng) if rng.random() < 0.4 else v for name, v in given.items()}
            activation = str(rng.choice(["relu", "gelu", "tanh"]))
            try:
                found = assess(SharedGradient.from_arrays(**given), int(rng.integers(1, 4)), activation)
            except (ValueError, TypeError) as error:
                assert "\n" not in str(error), seed
                continue
            sure = found.confidence
            numbers = (sure.predicted, sure.relative, sure.unexplained, sure.expected, sure.noise)
            assert sure.status in ("ok", "suspect", "failed"), seed
            assert all(n is None or np.isfinite(n) for n in numbers), (seed, sure)
            if found.attacked is not None:
                attacked += 1
                assert bool(torch.isfinite(found.attacked.features).all()), seed
    assert attacked > 10
