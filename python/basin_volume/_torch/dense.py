"""Second moments of dense layers (K-FAC), by hooks on Linear, Conv2d and the Conv1D of transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .._run import Vector
from .parameters import Parameters, inner, is_bridge

_LARGEST = 8192
"""Layers with a larger side get a diagonal."""


def probe_seed(seed: int, probe: int) -> int:
    """The seed of one of several probes, as the engine counts them."""
    return (seed + probe * 0x9E3779B97F4A7C15) % (1 << 64)


@dataclass(frozen=True)
class Layer:
    """A layer whose weight is a matrix that multiplies its input."""

    name: str
    module: torch.nn.Module
    inputs: int
    outputs: int
    transposed: bool

    def describe(self) -> dict[str, Any]:
        """As the engine takes it."""
        return {"name": self.name, "inputs": self.inputs, "outputs": self.outputs, "transposed": self.transposed}

    def zeros(self) -> tuple[Vector, Vector]:
        """Room for both factors."""
        shape = np.zeros((self.inputs, self.inputs), dtype=np.float32), np.zeros((self.outputs, self.outputs), dtype=np.float32)
        return shape

    def columns(self, values: torch.Tensor) -> torch.Tensor:
        """The layer's inputs as rows, one per position: of a convolution the windows."""
        if isinstance(self.module, torch.nn.Conv2d):
            conv = self.module
            unfolded = torch.nn.functional.unfold(values, conv.kernel_size, conv.dilation, conv.padding, conv.stride)
            return unfolded.transpose(1, 2).reshape(-1, unfolded.shape[1])
        return values.reshape(-1, values.shape[-1])

    def slopes(self, values: torch.Tensor) -> torch.Tensor:
        """The gradients of the layer's outputs as rows."""
        if isinstance(self.module, torch.nn.Conv2d):
            return values.flatten(2).transpose(1, 2).reshape(-1, values.shape[1])
        return values.reshape(-1, values.shape[-1])


def layers(module: torch.nn.Module, parameters: Parameters) -> list[Layer]:
    """The dense layers whose weights move, in the order of the parameters.

    A tied weight, which embeds tokens as well, is none; nor is the head of a language model, whose factor would have the sides of the vocabulary: the
    engine gives it a diagonal too.
    """
    # What moves in part has a diagonal.
    slices = parameters.slices or (None,) * len(parameters.tensors)
    places = {id(tensor): place for place, (tensor, own) in enumerate(zip(parameters.tensors, slices, strict=True)) if own is None}
    uses: dict[int, int] = {}
    for part in inner(module).modules():
        for tensor in part.parameters(recurse=False):
            uses[id(tensor)] = uses.get(id(tensor), 0) + 1
    head = _head(inner(module))
    found: dict[int, Layer] = {}
    for part in inner(module).modules():
        weight = getattr(part, "weight", None)
        if not isinstance(weight, torch.nn.Parameter) or id(weight) not in places or uses[id(weight)] != 1 or part is head:
            continue
        name = parameters.names[places[id(weight)]]
        if isinstance(part, torch.nn.Linear):
            layer = Layer(name, part, weight.shape[1], weight.shape[0], False)
        elif isinstance(part, torch.nn.Conv2d) and part.groups == 1 and isinstance(part.padding, tuple) and part.padding_mode == "zeros":
            layer = Layer(name, part, int(np.prod(weight.shape[1:])), weight.shape[0], False)
        elif type(part).__name__ == "Conv1D" and weight.dim() == 2:
            layer = Layer(name, part, weight.shape[0], weight.shape[1], True)
        else:
            continue
        if max(layer.inputs, layer.outputs) <= _LARGEST:
            found[places[id(weight)]] = layer
    return [found[place] for place in sorted(found)]


def called(layers: Sequence[Layer], forward: Callable[[], Any]) -> list[Layer]:
    """Those whose inputs can be seen in a forward pass with gradients on. Attention, for one, may multiply by a layer's weight without calling it."""
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(lambda tensor: None, _never), watched(layers) as seen:
        forward()
    return [layer for number, layer in enumerate(layers) if number in seen.inputs]


def _never(saved: object) -> torch.Tensor:
    raise AssertionError("there is no backward pass")


def _head(module: torch.nn.Module) -> torch.nn.Module | None:
    """What gives the logits of a model of transformers that has a vocabulary."""
    original = getattr(module, "original_model", module) if is_bridge(module) else module
    get = getattr(original, "get_output_embeddings", None)
    head: torch.nn.Module | None = get() if callable(get) else None
    while isinstance(wrapped := getattr(head, "_modules", {}).get("_original_component"), torch.nn.Module):
        head = wrapped
    return head


@dataclass
class Seen:
    """Inputs and output gradients of one pass."""

    layers: Sequence[Layer]
    inputs: dict[int, list[torch.Tensor]] = field(default_factory=dict)
    slopes: dict[int, list[torch.Tensor]] = field(default_factory=dict)

    def add(self, moments: list[tuple[Vector, Vector]], count: int, probes: int, places: int, here: int) -> None:
        """Adds the pass to the second moments, `here` of all `places`; slopes came scaled by ``1/count``."""
        for number, (inputs, outputs) in enumerate(moments):
            layer = self.layers[number]
            for values in self.inputs.get(number, []):
                rows = layer.columns(values).float()
                # A layer may see windows of an image, or the last token alone: the mean is over what goes through it.
                inputs += (rows.T @ rows / (places * probes * rows.shape[0] / here)).cpu().numpy()
            for slope in self.slopes.get(number, []):
                rows = layer.slopes(slope).float()
                outputs += (rows.T @ rows * (count / probes)).cpu().numpy()


@contextmanager
def watched(layers: Sequence[Layer]) -> Iterator[Seen]:
    """Hooks on the layers, for as long as the context lasts."""
    seen = Seen(layers)
    handles = []

    def watch(number: int, layer: Layer) -> None:
        def hook(_module: torch.nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
            seen.inputs.setdefault(number, []).append(inputs[0].detach())
            if output.requires_grad:
                output.register_hook(lambda slope: seen.slopes.setdefault(number, []).append(slope.detach()))

        handles.append(layer.module.register_forward_hook(hook))

    try:
        for number, layer in enumerate(layers):
            watch(number, layer)
        yield seen
    finally:
        for handle in handles:
            handle.remove()
