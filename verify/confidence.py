"""How sure one may be of a reconstruction without knowing the truth: theory evaluated at the reconstruction itself."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bounds import GradientNoise, Kind, Setting, TensorAttack, evaluate
from bounds.errors import UnsupportedBound
from bounds.estimator import AttackSpec
from bounds.kinds.predicted.first_layer import first_layer_prediction
from bounds.statement import BoundValue
from verify.assessed import Assessed, Confidence
from verify.outputs_confidence import outputs_confidence
from verify.premises import Premise, premises_of
from verify.unexplained import plug_in, unexplained_power, unexplained_row_power

if TYPE_CHECKING:
    from attack.own.attack import GradientAttack, RowNoise
    from attack.own.findings import Finding
    from attack.own.gradient import SharedGradient
    from attack.own.known import Known

#: A predicted error above this fraction of the features' norm makes a result suspect, above 1 worthless.
LARGE = 0.5
#: Unexplained power above this multiple of the predicted one (and above 1e-6) makes a result suspect.
EXCESS = 3.0
#: Below this share of the gradient's power what is left may be rounding of differences of weights, say; whether another
#: activation hides in it is asked apart.
SMALL = 1e-12
#: What is left counts as the trace of another model if this share of it depends on the features' preactivations.
STRUCTURED = 0.05
#: A known coordinate, or a norm, that is off by this multiple of its predicted error makes a result suspect.
FAR = 4.0
#: Findings about the weights' distribution, of which exact methods make no use.
OF_THE_WEIGHTS = ("scale", "mean", "kurtosis", "row norms", "correlation", "bias")
#: Findings about the entries that another model makes.
ENTRIES = ("zeros", "zero rows", "outliers")
#: Findings that count the features.
COUNTS = ("count", "rank")

#: Methods that fit the features themselves.
FITS = ("likelihood", "least_squares")

UNREAD = (
    "norms are not known, and least squares did not find them, though activation or biases should tell them: another model, "
    "or too many unknowns"
)


UNDETERMINED = (
    "the gradient does not determine the features: others nearby explain it as well. Fewer features than told, or too few "
    "neurons"
)


def assess(shared: SharedGradient, known: Known, attack: AttackSpec | None = None, seed: int = 2) -> Assessed:
    """Check the gradient, attack it, and say how far the result can be trusted. Arguments as of ``attack_gradient``.

    A finding of level error, or an attack without result, gives the status "failed" and no reconstruction. Raises
    ``ValueError`` on an activation that is not covered.
    """
    from attack import ReconstructionError
    from attack.own.attack import attack_one_output, estimator, with_count
    from attack.own.check import check_gradient
    from attack.own.findings import errors
    from attack.own.outputs import attack_outputs

    chosen = estimator(shared, attack)
    if not known.B:
        alone = check_gradient(shared, dataclasses.replace(known, B=1), seed)
        wrong = tuple(f.text for f in errors(alone))
        if wrong:
            return Assessed(alone, None, Confidence("failed", wrong))
        known = with_count(shared, known, seed)
    findings = check_gradient(shared, known, seed)
    wrong = tuple(f.text for f in errors(findings))
    if wrong:
        return Assessed(findings, None, Confidence("failed", wrong))
    try:
        if shared.outputs > 1:
            several = attack_outputs(shared, known, seed)
            return Assessed(findings, several, outputs_confidence(shared, known, several))
        attacked = attack_one_output(shared, known, chosen, seed)
    except ReconstructionError as error:
        return Assessed(findings, None, Confidence("failed", (str(error),), diagnostics=error.diagnostics))
    return Assessed(findings, attacked, confidence(shared, known, attacked, chosen, findings=findings))


def confidence(
    shared: SharedGradient,
    known: Known,
    attacked: GradientAttack,
    attack: AttackSpec | None = None,
    *,
    findings: Sequence[Finding] = (),
) -> Confidence:
    """The confidence in a reconstruction; findings that are warnings make it suspect."""
    from attack.own.attack import tells_norms

    exact = attacked.error is not None
    if exact:
        seen = _of_exact(shared, attacked)
    else:
        seen = _of_tensor(attacked, known, attack if isinstance(attack, TensorAttack) else TensorAttack())
    warnings = _standing(shared, known, attacked, findings)
    unread = attacked.directions_only and tells_norms(shared, known)
    more = any(f.name in COUNTS and (f.value or 0) > known.B for f in warnings)
    reasons = [
        # of what the attack was in doubt of nothing is left where all is explained, nor where it was only the start
        *(() if exact and attacked.method != "likelihood" else attacked.standard.diagnostics.warnings),
        *(f"{f.name}: {f.text}" for f in warnings),
        *seen.reasons,
        *((UNREAD,) if unread else ()),
    ]
    premises = premises_of(shared, known, attacked, warnings=warnings, explained=not seen.reasons)
    reasons += [p.text for p in premises if p.doubtful]
    # what a fit makes of pruned entries, or of a flat part that the activation lacks, is no feature
    fitted = attacked.method in FITS and any(f.name in ENTRIES for f in warnings)
    other = seen.other_model or fitted or any(f.name == "one size" for f in warnings)
    meaningless = more or unread or other or any(p.doubtful for p in premises)
    return _judged(attacked, seen, premises, reasons, meaningless=meaningless)


def _standing(
    shared: SharedGradient, known: Known, attacked: GradientAttack, findings: Sequence[Finding]
) -> tuple[Finding, ...]:
    """The warnings that this result rests on and does not refute."""
    from attack.own.leftover import rounding

    warnings = tuple(f for f in findings if f.level == "warning")
    if attacked.error is None:
        return warnings
    idle: tuple[str, ...] = OF_THE_WEIGHTS  # exact methods do without their distribution
    if attacked.method == "sparse_recovery":  # of one binary feature rows are of one size
        idle = (*idle, "one size")
    elif (
        attacked.standard.diagnostics.exact
    ):  # with no fewer features: one that explains nothing is not determined
        idle = (*idle, *ENTRIES, *COUNTS)
    elif attacked.unexplained <= EXCESS * rounding(shared):
        # Every entry is explained to its rounding: moments and sizes say nothing against that. Less than the features that
        # are told would explain it too, and what of dL/dW lies outside their span is not in this share.
        idle = (*idle, *ENTRIES)
        warnings = tuple(f for f in warnings if f.name != "count" or (f.value or 0) <= known.B)
    return tuple(f for f in warnings if f.name not in idle)


@dataclass(frozen=True)
class _Seen:
    """error: PREDICTED R as the problem was posed; expected: share of the gradient's power that errors leave unexplained;
    noise: standard deviation of noise on the entries, as the gradient was given; reasons why it does not fit; other_model:
    whether what is left cannot be noise, so that the error means nothing."""

    error: BoundValue
    expected: float = 0.0
    noise: float = 0.0
    reasons: tuple[str, ...] = ()
    other_model: bool = False


def _of_exact(shared: SharedGradient, attacked: GradientAttack) -> _Seen:
    """Methods whose features are off by what is left of the gradient alone, which is rounding where the model is right."""
    from attack.own.leftover import rounding

    assert attacked.error is not None
    value = BoundValue(
        attacked.error * attacked.frame.posed.scale,
        "what is left of the gradient",
        (),
        "attack/own/least_squares.py",
    )
    least = rounding(shared)
    if (
        attacked.method == "sparse_recovery"
    ):  # to half the digits every row has one of two values: no noise, but a slope
        noise = 0.0 if attacked.noise is None else attacked.noise.standard**2 / attacked.power
        seen = _Seen(value, max(least, noise))
        fits = attacked.unexplained <= max(SMALL, EXCESS * seen.expected)
        return seen if fits else _unexplained(attacked, seen)
    outside = 0.0 if attacked.fit is None or attacked.fit.outside is None else attacked.fit.outside
    expected = max(least, outside)
    size = math.sqrt(attacked.unexplained * attacked.power)
    seen = _Seen(value, expected, math.ldexp(size, attacked.frame.units.gradient))
    if not math.isfinite(attacked.error) and not attacked.directions_only:
        seen = dataclasses.replace(seen, reasons=(UNDETERMINED,), other_model=True)
    if attacked.unexplained <= max(least, SMALL):
        return seen
    return _unexplained(attacked, seen, fitted=True)


def _of_tensor(attacked: GradientAttack, known: Known, attack: TensorAttack) -> _Seen:
    setting = plug_in(attacked, known.activation)
    if attacked.noise is None:
        seen = _of_output_weights(attacked, setting, attack)
    else:
        seen = _of_rows(attacked.noise, setting, attack)
        misplaced, uneven = _misplaced(attacked, seen.error.value), _uneven(attacked.noise, seen.error.value)
        seen = dataclasses.replace(seen, reasons=misplaced + uneven, other_model=bool(misplaced + uneven))
    seen = dataclasses.replace(seen, error=_at_least(seen.error, _apart(attacked)))
    if attacked.unexplained <= max(1e-6, EXCESS * seen.expected):
        return seen
    return _unexplained(attacked, seen)


def _apart(attacked: GradientAttack) -> float:
    """R as posed by which the features are off at least: their distance to those that least squares finds from them, less
    what these may be off."""
    if attacked.fit is None or not attacked.fit.determined:
        return 0.0
    off = attacked.frame.features(attacked.standard) - attacked.fit.features
    square = float(off.square().sum()) / len(off) - attacked.fit.error**2
    return attacked.frame.posed.scale * math.sqrt(max(0.0, square))


def _at_least(error: BoundValue, least: float) -> BoundValue:
    if error.value is None or error.value >= least:
        return error
    return dataclasses.replace(error, value=least, why="distance to the features of least squares")


def _unexplained(attacked: GradientAttack, seen: _Seen, fitted: bool = False) -> _Seen:
    """With the reason: noise, or another model where what is left depends on the features. Of dL/dW noise is what lies
    outside their span, and expected already."""
    share = (
        f"{attacked.unexplained:.2g} of the gradient's power is not explained, {seen.expected:.2g} expected"
    )
    rows = attacked.noise is not None
    other = attacked.unexplained > EXCESS * seen.expected if rows else attacked.structure > STRUCTURED
    text = (
        f"{share}, and what is left is no noise: another activation than the one told, output weights that differ and were "
        "not given, an optimizer's update (Adam, momentum) in place of a gradient, pruned entries, or another number of "
        "features"
        if other
        else f"{share}: noise of standard deviation {seen.noise:.3g} (the prediction takes it in), or another model"
    )
    if fitted and not other:
        text += "; another activation with other norms could hide in it"
    return dataclasses.replace(seen, reasons=(*seen.reasons, text), other_model=seen.other_model or other)


def _of_output_weights(attacked: GradientAttack, setting: Setting, attack: TensorAttack) -> _Seen:
    """What errors of the predicted size do not explain is taken for noise, which makes them larger in turn."""
    try:
        left = unexplained_power(setting, attack)
    except UnsupportedBound as unsupported:
        return _Seen(BoundValue(None, str(unsupported)))
    excess = max(0.0, (attacked.unexplained * attacked.power - left.quiet) / (1 + left.of_noise))
    sigma = math.sqrt(excess)
    error = evaluate(GradientNoise(sigma), setting, attack)[Kind.PREDICTED]
    return _Seen(error, left.quiet / attacked.power, math.ldexp(sigma, attacked.frame.units.gradient))


def _of_rows(noise: RowNoise, setting: Setting, attack: TensorAttack) -> _Seen:
    """The gradient of the first layer. Noise is read off outside the features' span, so that what is unexplained inside it
    speaks about the model alone."""
    try:
        error = first_layer_prediction(setting, attack, noise.standard)
        return _Seen(error, unexplained_row_power(setting, attack, noise.standard), noise.given)
    except UnsupportedBound as unsupported:
        return _Seen(BoundValue(None, str(unsupported)), 0.0, noise.given)


def _misplaced(attacked: GradientAttack, predicted: float | None) -> tuple[str, ...]:
    """With biases one coordinate of every feature is known: a warning where it is off by more than predicted."""
    known = attacked.frame.posed.bias_scale
    if not known or predicted is None:
        return ()
    off = float((attacked.standard.features[:, -1] - known).abs().max())
    if off <= FAR * predicted:
        return ()
    text = f"the coordinate of a feature that the biases make known is off by {off:.2g}, {known:.2g} long: "
    return (text + "public norms that are not the features' own, or another model",)


def _uneven(noise: RowNoise, predicted: float | None) -> tuple[str, ...]:
    """Theory is of first order in noise of one size: a warning where a few rows hold enough of it that squares count."""
    if predicted is None or noise.squares <= predicted:
        return ()
    text = f"the squares of the noise may make an error of {noise.squares:.2g} where theory has {predicted:.2g}: "
    return (text + "few rows hold most of the noise, as those of small output weights do",)


def _judged(
    attacked: GradientAttack,
    seen: _Seen,
    premises: tuple[Premise, ...],
    reasons: Sequence[str],
    *,
    meaningless: bool,
) -> Confidence:
    """The verdict on what was seen."""
    from attack.units import shift

    frame = attacked.frame
    result = Confidence(
        "suspect",
        (),
        premises,
        attacked.method,
        attacked.directions_only,
        unexplained=attacked.unexplained,
        expected=seen.expected,
        noise=seen.noise,
        diagnostics=attacked.standard.diagnostics,
    )
    if meaningless:
        return dataclasses.replace(result, reasons=tuple(reasons))
    if seen.error.value is None:
        failed = (*reasons, f"no prediction: {seen.error.why}")
        return dataclasses.replace(result, status="failed", reasons=failed)
    features = shift(attacked.features, -frame.units.norms)
    norm = math.sqrt(float(features.square().sum(dim=1).mean()))
    if attacked.directions_only:  # posed with norms of 1, of which the error is a fraction
        norm = math.sqrt(float(frame.features(attacked.standard).square().sum(dim=1).mean()))
    error = seen.error.value / frame.posed.scale
    relative = error / norm
    if relative >= 1:
        text = "the error that theory predicts is as large as the features: nothing of them is known"
        return dataclasses.replace(result, status="failed", reasons=(*reasons, text))
    if relative > LARGE:
        reasons = [*reasons, f"predicted error {relative:.2f} of the features' norm"]
    fine = "directions only" if attacked.directions_only else "ok"
    return dataclasses.replace(
        result,
        status="suspect" if reasons else fine,
        reasons=tuple(reasons),
        predicted=relative if attacked.directions_only else math.ldexp(error, frame.units.norms),
        relative=relative,
    )
