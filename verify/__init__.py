"""Measurement against theory: run trials (``sweep``), judge them (``compare``), draw them (``plot``), search
for settings that refute a bound (``check_bound``).

A public name is imported when it is first asked for: none of them makes ``import verify`` wait for torch, matplotlib or
hypothesis."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from verify.origin import DISTRIBUTION as __distribution__
from verify.origin import beside

beside("bounds")  # before anything else imports it

if TYPE_CHECKING:
    from verify.draw.experiment import plot
    from verify.draw.summary import plot_summary
    from verify.experiments import EXPERIMENTS
    from verify.experiments.own import experiment_of, own_experiment
    from verify.export import to_frame, to_rows
    from verify.judge.compare import compare
    from verify.measure.experiment import Experiment
    from verify.measure.features import Features
    from verify.measure.files import read_records
    from verify.measure.point import Point
    from verify.measure.record import Record, append_record
    from verify.measure.sweep import sweep
    from verify.measure.trial import run_trial
    from verify.search.check_bound import check_bound, check_point
    from verify.search.point_strategy import point_strategy
    from verify.search.result import CheckResult, Counterexample

#: Where each public name is defined.
_HOMES = {
    "EXPERIMENTS": "verify.experiments",
    "CheckResult": "verify.search.result",
    "Counterexample": "verify.search.result",
    "Experiment": "verify.measure.experiment",
    "Features": "verify.measure.features",
    "Point": "verify.measure.point",
    "Record": "verify.measure.record",
    "append_record": "verify.measure.record",
    "check_bound": "verify.search.check_bound",
    "check_point": "verify.search.check_bound",
    "compare": "verify.judge.compare",
    "experiment_of": "verify.experiments.own",
    "own_experiment": "verify.experiments.own",
    "plot": "verify.draw.experiment",
    "plot_summary": "verify.draw.summary",
    "point_strategy": "verify.search.point_strategy",
    "read_records": "verify.measure.files",
    "run_trial": "verify.measure.trial",
    "sweep": "verify.measure.sweep",
    "to_frame": "verify.export",
    "to_rows": "verify.export",
}

__all__ = [
    "EXPERIMENTS",
    "CheckResult",
    "Counterexample",
    "Experiment",
    "Features",
    "Point",
    "Record",
    "__distribution__",
    "append_record",
    "check_bound",
    "check_point",
    "compare",
    "experiment_of",
    "own_experiment",
    "plot",
    "plot_summary",
    "point_strategy",
    "read_records",
    "run_trial",
    "sweep",
    "to_frame",
    "to_rows",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        # With both, Python's traceback says which name may be meant.
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__]
        )
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
