"""Networks: a stack of small multilayer perceptrons, evaluated together.

Cross-fitting and ensembles need several networks of one shape (folds x members). A stack holds them as one and costs
one batched matrix product per layer: on two cores 1.3 times the speed of one after the other at 4096 events per
batch, 1.7 times at 1024.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["NetworkStack"]

_CHUNK = 2048  # events per evaluation: the activations of a layer stay in cache


class NetworkStack(nn.Module):
    """M independent perceptrons with SiLU activations on standardised inputs.

    Parameters
    ----------
    sizes : sequence of int
        Layer widths, inputs and outputs included.
    members : int
        M.
    output_scale : float or sequence of float
        Factor on the outputs, or on each; a small one makes a small function the easy one to learn.

    Attributes
    ----------
    weights, biases : list of Parameter, shapes (M, in, out) and (M, 1, out)
    center, inverse_scale : Tensor, shape (d,)
        Inputs enter as (x - center) * inverse_scale.
    """

    def __init__(self, sizes: Sequence[int], members: int, output_scale: float | Sequence[float] = 1.0) -> None:
        super().__init__()
        layers = list(pairwise(sizes))
        self.weights = nn.ParameterList(
            torch.zeros(members, n_in, n_out, dtype=torch.float32) for n_in, n_out in layers
        )
        self.biases = nn.ParameterList(torch.zeros(members, 1, n_out, dtype=torch.float32) for _, n_out in layers)
        self.register_buffer("center", torch.zeros(sizes[0], dtype=torch.float32))
        self.register_buffer("inverse_scale", torch.ones(sizes[0], dtype=torch.float32))
        self.register_buffer("output_scale", torch.tensor(output_scale, dtype=torch.float32))

    def initialise(self, generator: torch.Generator, outputs: Sequence[float]) -> Self:
        """Draw the hidden layers uniformly in +-1/sqrt(inputs of the layer); the last one starts at these constants."""
        with torch.no_grad():
            for weight, bias in list(zip(self.weights, self.biases, strict=True))[:-1]:
                bound = weight.shape[1] ** -0.5
                for parameter in (weight, bias):
                    parameter.copy_(
                        torch.empty(parameter.shape, dtype=torch.float32).uniform_(-bound, bound, generator=generator)
                    )
            self.weights[-1].zero_()
            self.biases[-1].copy_(torch.tensor(outputs, dtype=torch.float32) / self.get_buffer("output_scale"))
        return self

    def standardise(self, x: NDArray[np.float32], weights: NDArray[np.float64]) -> Self:
        """Take centre and scale from events x, shape (n, d), with non-negative weights, shape (n,).

        A feature with one value throughout says nothing and is ignored (its scale is infinite).
        """
        share = weights / weights.sum()
        center = share @ x
        deviation = np.sqrt(share @ (x - center) ** 2)
        varies = np.ptp(x[weights > 0], axis=0) > 0
        inverse = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=varies)
        self.get_buffer("center").copy_(torch.from_numpy(center))
        self.get_buffer("inverse_scale").copy_(torch.from_numpy(inverse))
        return self

    def forward(self, x: Tensor, members: slice = slice(None)) -> Tensor:
        """Outputs of the chosen members, shape (m, n, outputs), at x, shape (m, n, d) or (1, n, d) for all alike."""
        h = (x - self.get_buffer("center")) * self.get_buffer("inverse_scale")
        h = h.expand(len(self.biases[0][members]), -1, -1)
        inplace = not torch.is_grad_enabled()  # less memory to go through; a gradient needs the values before
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias[members], nn.functional.silu(h, inplace=inplace) if layer else h, weight[members])
        return h * self.get_buffer("output_scale")

    def last_hidden(self, x: Tensor, member: int) -> Tensor:
        """What the last layer of one network combines, and a constant; shape (n, h + 1) in float64, x (n, d)."""
        h = (x - self.get_buffer("center")) * self.get_buffer("inverse_scale")
        for weight, bias in list(zip(self.weights, self.biases, strict=True))[:-1]:
            h = nn.functional.silu(h @ weight[member] + bias[member])
        return torch.cat([h, torch.ones_like(h[:, :1])], dim=1).double()

    def evaluate(
        self, x: NDArray[np.float32], members: slice, combine: Callable[[Tensor], Tensor]
    ) -> NDArray[np.float64]:
        """Combined output of the chosen members, shape (n, k), at x, shape (n, d).

        ``combine`` takes the outputs of m networks, shape (m, b, outputs) in float64, to shape (b, k).
        """
        with torch.inference_mode():
            chunks = (torch.tensor(x[start : start + _CHUNK]) for start in range(0, max(len(x), 1), _CHUNK))
            parts = [combine(self(chunk[None], members).double()) for chunk in chunks]
            result: NDArray[np.float64] = torch.cat(parts).numpy()
        return result

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        """All parameters and buffers by name."""
        return {name: np.ascontiguousarray(tensor.detach().numpy()) for name, tensor in self.state_dict().items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.float32]]) -> Self:
        """The inverse of `to_arrays`."""
        shapes = [arrays[f"weights.{layer}"].shape for layer in range(sum(n.startswith("weights.") for n in arrays))]
        stack = cls([shapes[0][1], *(shape[2] for shape in shapes)], shapes[0][0], arrays["output_scale"].tolist())
        stack.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in arrays.items()})
        return stack.requires_grad_(False)
