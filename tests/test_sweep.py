"""Sweeps: balanced, resumable after anything, by one writer; and one real trial."""

from __future__ import annotations

import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from synthetic_records import fake_run, make_experiment, make_point, make_record

from bounds import GradientNoise, TensorAttack
from verify import Record, run_trial
from verify import sweep as on_any_device
from verify.measure import trial
from verify.measure.conditions import OtherConditionsWarning
from verify.measure.files import compact, read_records, records_path
from verify.measure.lines import LedgerError, RecordError
from verify.measure.record import append_record
from verify.measure.seeds import trial_seeds

#: What is tested here is bookkeeping: on the CPU, whatever there is.
sweep = partial(on_any_device, device="cpu")

EXPERIMENT = make_experiment()


class Counting:
    """``fake_run`` that remembers what it was asked, and may go wrong at the n-th call."""

    def __init__(self, stop_at: int = 0, error: BaseException | None = None) -> None:
        self.asked: list[tuple[int, int]] = []
        self.stop_at, self.error = stop_at, error

    def __call__(self, point: Any, trial: int, seed: int, **keywords: Any) -> Record:
        if self.error is not None and len(self.asked) + 1 == self.stop_at:
            raise self.error
        self.asked.append((point.m, trial))
        return fake_run(point, trial, seed, **keywords)


def essence(records: list[Record]) -> set[tuple[str, int, float | None]]:
    return {(r.point.key, r.trial, r.outcome.rmse) for r in records}


def test_trials_go_round_all_points_in_turn(tmp_path: Path) -> None:
    run = Counting()
    records = sweep(EXPERIMENT, tmp_path, run=run)
    assert run.asked == [(m, t) for t in range(3) for m in (20_000, 40_000)]
    assert records == read_records(records_path("demo", tmp_path)) and len(records) == 6


def test_a_finished_sweep_runs_nothing_and_more_trials_only_the_new_ones(tmp_path: Path) -> None:
    first = sweep(EXPERIMENT, tmp_path, run=fake_run)
    run = Counting()
    assert sweep(EXPERIMENT, tmp_path, run=run) == first and run.asked == []
    more = sweep(EXPERIMENT, tmp_path, trials=4, run=run)
    assert run.asked == [(20_000, 3), (40_000, 3)] and more[:6] == first


def test_an_interrupt_keeps_what_is_finished_and_says_how_to_go_on(tmp_path: Path) -> None:
    path = records_path("demo", tmp_path)
    with pytest.raises(
        KeyboardInterrupt, match=r"stopped with 3 of 6 trials recorded in .*demo\.jsonl; run it again"
    ):
        sweep(EXPERIMENT, tmp_path, run=Counting(4, KeyboardInterrupt()))
    assert len(read_records(path)) == 3
    assert essence(sweep(EXPERIMENT, tmp_path, run=fake_run)) == essence(
        sweep(EXPERIMENT, tmp_path / "b", run=fake_run)
    )


def test_a_defect_propagates_and_loses_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        sweep(EXPERIMENT, tmp_path, run=Counting(3, ZeroDivisionError()))
    assert len(read_records(records_path("demo", tmp_path))) == 2


KILLED = """
import os, signal, sys
sys.path[:0] = {path!r}
from synthetic_records import fake_run, make_experiment
from verify import sweep
def run(point, trial, seed, **keywords):
    if trial == 2:
        with open({file!r}, "ab") as file:
            file.write(b'{{"experiment": "dem')  # killed in the middle of writing
        os.kill(os.getpid(), signal.SIGKILL)
    return fake_run(point, trial, seed, **keywords)
sweep(make_experiment(), {out!r}, run=run)
"""


def test_a_killed_sweep_resumes_without_a_stale_lock_or_a_torn_line(tmp_path: Path) -> None:
    file = records_path("demo", tmp_path)
    script = KILLED.format(path=sys.path, file=str(file), out=str(tmp_path))
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not file.read_bytes().endswith(b"\n")
    run = Counting()
    records = sweep(EXPERIMENT, tmp_path, run=run)
    assert run.asked == [(20_000, 2), (40_000, 2)]
    assert essence(records) == essence(sweep(EXPERIMENT, tmp_path / "b", run=fake_run))


def test_processes_give_the_records_that_one_process_gives(tmp_path: Path) -> None:
    serial = sweep(EXPERIMENT, tmp_path / "a", run=fake_run)
    parallel = sweep(EXPERIMENT, tmp_path / "b", jobs=2, run=fake_run)
    assert essence(parallel) == essence(serial) and len(parallel) == 6
    assert essence(read_records(records_path("demo", tmp_path / "b"))) == essence(serial)


def test_two_sweeps_do_not_write_one_file(tmp_path: Path) -> None:
    def run(*arguments: Any, **keywords: Any) -> Record:
        with pytest.raises(LedgerError, match="another run is writing this file"):
            sweep(EXPERIMENT, tmp_path, run=fake_run)
        return fake_run(*arguments, **keywords)

    assert len(sweep(EXPERIMENT, tmp_path, trials=1, run=run)) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: (e, 7), "recorded with seed 0, not 7"),
        (
            lambda e: (replace(e, points=tuple(replace(p, defense=GradientNoise(1.0)) for p in e.points)), 0),
            "its settings have changed",
        ),
    ],
)
def test_records_of_another_sweep_are_not_mixed_in(
    tmp_path: Path, change: Callable[..., tuple[Any, int]], message: str
) -> None:
    sweep(EXPERIMENT, tmp_path, run=fake_run)
    before = records_path("demo", tmp_path).read_bytes()
    experiment, seed = change(EXPERIMENT)
    with pytest.raises(LedgerError, match=message):
        sweep(experiment, tmp_path, seed=seed, run=fake_run)
    assert records_path("demo", tmp_path).read_bytes() == before


@pytest.mark.parametrize("recorded", [[3], [999_999], [3, 19, 10]])
def test_more_trials_than_asked_for_are_not_counted_in(tmp_path: Path, recorded: list[int]) -> None:
    """What has to be asked for is said at once: the next try is not told another number."""
    for number in recorded:
        append_record(records_path("demo", tmp_path), make_record(EXPERIMENT.points[0], number))
    with pytest.raises(
        LedgerError, match=f"holds more than the 3 trials asked for. Ask for at least {max(recorded) + 1},"
    ):
        sweep(EXPERIMENT, tmp_path, run=fake_run)


def test_other_conditions_are_told(tmp_path: Path) -> None:
    sweep(EXPERIMENT, tmp_path, trials=1, run=fake_run)
    with pytest.warns(
        OtherConditionsWarning, match=r"demo\.jsonl: recorded under other conditions \(threads 1, now 2\)"
    ):
        sweep(EXPERIMENT, tmp_path, trials=2, run=fake_run, threads=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sweep(EXPERIMENT, tmp_path, trials=2, run=fake_run, threads=2)  # nothing is measured, nothing mixed


def test_a_finished_and_compacted_sweep_is_finished(tmp_path: Path) -> None:
    first = sweep(EXPERIMENT, tmp_path, run=fake_run)
    kept = compact(records_path("demo", tmp_path))
    run = Counting()
    assert essence(sweep(EXPERIMENT, tmp_path, run=run)) == essence(first) and run.asked == []
    assert list(tmp_path.iterdir()) == [kept], "no file was opened for writing"
    more = sweep(EXPERIMENT, tmp_path, trials=4, run=run)
    assert run.asked == [(20_000, 3), (40_000, 3)] and [r.trial for r in more] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_an_unknown_device_is_refused_before_any_file(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="device must be auto, cpu or an available accelerator; got 'abacus'"
    ):
        sweep(EXPERIMENT, tmp_path / "out", device="abacus", jobs=2, run=fake_run)
    assert not (tmp_path / "out").exists()


def test_the_threads_of_a_trial_do_not_depend_on_the_processes(tmp_path: Path) -> None:
    point = make_point(d=10, m=2_000)
    small = make_experiment([point], trials=2)
    torch.set_num_threads(2)
    try:
        alone = sweep(small, tmp_path / "a", device="cpu")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    together = sweep(small, tmp_path / "b", device="cpu", jobs=2)
    assert essence(alone) == essence(together)
    assert {r.conditions.threads for r in (*alone, *together)} == {1}


def test_a_trial_recorded_twice_is_an_error(tmp_path: Path) -> None:
    for _ in range(2):
        append_record(records_path("demo", tmp_path), make_record(EXPERIMENT.points[0], 1))
    with pytest.raises(RecordError, match=r"trial 1 at point .* is there twice"):
        sweep(EXPERIMENT, tmp_path, run=fake_run)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("trials", "trials must be between 1 and 1000000; got 0"),
        ("jobs", "jobs must be at least 1; got 0"),
        ("threads", "threads must be at least 1; got 0"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sweep(EXPERIMENT, tmp_path, run=fake_run, **{name: 0})
    assert list(tmp_path.iterdir()) == []


# --- one real trial -----------------------------------------------------------------------------------------

SMALL = make_point(d=20, m=20_000)


def test_a_trial_is_a_function_of_its_arguments() -> None:
    first, again, other = (run_trial(SMALL, t, 5, device="cpu", threads=1) for t in (0, 0, 1))
    assert replace(first, seconds=0.0) == replace(again, seconds=0.0)
    assert first.outcome.rmse != other.outcome.rmse
    assert first.conditions.threads == 1 and first.conditions.device == "cpu"


def test_a_trial_observes_once_and_runs_every_attack() -> None:
    """The same numbers as each attack alone under the same seeds would give: observed once, by the same network."""
    both = replace(SMALL, also=(TensorAttack(moments="plain"),))
    record = run_trial(both, 0, 5, device="cpu", threads=1)
    assert set(record.outcomes) == {"tensor", "tensor(moments=plain)"}
    for name, alone in both.single.items():
        seeds = record.seeds
        assert trial._measure(alone, seeds, torch.device("cpu"))[name] == record.outcomes[name]
    assert record.outcomes["tensor"].rmse != record.outcomes["tensor(moments=plain)"].rmse


def test_a_trial_measures_the_error_against_the_truth() -> None:
    trial = run_trial(SMALL, 0, 5, device="cpu", threads=1)
    record = trial.outcome
    assert record.status == "ok" and record.label_accuracy == 1.0
    assert record.rmse is not None and record.rmse_orthogonal is not None and record.rmse_inplane is not None
    assert 0.02 < record.rmse < 0.12, "theory: 0.058"
    assert record.rmse**2 == pytest.approx(record.rmse_orthogonal**2 + record.rmse_inplane**2)
    assert record.residual_error is not None and record.residual_error < 0.1
    assert {"python", "numpy", "torch", "reconbound"} == set(trial.conditions.versions)


def test_what_the_attack_cannot_do_is_a_failed_record() -> None:
    vanishing = make_point(
        d=20, m=20_000, activation="z2z3", labels=(1.0, -1.0)
    )  # r* = 1 - y = 0 for the first
    record = run_trial(vanishing, 0, 5, device="cpu", threads=1).outcome
    assert record.failed and record.reason and record.rmse is None and record.label_accuracy is None


def test_any_other_exception_is_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    import attack

    def broken(*_: Any, **__: Any) -> None:
        raise ArithmeticError("a defect")

    monkeypatch.setattr(attack, "reconstruct", broken)
    with pytest.raises(ArithmeticError, match="a defect"):
        run_trial(SMALL, 0, 5, device="cpu")


def test_seeds_differ_by_purpose_trial_point_and_experiment() -> None:
    calls = [(SMALL, 0, 5), (SMALL, 1, 5), (SMALL, 0, 6), (make_point(), 0, 5)]
    seeds = [s for call in calls for name, s in trial_seeds(*call).items() if name != "experiment"]
    assert len(set(seeds)) == len(seeds) == 12 and all(0 <= s < 2**53 for s in seeds)


def test_an_absent_device_is_named() -> None:
    with pytest.raises(
        ValueError, match="device must be auto, cpu or an available accelerator; got 'nonsense'"
    ):
        run_trial(SMALL, 0, 5, device="nonsense")
