"""Public implementations of gradient inversion, run from a user's checkout as they are.

Their packages import far more than their attack needs (torchvision, data sets, configuration), so only the files of the
attack are imported: the packages above them are empty modules with the checkout's folders. Stand-ins without content have
what these files import and this comparison never calls: ``torchvision`` (an inception score) and ``inversefed.nn`` (local
steps) of the one, ``breaching.cases`` (text) of the other. Nothing of a checkout is changed or kept.
"""

from __future__ import annotations

import copy
import importlib
import io
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from attack.image.observed import ImageObservation


@dataclass(frozen=True)
class Peer:
    """A public implementation. file: of its attack, in a checkout; tv, keep: its weight of total variation and which iterate
    it keeps; grey: whether its total variation takes pictures of one channel; stand_ins: modules that are left empty, with
    the names that are imported from each; call: of the imported file, an observation without a defense, classes (B,), the
    start (B, C, H, W), normalised, and iterations, to normalised pictures (B, C, H, W)."""

    name: str
    file: str
    tv: float
    keep: str
    grey: bool
    stand_ins: Mapping[str, tuple[str, ...]]
    call: Callable[[ModuleType, ImageObservation, torch.Tensor, torch.Tensor, int], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Loaded:
    """A peer and its imported file."""

    peer: Peer
    module: ModuleType

    def pictures(
        self, observation: ImageObservation, labels: torch.Tensor, start: torch.Tensor, iterations: int
    ) -> torch.Tensor:
        """Pixels (B, C, H, W) in [0, 1]; what it prints is swallowed."""
        with redirect_stdout(io.StringIO()):
            found = self.peer.call(self.module, observation, labels, start, iterations)
        return observation.network.pixels(found.detach()).clamp(0.0, 1.0)


def _mean_gradient(observation: ImageObservation) -> list[torch.Tensor]:
    """Peers have the mean over the batch."""
    return [g / observation.batch_size for g in observation.gradients]


def _statistics(observation: ImageObservation) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of every channel, (C,) each."""
    import torch

    net = observation.network
    mean, std = (
        torch.tensor(values, dtype=net.dtype, device=net.device).expand(net.shape[0]).clone()
        for values in (net.mean, net.std)
    )
    return mean, std


def _inversefed(
    module: ModuleType,
    observation: ImageObservation,
    labels: torch.Tensor,
    start: torch.Tensor,
    iterations: int,
) -> torch.Tensor:
    """``GradientReconstructor`` with the settings of its ``rec_mult.py`` for ``--optim ours --signed``."""
    mean, std = (values[:, None, None] for values in _statistics(observation))
    config = dict(
        signed=True, boxed=True, cost_fn="sim", indices="def", weights="equal", lr=0.1, optim="adam", restarts=1,
        max_iterations=iterations, total_variation=_INVERSEFED.tv, init="randn", filter="none", lr_decay=True,
        scoring_choice="loss",
    )  # fmt: skip
    attack = module.GradientReconstructor(
        copy.deepcopy(observation.network.module), (mean, std), config, num_images=len(labels)
    )
    attack._init_images = lambda shape: start.clone()[None]
    found: torch.Tensor = attack.reconstruct(_mean_gradient(observation), labels, tuple(start.shape[1:]))[0]
    return found


class _Settings(dict[str, Any]):
    """Keys as attributes too, as the configuration that the peer expects has."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def _breaching_settings(iterations: int) -> _Settings:
    """Its ``config/attack/invertinggradients.yaml`` on top of ``_default_optimization_attack.yaml``."""
    s = _Settings
    variation = s(scale=_BREACHING.tv, inner_exp=1, outer_exp=1)
    return s(
        type="invertinggradients", attack_type="optimization", init="randn", normalize_gradients=False,
        augmentations=None, differentiable_augmentations=False,
        objective=s(type="cosine-similarity", scale=1.0, task_regularization=0.0),
        restarts=s(num_trials=1, scoring="cosine-similarity"),
        optim=s(
            optimizer="adam", signed="hard", step_size=0.1, boxed=True, max_iterations=iterations,
            step_size_decay="step-lr", langevin_noise=0.0, warmup=0, grad_clip=None, callback=1000,
        ),
        regularization=s(total_variation=variation),
        impl=s(dtype="float", mixed_precision=False, JIT=None),
    )  # fmt: skip


def _breaching(
    module: ModuleType,
    observation: ImageObservation,
    labels: torch.Tensor,
    start: torch.Tensor,
    iterations: int,
) -> torch.Tensor:
    """``OptimizationBasedAttacker``, labels told."""
    import torch

    net = observation.network
    mean, std = _statistics(observation)
    about = SimpleNamespace(shape=net.shape, mean=mean, std=std, modality="vision")
    attack = module.OptimizationBasedAttacker(
        copy.deepcopy(net.module), torch.nn.CrossEntropyLoss(), _breaching_settings(iterations),
        {"dtype": net.dtype, "device": net.device},
    )  # fmt: skip
    payload = {
        "parameters": list(net.module.parameters()),
        "buffers": list(net.module.buffers()),
        "metadata": about,
    }
    shared = {
        "gradients": _mean_gradient(observation),
        "buffers": None,
        "metadata": {"num_data_points": len(labels), "labels": labels, "local_hyperparams": None},
    }
    result, _ = attack.reconstruct([payload], [shared], {}, initial_data=start)
    found: torch.Tensor = result["data"]
    return found


_INVERSEFED = Peer(
    "invertinggradients", "inversefed/reconstruction_algorithms.py", 1e-6, "last", True,
    {"torchvision": (), "inversefed.nn": ("MetaMonkey",)}, _inversefed,
)  # fmt: skip
_BREACHING = Peer(
    "breaching", "breaching/attacks/optimization_based_attack.py", 0.2, "best", False,
    {"breaching.cases": (), "breaching.cases.models": ()}, _breaching,
)  # fmt: skip

#: By name; of Geiping et al. 2020, and of the library of Geiping, Fowl and others.
PEERS: Mapping[str, Peer] = MappingProxyType({peer.name: peer for peer in (_INVERSEFED, _BREACHING)})


def loaded(checkout: Path) -> Loaded:
    """The peer whose checkout that folder is. ``ValueError`` for a folder that is none, and where its code cannot be
    imported."""
    if not checkout.is_dir():
        raise ValueError(f"peer must be a folder, the checkout of {' or '.join(PEERS)}; got {checkout}")
    for peer in PEERS.values():
        if (checkout / peer.file).is_file():
            return Loaded(peer, _imported(checkout, peer))
    wanted = " or ".join(f"{peer.file} ({peer.name})" for peer in PEERS.values())
    raise ValueError(f"peer must be a checkout with the file {wanted}; {checkout} has none")


def _imported(checkout: Path, peer: Peer) -> ModuleType:
    name = peer.file.removesuffix(".py").replace("/", ".")
    above: dict[str, tuple[str, ...]] = {
        name.rsplit(".", depth)[0]: () for depth in range(1, name.count(".") + 1)
    }
    with _modules(above | dict(peer.stand_ins), checkout):
        try:
            return importlib.import_module(name)
        except Exception as error:  # whatever foreign code raises when imported
            raise ValueError(
                f"peer must be a checkout whose {peer.file} can be imported; {checkout} raised "
                f"{type(error).__name__}: {error}"
            ) from error


@contextmanager
def _modules(wanted: Mapping[str, tuple[str, ...]], checkout: Path) -> Iterator[None]:
    """Within, modules of these names, with the checkout's folders and nothing but None under the names of each; after it,
    every module is as before. What is imported leaves no bytecode there."""
    roots = {name.split(".")[0] for name in wanted}
    writes = sys.dont_write_bytecode
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in roots}
    sys.dont_write_bytecode = True
    try:
        for name, imported in wanted.items():
            module = ModuleType(name)
            module.__path__ = [str(checkout.joinpath(*name.split(".")))]
            module.__dict__.update(dict.fromkeys(imported))
            sys.modules[name] = module
        yield
    finally:
        sys.dont_write_bytecode = writes
        for name in [n for n in sys.modules if n.split(".")[0] in roots]:
            del sys.modules[name]
        sys.modules.update(before)
