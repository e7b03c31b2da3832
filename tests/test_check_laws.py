"""Laws that every defense obeys, by property: its own statements survive ``check_bound``, corrupted copies do not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bounds import DEFENSES, Defense, Kind, Setting, TensorAttack, evaluate
from verify.search.check_bound import check_bound
from verify.search.claim import BrokenBound
from verify.search.point_strategy import point_strategy
from verify.search.result import CheckResult

Family = type[Defense]
FAMILIES = pytest.mark.parametrize("family", DEFENSES, ids=lambda c: c.name)


def own(kind: Kind, factor: float) -> Callable[[Defense, Setting, TensorAttack, float], float | None]:
    """The defense's statement times a factor; None where it is not proved or trivial."""

    def stated(defense: Defense, setting: Setting, attack: TensorAttack, delta: float) -> float | None:
        found = evaluate(defense, setting, attack, delta)[kind]
        return None if found.value is None or found.trivial else factor * found.value

    return stated


def checked(family: Family, kind: Kind, factor: float) -> CheckResult:
    """UPPER: where it is proved and not trivial (one feature, d = 3, m = 32 000), 16 trials, seed 0, refuted by 5 violations
    of 16, and by 7 of 32 fresh ones. PREDICTED: 3 settings, d <= 8, 12 trials, within 25 %; twice the
    prediction gives a ratio of 0.5, and its interval, at the significance used, reaches to about 0.7."""
    upper = kind is Kind.UPPER
    settings = point_strategy(
        (family,),
        d=(3, 3) if upper else (6, 8),
        m=(32_000, 32_000) if upper else (8_000, 8_000),
        B=(1, 1),
        activations=("relu",) if upper else ("relu", "gelu"),
        labels=("strong",),
    )
    return check_bound(
        own(kind, factor),
        kind,
        settings,
        max_examples=3,
        max_shrinks=3,
        trials=16 if upper else 12,
        delta=0.05,
    )


@FAMILIES
@pytest.mark.parametrize(("kind", "corruption"), [(Kind.UPPER, 1 / 4), (Kind.PREDICTED, 2.0)])
def test_own_statements_survive_and_corrupted_ones_do_not(
    family: Family, kind: Kind, corruption: float
) -> None:
    """False alarms at most 1 % each by construction; the seed is fixed, so that the outcome is too."""
    try:
        result = checked(family, kind, 1.0)
    except BrokenBound as nothing:
        assert "it returned None, here and wherever it was asked" in str(nothing)
        pytest.skip(f"nothing is proved or predicted of {family.name} in these settings")
    assert result.survived, result
    corrupted = checked(family, kind, corruption)
    assert corrupted.refuted, corrupted
