"""Which weights of a module move, and which modules cannot be moved."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from .._errors import UsageError
from .components import Slices, named_slices


def inner(module: torch.nn.Module) -> torch.nn.Module:
    """The module that a compiled one wraps, whose names are those of its checkpoint."""
    compiled = getattr(module, "_orig_mod", None)
    return compiled if isinstance(compiled, torch.nn.Module) else module


def unwrapped(model: object) -> torch.nn.Module | None:
    """The module in a wrapper that is none itself: nnsight's (`_module`), a pipeline or trainer of transformers (`model`), and their like."""
    if isinstance(model, torch.nn.Module):
        return model
    for name in ("hf_model", "_module", "_model", "original_model", "model"):
        held = getattr(model, name, None)
        if isinstance(held, torch.nn.Module):
            return held
    return None


@dataclass(frozen=True)
class Parameters:
    """The weights that move, in the order of ``named_parameters()``; tied weights stand once."""

    names: tuple[str, ...]
    tensors: tuple[torch.nn.Parameter, ...]
    is_whole: bool
    """Whether nothing that requires a gradient is left out."""
    slices: tuple[Slices | None, ...] = ()
    """What moves of each tensor; none for all of it."""

    @property
    def dimension(self) -> int:
        """Number of weights, D."""
        return sum(part.numel() for part in self.parts(self.tensors))

    def parts(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Of tensors in the shapes of the parameters what moves: views."""
        slices = self.slices or (None,) * len(tensors)
        return [tensor if own is None else tensor[own] for tensor, own in zip(tensors, slices, strict=True)]

    def views(self, flat: torch.Tensor) -> Iterator[torch.Tensor]:
        """The parts of a flat vector of length D, in the shapes of what moves."""
        start = 0
        for part in self.parts(self.tensors):
            yield flat[start : start + part.numel()].view(part.shape)
            start += part.numel()


def _pattern(name: str, text: str | None) -> re.Pattern[str] | None:
    try:
        return None if text is None else re.compile(text)
    except re.error as error:
        raise UsageError(f"{name}={text!r} is not a regular expression ({error})") from None


def select(module: torch.nn.Module, include: str | None, exclude: str | None, component: str | Sequence[str] | None = None) -> Parameters:
    """The floating-point parameters that require a gradient and whose names `include` matches (all without it) and `exclude` does not; of these what
    `component` names."""
    wanted, unwanted = _pattern("parameters", include), _pattern("exclude", exclude)
    named = [(name, tensor) for name, tensor in inner(module).named_parameters()]
    if not named:
        raise UsageError(f"{type(inner(module)).__name__} has no parameters, so there is nothing to move")
    for name, tensor in named:
        _check_there(name, tensor)
    trained = [(name, tensor) for name, tensor in named if tensor.requires_grad]
    if not trained:
        raise UsageError(
            f"no parameter of {type(inner(module)).__name__} requires a gradient, and frozen ones do not move: call model.requires_grad_(True) first"
        )
    if is_bridge(module):
        reached = _reached(inner(module), trained)
        trained = [(name, tensor) for name, tensor in trained if name in reached]
    chosen = [
        (name, tensor)
        for name, tensor in trained
        if (wanted is None or wanted.search(name)) and not (unwanted is not None and unwanted.search(name))
    ]
    if not chosen:
        raise UsageError(
            f"parameters= and exclude= leave no tensor to move: the {len(trained)} that require a gradient have names like {trained[0][0]} and {trained[-1][0]}"
        )
    for name, tensor in chosen:
        _check_movable(name, tensor)
    _check_apart(named)
    if component is not None:
        return slices_of(component, chosen, named, len(trained))
    names, tensors = zip(*chosen, strict=True)
    return Parameters(tuple(names), tuple(tensors), len(chosen) == len(trained))


def slices_of(
    component: str | Sequence[str], chosen: list[tuple[str, torch.nn.Parameter]], named: list[tuple[str, torch.nn.Parameter]], trained: int
) -> Parameters:
    """Of the chosen tensors those, and those parts, that a component names."""
    shapes = {name: tuple(tensor.shape) for name, tensor in named}
    wanted = named_slices(component, shapes)
    entries = [(title, tensor, own) for name, tensor in chosen for title, own in wanted.get(name, ())]
    if not entries:
        raise UsageError(f"component={component!r} has no weight of the {len(chosen)} tensors that require a gradient and are chosen by name")
    names, tensors, slices = zip(*entries, strict=True)
    is_whole = len(entries) == trained and all(own is None for own in slices)
    return Parameters(tuple(names), tuple(tensors), is_whole, tuple(slices))


def is_bridge(module: torch.nn.Module) -> bool:
    """Whether it is one of TransformerLens, which keeps weights twice: as the model of transformers had them, and taken apart."""
    return type(inner(module)).__module__.split(".")[0] == "transformer_lens"


def _reached(module: torch.nn.Module, named: list[tuple[str, torch.nn.Parameter]]) -> set[str]:
    """The names of the parameters that the outputs for token ids are computed from; the others would be directions in which nothing happens."""
    where = named[0][1].device
    try:
        with torch.inference_mode(False), torch.enable_grad():
            outputs = module(torch.zeros((1, 2), dtype=torch.int64, device=where))
            found = torch.autograd.grad(outputs.double().sum(), [tensor for _, tensor in named], allow_unused=True)
    except Exception as error:
        raise UsageError(
            f"{type(module).__name__} keeps some weights twice, and which of them count could not be found out ({error}): give the model of transformers that "
            "it wraps, loaded anew"
        ) from error
    return {name for (name, _), gradient in zip(named, found, strict=True) if gradient is not None}


def _check_there(name: str, tensor: torch.Tensor) -> None:
    if torch.nn.parameter.is_lazy(tensor):
        raise UsageError(f"{name} has no shape yet: call the module once with its data first, as lazy layers need")
    if tensor.is_meta:
        raise UsageError(
            f"the weights of {name} are not there (device meta): a model that accelerate keeps on CPU or disk, or that was not dispatched, cannot be "
            "moved in place; load it whole, on one device or several"
        )


def _check_movable(name: str, tensor: torch.Tensor) -> None:
    if tensor.is_complex():
        raise UsageError(f"{name} is complex, and directions are of real weights: keep it as real numbers (torch.view_as_real), or leave it out with exclude=")
    if not tensor.is_floating_point():
        raise UsageError(f"{name} has the dtype {tensor.dtype}, which cannot move continuously: leave it out with exclude=, or load the model unquantized")
    kind = type(tensor.data).__name__
    if kind in ("DTensor", "FlatParameter"):
        raise UsageError(f"{name} is a {kind}, spread over processes: gather the model into one process first")
    if tensor.is_inference():
        raise UsageError(f"{name} was made in torch.inference_mode(), where it cannot be written later: load the model outside of it")
    if tensor.layout != torch.strided:
        raise UsageError(f"{name} has the layout {tensor.layout}: only dense weights can move, leave it out with exclude=")
    reach = 0
    for stride, size in sorted((stride, size) for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1):
        if stride <= reach:
            raise UsageError(f"elements of {name} share memory (it is expanded): make it a parameter of its own with clone(), so that they count once")
        reach += (size - 1) * stride


def _check_apart(named: list[tuple[str, torch.nn.Parameter]]) -> None:
    """Two parameters in the same memory would be one weight counted twice."""
    seen: dict[int, list[tuple[int, int, str]]] = {}
    for name, tensor in named:
        if tensor.numel() == 0 or tensor.layout != torch.strided:
            continue
        size = tensor.element_size()
        start = tensor.storage_offset() * size
        extent = sum((count - 1) * stride for count, stride in zip(tensor.shape, tensor.stride(), strict=True))
        end = start + (extent + 1) * size
        spans = seen.setdefault(tensor.untyped_storage().data_ptr(), [])
        for other_start, other_end, other in spans:
            if start < other_end and other_start < end:
                raise UsageError(
                    f"{name} and {other} share memory without being the same parameter: tie them by assigning one to the other, so that they count once"
                )
        spans.append((start, end, name))


def parametrized(module: torch.nn.Module) -> list[str]:
    """Modules whose weights are computed from others (weight_norm and its like): the volume is about those others."""
    return [name for name, part in inner(module).named_modules() if hasattr(part, "parametrizations")]
