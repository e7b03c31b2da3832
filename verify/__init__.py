"""Measurement against theory: run trials (``sweep``), judge them (``compare``), draw them (``plot``), search
for settings that refute a bound (``check_bound``)."""

from verify.origin import DISTRIBUTION as __distribution__
from verify.origin import own

own("bounds")

# The check above must come before anything else imports bounds.
from verify.catalogue import EXPERIMENTS  # noqa: E402
from verify.check_bound import CheckResult, Counterexample, check_bound, check_point  # noqa: E402
from verify.compare import compare  # noqa: E402
from verify.experiment import Experiment, Features, Point  # noqa: E402
from verify.plot import plot, plot_summary  # noqa: E402
from verify.point_strategy import point_strategy  # noqa: E402
from verify.record import Record, append_record, read_records  # noqa: E402
from verify.sweep import sweep  # noqa: E402
from verify.trial import run_trial  # noqa: E402

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
