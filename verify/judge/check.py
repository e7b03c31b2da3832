"""What may be asked of records."""

from __future__ import annotations

from typing import TypeAlias

from verify.judge.lower import LowerCheck
from verify.judge.predicted import ImprovementCheck, PredictedCheck
from verify.judge.rate import RateCheck
from verify.judge.upper import UpperCheck

Check: TypeAlias = PredictedCheck | RateCheck | ImprovementCheck | UpperCheck | LowerCheck
