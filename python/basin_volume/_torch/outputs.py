"""Calling a module, and the outputs that its behaviour is."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from .._errors import UsageError
from .batches import Batch
from .data import has_decoder
from .parameters import inner


class Caller:
    """Calls a module with batches, and gives its outputs as rows ``[n, V]``: positions that count by classes."""

    def __init__(self, module: torch.nn.Module, is_text: bool, last_only: bool, by_item: bool = False) -> None:
        self._module = module
        accepted = _accepted(inner(module))
        self._takes_ids = "input_ids" in accepted
        # A cache of keys and values is of no use to one pass, and takes memory.
        self._options: dict[str, Any] = {"use_cache": False} if is_text and "use_cache" in accepted else {}
        self._last_only = last_only and is_text and "logits_to_keep" in accepted
        self._accepted = accepted
        self._by_item = by_item

    def rows(self, batch: Batch) -> torch.Tensor:
        """The outputs at the positions of a batch that count, ``[n, V]``, with their graph if gradients are on."""
        flat = self._flat(self.outputs(batch), batch)
        if batch.rows is None or self._keeps_last(batch):
            return flat
        return flat.index_select(0, batch.rows.to(flat.device))

    def _flat(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Outputs ``[B, V]``, ``[B, T, V]`` or, of one item or of items with one output, ``[V]`` or ``[B]``, as rows."""
        if outputs.dim() == 0:
            raise UsageError("the module gives a single number: say cost= as a function (model, batch) that makes a cost of it")
        if outputs.dim() == 1:
            return outputs.unsqueeze(-1 if _count(batch.inputs) == outputs.shape[0] else 0)
        if outputs.dim() > 3:
            if not self._by_item:
                raise UsageError(
                    f"the module gives outputs of the shape {tuple(outputs.shape)}, of which it is not known where the classes are: say cost= as a function "
                    '(model, batch), or cost="mse" for the squared difference per item'
                )
            return outputs.flatten(1)
        return outputs.reshape(-1, outputs.shape[-1])

    def _keeps_last(self, batch: Batch) -> bool:
        """Whether the model itself gives the last position alone, and that is the one that counts."""
        if not (self._last_only and batch.rows is not None):
            return False
        length = batch.inputs.shape[-1]
        return bool((batch.rows % length == length - 1).all())

    def outputs(self, batch: Batch) -> torch.Tensor:
        """What the module gives, or its logits."""
        inputs, options = batch.inputs, dict(self._options)
        if self._keeps_last(batch):
            options["logits_to_keep"] = 1
        if isinstance(inputs, Mapping):
            found = self._by_name(inputs, options)
        elif isinstance(inputs, (list, tuple)):
            found = self._module(inputs[0], **options)
        elif self._takes_ids and self._options:
            found = self._module(input_ids=inputs, **options)
        else:
            found = self._module(inputs, **options)
        return _tensor(found)


    def _by_name(self, inputs: Mapping[str, Any], options: dict[str, Any]) -> Any:
        unwanted = {"labels", "label"}
        if has_decoder(self._module) and not {"decoder_input_ids", "decoder_inputs_embeds"} & set(inputs):
            # From its labels the decoder's inputs are made.
            unwanted = set()
        rest = {key: value for key, value in inputs.items() if key not in unwanted}
        known = {key: value for key, value in rest.items() if not self._accepted or key in self._accepted or "**" in self._accepted}
        if not known and len(rest) == 1:
            return self._module(*rest.values(), **options)
        if not known:
            names = ", ".join(sorted(self._accepted)) or "nothing"
            raise UsageError(
                f"data= has the fields {', '.join(inputs)}, but {type(inner(self._module)).__name__} takes {names}: rename them, or give the tensors alone"
            )
        return self._module(**known, **options)


def _count(inputs: Any) -> int | None:
    """Items of a batch, where its first tensor says so."""
    while isinstance(inputs, (Mapping, list, tuple)) and len(inputs) > 0:
        inputs = next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs[0]
    return int(inputs.shape[0]) if isinstance(inputs, torch.Tensor) and inputs.dim() > 1 else None


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
