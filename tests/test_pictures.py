"""Pictures under attack: rows in the batch's order, failures with their reason, a file that redraws all."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy as sp
from PIL import Image

from attack import matched_rmse
from attack.image.datasets import ImageBatch, load_images
from bounds import AttackSpec, GradientNoise, LikelihoodAttack, NoDefense, Setting, TensorAttack, evaluate
from verify.draw import pictures as module
from verify.draw.pictures import draw_pictures
from verify.measure.lines import LedgerError, RecordError
from verify.measure.pictures import PictureRow, load_pictures, reconstruct_pictures, row_labels, save_pictures

WIDTHS = (1_000, 60_000)


@pytest.fixture(scope="module")
def digits() -> ImageBatch:
    return load_images("digits", 2, 4)


@pytest.fixture(scope="module")
def rows(digits: ImageBatch) -> list[PictureRow]:
    """One attack that fails for want of neurons, one that succeeds."""
    return reconstruct_pictures(digits, WIDTHS, seed=3, defense=GradientNoise(2.0), device="cpu")


def made_up(batch: ImageBatch, **changes: Any) -> PictureRow:
    """A row that no attack was run for."""
    noise = 0.02 * np.random.default_rng(0).standard_normal(batch.features.shape)
    return replace(
        PictureRow(
            100_000, 0.12, 0.11, "", (), 0, "relu", NoDefense(), TensorAttack(), batch.features + noise
        ),
        **changes,
    )


# --- attacks


def test_rows_are_matched_to_the_batch(digits: ImageBatch, rows: list[PictureRow]) -> None:
    failed, found = rows
    assert (failed.m, found.m) == WIDTHS
    assert failed.failed and failed.features is None and failed.rmse is None
    assert failed.reason.startswith("ill-posed: ")
    assert not found.failed and found.features is not None and found.rmse is not None
    in_place = np.sqrt(np.mean(np.sum((digits.features - found.features) ** 2, axis=1)))
    assert found.rmse == pytest.approx(in_place, rel=1e-12), "row i belongs to picture i"
    assert found.rmse == pytest.approx(matched_rmse(digits.features, found.features), rel=1e-12)


def test_rows_carry_the_prediction(digits: ImageBatch, rows: list[PictureRow]) -> None:
    for row in rows:
        setting = Setting.from_features(digits.features, digits.labels, row.m)
        assert row.predicted == evaluate(GradientNoise(2.0), setting).predicted
    assert rows[1].rmse == pytest.approx(rows[1].predicted, rel=0.4)


def test_signs_that_the_attack_calls_unknown_are_no_errors(digits: ImageBatch) -> None:
    """As in trials: tanh leaves (x, r) and (-x, -r) apart from nothing, and one of two rows comes out negated here."""
    for seed in range(4):
        (row,) = reconstruct_pictures(digits, (60_000,), seed=seed, activation="tanh", device="cpu")
        assert row.rmse is not None and row.predicted is not None and row.features is not None
        assert row.rmse == pytest.approx(row.predicted, rel=0.5)
        in_place = np.sqrt(np.mean(np.sum((digits.features - row.features) ** 2, axis=1)))
        assert row.rmse == pytest.approx(in_place, rel=1e-12), "drawn the way round that it is scored"


def test_a_seed_fixes_the_rows(digits: ImageBatch, rows: list[PictureRow]) -> None:
    seen: list[PictureRow] = []
    again = reconstruct_pictures(
        digits, WIDTHS[1:], seed=3, defense=GradientNoise(2.0), device="cpu", progress=seen.append
    )
    assert seen == again
    np.testing.assert_array_equal(again[0].features, rows[1].features)
    other = reconstruct_pictures(digits, WIDTHS[1:], seed=4, defense=GradientNoise(2.0), device="cpu")
    assert other[0].rmse != again[0].rmse


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"widths": ()}, ValueError, "widths must hold at least one width"),
        ({"widths": (10_000, 2)}, ValueError, "m must be larger than B = 2; got m = 2"),
        ({"widths": (10_000, 1e5)}, TypeError, "m must be an integer; got 100000.0"),
        ({"seed": -1}, ValueError, "seed must be at least 0; got -1"),
        ({"activation": "swish"}, ValueError, "activation must be one of"),
        ({"activation": sp.Symbol("z", real=True) ** 2}, ValueError, "mu_2"),
        ({"defense": "none"}, TypeError, "defense must be a Defense"),
        ({"attack": "plain"}, TypeError, "attack must be a AttackSpec"),
        ({"attack": ()}, ValueError, "attack must be one, or several that differ; got []"),
        (
            {"attack": [TensorAttack(), TensorAttack()]},
            ValueError,
            "attack must be one, or several that differ",
        ),
        ({"attack": [TensorAttack(), "plain"]}, TypeError, "attack must be a AttackSpec"),
        ({"threads": 0}, ValueError, "threads must be at least 1; got 0"),
        ({"jobs": 0}, ValueError, "jobs must be at least 1; got 0"),
        ({"device": "abacus"}, ValueError, "device must be"),
    ],
)
def test_bad_input_is_told_before_any_attack(
    digits: ImageBatch,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    import attack

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("an attack was prepared")

    monkeypatch.setattr(attack.TwoLayerNet, "sample", never)
    with pytest.raises(error, match=re.escape(message)):
        reconstruct_pictures(**({"batch": digits, "widths": WIDTHS, "seed": 0} | changes))


# --- several attacks

BOTH = (TensorAttack(), LikelihoodAttack())


def test_several_attacks_meet_the_same_gradient(digits: ImageBatch) -> None:
    """At m = 600, under five neurons for each unknown, the tensor attack finds nothing and the likelihood attack everything;
    alone, each gives the very row that it gives beside the other."""
    ask = {"seed": 3, "device": "cpu", "threads": 1}
    found = reconstruct_pictures(digits, (600, 20_000), attack=BOTH, **ask)
    assert [(row.m, row.attack) for row in found] == [(m, attack) for m in (600, 20_000) for attack in BOTH]
    few, exact, many, also = found
    assert few.reason.startswith("ill-posed: ") and few.predicted is None  # the span is lost there
    assert many.rmse is not None and many.predicted is not None and many.rmse > 0.01
    for row in (exact, also):
        assert row.rmse is not None and row.rmse < 1e-6 and row.predicted is None and row.warnings == ()
    for attack, row in zip(BOTH, (many, also), strict=True):
        (alone,) = reconstruct_pictures(digits, (20_000,), attack=attack, **ask)
        np.testing.assert_array_equal(alone.features, row.features)


def test_a_stopped_run_of_several_attacks_goes_on(tmp_path: Path, digits: ImageBatch) -> None:
    """What is asked for again is the one row that is missing: the same width, the other attack."""
    path = tmp_path / "pictures-digits-B2.json"
    ask = {"seed": 3, "device": "cpu", "threads": 1, "path": path}

    def stop(row: PictureRow) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="stopped with 1 of 2 trials recorded"):
        reconstruct_pictures(digits, (600,), attack=BOTH[::-1], progress=stop, **ask)
    for other, message in (
        (TensorAttack(), "m = 600 was attacked with other settings"),
        ((TensorAttack(), LikelihoodAttack(starts=3)), "m = 600 was attacked with other settings"),
    ):
        with pytest.raises(LedgerError, match=message):
            reconstruct_pictures(digits, (600,), attack=other, **ask)
    running = path.with_suffix(".jsonl")
    (line,) = running.read_text().splitlines()
    running.write_text(f"{line}\n{line}\n")
    with pytest.raises(RecordError, match="m = 600 is recorded twice for the likelihood attack"):
        reconstruct_pictures(digits, (600,), attack=BOTH, **ask)
    running.write_text(f"{line}\n")
    seen: list[AttackSpec] = []
    rows = reconstruct_pictures(
        digits, (600,), attack=BOTH, progress=lambda row: seen.append(row.attack), **ask
    )
    assert seen == [TensorAttack()] and [p for p in tmp_path.iterdir()] == [path]
    assert [row.attack for row in rows] == [row.attack for row in load_pictures(path)[1]] == list(BOTH)


# --- a row


def test_labels_say_what_was_measured(digits: ImageBatch) -> None:
    assert made_up(digits).label == "m = 100 000, R = 0.12 (predicted 0.11)"
    failed = made_up(digits, reason="too few neurons", rmse=None, features=None)
    assert failed.label == "m = 100 000, failed (predicted 0.11)"
    assert made_up(digits, predicted=None).label == "m = 100 000, R = 0.12 (no prediction)"
    exact = made_up(digits, predicted=None, rmse=3.14e-13)
    assert exact.label == "m = 100 000, exact: R = 3.1e-13 (no prediction)"
    assert made_up(digits, rmse=1e-6).label == "m = 100 000, R = 1e-06 (predicted 0.11)"


def test_labels_name_the_attack_where_there_are_several(digits: ImageBatch) -> None:
    row = made_up(digits)
    likely = replace(row, attack=LikelihoodAttack(), predicted=None)
    plain = replace(row, attack=TensorAttack(moments="plain"))
    assert row_labels([likely, likely]) == [likely.label] * 2
    assert row_labels([row, likely]) == [f"tensor attack, {row.label}", f"likelihood attack, {likely.label}"]
    assert row_labels([row, plain]) == [
        f"tensor attack, residualized, {row.label}",
        f"tensor attack, plain, {row.label}",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reason": "too few neurons"}, "a row must have either a reason or an error"),
        ({"rmse": None}, "a row must have either a reason or an error"),
        ({"reason": "too few neurons", "rmse": None}, "a row must have either a reason or an error"),
        ({"rmse": -1.0}, "rmse must be a finite number"),
        ({"predicted": float("nan")}, "predicted must be a finite number"),
        ({"m": 0}, "m must be at least 1; got 0"),
    ],
)
def test_a_row_does_not_contradict_itself(digits: ImageBatch, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made_up(digits, **changes)


# --- the figure


def texts(monkeypatch: pytest.MonkeyPatch, draw: Callable[[], None]) -> tuple[list[str], Any]:
    """All text of the figure that ``draw`` saves, and the figure."""
    kept: list[Any] = []
    save = module.Figure.savefig

    def keep(figure: Any, *args: Any, **kwargs: Any) -> None:
        kept.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(module.Figure, "savefig", keep)
    draw()
    (figure,) = kept
    return [t.get_text() for a in figure.axes for t in a.texts], figure


@pytest.mark.parametrize(("name", "B"), [("digits", 1), ("digits", 4), ("patches", 2)])
def test_a_figure_shows_every_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, B: int
) -> None:
    batch = load_images(name, B, 0)
    row = made_up(batch)
    failed = made_up(batch, m=1_000, reason="ill-posed: too few neurons", rmse=None, features=None)
    path = tmp_path / "figure.png"
    written, figure = texts(monkeypatch, lambda: draw_pictures(batch, [failed, row], path))
    assert "m = 100 000\nR = 0.12 (predicted 0.11)" in written
    assert "m = 1 000\nfailed (predicted 0.11)" in written
    assert "ill-posed: too few neurons" in written
    shown = [a.images[0] for a in figure.axes if a.images]
    assert len(shown) == 2 * B, "originals and one row; the failed attack has empty frames"
    expected = [*batch.pictures(batch.features), *batch.pictures(row.features)]
    for image, picture in zip(shown, expected, strict=True):
        pixels = np.asarray(image.get_array())
        np.testing.assert_array_equal(pixels, picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0))
        assert image.get_clim() == (0.0, 1.0)
    empty = [a for a in figure.axes if not a.images and a.axison]
    assert len(empty) == B
    assert path.stat().st_size < 400_000
    with Image.open(path) as drawn:
        assert drawn.format == "PNG"


def test_a_figure_of_several_attacks_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: ImageBatch
) -> None:
    """Also when it is drawn from the file; the words stay inside the figure."""
    row = made_up(digits)
    failed = replace(row, reason="ill-posed: " + "too few " * 20, rmse=None, features=None)
    exact = replace(row, attack=LikelihoodAttack(), predicted=None, rmse=3.14e-13)
    save_pictures(tmp_path / "kept.json", digits, [failed, exact])
    written, figure = texts(
        monkeypatch, lambda: draw_pictures(*load_pictures(tmp_path / "kept.json"), tmp_path / "figure.png")
    )
    assert "tensor attack\nm = 100 000\nfailed (predicted 0.11)" in written
    assert "likelihood attack\nm = 100 000\nexact: R = 3.1e-13 (no prediction)" in written
    title = figure.get_suptitle()
    assert title.endswith("relu, no defense\ntensor attack, residualized moments / likelihood attack")
    drawn = [t for axes in figure.axes for t in axes.texts if t.get_text()]
    for text in [*drawn, figure._suptitle]:
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1, text.get_text()
    label, reason = (t.get_window_extent() for t in drawn if t.get_text() in written[2:4])
    assert label.y0 >= reason.y1, "the reason stands below the label"


def test_equal_rows_give_equal_bytes(tmp_path: Path, digits: ImageBatch) -> None:
    for name in ("a.png", "b.png"):
        draw_pictures(digits, [made_up(digits)], tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_what_cannot_be_drawn_is_told(tmp_path: Path, digits: ImageBatch) -> None:
    path = tmp_path / "figure.png"
    with pytest.raises(ValueError, match="rows must hold at least one"):
        draw_pictures(digits, [], path)
    with pytest.raises(ValueError, match="batch must be a batch of pictures; got None"):
        draw_pictures(None, [made_up(digits)], path)
    with pytest.raises(ValueError, match="that of m = 100000 was saved without them"):
        draw_pictures(digits, [made_up(digits, features=None)], path)
    with pytest.raises(ValueError, match="1 or 3 channels to be drawn; got 2"):
        draw_pictures(replace(digits, shape=(2, 4, 8)), [made_up(digits)], path)
    assert not path.exists()


# --- a run that was stopped


def test_a_stopped_run_goes_on_with_the_widths_that_are_missing(
    tmp_path: Path, digits: ImageBatch, rows: list[PictureRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pictures-digits-B2.json"
    ask = {"seed": 3, "defense": GradientNoise(2.0), "device": "cpu", "path": path}

    def stop(row: PictureRow) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"stopped with 1 of 2 trials recorded in .*B2\.jsonl"):
        reconstruct_pictures(digits, WIDTHS[::-1], progress=stop, **ask)
    running = path.with_suffix(".jsonl")
    assert [p for p in tmp_path.iterdir()] == [running]
    for other, message in (
        ({"batch": load_images("digits", 2, 5)}, "of other pictures"),
        ({"seed": 4}, "m = 60000 was attacked with other settings"),
        ({"defense": NoDefense()}, "with other settings. It is what a stopped run has left"),
        ({"widths": WIDTHS[:1]}, "holds 1 trial beyond those asked for"),
    ):
        with pytest.raises(LedgerError, match=message):
            reconstruct_pictures(**{"batch": digits, "widths": WIDTHS} | ask | other)
    measured: list[int] = []
    again = reconstruct_pictures(digits, WIDTHS, progress=lambda row: measured.append(row.m), **ask)
    assert measured == [WIDTHS[0]] and [p for p in tmp_path.iterdir()] == [path]
    for row, same in zip(again, rows, strict=True):
        assert replace(row, features=None).__dict__ == replace(same, features=None).__dict__
    np.testing.assert_array_equal(again[1].features, rows[1].features)
    assert [r.rmse for r in load_pictures(path)[1]] == [r.rmse for r in rows]


def test_files_of_the_first_version_are_read(tmp_path: Path, digits: ImageBatch) -> None:
    path = tmp_path / "digits.json"
    save_pictures(path, digits, [made_up(digits)])
    raw = json.loads(path.read_text())
    for row in raw["rows"]:
        del row["conditions"]
    path.write_text(json.dumps(raw | {"schema_version": 1, "versions": {"python": "3.11"}}))
    _, (row,) = load_pictures(path)
    assert row.rmse == 0.12 and row.conditions is None


# --- the file


def test_a_file_gives_back_batch_and_rows(tmp_path: Path, digits: ImageBatch, rows: list[PictureRow]) -> None:
    path = tmp_path / "digits.json"
    save_pictures(path, digits, rows)
    batch, again = load_pictures(path)
    assert batch is not None
    np.testing.assert_array_equal(batch.features.astype(np.float32), digits.features.astype(np.float32))
    for name in ("labels", "classes", "mean", "norms", "indices"):
        np.testing.assert_array_equal(getattr(batch, name), getattr(digits, name))
    assert (batch.shape, batch.name) == (digits.shape, digits.name)
    for row, same in zip(rows, again, strict=True):
        assert replace(row, features=None).__dict__ == replace(same, features=None).__dict__
    first, second = again[0].features, again[1].features
    assert first is None and second is not None and rows[1].features is not None
    np.testing.assert_array_equal(second.astype(np.float32), rows[1].features.astype(np.float32))
    assert [p.name for p in tmp_path.iterdir()] == ["digits.json"]
    draw_pictures(batch, again, tmp_path / "again.png")


def test_many_numbers_are_not_kept(tmp_path: Path) -> None:
    batch = load_images("patches", 8, 0)
    path = tmp_path / "patches.json"
    save_pictures(path, batch, [made_up(batch), made_up(batch)])
    again, rows = load_pictures(path)
    assert again is None
    assert [(r.rmse, r.features) for r in rows] == [(0.12, None)] * 2
    assert path.stat().st_size < 10_000


def damaged(raw: dict[str, Any], change: Callable[[dict[str, Any]], object]) -> str:
    change(raw)
    return json.dumps(raw)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(schema_version=3), "schema_version must be 1 or 2; got 3"),
        (lambda r: r.pop("schema_version"), "schema_version must be 1 or 2; got None"),
        (lambda r: r.update(more=1), "fields missing or unknown: more"),
        (lambda r: r["batch"].pop("norms"), "fields missing or unknown: norms"),
        (lambda r: r["batch"].update(shape=[1, 8]), "shape must be a list of 3 integers; got [1, 8]"),
        (lambda r: r["batch"].update(shape=[1, 8, 9]), "features must have shape (2, 72); got (2, 64)"),
        (lambda r: r["batch"].update(name=3), "name must be a string; got 3"),
        (lambda r: r["batch"]["features"][0].pop(), "features must be an array"),
        (lambda r: r["batch"].update(labels=None), "labels must"),
        (lambda r: r["batch"].update(classes=[1, 2.5]), "classes must be an integer; got 2.5"),
        (lambda r: r.update(rows={}), "rows must be a list; got dict"),
        (lambda r: r["rows"][0].pop("seed"), "fields missing or unknown: seed"),
        (lambda r: r["rows"][0].update(rmse="nan"), "rmse must be a real number; got 'nan'"),
        (lambda r: r["rows"][0].update(rmse=None), "a row must have either a reason or an error"),
        (lambda r: r["rows"][0].update(warnings="none"), "warnings must be a list"),
        (lambda r: r["rows"][0]["defense"].update(name="moat"), "defense must be one of none"),
        (lambda r: r["rows"][0]["defense"].update(height=3), "height"),
        (
            lambda r: r["rows"][0].update(conditions={"device": "cpu", "threads": 0, "versions": {}}),
            "threads must be at least 1; got 0",
        ),
        (lambda r: r["rows"][0]["attack"].update(starts=0), "starts must be between 1 and 64; got 0"),
        (lambda r: r["rows"][0].update(features=[[1.0]]), "features must have shape (2, 64); got (1, 1)"),
    ],
)
def test_a_damaged_file_is_told(
    tmp_path: Path, digits: ImageBatch, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = tmp_path / "digits.json"
    save_pictures(path, digits, [made_up(digits)])
    path.write_text(damaged(json.loads(path.read_text()), change))
    with pytest.raises(RecordError, match=re.escape(message)) as caught:
        load_pictures(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"[1, 2", b"\x80\x04\x95", b'{"schema_version": NaN}', b"[]"])
def test_another_file_is_told(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "digits.json"
    path.write_bytes(data)
    with pytest.raises(RecordError, match=re.escape(str(path))):
        load_pictures(path)


def test_the_title_names_the_attack(digits: ImageBatch) -> None:
    """Only the tensor attack has moments."""

    class Guess(AttackSpec):
        name = "own_guess"

    assert module._attack(Guess()) == "own guess attack"
    assert module._attack(TensorAttack()) == "tensor attack, residualized moments"
    assert (
        module._attack(TensorAttack(moments="plain", contraction="random"))
        == "tensor attack, plain moments, random contraction"
    )
