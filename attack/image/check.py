"""Whether a gradient that a user brings belongs to a network: its names and shapes, and what the values of every gradient of
such a network satisfy.

The relations hold for each sample by itself, so for every sum over samples, clipped or not:

- cross entropy: the derivatives by the outputs, so by the output biases, sum to 0 over classes, and of B samples no more
  than B is below 0;
- a linear layer: its weights' gradient, beside that of its biases, has rank at most B;
- a unit u = s(w.z + b) with s(2t) = 2 s(t), and its output weights a: ``w.dL/dw + b dL/db = a.dL/da``, both sides being
  the sum of dL/du u (Euler's identity);
- batch norm ``y = g (w.x - mean)/sd + h`` with kept statistics: ``w.dL/dw + b dL/db = g (dL/dg + mean/sd dL/dh)``; with
  those of the batch y does not change with the size of w, so that the left side is 0 up to batch norm's eps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from attack.arrays import real_tensor
from attack.image.observed import SCOPES, ImageObservation
from attack.networks.image.network import ImageNetwork
from attack.networks.image.probe import Probe
from attack.own.findings import Finding, errors, judged
from attack.streams import normal
from bounds import Defense, Dropout, GradientClipping, NoDefense, SecureAggregation, checks

Gradients = Mapping[str, Any] | Sequence[Any]

#: Defenses under which a gradient is still a sum over samples of multiples of theirs, at the same weights.
_SUMS = (NoDefense, GradientClipping, SecureAggregation, Dropout)

#: Relations of float32 gradients hold to about 1e-6; what does not belong is off by .1 and more.
_APART = 1e-2

#: Singular values beyond B, relative to the largest: float32 leaves 1e-7, half precision 1e-3.
_RANK = 1e-4

#: Columns of the random sketch in which the rank is seen, beyond B.
_BEYOND = 8

#: Beginnings of names that wrappers of a module add.
_WRAPPERS = ("module.", "_orig_mod.", "_module.")


def check_images(
    network: ImageNetwork,
    gradients: Gradients,
    batch_size: int,
    *,
    defense: Defense | None = None,
    scope: str = "global",
) -> tuple[Finding, ...]:
    """What fits and what does not; an "error" leaves nothing to attack.

    gradients: of the loss summed over ``batch_size`` samples, by the names of the parameters, or one for each in their
    order. Under a defense that changes entries, or acts on each layer by itself, values are not held against one another.
    Raises ``ValueError`` or ``TypeError`` for arguments that are none.
    """
    checks.instance("network", network, ImageNetwork)
    checks.integer("batch_size", batch_size, 1)
    checks.choice("scope", scope, SCOPES)
    defense = defense or NoDefense()
    checks.instance("defense", defense, Defense, "GradientNoise(sigma=1.0)")
    found, tensors = _read(network, gradients)
    if errors(found):
        return found
    found += _told(network)
    if not isinstance(defense, _SUMS) or (scope == "layer" and not isinstance(defense, NoDefense)):
        text = f"under {defense!r}, scope {scope}, values are not held against one another"
        return (*found, Finding("values", "ok", text))
    case = _Case(network, tensors, batch_size, Probe.of(network.module, network.shape, network.normalised))
    relations = (_classes, _scale, _attacked_rank, _output_rank, _units, _batch_norm)
    return found + tuple(finding for relation in relations if (finding := relation(case)) is not None)


def observation_of(
    network: ImageNetwork,
    gradients: Gradients,
    batch_size: int,
    *,
    defense: Defense | None = None,
    scope: str = "global",
    findings: tuple[Finding, ...] | None = None,
) -> ImageObservation:
    """The gradients as attacks take them. Raises ``ValueError`` with what ``check_images`` finds to be an error; findings:
    what it has found already."""
    if findings is None:
        findings = check_images(network, gradients, batch_size, defense=defense, scope=scope)
    wrong = errors(findings)
    if wrong:
        raise ValueError(
            f"gradients must be those of the network: {'; '.join(finding.text for finding in wrong)}"
        )
    tensors = _read(network, gradients)[1]
    return ImageObservation(
        tuple(tensors[name] for name in network.names), network, batch_size, defense or NoDefense(), scope
    )


@dataclass(frozen=True, eq=False)
class _Case:
    network: ImageNetwork
    gradients: Mapping[str, torch.Tensor]
    B: int
    probe: Probe

    def pair(self, name: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        """A parameter and its gradient in double precision, None if there is no gradient."""
        if name not in self.gradients:
            return None
        value = self.network.module.get_parameter(name).detach().cpu().double()
        return value, self.gradients[name].double()

    def inner(self, layer: str) -> torch.Tensor | None:
        """``w.dL/dw + b dL/db`` of each output of a layer; None where a gradient is missing."""
        weights = self.pair(f"{layer}.weight")
        if weights is None:
            return None
        found = (weights[0] * weights[1]).flatten(1).sum(dim=1)
        if getattr(self.network.module.get_submodule(layer), "bias", None) is None:
            return found
        biases = self.pair(f"{layer}.bias")
        return None if biases is None else found + biases[0] * biases[1]


def _read(
    network: ImageNetwork, gradients: Gradients
) -> tuple[tuple[Finding, ...], Mapping[str, torch.Tensor]]:
    """Names, shapes, values that are not finite, and layers without any."""
    if not isinstance(gradients, Mapping):
        checks.instance("gradients", gradients, Sequence)
        if len(gradients) != len(network.names):
            text = f"gradients must be one for each of {len(network.names)} parameters; got {len(gradients)}"
            return (Finding("names", "error", text),), {}
        gradients = dict(zip(network.names, gradients, strict=True))
    there = {name: real_tensor(f"gradient of {name}", g) for name, g in gradients.items() if g is not None}
    found = [*_names(network, tuple(there))]
    shapes = dict(zip(network.names, (tuple(p.shape) for p in network.parameters), strict=True))
    for name, gradient in there.items():
        shape = tuple(gradient.shape)
        if name in shapes and shape != shapes[name]:
            turned = "; it looks transposed" if shape == shapes[name][::-1] else ""
            text = f"the gradient of {name} must have shape {shapes[name]}; got {shape}{turned}"
            found.append(Finding("shapes", "error", text))
        elif not torch.isfinite(gradient).all():
            wrong = int((~torch.isfinite(gradient)).sum())
            text = f"the gradient of {name} must be finite; got {wrong} values that are not"
            found.append(Finding("finite", "error", text))
    zero = [name for name, gradient in there.items() if not gradient.any()]
    if zero and len(zero) == len(there):
        found.append(Finding("zero", "error", "the gradients are all zero"))
    elif zero:
        text = (
            f"the gradients of {_listed(zero)} are all zero: dead units, pruning, or layers that are not used"
        )
        found.append(Finding("zero", "warning", text))
    return tuple(
        found or [Finding("names", "ok", f"{len(there)} gradients of these names and shapes")]
    ), there


def _names(network: ImageNetwork, given: tuple[str, ...]) -> list[Finding]:
    """Missing gradients, and those of nothing that is trained."""
    every = {name for name, _ in network.module.named_parameters()}
    buffers = {name for name, _ in network.module.named_buffers()}
    missing = [name for name in network.names if name not in given]
    extra = [name for name in given if name not in network.names]
    kinds = {
        "statistics of batch norm, which have none": [n for n in extra if n in buffers],
        "frozen parameters (requires_grad=False in the module)": [n for n in extra if n in every],
        "no parameter of the module": [n for n in extra if n not in every | buffers],
    }
    found = []
    if missing:
        text = f"the gradients of {_listed(missing)} are missing: freeze what the client does not train"
        wrapped = [w for w in _WRAPPERS if any(name.startswith(w) for name in extra)]
        hint = f"; the names begin with {wrapped[0]!r}, which a wrapper of the module adds" if wrapped else ""
        found.append(Finding("names", "error", text + hint))
    for what, names in kinds.items():
        if names:
            found.append(Finding("names", "error", f"there are gradients of {what}: {_listed(names)}"))
    return found


def _told(network: ImageNetwork) -> tuple[Finding, ...]:
    """What the network takes for granted and no gradient shows."""
    found = [
        Finding(
            "normalisation",
            "ok",
            f"taken as it is, as a gradient does not tell it: pixels less {network.mean}, over {network.std}",
        )
    ]
    dropping = [
        name
        for name, layer in network.module.named_modules()
        if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0
    ]
    if dropping:
        text = (
            f"{_listed(dropping)} is off, as eval() has it; the gradient of a client that uses it is another"
        )
        found.append(Finding("dropout", "warning", text))
    if network.attacked is None:
        text = "there is one linear layer only: attacks that need features cannot run, gradient matching can"
        found.append(Finding("attacked", "warning", text))
    return tuple(found)


def _classes(case: _Case) -> Finding | None:
    if case.network.loss != "cross-entropy":
        return None
    output = case.network.output
    shown = case.gradients.get(f"{output}.bias", case.gradients.get(f"{output}.weight"))
    if shown is None:
        return None
    shown = shown.double().reshape(len(shown), -1)
    value = float(shown.sum(dim=0).norm() / shown.norm()) if shown.any() else 0.0
    text = "derivatives by the outputs sum to 0 over classes, as those of cross entropy do, but for this part"
    return judged("classes", value, _APART, text)


def _scale(case: _Case) -> Finding:
    bias = case.gradients.get(f"{case.network.output}.bias")
    if case.network.loss != "cross-entropy" or bias is None:
        return Finding(
            "scale", "ok", "taken as a sum over the batch; whether it is a mean, the gradient does not tell"
        )
    below = float(-bias.double().clamp(max=0).sum())
    if below > case.B * (1 + _APART):
        text = (
            f"the output biases' gradients below 0 sum to more than B = {case.B} samples can give: the batch is larger, "
            "there are several steps, or the gradient was multiplied by something"
        )
        return Finding("scale", "warning", text, below, float(case.B))
    if case.B > 1 and below <= 1:
        text = (
            "the output biases' gradients below 0 sum to no more than a mean over the batch can have: where the client "
            f"takes means, multiply by B = {case.B}"
        )
        return Finding("scale", "warning", text, below, 1.0)
    return Finding("scale", "ok", "what the output biases' gradients below 0 sum to", below, float(case.B))


def _rank_of(case: _Case, layer: str) -> Finding | None:
    weights, biases = case.gradients.get(f"{layer}.weight"), case.gradients.get(f"{layer}.bias")
    if weights is None:
        return None
    G = (weights if biases is None else torch.cat([weights, biases[:, None]], dim=1)).double()
    sketch = case.B + _BEYOND
    if min(G.shape) <= case.B or not G.any():
        return None

    def drawn(rows: int, columns: int, side: int) -> torch.Tensor:
        return normal((rows, columns), 0, "sketch", side, device="cpu", dtype=torch.float64)

    # a random projection keeps the rank, up to its own size
    seen = drawn(sketch, len(G), 0) @ G @ drawn(G.shape[1], sketch, 1)
    sizes = torch.linalg.svdvals(seen)
    text = (
        f"the gradient of {layer} has rank at most B = {case.B} but for this part of its size; more is a larger batch, "
        "several steps, half precision or a defense"
    )
    return judged("rank", float(sizes[case.B] / sizes[0]), _RANK, text)


def _attacked_rank(case: _Case) -> Finding | None:
    return None if case.network.attacked is None else _rank_of(case, case.network.attacked)


def _output_rank(case: _Case) -> Finding | None:
    return _rank_of(case, case.network.output)


def _units(case: _Case) -> Finding | None:
    network = case.network
    if network.attacked is None or not case.probe.homogeneous(network.attacked, network.output):
        return None
    inner, output = case.inner(network.attacked), case.pair(f"{network.output}.weight")
    if inner is None or output is None:
        return None
    text = (
        "weights and gradients of the attacked and of the output layer fit one another (w.dL/dw = a.dL/da for each unit) "
        "but for this part; more are other weights, several steps or a defense"
    )
    return judged("units", _apart(inner, (output[0] * output[1]).sum(dim=0)), _APART, text)


def _batch_norm(case: _Case) -> Finding | None:
    """Which statistics the client used, by the layers before batch norms."""
    module = case.network.module
    left, right, sizes = [], [], []
    for layer, norm in case.probe.normalised_layers():
        inner, weights = case.inner(layer), case.pair(f"{layer}.weight")
        scale, shift = case.pair(f"{norm}.weight"), case.pair(f"{norm}.bias")
        kept: Any = module.get_submodule(norm)
        if inner is None or weights is None or scale is None or shift is None or kept.running_var is None:
            continue
        steep = kept.running_mean.cpu().double() / (kept.running_var.cpu().double() + kept.eps).sqrt()
        left.append(inner)
        right.append(scale[0] * (scale[1] + steep * shift[1]))
        sizes.append(weights[0].flatten(1).norm(dim=1) * weights[1].flatten(1).norm(dim=1))
    if not left:
        return None
    size = torch.cat(sizes).norm()
    off = {
        "eval": _apart(torch.cat(left), torch.cat(right)),
        "batch": float(torch.cat(left).norm() / size) if size else 0.0,
    }
    mode = case.network.batch_norm
    other = {"eval": "batch", "batch": "eval"}[mode]
    if off[mode] <= _APART:
        return Finding("batch norm", "ok", f'used as "{mode}" has it', off[mode], _APART)
    if off[other] <= _APART:
        text = f'the client used batch norm as batch_norm="{other}" has it, not "{mode}"'
        return Finding("batch norm", "error", text, off[mode], _APART)
    text = f"neither the kept statistics nor those of a batch fit (off by {off['eval']:.2g} and {off['batch']:.2g}): other "
    text += "weights or statistics than the client's, several steps, a defense, or batches whose variance is as small as eps"
    return Finding("batch norm", "warning", text, off[mode], _APART)


def _apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """By how much two vectors differ, relative to the longer one."""
    size = torch.maximum(one.norm(), other.norm())
    return float((one - other).norm() / size) if size else 0.0


def _listed(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(ascii(name[:60])[1:-1] for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
