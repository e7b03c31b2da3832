"""Which parameters of a PyTorch network are the two layers of the model, by their names and shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: In a file, the gradient of a parameter of a state dict has the parameter's name after this.
GRADIENT_PREFIX = "grad."

#: Whose gradient is attacked.
LAYERS = ("first", "output")


@dataclass(frozen=True)
class TwoLayers:
    """Names of the parameters of ``f(x) = V sigma(W x + b) + c``: weight (m, d), output_weight (C, m), and the biases (m,)
    and (C,), None where there are none."""

    weight: str
    output_weight: str
    bias: str | None
    output_bias: str | None

    @staticmethod
    def of(shapes: Mapping[str, tuple[int, ...]]) -> TwoLayers:
        """From the shapes of a state dict. ``ValueError`` unless it holds two linear layers, one after the other, and
        nothing else."""
        weights = [name for name, shape in shapes.items() if _is(name, "weight") and len(shape) == 2]
        biases = {name: _sibling(name) for name in weights}
        others = [name for name in shapes if name not in weights and name not in biases.values()]
        if others or len(weights) != 2:
            raise ValueError(
                "network must have two linear layers and nothing else with parameters, weights of shapes (m, d) and "
                f"(C, m), each with or without a bias; got {_listed(shapes)}"
            )
        first, last = weights if shapes[weights[1]][1] == shapes[weights[0]][0] else weights[::-1]
        if shapes[last][1] != shapes[first][0]:
            raise ValueError(
                f"network must have one linear layer after the other, (m, d) and (C, m); got {_listed(shapes)}"
            )
        there = {name: bias if bias in shapes else None for name, bias in biases.items()}
        return TwoLayers(first, last, there[first], there[last])

    def fields(
        self,
        gradients: Sequence[str],
        layer: str | None = None,
        *,
        shapes: Mapping[str, tuple[int, ...]],
    ) -> Mapping[str, tuple[bool, str]]:
        """For each array of a ``SharedGradient``: whether it is a gradient, and the parameter's name.

        gradients: names of the parameters that have one; layer: "first" or "output", None for the first that has one, and
        with several outputs, as the shapes of the parameters tell, for all. Raises ``ValueError`` where the gradient is not
        there.
        """
        weights = dict(zip(LAYERS, (self.weight, self.output_weight), strict=True))
        chosen = [name for name in LAYERS if layer in (None, name) and weights[name] in gradients]
        if not chosen:
            wanted = " or ".join(weights[name] for name in LAYERS if layer in (None, name))
            raise ValueError(
                f"gradient of {wanted} must be given (loss.backward() makes it); got gradients of "
                f"{', '.join(gradients[:5]) or 'no parameter'}"
            )
        found = {
            "weight": (False, self.weight),
            "bias": (False, self.bias),
            "output_weight": (False, self.output_weight),
            "output_bias": (False, self.output_bias),
            "gradient": (True, weights[chosen[0]]),
        }
        if chosen[0] == "first" and self.bias in gradients:
            found["bias_gradient"] = (True, self.bias)
        if shapes[self.output_weight][0] > 1:
            if len(chosen) == 2:
                found["output_gradient"] = (True, self.output_weight)
            if chosen[-1] == "output" and self.output_bias in gradients:
                found["output_bias_gradient"] = (True, self.output_bias)
        return {
            field: (is_gradient, name) for field, (is_gradient, name) in found.items() if name is not None
        }


def _is(name: str, kind: str) -> bool:
    return name.rpartition(".")[2] == kind


def _sibling(weight: str) -> str:
    """The bias of the layer of that weight."""
    return weight[: -len("weight")] + "bias"


def _listed(shapes: Mapping[str, tuple[int, ...]], most: int = 6) -> str:
    shown = [f"{ascii(name[:40])[1:-1]} {shape}" for name, shape in list(shapes.items())[:most]]
    more = f" and {len(shapes) - most} more" if len(shapes) > most else ""
    return (", ".join(shown) or "no parameter") + more
