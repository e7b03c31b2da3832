"""What is left of a run that is stopped or killed: no worker, every finished trial once, and how to go on.

The suite kills each kind of run a few times; ``PYTHONPATH=.:tests python tests/test_killed.py 20`` does it 20 times, at
random moments.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_records import fake_run, make_experiment, make_point

from attack.image.datasets import load_images
from bounds import AttackSpec, NoDefense
from verify.measure import pictures
from verify.measure.conditions import present
from verify.measure.files import read_records
from verify.measure.lines import repair
from verify.measure.record import Record
from verify.measure.sweep import sweep
from verify.studies.study import Condition, Findings, Outcome, Study, load, run

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, and looks into /proc")

#: Seconds that a made-up trial takes; how many there are in every run.
SHORT, TRIALS = 0.01, 20

#: Where made-up trials note that they are finished, in one write each, for the comparison with what was recorded.
NOTES = "RECONBOUND_NOTES"

#: A resumed run hands out the records of every kind; an interval of moments at which it is killed, in seconds.
MOMENTS = (0.0, 0.2)


def noted(*words: object) -> None:
    time.sleep(SHORT)
    with open(os.environ[NOTES], "ab", buffering=0) as file:
        file.write(" ".join(map(str, words)).encode() + b"\n")


def slow_run(point: Any, trial: int, seed: int, **keywords: Any) -> Record:
    noted(point.m, trial)
    return fake_run(point, trial, seed, **keywords)


def slow_trial(condition: Condition, seed: int) -> Outcome:
    noted(condition["scale"], seed % 1000)
    return {"size": float(condition["scale"]) + seed}


def slow_row(job: Any, m: int, attack: AttackSpec, predicted: float | None) -> pictures.PictureRow:
    noted(m)
    features = np.random.default_rng(m).standard_normal(job.batch.features.shape)
    return pictures.PictureRow(
        m, 0.1, predicted, "", (), job.seed, job.activation, NoDefense(), attack, features, present()
    )


def nothing(found: Findings) -> Any:
    """Neither table nor figure."""


EXPERIMENT = make_experiment([make_point(m=m) for m in (20_000, 40_000)], trials=TRIALS // 2)

STUDY = Study(
    name="toy",
    title="a study of nothing",
    claims=(),
    conditions=tuple({"scale": float(k)} for k in range(4)),
    quantities=("size",),
    trial=slow_trial,
    summary=nothing,
    draw=nothing,
    trials=TRIALS // 4,
)

WIDTHS = tuple(1_000 + k for k in range(TRIALS))


def do_experiment(out: Path, jobs: int = 1) -> None:
    sweep(EXPERIMENT, out, jobs=jobs, device="cpu", progress=False, run=slow_run)


def do_study(out: Path) -> None:
    run(STUDY, out / STUDY.file, progress=False)


def do_pictures(out: Path) -> None:
    pictures._row = slow_row
    batch = load_images("digits", 2, 4)
    pictures.reconstruct_pictures(batch, WIDTHS, 0, device="cpu", path=out / "pictures-toy.json")


def kept_of_experiment(out: Path) -> list[str]:
    return [f"{r.point.m} {r.trial}" for r in read_records(out / "demo.jsonl")]


def kept_of_study(out: Path) -> list[str]:
    cells = load(out / STUDY.file).cells
    return [f"{c.condition['scale']} {t}" for c in cells for t in range(len(c.outcomes))]


def kept_of_pictures(out: Path) -> list[str]:
    return [str(row.m) for row in pictures.load_pictures(out / "pictures-toy.json")[1]]


@dataclass(frozen=True)
class Kind:
    """A kind of run: how it is done, what it has kept when it is finished, where its lines are until then."""

    do: Callable[[Path], None]
    kept: Callable[[Path], list[str]]
    lines: str


KINDS: Mapping[str, Kind] = {
    "experiment": Kind(do_experiment, kept_of_experiment, "demo.jsonl"),
    "study": Kind(do_study, kept_of_study, "study-toy.jsonl"),
    "pictures": Kind(do_pictures, kept_of_pictures, "pictures-toy.jsonl"),
}


def forked(kind: Kind, out: Path) -> int:
    """The run in a process of its own, which has imported everything already; its messages go to a file."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.environ[NOTES] = str(out / "notes")
        file = os.open(out / "messages", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 2)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        kind.do(out)
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """Its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def count(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill(kind: Kind, out: Path, delay: float, number: int = signal.SIGKILL) -> int:
    """Send a signal to the run ``delay`` seconds after it has finished a first trial; its exit code."""
    before, child = count(out / "notes"), forked(kind, out)
    end = time.monotonic() + 60
    while count(out / "notes") == before and time.monotonic() < end and process(child)[:1] != ["Z"]:
        time.sleep(0.002)
    time.sleep(delay)
    os.kill(child, number)
    return ended(child)


def check_finished(kind: Kind, out: Path, kills: int) -> int:
    """Every trial is there once; at most one for each kill was done again. Returns how many were."""
    finished = (out / "notes").read_text().splitlines()
    kept = kind.kept(out)
    assert len(kept) == len(set(kept)) == TRIALS and set(kept) == set(finished)
    again = len(finished) - TRIALS
    assert again <= kills
    return again


def kill_often(kind: Kind, out: Path, moments: list[float]) -> tuple[int, int]:
    """Kill a run at these moments, going on each time, until it is finished; kills, and trials done again."""
    kills = 0
    for moment in moments:
        if kill(kind, out, moment) == 0:
            break
        kills += 1
        if kind.lines != "demo.jsonl" and not (out / kind.lines).exists():
            break  # it was killed when all was done
        repair(out / kind.lines)
        assert count(out / kind.lines) <= count(out / "notes") <= count(out / kind.lines) + kills
    else:
        assert ended(forked(kind, out)) == 0, (out / "messages").read_text()
    return kills, check_finished(kind, out, kills)


@pytest.mark.parametrize("name", KINDS)
def test_a_killed_run_loses_what_is_in_flight_and_no_more(tmp_path: Path, name: str) -> None:
    moments = np.random.default_rng(list(KINDS).index(name)).uniform(*MOMENTS, 3).tolist()
    kills, _ = kill_often(KINDS[name], tmp_path, [0.0, *moments])
    assert kills >= 1


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_stopped_run_says_how_to_go_on(
    tmp_path: Path, name: str, number: signal.Signals, code: int
) -> None:
    kind = KINDS[name]
    assert kill(kind, tmp_path, 0.0, number) == code
    recorded = count(tmp_path / kind.lines)
    said = (tmp_path / "messages").read_text()
    assert f"{number.name}: stopped with {recorded} of {TRIALS} trials recorded in" in said
    assert "run it again to continue" in said and "Traceback" not in said
    assert ended(forked(kind, tmp_path)) == 0
    check_finished(kind, tmp_path, 1)


@pytest.mark.parametrize("name", KINDS)
def test_of_two_writers_one_is_refused(tmp_path: Path, name: str) -> None:
    """Others come at any moment of a run, its end too: each is refused or finds its work done, no trial is done twice."""
    kind = KINDS[name]
    first = forked(kind, tmp_path)
    while not count(tmp_path / "notes"):
        time.sleep(0.002)
    codes = []
    while process(first)[:1] not in ([], ["Z"]):
        codes.append(ended(forked(kind, tmp_path)))
    assert ended(first) == 0
    assert set(codes) <= {0, 1}
    kept, done = kind.kept(tmp_path), (tmp_path / "notes").read_text().splitlines()
    assert sorted(kept) == sorted(set(done)) and len(kept) == TRIALS
    assert name == "pictures" or len(done) == TRIALS  # pictures asked for again are made again


# --- workers


def below(parent: int) -> set[int]:
    """The processes that ``parent`` has started, and theirs."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (state := process(int(entry.name))):
            children.setdefault(int(state[1]), []).append(int(entry.name))
    found: set[int] = set()
    queue = [parent]
    while queue:
        found |= set(more := children.get(queue.pop(), []))
        queue += more
    return found


def process(pid: int) -> list[str]:
    """State, parent, ... of a process; nothing if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if (state := process(pid)) and state[0] != "Z"}


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)])
def test_workers_end_with_their_parent(tmp_path: Path, number: signal.Signals, code: int) -> None:
    root = Path(__file__).parents[1]
    environment = os.environ | {
        "PYTHONPATH": f"{root}:{root / 'tests'}",
        "OMP_NUM_THREADS": "1",
        NOTES: str(tmp_path / "notes"),
    }
    parent = subprocess.Popen(
        [sys.executable, __file__, "--two-workers", str(tmp_path)], env=environment, stderr=subprocess.PIPE
    )
    end = time.monotonic() + 300
    while count(tmp_path / "notes") < 3 and parent.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    workers = below(parent.pid)
    parent.send_signal(number)
    _, said = parent.communicate(timeout=60)
    assert parent.returncode == code, said.decode()
    assert len(workers) >= 2
    end = time.monotonic() + 30
    while alive(workers) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(workers)
    lines = tmp_path / "demo.jsonl"
    repair(lines)
    assert count(lines) <= count(tmp_path / "notes") <= count(lines) + 2
    assert ended(forked(KINDS["experiment"], tmp_path)) == 0
    check_finished(KINDS["experiment"], tmp_path, 2)


def main(times: int) -> None:
    """Kill every kind of run so many times."""
    for k, (name, kind) in enumerate(KINDS.items()):
        moments = np.random.default_rng(k).uniform(*MOMENTS, 10 * times).tolist()
        kills = again = runs = 0
        while kills < times:
            with tempfile.TemporaryDirectory() as out:
                now = [moments.pop() for _ in range(min(4, times - kills))]
                killed, more = kill_often(kind, Path(out), now)
            kills, again, runs = kills + killed, again + more, runs + 1
        print(
            f"{name}: killed {kills} times in {runs} runs, {again} trials done again, none lost, none twice"
        )


if __name__ == "__main__":
    if sys.argv[1] == "--two-workers":
        do_experiment(Path(sys.argv[2]), jobs=2)
    else:
        main(int(sys.argv[1]))
