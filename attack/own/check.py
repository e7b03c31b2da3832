"""What about a shared gradient does not fit the model."""

from __future__ import annotations

from attack.own.entries import entry_findings, size_finding, step_finding
from attack.own.findings import Finding, errors
from attack.own.frame import Frame
from attack.own.gradient import SharedGradient
from attack.own.known import Known
from attack.own.output_findings import count_finding, output_findings
from attack.own.outputs import outputs_findings
from attack.own.row_findings import row_findings
from attack.own.weight_findings import weight_findings


def check_gradient(shared: SharedGradient, known: Known, seed: int = 2) -> tuple[Finding, ...]:
    """What fits the model and what does not, cheap against the attack.

    Stops at the first stage with an error: shapes, finite values and sizes, then gradient and weights, then the number of
    features. Thresholds are relative, about five standard errors of what standard Gaussian weights show.
    """
    findings = entry_findings(shared, known)
    if errors(findings):
        return findings
    if shared.outputs > 1:
        return (*findings, *outputs_findings(shared, known))
    frame, rows = Frame.of(shared, known), shared.gradient.ndim == 2
    findings += (row_findings if rows else output_findings)(shared, known, frame)
    findings += (size_finding(shared), *weight_findings(shared, known))
    if errors(findings):
        return findings
    if rows:
        return (*findings, step_finding(shared))
    return (*findings, count_finding(shared, known, frame, seed=seed))
