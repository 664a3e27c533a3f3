"""Costs whose volume is known."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]


class Ball:
    """``C(w) = scale/2 |w - c|^2``: every ray has the radius ``sqrt(2 cutoff / scale)``."""

    def __init__(self, dimension: int = 12, scale: float = 2.0) -> None:
        self.center = np.where(np.arange(dimension) % 2 == 0, 0.5, -0.25)
        self.scale = scale
        self.calls = 0

    def cost(self, weights: Vector) -> float:
        self.calls += 1
        return 0.5 * self.scale * float(np.sum((weights - self.center) ** 2))

    def radius(self, cutoff: float) -> float:
        return math.sqrt(2.0 * cutoff / self.scale)

    def log_volume(self, cutoff: float) -> float:
        """Of the ball under the flat prior, nats."""
        d = len(self.center)
        return d * math.log(self.radius(cutoff)) + 0.5 * d * math.log(math.pi) - math.lgamma(0.5 * d + 1.0)


class Valley(Ball):
    """The same with a gradient."""

    def gradient(self, weights: Vector) -> Vector:
        return self.scale * (weights - self.center)
