"""The inert description of the estimator: one object for theory and experiment, so that defaults cannot drift."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from bounds import checks
from bounds.gaussian.activations import ZERO, Activation

#: Public norms closer than this fraction count as equal; else the attack has to find out which feature has which.
EQUAL_NORMS = 1e-6


#: The weakest eigenvalue must stand above the noise of the second moment by this factor, else there is no result.
MIN_GAP = 1.05


#: The span step stops when every residual is below this fraction of the weakest eigenvalue.
RITZ_TOLERANCE = 1e-4


@dataclass(frozen=True)
class AttackSpec:
    """Base of the descriptions of attacks: frozen, inert, complete. A subclass sets ``name``, under which ``attack`` has the
    code, and its options as fields; what theory says of it is in ``bounds.kinds.stated.THEORY``. ``called``: its name in a
    sentence, "NAME attack" where a subclass does not say it."""

    name: ClassVar[str]
    called: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" in vars(cls) and "called" not in vars(cls):
            cls.called = f"{cls.name} attack".replace("_", " ")


@dataclass(frozen=True)
class TensorAttack(AttackSpec):
    """Which tensor attack.

    moments: ``"residualized"`` (ours: the gradient less its mean and linear part) or ``"plain"`` (Wang, Lee, Lei 2023).
    core_weight: weight omega of the core tensor's squared misfit against the lower moment's in the final fit;
        None means ``k! / q!`` for a lower moment of order k (2; 1 for odd activations) and a core of order q, which makes
        both equally noisy under white noise (E He_k(L)^2 = k! |L|^2).
    starts: number of starts of the fit in B dimensions, 1 to 64.
    same_neuron: ``"leave_one_out"`` evaluates neuron j's Hermite polynomials at the span that the other neurons give (to
        first order), which removes the bias of order d/m; ``"ignored"`` does not, as in the literature; ``"split"`` takes
        mean, linear part and span from one half of the neurons and the fit's moments from the other, which costs sqrt(2) in
        the error and leaves little to bound (not for odd activations).
    contraction: where mu_2 = 0 (odd activations), the vector that the third moment is contracted with to find the span:
        ``"first_moment"`` (ours: the gradient's linear part, then again with directions of the span that it gives) or
        ``"random"`` (any unit vector, once: Wang, Lee, Lei 2023, Remark 3). Elsewhere it plays no part.
    preprocessing: ``"optimal"`` finds the span by the function of an entry that shows it best under the defense's density
        (bounds/kinds/predicted/spectral/preprocessing.py) and the features in it by the entries as they are; ``"none"``
        takes these for both. Activations with mu_2 != 0.
    """

    name: ClassVar[str] = "tensor"
    moments: str = "residualized"
    core_weight: float | None = None
    starts: int = 8
    same_neuron: str = "leave_one_out"
    contraction: str = "first_moment"
    preprocessing: str = "none"

    def __post_init__(self) -> None:
        checks.choice("moments", self.moments, ("residualized", "plain"))
        checks.choice("same_neuron", self.same_neuron, ("leave_one_out", "ignored", "split"))
        checks.choice("contraction", self.contraction, ("first_moment", "random"))
        checks.choice("preprocessing", self.preprocessing, ("none", "optimal"))
        if self.same_neuron == "split" and self.preprocessing != "none":
            raise ValueError(
                f"preprocessing must be 'none' with same_neuron='split'; got {self.preprocessing!r}"
            )
        checks.integer("starts", self.starts, 1, 64)
        if self.core_weight is not None and checks.real("core_weight", self.core_weight, 0.0) == 0.0:
            raise ValueError(
                "core_weight must be positive (the lower moment alone does not identify features); got 0"
            )

    @property
    def residualized(self) -> bool:
        return self.moments == "residualized"

    def weight(self, order: int, low: int = 2) -> float:
        """omega for a core of the given order and a lower moment of order ``low``."""
        if self.core_weight is not None:
            return float(self.core_weight)
        return math.factorial(low) / math.factorial(order)


@dataclass(frozen=True)
class LikelihoodAttack(AttackSpec):
    """Maximum likelihood over features and residuals of what the server sees, whatever the defense's density.

    starts: at most so many starts, 1 to 10 000; it ends early where the misfit is what the density lets expect.
    start: where they begin: ``"greedy"`` (one feature after the other, by what the others leave), ``"random"``,
        ``"tensor"`` (the tensor attack's result), or ``"auto"``: greedy, then random.
    precision: the largest relative decrease of the misfit at which the steps end, above 0 and at most 0.1.
    """

    name: ClassVar[str] = "likelihood"
    starts: int = 20
    start: str = "auto"
    precision: float = 1e-6

    def __post_init__(self) -> None:
        checks.integer("starts", self.starts, 1, 10_000)
        checks.choice("start", self.start, ("auto", "greedy", "random", "tensor"))
        if checks.real("precision", self.precision, 0.0, 0.1) == 0.0:
            raise ValueError("precision must be positive; got 0")


@dataclass(frozen=True)
class MessagePassing(AttackSpec):
    """Approximate message passing with the Bayes-optimal denoisers of the density of what is seen.

    iterations: passes at most for each start, 1 to 10 000. starts: at most so many, 1 to 1000; it ends with the first that
    leaves no doubt. damping: share of the old iterate that is kept, 0 to below 1; at least half in every other start.
    nodes: points of a posterior on a line along which an entry runs, 10 to 1000: without noise, or with little, the
    likelihood is no sharper than these resolve.
    """

    name: ClassVar[str] = "message_passing"
    called: ClassVar[str] = "message passing"
    iterations: int = 200
    starts: int = 8
    damping: float = 0.0
    nodes: int = 30

    def __post_init__(self) -> None:
        checks.integer("iterations", self.iterations, 1, 10_000)
        checks.integer("starts", self.starts, 1, 1000)
        checks.integer("nodes", self.nodes, 10, 1000)
        if checks.real("damping", self.damping, 0.0, 1.0) == 1.0:
            raise ValueError("damping must be below 1; got 1")


@dataclass(frozen=True)
class RowAttack(AttackSpec):
    """Exact recovery from the gradient of the first layer, for ReLU and leaky ReLU without noise: every row is the sum of
    the features that are active on its neuron, and the search is for B patterns of activity that explain every row.

    method: ``"search"`` draws samples of B rows (Dimitrov, Baader, Mueller, Vechev 2024, in the coordinates of the span), of
        which about ``2^(B-1) log B`` are needed; ``"ica"`` separates independent components over neurons and repairs them by
        alternating projections; ``"auto"`` takes whichever is expected to take less first, and then the other.
    max_samples, max_starts: the most that the two of them may draw or start.
    """

    name: ClassVar[str] = "rows"
    method: str = "auto"
    max_samples: int = 200_000
    max_starts: int = 2_000

    def __post_init__(self) -> None:
        checks.choice("method", self.method, ("auto", "search", "ica"))
        checks.integer("max_samples", self.max_samples, 1)
        checks.integer("max_starts", self.max_starts, 1)


def core_order(activation: Activation) -> int:
    """Order of the core; raises ``ValueError`` where this attack does not apply: mu_2 = 0 (odd activations) or no core."""
    even = abs(activation.coefficient(2)) > ZERO
    order = activation.core_order
    if not even or order is None:
        missing = "mu_2 = 0: odd-type activations need another moment" if not even else "mu_3 = mu_4 = 0"
        raise ValueError(
            f"activation must have mu_2 != 0 and mu_3 or mu_4 != 0 for the second-moment tensor attack; "
            f"{activation.name!r} has {missing}"
        )
    return order


def moment_orders(activation: Activation) -> tuple[int, int]:
    """Orders (k, q) of the two moments that the attack fits: (2, 3) or (2, 4) where mu_2 != 0, (1, 3) for odd activations.

    Raises ``ValueError`` where neither pair is there.
    """
    if abs(activation.coefficient(2)) <= ZERO and min(abs(activation.coefficient(k)) for k in (1, 3)) > ZERO:
        return 1, 3
    return 2, core_order(activation)


@dataclass(frozen=True)
class GradientMatching(AttackSpec):
    """Which gradient matching: the published rival, first-order methods on the distance of two gradients.

    objective: ``"squared"`` (Zhu, Liu, Han 2019: deep leakage from gradients) or ``"cosine"`` (Geiping et al. 2020:
        inverting gradients).
    optimiser: ``"lbfgs"`` (of the former) or ``"signed-adam"`` (of the latter: Adam on the signs of the slope, the step
        divided by ten at 3/8, 5/8 and 7/8 of the iterations).
    labels: the true labels, in any one order, if the attacker is told them, which is more than the gradient shows: residuals
        are then f(x) - y. None: residuals are unknowns as well, as deep leakage has labels.
    iterations: most iterations of a start. starts: most random starts; none follows one that matches the gradient.
    step: first step of signed Adam (its published value), on vectors of unit length; L-BFGS has no use for it.

    Taken over are objectives, optimisers and step decay. Ours, and in the rivals' favour: features have their public norms
    by construction, slopes are in closed form, L-BFGS has a line search (SciPy's), the best iterate is returned and not the
    last, a start that fails is followed by another. Left out is what belongs to images: total variation, pixel bounds.
    """

    name: ClassVar[str] = "gradient_matching"
    objective: str = "squared"
    optimiser: str = "lbfgs"
    labels: tuple[float, ...] | None = None
    iterations: int = 2000
    starts: int = 8
    step: float = 0.1

    def __post_init__(self) -> None:
        checks.choice("objective", self.objective, ("squared", "cosine"))
        checks.choice("optimiser", self.optimiser, ("lbfgs", "signed-adam"))
        checks.integer("iterations", self.iterations, 1)
        checks.integer("starts", self.starts, 1, 64)
        checks.inside("step", self.step)
        if self.labels is not None:
            told = tuple(checks.real("labels", y) for y in checks.several("labels", self.labels))
            object.__setattr__(self, "labels", told)
