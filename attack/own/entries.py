"""What about the arrays themselves leaves nothing to attack: shapes, entries that are not finite, sizes."""

from __future__ import annotations

import torch

from attack.own.findings import Finding, judged
from attack.own.frame import unfit_sizes
from attack.own.gradient import SharedGradient, misfits
from attack.own.known import Known
from attack.own.outputs import given_gradients, unordinary
from attack.own.precision import FIRST, Precision

#: Entries are of one size within this fraction of it, and multiples of a step within this fraction of the step.
_ONE_SIZE = _ON_STEP = 0.01

#: The largest multiple that counts as rounding to a step, and how many different ones there have to be.
_LEVELS, _DIFFERENT = 2**11, 30


def entry_findings(shared: SharedGradient, known: Known) -> tuple[Finding, ...]:
    """Errors, or one finding that says what the arrays are."""
    found = _shapes(shared, known.B) + _finite(shared) + _activation(shared, known) + _loss(shared, known)
    if not found and not bool(shared.weight.any()):
        found = (Finding("scale", "error", "every weight is zero", 0.0, 0.0),)
    if not found:
        unfit = unordinary(shared) if shared.outputs > 1 else unfit_sizes(shared, known)
        found = tuple(Finding("scale", "error", text) for text in unfit)
    if found:
        return found
    shape = tuple(shared.gradient.shape)
    kind = "dL/dW" if shape == (shared.m, shared.d) else "dL/da"
    if shared.outputs > 1:
        kind = f"{', '.join(given_gradients(shared))} of {shared.outputs} outputs"
    text = "; ".join((f"m = {shared.m}, d = {shared.d}, gradient of shape {shape}: {kind}", *shared.notes))
    return (Finding("shape", "ok", text),)


def _activation(shared: SharedGradient, known: Known) -> tuple[Finding, ...]:
    came = shared.activation
    if came is None or came is known.activation:
        return ()
    text = f"activation must be {came.name}, which came with the gradient; got {known.activation.name}"
    return (Finding("activation", "error", text),)


def _loss(shared: SharedGradient, known: Known) -> tuple[Finding, ...]:
    if known.loss is None or not known.loss.classes or shared.outputs > 1:
        return ()
    text = f"loss must be a squared loss where the network has one output; got {known.loss.name}"
    return (Finding("loss", "error", text),)


def size_finding(shared: SharedGradient) -> Finding:
    """Signs, and the first update of Adam, have entries of one size."""
    sizes = shared.gradient[shared.gradient != 0].abs().double()
    middle = float(sizes.median()) if len(sizes) else 0.0
    share = float(((sizes - middle).abs() <= _ONE_SIZE * middle).double().mean()) if len(sizes) else 0.0
    text = (
        f"{share:.0%} of the gradient's entries other than zero are of one size: signs, or an optimizer's update, "
        "beyond half"
    )
    return judged("one size", share, 0.5, text)


def step_finding(shared: SharedGradient) -> Finding:
    """Quantised entries (eight bits, say) are multiples of one step. Its error is no noise: in rows of dL/dW a small
    coordinate is rounded alike by every neuron, and does not average out. What a floating-point type does is known."""
    text = "the gradient's entries are no multiples of one step"
    # Of all entries there are no fewer levels than of some: with few, most gradients show that they have no step.
    if _levels(_distinct(shared.gradient.reshape(-1)[:FIRST])) > _LEVELS:
        return Finding("step", "ok", text)
    sizes = _distinct(shared.gradient)
    if len(sizes) < _DIFFERENT or Precision.of(shared.gradient).name in ("float16", "bfloat16"):
        return Finding("step", "ok", text)
    levels = _levels(sizes)
    multiples = (
        sizes / sizes[-1] * levels
    )  # the largest tells the step best: a gap has lost digits to float32
    if levels > _LEVELS or bool(((multiples - multiples.round()).abs() > _ON_STEP).any()):
        return Finding("step", "ok", text)
    text = (
        f"the gradient's entries are multiples of one step, up to {levels:.0f} of them: they have been rounded, small "
        "coordinates alike by every neuron, and no prediction knows of that"
    )
    return Finding("step", "warning", text, levels, float(_LEVELS))


def _distinct(values: torch.Tensor) -> torch.Tensor:
    """Sizes other than zero, ascending."""
    sizes = torch.unique(values.abs().double())
    return sizes[sizes > 0]


def _levels(sizes: torch.Tensor) -> float:
    """The largest size as a multiple of the smallest gap between them; 0 of none."""
    if not len(sizes):
        return 0.0
    return float((sizes[-1] / torch.diff(sizes, prepend=sizes.new_zeros(1)).min()).round())


def _shapes(shared: SharedGradient, B: int) -> tuple[Finding, ...]:
    wrong = misfits({name: tuple(value.shape) for name, value in shared.arrays.items()})
    most = shared.d + (shared.outputs > 1 and shared.bias_gradient is not None)
    if not most >= B or not shared.m > B:
        sized = "d" if most == shared.d else "d + 1"
        wrong = (*wrong, f"B must be at most {sized} = {most} and below m = {shared.m}; got {B}")
    return tuple(Finding("shape", "error", text) for text in wrong)


def _finite(shared: SharedGradient) -> tuple[Finding, ...]:
    found = []
    for name, value in shared.arrays.items():
        bad = int((~torch.isfinite(value)).sum())
        if bad:
            text = f"{name} has {bad} of {value.numel()} entries that are not finite"
            found.append(Finding("finite", "error", text, float(bad), 0.0))
    return tuple(found)
