"""What a reconstruction from a gradient of one's own rests on beside the gradient, and which of it the gradient tests."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bounds.words import how_many

if TYPE_CHECKING:
    from attack.own.attack import GradientAttack
    from attack.own.findings import Finding
    from attack.own.gradient import SharedGradient
    from attack.own.known import Known

#: A norm that is told is doubtful if it is off by more than this many standard errors and this fraction of itself.
STANDARD_ERRORS, LEAST = 5.0, 1e-3

#: A gradient of which a larger share is not explained tests no shape and no size.
TESTED = 0.05

#: Labels further than this from +-1, or than this fraction of what they would be with two norms exchanged, do not tell which
#: feature has which of unequal norms.
LABEL_DOUBT, CLEAR = 0.25, 0.25


@dataclass(frozen=True)
class Premise:
    """source: "told", read off the "gradient", or "assumed", which is neither; tested: whether the gradient agrees with it,
    ``doubtful`` where it does not, or agrees with something else as well; False for both where it says nothing of it.
    of_features: whether features depend on it, and not labels and residuals alone."""

    name: str
    text: str
    source: str
    tested: bool = False
    doubtful: bool = False
    of_features: bool = True

    def __str__(self) -> str:
        tested = "doubtful" if self.doubtful else "tested" if self.tested else "not tested"
        return f"{self.name} ({self.source}, {tested}): {self.text.removeprefix(f'{self.name}: ')}"


def premises_of(
    shared: SharedGradient,
    known: Known,
    attacked: GradientAttack,
    *,
    warnings: Sequence[Finding],
    explained: bool,
) -> tuple[Premise, ...]:
    """Of a result; warnings: findings that stand against it; explained: whether it leaves no more of the gradient than it
    should. What leaves much all the same, by errors or noise, tests nothing but the number of features."""
    uncounted = explained
    explained = explained and attacked.unexplained <= TESTED
    counted = any(f.name in ("count", "rank") for f in warnings)
    return (
        _activation(shared, known, attacked, explained=explained),
        _batch_size(known, attacked, tested=uncounted and not counted),
        *_norms(shared, known, attacked, explained=explained),
        _output_weight(shared, explained=explained),
        _loss(known),
    )


def _batch_size(known: Known, attacked: GradientAttack, *, tested: bool) -> Premise:
    text, source = how_many(known.B, "feature"), "gradient" if known.counted else "told"
    if attacked.better is None:
        return Premise("batch size", text, source, tested=tested)
    verb = "explain the gradient as well" if attacked.better < known.B else "explain far more of the gradient"
    text = f"batch size: {text} {'found' if known.counted else 'told'}, but {attacked.better} {verb}"
    return Premise("batch size", text, source, doubtful=True)


def _scales(shared: SharedGradient, attacked: GradientAttack) -> bool:
    """Whether norms are read off the scale of the activation's argument alone: sigma(c z) with features shorter by c has the
    same gradient. Biases would tell, and dL/db, and a module tells its activation itself."""
    biased = shared.bias is not None and bool(shared.bias.any())
    told = shared.activation is None and not biased and shared.bias_gradient is None
    return told and attacked.norms == "gradient"


def _activation(
    shared: SharedGradient, known: Known, attacked: GradientAttack, *, explained: bool
) -> Premise:
    name, others = known.activation.name, ", ".join(attacked.rivals)
    if others:
        text = f"activation: {name} told, but with other norms {others} would explain this gradient as well"
        return Premise("activation", text, "told", doubtful=True)
    if _scales(shared, attacked):
        text = f"{name}; sigma(c z) with features shorter by c would explain this gradient as well"
        return Premise("activation", text, "told")
    return Premise("activation", name, "told", tested=explained)


def _norms(
    shared: SharedGradient, known: Known, attacked: GradientAttack, *, explained: bool
) -> Iterator[Premise]:
    fit = attacked.fit
    if known.norms is None:
        if attacked.directions_only:
            text = "not known, and not told by this gradient: features are unit vectors"
            yield Premise("norms", text, "assumed")
        else:
            scales = _scales(shared, attacked)
            text = _listed(attacked.features.norm(dim=1).tolist())
            text += ", if the activation is exactly the told one" if scales else ""
            yield Premise("norms", text, "gradient", tested=explained and not scales)
        return
    told = _listed(known.norms)
    if fit is None or not fit.determined:
        yield Premise("norms", f"{told}, which this gradient does not test", "told")
        if not known.equal_norms:
            yield _labels(attacked)
        return
    mine, found = attacked.frame.features(attacked.standard).norm(dim=1), fit.norms
    unit = attacked.frame.units.norms
    given = found.new_tensor([math.ldexp(norm, -unit) for norm in sorted(known.norms)])
    allowed = STANDARD_ERRORS * fit.norm_errors + LEAST * found
    as_told = (found.sort().values - given).abs() <= allowed[found.argsort()]
    as_given = known.equal_norms or bool((found.argsort() == mine.argsort()).all())
    if bool(as_told.all()) and as_given:
        yield Premise("norms", told, "told", tested=explained)
    else:
        says = _listed(math.ldexp(norm, unit) for norm in found.tolist())
        text = f"norms: {told} told, but the gradient says {says}, or another model"
        yield Premise("norms", text, "told", doubtful=True)


def _labels(attacked: GradientAttack) -> Premise:
    """Which feature has which norm is read off labels, taken to be +-1."""
    text, seen = "labels are +-1, by which unequal norms are given to features", attacked.assignment
    if seen is None:
        return Premise("labels", f"{text}; without the loss this is not tested", "assumed", doubtful=True)
    if seen.off > LABEL_DOUBT or seen.off > CLEAR * seen.exchanged:
        text = f"{text}; they are up to {seen.off:.2g} off, and {seen.exchanged:.2g} with two norms exchanged"
        return Premise("labels", text, "assumed", doubtful=True)
    return Premise("labels", text, "assumed", tested=True)


def _output_weight(shared: SharedGradient, *, explained: bool) -> Premise:
    rows = shared.gradient.ndim == 2
    if shared.output_weight is not None:
        return Premise("output weights", "as given", "told", tested=explained and rows, of_features=rows)
    text = (
        "1/m each; of their size residuals and labels alone depend"
        if rows
        else "1/m each; labels alone depend on them"
    )
    return Premise("output weights", text, "assumed", tested=explained and rows, of_features=rows)


def _loss(known: Known) -> Premise:
    if known.loss is None:
        text = "not known: residuals are those of the gradient as it is, and there are no labels"
        return Premise("loss", text, "assumed", of_features=False)
    text = f"{known.loss.name}, in PyTorch {known.loss.pytorch}"
    return Premise("loss", text, "told", of_features=False)


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{v:.4g}" for v in values)
