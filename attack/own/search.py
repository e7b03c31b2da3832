"""dL/da of one's own as a problem of ``attack.likelihood``: noise of unknown size, any weights, biases and activation.

From starts of ``attack.likelihood`` and, where these leave too much, from the tensor attack's result, the first neurons are
fitted, then all of them. Nothing but rounding left, also at neurons that were not fitted, is what exact
features show and others do not.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

import torch

from attack.likelihood.entries import entries_of
from attack.likelihood.model import DENSE, Model, Place
from attack.likelihood.solve import Effort, minimised
from attack.likelihood.starts import mended, starts
from attack.networks.two_layer import TwoLayerNet
from attack.own.frame import Frame
from attack.own.gradient import SharedGradient
from attack.own.known import Known
from attack.own.leftover import explained_by_cells, rounding
from attack.own.models import ENOUGH, Arrays
from attack.own.problem import output_problem
from attack.reconstruction import Diagnostics, ReconstructionError
from attack.tensor.attack import tensor_attack
from attack.tensor.fit import signs_by_fit
from bounds import Activation, LikelihoodAttack, NoDefense
from bounds.gaussian.activations import ZERO

#: Neurons that are fitted first, for each unknown, and at least; of all, one in so many is kept out, up to ``_HELD``.
FIRST, _ENOUGH, _ONE_OF, _HELD = 10, 2000, 20, 16

#: Steps from a start, and with more neurons.
_STEPS, _POLISH = 100, 10

#: Multiplications in one step with all neurons, and in all starts: where they would take more, the first ones serve, and
#: fewer starts are made, down to two.
_WORK, _STARTS = 1e11, 4e11

#: So many starts that end at the same misfit, to this fraction, end the search.
_AGREEING, _ALIKE = 3, 1e-3

#: A share of the power that is rounding in double precision.
_DOUBLE = 1e-22

#: A share of the power below which a fit has found its valley, and norms that were told may be off by their own rounding.
_NEAR = 1e-6

#: Unknowns explain of noise at most so many times what they are a share of the values, and never more than half.
_BY_CHANCE, _HALF = 4.0, 0.5

#: What rounding leaves at neurons that were not fitted, over what it may leave.
_LOOSE = 3.0


@dataclass(frozen=True, eq=False)
class Outputs:
    """In the frame's units and float64: weights (m, d) over their scale ``size``, by which features are longer, biases (m,),
    and gradient (m,) over its root mean square ``scale``. least: share of its power that rounding may leave."""

    shared: SharedGradient
    known: Known
    frame: Frame
    net: TwoLayerNet
    bias: torch.Tensor | None
    gradient: torch.Tensor
    scale: float
    size: float
    least: float

    @staticmethod
    def of(shared: SharedGradient, known: Known, frame: Frame) -> Outputs:
        arrays = Arrays.of(shared, frame)
        scale = float(arrays.gradient.square().mean().sqrt())
        if scale == 0:
            reason = "the gradient is zero: it tells nothing of features"
            raise ReconstructionError(reason, Diagnostics("failed", (reason,)))
        size = frame.posed.scale
        weights = arrays.weight.double() if size == 1 else arrays.weight.double() / size
        net = TwoLayerNet.from_weights(weights, known.activation)
        least = max(rounding(shared), _DOUBLE)
        return Outputs(shared, known, frame, net, arrays.bias, arrays.gradient / scale, scale, size, least)

    @property
    def m(self) -> int:
        return self.net.m

    def unknowns(self, B: int, radii: torch.Tensor | None) -> int:
        return B * (self.net.d + (radii is None))

    def model(self, count: int, radii: torch.Tensor | None) -> Model:
        """Of the first neurons."""
        bias = None if self.bias is None else self.bias[:count]
        return restricted(self.net, bias, self.gradient[:count], radii)

    def affordable(self, unknowns: int) -> int:
        """How many neurons are fitted in the end."""
        return min(self.m, max(FIRST * unknowns, int(_WORK / unknowns**2)))

    def fitted(self, unknowns: int) -> int:
        """How many neurons are fitted first: not all, where there are more than unknowns."""
        held = min(_HELD, self.m // _ONE_OF, max(0, self.m - unknowns - 2))
        return min(self.m - held, max(_ENOUGH, FIRST * unknowns))

    def share(self, place: Place) -> float:
        """Of the power of its neurons, that which the place leaves."""
        power = float(self.gradient[: len(place.inside)].square().sum())
        return 2 * place.loss / power if power else 0.0

    def explained(self, place: Place) -> float:
        """Share of the variance of the gradient that a place of the first neurons explains: a constant any feature does."""
        seen = self.gradient[: len(place.inside)]
        power = float((seen - seen.mean()).square().sum())
        return max(0.0, 1 - 2 * place.loss / power) if power else 0.0

    def settled(self, place: Place) -> bool:
        """Whether nothing but rounding is left."""
        return self.share(place) <= self.least

    def refined(self, features: torch.Tensor, radii: torch.Tensor | None) -> Place:
        """From any features, with the first neurons, then with all."""
        count = self.fitted(self.unknowns(len(features), radii))
        place = minimised(self.model(count, radii), features.double(), self.effort(count))
        return self.polished(place.features, radii)

    def polished(self, features: torch.Tensor, radii: torch.Tensor | None) -> Place:
        """From features near a minimum, with all neurons that are affordable; held against all of them."""
        count = self.affordable(self.unknowns(len(features), radii))
        place = minimised(self.model(count, radii), features, self.effort(count, _POLISH))
        return place if count == self.m else self.model(self.m, radii).at(place.features, 0.0)

    def structure(self, place: Place) -> float:
        """Share of what a place of all neurons leaves that depends on the features' preactivations."""
        left = self.gradient[:ENOUGH] - place.parts[:ENOUGH].sum(dim=1)
        return explained_by_cells(left[:, None], place.inside[:ENOUGH])

    def effort(self, count: int, steps: int = _STEPS, precision: float = 1e-6) -> Effort:
        return Effort(steps, precision, near=1e-10 * count, rounding=1e-3 * self.least * count)


def restricted(
    net: TwoLayerNet, bias: torch.Tensor | None, gradient: torch.Tensor, radii: torch.Tensor | None
) -> Model:
    """The model of the first neurons, as many as the gradient has entries."""
    count = len(gradient)
    assert net.weights is not None
    first = dataclasses.replace(net, m=count, weights=net.weights[:count])
    entries = entries_of(NoDefense().density(), gradient, 1.0, 1, torch.ones_like(gradient))
    return Model(first, entries, radii, bias=bias)


@dataclass(frozen=True, eq=False)
class Searched:
    """Where the best start ended, with all neurons; losses: what each start left; exact: whether nothing but rounding was
    left, also of neurons that were not fitted, None where there were none; sign_free: features are known up to signs."""

    place: Place
    losses: tuple[float, ...]
    exact: bool | None
    sign_free: bool

    @property
    def agreeing(self) -> int:
        """Starts that ended where the best one did."""
        return _agreeing(self.losses)


def search(
    outputs: Outputs,
    radii: torch.Tensor | None,
    attack: LikelihoodAttack,
    seed: int,
    *,
    free: bool = False,
    more: torch.Tensor | None = None,
) -> Searched:
    """From starts until one leaves nothing but rounding, or several end at the same misfit.

    radii: norms (B,) that are known, which a fit that comes near lets go where the gradient tells them (``free``); more
    (B, d): one more start."""
    B = outputs.known.B
    unknowns = outputs.unknowns(B, radii)
    count = outputs.fitted(unknowns)
    model = outputs.model(count, radii)
    effort = outputs.effort(count, precision=attack.precision)
    best: Place | None = None
    losses: list[float] = []
    given = () if more is None else (more,)
    drawn = starts(model, B, seed, attack.start)
    for start in itertools.chain(given, itertools.islice(drawn, _affordable_starts(attack, outputs, count))):
        place = _signed(outputs, minimised(model, start, effort), effort)
        if best is None or place.loss < (1 - _ALIKE) * best.loss:
            place = _mended(outputs, place, effort, seed)
        if free and radii is not None and outputs.share(place) < _NEAR:
            place = minimised(outputs.model(count, None), place.features, effort)
        losses.append(place.loss)
        if best is None or place.loss < best.loss:
            best = place
        if outputs.settled(best) or _agreeing(losses) >= _AGREEING:
            break
        if len(losses) >= _AGREEING and outputs.explained(best) <= by_chance(unknowns, count):
            break
    if attack.start == "auto" and (
        best is None or not (outputs.settled(best) or _agreeing(losses) >= _AGREEING)
    ):
        best = min(
            [p for p in (best, _from_moments(outputs, model, seed, effort)) if p], key=lambda p: p.loss
        )
        losses.append(best.loss)
    assert best is not None  # there are at least two starts
    exact = _exact(outputs, best, unknowns)
    polished = outputs.polished(best.features, best.model.radii)
    return Searched(polished, tuple(losses), exact, _sign_free(outputs, polished))


def by_chance(unknowns: int, values: int) -> float:
    """What share of noise so many unknowns explain at most, of the best of many starts."""
    return min(_HALF, _BY_CHANCE * unknowns / values)


def _agreeing(losses: list[float] | tuple[float, ...]) -> int:
    best = min(losses)
    return sum(_alike(loss, best) for loss in losses)


def _alike(loss: float, best: float) -> bool:
    return abs(loss - best) <= _ALIKE * best


def _affordable_starts(attack: LikelihoodAttack, outputs: Outputs, count: int) -> int:
    size = outputs.known.B * outputs.net.d
    step = count * size**2 / 2 if size <= DENSE else 100.0 * count * size
    return max(min(2, attack.starts), min(attack.starts, int(_STARTS / (50 * step))))


def _exact(outputs: Outputs, place: Place, unknowns: int) -> bool | None:
    count = len(place.inside)
    if count == outputs.m or count <= unknowns + len(place.features):
        return None
    whole = outputs.model(outputs.m, place.model.radii).at(place.features, 0.0)
    held = outputs.gradient[count:] - whole.hidden[count:] @ place.residuals
    allowed = _LOOSE * outputs.least * (1 + unknowns / (count - unknowns))
    power = float(outputs.gradient[count:].square().sum())
    return outputs.settled(place) and float(held.square().sum()) <= allowed * power


# --- starts -----------------------------------------------------------------------------------------------------------


def _mended(outputs: Outputs, place: Place, effort: Effort, seed: int) -> Place:
    """A better place, where all norms are the same, so that it does not matter which feature is given up."""
    radii = place.model.radii
    if radii is not None and bool((radii != radii[0]).any()):
        return place
    return mended(place, outputs.settled, effort, seed)


def _from_moments(outputs: Outputs, model: Model, seed: int, effort: Effort) -> Place | None:
    """From the tensor attack's result, where it has one."""
    known, frame = outputs.known, outputs.frame
    problem = output_problem(outputs.shared, known, frame)
    try:
        found = tensor_attack(problem.observation, problem.net, known.B, seed=seed)
    except (ReconstructionError, ValueError):  # no gap, or an activation without the moments
        return None
    return minimised(model, outputs.size * frame.features(found).double(), effort)


# --- signs ------------------------------------------------------------------------------------------------------------


def _signed(outputs: Outputs, place: Place, effort: Effort) -> Place:
    """Where an activation is odd up to a constant: with the signs that explain most."""
    net = place.model.net
    if not _odd(net.activation) or outputs.bias is not None or outputs.settled(place):
        return place
    signs, _ = signs_by_fit(net, outputs.gradient[: net.m], place.features)
    if bool((signs > 0).all()):
        return place
    turned = minimised(place.model, signs[:, None] * place.features, effort)
    return turned if turned.loss < place.loss else place


def _odd(activation: Activation) -> bool:
    """Whether signs of features are hidden from the moments of even order."""
    return abs(activation.coefficient(2)) <= ZERO


def _sign_free(outputs: Outputs, place: Place) -> bool:
    """Whether features with other signs explain as much."""
    net = place.model.net
    if not _odd(net.activation):
        return False
    if outputs.bias is None:
        return signs_by_fit(net, outputs.gradient, place.features)[1]
    for i in range(len(place.features)):
        signs = torch.ones(len(place.features), 1, dtype=torch.float64)
        signs[i] = -1.0
        turned = place.model.at(signs * place.features, 0.0)
        if outputs.settled(turned) or turned.loss <= 2 * place.loss:
            return True
    return False
