"""How much of weight space behaves like a trained network: its local volume.

    import basin_volume as bv
    result = bv.estimate(model, data)

The engine is in Rust; torch is needed only for models that are torch modules.
"""

from ._engine import EngineError, Interrupted, UsageError
from ._engine import version as _version
from ._estimate import estimate
from ._jobs import Scan, inspect, load_scan, merge, precondition, report, scan
from ._result import Result, Results, load
from .math import (
    aggregate,
    gaussint_ln_noncentral_erf,
    log_hyperball_volume,
    log_hypersphere_area,
    log_hyperspherical_cap,
    log_small_hyperspherical_cap,
)
from .reference import VolumeConfig, VolumeEstimator, VolumeResult

__version__ = _version()

__all__ = [
    "EngineError",
    "Interrupted",
    "Result",
    "Results",
    "Scan",
    "UsageError",
    "VolumeConfig",
    "VolumeEstimator",
    "VolumeResult",
    "__version__",
    "aggregate",
    "estimate",
    "gaussint_ln_noncentral_erf",
    "inspect",
    "load",
    "load_scan",
    "log_hyperball_volume",
    "log_hypersphere_area",
    "log_hyperspherical_cap",
    "log_small_hyperspherical_cap",
    "merge",
    "precondition",
    "report",
    "scan",
]
