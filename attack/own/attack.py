"""Bring your own gradient: the attack on arrays from any framework or a file."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment

from attack.own.coordinates import Coordinates
from attack.own.count import counted
from attack.own.entries import entry_findings
from attack.own.findings import errors
from attack.own.frame import Frame
from attack.own.given import given
from attack.own.gradient import SharedGradient
from attack.own.known import Known
from attack.own.least_squares import LeastSquares, least_squares
from attack.own.leftover import rounding
from attack.own.likely import most_likely
from attack.own.models import Arrays
from attack.own.outputs import OutputsAttack, attack_outputs
from attack.own.precision import Precision
from attack.own.problem import output_problem, row_problem
from attack.own.rivals import rivals
from attack.own.row_findings import row_findings
from attack.own.rows import explained_rows, outside, reconstruct_rows, second_order
from attack.own.search import Outputs
from attack.reconstruction import Reconstruction, ReconstructionError
from attack.tensor.attack import tensor_attack
from attack.units import shift
from bounds import LikelihoodAttack, TensorAttack
from bounds.estimator import AttackSpec

#: Starts where no attack is told: mostly the first one serves, and none does where the model is another one.
_STARTS = 8

#: Norms from which free ones start where the activation is not homogeneous: the first that comes near serves.
_GUESSES = (1.0, 0.5, 2.0)

#: Another activation explains the gradient as well where it imitates this one to this multiple of what is left.
_ALIKE = 16.0

#: A fit that leaves less of the gradient than this has found its valley, whatever model it is of.
_NEAR = 1e-4

#: What a known coordinate says of a feature's size is no start beyond this factor.
_FAR = 4.0


@dataclass(frozen=True)
class RowNoise:
    """Root mean square of the entries of dL/dW outside the features' span: of the gradient as it was given, and as posed
    (``standard``), where entries have the size of 1/m. squares: R as posed that the noise's squares make, see
    ``second_order``."""

    given: float
    standard: float
    squares: float = 0.0


@dataclass(frozen=True)
class Assignment:
    """Which feature has which of unequal norms, read off labels of +-1: how far the labels are from that at most, and how
    far they would be if two norms were exchanged."""

    off: float
    exchanged: float


@dataclass(frozen=True, eq=False)
class GradientAttack:
    """The reconstruction in the original coordinates, the same as it was posed, and how far the gradient is explained by it.

    features (B, d), residuals (B,), labels (B,): float64, residuals r = f(x) - y. A label is f(xhat) - r with the network's
    own output weights and bias. norms: where those of the features come from, "told", "gradient" (least squares) or
    "unknown": then features are unit vectors, residuals those that unit vectors would have, and there are no labels. Nor are
    there any where the loss is not known: residuals are then those of the gradient as it is.

    method: which function gave the result, "likelihood" or "tensor_attack" for dL/da, "sparse_recovery" (exact) or
    "first_layer_attack" for dL/dW, "least_squares" where norms are free and one of these was the start. standard: what the
    attack returned, in ``frame``. power: mean of g^2 as posed, or of a squared entry of the rows; unexplained: share of it
    that least squares on sigma(W xhat + b), or on sigma'(w.xhat) xhat, leaves (of exact recovery, with neurons on the sides
    that their rows show);
    structure: share of what is left that depends on the features' preactivations, which noise does not (of dL/dW only by
    "least_squares"); neurons: how many were used. error: R that what is left makes, in the frame's units, where features are
    off by nothing else (exact methods). noise: for dL/dW. fit: the least squares that tested told norms or found them; None
    where the gradient does not tell norms or there are too many unknowns. rivals: activations that would explain it as well,
    with other norms than those found; none where the activation came with the gradient. assignment: of unequal norms that
    were told and that this gradient does not tell; None where the loss is not known either. better: another number of
    features that explains dL/da better, or as well with fewer; None where none does. inexact: why dL/dW was not
    solved exactly, None where it was; precision: of its entries; search: of exact recovery, what found the patterns of
    activity, and in how many tries.
    """

    features: torch.Tensor
    residuals: torch.Tensor
    labels: torch.Tensor | None
    norms: str
    method: str
    standard: Reconstruction
    frame: Frame
    power: float
    unexplained: float
    structure: float
    neurons: int
    error: float | None = None
    noise: RowNoise | None = None
    fit: LeastSquares | None = None
    rivals: tuple[str, ...] = ()
    assignment: Assignment | None = None
    better: int | None = None
    inexact: str | None = None
    precision: Precision | None = None
    search: str | None = None

    def __repr__(self) -> str:
        B, d = self.features.shape
        return f"GradientAttack(method={self.method!r}, features=({B}, {d}), norms={self.norms!r})"

    @property
    def why(self) -> None:
        """Of several outputs alone: what exactness follows from."""
        return None

    @property
    def coordinates(self) -> Coordinates:
        """Those in which weights and biases, as they were given, are standard Gaussian."""
        return self.frame.coordinates

    @property
    def directions_only(self) -> bool:
        """Whether ``features`` are unit vectors, their norms unknown."""
        return self.norms == "unknown"


def attack_gradient(
    shared: SharedGradient, known: Known, attack: AttackSpec | None = None, seed: int = 2
) -> GradientAttack | OutputsAttack:
    """The attack on a shared gradient: of several outputs ``attack_outputs``, else as follows.

    dL/da: maximum likelihood (``LikelihoodAttack``, the default) over features and residuals, for noise of unknown size, of
    any known weights; norms that are not told are free, if the gradient tells them (``tells_norms``). With a
    ``TensorAttack``: that, in coordinates where weights and biases are standard Gaussian. dL/dW: ``sparse_recovery``, which
    is exact to the precision of the entries, where it applies (ReLU and leaky ReLU, no noise), else ``first_layer_attack``;
    rows are divided by their output weights, and dropped where these vanish. Where norms are not known, least squares from
    the tensor attack's features finds them, if the gradient tells them. A number of features that is not told is counted
    first (``with_count``).

    Does not repeat ``check_gradient``. The result does not depend on the unit of the gradient or, for ReLU and leaky ReLU,
    of the weights. Raises ``ValueError`` on arrays that do not fit, dL/dW without dL/db where biases vary, an activation
    that the attack does not cover; ``TypeError`` for another attack; ``ReconstructionError`` where there is no result.
    """
    known = with_count(shared, known, seed)
    _check(shared, known)
    if shared.outputs > 1:
        return attack_outputs(shared, known, seed)
    return attack_one_output(shared, known, attack, seed)


def attack_one_output(
    shared: SharedGradient, known: Known, attack: AttackSpec | None = None, seed: int = 2
) -> GradientAttack:
    """``attack_gradient`` of one output and of arrays that ``entry_findings`` has passed, the number of features known."""
    chosen = estimator(shared, attack)
    if isinstance(chosen, LikelihoodAttack):
        return _from_likelihood(shared, known, chosen, seed)
    solve = _from_outputs if shared.gradient.ndim == 1 else _from_rows
    if not tells_norms(shared, known):
        found = solve(shared, known, chosen, seed)
        return (
            dataclasses.replace(found, labels=None)
            if known.norms is None
            else _assigned(shared, known, found)
        )
    free = known.norms is None and not known.homogeneous
    tried: list[GradientAttack] = []
    failures: list[ReconstructionError] = []
    for guess in _GUESSES if free else (1.0,):
        posed = dataclasses.replace(known, norms=(guess,) * known.B) if free else known
        try:
            start = solve(shared, posed, chosen, seed)
        except ReconstructionError as failure:
            failures.append(failure)
            continue
        tried.append(_fitted(shared, known, start))
        if tried[-1].unexplained < _NEAR:
            break
    if not tried:
        raise failures[0]
    return min(tried, key=lambda one: one.unexplained)


def _check(shared: SharedGradient, known: Known) -> None:
    wrong = errors(entry_findings(shared, known))
    if wrong:
        raise ValueError("; ".join(e.text for e in wrong))


def estimator(shared: SharedGradient, attack: AttackSpec | None) -> LikelihoodAttack | TensorAttack:
    """The attack that serves where none is told; ``TypeError`` for one that this gradient has no use for."""
    outputs = shared.gradient.ndim == 1
    if attack is None:
        return LikelihoodAttack(starts=_STARTS) if outputs else TensorAttack()
    if isinstance(attack, TensorAttack) or (outputs and isinstance(attack, LikelihoodAttack)):
        return attack
    kinds = "a LikelihoodAttack or a TensorAttack for dL/da" if outputs else "a TensorAttack for dL/dW"
    raise TypeError(f"attack must be {kinds}; got {attack!r}")


def with_count(shared: SharedGradient, known: Known, seed: int = 2) -> Known:
    """With the number of features that explains dL/da, where none is told (``attack.own.count.counted``), or the rank of
    dL/dW. Raises ``ValueError`` on arrays that do not fit."""
    if known.B:
        return known
    if shared.outputs > 1:
        raise ValueError("batch_size must be told where a network has several outputs; got None")
    one = dataclasses.replace(known, B=1)
    _check(shared, one)
    frame = Frame.of(shared, one)
    if shared.gradient.ndim == 2:
        ranks = [f.value for f in row_findings(shared, one, frame) if f.name == "rank"]
        B = int(ranks[0] or 0) if ranks else 0
    else:
        B = counted(shared, one, frame, free=tells_norms(shared, one), seed=seed)
    return dataclasses.replace(known, B=max(1, B), counted=True)


def tells_norms(shared: SharedGradient, known: Known) -> bool:
    """Whether the gradient can tell the features' norms: by an activation that is not homogeneous, by biases, or by dL/db
    beside dL/dW. Of ReLU without biases (x, r) and (c x, r/c) have the same gradient."""
    if not known.homogeneous:
        return True
    if shared.gradient.ndim == 2:
        return shared.bias_gradient is not None
    return shared.bias is not None and bool(shared.bias.any())


def _assigned(shared: SharedGradient, known: Known, found: GradientAttack) -> GradientAttack:
    """Unequal norms of a homogeneous activation, given to features anew where these are exact: the attack had output weights
    of 1/m only."""
    if known.equal_norms or found.labels is None:
        return found
    sizes, norms = (
        torch.linalg.vector_norm(found.features, dim=1),
        torch.tensor(known.norms, dtype=torch.float64),
    )
    constant = 0.0 if shared.output_bias is None else float(shared.output_bias)
    outputs = (found.labels + found.residuals - constant) / sizes
    labels = constant + norms * outputs[:, None] - (found.residuals * sizes)[:, None] / norms
    off = (labels.abs() - 1).abs()
    order = (sizes[:, None] - norms).abs().argmin(dim=1)
    if found.error is not None:
        order = torch.from_numpy(linear_sum_assignment(off.numpy())[1])
    own, every = norms[order], torch.arange(known.B)
    exchanged = min(
        max(float(off[i, order[k]]), float(off[k, order[i]]))
        for i, k in itertools.combinations(range(known.B), 2)
        if own[i] != own[k]
    )
    return dataclasses.replace(
        found,
        features=found.features * (own / sizes)[:, None],
        residuals=found.residuals * sizes / own,
        labels=labels[every, order],
        assignment=Assignment(float(off[every, order].max()), exchanged),
    )


def _fitted(shared: SharedGradient, known: Known, found: GradientAttack) -> GradientAttack:
    """With least squares on the features themselves: a test of the norms that were told, or the result where none were."""
    frame = found.frame
    fit = least_squares(shared, known, frame, _start(found))
    if known.norms is not None:
        return dataclasses.replace(found, fit=fit)
    if fit is None and _sized(found):
        return dataclasses.replace(found, norms="gradient")
    if fit is None or not fit.determined:
        sizes = torch.linalg.vector_norm(found.features, dim=1)
        unit, strengths = found.features / sizes[:, None], found.residuals * sizes
        return dataclasses.replace(
            found, features=unit, residuals=strengths, labels=None, norms="unknown", fit=fit
        )
    features, residuals, labels = given(shared, known, frame, fit.features, known.to_model * fit.residuals)
    exact = found.method == "sparse_recovery"
    allowed = _ALIKE * max(rounding(shared), fit.unexplained)
    least = fit.error / float(fit.norms.max())
    return dataclasses.replace(
        found,
        features=features,
        residuals=residuals,
        labels=labels,
        norms="gradient",
        method="sparse_recovery" if exact else "least_squares",
        unexplained=max(found.unexplained, fit.unexplained) if exact else fit.unexplained,
        structure=fit.structure,
        error=max(fit.error, found.error or 0.0),
        fit=fit,
        rivals=()
        if shared.activation is not None
        else rivals(Arrays.of(shared, frame), known.activation, fit.features, allowed=allowed, least=least),
    )


def _sized(found: GradientAttack) -> bool:
    """Whether exact recovery has the norms already: from biases, one known coordinate of every feature."""
    last = found.frame.posed.bias_scale
    return found.method == "sparse_recovery" and bool(
        last and torch.allclose(found.standard.features[:, -1], torch.tensor(last, dtype=torch.float64))
    )


def _start(found: GradientAttack) -> torch.Tensor:
    """Features in the frame's units; with biases, one coordinate of each is known and gives its size."""
    features, last = found.frame.features(found.standard), found.frame.posed.bias_scale
    if not last:
        return features
    size = last / found.standard.features[:, -1]
    return torch.where((size > 1 / _FAR) & (size < _FAR), size, 1.0)[:, None] * features


def _from_likelihood(
    shared: SharedGradient, known: Known, attack: LikelihoodAttack, seed: int
) -> GradientAttack:
    frame, free = Frame.of(shared, known), tells_norms(shared, known)
    found = most_likely(shared, known, frame, free=free, attack=attack, seed=seed)
    seen, norms = found.seen, "told"
    X, strengths = seen.features, seen.residuals
    if known.norms is None:
        norms = "gradient" if free and seen.determined else "unknown"
    if norms == "unknown":
        sizes = torch.linalg.vector_norm(X, dim=1)
        X, strengths = X / sizes[:, None], strengths * sizes
    features, residuals, labels = given(shared, known, frame, X, known.to_model * strengths)
    allowed = _ALIKE * max(rounding(shared), seen.unexplained)
    result = GradientAttack(
        features,
        residuals,
        None if norms == "unknown" else labels,
        norms,
        "likelihood",
        found.standard,
        frame,
        power=float(Arrays.of(shared, frame).gradient.square().mean()),
        unexplained=seen.unexplained,
        structure=seen.structure,
        neurons=shared.m,
        error=seen.error,
        fit=found.free,
        better=found.better,
        rivals=()
        if shared.activation is not None or norms != "gradient"
        else rivals(
            Arrays.of(shared, frame),
            known.activation,
            X,
            allowed=allowed,
            least=seen.error / float(seen.norms.max()),
        ),
    )
    return result if free or known.norms is None else _given_norms(shared, known, result)


def _given_norms(shared: SharedGradient, known: Known, found: GradientAttack) -> GradientAttack:
    """Unequal norms that the gradient does not tell: in the order of the features where no label says which has which."""
    if known.equal_norms:
        return found
    assert found.error is not None
    found = dataclasses.replace(found, error=found.error * max(known.posed_norms))
    if found.labels is not None:
        return _assigned(shared, known, found)
    own = torch.tensor(known.norms, dtype=torch.float64)
    return dataclasses.replace(found, features=found.features * own[:, None], residuals=found.residuals / own)


def _from_outputs(
    shared: SharedGradient, known: Known, attack: TensorAttack | None, seed: int
) -> GradientAttack:
    frame = Frame.of(shared, known)
    problem = output_problem(shared, known, frame)
    found = tensor_attack(problem.observation, problem.net, known.B, attack, seed)
    X = frame.features(found)
    outputs = Outputs.of(shared, known, frame)
    place = outputs.model(shared.m, None).at(outputs.size * X.double(), 0.0)
    features, residuals, labels = given(shared, known, frame, X, found.residuals)
    return GradientAttack(
        features,
        residuals,
        labels,
        "unknown" if known.norms is None else "told",
        "tensor_attack",
        found,
        frame,
        power=(known.to_model * outputs.scale) ** 2,
        unexplained=outputs.share(place),
        structure=outputs.structure(place),
        neurons=shared.m,
    )


def _from_rows(
    shared: SharedGradient, known: Known, attack: TensorAttack | None, seed: int
) -> GradientAttack:
    """Exact recovery where the activation and the precision allow it and every row is explained, else the tensor attack."""
    frame = Frame.of(shared, known)
    problem = row_problem(shared, known, frame)
    result = reconstruct_rows(problem, frame, attack, seed)
    found = result.reconstruction
    X = frame.features(found)
    gradient = problem.observation.gradient
    share = explained_rows(problem.net, gradient, found.features)
    unit = frame.units.gradient
    noise = math.ldexp(outside(shift(shared.gradient, -unit)[problem.kept], X), unit)
    features, residuals, labels = given(shared, known, frame, X, found.residuals)
    return GradientAttack(
        features,
        residuals,
        labels,
        "unknown" if known.norms is None else "told",
        result.method,
        found,
        frame,
        power=share.power,
        unexplained=share.unexplained if result.inexact else result.unexplained,
        structure=0.0,
        neurons=problem.net.m,
        error=None if result.inexact else result.rounding / frame.posed.scale,
        noise=RowNoise(noise, outside(gradient, found.features), second_order(gradient, found.features)),
        inexact=result.inexact,
        precision=problem.precision,
        search=result.search,
    )
