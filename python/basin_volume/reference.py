"""The interface of the reference (EleutherAI's basin-volume, later tyche): its configuration, its estimator, its result.

Every field is taken. What this engine does by itself is accepted with one DeprecationWarning that says why it is not needed.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ._errors import UsageError
from ._estimate import estimate
from ._result import Result
from ._settings import USUAL_LENGTH, USUAL_SIZE
from .math import aggregate, log_hypersphere_area

__all__ = ["VolumeConfig", "VolumeEstimator", "VolumeResult", "aggregate"]


@dataclass
class VolumeConfig:
    """What is asked, by the reference's names. Costs in nats; `sigma` None is the root mean square of the weights."""

    n_samples: int = 100
    batch_size: int | None = None
    model_batch_size: int | None = None
    sigma: float | None = None
    l2_reg: float = 0.0
    cutoff: float = 1e-2
    tol: float = 1e-2
    y_tol: float = 5
    seed: int = 42
    tqdm: bool = True
    debug: bool = False
    reduction: str | None = "mean"
    iters: int = 10
    allow_unconverged: bool = False
    rtol: float = 1e-1
    init_mult: float = 1

    model_type: str = "causal"
    model_name: str | None = None
    checkpoint_step: int | None = None
    val_size: int | None = USUAL_SIZE
    """Sequences; None for all, with a model in memory."""
    split: str | None = None

    model: Any = None
    tokenizer: Any = None
    dataset: Any = None
    text_key: str | None = None
    max_seq_len: int | None = USUAL_LENGTH
    cache_mode: str | None = None
    chunking: bool = False
    data_batch_size: int | None = None
    implicit_vectors: bool = False
    block_size: int = 1024**2

    preconditioner_type: str | None = None
    preconditioner_eps: float = 1e-5
    preconditioner_exponent: float = 0.5
    adam_order: int = 2

    last_token_only: bool = False
    perturbation_mask: Any = None
    filter_str: str | None = None
    device: Any = None

    optimizer: Any = None
    """Not of the reference: where ``preconditioner_type="adam"`` has the moments of `model` from, as in :func:`basin_volume.estimate`."""
    out: str | Path | None = None
    """Not of the reference: the run folder, which the same configuration continues."""


_IMAGES = 1024
"""Images that the reference looks at."""

_NOT_NEEDED = {
    "batch_size": "rays are computed one after the other, each stopping by itself",
    "model_batch_size": "rays are computed one after the other, each stopping by itself",
    "tol": "the radial integral is exact",
    "y_tol": "the radial integral is exact",
    "debug": "what happens is in the run folder",
    "iters": "the search stops by itself when its error in nats is small",
    "allow_unconverged": "a ray that does not converge is recorded as such and stops nothing",
    "rtol": "the search stops by its error in nats, which is stated for every ray",
    "init_mult": "pilot rays find where to start",
    "cache_mode": "the center's outputs are computed once and kept where they fit",
    "data_batch_size": "sequences are batched by length",
    "implicit_vectors": "one direction is in memory at a time",
    "block_size": "one direction is in memory at a time",
    "device": "the model stays on the device where it is",
}


@dataclass(frozen=True)
class VolumeResult:
    """The rays, by the reference's names: float64 tensors ``[n_samples]`` (arrays without torch).

    With ``reduction=None`` all but `props` are ``[n_samples, sequences]``, each sequence at its own radius; `deltas` is then the cutoff.
    """

    estimates: Any
    """Log-volume of every ray, nats; :func:`aggregate` joins them."""
    props: Any
    """``||v||``."""
    mults: Any
    """Radius in units of ``v``."""
    deltas: Any
    """Cost at the evaluation nearest to the radius, nats."""
    logabsint: Any
    """Log of the radial integral ``INT x^(D-1) exp(-x^2/2s^2 - ...) dx``, x the distance from the center."""
    gaussint: Any
    """The same by its later name."""
    result: Result
    """The whole result, with its interval and how far it can be trusted."""

    def __repr__(self) -> str:
        return f"VolumeResult({self.result!r})"


class VolumeEstimator:
    """Estimates as a configuration says: ``VolumeEstimator.from_config(cfg).run()``."""

    def __init__(self, config: VolumeConfig) -> None:
        self.config = config
        self._check()

    @classmethod
    def from_config(cls, config: VolumeConfig) -> VolumeEstimator:
        """The estimator for a configuration; what cannot be is refused here."""
        return cls(config)

    def _check(self) -> None:
        config = self.config
        if config.model_type not in ("causal", "pythia", "convnext", "mlp"):
            raise UsageError(f"model_type={config.model_type!r}: expected causal, pythia, convnext or mlp")
        if config.model_type == "causal":
            for name in ("model", "tokenizer", "dataset"):
                if getattr(config, name) is None:
                    raise UsageError(f"{name}= is not given: model_type='causal' needs model, tokenizer and dataset")
        if config.perturbation_mask is not None:
            raise UsageError("perturbation_mask= is not built in: choose what moves by name with filter_str=, or estimate(parameters=, exclude=)")
        defaults = {field.name: field.default for field in fields(config)}
        for name, reason in _NOT_NEEDED.items():
            if getattr(config, name) != defaults[name]:
                warnings.warn(f"{name}= is not needed any more: {reason}", DeprecationWarning, stacklevel=4)

    def run(self) -> VolumeResult:
        """Computes the rays. Ctrl-C returns those that are done."""
        config = self.config
        adam = config.preconditioner_type is not None
        if adam and config.preconditioner_type != "adam":
            raise UsageError(f"preconditioner_type={config.preconditioner_type!r}: expected None or 'adam'")
        model, data, more = self._target()
        result = estimate(
            model,
            data,
            samples=config.n_samples,
            cutoff=config.cutoff,
            sigma=config.sigma,
            seed=config.seed,
            l2_reg=config.l2_reg,
            preconditioner=f"adam{config.adam_order}" if adam else "none",
            eps=config.preconditioner_eps if adam else None,
            exponent=config.preconditioner_exponent if adam else None,
            optimizer=config.optimizer,
            parameters=None if config.filter_str is None else re.escape(config.filter_str),
            positions="last" if config.last_token_only else "all",
            progress=config.tqdm,
            out=config.out,
            per_sequence="volume" if config.reduction is None else False,
            **more,
        )
        assert isinstance(result, Result)
        return volume_result(result)

    def _target(self) -> tuple[Any, Any, dict[str, Any]]:
        config = self.config
        text = {
            "tokenizer": config.tokenizer,
            "text_key": config.text_key or "text",
            "max_seq_len": config.max_seq_len,
            "val_size": config.val_size,
            "chunk": config.chunking,
            "split": config.split,
        }
        if config.model_type == "causal":
            return config.model, config.dataset, text
        if config.model_type == "mlp":
            return config.model_name or "digits", config.dataset or (None if config.split is None else f"digits:{config.split}"), {}
        if config.dataset is None:
            raise UsageError(
                f"dataset= is not given: model_type={config.model_type!r} needs a path here, such as "
                + ("a .jsonl file of text" if config.model_type == "pythia" else "'cifar:FOLDER:val:1024'")
            )
        if config.model_type == "pythia":
            step = "" if config.checkpoint_step is None else f"@step{config.checkpoint_step}"
            sigma = {} if config.sigma is not None or (config.model_name or "31m") != "31m" else {"sigma": 0.03997834}
            self.config.sigma = sigma.get("sigma", config.sigma)
            return f"EleutherAI/pythia-{config.model_name or '31m'}{step}", config.dataset, text
        if config.model_name is None:
            raise UsageError("model_name= is not given: the folder of the training run, or of a checkpoint")
        folder = Path(config.model_name)
        data = str(config.dataset)
        if data.startswith("cifar:") and config.split is not None:
            raise UsageError(f"split={config.split!r} is given beside dataset={data!r}, where the split stands as well: leave it out")
        if not data.startswith("cifar:"):
            data = f"cifar:{data}:{config.split or 'val'}:{_IMAGES if config.val_size in (None, USUAL_SIZE) else config.val_size}"
        return folder if config.checkpoint_step is None else folder / f"checkpoint-{config.checkpoint_step}", data, {}


def volume_result(result: Result) -> VolumeResult:
    """The rays of a result by the reference's names."""
    samples = result.samples
    by_sequence = "log_volume_by_part" in samples
    norms, volumes = samples["norm"], samples["log_volume_by_part" if by_sequence else "log_volume"]
    lengths = norms[:, None] if by_sequence else norms
    dimension = result.dimension
    sigma = result.sigma
    if sigma is None:
        integral = np.full_like(volumes, np.nan)
    else:
        constant = log_hypersphere_area(dimension) - 0.5 * dimension * np.log(2.0 * np.pi * sigma**2)
        integral = volumes - constant + dimension * np.log(lengths)
    gaussint = _tensor(integral)
    return VolumeResult(
        estimates=_tensor(volumes),
        props=_tensor(norms),
        mults=_tensor(samples["radius_by_part" if by_sequence else "radius"]),
        deltas=_tensor(np.full_like(volumes, result.manifest["cutoff"]) if by_sequence else samples["cost"]),
        logabsint=gaussint,
        gaussint=gaussint,
        result=result,
    )


def _tensor(values: Any) -> Any:
    try:
        import torch
    except ImportError:
        return values
    return torch.from_numpy(np.ascontiguousarray(values))
