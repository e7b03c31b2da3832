"""How sure one may be of a reconstruction without knowing the truth: theory evaluated at the reconstruction itself."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bounds import Activation, GradientNoise, Kind, Setting, TensorAttack, evaluate
from bounds.errors import UnsupportedBound
from bounds.estimator import EQUAL_NORMS, moment_orders
from bounds.kinds.predicted.first_layer import first_layer_constants, first_layer_prediction
from bounds.kinds.predicted.unbiased import first_order
from bounds.law import Unbiased
from bounds.losses import loss_of
from bounds.statement import BoundValue

if TYPE_CHECKING:
    from attack.own.attack import GradientAttack, RowNoise
    from attack.own.findings import Finding
    from attack.own.gradient import SharedGradient

Array = NDArray[np.float64]
#: A predicted error above this fraction of the features' norm makes a result suspect, above 1 worthless.
LARGE = 0.5
#: Unexplained power above this multiple of the predicted one (and above 1e-6) makes a result suspect.
EXCESS = 3.0
#: Draws and seed of the Gaussian averages in B dimensions: a relative accuracy of about 1 %.
DRAWS, SEED = 100_000, 11
#: Draws of the features' errors, and of Gaussians for each, for the share of dL/dW's power that they leave unexplained.
ERRORS, ROWS = 40, 2_000
#: A known coordinate that is off by this multiple of the predicted error makes a result suspect.
FAR = 4.0
#: Findings about the weights' distribution, of which exact recovery makes no use.
OF_THE_WEIGHTS = ("scale", "mean", "kurtosis", "row norms", "correlation", "bias")


@dataclass(frozen=True)
class Confidence:
    """status: "ok", "suspect" or "failed", with reasons for the latter two.

    method: the function that gave the result, "tensor_attack", "sparse_recovery" or "first_layer_attack".
    predicted: PREDICTED R of the features, in their own units, at the reconstruction in place of the truth, the power that
    is not explained taken for noise; relative: over the root mean square norm of the features. unexplained: share of the
    gradient's power that the reconstruction leaves; expected: the share that errors of the predicted size leave without
    noise; noise: standard deviation of independent noise on the entries that would make up the difference. For dL/dW noise
    is what lies outside the features' span, ``expected`` contains it, and exact recovery has predicted = expected = 0.
    gap, misfit, agreeing, starts: the attack's own diagnostics. sign_free: each feature is known up to its sign only, its
    label not at all. None where there is no such number.
    """

    status: str
    reasons: tuple[str, ...]
    method: str | None = None
    predicted: float | None = None
    relative: float | None = None
    unexplained: float | None = None
    expected: float | None = None
    noise: float | None = None
    gap: float | None = None
    misfit: float | None = None
    agreeing: int | None = None
    starts: int | None = None
    sign_free: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, eq=False)
class Assessed:
    """What was found about a shared gradient, the attack's result (None without one) and the confidence in it."""

    findings: tuple[Finding, ...]
    attacked: GradientAttack | None
    confidence: Confidence


def assess(
    shared: SharedGradient,
    batch_size: int,
    activation: str | Activation | None = None,
    norms: Sequence[float] | None = None,
    scale: float | None = None,
    attack: TensorAttack | None = None,
    loss: str | None = None,
    seed: int = 2,
) -> Assessed:
    """Check the gradient, attack it, and say how far the result can be trusted. Arguments as of ``attack_gradient``.

    A finding of level error, or an attack without result, gives the status "failed" and no reconstruction. Raises
    ``ValueError`` or ``TypeError`` on bad arguments and on an activation that is not covered.
    """
    from attack import ReconstructionError
    from attack.own.attack import attack_gradient
    from attack.own.check import check_gradient
    from attack.own.known import activation_of

    estimator = TensorAttack() if attack is None else attack
    function = activation_of(shared, activation)
    loss_of(loss)
    findings = check_gradient(shared, batch_size, function, norms, scale, seed)
    errors = tuple(f.text for f in findings if f.level == "error")
    if errors:
        return Assessed(findings, None, Confidence("failed", errors))
    try:
        attacked = attack_gradient(shared, batch_size, function, norms, scale, estimator, loss, seed)
    except ReconstructionError as error:
        return Assessed(findings, None, Confidence("failed", (str(error),), gap=error.diagnostics.gap))
    # Exact recovery explains every row: how the weights are distributed plays no part.
    idle = OF_THE_WEIGHTS if attacked.method == "sparse_recovery" else ()
    warnings = tuple(f"{f.name}: {f.text}" for f in findings if f.level == "warning" and f.name not in idle)
    return Assessed(findings, attacked, confidence(attacked, function, estimator, warnings=warnings))


def confidence(
    attacked: GradientAttack,
    activation: Activation,
    attack: TensorAttack,
    *,
    warnings: Sequence[str] = (),
) -> Confidence:
    """The confidence in a reconstruction; ``warnings`` make it suspect."""
    if attacked.method == "sparse_recovery":  # it has checked every row: there is no error to predict
        exact = BoundValue(
            attacked.rounding, "exact: every row is explained", (), "attack/rows/sparse_recovery.py"
        )
        # A neuron whose preactivation is within rounding of zero may be on either side.
        expected = 0.0 if attacked.precision is None else attacked.precision.rounding
        return _judged(attacked, _Seen(exact, expected), warnings)
    setting = plug_in(attacked, activation)
    if attacked.noise is None:
        return _judged(attacked, _of_output_weights(attacked, setting, attack), warnings)
    seen = _of_rows(attacked.noise, setting, attack)
    return _judged(attacked, seen, (*warnings, *_misplaced(attacked, seen.error.value)))


@dataclass(frozen=True)
class _Seen:
    """error: PREDICTED R as the problem was posed; expected: share of the gradient's power that errors leave unexplained;
    noise: standard deviation of noise on the entries, as the gradient was given."""

    error: BoundValue
    expected: float = 0.0
    noise: float = 0.0


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


def _judged(attacked: GradientAttack, seen: _Seen, warnings: Sequence[str]) -> Confidence:
    """The verdict on what was seen."""
    diagnostics = attacked.standard.diagnostics
    frame = attacked.frame
    norm = math.sqrt(float(frame.features(attacked.standard).square().sum(dim=1).mean()))
    result = Confidence(
        "failed",
        (),
        method=attacked.method,
        unexplained=attacked.unexplained,
        expected=seen.expected,
        noise=seen.noise,
        gap=diagnostics.gap,
        misfit=diagnostics.misfit,
        agreeing=diagnostics.agreeing,
        starts=diagnostics.starts,
        sign_free=diagnostics.sign_free,
    )
    reasons = [*diagnostics.warnings, *warnings]
    if attacked.unexplained > max(1e-6, EXCESS * seen.expected):
        reasons.append(
            f"{attacked.unexplained:.2%} of the gradient's power is not explained, {seen.expected:.2%} predicted: noise "
            f"of standard deviation {seen.noise:.3g} (the prediction takes it in), or another model"
        )
    if seen.error.value is None:
        return dataclasses.replace(result, reasons=(*reasons, f"no prediction: {seen.error.why}"))
    error = seen.error.value / frame.posed.scale
    relative = error / norm
    if relative > LARGE:
        reasons.append(f"predicted error {relative:.2f} of the features' norm")
    status = "failed" if relative >= 1 else "suspect" if reasons else "ok"
    predicted = math.ldexp(error, frame.units.norms)
    return dataclasses.replace(
        result, status=status, reasons=tuple(reasons), predicted=predicted, relative=relative
    )


def plug_in(attacked: GradientAttack, activation: Activation) -> Setting:
    """The setting with reconstructed features and residuals in place of the true ones, as the problem was posed."""
    from attack.own.coordinates import shifted

    function = shifted(activation, attacked.frame.posed.bias_mean)
    X = attacked.standard.features.cpu().numpy()
    norms = np.linalg.norm(X, axis=1)
    wide = np.array([function.coefficient(0, float(n)) for n in norms])
    labels = wide - attacked.standard.residuals.cpu().numpy()
    if np.ptp(norms) > EQUAL_NORMS * norms.max():  # theory speaks of labels +-1 there
        labels = np.where(labels < 0, -1.0, 1.0)
    return Setting.from_features(X, labels, attacked.neurons, function)


@dataclass(frozen=True)
class Unexplained:
    """Power of the gradient that errors of first-order size leave unexplained: ``quiet + of_noise s``, s the variance of
    noise on its entries."""

    quiet: float
    of_noise: float


def unexplained_power(setting: Setting, attack: TensorAttack) -> Unexplained:
    """What errors of first-order size leave unexplained.

    With errors e_i, ``g - sum_i r_i sigma(w.xhat_i) = sum_i r_i sigma'(w.x_i) w.e_i`` to first order. Orthogonal to the span
    ``E <e_i, e_l> = ((d - B)/m) n_i n_l E[(h^2 + s) q_i q_l]`` with ``q_i = z.A^-1 u_i``, or ``<Z_i, He_2(z)>`` where the
    third moment gives the span (bounds/proofs/unexplained-share.md, odd-activations.md), and w.e_i is independent of the
    span's part of w. Errors inside the span are smaller by 1/(d - B) in number, not in their constants: they are counted
    as independent of each other, orthogonal to their feature and of the size that first order gives them, which is two to
    four times what is left of them, as they compensate in part: it matters for d near B only. The noise itself (s) is left
    out. The averages are over ``DRAWS`` Gaussians in B dimensions.

    Raises ``UnsupportedBound`` where ``first_order`` does.
    """
    z = np.random.default_rng(SEED).standard_normal((DRAWS, setting.B))
    function, r, norms = setting.activation, setting.residuals, setting.norms
    u = z @ setting.directions.T
    hidden = function(u * norms)
    step = 1e-4 * norms
    slopes = (function(u * norms + step) - function(u * norms - step)) / (2 * step)
    h = hidden @ r
    if attack.residualized:
        c0, c1 = (np.array([function.coefficient(k, float(n)) for n in norms]) for k in (0, 1))
        h = h - (c0 + c1 * u) @ r
    q, white = _span_map(setting, z)
    share = (setting.d - setting.B) / setting.m * np.outer(norms * r, norms * r) * (slopes.T @ slopes / DRAWS)
    quiet = float(np.sum(share * ((q * (h**2)[:, None]).T @ q / DRAWS)))
    of_noise = float(np.sum(share * white))
    # In the span: none for B = 1.
    if setting.B > 1:
        silent = first_order(setting, attack).inplane
        noisy = first_order(setting, attack, Unbiased(setting.residuals, 1.0)).inplane - silent
        inside = (z**2).sum(axis=1, keepdims=True) - u**2  # |part of z orthogonal to u_i|^2
        weight = r**2 * np.mean(slopes**2 * inside, axis=0) / (setting.B - 1) / setting.m
        quiet += float(weight @ silent)
        of_noise += float(weight @ noisy)
    return Unexplained(quiet, of_noise)


def _span_map(setting: Setting, z: Array) -> tuple[Array, Array]:
    """q (N, B) of ``unexplained_power`` at the points z (N, B), and ``E[q_i q_l]`` (B, B)."""
    r, u = setting.residuals, setting.directions
    low = moment_orders(setting.activation)[0]
    order = 3 if low == 1 else 2
    strength = r * np.array([setting.activation.coefficient(order, float(n)) for n in setting.norms])
    if order == 2:
        a = np.linalg.pinv((u.T * strength) @ u) @ u.T
        return z @ a, a.T @ a
    unfolded = (u.T * strength) @ np.einsum("ia,ib->iab", u, u).reshape(len(u), -1)
    Z = (np.linalg.pinv(unfolded) @ u.T).T.reshape(len(u), *[len(u)] * 2)
    q = np.einsum("na,nb,iab->ni", z, z, Z, optimize=True) - np.einsum("iaa->i", Z)
    return q, 2 * np.einsum("iab,lab->il", Z, Z)


def unexplained_row_power(setting: Setting, attack: TensorAttack, sigma: float) -> float:
    """Share of dL/dW's power that errors of first-order size leave unexplained, with noise ``sigma`` on every entry.

    Inside the span only: outside it errors and noise are of one size, and the errors' share is smaller by 1/m. A guide, no
    first-order result: the features' errors are taken for independent of each other, while those of the fit compensate in
    part, and leave a quarter of this (smooth activations) to all of it (ReLU). Where the
    derivative jumps, as ReLU's does, the share grows as the errors and not as their squares, so it is measured: ``ERRORS``
    Gaussian errors of the predicted variance, orthogonal to each feature, on ``ROWS`` Gaussian neurons each.
    Raises ``UnsupportedBound`` where ``first_layer_prediction`` does.
    """
    constants = first_layer_constants(setting, attack)
    spread = (setting.m * sigma) ** 2
    B, u, n, r = setting.B, setting.directions, setting.norms, setting.residuals
    derivative = setting.activation.derivative
    assert derivative is not None  # first_layer_constants has seen to it
    sizes = np.sqrt((constants.inplane + spread * constants.white) / setting.m / max(B - 1, 1)) / n
    rng = np.random.default_rng(SEED)
    shares, powers = [], []
    for _ in range(ERRORS if B > 1 else 1):
        z = rng.standard_normal((ROWS, B))
        moved = rng.standard_normal((B, B)) * sizes[:, None]
        moved = u + moved - np.sum(moved * u, axis=1, keepdims=True) * u
        moved /= np.linalg.norm(moved, axis=1, keepdims=True)
        seen, found = (np.broadcast_to(derivative(z @ v.T * n), (ROWS, B)) * n for v in (u, moved))
        rows = (seen * r) @ u
        gram = (found.T @ found) * (moved @ moved.T)
        right = np.einsum("ji,jk,ik->i", found, rows, moved, optimize=True)
        fitted = (found * (np.linalg.pinv(gram, hermitian=True) @ right)) @ moved
        shares.append(float(np.mean(np.sum((rows - fitted) ** 2, axis=1))))
        powers.append(float(np.mean(np.sum(rows**2, axis=1))))
    noise = setting.d * spread
    return (float(np.mean(shares)) + noise) / (float(np.mean(powers)) + noise)
