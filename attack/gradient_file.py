"""Bring your own gradient: arrays from any framework or a file, what about them does not fit the model, and the attack."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attack.contraction import apply_contracted, contraction_edge
from attack.findings import Finding, judged
from attack.moments import Response, apply_second_moment, first_moment, noise_edge
from attack.network import TwoLayerNet, apply_activation
from attack.observation import Observation
from attack.shared_rows import RowAttack, attack_rows, row_findings
from attack.span import dominant_span
from attack.streams import normal
from attack.tensor_attack import Reconstruction, tensor_attack
from attack.weights import STANDARD_ERRORS, Coordinates
from bounds import Activation, NoDefense, TensorAttack, checks, resolve_activation
from bounds.tensor_attack import moment_orders

#: Names of the arrays in a file.
REQUIRED, OPTIONAL = ("weight", "gradient"), ("bias", "output_weight", "bias_gradient")
#: Spectrum and moments of the weights are taken from at most this many neurons.
SAMPLE = 100_000
#: Deviations of a shape (kurtosis, spread of row norms) below this do no harm worth a warning.
SHAPE_FLOOR = 0.05


@dataclass(frozen=True, eq=False)
class SharedGradient:
    """What a server holds: weight (m, d); gradient, (m,) for dL/da or (m, d) for dL/dW; bias (m,); output_weight (m,);
    bias_gradient (m,): dL/db, which dL/dW needs where the biases vary.

    The network is ``f(x) = sum_j output_weight_j sigma(w_j.x + bias_j)``, output weights 1/m where they are not given.
    Float32 or float64 CPU tensors. Make one with ``from_arrays`` or ``read_gradient``.
    """

    weight: torch.Tensor
    gradient: torch.Tensor
    bias: torch.Tensor | None = None
    output_weight: torch.Tensor | None = None
    bias_gradient: torch.Tensor | None = None

    @staticmethod
    def from_arrays(
        weight: Any,
        gradient: Any,
        bias: Any | None = None,
        output_weight: Any | None = None,
        bias_gradient: Any | None = None,
    ) -> SharedGradient:
        """From arrays or tensors of any framework. Vectors may come as (1, m) or (m, 1), as a linear layer has them.

        Raises ``TypeError`` for what is not a real array, ``ValueError`` for a weight that is not a matrix; every further
        misfit is a finding of ``check_gradient``.
        """
        W = _tensor("weight", weight)
        if W.ndim != 2 or 0 in W.shape:
            raise ValueError(f"weight must have shape (m, d); got {tuple(W.shape)}")
        vectors = {"bias": bias, "output_weight": output_weight, "bias_gradient": bias_gradient}
        found = {k: None if v is None else _vector(_tensor(k, v), W) for k, v in vectors.items()}
        return SharedGradient(W, _vector(_tensor("gradient", gradient), W), **found)

    @property
    def m(self) -> int:
        return int(self.weight.shape[0])

    @property
    def d(self) -> int:
        return int(self.weight.shape[1])


def _tensor(name: str, value: Any) -> torch.Tensor:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    if isinstance(value, torch.Tensor):
        tensor = value
    else:
        try:
            raw = np.asarray(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"{name} must be an array of real numbers; got {type(value).__name__}") from error
        if raw.dtype.kind not in "iuf":
            raise TypeError(f"{name} must be an array of real numbers; got values of type {raw.dtype}")
        tensor = torch.from_numpy(np.array(raw, dtype=np.float32 if raw.dtype == np.float32 else float))
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"{name} must be an array of real numbers; got values of type {tensor.dtype}")
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    return tensor.float() if half or tensor.dtype == torch.float32 else tensor.double()


def _vector(value: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(1, m) and (m, 1) as (m,); with d = 1 an (m, 1) gradient would be both: it is taken as dL/da."""
    return (
        value.reshape(-1) if value.ndim == 2 and 1 in value.shape and value.numel() == len(weight) else value
    )


def read_gradient(path: str | Path) -> SharedGradient:
    """From an .npz or .safetensors file with arrays ``weight``, ``gradient`` and, optional, ``bias``, ``output_weight``
    and ``bias_gradient``.

    Nothing in the file is executed (no pickles). Raises ``ValueError`` for another ending, a file that cannot be read, and
    missing or unknown arrays; ``OSError`` where there is no file.
    """
    path = Path(path)
    readers: Mapping[str, Callable[[Path], dict[str, Any]]] = {".npz": _npz, ".safetensors": _safetensors}
    if path.suffix not in readers:
        raise ValueError(f"file must end in {' or '.join(readers)}; got {path.name}")
    if not path.is_file():
        raise FileNotFoundError(f"file must exist; got {path}")
    try:
        arrays = readers[path.suffix](path)
    except Exception as error:  # each format has its own kinds
        raise ValueError(f"file {path.name} cannot be read as {path.suffix}: {error}") from error
    missing = [name for name in REQUIRED if name not in arrays]
    unknown = sorted(set(arrays) - {*REQUIRED, *OPTIONAL})
    if missing or unknown:
        raise ValueError(
            f"file must hold the arrays {', '.join(REQUIRED)} and may hold {', '.join(OPTIONAL)}; "
            f"missing: {', '.join(missing) or 'none'}, unknown: {', '.join(unknown) or 'none'}"
        )
    return SharedGradient.from_arrays(**arrays)


def _npz(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(str(path)))


# --- what does not fit ------------------------------------------------------------------------------------------------


def check_gradient(
    shared: SharedGradient,
    batch_size: int,
    activation: str | Activation = "relu",
    norms: Sequence[float] | None = None,
    scale: float | None = None,
    seed: int = 2,
) -> tuple[Finding, ...]:
    """What fits the model and what does not, cheap against the attack.

    norms (B,): public norms, 1 where None. scale: standard deviation of the weights' entries, measured where None. Stops
    at the first stage with an error: shapes and finite values, then gradient and weights, then the number of features.
    Thresholds are about five standard errors of what standard Gaussian weights show. Raises ``ValueError`` or
    ``TypeError`` on bad arguments.
    """
    B = checks.integer("batch_size", batch_size, 1)
    function = resolve_activation(activation)
    public = _norms(norms, B)
    if scale is not None and checks.real("scale", scale, 0.0) == 0.0:
        raise ValueError("scale must be positive; got 0")
    findings = _shapes(shared, B)
    if _errors(findings):
        return findings
    findings += _gradient_findings(shared, B, function, public, scale) + _weight_findings(shared, scale)
    if _errors(findings) or shared.gradient.ndim == 2:
        return findings
    return (*findings, _count(shared, B, function, public, scale, seed))


def _errors(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(f for f in findings if f.level == "error")


def _norms(norms: Sequence[float] | None, B: int) -> tuple[float, ...]:
    public = (1.0,) * B if norms is None else tuple(float(n) for n in norms)
    if len(public) != B:
        raise ValueError(f"norms must have B = {B} entries; got {len(public)}")
    for n in public:
        if checks.real("norms", n, 0.0) == 0.0:
            raise ValueError("norms must be positive; got 0")
    return public


def _shapes(shared: SharedGradient, B: int) -> tuple[Finding, ...]:
    m, d = shared.m, shared.d
    shape = tuple(shared.gradient.shape)
    found = []
    if shape not in ((m,), (m, d)):
        turned = " (the weight looks transposed)" if shape in ((d,), (d, m)) else ""
        text = f"gradient must have shape (m,) = ({m},) or (m, d) = ({m}, {d}); got {shape}{turned}"
        found.append(Finding("shape", "error", text))
    for name in OPTIONAL:
        value = getattr(shared, name)
        if value is not None and tuple(value.shape) != (m,):
            found.append(
                Finding("shape", "error", f"{name} must have shape ({m},); got {tuple(value.shape)}")
            )
    if not d >= B or not m > B:
        found.append(Finding("shape", "error", f"B must be at most d = {d} and below m = {m}; got {B}"))
    for name in (*REQUIRED, *OPTIONAL):
        value = getattr(shared, name)
        bad = 0 if value is None else int((~torch.isfinite(value)).sum())
        if bad:
            text = f"{name} has {bad} of {value.numel()} entries that are not finite"
            found.append(Finding("finite", "error", text, float(bad), 0.0))
    if not found and not bool(shared.weight.any()):
        found.append(Finding("scale", "error", "every weight is zero", 0.0, 0.0))
    kind = "dL/da" if shape == (m,) else "dL/dW"
    return (
        tuple(found)
        if found
        else (Finding("shape", "ok", f"m = {m}, d = {d}, gradient of shape {shape}: {kind}"),)
    )


def _gradient_findings(
    shared: SharedGradient, B: int, activation: Activation, norms: Sequence[float], scale: float | None
) -> tuple[Finding, ...]:
    if shared.gradient.ndim == 2:
        return row_findings(shared, B, activation, norms, scale)
    g = shared.gradient.double()
    size = float(g.square().mean().sqrt())
    spread = float(g.std(correction=0))
    if spread <= 1e-9 * size:  # also where every entry is zero
        text = f"the gradient is constant ({float(g[0]):.3g}): no feature can have made it"
        return (Finding("constant", "error", text, spread, 1e-9 * size),)
    zeros = float((g == 0).double().mean())
    flat = bool(np.all(activation(np.array([-3.0, -1.0, -0.1])) == 0))
    allowed = (0.5 if flat else 0.0) + STANDARD_ERRORS / math.sqrt(len(g))
    why = "half, which one feature leaves" if flat else "none, as the activation has no flat part"
    text = f"{zeros:.1%} of the gradient's entries are exactly zero; expected at most {why}: beyond, pruning or dropout"
    found = [judged("zeros", zeros, allowed, text)]
    # The largest of m Gaussians is about sqrt(2 log m); what the activation makes of it, in units of its own size, times 3
    # for features whose gradients cancel.
    s = Coordinates.measured(shared.weight).scale if scale is None else scale
    reach = s * max(norms) * (math.sqrt(2 * math.log(len(g))) + 1)
    grid = np.linspace(-reach, reach, 2001)
    normal_grid = np.abs(activation(grid))
    typical = math.sqrt(
        float(np.average(normal_grid**2, weights=np.exp(-((grid / (s * max(norms))) ** 2) / 2)))
    )
    largest = float(g.abs().max()) / size
    limit = 3 * float(normal_grid.max()) / typical
    text = (
        f"the largest entry is {largest:.1f} times the root mean square; the model's stay below {limit:.1f}"
    )
    return (*found, judged("outliers", largest, limit, text))


def _weight_findings(shared: SharedGradient, scale: float | None) -> tuple[Finding, ...]:
    W = shared.weight[:SAMPLE].double()
    m, d = W.shape
    entries = m * d
    measured = float(W.square().mean().sqrt())
    found = []
    s = measured if scale is None else scale
    off, tolerance = abs(measured / s - 1), STANDARD_ERRORS / math.sqrt(2 * entries) + 1e-3
    rescaled = "" if abs(s - 1) < tolerance else "; rescaled to 1"
    found.append(judged("scale", off, tolerance, f"weights have standard deviation {measured:.4g}{rescaled}"))
    W = W / measured
    centre = float(torch.linalg.vector_norm(W.mean(dim=0)))
    edge = math.sqrt((d + STANDARD_ERRORS * math.sqrt(2 * d)) / m)
    found.append(
        judged("mean", centre, edge, f"mean weight vector of norm {centre:.3g} in units of the scale")
    )
    kurtosis = float((W**4).mean()) - 3
    limit = max(SHAPE_FLOOR, STANDARD_ERRORS * math.sqrt(24 / entries))
    text = f"excess kurtosis of the weights' entries {kurtosis:+.3f} (Gaussian 0, uniform -1.2)"
    found.append(judged("kurtosis", abs(kurtosis), limit, text))
    rows = W.square().sum(dim=1)
    ratio = float(rows.var()) / (2 * d)
    limit = max(SHAPE_FLOOR, STANDARD_ERRORS * math.sqrt((2 + 12 / d) / m))
    text = f"squared row norms vary {ratio:.3f} times as much as chi-squared with d degrees of freedom"
    found.append(judged("row norms", abs(ratio - 1), limit, text))
    return (*found, *_spectrum(W), *_bias(shared))


def _spectrum(W: torch.Tensor) -> tuple[Finding, ...]:
    """Eigenvalues of W^T W/m against the Marchenko-Pastur edges ``(1 -+ sqrt(d/m))^2`` and five times the scale of their
    fluctuations (Johnstone 2001, Tracy-Widom)."""
    m, d = W.shape
    if d >= m:
        return ()
    values = torch.linalg.eigvalsh(W.T @ W / m)
    low, high = float(values[0]), float(values[-1])
    root_m, root_d = math.sqrt(m), math.sqrt(d)
    slack_high = STANDARD_ERRORS * (root_m + root_d) * (1 / root_m + 1 / root_d) ** (1 / 3) / m
    slack_low = STANDARD_ERRORS * (root_m - root_d) * abs(1 / root_d - 1 / root_m) ** (1 / 3) / m
    top, bottom = (1 + root_d / root_m) ** 2 + slack_high, (1 - root_d / root_m) ** 2 - slack_low
    text = f"coordinates of the weights are {'un' if high <= top and low >= bottom else ''}correlated: eigenvalues "
    text += f"of W^T W/m in [{low:.3f}, {high:.3f}], expected in [{bottom:.3f}, {top:.3f}]"
    return (judged("correlation", max(high - top, bottom - low), 0.0, text),)


def _bias(shared: SharedGradient) -> tuple[Finding, ...]:
    if shared.bias is None or not bool((shared.bias != 0).any()):
        return ()
    there = Coordinates.measured(shared.weight[:1], shared.bias, 1.0)
    mean, spread = there.bias_mean, there.bias_scale
    text = (
        f"biases of mean {mean:.3g} and standard deviation {spread:.3g}; the model has none. Their mean shifts the "
        "activation, their spread is one more coordinate of the features"
    )
    if not spread:
        return (Finding("bias", "ok", text, spread, 0.0),)
    kurtosis = float((((shared.bias.double() - shared.bias.double().mean()) / spread) ** 4).mean()) - 3
    limit = max(SHAPE_FLOOR, STANDARD_ERRORS * math.sqrt(24 / shared.m))
    text += f" (taken for Gaussian; excess kurtosis {kurtosis:+.3f})"
    return (judged("bias", abs(kurtosis), limit, text),)


def _count(
    shared: SharedGradient,
    B: int,
    activation: Activation,
    norms: Sequence[float],
    scale: float | None,
    seed: int,
) -> Finding:
    """How many eigenvalues of the residualized second moment stand above the edge of its noise.

    Where mu_2 = 0 those of the third moment contracted with the gradient's linear part. That one may be orthogonal to a
    feature, so fewer than B are no finding there (with fewer than told the attack has no result).
    """
    net, observation, _ = _problem(shared, B, activation, norms, scale)
    try:
        odd = moment_orders(net.activation)[0] == 1
    except ValueError as error:  # the attack says so too
        return Finding("count", "warning", f"features are not counted: {error}")
    gradient = observation.gradient.to(net.dtype)
    mean, slope = first_moment(net, gradient)
    response = Response(gradient, mean.to(net.dtype), slope)
    width = min(net.d, B + 6)
    start = normal((net.d, width), seed, "count", device="cpu", dtype=torch.float64)
    vector = slope / torch.linalg.vector_norm(slope)

    def moment(V: torch.Tensor) -> torch.Tensor:
        return apply_contracted(net, response, vector, V) if odd else apply_second_moment(net, response, V)

    # A loose tolerance: outliers converge in a few passes, and the bulk's values are approached from below.
    found = dominant_span(moment, start, width, 0.1, max_passes=8)
    if odd:
        edge = contraction_edge(net, response, vector, 0)
    else:
        power = sum(
            float((response.of(rows, W @ slope.to(net.dtype)).double() ** 2).sum())
            for rows, W in net.blocks()
        )
        edge = noise_edge(power / net.m, net.d, net.m)
    sizes = found.eigenvalues.abs()
    above = int((sizes > edge).sum())
    several = "at least " if above == width or (odd and above < B) else ""
    source = "third moment, contracted," if odd else "second moment"
    text = (
        f"{several}{above} eigenvalues of the {source} stand above the noise ({edge:.3g}): estimated B = {above}, "
        f"told {B}; sizes {', '.join(f'{v:.3g}' for v in sizes[: B + 2].tolist())}"
    )
    agrees = above <= B if odd else above == B
    return Finding("count", "ok" if agrees else "warning", text, float(above), float(B))


# --- the attack -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class GradientAttack:
    """The reconstruction in the original coordinates, the same in standard ones, and how far g is explained by it.

    features (B, d), residuals (B,), labels (B,): float64, residuals those of the loss summed over the batch. A label is
    f(xhat) - r with the network's own output weights. standard: what the attack returned in ``coordinates``.
    power: mean of g^2; unexplained: share of it that least squares of g on sigma(W xhat + b) leaves; neurons: how many
    were used. rows: for dL/dW, the attack on its rows, of which power and unexplained then speak; None for dL/da.
    """

    features: torch.Tensor
    residuals: torch.Tensor
    labels: torch.Tensor
    standard: Reconstruction
    coordinates: Coordinates
    power: float
    unexplained: float
    neurons: int
    rows: RowAttack | None = None

    @property
    def method(self) -> str:
        """Which function gave the result: "tensor_attack", "sparse_recovery" or "first_layer_attack"."""
        return "tensor_attack" if self.rows is None else self.rows.method


def attack_gradient(
    shared: SharedGradient,
    batch_size: int,
    activation: str | Activation = "relu",
    norms: Sequence[float] | None = None,
    scale: float | None = None,
    attack: TensorAttack | None = None,
    loss: str = "sum",
    seed: int = 2,
) -> GradientAttack:
    """The attack on a shared gradient, in coordinates where its weights and biases are standard Gaussian.

    dL/da: ``tensor_attack``. dL/dW: ``sparse_recovery``, which is exact, where it applies (float64, ReLU and leaky ReLU, no
    noise), else ``first_layer_attack``; rows are divided by their output weights, and dropped where these vanish.

    norms (B,): public norms of the features, 1 where None; scale: standard deviation of the weights, measured where None;
    loss: "sum" or "mean" over the batch. Does not repeat ``check_gradient``. Raises ``ValueError`` on arrays that do not
    fit, dL/dW without dL/db where biases vary, an activation that the attack does not cover; ``ReconstructionError`` where
    there is no result.
    """
    B = checks.integer("batch_size", batch_size, 1)
    checks.choice("loss", loss, ("sum", "mean"))
    function = resolve_activation(activation)
    errors = _errors(_shapes(shared, B))
    if errors:
        raise ValueError("; ".join(e.text for e in errors))
    public = _norms(norms, B)
    if shared.gradient.ndim == 2:
        return _from_rows(
            shared, function, attack_rows(shared, B, function, public, scale, attack, loss, seed)
        )
    net, observation, there = _problem(shared, B, function, public, scale)
    if loss == "mean":
        observation = dataclasses.replace(observation, gradient=B * observation.gradient)
    found = tensor_attack(observation, net, B, attack, seed)
    back = there.undo(found)
    power, unexplained, forward = _explained(shared, function, back, observation.gradient)
    return GradientAttack(
        back.features, back.residuals, forward - back.residuals, found, there, power, unexplained, net.m
    )


def _from_rows(shared: SharedGradient, activation: Activation, rows: RowAttack) -> GradientAttack:
    """The same result, with features in the original coordinates and labels of the network's own output weights."""
    back = rows.coordinates.undo(rows.standard)
    forward = torch.zeros(len(back.features), dtype=torch.float64)
    for block, hidden in _hidden(shared, activation, back.features):
        forward += (hidden * _output_weights(shared, block)).sum(dim=1)
    return GradientAttack(
        back.features,
        back.residuals,
        forward - back.residuals,
        rows.standard,
        rows.coordinates,
        rows.power,
        rows.unexplained,
        rows.neurons,
        rows,
    )


def _problem(
    shared: SharedGradient, B: int, activation: Activation, norms: Sequence[float], scale: float | None
) -> tuple[TwoLayerNet, Observation, Coordinates]:
    there = Coordinates.measured(shared.weight, shared.bias, scale)
    net = there.network(TwoLayerNet.from_weights(shared.weight, activation), shared.bias)
    seen = Observation(shared.gradient, B, tuple(norms), NoDefense())
    return net, there.observation(seen), there


def _explained(
    shared: SharedGradient, activation: Activation, found: Reconstruction, gradient: torch.Tensor
) -> tuple[float, float, torch.Tensor]:
    """Mean of g^2, the share that least squares on sigma(W xhat + b) leaves, and f(xhat) (B,). One pass over W."""
    B = found.features.shape[0]
    gram, right = torch.zeros(B, B, dtype=torch.float64), torch.zeros(B, dtype=torch.float64)
    forward = torch.zeros(B, dtype=torch.float64)
    g = gradient.double()
    for rows, hidden in _hidden(shared, activation, found.features):
        gram += hidden @ hidden.T
        right += hidden @ g[rows]
        forward += (hidden * _output_weights(shared, rows)).sum(dim=1)
    total = float(g @ g)
    fitted = float(right @ (torch.linalg.pinv(gram, hermitian=True) @ right))
    return total / shared.m, max(0.0, 1 - fitted / total), forward


def _hidden(
    shared: SharedGradient, activation: Activation, features: torch.Tensor
) -> Iterator[tuple[slice, torch.Tensor]]:
    """One pass over W: rows and ``sigma(W xhat + b)`` (B, rows), float64."""
    guesses = features.to(shared.weight.dtype)
    for start in range(0, shared.m, 16_384):
        rows = slice(start, start + 16_384)
        inside = guesses @ shared.weight[rows].T
        if shared.bias is not None:
            inside = inside + shared.bias[rows]
        yield rows, apply_activation(activation, inside).double()


def _output_weights(shared: SharedGradient, rows: slice) -> torch.Tensor | float:
    return 1 / shared.m if shared.output_weight is None else shared.output_weight[rows].double()
