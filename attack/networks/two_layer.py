"""The two-layer network that the curious server sends out, its weights in fixed logical blocks, its gradients."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from attack.arrays import require_dense
from attack.client import LAYERS, Client
from attack.device import resolve_device
from attack.networks.activation import apply_activation, require_derivative
from attack.networks.inputs import checked_features, checked_labels
from attack.networks.modules import AnyActivation, activation_of
from attack.networks.two_layer_client import Batch, FirstLayerClient, OutputClient
from attack.stream import gathered
from attack.streams import Device, normal
from bounds import Activation, checks
from bounds.setting import LARGEST_SIZE

#: Weights per logical block. A block is the unit of generation and of every sum, so that results do not depend on how much
#: of W is kept in memory; larger on a GPU, where small blocks would be bound by kernel launches.
BLOCK_ELEMENTS: Mapping[str, int] = MappingProxyType({"cpu": 2**19, "cuda": 2**26})


#: W is held in memory up to this many bytes and regenerated block by block in every pass beyond it.
MEMORY_BUDGET = 2 * 2**30


@dataclass(frozen=True, eq=False)
class TwoLayerNet:
    """``f(x) = (1/m) sum_j sigma(w_j.x)``: weights W (m, d), either held or regenerated from the seed block by block.

    Make one with ``sample`` (w_j ~ N(0, I_d), the setting of the theory) or ``from_weights``. ``chunk`` is the number of
    rows of a regenerated W that are kept in memory at once (rounded up to whole blocks); no result depends on it.
    """

    d: int
    m: int
    activation: Activation
    seed: int
    device: torch.device
    dtype: torch.dtype
    chunk: int
    weights: torch.Tensor | None

    @staticmethod
    def sample(
        d: int,
        m: int,
        activation: AnyActivation = "relu",
        seed: int = 0,
        device: Device = "cpu",
        dtype: torch.dtype = torch.float64,
        memory_budget: int = MEMORY_BUDGET,
        chunk: int = 1,
    ) -> TwoLayerNet:
        """Gaussian weights from ``seed``. W is held when its m d entries fit ``memory_budget`` bytes. activation: whatever
        ``activation_of`` takes, a module such as ``nn.GELU()`` too.

        Raises ``ValueError`` or ``TypeError`` for sizes that are not positive, an unknown activation, or a dtype that is
        not float32 or float64.
        """
        d, m = checks.integer("d", d, 1, LARGEST_SIZE), checks.integer("m", m, 1, LARGEST_SIZE)
        seed, chunk = checks.integer("seed", seed, 0), checks.integer("chunk", chunk, 1)
        checks.integer("memory_budget", memory_budget, 0)
        place = resolve_device(device)
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype must be torch.float32 or torch.float64; got {dtype}")
        net = TwoLayerNet(d, m, activation_of(activation), seed, place, dtype, chunk, None)
        if m * d * dtype.itemsize > memory_budget:
            return net
        return TwoLayerNet(d, m, net.activation, seed, net.device, dtype, chunk, net._generate_all())

    @staticmethod
    def from_weights(weights: torch.Tensor, activation: AnyActivation = "relu") -> TwoLayerNet:
        """A network with given first-layer weights (m, d), float32 or float64, which it shares and must not change.

        Raises ``ValueError`` or ``TypeError`` on another type or shape, or non-finite values.
        """
        checks.instance("weights", weights, torch.Tensor)
        require_dense("weights", weights)
        weights = weights.detach()
        if weights.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"weights must be float32 or float64; got {weights.dtype}")
        if weights.ndim != 2 or 0 in weights.shape:
            raise ValueError(f"weights must have shape (m, d); got {tuple(weights.shape)}")
        if not torch.isfinite(weights).all():
            raise ValueError("weights must be finite; got values that are not")
        m, d = weights.shape
        return TwoLayerNet(d, m, activation_of(activation), 0, weights.device, weights.dtype, 1, weights)

    @property
    def block_rows(self) -> int:
        """Rows of one logical block: a power of two fixed by d and the kind of device alone."""
        wanted = max(16, BLOCK_ELEMENTS.get(self.device.type, BLOCK_ELEMENTS["cuda"]) // self.d)
        return 1 << (wanted.bit_length() - 1)

    def blocks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """One pass over W: ``(rows, W[rows])`` for every logical block, in order."""
        slices = self._slices()
        if self.weights is not None:
            for rows in slices:
                yield rows, self.weights[rows]
        elif self.device.type != "cpu":
            for index, rows in enumerate(slices):
                yield rows, self._generate(index, rows)
        else:
            yield from self._generated_ahead(slices)

    def _slices(self) -> list[slice]:
        return [slice(s, min(s + self.block_rows, self.m)) for s in range(0, self.m, self.block_rows)]

    def _generate(self, index: int, rows: slice, out: torch.Tensor | None = None) -> torch.Tensor:
        # Normals are drawn row by row, so a shorter last block holds the first rows of a whole one on the CPU; on other
        # devices a block is drawn whole, so that it does not depend on m either.
        cpu = self.device.type == "cpu"
        shape = (rows.stop - rows.start if cpu else self.block_rows, self.d)
        block = normal(shape, self.seed, "weights", index, device=self.device, dtype=self.dtype, out=out)
        return block[: rows.stop - rows.start]

    def _generate_all(self) -> torch.Tensor:
        if self.device.type != "cpu":
            return gathered(self, lambda rows, W: W)
        held = torch.empty(self.m, self.d, device=self.device, dtype=self.dtype)
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            jobs = [pool.submit(self._generate, i, rows, held[rows]) for i, rows in enumerate(self._slices())]
            for job in jobs:
                job.result()
        return held

    def _generated_ahead(self, slices: list[slice]) -> Iterator[tuple[slice, torch.Tensor]]:
        """Blocks drawn by threads (NumPy's generators release the interpreter lock) while earlier ones are used."""
        workers = torch.get_num_threads()
        ahead = max(workers, -(-self.chunk // self.block_rows))
        jobs = enumerate(slices)
        with ThreadPoolExecutor(workers) as pool:
            pending = deque(
                (rows, pool.submit(self._generate, i, rows)) for i, rows in itertools.islice(jobs, ahead)
            )
            try:
                while pending:
                    rows, future = pending.popleft()
                    block = future.result()
                    for i, upcoming in itertools.islice(jobs, 1):
                        pending.append((upcoming, pool.submit(self._generate, i, upcoming)))
                    yield rows, block
            finally:
                for _, future in pending:
                    future.cancel()

    def hidden(self, X: torch.Tensor) -> torch.Tensor:
        """``sigma(X W^T)``, shape (B, m), in one pass."""
        X = self.features(X)
        return gathered(self, lambda rows, W: apply_activation(self.activation, X @ W.T), axis=1)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """``f(x_i)``, shape (B,)."""
        return self.hidden(X).double().mean(dim=1)

    def output_gradient(self, X: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The gradient with respect to the output weights ``g_j = sum_i r_i sigma(w_j.x_i)`` (m,) and the residuals r (B,).

        Loss ``1/2 sum_i (f(x_i) - y_i)^2``, summed over the batch.
        """
        batch = self._batch(X, y)
        return OutputClient(batch).gradient(), batch.residuals

    def first_layer_gradient(self, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """``dL/dW``, rows ``(1/m) sum_i r_i sigma'(w_j.x_i) x_i``: shape (m, d), so only for sizes where that fits.

        Raises ``ValueError`` for an activation without a derivative.
        """
        return self.client(X, y, "hidden").gradient()

    def client(self, X: Any, y: Any, layer: str = "output") -> Client:
        """The client with features ``X`` (B, d) and labels ``y`` (B,) whose gradient is that of ``layer``: "output", dL/da
        (m,), or "hidden", dL/dW (m, d).

        Raises ``ValueError`` or ``TypeError`` on bad input, and for an activation without the derivative that dL/dW needs.
        """
        checks.choice("layer", layer, LAYERS)
        if layer == "output":
            return OutputClient(self._batch(X, y))
        require_derivative(self.activation)
        return FirstLayerClient(self._batch(X, y))

    def _batch(self, X: Any, y: Any) -> Batch:
        X = self.features(X)
        return Batch(self, X, self.labels(y, X.shape[0]))

    def features(self, X: Any) -> torch.Tensor:
        """``X`` as a finite (B, d) tensor of this network's device and dtype, off any graph, no row zero.

        ``ValueError`` or ``TypeError`` if it is not one, or if B is not in 1..d and below m.
        """
        return checked_features(X, self.d, self.m).to(device=self.device, dtype=self.dtype)

    def labels(self, y: Any, B: int) -> torch.Tensor:
        """``y`` as B finite float64 labels on this network's device; ``ValueError`` or ``TypeError`` if it is not that."""
        return checked_labels(y, B).to(self.device)
