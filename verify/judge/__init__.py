"""One judge for each kind of statement: what is asked of records, how it is answered, drawn and searched for
counterexamples. A new kind is its judge in a file of its own, and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from bounds import Kind
from verify.judge.base import Judge
from verify.judge.floor import FloorJudge
from verify.judge.limit import LimitJudge
from verify.judge.lower import LowerJudge
from verify.judge.predicted import PredictedJudge
from verify.judge.rate import RateJudge
from verify.judge.upper import UpperJudge

#: The judge of every kind, in the order in which they are drawn and named.
JUDGES: Mapping[Kind, Judge] = MappingProxyType(
    {
        Kind.PREDICTED: PredictedJudge(),
        Kind.RATE: RateJudge(),
        Kind.UPPER: UpperJudge(),
        Kind.LOWER: LowerJudge(),
        Kind.LIMIT: LimitJudge(),
        Kind.FLOOR: FloorJudge(),
    }
)
