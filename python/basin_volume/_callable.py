"""A cost of the user's own: anything with ``cost(weights) -> float``, or a function of the weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _engine
from ._errors import UsageError
from ._run import Parts, Recipe, Vector


def check_cost(model: Any) -> Callable[[npt.NDArray[np.float64]], Any]:
    """The cost of weights that an object has, or is."""
    cost = getattr(model, "cost", model)
    if not callable(cost):
        raise UsageError(f"model= is {type(model).__name__}: expected a path, a torch module, or an object with cost(weights)")
    found: Callable[[npt.NDArray[np.float64]], Any] = cost
    return found


class CallableCost:
    """Evaluates a user's cost of weights, a float64 vector of length D, relative to its value at the center.

    The cost is called as ``cost(weights)`` and may give a float or a 0-d array; `gradient`, where there is one, gives a vector of length D. What is
    measured is ``cost(weights) - cost(center)``, nats.
    """

    def __init__(self, model: Any, center: Any, name: str | None = None) -> None:
        self._cost: Callable[[npt.NDArray[np.float64]], Any] = check_cost(model)
        self._gradient: Callable[[npt.NDArray[np.float64]], Any] | None = getattr(model, "gradient", None)
        if center is None:
            center = getattr(model, "center", None)
        if center is None:
            raise UsageError("center= is not given: a cost of weights needs the trained weights, a vector of length D")
        given = np.asarray(center, dtype=np.float64)
        if given.ndim != 1 or given.size == 0 or not np.all(np.isfinite(given)):
            raise UsageError(f"center= has the shape {given.shape}: expected a vector of finite numbers")
        # The engine's weights are float32; the cost is measured around what they are then.
        self.flat: Vector = np.ascontiguousarray(given, dtype=np.float32)
        self._center = self.flat.astype(np.float64)
        self._direction = np.zeros_like(self._center)
        self.name = name or getattr(model, "__name__", None) or type(model).__name__
        self._at_center = self._evaluate(self._center)
        again = self._evaluate(self._center)
        if not np.isfinite(self._at_center):
            raise UsageError(f"{self.name} gives {self._at_center} at its own center: the cost there has to be a number")
        if again != self._at_center:
            raise UsageError(
                f"{self.name} gives {self._at_center!r} and then {again!r} at the same weights: a cost that draws random numbers has no volume, fix its seed"
            )
        self._resolution = float(np.finfo(np.float64).eps) * max(1.0, abs(self._at_center))

    def _evaluate(self, weights: npt.NDArray[np.float64]) -> float:
        # A copy: whoever keeps or changes the vector does so with their own.
        return float(self._cost(weights.copy()))

    def _cost_of(self, weights: npt.NDArray[np.float64]) -> tuple[float, float]:
        nats = self._evaluate(weights) - self._at_center
        return nats, self._resolution + abs(nats) * float(np.finfo(np.float64).eps)

    def subject(self) -> _engine.Subject:
        """As the engine takes it."""
        description = {
            "name": self.name,
            "record": {
                "model": {"name": self.name},
                "data": {"name": "its own data"},
                "cost": "a function of the weights, less its value at the center",
            },
            "provenance": {"python": _python()},
            "layout": [["weights", [int(self.flat.size)]]],
            "parts": 1,
            "positions": 1,
            "has_gradients": self._gradient is not None,
            "has_scores": False,
            "has_parts": False,
        }
        return _engine.Subject(json.dumps(description), self.flat)

    def release(self) -> None:
        """The last direction is of no use any more."""
        self._direction = self._direction[:0]

    def ray(self, direction: Vector | Recipe | None, center: float, step: float) -> tuple[float, float]:
        """The cost on a ray, computed in float64."""
        if direction is not None:
            assert not isinstance(direction, Recipe)
            self._direction = direction.astype(np.float64)
        return self._cost_of(center * self._center + step * self._direction)

    def parts(self, direction: Vector | Recipe | None, center: float, step: float) -> Parts | None:
        """It has no parts."""
        return None

    def cost(self, weights: Vector) -> tuple[float, float]:
        """The cost at these weights."""
        return self._cost_of(weights.astype(np.float64))

    def gradient(self, weights: Vector, start: int, stop: int) -> tuple[float, Vector]:
        """The cost and its gradient at these weights."""
        if self._gradient is None:
            raise UsageError(f"{self.name} has no gradient")
        exact = weights.astype(np.float64)
        gradient = np.asarray(self._gradient(exact.copy()), dtype=np.float64)
        if gradient.shape != exact.shape:
            raise UsageError(f"the gradient of {self.name} has the shape {gradient.shape}: expected {exact.shape}")
        return self._cost_of(exact)[0], np.ascontiguousarray(gradient, dtype=np.float32)

    def likelihood(self, weights: Vector, start: int, stop: int, seed: int, of_data: bool) -> tuple[float, Vector]:
        """A function has no labels."""
        raise UsageError(f"{self.name} has no labels, which curvatures are computed from")

    def moments(
        self, weights: Vector, start: int, stop: int, probes: int, seed: int
    ) -> tuple[list[tuple[Vector, Vector]], Vector]:
        """A function has no layers."""
        raise UsageError(f"{self.name} has no layers")

    def vectors(self, operation: str, vectors: Sequence[int], factors: Sequence[float], normal: Any, values: Vector | None) -> Any:
        """A function keeps no vectors."""
        raise UsageError(f"{self.name} keeps no vectors")

    def forget(self, vector: int) -> None:
        """It has none."""


def _python() -> dict[str, str]:
    import platform

    return {"python": platform.python_version(), "numpy": np.__version__}
