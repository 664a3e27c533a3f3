"""Adam's moments that an optimizer of torch has in memory, as the preconditioner `adam1` or `adam2`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .._errors import UsageError
from .parameters import Parameters, inner

MOMENTS = {"adam1": "exp_avg", "adam2": "exp_avg_sq"}
"""The words of preconditioners, and what torch calls the moments."""


def write(folder: Path, choice: str, optimizer: Any, module: torch.nn.Module, parameters: Parameters) -> Path:
    """Writes the moments of the moving weights to a file for ``preconditioner=``, a `diagonal` [D] in float32; gives its path.

    `optimizer` is a ``torch.optim.Optimizer`` whose state has them (Adam, AdamW and their like), its ``state_dict()``, or a mapping from the names of
    the parameters to moments in their shapes.
    """
    found = _found(optimizer, MOMENTS[choice], module, parameters)
    # The name of the file is what the run calls the preconditioner: the same as with moments beside a checkpoint.
    path = folder / choice
    header = json.dumps({"diagonal": {"dtype": "F32", "shape": [parameters.dimension], "data_offsets": [0, 4 * parameters.dimension]}}).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little"))
        file.write(header)
        for place, (name, tensor, moment) in enumerate(zip(parameters.names, parameters.tensors, found, strict=True)):
            if moment.shape != tensor.shape:
                raise UsageError(
                    f"optimizer= has a moment of the shape {tuple(moment.shape)} for {name}, whose shape is {tuple(tensor.shape)}: it is of another model"
                )
            own = parameters.parts(found)[place]
            file.write(own.detach().to(device="cpu", dtype=torch.float32).contiguous().numpy().astype("<f4", copy=False).data)
    return path


def _found(optimizer: Any, key: str, module: torch.nn.Module, parameters: Parameters) -> list[torch.Tensor]:
    state, groups = getattr(optimizer, "state", None), getattr(optimizer, "param_groups", None)
    if isinstance(state, Mapping) and groups is not None:
        known = {id(tensor): state.get(tensor, {}) for group in groups for tensor in group["params"]}
        missing = [name for name, tensor in zip(parameters.names, parameters.tensors, strict=True) if id(tensor) not in known]
        if missing:
            raise UsageError(
                f"optimizer= does not hold {missing[0]} of the model: give the optimizer of this very model, its state_dict() for a copy, or leave out with "
                "exclude= what it did not train"
            )
        return [_moment(known[id(tensor)], key, name, optimizer) for name, tensor in zip(parameters.names, parameters.tensors, strict=True)]
    if isinstance(optimizer, Mapping) and set(optimizer) >= {"state", "param_groups"}:
        places = _places(optimizer["param_groups"], module)
        missing = [name for name in parameters.names if name not in places]
        if missing:
            raise UsageError(f"optimizer= (a state_dict) has no parameter {missing[0]} of the model: leave out with exclude= what it did not train")
        return [_moment(optimizer["state"].get(places[name], {}), key, name, optimizer) for name in parameters.names]
    if isinstance(optimizer, Mapping):
        missing = [name for name in parameters.names if not isinstance(optimizer.get(name), torch.Tensor)]
        if missing:
            raise UsageError(f"optimizer= is a mapping without a tensor for {missing[0]}: expected a moment for every parameter that moves, by its name")
        return [optimizer[name] for name in parameters.names]
    raise UsageError(
        f"optimizer= is {type(optimizer).__name__}: expected a torch.optim.Optimizer, its state_dict(), or a mapping from parameter names to moments"
    )


def _moment(state: Mapping[str, Any], key: str, name: str, optimizer: Any) -> torch.Tensor:
    moment = state.get(key)
    if isinstance(moment, torch.Tensor):
        return moment
    if not state:
        raise UsageError(f"optimizer= has no state of {name}: it has taken no step with a gradient there; leave it out with exclude= if it is not trained")
    raise UsageError(
        f"optimizer= is {type(optimizer).__name__}, whose state of {name} has {', '.join(map(str, state))}: expected {key}, a moment of Adam"
    )


def _places(groups: Sequence[Mapping[str, Any]], module: torch.nn.Module) -> dict[str, Any]:
    """By the names of parameters, their numbers in a state_dict: by the names that it has, else by their order."""
    if all("param_names" in group for group in groups):
        return {_plain(name): place for group in groups for name, place in zip(group["param_names"], group["params"], strict=True)}
    if len(groups) > 1:
        raise UsageError(
            f"optimizer= is a state_dict of {len(groups)} groups of parameters without their names, whose order nothing tells: give the optimizer itself, or "
            "moments by parameter names"
        )
    places = list(groups[0]["params"])
    named = [(name, tensor.requires_grad) for name, tensor in inner(module).named_parameters()]
    for names in ([name for name, _ in named], [name for name, trained in named if trained]):
        if len(names) == len(places):
            return dict(zip(names, places, strict=True))
    raise UsageError(f"optimizer= is a state_dict of {len(places)} parameters, but the model has {len(named)}: it is of another model")


def _plain(name: str) -> str:
    return name.removeprefix("_orig_mod.").removeprefix("module.")
