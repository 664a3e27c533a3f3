"""What the tests of several workers share: costs that are slow or kill whoever computes them, and what is the same."""

from __future__ import annotations

from typing import Any

import basin_volume as bv
import numpy as np

COSTS = '''
import os
import signal
import time
from pathlib import Path

import numpy as np


class Ball:
    """A ball that is slow, or kills its process once, or always."""

    def __init__(self, dimension=12, *, seconds=0.0, dies=None, always=False, fails=False):
        self.center = np.where(np.arange(dimension) % 2 == 0, 0.5, -0.25)
        self.seconds, self.dies, self.always, self.fails, self.calls = seconds, dies, always, fails, 0

    def cost(self, weights):
        self.calls += 1
        time.sleep(self.seconds)
        if self.fails and self.calls > 20:
            raise ArithmeticError("no number here")
        if self.dies is not None and self.calls > 30 and (self.always or not Path(self.dies).exists()):
            Path(self.dies).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return float(np.sum((weights - self.center) ** 2 * (1.0 + np.arange(len(weights)))))


def make():
    return Ball()
'''
"""Of a module that workers import, or that nobody can import, as what is written in a notebook."""


def estimate(model: Any, data: Any = None, **settings: Any) -> bv.Result:
    result = bv.estimate(model, data, **{"sigma": 1.0, "threads": 1, "progress": False, **settings})
    assert isinstance(result, bv.Result)
    return result


def same(one: bv.Result, other: bv.Result) -> None:
    assert one.samples["index"].tolist() == other.samples["index"].tolist()
    for name in ("radius", "norm", "cost", "log_volume"):
        np.testing.assert_array_equal(one.samples[name], other.samples[name])
    assert one.log_probability == other.log_probability and not other.interrupted
