"""Labels that the gradient of the output layer shows, by the published strategies and by exact features.

The derivative of the loss by the outputs is ``r_i = p_i - e_(y_i)`` at sample i, p_i the softmax of its outputs for
cross-entropy, the outputs themselves for the squared loss. The output bias' gradient is the sum of r_i, that of the output
weights the sum of ``r_i h_i^T``, h_i the hidden units: both know how often each class occurs as far as p_i and h_i are
known. No strategy says which picture has which label, so labels come sorted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np
import scipy
import torch

from attack.image.exact_features import exact_features
from attack.image.head_gradient import parameter, probes
from attack.image.observed import CLIPPED, PRUNED, ImageObservation, repeats
from attack.networks.image.network import ImageNetwork
from attack.reconstruction import ReconstructionError
from bounds import checks

#: Pictures of noise on which mean outputs are estimated.
_DUMMIES = 64

#: A class's embedding is the ratio of its two gradients unless more than this share of it is of the other sign than the
#: hidden units are: samples of the class and others have then cancelled in it.
_OPPOSED = 0.1

#: Counts that are off by more than this, a standard deviation, are not told by mean outputs.
_UNSURE = 0.1

#: Weight of the equation that the counts sum to B.
_SUM = 10.0


@dataclass(frozen=True, eq=False)
class _Output:
    """weights: of the output layer's gradient (C, m); bias (C,), None without one, both of every sample once; B; network."""

    weights: np.ndarray
    bias: np.ndarray | None
    B: int
    network: ImageNetwork
    observation: ImageObservation

    def predicted(self, outputs: np.ndarray) -> np.ndarray:
        """p of outputs (..., C)."""
        softmax = self.network.loss == "cross-entropy"
        return np.asarray(scipy.special.softmax(outputs, axis=-1) if softmax else outputs)

    @cached_property
    def of_noise(self) -> np.ndarray:
        """p (n, C) of pictures of noise."""
        outputs = self.network.outputs(self._noise)
        return self.predicted(outputs.double().cpu().numpy())

    @cached_property
    def hidden_of_noise(self) -> np.ndarray:
        """Hidden units (n, m) of the same."""
        return np.asarray(self.network.hidden(self._noise).detach().double().cpu().numpy())

    @cached_property
    def _noise(self) -> torch.Tensor:
        return probes(self.network, _DUMMIES)

    def required_bias(self, strategy: str) -> np.ndarray:
        """The bias' gradient; ``ValueError`` without one."""
        if self.bias is None:
            raise ValueError(
                f"strategy must be one that needs no output bias, the network has none; got {strategy!r}"
            )
        return self.bias


def recover_labels(observation: ImageObservation, strategy: str = "auto") -> torch.Tensor:
    """The labels (B,) int64 of an observation, sorted, by a key of ``STRATEGIES``. "auto": ``chosen_strategy``.

    A defense's scale (clipping) is estimated where a strategy needs it, and gradients of several steps count once. Raises
    ``ValueError`` for a strategy that the network or the batch does not allow, and where no gradient of the output weights
    is sent; ``ReconstructionError`` from "exact".
    """
    checks.instance("observation", observation, ImageObservation)
    checks.choice("strategy", strategy, ("auto", *STRATEGIES))
    given = _output(observation)
    found = STRATEGIES[_chosen(given) if strategy == "auto" else strategy](given)
    return torch.from_numpy(np.sort(found).astype(np.int64)).to(observation.network.device)


def chosen_strategy(observation: ImageObservation) -> str:
    """The strategy that errs least where they were compared: "idlg" for one sample. Where outputs differ so little from
    picture to picture (of noise) that they tell counts to a tenth, as those of a fresh network do, "ilrg", or "llg-dummy"
    without an output bias or where pruning may have left next to nothing of it; of a trained network "yin", or "llg" where
    labels must repeat."""
    return _chosen(_output(observation))


def _chosen(given: _Output) -> str:
    observation, B = given.observation, given.B
    if B == 1:
        return "idlg"
    if B**0.5 * float(given.of_noise.std(axis=0).mean()) > _UNSURE:
        return "yin" if given.network.classes >= B else "llg"
    few = isinstance(observation.defense, PRUNED) and observation.scope == "layer"
    return "llg-dummy" if given.bias is None or few else "ilrg"


def label_accuracy(truth: torch.Tensor, found: torch.Tensor) -> float:
    """The share of the labels ``truth`` (B,) that are among those found (n,), each counted as often as it occurs."""
    if truth.ndim != 1 or found.ndim != 1 or not len(truth):
        raise ValueError(
            f"labels must have shapes (B,) and (n,); got {tuple(truth.shape)}, {tuple(found.shape)}"
        )
    size = 1 + int(max(truth.max(), found.max() if len(found) else 0))
    counts = [np.bincount(labels.cpu().numpy(), minlength=size) for labels in (truth, found)]
    return float(np.minimum(*counts).sum()) / len(truth)


def _idlg(given: _Output) -> np.ndarray:
    """iDLG (Zhao, Mopuri, Bilen 2020, arXiv 2001.02610): hidden units are not negative, so that the one class whose row is
    negative is the label. One sample."""
    if given.B != 1:
        raise ValueError(f"strategy idlg is for one sample; got a batch of {given.B}")
    shown = given.weights.sum(axis=1) if given.bias is None else given.bias
    return np.array([int(shown.argmin())])


def _yin(given: _Output) -> np.ndarray:
    """GradInversion (Yin et al. 2021, arXiv 2104.07586): the B classes whose rows have the smallest entry. No repeats."""
    if given.network.classes < given.B:
        raise ValueError(
            f"strategy yin finds no label twice: the batch must have at most {given.network.classes} samples; got {given.B}"
        )
    return np.argsort(given.weights.min(axis=1))[: given.B]


def _llg(given: _Output) -> np.ndarray:
    """LLG (Wainakh et al. 2022, arXiv 2105.09369) from the gradient alone: a sample moves its class's row sum by the impact,
    that of all negative sums over B."""
    return _by_impact(given, _impact(given.weights.sum(axis=1), given.B), np.zeros(given.network.classes))


def _llg_dummy(given: _Output) -> np.ndarray:
    """LLG* of the same paper, which has the network: impact, and the offset of a class that does not occur, from pictures of
    noise."""
    sums, p = given.hidden_of_noise.sum(axis=1), given.of_noise
    offset = (p * sums[:, None]).mean(axis=0) * given.B  # of B samples of other classes
    scale = _scale(given, given.B * p.mean(axis=0) if given.bias is not None else offset)
    return _by_impact(given, -scale * float(np.mean(sums)), scale * offset)


def _by_impact(given: _Output, impact: float, offset: np.ndarray) -> np.ndarray:
    """Each class of negative sum once, then, less the offset, that of the smallest sum, until there are B."""
    sums = given.weights.sum(axis=1)
    found = np.flatnonzero(sums < 0)[np.argsort(sums[sums < 0])][: given.B].tolist()
    left = sums - offset
    left[found] -= impact
    while len(found) < given.B:
        found.append(int(left.argmin()))
        left[found[-1]] -= impact
    return np.array(found)


def _impact(sums: np.ndarray, B: int) -> float:
    return float(sums[sums < 0].sum()) / B * (1 + 1 / len(sums))


def _bias(given: _Output) -> np.ndarray:
    """Counts ``sum_i p_i - sum_i r_i`` from the output bias, mean probabilities from pictures of noise (Geng et al. 2021,
    arXiv 2110.09074)."""
    expected = given.B * given.of_noise.mean(axis=0)
    gradient = given.required_bias("bias")
    return _most_often(expected - gradient / _scale(given, expected), given.B)


def _ilrg(given: _Output) -> np.ndarray:
    """iLRG (Ma et al. 2023, ICLR; arXiv 2307.03421): the ratio of a class's two gradients is an embedding, mostly of that
    class's samples, its outputs their probabilities P; then counts n solve ``n P - n = sum_i r_i``.

    Where a class's own samples and others have nearly cancelled the ratio is that of all classes that do not occur, or the
    mean of pictures of noise. A trained network's classes cancel more and more, here as in the authors' code (on the same
    gradients of digits, B = 8: 1.00, .93, .53, .41 of the labels after 0, 1, 3, 10 epochs; theirs 1.00, .75, .52, .35).
    """
    gradient = given.required_bias("ilrg")
    scale = _scale(given, given.B * given.of_noise.mean(axis=0))
    absent = gradient > 0
    # none is absent where the gradient is pruned, or every class occurs
    told = given.weights[absent].sum(axis=0) / gradient[absent].sum() if absent.any() else None
    mean = given.hidden_of_noise.mean(axis=0) if told is None else told
    own = given.weights / np.where(gradient, gradient, 1.0)[:, None]
    opposed = np.abs(np.where(own * mean < 0, own, 0.0)).sum(axis=1)
    clear = (gradient != 0) & (opposed <= _OPPOSED * np.abs(own).sum(axis=1))
    embedding = np.where(clear[:, None], own, mean)
    A, c = (parameter(given.network, given.network.output, kind) for kind in ("weight", "bias"))
    assert A is not None and c is not None
    P = given.predicted(embedding @ A.T + c)
    C = len(P)
    equations = np.vstack([P.T - np.eye(C), _SUM * np.ones((1, C))])
    counts = np.linalg.lstsq(equations, np.append(gradient / scale, _SUM * given.B), rcond=None)[0]
    return _most_often(counts, given.B)


def _exact(given: _Output) -> np.ndarray:
    """Ours: the features that explain every row of the attacked layer's gradient bring their classes (``attack.rows``)."""
    found = exact_features(given.observation)
    if found.classes is None:
        raise ReconstructionError("exact features were found without the classes", found.diagnostics)
    return found.classes


#: From the output layer's gradient to labels (B,).
STRATEGIES: Mapping[str, Callable[[_Output], np.ndarray]] = MappingProxyType(
    {
        "idlg": _idlg,
        "yin": _yin,
        "llg": _llg,
        "llg-dummy": _llg_dummy,
        "bias": _bias,
        "ilrg": _ilrg,
        "exact": _exact,
    }
)


def _output(observation: ImageObservation) -> _Output:
    network, times = observation.network, repeats(observation.defense)
    weight, bias = (f"{network.output}.{kind}" for kind in ("weight", "bias"))
    seen = [
        observation.gradient(name).double().cpu().numpy() / times
        for name in (weight, *([bias] if bias in network.names else []))
    ]
    return _Output(seen[0], seen[1] if len(seen) > 1 else None, observation.batch_size, network, observation)


def _most_often(expected: np.ndarray, B: int) -> np.ndarray:
    """B classes, each time the one whose expected count (C,) is furthest from reached."""
    left, found = expected.astype(np.float64).copy(), []
    for _ in range(B):
        found.append(int(left.argmax()))
        left[found[-1]] -= 1.0
    return np.array(found)


def _scale(given: _Output, absent: np.ndarray) -> float:
    """What clipping has multiplied the gradient with, as classes that do not occur show it, of which there are C - B or
    more; absent (C,): what the bias' gradient (else the row sums) would be for them. 1 under other defenses."""
    if not isinstance(given.observation.defense, CLIPPED):
        return 1.0
    seen = given.weights.sum(axis=1) if given.bias is None else given.bias
    ratios = np.sort(seen / absent)[::-1][: max(1, given.network.classes - given.B)]
    return float(max(np.median(ratios), np.finfo(float).tiny))
