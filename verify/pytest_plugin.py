"""The fixture ``check_bound`` for pytest. Loaded by pytest where reconbound is installed, or with ``-p
verify.pytest_plugin``; what it needs is imported when a test first asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from verify.search.result import CheckResult


@pytest.fixture
def check_bound() -> Callable[..., CheckResult]:
    """``verify.check_bound`` that fails the test where ``reconbound check`` exits with an error: if the bound is refuted,
    with the counterexample as its message; if no setting was informative, as a check that could not fail supports nothing;
    if it is no bound. Returns the result otherwise."""
    from verify.search.check_bound import check_bound as check
    from verify.search.claim import BrokenBound

    def checked(my_bound: Any, kind: Any, *arguments: Any, **options: Any) -> CheckResult:
        __tracebackhide__ = True
        try:
            result = check(my_bound, kind, *arguments, progress=False, **options)
        except BrokenBound as error:
            pytest.fail(str(error), pytrace=False)
        if result.status == "interrupted":
            raise KeyboardInterrupt
        if not result.survived:
            pytest.fail(str(result), pytrace=False)
        return result

    return checked
