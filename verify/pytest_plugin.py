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
    """``verify.check_bound`` that fails the test, with the counterexample as its message, if the bound is refuted, and
    also if no setting was informative: a check that could not fail supports nothing. Returns the result otherwise."""
    from verify.search.check_bound import check_bound as check

    def checked(my_bound: Any, kind: Any, *arguments: Any, **options: Any) -> CheckResult:
        __tracebackhide__ = True
        result = check(my_bound, kind, *arguments, progress=False, **options)
        if result.status == "interrupted":
            raise KeyboardInterrupt
        if not result.survived:
            pytest.fail(str(result), pytrace=False)
        return result

    return checked
