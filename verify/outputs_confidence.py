"""How sure one may be of what the gradient of a network with several outputs gave: whether it explains every row."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bounds.words import how_many
from verify.assessed import Confidence
from verify.premises import Premise

if TYPE_CHECKING:
    from attack.own.gradient import SharedGradient
    from attack.own.known import Known
    from attack.own.outputs import OutputsAttack


def outputs_confidence(shared: SharedGradient, known: Known, attacked: OutputsAttack) -> Confidence:
    """ "ok" where every row of every gradient is explained to rounding, "directions only" where norms are not known,
    "suspect" else: an error is predicted only of what is exact."""
    found = attacked.recovery
    reasons: tuple[str, ...] = () if attacked.inexact is None else (attacked.inexact,)
    if attacked.exact and known.loss is not None and found.loss is None and not attacked.directions_only:
        name = known.loss.name
        reasons += (
            f"loss: {name} told, but the network's own outputs at these features make another gradient",
        )
    premises = tuple(_premises(shared, known, attacked))
    reasons += tuple(p.text for p in premises if p.doubtful)
    size = math.sqrt(float(attacked.features.square().sum(dim=1).mean()))
    fine = "directions only" if attacked.directions_only else "ok"
    return Confidence(
        "suspect" if reasons else fine,
        reasons,
        premises,
        attacked.method,
        attacked.directions_only,
        predicted=found.error if attacked.exact else None,
        relative=found.error / size if attacked.exact else None,
        unexplained=found.unexplained,
        expected=found.limit**2,
    )


def _premises(shared: SharedGradient, known: Known, attacked: OutputsAttack) -> Iterator[Premise]:
    found, exact = attacked.recovery, attacked.exact
    yield Premise("activation", known.activation.name, "told", tested=exact)
    yield Premise("batch size", how_many(known.B, "feature"), "told", tested=exact)
    yield _norms(known, attacked)
    entropy = found.loss is not None and found.loss.classes
    yield Premise(
        "output weights",
        "as given",
        "told",
        tested=exact and (entropy or found.method == "rows"),
        of_features=entropy,
    )
    if found.loss is None:
        text = "not known, or not the one that was told: there are no labels"
        yield Premise("loss", text, "assumed", of_features=False)
    else:
        text = f"{found.loss.name}, in PyTorch {found.loss.pytorch}"
        source = "gradient" if found.identified else "told"
        yield Premise("loss", text, source, tested=found.loss_tested, of_features=attacked.norms == "loss")


def _norms(known: Known, attacked: OutputsAttack) -> Premise:
    """Norms that were told are used where nothing else tells them, and else compared."""
    sizes = attacked.features.norm(dim=1)
    shown = ", ".join(f"{v:.4g}" for v in sizes.tolist())
    if attacked.directions_only:
        text = "not known, and not told by this gradient: features are unit vectors"
        return Premise("norms", text, "assumed")
    if attacked.norms == "told":
        return Premise("norms", f"{shown}, which this gradient does not test", "told")
    if known.norms is not None:
        off = max(abs(a / b - 1) for a, b in zip(sorted(sizes.tolist()), sorted(known.norms), strict=True))
        if off > 1e-3:
            told = ", ".join(f"{v:.4g}" for v in known.norms)
            return Premise(
                "norms", f"norms: {told} told, but the gradient says {shown}", "told", doubtful=True
            )
    tested = attacked.exact and (attacked.norms != "loss" or attacked.recovery.loss_tested)
    return Premise("norms", shown, "gradient", tested=tested)
