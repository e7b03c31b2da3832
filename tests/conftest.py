"""Settings of all tests: property-based ones draw the same examples in every run and have no deadline; one thread for each
process, as pytest-xdist already uses the cores."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from threadpoolctl import threadpool_limits

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start


def pytest_collection() -> None:
    """Where tests are collected, which is not the process that hands them to others: that one starts these sooner."""
    import torch

    torch.set_num_threads(1)
    threadpool_limits(1)


settings.register_profile(
    "reproducible",
    derandomize=True,
    deadline=None,
    max_examples=25,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.load_profile("reproducible")
