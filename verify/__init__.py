"""Measurement against theory: run trials (``sweep``), judge them (``compare``), draw them (``plot``)."""

from verify.origin import DISTRIBUTION as __distribution__
from verify.origin import own

own("bounds")

# The check above must come before anything else imports bounds.
from verify.catalogue import EXPERIMENTS  # noqa: E402
from verify.compare import compare  # noqa: E402
from verify.experiment import Experiment, Features, Point  # noqa: E402
from verify.plot import plot, plot_summary  # noqa: E402
from verify.record import Record, append_record, read_records  # noqa: E402
from verify.sweep import sweep  # noqa: E402
from verify.trial import run_trial  # noqa: E402

__all__ = [
    "EXPERIMENTS",
    "Experiment",
    "Features",
    "Point",
    "Record",
    "__distribution__",
    "append_record",
    "compare",
    "plot",
    "plot_summary",
    "read_records",
    "run_trial",
    "sweep",
]
