"""Records as arrays, tables and trees."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import xarray

    from ._result import Result

Columns = dict[str, npt.NDArray[Any]]


def columns(records: Sequence[Mapping[str, Any]], null_is_infinite: Collection[str]) -> Columns:
    """A column for every field: numbers, words, matrices where rows have equal lengths, else objects."""
    names = list(dict.fromkeys(name for record in records for name in record))
    return {name: _column([record.get(name) for record in records], np.inf if name in null_is_infinite else np.nan) for name in names}


def flat(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The record of a ray with the lists of its parts as fields of their own: `radius_by_part`, `log_volume_by_part`, ..."""
    parts = record.get("volumes_by_part")
    if not isinstance(parts, Mapping):
        return record
    rest = {name: value for name, value in record.items() if name != "volumes_by_part"}
    return {**rest, **{f"{name}_by_part": values for name, values in parts.items()}}


def _column(values: list[Any], null: float) -> npt.NDArray[Any]:
    if all(isinstance(value, bool) for value in values):
        return np.array(values, dtype=bool)
    if all(isinstance(value, int) for value in values):
        try:
            return np.array(values, dtype=np.int64)
        except OverflowError:
            return np.array(values, dtype=np.uint64)
    if all(value is None or isinstance(value, (int, float)) for value in values):
        return np.array([null if value is None else value for value in values], dtype=np.float64)
    if all(isinstance(value, str) for value in values):
        return np.array(values)
    if all(isinstance(value, list) for value in values) and len({len(value) for value in values}) == 1:
        flat = [entry for value in values for entry in value]
        if all(entry is None or isinstance(entry, (int, float)) for entry in flat):
            return np.array([[np.inf if entry is None else entry for entry in value] for value in values], dtype=np.float64)
    objects = np.empty(len(values), dtype=object)
    objects[:] = values
    return objects


CHAINS = frozenset({"annealed", "llc"})
"""Estimators whose records are blocks of trajectories."""


def trajectories(records: Sequence[Mapping[str, Any]]) -> Columns:
    """A row per trajectory of a chain, with what its block says."""
    rows: list[dict[str, Any]] = []
    for record in records:
        if record.get("kind") != "block":
            continue
        block = {name: record[name] for name in ("sweep", "phase", "rung", "chain", "beta", "localization", "acceptance", "step", "diverged")}
        rows.extend({**block, **observation} for observation in record["observations"])
    return columns(rows, {"cost"})


def tree(result: Result) -> xarray.DataTree:
    """The samples as an xarray tree: groups `posterior` and `sample_stats`."""
    import xarray

    samples = result.samples
    attributes = {
        "manifest": json.dumps(dict(result.manifest)),
        "log_probability": result.log_probability,
        "trust": result.trust,
        "measures": result.measures,
    }
    if result.learning_coefficient is not None:
        attributes["learning_coefficient"] = result.learning_coefficient
    if result.estimator in CHAINS:
        posterior, stats = _chains(samples)
    else:
        named = {name: values for name, values in samples.items() if values.dtype != object and values.ndim == 1}
        measured = [name for name in ("radius", "cost", "log_volume", "norm", "center_dot") if name in named]
        posterior = xarray.Dataset({name: (("chain", "draw"), named[name][None]) for name in measured})
        stats = xarray.Dataset({name: (("chain", "draw"), values[None]) for name, values in named.items() if name not in measured})
    whole = xarray.DataTree.from_dict({"/posterior": posterior, "/sample_stats": stats})
    whole.attrs.update(attributes)
    return whole


def _chains(samples: Columns) -> tuple[xarray.Dataset, xarray.Dataset]:
    """Chains of equal length, cut to the shortest."""
    import xarray

    if not samples:
        return xarray.Dataset(), xarray.Dataset()
    chains = np.unique(samples["chain"])
    length = min(int(np.sum(samples["chain"] == chain)) for chain in chains)

    def stacked(name: str) -> npt.NDArray[Any]:
        return np.stack([samples[name][samples["chain"] == chain][:length] for chain in chains])

    def dataset(names: Sequence[str]) -> xarray.Dataset:
        data = xarray.Dataset({name: (("chain", "draw"), stacked(name)) for name in names if name in samples})
        first = samples["chain"] == chains[0]
        where = {"rung": "rung", "beta": "beta", "gamma": "localization", "phase": "phase"}
        return data.assign_coords(
            chain=chains, **{name: ("draw", samples[source][first][:length]) for name, source in where.items()}
        )

    return (
        dataset(("cost", "overlap", "distance_squared", "pull", "stretch", "virial")),
        dataset(("acceptance", "step", "diverged")),
    )
