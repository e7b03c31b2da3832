"""Resumable, parallel running of an experiment's trials into one file of records."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from bounds import checks
from verify.measure.experiment import Experiment
from verify.measure.point import Point
from verify.measure.record import Record, append_record, read_records, repair
from verify.measure.trial import run_trial

Run: TypeAlias = Callable[..., Record]


Task: TypeAlias = tuple[Point, int]


class SweepError(ValueError):
    """The records already in a file do not belong to the sweep asked for, or another sweep is writing
    them."""


def records_path(experiment: Experiment | str, out_dir: str | Path) -> Path:
    """Where a sweep keeps its records."""
    name = experiment if isinstance(experiment, str) else experiment.name
    return Path(out_dir) / f"{name}.jsonl"


def sweep(
    experiment: Experiment,
    out_dir: str | Path,
    trials: int | None = None,
    seed: int | None = None,
    jobs: int = 1,
    device: str = "auto",
    progress: bool = True,
    run: Run = run_trial,
) -> list[Record]:
    """Run every trial of ``experiment`` that is not yet recorded under ``out_dir``; return all records of the
    file.

    trials, seed: None means the experiment's own. jobs: processes; with more than one, each uses a single
    thread. progress: a bar on stderr if that is a terminal. ``run(point, trial, seed, device=...,
    threads=...)`` does one trial.

    Each finished trial is on disk before the next is waited for, so a killed sweep loses the trials in flight
    and nothing else; calling again continues. Trials go round all points before any point gets its next one.
    Raises ``SweepError`` if the file holds records of other settings or of another seed, or while another
    sweep writes it; on an interrupt, ``KeyboardInterrupt`` saying how far it came.
    """
    count = experiment.trials if trials is None else checks.integer("trials", trials, 1)
    root = experiment.seed if seed is None else checks.integer("seed", seed, 0)
    checks.integer("jobs", jobs, 1)
    path = records_path(experiment, out_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _only_writer(path):
        repair(path)
        records = read_records(path)
        todo = missing(experiment, records, count, root, str(path))
        total = count * len(experiment.points)
        finished = _parallel(run, todo, root, jobs, device) if jobs > 1 else _serial(run, todo, root, device)
        try:
            for record in _with_progress(finished, experiment.name, total, total - len(todo), progress):
                append_record(path, record)
                records.append(record)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"stopped with {len(records)} of {total} trials recorded in {path}; run it again to continue"
            ) from None
        finally:
            finished.close()  # ends the worker processes, if any
    return records


def missing(
    experiment: Experiment, records: Sequence[Record], trials: int, seed: int, where: str = "records"
) -> list[Task]:
    """The trials still to be run, trial by trial over all points. Raises ``SweepError`` if ``records`` do not
    fit."""
    points = {point.key: point for point in experiment.points}
    done: set[tuple[str, int]] = set()
    for record in records:
        if record.experiment != experiment.name or record.point_key not in points:
            raise SweepError(
                f"{where}: holds a trial of {record.experiment!r} at a point ({record.point_key}) that "
                f"experiment {experiment.name!r} lacks: its settings have changed. Use another directory"
            )
        if record.seeds["experiment"] != seed:
            raise SweepError(
                f"{where}: recorded with seed {record.seeds['experiment']}, not {seed}. Use another directory"
            )
        if (record.point_key, record.trial) in done:
            raise SweepError(f"{where}: trial {record.trial} at point {record.point_key} is recorded twice")
        done.add((record.point_key, record.trial))
    return [(p, trial) for trial in range(trials) for key, p in points.items() if (key, trial) not in done]


def _serial(run: Run, todo: Iterable[Task], seed: int, device: str) -> Generator[Record, None, None]:
    for point, trial in todo:
        yield run(point, trial, seed, device=device, threads=None)


def _parallel(
    run: Run, todo: Iterable[Task], seed: int, jobs: int, device: str
) -> Generator[Record, None, None]:
    from joblib import Parallel, delayed

    workers = Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)
    return workers(delayed(run)(point, trial, seed, device=device, threads=1) for point, trial in todo)


def _with_progress(
    records: Iterable[Record], name: str, total: int, done: int, progress: bool
) -> Iterator[Record]:
    if not (progress and sys.stderr.isatty()):
        yield from records
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=total, completed=done)
        failed = 0
        for record in records:
            failed += record.failed
            yield record
            bar.update(task, advance=1, description=f"{name} ({failed} failed)" if failed else name)


@contextmanager
def _only_writer(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file of records. The system drops it when this process ends, however it
    ends, so it never goes stale. (POSIX; elsewhere the lock is refused with ``OSError`` rather than
    skipped.)"""
    try:
        import fcntl
    except ImportError:
        raise OSError("sweeps need POSIX file locks, which this system does not have") from None
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SweepError(
                f"{path}: another sweep is writing this file; wait for it or use another directory"
            ) from None
        yield
