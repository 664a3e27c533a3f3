"""How much of a cost is rounding noise, measured by differences along a ray."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_POINTS = 6
_ORDERS = (3, 4)
"""Orders of differences that a smooth cost does not reach."""


@dataclass(frozen=True)
class Noise:
    """One standard deviation of the noise at one cost, and what is left of it near the center, nats.

    An error of the outputs moves a KL divergence, a squared distance, by something that grows like its root.
    """

    at: float
    deviation: float
    floor: float

    def resolution(self, nats: float) -> float:
        """One standard deviation of the noise of a cost, nats."""
        if not math.isfinite(nats):
            return 0.0
        return self.deviation * math.sqrt(max(nats, 0.0) / self.at) + self.floor


def measure(cost: Callable[[float], float], step: float, nats: float, spacing: float) -> Noise:
    """Differences of the cost at ``step (1 + k spacing)`` (Moré & Wild's ECNoise), and the cost a thousand times nearer to the center."""
    values = np.array([nats] + [cost(step * (1.0 + k * spacing)) for k in range(1, _POINTS)])
    near = abs(cost(step * 1e-3))
    # A cost grows about like the square of the distance: what is more is noise.
    floor = max(0.0, near - 2e-6 * abs(nats))
    if not np.all(np.isfinite(values)):
        return Noise(max(nats, 1e-300), 1e-6 * abs(nats), floor)
    found = []
    for order in _ORDERS:
        differences = np.diff(values, order)
        scale = math.factorial(order) ** 2 / math.factorial(2 * order)
        found.append(math.sqrt(scale * float(np.mean(differences**2))))
    return Noise(max(nats, 1e-300), min(found), floor)
