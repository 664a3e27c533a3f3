"""The other jobs of the command line: curvatures, scans, shards joined, folders shown."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from . import _engine, _folders
from ._errors import UsageError, in_words
from ._estimate import CUTOFF, module_cost, named_data, torch_module, torch_threads
from ._progress import progress as shown
from ._request import Preconditioner, estimate_json, memory_json, number_or_word
from ._result import Result, Results, load
from ._run import Evaluator, run
from ._settings import USUAL_LENGTH, USUAL_SIZE, CostSettings
from ._words import ESTIMATORS, flags_as_keywords, say


@dataclass(frozen=True)
class Scan:
    """A table of estimates along a grid, as its folder has it."""

    folder: Path
    summary: Mapping[str, Any]
    """What the points say, as `scan.json` and its table have it: numbers in nats."""
    failures: tuple[str, ...] = ()
    """Points that could not be computed, and why."""
    interrupted: bool = False

    def text(self) -> str:
        """The table of the command line."""
        return _folders.shown(self.folder)

    def save_page(self, file: str | PathLike[str]) -> Path:
        """Writes a page (HTML) that needs nothing but itself; gives its path."""
        return _folders.write_page(self.folder, file)

    def __repr__(self) -> str:
        return self.text()


def merge(folders: Sequence[str | PathLike[str]], out: str | PathLike[str]) -> Result | Results | Scan:
    """Joins the shards of a run, of several, or of a scan into the new folder `out`, and reads it."""
    with in_words():
        _engine.merge([os.fspath(folder) for folder in folders], out)
    return load_scan(out) if (Path(out) / "scan.json").exists() else load(out)


def report(folder: str | PathLike[str], html: str | PathLike[str] | None = None) -> str:
    """The text that the command line shows of a folder; a page is written to `html`."""
    if html is not None:
        _folders.write_page(folder, html)
    return _folders.shown(folder)


def load_scan(folder: str | PathLike[str]) -> Scan:
    """What the folder of a scan holds."""
    with in_words():
        found = json.loads(_engine.read(folder))
    if found["kind"] != "scan":
        raise UsageError(f"{os.fspath(folder)} is no scan: read it with basin_volume.load()")
    return Scan(Path(folder), MappingProxyType(found["summary"]))


def scan(
    kind: str,
    targets: Sequence[str | PathLike[str]] | str | PathLike[str],
    data: str | PathLike[str] | Sequence[str | PathLike[str]] | None = None,
    *,
    grid: Sequence[float | str] | None = None,
    cutoff: float | None = None,
    samples: int | None = None,
    estimator: str | Sequence[str] = "radial",
    sigma: float | str | None = None,
    prior: str = "gaussian",
    preconditioner: Preconditioner | None = None,
    proposal: str | None = None,
    seed: int = 0,
    parameters: str | None = None,
    exclude: str | None = None,
    component: str | Sequence[str] | None = None,
    tokenizer: str | PathLike[str] | None = None,
    text_key: str = "text",
    max_seq_len: int | None = USUAL_LENGTH,
    val_size: int | None = USUAL_SIZE,
    chunk: bool | None = None,
    positions: str = "all",
    dtype: Any = None,
    device: Any = None,
    threads: int | None = None,
    memory: str | float | None = None,
    out: str | PathLike[str] | None = None,
    shard: str | tuple[int, int] | None = None,
    time_limit: float | None = None,
    progress: bool = True,
    settings: Mapping[str, Any] | None = None,
    l2_reg: float = 0.0,
    exponent: float | None = None,
    eps: float | None = None,
    damping: float | str | None = None,
    radius_tolerance: float | None = None,
    per_sequence: bool | str = False,
    set_kind: str | None = None,
    skip: int | None = None,
    split: str | Sequence[str] | None = None,
    data_config: str | Sequence[str] | None = None,
    pad_token_id: int | None = None,
    eos_token_id: int | None = None,
    of: str | None = None,
) -> Scan:
    """Estimates at every point of a grid, of several models that the engine loads itself.

    `kind` is what varies (`histogram`, `cutoff`, `checkpoints`, `exponent`, `epsilon`, `sigma`, `samples` or `components`), `targets` are models, each as the command
    line takes it (``"name=path"`` names one), `grid` the values, ``[1e-3, 1e-2]``, where not the usual ones; `estimator` may be several. `of` says which
    components a scan of them compares (`heads`, `layers`, `mlps`). Everything else is as for :func:`estimate`.
    """
    how = CostSettings.of({**locals(), "cost": None})
    many = [targets] if isinstance(targets, (str, PathLike)) else targets
    chosen = [estimator] if isinstance(estimator, str) else list(estimator)
    asked = {
        **json.loads(how.for_engine(data)),
        **json.loads(
            estimate_json(
                cutoff=cutoff,
                samples=samples,
                estimator=next((one for one in chosen if one not in ESTIMATORS), "all"),
                sigma=sigma,
                prior=prior,
                preconditioner=preconditioner,
                proposal=proposal,
                seed=seed,
                l2_reg=l2_reg,
                exponent=exponent,
                eps=eps,
                damping=damping,
                radius_tolerance=radius_tolerance,
                profile=None,
                per_sequence=per_sequence,
                set_kind=set_kind,
                settings=settings,
                spectrum_out=None,
                extend=False,
                shard=shard,
                out=out,
                threads=threads,
                memory=memory,
            )
        ),
        "scan": kind,
        "targets": [os.fspath(target) for target in many],
        "estimator": chosen,
    }
    if of is not None:
        asked["of"] = of
    if grid is not None:
        asked["grid"] = [value if isinstance(value, str) else float(value) for value in grid]
    with in_words():
        job = _engine.scan(json.dumps(asked))
    ended = run(job, [], shown(progress), time_limit)
    return Scan(
        Path(ended["folder"]),
        load_scan(ended["folder"]).summary,
        tuple(say(failure) for failure in ended["failures"]),
        bool(ended["is_interrupted"]),
    )


def precondition(
    model: Any,
    data: Any = None,
    kind: str = "fisher",
    *,
    out: str | PathLike[str],
    probes: int | None = None,
    rank: int | None = None,
    steps: int | None = None,
    cutoff: float | None = None,
    sigma: float | str | None = None,
    seed: int = 0,
    threads: int | None = None,
    memory: str | float | None = None,
    progress: bool = True,
    cost: str | Callable[..., Any] | None = None,
    parameters: str | None = None,
    exclude: str | None = None,
    component: str | Sequence[str] | None = None,
    tokenizer: Any = None,
    text_key: str = "text",
    max_seq_len: int | None = USUAL_LENGTH,
    val_size: int | None = USUAL_SIZE,
    skip: int | None = None,
    chunk: bool | None = None,
    positions: str = "all",
    pad_token_id: int | None = None,
    eos_token_id: int | None = None,
    split: str | Sequence[str] | None = None,
    data_config: str | Sequence[str] | None = None,
    dtype: Any = None,
    device: Any = None,
) -> dict[str, Any]:
    """Computes a curvature of the cost at the trained weights and saves it to `out`, a `.safetensors` file for ``preconditioner=``.

    `kind` is one of `fisher`, `squared-gradient`, `hessian`, `kronecker`, `low-rank`, `learned`. Gives what it took: `file`, `seconds`, `gradients`,
    `trace` (nats per squared unit of weight), `provenance`.
    """
    how = CostSettings.of(locals())
    asked = {
        "kind": kind,
        "out": os.fspath(out),
        "probes": probes,
        "rank": rank,
        "steps": steps,
        "cutoff": cutoff,
        "sigma": number_or_word("sigma", sigma, ("rms", "weight-decay")),
        "seed": seed,
        "threads": threads,
        "memory": memory_json(memory),
    }
    settings = json.dumps({name: value for name, value in asked.items() if value is not None})
    bars = shown(progress)
    if isinstance(model, (str, PathLike)):
        for_engine = how.for_engine(data)
        with in_words():
            job = _engine.precondition_model(os.fspath(model), for_engine, settings)
        return run(job, [], bars)
    module = torch_module(model)
    if module is None:
        raise UsageError(f"model= is {type(model).__name__}: curvatures are of models on disk and of torch modules")
    with ExitStack() as stack:
        stack.enter_context(torch_threads(threads))
        made = stack.enter_context(module_cost(module, _one(data), how, cutoff=CUTOFF if cutoff is None else cutoff, memory=memory))
        if progress:
            for note in made.notes:
                bars.note(note)
        with in_words():
            job = _engine.precondition_subject(made.subject(), settings)
        return run(job, cast("list[Evaluator]", [made]), bars)


def inspect(
    model: Any,
    data: Any = None,
    *,
    cost: str | Callable[..., Any] | None = None,
    parameters: str | None = None,
    exclude: str | None = None,
    component: str | Sequence[str] | None = None,
    tokenizer: Any = None,
    text_key: str = "text",
    max_seq_len: int | None = USUAL_LENGTH,
    val_size: int | None = USUAL_SIZE,
    chunk: bool | None = None,
    positions: str = "all",
    dtype: Any = None,
    device: Any = None,
    threads: int | None = None,
    memory: str | float | None = None,
    skip: int | None = None,
    split: str | Sequence[str] | None = None,
    data_config: str | Sequence[str] | None = None,
    pad_token_id: int | None = None,
    eos_token_id: int | None = None,
) -> dict[str, Any]:
    """Describes a model, and with data what it would be measured on: parameters, prior scale, sequences.

    For a model on disk or hub what ``basin-volume inspect --json`` says; for a module `parameters` (names and shapes), `dimension`, `sigma`
    (root mean square of what moves) and, with data, `data` in words and `notes`. The keywords are as for :func:`estimate`.
    """
    how = CostSettings.of(locals())
    if isinstance(model, (str, PathLike)):
        return _inspect_path(os.fspath(model), json.loads(how.for_engine(data)), {"threads": threads, "memory": memory_json(memory)})
    module = torch_module(model)
    if module is None:
        raise UsageError(f"model= is {type(model).__name__}: models on disk and torch modules can be inspected")
    from ._torch.parameters import select

    chosen = select(module, parameters, exclude, component)
    squares = sum(float(tensor.detach().double().square().sum()) for tensor in chosen.parts(chosen.tensors))
    found: dict[str, Any] = {
        "parameters": {name: tuple(tensor.shape) for name, tensor in zip(chosen.names, chosen.parts(chosen.tensors), strict=True)},
        "dimension": chosen.dimension,
        "sigma": (squares / chosen.dimension) ** 0.5,
    }
    if data is not None:
        with torch_threads(threads), module_cost(module, _one(data), how, memory=memory) as measured:
            found["data"] = measured.data_words
            found["notes"] = list(measured.notes)
    return found


def _one(data: Any) -> Any:
    """Data of a job that takes no more than one."""
    if len(named := named_data(data)) > 1:
        raise UsageError(f"data= has {', '.join(str(name) for name, _ in named)}: only estimate takes several data, leave all but one out")
    return data


def _inspect_path(model: str, cost: Mapping[str, Any], machine: Mapping[str, Any]) -> dict[str, Any]:
    import subprocess
    import sys

    command = [sys.executable, "-m", "basin_volume", "inspect", model, "--json"]
    for name, value in {**cost, **machine}.items():
        for one in value if isinstance(value, list) else [value]:
            if one is not None:
                command.append(f"--{name}={str(one).lower() if isinstance(one, bool) else one}")
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    if said.returncode != 0:
        lines = [line for line in said.stderr.splitlines() if line.startswith("error: ")] or said.stderr.strip().splitlines() or ["inspect failed"]
        raise UsageError(flags_as_keywords(lines[0].removeprefix("error: ")))
    return cast("dict[str, Any]", json.loads(said.stdout))
