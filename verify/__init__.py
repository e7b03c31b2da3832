"""Measurement against theory: run trials (``sweep``), judge them (``compare``), draw them (``plot``), search
for settings that refute a bound (``check_bound``)."""

from verify.origin import DISTRIBUTION as __distribution__
from verify.origin import own

own("bounds")

# The check above must come before anything else imports bounds.
from verify.draw.experiment import plot  # noqa: E402
from verify.draw.summary import plot_summary  # noqa: E402
from verify.experiments import EXPERIMENTS  # noqa: E402
from verify.judge.compare import compare  # noqa: E402
from verify.measure.experiment import Experiment  # noqa: E402
from verify.measure.features import Features  # noqa: E402
from verify.measure.point import Point  # noqa: E402
from verify.measure.record import Record, append_record, read_records  # noqa: E402
from verify.measure.sweep import sweep  # noqa: E402
from verify.measure.trial import run_trial  # noqa: E402
from verify.search.check_bound import check_bound, check_point  # noqa: E402
from verify.search.point_strategy import point_strategy  # noqa: E402
from verify.search.result import CheckResult, Counterexample  # noqa: E402

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
    "plot",
    "plot_summary",
    "point_strategy",
    "read_records",
    "run_trial",
    "sweep",
]
