"""What a reconstruction from a gradient of one's own rests on beside the gradient, and which of it the gradient tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from attack.own.attack import GradientAttack
    from attack.own.findings import Finding
    from attack.own.gradient import SharedGradient
    from attack.own.known import Known

#: A norm that is told and off by this many standard errors, and this fraction of itself, is refuted.
STANDARD_ERRORS, LEAST = 5.0, 1e-3

#: Labels further than this from +-1 do not tell which feature has which of unequal norms.
LABEL_DOUBT = 0.25


@dataclass(frozen=True)
class Premise:
    """source: "told", read off the "gradient", or "assumed", which is neither; tested: whether the gradient agrees with it,
    ``refuted`` where it does not; False for both where this gradient says nothing of it."""

    name: str
    text: str
    source: str
    tested: bool = False
    refuted: bool = False


def premises_of(
    shared: SharedGradient,
    known: Known,
    attacked: GradientAttack,
    *,
    findings: Sequence[Finding],
    explained: bool,
) -> tuple[Premise, ...]:
    """Of a result; explained: whether it leaves no more of the gradient than it should."""
    counted = [f for f in findings if f.name in ("count", "rank")]
    return (
        Premise("activation", known.activation.name, "told", tested=explained),
        Premise("batch size", f"{known.B} features", "told", tested=all(f.level == "ok" for f in counted)),
        *_norms(known, attacked),
        _output_weight(shared, explained=explained),
        _loss(known),
    )


def _norms(known: Known, attacked: GradientAttack) -> Iterator[Premise]:
    fit = attacked.fit
    if known.norms is None:
        if attacked.directions_only:
            why = (
                "this gradient does not tell them"
                if fit is not None or not _too_many(attacked, known)
                else ""
            )
            why = why or "too many unknowns to read them off this gradient"
            yield Premise("norms", f"not known, and {why}: features are unit vectors", "assumed")
        else:
            yield Premise("norms", _listed(attacked.features.norm(dim=1)), "gradient", tested=True)
        return
    told = _listed(torch.tensor(known.norms))
    if fit is None or not fit.determined:
        yield Premise("norms", f"{told}, which this gradient does not test", "told")
        if not known.equal_norms:
            yield _labels(known, attacked)
        return
    mine = attacked.frame.features(attacked.standard).norm(dim=1)
    off, allowed = (fit.norms - mine).abs(), STANDARD_ERRORS * fit.norm_errors + LEAST * mine
    if bool((off <= allowed).all()):
        yield Premise("norms", told, "told", tested=True)
    else:
        found = _listed(torch.ldexp(fit.norms, torch.tensor(attacked.frame.units.norms)))
        text = f"norms: {told} told, but the gradient says {found}, or another model"
        yield Premise("norms", text, "told", refuted=True)


def _too_many(attacked: GradientAttack, known: Known) -> bool:
    return not known.homogeneous and attacked.fit is None


def _labels(known: Known, attacked: GradientAttack) -> Premise:
    """Which feature has which norm is read off labels, taken to be +-1."""
    text = "labels are +-1, by which unequal norms are given to features"
    if attacked.labels is None:
        return Premise("labels", f"{text}; without the loss this is not tested", "assumed", refuted=True)
    worst = float((attacked.labels.abs() - 1).abs().max())
    if worst > LABEL_DOUBT:
        return Premise("labels", f"{text}; they are up to {worst:.2g} off", "assumed", refuted=True)
    return Premise("labels", text, "assumed", tested=True)


def _output_weight(shared: SharedGradient, *, explained: bool) -> Premise:
    if shared.output_weight is not None:
        return Premise("output weights", "as given", "told", tested=explained and shared.gradient.ndim == 2)
    if shared.gradient.ndim == 1:
        return Premise("output weights", "1/m each; labels alone depend on them", "assumed")
    text = "1/m each; of their size residuals and labels alone depend"
    return Premise("output weights", text, "assumed", tested=explained)


def _loss(known: Known) -> Premise:
    if known.loss is None:
        text = "not known: residuals are those of the gradient as it is, and there are no labels"
        return Premise("loss", text, "assumed")
    return Premise("loss", f"{known.loss.name}, in PyTorch {known.loss.pytorch}", "told")


def _listed(values: torch.Tensor) -> str:
    return ", ".join(f"{v:.4g}" for v in values.tolist())
