"""Each assumption of the tensor attack broken in turn: what it costs, and what a server that knows can do about it.

A ``Case`` is a world (weights, biases, output weights, features: one assumption broken) and a server (``naive``: the
attack as it is; otherwise a remedy that uses public knowledge alone). The same seed gives the same world to every server.
The first conditions break nothing: the negative control.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from bounds import ACTIVATIONS, Activation, NoDefense, Setting, TensorAttack, evaluate
from verify.study import Cell, Condition, Failure, Findings, Outcome, Row, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from attack import Observation, Reconstruction, TwoLayerNet

Array = NDArray[np.float64]
D, WIDTHS = 50, (40_000, 160_000)
QUANTITIES = ("rmse", "direction", "span", "label", "own_label", "predicted")
#: The constant bias; +1 would make the residual of label 1 nearly vanish.
CONSTANT = -0.5
#: Training: mean-field rate over m, samples in a batch.
RATE, BATCH = 0.5, 10


@dataclass(frozen=True)
class Case:
    """world: keywords of ``build``; server: a name in ``SERVERS``; shown: the numbers that the figure shows.

    group: what is broken, in words; the conditions of a group differ in the server and in m.
    """

    group: str
    server: str
    m: int
    world: tuple[tuple[str, Any], ...] = ()
    shown: tuple[str, ...] = ("rmse",)

    @property
    def condition(self) -> Condition:
        """As the study names it; unique."""
        return {"broken": self.group, "server": self.server, "m": self.m}


@dataclass(frozen=True, eq=False)
class World:
    """W (m, d), bias (m,), output weights (m,) with f = sum_j output_j sigma(w_j.x + b_j), and the private X, y."""

    weights: Array
    bias: Array
    output: Array
    activation: Activation
    X: Array
    y: Array

    @cached_property
    def hidden(self) -> Array:
        return np.asarray(self.activation(self.X @ self.weights.T + self.bias))

    @cached_property
    def residuals(self) -> Array:
        return np.asarray(self.hidden @ self.output - self.y)

    @property
    def gradient(self) -> Array:
        """dL/d(output) for the loss 1/2 sum_i (f(x_i) - y_i)^2: it holds the output weights through f alone."""
        return np.asarray(self.residuals @ self.hidden)


# --- worlds -----------------------------------------------------------------------------------------------------------


def build(
    m: int,
    seed: int,
    activation: str = "relu",
    weights: str = "gaussian",
    output: str = "mean",
    bias: str = "none",
    features: str = "orthonormal",
    norms: tuple[float, ...] = (1.0, 1.0),
    steps: int = 0,
) -> World:
    """One draw. Streams are separated by purpose, so that equal seeds give equal weights whatever else differs."""
    from attack.streams import numpy_generator

    generator = numpy_generator(seed, "weights")
    W = generator.standard_normal((m, D))
    if weights == "kaiming":
        W *= math.sqrt(2 / D)
    elif weights == "uniform":  # PyTorch's default for a linear layer
        W = (2 * special.ndtr(W) - 1) / math.sqrt(D)
    more = numpy_generator(seed, "noise")
    b = {
        "none": lambda: np.zeros(m),
        "gaussian": lambda: more.standard_normal(m),
        "constant": lambda: np.full(m, CONSTANT),
    }[bias]()
    a = np.full(m, 1 / m) if output == "mean" else more.standard_normal(m) / math.sqrt(m)
    function = ACTIVATIONS.get(activation, SQUARE)
    X = _features(features, len(norms), numpy_generator(seed, "data")) * np.array(norms)[:, None]
    # E z^2 = 1: a label 1 would make the residual of z^2 vanish
    y = np.where((np.arange(len(norms)) % 2 == 0) & (activation in ACTIVATIONS), 1.0, -1.0)
    if steps:
        W, a = train(W, a, function, steps, numpy_generator(seed, "data", 1))
    return World(W, b, a, function, X, y)


def _features(kind: str, size: int, generator: np.random.Generator) -> Array:
    if kind == "axes":
        return np.eye(D)[:size]
    frame = np.linalg.qr(generator.standard_normal((D, size)))[0].T
    if kind == "dependent":
        frame[-1] = (frame[0] + frame[1]) / math.sqrt(2)
    if kind == "cosine .99":
        frame[1] = 0.99 * frame[0] + math.sqrt(1 - 0.99**2) * frame[1]
    return np.asarray(frame)


def train(
    W: Array, a: Array, activation: Activation, steps: int, generator: np.random.Generator
) -> tuple[Array, Array]:
    """Honest training: SGD on W and a with rate ``RATE m`` (so that every neuron moves by an amount of order one), on
    fresh batches of uniform unit vectors with labels sign(v.x), mean squared loss. (W, a) after ``steps`` steps."""
    m = len(a)
    assert activation.derivative is not None
    W, strength = W.astype(np.float32), (m * a).astype(np.float32)
    teacher = generator.standard_normal(D)
    for _ in range(steps):
        X = generator.standard_normal((BATCH, D))
        X = (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)
        inside = W @ X.T
        hidden = activation(inside).astype(np.float32)
        r = ((strength @ hidden) / m - np.sign(X @ teacher)).astype(np.float32) * np.float32(RATE / BATCH)
        W = W - ((activation.derivative(inside).astype(np.float32) * strength[:, None]) * r) @ X
        strength = strength - hidden @ r
    return W.astype(float), strength.astype(float) / m


#: z^2, which has no third or fourth Hermite coefficient.
SQUARE = Activation("z2", lambda t: t**2, lambda t: 2 * t)


# --- servers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Public:
    """What the server has: its network, the gradient, the norms it believes in."""

    weights: Array
    bias: Array
    output: Array
    activation: Activation
    gradient: Array
    norms: tuple[float, ...]
    seed: int

    def network(self, weights: Array | None = None, activation: Activation | None = None) -> TwoLayerNet:
        import torch

        from attack import TwoLayerNet

        W = torch.from_numpy(self.weights if weights is None else weights)
        return TwoLayerNet.from_weights(W, self.activation if activation is None else activation)

    def observation(self) -> Observation:
        import torch

        from attack import Observation

        return Observation(torch.from_numpy(self.gradient), len(self.norms), self.norms, NoDefense())


@dataclass(frozen=True, eq=False)
class Found:
    """features (B, d); residuals (B,) or None; the setting whose PREDICTED, divided by ``scale``, speaks about it."""

    features: Array
    residuals: Array | None
    setting: Callable[[World], Setting] | None = None
    scale: float = 1.0


def _attack(net: TwoLayerNet, observation: Observation, seed: int) -> Reconstruction:
    from attack import tensor_attack

    return tensor_attack(observation, net, seed=seed)


def naive(public: Public) -> Found:
    """The attack as it is, and what theory promises where its assumptions hold."""
    found = _attack(public.network(), public.observation(), public.seed)
    return Found(found.features.numpy(), found.residuals.numpy(), _setting(1.0, 0.0, 0.0))


def known_scale(public: Public) -> Found:
    """The scale of the weights known (here measured: its relative error is 1/sqrt(2 m d))."""
    import torch

    from attack.weights import Coordinates

    return standardised(Coordinates.measured(torch.from_numpy(public.weights)).scale)(public)


def standardised(scale: float = 1.0, mean: float = 0.0, bias: float = 0.0) -> Callable[[Public], Found]:
    """In coordinates where weights and biases of known distribution are standard Gaussian."""

    def server(public: Public) -> Found:
        import torch

        from attack.weights import Coordinates

        there = Coordinates(scale, mean, bias)
        net = there.network(public.network(), torch.from_numpy(public.bias))
        found = there.undo(_attack(net, there.observation(public.observation()), public.seed))
        return Found(found.features.numpy(), found.residuals.numpy(), _setting(scale, mean, bias), scale)

    return server


def whitened(public: Public) -> Found:
    """Weights made white by their own second moment M: ``w.x = (M^-1/2 w).(M^1/2 x)``. The norm of M^1/2 x is not public,
    which does not matter to a homogeneous activation; the known norm is put back at the end."""
    values, vectors = np.linalg.eigh(public.weights.T @ public.weights / len(public.weights))
    inverse_root = (vectors / np.sqrt(values)) @ vectors.T
    found = _attack(public.network(public.weights @ inverse_root), public.observation(), public.seed)
    X = found.features.numpy() @ inverse_root
    X *= np.array(public.norms)[:, None] / np.linalg.norm(X, axis=1, keepdims=True)
    return Found(X, found.residuals.numpy(), _setting(1.0, 0.0, 0.0))


def gaussian_map(public: Public) -> Found:
    """Each entry of uniform weights mapped to a Gaussian one of equal rank, for the moments."""
    u = public.weights * math.sqrt(D)
    return _mapped(public, special.ndtri(np.clip((u + 1) / 2, 1e-12, 1 - 1e-12)))


def diagonal_removed(public: Public) -> Found:
    """Uniform weights of known scale, less the first-order effect of their fourth cumulant kappa on the span.

    For spread features ``E[g (w_k^2 - 1)] = (1 + kappa/2)`` times what Stein's identity gives, so the second moment is
    ``sum_i r_i mu_2 (x_i x_i^T + kappa/2 diag(x_i^2))`` and x_i moves out of the span by
    ``(I - UU^T) kappa/2 diag(sum_l r_l x_l^2) A^-1 x_i`` with ``A = sum_l r_l x_l x_l^T``: evaluated at the
    reconstruction and subtracted.
    """
    found = known_scale(public)
    X, r = found.features, found.residuals
    assert r is not None
    kappa = -1.2
    inverse = np.linalg.pinv(X.T @ np.diag(r) @ X)
    moved = kappa / 2 * (X @ inverse) * (r @ X**2)
    basis = np.linalg.qr(X.T)[0]
    return Found(X - (moved - moved @ basis @ basis.T), r, found.setting, found.scale)


def _mapped(public: Public, phi: Array) -> Found:
    """The attack on phi(W) in place of W. For spread features ``w.x`` is, given ``phi(w).x``, Gaussian with correlation c:
    the ReLU of it has the mean ``c t Phi(c t/s) + s phi(c t/s)``, s^2 = 1 - c^2 (features of norm 1)."""
    w = public.weights / math.sqrt(np.mean(public.weights**2))
    c = float(np.mean(w * phi))
    s = math.sqrt(1 - c * c)

    def smooth(t: Array) -> Array:
        u = c * t / s
        return np.asarray(c * t * special.ndtr(u) + s * np.exp(-(u**2) / 2) / math.sqrt(2 * math.pi))

    found = _attack(
        public.network(phi, Activation("smoothed relu", smooth)), public.observation(), public.seed
    )
    return Found(found.features.numpy(), None)


def span_only(public: Public) -> Found:
    """An orthonormal basis of the span, from the second moment: all that z^2 gives."""
    import torch

    from attack.moments import Response, apply_second_moment, first_moment
    from attack.span import dominant_span

    net, gradient = public.network(), torch.from_numpy(public.gradient)
    mean, slope = first_moment(net, gradient)
    response = Response(gradient, mean, slope)
    start = torch.from_numpy(np.random.default_rng(public.seed).standard_normal((D, 4)))
    span = dominant_span(lambda V: apply_second_moment(net, response, V), start, len(public.norms))
    return Found(span.V.T.numpy(), None)


def _setting(scale: float, mean: float, bias: float) -> Callable[[World], Setting]:
    """The setting, in the coordinates of the server, with the residuals that this very network has."""

    def setting(world: World) -> Setting:
        from attack.weights import Coordinates

        there = Coordinates(scale, mean, bias)
        exact = there.setting(world.X, world.y, len(world.weights), world.activation)
        # rounded, so that the quadratures of equal settings are done once
        gram = np.round(exact.gram, 12)
        norms = np.sqrt(np.diag(gram))
        if np.ptp(norms) > 1e-9:  # labels must be +-1 there
            return Setting(exact.d, exact.m, gram, world.y, exact.activation)
        wide = np.array([exact.activation.coefficient(0, float(n)) for n in norms])
        return Setting(exact.d, exact.m, gram, wide - world.residuals, exact.activation)

    return setting


#: What a server can do. Each uses ``Public`` alone.
SERVERS: Mapping[str, Callable[[Public], Found]] = {
    "naive": naive,
    "known scale": known_scale,
    "Gaussian map": gaussian_map,
    "diagonal removed": diagonal_removed,
    "whitened": whitened,
    "norms taken for 1": naive,
    "norms known": naive,
    "bias as a coordinate": standardised(bias=1.0),
    "shifted activation": standardised(mean=CONSTANT),
    "span only": span_only,
}


def attacked(case: Case, seed: int) -> dict[str, float]:
    """One attack: ``rmse`` (R), ``direction`` (R of unit vectors), ``span`` (distance from it), the largest error of a
    label with f from output weights 1/m (``label``) and from the network's own (``own_label``), and ``predicted``; those
    that there are.

    Raises ``attack.ReconstructionError`` where the attack reports that it has no result or refuses the activation.
    """
    from attack import Diagnostics, ReconstructionError, matched_error

    world = build(case.m, seed, **dict(case.world))
    norms = np.linalg.norm(world.X, axis=1)
    known = np.ones_like(norms) if case.server == "norms taken for 1" else norms
    public = Public(
        world.weights,
        world.bias,
        world.output,
        world.activation,
        world.gradient,
        tuple(known.tolist()),
        seed,
    )
    try:
        found = SERVERS[case.server](public)
    except ValueError as error:  # an activation that the attack does not cover
        reason = str(error)
        raise ReconstructionError(reason, Diagnostics("failed", (reason,), 0.0, (), 0.0, 0)) from error
    match = matched_error(world.X, found.features)
    if case.server == "span only":
        return {"span": match.span}
    unit = found.features / np.linalg.norm(found.features, axis=1, keepdims=True)
    result = {
        "rmse": match.rmse,
        "direction": matched_error(world.X / norms[:, None], unit).rmse,
        "span": match.span,
    }
    if found.residuals is not None:
        hidden = world.activation(found.features @ world.weights.T + world.bias)
        for name, forward in (("label", hidden.mean(axis=1)), ("own_label", hidden @ world.output)):
            labels = (forward - found.residuals)[list(match.permutation)]
            result[name] = float(np.max(np.abs(labels - world.y)))
    if found.setting is not None:
        predicted = predicted_error(found.setting(world))
        if predicted is not None:
            result["predicted"] = predicted / found.scale
    return result


def predicted_error(setting: Setting) -> float | None:
    """PREDICTED of the undefended, residualized attack; None where it is not stated."""
    return evaluate(NoDefense(), setting, TensorAttack()).predicted


# --- the study --------------------------------------------------------------------------------------------------------


def _cases() -> tuple[Case, ...]:
    narrow, wide = WIDTHS
    found: list[Case] = []

    def add(
        group: str,
        servers: Sequence[str],
        shown: Sequence[str] = ("rmse",),
        floor: Sequence[str] = (),
        **world: Any,
    ) -> None:
        """floor: servers that are also measured at the larger width, where a floor would show."""
        for server in servers:
            for m in (narrow, wide) if server in floor else (narrow,):
                found.append(Case(group, server, m, tuple(sorted(world.items())), tuple(shown)))

    add("nothing broken, ReLU", ["naive"], floor=["naive"])
    add("nothing broken, GELU", ["naive"], activation="gelu")
    known = "known scale"
    add("Kaiming weights, ReLU", ["naive", known], floor=[known], weights="kaiming")
    add("Kaiming weights, GELU", ["naive", known], floor=[known], weights="kaiming", activation="gelu")
    remedies = [known, "Gaussian map", "diagonal removed"]
    add("uniform weights, spread x", ["naive", *remedies], floor=remedies, weights="uniform")
    add(
        "uniform weights, x = e_i",
        ["naive", *remedies],
        floor=remedies[:1],
        weights="uniform",
        features="axes",
    )
    add("random output weights", ["naive"], ["rmse", "label", "own_label"], output="random")
    add("after 1 training step", ["naive", "whitened"], steps=1)
    add("after 10 training steps", ["naive", "whitened"], floor=["naive", "whitened"], steps=10)
    add("after 100 training steps", ["naive"], steps=100)
    add(
        "after 100 training steps",
        ["whitened"],
        ["rmse", "label", "own_label"],
        floor=["whitened"],
        steps=100,
    )
    unequal = (0.5, 2.0)
    both = ["norms taken for 1", "norms known"]
    add("norms .5 and 2, ReLU", both, ["rmse", "direction"], norms=unequal)
    add("norms .5 and 2, GELU", both, ["rmse", "direction"], activation="gelu", norms=unequal)
    add("features at cosine .99", ["naive"], features="cosine .99")
    add("x₃ in the span of x₁, x₂", ["naive"], features="dependent", norms=(1.0, 1.0, 1.0))
    add("z²", ["naive", "span only"], activation="z2")
    add(
        "biases N(0, 1)",
        ["naive", "bias as a coordinate"],
        floor=["naive", "bias as a coordinate"],
        bias="gaussian",
    )
    add(f"biases all {CONSTANT:g}", ["naive", "shifted activation"], bias="constant")
    return tuple(found)


CASES: tuple[Case, ...] = _cases()


def trial(condition: Condition, seed: int) -> Outcome:
    """One attack; a ``Failure`` where the attack reports that it has no result."""
    from attack import ReconstructionError

    case = next(case for case in CASES if case.condition == condition)
    try:
        return {k: float(f"{v:.6g}") for k, v in attacked(case, seed).items()}
    except ReconstructionError as error:
        return Failure(str(error))


def rms(cell: Cell, quantity: str) -> float | None:
    """Root mean square over the trials that have the quantity; None if none has."""
    values = cell.values(quantity)
    return math.sqrt(np.mean(np.square(values))) if values.size else None


def ratio(cell: Cell) -> float | None:
    """Root mean square over the trials of measured over predicted, each trial with its own residuals."""
    values = [
        o["rmse"] / o["predicted"]
        for o in cell.outcomes
        if not isinstance(o, Failure) and {"rmse", "predicted"} <= o.keys()
    ]
    return math.sqrt(np.mean(np.square(values))) if values else None


def summary(found: Findings) -> list[Row]:
    """A row for each condition: failures, and root mean squares over the trials that have a result."""
    return [
        dict(cell.condition)
        | {"failed": f"{len(cell.failures)}/{len(cell.outcomes)}"}
        | {name: rms(cell, name) for name in QUANTITIES}
        | {"ratio": ratio(cell)}
        for cell in found.cells
    ]


def draw(found: Findings) -> Figure:
    """A row for each world and server on a logarithmic axis: trials, their root mean square, PREDICTED, failures."""
    from matplotlib.figure import Figure

    words = {
        "rmse": "",
        "direction": " (directions)",
        "label": " (labels, f with 1/m)",
        "own_label": " (labels, own f)",
    }
    lines: dict[tuple[str, str, str], list[tuple[int, Cell]]] = {}
    for case in CASES:
        for cell in found.where(**case.condition):
            for shown in ("span",) if case.server == "span only" else case.shown:
                lines.setdefault((case.group, case.server, shown), []).append((case.m, cell))
    figure = Figure(figsize=(11, 0.235 * len(lines) + 1.4), layout="constrained")
    axes = figure.subplots()
    groups = list(dict.fromkeys(group for group, _, _ in lines))
    for y, ((group, server, shown), cells) in enumerate(lines.items()):
        if groups.index(group) % 2 == 0:
            axes.axhspan(y - 0.5, y + 0.5, color="0.95", zorder=0)
        colour = (
            "C3" if server in ("naive", "norms taken for 1") and not group.startswith("nothing") else "C0"
        )
        for m, cell in cells:
            full = m == WIDTHS[1]
            at = y if len(cells) == 1 else y + (0.18 if full else -0.18)
            values = cell.values(shown)
            axes.plot(
                values,
                [at] * len(values),
                ".",
                color=colour,
                alpha=0.35 if full else 0.2,
                markersize=3,
            )
            mean, promised = rms(cell, shown), rms(cell, "predicted")
            if mean is not None:
                axes.plot(
                    [mean],
                    [at],
                    "o",
                    color=colour,
                    alpha=1.0 if m == WIDTHS[1] else 0.45,
                    markersize=5,
                    markeredgewidth=0,
                )
            if promised is not None and shown == "rmse":
                axes.plot([promised], [at], "|", color="black", markersize=8, markeredgewidth=1.4)
            if cell.failures:
                note = f"{len(cell.failures)} of {len(cell.outcomes)} fail"
                axes.text(4.4, at, note, fontsize=7, color=colour, va="center")
    axes.set_yticks(
        range(len(lines)), [f"{g}: {s}{words.get(w, f' ({w})')}" for g, s, w in lines], fontsize=8
    )
    axes.set(xscale="log", xlim=(0.004, 9.0), ylim=(len(lines) - 0.5, -0.5))
    axes.set_xlabel("error: R, or what the row says (1: guessing zero, dotted)")
    axes.axvline(1.0, color="0.5", linestyle=":", linewidth=1)
    axes.set_title(
        f"Each assumption broken in turn, d = {D}. Red: the attack as it is, blue: negative control or remedy;\n"
        f"small dots: trials, large: their root mean square, pale at m = {WIDTHS[0]:,}, full at m = {WIDTHS[1]:,}; "
        "bars: PREDICTED\n(for red: what theory promises where the assumption holds)".replace(
            ",", "\u2009"
        ).replace("\u2009 ", ", "),
        fontsize=9,
    )
    return figure


STUDY = Study(
    name="assumptions",
    title="each assumption of the attack broken in turn, and what a server can do about it",
    claims=("Q7",),
    conditions=tuple(case.condition for case in CASES),
    quantities=QUANTITIES,
    trial=trial,
    summary=summary,
    draw=draw,
    trials=20,
    seed=77,
)
