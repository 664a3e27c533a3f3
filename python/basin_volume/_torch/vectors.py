"""The states of chains on the device of the weights: flat vectors of length D (float32), and what the engine does with them.

Nothing of length D leaves the device but states that are written to disk. Factors are float64, and so is every sum: long vectors are taken in pieces,
so that no copy of a whole one in float64 is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from .._run import Recipe, Vector
from .directions import normals

_PIECE = 1 << 24
"""Numbers that are in float64 at once."""


class Vectors:
    """Vectors by their numbers, as `basin_volume::vectors::Vectors` has them. The methods are the operations there, what is written to first."""

    def __init__(self, device: torch.device, gradient: Callable[[torch.Tensor, torch.Tensor], float]) -> None:
        self._device = device
        self._gradient = gradient
        self._kept: dict[int, torch.Tensor] = {}

    def forget(self, number: int) -> None:
        """It is of no use any more."""
        self._kept.pop(number, None)

    def clear_all(self) -> None:
        """None is."""
        self._kept = {}

    def of(self, number: int) -> torch.Tensor:
        """The vector with this number."""
        return self._kept[number]

    def run(self, operation: str, vectors: Sequence[int], factors: Sequence[float], normal: Any, values: Vector | None) -> Any:
        """Does it. Gives a number for `inner`, `distance_squared` and `gradient`, coordinates for `read`, None for others."""
        with torch.no_grad():
            if operation == "zeros":
                self._kept[vectors[0]] = torch.zeros(int(factors[0]), dtype=torch.float32, device=self._device)
            elif operation == "vector_of":
                assert values is not None
                # A copy in any case: the vector is written to, and the memory is the engine's.
                self._kept[vectors[0]] = torch.tensor(values, dtype=torch.float32, device=self._device)
            elif operation == "read":
                return np.ascontiguousarray(self.of(vectors[0]).cpu().numpy())
            elif operation == "fill_normal":
                seed, index, purpose = normal
                out = self.of(vectors[0])
                out.copy_(normals(Recipe(seed, index), 0, out.numel(), self._device, purpose))
            elif operation == "clear":
                self.of(vectors[0]).zero_()
            elif operation == "gradient":
                gradient, weights = (self.of(number) for number in vectors)
                return self._gradient(weights, gradient)
            else:
                return self._in_pieces(operation, [self.of(number) for number in vectors], factors)
        return None

    def _in_pieces(self, operation: str, vectors: Sequence[torch.Tensor], factors: Sequence[float]) -> float | None:
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        for pieces in _pieces(vectors):
            out, *others = pieces
            if operation == "offset":
                x, center = others
                out.copy_((x.double() - factors[0] * center.double()) * factors[1])
            elif operation == "place":
                out.copy_(factors[0] * others[0].double() + factors[1] * out.double())
            elif operation == "add":
                out.copy_(out.double() + factors[0] * others[0].double())
            elif operation == "multiply":
                out.mul_(others[0])
            elif operation == "turn":
                (v,) = others
                sine, cosine = factors
                old, speed = out.double(), v.double()
                out.copy_(cosine * old + sine * speed)
                v.copy_(cosine * speed - sine * old)
            elif operation == "inner":
                total += torch.dot(out.double(), others[0].double())
            elif operation == "distance_squared":
                difference = out.double() - factors[0] * others[0].double()
                total += torch.dot(difference, difference)
            else:
                raise ValueError(f"{operation} is no operation on vectors")
        return float(total) if operation in ("inner", "distance_squared") else None


def _pieces(vectors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    for start in range(0, vectors[0].numel(), _PIECE):
        yield [vector[start : start + _PIECE] for vector in vectors]
