"""What may be asked of records."""

from __future__ import annotations

from typing import ClassVar

from bounds import Kind


class Check:
    """One question about an experiment's records: inert. The judge of its kind (``verify.judge.JUDGES``) answers it."""

    kind: ClassVar[Kind]
