"""What an estimate is about, sent to other processes: the model, the data and everything else that was given, as one file."""

from __future__ import annotations

import inspect
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import IO, TYPE_CHECKING, Any

from ._errors import UsageError

if TYPE_CHECKING:
    import torch

_FACTORY = "model=factory, a function of an importable module that takes nothing and makes it"


def is_factory(model: Any) -> bool:
    """Whether it makes the model where it is called: it takes nothing, while a torch module and a cost of weights are called with something."""
    if isinstance(model, (str, PathLike)) or not callable(model):
        return False
    if not isinstance(model, type) and (_is_module(model) or callable(getattr(model, "cost", None))):
        return False
    try:
        inspect.signature(model).bind()
    except (TypeError, ValueError):
        return False
    return True


def _is_module(model: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def sent(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What workers are told of an estimate: how it is shown, where and for how long is not their matter."""
    ours = ("progress", "out", "time_limit", "devices", "ray", "shard", "samples", "threads")
    return {name: value for name, value in asked.items() if name not in ours}


def pack(asked: Mapping[str, Any], opened: IO[bytes], pickler: type[pickle.Pickler] | None = None) -> tuple[str, ...]:
    """Writes it, tensors of any device among it, each storage once. Gives the names of what other processes find in the main module only, unless
    another pickler is chosen."""
    for name, value in asked.items():
        if isinstance(value, Iterator):
            raise UsageError(f"{name}= is a {type(value).__name__}, which can be read once, and every process reads it: give a list")
    try:
        return _dump(asked, opened, pickler)
    except Exception as error:
        name, reason = _culprit(asked, error, pickler)
        raise UsageError(f"{name}= cannot be sent to other processes ({reason}): {_remedy(name)}") from error


def _remedy(name: str) -> str:
    if name == "model":
        return f"give a path or hub id, or {_FACTORY}"
    return "give what can be pickled, such as lists, tensors and functions of importable modules"


def _dump(value: Any, opened: IO[bytes], pickler: type[pickle.Pickler] | None) -> tuple[str, ...]:
    of_main: dict[str, None] = {}

    class Watching(pickle.Pickler):
        def reducer_override(self, value: Any) -> Any:
            if isinstance(value, (type, FunctionType)) and value.__module__ == "__main__":
                of_main[value.__qualname__] = None
            return NotImplemented

    chosen = pickler or Watching
    # What nobody has imported is in nothing that was given.
    if (torch := sys.modules.get("torch")) is None:
        chosen(opened).dump(value)
    else:
        torch.save(value, opened, pickle_module=SimpleNamespace(__name__="pickle", Pickler=chosen))
    return tuple(of_main)


def _culprit(asked: Mapping[str, Any], error: Exception, pickler: type[pickle.Pickler] | None) -> tuple[str, Exception]:
    """Which of the keywords it was."""
    for name, value in asked.items():
        try:
            with open(os.devnull, "wb") as nowhere:
                _dump(value, nowhere, pickler)
        except Exception as own:
            return name, own
    return "model", error


def unpack(file: Path | IO[bytes], is_torch: bool, place: str) -> dict[str, Any]:
    """What was sent. Tensors that were on a graphics card come to `place`, the device of this process; all others are where they were."""
    try:
        if not is_torch:
            return _plain(file)
        import torch

        def located(storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage:
            # None of `cpu` is copied.
            return storage if location == "cpu" or place == "cpu" else torch.serialization.default_restore_location(storage, place)

        # Processes of one machine share the pages of the file until they write to them.
        asked: dict[str, Any] = torch.load(file, map_location=located, weights_only=False, mmap=isinstance(file, Path))
        return asked
    except (AttributeError, ImportError) as error:
        raise UsageError(f"what was given cannot be made again in another process ({error}): define it in a module that can be imported there") from error


def _plain(file: Path | IO[bytes]) -> dict[str, Any]:
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return _plain(opened)
    asked: dict[str, Any] = pickle.load(file)
    return asked


def torch_settings() -> dict[str, Any] | None:
    """Settings of torch that decide the last digits, where it is used."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    return {
        "matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
    }


def use_torch_settings(settings: Mapping[str, Any] | None) -> None:
    """The same here."""
    if settings is None:
        return
    import torch

    torch.set_float32_matmul_precision(settings["matmul_precision"])
    torch.use_deterministic_algorithms(settings["deterministic"], warn_only=settings["warn_only"])
    torch.set_default_dtype(getattr(torch, settings["dtype"]))


def placed(asked: dict[str, Any], place: str) -> dict[str, Any]:
    """The keywords of an estimate in this process: the model made if it is a factory, and on the device."""
    from ._estimate import torch_module

    model = asked["model"]
    if is_factory(model):
        made: Callable[[], Any] = model
        model = made()
    asked = {**asked, "model": model}
    if isinstance(model, (str, PathLike)):
        return {**asked, "device": None if place == "cpu" else place}
    if (module := torch_module(model)) is not None:
        module.to(place)
    return asked
