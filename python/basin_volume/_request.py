"""Keywords as the requests of the engine."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, TypeAlias

from . import _engine
from ._errors import UsageError
from ._words import ESTIMATORS

Preconditioner: TypeAlias = str | PathLike[str] | Sequence[str | PathLike[str]]


def shard_of(shard: str | tuple[int, int] | None) -> str:
    """``i/n``, or `auto`: the engine asks Slurm, torchrun or MPI."""
    if shard is None:
        return "0/1"
    return shard if isinstance(shard, str) else f"{shard[0]}/{shard[1]}"


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _path(value: str | PathLike[str]) -> str:
    return os.fspath(value)


def preconditioners(preconditioner: Preconditioner | None) -> list[str]:
    """One, several, or none said."""
    if preconditioner is None:
        return []
    if isinstance(preconditioner, (str, PathLike)):
        return [_path(preconditioner)]
    return [_path(one) for one in preconditioner]


def number_or_word(name: str, value: float | str | None, words: Sequence[str]) -> float | str | None:
    """A finite number, or one of the words."""
    if value is None or (isinstance(value, str) and value in words):
        return value
    if isinstance(value, str) or not math.isfinite(float(value)):
        raise UsageError(f"{name}= is {value!r}: expected a finite number{''.join(f' or {word!r}' for word in words)}")
    return float(value)


def estimate_json(
    *,
    cutoff: float | None,
    samples: int | None,
    estimator: str,
    sigma: float | str | None,
    prior: str,
    preconditioner: Preconditioner | None,
    proposal: str | None,
    seed: int,
    l2_reg: float,
    exponent: float | None,
    eps: float | None,
    damping: float | str | None,
    radius_tolerance: float | None,
    profile: int | None,
    per_sequence: bool | str,
    set_kind: str | None,
    settings: Mapping[str, Any] | None,
    spectrum_out: str | PathLike[str] | None,
    extend: bool,
    shard: str | tuple[int, int] | None,
    out: str | PathLike[str] | None,
    threads: int | None,
    memory: str | float | None,
    prior_mean: str | None = None,
    reference: str | None = None,
    reference_scale: float | None = None,
) -> str:
    """An estimate as the engine takes it. Settings that an estimator does not have are left out where they are not given."""
    if estimator not in (*ESTIMATORS, "all"):
        raise UsageError(f"estimator={estimator!r}: expected one of {', '.join(ESTIMATORS)}, all")
    if per_sequence not in (False, True, "cost", "volume"):
        raise UsageError(f"per_sequence={per_sequence!r}: expected True, False, 'cost' or 'volume'")
    asked: dict[str, Any] = {
        "cutoff": None if cutoff is None else float(cutoff),
        "samples": samples,
        "estimator": estimator,
        "sigma": number_or_word("sigma", sigma, ("rms", "weight-decay")),
        "prior": prior,
        "preconditioner": preconditioners(preconditioner),
        "proposal": proposal,
        "seed": int(seed),
        "l2-reg": float(l2_reg),
        "exponent": exponent,
        "eps": eps,
        "damping": number_or_word("damping", damping, ("auto", "match")),
        "radius-tolerance": radius_tolerance,
        "profile": profile,
        "per-sequence": per_sequence or None,
        "set-kind": set_kind,
        "prior-mean": prior_mean,
        "reference": reference,
        "reference-scale": reference_scale,
        "set": [f"{name}={_setting(value)}" for name, value in settings.items()] if settings else None,
        "spectrum-out": None if spectrum_out is None else _path(spectrum_out),
        "continue": extend or None,
        "shard": shard_of(shard),
        "out": None if out is None else _path(out),
        "threads": threads,
        "memory": memory_json(memory),
    }
    return json.dumps(_without_none(asked))


def memory_json(memory: str | float | None) -> str | None:
    """A size in words or in bytes."""
    return memory if memory is None or isinstance(memory, str) else f"{int(memory)}B"


def _setting(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def cost_json(
    *,
    data: Sequence[str],
    text_key: str | None,
    data_config: Sequence[str] | str | None,
    split: Sequence[str] | str | None,
    max_seq_len: int | None,
    val_size: int | None,
    skip: int | None,
    chunk: bool | None,
    tokenizer: str | None,
    eos_token_id: int | None,
    positions: str | None,
    pad_token_id: int | None,
    parameters: str | None,
    exclude: str | None,
    component: Sequence[str] | str | None,
    device: str | None,
    dtype: str | None,
) -> str:
    """The cost of a model that the engine loads itself."""
    several = [[value] if isinstance(value, str) else list(value or ()) for value in (data_config, split)]
    dtypes = {"float32": "f32", "f32": "f32", "bfloat16": "bf16", "bf16": "bf16"}
    if dtype is not None and dtype not in dtypes:
        raise UsageError(f"dtype={dtype!r}: expected 'float32' or 'bfloat16' for a model that the engine loads itself")
    asked: dict[str, Any] = {
        "data": list(data),
        "text-key": text_key,
        "data-config": several[0] or None,
        "split": several[1] or None,
        "max-seq-len": max_seq_len,
        "val-size": val_size,
        "skip": skip,
        "chunk": chunk,
        "tokenizer": tokenizer,
        "eos-token-id": eos_token_id,
        "positions": positions,
        "pad-token-id": pad_token_id,
        "parameters": parameters,
        "exclude": exclude,
        "component": list(component) if component is not None and not isinstance(component, str) else component,
        "device": device,
        "dtype": None if dtype is None else dtypes[dtype],
    }
    return json.dumps(_without_none(asked))


def version() -> str:
    """Version of the engine."""
    return _engine.version()
