"""The client of any network that automatic differentiation knows: its parameters, and the loss of each sample."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from attack.client import Entries, Mask

#: Parameters, features, labels and what dropout leaves, to the loss of each sample (B,).
Losses = Callable[[tuple[torch.Tensor, ...], torch.Tensor, torch.Tensor, Mask | None], torch.Tensor]

#: Entries of gradients of single samples that are held at once.
_AT_ONCE = 2**26


@dataclass(frozen=True, eq=False)
class AutogradClient:
    """A client whose gradients are taken by autograd.

    parameters: all that a local step moves; seen: which of them the server asks for, whose gradient has that parameter's
    shape for one and is flattened, in order, for several; X (B, ...), y (B, ...): features and labels; units: hidden units
    that dropout may drop; key: sub-key of the entries' random streams; coupled: whether the loss of one sample depends on
    the others (statistics of the batch), so that none has a gradient of its own. Gradients of single samples, for their
    clipping, are taken of many samples at once (``torch.func``), as many as ``_AT_ONCE`` entries hold.
    """

    losses: Losses
    parameters: tuple[torch.Tensor, ...]
    seen: tuple[int, ...]
    X: torch.Tensor
    y: torch.Tensor
    units: int
    key: tuple[int, ...] = ()
    mask: Mask | None = None
    coupled: bool = False

    @property
    def samples(self) -> int:
        return len(self.X)

    @property
    def norms(self) -> tuple[float, ...]:
        return tuple(torch.linalg.vector_norm(self.X.double().flatten(1), dim=1).tolist())

    @property
    def entries(self) -> Entries:
        shown = [self.parameters[i] for i in self.seen]
        shape = tuple(shown[0].shape) if len(shown) == 1 else (sum(p.numel() for p in shown),)
        return Entries(shape, shown[0].device, shown[0].dtype, self.key)

    def gradient(self, factors: torch.Tensor | None = None) -> torch.Tensor:
        return self._shown(self._gradients(self.seen, factors))

    def sample_norms(self) -> torch.Tensor:
        return self.sample_squares().sum(dim=1).sqrt()

    def sample_squares(self) -> torch.Tensor:
        """The sum of squares of every sample's gradient by each parameter that is seen: (B, parameters) float64."""
        if self.coupled:
            raise ValueError(
                "clipping of every sample needs gradients of single samples; statistics of the batch couple them "
                '(batch_norm must be "eval")'
            )
        try:
            return self._squares_together()
        except RuntimeError:
            # a module that torch.func cannot follow, say one that asks a tensor for its values: the same, one by one
            singles = (self.part(torch.tensor([i], device=self.X.device)) for i in range(self.samples))
            return torch.stack([_squares(one._gradients(self.seen)) for one in singles])

    def _squares_together(self) -> torch.Tensor:
        shown = tuple(self.parameters[i].detach() for i in self.seen)
        mask = self.mask
        kept = None if mask is None else mask.kept.expand(self.samples, -1)

        def single(x: torch.Tensor, y: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
            own = None if mask is None or kept is None else dataclasses.replace(mask, kept=kept[None])

            def loss(values: tuple[torch.Tensor, ...]) -> torch.Tensor:
                parameters = dict(enumerate(self.parameters)) | dict(zip(self.seen, values, strict=True))
                return self.losses(tuple(parameters.values()), x[None], y[None], own).sum()

            return _squares(torch.func.grad(loss)(shown))

        samples = max(1, _AT_ONCE // sum(p.numel() for p in shown))
        together = torch.func.vmap(single, in_dims=(0, 0, None if kept is None else 0), chunk_size=samples)
        return together(self.X, self.y, kept)

    def masked(self, kept: torch.Tensor, probability: float) -> AutogradClient:
        return dataclasses.replace(self, mask=Mask.after(self.mask, kept, probability))

    def part(self, chosen: torch.Tensor) -> AutogradClient:
        mask = None if self.mask is None else self.mask.of(chosen)
        return dataclasses.replace(self, X=self.X[chosen], y=self.y[chosen], mask=mask)

    def local_sum(self, batches: Sequence[torch.Tensor], rate: float) -> torch.Tensor:
        found = torch.zeros(self.entries.shape, device=self.entries.device, dtype=self.entries.dtype)
        everything = tuple(range(len(self.parameters)))
        now = self
        for index, used in enumerate(batches):
            moves = rate and index < len(batches) - 1
            wanted = everything if moves else self.seen
            gradients = dict(zip(wanted, now.part(used)._gradients(wanted), strict=True))
            found += self._shown([gradients[i] for i in self.seen])
            if moves:
                moved = tuple(p - rate * gradients[i] for i, p in enumerate(now.parameters))
                now = dataclasses.replace(now, parameters=moved)
        return found

    def _gradients(
        self, wanted: tuple[int, ...], factors: torch.Tensor | None = None
    ) -> Sequence[torch.Tensor]:
        """Of the loss, each sample's times its factor, with respect to the wanted parameters."""
        parameters = tuple(p.detach().requires_grad_(i in wanted) for i, p in enumerate(self.parameters))
        losses = self.losses(parameters, self.X, self.y, self.mask)
        loss = (losses if factors is None else losses * factors.to(losses)).sum()
        return torch.autograd.grad(loss, [parameters[i] for i in wanted])

    def _shown(self, gradients: Sequence[torch.Tensor]) -> torch.Tensor:
        if len(gradients) == 1:
            return gradients[0]
        return torch.cat([g.flatten() for g in gradients])


def _squares(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack([g.double().square().sum() for g in gradients])
