"""The one call: the local volume of a model on data."""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from . import _engine
from ._callable import CallableCost, check_cost
from ._errors import UsageError, in_words
from ._progress import progress as shown
from ._request import Preconditioner, estimate_json, preconditioners
from ._result import Result, Results, load
from ._run import Evaluator, run
from ._settings import SPLIT_TABLES, USUAL_LENGTH, USUAL_SIZE, CostSettings

if TYPE_CHECKING:
    from ._torch.module import ModuleCost

CUTOFF = 1e-2
"""The cutoff where none is given, nats."""


def estimate(
    model: Any,
    data: Any = None,
    *,
    cutoff: float = CUTOFF,
    samples: int | None = None,
    estimator: str = "radial",
    sigma: float | str | None = None,
    prior: str = "gaussian",
    preconditioner: Preconditioner | None = None,
    proposal: str | None = None,
    seed: int = 0,
    parameters: str | None = None,
    exclude: str | None = None,
    component: str | Sequence[str] | None = None,
    tokenizer: Any = None,
    text_key: str = "text",
    max_seq_len: int | None = USUAL_LENGTH,
    val_size: int | None = USUAL_SIZE,
    chunk: bool | None = None,
    positions: str = "all",
    cost: str | Callable[..., Any] | None = None,
    center: Any = None,
    dtype: Any = None,
    device: Any = None,
    threads: int | None = None,
    memory: str | float | None = None,
    out: str | PathLike[str] | None = None,
    shard: str | tuple[int, int] | None = None,
    devices: str | Sequence[Any] | int | None = None,
    ray: bool | str = False,
    time_limit: float | None = None,
    progress: bool = True,
    settings: Mapping[str, Any] | None = None,
    l2_reg: float = 0.0,
    exponent: float | None = None,
    eps: float | None = None,
    damping: float | str | None = None,
    radius_tolerance: float | None = None,
    profile: int | None = None,
    per_sequence: bool | str = False,
    set_kind: str | None = None,
    prior_mean: str | PathLike[str] | None = None,
    reference: Any = None,
    reference_scale: float | None = None,
    spectrum_out: str | PathLike[str] | None = None,
    extend: bool = False,
    skip: int | None = None,
    split: str | Sequence[str] | None = None,
    data_config: str | Sequence[str] | None = None,
    pad_token_id: int | None = None,
    eos_token_id: int | None = None,
    optimizer: Any = None,
) -> Result | Results:
    """Estimates how much of weight space behaves like a trained network.

    The result is the log of the prior probability (nats) of the weights around the trained ones whose outputs differ by less than `cutoff`. One
    preconditioner and one estimator give a :class:`Result`; several, or several data, :class:`Results`.

    Parameters
    ----------
    model
        A checkpoint folder, a `.gguf` file or a hub id, which the engine runs itself (torch is not needed); a ``torch.nn.Module``; or an object with
        ``cost(weights) -> float`` (and ``gradient(weights)`` for estimators that need it), weights a float64 vector of length D.
    data
        For a path or hub id: a path or hub id, or several in a list for the volume on each and on all. For a module: texts, token ids, a data set,
        a tensor or dict of tensors, or an iterable of batches; several data as a dict from names.
    cutoff
        The cost at which behaviour counts as changed, nats: the mean KL divergence of the outputs.
    samples
        Rays (100 where nothing is said), probes of the spectral estimator, sweeps of the annealed one,
        rounds of a learning coefficient.
    estimator
        `radial`, `spectral`, `annealed` or `all` of these; or `llc`, the local learning coefficient, which is no volume.
    sigma
        Standard deviation of the Gaussian prior; a number, `rms` (of the moving weights, the usual choice) or `weight-decay`.
    prior
        `gaussian`, `lebesgue` (flat: the result is the log of a volume) or `sphere`.
    preconditioner
        `none`, `adam1`, `adam2` (Adam's moments), a curvature (`fisher`, `squared-gradient`, `hessian`, `kronecker`, `low-rank`, `learned`), a file, or
        several.
    optimizer
        Where `adam1` and `adam2` take the moments of a module from: the ``torch.optim`` optimizer that trained it, its ``state_dict()``, or a mapping
        from parameter names to moments. A model on disk or hub has them beside its weights.
    exponent, eps, damping
        How a curvature s becomes a map: ``1/(|s|^exponent + eps)``, or ``(s + damping)^(-1/2)`` with a number, `auto` or `match`.
    proposal
        `centered` or `shifted`: where the Gaussian of the directions lies.
    seed
        Of everything that is drawn.
    l2_reg
        ``l2_reg / 2 |w - c|^2`` is added to the cost.
    parameters, exclude
        Regular expressions on parameter names: what moves, and what of that does not.
    component
        A part of the network, or several in a list, whose weights alone move: ``"l3 attn"``, ``"l3h1"``, ``"embed"`` of a model on disk or hub
        (docs/components.md); of a module parameters by name, of its own modules, and slices: ``"layers.0.weight[0:16, :]"``.
    tokenizer, text_key, max_seq_len, val_size, chunk, positions, skip, pad_token_id, eos_token_id
        How text becomes sequences of token ids: one document each, cut at `max_seq_len` tokens (None for as many as the model takes), or (`chunk`)
        documents joined and cut into equal pieces, as is usual (`chunk` None) for .txt files alone; the first `val_size` of them after `skip` (None for
        all); positions `all` or the `last` of every sequence.
    split, data_config
        Of a data set by its name or folder: its split and configuration where there are several; several in a list are joined.
    cost
        For a module: ``"kl"`` of softmax outputs (the default), ``"mse"`` (half the squared difference of outputs, for regression), or a function
        ``(model, batch)`` that gives a cost, which is measured relative to its value at the trained weights.
    center
        For a cost of weights: the trained weights, a vector of length D.
    dtype, device
        With what is computed: float32 whatever the stored dtype where it fits. A module stays on its own device.
    threads, memory
        Threads of the engine (and of torch), and memory that may be used: `auto`, `low`, ``"1.5GB"``, or bytes.
    out
        The run folder; the same call again continues it. Without it `runs/NAME-HASH`, named after the question.
    shard
        ``"0/8"``: the part of the samples that is computed, joined by :func:`merge`; `auto` asks Slurm, torchrun or MPI which part this process is: each
        computes its part in `shards` inside `out`, and the last one joins them there.
    devices
        Processes of this machine that share the samples, one for each device: ``[0, 1]`` (CUDA devices), ``["cuda:0", "cuda:1"]``, ``"all"``, or
        ``["cpu"] * 2``. `model` may then be a function as well that takes nothing and makes the model, where it is needed.
    ray
        Actors of Ray share the samples: of a cluster of this machine (True), of the one that is running here (``"auto"``) or at an address;
        `devices` is how many.
    time_limit
        Seconds after which what is done is returned.
    radius_tolerance
        The error of a ray's log-volume due to its radius that is accepted, nats.
    profile
        So many more points of every ray are looked at, for earlier crossings and returns under the cutoff.
    per_sequence
        ``True`` or ``"cost"`` also records the cost of every sequence at the radius: ``samples["costs_by_part"]``. ``"volume"`` finds
        the own radius of every sequence on the same rays, and so its volume: :attr:`Result.sequences`.
    set_kind, extend
        Annealed chains: measure the `basin` or the `star`; add a sweep to a complete run.
    prior_mean
        Of a model on disk or hub: another one of its shape (the base that it was fine-tuned from), around which the Gaussian prior is.
    reference, reference_scale
        With several data: more data, inside whose set all others are looked at, for the dependence given what the network is anyway; their cost counts
        `reference_scale` times (0.8). Of a module data of any kind that `data` takes, by their name as a dict of one.
    spectrum_out
        A .json or .csv file for the spectrum of the Fisher matrix (spectral estimator).
    progress
        Whether bars and notes are shown.
    settings
        Other settings of the estimator by name: ``{"max_evaluations": 40}``.

    Ctrl-C, or the stop button of a notebook, restores the model and returns what is done (``result.interrupted``).
    """
    keywords = dict(locals())
    how = CostSettings.of(keywords)
    if devices is not None or ray:
        return _done(_by_many(keywords))
    if optimizer is not None and not {"adam1", "adam2"} & set(preconditioners(preconditioner)):
        raise UsageError('optimizer= is given, but nothing uses its moments: add preconditioner="adam2" (or "adam1")')
    asked: dict[str, Any] = {
        "samples": samples,
        "estimator": estimator,
        "sigma": sigma,
        "prior": prior,
        "preconditioner": preconditioner,
        "proposal": proposal,
        "seed": seed,
        "l2_reg": l2_reg,
        "exponent": exponent,
        "eps": eps,
        "damping": damping,
        "radius_tolerance": radius_tolerance,
        "profile": profile,
        "per_sequence": per_sequence,
        "set_kind": set_kind,
        "reference": None,
        "reference_scale": reference_scale,
        "settings": settings,
        "spectrum_out": spectrum_out,
        "extend": extend,
        "shard": shard,
        "threads": threads,
        "memory": memory,
        # A learning coefficient has no cutoff, and refuses one that is asked for.
        "cutoff": None if estimator == "llc" and cutoff == CUTOFF else cutoff,
    }
    bars = shown(progress)
    if isinstance(model, (str, PathLike)):
        _refuse_own(model, center=center, optimizer=optimizer)
        for_engine = how.for_engine(data)
        asked["prior_mean"] = None if prior_mean is None else os.fspath(prior_mean)
        asked["reference"] = None if reference is None else _name_of_data(reference)
        with in_words():
            job = _engine.estimate_model(os.fspath(model), for_engine, estimate_json(out=out, **asked))
        return _done(run(job, [], bars, time_limit))

    module = torch_module(model)
    if module is None:
        check_cost(model)
        if data is not None:
            raise UsageError(
                f"data= means nothing for a model= that is {type(model).__name__}, no torch module and so taken for a cost of weights: leave it out, or give the "
                "module whose weights are here"
            )
        how.refuse_for_weights(type(model).__name__)
        _refuse_own(model, optimizer=optimizer, reference=reference, prior_mean=prior_mean)
        evaluator = CallableCost(model, center)
        # What a function computes cannot be told from its name: only a folder that is named is continued.
        own = _own_folder(evaluator.name, out, shard)
        with in_words():
            job = _engine.estimate_subjects([(evaluator.name, evaluator.subject())], estimate_json(out=own, **asked))
        return _done(run(job, [evaluator], bars, time_limit))

    _refuse_own(model, center=center, prior_mean=prior_mean)
    with ExitStack() as stack:
        stack.enter_context(torch_threads(threads))
        named = named_data(data)
        if reference is not None:
            if len(named) < 2:
                raise UsageError("reference= is for the dependence of several data: give data= as a dict of two or more, or leave it out")
            name, one = next(iter(reference.items())) if isinstance(reference, Mapping) and len(reference) == 1 else ("reference", reference)
            named = [*named, (str(name), one)]
            asked["reference"] = str(name)
        costs: list[ModuleCost] = []
        for name, one in named:
            made = module_cost(module, one, how, cutoff=cutoff, memory=memory, data_name=name)
            costs.append(stack.enter_context(made))
        for note in dict.fromkeys(note for made in costs for note in made.notes):
            if progress:
                bars.note(note)
        subjects = [(name or made.name, made.subject()) for (name, _), made in zip(named, costs, strict=True)]
        # A function's code is no part of the record.
        folder = _own_folder(costs[0].name, out, shard) if callable(cost) else out
        asked["preconditioner"] = stack.enter_context(_moments(preconditioner, optimizer, module, costs[0]))
        with in_words():
            job = _engine.estimate_subjects(subjects, estimate_json(out=folder, **asked))
        ended = run(job, cast("list[Evaluator]", costs), bars, time_limit)
    return _done(ended)


def _by_many(keywords: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same by several workers, each of which calls :func:`estimate` for parts of the samples."""
    if keywords["ray"]:
        from ._ray import estimate_with_ray

        return estimate_with_ray(keywords["ray"], keywords["devices"], keywords)
    from ._processes import estimate_on

    return estimate_on(keywords["devices"], keywords)


def module_cost(
    module: Any,
    data: Any,
    how: CostSettings | None = None,
    *,
    cutoff: float = CUTOFF,
    memory: str | float | None = None,
    data_name: str | None = None,
    **settings: Any,
) -> ModuleCost:
    """The cost of a torch module on data: a context in which the module belongs to it."""
    import torch

    from ._torch.data import batches
    from ._torch.module import ModuleCost
    from ._torch.parameters import select

    how = how or CostSettings(**settings)
    where = next(iter(module.parameters()), None)
    if how.device is not None and where is not None and torch.device(how.device).type != where.device.type:
        raise UsageError(f"device={str(how.device)!r}, but the module is on {where.device}: move it there first, model.to({str(how.device)!r})")
    # Modules that cannot be moved are refused before their data are looked at; tensors made here have to serve gradients later.
    select(module, how.parameters, how.exclude, how.component)
    with torch.inference_mode(False):
        return ModuleCost(
            module,
            batches(module, data, how, callable(how.cost), data_name),
            cost=how.cost,
            parameters=how.parameters,
            exclude=how.exclude,
            component=how.component,
            positions=how.positions,
            dtype=how.torch_dtype(),
            cutoff=cutoff,
            memory=_bytes(memory),
        )


def _done(ended: Mapping[str, Any]) -> Result | Results:
    result = load(ended["folder"])
    if ended["is_interrupted"]:
        warnings.warn(f"stopped before it was complete: what is done is in {ended['folder']}, and the same call continues it", stacklevel=3)
    return result


def torch_module(model: Any) -> Any:
    """The torch module in what was given, if it is one; torch is not imported for anything else."""
    torch = sys.modules.get("torch")
    if torch is None or callable(getattr(type(model), "cost", None)):
        return None
    from ._torch.parameters import unwrapped

    return unwrapped(model)


def _refuse_own(model: Any, **given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            what = "a path or hub id" if isinstance(model, (str, PathLike)) else type(model).__name__
            raise UsageError(f"{name}= means nothing for a model= that is {what}: leave it out")


@contextmanager
def _moments(preconditioner: Preconditioner | None, optimizer: Any, module: Any, cost: ModuleCost) -> Iterator[list[str]]:
    """The preconditioners, Adam's moments among them as files for as long as they are needed."""
    chosen = preconditioners(preconditioner)
    if not {"adam1", "adam2"} & set(chosen):
        yield chosen
        return
    if optimizer is None:
        name = "adam2" if "adam2" in chosen else "adam1"
        raise UsageError(
            f'preconditioner="{name}" of a module needs its moments: give optimizer=, the torch optimizer that trained it, its state_dict(), or a mapping from '
            "parameter names to moments"
        )
    from ._torch.moments import MOMENTS, write

    with tempfile.TemporaryDirectory() as folder:
        yield [os.fspath(write(Path(folder), one, optimizer, module, cost.parameters)) if one in MOMENTS else one for one in chosen]


def _bytes(memory: str | float | None) -> int | None:
    # What is kept of a module's outputs has to be kept: "low" is for the engine's own choices.
    if memory is None or memory in ("auto", "low"):
        return None
    if not isinstance(memory, str):
        return int(memory)
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40, "B": 1}
    for unit, size in units.items():
        if memory.upper().endswith(unit):
            try:
                return int(float(memory[: -len(unit)]) * size)
            except ValueError:
                break
    raise UsageError(f"memory={memory!r}: expected 'auto', 'low', or a size such as '1.5GB'")


def named_data(data: Any) -> list[tuple[str | None, Any]]:
    """One data set, or several by name: a dict whose values are data by themselves."""
    is_split = type(data).__name__ in SPLIT_TABLES
    if isinstance(data, Mapping) and len(data) > 1 and not is_split and not any(_is_tensor(value) for value in data.values()) and "input_ids" not in data:
        return [(str(name), one) for name, one in data.items()]
    return [(None, data)]


def _name_of_data(reference: Any) -> str:
    if isinstance(reference, (str, PathLike)):
        return os.fspath(reference)
    raise UsageError(f"reference= of a model= that is a path or hub id is data by name or path, not {type(reference).__name__}")


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _own_folder(name: str, out: str | PathLike[str] | None, shard: Any) -> str | PathLike[str] | None:
    """The folder that is named, or else a new one; tasks that share one have to name it, which the engine says."""
    if out is not None or shard == "auto":
        return out
    digest = hashlib.sha256(secrets.token_bytes(16)).hexdigest()[:8]
    plain = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)[:50]
    return Path("runs") / f"{plain}-{digest}"


class torch_threads:
    """So many threads of torch as well, and as many as before afterwards."""

    def __init__(self, threads: int | None) -> None:
        self._threads = threads
        self._before = 0

    def __enter__(self) -> None:
        if self._threads is not None:
            import torch

            self._before = torch.get_num_threads()
            torch.set_num_threads(self._threads)

    def __exit__(self, *error: object) -> None:
        if self._threads is not None:
            import torch

            torch.set_num_threads(self._before)
