"""Volumes, areas and integrals in high dimensions, by the names of the reference, exact in float64 where it approximated.

All logarithms are natural. Arguments may be numbers, numpy arrays or torch tensors; arrays give float64 arrays, tensors float64 tensors.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from . import _engine

__all__ = [
    "aggregate",
    "gaussint_ln_noncentral_erf",
    "log_hyperball_volume",
    "log_hypersphere_area",
    "log_hyperspherical_cap",
    "log_small_hyperspherical_cap",
]


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _elementwise(function: Callable[..., float], *arguments: Any) -> Any:
    """The function of every element; as tensors if one of the arguments is."""
    like = next((argument for argument in arguments if _is_tensor(argument)), None)
    plain = [argument.detach().cpu().numpy() if _is_tensor(argument) else argument for argument in arguments]
    if all(np.ndim(argument) == 0 for argument in plain):
        found: Any = function(*(float(argument) for argument in plain))
    else:
        # The engine's own arithmetic raises flags that numpy would take for those of the array.
        with np.errstate(all="ignore"):
            found = np.vectorize(function, otypes=[np.float64])(*(np.asarray(argument, dtype=np.float64) for argument in plain))
    if like is None:
        return found
    torch = sys.modules["torch"]
    return torch.as_tensor(found, dtype=torch.float64, device=like.device)


def log_hyperball_volume(dim: Any) -> Any:
    """Log of the volume of the unit ball in `dim` dimensions."""
    return _elementwise(lambda d: 0.5 * d * math.log(math.pi) - math.lgamma(0.5 * d + 1.0), dim)


def log_hypersphere_area(dim: Any) -> Any:
    """Log of the area of the unit sphere in `dim` dimensions."""
    return _elementwise(lambda d: math.log(2.0) + 0.5 * d * math.log(math.pi) - math.lgamma(0.5 * d), dim)


def log_hyperspherical_cap(dim: Any, angle: Any) -> Any:
    """Log of the share of the unit sphere in `dim` dimensions within `angle` (radians) of a point: exact, for any angle."""
    prior = json.dumps({"kind": "sphere"})
    return _elementwise(lambda d, t: _engine.ray_log_volume(prior, d, 1.0, 0.0, 1.0, t), dim, angle)


def log_small_hyperspherical_cap(dim: Any, t: Any, angle: bool = False) -> Any:
    """The reference's approximation of :func:`log_hyperspherical_cap`: a flat disk of radius ``sin t`` (of `t` itself with `angle`)."""

    def cap(d: float, t: float) -> float:
        radius = t if angle else math.sin(t)
        disk = 0.5 * (d - 1.0) * math.log(math.pi) - math.lgamma(0.5 * (d - 1.0) + 1.0)
        area = math.log(2.0) + 0.5 * d * math.log(math.pi) - math.lgamma(0.5 * d)
        return (d - 1.0) * math.log(radius) + disk - area

    return _elementwise(cap, dim, t)


def gaussint_ln_noncentral_erf(a: Any, b: Any, n: Any, x1: Any, c: Any = 0.0, tol: float | None = None, y_tol: float | None = None, debug: bool = False) -> Any:
    """``ln INT_0^x1 x^n exp(-a x^2 / 2 + b x + c) dx``.

    Where the reference expands around the maximum and fails when that is not good enough (`tol`, `y_tol`), this is exact to about 1e-8 nats; both
    are taken and not needed.
    """
    return _elementwise(lambda a, b, n, x, c: _engine.log_radial_integral(n + 1.0, a, b, x) + c, a, b, n, x1, c)


def aggregate(estimates: Any, dim: int = -1) -> Any:
    """The log of the mean of ``exp(estimates)`` along a dimension: samples of log-volumes joined into one."""
    if _is_tensor(estimates):
        torch = sys.modules["torch"]
        return torch.logsumexp(estimates, dim) - math.log(estimates.shape[dim])
    values = np.asarray(estimates, dtype=np.float64)
    most = np.max(values, axis=dim, keepdims=True)
    safe = np.where(np.isfinite(most), most, 0.0)
    with np.errstate(divide="ignore"):
        return np.log(np.mean(np.exp(values - safe), axis=dim)) + np.squeeze(safe, axis=dim)
