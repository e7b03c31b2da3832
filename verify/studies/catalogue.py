"""The studies, by name. A new one is a module with a ``STUDY`` and one entry here."""

from __future__ import annotations

from verify.studies import (
    assumptions,
    certificates,
    concentration,
    deep,
    exponents,
    first_layer,
    labels,
    odd,
    privacy,
    protection,
    published,
)
from verify.studies.study import Study

STUDIES: tuple[Study, ...] = (
    concentration.STUDY,
    odd.STUDY,
    first_layer.STUDY,
    deep.STUDY,
    assumptions.STUDY,
    published.STUDY,
    protection.STUDY,
    privacy.STUDY,
    exponents.STUDY,
    certificates.STUDY,
    certificates.WIDER,
    labels.STUDY,
)
