"""A shared gradient of a network with several outputs: what is found about it, and the attack on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from attack.own.findings import Finding, judged
from attack.own.gradient import SharedGradient
from attack.own.known import Known, homogeneous
from attack.own.precision import Precision
from attack.own.units import root_mean_square
from attack.rows.cross_entropy import class_counts, present_classes
from attack.rows.outputs import OutputsGradient
from attack.rows.outputs_recovery import UNKNOWN, OutputsRecovery, recover_outputs

#: Sizes of arrays between which squares of numbers, and of their products, are numbers.
_SMALLEST, _LARGEST = 1e-60, 1e60

#: Counts of classes are said where they are nearer to integers than this.
_CLEAR = 0.3


@dataclass(frozen=True, eq=False)
class OutputsAttack:
    """What a gradient of a network with C outputs gave, as torch tensors.

    features (B, d), float64, unit vectors where ``directions_only``; residuals (B, C): f - y, or softmax(f) - e_y; labels:
    classes (B,) of cross-entropy, targets (B, C) of a squared loss, None where the loss is not known or refuted. norms:
    where the features' come from, see ``OutputsRecovery``, which is ``recovery``. search: what found the patterns of
    activity, and in how many tries; neurons: how many were used; precision: of the entries.
    """

    features: torch.Tensor
    residuals: torch.Tensor
    labels: torch.Tensor | None
    norms: str
    recovery: OutputsRecovery
    precision: Precision
    neurons: int
    method: str = "dual_directions"
    inexact: str | None = None

    def __repr__(self) -> str:
        B, d = self.features.shape
        return f"OutputsAttack(exact={self.exact}, features=({B}, {d}), norms={self.norms!r})"

    @property
    def exact(self) -> bool:
        """Whether every row of every gradient that was given is explained to rounding."""
        return self.recovery.exact

    @property
    def directions_only(self) -> bool:
        """Whether ``features`` are unit vectors, their norms unknown."""
        return self.norms == UNKNOWN

    @property
    def why(self) -> str | None:
        """What exactness follows from; None where it is not exact."""
        if not self.exact:
            return None
        B, C = self.residuals.shape
        rows = ", ".join(f"{one.name} {one.worst:.2g}" for one in self.recovery.left)
        entropy = self.recovery.loss is not None and self.recovery.loss.classes
        sides = "Patterns of activity are those that the gradient shows, which norms would test"
        if not self.directions_only:
            sides = "Every neuron is on the side of a feature on which the feature has it"
        free = f"{B} features" if entropy else f"{B} features and their {C} residuals"
        return (
            f"what {free} leave of the worst row, over the size of rows: {rows}; at most {self.recovery.limit:.2g} is "
            f"rounding. {sides}"
        )

    @property
    def search(self) -> str:
        return f"{self.recovery.starts} starts"

    @property
    def coordinates(self) -> None:
        """No others than those of the arrays."""
        return None


def attack_outputs(shared: SharedGradient, known: Known, seed: int = 2) -> OutputsAttack:
    """``recover_outputs`` on a shared gradient of several outputs, whatever its weights and biases.

    Raises ``ValueError`` for another activation than ReLU, ``ReconstructionError`` where there is no result.
    """
    wrong = _activation(known)
    if wrong is not None:
        raise ValueError(wrong)
    found = recover_outputs(as_posed(shared), known.B, known.loss, known.norms, seed=seed)
    labels = found.targets if found.classes is None else found.classes
    worst = max(found.left, key=lambda one: one.worst / found.limit)
    why = f"of the {worst.name} a row is left unexplained by {worst.worst:.2g} of their size, more than {found.limit:.2g}"
    return OutputsAttack(
        torch.from_numpy(found.features),
        torch.from_numpy(found.residuals),
        None if labels is None else torch.from_numpy(labels),
        found.norms,
        found,
        _precision(shared),
        shared.m,
        inexact=None if found.exact else why,
    )


def as_posed(shared: SharedGradient) -> OutputsGradient:
    """The arrays as numpy's, in double; a network without biases has biases of zero."""

    def array(values: torch.Tensor | None) -> np.ndarray | None:
        return None if values is None else values.double().numpy()

    def there(values: torch.Tensor | None, size: int) -> np.ndarray:
        return np.zeros(size) if values is None else values.double().numpy()

    assert shared.output_weight is not None
    rows, output = _weight_and_output(shared)
    return OutputsGradient(
        shared.weight.double().numpy(),
        there(shared.bias, shared.m),
        shared.output_weight.double().numpy(),
        there(shared.output_bias, shared.outputs),
        array(rows),
        array(shared.bias_gradient),
        array(output),
        array(shared.output_bias_gradient),
        _precision(shared).rounding,
    )


def given_gradients(shared: SharedGradient) -> Mapping[str, torch.Tensor]:
    """Those that are there, by what they are."""
    rows, output = _weight_and_output(shared)
    named = {
        "dL/dW": rows,
        "dL/db": shared.bias_gradient,
        "dL/dA": output,
        "dL/dc": shared.output_bias_gradient,
    }
    return {name: values for name, values in named.items() if values is not None}


def _weight_and_output(shared: SharedGradient) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """dL/dW and dL/dA, either of which ``gradient`` may be."""
    if tuple(shared.gradient.shape) == (shared.m, shared.d):
        return shared.gradient, shared.output_gradient
    return None, shared.gradient


def _precision(shared: SharedGradient) -> Precision:
    first, *others = given_gradients(shared).values()
    return Precision.of(first, *others)


def unordinary(shared: SharedGradient) -> tuple[str, ...]:
    """Arrays of sizes whose squares are no numbers."""
    sizes = {name: root_mean_square(values) for name, values in shared.arrays.items()}
    return tuple(
        f"{name} must be zero or of a size between {_SMALLEST:g} and {_LARGEST:g}; got {size:.3g}"
        for name, size in sizes.items()
        if size and not _SMALLEST <= size <= _LARGEST
    )


def _activation(known: Known) -> str | None:
    function = known.activation
    if homogeneous(function) and function(np.array([-1.0, 1.0])).tolist() == [0.0, 1.0]:
        return None
    return f"activation must be relu for several outputs, whose inactive neurons tell features apart; got {function.name}"


def outputs_findings(shared: SharedGradient, known: Known) -> tuple[Finding, ...]:
    """Whether there is something to attack, and which classes the output biases show."""
    wrong = _activation(known)
    if wrong is not None:
        return (Finding("activation", "error", wrong),)
    gradients = given_gradients(shared)
    silent = [name for name, values in gradients.items() if name in ("dL/dW", "dL/dA") and not values.any()]
    if silent:
        text = f"{silent[0]} is zero: no feature can have made it"
        return (Finding("zero rows", "error", text, 1.0, 0.0),)
    missing = shared.bias is not None and bool(shared.bias.any()) and "dL/dW" in gradients
    found = (_missing_bias_gradient(),) if missing and "dL/db" not in gradients else ()
    return (*found, *_classes(shared, known))


def _missing_bias_gradient() -> Finding:
    text = "dL/db is not given beside dL/dW: norms are then told by the loss alone"
    return Finding("bias_gradient", "ok", text)


def _classes(shared: SharedGradient, known: Known) -> tuple[Finding, ...]:
    """Counts of classes from dL/dc, before any feature is known: an estimate, of a network that has learnt little. Without
    dL/dc the classes that dL/dA shows."""
    loss, output = known.loss, _weight_and_output(shared)[1]
    if loss is None or not loss.classes:
        return ()
    if shared.output_bias_gradient is None:
        if output is None:
            return ()
        certain = ", ".join(map(str, present_classes(output.double().numpy())))
        return (
            Finding(
                "classes", "ok", f"dL/dA alone shows samples of classes {certain or 'none'}, and maybe others"
            ),
        )
    bias = np.zeros(shared.outputs) if shared.output_bias is None else shared.output_bias.double().numpy()
    seen = class_counts(shared.output_bias_gradient.double().numpy(), bias, known.B, mean=loss.mean)
    shown = ", ".join(f"{n} of class {c}" for c, n in enumerate(seen.counts) if n)
    text = f"dL/dc alone counts {shown or 'no class'}, {seen.doubt:.2g} from integers, if outputs are near their biases"
    finding = judged("classes", seen.doubt, _CLEAR, text)
    return (Finding("classes", "ok", finding.text, finding.value, finding.threshold),)
