"""Calling a module, and the outputs that its behaviour is."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from .._errors import UsageError
from .batches import Batch
from .parameters import inner


class Caller:
    """Calls a module with batches, and gives its outputs as rows ``[n, V]``: positions that count by classes."""

    def __init__(self, module: torch.nn.Module, is_text: bool, last_only: bool) -> None:
        self._module = module
        accepted = _accepted(inner(module))
        self._takes_ids = "input_ids" in accepted
        # A cache of keys and values is of no use to one pass, and takes memory.
        self._options: dict[str, Any] = {"use_cache": False} if is_text and "use_cache" in accepted else {}
        self._last_only = last_only and is_text and "logits_to_keep" in accepted
        self._accepted = accepted

    def rows(self, batch: Batch) -> torch.Tensor:
        """The outputs at the positions of a batch that count, ``[n, V]``, with their graph if gradients are on."""
        outputs = self._outputs(batch)
        if outputs.dim() == 0:
            raise UsageError("the module gives a single number: say cost= as a function (model, batch) that makes a cost of it")
        flat = outputs.reshape(-1, outputs.shape[-1]) if outputs.dim() > 1 else outputs.unsqueeze(0)
        if batch.rows is None or self._keeps_last(batch):
            return flat
        return flat.index_select(0, batch.rows.to(flat.device))

    def _keeps_last(self, batch: Batch) -> bool:
        """Whether the model itself gives the last position alone, and that is the one that counts."""
        if not (self._last_only and batch.rows is not None):
            return False
        length = batch.inputs.shape[-1]
        return bool((batch.rows % length == length - 1).all())

    def _outputs(self, batch: Batch) -> torch.Tensor:
        inputs, options = batch.inputs, dict(self._options)
        if self._keeps_last(batch):
            options["logits_to_keep"] = 1
        if isinstance(inputs, Mapping):
            known = {key: value for key, value in inputs.items() if not self._accepted or key in self._accepted or "**" in self._accepted}
            found = self._module(**{key: value for key, value in known.items() if key not in ("labels", "label")}, **options)
        elif isinstance(inputs, (list, tuple)):
            found = self._module(inputs[0], **options)
        elif self._takes_ids and self._options:
            found = self._module(input_ids=inputs, **options)
        else:
            found = self._module(inputs, **options)
        return _tensor(found)


def _accepted(module: torch.nn.Module) -> set[str]:
    try:
        parameters = inspect.signature(module.forward).parameters
    except (TypeError, ValueError):
        return set()
    names = set(parameters)
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        names.add("**")
        base = getattr(module, "get_base_model", None)
        if callable(base):
            names |= _accepted(base())
    return names


def _tensor(found: Any) -> torch.Tensor:
    if isinstance(found, torch.Tensor):
        return found
    logits = getattr(found, "logits", None)
    if logits is None and isinstance(found, Mapping):
        logits = found.get("logits")
    if logits is None and isinstance(found, (list, tuple)) and found:
        logits = found[0]
    if not isinstance(logits, torch.Tensor):
        raise UsageError(
            f"the module gives {type(found).__name__} without logits: say cost= as a function (model, batch) of what it gives, or load the model with its head"
        )
    return logits
