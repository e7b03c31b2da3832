"""An experiment's trials, in one file of records: resumable, in parallel."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

from bounds import checks
from bounds.words import how_many
from verify.measure.conditions import present, resolved
from verify.measure.experiment import Experiment
from verify.measure.files import read_records, records_path
from verify.measure.ledger import Ledger, carry_out
from verify.measure.lines import LedgerError
from verify.measure.progress import Progress, following
from verify.measure.record import MAX_TRIALS, Record
from verify.measure.trial import run_trial

Run: TypeAlias = Callable[..., Record]


def sweep(
    experiment: Experiment,
    out_dir: str | Path,
    trials: int | None = None,
    seed: int | None = None,
    jobs: int = 1,
    device: str = "auto",
    progress: Progress | bool = True,
    run: Run = run_trial,
    *,
    threads: int = 1,
) -> list[Record]:
    """Run every trial of ``experiment`` that is not yet recorded in ``out_dir``; return all its records, trial by trial.

    out_dir: the directory of the records themselves. What the command line has begun with ``--out DIR`` is in DIR/records:
    ``sweep(experiment, "DIR/records")`` continues it.

    trials, seed: None means the experiment's own. jobs: processes. threads: of each trial, whatever ``jobs`` is, so that its
    last bits do not depend on it. progress: whether it tells on stderr how far it has come, or the progress of the run that
    it is a part of. ``run(point, trial, seed, device=...,
    threads=...)`` does one trial.

    Each finished trial is on disk before the next is waited for, so a killed sweep loses the trials in flight and nothing
    else; calling again continues. Trials go round all points before any point gets its next one. Raises ``LedgerError`` if
    the file holds records of other settings, of another seed or of more trials, or while another sweep writes it;
    ``RecordError`` if it holds what cannot be true; on an interrupt, ``KeyboardInterrupt`` saying how far it came. Bad
    input, an unknown device too, is refused before anything is written.
    """
    count = experiment.trials if trials is None else checks.integer("trials", trials, 1, MAX_TRIALS)
    root = experiment.seed if seed is None else checks.integer("seed", seed, 0)
    checks.integer("jobs", jobs, 1)
    checks.integer("threads", threads, 1)
    place = resolved(device)
    from attack.registry import Outside

    run = partial(Outside.here().run, run)  # a worker learns with its task what a user has registered here
    tasks: dict[Hashable, Callable[[], Record]] = {
        (point.key, trial): partial(run, point, trial, root, device=place, threads=threads)
        for trial in range(count)
        for point in experiment.points
    }
    with following(progress, experiment.name) as told:
        return carry_out(
            _ledger(experiment, records_path(experiment.name, out_dir), root, count),
            tasks,
            present(place.partition(":")[0], threads),
            jobs=jobs,
            progress=told,
        )


def _ledger(experiment: Experiment, path: Path, seed: int, trials: int) -> Ledger[Record]:
    keys = {point.key for point in experiment.points}

    def read() -> Sequence[Record]:
        there = path.exists() or path.with_suffix(".json").exists()
        return read_records(path) if there else []

    def identity(record: Record) -> Hashable:
        if record.point.key not in keys:
            raise LedgerError(
                f"{path}: holds a trial of {record.experiment!r} at a point ({record.point.key}) that experiment "
                f"{experiment.name!r} lacks: its settings have changed. Use another directory"
            )
        if record.seed != seed:
            raise LedgerError(f"{path}: recorded with seed {record.seed}, not {seed}. Use another directory")
        if record.trial >= trials:
            raise LedgerError(
                f"{path}: holds more than the {how_many(trials, 'trial')} asked for. "
                f"Ask for at least {1 + max(r.trial for r in read())}, or use another directory"
            )
        return record.point.key, record.trial

    return Ledger(experiment.name, path, read, Record.to_dict, identity, lambda record: record.conditions)
