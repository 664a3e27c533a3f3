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
from ._estimate import CUTOFF, _module, _paths, _tokenizer_path, module_cost
from ._progress import progress as shown
from ._request import cost_json, memory_json, number_or_word
from ._result import Result, Results, load
from ._run import Evaluator, run
from ._words import say


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
    kind: str, targets: Sequence[str | PathLike[str]] | str | PathLike[str], *, progress: bool = True, time_limit: float | None = None, **settings: Any
) -> Scan:
    """Estimates at every point of a grid, of several models that the engine loads itself.

    `kind` is what varies (`histogram`, `cutoff`, `checkpoints`, `exponent`, `epsilon`, `sigma` or `samples`), `targets` are models, each as the command line takes it
    (``"name=path"`` names one). The other settings are those of a scan's TOML file: ``grid=[1e-3, 1e-2]``, ``data=[...]``, ``samples=...``, ``out=...``.
    """
    many = [targets] if isinstance(targets, (str, PathLike)) else targets
    asked = {"scan": kind, "targets": [os.fspath(target) for target in many], **{name.replace("_", "-"): _plain(value) for name, value in settings.items()}}
    with in_words():
        job = _engine.scan(json.dumps(asked))
    ended = run(job, [], shown(progress), time_limit)
    return Scan(
        Path(ended["folder"]),
        load_scan(ended["folder"]).summary,
        tuple(say(failure) for failure in ended["failures"]),
        bool(ended["is_interrupted"]),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, PathLike):
        return os.fspath(value)
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value


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
    tokenizer: Any = None,
    text_key: str = "text",
    max_seq_len: int | None = 2048,
    val_size: int | None = 10,
    skip: int | None = None,
    chunk: bool = False,
    positions: str = "all",
    pad_token_id: int | None = None,
    eos_token_id: int | None = None,
    split: str | None = None,
    data_config: str | None = None,
    dtype: Any = None,
    device: Any = None,
) -> dict[str, Any]:
    """Computes a curvature of the cost at the trained weights and saves it to `out`, a `.safetensors` file for ``preconditioner=``.

    `kind` is one of `fisher`, `squared-gradient`, `hessian`, `kronecker`, `low-rank`, `learned`. Gives what it took: `file`, `seconds`, `gradients`,
    `trace` (nats per squared unit of weight), `provenance`.
    """
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
        for_engine = cost_json(
            data=_paths(data),
            text_key=None if text_key == "text" else text_key,
            data_config=data_config,
            split=split,
            max_seq_len=None if max_seq_len == 2048 else max_seq_len,
            val_size=None if val_size == 10 else val_size,
            skip=skip,
            chunk=chunk,
            tokenizer=_tokenizer_path(tokenizer),
            eos_token_id=eos_token_id,
            positions=None if positions == "all" else positions,
            pad_token_id=pad_token_id,
            parameters=parameters,
            exclude=exclude,
            device=device,
            dtype=dtype,
        )
        with in_words():
            job = _engine.precondition_model(os.fspath(model), for_engine, settings)
        return run(job, [], bars)
    module = _module(model)
    if module is None:
        raise UsageError(f"model= is {type(model).__name__}: curvatures are of models on disk and of torch modules")
    with ExitStack() as stack:
        made = stack.enter_context(
            module_cost(
                module,
                data,
                cost=cost,
                parameters=parameters,
                exclude=exclude,
                tokenizer=tokenizer,
                text_key=text_key,
                max_seq_len=max_seq_len,
                val_size=val_size,
                skip=skip,
                chunk=chunk,
                positions=positions,
                pad_token_id=pad_token_id,
                eos_token_id=eos_token_id,
                split=split,
                data_config=data_config,
                dtype=dtype,
                device=device,
                cutoff=CUTOFF if cutoff is None else cutoff,
                memory=memory,
            )
        )
        with in_words():
            job = _engine.precondition_subject(made.subject(), settings)
        return run(job, cast("list[Evaluator]", [made]), bars)


def inspect(model: Any, data: Any = None, **settings: Any) -> dict[str, Any]:
    """Describes a model, and with data what it would be measured on: parameters, prior scale, sequences.

    For a model on disk or hub what ``basin-volume inspect --json`` says; for a module `parameters` (names and shapes), `dimension`, `sigma`
    (root mean square) and, with data, `data` in words. The settings are those of :func:`estimate` that choose data and weights.
    """
    if isinstance(model, (str, PathLike)):
        return _inspect_path(os.fspath(model), data, settings)
    module = _module(model)
    if module is None:
        raise UsageError(f"model= is {type(model).__name__}: models on disk and torch modules can be inspected")
    from ._torch.parameters import select

    chosen = select(module, settings.get("parameters"), settings.get("exclude"))
    squares = sum(float(tensor.detach().double().square().sum()) for tensor in chosen.tensors)
    found: dict[str, Any] = {
        "parameters": {name: tuple(tensor.shape) for name, tensor in zip(chosen.names, chosen.tensors, strict=True)},
        "dimension": chosen.dimension,
        "sigma": (squares / chosen.dimension) ** 0.5,
    }
    if data is not None:
        with module_cost(module, data, **settings) as cost:
            found["data"] = cost.data_words
            found["notes"] = list(cost.notes)
    return found


def _inspect_path(model: str, data: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    import subprocess
    import sys

    command = [sys.executable, "-m", "basin_volume", "inspect", model, "--json"]
    for path in _paths(data):
        command += ["--data", path]
    for name, value in settings.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            command.append(flag)
        elif value not in (None, False):
            command += [flag, str(value)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    if said.returncode != 0:
        lines = said.stderr.strip().splitlines() or ["inspect failed"]
        raise UsageError(lines[-1].removeprefix("error: "))
    return cast("dict[str, Any]", json.loads(said.stdout))
